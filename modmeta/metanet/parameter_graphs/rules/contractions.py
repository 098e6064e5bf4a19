"""Products that sum over axes: matrix products and convolutions as primitives.

A product with a table of parameters has an edge per parameter, as in a dense layer. A
product of two signals, such as queries and keys, is a unit per pair of elements and a
unit per sum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from modmeta.metanet.parameter_graphs import arrays
from modmeta.metanet.parameter_graphs.builder import ONE, Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.layout import is_listed, is_own
from modmeta.metanet.parameter_graphs.rules.convolution import (
    Window,
    convolve,
    convolve_computed,
)
from modmeta.metanet.parameter_graphs.rules.elementwise import operation_code
from modmeta.metanet.parameter_graphs.rules.glue import reduce_axes
from modmeta.metanet.parameter_graphs.rules.linear import contract
from modmeta.metanet.parameter_graphs.rules.primitives import Value, rule
from modmeta.metanet.parameter_graphs.rules.sequences import along_axis
from modmeta.metanet.parameter_graphs.signals import Signal, Table

# More products with parameters of their own than this are not worth a graph.
MAX_BATCH = 256


def _slice(builder: Builder, value: Value, axes: Sequence[int], index) -> Value:
    """One place of some axes, which are dropped."""
    if isinstance(value, Table):
        where = [slice(None)] * value.ndim
        for axis, place in zip(axes, index, strict=True):
            where[axis] = place
        return value.map(lambda array: array[tuple(where)])
    for axis, place in zip(axes, index, strict=True):
        value = arrays.slice_axis(builder, value, axis, place, place + 1, 1)
    shape = [size for axis, size in enumerate(value.shape) if axis not in axes]
    return arrays.reshape(builder, value, shape)


def _is_kernel(value: Value) -> bool:
    return isinstance(value, Table) and value.function.is_identity


def _num_parameters(table: Table) -> int:
    return len(np.unique(table.parameters[table.parameters >= 0]))


def _is_zero(value: Value) -> bool:
    is_constant = isinstance(value, Table) and value.is_constant
    return is_constant and not np.any(value.constants)


@rule("dot_general", passes_axes=True)
def _dot_general(builder, params, operands, shapes):
    left, right = operands
    (left_axes, right_axes), (left_batch, right_batch) = params["dimension_numbers"]
    if _is_zero(left) or _is_zero(right):
        return [Table.constant(np.zeros(shapes[0], np.float32))]
    if _is_kernel(left) and _is_kernel(right):
        # The larger table stays on edges, the entries of the other are units.
        if _num_parameters(left) < _num_parameters(right):
            left = builder.table_signal(left)
        else:
            right = builder.table_signal(right)
    left, right = (
        builder.table_signal(value)
        if isinstance(value, Table) and not _is_kernel(value)
        else value
        for value in (left, right)
    )
    if isinstance(left, Signal) and isinstance(right, Signal):
        return [
            _product(
                builder,
                _arranged(left, left_batch, left_axes),
                _arranged(right, right_batch, right_axes),
                len(left_batch),
                len(left_axes),
            )
        ]
    tables = [o for o in ((left, left_batch), (right, right_batch)) if _is_kernel(o[0])]
    (table, own), *_ = tables
    repeated = [i for i, axis in enumerate(own) if _repeats(table, axis)]
    if repeated:
        return [_without_batch(builder, left, right, params, repeated, shapes[0])]
    if left_batch:
        left, right = (
            builder.expand_listed(value) if isinstance(value, Signal) else value
            for value in (left, right)
        )
        return [
            _batched(
                builder, left, right, left_axes, right_axes, left_batch, right_batch
            )
        ]
    if isinstance(left, Signal):
        result = _with_kernel(builder, left, right, left_axes, right_axes)
        return [result.replace(is_open=True)]
    result = _with_kernel(builder, right, left, right_axes, left_axes)
    num_left = left.ndim - len(left_axes)
    order = [*range(result.ndim - num_left, result.ndim)]
    order += range(result.ndim - num_left)
    return [arrays.transpose(result, order).replace(is_open=True)]


def _repeats(table: Table, axis: int) -> bool:
    """True if a table is the same in every place of an axis."""
    return all(
        np.all(array == array.take([0], axis))
        for array in (table.parameters, table.constants)
    )


def _without_batch(
    builder: Builder,
    left: Value,
    right: Value,
    params: dict,
    repeated: Sequence[int],
    shape: tuple[int, ...],
) -> Signal:
    """A product whose table is the same in every place of some batch axes.

    These are free axes of the signal, then.
    """
    contracted, batch = params["dimension_numbers"]
    operands, axes, labels = [left, right], [], []
    for side, value in enumerate(operands):
        dropped = [batch[side][i] for i in repeated] if _is_kernel(value) else []
        left_out = tuple(0 if a in dropped else slice(None) for a in range(value.ndim))
        kept = [a for a in range(value.ndim) if a not in dropped]
        if isinstance(value, Table):
            operands[side] = value.map(lambda array, where=left_out: array[where])
        bound = {axis: ("batch", i) for i, axis in enumerate(batch[side])}
        axes.append([kept.index(a) for a in contracted[side]])
        labels.append([
            "contracted" if a in contracted[side] else bound.get(a, (side, a))
            for a in kept
        ])  # fmt: skip
    numbers = [i for i in range(len(batch[0])) if i not in repeated]
    kept_batch = [[own.index(("batch", i)) for i in numbers] for own in labels]
    found = [("batch", i) for i in numbers]
    for own, taken in zip(labels, kept_batch, strict=True):
        found += [
            label
            for axis, label in enumerate(own)
            if label != "contracted" and axis not in taken
        ]
    # Batch axes come first, then those of either side.
    order = sorted(range(len(found)), key=lambda i: found[i][0] != "batch")
    heads = [i for i in order if found[i][0] == "batch"]
    order[: len(heads)] = sorted(heads, key=lambda i: found[i][1])
    settings = {**params, "dimension_numbers": (axes, kept_batch)}
    inner = tuple(np.array(shape)[np.argsort(order)].tolist())
    (result,) = _dot_general(builder, settings, operands, [inner])
    return arrays.transpose(result, order)


def _with_kernel(
    builder: Builder,
    signal: Signal,
    kernel: Table,
    axes: Sequence[int],
    kernel_axes: Sequence[int],
) -> Signal:
    """The product of a signal and a table; the table's other axes come last."""
    is_resampling = (
        kernel.is_constant
        and kernel.ndim == 2
        and len(axes) == 1
        and signal.is_shared[axes[0]]
        and is_own(signal.axes[axes[0]])
        and not is_listed(signal.axes[axes[0]])
    )
    if not is_resampling:
        free = [axis for axis in range(kernel.ndim) if axis not in kernel_axes]
        full = [kernel.shape[axis] for axis in free]
        result = contract(builder, signal, kernel.collapse(free), axes, kernel_axes)
        shape = (*result.shape[: result.ndim - len(free)], *full)
        return arrays.broadcast(result, shape, range(result.ndim))
    # A fixed matrix along an axis of positions, such as the weights of a resize.
    (axis,), (kernel_axis,) = axes, kernel_axes
    matrix = np.asarray(kernel.constants, np.float32)
    matrix = matrix if kernel_axis == 0 else matrix.T
    code = operation_code("matrix", matrix.shape, matrix.tobytes())
    result = along_axis(builder, signal, axis, code, matrix.shape[1])
    order = [index for index in range(signal.ndim) if index != axis]
    return arrays.transpose(result, [*order, axis])


