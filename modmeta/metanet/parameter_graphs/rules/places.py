"""Primitives that choose or set elements at places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from modmeta.metanet.parameter_graphs import arrays
from modmeta.metanet.parameter_graphs.builder import ONE, Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.functions import compose
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
    first = [
        int(np.clip(start.constants, 0, size - own))
        for start, size, own in zip(starts, value.shape, updates.shape, strict=True)
    ]
    chosen = tuple(slice(i, i + n) for i, n in zip(first, updates.shape, strict=True))
    return [_change(builder, "scatter", value, updates, _numbers(value)[chosen])]


_CHANGES = {"scatter-add": "sum", "scatter-mul": "product"}
_CHANGES |= {"scatter-max": "maximum", "scatter-min": "minimum"}


@rule("scatter", *_CHANGES)
def _scatter(builder, params, operands, shapes):
    """Values set or changed at constant places."""
    value, indices, updates = operands
    name, numbers = params["__name__"], params["dimension_numbers"]
    if not (isinstance(indices, Table) and indices.is_constant):
        raise UnsupportedLayerError(f"{name} at places that are computed")
    windows = [
        axis
        for axis in range(value.ndim)
        if axis not in (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    ]
    sizes = np.ones(value.ndim, int)
    sizes[windows] = [updates.shape[axis] for axis in numbers.update_window_dims]
    # Where updates go is where a gather with the same indices would take from.
    targets = lax.gather(
        _numbers(value),
        np.asarray(indices.constants),
        lax.GatherDimensionNumbers(
            offset_dims=numbers.update_window_dims,
            collapsed_slice_dims=numbers.inserted_window_dims,
            start_index_map=numbers.scatter_dims_to_operand_dims,
            operand_batching_dims=numbers.operand_batching_dims,
            start_indices_batching_dims=numbers.scatter_indices_batching_dims,
        ),
        sizes,
        mode=lax.GatherScatterMode.FILL_OR_DROP,
        fill_value=-1,
    )
    return [_change(builder, name, value, updates, np.asarray(targets))]


def _numbers(value: Signal | Table) -> np.ndarray:
    """The numbers of the elements of an array, in its shape."""
    return np.arange(math.prod(value.shape), dtype=np.int32).reshape(value.shape)


def _change(
    builder: Builder,
    name: str,
    value: Signal | Table,
    updates: Signal | Table,
    targets: np.ndarray,
) -> Signal | Table:
    """A value whose elements at constant places are set, or changed, by updates.

    Args:
      builder: The graph.
      name: "scatter", which sets them, or a name of `_CHANGES`.
      value: The value.
      updates: What elements are set to or combined with.
      targets: Numbers of these elements, in the shape of the updates.

    Raises:
      UnsupportedLayerError: If places are beyond the end, or twice the same unless
        updates are added, or differ between examples.
    """
    if np.any(targets < 0):
        raise UnsupportedLayerError("values set at places beyond the end")
    lines = _lines_of(targets, value.shape)
    shape = [value.shape[axis] for axis in (*lines.moved, *lines.kept)]
    sizes, places = shape[len(lines.moved) :], lines.places.ravel()
    value = _arranged(
        builder,
        value,
        [*lines.moved, *lines.kept],
        [math.prod(shape[: len(lines.moved)]), *sizes],
    )
    own = [*lines.free, *lines.kept.values()]
    updates = _arranged(builder, updates, own, [len(places), *sizes])
    result = _changed(builder, name, value, updates, places)
    back = np.argsort([*lines.moved, *lines.kept])
    if isinstance(result, Table):
        return result.map(lambda array: array.reshape(shape).transpose(back))
    return arrays.transpose(arrays.reshape(builder, result, shape), back)


def _arranged(
    builder: Builder, value: Signal | Table, order: Sequence[int], shape: Sequence[int]
) -> Signal | Table:
    """An array with its axes in an order, then in a shape."""
    if isinstance(value, Table):
        return value.map(lambda array: array.transpose(order).reshape(shape))
    return arrays.reshape(builder, arrays.transpose(value, order), shape)


def _changed(
    builder: Builder,
    name: str,
    value: Signal | Table,
    updates: Signal | Table,
    places: np.ndarray,
) -> Signal | Table:
    """The same along the first axis, for updates at places `[n]`."""
    size = value.shape[0]
    if len(np.unique(places)) < len(places):
        if name != "scatter-add":
            raise UnsupportedLayerError(f"{name} twice at one place")
        # Sums of segments: a fixed matrix of zeros and ones.
        matrix = (places[:, None] == np.arange(size)).astype(np.float32)
        code = operation_code("matrix", matrix.shape, matrix.tobytes())
        updates = along_axis(builder, as_signal(builder, updates), 0, code, size)
        places = np.arange(size)
    is_zero = (
        isinstance(value, Table) and value.is_constant and not value.constants.any()
    )
    if name != "scatter" and not (is_zero and name == "scatter-add"):
        before = as_signal(builder, value)
        if len(places) < size:
            before = take(builder, before, 0, places)
        parts = [before, as_signal(builder, updates)]
        updates = builder.combine(_CHANGES[name], parts, [ONE, ONE])
    if np.array_equal(places, np.arange(size)):
        return updates
    chosen = np.arange(size)
    chosen[places] = size + np.arange(len(places))
    both = [value, updates]
    if all(isinstance(v, Table) and v.function.is_identity for v in both):
        joined = (
            np.concatenate([getattr(v, field) for v in both])
            for field in ("parameters", "constants")
        )
        return Table(*(array.take(chosen, 0) for array in joined))
    parts = [as_signal(builder, v) for v in both]
    return take(builder, arrays.concatenate(builder, parts, 0), 0, chosen)


@rule("gather")
def _gather(builder, params, operands, shapes):
    value, indices = operands
    if isinstance(indices, Table) and indices.is_constant:
        if isinstance(value, Table):
            return [value.map(lambda a: _gathered(a, indices.constants, params))]
        places = _gathered(_numbers(value), indices.constants, params)
        return [_take_all(builder, value, places)]
    if isinstance(value, Signal) or isinstance(indices, Table):
        raise UnsupportedLayerError("gather of units at places that are computed")
    if value.is_constant and value.ndim == 1 and tuple(params["slice_sizes"]) == (1,):
        return [_looked_up(builder, value, indices, params, shapes[0])]
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


def _looked_up(
    builder: Builder,
    value: Table,
    indices: Signal,
    params: dict[str, Any],
    shape: tuple[int, ...],
) -> Signal:
    """Entries of a constant vector: a function of the unit that gives their places."""
    numbers = lax.GatherDimensionNumbers((), (0,), (0,))
    settings = {**params, "dimension_numbers": numbers}
    code = operation_code("look up", value.constants.tolist(), str(params["mode"]))
    function = compose(
        lambda places: _gathered(value.constants, places[:, None], settings),
        f"look up {code}",
        [indices.function],
    )
    return arrays.reshape(builder, indices.replace(function=function), shape)


def _take_all(builder: Builder, signal: Signal, places: np.ndarray) -> Signal:
    """The elements at constant places, numbers of elements in any shape.

    Axes that are taken whole stay; the others are merged, and elements of them taken.

    Raises:
      UnsupportedLayerError: If places are beyond the end, or differ between examples.
    """
    if np.any(places < 0):
        raise UnsupportedLayerError("gather at places beyond the end")
    lines = _lines_of(places, signal.shape)
    extents = [signal.shape[axis] for axis in lines.moved]
    sizes = [signal.shape[axis] for axis in lines.kept]
    signal = arrays.transpose(signal, [*lines.moved, *lines.kept])
    signal = arrays.reshape(builder, signal, (math.prod(extents), *sizes))
    result = take(builder, signal, 0, lines.places.ravel())
    result = arrays.reshape(builder, result, (*lines.places.shape, *sizes))
    return arrays.transpose(result, np.argsort([*lines.free, *lines.kept.values()]))


class _Lines(NamedTuple):
    """Which elements of an array are at places.

    Attributes:
      kept: Axes of the array that are there whole, with the axis of the places that
        each runs along.
      moved: Its other axes.
      free: The other axes of the places.
      places: Numbers of elements of the moved axes, merged, along the free axes.
    """

    kept: dict[int, int]
    moved: list[int]
    free: list[int]
    places: np.ndarray


def _lines_of(places: np.ndarray, shape: tuple[int, ...]) -> _Lines:
    """Takes apart numbers of elements of an array, given in any shape."""
    coordinates = np.unravel_index(places, shape)
    kept: dict[int, int] = {}
    for axis, found in enumerate(coordinates):
        varying = _varying_axes(found)
        if len(varying) == 1 and varying[0] not in kept.values():
            line = np.moveaxis(found, varying[0], 0).reshape(
                found.shape[varying[0]], -1
            )
            if np.array_equal(line[:, 0], np.arange(shape[axis])):
                kept[axis] = varying[0]
    # Places that differ along a kept axis, such as those of a diagonal, take it along.
    moved: list[int] = []
    for _ in range(len(shape)):
        moved = [axis for axis in range(len(shape)) if axis not in kept]
        varying = {a for axis in moved for a in _varying_axes(coordinates[axis])}
        kept = {axis: own for axis, own in kept.items() if own not in varying}
    free = [axis for axis in range(places.ndim) if axis not in kept.values()]
    corner = tuple(slice(None) if axis in free else 0 for axis in range(places.ndim))
    chosen = np.zeros([places.shape[axis] for axis in free], np.int64)
    for axis in moved:
        chosen = chosen * shape[axis] + coordinates[axis][corner]
    return _Lines(kept, moved, free, chosen)


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
