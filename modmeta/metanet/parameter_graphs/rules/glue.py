"""Primitives that rearrange, reduce, pad and pool.

What a primitive does to units is in `parameter_graphs.arrays`; this module reads the
parameters of primitives.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from modmeta.metanet.parameter_graphs import arrays
from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.functions import compose
from modmeta.metanet.parameter_graphs.layout import (
    Atom,
    is_listed,
    is_own,
    replace_axis,
    window_slots,
)
from modmeta.metanet.parameter_graphs.rules.convolution import (
    Window,
    window_attributes,
)
from modmeta.metanet.parameter_graphs.rules.primitives import RULES, Rule, rule
from modmeta.metanet.parameter_graphs.signals import Signal, Table


@rule(
    "copy",
    "copy_p",
    "stop_gradient",
    "device_put",
    "optimization_barrier",
    "name",
    "sharding_constraint",
    passes_axes=True,
)
def _pass_on(builder, params, operands, shapes):
    return list(operands)


@rule("transpose", passes_axes=True)
def _transpose(builder, params, operands, shapes):
    (value,), permutation = operands, params["permutation"]
    if isinstance(value, Table):
        return [value.map(lambda array: array.transpose(permutation))]
    return [arrays.transpose(value, permutation)]


@rule("reshape", "squeeze", "expand_dims", passes_axes=True)
def _reshape(builder, params, operands, shapes):
    value = operands[0]
    if isinstance(value, Table):
        return [value.map(lambda array: array.reshape(shapes[0]))]
    return [arrays.reshape(builder, value, shapes[0])]


@rule("broadcast_in_dim", passes_axes=True)
def _broadcast_in_dim(builder, params, operands, shapes):
    (value, *_), dimensions = operands, params["broadcast_dimensions"]
    if isinstance(value, Signal):
        return [arrays.broadcast(value, shapes[0], dimensions)]
    placed = [1] * len(shapes[0])
    for axis, target in enumerate(dimensions):
        placed[target] = value.shape[axis]
    return [value.map(lambda array: np.broadcast_to(array.reshape(placed), shapes[0]))]


@rule("slice", passes_axes=True)
def _slice(builder, params, operands, shapes):
    (value,) = operands
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    if isinstance(value, Table):
        index = tuple(map(slice, starts, limits, strides))
        return [value.map(lambda array: array[index])]
    for axis, cut in enumerate(zip(starts, limits, strides, strict=True)):
        value = arrays.slice_axis(builder, value, axis, *cut)
    return [value]


@rule("split", passes_axes=True)
def _split(builder, params, operands, shapes):
    (value,), axis = operands, params["axis"]
    parts, start = [], 0
    for size in params["sizes"]:
        index = (slice(None),) * axis + (slice(start, start + size),)
        if isinstance(value, Table):
            parts.append(value.map(lambda array, index=index: array[index]))
        else:
            parts.append(
                arrays.slice_axis(builder, value, axis, start, start + size, 1)
            )
        start += size
    return parts


@rule("concatenate", passes_axes=True)
def _concatenate(builder, params, operands, shapes):
    axis = params["dimension"]
    operands = [operand for operand in operands if operand.shape[axis]]
    if len(operands) == 1:
        return operands
    if all(isinstance(operand, Table) for operand in operands):
        if all(operand.function.is_identity for operand in operands):
            return [
                Table(
                    np.concatenate([operand.parameters for operand in operands], axis),
                    np.concatenate([operand.constants for operand in operands], axis),
                )
            ]
        operands = [builder.table_signal(operand) for operand in operands]
    return [arrays.concatenate(builder, operands, axis)]


@rule("pad")
def _pad(builder, params, operands, shapes):
    value, fill = operands
    if not (isinstance(fill, Table) and fill.is_uniform):
        raise UnsupportedLayerError("pad with an array")
    if isinstance(value, Table):
        value = builder.table_signal(value)
    fill = float(fill.constants.ravel()[0])
    attributes: dict[str, float] = {"fill": fill}
    axes = value.axes
    padded = [
        axis for axis, config in enumerate(params["padding_config"]) if any(config)
    ]
    shared = [axis for axis in padded if value.is_shared[axis]]
    slots, attributes["layout"] = window_slots([value.axes[axis] for axis in shared])
    for axis, slot in zip(shared, slots, strict=True):
        low, high, interior = params["padding_config"][axis]
        attributes |= {
            f"padding_low_{slot}": low,
            f"padding_high_{slot}": high,
            f"input_dilation_{slot}": interior + 1,
            f"extent_{slot}": value.shape[axis],
        }
        axes = replace_axis(axes, axis, (Atom(slot, 1, shapes[0][axis]),))
    if shared:
        shape = tuple(
            shapes[0][axis] if axis in shared else size
            for axis, size in enumerate(value.shape)
        )
        copy = builder.copy(value, node_type="pad", attributes=attributes)
        value = copy.replace(axes=axes, shape=shape)
    for axis in padded:
        if axis in shared:
            continue
        value = _pad_units(builder, value, axis, params["padding_config"][axis], fill)
    return [value]


def _pad_units(
    builder: Builder,
    value: Signal,
    axis: int,
    config: tuple[int, int, int],
    fill: float,
) -> Signal:
    """Constants before, after and between the units of an axis; negative counts cut."""
    low, high, interior = config

    def constants(count: int) -> Table:
        shape = list(value.shape)
        shape[axis] = count
        return Table.constant(np.full(shape, fill, np.float32))

    size = value.shape[axis]
    parts: list[Signal | Table] = [value]
    if interior:
        rows = [
            arrays.slice_axis(builder, value, axis, index, index + 1, 1)
            for index in range(size)
        ]
        parts = [part for row in rows for part in (row, constants(interior))][:-1]
    parts = [constants(max(low, 0)), *parts, constants(max(high, 0))]
    parts = [part for part in parts if part.shape[axis]]
    if len(parts) > 1:
        value = arrays.concatenate(builder, parts, axis)
    start, stop = max(-low, 0), value.shape[axis] - max(-high, 0)
    return arrays.slice_axis(builder, value, axis, start, stop, 1)


def _reduction(node_type: str, repetition: Callable | None = None) -> Rule:
    """The rule of a reduction.

    Args:
      node_type: Type of the units of the result.
      repetition: What n equal values are reduced to, `(value, n)`; the value unless
        given.
    """

    def apply(builder, params, operands, shapes):
        (signal,) = operands
        if isinstance(signal, Table):
            signal = builder.table_signal(signal)
        axes = [axis for axis in params["axes"] if signal.shape[axis] > 1]
        repeats = [
            axis
            for axis in axes
            if signal.is_shared[axis] and not is_own(signal.axes[axis])
        ]
        count = math.prod(signal.shape[axis] for axis in repeats)
        if count > 1 and repetition is not None:
            function = compose(
                lambda values: repetition(values, count),
                f"{node_type} {count}",
                [signal.function],
            )
            signal = signal.replace(function=function)
        axes = [axis for axis in axes if axis not in repeats]
        if axes:
            signal = reduce_axes(builder, signal, axes, node_type)
        signal = signal.replace(
            shape=tuple(
                1 if axis in repeats else size for axis, size in enumerate(signal.shape)
            ),
            axes=tuple(
                () if axis in repeats else old for axis, old in enumerate(signal.axes)
            ),
        )
        return [arrays.reshape(builder, signal, shapes[0])]

    return apply


_KINDS: dict[str, tuple[str, Callable | None]] = {
    "sum": ("reduce_sum", lambda values, count: values * count),
    "prod": ("reduce_product", lambda values, count: values**count),
    "max": ("reduce_max", None),
    "min": ("reduce_min", None),
    "or": ("reduce_max", None),
    "and": ("reduce_min", None),
}
for _name, _kind in _KINDS.items():
    rule(f"reduce_{_name}", passes_axes=True)(_reduction(*_kind))


def reduce_axes(
    builder: Builder, signal: Signal, axes: list[int], node_type: str
) -> Signal:
    """One unit per group of units that differ along the axes; axes keep length 1."""
    listed = [axis for axis in axes if is_listed(signal.axes[axis])]
    shared = [a for a in axes if signal.is_shared[a] and a not in listed]
    explicit = [axis for axis in axes if signal.units.shape[axis] > 1]
    slots, layout = window_slots([signal.axes[axis] for axis in shared])
    attributes = {"layout": layout}
    for axis, slot in zip(shared, slots, strict=True):
        attributes[f"extent_{slot}"] = signal.shape[axis]
    signal = builder.distinct(signal)
    shape = tuple(
        1 if axis in explicit else size for axis, size in enumerate(signal.units.shape)
    )
    units = builder.add_nodes(
        node_type, shape, layer=builder.layer(signal), attributes=attributes
    )
    targets = np.broadcast_to(units, signal.units.shape)
    builder.link(signal, targets, tie=False)
    for axis in listed:
        builder.add_places(units, signal.axes[axis])
    _tie_reduced(builder, signal.units, units, explicit)
    new_shape = tuple(1 if axis in axes else n for axis, n in enumerate(signal.shape))
    new_axes = tuple(
        () if axis in axes else old for axis, old in enumerate(signal.axes)
    )
    return Signal(units, new_shape, new_axes)


def _tie_reduced(
    builder: Builder, units: np.ndarray, results: np.ndarray, axes: list[int]
) -> None:
    """Units that are reduced to one may change places; others move with results."""
    if not axes:
        builder.tie(results, units)
    elif results.size > 1:
        kept = [axis for axis in range(units.ndim) if axis not in axes]
        rows = units.transpose(*kept, *axes).reshape(results.size, -1)
        builder.tie_to_rows(results.ravel(), rows)


def _pooling(node_type: str) -> Rule:
    def apply(builder, params, operands, shapes):
        signal = operands[0]
        if isinstance(signal, Table):
            raise UnsupportedLayerError("pooling of parameters")
        sizes, strides = params["window_dimensions"], params["window_strides"]
        padding, dilation = params["padding"], params["window_dilation"]
        base = params["base_dilation"]
        padding = [tuple(pair) for pair in padding]
        settings = list(zip(sizes, strides, padding, dilation, base, strict=True))
        usual = (1, 1, (0, 0), 1, 1)
        slid = [axis for axis, found in enumerate(settings) if found != usual]
        if not slid:
            return [signal]
        if any(signal.units.shape[axis] > 1 for axis in slid):
            if len(slid) > 1:
                raise UnsupportedLayerError("pooling over units and other axes")
            reduction = node_type.replace("pool", "reduce")
            (axis,) = slid
            window = sizes[axis], *settings[axis][1:]
            size = shapes[0][axis]
            return [_pool_units(builder, signal, reduction, axis, window, size)]
        slots, layout = window_slots([signal.axes[axis] for axis in slid])
        window = Window(
            strides=tuple(strides[axis] for axis in slid),
            padding=tuple(padding[axis] for axis in slid),
            dilation=tuple(dilation[axis] for axis in slid),
            input_dilation=tuple(base[axis] for axis in slid),
            groups=0,
        )
        attributes = window_attributes(signal, slid, window, slots, layout)
        axes = tuple(() if a in slid else old for a, old in enumerate(signal.axes))
        for axis, slot in zip(slid, slots, strict=True):
            attributes[f"window_{slot}"] = sizes[axis]
            size = shapes[0][axis]
            own = (Atom(slot, 1, size),) if size > 1 else ()
            axes = replace_axis(axes, axis, own)
        copy = builder.copy(signal, node_type=node_type, attributes=attributes)
        return [copy.replace(axes=axes, shape=tuple(shapes[0]))]

    return apply


def _pool_units(
    builder: Builder,
    signal: Signal,
    node_type: str,
    axis: int,
    window: tuple[int, int, tuple[int, int], int, int],
    num_windows: int,
) -> Signal:
    """A unit per window over the units of an axis.

    Args:
      builder: The graph.
      signal: Its operand.
      node_type: Type of the units.
      axis: The axis.
      window: Size, stride, padding, and dilations of the window and of the axis.
      num_windows: Length of the axis in the result.
    """
    size, stride, (before, _), dilation, spacing = window
    signal = builder.distinct(signal)
    count = signal.units.shape[axis]
    if signal.units.size > count:
        builder.tie_rows(np.moveaxis(signal.units, axis, 0).reshape(count, -1))
    parts = []
    for index in range(num_windows):
        places = index * stride - before + dilation * np.arange(size)
        places = places[(places >= 0) & (places % spacing == 0)] // spacing
        chosen = (slice(None),) * axis + (places[places < count],)
        if not chosen[-1].size:
            raise UnsupportedLayerError("pooling of padding alone")
        shape = (*signal.units.shape[:axis], 1, *signal.units.shape[axis + 1 :])
        units = builder.add_nodes(node_type, shape, layer=builder.layer(signal))
        builder.add_edges(
            signal.units[chosen],
            units,
            "identity",
            layer=builder.layer(signal),
            function=signal.function,
            positions=signal.all_positions()[chosen],
        )
        if units.size > 1:
            row = (slice(None),) * axis + (slice(0, 1),)
            builder.tie(units, signal.units[row])
        parts.append(units)
    shape = (*signal.shape[:axis], num_windows, *signal.shape[axis + 1 :])
    return Signal(np.concatenate(parts, axis), shape, signal.axes)


for _kind in ("sum", "max", "min"):
    RULES[f"reduce_window_{_kind}"] = _pooling(f"pool_{_kind}")
