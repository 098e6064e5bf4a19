"""Neural graphs against loops over edges, symmetries, and networks one by one."""

import functools

import jax
import numpy as np
import pytest

from modmeta import graphs
from modmeta.metanet import sample_symmetry, trace
from modmeta.metanet.learning.prediction import NeuralGraphPredictor
from modmeta.metanet.learning.sources import GraphSource
from modmeta.metanet.models.neural_graph_network import NeuralGraphNetwork
from modmeta.metanet.models.neural_graphs import (
    NODE_PARAMETERS,
    layout_of,
    neural_graph,
)
from modmeta.metanet.parameter_graphs.symmetries import parameter_permutation
from modmeta.metanet.parameter_graphs.vocabulary import EDGE_TYPES
from modmeta.metanet.zoo.families import Architecture, make_module
from modmeta.networks import MLP
from tests.metanet.small_networks import normal, random_variables
from tests.metanet.test_models import random_params

IMAGE = normal(1, 4, 4, 3)
MODELS = {
    "dense": (MLP((5, 4, 3)), normal(1, 2)),
    **{
        architecture.family: (make_module(architecture, 3), IMAGE)
        for architecture in (
            Architecture("cnn_2d", 4, 2, 2, "batch"),
            Architecture("cnn_1d", 4, 1, 1, "group", "gelu"),
            Architecture("deep_sets", 4, 2, 1),
            Architecture("resnet", 4, 2, normalization="batch"),
            Architecture("vit", 4, 1, normalization="layer", activation="gelu"),
        )
    },
}


@functools.cache
def network(name):
    model, inputs = MODELS[name]
    options = {} if name == "dense" else {"train": False}
    variables = random_variables(model, inputs, **options)
    topology = trace(model, variables, inputs, **options)
    return topology, np.asarray(topology.flatten(variables))


@functools.cache
def layout():
    return layout_of([network(name)[0] for name in MODELS])


def graph_of(name, vector=None):
    topology, own = network(name)
    return neural_graph(topology, layout()).fill(own if vector is None else vector)


MODULE = NeuralGraphNetwork(2, 3, width=8, num_blocks=2, value_scales=(1.0, 10.0))


@functools.cache
def params():
    return random_params(MODULE, graph_of("cnn_2d"))


@jax.jit
def _apply(params, graph):
    return MODULE.apply(params, graph)


def read(graph):
    return np.asarray(_apply(params(), graph))


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_its_place(name):
    topology, vector = network(name)
    graph = graph_of(name)
    own = {EDGE_TYPES.id(part) for part in NODE_PARAMETERS}
    found = {"nodes": {}, "edges": {}}
    pairs = set()
    for edge in range(topology.num_edges):
        kind, index = topology.edge_types[edge], topology.edge_parameters[edge]
        ends = topology.senders[edge], topology.receivers[edge]
        value = vector[index] if index >= 0 else topology.edge_constants[edge]
        if kind in own:
            found["nodes"].setdefault(ends[1], []).append(value)
        elif index >= 0 or kind == EDGE_TYPES.id("identity"):
            found["edges"].setdefault(ends, []).append(value)
            pairs.add(ends)

    def sets(rows):
        return sorted(sorted(row[row != 0].tolist()) for row in rows if row.any())

    for part, rows in (("nodes", graph.nodes.values), ("edges", graph.edges.values)):
        expected = [np.array(row, np.float32) for row in found[part].values()]
        assert sets(rows) == sets(expected)
    assert len(graph.senders) == len(pairs)
    assert len({*zip(graph.senders, graph.receivers, strict=True)}) == len(pairs)
    np.testing.assert_array_equal(
        np.sort(graph.nodes.outputs[graph.nodes.outputs > 0]), 1 + np.arange(3)
    )


def test_entries_of_kernels_have_places_of_their_own():
    topology, vector = network("cnn_2d")
    graph = graph_of("cnn_2d")
    (leaf,) = [leaf for leaf in topology.leaves if leaf.shape == (3, 3, 4, 4)]
    kernel = vector[leaf.offset : leaf.offset + leaf.size].reshape(leaf.shape)
    offsets = layout().edge_places
    rows = {
        tuple(sorted(kernel[:, :, i, j].ravel())): (i, j)
        for i in (0, 1)
        for j in (0, 1)
    }
    seen = 0
    for values in graph.edges.values:
        pair = rows.get(tuple(sorted(values[values != 0])))
        if pair is None:
            continue
        seen += 1
        for place in np.flatnonzero(values):
            _, y, x, *_ = offsets[place]
            assert values[place] == kernel[int(y) + 1, int(x) + 1, *pair]
    assert seen == 4


