"""Metanetworks to compare with, for networks of any architecture.

From the least to the most informed: the architecture alone, without weights;
statistics of every tensor (Unterthiner et al. 2020, arXiv 2002.11448); the set of all
parameters with their features, as a graph metanetwork that passes no messages; a
convolution along the flat vector of weights ("DMC", Eilertsen et al. 2020, arXiv
2002.05688). Those that read multilayer perceptrons alone are in
`modmeta.metanet.models.mlp_baselines`. `match_width` gives them all the same number of
parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.models.encoders import at_scales
from modmeta.metanet.models.gmn import MetanetConfig
from modmeta.metanet.models.readouts import InvariantMetanet
from modmeta.networks import MLP, Dense

if TYPE_CHECKING:
    from modmeta.metanet.parameter_graphs.topology import Topology

STATISTICS = ("mean", "variance", "minimum", "maximum", "25 %", "50 %", "75 %")


def count_parameters(module: nn.Module, *inputs: Any) -> int:
    """Number of parameters of a module; nothing is computed.

    Args:
      module: The module.
      *inputs: Example inputs.
    """
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def match_width(
    build: Callable[[int], nn.Module],
    target: int,
    *inputs: Any,
    step: int = 2,
    largest: int = 8192,
) -> int:
    """The width at which a module has most nearly `target` parameters.

    Args:
      build: From a width to a module; more width must not mean fewer parameters.
      target: Number of parameters to match.
      *inputs: Example inputs of the module.
      step: Only multiples of it are widths.
      largest: Largest width that is tried.

    Returns:
      The width.

    Raises:
      ValueError: If the target lies beyond the smallest or the largest width.
    """

    @functools.cache
    def count(multiple):
        return count_parameters(build(multiple * step), *inputs)

    def guess(below, above):
        """Where counts, nearly squares of a linear function, reach the target."""
        low, root, high = (np.sqrt(n) for n in (count(below), target, count(above)))
        return below + (above - below) * (root - low) / max(high - low, 1e-9)

    below, above = 1, 1
    while count(above) < target:
        if (above + 1) * step > largest:
            raise ValueError(
                f"target: found {target} parameters, expected at most "
                f"{count(above)}, those of width {above * step}"
            )
        further = 4 * above
        if below < above:
            further = min(max(round(guess(below, above)) + 1, above + 1), 16 * above)
        below, above = above, min(further, largest // step)
    if above == 1 and count(1) > 2 * target:
        raise ValueError(
            f"target: found {target} parameters, expected about {count(1)} or more, "
            f"those of width {step}"
        )
    while above - below > 1:
        middle = min(max(round(guess(below, above)), below + 1), above - 1)
        below, above = (middle, above) if count(middle) < target else (below, middle)
    return step * min((below, above), key=lambda width: abs(count(width) - target))


def deep_sets(width: int, num_outputs: int) -> InvariantMetanet:
    """A network on the set of edges: encoder, mean, MLP, and no messages."""
    return InvariantMetanet(MetanetConfig(width=width, num_blocks=0), num_outputs)


def pad_weights(vectors: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Flat weights of several networks as rows, with zeros after the shorter ones.

    Args:
      vectors: One flat vector of parameters per network.
      length: Length of the rows.

    Returns:
      `[networks, length]` float32.

    Raises:
      ValueError: If a vector is longer.
    """
    rows = np.zeros((len(vectors), length), np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        if len(vector) > length:
            raise ValueError(
                f"length: found {length}, expected at least {len(vector)}, the "
                "parameters of the largest network"
            )
        row[: len(vector)] = vector
    return rows


class WeightConvolution(nn.Module):
    """Convolutions along the flat vector of weights, then a mean over positions.

    Convolution, normalisation, ReLU and max-pooling by two, again and again, with
    channels that grow from width / 32 to width. Deviation from the public code of the
    baseline: normalisation within a network in place of batch norm, because the
    prediction for one network may not depend on others; values at several scales, if
    asked for.

    Attributes:
      num_outputs: Size of the output.
      width: Largest number of channels.
      num_layers: Number of convolutions; pooling stops at length one.
      kernel_size: Weights under a kernel, odd.
      value_scales: Factors at which weights enter, as inverse hyperbolic sines, a
        channel for each; empty: as they are.
    """

    num_outputs: int
    width: int = 64
    num_layers: int = 10
    kernel_size: int = 5
    value_scales: tuple[float, ...] = ()

    @nn.compact
    def __call__(self, weights: jax.Array) -> jax.Array:
        """Maps `[..., length]` to `[..., num_outputs]`."""
        scaled = at_scales(weights, self.value_scales) or [weights]
        hidden = jnp.stack(scaled, axis=-1)
        for layer in range(self.num_layers):
            growth = layer / max(self.num_layers - 1, 1)
            channels = max(1, round(self.width * 32.0 ** (growth - 1)))
            hidden = self._convolve(hidden, channels, f"convolution_{layer}")
            norm = nn.LayerNorm(reduction_axes=(-2, -1), name=f"norm_{layer}")
            hidden = nn.relu(norm(hidden))
            if hidden.shape[-2] > 1:
                even = hidden.shape[-2] // 2 * 2
                hidden = jnp.maximum(hidden[..., 0:even:2, :], hidden[..., 1:even:2, :])
        hidden = nn.relu(Dense(self.width, name="set")(hidden))
        hidden = jnp.mean(hidden, axis=-2)
        return MLP((self.width, self.num_outputs), name="output")(hidden)

    def _convolve(self, values, channels, name):
        # Patches and a product: on CPU, XLA convolutions within scans are slow.
        margin = self.kernel_size // 2
        padding = [(0, 0)] * (values.ndim - 2) + [(margin, margin), (0, 0)]
        padded = jnp.pad(values, padding)
        length = values.shape[-2]
        patches = [padded[..., k : k + length, :] for k in range(self.kernel_size)]
        return Dense(channels, name=name)(jnp.concatenate(patches, axis=-1))


def tensor_statistics(variables: Any, num_tensors: int) -> jax.Array:
    """Statistics of every tensor of a network: the features of StatNN.

    Args:
      variables: Tree of tensors.
      num_tensors: Number of tensors that the features have room for; zeros fill up.

    Returns:
      `[num_tensors, 7]` in the order of the leaves, see `STATISTICS`.

    Raises:
      ValueError: If there are more tensors.
    """
    tensors = jax.tree.leaves(variables)
    if len(tensors) > num_tensors:
        raise ValueError(
            f"num_tensors: found {num_tensors}, expected at least {len(tensors)}"
        )
    shares = jnp.array([0.25, 0.5, 0.75])
    rows = []
    for tensor in tensors:
        tensor = jnp.ravel(tensor)
        moments = [jnp.mean(tensor), jnp.var(tensor), jnp.min(tensor), jnp.max(tensor)]
        rows.append(jnp.concatenate([jnp.stack(moments), jnp.quantile(tensor, shares)]))
    missing = jnp.zeros((num_tensors - len(tensors), len(STATISTICS)))
    return jnp.concatenate([jnp.stack(rows), missing])


class StatisticsNetwork(nn.Module):
    """StatNN: a multilayer perceptron on `tensor_statistics`.

    Attributes:
      num_outputs: Size of the output.
      width: Hidden width.
      num_layers: Number of hidden layers.
    """

    num_outputs: int
    width: int = 64
    num_layers: int = 2

    @nn.compact
    def __call__(self, statistics: jax.Array) -> jax.Array:
        """Maps `[..., num_tensors, 7]` to `[..., num_outputs]`."""
        features = statistics.reshape(*statistics.shape[:-2], -1)
        sizes = (*[self.width] * self.num_layers, self.num_outputs)
        return MLP(sizes, name="output")(features)


def architecture_features(
    topology: Topology, family: str, families: Sequence[str]
) -> np.ndarray:
    """What is known of a network without its weights.

    Args:
      topology: Its topology.
      family: Name of its family of architectures.
      families: All families.

    Returns:
      `[len(families) + 5]` float32: one-hot family; depth; logarithms of the numbers
      of units, edges and parameters, and of the mean number of units in a hidden layer.

    Raises:
      ValueError: If the family is unknown.
    """
    if family not in families:
        raise ValueError(f"family: found {family!r}, expected one of {families}")
    num_layers = int(np.max(topology.node_layers, initial=0))
    num_hidden = int(np.sum(np.asarray(topology.node_orders) < 0))
    counts = [
        topology.num_nodes,
        topology.num_edges,
        topology.num_parameters,
        num_hidden / max(num_layers - 1, 1),
    ]
    one_hot = [float(family == other) for other in families]
    features = [*one_hot, num_layers, *np.log1p(counts)]
    return np.array(features, np.float32)


def architecture_regressor(width: int, num_outputs: int, num_layers: int = 2) -> MLP:
    """A multilayer perceptron on `architecture_features`."""
    return MLP((*[width] * num_layers, num_outputs))
