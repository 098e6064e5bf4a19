"""Primitives between layers: reductions, pooling, rearrangements, raw products.

What a primitive does to units is in `parameter_graphs.arrays` and `rules.elementwise`;
this module reads the parameters of primitives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from modmeta.metanet.parameter_graphs import arrays
from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.layout import Atom, window_slots
from modmeta.metanet.parameter_graphs.rules.convolution import (
    Window,
    convolve,
    window_attributes,
)
from modmeta.metanet.parameter_graphs.rules.elementwise import NAMES, apply_elementwise
from modmeta.metanet.parameter_graphs.rules.linear import contract
from modmeta.metanet.parameter_graphs.signals import Signal, Table

Value = Signal | Table
_PASSED_ON = frozenset(
    ["copy", "copy_p", "stop_gradient", "reduce_precision", "optimization_barrier"]
)


def apply_primitive(
    builder: Builder,
    primitive: Any,
    params: dict[str, Any],
    operands: list[Value],
    shapes: list[tuple[int, ...]],
) -> list[Value]:
    """Applies a primitive to signals and tables.

    Args:
      builder: The graph.
      primitive: A JAX primitive.
      params: Its parameters.
      operands: Signals and tables.
      shapes: Shapes of its results.

    Returns:
      Its results.

    Raises:
      UnsupportedLayerError: If no rule covers it.
    """
    name = primitive.name
    if all(isinstance(o, Table) and o.is_constant for o in operands):
        results = primitive.bind(*(o.constants for o in operands), **params)
        results = results if primitive.multiple_results else [results]
        return [Table.constant(result) for result in results]
    if name in _PASSED_ON:
        return list(operands)
    if name in NAMES:
        return [apply_elementwise(builder, primitive, params, operands)]
    if name not in _RULES:
        raise UnsupportedLayerError(f"no rule for the primitive {name}")
    return _RULES[name](builder, params, operands, shapes)


_Rule = Callable[[Builder, dict[str, Any], list[Value], list], list[Value]]
_RULES: dict[str, _Rule] = {}


def _rule(*names: str) -> Callable[[_Rule], _Rule]:
    def register(rule: _Rule) -> _Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


@_rule("transpose")
def _transpose(builder, params, operands, shapes):
    (value,), permutation = operands, params["permutation"]
    if isinstance(value, Table):
        return [value.map(lambda array: array.transpose(permutation))]
    return [arrays.transpose(value, permutation)]


@_rule("reshape", "squeeze", "expand_dims")
def _reshape(builder, params, operands, shapes):
    value = operands[0]
    if isinstance(value, Table):
        return [value.map(lambda array: array.reshape(shapes[0]))]
    return [arrays.reshape(builder, value, shapes[0])]


@_rule("broadcast_in_dim")
def _broadcast_in_dim(builder, params, operands, shapes):
    (value, *_), dimensions = operands, params["broadcast_dimensions"]
    if isinstance(value, Signal):
        return [arrays.broadcast(value, shapes[0], dimensions)]
    placed = [1] * len(shapes[0])
    for axis, target in enumerate(dimensions):
        placed[target] = value.shape[axis]
    return [value.map(lambda array: np.broadcast_to(array.reshape(placed), shapes[0]))]


@_rule("slice")
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


@_rule("split")
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


@_rule("concatenate")
def _concatenate(builder, params, operands, shapes):
    axis = params["dimension"]
    if all(isinstance(operand, Table) for operand in operands):
        if not all(operand.function.is_identity for operand in operands):
            raise UnsupportedLayerError("concatenate of functions of parameters")
        return [
            Table(
                np.concatenate([operand.parameters for operand in operands], axis),
                np.concatenate([operand.constants for operand in operands], axis),
            )
        ]
    return [arrays.concatenate(builder, operands, axis)]


@_rule("pad")
def _pad(builder, params, operands, shapes):
    value, fill = operands
    if isinstance(value, Table) or not (isinstance(fill, Table) and fill.is_uniform):
        raise UnsupportedLayerError("pad of parameters, or with an array")
    fill = float(fill.constants.ravel()[0])
    attributes: dict[str, float] = {"fill": fill}
    axes = list(value.axes)
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
        axes[axis] = (Atom(slot, 1, shapes[0][axis]),)
    if shared:
        shape = tuple(
            shapes[0][axis] if axis in shared else size
            for axis, size in enumerate(value.shape)
        )
        copy = builder.copy(value, node_type="pad", attributes=attributes)
        value = copy.replace(axes=tuple(axes), shape=shape)
    for axis in padded:
        if axis in shared:
            continue
        low, high, interior = params["padding_config"][axis]
        if min(low, high) < 0 or interior:
            raise UnsupportedLayerError("pad of units with negative or inner padding")
        shapes_of_fill = [list(value.shape), list(value.shape)]
        for shape, count in zip(shapes_of_fill, (low, high), strict=True):
            shape[axis] = count
        before, after = (
            Table.constant(np.full(shape, fill, np.float32)) for shape in shapes_of_fill
        )
        parts = [part for part in (before, value, after) if part.shape[axis]]
        value = arrays.concatenate(builder, parts, axis)
    return [value]


def _reduction(node_type: str) -> _Rule:
    def rule(builder, params, operands, shapes):
        signal = operands[0]
        if isinstance(signal, Table):
            raise UnsupportedLayerError("reduction of parameters")
        axes = [axis for axis in params["axes"] if signal.shape[axis] > 1]
        if axes:
            signal = _reduce_axes(builder, signal, axes, node_type)
        return [arrays.reshape(builder, signal, shapes[0])]

    return rule


for _kind in ("sum", "max", "min"):
    _RULES[f"reduce_{_kind}"] = _reduction(f"reduce_{_kind}")
_RULES["reduce_prod"] = _reduction("reduce_product")


def _reduce_axes(
    builder: Builder, signal: Signal, axes: list[int], node_type: str
) -> Signal:
    """One unit per group of units that differ along the axes; axes keep length 1."""
    shared = [axis for axis in axes if signal.is_shared[axis]]
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
    num_results = results.size
    if not axes:
        builder.tie(results, units)
    elif num_results > 1:
        kept = [axis for axis in range(units.ndim) if axis not in axes]
        rows = units.transpose(*kept, *axes).reshape(num_results, -1)
        if np.array_equal(rows.ravel(), units.ravel()):
            builder.tie_groups(rows, results, num_results)
        else:
            for column in rows.T:
                builder.tie(results.ravel(), column)


@_rule("dot_general")
def _dot_general(builder, params, operands, shapes):
    left, right = operands
    (left_axes, right_axes), batch = params["dimension_numbers"]
    if any(len(axes) for axes in batch):
        raise UnsupportedLayerError("dot_general with batch axes")
    if isinstance(left, Signal) and isinstance(right, Table):
        return [contract(builder, left, right, left_axes, right_axes)]
    if isinstance(left, Table) and isinstance(right, Signal):
        result = contract(builder, right, left, right_axes, left_axes)
        num_left = left.ndim - len(left_axes)
        order = [*range(result.ndim - num_left, result.ndim)]
        order += range(result.ndim - num_left)
        return [arrays.transpose(result, order)]
    raise UnsupportedLayerError("dot_general of two signals, or of two tables")


@_rule("conv_general_dilated")
def _convolution(builder, params, operands, shapes):
    signal, kernel = operands
    if isinstance(signal, Table) or isinstance(kernel, Signal):
        raise UnsupportedLayerError("convolution without a kernel of parameters")
    if params["batch_group_count"] != 1:
        raise UnsupportedLayerError("convolution with batch_group_count")
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
    result = convolve(
        builder,
        arrays.transpose(signal, into),
        kernel.map(lambda array: array.transpose(kernel_order)),
        None,
        window,
        tuple(shapes[0][axis] for axis in out),
    )
    return [arrays.transpose(result, np.argsort(out))]


def _pooling(node_type: str) -> _Rule:
    def rule(builder, params, operands, shapes):
        signal = operands[0]
        sizes, strides = params["window_dimensions"], params["window_strides"]
        padding, dilation = params["padding"], params["window_dilation"]
        base = params["base_dilation"]
        padding = [tuple(pair) for pair in padding]
        settings = list(zip(sizes, strides, padding, dilation, base, strict=True))
        usual = (1, 1, (0, 0), 1, 1)
        slid = [axis for axis, found in enumerate(settings) if found != usual]
        if any(signal.units.shape[axis] > 1 for axis in slid):
            raise UnsupportedLayerError("pooling over units")
        if not slid:
            return [signal]
        slots, layout = window_slots([signal.axes[axis] for axis in slid])
        window = Window(
            strides=tuple(strides[axis] for axis in slid),
            padding=tuple(padding[axis] for axis in slid),
            dilation=tuple(dilation[axis] for axis in slid),
            input_dilation=tuple(base[axis] for axis in slid),
            groups=0,
        )
        attributes = window_attributes(signal, slid, window, slots, layout)
        axes = list(signal.axes)
        for axis, slot in zip(slid, slots, strict=True):
            attributes[f"window_{slot}"] = sizes[axis]
            size = shapes[0][axis]
            axes[axis] = (Atom(slot, 1, size),) if size > 1 else ()
        copy = builder.copy(signal, node_type=node_type, attributes=attributes)
        return [copy.replace(axes=tuple(axes), shape=tuple(shapes[0]))]

    return rule


for _kind in ("sum", "max", "min"):
    _RULES[f"reduce_window_{_kind}"] = _pooling(f"pool_{_kind}")
