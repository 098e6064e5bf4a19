"""Layers of input networks that Flax does not have.

All of them act on the last axis and leave leading axes alone. Letters: G elements of a
set or of a cyclic group, I and O features in and out, N points along one axis of a
grid, F features of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

PLANES = ((0, 1), (0, 2), (1, 2))
"""Axes of the planes of a triplanar grid, in the order of the parameter: xy, xz, yz."""


class DeepSetsDense(nn.Module):
    """The linear map of sets that is equivariant to the order of the elements.

    Every element gets `pointwise` times itself, plus `mean` times the mean over the set
    (Zaheer et al. 2017, arXiv 1703.06114, equation 4, with a mean for the sum).

    Attributes:
      features: O.
      use_bias: Whether a bias is added.
    """

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[..., G, I]` to `[..., G, O]`."""
        shape = (inputs.shape[-1], self.features)
        # Two maps add up, so that each has half of the usual variance.
        initializer = nn.initializers.variance_scaling(
            0.5, "fan_in", "truncated_normal"
        )
        pointwise = self.param("pointwise", initializer, shape)
        mean = self.param("mean", initializer, shape)
        outputs = inputs @ pointwise + jnp.mean(inputs, axis=-2, keepdims=True) @ mean
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
            outputs = outputs + jnp.expand_dims(bias, range(outputs.ndim - 1))
        return outputs


