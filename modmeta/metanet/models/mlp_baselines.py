"""Metanetworks to compare with that read multilayer perceptrons of one shape alone.

Letters: L layers of the input network with n_0, ..., n_L units, C channels. Kernels
are `[..., n_(l-1), n_l, C]`, biases `[..., n_l, C]`, as in Flax with a last axis of
channels; leading axes are networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from modmeta.networks import MLP, Dense


class MLPWeights(NamedTuple):
    """Weights of multilayer perceptrons, or features of the same shape.

    Attributes:
      kernels: L arrays `[..., n_(l-1), n_l, C]`.
      biases: L arrays `[..., n_l, C]`.
    """

    kernels: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]


def mlp_weights(
    kernels: Sequence[jax.Array], biases: Sequence[jax.Array]
) -> MLPWeights:
    """Weights as features of one channel.

    Args:
      kernels: L arrays `[..., n_(l-1), n_l]`, first layer first.
      biases: L arrays `[..., n_l]`.

    Raises:
      ValueError: If the shapes are not those of a multilayer perceptron.
    """
    if len(kernels) != len(biases):
        raise ValueError(f"biases: found {len(biases)}, expected {len(kernels)}")
    for layer, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        units = kernel.shape[-2] if layer == 0 else biases[layer - 1].shape[-1]
        expected = (units, bias.shape[-1])
        if kernel.shape[-2:] != expected:
            raise ValueError(
                f"kernels[{layer}]: found {kernel.shape[-2:]} units, "
                f"expected {expected}"
            )
    return MLPWeights(
        tuple(kernel[..., None] for kernel in kernels),
        tuple(bias[..., None] for bias in biases),
    )


def map_weights(
    function: Callable[[jax.Array], jax.Array], weights: MLPWeights
) -> MLPWeights:
    """Applies a function to every kernel and every bias."""
    return MLPWeights(
        tuple(map(function, weights.kernels)), tuple(map(function, weights.biases))
    )


def _totals(weights: MLPWeights) -> jax.Array:
    """Means of every tensor over its units, side by side: `[..., 2 L C]`."""
    means = [jnp.mean(kernel, axis=(-3, -2)) for kernel in weights.kernels]
    means += [jnp.mean(bias, axis=-2) for bias in weights.biases]
    return jnp.concatenate(means, axis=-1)


class NeuronPermutationLinear(nn.Module):
    """The general linear map that commutes with permutations of units of every layer.

    Zhou et al. 2023 (arXiv 2302.14040), the NP layer, inputs and outputs permuted
    too; with means in place of sums, so that widths do not set the scale.

    Attributes:
      num_channels: Channels of the result.
    """

    num_channels: int

    @nn.compact
    def __call__(self, weights: MLPWeights) -> MLPWeights:
        """Maps weights of any number of channels to `num_channels`."""
        kernels, biases = weights
        last = len(kernels) - 1
        totals = _totals(weights)

        def linear(name, parts, use_bias=False):
            dense = Dense(self.num_channels, use_bias=use_bias, name=name)
            return dense(jnp.concatenate(parts, axis=-1))

        # Everything that belongs to a single unit: as a receiver and as a sender.
        received = [jnp.mean(kernel, axis=-3) for kernel in kernels]
        sent = [jnp.mean(kernel, axis=-2) for kernel in kernels]
        new_kernels, new_biases = [], []
        for layer, kernel in enumerate(kernels):
            outputs = [received[layer], biases[layer]]
            inputs = [sent[layer]]
            if layer < last:
                outputs.append(sent[layer + 1])
            if layer > 0:
                inputs += [received[layer - 1], biases[layer - 1]]
            shared = linear(f"kernel_totals_{layer}", [totals], use_bias=True)
            new_kernels.append(
                linear(f"kernel_{layer}", [kernel])
                + linear(f"kernel_outputs_{layer}", outputs)[..., None, :, :]
                + linear(f"kernel_inputs_{layer}", inputs)[..., :, None, :]
                + shared[..., None, None, :]
            )
            shared = linear(f"bias_totals_{layer}", [totals], use_bias=True)
            new_biases.append(linear(f"bias_{layer}", outputs) + shared[..., None, :])
        return MLPWeights(tuple(new_kernels), tuple(new_biases))


def with_positions(weights: MLPWeights) -> MLPWeights:
    """Weights, and positions of the units of input and output as further channels.

    Sines with as many periods as tell all units apart; hidden units have zeros.
    """
    last = len(weights.kernels) - 1
    num_inputs = weights.kernels[0].shape[-3]
    num_outputs = weights.biases[-1].shape[-2]
    num_frequencies = max(max(num_inputs, num_outputs) - 1, 1).bit_length()

    def positions(count):
        periods = 2.0 ** jnp.arange(1, num_frequencies + 1)
        angles = 2 * jnp.pi * jnp.arange(count)[:, None] / periods[None]
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

    def attach(values, *features):
        parts = [
            _broadcast(part, (*values.shape[:-1], part.shape[-1])) for part in features
        ]
        return jnp.concatenate([values, *parts], axis=-1)

    none = jnp.zeros((1, 2 * num_frequencies))
    outputs = positions(num_outputs)
    kernels = tuple(
        attach(
            kernel,
            positions(num_inputs)[:, None] if layer == 0 else none[None],
            outputs[None] if layer == last else none[None],
        )
        for layer, kernel in enumerate(weights.kernels)
    )
    biases = tuple(
        attach(bias, outputs if layer == last else none)
        for layer, bias in enumerate(weights.biases)
    )
    return MLPWeights(kernels, biases)


class NeuronPermutationNetwork(nn.Module):
    """NFN-NP with invariant pooling: one output per network.

    Sines of their positions, with as many periods as tell all of them apart, mark the
    units of input and output; the hidden ones stay interchangeable.

    Attributes:
      num_outputs: Size of the output.
      width: Channels and hidden width.
      num_layers: Number of equivariant layers.
    """

    num_outputs: int
    width: int = 32
    num_layers: int = 3

    @nn.compact
    def __call__(self, weights: MLPWeights) -> jax.Array:
        """Maps weights of one channel to `[..., num_outputs]`."""
        hidden = with_positions(weights)
        for layer in range(self.num_layers):
            hidden = NeuronPermutationLinear(self.width, name=f"layer_{layer}")(hidden)
            hidden = map_weights(nn.relu, hidden)
        return MLP((self.width, self.num_outputs), name="output")(_totals(hidden))


def _broadcast(features: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    missing = len(shape) - features.ndim
    return jnp.broadcast_to(features.reshape(*[1] * missing, *features.shape), shape)
