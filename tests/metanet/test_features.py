"""Features of graphs against counts by hand, and their encoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta import metanet
from modmeta.metanet.models import encoders, features
from tests.metanet import hand_made
from tests.metanet.test_models import random_params

WIDTHS = (2, 3, 2)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_graph_holds_every_edge_once_per_direction(bidirectional):
    rng = np.random.default_rng(0)
    topology, _, _ = hand_made.relabel(rng, hand_made.topology(WIDTHS))
    values = rng.normal(size=topology.num_edges).astype(np.float32)
    graph = features.to_graph(topology, values, bidirectional=bidirectional)
    rows = features.edge_rows(graph)
    found = sorted(
        zip(
            rows.is_reversed.tolist(),
            graph.edges.values.tolist(),
            graph.senders.tolist(),
            graph.receivers.tolist(),
            rows.types.tolist(),
            rows.layers[:, 0].tolist(),
            strict=True,
        )
    )
    expected = []
    for edge in range(topology.num_edges):
        ends = topology.senders[edge], topology.receivers[edge]
        rest = topology.edge_types[edge], topology.edge_layers[edge]
        expected.append((False, values[edge], *ends, *rest))
        if bidirectional:
            expected.append((True, values[edge], *ends[::-1], *rest))
    assert found == sorted(expected)
    assert (np.diff(graph.receivers) >= 0).all()
    sources = features.edge_order(topology, bidirectional=bidirectional)
    np.testing.assert_array_equal(
        graph.edges.values, np.tile(values, 1 + bidirectional)[sources]
    )
    np.testing.assert_array_equal(rows.is_reversed, sources >= len(values))
    np.testing.assert_array_equal(graph.nodes.types, topology.node_types)
    np.testing.assert_array_equal(graph.nodes.orders, topology.node_orders)
    np.testing.assert_array_equal(graph.nodes.functions, topology.node_functions)
    np.testing.assert_array_equal(graph.nodes.attributes, topology.node_attributes)


def test_counts_and_weights_equal_loops():
    topology = hand_made.topology(WIDTHS)
    graph = features.to_graph(topology, np.zeros(topology.num_edges, np.float32))
    edges = features.edge_rows(graph)
    rows = list(
        zip(graph.senders, graph.receivers, edges.types, edges.is_reversed, strict=True)
    )
    for index, (sender, receiver, kind, is_reversed) in enumerate(rows):
        into = [r for r in rows if r[1:] == (receiver, kind, is_reversed)]
        out_of = [r for r in rows if (r[0], *r[2:]) == (sender, kind, is_reversed)]
        fed = sender if is_reversed else receiver
        fan_in = [r for r in rows if r[1:] == (fed, kind, False)]
        assert edges.receiver_counts[index] == len(into)
        assert edges.sender_counts[index] == len(out_of)
        assert edges.fan_ins[index] == len(fan_in)
    keys = list(zip(edges.layers[:, 0], edges.types, edges.is_reversed, strict=True))
    expected = [1 / (len(set(keys)) * keys.count(key)) for key in keys]
    np.testing.assert_allclose(edges.group_weights, expected, rtol=1e-6)
    pairs = set(zip(keys, edges.groups.tolist(), strict=True))
    assert len(pairs) == len(set(keys)) == len(set(edges.groups.tolist()))
    keys = list(zip(topology.node_layers, topology.node_types, strict=True))
    expected = [1 / (len(set(keys)) * keys.count(key)) for key in keys]
    np.testing.assert_allclose(graph.nodes.group_weights, expected, rtol=1e-6)


def test_layers_are_given_raw_and_as_a_share_of_the_depth():
    for widths in ((2, 2), (2, 2, 2, 2, 2)):
        topology = hand_made.topology(widths)
        graph = features.to_graph(topology, np.zeros(topology.num_edges, np.float32))
        depth = len(widths) - 1
        for layers, raw in (
            (graph.nodes.layers, topology.node_layers),
            (
                features.edge_rows(graph).layers,
                topology.edge_layers[
                    features.edge_order(topology) % topology.num_edges
                ],
            ),
        ):
            np.testing.assert_array_equal(layers[:, 0], raw)
            np.testing.assert_allclose(layers[:, 1], raw / depth, rtol=1e-6)


def test_values_keep_their_kind_and_may_be_traced():
    topology = hand_made.topology(WIDTHS)
    values = np.arange(topology.num_edges, dtype=np.float32)
    assert isinstance(features.to_graph(topology, values).edges.values, np.ndarray)
    traced = jax.jit(lambda v: features.to_graph(topology, v).edges.values)(values)
    np.testing.assert_array_equal(
        traced, features.to_graph(topology, values).edges.values
    )
    both = np.stack([values, -values], axis=-1)
    found = features.to_graph(topology, both).edges.values
    np.testing.assert_array_equal(found, np.stack([traced, -traced], axis=-1))


def test_encoder_tells_small_attributes_apart():
    topology = hand_made.topology(WIDTHS)
    graph = features.to_graph(topology, np.zeros(topology.num_edges, np.float32))
    encoder = encoders.NodeEncoder(8)
    params = random_params(encoder, graph.nodes)
    found = []
    for epsilon in (1e-5, 1e-6, 0.0):
        attributes = np.full_like(graph.nodes.attributes, epsilon)
        nodes = graph.nodes._replace(attributes=attributes)
        found.append(encoder.apply(params, nodes))
    for index in range(3):
        assert np.abs(found[index] - found[index - 1]).max() > 1e-2


@pytest.mark.parametrize("encoding", encoders.SCALAR_ENCODINGS)
def test_encoders_tell_features_apart(encoding):
    rng = np.random.default_rng(1)
    topology = hand_made.topology(WIDTHS)
    values = rng.normal(size=topology.num_edges).astype(np.float32)
    graph = features.to_graph(topology, values)
    encoder = encoders.EdgeEncoder(8, encoding)
    rows, table = graph.edges.kinds, features.table_rows(graph)
    params = random_params(encoder, graph.edges.values, rows, table)
    plain = encoder.apply(params, graph.edges.values, rows, table)
    assert plain.shape == (2 * topology.num_edges, 8)
    changed = encoder.apply(params, graph.edges.values + 0.5, rows, table)
    assert np.abs(changed - plain).max(axis=-1).min() > 1e-3
    others = {
        "types": table.types + 1,
        "layers": table.layers + 1.0,
        "positions": table.positions + 1.0,
        "is_reversed": ~table.is_reversed,
    }
    for name, value in others.items():
        other = table._replace(**{name: value})
        changed = encoder.apply(params, graph.edges.values, rows, other)
        assert np.abs(changed - plain).max(axis=-1).min() > 1e-3, name
    encoder = encoders.NodeEncoder(8, encoding)
    params = random_params(encoder, graph.nodes)
    plain = encoder.apply(params, graph.nodes)
    for name in ("types", "layers", "orders", "functions", "attributes"):
        value = getattr(graph.nodes, name) + 1
        changed = encoder.apply(params, graph.nodes._replace(**{name: value}))
        assert np.abs(changed - plain).max(axis=-1).min() > 1e-3, name


def test_scalar_encodings_equal_their_formulas():
    numbers = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    encoder = encoders.ScalarEncoder(4, "sine")
    params = random_params(encoder, numbers)
    layer = params["params"]["Dense_0"]
    expected = np.sin(numbers @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]))
    np.testing.assert_allclose(encoder.apply(params, numbers), expected, rtol=1e-5)
    # Fixed frequencies: sine and cosine of the same angles, of the stated scale.
    encoder = encoders.ScalarEncoder(2000, "fourier")
    assert not encoder.init(jax.random.key(3), numbers)
    found = np.asarray(encoder.apply({}, numbers))
    np.testing.assert_allclose(
        found[:, :1000] ** 2 + found[:, 1000:] ** 2, 1, rtol=1e-5
    )
    small = np.asarray(encoder.apply({}, 1e-4 * np.eye(3, dtype=np.float32)))[:, :1000]
    # 3,000 normal draws: the deviation of their standard deviation is 1.3 percent.
    assert np.std(small / 1e-4 / (2 * np.pi)) == pytest.approx(3.0, rel=0.06)


def test_rescaled_values_are_multiplied_by_the_fan_in():
    rng = np.random.default_rng(4)
    topology = hand_made.topology(WIDTHS)
    values = rng.normal(size=(topology.num_edges, 2)).astype(np.float32)
    graph = features.to_graph(topology, values)
    values, rest = graph.edges.values, (graph.edges.kinds, features.table_rows(graph))
    plain = encoders.EdgeEncoder(4)
    params = random_params(plain, values, *rest)
    scaled = encoders.EdgeEncoder(4, rescale_by_fan_in=True)
    scaled = scaled.apply(params, values, *rest)
    by_hand = values * features.edge_rows(graph).fan_ins[:, None]
    np.testing.assert_allclose(scaled, plain.apply(params, by_hand, *rest), rtol=1e-5)
    assert not jnp.allclose(scaled, plain.apply(params, values, *rest))


def test_values_enter_at_several_scales():
    """Against the encoder of raw values, of which the scaled ones take the place."""
    rng = np.random.default_rng(5)
    topology = hand_made.topology(WIDTHS)
    values = (0.01 * rng.normal(size=topology.num_edges)).astype(np.float32)
    graph = features.to_graph(topology, values)
    values, rest = graph.edges.values, (graph.edges.kinds, features.table_rows(graph))
    encoder = encoders.EdgeEncoder(4, value_scales=(2.0, 50.0))
    params = random_params(encoder, values, *rest)
    kernel = params["params"]["output_values"]["kernel"]
    assert kernel.shape == (4 + 2, 4)
    fan_ins = features.edge_rows(graph).fan_ins
    scaled = [s * values * f for s in (2, 50) for f in (1.0, np.sqrt(fan_ins))]
    scaled = np.arcsinh(np.stack(scaled, -1))
    cut = {"kernel": kernel[np.array([0, 4, 5])]}
    plain = {**params["params"], "output_values": cut}
    expected = encoders.EdgeEncoder(4).apply({"params": plain}, scaled[:, 0], *rest)
    expected = expected + scaled[:, 1:] @ kernel[1:4]
    found = encoder.apply(params, values, *rest)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_constants_need_no_kinds_of_their_own():
    """A table of constants: an edge holds its value, and its row says the rest."""
    table = np.arange(6, dtype=np.float32).reshape(2, 3) + 0.5

    def model(variables, inputs):
        return inputs @ variables["kernel"] + table[None]

    variables = {"kernel": np.ones((4, 3), np.float32)}
    topology = metanet.trace(model, variables, np.ones((1, 2, 4), np.float32))
    kinds, graph = (
        topology.kinds,
        metanet.to_graph(topology, topology.edge_values(variables)),
    )
    assert len(set(kinds.constants.tolist())) >= 6
    rows = features.edge_rows(graph)
    assert graph.globals.shared.types.shape[1] < 2 * len(kinds.types)
    for index, edge in enumerate(features.edge_order(topology)):
        kind = topology.edge_kinds[edge % topology.num_edges]
        ends = (kinds.receiver_counts[kind], kinds.sender_counts[kind])
        assert rows.types[index] == kinds.types[kind]
        assert rows.layers[index, 0] == kinds.layers[kind]
        assert rows.is_reversed[index] == (edge >= topology.num_edges)
        assert rows.receiver_counts[index] == ends[int(rows.is_reversed[index])]
        np.testing.assert_array_equal(rows.positions[index], kinds.positions[kind])


def test_bad_input_is_named():
    topology = hand_made.topology(WIDTHS)
    with pytest.raises(ValueError, match=r"edge_values: found shape \(3,\), expected"):
        features.to_graph(topology, np.zeros(3))
    for name in ("node_types", "edge_types"):
        topology = hand_made.topology(WIDTHS)
        types = topology.kinds.types if name == "edge_types" else topology.node_types
        types[1] = features.NUM_TYPES
        with pytest.raises(ValueError, match=f"{name}: found .* to 64, expected"):
            features.to_graph(topology, np.zeros(topology.num_edges))
