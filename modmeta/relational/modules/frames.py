"""Observed frames of all nodes, and where the receivers of a problem stand in them.

Letters: N nodes of the super-graph, R receivers of a problem, D slots, K edge modules,
M node modules, T frames, F features, Y predicted features.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.modules.bound_bank import BoundBank


def zero_padded_nodes(
    node_mask: jax.Array, *states: jax.Array
) -> tuple[jax.Array, ...]:
    """Zeros at padded nodes: their NaN times a mask of 0 would still be NaN."""
    return tuple(jnp.where(node_mask[:, None, None], s, 0.0) for s in states)


class ObservedFrames(NamedTuple):
    """What messages are computed from; all problems of a super-graph share it.

    Attributes:
      states: `[N, T, F]` normalised input frames, zero at padded nodes.
      targets: `[N, T, Y]` encoded targets.
    """

    states: jax.Array
    targets: jax.Array


class ReceiverSlots(NamedTuple):
    """Where the receivers of a problem stand in `ObservedFrames`.

    Attributes:
      nodes: `[R]` node that a receiver is.
      senders: `[R, D]` node behind every slot.
      slot_mask: `[R, D]` true at real slots.
      node_mask: `[R]` true at real nodes.
    """

    nodes: jax.Array
    senders: jax.Array
    slot_mask: jax.Array
    node_mask: jax.Array


def observe(
    modules: BoundBank,
    supergraph: SuperGraph,
    states: jax.Array,
    next_states: jax.Array,
) -> ObservedFrames:
    """Keeps the frames of all nodes.

    Args:
      modules: The bank with its arrays.
      supergraph: Connectivity of the batch.
      states: `[N, T, F]` normalised input frames.
      next_states: `[N, T, F]` the frames that follow them.
    """
    states, next_states = zero_padded_nodes(supergraph.node_mask, states, next_states)
    return ObservedFrames(states, modules.encode(states, next_states))


def receiver_slots(
    supergraph: SuperGraph, receivers: jax.Array | None = None
) -> ReceiverSlots:
    """The slots of the given nodes `[C]` of a super-graph, or of all N."""
    if receivers is None:
        receivers = jnp.arange(supergraph.node_mask.shape[0])
    return ReceiverSlots(
        nodes=receivers,
        senders=jnp.asarray(supergraph.slot_senders)[receivers],
        slot_mask=jnp.asarray(supergraph.slot_mask)[receivers],
        node_mask=jnp.asarray(supergraph.node_mask)[receivers],
    )


def weighted_outputs(
    modules: BoundBank,
    frames: ObservedFrames,
    slots: ReceiverSlots,
    edge_weights: jax.Array,
) -> jax.Array:
    """What all node modules say of one receiver under soft assignments of its edges.

    Args:
      modules: The bank with its arrays.
      frames: Frames of all nodes.
      slots: One receiver, leaves `()` and `[D]`.
      edge_weights: `[D, K]`.

    Returns:
      `[M, T, outputs]`.
    """
    own = frames.states[slots.nodes]
    messages = modules.projected_messages(frames.states[slots.senders], own[None])
    weights = edge_weights * slots.slot_mask[:, None]
    summed = jnp.einsum("dk,dkmth->mth", weights, messages)
    return modules.update(summed + modules.embed(own))


def weighted_residuals(
    modules: BoundBank,
    frames: ObservedFrames,
    slots: ReceiverSlots,
    edge_weights: jax.Array,
    node_module: jax.Array,
) -> jax.Array:
    """Residuals `[T * Y]` of one receiver, zero at a padded one.

    Args:
      modules: The bank with its arrays.
      frames: Frames of all nodes.
      slots: One receiver, leaves `()` and `[D]`.
      edge_weights: `[D, K]`.
      node_module: `()`.
    """
    outputs = weighted_outputs(modules, frames, slots, edge_weights)[node_module]
    found = modules.residuals(outputs, frames.targets[slots.nodes])
    return jnp.where(slots.node_mask, found, 0.0).reshape(-1)
