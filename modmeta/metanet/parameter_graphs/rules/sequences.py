"""Primitives that choose or order elements: along an axis, or by indices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jax import lax

from modmeta.metanet.parameter_graphs import arrays
from modmeta.metanet.parameter_graphs.builder import ONE, Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.layout import (
    NUM_COORDINATES,
    Atom,
    is_own,
    repeated,
    replace_axis,
    window_slots,
)
from modmeta.metanet.parameter_graphs.rules.elementwise import operation_code
from modmeta.metanet.parameter_graphs.rules.embedding import embed
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
    moved = np.moveaxis(signal.units, axis, 0)
    if not is_symmetric or moved[0].size > 1:
        builder.tie_rows(moved.reshape(count, -1))
    places = np.zeros((count, *[1] * (signal.ndim - 1), NUM_COORDINATES), np.float32)
    if not is_symmetric:
        places[..., 0] = np.arange(count).reshape(-1, *[1] * (signal.ndim - 1))
    positions = signal.all_positions() + np.moveaxis(places, 0, axis)
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


def _as_signal(builder: Builder, value: Signal | Table) -> Signal:
    return builder.table_signal(value) if isinstance(value, Table) else value


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def _cumulate(builder, params, operands, shapes):
    axis = params["axis"]
    signal = _as_signal(builder, operands[0])
    names = ("reducer", "reverse")
    code = operation_code(
        "cumulate", {name: params.get(name) for name in names}, params["__name__"]
    )
    return [along_axis(builder, signal, axis, code, shapes[0][axis])]


@rule("sort")
def _sort(builder, params, operands, shapes):
    if len(operands) > 1:
        raise UnsupportedLayerError("sort of several arrays")
    axis = params["dimension"]
    signal = _as_signal(builder, operands[0])
    code = operation_code("sort")
    size = shapes[0][axis]
    return [along_axis(builder, signal, axis, code, size, is_symmetric=True)]


@rule("top_k")
def _top_k(builder, params, operands, shapes):
    signal = _as_signal(builder, operands[0])
    axis = params.get("axis", signal.ndim - 1) % signal.ndim
    size = shapes[0][axis]
    values = along_axis(
        builder, signal, axis, operation_code("top"), size, is_symmetric=True
    )
    if not params["__used__"][1]:
        return [values, values]
    places = along_axis(builder, signal, axis, operation_code("place of top"), size)
    return [values, places]


@rule("argmax", "argmin")
def _extreme(builder, params, operands, shapes):
    (axis,) = params["axes"]
    signal = _as_signal(builder, operands[0])
    code = operation_code(params["__name__"])
    result = along_axis(builder, signal, axis, code, 1)
    return [arrays.reshape(builder, result, shapes[0])]


@rule("rev")
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
        arrays.reshape(builder, _as_signal(builder, operand), shape)
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


@rule("dynamic_slice")
def _dynamic_slice(builder, params, operands, shapes):
    value, *starts = operands
    if not all(isinstance(start, Table) and start.is_constant for start in starts):
        raise UnsupportedLayerError("dynamic_slice at a place that is computed")
    for axis, (start, size) in enumerate(
        zip(starts, params["slice_sizes"], strict=True)
    ):
        first = int(np.clip(start.constants, 0, value.shape[axis] - size))
        if isinstance(value, Table):
            indices = np.arange(first, first + size)
            value = value.map(lambda a, i=indices, axis=axis: a.take(i, axis))
        else:
            value = arrays.slice_axis(builder, value, axis, first, first + size, 1)
    return [value]


@rule("dynamic_update_slice")
def _dynamic_update_slice(builder, params, operands, shapes):
    value, updates, *starts = operands
    if not all(isinstance(start, Table) and start.is_constant for start in starts):
        raise UnsupportedLayerError("values set at a place that is computed")
    changed = [a for a in range(value.ndim) if updates.shape[a] != value.shape[a]]
    if not changed:
        return [updates]
    if len(changed) > 1:
        raise UnsupportedLayerError("values set along several axes")
    (axis,) = changed
    size = updates.shape[axis]
    first = int(np.clip(starts[axis].constants, 0, value.shape[axis] - size))
    return [_set(builder, value, updates, axis, np.arange(first, first + size))]


def _set(
    builder: Builder,
    value: Signal | Table,
    updates: Signal | Table,
    axis: int,
    places: np.ndarray,
) -> Signal | Table:
    """A value with updates at places `[n]` of an axis."""
    size = value.shape[axis]
    chosen = np.arange(size)
    chosen[places] = size + np.arange(len(places))
    is_table = [isinstance(v, Table) and v.function.is_identity for v in (value, updates)]
    if all(is_table):
        joined = (
            np.concatenate([getattr(v, name) for v in (value, updates)], axis)
            for name in ("parameters", "constants")
        )
        return Table(*(array.take(chosen, axis) for array in joined))
    parts = [_as_signal(builder, v) for v in (value, updates)]
    return take(builder, arrays.concatenate(builder, parts, axis), axis, chosen)


@rule("scatter-add", "scatter")
def _scatter_add(builder, params, operands, shapes):
    """Values set at places, or sums of segments: a matrix of ones along one axis."""
    value, indices, updates = operands
    numbers = params["dimension_numbers"]
    axes = numbers.scatter_dims_to_operand_dims
    lead = [a for a in range(updates.ndim) if a not in numbers.update_window_dims]
    window = (*shapes[0][: axes[0]], *shapes[0][axes[0] + 1 :])
    is_whole = [updates.shape[a] for a in numbers.update_window_dims] == list(window)
    is_covered = is_whole and numbers.inserted_window_dims == axes and len(lead) == 1
    if not is_covered or not (isinstance(indices, Table) and indices.is_constant):
        raise UnsupportedLayerError(
            f"{params['__name__']} along several axes or at places that are computed"
        )
    (axis,), size = axes, shapes[0][axes[0]]
    order = list(numbers.update_window_dims)
    order.insert(axis, lead[0])
    places = np.asarray(indices.constants).ravel().astype(int)
    if params["__name__"] == "scatter":
        if len(np.unique(places)) < len(places) or np.any(places >= size):
            raise UnsupportedLayerError("values set twice at one place")
        if isinstance(updates, Table):
            updates = updates.map(lambda array: array.transpose(order))
        else:
            updates = arrays.transpose(updates, order)
        return [_set(builder, value, updates, axis, places)]
    updates = arrays.transpose(_as_signal(builder, updates), order)
    matrix = np.asarray(indices.constants).reshape(-1, 1) == np.arange(size)
    matrix = matrix.astype(np.float32)
    code = operation_code("matrix", matrix.shape, matrix.tobytes())
    result = along_axis(builder, updates, axis, code, size)
    if isinstance(value, Table) and value.is_constant and not np.any(value.constants):
        return [result]
    parts = [_as_signal(builder, value), result]
    return [builder.combine("sum", parts, [ONE, ONE])]


@rule("gather")
def _gather(builder, params, operands, shapes):
    value, indices = operands
    numbers = params["dimension_numbers"]
    is_constant = isinstance(indices, Table) and indices.is_constant
    if is_constant and isinstance(value, Table):
        return [value.map(lambda a: _gathered(a, indices.constants, params))]
    if is_constant and len(numbers.start_index_map) > 1:
        value, indices, params = _merged_places(builder, value, indices, params)
    axis = _taken_axis(value, params)
    depth = indices.ndim - 1
    if axis is None or indices.shape[-1] != 1:
        raise UnsupportedLayerError("gather along several axes")
    if is_constant:
        places = np.asarray(indices.constants)[..., 0].astype(int)
        places = np.clip(places, 0, value.shape[axis] - 1)
        result = take(builder, value, axis, places.ravel())
    elif isinstance(value, Table) and axis == 0 and isinstance(indices, Signal):
        chosen = arrays.reshape(builder, indices, indices.shape[:-1])
        width = value.shape[1:]
        table = value.map(lambda array: array.reshape(len(array), -1))
        result = embed(builder, table, chosen)
        result = arrays.reshape(builder, result, (*chosen.shape, *width))
    else:
        raise UnsupportedLayerError("gather of units at places that are computed")
    lead = indices.shape[:-1]
    if is_constant:
        # The axis of places becomes the axes of the indices.
        shape = (*value.shape[:axis], *lead, *value.shape[axis + 1 :])
        result = arrays.reshape(builder, result, shape)
    order = list(range(axis, axis + depth))
    others = [index for index in range(result.ndim) if index not in order]
    placed: list[int] = []
    for index in range(result.ndim):
        placed.append(others.pop(0) if index in numbers.offset_dims else order.pop(0))
    return [arrays.transpose(result, placed)]


def _merged_places(
    builder: Builder, value: Signal, indices: Table, params: dict[str, Any]
) -> tuple[Signal, Table, dict[str, Any]]:
    """A gather along several axes as one along their product, which comes first."""
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    axes = numbers.start_index_map
    rest = [axis for axis in range(value.ndim) if axis not in axes]
    is_whole = tuple(sorted(axes)) == tuple(numbers.collapsed_slice_dims)
    is_whole &= [sizes[axis] for axis in rest] == [value.shape[axis] for axis in rest]
    if numbers.operand_batching_dims or not is_whole:
        raise UnsupportedLayerError("gather of windows along several axes")
    extents = [value.shape[axis] for axis in axes]
    merged = arrays.transpose(value, [*axes, *rest])
    shape = (math.prod(extents), *(value.shape[axis] for axis in rest))
    merged = arrays.reshape(builder, merged, shape)
    starts = np.moveaxis(np.asarray(indices.constants).astype(int), -1, 0)
    starts = [np.clip(s, 0, n - 1) for s, n in zip(starts, extents, strict=True)]
    places = np.ravel_multi_index(tuple(starts), extents)
    numbers = numbers._replace(collapsed_slice_dims=(0,), start_index_map=(0,))
    params = params | {
        "dimension_numbers": numbers,
        "slice_sizes": (1, *shape[1:]),
    }
    return merged, Table.constant(places[..., None]), params


def _taken_axis(value: Signal | Table, params: dict[str, Any]) -> int | None:
    """The axis of a gather that takes whole slices along one axis, or None."""
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    if numbers.operand_batching_dims or len(numbers.start_index_map) != 1:
        return None
    (axis,) = numbers.start_index_map
    full = [size if a != axis else 1 for a, size in enumerate(value.shape)]
    is_whole = tuple(sizes) == tuple(full)
    return axis if is_whole and numbers.collapsed_slice_dims == (axis,) else None


def _gathered(array: np.ndarray, indices: np.ndarray, params: dict[str, Any]):
    """A gather of constants; entries are numbers that float32 need not hold."""
    settings = {k: v for k, v in params.items() if not k.startswith("__")}
    return np.asarray(lax.gather_p.bind(array, np.asarray(indices), **settings))
