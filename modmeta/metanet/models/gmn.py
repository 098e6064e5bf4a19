"""The graph metanetwork: message passing over the parameter graph of a network.

Lim et al. 2023 (arXiv 2312.04501), section 3.2, in the form of its public release:
pre-norm residual blocks that update every edge from its ends, every node from its
incoming edges and, as an option, one global vector from both. Deviations: the edge and
node updates end in one linear map without a SiLU before it, because a ReLU stands
there already; sum, mean and mean within edge types are all offered (the paper writes
the sum, its release the mean); a message may also run against its edge.

Letters: N nodes, F edges, G graphs, H width; every embedding may have an axis of B
networks after the first, see `modmeta.metanet.models.features`.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from modmeta import graphs
from modmeta.metanet.models.features import (
    SCALAR_ENCODINGS,
    EdgeEncoder,
    NodeEncoder,
)
from modmeta.metanet.models.windows import Window, Wiring, over_windows
from modmeta.metanet.models.windows import wiring_of as wiring_of
from modmeta.networks import ACTIVATIONS, Dense, get_activation
from modmeta.runtime import option_types

AGGREGATIONS = ("sum", "mean", "typed_mean")
POOLINGS = ("mean", "layer_mean")


@dataclasses.dataclass(frozen=True)
class MetanetConfig:
    """Options of the graph metanetwork.

    Attributes:
      width: Size of all embeddings, even.
      num_blocks: Number of message passing steps. Zero leaves the encoded edges: with
        an edge read-out, a DeepSets of parameters.
      aggregation: How a node combines its incoming messages: "sum", "mean", or
        "typed_mean", the sum over edge types of the mean within each. The last does
        not notice when units are duplicated.
      activation: See `modmeta.networks.ACTIVATIONS`.
      encoding: See `modmeta.metanet.models.features.ScalarEncoder`.
      use_globals: Whether every graph has a global vector, too.
      reverse_messages: Whether every edge also sends a message to its sender, by
        weights of its own. With it, a graph without reversed edges suffices: half the
        edges at the same reach.
      direction_flag: Whether the encoder tells reversed edges from their originals.
      rescale_by_fan_in: Whether edge values are multiplied by the fan-in.
      outputs_nodes: Whether the last block updates nodes as well, for read-outs that
        use them.
      checkpoint_blocks: Whether blocks are computed again in the backward pass, which
        saves memory.
      edge_window: Edges whose embeddings are held at once, None for all. With it,
        embeddings of edges are computed again for every block, and memory grows with
        nodes, not with edges. The same result.
    """

    width: int = 64
    num_blocks: int = 4
    aggregation: str = "mean"
    activation: str = "relu"
    encoding: str = "sine"
    use_globals: bool = False
    reverse_messages: bool = False
    direction_flag: bool = True
    rescale_by_fan_in: bool = False
    outputs_nodes: bool = False
    checkpoint_blocks: bool = False
    edge_window: int | None = None

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        for field, choices in (
            ("aggregation", AGGREGATIONS),
            ("activation", tuple(sorted(ACTIVATIONS))),
            ("encoding", SCALAR_ENCODINGS),
        ):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"{field}: found {getattr(self, field)!r}, expected one of "
                    f"{choices}"
                )
        if self.width < 2 or self.width % 2:
            raise ValueError(
                f"width: found {self.width}, expected an even positive number"
            )
        if self.num_blocks < 0:
            raise ValueError(
                f"num_blocks: found {self.num_blocks}, expected at least 0"
            )
        if self.edge_window is not None and self.edge_window < 1:
            raise ValueError(
                f"edge_window: found {self.edge_window}, expected at least 1, or None"
            )


class Embeddings(NamedTuple):
    """State of the message passing.

    Attributes:
      nodes: `[N, (B,) H]`, or None where nothing reads them.
      edges: `[F, (B,) H]`.
      globals: `[G, (B,) H]`, or None without a global vector.
    """

    nodes: jax.Array | None
    edges: jax.Array
    globals: jax.Array | None


class Projections(NamedTuple):
    """What nodes contribute to their edges in a block.

    Attributes:
      sent: `[N, (B,) H or 2 H]` to the edges that leave them.
      received: `[N, (B,) H or 2 H]` to those that enter them.
    """

    sent: jax.Array
    received: jax.Array

    def at(self, wiring: Wiring) -> Projections:
        """Those of the ends of edges."""
        return Projections(self.sent[wiring.senders], self.received[wiring.receivers])


class Totals(NamedTuple):
    """What edges contribute to nodes and graphs; None where nothing reads it.

    Attributes:
      incoming: `[N, (B,) H]` sum of messages into every node.
      outgoing: `[N, (B,) H]` sum of messages against the edges.
      pooled: `[G, (B,) H]` sum over every graph.
    """

    incoming: jax.Array
    outgoing: jax.Array | None
    pooled: jax.Array | None


class States(NamedTuple):
    """What the blocks leave behind.

    Attributes:
      embeddings: Before the last LayerNorm; edges are None if they are computed window
        by window.
      projections: Those of every block, to compute edges again.
      wiring: Of the graph.
    """

    embeddings: Embeddings
    projections: tuple[Projections, ...]
    wiring: Wiring


def scale_rows(values: jax.Array, scales: jax.Array) -> jax.Array:
    """Multiplies every row of `[rows, ...]` by its own number of `[rows]`."""
    return values * scales.reshape(-1, *[1] * (values.ndim - 1))


def pool(
    values: jax.Array,
    owners: jax.Array,
    num_graphs: int,
    group_weights: jax.Array,
    pooling: str,
) -> jax.Array:
    """Pools rows over their graphs: `[rows, ...]` to `[num_graphs, ...]`.

    Args:
      values: `[rows, ...]`.
      owners: `[rows]` graph of a row, sorted.
      num_graphs: Number of graphs.
      group_weights: `[rows]` weights for "layer_mean".
      pooling: "mean" over all rows of a graph, or "layer_mean", the mean over the
        groups of a graph (layer, type, direction) of the mean within each.
    """
    if pooling == "mean":
        return graphs.segment_mean(values, owners, num_graphs, is_sorted=True)
    values = scale_rows(values, group_weights)
    return graphs.segment_sum(values, owners, num_graphs, is_sorted=True)


def add_pooled(
    total: jax.Array,
    values: jax.Array,
    wiring: Wiring,
    pooling: str,
    window: Window | None,
) -> jax.Array:
    """Adds to `[G, ...]` what the edges of a window give to the pool of their graph.

    Args:
      total: `[G, ...]` so far.
      values: Of the edges of the window, one row each.
      wiring: Of all edges.
      pooling: As for `pool`.
      window: The window, None for all edges.
    """
    wiring = wiring.at(window)
    owners = wiring.owners()
    if pooling == "mean":
        weights = (1.0 / jnp.maximum(wiring.edge_counts, 1.0))[owners]
    else:
        weights = wiring.table.group_weights[wiring.rows]
    values = scale_rows(values, counted(weights, window))
    return total + graphs.segment_sum(values, owners, len(total), is_sorted=True)


def counted(weights: jax.Array, window: Window | None) -> jax.Array:
    """Weights of edges, zero for those that a window before this one held."""
    return weights if window is None else jnp.where(window.is_new, weights, 0.0)


class MetanetBlock(nn.Module):
    """One residual step of message passing.

    The linear map of a concatenation is a sum of linear maps, so that the parts that
    belong to nodes are computed at the nodes, of which there are fewer than edges, and
    then gathered.

    Attributes:
      config: Options.
      updates_nodes: Whether nodes and globals change, or edges alone.
    """

    config: MetanetConfig
    updates_nodes: bool = True

    def setup(self) -> None:
        """Names the layers."""
        config, width = self.config, self.config.width
        sends = width * (1 + self.updates_nodes)
        receives = width * (1 + (self.updates_nodes and config.reverse_messages))
        self.node_norm, self.edge_norm = nn.LayerNorm(), nn.LayerNorm()
        self.sender = Dense(sends, use_bias=False)
        self.receiver = Dense(receives, use_bias=False)
        self.edge, self.edge_output = Dense(width), Dense(width)
        if config.use_globals:
            self.global_norm = nn.LayerNorm()
            self.edge_globals = Dense(width, use_bias=False)
        if not self.updates_nodes:
            return
        self.message, self.node, self.node_output = (Dense(width) for _ in range(3))
        self.incoming = Dense(width, use_bias=False)
        if config.reverse_messages:
            self.reverse_message = Dense(width)
            self.outgoing = Dense(width, use_bias=False)
        if config.use_globals:
            self.node_globals = Dense(width, use_bias=False)
            setattr(self, "global", Dense(width))  # a word of Python
            self.global_output = Dense(width)

    def __call__(self, embeddings: Embeddings, wiring: Wiring) -> Embeddings:
        """Maps embeddings to embeddings of the same shapes."""
        projections = self.project(embeddings, wiring)
        ends = projections.at(wiring)
        edges, updated = self.update_edges(embeddings.edges, ends)
        embeddings = embeddings._replace(edges=edges)
        if not self.updates_nodes:
            return embeddings
        messages = self.messages(updated, ends)
        totals = self.add_messages(self.zeros(embeddings), messages, wiring, None)
        return self.update_nodes(embeddings, totals, wiring)

    def project(self, embeddings: Embeddings, wiring: Wiring) -> Projections:
        """What nodes, and the global vector of their graph, contribute to edges."""
        nodes = self.node_norm(embeddings.nodes)
        received = self.receiver(nodes)
        if self.config.use_globals:
            shared = self.edge_globals(self.global_norm(embeddings.globals))
            context = shared[wiring.node_owners]
            received = received.at[..., : self.config.width].add(context)
        return Projections(self.sender(nodes), received)

    def update_edges(
        self, edges: jax.Array, ends: Projections
    ) -> tuple[jax.Array, jax.Array]:
        """New embeddings of edges, and what their messages are made of."""
        width = self.config.width
        updated = self.edge(self.edge_norm(edges))
        updated = updated + ends.sent[..., :width] + ends.received[..., :width]
        updated = get_activation(self.config.activation)(updated)
        return edges + self.edge_output(updated), updated

    def messages(self, updated: jax.Array, ends: Projections) -> tuple:
        """Messages along edges and against them, and what graphs pool, or None."""
        config, width = self.config, self.config.width
        activation = get_activation(config.activation)
        along = activation(self.message(updated) + ends.sent[..., width:])
        against = None
        if config.reverse_messages:
            against = self.reverse_message(updated) + ends.received[..., width:]
            against = activation(against)
        return along, against, updated if config.use_globals else None

    def zeros(self, embeddings: Embeddings) -> Totals:
        """Totals at first."""
        config = self.config
        nodes = jnp.zeros_like(embeddings.nodes)
        return Totals(
            incoming=nodes,
            outgoing=nodes if config.reverse_messages else None,
            pooled=jnp.zeros_like(embeddings.globals) if config.use_globals else None,
        )

    def add_messages(
        self, totals: Totals, messages: tuple, wiring: Wiring, window: Window | None
    ) -> Totals:
        """Adds what the edges of a window give to nodes and graphs.

        Args:
          totals: So far.
          messages: Of the edges of the window.
          wiring: Of all edges.
          window: None for all edges.
        """
        edges, table = wiring.at(window), wiring.table

        def added(total, messages, targets, counts, *, is_sorted):
            weights = jnp.ones(edges.num_edges)
            if self.config.aggregation == "typed_mean":
                # Padded edges have no count.
                weights = 1.0 / jnp.maximum(counts[edges.rows], 1.0)
            if self.config.aggregation == "typed_mean" or window is not None:
                messages = scale_rows(messages, counted(weights, window))
            return total.at[targets].add(messages, indices_are_sorted=is_sorted)

        along, against, updated = messages
        incoming = added(
            totals.incoming,
            along,
            edges.receivers,
            table.receiver_counts,
            is_sorted=True,
        )
        outgoing, pooled = totals.outgoing, totals.pooled
        if against is not None:
            outgoing = added(
                outgoing, against, edges.senders, table.sender_counts, is_sorted=False
            )
        if updated is not None:
            pooled = add_pooled(pooled, updated, wiring, self._pooling, window)
        return Totals(incoming, outgoing, pooled)

    @property
    def _pooling(self) -> str:
        is_typed = self.config.aggregation == "typed_mean"
        return "layer_mean" if is_typed else "mean"

    def update_nodes(
        self, embeddings: Embeddings, totals: Totals, wiring: Wiring
    ) -> Embeddings:
        """New embeddings of nodes and graphs."""
        config = self.config
        activation = get_activation(config.activation)

        def combined(total, counts):
            if config.aggregation == "mean":
                total = scale_rows(total, 1.0 / jnp.maximum(counts, 1))
            return total

        nodes = self.node_norm(embeddings.nodes)
        incoming = combined(totals.incoming, wiring.incoming_counts)
        update = self.node(nodes) + self.incoming(incoming)
        if config.reverse_messages:
            outgoing = combined(totals.outgoing, wiring.outgoing_counts)
            update = update + self.outgoing(outgoing)
        if not config.use_globals:
            new_nodes = embeddings.nodes + self.node_output(activation(update))
            return embeddings._replace(nodes=new_nodes)
        shared = self.global_norm(embeddings.globals)
        update = update + self.node_globals(shared)[wiring.node_owners]
        update = activation(update)
        pooled = pool(
            update,
            wiring.node_owners,
            shared.shape[0],
            wiring.node_weights,
            self._pooling,
        )
        context = jnp.concatenate([shared, pooled, totals.pooled], axis=-1)
        context = activation(getattr(self, "global")(context))
        return embeddings._replace(
            nodes=embeddings.nodes + self.node_output(update),
            globals=embeddings.globals + self.global_output(context),
        )


class GraphMetanet(nn.Module):
    """Encoders and blocks: from a graph with features to embeddings.

    Attributes:
      config: Options.
    """

    config: MetanetConfig

    def setup(self) -> None:
        """Names the layers."""
        config = self.config
        self.edge_encoder = EdgeEncoder(
            config.width,
            config.encoding,
            config.direction_flag,
            config.rescale_by_fan_in,
        )
        if config.num_blocks or config.outputs_nodes:
            self.node_encoder = NodeEncoder(config.width, config.encoding)
        if config.use_globals:
            start = nn.initializers.normal(1.0)
            setattr(self, "globals", self.param("globals", start, (config.width,)))
        block = nn.remat(MetanetBlock) if config.checkpoint_blocks else MetanetBlock
        for index in range(config.num_blocks):
            is_last = index == config.num_blocks - 1
            updates_nodes = config.outputs_nodes or not is_last
            setattr(self, f"block_{index}", block(config, updates_nodes=updates_nodes))
        self.edge_norm, self.edge_output = nn.LayerNorm(), Dense(config.width)
        if config.outputs_nodes:
            self.node_norm, self.node_output = nn.LayerNorm(), Dense(config.width)

    @property
    def _blocks(self) -> list[MetanetBlock]:
        return [getattr(self, f"block_{i}") for i in range(self.config.num_blocks)]

    def __call__(self, graph: graphs.GraphsTuple) -> Embeddings:
        """Embeds the edges of a graph and, if the options ask for it, its nodes.

        Args:
          graph: See `modmeta.metanet.models.features.to_graph`; padded or not.

        Returns:
          The embeddings after a last LayerNorm and linear map. Those of padding are
          finite and mean nothing.
        """
        states = self.states(graph)
        return states.embeddings._replace(
            nodes=self.nodes_of(states), edges=self.edges_of(states, None)
        )

    def states(self, graph: graphs.GraphsTuple) -> States:
        """Runs the blocks.

        Args:
          graph: As for a call.
        """
        config = self.config
        graph = graphs.zero_padding(graph)
        wiring = wiring_of(graph)
        is_whole = config.edge_window is None or wiring.num_edges <= config.edge_window
        batch = wiring.values.shape[1:]
        edges = self._encoded(wiring, None) if is_whole else None
        nodes = shared = None
        if config.num_blocks or config.outputs_nodes:
            nodes = self.node_encoder(graph.nodes)
            nodes = nodes[:, None] if batch else nodes
            nodes = jnp.broadcast_to(nodes, (len(nodes), *batch, config.width))
        if config.use_globals:
            shape = (len(graph.n_node), *batch, config.width)
            shared = jnp.broadcast_to(getattr(self, "globals"), shape)
        states = States(Embeddings(nodes, edges, shared), (), wiring)
        for index, block in enumerate(self._blocks):
            if is_whole:
                embeddings = block(states.embeddings, wiring)
                states = states._replace(embeddings=embeddings)
            else:
                states = self._windowed_block(index, states)
        return states

    def _encoded(self, wiring: Wiring, window: Window | None) -> jax.Array:
        edges = wiring.at(window)
        return self.edge_encoder(edges.values, edges.rows, edges.table)

    def _edges_before(
        self, states: States, window: Window | None, count: int
    ) -> tuple[jax.Array, jax.Array | None, Projections | None]:
        """Embeddings of the edges of a window after so many blocks, computed again.

        Also what the messages of the last of these are made of, and what its nodes
        contribute.
        """
        edges, updated, ends = self._encoded(states.wiring, window), None, None
        wiring = states.wiring.at(window)
        for block, projections in zip(self._blocks[:count], states.projections):
            ends = projections.at(wiring)
            edges, updated = block.update_edges(edges, ends)
        return edges, updated, ends

    def _windowed_block(self, index: int, states: States) -> States:
        """One block, for which embeddings of edges are computed window by window."""
        block, wiring = self._blocks[index], states.wiring
        projections = block.project(states.embeddings, wiring)
        states = states._replace(projections=(*states.projections, projections))
        if not block.updates_nodes:
            return states

        def messages(module, window):
            _, updated, ends = module._edges_before(states, window, index + 1)
            return module._blocks[index].messages(updated, ends)

        def add(totals, messages, window):
            return block.add_messages(totals, messages, wiring, window)

        totals = over_windows(
            self,
            messages,
            add,
            block.zeros(states.embeddings),
            wiring.num_edges,
            self.config.edge_window,
        )
        embeddings = block.update_nodes(states.embeddings, totals, wiring)
        return states._replace(embeddings=embeddings)

    def edges_of(self, states: States, window: Window | None) -> jax.Array:
        """Final embeddings of the edges of a window, None for all."""
        edges = states.embeddings.edges
        if edges is None:
            edges, _, _ = self._edges_before(states, window, self.config.num_blocks)
        return self.edge_output(self.edge_norm(edges))

    def nodes_of(self, states: States) -> jax.Array | None:
        """Final embeddings of the nodes, if the options ask for them."""
        if not self.config.outputs_nodes:
            return None
        return self.node_output(self.node_norm(states.embeddings.nodes))
