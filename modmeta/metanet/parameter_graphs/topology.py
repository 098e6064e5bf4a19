"""The graph of a network's architecture, and the way from weights to edges and back.

A `Topology` is computed once per architecture, in NumPy. The weights of any number of
networks then become edge values by one gather, and edge values become weights again by
another.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.parameter_graphs.classes import PermutationClass
from modmeta.metanet.parameter_graphs.edges import EdgeKinds
from modmeta.metanet.parameter_graphs.leaves import (
    EXACT_DTYPES,
    LeafSpec,
    StateLeaf,
    leaf_specs,
    typed,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
    """The parameter graph of an architecture, without the values of its parameters.

    Every node is a unit: it combines its incoming edges as its type says and applies
    its function. Letters: N nodes, E edges, P probe points, A attributes, M
    parameters.

    Attributes:
      senders: `[E]` int32.
      receivers: `[E]` int32, in rising order.
      node_types: `[N]` ids of `vocabulary.NODE_TYPES`.
      node_layers: `[N]` parameterised layers on the longest path from the input.
      node_orders: `[N]` position among the inputs, the outputs or the rows of a
        table; -1 for all other units, which have no order.
      node_functions: `[N, P]` values of a unit's function at `functions.PROBES`.
      node_homogeneous: `[N]` true where f(a x) = a f(x) for a > 0.
      node_attributes: `[N, A]`, columns as in `vocabulary.ATTRIBUTES`.
      edge_parameters: `[E]` index into the vector of all parameters; -1: constant.
      edge_kinds: `[E]` number of the edge's row in `kinds`, uint16 or int32.
      kinds: What edges have in common, a row for every kind.
      inputs: Nodes of the network's input.
      outputs: Nodes of its output.
      leaves: The parameters: arrays of floating-point numbers among the variables.
      state: The other arrays.
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
    edge_parameters: np.ndarray
    edge_kinds: np.ndarray
    kinds: EdgeKinds
    inputs: np.ndarray
    outputs: np.ndarray
    leaves: tuple[LeafSpec, ...]
    state: tuple[StateLeaf, ...]
    structure: Any
    node_blocks: np.ndarray
    node_classes: np.ndarray
    node_slots: np.ndarray
    classes: tuple[PermutationClass, ...]
    parameter_edges: np.ndarray

    def __repr__(self) -> str:
        """Sizes: arrays would fill pages."""
        return (
            f"Topology({self.num_nodes} nodes, {self.num_edges} edges, "
            f"{self.num_parameters} parameters in {len(self.leaves)} arrays)"
        )

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

    @property
    def edge_types(self) -> np.ndarray:
        """`[E]` ids of `vocabulary.EDGE_TYPES`."""
        return self.kinds.types[self.edge_kinds]

    @property
    def edge_layers(self) -> np.ndarray:
        """`[E]` layer that the edge belongs to."""
        return self.kinds.layers[self.edge_kinds]

    @property
    def edge_positions(self) -> np.ndarray:
        """`[E, 3]` position of the sender's value, see `EdgeKinds`."""
        return self.kinds.positions[self.edge_kinds]

    @property
    def edge_constants(self) -> np.ndarray:
        """`[E]` value of constant edges, 0 elsewhere."""
        return self.kinds.constants[self.edge_kinds]

    @functools.cached_property
    def num_layers(self) -> int:
        """Parameterised layers on the longest path."""
        return int(self.node_layers.max(initial=0))

    def check_variables(self, variables: Any) -> None:
        """Checks that variables fit, and that they are finite unless traced.

        Args:
          variables: Tree as `trace` was given.

        Raises:
          ValueError: If the tree, a shape or a type differs, a value is not finite, or
            integers that the output depends on are not those of the traced network;
            the message names the path.
        """
        self._check_form(variables)
        arrays = jax.tree.leaves(variables)
        for leaf in self.leaves:
            array = arrays[leaf.position]
            if isinstance(array, jax.core.Tracer | jax.ShapeDtypeStruct):
                continue
            with np.errstate(over="ignore"):
                values = np.asarray(array, np.float32)
            if not np.all(np.isfinite(values)):
                raise ValueError(
                    f"{leaf.name}: found NaN or infinite values, or values beyond "
                    f"{np.finfo(np.float32).max:.1e}, expected finite float32"
                )

    def _check_form(self, variables: Any) -> None:
        """As `check_variables`, without looking at the numbers."""
        leaves, state, structure = leaf_specs(variables)
        if structure != self.structure:
            expected = {leaf.name for leaf in self.leaves}
            found = {leaf.name for leaf in leaves}
            if found == expected:
                raise ValueError(
                    f"variables: found these names in {structure}, expected them in "
                    f"{self.structure} as in the traced network; trace with a tree of "
                    "this form"
                )
            raise ValueError(
                "variables: found a tree of another structure; "
                f"missing {sorted(expected - found)}, "
                f"not expected {sorted(found - expected)}"
            )
        if len(leaves) != len(self.leaves):
            changed = {leaf.name for leaf in leaves} ^ {
                leaf.name for leaf in self.leaves
            }
            raise ValueError(
                f"{', '.join(sorted(changed))}: found type of integers in place of "
                "floating-point numbers or the reverse, expected the types of the "
                "traced network"
            )
        arrays = jax.tree.leaves(variables)
        for expected, found in zip(self.leaves, leaves, strict=True):
            if found.shape != expected.shape:
                raise ValueError(
                    f"{expected.name}: found shape {found.shape}, "
                    f"expected {expected.shape}"
                )
            wanted = expected.dtype
            if isinstance(arrays[expected.position], jax.core.Tracer):
                wanted = str(jax.dtypes.canonicalize_dtype(wanted))
            if found.dtype != wanted:
                raise ValueError(
                    f"{expected.name}: found dtype {found.dtype}, expected {wanted} as "
                    "in the traced network; trace with variables of this type"
                )
        for expected, found in zip(self.state, state, strict=True):
            abstract = jax.core.Tracer | jax.ShapeDtypeStruct
            is_known = expected.is_used and not isinstance(found.value, abstract)
            if is_known and not np.array_equal(found.value, expected.value):
                raise ValueError(
                    f"{expected.name}: found other integers than those of the traced "
                    "network, expected equal ones, as the output depends on them"
                )

    def flatten(self, variables: Any) -> jax.Array:
        """The vector `[M]` of all parameters, float32. Jittable, vmappable.

        Raises:
          ValueError: As `check_variables`.
        """
        vector = self._vector(variables, np.dtype(np.float32))
        # `jnp.asarray` compiles a program for every new shape.
        return vector if isinstance(vector, jax.core.Tracer) else jax.device_put(vector)

    def exact_vector(self, variables: Any) -> np.ndarray | jax.Array:
        """As `flatten`, in float64 where a parameter is, and as NumPy unless traced."""
        is_exact = all(leaf.dtype in EXACT_DTYPES for leaf in self.leaves)
        return self._vector(variables, np.dtype(np.float32 if is_exact else np.float64))

    def _vector(self, variables: Any, dtype: np.dtype) -> np.ndarray | jax.Array:
        self.check_variables(variables)
        arrays = jax.tree.leaves(variables)
        chosen = [arrays[leaf.position] for leaf in self.leaves]
        if not any(isinstance(array, jax.core.Tracer) for array in chosen):
            rows = [np.asarray(array, dtype).ravel() for array in chosen]
            return np.concatenate([np.zeros(0, dtype), *rows])
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        parts = [jnp.ravel(jnp.asarray(array)).astype(dtype) for array in chosen]
        return jnp.concatenate([jnp.zeros(0, dtype), *parts])

    def unflatten(self, vector: jax.Array, variables: Any = None) -> Any:
        """The variables of a vector `[M]`: the inverse of `flatten`.

        Every parameter has its type. Those of float64 are NumPy arrays unless traced.

        Args:
          vector: The parameters.
          variables: The variables that the vector is from. Arrays that are no
            parameters are taken from them (those of the traced network unless given),
            and so are values of float64, which a vector of float32 rounds, where it
            was not changed.

        Raises:
          ValueError: If the vector has another shape, or the variables do not fit.
        """
        if np.shape(vector) != (self.num_parameters,):
            raise ValueError(
                f"vector: found shape {np.shape(vector)}, "
                f"expected ({self.num_parameters},)"
            )
        arrays: list[Any] = [None] * (len(self.leaves) + len(self.state))
        if variables is not None:
            self._check_form(variables)
            arrays = jax.tree.leaves(variables)
        else:
            for leaf in self.state:
                is_abstract = isinstance(leaf.value, jax.ShapeDtypeStruct)
                zeros = functools.partial(jnp.zeros, leaf.value.shape, leaf.value.dtype)
                arrays[leaf.position] = zeros() if is_abstract else leaf.value
        is_traced = isinstance(vector, jax.core.Tracer)
        vector = vector if is_traced else np.asarray(vector)
        for leaf in self.leaves:
            values = vector[leaf.offset : leaf.offset + leaf.size].reshape(leaf.shape)
            arrays[leaf.position] = typed(values, leaf.dtype, arrays[leaf.position])
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
        if not isinstance(vector, jax.core.Tracer):
            # Nothing to compile, which would take longer.
            values = np.asarray(vector).take(self.edge_parameters, mode="clip")
            is_constant = self.edge_parameters < 0
            values[is_constant] = self.kinds.constants[self.edge_kinds[is_constant]]
            return jax.device_put(values)
        values = vector[np.maximum(self.edge_parameters, 0)]
        return jnp.where(self.edge_parameters >= 0, values, self.edge_constants)

    def to_parameters(self, edge_values: jax.Array, variables: Any = None) -> Any:
        """The variables that edges `[E]` hold: the exact inverse of `edge_values`.

        Float64 comes back exactly with the variables it is from, else as float32.

        A parameter with several edges takes the value of the first one; values of
        constant edges are ignored.

        Args:
          edge_values: `[E]`.
          variables: As for `unflatten`.

        Raises:
          ValueError: If the values have another shape, or the variables do not fit.
        """
        if np.shape(edge_values) != (self.num_edges,):
            raise ValueError(
                f"edge_values: found shape {np.shape(edge_values)}, "
                f"expected ({self.num_edges},)"
            )
        if not isinstance(edge_values, jax.core.Tracer):
            edge_values = np.asarray(edge_values)
        return self.unflatten(edge_values[self.parameter_edges], variables)


class ParameterGraph(NamedTuple):
    """A network as a graph.

    Attributes:
      topology: Its architecture.
      edge_values: `[E]` float32.
    """

    topology: Topology
    edge_values: jax.Array
