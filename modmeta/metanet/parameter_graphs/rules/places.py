"""Primitives that choose or set elements at places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jax import lax

from modmeta.metanet.parameter_graphs import arrays
from modmeta.metanet.parameter_graphs.builder import ONE, Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.rules.elementwise import operation_code
from modmeta.metanet.parameter_graphs.rules.embedding import embed
from modmeta.metanet.parameter_graphs.rules.primitives import rule
from modmeta.metanet.parameter_graphs.rules.sequences import (
    along_axis,
    as_signal,
    take,
)
from modmeta.metanet.parameter_graphs.signals import Signal, Table


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
    both = [value, updates]
    if all(isinstance(v, Table) and v.function.is_identity for v in both):
        joined = (
            np.concatenate([getattr(v, name) for v in both], axis)
            for name in ("parameters", "constants")
        )
        return Table(*(array.take(chosen, axis) for array in joined))
    parts = [as_signal(builder, v) for v in both]
    return take(builder, arrays.concatenate(builder, parts, axis), axis, chosen)


_CHANGES = {"scatter-add": "sum", "scatter-mul": "product"}
_CHANGES |= {"scatter-max": "maximum", "scatter-min": "minimum"}


@rule("scatter", *_CHANGES)
def _scatter(builder, params, operands, shapes):
    """Values set or changed at constant places of one axis."""
    value, indices, updates = operands
    name = params["__name__"]
    if not (isinstance(indices, Table) and indices.is_constant):
        raise UnsupportedLayerError(f"{name} at places that are computed")
    axis, places, updates = _along_one_axis(builder, value, indices, updates, params)
    if len(np.unique(places)) < len(places):
        if name != "scatter-add":
            raise UnsupportedLayerError(f"{name} twice at one place")
        # Sums of segments: a fixed matrix of zeros and ones.
        size = value.shape[axis]
        matrix = (places[:, None] == np.arange(size)).astype(np.float32)
        code = operation_code("matrix", matrix.shape, matrix.tobytes())
        updates = along_axis(builder, as_signal(builder, updates), axis, code, size)
        places = np.arange(size)
    is_zero = (
        isinstance(value, Table) and value.is_constant and not value.constants.any()
    )
    if name != "scatter" and not (is_zero and name == "scatter-add"):
        before = as_signal(builder, value)
        if len(places) < value.shape[axis]:
            before = take(builder, before, axis, places)
        parts = [before, as_signal(builder, updates)]
        updates = builder.combine(_CHANGES[name], parts, [ONE, ONE])
    if np.array_equal(places, np.arange(value.shape[axis])):
        return [updates]
    return [_set(builder, value, updates, axis, places)]


def _along_one_axis(
    builder: Builder,
    value: Signal | Table,
    indices: Table,
    updates: Signal | Table,
    params: dict[str, Any],
) -> tuple[int, np.ndarray, Signal | Table]:
    """The axis and places `[n]` of a scatter, and its updates with n elements there.

    Raises:
      UnsupportedLayerError: If it changes elements at places of several axes.
    """
    numbers, shape = params["dimension_numbers"], value.shape
    if numbers.operand_batching_dims:
        raise UnsupportedLayerError("values set at places per example")
    whole = [a for a in range(value.ndim) if a not in numbers.inserted_window_dims]
    windows = dict(zip(whole, numbers.update_window_dims, strict=True))
    lead = [a for a in range(updates.ndim) if a not in numbers.update_window_dims]
    starts = np.asarray(indices.constants).astype(int)
    starts = starts.reshape(-1, starts.shape[-1])
    axes = numbers.scatter_dims_to_operand_dims
    changed = [
        a
        for a in range(value.ndim)
        if a not in windows or updates.shape[windows[a]] < shape[a]
    ]
    changed = changed or [0]
    whole_starts = [starts[:, i] for i, a in enumerate(axes) if a not in changed]
    if len(changed) != 1 or np.any(whole_starts):
        raise UnsupportedLayerError("values set at places of several axes")
    (axis,) = changed
    column = starts[:, axes.index(axis)] if axis in axes else np.zeros(1, int)
    size = updates.shape[windows[axis]] if axis in windows else 1
    if np.any(column < 0) or np.any(column + size > shape[axis]):
        raise UnsupportedLayerError("values set at places beyond the end")
    places = (column[:, None] + np.arange(size)).ravel()
    others = [windows[a] for a in range(value.ndim) if a != axis]
    own = [windows[axis]] if axis in windows else []
    order = [*lead, *own, *others]
    new_shape = [len(places), *(shape[a] for a in range(value.ndim) if a != axis)]
    back = [*range(1, axis + 1), 0, *range(axis + 1, value.ndim)]
    if isinstance(updates, Table):
        updates = updates.map(
            lambda a: a.transpose(order).reshape(new_shape).transpose(back)
        )
    else:
        updates = arrays.transpose(updates, order)
        updates = arrays.reshape(builder, updates, new_shape)
        updates = arrays.transpose(updates, back)
    return axis, places, updates


@rule("gather")
def _gather(builder, params, operands, shapes):
    value, indices = operands
    if isinstance(indices, Table) and indices.is_constant:
        if isinstance(value, Table):
            return [value.map(lambda a: _gathered(a, indices.constants, params))]
        places = np.arange(math.prod(value.shape), dtype=np.int32)
        places = _gathered(places.reshape(value.shape), indices.constants, params)
        return [_take_all(builder, value, places)]
    if isinstance(value, Signal) or isinstance(indices, Table):
        raise UnsupportedLayerError("gather of units at places that are computed")
    if _taken_axis(value, params) != 0 or indices.shape[-1] != 1:
        raise UnsupportedLayerError("gather along several axes")
    chosen = arrays.reshape(builder, indices, indices.shape[:-1])
    table = value.map(lambda array: array.reshape(len(array), -1))
    result = embed(builder, table, chosen)
    result = arrays.reshape(builder, result, (*chosen.shape, *value.shape[1:]))
    order = list(range(indices.ndim - 1))
    others = [index for index in range(result.ndim) if index not in order]
    windows = params["dimension_numbers"].offset_dims
    placed = [(others if i in windows else order).pop(0) for i in range(result.ndim)]
    return [arrays.transpose(result, placed)]


def _take_all(builder: Builder, signal: Signal, places: np.ndarray) -> Signal:
    """The elements at constant places, numbers of elements in any shape.

    Axes that are taken whole stay; the others are merged, and elements of them taken.

    Raises:
      UnsupportedLayerError: If places are beyond the end, or differ between examples.
    """
    if np.any(places < 0):
        raise UnsupportedLayerError("gather at places beyond the end")
    coordinates = np.unravel_index(places, signal.shape)
    kept: dict[int, int] = {}
    for axis, found in enumerate(coordinates):
        varying = _varying_axes(found)
        if len(varying) == 1 and varying[0] not in kept.values():
            line = np.moveaxis(found, varying[0], 0).reshape(
                found.shape[varying[0]], -1
            )
            if np.array_equal(line[:, 0], np.arange(signal.shape[axis])):
                kept[axis] = varying[0]
    # Places that differ along a kept axis, such as those of a diagonal, take it along.
    moved: list[int] = []
    for _ in range(signal.ndim):
        moved = [axis for axis in range(signal.ndim) if axis not in kept]
        varying = {a for axis in moved for a in _varying_axes(coordinates[axis])}
        kept = {axis: own for axis, own in kept.items() if own not in varying}
    extents = [signal.shape[axis] for axis in moved]
    sizes = [signal.shape[axis] for axis in kept]
    signal = arrays.transpose(signal, [*moved, *kept])
    signal = arrays.reshape(builder, signal, (math.prod(extents), *sizes))
    free = [axis for axis in range(places.ndim) if axis not in kept.values()]
    corner = tuple(slice(None) if axis in free else 0 for axis in range(places.ndim))
    chosen = np.zeros([places.shape[axis] for axis in free], np.int64)
    for axis, extent in zip(moved, extents, strict=True):
        chosen = chosen * extent + coordinates[axis][corner]
    result = take(builder, signal, 0, chosen.ravel())
    result = arrays.reshape(builder, result, (*chosen.shape, *sizes))
    return arrays.transpose(result, np.argsort([*free, *kept.values()]))


def _varying_axes(array: np.ndarray) -> list[int]:
    return [
        axis
        for axis in range(array.ndim)
        if array.shape[axis] > 1 and np.any(array != array.take([0], axis))
    ]


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
