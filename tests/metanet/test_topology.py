"""Weights to edge values and back: exact, under jit and vmap, with clear refusals."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.metanet import (
    UnsupportedLayerError,
    parameter_graph,
    permute_parameters,
    sample_symmetry,
    trace,
)
from tests.metanet.network_cases import CASES, Case, make


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("name", CASES)
def test_round_trip_is_exact(name):
    model, variables, x = make(name)
    topology, values = parameter_graph(model, variables, x)
    assert values.shape == (topology.num_edges,)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert topology.num_parameters == count
    assert_same_bits(topology.to_parameters(values), variables)
    is_constant = topology.edge_parameters < 0
    np.testing.assert_array_equal(
        np.asarray(values)[is_constant], topology.edge_constants[is_constant]
    )


def test_every_dense_weight_lies_between_its_units():
    """Against a slow loop over the kernel of the second layer of an MLP."""
    model, variables, x = make("mlp")
    topology, values = parameter_graph(model, variables, x)
    layers = variables["params"]
    units = [topology.inputs]
    for index in range(3):
        kernel, bias = (
            layers[f"Dense_{index}"]["kernel"],
            layers[f"Dense_{index}"]["bias"],
        )
        receivers = np.unique(topology.receivers[np.isin(topology.senders, units[-1])])
        for i, sender in enumerate(units[-1]):
            for o, receiver in enumerate(receivers):
                (edge,) = np.nonzero(
                    (topology.senders == sender) & (topology.receivers == receiver)
                )[0]
                assert values[edge] == kernel[i, o]
                assert topology.edge_layers[edge] == index + 1
        for o, receiver in enumerate(receivers):
            others = (topology.receivers == receiver) & ~np.isin(
                topology.senders, units[-1]
            )
            assert values[np.nonzero(others)[0][0]] == bias[o]
        units.append(receivers)
    np.testing.assert_array_equal(units[-1], topology.outputs)
    np.testing.assert_array_equal(topology.node_orders[topology.outputs], [0, 1])


def test_flattened_kernel_rows_have_the_positions_of_their_pixels():
    def body(module, x):
        x = nn.Conv(2, (1, 1))(x)
        return nn.Dense(3)(x.reshape((x.shape[0], -1)))

    model, variables, x = make(Case(body, (1, 2, 3, 1)))
    topology, values = parameter_graph(model, variables, x)
    kernel = variables["params"]["Dense_0"]["kernel"]
    channels = topology.senders[topology.edge_types == 1]
    first = channels.min()
    for row in range(12):
        pixel, channel = divmod(row, 2)
        position = (*divmod(pixel, 3), 0)
        for column, output in enumerate(topology.outputs):
            (edge,) = np.nonzero(
                (topology.senders == first + channel)
                & (topology.receivers == output)
                & np.all(topology.edge_positions == position, axis=1)
            )[0]
            assert values[edge] == kernel[row, column]


def test_jit_and_vmap():
    model, variables, x = make("cnn_1d")
    topology = trace(model, variables, x)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), variables)
    values = jax.jit(jax.vmap(topology.edge_values))(many)
    np.testing.assert_array_equal(values[0], topology.edge_values(variables))
    assert_same_bits(jax.jit(jax.vmap(topology.to_parameters))(values), many)


def test_half_precision_keeps_its_type_and_bits():
    model, variables, x = make("mlp")
    for dtype in ("bfloat16", "float16"):
        half = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), variables)
        topology, values = parameter_graph(model, half, x)
        assert values.dtype == jnp.float32
        assert_same_bits(topology.to_parameters(values), half)


def test_double_precision_comes_back_to_the_bit_where_nothing_was_changed():
    model, single, x = make("mlp")
    rng = np.random.default_rng(0)
    double = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), single)
    topology, values = parameter_graph(model, double, x)
    np.testing.assert_array_equal(topology.senders, trace(model, single, x).senders)
    assert values.dtype == jnp.float32
    assert_same_bits(topology.to_parameters(values, double), double)
    rounded = jax.tree.map(lambda leaf: leaf.astype("f4").astype("f8"), double)
    assert_same_bits(topology.to_parameters(values), rounded)

    edge = topology.parameter_edges[0]
    found = topology.to_parameters(values.at[edge].add(1), double)
    first, expected = (np.array(jax.tree.leaves(tree)[0]) for tree in (found, double))
    assert first.flat[0] == np.float64(values[edge] + 1)
    first.flat[0] = expected.flat[0]
    np.testing.assert_array_equal(first, expected)
    assert_same_bits(jax.tree.leaves(found)[1:], jax.tree.leaves(double)[1:])

    moved = permute_parameters(topology, double, sample_symmetry(rng, topology))
    numbers = [
        np.sort(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]))
        for tree in (moved, double)
    ]
    np.testing.assert_array_equal(*numbers)
    np.testing.assert_allclose(model.apply(moved, x), model.apply(double, x), rtol=1e-5)

    jax.tree.leaves(double)[0].flat[0] = 1e300  # beyond single precision
    with pytest.raises(ValueError, match=r"values beyond 3\.4e\+38"):
        topology.edge_values(double)


def test_a_topology_prints_its_sizes():
    topology = trace(*make("mlp"))
    assert repr(topology) == (
        f"Topology({topology.num_nodes} nodes, {topology.num_edges} edges, "
        f"{topology.num_parameters} parameters in {len(topology.leaves)} arrays)"
    )


def test_bare_parameters_come_back_bare():
    model, variables, x = make("mlp")
    topology, values = parameter_graph(model, variables["params"], x)
    assert_same_bits(topology.to_parameters(values), variables["params"])
    assert topology.leaves[0].name == "Dense_0/bias"


def test_variables_that_do_not_fit_are_refused():
    model, variables, x = make("mlp")
    topology = trace(model, variables, x)

    def changed(change):
        layers = dict(variables["params"])
        layers["Dense_1"] = change(dict(layers["Dense_1"]))
        return {"params": layers}

    kernel = variables["params"]["Dense_1"]["kernel"]
    for change, message in (
        (lambda d: d | {"kernel": kernel.at[0, 0].set(jnp.nan)}, "NaN"),
        (lambda d: d | {"kernel": kernel.at[0, 0].set(jnp.inf)}, "infinite"),
        (lambda d: d | {"kernel": kernel.T}, r"Dense_1/kernel: found shape \(3, 4\)"),
        (lambda d: d | {"kernel": kernel.astype(int)}, "Dense_1/kernel: found type"),
        (lambda d: d | {"kernel": kernel.astype("float16")}, "found dtype float16"),
        (lambda d: {"kernel": kernel}, r"missing \['params/Dense_1/bias'\]"),
        (lambda d: d | {"gain": kernel}, r"not expected \['params/Dense_1/gain'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            topology.edge_values(changed(change))
    with pytest.raises(UnsupportedLayerError, match="kernel: found int32 among the pa"):
        trace(model, changed(lambda d: d | {"kernel": kernel.astype(int)}), x)
    with pytest.raises(UnsupportedLayerError, match="model: found the class Dense"):
        trace(nn.Dense, variables, x)
    with pytest.raises(ValueError, match="these names in .*FrozenDict.* trace with a"):
        topology.flatten(flax.core.freeze(variables))
    with pytest.raises(ValueError, match="not expected \\['kernel'\\]"):
        topology.unflatten(topology.flatten(variables), {"kernel": kernel})
    with pytest.raises(UnsupportedLayerError, match="found type complex64"):
        trace(model, jax.tree.map(lambda a: a.astype(complex), variables), x)
    with pytest.raises(ValueError, match=r"edge_values: found shape \(3,\)"):
        topology.to_parameters(jnp.zeros(3))
    with pytest.raises(ValueError, match=r"vector: found shape \(3,\)"):
        topology.unflatten(jnp.zeros(3))
