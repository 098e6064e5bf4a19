"""The table of rules of primitives: what an operation does to signals and tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.constants import evaluate
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.rules.elementwise import NAMES, apply_elementwise
from modmeta.metanet.parameter_graphs.signals import Signal, Table

Value = Signal | Table
Rule = Callable[[Builder, dict[str, Any], list[Any], list[tuple[int, ...]]], list[Any]]
RULES: dict[str, Rule] = {}
# Primitives whose rules take signals with listed axes; others get a unit per place.
_PASSES_AXES: set[str] = set()


def rule(*names: str, passes_axes: bool = False) -> Callable[[Rule], Rule]:
    """Registers the rule of primitives.

    A rule gets the builder, the parameters of the primitive (and "__name__" and
    "__used__", which of its results are), its operands and the shapes of its results,
    and returns the results. Without `passes_axes`, signals have no listed axes.
    """

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        _PASSES_AXES.update(names if passes_axes else ())
        return function

    return register


def apply_primitive(
    builder: Builder,
    primitive: Any,
    params: dict[str, Any],
    operands: list[Value],
    shapes: list[tuple[int, ...]],
    used: list[bool],
) -> list[Value]:
    """Applies a primitive to signals and tables.

    Args:
      builder: The graph.
      primitive: A JAX primitive.
      params: Its parameters.
      operands: Signals and tables.
      shapes: Shapes of its results.
      used: Whether the output depends on them, by result.

    Returns:
      Its results.

    Raises:
      UnsupportedLayerError: If no rule covers it.
    """
    name = primitive.name
    if all(isinstance(o, Table) and o.is_constant for o in operands):
        results = evaluate(primitive, [o.constants for o in operands], params)
        return [Table.constant(result) for result in results]
    if shapes and all(0 in shape for shape in shapes):
        return [Table.constant(np.zeros(shape, np.float32)) for shape in shapes]
    if name in NAMES:
        return [apply_elementwise(builder, primitive, params, operands)]
    if name not in RULES:
        raise UnsupportedLayerError(f"no rule for the primitive {name}")
    if name not in _PASSES_AXES:
        operands = [
            builder.expand_listed(o) if isinstance(o, Signal) else o for o in operands
        ]
    return RULES[name](
        builder, params | {"__name__": name, "__used__": used}, operands, shapes
    )
