"""Batches of systems as one padded Jraph super-graph.

Every system is one disconnected component, so one pass over the super-graph evaluates
the whole batch. Shapes follow a `PaddingBudget`, not the systems in the batch: systems
of any mix of sizes share one compilation as long as they fit. The only module that
imports Jraph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from modmeta.edges import EdgeLists, Edges, edges_of
from modmeta.edges import fully_connected as fully_connected


class PaddingBudget(NamedTuple):
    """Static sizes of a super-graph.

    Attributes:
      num_nodes: Nodes, with at least one to spare for padding.
      num_edges: Edges.
      num_systems: Systems, padding graph not counted.
      max_nodes: Nodes of the largest system.
      max_degree: Largest number of incoming edges of a node.
    """

    num_nodes: int
    num_edges: int
    num_systems: int
    max_nodes: int
    max_degree: int


class SuperGraph(NamedTuple):
    """A padded super-graph and the index tables that the search works with.

    Letters: N nodes, E edges, S systems of the budget, D incoming edges of a node
    ("slots"), R nodes of a system. A node's slots list its incoming edges in the order
    of their senders; slots, like everything padded, point to the last node or edge and
    are masked.

    Attributes:
      graph: `jraph.GraphsTuple` of the connectivity, padded by `pad_with_graphs`;
        no features.
      node_system: `[N]` position in the batch of the system that a node belongs to.
      node_entity: `[N]` index of a node within its system.
      node_mask: `[N]` true at real nodes.
      slot_edges: `[N, D]` edge behind every slot.
      slot_senders: `[N, D]` node that the edge of a slot comes from.
      slot_entities: `[N, D]` index of that node within its system.
      slot_mask: `[N, D]` true at real slots.
      reverse_slots: `[N, D]` slot of the opposite edge at the sender, or D if the
        opposite edge is not in the graph.
      system_nodes: `[S, R]` nodes of every system.
      system_mask: `[S, R]` true at real nodes.
    """

    graph: jraph.GraphsTuple
    node_system: jax.Array
    node_entity: jax.Array
    node_mask: jax.Array
    slot_edges: jax.Array
    slot_senders: jax.Array
    slot_entities: jax.Array
    slot_mask: jax.Array
    reverse_slots: jax.Array
    system_nodes: jax.Array
    system_mask: jax.Array


def _max_degree(edges: Sequence[Edges]) -> int:
    return max(int(np.bincount(r, minlength=1).max()) for _, r in edges)


def padding_budget(
    system_sizes: Sequence[int] | np.ndarray,
    num_systems: int,
    edges: EdgeLists = fully_connected,
) -> PaddingBudget:
    """The smallest budget that holds any `num_systems` of the given systems.

    Args:
      system_sizes: `[systems]` number of nodes of every system that may be drawn.
      num_systems: Number of systems in a batch.
      edges: Edges of all these systems.

    Returns:
      The budget, padding node included.

    Raises:
      ValueError: If an edge list is not one of a system of its size.
    """
    sizes = np.asarray(system_sizes)
    edges = edges_of(sizes.tolist(), edges)
    repeats = -(-num_systems // len(sizes))

    def largest(counts) -> int:
        """Sum of the `num_systems` largest, systems repeated if there are too few."""
        return int(np.sort(np.tile(counts, repeats))[::-1][:num_systems].sum())

    return PaddingBudget(
        num_nodes=largest(sizes) + 1,
        num_edges=largest([len(senders) for senders, _ in edges]),
        num_systems=num_systems,
        max_nodes=int(sizes.max()),
        max_degree=max(_max_degree(edges), 1),
    )


def build_supergraph(
    system_sizes: Sequence[int] | np.ndarray,
    budget: PaddingBudget,
    edges: EdgeLists = fully_connected,
) -> SuperGraph:
    """Batches systems of the given sizes into one padded super-graph (NumPy, host).

    Args:
      system_sizes: Number of nodes of every system, at most `budget.num_systems`.
      budget: Static sizes of the result.
      edges: Edges of these systems, in any order.

    Returns:
      The super-graph with NumPy leaves. Results of a function of the size are cached
      by their arguments, so treat them as read-only.

    Raises:
      ValueError: If the systems do not fit into the budget, or an edge list is not
        one of a system of its size.
    """
    sizes = tuple(int(size) for size in system_sizes)
    if callable(edges):
        return _cached_supergraph(sizes, budget, edges)
    return _build_supergraph(sizes, budget, edges)


# A large super-graph takes tens of megabytes: few are kept.
@functools.lru_cache(maxsize=16)
def _cached_supergraph(
    sizes: tuple[int, ...], budget: PaddingBudget, edges: Callable[[int], Edges]
) -> SuperGraph:
    return _build_supergraph(sizes, budget, edges)


def _build_supergraph(
    sizes: tuple[int, ...], budget: PaddingBudget, edges: EdgeLists
) -> SuperGraph:
    edges = edges_of(sizes, edges)
    found = PaddingBudget(
        num_nodes=sum(sizes) + 1,
        num_edges=sum(len(senders) for senders, _ in edges),
        num_systems=len(sizes),
        max_nodes=max(sizes),
        max_degree=_max_degree(edges),
    )
    for field, needed, available in zip(found._fields, found, budget, strict=True):
        if needed > available:
            raise ValueError(
                f"padding budget: found {field}={available}, expected at least "
                f"{needed} for systems of sizes {sizes}"
            )
    batched = jraph.batch_np(
        [
            jraph.GraphsTuple(
                nodes=None,
                edges=None,
                globals=None,
                senders=np.asarray(senders, np.int32),
                receivers=np.asarray(receivers, np.int32),
                n_node=np.array([size], np.int32),
                n_edge=np.array([len(senders)], np.int32),
            )
            for size, (senders, receivers) in zip(sizes, edges, strict=True)
        ]
    )
    graph = jraph.pad_with_graphs(
        batched, budget.num_nodes, budget.num_edges, budget.num_systems + 1
    )
    graph = jax.tree.map(lambda leaf: np.asarray(leaf, np.int32), graph)
    return _index_tables(graph, sizes, budget)


def _index_tables(
    graph: jraph.GraphsTuple, sizes: tuple[int, ...], budget: PaddingBudget
) -> SuperGraph:
    num_real_nodes = sum(sizes)
    num_real_edges = int(graph.n_edge[: len(sizes)].sum())
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)

    node_system = np.zeros(budget.num_nodes, np.int32)
    node_entity = np.zeros(budget.num_nodes, np.int32)
    node_system[:num_real_nodes] = np.repeat(np.arange(len(sizes)), sizes)
    node_entity[:num_real_nodes] = (
        np.arange(num_real_nodes) - offsets[node_system[:num_real_nodes]]
    )

    senders = graph.senders[:num_real_edges]
    receivers = graph.receivers[:num_real_edges]
    order = np.lexsort((senders, receivers))
    degree = np.bincount(receivers, minlength=budget.num_nodes)
    first = np.concatenate([[0], np.cumsum(degree)[:-1]])
    slot_of_edge = np.empty(num_real_edges, np.int32)
    slot_of_edge[order] = np.arange(num_real_edges) - first[receivers[order]]

    shape = (budget.num_nodes, budget.max_degree)
    slot_edges = np.full(shape, max(budget.num_edges - 1, 0), np.int32)
    slot_senders = np.full(shape, budget.num_nodes - 1, np.int32)
    slot_mask = np.zeros(shape, bool)
    reverse_slots = np.full(shape, budget.max_degree, np.int32)
    slot_edges[receivers, slot_of_edge] = np.arange(num_real_edges)
    slot_senders[receivers, slot_of_edge] = senders
    slot_mask[receivers, slot_of_edge] = True
    # An edge and its opposite, each as one number; `order` sorts the former.
    key = receivers.astype(np.int64) * budget.num_nodes + senders
    opposite = senders.astype(np.int64) * budget.num_nodes + receivers
    position = np.searchsorted(key[order], opposite)
    candidate = order[np.minimum(position, max(num_real_edges - 1, 0))]
    reverse_slots[receivers, slot_of_edge] = np.where(
        key[candidate] == opposite, slot_of_edge[candidate], budget.max_degree
    )

    system_shape = (budget.num_systems, budget.max_nodes)
    system_nodes = np.full(system_shape, budget.num_nodes - 1, np.int32)
    system_mask = np.zeros(system_shape, bool)
    rows = node_system[:num_real_nodes], node_entity[:num_real_nodes]
    system_nodes[rows] = np.arange(num_real_nodes)
    system_mask[rows] = True
    return SuperGraph(
        graph=graph,
        node_system=node_system,
        node_entity=node_entity,
        node_mask=np.arange(budget.num_nodes) < num_real_nodes,
        slot_edges=slot_edges,
        slot_senders=slot_senders,
        slot_entities=node_entity[slot_senders],
        slot_mask=slot_mask,
        reverse_slots=reverse_slots,
        system_nodes=system_nodes,
        system_mask=system_mask,
    )


# Batches of graphs with features: graphs of any size, any pytree of arrays at nodes
# and edges. Which graphs are real travels in the globals, so that masks need neither a
# budget nor a convention about the last graph.

GraphsTuple = jraph.GraphsTuple


class GraphGlobals(NamedTuple):
    """The globals of a graph with features.

    Attributes:
      is_real: `[graphs]` true at real graphs; padding sets it false.
    """

    is_real: np.ndarray | jax.Array


class GraphBudget(NamedTuple):
    """Static sizes of a padded batch of graphs with features.

    Attributes:
      num_nodes: Nodes, with at least one to spare for padding.
      num_edges: Edges.
      num_graphs: Graphs, with at least one to spare for padding.
    """

    num_nodes: int
    num_edges: int
    num_graphs: int


def single_graph(nodes, edges, senders, receivers) -> jraph.GraphsTuple:
    """One real graph.

    Args:
      nodes: Pytree with leaves `[N, ...]`, at least one leaf.
      edges: Pytree with leaves `[E, ...]`.
      senders: `[E]` node that an edge leaves.
      receivers: `[E]` node that an edge enters, in rising order: models sum over
        incoming edges on this condition.

    Returns:
      A `jraph.GraphsTuple` of one graph, its globals a `GraphGlobals`.

    Raises:
      ValueError: If the receivers are not sorted.
    """
    receivers = np.asarray(receivers, np.int32)
    if (np.diff(receivers) < 0).any():
        raise ValueError("receivers: found an unsorted array, expected rising order")
    num_nodes = jax.tree.leaves(nodes)[0].shape[0]
    return jraph.GraphsTuple(
        nodes=nodes,
        edges=edges,
        globals=GraphGlobals(is_real=np.ones(1, bool)),
        senders=np.asarray(senders, np.int32),
        receivers=receivers,
        n_node=np.array([num_nodes], np.int32),
        n_edge=np.array([len(receivers)], np.int32),
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
    batch = jraph.batch_np([jax.device_get(graph) for graph in graphs])
    if budget is not None:
        sizes = (int(batch.n_node.sum()), int(batch.n_edge.sum()), len(batch.n_node))
        for field, size, spare, available in zip(
            budget._fields, sizes, (1, 0, 1), budget, strict=True
        ):
            if size + spare > available:
                raise ValueError(
                    f"graph budget: found {field}={available}, expected at least "
                    f"{size + spare} for {len(graphs)} graphs"
                )
        batch = jraph.pad_with_graphs(batch, *budget)
    index_fields = ("senders", "receivers", "n_node", "n_edge")
    return batch._replace(
        **{name: np.asarray(getattr(batch, name), np.int32) for name in index_fields}
    )


def node_graphs(graph: jraph.GraphsTuple) -> np.ndarray | jax.Array:
    """The graph `[N]` that every node belongs to, in rising order."""
    return _owners(graph.n_node, jax.tree.leaves(graph.nodes)[0].shape[0])


def edge_graphs(graph: jraph.GraphsTuple) -> np.ndarray | jax.Array:
    """The graph `[E]` that every edge belongs to, in rising order."""
    return _owners(graph.n_edge, graph.senders.shape[0])


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
