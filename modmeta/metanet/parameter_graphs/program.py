"""A traced model as a list of operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import numpy as np

from modmeta.metanet.parameter_graphs.constants import evaluate
from modmeta.metanet.parameter_graphs.markers import LAYER

# Longer recurrences would multiply the nodes of a graph beyond use.
MAX_SCAN_LENGTH = 256


@dataclasses.dataclass(frozen=True)
class Name:
    """A value of the program that is not known while it is read."""

    number: int


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One operation of the program, with calls of functions inlined.

    Inputs are constants or names of the results of earlier steps.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: list[Any]
    outputs: list[Name]
    avals: list[Any]
    path: str
    line: str

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the results."""
        return [tuple(aval.shape) for aval in self.avals]

    @property
    def where(self) -> str:
        """Path and source line, for messages."""
        if self.primitive is LAYER:
            return self.params["record"].name
        return (self.path or "model") + (f" ({self.line})" if self.line else "")


class Program:
    """The operations of a traced function, in order.

    Attributes:
      inputs: Names of its inputs.
      steps: Its operations.
      results: Names or constants.
    """

    def __init__(self, closed: Any):
        self._count = 0
        self.steps: list[Step] = []
        self.inputs = self._new_names(len(closed.jaxpr.invars))
        self._input_avals = [var.aval for var in closed.jaxpr.invars]
        self.results = self._inline(closed.jaxpr, closed.consts, self.inputs, "")

    def _new_names(self, count: int) -> list[Name]:
        names = [Name(self._count + index) for index in range(count)]
        self._count += count
        return names

    def _inline(self, jaxpr: Any, constants: list, inputs: list, path: str) -> list:
        """Appends the operations of a jaxpr, those of functions it calls included."""
        names: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
        names.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom):
            is_literal = isinstance(atom, jax.extend.core.Literal)
            return atom.val if is_literal else names[atom]

        for equation in jaxpr.eqns:
            values = [read(atom) for atom in equation.invars]
            inner_path = "/".join(
                part for part in (path, str(equation.source_info.name_stack)) if part
            )
            known = _known(equation, values)
            body = _function_body(equation)
            if known is not None:
                results = known
            elif equation.primitive.name == "cond" and not isinstance(values[0], Name):
                branches = equation.params["branches"]
                branch = branches[int(np.clip(values[0], 0, len(branches) - 1))]
                results = self._inline(
                    branch.jaxpr, branch.consts, values[1:], inner_path
                )
            elif body is not None:
                results = self._inline(*body, values, inner_path)
            else:
                results = self._new_names(len(equation.outvars))
                self.steps.append(
                    Step(
                        primitive=equation.primitive,
                        params=equation.params,
                        inputs=values,
                        outputs=results,
                        avals=[var.aval for var in equation.outvars],
                        path=inner_path,
                        line=_source_line(equation),
                    )
                )
            names.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def shapes(self) -> dict[Name, jax.ShapeDtypeStruct]:
        """Shapes and types of all values."""
        values = list(zip(self.inputs, self._input_avals, strict=True))
        for step in self.steps:
            values += zip(step.outputs, step.avals, strict=True)
        return {
            name: jax.ShapeDtypeStruct(aval.shape, aval.dtype) for name, aval in values
        }

    def aliases(self, is_body: Callable[[Step], bool]) -> dict[Name, Any]:
        """What outcomes of markers stand for, where layers are read by their bodies.

        Args:
          is_body: True for the markers of such layers.
        """
        names: dict[Name, Any] = {}
        for step in self.steps:
            if step.primitive is LAYER and is_body(step):
                outcome = step.params["record"].split(step.inputs)[2]
                outcome = [names.get(_key(value), value) for value in outcome]
                names.update(zip(step.outputs, outcome, strict=True))
        return names

    def needed(self, is_body: Callable[[Step], bool]) -> tuple[list[Step], list[Any]]:
        """The operations that results depend on, and the results.

        Args:
          is_body: True for the markers of layers that are read by their bodies, which
            are left out. The inputs of all others are the arguments and variables.
        """
        names = self.aliases(is_body)
        results = [names.get(_key(value), value) for value in self.results]
        wanted = {result for result in results if isinstance(result, Name)}
        steps = []
        for step in reversed(self.steps):
            if wanted.isdisjoint(step.outputs):
                continue
            inputs = [names.get(_key(value), value) for value in step.inputs]
            if step.primitive is LAYER:
                arrays, variables, _ = step.params["record"].split(inputs)
                inputs = [*arrays, *variables]
            steps.append(dataclasses.replace(step, inputs=inputs))
            wanted |= {value for value in inputs if isinstance(value, Name)}
        return steps[::-1], results


