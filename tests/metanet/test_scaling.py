"""Scale symmetries: the function stays, the canonical form is one per orbit."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.metanet.input_networks.architectures import (
    SIREN,
    ConvNet,
    DeepSets,
    GridField,
    ResNet,
    VisionTransformer,
)
from modmeta.metanet.input_networks.layers import CyclicDense
from modmeta.metanet.parameter_graphs import scaling
from modmeta.metanet.parameter_graphs.tracing import trace
from modmeta.networks import MLP
from tests.metanet.small_networks import normal, random_variables

POINTS = normal(5, 3)
IMAGES = normal(2, 4, 4, 3)


class CyclicNet(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        hidden = nn.relu(CyclicDense(5)(inputs))
        hidden = nn.leaky_relu(CyclicDense(4)(hidden))
        return nn.Dense(2)(jnp.max(hidden, axis=1))


class FlatNet(nn.Module):
    """Max pooling, then a dense layer on all pixels."""

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.relu(nn.Conv(5, (3, 3))(inputs))
        hidden = nn.max_pool(hidden, (2, 2), (2, 2))
        hidden = nn.relu(nn.Dense(6)(hidden.reshape(len(hidden), -1)))
        return nn.Dense(2)(hidden)


class LanguageNet(nn.Module):
    """Units of an embedding are linear: they may be scaled too."""

    @nn.compact
    def __call__(self, tokens):
        hidden = jnp.mean(nn.Embed(7, 4)(tokens), axis=1)
        return nn.Dense(2)(nn.relu(nn.Dense(5)(hidden)))


# Network, its input, and the number of groups that can be scaled.
NETWORKS = {
    "MLP": (MLP((6, 5, 2)), POINTS, 11),
    "ConvNet": (ConvNet(3, channels=4, num_dense_layers=2), IMAGES, 12),
    "DeepSets": (DeepSets(3, features=4, positions="none"), IMAGES, 12),
    "CyclicNet": (CyclicNet(), normal(2, 3, 2), 9),
    "FlatNet": (FlatNet(), IMAGES, 11),
    "GridField": (GridField(3, 2, (4,), 1), np.tanh(POINTS), 6),
    "LanguageNet": (LanguageNet(), np.array([[1, 2, 6], [0, 3, 3]]), 9),
}


@functools.cache
def compiled(name):
    """The graph and the forward pass of a network, made once."""
    model, inputs, _ = NETWORKS[name]
    topology = trace(model, random_variables(model, inputs), inputs)
    return topology, jax.jit(lambda variables: model.apply(variables, inputs))


@functools.cache
def canonicalizer(name):
    """Brings variables to their canonical form, in one program."""
    topology, _ = compiled(name)
    return jax.jit(lambda tree: scaling.canonicalize_scaling(topology, tree))


@functools.cache
def scaler(name):
    """Draws factors and scales variables by them, in one program."""
    topology, _ = compiled(name)

    @jax.jit
    def scale(key, tree, spread):
        factors = scaling.sample_scaling(key, topology, spread=spread)
        return scaling.apply_scaling(topology, tree, factors), factors

    return scale


def setup(name):
    model, inputs, num_groups = NETWORKS[name]
    return (*compiled(name), random_variables(model, inputs), num_groups)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_scaling_changes_the_weights_of_all_groups_and_not_the_function(name):
    topology, forward, variables, num_groups = setup(name)
    groups = scaling.scale_groups(topology).node_groups
    assert groups.max() == num_groups
    scaled, factors = scaler(name)(jax.random.key(3), variables, 0.5)
    assert len(np.unique(factors)) == num_groups + 1
    expected = forward(variables)
    assert_close(forward(scaled), expected)
    # Half of the symmetry, outgoing weights left as they are, is none.
    only_incoming = np.where(np.arange(len(groups)) == np.argmax(groups > 0), 3.0, 1.0)
    edges = topology.parameter_edges
    vector = np.asarray(topology.flatten(variables))
    vector = np.float32(vector * only_incoming[topology.receivers[edges]])
    broken = forward(topology.unflatten(vector))
    assert np.max(np.abs(broken - expected)) > 1e-2


@pytest.mark.parametrize("name", NETWORKS)
def test_canonical_form_is_one_per_orbit(name):
    _, forward, variables, _ = setup(name)
    scaled, _ = scaler(name)(jax.random.key(3), variables, 1.0)
    canonicalize = canonicalizer(name)
    canonical = canonicalize(variables)
    assert_close(forward(canonical), forward(variables))
    same = canonicalize(scaled)
    jax.tree.map(assert_close, same, canonical)
    again = canonicalize(canonical)
    jax.tree.map(assert_close, again, canonical)


def test_canonical_perceptron_against_a_loop():
    _, _, variables, _ = setup("MLP")
    params = jax.tree.map(np.array, variables["params"])
    for name, following in [("layer_0", "layer_1"), ("layer_1", "layer_2")]:
        for unit in range(params[name]["kernel"].shape[1]):
            weights = params[name]["kernel"][:, unit]
            bias = params[name]["bias"][unit]
            norm = np.sqrt(np.sum(weights**2) + bias**2)
            params[name]["kernel"][:, unit] /= norm
            params[name]["bias"][unit] /= norm
            params[following]["kernel"][unit] *= norm
    found = canonicalizer("MLP")(variables)
    jax.tree.map(assert_close, found["params"], params)


def test_networks_differ_after_canonicalisation_unless_they_are_of_one_orbit():
    _, _, variables, _ = setup("MLP")
    other = random_variables(*NETWORKS["MLP"][:2], seed=5)
    first, second = map(canonicalizer("MLP"), (variables, other))
    distances = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), first, second)
    assert min(jax.tree.leaves(distances)) > 0.1


def test_dead_units_stay():
    _, forward, variables, _ = setup("MLP")
    layer = variables["params"]["layer_0"]
    layer["kernel"] = np.where(np.arange(6)[None] == 2, 0, layer["kernel"])
    layer["bias"] = np.where(np.arange(6) == 2, 0, layer["bias"])
    canonical = canonicalizer("MLP")(variables)
    assert_close(forward(canonical), forward(variables))
    assert not np.any(canonical["params"]["layer_0"]["kernel"][:, 2])


def test_canonicalisation_of_many_networks_at_once():
    topology, _, _, _ = setup("MLP")
    trees = [random_variables(*NETWORKS["MLP"][:2], seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
    canonicalize = jax.jit(
        jax.vmap(lambda tree: scaling.canonicalize_scaling(topology, tree))
    )
    found = canonicalize(stacked)
    for index, tree in enumerate(trees):
        expected = canonicalizer("MLP")(tree)
        jax.tree.map(lambda a, b, i=index: assert_close(a[i], b), found, expected)


class Tied(nn.Module):
    """One layer used twice; only its last use may be scaled, which is no unit's."""

    @nn.compact
    def __call__(self, inputs):
        layer = nn.Dense(3)
        return nn.Dense(2)(nn.relu(layer(nn.relu(layer(inputs)))))


