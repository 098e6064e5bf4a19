"""From a Flax model to its parameter graph.

The model is traced once with abstract values. Calls of layers that have a rule become
opaque operations of the traced program; everything between them is made of ordinary
primitives, which `rules.glue` covers. Operations that no output depends on, the bodies
of the opaque layers among them, are dropped.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.extend
import numpy as np
from jax.interpreters import batching

from modmeta.metanet.parameter_graphs import rules  # noqa: F401, registers the rules
from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.finish import finish
from modmeta.metanet.parameter_graphs.registry import LayerCall, Rule, find_rule
from modmeta.metanet.parameter_graphs.rules import glue
from modmeta.metanet.parameter_graphs.signals import Signal, Table
from modmeta.metanet.parameter_graphs.topology import (
    LeafSpec,
    ParameterGraph,
    Topology,
    leaf_specs,
)

_layer_primitive = jax.extend.core.Primitive("metanet_layer")
_layer_primitive.multiple_results = True
_layer_primitive.def_abstract_eval(lambda *inputs, record, outputs: list(outputs))


def _refuse_batching(values, dims, *, record, outputs):
    raise UnsupportedLayerError(
        f"{record.name}: found a layer under vmap, expected one call per layer"
    )


batching.primitive_batchers[_layer_primitive] = _refuse_batching


@dataclasses.dataclass(frozen=True, eq=False)
class _Record:
    """A call of a layer, as it was met while the model was traced.

    Attributes:
      module: The module.
      rule: Its rule.
      scope: Keys of its variables within a collection.
      static: Leaves of the arguments; None for arrays.
      arguments: Tree structure of `(args, kwargs)`.
      outputs: Tree of `jax.ShapeDtypeStruct`.
    """

    module: nn.Module
    rule: Rule
    scope: tuple[str, ...]
    static: list[Any]
    arguments: Any
    outputs: Any

    @property
    def name(self) -> str:
        """Path and type of the module."""
        return f"{'/'.join(self.scope) or 'model'} ({type(self.module).__name__})"


@contextlib.contextmanager
def _opaque_layers() -> Iterator[None]:
    """Turns outermost calls of layers with a rule into opaque operations."""
    is_inside = False

    def intercept(next_call: Callable, args, kwargs, context):
        nonlocal is_inside
        module = context.module
        rule = None
        if context.method_name == "__call__" and not is_inside:
            rule = find_rule(type(module))
        if rule is None:
            return next_call(*args, **kwargs)
        is_inside = True
        try:
            result = next_call(*args, **kwargs)
        finally:
            is_inside = False
        leaves, arguments = jax.tree.flatten((args, kwargs))
        is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), result
        )
        record = _Record(
            module=module,
            rule=rule,
            scope=tuple(module.path),
            static=[
                None if array else leaf
                for leaf, array in zip(leaves, is_array, strict=True)
            ],
            arguments=arguments,
            outputs=shapes,
        )
        outputs = _layer_primitive.bind(
            *(leaf for leaf, array in zip(leaves, is_array, strict=True) if array),
            record=record,
            outputs=tuple(
                jax.core.ShapedArray(leaf.shape, leaf.dtype)
                for leaf in jax.tree.leaves(shapes)
            ),
        )
        return jax.tree.unflatten(jax.tree.structure(result), outputs)

    with nn.intercept_methods(intercept):
        yield


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
    """One operation of the program, with calls of functions inlined.

    Inputs are constants or integers that name the results of earlier steps.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: list[Any]
    outputs: list[int]
    shapes: list[tuple[int, ...]]
    path: str


@dataclasses.dataclass(frozen=True)
class _Name:
    number: int


def _inline(
    jaxpr: Any,
    constants: list,
    inputs: list,
    steps: list[_Step],
    path: str,
    count: list[int],
) -> list:
    """Appends the operations of a program, those of functions it calls included."""
    names: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    names.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, jax.extend.core.Literal) else names[atom]

    for equation in jaxpr.eqns:
        values = [read(atom) for atom in equation.invars]
        inner_path = "/".join(
            part for part in (path, str(equation.source_info.name_stack)) if part
        )
        body = glue.function_body(equation)
        if body is not None:
            inner, inner_constants = body
            results = _inline(inner, inner_constants, values, steps, inner_path, count)
            names.update(zip(equation.outvars, results, strict=True))
            continue
        outputs = list(range(count[0], count[0] + len(equation.outvars)))
        count[0] += len(outputs)
        names.update(
            zip(equation.outvars, (_Name(number) for number in outputs), strict=True)
        )
        steps.append(
            _Step(
                primitive=equation.primitive,
                params=equation.params,
                inputs=values,
                outputs=outputs,
                shapes=[tuple(var.aval.shape) for var in equation.outvars],
                path=inner_path,
            )
        )
    return [read(atom) for atom in jaxpr.outvars]


def _needed(steps: list[_Step], results: list) -> list[_Step]:
    """The steps that results depend on."""
    wanted = {result.number for result in results if isinstance(result, _Name)}
    needed = []
    for step in reversed(steps):
        if wanted.isdisjoint(step.outputs):
            continue
        needed.append(step)
        wanted |= {value.number for value in step.inputs if isinstance(value, _Name)}
    return needed[::-1]


def _collections(variables: Any) -> tuple[dict, bool]:
    """Variables by collection, and True if they came as parameters alone."""
    if isinstance(variables, dict) or hasattr(variables, "keys"):
        if "params" in variables or not variables:
            return variables, False
        if "batch_stats" in variables:
            return variables, False
    return {"params": variables}, True


