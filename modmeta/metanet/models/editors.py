"""Metanetworks that change the weights of multilayer perceptrons, and one that asks.

An editor maps rows of parameters `[B, M]`, normalised, to changes `[B, K, M]`: K heads
give K networks, whose outputs are averaged ("OCE", arXiv 2602.01083). A step size,
learned per layer, starts small, so that an editor starts near the identity.

Letters: B networks of one topology, M parameters each, K heads, Q probes.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.models.gmn import MetanetConfig
from modmeta.metanet.models.mlp_baselines import (
    MLPWeights,
    NeuronPermutationLinear,
    NeuronPermutationNetwork,
    map_weights,
    mlp_weights,
    with_positions,
)
from modmeta.metanet.models.responses import graph_with_responses
from modmeta.metanet.models.weight_updates import WeightUpdateMetanet, parameter_edges
from modmeta.metanet.parameter_graphs.topology import Topology
from modmeta.networks import MLP
from modmeta.runtime import option_types


def rows_to_weights(topology: Topology, rows: jax.Array) -> MLPWeights:
    """Rows `[B, M]` as the weights of multilayer perceptrons, of one channel.

    Raises:
      ValueError: If the parameters are not a kernel and a bias per layer.
    """
    parts = {"kernel": [], "bias": []}
    for leaf in topology.leaves:
        if leaf.path[-1] not in parts:
            raise ValueError(f"{leaf.name}: found no kernel or bias, expected one")
        values = rows[:, leaf.offset : leaf.offset + leaf.size]
        parts[leaf.path[-1]].append(values.reshape(-1, *leaf.shape))
    return mlp_weights(parts["kernel"], parts["bias"])


def weights_to_rows(topology: Topology, weights: MLPWeights) -> jax.Array:
    """Weights with K channels as rows `[B, K, M]`: the way back."""
    parts = {"kernel": iter(weights.kernels), "bias": iter(weights.biases)}
    found = [next(parts[leaf.path[-1]]) for leaf in topology.leaves]
    size, num_channels = found[0].shape[0], found[0].shape[-1]
    rows = [values.reshape(size, -1, num_channels) for values in found]
    return jnp.moveaxis(jnp.concatenate(rows, axis=1), -1, 1)


class GraphEditor(nn.Module):
    """A graph metanetwork; without blocks, a network on every parameter by itself.

    Attributes:
      topology: Architecture of the networks.
      config: Options of the metanetwork.
      num_heads: K.
      initial_step: Step size at the start.
      responses: `rows [B, M] -> [B, N, S]`, see `modmeta.metanet.models.responses`;
        None: weights alone are read.
    """

    topology: Topology
    config: MetanetConfig
    num_heads: int = 1
    initial_step: float = 0.01
    responses: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, rows: jax.Array) -> jax.Array:
        """Maps rows `[B, M]` to changes `[B, K, M]`."""
        if option_types.check("num_heads", self.num_heads, int) < 1:
            raise ValueError(f"num_heads: found {self.num_heads}, expected at least 1")
        known = rows
        if self.responses is not None:
            responses = self.responses(rows).reshape(len(rows), -1)
            known = jnp.concatenate([rows, responses], axis=1)
        graph = graph_with_responses(self.topology, known, bidirectional=False)
        table = parameter_edges(self.topology, bidirectional=False)
        metanet = WeightUpdateMetanet(
            self.config,
            self.num_heads,
            self.topology.num_layers + 1,
            self.initial_step,
            name="metanet",
        )
        return jnp.moveaxis(metanet(graph, table, jnp.zeros_like(rows.T)), -1, 0)


class NeuronPermutationEditor(nn.Module):
    """NFN-NP from weights to weights, for multilayer perceptrons.

    Attributes:
      topology: Architecture of the networks.
      width: Channels.
      num_layers: Number of equivariant layers before the last.
      num_heads: K.
      initial_step: Step size at the start.
    """

    topology: Topology
    width: int = 32
    num_layers: int = 3
    num_heads: int = 1
    initial_step: float = 0.01

    @nn.compact
    def __call__(self, rows: jax.Array) -> jax.Array:
        """Maps rows `[B, M]` to changes `[B, K, M]`."""
        hidden = with_positions(rows_to_weights(self.topology, rows))
        for layer in range(self.num_layers):
            linear = NeuronPermutationLinear(self.width, name=f"layer_{layer}")
            hidden = map_weights(nn.relu, linear(hidden))
        last = NeuronPermutationLinear(self.num_heads, name="changes")
        changes = weights_to_rows(self.topology, last(hidden))
        leaves = self.topology.leaves
        steps = self.param(
            "steps", nn.initializers.constant(self.initial_step), (len(leaves),)
        )
        owners = np.repeat(np.arange(len(leaves)), [leaf.size for leaf in leaves])
        return changes * steps[owners][None, None]


class NeuronPermutationReader(nn.Module):
    """`NeuronPermutationNetwork` on rows.

    Attributes:
      topology: Architecture of the networks.
      num_outputs: Size of the output.
      width: Channels.
      num_layers: Number of equivariant layers.
    """

    topology: Topology
    num_outputs: int
    width: int = 32
    num_layers: int = 3

    @nn.compact
    def __call__(self, rows: jax.Array) -> jax.Array:
        """Maps rows `[B, M]` to `[B, num_outputs]`."""
        network = NeuronPermutationNetwork(
            self.num_outputs, self.width, self.num_layers, name="network"
        )
        return network(rows_to_weights(self.topology, rows))


class ProbingNetwork(nn.Module):
    """Reads what networks say at inputs that are learned; it sees no weights.

    Attributes:
      respond: `(rows [B, M], inputs [Q, I]) -> [B, Q, outputs]`, runs the networks.
      num_inputs: I.
      num_outputs: Size of the output.
      width: Hidden width.
      num_probes: Q.
    """

    respond: Callable[[jax.Array, jax.Array], jax.Array]
    num_inputs: int
    num_outputs: int
    width: int = 64
    num_probes: int = 64

    @nn.compact
    def __call__(self, rows: jax.Array) -> jax.Array:
        """Maps raw rows `[B, M]` to `[B, num_outputs]`."""

        def uniform(key, shape):
            return jax.random.uniform(key, shape, minval=-1.0)

        probes = self.param("probes", uniform, (self.num_probes, self.num_inputs))
        answers = self.respond(rows, probes)
        features = answers.reshape(len(rows), -1)
        sizes = (self.width, self.width, self.num_outputs)
        return MLP(sizes, name="output")(features)