def _batched(
    builder, left, right, left_axes, right_axes, left_batch, right_batch
) -> Signal:
    """Products of a signal with a table of its own in every place of some axes."""
    sizes = [left.shape[axis] for axis in left_batch]
    if math.prod(sizes) > MAX_BATCH:
        raise UnsupportedLayerError(
            f"dot_general with {math.prod(sizes)} tables of parameters, expected at "
            f"most {MAX_BATCH}"
        )

    def kept(value, axes, batch):
        return [axis - sum(b < axis for b in batch) for axis in axes]

    contracted = kept(left, left_axes, left_batch), kept(right, right_axes, right_batch)
    params = {"dimension_numbers": (contracted, ((), ()))}
    parts = []
    for index in itertools.product(*map(range, sizes)):
        pair = [
            _slice(builder, left, left_batch, index),
            _slice(builder, right, right_batch, index),
        ]
        (part,) = _dot_general(builder, params, pair, [()])
        parts.append(arrays.reshape(builder, part, (1, *part.shape)))
    joined = arrays.stack(builder, parts) if len(parts) > 1 else parts[0]
    return arrays.reshape(builder, joined, (*sizes, *joined.shape[1:]))


def _arranged(
    signal: Signal, batch: Sequence[int], contracted: Sequence[int]
) -> Signal:
    """Batch axes first, contracted axes last."""
    first, last = list(batch), list(contracted)
    free = [axis for axis in range(signal.ndim) if axis not in first + last]
    return arrays.transpose(signal, [*first, *free, *last])