class PlainResidual(nn.Module):
    """A stream without normalisation: its channels and branches form cycles."""

    @nn.compact
    def __call__(self, inputs):
        stream = nn.Dense(4)(inputs)
        stream = stream + nn.Dense(4)(nn.relu(nn.Dense(6)(stream)))
        return nn.Dense(2)(stream)


class NarrowResidual(nn.Module):
    """A stream of one channel whose branch leads from the group into itself."""

    @nn.compact
    def __call__(self, inputs):
        stream = nn.Dense(1)(inputs)
        return nn.Dense(2)(stream + nn.Dense(1)(stream))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (SIREN((4,)), POINTS),
        (MLP((4, 2), activation="gelu"), POINTS),
        (MLP((4, 2), activation="tanh"), POINTS),
        (MLP((4, 2), layer_norm=True), POINTS),
        (ConvNet(2, channels=4, num_conv_layers=1, normalization="batch"), IMAGES),
        (ResNet(2, 2, (4,)), IMAGES),
        (VisionTransformer(2, 4, num_blocks=1), IMAGES),
        (Tied(), POINTS),
        (PlainResidual(), POINTS),
        (NarrowResidual(), POINTS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_networks_are_left_alone(model, inputs):
    variables = random_variables(model, inputs)
    topology = trace(model, variables, inputs)
    assert not scaling.scale_groups(topology).node_groups.any()
    factors = scaling.sample_scaling(jax.random.key(0), topology)
    np.testing.assert_array_equal(factors, 1.0)
    canonical = scaling.canonicalize_scaling(topology, variables)
    jax.tree.map(np.testing.assert_array_equal, canonical, variables)


def test_wrong_factors_are_refused():
    topology, _, variables, _ = setup("MLP")
    with pytest.raises(ValueError, match="factors: found shape"):
        scaling.apply_scaling(topology, variables, jnp.ones(3))
