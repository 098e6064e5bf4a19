"""Observed motion of all nodes, and where the receivers of a problem stand in it.

Letters: N nodes of the super-graph, R receivers of a problem, D slots, K edge modules,
M node modules, T frames, I intervals between them, W windows, F features, Y predicted
features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data.frames import Frames, as_frames
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.motion import (
    Motion,
    Windows,
    interpolate,
    presence,
    still,
    windows_of,
)


def zero_padded_nodes(
    node_mask: jax.Array, *states: jax.Array
) -> tuple[jax.Array, ...]:
    """Zeros at padded nodes: their NaN times a mask of 0 would still be NaN."""
    return tuple(jnp.where(node_mask[:, None, None], s, 0.0) for s in states)


class Observations(NamedTuple):
    """What messages are computed from; all problems of a super-graph share it.

    Attributes:
      motion: Paths of the nodes, leaves `[N, I, ...]`, zero at padded nodes.
      targets: `[N, W, Y]` encoded changes over the windows.
      windows: Leaves `[W, I]` and `[N, W, I]`; None where every interval is one.
      weights: `[N, W]` 0 where the change over a window was not observed, else 1; None
        where all were.
      unit_changes: `[N, W, Y]` what rates of one unit change, see
        `LawMessages.unit_changes`; None where receivers have no effects of their own.
    """

    motion: Motion
    targets: jax.Array
    windows: Windows | None
    weights: jax.Array | None = None
    unit_changes: jax.Array | None = None

    def mean(self, energies: jax.Array, node_mask: jax.Array) -> jax.Array:
        """Sum of energies of all nodes per real node `[N]` and window that counts."""
        if self.weights is None:
            count = jnp.sum(node_mask) * self.targets.shape[1]
        else:
            count = jnp.maximum(jnp.sum(self.weights * node_mask[:, None]), 1.0)
        return jnp.sum(energies) / count

    def take(self, nodes: Any) -> Observations:
        """Those of some nodes, by index; leaves with that of `nodes` in place of N."""
        windows = self.windows
        if windows is not None:
            windows = windows._replace(remaining=windows.remaining[nodes])
        motion, *rest = jax.tree.map(
            lambda leaf: leaf[nodes],
            (self.motion, self.targets, self.weights, self.unit_changes),
        )
        return Observations(motion, rest[0], windows, *rest[1:])


class ReceiverSlots(NamedTuple):
    """Where the receivers of a problem stand in `Observations`.

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
    states: Frames | jax.Array,
    starts: jax.Array | None = None,
) -> Observations:
    """Lays paths through the frames of all nodes.

    Args:
      modules: The bank with its arrays.
      supergraph: Connectivity of the batch.
      states: `[N, T, F]` normalised frames, or `Frames` with leaves `[N, T, ...]`.
      starts: `[W]` frames at which the wanted windows begin; None for all.
    """
    bank = modules.bank
    span = bank.config.span
    frames = as_frames(states)
    num_frames = frames.states.shape[1]
    (states,) = zero_padded_nodes(supergraph.node_mask, frames.states)
    frames = frames._replace(states=states)
    if starts is None:
        starts = jnp.arange(num_frames - span)
    times = frames.times
    if times is None:
        times = jnp.broadcast_to(
            jnp.arange(num_frames, dtype=states.dtype)[None], states.shape[:2]
        )
    intervals = starts if span == 1 else jnp.arange(num_frames - 1)
    if bank.has_laws:
        motion = interpolate(
            modules.preprocessing,
            bank.layout,
            frames,
            times,
            intervals,
            bank.config.num_points,
        )
    else:
        motion = still(states[:, intervals])
        motion = motion._replace(is_present=presence(frames, intervals))
    begin, end = states[:, starts], states[:, starts + span]
    durations = times[:, starts + span] - times[:, starts]
    targets = modules.encode(begin, end, durations)
    windows = None
    if span > 1:
        windows = windows_of(times, starts, num_frames, span)
        num_shifts = len(bank.layout.shifting)
        steps = modules.encode(states[:, :-1], states[:, 1:])[..., num_shifts:]
        # Between the ends of a window an angle may turn by more than half a circle.
        turns = jnp.einsum("wi,niy->nwy", windows.is_inside, steps)
        targets = jnp.concatenate([targets[..., :num_shifts], turns], axis=-1)
    weights = _weights(frames, starts, span)
    if weights is not None:
        # What is not scored may be anything, a jump between two recordings even.
        targets = jnp.where(weights[..., None], targets, 0.0)
        weights = weights.astype(targets.dtype)
    unit_changes = None
    if bank.has_effects:
        unit_changes = bank.laws.unit_changes(modules.preprocessing, durations)
    return Observations(motion, targets, windows, weights, unit_changes)


def _weights(frames: Frames, starts: jax.Array, span: int) -> jax.Array | None:
    """Whether the change over every window was observed, `[N, W]`; None if all were."""
    counts = None
    if frames.is_observed is not None:
        counts = frames.is_observed[:, starts] & frames.is_observed[:, starts + span]
    if frames.breaks is not None:
        number = jnp.cumsum(frames.breaks, axis=1)
        is_whole = number[:, starts] == number[:, starts + span]
        counts = is_whole if counts is None else counts & is_whole
    return counts


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
    observed: Observations,
    slots: ReceiverSlots,
    edge_weights: jax.Array,
) -> jax.Array:
    """What all node modules say of one receiver under soft assignments of its edges.

    Args:
      modules: The bank with its arrays.
      observed: Observations of all nodes.
      slots: One receiver, leaves `()` and `[D]`.
      edge_weights: `[D, K]`.

    Returns:
      `[M, W, outputs]`.
    """
    own = observed.take(slots.nodes[None])
    senders = observed.take(slots.senders)
    messages = modules.projected_messages(senders.motion, own.motion)
    weights = edge_weights * slots.slot_mask[:, None]
    summed = jnp.einsum("dk,dkmth->mth", weights, messages)
    hidden = summed[None] + jnp.moveaxis(modules.embed(own.motion), 0, 1)
    return modules.update(modules.collect(hidden, own.windows)[0])


def weighted_residuals(
    modules: BoundBank,
    observed: Observations,
    slots: ReceiverSlots,
    edge_weights: jax.Array,
    node_module: jax.Array,
) -> jax.Array:
    """Residuals `[W * Y]` of one receiver, zero at a padded one.

    Args:
      modules: The bank with its arrays.
      observed: Observations of all nodes.
      slots: One receiver, leaves `()` and `[D]`.
      edge_weights: `[D, K]`.
      node_module: `()`.
    """
    outputs = weighted_outputs(modules, observed, slots, edge_weights)[node_module]
    own = observed.take(slots.nodes)
    found = modules.residuals(outputs, own.targets, own.weights, own.unit_changes)
    return jnp.where(slots.node_mask, found, 0.0).reshape(-1)
