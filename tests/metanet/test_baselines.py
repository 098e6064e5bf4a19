"""Baselines: what each one can see of a network, and sizes that match."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import flatten_util

from modmeta import networks
from modmeta.metanet.models import baselines, mlp_baselines
from tests.metanet import hand_made
from tests.metanet.test_models import assert_close, graph_of, random_params

WIDTHS = (2, 4, 3, 2)


def as_weights(tensors):
    kernels = [np.swapaxes(kernel, -1, -2) for kernel in tensors[::2]]
    return mlp_baselines.mlp_weights(kernels, tensors[1::2])


def permuted_pair(seed):
    """A network and the same function with hidden units in another order."""
    rng = np.random.default_rng(seed)
    tensors = hand_made.random_tensors(rng, WIDTHS)
    permutations = [np.roll(np.arange(width), 1) for width in WIDTHS[1:-1]]
    return tensors, hand_made.permute_hidden(tensors, permutations)


def test_deep_sets_sees_no_wiring():
    tensors, permuted = permuted_pair(0)
    # Same sets of weights in every layer, another function.
    broken = [permuted[0], *tensors[1:]]
    module = baselines.deep_sets(8, 2)
    params = random_params(module, graph_of(WIDTHS, tensors))
    apply = jax.jit(module.apply)
    expected = apply(params, graph_of(WIDTHS, tensors))
    assert_close(apply(params, graph_of(WIDTHS, permuted)), expected)
    assert_close(apply(params, graph_of(WIDTHS, broken)), expected)
    other = [tensors[0] + 0.5, *tensors[1:]]
    assert not np.allclose(apply(params, graph_of(WIDTHS, other)), expected, atol=1e-2)


def test_convolution_sees_the_order_of_units():
    tensors, permuted = permuted_pair(1)
    rows = [hand_made.flatten(tensors), hand_made.flatten(permuted)]
    weights = baselines.pad_weights(rows, 64)
    np.testing.assert_array_equal(weights[0, : len(rows[0])], rows[0])
    assert not weights[:, len(rows[0]) :].any()
    module = baselines.WeightConvolution(2, width=8, num_layers=4)
    params = random_params(module, weights)
    found = jax.jit(module.apply)(params, weights)
    assert found.shape == (2, 2)
    assert np.abs(found[0] - found[1]).max() > 1e-2
    with pytest.raises(ValueError, match="length: found 3, expected at least"):
        baselines.pad_weights(rows, 3)


@pytest.mark.parametrize("scales", [(), (3.0, 30.0)])
def test_convolution_equals_a_loop(scales):
    rng = np.random.default_rng(2)
    weights = rng.normal(size=7).astype(np.float32)
    module = baselines.WeightConvolution(
        1, width=3, num_layers=1, kernel_size=3, value_scales=scales
    )
    params = random_params(module, weights)
    layers = jax.tree.map(np.asarray, params["params"])

    def linear(layer, row):
        return row @ layer["kernel"] + layer["bias"]

    columns = [np.arcsinh(scale * weights) for scale in scales] or [weights]
    padded = np.pad(np.stack(columns, axis=-1), ((1, 1), (0, 0)))
    # The only layer has the fewest channels, width / 32 or one.
    hidden = [
        linear(layers["convolution_0"], padded[k : k + 3].ravel()) for k in range(7)
    ]
    hidden = (hidden - np.mean(hidden)) / np.sqrt(np.var(hidden) + 1e-6)
    hidden = hidden * layers["norm_0"]["scale"] + layers["norm_0"]["bias"]
    hidden = hand_made.relu(hidden)
    pooled = [np.maximum(hidden[2 * k], hidden[2 * k + 1]) for k in range(3)]
    pooled = [hand_made.relu(linear(layers["set"], row)) for row in pooled]
    output = layers["output"]
    expected = hand_made.relu(linear(output["layer_0"], np.mean(pooled, axis=0)))
    expected = linear(output["layer_1"], expected)
    assert_close(module.apply(params, weights), expected)


def test_statistics_equal_numpy():
    rng = np.random.default_rng(3)
    tensors = {"a": rng.normal(size=(3, 5)), "b": rng.normal(size=4)}
    found = baselines.tensor_statistics(jax.tree.map(jnp.asarray, tensors), 3)
    assert found.shape == (3, len(baselines.STATISTICS))
    for row, name in zip(found, "ab", strict=False):
        tensor = tensors[name]
        expected = [tensor.mean(), tensor.var(), tensor.min(), tensor.max()]
        expected += np.percentile(tensor, [25, 50, 75]).tolist()
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[2], 0.0)
    with pytest.raises(ValueError, match="num_tensors: found 1, expected at least 2"):
        baselines.tensor_statistics(tensors, 1)
    module = baselines.StatisticsNetwork(2, width=4)
    params = random_params(module, found)
    both = module.apply(params, jnp.stack([found, 2 * found]))
    assert_close(both[0], module.apply(params, found))
    assert np.abs(both[1] - both[0]).max() > 1e-3


def test_architecture_features_by_hand():
    topology = hand_made.topology(WIDTHS)
    found = baselines.architecture_features(topology, "mlp", ("cnn", "mlp"))
    num_nodes = 2 + (4 + 1) + (3 + 1) + (2 + 1)
    num_edges = 2 * 4 + 4 + 4 * 3 + 3 + 3 * 2 + 2
    num_hidden = (4 + 1 + 3 + 1 + 1) / 2
    logs = np.log1p([num_nodes, num_edges, num_edges, num_hidden])
    np.testing.assert_allclose(found, [0.0, 1.0, 3.0, *logs], rtol=1e-6)
    with pytest.raises(ValueError, match="family: found 'rnn', expected one of"):
        baselines.architecture_features(topology, "rnn", ("cnn", "mlp"))
    module = baselines.architecture_regressor(8, 3)
    assert isinstance(module, networks.MLP)
    assert tuple(module.sizes) == (8, 8, 3)


def group_elements(widths):
    """All permutations of the units of all layers."""
    per_layer = [list(itertools.permutations(range(width))) for width in widths]
    return [[np.array(p) for p in element] for element in itertools.product(*per_layer)]


def permute_all(weights, element):
    kernels = tuple(
        kernel[..., element[layer], :, :][..., element[layer + 1], :]
        for layer, kernel in enumerate(weights.kernels)
    )
    biases = tuple(
        bias[..., element[layer + 1], :] for layer, bias in enumerate(weights.biases)
    )
    return mlp_baselines.MLPWeights(kernels, biases)


def test_neuron_permutation_layer_is_equivariant_and_complete():
    widths = (2, 3, 2)
    rng = np.random.default_rng(4)
    layer = mlp_baselines.NeuronPermutationLinear(2)
    weights = as_weights(hand_made.random_tensors(rng, widths))
    params = random_params(layer, weights)
    apply = jax.jit(layer.apply)
    expected = apply(params, weights)
    elements = group_elements(widths)
    for element in elements[1::7]:
        found = apply(params, permute_all(weights, element))
        jax.tree.map(assert_close, found, permute_all(expected, element))
    found = apply(params, permute_all(weights, elements[-1]))
    assert not np.allclose(found.kernels[0], expected.kernels[0], atol=1e-2)

    # Burnside: maps that commute with a permutation representation form a space whose
    # dimension is the mean square number of fixed points.
    fixed = [[np.sum(p == np.arange(len(p))) for p in element] for element in elements]
    fixed = [sum(f[i] * f[i + 1] + f[i + 1] for i in range(2)) for f in fixed]
    dimension = np.mean(np.square(fixed))
    # One map per parameter that is not a bias; are they independent, and enough?
    layer = mlp_baselines.NeuronPermutationLinear(1)
    params = random_params(layer, weights)
    flat, unravel = flatten_util.ravel_pytree(params)
    is_bias = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, float(path[-1].key == "bias")), params
    )
    is_bias = np.asarray(flatten_util.ravel_pytree(is_bias)[0]) > 0
    size = hand_made.num_parameters(widths)
    units = [
        np.stack(rows)
        for rows in zip(
            *[hand_made.unflatten(row, widths) for row in np.eye(size)], strict=True
        )
    ]
    units = as_weights(units)

    @jax.jit
    @jax.vmap
    def matrix(flat):
        kernels, biases = layer.apply(unravel(flat), units)
        parts = [part.reshape(size, -1) for part in (*kernels, *biases)]
        return jnp.concatenate(parts, axis=-1)

    maps = matrix(jnp.eye(len(flat))[~is_bias])
    maps = np.asarray(maps).reshape(-1, size * size)
    assert np.linalg.matrix_rank(maps, tol=1e-4) == dimension == len(maps)


def test_functionals_see_everything_but_the_order_of_hidden_units():
    tensors, permuted = permuted_pair(5)
    broken = [permuted[0], *tensors[1:]]
    inputs_swapped = [tensors[0][:, ::-1], *tensors[1:]]
    outputs_swapped = [*tensors[:-2], tensors[-2][::-1], tensors[-1][::-1]]
    networks = [tensors, permuted, broken, inputs_swapped, outputs_swapped]
    stacked = [np.stack(parts) for parts in zip(*networks, strict=True)]
    module = mlp_baselines.NeuronPermutationNetwork(3, width=8)
    params = random_params(module, as_weights(tensors))
    apply = jax.jit(module.apply)
    found = apply(params, as_weights(stacked))
    assert found.shape == (5, 3)
    assert np.abs(found[1] - found[0]).max() < 1e-5
    for other in found[2:]:
        assert np.abs(other - found[0]).max() > 1e-4
    assert_close(found[0], apply(params, as_weights(tensors)))


def test_weights_of_other_networks_are_refused():
    tensors = hand_made.random_tensors(np.random.default_rng(6), (2, 3, 1))
    with pytest.raises(ValueError, match=r"kernels\[0\]: found \(3, 2\) units"):
        mlp_baselines.mlp_weights(tensors[::2], tensors[1::2])
    with pytest.raises(ValueError, match="biases: found 1, expected 2"):
        mlp_baselines.mlp_weights(tensors[::2], tensors[1:2])


def test_matched_width_is_the_nearest():
    inputs = np.zeros(5, np.float32)

    def count(width):
        return 5 * width + width + width * width + width + width + 1

    build = functools.partial(baselines.architecture_regressor, num_outputs=1)
    assert baselines.count_parameters(build(7), inputs) == count(7)
    for target in (30, 400, 1000, 1010, 20_000):
        found = baselines.match_width(build, target, inputs)
        assert found == min(range(2, 400, 2), key=lambda w: abs(count(w) - target))
    assert baselines.match_width(build, count(30), inputs, largest=32) == 30
    with pytest.raises(ValueError, match="target: found 100000 .* at most"):
        baselines.match_width(build, 100_000, inputs, largest=32)
    with pytest.raises(ValueError, match="target: found 3 .* or more"):
        baselines.match_width(build, 3, inputs)


def test_baselines_reach_the_size_of_a_metanet():
    tensors, _ = permuted_pair(7)
    weights = as_weights(tensors)
    target = 10_000
    builds = {
        "sets": (lambda w: baselines.deep_sets(w, 1), graph_of(WIDTHS, tensors)),
        "convolution": (
            lambda w: baselines.WeightConvolution(1, w, num_layers=4),
            np.zeros(64),
        ),
        "statistics": (lambda w: baselines.StatisticsNetwork(1, w), np.zeros((6, 7))),
        "permutation": (
            lambda w: mlp_baselines.NeuronPermutationNetwork(1, w, num_layers=2),
            weights,
        ),
    }
    for name, (build, inputs) in builds.items():
        # These halve the width somewhere.
        step = 2 if name == "sets" else 1
        width = baselines.match_width(build, target, inputs, step=step)
        found = baselines.count_parameters(build(width), inputs)
        assert abs(found - target) < 0.1 * target, name
