"""Small input networks with every kind of layer, for the tests of metanetworks."""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet import trace
from modmeta.metanet.input_networks import layers
from modmeta.metanet.input_networks.architectures import (
    SIREN,
    ConvNet,
    DeepSets,
    GridField,
    ResNet,
    VisionTransformer,
)
from modmeta.metanet.parameter_graphs.vocabulary import NODE_TYPES
from modmeta.networks import MLP


def random_variables(model, *inputs, seed=0, **options):
    """All leaves drawn anew: no bias is zero; scales and variances are positive."""
    shapes = jax.eval_shape(
        lambda key: model.init(key, *inputs, **options), jax.random.key(0)
    )
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape).astype(np.float32)
        is_positive = path[-1].key in ("var", "scale")
        return np.abs(values) + np.float32(0.5) if is_positive else values / 2

    return jax.tree_util.tree_map_with_path(draw, shapes)


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def nodes_of(topology, node_type):
    return np.nonzero(topology.node_types == NODE_TYPES.id(node_type))[0]


IMAGES = normal(2, 4, 4, 2)
SEQUENCES = normal(2, 4, 3)
TOKENS = np.array([[1, 4, 2, 0], [3, 3, 1, 4]])


class Sandwich(nn.Module):
    """A layer between two dense ones, so that all of its units are hidden."""

    layer: nn.Module
    width: int = 4

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.tanh(nn.Dense(self.width, name="first")(inputs))
        hidden = nn.tanh(self.layer(hidden))
        return nn.Dense(2, name="last")(hidden)


class SelfAttending(nn.Module):
    num_heads: int = 2
    qkv_features: int = 6
    is_causal: bool = False
    use_bias: bool = True

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.Dense(4, name="first")(inputs)
        mask = nn.make_causal_mask(inputs[..., 0]) if self.is_causal else None
        hidden = nn.MultiHeadDotProductAttention(
            self.num_heads,
            qkv_features=self.qkv_features,
            out_features=5,
            use_bias=self.use_bias,
            name="attention",
        )(hidden, mask=mask)
        return nn.Dense(2, name="last")(nn.tanh(hidden))


class CrossAttending(nn.Module):
    """Queries of one input, keys of a second, values of a third."""

    @nn.compact
    def __call__(self, queries, keys, values):
        attention = nn.MultiHeadDotProductAttention(
            2, qkv_features=4, out_features=3, name="attention"
        )
        return nn.Dense(2, name="last")(nn.tanh(attention(queries, keys, values)))


class Language(nn.Module):
    """Word and position embeddings, the latter with constant indices."""

    @nn.compact
    def __call__(self, tokens):
        words = nn.Embed(5, 3, name="words")(tokens)
        places = nn.Embed(tokens.shape[1], 3, name="places")
        hidden = words + places(jnp.arange(tokens.shape[1]))[None]
        hidden = nn.tanh(nn.Dense(4, name="first")(hidden))
        return nn.Dense(2, name="last")(jnp.mean(hidden, axis=1))


class WarpedGrid(nn.Module):
    """A grid at coordinates that are hidden units."""

    num_dims: int

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.tanh(nn.Dense(self.num_dims, name="first")(inputs))
        if self.num_dims == 3:
            grid = layers.TriplanarGrid(2, 3, name="grid")
        else:
            grid = layers.SpatialGrid(3, 3, self.num_dims, name="grid")
        return nn.Dense(2, name="last")(nn.tanh(grid(hidden)))


class Residual(nn.Module):
    """A stream of 4 channels with a branch of 3 units."""

    @nn.compact
    def __call__(self, inputs):
        stream = nn.Dense(4, name="first")(inputs)
        hidden = nn.tanh(nn.Dense(3, name="expand")(stream))
        stream = stream + nn.Dense(4, name="contract")(hidden)
        return nn.Dense(2, name="last")(nn.tanh(stream))


class Network(NamedTuple):
    """A network, its inputs, and the number of permutations of its units."""

    model: nn.Module
    inputs: tuple
    order: int


def fac(*sizes):
    return math.prod(math.factorial(size) for size in sizes)


