"""Encoders of the features of nodes and edges.

Encoders follow Lim et al. 2023 (arXiv 2312.04501) and its public release: the sine of
a linear map for scalars, embeddings for types, one linear map of all of them.
Deviations: a reversed edge says so; layer numbers enter raw and as a share of the
depth, so that deeper networks stay in range; functions and attributes of nodes are
features; the edge value enters as it is too, next to its sines; phases of the sines
start uniform.

Letters as in `modmeta.metanet.models.features`; H is the width.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.input_networks.sines import polynomial_sine
from modmeta.metanet.models.features import NUM_TYPES, EdgeTable, NodeFeatures
from modmeta.metanet.models.normalized import Linear, as_row, edge_products
from modmeta.networks import Dense

SCALAR_ENCODINGS = ("sine", "fourier")
FOURIER_SCALE = 3.0
SMALL_ATTRIBUTE = 1e-8


class ScalarEncoder(nn.Module):
    """Periodic features of a few numbers.

    Attributes:
      width: Number of features, even for "fourier".
      encoding: "sine" for the sine of a learned linear map, "fourier" for sine and
        cosine at fixed Gaussian frequencies of scale `FOURIER_SCALE`.
    """

    width: int
    encoding: str = "sine"

    @nn.compact
    def __call__(self, numbers: jax.Array) -> jax.Array:
        """Maps `[..., numbers]` to `[..., width]`."""
        if self.encoding == "sine":
            phases = nn.initializers.uniform(2 * np.pi)
            dense = Linear(self.width, phases, name="Dense_0")
            kernel, bias = dense(numbers.shape[-1])
            # Few numbers: sums of products are faster than a matrix product.
            angles = as_row(bias, numbers)
            for index, row in enumerate(kernel):
                angles = angles + numbers[..., index, None] * as_row(row, numbers)
            return polynomial_sine(angles)
        shape = (numbers.shape[-1], self.width // 2)
        # The same frequencies in every model: they are part of the architecture.
        frequencies = FOURIER_SCALE * jax.random.normal(jax.random.key(0), shape)
        angles = 2 * jnp.pi * (numbers @ frequencies)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class NodeEncoder(nn.Module):
    """Embeds the features of nodes.

    Attributes:
      width: Size of the embedding, even.
      encoding: See `ScalarEncoder`.
    """

    width: int
    encoding: str = "sine"

    @nn.compact
    def __call__(self, nodes: NodeFeatures) -> jax.Array:
        """Maps features of N nodes to `[N, width]`, with responses `[N, B, width]`."""
        half = self.width // 2

        def scalars(name):
            return ScalarEncoder(half, self.encoding, name=name)

        # The inverse hyperbolic sine tames extents and values of powers. On its second
        # scale, the epsilons of normalisations differ from each other.
        parts = [
            scalars("layers")(nodes.layers),
            scalars("orders")(nodes.orders[:, None]),
            nn.Embed(NUM_TYPES, half, name="types")(nodes.types),
            jnp.arcsinh(nodes.functions),
            jnp.arcsinh(nodes.attributes),
            jnp.arcsinh(nodes.attributes / SMALL_ATTRIBUTE) / 10,
        ]
        encoded = Dense(self.width, name="output")(jnp.concatenate(parts, axis=-1))
        if nodes.responses is None:
            return encoded
        responses = Dense(self.width, use_bias=False, name="responses")(nodes.responses)
        return match_batch(encoded, responses) + responses


class EdgeEncoder(nn.Module):
    """Embeds the features of edges.

    Attributes:
      width: Size of the embedding, even.
      encoding: See `ScalarEncoder`.
      direction_flag: Whether a reversed edge is told from its original.
      rescale_by_fan_in: Whether values are multiplied by the fan-in, which undoes the
        shrinking of weights with width.
      value_scales: See `modmeta.metanet.models.options.MetanetConfig`.
    """

    width: int
    encoding: str = "sine"
    direction_flag: bool = True
    rescale_by_fan_in: bool = False
    value_scales: tuple[float, ...] = ()

    @nn.compact
    def __call__(
        self, values: jax.Array, rows: jax.Array, table: EdgeTable
    ) -> jax.Array:
        """Maps features of F edges to `[F, width]` or `[F, B, width]`.

        Args:
          values: `[F]` or `[F, B]`.
          rows: `[F]` rows of the table.
          table: `[kinds, ...]`.
        """
        half = self.width // 2
        parts = [
            ScalarEncoder(half, self.encoding, name="layers")(table.layers),
            nn.Embed(NUM_TYPES, half, name="types")(table.types),
            ScalarEncoder(half, self.encoding, name="positions")(table.positions),
        ]
        if self.direction_flag:
            parts.append(table.is_reversed[:, None].astype(jnp.float32))
        # Once per kind; only what depends on the values is done per edge.
        fixed = Dense(self.width, name="output_fixed")(jnp.concatenate(parts, axis=-1))
        fan_ins = match_batch(jnp.asarray(table.fan_ins)[rows], values)
        if self.rescale_by_fan_in:
            values = values * fan_ins
        # Of a network that diverged, a raw value would hide all that is small.
        scalars = scaled_values(values, fan_ins, self.value_scales) or [values]
        encoder = ScalarEncoder(half, self.encoding, name="values")
        encoded = encoder(scalars[0][..., None])
        # A cut kernel, so that values and their encodings need not be joined.
        size = len(scalars)
        kernel, _ = Linear(self.width, None, name="output_values")(size + half)
        (varying,) = edge_products(encoded, (kernel[size:],))
        for scalar, row in zip(scalars, kernel, strict=False):
            varying = varying + scalar[..., None] * as_row(row, varying)
        return varying + match_batch(fixed[rows], varying)


def scaled_values(
    values: jax.Array, fan_ins: jax.Array, scales: tuple[float, ...]
) -> list[jax.Array]:
    """Inverse hyperbolic sines of values `[F, (B)]` at several scales, two for each.

    Args:
      values: Of edges.
      fan_ins: `[F, (1)]` of the same edges.
      scales: See `modmeta.metanet.models.options.MetanetConfig.value_scales`.
    """
    both = [at_scales(part, scales) for part in (values, values * jnp.sqrt(fan_ins))]
    return [scalar for pair in zip(*both, strict=True) for scalar in pair]


def at_scales(values: jax.Array, scales: tuple[float, ...]) -> list[jax.Array]:
    """Inverse hyperbolic sines of values times every scale: small and huge in range."""
    return [jnp.arcsinh(scale * values) for scale in scales]


def match_batch(features: jax.Array, like: jax.Array) -> jax.Array:
    """Adds the axis of networks after the first, if `like` has one more axis."""
    features = jnp.asarray(features)
    return features[:, None] if like.ndim > features.ndim else features
