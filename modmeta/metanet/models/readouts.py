"""Read-outs of embeddings: one output per network, or new weights for it.

Invariant read-outs pool the embeddings of edges (and nodes) of every graph; they
follow the release of Lim et al. 2023 (arXiv 2312.04501). The weight-to-weight head
writes a change of every parameter at its edges; several heads give several networks,
whose outputs are averaged ("OCE", arXiv 2602.01083).

Letters: F edges, G graphs, P parameters, B networks of one topology, K heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta import graphs
from modmeta.metanet.models import pooling as pools
from modmeta.metanet.models.blocks import Embeddings
from modmeta.metanet.models.features import edge_order
from modmeta.metanet.models.gmn import GraphMetanet
from modmeta.metanet.models.normalized import Linear, as_row
from modmeta.metanet.models.options import POOLINGS, MetanetConfig
from modmeta.metanet.models.pooling import scale_rows
from modmeta.metanet.models.windows import (
    Window,
    Wiring,
    over_networks,
    over_windows,
    wiring_of,
)
from modmeta.networks import MLP, Dense, row_product

if TYPE_CHECKING:
    from modmeta.metanet.parameter_graphs.topology import Topology


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
    """

    num_outputs: int
    width: int = 64
    pooling: str = "mean"
    uses_nodes: bool = False
    activation: str = "relu"

    def setup(self) -> None:
        """Names the layers."""
        if self.pooling not in POOLINGS:
            raise ValueError(
                f"pooling: found {self.pooling!r}, expected one of {POOLINGS}"
            )
        self.edges = Linear(self.width)
        if self.pooling == "layer_statistics":
            self.groups = Dense(self.width)
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
            return jnp.zeros((len(wiring.table.groups), *batch, 2 * self.width))
        return jnp.zeros((len(wiring.edge_counts), *batch, self.width))

    def add(
        self, total: jax.Array, terms: jax.Array, wiring: Wiring, window: Window | None
    ) -> jax.Array:
        """Adds the terms of the edges of a window, None for all, to the pool."""
        if self.pooling == "layer_statistics":
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
        pooled = total
        if self.pooling == "layer_statistics":
            shares = pools.group_shares(wiring)
            groups = nn.relu(self.groups(pools.moments_of(total, shares)))
            pooled = pools.mean_of_groups(groups, shares, len(graph.n_node))
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
        outputs = self.output(pooled)
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
        self.metanet = GraphMetanet(self.config)
        self.readout = GraphReadout(
            self.num_outputs,
            self.config.width,
            self.pooling,
            self.config.outputs_nodes,
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


class ParameterEdges(NamedTuple):
    """Which edges of a graph carry which parameter.

    Attributes:
      edges: `[C]` edges that carry a parameter, reversed ones left out, sorted by
        parameter.
      parameters: `[C]` index of the parameter, in rising order.
      counts: `[P]` number of edges of every parameter.
    """

    edges: np.ndarray
    parameters: np.ndarray
    counts: np.ndarray


def parameter_edges(
    topology: Topology,
    *,
    bidirectional: bool = True,
    excluded: Sequence[str] = ("batch_stats",),
) -> ParameterEdges:
    """Finds the edges of every parameter in the graph of a topology.

    Args:
      topology: The topology.
      bidirectional: As given to `modmeta.metanet.models.features.to_graph`.
      excluded: Collections of variables that are to stay as they are; a changed
        variance could be negative.

    Returns:
      The table.
    """
    edge_parameters = np.array(topology.edge_parameters, np.int64)
    for leaf in topology.leaves:
        if leaf.path[0] in excluded:
            start, stop = leaf.offset, leaf.offset + leaf.size
            is_inside = (start <= edge_parameters) & (edge_parameters < stop)
            edge_parameters[is_inside] = -1
    order = edge_order(topology, bidirectional=bidirectional)
    parameters = np.full(len(order), -1, np.int64)
    is_original = order < len(edge_parameters)
    parameters[is_original] = edge_parameters[order[is_original]]
    edges = np.argsort(parameters, kind="stable")
    edges = edges[parameters[edges] >= 0]
    counts = np.bincount(parameters[edges], minlength=topology.num_parameters)
    return ParameterEdges(
        edges.astype(np.int32),
        parameters[edges].astype(np.int32),
        counts.astype(np.int32),
    )


class EdgeUpdate(nn.Module):
    """Changes of edge values, with a learned step size.

    Attributes:
      num_heads: Number K of changes, one per resulting network.
      num_layers: Number of step sizes: with 1, one for the network; otherwise one per
        layer number, the last for all deeper layers too.
      initial_step: Initial step size.
    """

    num_heads: int = 1
    num_layers: int = 1
    initial_step: float = 0.01

    @nn.compact
    def __call__(self, edges: jax.Array, wiring: Wiring) -> jax.Array:
        """Maps edge embeddings to changes `[K, F, (B)]`.

        Args:
          edges: `[F, (B,) H]`, of all edges or of those of a window.
          wiring: Of the same edges.
        """
        steps = self.param(
            "steps", nn.initializers.constant(self.initial_step), (self.num_layers,)
        )
        changes = Dense(self.num_heads, name="changes")(edges)
        layers = wiring.table.layers[:, 0].astype(jnp.int32)
        steps = steps[jnp.clip(layers, 0, self.num_layers - 1)][wiring.rows]
        return jnp.moveaxis(scale_rows(changes, steps), -1, 0)


def updated_parameters(
    table: ParameterEdges, parameters: jax.Array, changes: jax.Array
) -> jax.Array:
    """Adds to every parameter the mean change of the edges that carry it.

    Args:
      table: Edges of the parameters.
      parameters: `[P, (B)]` flat parameters, see `Topology.flatten`.
      changes: `[K, F, (B)]` changes of edges, see `EdgeUpdate`.

    Returns:
      `[K, P, (B)]` new parameters; a parameter without an edge stays as it is.

    Raises:
      ValueError: If the parameters are not those of the table.
    """
    num_parameters = len(table.counts)
    if parameters.shape[0] != num_parameters:
        raise ValueError(
            f"parameters: found {parameters.shape[0]} rows, expected {num_parameters}"
        )
    gathered = jnp.moveaxis(changes[:, table.edges], 0, -1)
    if (table.counts == 1).all():
        mean = gathered
    else:
        total = graphs.segment_sum(
            gathered, table.parameters, num_parameters, is_sorted=True
        )
        mean = scale_rows(total, 1.0 / np.maximum(table.counts, 1.0))
    return parameters[None] + jnp.moveaxis(mean, -1, 0)


class WeightUpdateMetanet(nn.Module):
    """Graph metanetwork and edge update: from the weights of a network to new ones.

    Attributes:
      config: Options of the metanetwork.
      num_heads: See `EdgeUpdate`.
      num_layers: See `EdgeUpdate`.
      initial_step: See `EdgeUpdate`.
    """

    config: MetanetConfig
    num_heads: int = 1
    num_layers: int = 1
    initial_step: float = 0.01

    def setup(self) -> None:
        """Names the parts."""
        self.metanet = GraphMetanet(self.config)
        self.update = EdgeUpdate(self.num_heads, self.num_layers, self.initial_step)

    def __call__(
        self, graph: graphs.GraphsTuple, table: ParameterEdges, parameters: jax.Array
    ) -> jax.Array:
        """Maps parameters `[P, (B)]` to `[num_heads, P, (B)]`.

        Args:
          graph: Graph of one topology, its values those of the parameters.
          table: Edges of the parameters in this graph.
          parameters: `[P, (B)]`.
        """
        changes = over_networks(
            self, WeightUpdateMetanet._changes, graph, self.config.width, axis=2
        )
        return updated_parameters(table, parameters, changes)

    def _changes(self, graph: graphs.GraphsTuple) -> jax.Array:
        """Changes `[K, F, (B)]` of all edges."""
        states = self.metanet.states(graph)
        wiring = states.wiring

        def changes(module, window):
            edges = module.metanet.edges_of(states, window)
            return module.update(edges, wiring.at(window))

        def put(total, changes, window):
            start = 0 if window is None else window.start
            return jax.lax.dynamic_update_slice_in_dim(total, changes, start, axis=1)

        total = jnp.zeros((self.num_heads, *wiring.values.shape))
        return over_windows(
            self, changes, put, total, wiring.num_edges, self.config.edge_window
        )


def average_outputs(apply: Callable, parameter_sets, *inputs):
    """Runs several networks and averages their outputs.

    For flat parameters, unflatten them within `apply`, see `Topology.unflatten`.

    Args:
      apply: `apply(parameters, *inputs)`, one network.
      parameter_sets: Pytree of parameters with leaves `[K, ...]`.
      *inputs: The same for all networks.

    Returns:
      The mean output.
    """
    outputs = jax.vmap(lambda parameters: apply(parameters, *inputs))(parameter_sets)
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), outputs)
