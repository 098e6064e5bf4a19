"""One step of message passing over a parameter graph.

Parts of a block can be called one by one, for edges that are computed in windows; see
`modmeta.metanet.models.windows`. Letters as in `modmeta.metanet.models.gmn`.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from modmeta.metanet.models.normalized import (
    Linear,
    Norm,
    as_row,
    constant_of,
    edge_products,
    normalized_product,
)
from modmeta.metanet.models.options import MetanetConfig
from modmeta.metanet.models.pooling import add_pooled, counted, pool, scale_rows
from modmeta.metanet.models.windows import Window, Wiring
from modmeta.networks import Dense, get_activation


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
    """What nodes contribute to their edges in a block, constants of edges included.

    Attributes:
      sent: `[N, (B,) H]` to the edges that leave them.
      received: `[N, (B,) H]` to those that enter them.
      along: `[N, (B,) H]` to messages of the edges that leave them, or None.
      against: `[N, (B,) H]` to reverse messages of those that enter them, or None.
    """

    sent: jax.Array
    received: jax.Array
    along: jax.Array | None
    against: jax.Array | None

    def at(self, wiring: Wiring) -> Projections:
        """Those of the ends of edges."""
        ends = (wiring.senders, wiring.receivers) * 2
        return Projections(
            *(
                None if part is None else rows_at(part, indices)
                for part, indices in zip(self, ends, strict=True)
            )
        )


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


def rows_at(values: jax.Array, indices: jax.Array) -> jax.Array:
    """Rows `[rows, ...]` of given indices, which are in range: no pass checks them."""
    return values.at[indices].get(mode="promise_in_bounds")


class MetanetBlock(nn.Module):
    """One residual step of message passing.

    The linear map of a concatenation is a sum of linear maps, so that the parts that
    belong to nodes are computed at the nodes, of which there are fewer than edges, and
    then gathered. Constants are added there, too: every pass over the edges takes as
    long as a third of a matrix product.

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
        self.node_norm, self.edge_norm = nn.LayerNorm(), Norm()
        self.sender = Dense(sends, use_bias=False)
        self.receiver = Dense(receives, use_bias=False)
        self.edge, self.edge_output = Linear(width), Linear(width)
        if config.use_globals:
            self.global_norm = nn.LayerNorm()
            self.edge_globals = Dense(width, use_bias=False)
        if not self.updates_nodes:
            return
        self.message = Linear(width)
        self.node, self.node_output = Dense(width), Dense(width)
        self.incoming = Dense(width, use_bias=False)
        if config.reverse_messages:
            self.reverse_message = Linear(width)
            self.outgoing = Dense(width, use_bias=False)
        if config.use_globals:
            self.node_globals = Dense(width, use_bias=False)
            setattr(self, "global", Dense(width))  # a word of Python
            self.global_output = Dense(width)

    def __call__(self, embeddings: Embeddings, wiring: Wiring) -> Embeddings:
        """Maps embeddings to embeddings of the same shapes."""
        projections = self.project(embeddings, wiring)
        ends = projections.at(wiring)
        edges, messages = self.update_edges(
            embeddings.edges, ends, with_messages=self.updates_nodes
        )
        embeddings = embeddings._replace(edges=edges)
        if not self.updates_nodes:
            return embeddings
        totals = self.add_messages(self.zeros(embeddings), messages, wiring, None)
        return self.update_nodes(embeddings, totals, wiring)

    def project(self, embeddings: Embeddings, wiring: Wiring) -> Projections:
        """What nodes, and the global vector of their graph, contribute to edges."""
        width = self.config.width
        nodes = self.node_norm(embeddings.nodes)
        sent, received = self.sender(nodes), self.receiver(nodes)
        along = against = None
        if self.updates_nodes:
            along = sent[..., width:]
            along = along + as_row(self.message(width)[1], along)
            if self.config.reverse_messages:
                against = received[..., width:]
                bias = self.reverse_message(width)[1]
                against = against + as_row(bias, against)
        constant = constant_of(self.edge_norm(width), self.edge(width))
        received = received[..., :width] + as_row(constant, received)
        if self.config.use_globals:
            shared = self.edge_globals(self.global_norm(embeddings.globals))
            received = received + shared[wiring.node_owners]
        return Projections(sent[..., :width], received, along, against)

    def update_edges(
        self, edges: jax.Array, ends: Projections, *, with_messages: bool
    ) -> tuple[jax.Array, tuple]:
        """New embeddings of edges, and their messages if they are wanted.

        These are messages along edges, against them, and what graphs pool, or None.
        """
        config, width = self.config, self.config.width
        activation = get_activation(config.activation)
        norm, kernel = self.edge_norm(width), self.edge(width)[0]
        updated = normalized_product(edges, norm, kernel)
        updated = activation(updated + ends.sent + ends.received)
        kernel, bias = self.edge_output(width)
        kernels = [kernel]
        if with_messages:
            kernels.append(self.message(width)[0])
            if config.reverse_messages:
                kernels.append(self.reverse_message(width)[0])
        change, *products = edge_products(updated, tuple(kernels))
        messages: list[jax.Array | None] = [None, None]
        both = (ends.along, ends.against)
        for index, product in enumerate(products):
            messages[index] = activation(product + both[index])
        pooled = updated if config.use_globals else None
        return edges + (change + as_row(bias, change)), (*messages, pooled)

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
            return total.at[targets].add(
                messages, indices_are_sorted=is_sorted, mode="promise_in_bounds"
            )

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
