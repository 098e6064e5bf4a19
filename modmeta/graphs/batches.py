"""Padded Jraph batches of graphs with features.

Graphs of any size, any pytree of arrays at nodes and edges. Which graphs are real
travels in the globals, so that masks need neither a budget nor a convention about the
last graph. Jraph's types and functions are taken from here and from
`modmeta.graphs.supergraphs`, and imported nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from modmeta.graphs.edges import index_array

GraphsTuple = jraph.GraphsTuple


class GraphGlobals(NamedTuple):
    """The globals of a graph with features.

    Attributes:
      is_real: `[graphs]` true at real graphs; padding sets it false.
      shared: Pytree with leaves `[graphs, rows, ...]`: what edges have in common, which
        refer to a row of their graph; nothing by default.
    """

    is_real: np.ndarray | jax.Array
    shared: Any = ()


class GraphBudget(NamedTuple):
    """Static sizes of a padded batch of graphs with features.

    Attributes:
      num_nodes: Nodes, with at least one to spare for padding.
      num_edges: Edges.
      num_graphs: Graphs, with at least one to spare for padding.
      num_rows: Rows of `GraphGlobals.shared` per graph; 0: as many as needed.
    """

    num_nodes: int
    num_edges: int
    num_graphs: int
    num_rows: int = 0


def num_rows(graph: jraph.GraphsTuple) -> int:
    """Rows per graph of what its edges share, 0 if there is nothing."""
    features: Any = graph.globals
    shared = jax.tree.leaves(features.shared)
    return shared[0].shape[1] if shared else 0


def single_graph(nodes, edges, senders, receivers, shared=()) -> jraph.GraphsTuple:
    """One real graph.

    Args:
      nodes: Pytree with leaves `[N, ...]`, at least one leaf.
      edges: Pytree with leaves `[E, ...]`.
      senders: `[E]` node that an edge leaves.
      receivers: `[E]` node that an edge enters, in rising order: models sum over
        incoming edges on this condition.
      shared: See `GraphGlobals`, with leaves `[1, rows, ...]`.

    Returns:
      A `jraph.GraphsTuple` of one graph, its globals a `GraphGlobals`.

    Raises:
      ValueError: If the receivers are not sorted.
    """
    receivers = index_array(receivers)
    if (np.diff(receivers) < 0).any():
        raise ValueError("receivers: found an unsorted array, expected rising order")
    num_nodes = jax.tree.leaves(nodes)[0].shape[0]
    return jraph.GraphsTuple(
        nodes=nodes,
        edges=edges,
        globals=GraphGlobals(np.ones(1, bool), shared),
        senders=index_array(senders),
        receivers=receivers,
        n_node=index_array([num_nodes]),
        n_edge=index_array([len(receivers)]),
    )


def graph_budget(graphs: Sequence[jraph.GraphsTuple], num_graphs: int) -> GraphBudget:
    """The smallest budget that holds any `num_graphs` different ones of the graphs.

    Args:
      graphs: Unpadded graphs, all that may be drawn.
      num_graphs: Number of graphs in a batch, padding not counted.

    Raises:
      ValueError: If fewer graphs than `num_graphs` are given.
    """
    if len(graphs) < num_graphs:
        raise ValueError(
            f"num_graphs: found {num_graphs}, expected at most {len(graphs)}, the "
            "number of graphs"
        )
    nodes = sorted((int(np.sum(graph.n_node)) for graph in graphs), reverse=True)
    edges = sorted((int(np.sum(graph.n_edge)) for graph in graphs), reverse=True)
    return GraphBudget(
        num_nodes=sum(nodes[:num_graphs]) + 1,
        num_edges=sum(edges[:num_graphs]),
        num_graphs=num_graphs + 1,
        num_rows=max(map(num_rows, graphs)),
    )


def batch_graphs(
    graphs: Sequence[jraph.GraphsTuple], budget: GraphBudget | None = None
) -> jraph.GraphsTuple:
    """Batches graphs as one disconnected graph, padded to a budget (NumPy, host).

    Args:
      graphs: Graphs with the same tree of features.
      budget: Static sizes of the result; without one nothing is padded.

    Returns:
      The batch with NumPy leaves. Padding is zero in every feature, hangs together
      with itself alone and comes last, so that receivers stay sorted.

    Raises:
      ValueError: If the graphs do not fit into the budget.
    """
    rows = max(map(num_rows, graphs))
    length = rows if budget is None else budget.num_rows or rows
    if rows > length:
        raise ValueError(
            f"graph budget: found num_rows={length}, expected at least {rows} for "
            f"{len(graphs)} graphs"
        )
    n_node, n_edge = (
        np.concatenate([np.asarray(getattr(graph, name)) for graph in graphs])
        for name in ("n_node", "n_edge")
    )
    sizes = (int(n_node.sum()), int(n_edge.sum()), len(n_node))
    totals = sizes if budget is None else budget[:3]
    for field, size, spare, available in zip(
        GraphBudget._fields[:3], sizes, (1, 0, 1), totals, strict=True
    ):
        if budget is not None and size + spare > available:
            raise ValueError(
                f"graph budget: found {field}={available}, expected at least "
                f"{size + spare} for {len(graphs)} graphs"
            )
    nodes, edges, num_graphs = totals
    own_nodes = [int(np.sum(graph.n_node)) for graph in graphs]
    offsets = np.cumsum([0, *own_nodes[:-1]])

    def ends(name: str) -> Any:
        # Padded edges hang on the first padded node.
        found = np.full(edges, sizes[0], np.int32)
        start = 0
        for graph, offset in zip(graphs, offsets, strict=True):
            own = np.asarray(getattr(graph, name))
            np.add(own, offset, out=found[start : start + len(own)], casting="unsafe")
            start += len(own)
        return found

    def counts(found: np.ndarray, total: int) -> Any:
        padding = np.zeros(num_graphs - len(found), np.int32)
        padding[:1] = total - found.sum()
        return np.concatenate([index_array(found), padding])

    features: list[Any] = [graph.globals for graph in graphs]
    return jraph.GraphsTuple(
        nodes=_joined([graph.nodes for graph in graphs], nodes),
        edges=_joined([graph.edges for graph in graphs], edges),
        globals=GraphGlobals(
            _joined([feature.is_real for feature in features], num_graphs),
            _joined([feature.shared for feature in features], num_graphs, length),
        ),
        senders=ends("senders"),
        receivers=ends("receivers"),
        n_node=counts(n_node, nodes),
        n_edge=counts(n_edge, edges),
    )


def _joined(trees: Sequence[Any], total: int, length: int | None = None) -> Any:
    """Leaves one after the other, and zeros up to a total of rows.

    With a length, leaves `[graphs, rows, ...]` also get zeros up to so many rows.
    """

    def joined(*leaves):
        arrays = [np.asarray(leaf) for leaf in leaves]
        starts = (total,) if length is None else (total, length)
        shape = starts + arrays[0].shape[len(starts) :]
        found = np.zeros(shape, np.result_type(*arrays))
        if length is None:
            np.concatenate(arrays, out=found[: sum(map(len, arrays))])
            return found
        start = 0
        for array in arrays:
            found[start : start + len(array), : array.shape[1]] = array
            start += len(array)
        return found

    return jax.tree.map(joined, *trees)


def node_graphs(graph: jraph.GraphsTuple) -> np.ndarray | jax.Array:
    """The graph `[N]` that every node belongs to, in rising order."""
    return _owners(graph.n_node, jax.tree.leaves(graph.nodes)[0].shape[0])


def edge_graphs(graph: jraph.GraphsTuple) -> np.ndarray | jax.Array:
    """The graph `[E]` that every edge belongs to, in rising order."""
    return _owners(graph.n_edge, jax.tree.leaves(graph.senders)[0].shape[0])


def _owners(counts, total: int):
    # NumPy stays on the host: within a compiled function, a constant.
    if isinstance(counts, np.ndarray):
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    graphs = jnp.arange(counts.shape[0], dtype=jnp.int32)
    return jnp.repeat(graphs, counts, total_repeat_length=total)


def node_mask(graph: jraph.GraphsTuple) -> np.ndarray | jax.Array:
    """True `[N]` at the nodes of real graphs."""
    return _is_real(graph, node_graphs(graph))


def edge_mask(graph: jraph.GraphsTuple) -> np.ndarray | jax.Array:
    """True `[E]` at the edges of real graphs."""
    return _is_real(graph, edge_graphs(graph))


def _is_real(graph, owners):
    is_real = graph.globals.is_real
    return (is_real if isinstance(owners, np.ndarray) else jnp.asarray(is_real))[owners]


def zero_padding(graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
    """Zeros in every feature of padded nodes and edges.

    By selection, not by a product: NaN times a mask of zeros would still be NaN, in
    the gradient too.
    """

    def select(mask, features):
        def zero(leaf):
            leaf = jnp.asarray(leaf)
            rows = mask.reshape(-1, *[1] * (leaf.ndim - 1))
            return jnp.where(rows, leaf, jnp.zeros((), leaf.dtype))

        if isinstance(mask, np.ndarray) and mask.all():
            return features
        return jax.tree.map(zero, features)

    return graph._replace(
        nodes=select(node_mask(graph), graph.nodes),
        edges=select(edge_mask(graph), graph.edges),
    )


def segment_sum(
    values: jax.Array, segments: jax.Array, num_segments: int, *, is_sorted: bool
) -> jax.Array:
    """Sums rows of equal segment: `[rows, ...]` to `[num_segments, ...]`.

    Segments are in `[0, num_segments)`; empty ones give zero.
    """
    if num_segments == 1:
        return jnp.sum(values, axis=0, keepdims=True)
    return jraph.segment_sum(
        values, segments, num_segments, indices_are_sorted=is_sorted
    )


def segment_mean(
    values: jax.Array, segments: jax.Array, num_segments: int, *, is_sorted: bool
) -> jax.Array:
    """Means of rows of equal segment, zero where empty; see `segment_sum`."""
    total = segment_sum(values, segments, num_segments, is_sorted=is_sorted)
    ones = jnp.ones(values.shape[0], values.dtype)
    counts = segment_sum(ones, segments, num_segments, is_sorted=is_sorted)
    counts = jnp.maximum(counts, 1.0).reshape(-1, *[1] * (values.ndim - 1))
    return total / counts
