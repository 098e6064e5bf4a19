"""Energies of the composed network, without a cache: one step, or free roll-outs.

Letters: N nodes of the super-graph, D slots, T frames, F features.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from modmeta import search
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.modules.bank import ModuleBank, ModuleParams
from modmeta.relational.modules.frames import zero_padded_nodes
from modmeta.relational.modules.preprocessing import (
    Preprocessing,
    decode_targets,
    encode_targets,
)


def structure_energies(
    bank: ModuleBank,
    params: ModuleParams,
    preprocessing: Preprocessing,
    supergraph: SuperGraph,
    structure: search.Structure,
    states: jax.Array,
    next_states: jax.Array,
) -> jax.Array:
    """One-step energies `[N]` of all nodes from the composed network, uncached.

    The differentiable path: only the messages of the chosen modules reach the loss.
    Arguments as for `build_cache`, with a structure of all N nodes.
    """
    states, next_states = zero_padded_nodes(supergraph.node_mask, states, next_states)
    outputs = bank.outputs(
        params,
        preprocessing,
        structure,
        states,
        supergraph.slot_senders,
        supergraph.slot_mask,
    )
    targets = encode_targets(preprocessing, bank.layout, states, next_states)
    energies = bank.frame_energies(params, outputs, targets)
    return jnp.where(supergraph.node_mask, jnp.sum(energies, axis=-1), 0.0)


def rollout_energies(
    bank: ModuleBank,
    params: ModuleParams,
    preprocessing: Preprocessing,
    structure: search.Structure,
    states: jax.Array,
    slot_senders: jax.Array,
    slot_mask: jax.Array,
    node_mask: jax.Array,
    *,
    horizon: int = 10,
) -> jax.Array:
    """Energies under free roll-outs of several steps (reference code, A.1).

    Frames 0, horizon, 2 horizon, ... each start a roll-out of `horizon` steps in
    parallel; every predicted frame is scored given the *predicted* frame before it,
    so that horizon 1 is the one-step energy. With the squared error, no compression
    and the static baseline this is the published loss up to its normaliser.

    Args:
      bank: The bank.
      params: Its parameters.
      preprocessing: Fitted constants.
      structure: Module of every slot `[N, D]` and node `[N]`.
      states: `[N, T + 1, F]` normalised frames.
      slot_senders: `[N, D]` node behind every slot.
      slot_mask: `[N, D]` true at real slots.
      node_mask: `[N]` true at real nodes.
      horizon: Steps per roll-out.

    Returns:
      `[N]`, zero at padded nodes.
    """
    (states,) = zero_padded_nodes(node_mask, states)
    num_nodes, num_frames, num_features = states.shape
    num_segments = -(-(num_frames - 1) // horizon)
    missing = num_segments * horizon - (num_frames - 1)
    padded = jnp.pad(states, ((0, 0), (0, missing), (0, 0)), mode="edge")
    truth = padded[:, 1:].reshape(num_nodes, num_segments, horizon, num_features)
    is_observed = (
        jnp.arange(num_segments * horizon).reshape(num_segments, horizon)
        < num_frames - 1
    )

    def body(current, step):
        following, observed = step
        outputs = bank.outputs(
            params, preprocessing, structure, current, slot_senders, slot_mask
        )
        targets = encode_targets(preprocessing, bank.layout, current, following)
        energies = bank.frame_energies(params, outputs, targets)
        mean, _ = bank.predict(params, outputs)
        predicted = decode_targets(preprocessing, bank.layout, current, mean)
        return predicted, jnp.sum(jnp.where(observed, energies, 0.0), axis=-1)

    start = padded[:, :-1:horizon]
    steps = (jnp.moveaxis(truth, 2, 0), jnp.moveaxis(is_observed, 1, 0))
    _, energies = jax.lax.scan(body, start, steps)
    return jnp.where(node_mask, jnp.sum(energies, axis=0), 0.0)
