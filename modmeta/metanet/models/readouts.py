"""Read-outs of embeddings: one output per network, whatever the order of its units.

They pool the embeddings of edges (and nodes) of every graph, after the release of Lim
et al. 2023 (arXiv 2312.04501). Deviation: "layer_statistics" reads every layer, type
and direction by itself first, by means and deviations, as statistics of weights do, and
by the logarithm of its number of edges. That enters the output directly, too: what
changes with width goes on along it, where networks are wider than any of training.

Letters: F edges, G graphs, B networks of one topology.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from modmeta import graphs
from modmeta.metanet.models import pooling as pools
from modmeta.metanet.models.blocks import Embeddings
from modmeta.metanet.models.encoders import match_batch, scaled_values
from modmeta.metanet.models.features import NUM_TYPES
from modmeta.metanet.models.gmn import GraphMetanet
from modmeta.metanet.models.normalized import Linear, TypeNorm, as_row
from modmeta.metanet.models.options import POOLINGS, MetanetConfig
from modmeta.metanet.models.windows import (
    Window,
    Wiring,
    over_networks,
    over_windows,
    wiring_of,
)
from modmeta.networks import MLP, Dense, row_product
from modmeta.runtime import option_types


class GraphReadout(nn.Module):
    """One output per graph, invariant to the order of its edges and nodes.

    Attributes:
      num_outputs: Size of the output.
      width: Hidden width.
      pooling: See `modmeta.metanet.models.options.POOLINGS`.
      uses_nodes: Whether node embeddings are pooled too; both parts then pass through
        a LayerNorm.
      activation: Of the hidden layer after the pooling, see
        `modmeta.networks.ACTIVATIONS`.
      value_scales: With "layer_statistics", scales at which the values of edges are
        pooled, too; see `modmeta.metanet.models.options.MetanetConfig`. So the read-out
        knows what statistics of weights tell, whatever the metanetwork has learned.
    """

    num_outputs: int
    width: int = 64
    pooling: str = "mean"
    uses_nodes: bool = False
    activation: str = "relu"
    value_scales: tuple[float, ...] = ()

    def setup(self) -> None:
        """Names the layers."""
        if self.pooling not in POOLINGS:
            raise ValueError(
                f"pooling: found {self.pooling!r}, expected one of {POOLINGS}"
            )
        self.edges = Linear(self.width)
        if self.pooling == "layer_statistics":
            sizes = (2 * self.width,) * 2
            self.spread = TypeNorm(NUM_TYPES)
            self.groups = MLP(sizes, self.activation, activate_output=True)
            zeros = nn.initializers.zeros
            self.sizes = nn.Dense(self.num_outputs, use_bias=False, kernel_init=zeros)
        if self.uses_nodes:
            self.nodes = Dense(self.width)
            self.edge_norm, self.node_norm = nn.LayerNorm(), nn.LayerNorm()
        self.output = MLP((self.width, self.num_outputs), self.activation)

    def __call__(self, embeddings: Embeddings, graph: graphs.GraphsTuple) -> jax.Array:
        """Reads the embeddings of a graph.

        Args:
          embeddings: Of the edges, and of the nodes if they are used.
          graph: The graph that they belong to, padded or not.

        Returns:
          `[G, (B,) num_outputs]`, zero at padded graphs.

        Raises:
          ValueError: If the pooling is unknown or node embeddings are missing.
        """
        wiring = wiring_of(graph)
        terms = self.terms(embeddings.edges)
        total = self.add(self.zeros(wiring), terms, wiring, None)
        return self.read(total, embeddings.nodes, graph, wiring)

    def zeros(self, wiring: Wiring) -> jax.Array:
        """What nothing gives to the pool."""
        batch = wiring.values.shape[1:]
        if self.pooling == "layer_statistics":
            size = self.width + 2 * len(self.value_scales)
            return jnp.zeros((len(wiring.table.groups), *batch, 2 * size))
        return jnp.zeros((len(wiring.edge_counts), *batch, self.width))

    def add(
        self, total: jax.Array, terms: jax.Array, wiring: Wiring, window: Window | None
    ) -> jax.Array:
        """Adds the terms of the edges of a window, None for all, to the pool."""
        if self.pooling == "layer_statistics":
            edges = wiring.at(window)
            fan_ins = match_batch(edges.table.fan_ins[edges.rows], edges.values)
            scaled = scaled_values(edges.values, fan_ins, self.value_scales)
            terms = jnp.concatenate([terms, *(s[..., None] for s in scaled)], axis=-1)
            return pools.add_moments(total, terms, wiring, window)
        return pools.add_pooled(total, terms, wiring, self.pooling, window)

    def terms(self, edges: jax.Array) -> jax.Array:
        """What edges give to the pool of their graph."""
        kernel, bias = self.edges(edges.shape[-1])
        return nn.relu(row_product(edges, kernel) + as_row(bias, edges))

    def read(
        self,
        total: jax.Array,
        nodes: jax.Array | None,
        graph: graphs.GraphsTuple,
        wiring: Wiring,
    ) -> jax.Array:
        """The outputs, from the pool of all edges and from nodes; as for a call."""
        pooled, along = total, 0.0
        if self.pooling == "layer_statistics":
            shares = pools.group_shares(wiring)
            moments = pools.moments_of(total, shares)
            # Learned terms, then values, in means and in deviations.
            learned, known = [], []
            for half in jnp.split(moments, 2, axis=-1):
                learned.append(half[..., : self.width])
                known.append(half[..., self.width :])
            if self.value_scales:
                known = [
                    self.spread(
                        jnp.concatenate(known, axis=-1),
                        pools.group_types(wiring),
                        shares > 0,
                    )
                ]
            sizes = pools.log_group_sizes(wiring)
            sizes = match_batch(sizes, total[..., 0])[..., None]
            sizes = jnp.broadcast_to(sizes, (*total.shape[:-1], 1))
            groups = self.groups(jnp.concatenate([*learned, *known, sizes], axis=-1))
            pooled = pools.mean_of_groups(groups, shares, len(graph.n_node))
            along = self.sizes(pools.mean_of_groups(sizes, shares, len(graph.n_node)))
        is_real = jnp.asarray(graph.globals.is_real)
        if self.uses_nodes:
            if nodes is None:
                raise ValueError(
                    "embeddings.nodes: found None, expected an array; set "
                    "outputs_nodes of MetanetConfig"
                )
            others = pools.pool(
                nn.relu(self.nodes(nodes)),
                graphs.node_graphs(graph),
                is_real.shape[0],
                jnp.asarray(graph.nodes.group_weights),
                self.pooling,
            )
            parts = [self.edge_norm(pooled), self.node_norm(others)]
            pooled = jnp.concatenate(parts, axis=-1)
        outputs = self.output(pooled) + along
        return jnp.where(is_real.reshape(-1, *[1] * (outputs.ndim - 1)), outputs, 0.0)


class InvariantMetanet(nn.Module):
    """Graph metanetwork and graph read-out: one output per network.

    Attributes:
      config: Options of the metanetwork.
      num_outputs: Size of the output.
      pooling: See `modmeta.metanet.models.options.POOLINGS`.
    """

    config: MetanetConfig
    num_outputs: int
    pooling: str = "mean"

    def setup(self) -> None:
        """Names the parts."""
        option_types.check("config", self.config, MetanetConfig)
        if option_types.check("num_outputs", self.num_outputs, int) < 1:
            raise ValueError(
                f"num_outputs: found {self.num_outputs}, expected at least 1"
            )
        self.metanet = GraphMetanet(self.config)
        self.readout = GraphReadout(
            self.num_outputs,
            self.config.width,
            self.pooling,
            self.config.outputs_nodes,
            value_scales=self.config.value_scales,
        )

    def __call__(self, graph: graphs.GraphsTuple) -> jax.Array:
        """Maps a graph to `[G, (B,) num_outputs]`, zero at padded graphs.

        Nodes are read too if `config.outputs_nodes`.
        """
        return read_networks(self, graph)


def read_networks(module: Any, graph: graphs.GraphsTuple) -> jax.Array:
    """What the read-out of a module finds: `[G, (B,) num_outputs]`.

    Args:
      module: With a `GraphMetanet` as `metanet` and a `GraphReadout` as `readout`.
      graph: As for `InvariantMetanet`.
    """
    config = module.metanet.config
    return over_networks(module, _read, graph, config.width)


def _read(module: Any, graph: graphs.GraphsTuple) -> jax.Array:
    metanet, readout = module.metanet, module.readout
    states = metanet.states(graph)
    wiring, config = states.wiring, metanet.config

    def terms(module, window):
        linear = module.readout.edges(config.width)
        return nn.relu(module.metanet.edges_of(states, window, linear))

    def add(total, terms, window):
        return readout.add(total, terms, wiring, window)

    total = readout.zeros(wiring)
    total = over_windows(
        module, terms, add, total, wiring.num_edges, config.edge_window
    )
    return readout.read(total, metanet.nodes_of(states), graph, wiring)
