"""The fast metanetwork against one that gathers, joins and sums without any haste."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.plain_metanet import plain_metanet
from modmeta.metanet.input_networks.sines import polynomial_sine
from modmeta.metanet.models import (
    features,
    gmn,
    readouts,
    responses,
    weight_updates,
    windows,
)
from modmeta.metanet.parameter_graphs import tracing
from modmeta.networks import MLP
from tests.metanet import hand_made
from tests.metanet.test_models import random_params

WIDTHS = (2, 4, 3, 1)
NUM_NETWORKS = 5


@pytest.fixture(scope="module")
def topology():
    return hand_made.topology(WIDTHS)


@pytest.fixture
def two_at_once(monkeypatch):
    monkeypatch.setattr(windows, "networks_at_once", lambda *_: 2)


def rows_of(topology, seed=0):
    shape = (NUM_NETWORKS, topology.num_parameters)
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_outputs_and_gradients_equal_the_plain_ones(
    topology, two_at_once, bidirectional
):
    config = gmn.MetanetConfig(
        width=8, num_blocks=2, reverse_messages=not bidirectional
    )
    module = readouts.InvariantMetanet(config, 2)

    def graph(rows):
        return features.rows_to_graph(topology, rows, bidirectional=bidirectional)

    rows = rows_of(topology)
    params = random_params(module, graph(rows))["params"]
    weights = jax.random.normal(jax.random.key(1), (NUM_NETWORKS, 2))

    def fast(params, rows):
        outputs = module.apply({"params": params}, graph(rows))[0]
        return jnp.sum(weights * outputs), outputs

    def plain(params, rows):
        outputs = plain_metanet(params, graph(rows), config)
        return jnp.sum(weights * outputs), outputs

    found, expected = (
        jax.jit(jax.grad(way, argnums=(0, 1), has_aux=True))(params, rows)
        for way in (fast, plain)
    )
    for leaf, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        size = 1.0 + np.abs(other).max()
        np.testing.assert_allclose(leaf / size, other / size, atol=3e-5)


def test_forward_derivatives_agree_with_reverse_ones(topology, two_at_once):
    module = readouts.InvariantMetanet(gmn.MetanetConfig(width=4, num_blocks=1), 2)
    rows = rows_of(topology)
    params = random_params(module, features.rows_to_graph(topology, rows))
    tangents = jax.tree.map(lambda leaf: jnp.cos(leaf + 1.0), (params, rows))
    weights = jax.random.normal(jax.random.key(1), (NUM_NETWORKS, 2))

    @jax.jit
    def both(params, rows):
        def read(params, rows):
            graph = features.rows_to_graph(topology, rows)
            return jnp.sum(weights * module.apply(params, graph)[0])

        _, along = jax.jvp(read, (params, rows), tangents)
        gradients = jax.grad(read, argnums=(0, 1))(params, rows)
        products = jax.tree.map(lambda g, t: jnp.sum(g * t), gradients, tangents)
        return along, sum(jax.tree.leaves(products))

    np.testing.assert_allclose(*both(params, rows), rtol=1e-4)


def test_changes_of_weights_are_the_same_some_networks_at_a_time(topology, monkeypatch):
    config = gmn.MetanetConfig(width=4, num_blocks=1)
    module = weight_updates.WeightUpdateMetanet(config, num_heads=2)
    table = weight_updates.parameter_edges(topology)
    rows = rows_of(topology)
    graph = features.rows_to_graph(topology, rows)
    params = random_params(module, graph, table, rows.T)

    def applied():
        apply = jax.jit(lambda params, rows: module.apply(params, graph, table, rows))
        return apply(params, rows.T)

    whole = applied()
    monkeypatch.setattr(windows, "networks_at_once", lambda *_: 2)
    parts = applied()
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_responses_move_with_their_units(two_at_once):
    # Two hidden units change places, with their weights and responses.
    module = MLP((3, 1))
    traced = tracing.trace(
        module, module.init(jax.random.key(0), jnp.zeros((2, 2))), jnp.zeros((2, 2))
    )
    units = responses.units_of(traced, "params/layer_0/kernel")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(NUM_NETWORKS, traced.num_parameters))
    known = rng.normal(size=(NUM_NETWORKS, traced.num_nodes, 3))
    moved, known_moved = rows.copy(), known.copy()
    for leaf in traced.leaves:
        axis = {"layer_0": -1, "layer_1": 0}[leaf.path[1]]
        if leaf.shape[axis] == 3:
            block = np.arange(leaf.offset, leaf.offset + leaf.size).reshape(leaf.shape)
            swapped = np.take(block, [1, 0, 2], axis=axis)
            moved[:, block.ravel()] = rows[:, swapped.ravel()]
    known_moved[:, units] = known[:, units[[1, 0, 2]]]
    config = gmn.MetanetConfig(width=4, num_blocks=2, outputs_nodes=True)
    reader = readouts.InvariantMetanet(config, 1, "layer_mean")

    def graph(rows, known):
        joined = np.concatenate([rows, known.reshape(len(rows), -1)], axis=1)
        return responses.graph_with_responses(traced, jnp.asarray(joined, jnp.float32))

    params = random_params(reader, graph(rows, known))
    apply = jax.jit(reader.apply)
    found = apply(params, graph(rows, known))
    again = apply(params, graph(moved, known_moved))
    np.testing.assert_allclose(again, found, atol=1e-4)
    other = apply(params, graph(rows, known_moved))
    assert np.abs(np.asarray(other - found)).max() > 1e-3


def test_bad_rows_of_responses_are_named(topology):
    count = topology.num_parameters + 1
    with pytest.raises(ValueError, match=r"rows: found shape \(2, "):
        responses.graph_with_responses(topology, jnp.zeros((2, count)))
    with pytest.raises(ValueError, match="name: found 'no', expected one of"):
        responses.units_of(topology, "no")


def test_the_sine_of_huge_angles_stays_finite():
    angles = np.array([1e3, -3e7, 1e20, 3e38], np.float32)
    found = np.asarray(polynomial_sine(jnp.asarray(angles)))
    assert np.all(np.abs(found) <= 1.0 + 1e-6)
    assert abs(found[0] - np.sin(1e3)) < 1e-5
