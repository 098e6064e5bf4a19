"""Neural graphs: one edge per pair of units, biases at units.

The rival of parameter graphs, in the manner of Kofinas et al. 2024 (arXiv 2403.12143),
for networks of any architecture that `modmeta.metanet.trace` reads: all parameters
between two units are one edge with a vector, in which every entry of a kernel has a
place of its own, and biases and the parameters of normalisations belong to the units
that they enter. So a convolution has as many edges as pairs of channels. Constants,
such as fixed encodings of positions, are left out, but for the ones of residual edges.

Letters: N nodes, F edges, G graphs, M parameters, Q places at a node, P places at an
edge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta import graphs
from modmeta.metanet.parameter_graphs.topology import Topology
from modmeta.metanet.parameter_graphs.vocabulary import EDGE_TYPES

NODE_PARAMETERS = ("bias", "scale", "shift", "mean", "variance")
"""Types of the edges whose values belong to the unit that they enter."""

NUM_LAYERS = 32
"""Layer numbers that are told apart; deeper ones are one."""

NUM_ORDERS = 64
"""Positions of inputs and outputs that are told apart, and one for none."""


class NeuralNodes(NamedTuple):
    """Features of units.

    Attributes:
      types: `[N]` int32.
      layers: `[N]` int32, layer number.
      orders: `[N]` int32, one more than the position among inputs or outputs; 0: none.
      outputs: `[N]` int32, one more than the position among the outputs; 0: none.
      functions: `[N, probes]` values of the unit's function.
      values: `[N, Q]` its biases and such, zero where there is none.
      responses: `[N, S]` what it computes at S inputs, or None.
    """

    types: np.ndarray | jax.Array
    layers: np.ndarray | jax.Array
    orders: np.ndarray | jax.Array
    outputs: np.ndarray | jax.Array
    functions: np.ndarray | jax.Array
    values: np.ndarray | jax.Array
    responses: np.ndarray | jax.Array | None = None


class NeuralEdges(NamedTuple):
    """Features of edges.

    Attributes:
      types: `[F]` int32, that of the first of its parameters.
      layers: `[F]` int32, layer number.
      values: `[F, P]` parameters and constants, zero where there is none.
    """

    types: np.ndarray | jax.Array
    layers: np.ndarray | jax.Array
    values: np.ndarray | jax.Array


class Layout(NamedTuple):
    """The places of parameters in the vectors of nodes and edges.

    A place is a type of edges, an offset of kernel entries, and a number among several
    parameters that have all of that in common.

    Attributes:
      node_places: `[Q, 5]` type, offset, number.
      edge_places: `[P, 5]`.
    """

    node_places: np.ndarray
    edge_places: np.ndarray


def layout_of(topologies: Sequence[Topology]) -> Layout:
    """The places that networks of some topologies need.

    Raises:
      ValueError: If there is no topology.
    """
    if not topologies:
        raise ValueError("topologies: found none, expected some")
    at_nodes, at_edges = [], []
    for topology in topologies:
        own, between, places = _places(topology)
        at_nodes.append(np.unique(places[own], axis=0))
        at_edges.append(np.unique(places[between], axis=0))
    return Layout(
        np.unique(np.concatenate(at_nodes), axis=0),
        np.unique(np.concatenate(at_edges), axis=0),
    )


def _places(topology: Topology) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges that belong to nodes, other edges, and the places `[E, 5]` of all edges."""
    types = topology.edge_types
    is_own = np.isin(types, [EDGE_TYPES.id(name) for name in NODE_PARAMETERS])
    is_kept = (topology.edge_parameters >= 0) | (types == EDGE_TYPES.id("identity"))
    # Values of a unit are told apart whatever constant they come from.
    senders = np.where(is_own, -1, topology.senders)
    keys = [senders, topology.receivers, types, *topology.edge_positions.T]
    places = np.stack([*keys[2:], _numbers_within(np.stack(keys))], axis=1)
    own, between = np.flatnonzero(is_own & is_kept), np.flatnonzero(~is_own & is_kept)
    return own, between, places.astype(np.float64)


def _numbers_within(keys: np.ndarray) -> np.ndarray:
    """How many columns `[E]` of equal keys `[k, E]` come before each."""
    order = np.lexsort(keys[::-1])
    ordered = keys[:, order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
    starts = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order)) - starts
    return numbers


