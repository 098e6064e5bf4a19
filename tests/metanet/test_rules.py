"""What a metanetwork sees of a network against what the network computes.

A *change* is a rearrangement of parameters. A graph network sees a network up to the
colours of a refinement: nodes of equal features have equal colours, and from round to
round they keep them only if the colours, features and values of their edges agree in
both directions. So a change that leaves the colours alone cannot be told from the
original by any message passing, and it must leave the function alone: a true symmetry.
A change of the function must change the colours.
"""

import jax
import numpy as np
import pytest

from modmeta.metanet.parameter_graphs import symmetries
from tests.metanet.small_networks import (
    NETWORKS,
    assert_same,
    compiled,
    nodes_of,
    random_variables,
)


def colours(topology, *trees, num_rounds=8):
    """Sorted colours of the nodes of one topology under several values of its edges."""
    size = topology.num_nodes
    columns = ("node_types", "node_layers", "node_orders")
    features = np.concatenate(
        [np.stack([getattr(topology, name) for name in columns], axis=1)]
        + [topology.node_functions, topology.node_attributes],
        axis=1,
    )
    colour = np.tile(np.unique(features, axis=0, return_inverse=True)[1], len(trees))
    shifts = np.repeat(np.arange(len(trees)) * size, topology.num_edges)
    senders = np.tile(topology.senders, len(trees)) + shifts
    receivers = np.tile(topology.receivers, len(trees)) + shifts
    static = np.concatenate(
        [
            topology.edge_types[:, None],
            topology.edge_layers[:, None],
            topology.edge_positions,
        ],
        axis=1,
    )
    values = np.concatenate([np.asarray(topology.edge_values(tree)) for tree in trees])
    labels = np.concatenate([np.tile(static, (len(trees), 1)), values[:, None]], axis=1)
    labels = np.unique(labels, axis=0, return_inverse=True)[1]
    for _ in range(num_rounds):
        seen = [[int(own)] for own in colour]
        arrived = zip(receivers, labels, colour[senders], strict=True)
        left = zip(senders, labels, colour[receivers], strict=True)
        for direction, edges in enumerate((arrived, left)):
            for node, *edge in edges:
                seen[node].append((direction, *map(int, edge)))
        keys = [(own, *sorted(edges)) for own, *edges in seen]
        numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
        colour = np.array([numbers[key] for key in keys])
    return [sorted(part) for part in colour.reshape(len(trees), size).tolist()]


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip_is_exact(name):
    topology, _, variables = compiled(name)
    network = NETWORKS[name]
    other = random_variables(network.model, *network.inputs, seed=7)
    for tree in (variables, other):
        values = topology.edge_values(tree)
        found = topology.to_parameters(values)
        jax.tree.map(np.testing.assert_array_equal, found, tree)
        # Every parameter is on an edge of its own, in every position of its array.
        counts = np.bincount(topology.edge_parameters[topology.edge_parameters >= 0])
        np.testing.assert_array_equal(counts, np.ones(topology.num_parameters))


