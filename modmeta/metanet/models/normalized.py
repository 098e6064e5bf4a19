"""A linear map of normalised rows in fewer passes over the rows.

LayerNorm and the linear map after it are one matrix product, whose rows are scaled: the
mean of a row is taken off by the matrix, and what is constant is left to the caller,
who adds it where there are fewer rows. Parameters are named and drawn as those of
`flax.linen.LayerNorm` and `flax.linen.Dense`.

Letters: I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta.networks import row_product

_EPSILON = 1e-6  # of Flax
_LEAST_VARIANCE = 1e-6


class Norm(nn.Module):
    """The parameters of a LayerNorm."""

    @nn.compact
    def __call__(self, inputs: int) -> tuple[jax.Array, jax.Array]:
        """Scale and bias, `[inputs]` each."""
        return (
            self.param("scale", nn.initializers.ones, (inputs,)),
            self.param("bias", nn.initializers.zeros, (inputs,)),
        )


class Linear(nn.Module):
    """The parameters of a dense layer, for those who apply them otherwise.

    Attributes:
      outputs: O.
      bias_init: Draws the bias; None: there is none.
    """

    outputs: int
    bias_init: Callable | None = nn.initializers.zeros

    @nn.compact
    def __call__(self, inputs: int) -> tuple[jax.Array, Any]:
        """Kernel `[inputs, O]` and bias `[O]`, or None."""
        shape = (inputs, self.outputs)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        if self.bias_init is None:
            return kernel, None
        return kernel, self.param("bias", self.bias_init, (self.outputs,))


class TypeNorm(nn.Module):
    """A shift and a scale per type, which set features to mean 0 and deviation 1.

    That holds for the rows that the parameters are drawn with; then they are learned as
    all others are ("ActNorm", Kingma and Dhariwal 2018, arXiv 1807.03039). What differs
    between networks is a small part of what differs between types of their weights, and
    would be learned as slowly. Rows far from those of the start are brought nearer by
    an inverse hyperbolic sine.

    Attributes:
      num_types: Number of types.
    """

    num_types: int

    @nn.compact
    def __call__(
        self, rows: jax.Array, types: jax.Array, is_real: jax.Array
    ) -> jax.Array:
        """Maps `[R, (B,) F]` to the same shape.

        Args:
          rows: The features.
          types: `[R]` type of every row.
          is_real: `[R]` false at rows that do not count.
        """
        features = rows.shape[-1]
        parts = rows.reshape(len(rows), -1, features)

        def mean_of(values):
            weights = is_real.astype(rows.dtype)
            zeros = jnp.zeros((self.num_types, features))
            total = zeros.at[types].add(jnp.mean(values, axis=1) * weights[:, None])
            counts = jnp.zeros(self.num_types).at[types].add(weights)
            return total / jnp.maximum(counts, 1.0)[:, None]

        def first_scale(_):
            variance = mean_of(jnp.square(parts - mean_of(parts)[types][:, None]))
            # Where there is one row, or rows are equal, nothing is known of a scale.
            varies = variance > _LEAST_VARIANCE
            return jnp.where(varies, jax.lax.rsqrt(jnp.where(varies, variance, 1)), 1.0)

        mean = self.param("mean", lambda _: mean_of(parts))
        scale = self.param("scale", first_scale)
        shape = (len(rows), *[1] * (rows.ndim - 2), features)
        mean, scale = (leaf[types].reshape(shape) for leaf in (mean, scale))
        return jnp.arcsinh((rows - mean) * scale)


def as_row(vector: jax.Array, rows: jax.Array) -> jax.Array:
    """A vector `[O]` with as many axes as rows `[..., I]`."""
    return vector.reshape((1,) * (rows.ndim - 1) + (-1,))


@jax.custom_jvp
def edge_products(rows: jax.Array, kernels: tuple[jax.Array, ...]) -> list[jax.Array]:
    """`[..., I]` times several `[I, O]`, derived in either direction.

    The gradient of the kernels is one product of the transposed rows, which are written
    down first: XLA's CPU compiler takes a third longer to read them across.
    """
    return [row_product(rows, kernel) for kernel in kernels]


@edge_products.defjvp
def _edge_products_jvp(primals, tangents):
    rows, kernels = primals
    change_of_rows, changes_of_kernels = tangents
    across = jax.lax.optimization_barrier(rows.reshape(-1, rows.shape[-1]).T)
    joined = jnp.concatenate(changes_of_kernels, axis=1)
    # Transposed by reverse differentiation: `across` times changes of the products.
    change = jax.lax.dot_general(across, joined, (((0,), (0,)), ((), ())))
    change = change.reshape(*rows.shape[:-1], -1)
    change = change + row_product(change_of_rows, jnp.concatenate(kernels, axis=1))
    ends = np.cumsum([kernel.shape[1] for kernel in kernels])[:-1]
    return edge_products(rows, kernels), jnp.split(change, ends, axis=-1)


def normalized_product(
    rows: jax.Array, norm: tuple[jax.Array, jax.Array], kernel: jax.Array
) -> jax.Array:
    """LayerNorm without its bias, then a linear map: `[..., I]` to `[..., O]`.

    Args:
      rows: `[..., I]`.
      norm: Scale and bias of the LayerNorm; what the bias adds to every row is
        `constant_of`.
      kernel: `[I, O]`.
    """
    scaled = norm[0][:, None] * kernel
    mean = jnp.mean(rows, axis=-1, keepdims=True)
    square = jnp.mean(jnp.square(rows), axis=-1, keepdims=True)
    variance = jnp.maximum(0.0, square - jnp.square(mean))
    (product,) = edge_products(
        rows, (scaled - jnp.mean(scaled, axis=0, keepdims=True),)
    )
    return product * jax.lax.rsqrt(variance + _EPSILON)


def constant_of(
    norm: tuple[jax.Array, jax.Array], linear: tuple[jax.Array, Any]
) -> jax.Array:
    """What a LayerNorm and the dense layer after it add to every row: `[O]`."""
    return norm[1] @ linear[0] + linear[1]
