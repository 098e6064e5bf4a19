"""Rearrangements of signals: transpose, reshape, slice, concatenate.

No operation of this module computes anything; most only move references to units
around. Joining or cutting an axis that units are shared on takes new units, since the
position of a value is not the unit's to know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.layout import (
    NUM_COORDINATES,
    Atom,
    Axis,
    is_listed,
    is_own,
    layout_code,
    regroup_atoms,
    repeated,
    replace_axis,
    split_axes,
    window_slots,
)
from modmeta.metanet.parameter_graphs.signals import Signal, Table


def transpose(signal: Signal, permutation: Sequence[int]) -> Signal:
    """Permutes axes."""
    permutation = tuple(permutation)
    positions = signal.positions
    if positions is not None:
        positions = positions.transpose(*permutation, signal.ndim)
    return signal.replace(
        units=signal.units.transpose(permutation),
        shape=tuple(signal.shape[axis] for axis in permutation),
        axes=tuple(signal.axes[axis] for axis in permutation),
        positions=positions,
    )


def reshape(builder: Builder, signal: Signal, new_shape: Sequence[int]) -> Signal:
    """Reshapes; shared axes that are merged with explicit ones become explicit.

    Raises:
      UnsupportedLayerError: If an axis of shared units is cut unevenly.
    """
    new_shape = tuple(new_shape)
    groups = split_axes(signal.shape, new_shape)
    mixed = [
        axis
        for olds, news in groups
        for axis in olds
        if any(signal.units.shape[old] > 1 for old in olds)
        or _cuts_places(signal, olds, [new_shape[new] for new in news])
    ]
    signal = builder.expand(signal, mixed)
    units_shape, axes = [], []
    for olds, news in groups:
        sizes = [new_shape[axis] for axis in news]
        if any(signal.units.shape[old] > 1 for old in olds):
            units_shape.extend(sizes)
            axes.extend([()] * len(news))
            continue
        atoms = tuple(atom for old in olds for atom in signal.axes[old])
        found = math.prod(atom.size for atom in atoms)
        regrouped = regroup_atoms(atoms, sizes) if found == math.prod(sizes) else None
        if regrouped is None:
            raise UnsupportedLayerError(
                f"reshape of {signal.shape} to {new_shape}: axes that units are "
                "shared on are cut unevenly"
            )
        units_shape.extend([1] * len(news))
        axes.extend(regrouped)
    positions = signal.positions
    if positions is not None:
        positions = positions.reshape(*units_shape, NUM_COORDINATES)
    return signal.replace(
        units=signal.units.reshape(units_shape),
        shape=new_shape,
        axes=tuple(axes),
        positions=positions,
    )


def _cuts_places(signal: Signal, olds: list[int], sizes: list[int]) -> bool:
    """True if a listed axis is not kept as it is, next to axes of one element."""
    if not any(is_listed(signal.axes[axis]) for axis in olds):
        return False
    before = [signal.shape[axis] for axis in olds if signal.shape[axis] > 1]
    return before != [size for size in sizes if size > 1]


def broadcast(signal: Signal, shape: Sequence[int], dimensions: Sequence[int]):
    """Places axis i at `dimensions[i]` of a new shape and repeats it on the others."""
    units_shape = [1] * len(shape)
    axes = [repeated(size) for size in shape]
    for axis, target in enumerate(dimensions):
        units_shape[target] = signal.units.shape[axis]
        if signal.shape[axis] == shape[target]:
            axes[target] = signal.axes[axis]
    positions = signal.positions
    if positions is not None:
        positions = positions.reshape(*units_shape, NUM_COORDINATES)
    return signal.replace(
        units=signal.units.reshape(units_shape),
        shape=tuple(shape),
        axes=tuple(axes),
        positions=positions,
    )


def slice_axis(
    builder: Builder, signal: Signal, axis: int, start: int, limit: int, stride: int
) -> Signal:
    """The elements `start, start + stride, ...` below `limit` of one axis."""
    size = signal.shape[axis]
    count = -(-(limit - start) // stride)
    if count == size:
        return signal
    if is_listed(signal.axes[axis]):
        signal = builder.expand(signal, [axis])
    shape = (*signal.shape[:axis], count, *signal.shape[axis + 1 :])
    index = (slice(None),) * axis + (slice(start, limit, stride),)
    if not signal.is_shared[axis]:
        positions = signal.positions
        return signal.replace(
            units=signal.units[index],
            shape=shape,
            positions=None if positions is None else positions[index],
        )
    if not is_own(signal.axes[axis]):
        axes = (*signal.axes[:axis], repeated(count), *signal.axes[axis + 1 :])
        return signal.replace(shape=shape, axes=axes)
    (slot,), layout = window_slots([signal.axes[axis]])
    attributes = {
        "layout": layout,
        f"extent_{slot}": size,
        f"stride_{slot}": stride,
        f"window_{slot}": count,
    }
    units = builder.add_nodes(
        "slice", signal.units.shape, layer=builder.layer(signal), attributes=attributes
    )
    offset = np.zeros(NUM_COORDINATES, np.float32)
    offset[slot] = start
    builder.link(signal, units, positions=offset)
    own = (Atom(slot, 1, count),) if count > 1 else ()
    return Signal(units, shape, replace_axis(signal.axes, axis, own))


def concatenate(builder: Builder, parts: Sequence[Signal | Table], axis: int) -> Signal:
    """Joins signals and tables along an axis.

    Along an axis of units, units lie side by side. Along an axis that units are shared
    on, new units stand for the joint axis, and edges hold where each part begins.
    """
    first = next(part for part in parts if isinstance(part, Signal))
    parts = [_full(part, first, axis) for part in parts]
    signals = [part for part in parts if isinstance(part, Signal)]
    if any(s.units.shape[axis] > 1 or is_listed(s.axes[axis]) for s in signals):
        parts = [
            builder.expand(part, [axis]) if isinstance(part, Signal) else part
            for part in parts
        ]
        signals = [part for part in parts if isinstance(part, Signal)]
    is_shared = any(signal.is_shared[axis] for signal in signals)
    if is_shared or all(
        signal.units.shape[axis] == 1 == signal.shape[axis] and _is_token(signal, axis)
        for signal in signals
    ):
        return _join_shared(builder, parts, axis, first)
    signals = [
        builder.expand(
            part
            if isinstance(part, Signal)
            else builder.table_signal(part, first.axes),
            [axis],
        )
        for part in parts
    ]
    signals, axes = builder.align(signals, skipped=axis)
    return _side_by_side(builder, signals, axes, axis)


def _full(part: Signal | Table, like: Signal, axis: int) -> Signal | Table:
    """A table in the shape of the signals that it lies beside."""
    if isinstance(part, Signal):
        return part
    shape = (*like.shape[:axis], part.shape[axis], *like.shape[axis + 1 :])
    return part.map(lambda array: np.broadcast_to(array, shape))


def _is_token(signal: Signal, axis: int) -> bool:
    """True if an axis of length 1 lies before the axis of units."""
    return axis < signal.ndim - 1 and signal.units.shape[-1] > 1


def _side_by_side(
    builder: Builder, signals: Sequence[Signal], axes: tuple[Axis, ...], axis: int
) -> Signal:
    first, taken, is_repeated = signals[0], np.zeros(0, np.int32), []
    for signal in signals:
        is_repeated.append(bool(np.any(np.isin(signal.units, taken))))
        taken = np.concatenate([taken, signal.units.ravel()])
    units = list(signals)
    if any(is_repeated) or len({signal.function.key for signal in signals}) > 1:
        units = [
            signal
            if signal.function.is_identity and not repeated
            else builder.copy(signal)
            for signal, repeated in zip(signals, is_repeated, strict=True)
        ]
    positions = [signal.all_positions() for signal in units]
    shapes = [
        [max(s.units.shape[other] for s in units) for other in range(first.ndim)]
        for _ in units
    ]
    for shape, signal in zip(shapes, units, strict=True):
        shape[axis] = signal.units.shape[axis]
    joined = np.concatenate(
        [np.broadcast_to(s.units, h) for s, h in zip(units, shapes, strict=True)], axis
    )
    places = np.concatenate(
        [
            np.broadcast_to(p, (*h, NUM_COORDINATES))
            for p, h in zip(positions, shapes, strict=True)
        ],
        axis,
    )
    shape = list(np.broadcast_shapes(*(_without(s.shape, axis) for s in units)))
    shape[axis] = sum(s.shape[axis] for s in units)
    return Signal(joined, tuple(shape), axes, places, units[0].function)


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis + 1 :])


def _join_shared(
    builder: Builder, parts: Sequence[Signal | Table], axis: int, first: Signal
) -> Signal:
    own = [part.axes[axis] for part in parts if isinstance(part, Signal)]
    known = next((axis for axis in own if is_own(axis)), ())
    (slot,), layout = window_slots([known])
    total = sum(part.shape[axis] for part in parts)
    signals = []
    for part in parts:
        if isinstance(part, Table):
            ranges = list(first.axes)
            ranges[axis] = (Atom(slot, 1, part.shape[axis]),)
            part = builder.table_signal(part, ranges)
        elif _without_sizes(part.axes[axis]) != _without_sizes(known):
            part = _along(builder, part, axis, slot)
        signals.append(part)
    signals, axes = builder.align(signals, skipped=axis)
    units_shape = np.broadcast_shapes(*(signal.units.shape for signal in signals))
    if units_shape[axis] != 1:
        raise UnsupportedLayerError("concatenate of units and positions along one axis")
    layer = builder.layer(*signals)
    units = builder.add_nodes(
        "join",
        units_shape,
        layer=layer,
        attributes={"layout": layout, f"extent_{slot}": total},
    )
    start = 0
    for part in signals:
        offset = np.zeros(NUM_COORDINATES, np.float32)
        offset[slot] = start
        builder.link(part, units, positions=offset)
        start += part.shape[axis]
    axes = replace_axis(axes, axis, (Atom(slot, 1, total),))
    shape = list(first.shape)
    shape[axis] = total
    return Signal(units, tuple(shape), axes)


def _without_sizes(axis: Axis) -> list[tuple]:
    return [(atom.coordinate, atom.stride, atom.copy) for atom in axis]


def _along(builder: Builder, part: Signal, axis: int, slot: int) -> Signal:
    """A part whose values run along one coordinate; a copy where they do otherwise."""
    own = part.axes[axis]
    if len(own) > 1 or (own and own != (Atom(slot, 1, part.shape[axis]),)):
        code = layout_code(own, is_usual=False)
        part = builder.copy(part, node_type="moved", attributes={"layout": code})
    return part


def stack(builder: Builder, parts: Sequence[Signal], axis: int = 0) -> Signal:
    """Joins signals of length 1 along an axis, on which units then differ."""
    signals, axes = builder.align(parts, skipped=axis)
    return _side_by_side(builder, signals, axes, axis)