@dataclasses.dataclass(frozen=True, eq=False)
class NeuralGraphTemplate:
    """How the networks of one topology become neural graphs.

    Attributes:
      graph: With zeros for all values.
      units: `[N]` nodes of the topology.
      num_units: Number of those that it has.
      num_parameters: M.
      node_parameters: `[N, Q]` index into the flat parameters, -1: none.
      edge_parameters: `[F, P]`.
      edge_constants: `[F, P]` values where there is no parameter.
    """

    graph: graphs.GraphsTuple
    units: np.ndarray
    num_units: int
    num_parameters: int
    node_parameters: np.ndarray
    edge_parameters: np.ndarray
    edge_constants: np.ndarray

    def fill(self, vector: np.ndarray) -> graphs.GraphsTuple:
        """The graph of a network with flat parameters `[M]`."""
        # Index -1 reads a zero.
        vector = np.append(vector, np.float32(0.0))
        values = vector[self.edge_parameters] + self.edge_constants
        edges = self.graph.edges._replace(values=values)
        nodes = self.graph.nodes._replace(values=vector[self.node_parameters])
        return self.graph._replace(nodes=nodes, edges=edges)

    def fill_all(self, rows: jax.Array) -> graphs.GraphsTuple:
        """The graphs of b networks as one batch, within compiled functions.

        Args:
          rows: `[b, M]` flat parameters, or `[b, M + units * S]` with what all nodes of
            the topology compute at S inputs after them, see
            `modmeta.metanet.models.responses`.

        Raises:
          ValueError: If the rows do not fit the topology.
        """
        count = self.num_parameters
        if (
            rows.ndim != 2
            or rows.shape[1] < count
            or ((rows.shape[1] - count) % self.num_units)
        ):
            raise ValueError(
                f"rows: found shape {rows.shape}, expected {count} parameters and a "
                f"multiple of {self.num_units} responses per network"
            )
        size, num_nodes = len(rows), len(self.units)
        known = jnp.pad(rows[:, :count], ((0, 0), (0, 1)))

        def values(indices):
            return known[:, indices].reshape(-1, indices.shape[1])

        def repeated(features):
            return jax.tree.map(lambda leaf: np.concatenate([leaf] * size), features)

        nodes, edges = repeated((self.graph.nodes, self.graph.edges))
        responses = None
        if rows.shape[1] > count:
            responses = rows[:, count:].reshape(size, self.num_units, -1)[:, self.units]
            responses = responses.reshape(size * num_nodes, -1)
        constants = repeated(self.edge_constants)
        offsets = np.repeat(
            np.arange(size, dtype=np.int32) * num_nodes, len(self.graph.senders)
        )
        return graphs.GraphsTuple(
            nodes=nodes._replace(
                values=values(self.node_parameters), responses=responses
            ),
            edges=edges._replace(values=values(self.edge_parameters) + constants),
            globals=graphs.GraphGlobals(np.ones(size, bool)),
            senders=repeated(self.graph.senders) + offsets,
            receivers=repeated(self.graph.receivers) + offsets,
            n_node=repeated(self.graph.n_node),
            n_edge=repeated(self.graph.n_edge),
        )


def neural_graph(topology: Topology, layout: Layout) -> NeuralGraphTemplate:
    """The neural graph of a topology.

    Args:
      topology: Architecture of the networks.
      layout: Places, as `layout_of` gives them for all networks of a data set.

    Raises:
      ValueError: If the topology has parameters that the layout has no place for.
    """
    own, between, places = _places(topology)
    pairs = np.stack([topology.receivers[between], topology.senders[between]])
    ends, first, members = np.unique(
        pairs, axis=1, return_index=True, return_inverse=True
    )
    kept = np.unique(
        np.concatenate(
            [ends.ravel(), topology.receivers[own], topology.inputs, topology.outputs]
        )
    )
    renamed = np.full(topology.num_nodes, -1, np.int32)
    renamed[kept] = np.arange(len(kept))

    def table(rows, edges, known, num_rows):
        columns = _columns(places[edges], known)
        parameters = np.full((num_rows, len(known)), -1, np.int32)
        constants = np.zeros(parameters.shape, np.float32)
        parameters[rows, columns] = topology.edge_parameters[edges]
        constants[rows, columns] = topology.edge_constants[edges]
        return parameters, constants

    rows = renamed[topology.receivers[own]]
    node_parameters, _ = table(rows, own, layout.node_places, len(kept))
    edge_parameters, edge_constants = table(
        members.ravel(), between, layout.edge_places, ends.shape[1]
    )
    outputs = np.zeros(topology.num_nodes, np.int32)
    outputs[topology.outputs] = 1 + np.arange(len(topology.outputs))
    nodes = NeuralNodes(
        types=np.asarray(topology.node_types[kept], np.int32),
        layers=_clipped(topology.node_layers[kept], NUM_LAYERS),
        orders=_clipped(1 + topology.node_orders[kept], NUM_ORDERS),
        outputs=outputs[kept],
        functions=np.asarray(topology.node_functions[kept], np.float32),
        values=np.zeros(node_parameters.shape, np.float32),
    )
    edges = NeuralEdges(
        types=np.asarray(topology.edge_types[between[first]], np.int32),
        layers=_clipped(topology.edge_layers[between[first]], NUM_LAYERS),
        values=np.zeros(edge_parameters.shape, np.float32),
    )
    graph = graphs.single_graph(nodes, edges, renamed[ends[1]], renamed[ends[0]])
    return NeuralGraphTemplate(
        graph=graph,
        units=kept,
        num_units=topology.num_nodes,
        num_parameters=topology.num_parameters,
        node_parameters=node_parameters,
        edge_parameters=edge_parameters,
        edge_constants=edge_constants,
    )


def _columns(places: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where the rows `[E, 5]` stand among those of a layout."""
    numbers = {tuple(row): number for number, row in enumerate(known.tolist())}
    unique, inverse = np.unique(places, axis=0, return_inverse=True)
    missing = [row for row in unique.tolist() if tuple(row) not in numbers]
    if missing:
        name = EDGE_TYPES.name(int(missing[0][0]))
        raise ValueError(
            f"layout: found no place for {name} at offset {tuple(missing[0][1:4])}, "
            "expected one made from all topologies"
        )
    found = np.array([numbers[tuple(row)] for row in unique.tolist()], np.int64)
    return found[inverse.ravel()]


def _clipped(numbers: np.ndarray, count: int) -> np.ndarray:
    return np.clip(numbers, 0, count - 1).astype(np.int32)
