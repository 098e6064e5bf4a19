"""Permutations of units against the functions of networks and listed automorphisms."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from modmeta.metanet import trace
from modmeta.metanet.parameter_graphs import automorphisms
from modmeta.metanet.parameter_graphs.symmetries import (
    edge_permutation,
    group_order_logarithm,
    more_symmetries,
    parameter_permutation,
    permute_parameters,
    sample_symmetry,
)
from tests.metanet.network_cases import CASES, Case, Network, make, mlp
from tests.metanet.soundness import largest_change
from tests.metanet.sweep import examine


def node_colors(topology):
    columns = (
        topology.node_types,
        topology.node_layers,
        topology.node_orders,
        topology.node_functions,
        topology.node_attributes,
    )
    rows = np.concatenate([c.reshape(topology.num_nodes, -1) for c in columns], 1)
    return [row.tobytes() for row in rows]


def edge_multiset(topology, names):
    """Edges with their features, ends renamed, as a sorted list of tuples."""
    return sorted(
        (
            int(names[s]),
            int(names[r]),
            int(t),
            int(layer),
            bool(p < 0),
            float(c),
            *map(float, position),
        )
        for s, r, t, layer, p, c, position in zip(
            topology.senders,
            topology.receivers,
            topology.edge_types,
            topology.edge_layers,
            topology.edge_parameters,
            topology.edge_constants,
            topology.edge_positions,
            strict=True,
        )
    )


@pytest.mark.parametrize("name", CASES)
def test_symmetries_keep_the_function_and_the_graph(name):
    """Float32: sums in another order, so equal to 1e-5 of the largest output."""
    model, variables, x = make(name)
    topology = trace(model, variables, x)
    order = CASES[name].group_order
    if order is not None:
        assert group_order_logarithm(topology) == pytest.approx(math.log(order))
    apply = jax.jit(model.apply)
    expected = apply(variables, x)
    rng = np.random.default_rng(1)
    colors, edges = node_colors(topology), edge_multiset(topology, range(10**6))
    for _ in range(3):
        permutation = sample_symmetry(rng, topology)
        assert [colors[i] for i in permutation] == colors
        assert edge_multiset(topology, permutation) == edges
        permuted = permute_parameters(topology, variables, permutation)
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(apply(permuted, x), expected, atol=1e-5 * scale)


def test_edge_values_of_a_permuted_network_are_the_permuted_edge_values():
    model, variables, x = make("tokens")
    topology = trace(model, variables, x)
    permutation = sample_symmetry(np.random.default_rng(0), topology)
    permuted = permute_parameters(topology, variables, permutation)
    values = np.asarray(topology.edge_values(variables))
    moved = np.empty_like(values)
    moved[edge_permutation(topology, permutation)] = values
    assert np.any(moved != values)
    np.testing.assert_array_equal(topology.edge_values(permuted), moved)


def test_sampled_permutations_move_parameters():
    """The invariance above would hold for a sampler that never moves anything."""
    for name, case in CASES.items():
        if (case.group_order or 1) < 100:
            continue
        model, variables, x = make(name)
        topology = trace(model, variables, x)
        rng = np.random.default_rng(0)
        moved = [
            np.sum(
                parameter_permutation(topology, sample_symmetry(rng, topology))
                != np.arange(topology.num_parameters)
            )
            for _ in range(5)
        ]
        assert max(moved) > 0, name


def test_samples_of_an_mlp_are_all_its_automorphisms():
    """All automorphisms that networkx lists are drawn, and nothing else.

    2000 draws of 12 equally likely ones: one is missed with probability below 1e-74.
    """

    def small(module, x):
        import flax.linen as nn

        return nn.Dense(1)(nn.tanh(nn.Dense(2)(nn.relu(nn.Dense(3)(x)))))

    model, variables, x = make(Case(small, (1, 2)))
    topology = trace(model, variables, x)
    graph = nx.DiGraph()
    for node, color in enumerate(node_colors(topology)):
        graph.add_node(node, color=color)
    graph.add_edges_from(zip(topology.senders, topology.receivers, strict=True))
    matcher = nx.isomorphism.DiGraphMatcher(
        graph, graph, node_match=lambda a, b: a["color"] == b["color"]
    )
    listed = {
        tuple(int(match[node]) for node in range(topology.num_nodes))
        for match in matcher.isomorphisms_iter()
    }
    assert len(listed) == math.factorial(3) * math.factorial(2)
    rng = np.random.default_rng(0)
    drawn = {tuple(sample_symmetry(rng, topology).tolist()) for _ in range(2000)}
    assert drawn == listed


def experts(params, x):
    """Three experts of two units each, weighted by gates of their own."""
    gates = jax.nn.softmax(x @ params["gates"])
    outputs = [
        jax.nn.relu(x @ params[f"in {i}"]) @ params[f"out {i}"] for i in range(3)
    ]
    return (gates[..., None] * jax.numpy.stack(outputs, 1)).sum(1)


def test_experts_change_places_in_every_order(monkeypatch):
    """Swaps of two generate all orders; samples that are all even would miss half."""
    shapes = {"gates": (4, 3)}
    for index in range(3):
        shapes |= {f"in {index}": (4, 2), f"out {index}": (2, 1)}
    rng = np.random.default_rng(0)
    params = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    x = rng.normal(size=(2, 4)).astype(np.float32)
    topology = trace(experts, params, x)
    inputs = {leaf.name: leaf.offset for leaf in topology.leaves}
    orders = set()
    for _ in range(80):
        moves = parameter_permutation(topology, sample_symmetry(rng, topology))
        orders.add(tuple(moves[inputs["gates"] + np.arange(3)] - inputs["gates"]))
    # All six are missed by one of 80 draws with a chance below 1e-5.
    assert orders == set(itertools.permutations(range(3)))
    monkeypatch.setattr(automorphisms, "MAX_EDGES", 10)
    other = trace(experts, params, x)
    assert more_symmetries(other) == () and more_symmetries(topology)


def test_other_permutations_are_refused():
    model, variables, x = make(Case(mlp, (2, 3)))
    topology = trace(model, variables, x)
    hidden = [np.nonzero(topology.node_blocks == b)[0] for b in (1, 3)]
    identity = np.arange(topology.num_nodes)

    def swap(first, second):
        permutation = identity.copy()
        permutation[[first, second]] = second, first
        return permutation

    assert np.array_equal(
        edge_permutation(topology, identity), np.arange(topology.num_edges)
    )
    edge_permutation(topology, swap(*hidden[0][:2]))
    for first, second in (
        topology.inputs[:2],
        topology.outputs[:2],
        (hidden[0][0], hidden[1][0]),
    ):
        with pytest.raises(ValueError, match="expected an automorphism"):
            permute_parameters(topology, variables, swap(first, second))
    for wrong in (identity[:-1], np.zeros_like(identity)):
        with pytest.raises(ValueError, match="expected a permutation"):
            edge_permutation(topology, wrong)


def test_a_permutation_across_groups_is_refused():
    model, variables, x = make("cnn_2d_grouped")
    topology = trace(model, variables, x)
    # The convolution, the pooling and the mean over its six channels.
    blocks = [np.nonzero(topology.node_blocks == b)[0] for b in range(40)]
    channels = [block for block in blocks if len(block) == 6]
    assert len(channels) == 3
    for first, second in itertools.combinations(range(6), 2):
        permutation = np.arange(topology.num_nodes)
        for block in channels:
            permutation[block[[first, second]]] = block[[second, first]]
        if first // 3 == second // 3:
            edge_permutation(topology, permutation)
        else:
            with pytest.raises(ValueError, match="expected an automorphism"):
                edge_permutation(topology, permutation)


def test_edges_of_a_shared_parameter_stay_together():
    model, variables, x = make("shared_weights")
    topology = trace(model, variables, x)
    block = topology.node_blocks[topology.receivers[topology.edge_parameters == 0][0]]
    first, second = np.nonzero(topology.node_blocks == block)[0][:2]
    permutation = np.arange(topology.num_nodes)
    permutation[[first, second]] = second, first
    with pytest.raises(ValueError, match="stay together|automorphism"):
        parameter_permutation(topology, permutation)


def flattened(places):
    """Some of the units of a flattened array: not all are read at every position."""

    def body(module, x):
        return nn.Dense(2)(nn.tanh(nn.Dense(3)(x)).reshape(2, -1)[:, np.array(places)])

    return body


def joined(module, x):
    """Two units at one position, all three at another."""
    x = nn.Dense(3)(x)
    first = x[:, 0]
    parts = [first[:, :1], first[:, 2:], nn.tanh(x[:, 1])]
    return nn.Dense(2)(jnp.concatenate(parts, -1))


def cut_sum(module, x):
    """Units that stand for one unit each, at two positions, of which one is cut off."""
    x = nn.Dense(2)(x[:, :2]).reshape(2, -1)
    return nn.Dense(2)((x + nn.Dense(4)(nn.tanh(nn.Dense(3)(x))))[:, 1:])


def one_by_one(module, x):
    """Every unit is refined by a network of its own value."""
    x = nn.Dense(3)(x[:, 0])[..., None]
    return nn.Dense(2)((x + nn.Dense(1)(nn.tanh(nn.Dense(2)(x))))[..., 0])


PARTS = {
    "units refined one by one": (one_by_one, 12),
    "cut off a sum": (cut_sum, 6),
    "the first four": (flattened(range(4)), 2),
    "one of each": (flattened([0, 4, 8]), 1),
    "two of each, two alike": (flattened([1, 2, 4, 5, 6]), 2),
    "joined": (joined, 2),
    "a diagonal": (lambda m, x: nn.Dense(2)(nn.Dense(3)(x)[:, [0, 1], [2, 0]]), 1),
}


@pytest.mark.parametrize("name", PARTS)
def test_units_that_are_read_in_part(name):
    body, order = PARTS[name]
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    finding = examine(Network(body), (x,), num_symmetries=4)
    assert finding.change < 1e-5
    assert np.exp(finding.found) == pytest.approx(order)


def patches_as_channels(module, x):
    """A window over patches whose places became channels: two positions that add up."""
    x = nn.Conv(3, (2, 2))(x).reshape(2, 2, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    return nn.Conv(2, (2, 2))(nn.relu(x).reshape(2, 2, 2, 12))


def backwards(module, x):
    x = nn.Dense(3)(x).reshape(2, -1)[:, ::-1]
    return nn.Dense(2)(jnp.cumsum(x, 1))


@pytest.mark.parametrize(
    ("body", "shape"), [(patches_as_channels, (2, 4, 4, 2)), (backwards, (2, 3, 2))]
)
def test_edges_of_two_positions_are_told_apart(body, shape):
    model, variables, x = make(Case(body, shape))
    change, _, _ = largest_change(model, variables, x, num_symmetries=4)
    assert change < 1e-5
