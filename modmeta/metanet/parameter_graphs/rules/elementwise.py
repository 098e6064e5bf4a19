"""Elementwise primitives: functions of one unit, and units that combine several.

Any expression of one signal and scalar constants becomes a function of its units, by
applying each primitive to the function's values at the probe points. Expressions of
several signals become units of type sum, product, maximum or minimum, or of type
operation, with an edge type per operand.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.parameter_graphs import arrays
from modmeta.metanet.parameter_graphs.builder import MINUS_ONE, ONE, Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.functions import compose, constant_function
from modmeta.metanet.parameter_graphs.layout import is_listed, is_own
from modmeta.metanet.parameter_graphs.signals import Signal, Table

NAMES = frozenset(
    """
    neg sign floor ceil round is_finite exp exp2 log log2 log1p expm1 tanh sin cos tan
    asin acos atan sinh cosh asinh acosh atanh logistic erf erfc erf_inv lgamma digamma
    sqrt rsqrt cbrt abs square one_minus_square integer_pow not convert_element_type add
    add_any sub mul div rem pow max min atan2 eq ne lt le gt ge lt_to le_to and or xor
    nextafter select_n clamp reduce_precision bessel_i0e bessel_i1e igamma igammac
    polygamma zeta regularized_incomplete_beta shift_left shift_right_logical
    shift_right_arithmetic
    """.split()
)
_COMBINED = {
    "add": "sum",
    "add_any": "sum",
    "sub": "sum",
    "mul": "product",
    "div": "product",
    "max": "maximum",
    "min": "minimum",
}


_OPERANDS = ("first", "second", "third", "fourth")


def _float_type(dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.floating)


def _scalar(table: Table) -> np.ndarray:
    """The value of a uniform table, floating-point values as float32."""
    value = np.asarray(table.constants.ravel()[0])
    return value.astype(np.float32) if _float_type(value.dtype) else value


def apply_elementwise(
    builder: Builder,
    primitive: Any,
    params: dict[str, Any],
    operands: list[Signal | Table],
) -> Signal | Table:
    """Applies an elementwise primitive.

    Args:
      builder: The graph.
      primitive: A primitive of `NAMES`.
      params: Its parameters.
      operands: Signals and tables; not all of them constants.

    Raises:
      UnsupportedLayerError: If a value is chosen by a number.
    """
    operands = [_without_mixture(builder, operand) for operand in operands]
    carriers = [o for o in operands if not (isinstance(o, Table) and o.is_uniform)]
    if _share_units(carriers):
        return _fuse(primitive, params, operands, carriers[0])
    if primitive.name in _COMBINED:
        return _combine(builder, primitive.name, *operands)
    return _operate(builder, primitive, params, operands)


def _without_mixture(builder: Builder, operand: Signal | Table) -> Signal | Table:
    """An operand as units if its function holds for parameters and constants."""
    is_mixed = isinstance(operand, Table) and not (
        operand.function.is_identity or np.all(operand.parameters >= 0)
    )
    return builder.table_signal(operand) if is_mixed else operand


def _operate(
    builder: Builder,
    primitive: Any,
    params: dict[str, Any],
    operands: list[Signal | Table],
) -> Signal:
    """Units for an operation on several units, whose edges tell operands apart."""
    shape = np.broadcast_shapes(*(operand.shape for operand in operands))
    axes = next(
        (o.axes for o in operands if isinstance(o, Signal) and o.shape == shape), None
    )
    signals, pattern = [], []
    for operand in operands:
        if isinstance(operand, Table) and operand.is_uniform:
            pattern.append(repr(_scalar(operand)))
            continue
        operand = _raise_rank(operand, shape)
        if isinstance(operand, Table):
            operand = builder.table_signal(operand, axes)
        signals.append(operand)
        pattern.append("")
    kinds = _OPERANDS[: len(signals)]
    attributes = {"operation": operation_code(primitive.name, params, pattern)}
    return builder.combine(
        "operation",
        signals,
        [ONE] * len(signals),
        edge_types=kinds,
        attributes=attributes,
    )


def operation_code(*settings: Any) -> float:
    """A number in (0, 1) that stands for an operation and its settings."""
    text = repr([sorted(s.items()) if isinstance(s, dict) else s for s in settings])
    return (1 + zlib.crc32(text.encode()) % 16777213) / 16777216.0


def _share_units(carriers: list[Signal | Table]) -> bool:
    """True if all operands are functions of the same units, or of the same entries."""
    first = carriers[0]
    if isinstance(first, Signal):
        return all(isinstance(c, Signal) and first.has_units_of(c) for c in carriers)
    return all(
        isinstance(c, Table)
        and c.shape == first.shape
        and np.array_equal(c.parameters, first.parameters)
        and np.all(c.parameters >= 0)
        for c in carriers
    )


def _fuse(
    primitive: Any,
    params: dict[str, Any],
    operands: list[Signal | Table],
    carrier: Signal | Table,
) -> Signal | Table:
    function = carrier.function
    if primitive.name == "reduce_precision" and params["mantissa_bits"] >= 7:
        return carrier
    if primitive.name == "convert_element_type":
        is_float = _float_type(function.values.dtype) and _float_type(
            params["new_dtype"]
        )
        # Rounding is not part of the function, unless it is coarse.
        if is_float and np.dtype(params["new_dtype"]).itemsize > 1:
            return carrier
        converted = function.values.astype(params["new_dtype"])
        if np.array_equal(converted, function.values):
            values = dataclasses.replace(function, values=converted)
            return carrier.replace(function=values)
    functions = [
        constant_function(_scalar(o))
        if isinstance(o, Table) and o.is_uniform
        else o.function
        for o in operands
    ]
    if primitive.name == "select_n" and functions[0].values.dtype != bool:
        raise UnsupportedLayerError("select_n by an index")
    result = compose(
        lambda *values: primitive.bind(*map(jnp.asarray, values), **params),
        f"{primitive.name} {params}",
        functions,
    )
    return carrier.replace(function=result)


def _combine(
    builder: Builder, name: str, left: Signal | Table, right: Signal | Table
) -> Signal:
    shape = np.broadcast_shapes(left.shape, right.shape)
    left, right = (_raise_rank(operand, shape) for operand in (left, right))
    if isinstance(left, Table) and isinstance(right, Table):
        masked = _masked(left, right) or _masked(right, left)
        if name == "mul" and masked is not None:
            return masked
        left, right = builder.table_signal(left), builder.table_signal(right)
    if name == "div":
        right = _reciprocal(right)
    tables = [o for o in (left, right) if isinstance(o, Table)]
    if tables and name != "max" and name != "min":
        is_plain = tables[0].function.is_identity
        # The sign of a difference goes to the edges, which parameters cannot take.
        is_negative = name == "sub" and tables[0] is right
        if is_plain and is_negative and tables[0].is_constant:
            constants = -tables[0].constants
            right, is_negative = tables[0].replace(constants=constants), False
        if is_plain and not is_negative:
            return _with_table(builder, name, left, right)
    axes = (left if isinstance(left, Signal) else right).axes
    left, right = (
        builder.table_signal(operand, axes) if isinstance(operand, Table) else operand
        for operand in (left, right)
    )
    second = MINUS_ONE if name == "sub" else ONE
    return builder.combine(_COMBINED[name], [left, right], [ONE, second])


def _masked(table: Table, mask: Table) -> Table | None:
    """A table with constants 0 where a mask is 0, or None if the other is no mask."""
    is_mask = mask.is_constant and np.all((mask.constants == 0) | (mask.constants == 1))
    if not is_mask or not table.function.is_identity:
        return None
    kept = mask.constants.astype(bool)
    return Table(
        np.where(kept, table.parameters, -1), np.where(kept, table.constants, 0)
    )


def _raise_rank(operand: Signal | Table, shape: tuple[int, ...]) -> Signal | Table:
    """A scalar repeated in the shape of the others."""
    if operand.shape == shape:
        return operand
    if isinstance(operand, Signal):
        return arrays.broadcast(operand, shape, range(operand.ndim))
    return operand.map(lambda array: np.broadcast_to(array, shape))


def _reciprocal(operand: Signal | Table) -> Signal | Table:
    if isinstance(operand, Table) and operand.is_constant:
        constants = np.asarray(operand.constants, np.float32)
        return operand.replace(constants=1 / constants)
    reciprocal = operand.function.then(lambda v: jax.lax.div(jnp.ones_like(v), v))
    return operand.replace(function=reciprocal)


def _takes_bias(signal: Signal, table: Table) -> bool:
    """True if a table adds one parameter to every unit of a weighted sum.

    Or to every place of a listed axis.
    """
    if not (signal.is_open and signal.function.is_identity) or np.any(
        table.parameters < 0
    ):
        return False
    varying = [axis for axis, size in enumerate(table.shape) if size > 1]
    if len(varying) == 1 and is_listed(signal.axes[varying[0]]):
        return True
    return (
        table.shape == signal.units.shape
        and len(np.unique(signal.units)) == signal.units.size
    )


def _with_table(
    builder: Builder, name: str, left: Signal | Table, right: Signal | Table
) -> Signal:
    """New units with an edge from the signal and one from a row of the table."""
    signal, table = (right, left) if isinstance(left, Table) else (left, right)
    shape = np.broadcast_shapes(signal.shape, table.shape)
    sign = MINUS_ONE if name == "sub" and signal is right else ONE
    varying = table.collapse(range(table.ndim))
    sizes, places = np.array(varying.shape), np.array(signal.units.shape)
    is_repeated = any(
        varying.shape[axis] > 1
        and signal.units.shape[axis] == 1
        and not is_own(signal.axes[axis])
        for axis in range(signal.ndim)
    )
    is_shared = np.any((sizes == 1) & (places > 1)) and np.any(sizes > 1)
    rows = [a for a in range(signal.ndim) if sizes[a] > 1 and places[a] == 1]
    listed = [a for a in rows if is_listed(signal.axes[a])]
    layer = builder.layer(signal)
    is_bias = name == "add" and _takes_bias(signal, varying)
    if is_bias and listed:
        places = builder.listed(signal.axes[listed[0]]).places
        builder.add_unit_node(places, varying.map(np.ravel), layer=layer)
        return signal.replace(is_open=False)
    if is_repeated or is_shared or (listed and len(rows) > 1):
        # The table has elements where the signal repeats itself, or the reverse.
        other = builder.table_signal(table, signal.axes)
        return builder.combine(_COMBINED[name], [signal, other], [sign, ONE])
    if is_bias:
        values = varying.map(lambda a: np.broadcast_to(a, signal.units.shape))
        builder.add_unit_node(signal.units, values, layer=layer)
        return signal.replace(is_open=False)
    units = builder.add_nodes(_COMBINED[name], signal.units.shape, layer=layer)
    builder.link(signal, units, values=sign)
    builder.add_table(table, units, signal.axes, layer=layer)
    return Signal(units, tuple(shape), signal.axes)
