"""A node module whose first layer is linear in the messages, as in the paper."""

from __future__ import annotations

import flax.linen as nn
import jax

from modmeta import networks

# Small: training starts from the baseline prediction.
FIRST_OUTPUTS_SCALE = 0.1


class NodeModule(nn.Module):
    """Maps summed messages and a node's own state to its predicted change.

    The first layer is linear in the messages, so messages can be projected once, one
    by one, and any structure then only adds them up: see `modmeta.relational.energies`.

    Attributes:
      sizes: Hidden layers.
      output_size: Number of outputs.
      activation: Name of the activation.
    """

    sizes: tuple[int, ...]
    output_size: int
    activation: str

    def setup(self) -> None:
        """Creates the layers."""
        self.message_layer = networks.Dense(self.sizes[0], use_bias=False)
        self.state_layer = networks.Dense(self.sizes[0])
        self.hidden_layers = [networks.Dense(size) for size in self.sizes[1:]]
        self.output_layer = networks.Dense(
            self.output_size,
            kernel_init=nn.initializers.variance_scaling(
                FIRST_OUTPUTS_SCALE**2, "fan_in", "normal"
            ),
        )

    def embed(self, states: jax.Array) -> jax.Array:
        """Embeds own states `[..., F]` to `[..., H]`."""
        return self.state_layer(states)

    def update(self, hidden: jax.Array) -> jax.Array:
        """Maps projected messages plus embedded state `[..., H]` to the outputs."""
        activation = networks.get_activation(self.activation)
        hidden = activation(hidden)
        for layer in self.hidden_layers:
            hidden = activation(layer(hidden))
        return self.output_layer(hidden)

    def __call__(self, messages: jax.Array, states: jax.Array) -> jax.Array:
        """Summed messages `[..., message_size]`, states `[..., F]` to outputs."""
        return self.update(self.message_layer(messages) + self.embed(states))
