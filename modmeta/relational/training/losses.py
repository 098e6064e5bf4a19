"""What the modules descend: energies under the structures that the search found."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from modmeta import search
from modmeta.relational.data.frames import Frames, rollout_states
from modmeta.relational.energies.cached import CachedEnergies, build_cache
from modmeta.relational.energies.composed import RolloutEnergies, structure_energies
from modmeta.relational.inference.problems import Problems
from modmeta.relational.modules.bank import ModuleParams
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.observations import observe
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
    modules: ModuleParams,
    problems: Problems,
    config: BounceGradConfig,
    structure: search.Structure,
    states: Frames | jax.Array,
    windows: jax.Array,
    temperature: jax.Array,
    is_even: bool | jax.Array = False,
) -> jax.Array:
    """Mean energy per real node and observed change, in nats.

    Args:
      modules: Parameters of the bank, of which the gradient is taken.
      problems: The problems that were searched, under parameters held fixed.
      config: Options of meta-training.
      structure: Structures found, leaves `[N, D]` and `[N]`.
      states: `[N, T, F]` normalised frames, or `Frames` with leaves `[N, T, ...]`.
      windows: `[t]` frames at which the windows begin that count; all frames do for
        roll-outs.
      temperature: `()` nats, of the mixture's weights.
      is_even: `()`, see `BoundBank.frame_energies`.
    """
    model, supergraph = problems.model, problems.supergraph
    bound = BoundBank(model.bank, modules, problems.params.preprocessing)
    if model.energy.form == "rollout":
        states = rollout_states(states)
        rolled = RolloutEnergies(
            bound,
            states,
            supergraph.slot_senders,
            supergraph.slot_mask,
            supergraph.node_mask,
            model.energy.horizon,
        )
        energies = rolled.all_nodes(structure)
        num_nodes = jnp.sum(supergraph.node_mask)
        return jnp.sum(energies) / (num_nodes * (states.shape[1] - 1))
    observed = observe(bound, supergraph, states, windows)
    if config.gradient == "mixture":
        num_slots = supergraph.slot_mask.shape[1]
        assignments = search.all_assignments(num_slots, model.num_relations)
        searched = CachedEnergies(
            model.network.modules(problems.params),
            jax.tree.map(lambda leaf: leaf[:, 0], problems.data),
        )
        weights = searched.assignment_weights(
            assignments, structure.node_modules, supergraph.slot_mask, temperature
        )
        descended = CachedEnergies(bound, build_cache(bound, supergraph, observed))
        energies = descended.of_assignments(
            assignments, structure.node_modules, config.mean_power, is_even
        )
        energies = jnp.sum(jax.lax.stop_gradient(weights) * energies, axis=-1)
    else:
        energies = structure_energies(
            bound, supergraph, structure, observed, config.mean_power, is_even
        )
    return observed.mean(energies, supergraph.node_mask)