NETWORKS = {
    "MLP": Network(MLP((4, 3, 2)), (SEQUENCES,), fac(4, 3)),
    "SIREN": Network(SIREN((4, 3), 2, output_offset=0.5), (SEQUENCES,), fac(4, 3)),
    "ConvNet": Network(
        ConvNet(2, channels=3, num_dense_layers=2, normalization="batch"),
        (IMAGES,),
        fac(3, 3, 3),
    ),
    "ConvNet 1-D": Network(
        ConvNet(2, (3,), channels=4, normalization="group", use_patches=True),
        (IMAGES,),
        # Two groups of two: the groups move, and the channels within a group.
        fac(2, 2, 2) ** 2,
    ),
    "ConvNet 3-D": Network(
        ConvNet(2, (2, 2, 2), channels=3, normalization="instance"),
        (normal(2, 3, 3, 3, 1),),
        fac(3, 3),
    ),
    "DeepSets": Network(
        # The table of positions keeps the channels of the stem in place.
        DeepSets(2, features=3, normalization="layer"),
        (IMAGES,),
        fac(3, 3),
    ),
    "ResNet": Network(
        # One stream of stem and first block, one of the second; two branches.
        ResNet(2, 3, (3, 4), (1, 2)),
        (IMAGES,),
        fac(3, 3, 4, 4),
    ),
    "ViT": Network(
        VisionTransformer(2, 4, num_heads=2, num_blocks=1, expansion=1),
        (IMAGES,),
        # Heads, query and value dimensions of two heads, hidden units; the channels
        # of tokens stay in place for the table of positions.
        fac(2, 2, 2, 2, 2, 4),
    ),
    "ViT, class token": Network(
        VisionTransformer(
            2, 4, 2, 1, expansion=1, positions="learned", use_class_token=True
        ),
        (IMAGES,),
        fac(4, 2, 2, 2, 2, 2, 4),
    ),
    "GridField 1-D": Network(GridField(4, 2, (3,)), (IMAGES[..., :1],), fac(2, 3)),
    "GridField 2-D": Network(GridField(3, 2, (3,)), (IMAGES,), fac(2, 3)),
    "GridField 3-D": Network(GridField(2, 2, (3,)), (SEQUENCES,), fac(2, 3)),
    "attention": Network(SelfAttending(), (SEQUENCES,), fac(4, 2, 3, 3, 3, 3, 5)),
    "attention, one head": Network(
        SelfAttending(1, 3, use_bias=False), (SEQUENCES,), fac(4, 3, 3, 5)
    ),
    "attention, causal": Network(
        SelfAttending(3, 3, is_causal=True), (SEQUENCES,), fac(4, 3, 5)
    ),
    "attention, crossed": Network(
        CrossAttending(),
        (SEQUENCES, normal(2, 5, 2), normal(2, 5, 3, seed=4)),
        fac(2, 2, 2, 2, 2, 3),
    ),
    "language": Network(Language(), (TOKENS,), fac(3, 4)),
    "set": Network(Sandwich(layers.DeepSetsDense(3)), (SEQUENCES,), fac(4, 3)),
    "cyclic": Network(Sandwich(layers.CyclicDense(3)), (SEQUENCES,), fac(4, 3)),
    "warped line": Network(WarpedGrid(1), (SEQUENCES,), fac(3)),
    "warped square": Network(WarpedGrid(2), (SEQUENCES,), fac(3)),
    "warped cube": Network(WarpedGrid(3), (SEQUENCES,), fac(3)),
    "conv": Network(Sandwich(nn.Conv(3, (3, 2))), (IMAGES,), fac(4, 3)),
    "patch conv": Network(Sandwich(layers.PatchConv(3, (3, 2))), (IMAGES,), fac(4, 3)),
    "grouped conv": Network(
        Sandwich(layers.PatchConv(6, (3,), feature_group_count=2)),
        (SEQUENCES,),
        # Groups move on both sides together.
        fac(2) * fac(2, 2) * fac(3, 3),
    ),
    "residual": Network(Residual(), (SEQUENCES,), fac(4, 3)),
}


@functools.cache
def compiled(name):
    network = NETWORKS[name]
    variables = random_variables(network.model, *network.inputs)
    topology = trace(network.model, variables, *network.inputs)
    forward = jax.jit(lambda tree: network.model.apply(tree, *network.inputs))
    return topology, forward, variables
