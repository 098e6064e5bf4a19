"""What the modules descend: energies under the structures that the search found."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from modmeta import search
from modmeta.relational.energies import cached, composed
from modmeta.relational.inference.model import ModelParams, RelationalModel
from modmeta.relational.inference.problems import Problems
from modmeta.relational.training.config import BounceGradConfig


def split_frames(
    rng_key: jax.Array, config: BounceGradConfig, num_inputs: int
) -> tuple[jax.Array | None, jax.Array]:
    """Random input frames for the search (None for all) and for the gradient."""
    order = jax.random.permutation(rng_key, num_inputs)
    num_gradient = min(config.gradient_frames or num_inputs, num_inputs)
    if config.held_out:
        # Short trajectories: at least half of the frames infer.
        num_gradient = max(min(num_gradient, num_inputs // 2), 1)
    pool = order[num_gradient:] if config.held_out else order
    num_search = min(config.search_frames or pool.shape[0], pool.shape[0])
    is_everything = num_search == num_inputs
    return None if is_everything else pool[:num_search], order[:num_gradient]


def gradient_loss(
    modules: Any,
    model: RelationalModel,
    params: ModelParams,
    config: BounceGradConfig,
    problems: Problems,
    structure: search.Structure,
    states: jax.Array,
    frames: jax.Array,
    temperature: jax.Array,
) -> jax.Array:
    """Mean energy per real node and predicted frame, in nats."""
    supergraph = problems.supergraph
    num_nodes = jnp.sum(supergraph.node_mask)
    if model.search.energy == "rollout":
        energies = composed.rollout_energies(
            model.bank,
            modules,
            params.preprocessing,
            structure,
            states,
            supergraph.slot_senders,
            supergraph.slot_mask,
            supergraph.node_mask,
            horizon=model.search.horizon,
        )
        return jnp.sum(energies) / (num_nodes * (states.shape[1] - 1))
    inputs, following = states[:, frames], states[:, frames + 1]
    if config.gradient == "mixture":
        num_slots = supergraph.slot_mask.shape[1]
        assignments = search.all_assignments(num_slots, model.num_relations)
        cache = jax.tree.map(lambda leaf: leaf[:, 0], problems.data)
        weights = cached.assignment_weights(
            model.bank,
            params.modules,
            cache,
            supergraph,
            structure,
            assignments,
            temperature,
        )
        cache = cached.build_cache(
            model.bank, modules, params.preprocessing, supergraph, inputs, following
        )
        energies = cached.assignment_energies(
            model.bank, modules, cache, structure, assignments
        )
        energies = jnp.sum(jax.lax.stop_gradient(weights) * energies, axis=-1)
    else:
        energies = composed.structure_energies(
            model.bank,
            modules,
            params.preprocessing,
            supergraph,
            structure,
            inputs,
            following,
        )
    return jnp.sum(energies) / (num_nodes * frames.shape[0])