def _key(value: Any) -> Name | None:
    return value if isinstance(value, Name) else None


def _known(equation: Any, values: list[Any]) -> list[Any] | None:
    """Results of an operation on known numbers, which may choose between branches."""
    avals = [var.aval for var in equation.outvars]
    is_known = not any(isinstance(value, Name) for value in values)
    inner = ("jaxpr", "call_jaxpr", "branches", "cond_jaxpr")
    is_plain = not any(name in equation.params for name in inner)
    is_plain &= bool(avals) and equation.primitive is not LAYER and not equation.effects
    is_number = all(
        aval.shape == () and not jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended)
        for aval in avals
    )
    if not (is_known and is_plain and is_number):
        return None
    with jax.ensure_compile_time_eval():
        return evaluate(equation.primitive, values, equation.params)


_MACHINERY = ("/jax/", "/flax/", "/parameter_graphs/", "/contextlib.py")


def _source_line(equation: Any) -> str:
    """File and line of the model that an operation comes from; empty if unknown."""
    traceback = equation.source_info.traceback
    for frame in getattr(traceback, "frames", ()):
        name = frame.file_name
        if not any(part in name for part in _MACHINERY):
            return f"{name.rpartition('/')[2]}:{frame.line_num}"
    return ""


_CALLS = frozenset(
    """
    jit pjit closed_call core_call custom_jvp_call custom_vjp_call
    custom_vjp_call_jaxpr remat remat2 checkpoint custom_lin
    """.split()
)


def _function_body(equation: Any) -> tuple[Any, list[Any]] | None:
    """The jaxpr and constants of a called function, or None for other primitives."""
    params = equation.params
    if equation.primitive.name == "scan" and params["length"] <= MAX_SCAN_LENGTH:
        closed = _unrolled(equation)
        return closed.jaxpr, closed.consts
    if equation.primitive.name not in _CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        body = params.get(name)
        if body is not None:
            if hasattr(body, "consts"):
                return body.jaxpr, list(body.consts)
            return body, []
    return None


def _unrolled(equation: Any) -> Any:
    """A scan as the steps it takes, one after the other."""
    body, length = equation.params["jaxpr"], equation.params["length"]
    is_reversed = equation.params["reverse"]
    avals = [var.aval for var in equation.invars]
    # Sequences have an axis more than what the body sees of them.
    num_sequences = sum(
        aval.ndim > inner.ndim for aval, inner in zip(avals, body.in_avals, strict=True)
    )
    num_carries = sum(
        var.aval.ndim == inner.ndim
        for var, inner in zip(equation.outvars, body.out_avals, strict=True)
    )
    num_constants = len(avals) - num_carries - num_sequences

    def run(*operands):
        constants = operands[:num_constants]
        carries = operands[num_constants : num_constants + num_carries]
        sequences = operands[num_constants + num_carries :]
        order = range(length)
        outputs: dict[int, Any] = {}
        for step in reversed(order) if is_reversed else order:
            rows = [jax.lax.index_in_dim(s, step, keepdims=False) for s in sequences]
            found = jax.extend.core.jaxpr_as_fun(body)(*constants, *carries, *rows)
            carries, outputs[step] = found[:num_carries], found[num_carries:]
        columns = zip(*(outputs[step] for step in order), strict=True)
        return [*carries, *(jax.numpy.stack(column) for column in columns)]

    return jax.make_jaxpr(run)(*avals)
