"""From topologies and edge values to graphs with features.

Letters: N nodes, E edges of a topology, F edges of a graph (E, or 2 E with reversed
edges), G graphs, K kinds of edges, P probes of a function, A attributes, B networks of
one topology. Edge values are `[F]`, or `[F, B]` for a homogeneous batch; every other
feature belongs to the topology and is shared by the batch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta import graphs
from modmeta.metanet.parameter_graphs.edges import stable_order

if TYPE_CHECKING:
    from modmeta.metanet.parameter_graphs.edges import EdgeKinds
    from modmeta.metanet.parameter_graphs.topology import Topology

NUM_TYPES = 64
"""Rows of the embedding tables, with room for types that users add."""


class NodeFeatures(NamedTuple):
    """Features of nodes.

    Attributes:
      types: `[N]` int32, below `NUM_TYPES`.
      layers: `[N, 2]` layer number, raw and as a share of the depth.
      orders: `[N]` position among the inputs or outputs, -1 elsewhere.
      functions: `[N, P]` values of the node's function at the probes.
      attributes: `[N, A]`.
      group_weights: `[N]` weights of the mean over (layer, type) groups of the means
        within them; they sum to one over a graph.
      responses: `[N, B, S]` what units of every network of a homogeneous batch compute
        at S inputs, see `modmeta.metanet.models.responses`; None without.
    """

    types: np.ndarray | jax.Array
    layers: np.ndarray | jax.Array
    orders: np.ndarray | jax.Array
    functions: np.ndarray | jax.Array
    attributes: np.ndarray | jax.Array
    group_weights: np.ndarray | jax.Array
    responses: jax.Array | None = None


class EdgeFeatures(NamedTuple):
    """Features of edges, sorted by receiver.

    Attributes:
      values: `[F]` or `[F, B]` parameter values or constants.
      kinds: `[F]` row of the graph's table of kinds, see `EdgeTable`.
    """

    values: np.ndarray | jax.Array
    kinds: np.ndarray | jax.Array


class EdgeTable(NamedTuple):
    """What edges have in common: a row for every kind, in the globals of a graph.

    Rows are `[G, K]`, those of edges `[F]`; see `edge_rows`.

    Attributes:
      types: int32, below `NUM_TYPES`.
      layers: Layer number, raw and as a share of the depth, on a last axis of 2.
      positions: Offsets of kernel entries, in pixels, on a last axis of 3.
      is_reversed: True at edges from output to input.
      fan_ins: Number of edges of the same type into the unit that the edge feeds; the
        same for an edge and its reverse.
      receiver_counts: Number of edges of the same type and direction into the
        receiver.
      sender_counts: The same, out of the sender.
      group_weights: Weights of the mean over (layer, type, direction) groups of the
        means within them; over the edges of a graph they sum to one.
      groups: int32, number of that group within the graph, below K.
    """

    types: np.ndarray | jax.Array
    layers: np.ndarray | jax.Array
    positions: np.ndarray | jax.Array
    is_reversed: np.ndarray | jax.Array
    fan_ins: np.ndarray | jax.Array
    receiver_counts: np.ndarray | jax.Array
    sender_counts: np.ndarray | jax.Array
    group_weights: np.ndarray | jax.Array
    groups: np.ndarray | jax.Array


def row_numbers(graph: graphs.GraphsTuple) -> Any:
    """Row `[F]` of every edge in the tables of all graphs, one after the other."""
    num_kinds = graph.globals.shared.types.shape[1]
    kinds = graph.edges.kinds
    if len(graph.n_node) == 1:
        return kinds
    is_host = isinstance(kinds, np.ndarray) and isinstance(graph.n_edge, np.ndarray)
    kinds = np.asarray(kinds, np.int32) if is_host else jnp.asarray(kinds, jnp.int32)
    return graphs.edge_graphs(graph) * num_kinds + kinds


def table_rows(graph: graphs.GraphsTuple) -> EdgeTable:
    """The tables of all graphs as one: every array `[G * K, ...]`."""

    def joined(leaf):
        return leaf.reshape(-1, *leaf.shape[2:])

    return EdgeTable(*map(joined, graph.globals.shared))


def edge_rows(graph: graphs.GraphsTuple) -> EdgeTable:
    """What is known of every edge: every array `[F, ...]`.

    Args:
      graph: As `to_graph` makes it, or a batch of such.
    """
    numbers = row_numbers(graph)
    return EdgeTable(*(leaf[numbers] for leaf in table_rows(graph)))


def edge_order(topology: Topology, *, bidirectional: bool = True) -> np.ndarray:
    """Where the edges of a graph come from.

    Args:
      topology: The topology.
      bidirectional: Whether reversed edges follow the E edges before sorting.

    Returns:
      `[F]` source of every edge of `to_graph`: e < E is edge e, E + e its reverse.
    """
    receivers = np.asarray(topology.receivers)
    if bidirectional:
        receivers = np.concatenate([receivers, np.asarray(topology.senders)])
    elif np.all(receivers[1:] >= receivers[:-1]):
        return np.arange(len(receivers), dtype=np.int32)
    return stable_order(receivers, len(topology.node_types))


def to_graph(
    topology: Topology,
    edge_values: np.ndarray | jax.Array,
    *,
    bidirectional: bool = True,
) -> graphs.GraphsTuple:
    """The graph that a metanetwork reads.

    Args:
      topology: Structure of the network.
      edge_values: `[E]` values of its edges, or `[E, B]` those of B networks. NumPy
        stays NumPy, for batches of different topologies
        (`modmeta.graphs.batch_graphs`); traced values stay traced.
      bidirectional: Whether every edge appears reversed too.

    Returns:
      A graph with `NodeFeatures`, `EdgeFeatures` and one real graph.

    Raises:
      ValueError: If the values do not fit the topology or a type has no embedding.
    """
    num_edges = len(topology.senders)
    shape = np.shape(edge_values)
    if len(shape) not in (1, 2) or shape[0] != num_edges:
        raise ValueError(
            f"edge_values: found shape {shape}, expected ({num_edges},) or "
            f"({num_edges}, networks), as topology.edge_values(variables) gives them"
        )
    for name, types in (
        ("node_types", np.asarray(topology.node_types)),
        ("edge_types", topology.kinds.types),
    ):
        if types.size and not 0 <= types.min() <= types.max() < NUM_TYPES:
            raise ValueError(
                f"{name}: found {types.min()} to {types.max()}, expected ids from 0 "
                f"to {NUM_TYPES - 1}"
            )
    depth = max(
        int(np.max(topology.node_layers, initial=0)),
        int(np.max(topology.kinds.layers, initial=0)),
        1,
    )
    kept, kinds = _merged_kinds(topology)
    table = _edge_table(kept, kinds, depth, bidirectional=bidirectional)
    senders, receivers = topology.senders, topology.receivers
    order = edge_order(topology, bidirectional=bidirectional)
    if bidirectional:
        # Ends and kinds of an edge, then of its reverse.
        both = np.concatenate([senders, receivers])
        receivers = np.concatenate([receivers, senders])[order]
        senders = both[order]
        offset = len(kept.types)
        dtype = np.uint16 if 2 * offset <= 2**16 else np.int32
        kinds = kinds.astype(dtype)
        kinds = np.concatenate([kinds, kinds + dtype(offset)])[order]
        order -= np.int32(num_edges) * (order >= num_edges)
        edge_values = edge_values[order]
    elif np.any(order[1:] < order[:-1]):
        senders, receivers, kinds = senders[order], receivers[order], kinds[order]
        edge_values = edge_values[order]
    edges = EdgeFeatures(values=edge_values, kinds=kinds)
    nodes = NodeFeatures(
        types=np.asarray(topology.node_types, np.int32),
        layers=_layer_features(topology.node_layers, depth),
        orders=np.asarray(topology.node_orders, np.float32),
        functions=np.asarray(topology.node_functions, np.float32),
        attributes=np.asarray(topology.node_attributes, np.float32),
        group_weights=_group_weights(topology.node_layers, topology.node_types),
    )
    shared = EdgeTable(*(leaf[None] for leaf in table))
    return graphs.single_graph(nodes, edges, senders, receivers, shared)


def _merged_kinds(topology: Topology) -> tuple[EdgeKinds, np.ndarray]:
    """Kinds of edges, those as one that differ in their constants, and their rows.

    A constant is the value of its edge. A table of positions has one per entry.
    """
    kinds, rows = topology.kinds, topology.edge_kinds
    columns = [kinds.types, kinds.layers, *kinds.positions.T]
    columns += [kinds.receiver_counts, kinds.sender_counts]
    _, first, merged = np.unique(
        np.stack(columns), axis=1, return_index=True, return_inverse=True
    )
    if len(first) == len(kinds.types):
        return kinds, rows
    kept = type(kinds)(*(leaf[first] for leaf in kinds))
    return kept, merged.ravel().astype(rows.dtype)[rows]


def _edge_table(
    kinds: EdgeKinds, rows: np.ndarray, depth: int, *, bidirectional: bool
) -> EdgeTable:
    """Rows of the kinds of edges, then those of their reverses."""
    directions = (False, True) if bidirectional else (False,)
    counts = np.bincount(rows, minlength=len(kinds.types))
    _, groups = np.unique(
        np.stack([kinds.layers, kinds.types]), axis=1, return_inverse=True
    )
    groups = groups.ravel().astype(np.int32)
    sizes = np.bincount(groups, counts)
    weights = 1.0 / (len(directions) * np.count_nonzero(sizes) * np.maximum(sizes, 1))
    tables = [
        EdgeTable(
            types=kinds.types,
            layers=_layer_features(kinds.layers, depth),
            positions=kinds.positions,
            is_reversed=np.full(len(counts), is_reversed),
            fan_ins=kinds.receiver_counts.astype(np.float32),
            receiver_counts=ends[0].astype(np.float32),
            sender_counts=ends[1].astype(np.float32),
            group_weights=weights.astype(np.float32)[groups],
            groups=groups + np.int32(len(sizes) * is_reversed),
        )
        for is_reversed in directions
        for ends in [
            (kinds.receiver_counts, kinds.sender_counts)[:: 1 - 2 * is_reversed]
        ]
    ]
    return EdgeTable(*map(np.concatenate, zip(*tables, strict=True)))


def rows_to_graph(
    topology: Topology, rows: jax.Array, *, bidirectional: bool = True
) -> graphs.GraphsTuple:
    """The graph of B networks of one topology.

    Args:
      topology: Structure of the networks.
      rows: `[B, M]` flat parameters, see `Topology.flatten`.
      bidirectional: See `to_graph`.

    Raises:
      ValueError: If the rows do not fit the topology.
    """
    if rows.ndim != 2 or rows.shape[1] != topology.num_parameters:
        raise ValueError(
            f"rows: found shape {rows.shape}, expected (networks, "
            f"{topology.num_parameters})"
        )
    # Rows of the transpose are gathered, several times faster than columns.
    values = jnp.asarray(rows).T[np.maximum(topology.edge_parameters, 0)]
    is_parameter = (topology.edge_parameters >= 0)[:, None]
    values = jnp.where(is_parameter, values, topology.edge_constants[:, None])
    return to_graph(topology, values, bidirectional=bidirectional)


def _layer_features(layers: np.ndarray, depth: int) -> np.ndarray:
    layers = np.asarray(layers, np.float32)
    return np.stack([layers, layers / np.float32(depth)], axis=-1)


def _groups(*keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The group `[rows]` of every row of equal keys, and the sizes of the groups.

    Some of the groups may be empty.
    """
    lowest = [int(np.min(key, initial=0)) for key in keys]
    spans = [
        int(np.max(k, initial=0)) - n + 1 for k, n in zip(keys, lowest, strict=True)
    ]
    code = np.zeros(len(keys[0]), np.int32 if math.prod(spans) < 2**31 else np.int64)
    for key, smallest, span in zip(keys, lowest, spans, strict=True):
        code = code * span + (key - smallest)
    if math.prod(spans) < 8 * len(code) + 1024:
        # Few enough numbers to count them; sorting the rows takes ten times longer.
        return code, np.bincount(code)
    _, inverse, counts = np.unique(code, return_inverse=True, return_counts=True)
    return inverse, counts


def _group_weights(*keys: np.ndarray) -> np.ndarray:
    inverse, counts = _groups(*keys)
    weights = 1.0 / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return weights.astype(np.float32)[inverse]
