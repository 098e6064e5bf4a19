"""New weights for networks: a change of every parameter, read at its edges.

Several heads give several networks, whose outputs are averaged ("OCE", arXiv
2602.01083).

Letters: F edges, P parameters, B networks of one topology, K heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta import graphs
from modmeta.metanet.models.features import edge_order
from modmeta.metanet.models.gmn import GraphMetanet
from modmeta.metanet.models.options import MetanetConfig
from modmeta.metanet.models.pooling import scale_rows
from modmeta.metanet.models.windows import Wiring, over_networks, over_windows
from modmeta.networks import Dense

if TYPE_CHECKING:
    from modmeta.metanet.parameter_graphs.topology import Topology


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
