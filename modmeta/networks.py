"""Networks and banks of networks that both systems are built from.

A *bank* holds the parameters of several copies of one Flax module, stacked along a new
first axis of every leaf, so that all copies run as one batched computation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "silu": nn.silu,
    "gelu": nn.gelu,
    "elu": nn.elu,
    "tanh": nn.tanh,
}


def get_activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Looks up an activation function.

    Raises:
      ValueError: If the name is not in `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise ValueError(
            f"activation: found {name!r}, expected one of {sorted(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """A multilayer perceptron on the last axis.

    Attributes:
      sizes: Width of every layer, output included.
      activation: Name of the activation, see `ACTIVATIONS`.
      activate_output: Whether the activation follows the last layer too.
      layer_norm: Whether LayerNorm follows every hidden activation.
    """

    sizes: Sequence[int]
    activation: str = "relu"
    activate_output: bool = False
    layer_norm: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[..., features]` to `[..., sizes[-1]]`."""
        activation = get_activation(self.activation)
        hidden = inputs
        for index, size in enumerate(self.sizes):
            hidden = nn.Dense(size, name=f"layer_{index}")(hidden)
            is_output = index == len(self.sizes) - 1
            if not is_output or self.activate_output:
                hidden = activation(hidden)
            if not is_output and self.layer_norm:
                hidden = nn.LayerNorm(name=f"norm_{index}")(hidden)
        return hidden


def init_bank(module: nn.Module, rng_key: jax.Array, size: int, *inputs):
    """Initialises `size` copies of a module, every one with a key of its own.

    Args:
      module: The Flax module.
      rng_key: Consumed.
      size: Number of copies.
      *inputs: Example inputs of one copy.

    Returns:
      Parameters with leaves `[size, ...]`.
    """
    keys = jax.random.split(rng_key, size)
    return jax.vmap(lambda key: module.init(key, *inputs)["params"])(keys)


def apply_bank(module: nn.Module, params, *inputs, method=None):
    """Applies every copy to the same inputs; the output has a new first axis."""
    return jax.vmap(lambda p: module.apply({"params": p}, *inputs, method=method))(
        params
    )
