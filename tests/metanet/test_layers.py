"""Layers of input networks against slow NumPy loops, and `PatchConv` against Flax."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.metanet.input_networks import layers
from tests.metanet.small_networks import normal, random_variables


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
def test_deep_sets_dense_is_pointwise_plus_mean(use_bias):
    inputs = normal(2, 5, 3)
    module = layers.DeepSetsDense(4, use_bias)
    variables = random_variables(module, inputs)
    params = variables["params"]
    assert set(params) == {"pointwise", "mean"} | ({"bias"} if use_bias else set())
    expected = np.zeros((2, 5, 4))
    for batch, element, feature in np.ndindex(2, 5, 4):
        value = params["bias"][feature] if use_bias else 0.0
        for source in range(3):
            value += (
                inputs[batch, element, source] * params["pointwise"][source, feature]
            )
            for other in range(5):
                share = inputs[batch, other, source] / 5
                value += share * params["mean"][source, feature]
        expected[batch, element, feature] = value
    assert_close(module.apply(variables, inputs), expected)


@pytest.mark.parametrize("use_bias", [True, False])
def test_cyclic_dense_is_a_sum_over_shifts(use_bias):
    inputs = normal(2, 4, 3)
    module = layers.CyclicDense(5, use_bias)
    variables = random_variables(module, inputs)
    kernel = variables["params"]["kernel"]
    expected = np.zeros((2, 4, 5))
    for batch, element, shift in np.ndindex(2, 4, 4):
        source = inputs[batch, (element + shift) % 4]
        expected[batch, element] += source @ kernel[shift]
    if use_bias:
        expected += variables["params"]["bias"]
    assert_close(module.apply(variables, inputs), expected)


def test_cyclic_dense_commutes_with_shifts_but_not_with_a_swap():
    inputs = normal(4, 3)
    module = layers.CyclicDense(5)
    variables = random_variables(module, inputs)
    outputs = module.apply(variables, inputs)
    shifted = module.apply(variables, np.roll(inputs, 1, axis=0))
    assert_close(shifted, np.roll(outputs, 1, axis=0))
    swap = np.array([1, 0, 2, 3])
    swapped = module.apply(variables, inputs[swap])
    assert np.max(np.abs(swapped - outputs[swap])) > 0.1


def hat_sum(grid, coordinates):
    """Interpolation as a sum of all grid points times hat functions."""
    num_dims = grid.ndim - 1
    outputs = np.zeros((*coordinates.shape[:-1], grid.shape[-1]))
    for where in np.ndindex(*coordinates.shape[:-1]):
        for point in np.ndindex(*grid.shape[:-1]):
            weight = 1.0
            for axis in range(num_dims):
                size = grid.shape[axis]
                place = np.linspace(-1, 1, size)[point[axis]]
                distance = abs(coordinates[where][axis] - place) * (size - 1) / 2
                weight *= max(0.0, 1.0 - distance)
            outputs[where] += weight * grid[point]
    return outputs


def grid_coordinates(num_dims):
    """Interior points, every corner of the domain and points on grid lines."""
    corners = list(itertools.product([-1.0, 0.0, 1.0], repeat=num_dims))
    inside = np.random.default_rng(2).uniform(-1, 1, (6, num_dims))
    return np.concatenate([inside, corners]).astype(np.float32)


@pytest.mark.parametrize("num_dims", [1, 2])
def test_spatial_grid_is_a_sum_of_hat_functions(num_dims):
    coordinates = grid_coordinates(num_dims)
    module = layers.SpatialGrid(5, 3, num_dims)
    variables = random_variables(module, coordinates)
    expected = hat_sum(variables["params"]["grid"], coordinates)
    assert_close(module.apply(variables, coordinates), expected)
    outside = 3.0 * coordinates
    assert_close(
        module.apply(variables, outside),
        hat_sum(variables["params"]["grid"], np.clip(outside, -1, 1)),
    )


def test_triplanar_grid_sums_the_planes_xy_xz_yz():
    coordinates = grid_coordinates(3)
    module = layers.TriplanarGrid(4, 2)
    variables = random_variables(module, coordinates)
    planes = variables["params"]["planes"]
    assert planes.shape == (3, 4, 4, 2)
    x, y, z = np.moveaxis(coordinates, -1, 0)
    expected = hat_sum(planes[0], np.stack([x, y], -1))
    expected = expected + hat_sum(planes[1], np.stack([x, z], -1))
    expected = expected + hat_sum(planes[2], np.stack([y, z], -1))
    assert_close(module.apply(variables, coordinates), expected)


def test_wrong_grids_are_refused():
    with pytest.raises(ValueError, match="coordinates: found 3 .* expected 2"):
        layers.SpatialGrid(4, 2).init(jax.random.key(0), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="resolution: found 1"):
        layers.TriplanarGrid(1, 2).init(jax.random.key(0), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="num_dimensions: found 3"):
        layers.SpatialGrid(4, 2, 3).init(jax.random.key(0), np.zeros((5, 3)))


CONVOLUTIONS = {
    "line": ((2, 9, 4), {"kernel_size": (3,)}),
    "even kernel": ((2, 9, 4), {"kernel_size": (4,), "strides": 2}),
    "groups": ((2, 9, 8, 4), {"kernel_size": (3, 2), "feature_group_count": 2}),
    "strides": ((2, 9, 8, 4), {"kernel_size": (3, 3), "strides": (2, 3)}),
    "dilation": (
        (2, 9, 8, 4),
        {"kernel_size": (2, 3), "kernel_dilation": 2, "padding": "VALID"},
    ),
    "uneven padding": (
        (2, 5, 6, 4),
        {"kernel_size": (3, 3), "padding": ((2, 0), (1, 3)), "use_bias": False},
    ),
    "volume": ((2, 4, 5, 3, 2), {"kernel_size": (3, 2, 3), "padding": 1}),
    "circular": ((2, 9, 4), {"kernel_size": (3,), "padding": "CIRCULAR"}),
    "causal": ((2, 9, 4), {"kernel_size": (3,), "padding": "CAUSAL"}),
    "no batch": ((9, 8, 4), {"kernel_size": (3, 3)}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_patch_convolution_is_the_convolution_of_flax(name):
    shape, options = CONVOLUTIONS[name]
    inputs = normal(*shape)
    expected, found = nn.Conv(6, **options), layers.PatchConv(6, **options)
    variables = random_variables(expected, inputs)
    same = random_variables(found, inputs)
    assert jax.tree.structure(same) == jax.tree.structure(variables)
    assert_close(found.apply(variables, inputs), expected.apply(variables, inputs))


def test_patch_convolution_has_the_gradient_of_flax():
    inputs = normal(2, 6, 5, 3)
    options = {"kernel_size": (3, 3), "strides": 2}
    variables = random_variables(nn.Conv(4, **options), inputs)

    def gradient(module):
        def loss(variables, inputs):
            return jnp.sum(jnp.sin(module.apply(variables, inputs)))

        return jax.grad(loss, argnums=(0, 1))(variables, inputs)

    expected = gradient(nn.Conv(4, **options))
    found = gradient(layers.PatchConv(4, **options))
    jax.tree.map(assert_close, found, expected)


def test_patch_convolution_refuses_dilated_inputs():
    module = layers.PatchConv(4, (3,), input_dilation=2)
    with pytest.raises(ValueError, match="input_dilation: found"):
        module.init(jax.random.key(0), np.zeros((1, 8, 2)))
