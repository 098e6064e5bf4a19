"""Input networks: the families whose parameters a metanetwork reads.

The families of Lim et al. 2023 (arXiv 2312.04501, appendix E) at our own small default
sizes. Every module maps `[batch, ..., features]` to `[batch, out_features]` and takes
`train: bool`, which chooses batch statistics and dropout; in training the statistics
are the mutable collection "batch_stats" and dropout draws from the stream "dropout".

A dropout rate may be a traced scalar, so that networks that differ in it alone train
as one batch: `dataclasses.replace(model, dropout_rate=rate)` inside the mapped
function. Neural fields, which map coordinates, are in
`modmeta.metanet.input_networks.fields`. The multilayer perceptron is
`modmeta.networks.MLP`, which has no `train`.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.input_networks.fields import SIREN as SIREN
from modmeta.metanet.input_networks.fields import GridField as GridField
from modmeta.metanet.input_networks.layers import DeepSetsDense, PatchConv
from modmeta.networks import MLP as MLP
from modmeta.networks import get_activation

NORMALIZATIONS = ("none", "batch", "group", "layer", "instance")
POSITIONS = ("none", "sinusoidal", "learned")


def _check_member(field: str, value: str, members: Sequence[str]) -> None:
    if value not in members:
        raise ValueError(f"{field}: found {value!r}, expected one of {list(members)}")


def _check_positive(**sizes: int) -> None:
    for field, size in sizes.items():
        if size < 1:
            raise ValueError(f"{field}: found {size}, expected at least 1")


def _convolution(use_patches: bool) -> type[nn.Conv]:
    return PatchConv if use_patches else nn.Conv


def _normalize(
    kind: str, hidden: jax.Array, *, train: bool, num_groups: int, name: str
) -> jax.Array:
    """Applies one of `NORMALIZATIONS`, as a child of the calling module."""
    if kind == "batch":
        return nn.BatchNorm(use_running_average=not train, name=name)(hidden)
    if kind == "group":
        return nn.GroupNorm(num_groups=num_groups, name=name)(hidden)
    if kind == "layer":
        return nn.LayerNorm(name=name)(hidden)
    if kind == "instance":
        return nn.InstanceNorm(name=name)(hidden)
    return hidden


def _drop(
    module: nn.Module,
    hidden: jax.Array,
    rate: float | jax.Array,
    *,
    train: bool,
    shared_axes: Sequence[int] = (),
) -> jax.Array:
    """Dropout at a rate that may be traced; one decision along every shared axis."""
    if not train or (isinstance(rate, float | int) and rate == 0):
        return hidden
    shape = [
        1 if axis in shared_axes else size for axis, size in enumerate(hidden.shape)
    ]
    is_kept = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, tuple(shape))
    return jnp.where(is_kept, hidden / (1.0 - rate), 0.0)


def _merge_space(inputs: jax.Array, num_dims: int) -> jax.Array:
    """Reads `[batch, *space, features]` row by row until `num_dims` axes are left."""
    num_found = inputs.ndim - 2
    if num_found < num_dims:
        raise ValueError(
            f"inputs: found shape {inputs.shape}, expected {num_dims} spatial axes"
        )
    if num_found == num_dims:
        return inputs
    first = inputs.shape[1 : 2 + num_found - num_dims]
    rest = inputs.shape[1 + len(first) :]
    return inputs.reshape(inputs.shape[0], int(np.prod(first)), *rest)


def sinusoidal_positions(length: int, features: int) -> np.ndarray:
    """A table `[length, features]` of sines and cosines of falling frequency.

    Feature 2i is `sin(p / 10000^(2i / features))` and 2i + 1 the cosine of the same
    angle (Vaswani et al. 2017, arXiv 1706.03762, section 3.5).
    """
    pairs = 2 * (np.arange(features) // 2)
    angles = np.arange(length)[:, None] / 10000.0 ** (pairs / features)
    return np.where(
        np.arange(features) % 2 == 0, np.sin(angles), np.cos(angles)
    ).astype(np.float32)


class ConvNet(nn.Module):
    """Convolutions in 1, 2 or 3 dimensions, a global mean, then dense layers.

    Every block is convolution, channel dropout, normalisation, activation.

    Attributes:
      out_features: Outputs.
      kernel_size: Extent of the kernel along every spatial axis. If the inputs have
        more spatial axes, the first ones are read row by row as a single one.
      channels: Width of every layer.
      num_conv_layers: Convolutions, at least 1.
      num_dense_layers: Dense layers, the last one included; at least 1.
      normalization: One of `NORMALIZATIONS`; "layer" is over the channels.
      num_groups: Groups of the group normalisation.
      activation: Name of the activation.
      dropout_rate: Probability that a channel is left out, may be traced.
      use_patches: Whether convolutions run as matrix products of patches.
    """

    out_features: int = 10
    kernel_size: tuple[int, ...] = (3, 3)
    channels: int = 16
    num_conv_layers: int = 2
    num_dense_layers: int = 1
    normalization: str = "none"
    num_groups: int = 2
    activation: str = "relu"
    dropout_rate: float | jax.Array = 0.0
    use_patches: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Maps `[batch, *space, features]` to `[batch, out_features]`."""
        _check_member("normalization", self.normalization, NORMALIZATIONS)
        _check_positive(
            num_conv_layers=self.num_conv_layers,
            num_dense_layers=self.num_dense_layers,
        )
        activation = get_activation(self.activation)
        conv = _convolution(self.use_patches)
        hidden = _merge_space(inputs, len(self.kernel_size))
        space = tuple(range(1, hidden.ndim - 1))
        for index in range(self.num_conv_layers):
            hidden = conv(self.channels, self.kernel_size, name=f"conv_{index}")(hidden)
            hidden = _drop(
                self, hidden, self.dropout_rate, train=train, shared_axes=space
            )
            hidden = _normalize(
                self.normalization,
                hidden,
                train=train,
                num_groups=self.num_groups,
                name=f"norm_{index}",
            )
            hidden = activation(hidden)
        hidden = jnp.mean(hidden, axis=space)
        for index in range(self.num_dense_layers - 1):
            hidden = nn.Dense(self.channels, name=f"dense_{index}")(hidden)
            hidden = activation(hidden)
        last = f"dense_{self.num_dense_layers - 1}"
        return nn.Dense(self.out_features, name=last)(hidden)


