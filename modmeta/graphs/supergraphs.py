"""Batches of systems as one padded Jraph super-graph.

Every system is one disconnected component, so one pass over the super-graph evaluates
the whole batch. Shapes follow a `PaddingBudget`, not the systems in the batch: systems
of any mix of sizes share one compilation as long as they fit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jraph
import numpy as np

from modmeta.graphs.edges import Array, EdgeLists, Edges, edges_of, index_array
from modmeta.graphs.edges import fully_connected as fully_connected


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
    node_system: Array
    node_entity: Array
    node_mask: Array
    slot_edges: Array
    slot_senders: Array
    slot_entities: Array
    slot_mask: Array
    reverse_slots: Array
    system_nodes: Array
    system_mask: Array


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
                senders=index_array(senders),
                receivers=index_array(receivers),
                n_node=index_array([size]),
                n_edge=index_array([len(senders)]),
            )
            for size, (senders, receivers) in zip(sizes, edges, strict=True)
        ]
    )
    graph = jraph.pad_with_graphs(
        batched, budget.num_nodes, budget.num_edges, budget.num_systems + 1
    )
    graph = jax.tree.map(index_array, graph)
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

    senders = np.asarray(graph.senders)[:num_real_edges]
    receivers = np.asarray(graph.receivers)[:num_real_edges]
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