class CyclicDense(nn.Module):
    """The linear map of signals on a cyclic group that is equivariant to its shifts.

    `outputs[g] = sum_s inputs[(g + s) mod G] @ kernel[s] + bias`, a group convolution
    with a filter as long as the group (Cohen & Welling 2016, arXiv 1602.07576).

    Attributes:
      features: O.
      use_bias: Whether a bias is added.
    """

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[..., G, I]` to `[..., G, O]`."""
        size, num_inputs = inputs.shape[-2:]
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (size, num_inputs, self.features)
        )
        elements = np.arange(size)
        shifted = inputs[..., (elements[:, None] + elements[None, :]) % size, :]
        outputs = jnp.einsum("...gsi,sio->...go", shifted, kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
            outputs = outputs + jnp.expand_dims(bias, range(outputs.ndim - 1))
        return outputs


def _corner(coordinates: jax.Array, resolution: int) -> tuple[jax.Array, jax.Array]:
    """The grid point below every coordinate, and the way to the next, in [0, 1]."""
    scaled = (jnp.clip(coordinates, -1.0, 1.0) + 1.0) * (0.5 * (resolution - 1))
    lower = jnp.clip(jnp.floor(scaled), 0, resolution - 2)
    return lower.astype(jnp.int32), scaled - lower


def interpolate(grid: jax.Array, coordinates: jax.Array) -> jax.Array:
    """Samples features between the points of a grid, linearly along every axis.

    Args:
      grid: `[N, F]` or `[N, M, F]`; the first and the last point of an axis lie at -1
        and 1, so that axis d of the grid is coordinate d.
      coordinates: `[..., 1]` or `[..., 2]`, clipped to [-1, 1].

    Returns:
      `[..., F]`.
    """
    lower, ways = zip(
        *(
            _corner(coordinates[..., axis], grid.shape[axis])
            for axis in range(grid.ndim - 1)
        ),
        strict=True,
    )
    if len(lower) == 1:
        (row,), (way,) = lower, ways
        way = way[..., None]
        return grid[row] * (1 - way) + grid[row + 1] * way
    (row, column), (row_way, column_way) = lower, ways
    row_way, column_way = row_way[..., None], column_way[..., None]
    here = grid[row, column] * (1 - column_way) + grid[row, column + 1] * column_way
    row = row + 1
    there = grid[row, column] * (1 - column_way) + grid[row, column + 1] * column_way
    return here * (1 - row_way) + there * row_way


def _check_grid(num_found: int, num_expected: int, resolution: int) -> None:
    if num_found != num_expected:
        raise ValueError(
            f"coordinates: found {num_found} on the last axis, expected {num_expected}"
        )
    if resolution < 2:
        raise ValueError(f"resolution: found {resolution}, expected at least 2")


class SpatialGrid(nn.Module):
    """Learned features on a line or in a square, interpolated linearly.

    Attributes:
      resolution: N, points along every axis, at least 2.
      features: F.
      num_dimensions: 1 or 2.
    """

    resolution: int
    features: int
    num_dimensions: int = 2

    @nn.compact
    def __call__(self, coordinates: jax.Array) -> jax.Array:
        """Maps `[..., num_dimensions]` in [-1, 1] to `[..., F]`.

        Raises:
          ValueError: If an attribute or the last axis is not as documented.
        """
        if self.num_dimensions not in (1, 2):
            raise ValueError(
                f"num_dimensions: found {self.num_dimensions}, expected 1 or 2"
            )
        _check_grid(coordinates.shape[-1], self.num_dimensions, self.resolution)
        shape = (self.resolution,) * self.num_dimensions + (self.features,)
        grid = self.param("grid", nn.initializers.normal(1.0), shape)
        return interpolate(grid, coordinates)


class TriplanarGrid(nn.Module):
    """Learned features in a cube: the sum of samples of three planes (EG3D).

    After Chan et al. 2022, arXiv 2112.07945. Plane p is sampled at the two coordinates
    `PLANES[p]`, its first axis being the first of them.

    Attributes:
      resolution: N, points along every axis, at least 2.
      features: F.
    """

    resolution: int
    features: int

    @nn.compact
    def __call__(self, coordinates: jax.Array) -> jax.Array:
        """Maps `[..., 3]` in [-1, 1] to `[..., F]`.

        Raises:
          ValueError: If the resolution or the last axis is not as documented.
        """
        _check_grid(coordinates.shape[-1], 3, self.resolution)
        shape = (len(PLANES), self.resolution, self.resolution, self.features)
        planes = self.param("planes", nn.initializers.normal(1.0), shape)
        return sum(
            interpolate(planes[index], coordinates[..., list(axes)])
            for index, axes in enumerate(PLANES)
        )


def convolve_by_patches(
    inputs: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    feature_group_count: int = 1,
    precision: Any = None,
    **unused: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` as one matrix product of patches.

    Inside a scan on CPU the convolution of XLA is several times slower than this.

    Args:
      inputs: `[batch, *space, I]`.
      kernel: `[*window, I / groups, O]`.
      window_strides: One per spatial axis.
      padding: "SAME", "VALID", or zeros before and after every spatial axis.
      lhs_dilation: Must be ones.
      rhs_dilation: Dilation of the kernel.
      feature_group_count: Number of groups of channels.
      precision: As in `lax.dot_general`.
      **unused: Layout, which is fixed to that of Flax.

    Returns:
      `[batch, *new space, O]`.

    Raises:
      ValueError: If the input is dilated.
    """
    del unused
    if any(step != 1 for step in lhs_dilation):
        raise ValueError(f"input_dilation: found {tuple(lhs_dilation)}, expected ones")
    window, num_dims = kernel.shape[:-2], kernel.ndim - 2
    reach = [(k - 1) * step + 1 for k, step in zip(window, rhs_dilation, strict=True)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(
            inputs.shape[1:-1], reach, window_strides, padding
        )
    padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    shape = [
        (extent - size) // stride + 1
        for extent, size, stride in zip(
            padded.shape[1:-1], reach, window_strides, strict=True
        )
    ]

    def view(offsets):
        starts = [o * step for o, step in zip(offsets, rhs_dilation, strict=True)]
        spans = zip(starts, shape, window_strides, strict=True)
        slices = (slice(s, s + (n - 1) * by + 1, by) for s, n, by in spans)
        return padded[(slice(None), *slices)]

    offsets = [()]
    for size in window:
        offsets = [(*offset, index) for offset in offsets for index in range(size)]
    patches = jnp.stack([view(offset) for offset in offsets], axis=num_dims + 1)
    groups, features = feature_group_count, kernel.shape[-1]
    if groups == 1:
        patches = patches.reshape(*patches.shape[:-2], -1)
        kernel = kernel.reshape(-1, features)
        return jnp.matmul(patches, kernel, precision=precision)
    patches = patches.reshape(*patches.shape[:-1], groups, -1)
    kernel = kernel.reshape(math.prod(window), -1, groups, features // groups)
    outputs = jnp.einsum("...kgi,kigo->...go", patches, kernel, precision=precision)
    return outputs.reshape(*outputs.shape[:-2], features)


def _get_convolve_by_patches():
    return convolve_by_patches


class PatchConv(nn.Conv):
    """`flax.linen.Conv`, same attributes and parameters, by `convolve_by_patches`."""

    conv_general_dilated_cls: Any = _get_convolve_by_patches
