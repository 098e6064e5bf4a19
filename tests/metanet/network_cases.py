"""Small networks with all kinds of layers, for the tests of parameter graphs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.fixtures import as_array


class Network(nn.Module):
    """Any expression of layers as a model."""

    body: Callable[[nn.Module, Any], Any]

    @nn.compact
    def __call__(self, x):
        return self.body(self, x)


class Case(NamedTuple):
    body: Callable
    input_shape: tuple[int, ...]
    group_order: int | None = None  # number of symmetries, where known by hand


def mlp(module, x):
    x = nn.relu(nn.Dense(4)(x))
    x = nn.tanh(nn.Dense(3)(x))
    return nn.Dense(2)(x)


def cnn_1d(module, x):
    x = nn.relu(nn.Conv(4, (3,), padding="CIRCULAR")(x))
    x = nn.gelu(nn.Conv(3, (2,), strides=2, padding="VALID")(x))
    return nn.Dense(2)(jnp.mean(x, axis=1))


def cnn_2d_grouped(module, x):
    x = nn.relu(nn.Conv(4, (3, 3), kernel_dilation=2)(x))
    x = nn.silu(nn.Conv(6, (2, 2), feature_group_count=2, padding=1)(x))
    x = nn.avg_pool(x, (2, 2), (2, 2))
    return nn.Dense(2)(x.mean(axis=(1, 2)))


def depthwise(module, x):
    x = nn.relu(nn.Conv(3, (1, 1))(x))
    x = nn.relu(nn.Conv(6, (3, 3), feature_group_count=3)(x))
    return nn.Dense(2)(x.max(axis=(1, 2)))


def cnn_3d(module, x):
    x = nn.relu(nn.Conv(3, (2, 2, 2))(x))
    return nn.Dense(2)(jnp.sum(x, axis=(1, 2, 3)))


def norms(module, x):
    x = nn.Conv(4, (3, 3))(x)
    x = nn.BatchNorm(use_running_average=True)(x)
    x = nn.relu(x)
    x = nn.Conv(4, (1, 1), use_bias=False)(x)
    x = nn.GroupNorm(2)(x)
    x = nn.Conv(4, (1, 1))(x)
    x = nn.InstanceNorm(use_scale=False)(x)
    x = nn.LayerNorm(use_bias=False)(nn.Conv(3, (1, 1))(x))
    x = nn.RMSNorm()(nn.sigmoid(x))
    return nn.Dense(2)(x.mean(axis=(1, 2)))


def residual(module, x):
    x = nn.Dense(4)(x)
    for _ in range(2):
        x = x + nn.Dense(4)(nn.relu(nn.Dense(3)(nn.LayerNorm()(x))))
    return nn.Dense(2)(x - nn.relu(x))


def flatten(module, x):
    x = nn.relu(nn.Conv(3, (2, 2))(x))
    x = nn.max_pool(x, (2, 2), strides=(2, 2))
    return nn.Dense(2)(x.reshape((x.shape[0], -1)))


def gated(module, x):
    x = nn.Dense(4)(x) * nn.sigmoid(nn.Dense(4)(x))
    return nn.Dense(2)(x)


def gated_by_slices(module, x):
    x = nn.Dense(8)(x)
    x = x[:, :4] * nn.silu(x[:, 4:])
    return nn.Dense(2)(x)


def raw_parameters(module, x):
    weights = module.param("weights", nn.initializers.normal(1.0), (3, 4))
    bias = module.param("bias", nn.initializers.normal(1.0), (4,))
    gain = module.param("gain", nn.initializers.normal(1.0), (4,))
    level = module.param("level", nn.initializers.normal(1.0), ())
    x = jnp.sin(30.0 * (x @ weights + bias[None])) * nn.softplus(gain)[None]
    x = x - bias[None]
    return nn.Dense(2)(level * x)


def tokens(module, x):
    x = nn.Conv(4, (2, 2), strides=(2, 2))(x)
    x = x.reshape((x.shape[0], -1, 4))
    start = module.param("class", nn.initializers.normal(1.0), (1, 1, 4))
    start = jnp.broadcast_to(start, (x.shape[0], 1, 4))
    x = jnp.concatenate([start, x], axis=1)
    x = x + module.param("places", nn.initializers.normal(1.0), (1, 5, 4))
    x = x + nn.Dense(4)(nn.gelu(nn.Dense(3)(nn.LayerNorm()(x))))
    return nn.Dense(2)(x[:, 0])


def shared_weights(module, x):
    x = nn.relu(nn.Dense(4)(x))
    layer = nn.Dense(4)
    return nn.Dense(2)(layer(nn.relu(layer(x))))


def concatenated(module, x):
    x = nn.Dense(3)(x)
    x = jnp.concatenate([x, nn.Dense(2)(nn.relu(x))], axis=-1)
    return nn.Dense(2)(nn.LayerNorm()(x))


def repeated(module, x):
    x = nn.Dense(3)(x)
    x = jnp.concatenate([x[:, :1], nn.relu(x), x[:, 1:], x], axis=-1)
    return nn.Dense(2)(nn.LayerNorm()(x))


def constant_table(module, x):
    x = nn.Dense(4)(x) + np.linspace(-1.0, 1.0, 4, dtype=np.float32)[None]
    return nn.Dense(2)(nn.relu(x))


def general(module, x):
    x = nn.relu(nn.DenseGeneral((2, 3))(x))
    return nn.DenseGeneral(2, axis=(-2, -1))(x)


def transposed_convolution(module, x):
    x = nn.relu(nn.ConvTranspose(3, (2, 2), strides=(2, 2))(x))
    return nn.Conv(2, (1, 1))(x)


def mixer(module, x):
    x = nn.Dense(3)(x)
    x = x + jnp.swapaxes(nn.Dense(4)(jnp.swapaxes(x, 1, 2)), 1, 2)
    return nn.Dense(2)(nn.relu(x).mean(axis=1))


def maxout(module, x):
    x = nn.Dense(6)(x).reshape((-1, 3, 2)).max(axis=-1)
    return nn.log_softmax(nn.Dense(2)(x))


IMAGE = (2, 4, 4, 3)
CASES = {
    "mlp": Case(mlp, (2, 3), 24 * 6),
    "cnn_1d": Case(cnn_1d, (2, 6, 2), 24 * 6),
    "cnn_2d_grouped": Case(cnn_2d_grouped, IMAGE, 2 * 2**2 * 6**2),
    "depthwise": Case(depthwise, IMAGE, 6 * 2**3),
    "cnn_3d": Case(cnn_3d, (2, 3, 3, 3, 2), 6),
    "norms": Case(norms, IMAGE, 24 * 2 * 2**2 * 24 * 6),
    "residual": Case(residual, (2, 3), 24 * 6**2),
    "flatten": Case(flatten, IMAGE, 6),
    "gated": Case(gated, (2, 3), 24),
    "gated_by_slices": Case(gated_by_slices, (2, 3), 24),
    "raw_parameters": Case(raw_parameters, (2, 3), 24),
    "tokens": Case(tokens, IMAGE, 24 * 6),
    "shared_weights": Case(shared_weights, (2, 3), 24),
    "concatenated": Case(concatenated, (2, 3), 6 * 2),
    "repeated": Case(repeated, (2, 3), 2),
    "constant_table": Case(constant_table, (2, 3), 1),
    "general": Case(general, (2, 3), 720),
    "transposed_convolution": Case(transposed_convolution, IMAGE, 6),
    "mixer": Case(mixer, (2, 4, 3), 6),
    "maxout": Case(maxout, (2, 3), 6 * 2**3),
}


def make(name_or_case):
    """A model, its variables with random values everywhere, and an input."""
    case = CASES[name_or_case] if isinstance(name_or_case, str) else name_or_case
    model = Network(case.body)
    rng = np.random.default_rng(0)
    x = rng.normal(size=case.input_shape).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: as_array(
            rng.uniform(0.5, 1.5, leaf.shape)  # a variance must be positive
            if "var" in str(path[-1])
            else 0.7 * rng.normal(size=leaf.shape),
            leaf.dtype,
        ),
        shapes,
    )
    return model, variables, x