class DeepSets(nn.Module):
    """Pixels as a set: a pointwise stem, positions, set layers, a mean, a dense head.

    Attributes:
      out_features: Outputs.
      features: Width of every layer.
      num_set_layers: Equivariant layers.
      num_dense_layers: Dense layers after the mean, the last one included.
      normalization: One of `NORMALIZATIONS`, after every set layer.
      num_groups: Groups of the group normalisation.
      positions: "sinusoidal" or "none"; without them the order has no effect.
      activation: Name of the activation.
      dropout_rate: Probability that a feature is left out, may be traced.
    """

    out_features: int = 10
    features: int = 16
    num_set_layers: int = 2
    num_dense_layers: int = 1
    normalization: str = "none"
    num_groups: int = 2
    positions: str = "sinusoidal"
    activation: str = "relu"
    dropout_rate: float | jax.Array = 0.0

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Maps `[batch, *space, features]` to `[batch, out_features]`."""
        _check_member("normalization", self.normalization, NORMALIZATIONS)
        _check_member("positions", self.positions, ("none", "sinusoidal"))
        _check_positive(num_dense_layers=self.num_dense_layers)
        activation = get_activation(self.activation)
        elements = _merge_space(inputs, 1)
        hidden = activation(nn.Dense(self.features, name="stem")(elements))
        if self.positions == "sinusoidal":
            hidden = hidden + sinusoidal_positions(*hidden.shape[1:])[None]
        for index in range(self.num_set_layers):
            hidden = DeepSetsDense(self.features, name=f"set_{index}")(hidden)
            hidden = _drop(
                self, hidden, self.dropout_rate, train=train, shared_axes=(1,)
            )
            hidden = _normalize(
                self.normalization,
                hidden,
                train=train,
                num_groups=self.num_groups,
                name=f"norm_{index}",
            )
            hidden = activation(hidden)
        hidden = jnp.mean(hidden, axis=1)
        for index in range(self.num_dense_layers - 1):
            hidden = nn.Dense(self.features, name=f"dense_{index}")(hidden)
            hidden = activation(hidden)
        last = f"dense_{self.num_dense_layers - 1}"
        return nn.Dense(self.out_features, name=last)(hidden)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al. 2016).

    The shortcut is the identity, or a 1x1 convolution with BatchNorm where the number
    of channels or the extent changes.

    Attributes:
      channels: Channels out.
      stride: Stride of the first convolution.
      use_patches: Whether convolutions run as matrix products of patches.
    """

    channels: int
    stride: int = 1
    use_patches: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Maps `[batch, height, width, features]` to `[..., channels]`."""
        conv = _convolution(self.use_patches)

        def convolve(hidden, size, stride, name):
            hidden = conv(
                self.channels,
                (size, size),
                strides=(stride, stride),
                use_bias=False,
                name=f"{name}_conv",
            )(hidden)
            norm = nn.BatchNorm(use_running_average=not train, name=f"{name}_norm")
            return norm(hidden)

        hidden = nn.relu(convolve(inputs, 3, self.stride, "first"))
        hidden = convolve(hidden, 3, 1, "second")
        if self.stride != 1 or inputs.shape[-1] != self.channels:
            inputs = convolve(inputs, 1, self.stride, "shortcut")
        return nn.relu(hidden + inputs)


class ResNet(nn.Module):
    """A 5x5 stem with BatchNorm, residual blocks, a global mean, a dense head.

    Attributes:
      out_features: Outputs.
      stem_channels: Channels of the stem.
      block_channels: Channels of every block.
      block_strides: Stride of every block; ones if absent.
      use_patches: Whether convolutions run as matrix products of patches.
    """

    out_features: int = 10
    stem_channels: int = 8
    block_channels: Sequence[int] = (16, 16)
    block_strides: Sequence[int] | None = None
    use_patches: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Maps `[batch, height, width, features]` to `[batch, out_features]`."""
        strides = self.block_strides or (1,) * len(self.block_channels)
        if len(strides) != len(self.block_channels):
            raise ValueError(
                f"block_strides: found {len(strides)} strides, expected "
                f"{len(self.block_channels)}, one per block"
            )
        conv = _convolution(self.use_patches)
        hidden = conv(self.stem_channels, (5, 5), use_bias=False, name="stem_conv")(
            inputs
        )
        norm = nn.BatchNorm(use_running_average=not train, name="stem_norm")
        hidden = nn.relu(norm(hidden))
        blocks = zip(self.block_channels, strides, strict=True)
        for index, (channels, stride) in enumerate(blocks):
            block = BasicBlock(
                channels, stride, self.use_patches, name=f"block_{index}"
            )
            hidden = block(hidden, train)
        hidden = jnp.mean(hidden, axis=(1, 2))
        return nn.Dense(self.out_features, name="head")(hidden)


