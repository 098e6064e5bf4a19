"""Marks the calls of layers that have a rule in a traced model.

While a model is traced, the outcome of every call of a layer with a rule passes through
a marker, an operation that knows what went in, the variables that the layer saw, and
what the layer made of them. So a call can be read in two ways: by its rule, or by the
operations of its body (`layer_checks`).
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
from jax.interpreters import ad, batching

from modmeta.metanet.parameter_graphs.registry import Registration, find_rule

LAYER = jax.extend.core.Primitive("metanet_layer")
LAYER.multiple_results = True
LAYER.def_abstract_eval(lambda *inputs, record, outputs: list(outputs))


def _body_alone(values, others, *, record, outputs):
    """Under a transformation a layer is its body: the last operands of its marker."""
    return list(values[-len(outputs) :]), list(others[-len(outputs) :])


batching.primitive_batchers[LAYER] = _body_alone
ad.primitive_jvps[LAYER] = _body_alone


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """A call of a layer, as it was met while the model was traced.

    The operands of its marker are the arrays among the arguments, the variables that
    the layer saw, and the outcome of its body.

    Attributes:
      module: The module.
      registration: Its rule.
      scope: Keys of its variables within a collection.
      static: Leaves of the arguments; None for arrays.
      arguments: Tree structure of `(args, kwargs)`.
      variables: Tree structure of the variables.
      outputs: Tree of `jax.ShapeDtypeStruct`.
    """

    module: nn.Module
    registration: Registration
    scope: tuple[str, ...]
    static: list[Any]
    arguments: Any
    variables: Any
    outputs: Any

    @property
    def name(self) -> str:
        """Path and type of the module."""
        return f"{'/'.join(self.scope) or 'model'} ({type(self.module).__name__})"

    def split(self, operands: list) -> tuple[list, list, list]:
        """Arguments, variables and outcome among the operands of the marker."""
        num_arrays = sum(leaf is None for leaf in self.static)
        num_variables = self.variables.num_leaves
        return (
            operands[:num_arrays],
            operands[num_arrays : num_arrays + num_variables],
            operands[num_arrays + num_variables :],
        )

    def call_arguments(self, arrays: list) -> tuple[tuple, dict]:
        """`(args, kwargs)` with the given values in place of arrays."""
        # A list keeps None in place: a tree would drop it.
        waiting = iter(arrays)
        leaves = [next(waiting) if leaf is None else leaf for leaf in self.static]
        return jax.tree.unflatten(self.arguments, leaves)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


@contextlib.contextmanager
def marked_layers() -> Iterator[None]:
    """Marks the outcome of every call of a layer that has a rule."""

    def intercept(next_call: Callable, args, kwargs, context):
        module = context.module
        result = next_call(*args, **kwargs)
        if context.method_name != "__call__":
            return result
        registration = find_rule(type(module))
        if registration is None or not all(map(_is_array, jax.tree.leaves(result))):
            return result
        leaves, arguments = jax.tree.flatten((args, kwargs))
        seen, variables = jax.tree.flatten(dict(module.variables))
        record = Record(
            module=module,
            registration=registration,
            scope=tuple(module.path),
            static=[None if _is_array(leaf) else leaf for leaf in leaves],
            arguments=arguments,
            variables=variables,
            outputs=jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), result
            ),
        )
        found, structure = jax.tree.flatten(result)
        outputs = LAYER.bind(
            *filter(_is_array, leaves),
            *seen,
            *found,
            record=record,
            outputs=tuple(jax.core.ShapedArray(o.shape, o.dtype) for o in found),
        )
        return jax.tree.unflatten(structure, outputs)

    with nn.intercept_methods(intercept):
        yield