def _module_tables(
    leaves: tuple[LeafSpec, ...], prefix: tuple[str, ...]
) -> dict[str, Any]:
    """Tables of all arrays below a path, nested like the variables."""
    tables: dict[str, Any] = {}
    for leaf in leaves:
        if leaf.path[: len(prefix)] != prefix:
            continue
        *branch, name = leaf.path[len(prefix) :]
        place = tables
        for key in branch:
            place = place.setdefault(key, {})
        place[name] = _leaf_table(leaf)
    return tables


def _leaf_table(leaf: LeafSpec) -> Table:
    indices = np.arange(leaf.offset, leaf.offset + leaf.size, dtype=np.int32)
    return Table(indices.reshape(leaf.shape), np.zeros(leaf.shape, np.float32))


def trace(model: nn.Module, variables: Any, *example_inputs: Any, **kwargs) -> Topology:
    """The parameter graph of an architecture.

    Args:
      model: A Flax module.
      variables: `{"params": ...}`, with "batch_stats" where the model has them, or the
        parameters alone: arrays or `jax.ShapeDtypeStruct`.
      *example_inputs: Inputs of the model: arrays or `jax.ShapeDtypeStruct`. The last
        axis holds features, the first one examples (if there are two or more); integers
        are indices.
      **kwargs: Passed on to `model.apply`, for example `train=False`.

    Returns:
      The topology. Its methods take variables of the given form.

    Raises:
      UnsupportedLayerError: If a layer or an operation has no rule, or a parameter
        does not take part in the output.
      ValueError: If a leaf of the variables is not a floating-point array.
    """
    leaves, structure = leaf_specs(variables)
    is_bare = _collections(variables)[1]

    def apply(arrays, inputs):
        tree = jax.tree.unflatten(structure, arrays)
        with _opaque_layers():
            return model.apply({"params": tree} if is_bare else tree, *inputs, **kwargs)

    arrays = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    inputs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.result_type(leaf)),
        example_inputs,
    )
    program = jax.make_jaxpr(apply)(arrays, inputs)
    with jax.ensure_compile_time_eval():
        return _build(program, leaves, structure, jax.tree.leaves(inputs), is_bare)


def _build(program, leaves, structure, inputs, is_bare: bool) -> Topology:
    builder = Builder()
    tables = [_leaf_table(leaf) for leaf in leaves]
    signals = [
        builder.add_input(
            value.shape,
            argument=position,
            is_index=not np.issubdtype(value.dtype, np.inexact)
            and value.dtype != jax.numpy.bfloat16,
        )
        for position, value in enumerate(inputs)
    ]
    steps: list[_Step] = []
    results = _inline(
        program.jaxpr, program.consts, [*tables, *signals], steps, "", [0]
    )
    values: dict[int, Any] = {}

    def read(value):
        if isinstance(value, _Name):
            return values[value.number]
        return value if isinstance(value, Signal | Table) else Table.constant(value)

    for step in _needed(steps, results):
        operands = [read(value) for value in step.inputs]
        try:
            if step.primitive is _layer_primitive:
                found = _apply_rule(builder, step, operands, leaves, is_bare)
            else:
                found = glue.apply_primitive(
                    builder, step.primitive, step.params, operands, step.shapes
                )
        except UnsupportedLayerError as error:
            where = step.path or "model"
            if step.primitive is _layer_primitive:
                where = step.params["record"].name
            raise UnsupportedLayerError(f"{where}: {error}") from error
        values.update(zip(step.outputs, found, strict=True))
    outputs = [read(result) for result in results]
    for position, output in enumerate(outputs):
        if not isinstance(output, Signal):
            raise UnsupportedLayerError(
                f"output {position}: found a value that does not depend on the input"
            )
    return finish(builder, outputs, leaves, structure)


def _apply_rule(builder, step, operands, leaves, is_bare: bool) -> list[Any]:
    record = step.params["record"]
    # A list keeps None in place: a tree would drop it.
    arrays = iter(operands)
    is_array = iter([leaf is None for leaf in record.static])
    filled = [next(arrays) if next(is_array) else leaf for leaf in record.static]
    args, kwargs = jax.tree.unflatten(record.arguments, filled)
    prefix = () if is_bare else ("params",)
    call = LayerCall(
        module=record.module,
        path="/".join(record.scope),
        parameters=_module_tables(leaves, (*prefix, *record.scope)),
        statistics=(
            {} if is_bare else _module_tables(leaves, ("batch_stats", *record.scope))
        ),
        args=args,
        kwargs=kwargs,
        outputs=record.outputs,
    )
    found = jax.tree.leaves(
        record.rule(builder, call), is_leaf=lambda leaf: isinstance(leaf, Signal)
    )
    expected = [leaf.shape for leaf in jax.tree.leaves(record.outputs)]
    if [signal.shape for signal in found] != expected:
        raise ValueError(
            f"rule of {record.name}: found shapes "
            f"{[signal.shape for signal in found]}, expected {expected}"
        )
    return found


def parameter_graph(
    model: nn.Module, variables: Any, *example_inputs: Any, **kwargs
) -> ParameterGraph:
    """A network as a graph: its topology and the values of its edges.

    Args:
      model: A Flax module.
      variables: As for `trace`, with values.
      *example_inputs: As for `trace`.
      **kwargs: As for `trace`.

    Raises:
      UnsupportedLayerError: As `trace`.
      ValueError: If a value is NaN or infinite; the message names its path.
    """
    topology = trace(model, variables, *example_inputs, **kwargs)
    return ParameterGraph(topology, topology.edge_values(variables))
