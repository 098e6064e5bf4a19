"""The graph metanetwork against the symmetries and batches it must not notice."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta import graphs
from modmeta.metanet.models import features, gmn, readouts, weight_updates
from tests.fixtures import as_array
from tests.metanet import hand_made

WIDTHS = (2, 5, 3)
SMALL = gmn.MetanetConfig(
    width=8, num_blocks=2, use_globals=True, outputs_nodes=True, activation="silu"
)
CONFIGS = {
    "mean": SMALL,
    "sum": gmn.MetanetConfig(width=8, num_blocks=2, aggregation="sum"),
    "typed": gmn.MetanetConfig(
        width=8,
        num_blocks=2,
        aggregation="typed_mean",
        rescale_by_fan_in=True,
        reverse_messages=True,
        use_globals=True,
        outputs_nodes=True,
        encoding="fourier",
        value_scales=(1.0, 30.0),
    ),
}


def random_params(module, *inputs, seed=0):
    """All leaves random, so that no part is switched off by its initial value."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path[-1].key == "scale":
            values = 1.0 + 0.2 * values
        elif leaf.ndim == 1:
            values = 0.3 * values
        else:
            values = 1.5 * values / np.sqrt(leaf.shape[-2])
        return as_array(values)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def graph_of(widths, tensors, **options):
    topology = hand_made.topology(widths)
    return features.to_graph(topology, hand_made.flatten(tensors), **options)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def setup(request):
    config = CONFIGS[request.param]
    module = gmn.GraphMetanet(config)
    bidirectional = not config.reverse_messages
    tensors = hand_made.random_tensors(np.random.default_rng(1), WIDTHS)
    graph = graph_of(WIDTHS, tensors, bidirectional=bidirectional)
    params = random_params(module, graph)
    return module, params, jax.jit(module.apply), bidirectional


def test_hidden_units_may_change_places(setup):
    _, params, apply, bidirectional = setup
    rng = np.random.default_rng(2)
    tensors = hand_made.random_tensors(rng, WIDTHS)
    permutation = rng.permutation(WIDTHS[1])
    permuted = hand_made.permute_hidden(tensors, [permutation])
    options = {"bidirectional": bidirectional}
    plain = apply(params, graph_of(WIDTHS, tensors, **options))
    moved = apply(params, graph_of(WIDTHS, permuted, **options))
    table = features.edge_order(hand_made.topology(WIDTHS), **options)

    # Embeddings of the edges move as the parameters do.
    ids = np.arange(hand_made.num_parameters(WIDTHS))
    ids = hand_made.permute_hidden(hand_made.unflatten(ids, WIDTHS), [permutation])
    ids = hand_made.flatten(ids)
    place = np.argsort(table)
    forward = place[: len(ids)]
    assert_close(moved.edges[forward], plain.edges[forward][ids])
    assert not np.allclose(moved.edges[forward], plain.edges[forward], atol=1e-2)
    if plain.globals is not None:
        assert_close(moved.globals, plain.globals)
    # Inputs are not interchangeable.
    swapped = [tensors[0][:, ::-1], *tensors[1:]]
    other = apply(params, graph_of(WIDTHS, swapped, **options))
    order = hand_made.unflatten(np.arange(len(ids)), WIDTHS)
    order = hand_made.flatten([order[0][:, ::-1], *order[1:]])
    assert not np.allclose(other.edges[forward], plain.edges[forward][order], atol=1e-2)


def test_labels_of_nodes_and_order_of_edges_do_not_matter(setup):
    _, params, apply, bidirectional = setup
    rng = np.random.default_rng(3)
    topology = hand_made.topology(WIDTHS)
    values = hand_made.flatten(hand_made.random_tensors(rng, WIDTHS))
    options = {"bidirectional": bidirectional}
    plain = apply(params, features.to_graph(topology, values, **options))
    for moves in ({}, {"nodes": False}, {"edges": False}):
        relabelled, edges, nodes = hand_made.relabel(rng, topology, **moves)
        graph = features.to_graph(relabelled, values[edges], **options)
        moved = apply(params, graph)
        forward = np.argsort(features.edge_order(topology, **options))[: len(values)]
        now = np.argsort(features.edge_order(relabelled, **options))[: len(values)]
        assert_close(moved.edges[now], plain.edges[forward][edges])
        if plain.nodes is not None:
            assert_close(moved.nodes, plain.nodes[nodes])


