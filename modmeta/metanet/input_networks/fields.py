"""Neural fields: input networks that map coordinates to values.

They take `train: bool` like all input networks, which has no effect on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.input_networks.layers import SpatialGrid, TriplanarGrid
from modmeta.metanet.input_networks.sines import polynomial_sine
from modmeta.networks import MLP


def _uniform(reach: float):
    def initializer(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -reach, reach)

    return initializer


class SIREN(nn.Module):
    """A multilayer perceptron with sine activations and a linear last layer.

    Sitzmann et al. 2020, arXiv 2006.09661, section 3.2: hidden kernels are uniform in
    `+-sqrt(6 / I) / omega`, the first one in `+-1 / I`, biases in `+-1 / sqrt(I)`.
    The networks of Navon et al. 2023 (arXiv 2301.12780) are had by zero biases, no
    wide first layer and an output offset of 0.5.

    Attributes:
      hidden_sizes: Width of every hidden layer.
      out_features: Outputs.
      first_omega: Angular frequency of the first layer.
      hidden_omega: Angular frequency of the later ones.
      output_offset: Constant added to the outputs.
      zero_biases: Whether biases start at zero.
      wide_first_layer: Whether the first kernel has a range of its own.
      use_polynomial: Whether sines are polynomials, see `sines.polynomial_sine`: the
        same function to rounding, faster where many networks train at once on a CPU.
    """

    hidden_sizes: Sequence[int] = (32, 32)
    out_features: int = 1
    first_omega: float = 30.0
    hidden_omega: float = 30.0
    output_offset: float = 0.0
    zero_biases: bool = False
    wide_first_layer: bool = True
    use_polynomial: bool = False

    def _dense(self, index: int, size: int, num_inputs: int) -> nn.Dense:
        reach = np.sqrt(6.0 / num_inputs) / self.hidden_omega
        if index == 0 and self.wide_first_layer:
            reach = 1.0 / num_inputs
        bias_reach = 0.0 if self.zero_biases else 1.0 / np.sqrt(num_inputs)
        return nn.Dense(
            size,
            kernel_init=_uniform(reach),
            bias_init=_uniform(bias_reach),
            name=f"layer_{index}",
        )

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Maps `[..., coordinates]` to `[..., out_features]`."""
        del train
        sine = polynomial_sine if self.use_polynomial else jnp.sin
        hidden = inputs
        for index, size in enumerate(self.hidden_sizes):
            omega = self.hidden_omega if index else self.first_omega
            dense = self._dense(index, size, hidden.shape[-1])
            hidden = sine(omega * dense(hidden))
            self.sow("intermediates", "units", hidden)
        last = len(self.hidden_sizes)
        outputs = self._dense(last, self.out_features, hidden.shape[-1])(hidden)
        return outputs + self.output_offset if self.output_offset else outputs


class GridField(nn.Module):
    """A neural field: features of a learned grid at the coordinates, then an MLP.

    The grid is a line, a square, or for three coordinates a triplanar grid.

    Attributes:
      resolution: Grid points along every axis.
      grid_features: Features of the grid.
      hidden_sizes: Width of every hidden layer.
      out_features: Outputs.
      activation: Name of the activation of the hidden layers.
    """

    resolution: int = 8
    grid_features: int = 4
    hidden_sizes: Sequence[int] = (32, 32)
    out_features: int = 1
    activation: str = "relu"

    @nn.compact
    def __call__(self, coordinates: jax.Array, train: bool = False) -> jax.Array:
        """Maps `[..., 1, 2 or 3]` in [-1, 1] to `[..., out_features]`."""
        del train
        num_dimensions = coordinates.shape[-1]
        if num_dimensions == 3:
            grid = TriplanarGrid(self.resolution, self.grid_features, name="grid")
        else:
            grid = SpatialGrid(
                self.resolution, self.grid_features, num_dimensions, name="grid"
            )
        sizes = (*self.hidden_sizes, self.out_features)
        return MLP(sizes, self.activation, name="mlp")(grid(coordinates))
