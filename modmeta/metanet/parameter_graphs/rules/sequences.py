"""Primitives that order, repeat or join elements along an axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from modmeta.metanet.parameter_graphs import arrays
from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.layout import (
    NUM_COORDINATES,
    Atom,
    is_listed,
    is_own,
    repeated,
    replace_axis,
    window_slots,
)
from modmeta.metanet.parameter_graphs.rules.elementwise import operation_code
from modmeta.metanet.parameter_graphs.rules.primitives import rule
from modmeta.metanet.parameter_graphs.signals import Signal, Table


def along_axis(
    builder: Builder,
    signal: Signal,
    axis: int,
    code: float,
    size: int,
    *,
    is_symmetric: bool = False,
) -> Signal:
    """New units for an operation along one axis, the same on all others.

    Args:
      builder: The graph.
      signal: Its operand.
      axis: The axis.
      code: What stands for the operation.
      size: Length of the axis in the result.
      is_symmetric: True if the order of elements on the axis does not matter.
    """
    if is_listed(signal.axes[axis]):
        signal = builder.expand(signal, [axis])
    layer = builder.layer(signal)
    attributes: dict[str, Any] = {"operation": code}
    shape = (*signal.shape[:axis], size, *signal.shape[axis + 1 :])
    if signal.units.shape[axis] == 1:
        (slot,), attributes["layout"] = window_slots([signal.axes[axis]])
        attributes[f"extent_{slot}"] = signal.shape[axis]
        attributes[f"window_{slot}"] = size
        units = builder.add_nodes(
            "operation", signal.units.shape, layer=layer, attributes=attributes
        )
        builder.link(signal, units)
        own = (Atom(slot, 1, size),) if size > 1 else ()
        return Signal(units, shape, replace_axis(signal.axes, axis, own))
    signal = builder.distinct(signal)
    count = signal.units.shape[axis]
    places = np.zeros((count, *[1] * (signal.ndim - 1), NUM_COORDINATES), np.float32)
    if not is_symmetric:
        places[..., 0] = np.arange(count).reshape(-1, *[1] * (signal.ndim - 1))
    places = np.moveaxis(places, 0, axis)
    signal = builder.distinct_at(signal, places)
    moved = np.moveaxis(signal.units, axis, 0)
    if not is_symmetric or moved[0].size > 1:
        builder.tie_rows(moved.reshape(count, -1))
    positions = signal.all_positions() + places
    parts = []
    for index in range(size):
        units = builder.add_nodes(
            "operation",
            (*signal.units.shape[:axis], 1, *signal.units.shape[axis + 1 :]),
            layer=layer,
            attributes=attributes | {"size": index, "window_0": size},
        )
        builder.add_edges(
            signal.units,
            units,
            "identity",
            layer=layer,
            function=signal.function,
            positions=positions,
        )
        if moved[0].size > 1:
            builder.tie(np.moveaxis(units, axis, 0)[0], moved[0])
        parts.append(units)
    return Signal(np.concatenate(parts, axis), shape, signal.axes)


def as_signal(builder: Builder, value: Signal | Table) -> Signal:
    """A signal, entries of a table as units."""
    return builder.table_signal(value) if isinstance(value, Table) else value


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", passes_axes=True)
def _cumulate(builder, params, operands, shapes):
    axis = params["axis"]
    signal = as_signal(builder, operands[0])
    names = ("reducer", "reverse")
    code = operation_code(
        "cumulate", {name: params.get(name) for name in names}, params["__name__"]
    )
    return [along_axis(builder, signal, axis, code, shapes[0][axis])]


@rule("sort", passes_axes=True)
def _sort(builder, params, operands, shapes):
    axis = params["dimension"]
    signal = as_signal(builder, operands[0])
    code = operation_code("sort")
    size = shapes[0][axis]
    result = along_axis(builder, signal, axis, code, size, is_symmetric=True)
    if len(operands) == 1:
        return [result]
    other = operands[1]
    places = np.arange(size).reshape(-1, *[1] * (signal.ndim - 1 - axis))
    is_order = isinstance(other, Table) and other.is_constant
    is_order = is_order and bool(np.all(other.constants == places))
    if len(operands) > 2 or params["num_keys"] != 1 or not is_order:
        raise UnsupportedLayerError("sort of several arrays")
    order = along_axis(builder, signal, axis, operation_code("argsort"), size)
    return [result, order]


@rule("top_k", passes_axes=True)
def _top_k(builder, params, operands, shapes):
    signal = as_signal(builder, operands[0])
    axis = params.get("axis", signal.ndim - 1) % signal.ndim
    size = shapes[0][axis]
    values = along_axis(
        builder, signal, axis, operation_code("top"), size, is_symmetric=True
    )
    if not params["__used__"][1]:
        return [values, values]
    places = along_axis(builder, signal, axis, operation_code("place of top"), size)
    return [values, places]


@rule("argmax", "argmin", passes_axes=True)
def _extreme(builder, params, operands, shapes):
    (axis,) = params["axes"]
    signal = as_signal(builder, operands[0])
    code = operation_code(params["__name__"])
    result = along_axis(builder, signal, axis, code, 1)
    return [arrays.reshape(builder, result, shapes[0])]


@rule("rev", passes_axes=True)
def _reverse(builder, params, operands, shapes):
    (value,), axes = operands, params["dimensions"]
    if isinstance(value, Table):
        return [value.map(lambda array: np.flip(array, axes))]
    for axis in axes:
        indices = np.arange(value.shape[axis])[::-1]
        value = take(builder, value, axis, indices)
    return [value]


@rule("tile")
def _tile(builder, params, operands, shapes):
    (value,), repetitions = operands, params["reps"]
    if isinstance(value, Table):
        return [value.map(lambda array: np.tile(array, repetitions))]
    for axis, count in enumerate(repetitions):
        if count > 1:
            shape = (*value.shape[:axis], count, *value.shape[axis:])
            others = [index for index in range(len(shape)) if index != axis]
            value = arrays.broadcast(value, shape, others)
            merged = (*shape[:axis], count * shape[axis + 1], *shape[axis + 2 :])
            value = arrays.reshape(builder, value, merged)
    return [value]


@rule("stack")
def _stack(builder, params, operands, shapes):
    axis = params["axis"]
    shape = (*shapes[0][:axis], 1, *shapes[0][axis + 1 :])
    if all(isinstance(o, Table) and o.function.is_identity for o in operands):
        parameters, constants = (
            np.stack([getattr(o, name) for o in operands], axis)
            for name in ("parameters", "constants")
        )
        return [Table(parameters, constants)]
    parts = [
        arrays.reshape(builder, as_signal(builder, operand), shape)
        for operand in operands
    ]
    return [arrays.stack(builder, parts, axis)]


@rule("unstack")
def _unstack(builder, params, operands, shapes):
    (value,), axis = operands, params["axis"]
    if isinstance(value, Table):
        return [value.map(lambda a, i=i: a.take(i, axis)) for i in range(len(shapes))]
    rows = [
        arrays.slice_axis(builder, value, axis, index, index + 1, 1)
        for index in range(len(shapes))
    ]
    return [arrays.reshape(builder, row, shapes[0]) for row in rows]


def take(builder: Builder, signal: Signal, axis: int, indices: np.ndarray) -> Signal:
    """The elements at constant indices `[n]` of one axis."""
    if is_listed(signal.axes[axis]):
        signal = builder.expand(signal, [axis])
    shape = (*signal.shape[:axis], len(indices), *signal.shape[axis + 1 :])
    if signal.units.shape[axis] > 1:
        positions = signal.positions
        if positions is not None:
            positions = positions.take(indices, axis)
        units = signal.units.take(indices, axis)
        return signal.replace(units=units, shape=shape, positions=positions)
    if not is_own(signal.axes[axis]):
        own = repeated(len(indices))
        axes = (*signal.axes[:axis], own, *signal.axes[axis + 1 :])
        return signal.replace(shape=shape, axes=axes)
    steps = np.unique(np.diff(indices))
    if len(indices) == 1 or (len(steps) == 1 and steps[0] > 0):
        step = int(steps[0]) if len(steps) else 1
        start, stop = int(indices[0]), int(indices[-1]) + 1
        return arrays.slice_axis(builder, signal, axis, start, stop, step)
    code = operation_code("take", indices.tolist())
    return along_axis(builder, signal, axis, code, len(indices))