@pytest.mark.parametrize("name", MODELS)
def test_order_of_hidden_units_is_not_seen_and_all_else_is(name):
    topology, vector = network(name)
    expected = read(graph_of(name))
    rng, has_moved = np.random.default_rng(0), False
    for _ in range(3):
        permutation = parameter_permutation(topology, sample_symmetry(rng, topology))
        moved = np.empty_like(vector)
        moved[permutation] = vector
        has_moved |= not np.array_equal(moved, vector)
        np.testing.assert_allclose(
            read(graph_of(name, moved)), expected, rtol=2e-4, atol=2e-5
        )
    assert has_moved
    for leaf in topology.leaves:
        other = vector.copy()
        other[leaf.offset : leaf.offset + leaf.size] += rng.normal(size=leaf.size)
        assert np.abs(read(graph_of(name, other)) - expected).max() > 1e-4, leaf.name


def test_ends_of_a_network_have_an_order():
    topology, vector = network("dense")
    expected = read(graph_of("dense"))
    kernels = [leaf for leaf in topology.leaves if len(leaf.shape) == 2]
    for leaf, axis in ((kernels[0], 0), (kernels[-1], 1)):
        other = vector.copy()
        kernel = other[leaf.offset : leaf.offset + leaf.size].reshape(leaf.shape)
        kernel[:] = np.flip(kernel, axis).copy()
        assert np.abs(read(graph_of("dense", other)) - expected).max() > 1e-4


def test_batches_equal_networks_one_by_one():
    pairs = [network(name) for name in MODELS]
    source = GraphSource(
        [topology for topology, _ in pairs],
        [vector[None] for _, vector in pairs],
        form=functools.partial(neural_graph, layout=layout()),
    )
    rows = np.array([3, 0, 5])
    batch = source.batch(rows, source.budget(rows[None]))
    found = read(batch)
    assert found.shape == (4, 2) and not found[3].any()
    names = [list(MODELS)[row] for row in rows]
    expected = np.concatenate([read(graph_of(name)) for name in names])
    np.testing.assert_allclose(found[:3], expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(
        jax.flatten_util.ravel_pytree(
            jax.grad(lambda p: MODULE.apply(p, batch).sum())(params())
        )[0]
    ).all()


def test_networks_beyond_a_layout_are_refused():
    with pytest.raises(ValueError, match="topologies: found none"):
        layout_of([])
    small = layout_of([network("dense")[0]])
    with pytest.raises(ValueError, match="layout: found no place for "):
        neural_graph(network("cnn_1d")[0], small)


def test_graphs_of_any_form_are_graphs():
    """Padding of nodes is no output."""
    graph = graph_of("dense")
    budget = graphs.GraphBudget(len(graph.nodes.types) + 5, len(graph.senders) + 7, 3)
    padded = graphs.batch_graphs([graph], budget)
    np.testing.assert_allclose(read(padded)[:1], read(graph), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_responses", [0, 3])
def test_rows_equal_networks_one_by_one(num_responses):
    topology, vector = network("cnn_2d")
    template = neural_graph(topology, layout())
    rng = np.random.default_rng(1)
    own = vector + rng.normal(size=(3, len(vector))).astype(np.float32)
    shape = (3, topology.num_nodes, num_responses)
    seen = rng.normal(size=shape).astype(np.float32)
    rows = np.concatenate([own, seen.reshape(3, -1)], axis=1)
    predictor = NeuralGraphPredictor(MODULE, template)
    weights = random_params(MODULE, template.fill_all(rows))
    found = jax.jit(predictor.apply)(weights, rows)
    assert found.shape == (3, 2)
    for index in range(3):
        graph = template.fill(own[index])
        if num_responses:
            responses = seen[index][template.units]
            graph = graph._replace(nodes=graph.nodes._replace(responses=responses))
        expected = MODULE.apply(weights, graph)[0]
        np.testing.assert_allclose(found[index], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="rows: found shape .* expected"):
        template.fill_all(rows[:, : len(vector) - 1])
    with pytest.raises(ValueError, match="rows: found shape .* expected"):
        template.fill_all(np.pad(rows, ((0, 0), (0, 1))))