class VisionTransformer(nn.Module):
    """Patches as tokens, pre-norm transformer blocks, a dense head on one read-out.

    Dosovitskiy et al. 2021 (arXiv 2010.11929) without the norm before the head.

    Attributes:
      out_features: Outputs.
      features: Width of the tokens.
      num_heads: Heads of every attention layer; divides the width.
      num_blocks: Transformer blocks.
      patch_size: Extent of the square patches in pixels.
      expansion: Hidden width of the feed-forward layers over the width of the tokens.
      positions: One of `POSITIONS`, added to the tokens.
      use_class_token: Whether a learned token is put before the patches and read in
        the end, in place of the mean over tokens.
      dropout_rate: Probability that a feature is left out, before every residual
        sum; may be traced.
      use_patches: Whether the patch convolution runs as a matrix product.
    """

    out_features: int = 10
    features: int = 16
    num_heads: int = 2
    num_blocks: int = 2
    patch_size: int = 2
    expansion: int = 4
    positions: str = "sinusoidal"
    use_class_token: bool = False
    dropout_rate: float | jax.Array = 0.0
    use_patches: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Maps `[batch, height, width, channels]` to `[batch, out_features]`."""
        _check_member("positions", self.positions, POSITIONS)
        if self.features % self.num_heads:
            raise ValueError(
                f"num_heads: found {self.num_heads}, expected a divisor of features, "
                f"{self.features}"
            )
        patch = (self.patch_size, self.patch_size)
        tokens = _convolution(self.use_patches)(
            self.features, patch, strides=patch, padding="VALID", name="patches"
        )(inputs)
        tokens = tokens.reshape(tokens.shape[0], -1, self.features)
        if self.use_class_token:
            token = self.param(
                "class_token", nn.initializers.normal(0.02), (1, 1, self.features)
            )
            token = jnp.broadcast_to(token, (tokens.shape[0], 1, self.features))
            tokens = jnp.concatenate([token, tokens], axis=1)
        if self.positions == "sinusoidal":
            tokens = tokens + sinusoidal_positions(*tokens.shape[1:])[None]
        elif self.positions == "learned":
            table = self.param(
                "positions", nn.initializers.normal(0.02), (1, *tokens.shape[1:])
            )
            tokens = tokens + table
        for index in range(self.num_blocks):
            tokens = self._block(tokens, index, train)
        read = tokens[:, 0] if self.use_class_token else jnp.mean(tokens, axis=1)
        return nn.Dense(self.out_features, name="head")(read)

    def _block(self, tokens: jax.Array, index: int, train: bool) -> jax.Array:
        hidden = nn.LayerNorm(name=f"block_{index}_attention_norm")(tokens)
        attention = nn.MultiHeadDotProductAttention(
            self.num_heads, name=f"block_{index}_attention"
        )
        hidden = _drop(self, attention(hidden), self.dropout_rate, train=train)
        tokens = tokens + hidden
        hidden = nn.LayerNorm(name=f"block_{index}_dense_norm")(tokens)
        width = self.expansion * self.features
        hidden = nn.gelu(nn.Dense(width, name=f"block_{index}_expand")(hidden))
        hidden = nn.Dense(self.features, name=f"block_{index}_contract")(hidden)
        return tokens + _drop(self, hidden, self.dropout_rate, train=train)
