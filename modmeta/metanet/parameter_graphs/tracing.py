"""From a model to its parameter graph.

The model is traced once with abstract values. Rules per primitive turn its operations
into nodes and edges, in whatever framework it was written. Calls of layers that have a
rule of their own are read by it, as long as they compute what the rule says and the
rule covers them; else their operations are read like all others. Operations that no
output depends on are dropped.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from modmeta.metanet.parameter_graphs import rules  # noqa: F401, registers the rules
from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.calls import is_bare, run
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.finish import finish
from modmeta.metanet.parameter_graphs.functions import IDENTITY, identity_of
from modmeta.metanet.parameter_graphs.layer_checks import LayerChecks
from modmeta.metanet.parameter_graphs.leaves import LeafSpec, StateLeaf, leaf_specs
from modmeta.metanet.parameter_graphs.markers import LAYER, marked_layers
from modmeta.metanet.parameter_graphs.program import Name, Program, Step
from modmeta.metanet.parameter_graphs.registry import LayerCall
from modmeta.metanet.parameter_graphs.rules.primitives import apply_primitive
from modmeta.metanet.parameter_graphs.signals import Signal, Table
from modmeta.metanet.parameter_graphs.topology import ParameterGraph, Topology


def _leaf_table(leaf: LeafSpec) -> Table:
    indices = np.arange(leaf.offset, leaf.offset + leaf.size, dtype=np.int32)
    return Table(indices.reshape(leaf.shape), np.zeros(leaf.shape, np.float32))


def _is_input(name: str, value: Any) -> bool:
    """True for a keyword argument that is made of arrays."""
    leaves = jax.tree.leaves(value)
    kinds = jax.Array | np.ndarray | jax.ShapeDtypeStruct
    is_array = bool(leaves) and all(isinstance(leaf, kinds) for leaf in leaves)
    return is_array and name != "rngs"


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        is_number = not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype) if is_number else leaf.dtype
        return jax.ShapeDtypeStruct(leaf.shape, dtype)
    return jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.result_type(leaf))


def trace(
    model: nn.Module | Callable,
    variables: Any,
    *example_inputs: Any,
    allow_unused: bool = False,
    **kwargs,
) -> Topology:
    """The parameter graph of an architecture.

    Args:
      model: A Flax module, or any function `model(variables, *example_inputs)`.
      variables: `{"params": ...}`, with "batch_stats" where the model has them, or the
        parameters alone: arrays or `jax.ShapeDtypeStruct`. Of a module of NNX, its
        state, `nnx.state(model)`. Integers are no parameters: they are carried along,
        and constants where the output depends on them. A function takes any tree.
      *example_inputs: Inputs of the model: arrays or `jax.ShapeDtypeStruct`. The last
        axis holds features, the first one examples (if there are two or more); integers
        are indices; a vector as long as the axis of examples has a number for each.
      allow_unused: Whether parameters that no output depends on are carried along, on
        edges of their own; refused otherwise.
      **kwargs: Passed on to the model, for example `train=False`. Arrays are inputs.

    Returns:
      The topology. Its methods take variables of the given form.

    Raises:
      UnsupportedLayerError: If the model does not run, a layer or an operation has no
        rule, a parameter does not take part in the output, or a leaf of the variables
        is not an array or holds complex numbers.
    """
    if isinstance(model, type):
        raise UnsupportedLayerError(
            f"model: found the class {model.__name__}, expected an instance of it or a "
            "function"
        )
    try:
        leaves, state, structure = leaf_specs(variables)
    except ValueError as error:
        raise UnsupportedLayerError(str(error)) from error
    arrays = {name: value for name, value in kwargs.items() if _is_input(name, value)}
    settings = {name: value for name, value in kwargs.items() if name not in arrays}

    def apply(tree, inputs):
        args, named = inputs
        with marked_layers():
            return run(model, tree, *args, **named, **settings)

    inputs = jax.tree.map(_abstract, (example_inputs, arrays))
    abstract = jax.tree.map(_abstract, variables)
    try:
        closed = jax.make_jaxpr(apply)(abstract, inputs)
    except UnsupportedLayerError:
        raise
    except Exception as error:  # the model's own
        raise UnsupportedLayerError(
            f"the model does not run on these inputs: {type(error).__name__}: {error}"
        ) from error
    program = Program(closed)
    reading = _Reading(program, leaves, state, jax.tree.leaves(inputs))
    with jax.ensure_compile_time_eval():
        builder, outputs, used = reading.build()
        state = tuple(leaf._replace(is_used=leaf.name in used) for leaf in state)
        _check_parameters(model, variables, state)
        return finish(
            builder, outputs, leaves, state, structure, allow_unused=allow_unused
        )


def _check_parameters(model: Any, variables: Any, state: Sequence[StateLeaf]) -> None:
    """Refuses integers in the place of parameters of Linen: no edge would hold them."""
    is_linen = isinstance(model, nn.Module)
    beginning = "" if is_linen and is_bare(variables) else "params/"
    for leaf in state:
        if is_linen and leaf.is_used and leaf.name.startswith(beginning):
            raise UnsupportedLayerError(
                f"{leaf.name}: found {leaf.value.dtype} among the parameters, expected "
                "floating-point numbers; integers belong into another collection"
            )


class _Refused(Exception):
    """A rule of a layer did not cover a call."""

    def __init__(self, step: Step, error: UnsupportedLayerError):
        super().__init__(str(error))
        self.key, self.error = step.outputs[0], error


class _Reading:
    """Reads a program, a layer by its rule where that is possible.

    Args:
      program: The traced model.
      leaves: Parameters of the network.
      state: The other variables, which are the first inputs of the program.
      inputs: Shapes and types of the arguments, its other inputs.
    """

    def __init__(
        self,
        program: Program,
        leaves: tuple[LeafSpec, ...],
        state: tuple[StateLeaf, ...],
        inputs: list[jax.ShapeDtypeStruct],
    ):
        self._program, self._leaves, self._inputs = program, leaves, inputs
        self._state = {program.inputs[leaf.position]: leaf for leaf in state}
        checks = LayerChecks(program)
        # Why the calls that are read by their bodies are, by the name of an outcome.
        self._bodies: dict[Name, str] = {
            step.outputs[0]: "it computes something else than its class"
            for step in program.steps
            if step.primitive is LAYER and not checks.computes_its_rule(step)
        }
        self._bodies |= self._layers_of_constants(len(leaves) + len(state))

    def _layers_of_constants(self, first_input: int) -> dict[Name, str]:
        """Calls whose rules would refuse them, as they do not depend on the input."""
        dependent = set(self._program.inputs[first_input:])
        bodies = {}
        for step in self._program.steps:
            if not dependent.isdisjoint(i for i in step.inputs if isinstance(i, Name)):
                dependent.update(step.outputs)
            if step.primitive is LAYER:
                record = step.params["record"]
                arrays = record.split(step.inputs)[0]
                is_weighted = isinstance(record.module, nn.Dense | nn.Conv)
                if is_weighted and dependent.isdisjoint(
                    value for value in arrays if isinstance(value, Name)
                ):
                    bodies[step.outputs[0]] = "its input is a constant"
        return bodies

    def build(self) -> tuple[Builder, list[Signal], set[str]]:
        """Nodes and edges, outputs of the network, and names of state it depends on."""
        first: dict[Name, UnsupportedLayerError] = {}
        while True:
            try:
                return self._build()
            except _Refused as refused:
                first[refused.key] = refused.error
                self._bodies[refused.key] = str(refused.error)
            except UnsupportedLayerError as error:
                if not first:
                    raise
                reasons = "; ".join(str(reason) for reason in first.values())
                raise UnsupportedLayerError(f"{reasons}; and {error}") from error

    def _build(self) -> tuple[Builder, list[Signal], set[str]]:
        builder = Builder()
        values: dict[Name, Any] = {}
        used: set[str] = set()
        for leaf in self._leaves:
            values[self._program.inputs[leaf.position]] = _leaf_table(leaf)
        first_input = len(self._leaves) + len(self._state)
        num_examples = next((i.shape[0] for i in self._inputs if i.ndim > 1), 0)
        for position, value in enumerate(self._inputs):
            values[self._program.inputs[first_input + position]] = builder.add_input(
                value.shape,
                argument=position,
                dtype=value.dtype,
                num_examples=num_examples,
            )

        def read(value):
            if value in values:
                return values[value]
            leaf = self._state[value]
            used.add(leaf.name)
            if isinstance(leaf.value, jax.ShapeDtypeStruct):
                raise UnsupportedLayerError(
                    f"{leaf.name}: found the shape of an array of {leaf.value.dtype} "
                    "that the output depends on, expected its values"
                )
            return Table.constant(leaf.value)

        steps, results = self._program.needed(
            lambda step: step.outputs[0] in self._bodies
        )
        uses = collections.Counter(
            value
            for group in [*(step.inputs for step in steps), results]
            for value in group
            if isinstance(value, Name)
        )
        for step in steps:
            operands = [
                read(value) if isinstance(value, Name) else Table.constant(value)
                for value in step.inputs
            ]
            if step.primitive is LAYER:
                found = self._apply_rule(builder, step, operands)
            else:
                used_results = [uses[name] > 0 for name in step.outputs]
                found = self._apply_primitive(builder, step, operands, used_results)
            values.update(
                (name, value.replace(is_open=value.is_open and uses[name] == 1))
                if isinstance(value, Signal)
                else (name, value)
                for name, value in zip(step.outputs, found, strict=True)
            )
        outputs = [values.get(result) for result in results]
        for position, output in enumerate(outputs):
            if not isinstance(output, Signal):
                raise UnsupportedLayerError(
                    f"output {position}: found a value that does not depend on the "
                    "input"
                )
            if output.function.is_complex:
                raise UnsupportedLayerError(
                    f"output {position}: found complex numbers, expected real ones"
                )
        return builder, outputs, used

    def _apply_primitive(
        self,
        builder: Builder,
        step: Step,
        operands: list[Signal | Table],
        used: list[bool],
    ) -> list[Any]:
        try:
            found = apply_primitive(
                builder, step.primitive, step.params, operands, step.shapes, used
            )
            return [
                value.replace(function=identity_of(aval.dtype))
                if isinstance(value, Signal) and value.function is IDENTITY
                else value
                for value, aval in zip(found, step.avals, strict=True)
            ]
        except UnsupportedLayerError as error:
            raise UnsupportedLayerError(f"{step.where}: {error}") from error
        except Exception as error:
            # Whatever a rule of a primitive did not expect, the model has no graph.
            raise UnsupportedLayerError(
                f"{step.where}: found {step.primitive.name} of "
                f"{[value.shape for value in operands]}, which its rule does not "
                f"cover ({type(error).__name__}: {error})"
            ) from error

    def _apply_rule(
        self, builder: Builder, step: Step, operands: list[Signal | Table]
    ) -> list[Any]:
        record = step.params["record"]
        arrays, variables, _ = record.split(operands)
        args, kwargs = record.call_arguments(arrays)
        tree = jax.tree.unflatten(record.variables, variables)
        call = LayerCall(
            module=record.module,
            path="/".join(record.scope),
            parameters=tree.get("params", {}),
            statistics=tree.get("batch_stats", {}),
            args=args,
            kwargs=kwargs,
            outputs=record.outputs,
        )
        rule = record.registration.rule
        if not record.registration.passes_axes:
            call = _without_listed_axes(builder, call)
        try:
            if any(isinstance(variable, Signal) for variable in variables):
                raise UnsupportedLayerError("variables that are computed")
            found = jax.tree.leaves(
                rule(builder, call), is_leaf=lambda leaf: isinstance(leaf, Signal)
            )
        except UnsupportedLayerError as error:
            where = UnsupportedLayerError(f"{step.where}: {error}")
            raise _Refused(step, where) from error
        except Exception as error:  # a mistake of the rule, which must not stay hidden
            raise UnsupportedLayerError(
                f"{step.where}: its rule failed ({type(error).__name__}: {error})"
            ) from error
        expected = [leaf.shape for leaf in jax.tree.leaves(record.outputs)]
        if [value.shape for value in found] != expected:
            raise ValueError(
                f"rule of {record.name}: found shapes "
                f"{[value.shape for value in found]}, expected {expected}"
            )
        return found


def _without_listed_axes(builder: Builder, call: LayerCall) -> LayerCall:
    def expanded(value):
        return builder.expand_listed(value) if isinstance(value, Signal) else value

    args, kwargs = jax.tree.map(
        expanded, (call.args, call.kwargs), is_leaf=lambda v: isinstance(v, Signal)
    )
    return dataclasses.replace(call, args=args, kwargs=kwargs)


def parameter_graph(
    model: nn.Module | Callable, variables: Any, *example_inputs: Any, **kwargs
) -> ParameterGraph:
    """A network as a graph: its topology and the values of its edges.

    Args:
      model: As for `trace`.
      variables: As for `trace`, with values.
      *example_inputs: As for `trace`.
      **kwargs: As for `trace`.

    Raises:
      UnsupportedLayerError: As `trace`.
      ValueError: If a value is NaN or infinite; the message names its path.
    """
    topology = trace(model, variables, *example_inputs, **kwargs)
    return ParameterGraph(topology, topology.edge_values(variables))
