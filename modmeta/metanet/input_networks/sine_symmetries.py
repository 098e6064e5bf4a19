"""Symmetries of networks of sines: signs and half turns of hidden units.

`sin(-z) = -sin z` and `sin(z + k pi) = (-1)^k sin z`: a unit may have its incoming
weights and bias negated, or its phase turned by half turns, if its outgoing weights
change their sign with its output. The network computes the same function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class SineLayer(NamedTuple):
    """A dense layer of B networks.

    Attributes:
      bias: `[B, out]`.
      kernel: `[B, in, out]`.
    """

    bias: jax.Array
    kernel: jax.Array


def draw_equal_networks(
    rng_key: jax.Array, layers: Sequence[SineLayer], omega: float, half_turns: int
) -> list[SineLayer]:
    """Other weights of the same functions.

    Args:
      rng_key: Consumed.
      layers: Of multilayer perceptrons whose hidden units compute
        `sin(omega (kernel x + bias))`; the last layer is linear.
      omega: Angular frequency of all hidden layers.
      half_turns: Phases are turned by at most so many, either way; 0 for signs alone.

    Returns:
      Layers of the same shapes. Every hidden unit is negated with probability one half.
    """
    layers = list(layers)
    for index in range(len(layers) - 1):
        bias, kernel = layers[index]
        key_sign, key_turns = jax.random.split(jax.random.fold_in(rng_key, index))
        signs = jax.random.rademacher(key_sign, bias.shape, bias.dtype)
        turns = jax.random.randint(key_turns, bias.shape, -half_turns, half_turns + 1)
        layers[index] = SineLayer(
            signs * bias + turns * (jnp.pi / omega), signs[:, None, :] * kernel
        )
        outer = signs * (1 - 2 * (turns % 2))
        following = layers[index + 1]
        layers[index + 1] = following._replace(
            kernel=outer[:, :, None] * following.kernel
        )
    return layers


def canonical_networks(layers: Sequence[SineLayer], omega: float) -> list[SineLayer]:
    """Weights of the same functions, the same for all that differ by a symmetry.

    Args:
      layers: See `draw_equal_networks`.
      omega: Angular frequency of all hidden layers.

    Returns:
      Layers of the same shapes. The phase of every hidden unit, `omega bias`, is from 0
      to a quarter turn; where a phase is 0 or a quarter turn, two signs remain. Units
      are in the order in which they were.
    """
    layers = list(layers)
    for index in range(len(layers) - 1):
        bias, kernel = layers[index]
        turns = jnp.round(omega * bias / jnp.pi)
        bias = bias - turns * (jnp.pi / omega)
        signs = jnp.where(bias < 0, -1.0, 1.0)
        layers[index] = SineLayer(signs * bias, signs[:, None, :] * kernel)
        outer = signs * (1 - 2 * (turns % 2))
        following = layers[index + 1]
        layers[index + 1] = following._replace(
            kernel=outer[:, :, None] * following.kernel
        )
    return layers