@pytest.mark.parametrize("name", NETWORKS)
def test_number_of_permutations(name):
    topology, _, _ = compiled(name)
    found = np.exp(symmetries.group_order_logarithm(topology))
    np.testing.assert_allclose(found, NETWORKS[name].order, rtol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_sampled_permutations_leave_the_function_alone(name):
    topology, forward, variables = compiled(name)
    expected = forward(variables)
    rng = np.random.default_rng(0)
    has_moved = False
    for _ in range(4):
        nodes = symmetries.sample_symmetry(rng, topology)
        permuted = symmetries.permute_parameters(topology, variables, nodes)
        vectors = map(np.asarray, map(topology.flatten, (permuted, variables)))
        has_moved |= bool(np.any(np.not_equal(*vectors)))
        assert_same(forward(permuted), expected)
        before, after = colours(topology, variables, permuted)
        assert before == after
    assert has_moved


def swap(array, first, second, axis):
    """Exchanges two places of an axis."""
    order = np.arange(array.shape[axis])
    order[[first, second]] = second, first
    return np.take(array, order, axis)


def edit(variables, layer, change):
    """Variables with other parameters of one layer."""
    params = variables["params"]
    return {**variables, "params": {**params, layer: change(params[layer])}}


def exchange(layer, first, second):
    """Two parts of a layer in each other's place."""

    def change(variables):
        return edit(
            variables,
            layer,
            lambda part: {**part, first: part[second], second: part[first]},
        )

    return change


def swap_in(layer, leaf, first, second, axis):
    """Two slices of one array of a layer in each other's place."""

    def change(variables):
        return edit(
            variables,
            layer,
            lambda part: {**part, leaf: swap(part[leaf], first, second, axis)},
        )

    return change


def swap_dimensions(projections, first, second, with_output=False):
    """Two of all H D dimensions of some projections of the attention layer."""

    def change(part):
        part = dict(part)
        for name in projections:
            part[name] = {
                "kernel": swap(
                    part[name]["kernel"].reshape(4, 6), first, second, 1
                ).reshape(4, 2, 3),
                "bias": swap(part[name]["bias"].reshape(6), first, second, 0).reshape(
                    2, 3
                ),
            }
        if with_output:
            kernel = swap(part["out"]["kernel"].reshape(6, 5), first, second, 0)
            part["out"] = {**part["out"], "kernel": kernel.reshape(2, 3, 5)}
        return part

    return lambda variables: edit(variables, "attention", change)


def swap_heads(projections, with_output=False):
    def change(variables):
        for dimension in range(3):
            step = swap_dimensions(projections, dimension, 3 + dimension, with_output)
            variables = step(variables)
        return variables

    return change


def swap_stream(variables, with_branch):
    """Channels 0 and 1 of the stream of `Residual`, with or without the branch's."""
    steps = [
        swap_in("first", "kernel", 0, 1, 1),
        swap_in("first", "bias", 0, 1, 0),
        swap_in("expand", "kernel", 0, 1, 0),
        swap_in("last", "kernel", 0, 1, 0),
    ]
    if with_branch:
        steps.append(swap_in("contract", "kernel", 0, 1, 1))
        steps.append(swap_in("contract", "bias", 0, 1, 0))
    for step in steps:
        variables = step(variables)
    return variables


TRUE_CHANGES = {
    "heads": ("attention", swap_heads(["query", "key", "value"], True)),
    "dimensions of queries and keys": (
        "attention",
        swap_dimensions(["query", "key"], 3, 5),
    ),
    "dimensions of values": ("attention", swap_dimensions(["value"], 0, 1, True)),
    "channels of a stream": ("residual", lambda v: swap_stream(v, True)),
}
FALSE_CHANGES = {
    "query with value": ("attention", exchange("attention", "query", "value")),
    "query with key": ("attention", exchange("attention", "query", "key")),
    "query dimensions alone": ("attention", swap_dimensions(["query"], 0, 1)),
    "value dimensions alone": ("attention", swap_dimensions(["value"], 0, 1)),
    "query and key dimensions across heads": (
        "attention",
        swap_dimensions(["query", "key"], 0, 3),
    ),
    "value dimensions across heads": (
        "attention",
        swap_dimensions(["value"], 0, 3, True),
    ),
    "heads of queries and keys": ("attention", swap_heads(["query", "key"])),
    "pointwise with mean": ("set", exchange("layer", "pointwise", "mean")),
    "two shifts": ("cyclic", swap_in("layer", "kernel", 1, 2, 0)),
    "rows of a kernel": ("conv", swap_in("layer", "kernel", 0, 1, 0)),
    "columns of a kernel": ("conv", swap_in("layer", "kernel", 0, 1, 1)),
    "rows of a patch kernel": ("patch conv", swap_in("layer", "kernel", 0, 2, 0)),
    "channels across groups": ("grouped conv", swap_in("layer", "kernel", 0, 3, 2)),
    "two words": ("language", swap_in("words", "embedding", 1, 4, 0)),
    "two places": ("language", swap_in("places", "embedding", 0, 2, 0)),
    "points of a line": ("warped line", swap_in("grid", "grid", 0, 1, 0)),
    "rows of a square": ("warped square", swap_in("grid", "grid", 0, 2, 0)),
    "two planes": ("warped cube", swap_in("grid", "planes", 0, 1, 0)),
    "learned positions": (
        "ViT, class token",
        lambda v: {
            **v,
            "params": {
                **v["params"],
                "positions": swap(v["params"]["positions"], 1, 2, 1),
            },
        },
    ),
    "class token with a patch": (
        "ViT, class token",
        lambda v: {
            **v,
            "params": {
                **v["params"],
                "positions": swap(v["params"]["positions"], 0, 2, 1),
            },
        },
    ),
    "channels of a stream, its branch apart": (
        "residual",
        lambda v: swap_stream(v, False),
    ),
}


@pytest.mark.parametrize("name", TRUE_CHANGES)
def test_true_symmetries_cannot_be_seen(name):
    network, change = TRUE_CHANGES[name]
    topology, forward, variables = compiled(network)
    changed = change(variables)
    assert np.any(topology.flatten(changed) != topology.flatten(variables))
    assert_same(forward(changed), forward(variables))
    before, after = colours(topology, variables, changed)
    assert before == after


@pytest.mark.parametrize("name", FALSE_CHANGES)
def test_false_symmetries_are_seen(name):
    network, change = FALSE_CHANGES[name]
    topology, forward, variables = compiled(network)
    changed = change(variables)
    difference = np.max(np.abs(forward(changed) - forward(variables)))
    assert difference > 1e-3
    before, after = colours(topology, variables, changed)
    assert before != after


# Pairs (type, place among the nodes of the type) that change places in "attention".
REFUSED = {
    "query with value": [(("query", place), ("value", place)) for place in range(6)],
    "query dimensions alone": [(("query", 0), ("query", 1))],
    "query and key dimensions without their product": [
        ((name, 0), (name, 1)) for name in ("query", "key")
    ],
    "dimensions across heads": [
        ((name, 0), (name, 3)) for name in ("query", "key", "attention_product")
    ],
    "heads alone": [(("head", 0), ("head", 1))],
    "value dimensions without those attended": [(("value", 0), ("value", 1))],
}


@pytest.mark.parametrize("name", REFUSED)
def test_node_permutations_of_false_symmetries_are_refused(name):
    topology, _, _ = compiled("attention")
    permutation = np.arange(topology.num_nodes)
    for first, second in REFUSED[name]:
        places = [nodes_of(topology, kind)[place] for kind, place in (first, second)]
        permutation[places] = places[::-1]
    with pytest.raises(ValueError, match="automorphism"):
        symmetries.edge_permutation(topology, permutation)
    # With all that belongs to a dimension it is a symmetry.
    permutation = np.arange(topology.num_nodes)
    for kind in ("query", "key", "attention_product"):
        places = nodes_of(topology, kind)[:2]
        permutation[places] = places[::-1]
    symmetries.edge_permutation(topology, permutation)
