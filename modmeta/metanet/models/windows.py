"""Computing over the edges of a graph in windows, so that memory does not grow with it.

And over the networks of a batch, so that what one step leaves is still in the cache of
a processor when the next one reads it.

Letters: F edges, N nodes, G graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from modmeta import graphs
from modmeta.metanet.models.features import EdgeTable, row_numbers, table_rows

CACHE_BYTES = 5 * 2**17
"""What an embedding of all edges of some networks may take; a few such are in use."""


class Window(NamedTuple):
    """Some of the edges, one after the other.

    Attributes:
      start: The first one.
      size: Their number.
      is_new: `[size]` false at edges that a window before this one held.
    """

    start: jax.Array
    size: int
    is_new: jax.Array


class Wiring(NamedTuple):
    """What all blocks share, computed once per pass.

    Attributes:
      senders: `[F]`.
      receivers: `[F]`, sorted.
      rows: `[F]` row of the table.
      values: `[F, (B)]` values of the edges.
      node_owners: `[N]` graph of a node, sorted.
      edge_owners: `[F]` graph of an edge, sorted; None if there is one graph.
      node_weights: `[N]` group weights, see `NodeFeatures`.
      incoming_counts: `[N]` edges into every node.
      outgoing_counts: `[N]` edges out of every node.
      edge_counts: `[G]` edges of every graph.
      table: Kinds of edges, those of all graphs one after the other.
    """

    senders: jax.Array
    receivers: jax.Array
    rows: jax.Array
    values: jax.Array
    node_owners: jax.Array
    edge_owners: jax.Array | None
    node_weights: jax.Array
    incoming_counts: jax.Array
    outgoing_counts: jax.Array
    edge_counts: jax.Array
    table: EdgeTable

    @property
    def num_edges(self) -> int:
        """F."""
        return self.senders.shape[0]

    def at(self, window: Window | None) -> Wiring:
        """The same for the edges of a window; None stands for all."""
        if window is None:
            return self
        names = ("senders", "receivers", "rows", "values", "edge_owners")
        return self._replace(**{n: _taken(getattr(self, n), window) for n in names})

    def owners(self) -> jax.Array:
        """The graph of every edge."""
        if self.edge_owners is None:
            return jnp.zeros(self.num_edges, jnp.int32)
        return self.edge_owners


def _taken(array: Any, window: Window) -> Any:
    if array is None:
        return None
    return jax.lax.dynamic_slice_in_dim(jnp.asarray(array), window.start, window.size)


def wiring_of(graph: graphs.GraphsTuple) -> Wiring:
    """Collects the wiring of a graph with metanetwork features."""
    num_nodes = graph.nodes.types.shape[0]
    ends = jnp.asarray(graph.senders), jnp.asarray(graph.receivers)
    counts = [jnp.zeros(num_nodes, jnp.int32).at[end].add(1) for end in ends]
    is_single = len(graph.n_node) == 1
    return Wiring(
        senders=ends[0],
        receivers=ends[1],
        rows=jnp.asarray(row_numbers(graph)),
        values=jnp.asarray(graph.edges.values),
        node_owners=jnp.asarray(graphs.node_graphs(graph)),
        edge_owners=None if is_single else jnp.asarray(graphs.edge_graphs(graph)),
        node_weights=jnp.asarray(graph.nodes.group_weights),
        incoming_counts=counts[1],
        outgoing_counts=counts[0],
        edge_counts=jnp.asarray(graph.n_edge),
        table=EdgeTable(*map(jnp.asarray, table_rows(graph))),
    )


def over_windows(
    module: nn.Module,
    terms: Callable[[nn.Module, Window | None], Any],
    add: Callable[[Any, Any, Window | None], Any],
    total: Any,
    num_edges: int,
    size: int | None,
) -> Any:
    """Adds up what all edges give, a window of them at a time.

    What a window computes is computed again in the backward pass.

    Args:
      module: Whose parameters are used.
      terms: From the module and a window, None for all edges, to what its edges give.
      add: From a total, terms and their window to the next total. Edges that are not
        new to the window must not count.
      total: At first.
      num_edges: F.
      size: Edges of a window; None, or as many as there are: all at once.

    Returns:
      The last total.
    """
    if size is None or num_edges <= size:
        return add(total, terms(module, None), None)

    def step(module, total, index):
        first = index * size
        start = jnp.minimum(first, num_edges - size)
        window = Window(start, size, start + jnp.arange(size) >= first)
        compute = nn.remat(lambda module: terms(module, window), prevent_cse=False)
        return add(total, compute(module), window), None

    scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
    return scan(module, total, jnp.arange(-(-num_edges // size)))[0]


def edges_at_once(width: int) -> int | None:
    """Edges whose embeddings stay in the cache of a CPU, or None for all."""
    if jax.default_backend() != "cpu":
        return None
    return CACHE_BYTES // (4 * width)


def networks_at_once(num_edges: int, width: int) -> int | None:
    """Networks of one topology whose edges stay in the cache, or None for all.

    On a CPU passes over edges are bound by memory: a training step on 128 networks of
    1,153 edges takes half as long when few of them are computed at once. Other devices
    need large arrays to be busy.
    """
    size = edges_at_once(width)
    return None if size is None else max(size // num_edges, 1)


def over_networks(
    module: nn.Module,
    read: Callable[[nn.Module, graphs.GraphsTuple], jax.Array],
    graph: graphs.GraphsTuple,
    width: int,
    *,
    axis: int = 1,
) -> jax.Array:
    """Reads networks of one topology, some of them at a time.

    What they leave behind is computed again in the backward pass. The same result as
    at once.

    Args:
      module: Whose parameters are used.
      read: From the module and a graph with b networks to an array with an axis of b.
      graph: With edge values `[F, B]`; with `[F]` it is read as it is.
      width: Of the embeddings.
      axis: The axis of networks in what is read.

    Returns:
      What is read of all B networks.
    """
    values = graph.edges.values
    if values.ndim == 1 or module.is_initializing():
        return read(module, graph)
    num_networks = values.shape[1]
    size = networks_at_once(max(values.shape[0], 1), width)
    if size is None or num_networks <= size:
        return read(module, graph)
    count = -(-num_networks // size)
    size = -(-num_networks // count)
    own = (values, graph.nodes.responses)

    def in_parts(leaf):
        # The last network is repeated to fill the last part.
        widths = [(0, 0)] * leaf.ndim
        widths[1] = (0, count * size - num_networks)
        padded = jnp.pad(leaf, widths, mode="edge")
        shape = (leaf.shape[0], count, size, *leaf.shape[2:])
        return jnp.moveaxis(padded.reshape(shape), 1, 0)

    def step(module, nothing, part):
        def compute(module, part):
            edges = graph.edges._replace(values=part[0])
            nodes = graph.nodes._replace(responses=part[1])
            return read(module, graph._replace(edges=edges, nodes=nodes))

        return nothing, nn.remat(compute, prevent_cse=False)(module, part)

    scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
    outputs = scan(module, None, jax.tree.map(in_parts, own))[1]
    outputs = jnp.moveaxis(outputs, 0, axis)
    shape = (*outputs.shape[:axis], count * size, *outputs.shape[axis + 2 :])
    whole = outputs.reshape(shape)
    return jax.lax.slice_in_dim(whole, 0, num_networks, axis=axis)
