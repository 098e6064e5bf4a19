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
    match_batch,
)
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


class Wiring(NamedTuple):
    """What all blocks share, computed once per pass.

    Attributes:
      senders: `[F]`.
      receivers: `[F]`, sorted.
      node_owners: `[N]` graph of a node, sorted.
      edge_owners: `[F]` graph of an edge, sorted.
      node_weights: `[N]` group weights, see `NodeFeatures`.
      edge_weights: `[F]` group weights, see `EdgeFeatures`.
      sender_counts: `[F]` edges of the same type and direction out of the sender.
      receiver_counts: `[F]` edges of the same type and direction into the receiver.
    """

    senders: jax.Array
    receivers: jax.Array
    node_owners: jax.Array
    edge_owners: jax.Array
    node_weights: jax.Array
    edge_weights: jax.Array
    sender_counts: jax.Array
    receiver_counts: jax.Array


def wiring_of(graph: graphs.GraphsTuple) -> Wiring:
    """Collects the wiring of a graph with metanetwork features."""
    return Wiring(
        senders=jnp.asarray(graph.senders),
        receivers=jnp.asarray(graph.receivers),
        node_owners=jnp.asarray(graphs.node_graphs(graph)),
        edge_owners=jnp.asarray(graphs.edge_graphs(graph)),
        node_weights=jnp.asarray(graph.nodes.group_weights),
        edge_weights=jnp.asarray(graph.edges.group_weights),
        sender_counts=jnp.asarray(graph.edges.sender_counts),
        receiver_counts=jnp.asarray(graph.edges.receiver_counts),
    )


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

    @nn.compact
    def __call__(self, embeddings: Embeddings, wiring: Wiring) -> Embeddings:
        """Maps embeddings to embeddings of the same shapes."""
        config, width = self.config, self.config.width
        activation = get_activation(config.activation)

        def linear(name, size=width, use_bias=False):
            return Dense(size, use_bias=use_bias, name=name)

        nodes = nn.LayerNorm(name="node_norm")(embeddings.nodes)
        edges = nn.LayerNorm(name="edge_norm")(embeddings.edges)
        sends = width * (1 + self.updates_nodes)
        receives = width * (1 + (self.updates_nodes and config.reverse_messages))
        sent = linear("sender", sends)(nodes)[wiring.senders]
        received = linear("receiver", receives)(nodes)
        if config.use_globals:
            shared = nn.LayerNorm(name="global_norm")(embeddings.globals)
            context = linear("edge_globals")(shared)[wiring.node_owners]
            received = received.at[..., :width].add(context)
        received = received[wiring.receivers]

        updated = linear("edge", use_bias=True)(edges)
        updated = activation(updated + sent[..., :width] + received[..., :width])
        new_edges = embeddings.edges + linear("edge_output", use_bias=True)(updated)
        if not self.updates_nodes:
            return embeddings._replace(edges=new_edges)

        messages = linear("message", use_bias=True)(updated)
        messages = activation(messages + sent[..., width:])
        incoming = self._aggregate(
            messages, wiring.receivers, wiring.receiver_counts, nodes, is_sorted=True
        )
        update = linear("node", use_bias=True)(nodes) + linear("incoming")(incoming)
        if config.reverse_messages:
            messages = linear("reverse_message", use_bias=True)(updated)
            messages = activation(messages + received[..., width:])
            outgoing = self._aggregate(
                messages, wiring.senders, wiring.sender_counts, nodes, is_sorted=False
            )
            update = update + linear("outgoing")(outgoing)
        if config.use_globals:
            context = linear("node_globals")(shared)
            update = update + context[wiring.node_owners]
        update = activation(update)
        new_nodes = embeddings.nodes + linear("node_output", use_bias=True)(update)

        new_globals = embeddings.globals
        if config.use_globals:
            pooling = "layer_mean" if config.aggregation == "typed_mean" else "mean"
            parts = [shared]
            for values, owners, weights in (
                (update, wiring.node_owners, wiring.node_weights),
                (updated, wiring.edge_owners, wiring.edge_weights),
            ):
                parts.append(pool(values, owners, shared.shape[0], weights, pooling))
            update = linear("global", use_bias=True)(jnp.concatenate(parts, axis=-1))
            new_globals = new_globals + linear("global_output", use_bias=True)(
                activation(update)
            )
        return Embeddings(new_nodes, new_edges, new_globals)

    def _aggregate(self, messages, targets, counts, nodes, *, is_sorted):
        """Combines messages `[F, ...]` at their targets: `[N, ...]`."""
        combine = graphs.segment_sum
        if self.config.aggregation == "mean":
            combine = graphs.segment_mean
        if self.config.aggregation == "typed_mean":
            # Padded edges have no count.
            messages = scale_rows(messages, 1.0 / jnp.maximum(counts, 1.0))
        return combine(messages, targets, nodes.shape[0], is_sorted=is_sorted)


class GraphMetanet(nn.Module):
    """Encoders and blocks: from a graph with features to embeddings.

    Attributes:
      config: Options.
    """

    config: MetanetConfig

    @nn.compact
    def __call__(self, graph: graphs.GraphsTuple) -> Embeddings:
        """Embeds the edges of a graph and, if the options ask for it, its nodes.

        Args:
          graph: See `modmeta.metanet.models.features.to_graph`; padded or not.

        Returns:
          The embeddings after a last LayerNorm and linear map. Those of padding are
          finite and mean nothing.
        """
        config = self.config
        graph = graphs.zero_padding(graph)
        edges = EdgeEncoder(
            config.width,
            config.encoding,
            config.direction_flag,
            config.rescale_by_fan_in,
            name="edge_encoder",
        )(graph.edges)
        nodes = shared = None
        if config.num_blocks or config.outputs_nodes:
            nodes = NodeEncoder(config.width, config.encoding, name="node_encoder")
            nodes = match_batch(nodes(graph.nodes), edges)
            shape = (nodes.shape[0], *edges.shape[1:])
            nodes = jnp.broadcast_to(nodes, shape)
        if config.use_globals:
            shape = (graph.globals.is_real.shape[0], *edges.shape[1:])
            start = self.param("globals", nn.initializers.normal(1.0), (config.width,))
            shared = jnp.broadcast_to(start, shape)
        embeddings = Embeddings(nodes, edges, shared)
        wiring = wiring_of(graph)
        block = nn.remat(MetanetBlock) if config.checkpoint_blocks else MetanetBlock
        for index in range(config.num_blocks):
            is_last = index == config.num_blocks - 1
            embeddings = block(
                config,
                updates_nodes=config.outputs_nodes or not is_last,
                name=f"block_{index}",
            )(embeddings, wiring)

        def finish(name, values):
            values = nn.LayerNorm(name=f"{name}_norm")(values)
            return Dense(config.width, name=f"{name}_output")(values)

        return Embeddings(
            nodes=finish("node", embeddings.nodes) if config.outputs_nodes else None,
            edges=finish("edge", embeddings.edges),
            globals=embeddings.globals,
        )
