"""A network on neural graphs, the rival of the graph metanetwork.

In the manner of Kofinas et al. 2024 (arXiv 2403.12143), on the graphs of
`modmeta.metanet.models.neural_graphs`.

Letters: N nodes, F edges, G graphs, H width, K output units.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta import graphs
from modmeta.metanet.models.encoders import at_scales
from modmeta.metanet.models.features import NUM_TYPES
from modmeta.metanet.models.neural_graphs import NUM_LAYERS, NUM_ORDERS
from modmeta.metanet.models.pooling import deviations
from modmeta.networks import MLP, Dense

_LEAST_VARIANCE = 1e-5


class NeuralGraphNetwork(nn.Module):
    """Message passing over neural graphs, read at the output units.

    A unit has a learned embedding for its layer, and for its position if it is an input
    or an output. Messages go both ways; a unit combines them by mean, deviation, least
    and largest, as principal neighbourhood aggregation does. The read-out sees the
    output units side by side. Deviations: residual blocks with LayerNorm as in
    `modmeta.metanet.models.gmn`; values enter as inverse hyperbolic sines at several
    scales, where the public code standardises them layer by layer, and as sines of
    their linear maps; the read-out also sees the mean over all units, as few blocks do
    not reach the first layers of a deep network; responses are those to given inputs,
    which the paper learns.

    Attributes:
      num_outputs: Size of the output.
      num_units: K, the same in all networks.
      width: H, even.
      num_blocks: Number of message passing steps.
      value_scales: Factors of values; empty: as they are.
    """

    num_outputs: int
    num_units: int
    width: int = 32
    num_blocks: int = 4
    value_scales: tuple[float, ...] = ()

    @nn.compact
    def __call__(self, graph: graphs.GraphsTuple) -> jax.Array:
        """Maps a graph to `[G, num_outputs]`, zero at padded graphs.

        Args:
          graph: Of `neural_graphs.NeuralGraphTemplate.fill`, or a padded batch of such.
        """
        graph = graphs.zero_padding(graph)
        ends = jnp.asarray(graph.senders), jnp.asarray(graph.receivers)
        nodes = self._encode_nodes(graph.nodes)
        edges = self._encode_edges(graph.edges)
        num_nodes = len(nodes)
        counts = [jnp.zeros(num_nodes).at[end].add(1.0)[:, None] for end in ends]
        for block in range(self.num_blocks):
            nodes, edges = self._block(nodes, edges, ends, counts, f"block_{block}")
        nodes = nn.LayerNorm(name="output_norm")(nodes)
        owners = jnp.asarray(graphs.node_graphs(graph))
        is_real = jnp.asarray(graph.globals.is_real)
        num_graphs = len(is_real)
        places = jnp.asarray(graph.nodes.outputs)
        rows = jnp.where(
            places > 0,
            owners * self.num_units + places - 1,
            num_graphs * self.num_units,
        )
        outputs = jnp.zeros((num_graphs * self.num_units, self.width))
        outputs = outputs.at[rows].add(nodes, mode="drop").reshape(num_graphs, -1)
        mean = graphs.segment_mean(nodes, owners, num_graphs, is_sorted=True)
        features = jnp.concatenate([outputs, mean], axis=-1)
        found = MLP((self.width, self.num_outputs), name="output")(features)
        return jnp.where(is_real[:, None], found, 0.0)

    def _encode_values(self, values, name):
        scaled = at_scales(values, self.value_scales) or [values]
        numbers = jnp.concatenate(scaled, axis=-1)
        phases = nn.initializers.uniform(2 * np.pi)
        waves = nn.Dense(self.width, bias_init=phases, name=f"{name}_waves")(numbers)
        features = jnp.concatenate([numbers, jnp.sin(waves)], axis=-1)
        return Dense(self.width, name=f"{name}_values")(features)

    def _embed(self, indices, count, name):
        return nn.Embed(count, self.width, name=name)(indices)

    def _encode_nodes(self, nodes):
        functions = Dense(self.width, use_bias=False, name="node_functions")
        encoded = (
            self._encode_values(nodes.values, "node")
            + self._embed(nodes.types, NUM_TYPES, "node_types")
            + self._embed(nodes.layers, NUM_LAYERS, "node_layers")
            + self._embed(nodes.orders, NUM_ORDERS, "node_orders")
            + functions(jnp.arcsinh(nodes.functions))
        )
        if nodes.responses is None:
            return encoded
        responses = Dense(self.width, use_bias=False, name="node_responses")
        return encoded + responses(nodes.responses)

    def _encode_edges(self, edges):
        return (
            self._encode_values(edges.values, "edge")
            + self._embed(edges.types, NUM_TYPES, "edge_types")
            + self._embed(edges.layers, NUM_LAYERS, "edge_layers")
        )

    def _block(self, nodes, edges, ends, counts, name):
        def linear(part, use_bias=False):
            return Dense(self.width, use_bias=use_bias, name=f"{name}_{part}")

        senders, receivers = ends
        normed = nn.LayerNorm(name=f"{name}_node_norm")(nodes)
        update = linear("edge", True)(nn.LayerNorm(name=f"{name}_edge_norm")(edges))
        update = update + linear("sender")(normed)[senders]
        update = nn.relu(update + linear("receiver")(normed)[receivers])
        along = linear("message", True)(update) + linear("along")(normed)[senders]
        against = linear("reverse", True)(update) + linear("against")(normed)[receivers]
        total = linear("node", True)(normed)
        for part, messages, targets, count in (
            ("incoming", along, receivers, counts[1]),
            ("outgoing", against, senders, counts[0]),
        ):
            found = _aggregate(nn.relu(messages), targets, count)
            total = total + linear(part)(found)
        edges = edges + linear("edge_output", True)(update)
        return nodes + linear("node_output", True)(nn.relu(total)), edges


def _aggregate(messages: jax.Array, targets: jax.Array, counts: jax.Array) -> jax.Array:
    """Mean, deviation, least and largest of messages `[F, H]` by target: `[N, 4 H]`."""
    size = len(counts)

    def mean(values):
        total = graphs.segment_sum(values, targets, size, is_sorted=False)
        return total / jnp.maximum(counts, 1.0)

    average = mean(messages)
    deviation = deviations(average, mean(jnp.square(messages)), _LEAST_VARIANCE)
    largest = jax.ops.segment_max(messages, targets, size)
    least = jax.ops.segment_min(messages, targets, size)
    found = (average, deviation, least, largest)
    return jnp.where(counts > 0, jnp.concatenate(found, axis=-1), 0.0)