def test_networks_of_one_topology_side_by_side(setup):
    _, params, apply, bidirectional = setup
    topology = hand_made.topology(WIDTHS)
    values = np.random.default_rng(4).normal(size=(topology.num_edges, 3))
    values = values.astype(np.float32)
    options = {"bidirectional": bidirectional}
    together = apply(params, features.to_graph(topology, values, **options))
    for network in range(3):
        graph = features.to_graph(topology, values[:, network], **options)
        alone = apply(params, graph)
        for found, expected in zip(together, alone, strict=True):
            if expected is not None:
                assert_close(found[:, network], expected)


def test_padded_batch_equals_one_by_one_whatever_padding_holds(setup):
    _, params, apply, bidirectional = setup
    rng = np.random.default_rng(5)
    all_widths = [(2, 5, 3), (1, 2, 4, 2)]
    singles = [
        graph_of(
            widths, hand_made.random_tensors(rng, widths), bidirectional=bidirectional
        )
        for widths in all_widths
    ]
    budget = graphs.graph_budget(singles, 2)
    budget = graphs.GraphBudget(*(size + 4 for size in budget))
    batch = graphs.batch_graphs(singles, budget)
    poisoned = jax.tree.map(np.copy, batch)
    is_padded = ~np.asarray(graphs.node_mask(batch))
    for leaf in jax.tree.leaves(poisoned.nodes):
        leaf[is_padded] = np.nan if leaf.dtype == np.float32 else 1
    is_padded = ~np.asarray(graphs.edge_mask(batch))
    for leaf in jax.tree.leaves(poisoned.edges):
        leaf[is_padded] = np.nan if leaf.dtype == np.float32 else 1
    assert np.isnan(poisoned.edges.values).sum() == is_padded.sum() > 0

    together = apply(params, batch)
    for found, expected in zip(
        jax.tree.leaves(apply(params, poisoned)), jax.tree.leaves(together), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
        assert np.isfinite(found).all()
    first_node = first_edge = 0
    for index, single in enumerate(singles):
        alone = apply(params, single)
        num_nodes, num_edges = int(single.n_node[0]), int(single.n_edge[0])
        edges = together.edges[first_edge : first_edge + num_edges]
        assert_close(edges, alone.edges)
        if alone.nodes is not None:
            nodes = together.nodes[first_node : first_node + num_nodes]
            assert_close(nodes, alone.nodes)
            assert_close(together.globals[index], alone.globals[0])
        first_node += num_nodes
        first_edge += num_edges


def test_gradients_are_finite_and_reach_every_parameter(setup):
    module, params, _, bidirectional = setup
    rng = np.random.default_rng(6)
    single = graph_of(
        WIDTHS, hand_made.random_tensors(rng, WIDTHS), bidirectional=bidirectional
    )
    batch = graphs.batch_graphs([single], graphs.GraphBudget(20, 80, 3))

    @jax.jit
    def gradient(params, graph):
        def loss(params):
            found = module.apply(params, graph)
            mask = graphs.edge_mask(graph)[:, None]
            total = jnp.sum(jnp.where(mask, jnp.sin(3 * found.edges), 0.0))
            for rows in (found.nodes, found.globals):
                if rows is not None:
                    total = total + jnp.sum(jnp.sin(rows)[0])
            return total

        return jax.grad(loss)(params)

    found = gradient(params, batch)
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        assert np.isfinite(leaf).all(), path
        assert np.any(np.asarray(leaf)), path
    # Padding that holds NaN changes no gradient.
    values = np.where(graphs.edge_mask(batch), batch.edges.values, np.nan)
    poisoned = batch._replace(edges=batch.edges._replace(values=values))
    again = gradient(params, poisoned)
    jax.tree.map(np.testing.assert_array_equal, again, found)


def test_one_block_equals_a_loop_over_edges():
    """Sums of projected parts against concatenations, one edge and node at a time."""
    config = gmn.MetanetConfig(
        width=4, num_blocks=1, outputs_nodes=True, reverse_messages=True
    )
    topology = hand_made.topology((2, 3, 1))
    values = np.random.default_rng(7).normal(size=topology.num_edges)
    graph = features.to_graph(topology, values.astype(np.float32), bidirectional=False)
    block = gmn.MetanetBlock(config)
    rng = np.random.default_rng(8)
    nodes = rng.normal(size=(topology.num_nodes, 4)).astype(np.float32)
    edges = rng.normal(size=(topology.num_edges, 4)).astype(np.float32)
    embeddings = gmn.Embeddings(jnp.asarray(nodes), jnp.asarray(edges), None)
    wiring = gmn.wiring_of(graph)
    params = random_params(block, embeddings, wiring)
    found = jax.jit(block.apply)(params, embeddings, wiring)

    weights = jax.tree.map(np.asarray, params["params"])

    def norm(name, row):
        centred = (row - row.mean()) / np.sqrt(row.var() + 1e-6)
        return centred * weights[name]["scale"] + weights[name]["bias"]

    def linear(name, row):
        layer = weights[name]
        return row @ layer["kernel"] + layer.get("bias", 0.0)

    relu = hand_made.relu
    normed = np.array([norm("node_norm", row) for row in nodes])
    incoming = [[] for _ in nodes]
    outgoing = [[] for _ in nodes]
    for index, (sender, receiver) in enumerate(
        zip(graph.senders, graph.receivers, strict=True)
    ):
        sent = linear("sender", normed[sender])
        received = linear("receiver", normed[receiver])
        updated = linear("edge", norm("edge_norm", edges[index]))
        updated = relu(updated + sent[:4] + received[:4])
        expected = edges[index] + linear("edge_output", updated)
        assert_close(found.edges[index], expected)
        incoming[receiver].append(relu(linear("message", updated) + sent[4:]))
        outgoing[sender].append(relu(linear("reverse_message", updated) + received[4:]))
    zero = [np.zeros(4)]
    for index in range(topology.num_nodes):
        update = linear("node", normed[index])
        update += linear("incoming", np.mean(incoming[index] or zero, axis=0))
        update += linear("outgoing", np.mean(outgoing[index] or zero, axis=0))
        expected = nodes[index] + linear("node_output", relu(update))
        assert_close(found.nodes[index], expected)


def test_direction_flag_tells_a_network_from_its_mirror():
    """With symmetric features, only the flag separates an edge from its reverse."""
    topology = hand_made.topology((1, 1))
    for name in ("node_types", "node_layers", "node_orders"):
        setattr(topology, name, np.zeros(3, np.int32))
    topology.node_functions = np.zeros((3, 8), np.float32)
    topology.node_attributes = np.zeros((3, 2), np.float32)
    topology.senders = np.array([0, 1], np.int32)
    topology.receivers = np.array([1, 2], np.int32)
    topology.edge_types = np.zeros(2, np.int32)
    hand_made.with_kinds(topology)
    mirror = features.to_graph(topology, np.array([2.0, -1.0], np.float32))
    graph = features.to_graph(topology, np.array([-1.0, 2.0], np.float32))
    distances = {}
    for flag in (True, False):
        config = gmn.MetanetConfig(
            width=8, num_blocks=2, direction_flag=flag, outputs_nodes=True
        )
        module = gmn.GraphMetanet(config)
        params, apply = random_params(module, graph), jax.jit(module.apply)
        sums = [
            np.sum(np.asarray(apply(params, g).nodes), axis=0) for g in (graph, mirror)
        ]
        distances[flag] = np.abs(sums[0] - sums[1]).max()
    assert distances[False] < 1e-5
    assert distances[True] > 1e-3


def test_recomputed_blocks_give_the_same_numbers():
    graph = graph_of(WIDTHS, hand_made.random_tensors(np.random.default_rng(9), WIDTHS))
    plain = gmn.GraphMetanet(gmn.MetanetConfig(width=4, num_blocks=2))
    again = gmn.GraphMetanet(
        gmn.MetanetConfig(width=4, num_blocks=2, checkpoint_blocks=True)
    )
    params = random_params(plain, graph)

    def loss(module):
        return lambda params: jnp.sum(jnp.sin(module.apply(params, graph).edges))

    expected = jax.jit(jax.grad(loss(plain)))(params)
    found = jax.jit(jax.grad(loss(again)))(params)
    jax.tree.map(assert_close, found, expected)
    assert "remat" in str(jax.make_jaxpr(loss(again))(params))


@pytest.mark.parametrize(
    "options",
    [
        {"aggregation": "max"},
        {"activation": "step"},
        {"encoding": "raw"},
        {"width": 7},
        {"num_blocks": -1},
    ],
)
def test_bad_options_are_named(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}: found .* expected"):
        gmn.MetanetConfig(**options)


@pytest.mark.parametrize("aggregation", ["mean", "typed_mean"])
def test_windows_of_edges_give_the_same_numbers(aggregation):
    """Against all edges at once: outputs and gradients, padding too."""
    rng = np.random.default_rng(10)
    shapes = [(2, 5, 3), (1, 2, 4, 2)]
    singles = [graph_of(s, hand_made.random_tensors(rng, s)) for s in shapes]
    budget = graphs.GraphBudget(*(n + 3 for n in graphs.graph_budget(singles, 2)))
    batch = graphs.batch_graphs(singles, budget)
    config = gmn.MetanetConfig(
        width=4,
        num_blocks=2,
        aggregation=aggregation,
        use_globals=True,
        reverse_messages=True,
        outputs_nodes=True,
    )
    windowed = dataclasses.replace(config, edge_window=20)
    assert len(batch.senders) % 20 and len(batch.senders) > 40
    pooling = "layer_statistics" if aggregation == "typed_mean" else "mean"
    modules = [readouts.InvariantMetanet(c, 3, pooling) for c in (config, windowed)]
    params = random_params(modules[0], batch)

    def loss(module, params):
        return jnp.sum(jnp.sin(module.apply(params, batch)))

    # Gradients of one are enough.
    derive = jax.value_and_grad if aggregation == "typed_mean" else lambda loss: loss
    losses = [functools.partial(loss, module) for module in modules]
    expected, found = (jax.jit(derive(loss))(params) for loss in losses)
    jax.tree.map(assert_close, found, expected)
    text = str(jax.make_jaxpr(losses[1])(params))
    assert f"f32[{len(batch.senders)},4]" not in text
    # Shapes of parameters do not depend on the window.
    shapes = [jax.eval_shape(m.init, jax.random.key(0), batch) for m in modules]
    assert shapes[0] == shapes[1]


def test_windows_write_the_changes_of_all_weights():
    rng = np.random.default_rng(11)
    topology = hand_made.topology(WIDTHS)
    values = hand_made.flatten(hand_made.random_tensors(rng, WIDTHS))
    graph = features.to_graph(topology, np.stack([values, -values], -1))
    table = weight_updates.parameter_edges(topology)
    config = gmn.MetanetConfig(width=4, num_blocks=1)
    windowed = dataclasses.replace(config, edge_window=7)
    modules = [weight_updates.WeightUpdateMetanet(c, 2) for c in (config, windowed)]
    given = graph, table, np.stack([values, -values], -1)
    params = random_params(modules[0], *given)
    expected, found = (
        jax.jit(lambda params, module=module: module.apply(params, *given))(params)
        for module in modules
    )
    assert found.shape == (2, len(values), 2)
    assert_close(found, expected)
    with pytest.raises(ValueError, match="edge_window: found 0, expected at least 1"):
        gmn.MetanetConfig(edge_window=0)


@pytest.mark.parametrize("scales", [(0.0,), (1.0, -1.0), (np.nan,), (np.inf,)])
def test_scales_of_values_are_positive(scales):
    with pytest.raises(ValueError, match="value_scales: found .* positive numbers"):
        gmn.MetanetConfig(value_scales=scales)