def _product(
    builder: Builder, left: Signal, right: Signal, num_batch: int, num_contracted: int
) -> Signal:
    """The product of two signals, batch axes first and contracted axes last."""

    def parts(signal):
        last = signal.ndim - num_contracted
        return signal.shape[:num_batch], signal.shape[num_batch:last]

    (batch, free), (_, other) = parts(left), parts(right)
    contracted = left.shape[left.ndim - num_contracted :]
    shape = (*batch, *free, *other, *contracted)
    first = range(num_batch)
    last = range(len(shape) - num_contracted, len(shape))
    middle = num_batch + len(free)
    left = arrays.broadcast(left, shape, [*first, *range(num_batch, middle), *last])
    right = arrays.broadcast(
        right, shape, [*first, *range(middle, middle + len(other)), *last]
    )
    result = builder.combine("product", [left, right], [ONE, ONE])
    axes = [axis for axis in last if result.shape[axis] > 1]
    if axes:
        result = reduce_axes(builder, result, axes, "reduce_sum")
    return arrays.reshape(builder, result, shape[: len(shape) - num_contracted])


@rule("conv_general_dilated", passes_axes=True)
def _convolution(builder, params, operands, shapes):
    signal, kernel = operands
    if params["batch_group_count"] != 1:
        raise UnsupportedLayerError("convolution with batch_group_count")
    if _is_zero(signal) or _is_zero(kernel):
        return [Table.constant(np.zeros(shapes[0], np.float32))]
    if isinstance(signal, Table):
        signal = builder.table_signal(signal)
    if isinstance(kernel, Table) and not _is_kernel(kernel):
        kernel = builder.table_signal(kernel)
    numbers = params["dimension_numbers"]
    into, kernel_order, out = (
        (spec[0], *spec[2:], spec[1])
        for spec in (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    )
    # The kernel is given as output, input, window.
    kernel_order = (*kernel_order[1:], kernel_order[0])
    window = Window(
        strides=tuple(params["window_strides"]),
        padding=tuple(params["padding"]),
        dilation=tuple(params["rhs_dilation"]),
        input_dilation=tuple(params["lhs_dilation"]),
        groups=params["feature_group_count"],
    )
    signal, out_shape = (
        arrays.transpose(signal, into),
        [shapes[0][axis] for axis in out],
    )
    if isinstance(kernel, Signal):
        signal, kernel = map(builder.expand_listed, (signal, kernel))
        kernel = arrays.transpose(kernel, kernel_order)
        result = convolve_computed(builder, signal, kernel, window, tuple(out_shape))
        return [arrays.transpose(result, np.argsort(out))]
    kernel = kernel.map(lambda array: array.transpose(kernel_order))
    result = convolve(builder, signal, kernel, None, window, tuple(out_shape))
    return [arrays.transpose(result, np.argsort(out)).replace(is_open=True)]
