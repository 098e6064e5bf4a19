"""Observed frames of all nodes, and where the receivers of a problem stand in them.

Letters: N nodes of the super-graph, R receivers of a problem, D slots, T frames, F
features, Y predicted features.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.modules.bank import ModuleBank
from modmeta.relational.modules.preprocessing import Preprocessing, encode_targets


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
    bank: ModuleBank,
    preprocessing: Preprocessing,
    supergraph: SuperGraph,
    states: jax.Array,
    next_states: jax.Array,
) -> ObservedFrames:
    """Keeps the frames of all nodes.

    Args:
      bank: The bank.
      preprocessing: Fitted constants.
      supergraph: Connectivity of the batch.
      states: `[N, T, F]` normalised input frames.
      next_states: `[N, T, F]` the frames that follow them.
    """
    states, next_states = zero_padded_nodes(supergraph.node_mask, states, next_states)
    targets = encode_targets(preprocessing, bank.layout, states, next_states)
    return ObservedFrames(states, targets)


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
