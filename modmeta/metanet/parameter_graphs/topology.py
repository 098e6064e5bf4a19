"""The graph of a network's architecture, and the way from weights to edges and back.

A `Topology` is computed once per architecture, in NumPy. The weights of any number of
networks then become edge values by one gather, and edge values become weights again by
another.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.parameter_graphs.classes import PermutationClass

# Types that float32 holds exactly.
LEAF_DTYPES = ("float32", "bfloat16", "float16")


class LeafSpec(NamedTuple):
    """One array of the variables of a network.

    Attributes:
      path: Keys from the root of the tree to the array.
      shape: Its shape.
      dtype: Name of its type.
      offset: Index of its first entry in the vector of all parameters.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def name(self) -> str:
        """The path as text, "params/Dense_0/kernel"."""
        return "/".join(self.path)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


def _key_name(key: Any) -> str:
    for field in ("key", "name", "idx"):
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key)


def leaf_specs(variables: Any) -> tuple[tuple[LeafSpec, ...], Any]:
    """Describes the arrays of a variables tree.

    Args:
      variables: Tree of arrays or `jax.ShapeDtypeStruct`.

    Returns:
      One `LeafSpec` per array, and the tree structure.

    Raises:
      ValueError: If a leaf is not an array of float32, bfloat16 or float16.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(variables)
    leaves, offset = [], 0
    for path, leaf in paths:
        names = tuple(_key_name(key) for key in path)
        dtype = str(getattr(leaf, "dtype", type(leaf).__name__))
        if dtype not in LEAF_DTYPES:
            raise ValueError(
                f"{'/'.join(names)}: found type {dtype}, expected one of "
                f"{', '.join(LEAF_DTYPES)}"
            )
        leaves.append(LeafSpec(names, tuple(leaf.shape), dtype, offset))
        offset += leaves[-1].size
    return tuple(leaves), structure


@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
    """The parameter graph of an architecture, without the values of its parameters.

    Every node is a unit: it combines its incoming edges as its type says and applies
    its function. Letters: N nodes, E edges, P probe points, A attributes, M
    parameters.

    Attributes:
      senders: `[E]` int32.
      receivers: `[E]` int32.
      node_types: `[N]` ids of `vocabulary.NODE_TYPES`.
      node_layers: `[N]` parameterised layers on the longest path from the input.
      node_orders: `[N]` position among the inputs, the outputs or the rows of a
        table; -1 for all other units, which have no order.
      node_functions: `[N, P]` values of a unit's function at `functions.PROBES`.
      node_homogeneous: `[N]` true where f(a x) = a f(x) for a > 0.
      node_attributes: `[N, A]`, columns as in `vocabulary.ATTRIBUTES`.
      edge_types: `[E]` ids of `vocabulary.EDGE_TYPES`.
      edge_layers: `[E]` layer that the edge belongs to.
      edge_positions: `[E, 3]` position of the sender's value relative to the
        receiver's, in pixels, for units that stand for many positions.
      edge_parameters: `[E]` index into the vector of all parameters; -1: constant.
      edge_constants: `[E]` value of constant edges, 0 elsewhere.
      inputs: Nodes of the network's input.
      outputs: Nodes of its output.
      leaves: The arrays of the variables.
      structure: Tree structure of the variables.
      node_blocks: `[N]` nodes of one layer and one purpose that move as one; nodes of
        one block and class have slots of their own.
      node_classes: `[N]` index into `classes`.
      node_slots: `[N]` slot of the class.
      classes: Permutation classes, parents before children.
      parameter_edges: `[M]` one edge per parameter, the first that carries it.
    """

    senders: np.ndarray
    receivers: np.ndarray
    node_types: np.ndarray
    node_layers: np.ndarray
    node_orders: np.ndarray
    node_functions: np.ndarray
    node_homogeneous: np.ndarray
    node_attributes: np.ndarray
    edge_types: np.ndarray
    edge_layers: np.ndarray
    edge_positions: np.ndarray
    edge_parameters: np.ndarray
    edge_constants: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    leaves: tuple[LeafSpec, ...]
    structure: Any
    node_blocks: np.ndarray
    node_classes: np.ndarray
    node_slots: np.ndarray
    classes: tuple[PermutationClass, ...]
    parameter_edges: np.ndarray

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.node_types)

    @property
    def num_edges(self) -> int:
        """E."""
        return len(self.senders)

    @property
    def num_parameters(self) -> int:
        """M, statistics of normalisations included."""
        return sum(leaf.size for leaf in self.leaves)

    @functools.cached_property
    def num_layers(self) -> int:
        """Parameterised layers on the longest path."""
        return int(self.node_layers.max(initial=0))

    def check_variables(self, variables: Any) -> None:
        """Checks that variables fit, and that they are finite unless traced.

        Args:
          variables: Tree as `trace` was given.

        Raises:
          ValueError: If the tree, a shape or a type differs, or a value is not
            finite; the message names the path.
        """
        leaves, structure = leaf_specs(variables)
        if structure != self.structure:
            expected = {leaf.name for leaf in self.leaves}
            found = {leaf.name for leaf in leaves}
            raise ValueError(
                "variables: found a tree of another structure; "
                f"missing {sorted(expected - found)}, "
                f"not expected {sorted(found - expected)}"
            )
        for expected, found in zip(self.leaves, leaves, strict=True):
            for field in ("shape", "dtype"):
                values = getattr(found, field), getattr(expected, field)
                if values[0] != values[1]:
                    raise ValueError(
                        f"{expected.name}: found {field} {values[0]}, "
                        f"expected {values[1]}"
                    )
        for leaf, array in zip(self.leaves, jax.tree.leaves(variables), strict=True):
            if isinstance(array, jax.core.Tracer | jax.ShapeDtypeStruct):
                continue
            if not np.all(np.isfinite(np.asarray(array, np.float32))):
                raise ValueError(
                    f"{leaf.name}: found NaN or infinite values, expected finite ones"
                )

    def flatten(self, variables: Any) -> jax.Array:
        """The vector `[M]` of all parameters, float32. Jittable, vmappable.

        Raises:
          ValueError: As `check_variables`.
        """
        self.check_variables(variables)
        parts = [
            jnp.ravel(jnp.asarray(array)).astype(jnp.float32)
            for array in jax.tree.leaves(variables)
        ]
        return jnp.concatenate([jnp.zeros(0, jnp.float32), *parts])

    def unflatten(self, vector: jax.Array) -> Any:
        """The variables of a vector `[M]`: the inverse of `flatten`.

        Raises:
          ValueError: If the vector has another shape.
        """
        if jnp.shape(vector) != (self.num_parameters,):
            raise ValueError(
                f"vector: found shape {jnp.shape(vector)}, "
                f"expected ({self.num_parameters},)"
            )
        arrays = [
            jnp.reshape(
                vector[leaf.offset : leaf.offset + leaf.size], leaf.shape
            ).astype(leaf.dtype)
            for leaf in self.leaves
        ]
        return jax.tree.unflatten(self.structure, arrays)

    def edge_values(self, variables: Any) -> jax.Array:
        """Values `[E]` of all edges, float32. Jittable, vmappable.

        Args:
          variables: Tree as `trace` was given.

        Raises:
          ValueError: As `check_variables`.
        """
        vector = self.flatten(variables)
        if not self.num_parameters:
            return jnp.asarray(self.edge_constants)
        values = vector[np.maximum(self.edge_parameters, 0)]
        return jnp.where(self.edge_parameters >= 0, values, self.edge_constants)

    def to_parameters(self, edge_values: jax.Array) -> Any:
        """The variables that edges `[E]` hold: the exact inverse of `edge_values`.

        A parameter with several edges takes the value of the first one; values of
        constant edges are ignored.

        Raises:
          ValueError: If the values have another shape.
        """
        if jnp.shape(edge_values) != (self.num_edges,):
            raise ValueError(
                f"edge_values: found shape {jnp.shape(edge_values)}, "
                f"expected ({self.num_edges},)"
            )
        return self.unflatten(jnp.asarray(edge_values)[self.parameter_edges])


class ParameterGraph(NamedTuple):
    """A network as a graph.

    Attributes:
      topology: Its architecture.
      edge_values: `[E]` float32.
    """

    topology: Topology
    edge_values: jax.Array
