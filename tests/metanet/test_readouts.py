"""Read-outs: what leaves a prediction as it is, and what moves with the weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta import graphs, metanet
from modmeta.metanet.models import features, gmn, normalized, readouts, weight_updates
from tests.fixtures import as_array
from tests.metanet import hand_made
from tests.metanet.small_networks import normal, random_variables
from tests.metanet.test_models import assert_close, graph_of, random_params

WIDTHS = (2, 4, 3, 2)


def random_embeddings(rng, graph, width=4):
    def rows(count):
        return as_array(rng.normal(size=(count, width)))

    return gmn.Embeddings(rows(int(graph.n_node.sum())), rows(len(graph.senders)), None)


@pytest.mark.parametrize(
    "pooling, outputs_nodes", [("mean", False), ("layer_statistics", True)]
)
def test_output_ignores_the_order_of_hidden_units(pooling, outputs_nodes):
    rng = np.random.default_rng(0)
    tensors = hand_made.random_tensors(rng, WIDTHS)
    permutations = hand_made.random_permutations(rng, WIDTHS)
    config = gmn.MetanetConfig(width=8, num_blocks=2, outputs_nodes=outputs_nodes)
    module = readouts.InvariantMetanet(config, 3, pooling)
    graph = graph_of(WIDTHS, tensors)
    params = random_params(module, graph)
    apply = jax.jit(module.apply)
    expected = apply(params, graph)
    assert expected.shape == (1, 3)
    permuted = hand_made.permute_hidden(tensors, permutations)
    assert_close(apply(params, graph_of(WIDTHS, permuted)), expected)
    # Another function, of the same multiset of weights, reads otherwise.
    broken = [tensors[0][permutations[0]], *tensors[1:]]
    other = apply(params, graph_of(WIDTHS, broken))
    assert not np.allclose(other, expected, atol=1e-4)
    # A homogeneous batch of the two.
    values = np.stack([hand_made.flatten(t) for t in (tensors, broken)], axis=-1)
    both = features.to_graph(hand_made.topology(WIDTHS), values)
    together = apply(params, both)
    assert_close(together, jnp.stack([expected, other], axis=1))


@pytest.mark.parametrize("pooling", gmn.POOLINGS)
def test_padded_batch_equals_one_by_one_and_padding_reads_zero(pooling):
    rng = np.random.default_rng(1)
    singles = [
        graph_of(widths, hand_made.random_tensors(rng, widths))
        for widths in [(2, 3, 1), (1, 4, 2, 2)]
    ]
    budget = graphs.GraphBudget(*(s + 3 for s in graphs.graph_budget(singles, 2)))
    config = gmn.MetanetConfig(width=4, num_blocks=1, outputs_nodes=True)
    module = readouts.InvariantMetanet(config, 2, pooling)
    batch = graphs.batch_graphs(singles, budget)
    params = random_params(module, batch)
    found = jax.jit(module.apply)(params, batch)
    assert found.shape == (6, 2)
    np.testing.assert_array_equal(found[2:], 0.0)
    for row, single in zip(found, singles, strict=False):
        assert_close(row, jax.jit(module.apply)(params, single)[0])


def test_readout_equals_a_loop_over_groups():
    rng = np.random.default_rng(2)
    graph = graph_of((2, 3, 2), hand_made.random_tensors(rng, (2, 3, 2)))
    embeddings = random_embeddings(rng, graph)
    for pooling in gmn.POOLINGS:
        module = readouts.GraphReadout(2, 4, pooling, value_scales=(5.0,))
        weights = random_params(module, embeddings, graph)
        found = jax.jit(module.apply)(weights, embeddings, graph)[0]
        layers = jax.tree.map(np.asarray, weights["params"])

        def linear(layer, row):
            return row @ layer["kernel"] + layer["bias"]

        groups = {}
        for index, row in enumerate(np.asarray(embeddings.edges)):
            edges = features.edge_rows(graph)
            key = (
                edges.layers[index, 0],
                edges.types[index],
                edges.is_reversed[index],
            )
            key = None if pooling == "mean" else key
            row = hand_made.relu(linear(layers["edges"], row))
            if pooling == "layer_statistics":
                value = graph.edges.values[index]
                spread = value * np.sqrt(edges.fan_ins[index])
                row = np.r_[row, np.arcsinh(5.0 * np.r_[value, spread])]
            groups.setdefault(key, []).append(row)
        assert len(groups) == (1 if pooling == "mean" else 8)
        read = [np.mean(rows, axis=0) for rows in groups.values()]
        along = 0.0
        if pooling == "layer_statistics":
            spreads = [np.sqrt(np.var(r, axis=0) + 1e-4) for r in groups.values()]
            moments = [np.r_[pair] for pair in zip(read, spreads, strict=True)]
            norm, known = layers["spread"], np.r_[4:6, 10:12]
            for row, key in zip(moments, groups, strict=True):
                shifted = row[known] - norm["mean"][key[1]]
                row[known] = np.arcsinh(shifted * norm["scale"][key[1]])
            learned = np.setdiff1d(np.arange(12), known)
            sizes = [np.log(len(rows)) - 4.0 for rows in groups.values()]
            along = np.mean(sizes) * layers["sizes"]["kernel"][0]
            moments = [
                np.r_[row[learned], row[known], size]
                for row, size in zip(moments, sizes, strict=True)
            ]
            for layer in layers["groups"].values():
                moments = [hand_made.relu(linear(layer, row)) for row in moments]
            read = moments
        pooled = np.mean(read, axis=0)
        hidden = hand_made.relu(linear(layers["output"]["layer_0"], pooled))
        expected = linear(layers["output"]["layer_1"], hidden) + along
        assert_close(found, expected)


def test_features_of_a_type_start_with_mean_zero_and_deviation_one():
    rng = np.random.default_rng(6)
    types, is_real = np.array([0, 3, 3, 1, 3, 1, 1, 2]), np.arange(8) > 0
    values = jnp.asarray(5.0 * rng.normal(size=(8, 2, 3)) + 9.0, jnp.float32)
    values = values.at[3:, :, 0].set(0.25)
    found, params = normalized.TypeNorm(4).init_with_output(
        jax.random.key(0), values, types, is_real
    )
    assert params["params"]["mean"].shape == params["params"]["scale"].shape == (4, 3)
    standard = np.sinh(np.asarray(found))
    for kind in (1, 3):
        rows = standard[is_real & (types == kind)].reshape(-1, 3)
        np.testing.assert_allclose(rows.mean(axis=0), 0.0, atol=1e-4)
        varies = np.r_[kind == 3, True, True]
        np.testing.assert_allclose(rows.std(axis=0), varies, atol=1e-4)
    # Of a type that no real row has, nothing is known.
    np.testing.assert_allclose(standard[0], values[0], rtol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_duplicated_units_are_not_noticed(bidirectional):
    """Widening that keeps the function keeps the output, given all three options."""
    rng = np.random.default_rng(3)
    tensors = hand_made.random_tensors(rng, WIDTHS)
    wide = hand_made.duplicate_hidden(tensors)
    wide_widths = (2, 8, 6, 2)
    inputs = rng.normal(size=2)
    np.testing.assert_allclose(
        hand_made.mlp(wide, inputs), hand_made.mlp(tensors, inputs), rtol=1e-4
    )

    def change(pooling="layer_mean", **options):
        options = {
            "num_blocks": 1,
            "aggregation": "typed_mean",
            "rescale_by_fan_in": True,
            **options,
        }
        config = gmn.MetanetConfig(
            width=8,
            use_globals=True,
            outputs_nodes=True,
            reverse_messages=not bidirectional,
            **options,
        )
        module = readouts.InvariantMetanet(config, 5, pooling)
        graph = graph_of(WIDTHS, tensors, bidirectional=bidirectional)
        params = random_params(module, graph)
        outputs = [
            jax.jit(module.apply)(
                params, graph_of(sizes, t, bidirectional=bidirectional)
            )
            for sizes, t in ((WIDTHS, tensors), (wide_widths, wide))
        ]
        return np.abs(outputs[0] - outputs[1]).max()

    assert change(num_blocks=2) < 1e-5
    if bidirectional:
        assert change(pooling="mean") > 1e-4
        assert change(aggregation="mean") > 1e-4
        assert change(rescale_by_fan_in=False) > 1e-4


@pytest.mark.parametrize("num_heads", [1, 3])
def test_new_weights_move_with_the_hidden_units(num_heads):
    rng = np.random.default_rng(4)
    tensors = hand_made.random_tensors(rng, WIDTHS)
    permutations = hand_made.random_permutations(rng, WIDTHS)
    topology = hand_made.topology(WIDTHS)
    config = gmn.MetanetConfig(width=4, num_blocks=2)
    module = weight_updates.WeightUpdateMetanet(config, num_heads, num_layers=4)
    table = weight_updates.parameter_edges(topology)
    vector = hand_made.flatten(tensors)
    params = random_params(module, graph_of(WIDTHS, tensors), table, vector)

    @jax.jit
    def update(vector):
        return module.apply(params, features.to_graph(topology, vector), table, vector)

    new = np.asarray(update(vector))
    assert new.shape == (num_heads, topology.num_parameters)
    permuted = hand_made.permute_hidden(tensors, permutations)
    moved = np.asarray(update(hand_made.flatten(permuted)))
    for head in range(num_heads):
        expected = hand_made.unflatten(new[head], WIDTHS)
        expected = hand_made.permute_hidden(expected, permutations)
        assert_close(moved[head], hand_made.flatten(expected))
        assert np.abs(new[head] - vector).max() > 0.01
        assert np.abs(new[head] - new[head - 1]).max() > 0.01 or num_heads == 1
    # A batch of two networks of one topology.
    both = np.stack([vector, hand_made.flatten(permuted)], axis=-1)
    assert_close(update(both), np.stack([new, moved], axis=-1))


def test_step_size_zero_is_the_identity_and_steps_belong_to_layers():
    rng = np.random.default_rng(5)
    tensors = hand_made.random_tensors(rng, WIDTHS)
    topology = hand_made.topology(WIDTHS)
    graph, vector = graph_of(WIDTHS, tensors), hand_made.flatten(tensors)
    table = weight_updates.parameter_edges(topology)
    config = gmn.MetanetConfig(width=4, num_blocks=1)
    module = weight_updates.WeightUpdateMetanet(config, num_layers=4)
    init = jax.jit(lambda key: module.init(key, graph, table, vector))
    params = init(jax.random.key(0))
    steps = params["params"]["update"]["steps"]
    np.testing.assert_array_equal(steps, np.full(4, 0.01, np.float32))

    apply = jax.jit(lambda params: module.apply(params, graph, table, vector)[0])
    params["params"]["update"]["steps"] = jnp.zeros(4)
    np.testing.assert_array_equal(apply(params), vector)
    for layer in (1, 2, 3):
        params["params"]["update"]["steps"] = jnp.zeros(4).at[layer].set(0.5)
        is_changed = np.asarray(apply(params)) != vector
        np.testing.assert_array_equal(is_changed, topology.edge_layers == layer)


def test_tied_parameters_take_the_mean_over_their_edges():
    topology = hand_made.topology((2, 2))
    # Parameter 1 has three edges, one edge is constant, parameter 2 has no edge.
    topology.edge_parameters = np.array([1, 0, 1, -1, 3, 1], np.int32)
    topology.num_parameters = 4
    table = weight_updates.parameter_edges(topology)
    order = features.edge_order(topology)
    edge_changes = np.random.default_rng(6).normal(size=(2, 6)).astype(np.float32)
    # Changes of reversed edges must not count.
    changes = np.concatenate([edge_changes, np.full((2, 6), 1e3)], axis=1)[:, order]
    parameters = np.array([0.5, -1.0, 2.0, 3.0], np.float32)
    found = weight_updates.updated_parameters(table, parameters, jnp.asarray(changes))
    for head, edges in enumerate(edge_changes):
        mean = (edges[0] + edges[2] + edges[5]) / 3
        expected = parameters + np.array([edges[1], mean, 0.0, edges[4]])
        np.testing.assert_allclose(found[head], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="parameters: found 3 rows, expected 4"):
        weight_updates.updated_parameters(table, parameters[:3], jnp.asarray(changes))


def test_outputs_of_several_networks_are_averaged():
    rng = np.random.default_rng(7)
    networks = [hand_made.random_tensors(rng, (2, 3, 2)) for _ in range(3)]
    inputs = rng.normal(size=2).astype(np.float32)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *networks)

    def apply(tensors, inputs):
        hidden = jax.nn.relu(tensors[0] @ inputs + tensors[1])
        return {"output": tensors[2] @ hidden + tensors[3]}

    average = jax.jit(lambda *given: weight_updates.average_outputs(apply, *given))
    found = average(stacked, inputs)["output"]
    expected = np.mean([hand_made.mlp(t, inputs) for t in networks], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_bad_requests_are_named():
    rng = np.random.default_rng(8)
    graph = graph_of((1, 1), hand_made.random_tensors(rng, (1, 1)))
    embeddings = random_embeddings(rng, graph)
    with pytest.raises(ValueError, match="pooling: found 'max', expected one of"):
        readouts.GraphReadout(1, pooling="max").init(
            jax.random.key(0), embeddings, graph
        )
    with pytest.raises(ValueError, match="embeddings.nodes: found None"):
        readouts.GraphReadout(1, uses_nodes=True).init(
            jax.random.key(0), embeddings._replace(nodes=None), graph
        )


class Twice(nn.Module):
    """A traced network with tied parameters, constant edges and statistics."""

    @nn.compact
    def __call__(self, inputs):
        layer = nn.Dense(3)
        hidden = nn.relu(layer(inputs))
        hidden = hidden + nn.relu(layer(hidden))
        hidden = nn.BatchNorm(use_running_average=True)(hidden)
        return nn.Dense(2)(hidden)


def test_new_weights_of_a_traced_network():
    model, inputs = Twice(), normal(3)
    variables = random_variables(model, inputs)
    topology = metanet.trace(model, variables, inputs)
    table = weight_updates.parameter_edges(topology)
    vector = topology.flatten(variables)
    assert set(table.counts.tolist()) >= {0, 1, 2}
    config = gmn.MetanetConfig(width=4, num_blocks=1, aggregation="typed_mean")
    module = weight_updates.WeightUpdateMetanet(config)
    graph = features.to_graph(topology, topology.edge_values(variables))
    params = random_params(module, graph, table, vector)
    apply = jax.jit(lambda params: module.apply(params, graph, table, vector)[0])

    params["params"]["update"]["steps"] = jnp.ones(1)
    changed = topology.unflatten(apply(params))
    is_changed = jax.tree.map(
        lambda new, old: np.all(np.asarray(new) != np.asarray(old)), changed, variables
    )
    assert all(jax.tree.leaves(is_changed["params"]))
    assert not any(jax.tree.leaves(is_changed["batch_stats"]))
    # The mean over both uses of the layer, from the embeddings themselves.
    embeddings = jax.jit(gmn.GraphMetanet(config).apply)(
        {"params": params["params"]["metanet"]}, graph
    )
    head = params["params"]["update"]["changes"]
    changes = np.asarray(embeddings.edges @ head["kernel"])[:, 0] + head["bias"][0]
    sources = features.edge_order(topology)
    is_forward = sources < topology.num_edges
    for parameter in np.flatnonzero(table.counts):
        carries = topology.edge_parameters[sources % topology.num_edges] == parameter
        expected = vector[parameter] + changes[carries & is_forward].mean()
        np.testing.assert_allclose(
            topology.flatten(changed)[parameter], expected, rtol=1e-3, atol=1e-4
        )

    params["params"]["update"]["steps"] = jnp.zeros(1)
    same = topology.unflatten(apply(params))
    jax.tree.map(np.testing.assert_array_equal, same, variables)
    # Flat parameters of several heads are averaged as functions.
    heads = np.stack([vector, topology.flatten(changed)])
    found = jax.jit(
        lambda heads, inputs: weight_updates.average_outputs(
            lambda head, x: model.apply(topology.unflatten(head), x), heads, inputs
        )
    )(heads, inputs)
    outputs = [jax.jit(model.apply)(tree, inputs) for tree in (variables, changed)]
    np.testing.assert_allclose(found, (outputs[0] + outputs[1]) / 2, rtol=1e-4)
