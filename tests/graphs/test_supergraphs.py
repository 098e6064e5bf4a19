"""Super-graphs against a naive construction, one system and one edge at a time."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jraph
import numpy as np
import pytest

from modmeta.graphs import supergraphs


def ring(num_nodes):
    """Every node listens to the one before and, if even, to the one after."""
    pairs = set()
    for receiver in range(num_nodes):
        pairs.add((receiver, (receiver - 1) % num_nodes))
        if receiver % 2 == 0:
            pairs.add((receiver, (receiver + 1) % num_nodes))
    # Senders in falling order: slots must not depend on the order of the edges.
    edges = sorted(((r, s) for r, s in pairs if r != s), key=lambda e: (e[0], -e[1]))
    receivers = np.array([r for r, _ in edges], np.int32)
    senders = np.array([s for _, s in edges], np.int32)
    return senders, receivers


CONNECTIVITIES = [supergraphs.fully_connected, ring]
SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def test_fully_connected_by_hand():
    senders, receivers = supergraphs.fully_connected(3)
    assert senders.tolist() == [1, 2, 0, 2, 0, 1]
    assert receivers.tolist() == [0, 0, 1, 1, 2, 2]
    assert [len(supergraphs.fully_connected(n)[0]) for n in (1, 2, 7)] == [0, 2, 42]


@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
@hypothesis.given(sizes=SIZES, spare=st.tuples(*[st.integers(0, 3)] * 5))
def test_supergraph_equals_construction_by_hand(connectivity, sizes, spare):
    check_by_hand(sizes, spare, connectivity, [connectivity(n) for n in sizes])


@st.composite
def sparse_systems(draw):
    """Sizes and a random part of the edges of every system, in random order."""
    sizes = draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    edges = []
    for size in sizes:
        senders, receivers = supergraphs.fully_connected(size)
        chosen = rng.permutation(len(senders))[: rng.integers(0, len(senders) + 1)]
        edges.append((senders[chosen], receivers[chosen]))
    return sizes, edges


@hypothesis.given(systems=sparse_systems(), spare=st.tuples(*[st.integers(0, 2)] * 5))
def test_supergraph_of_edge_lists_equals_construction_by_hand(systems, spare):
    sizes, edges = systems
    check_by_hand(sizes, spare, edges, edges)


def check_by_hand(sizes, spare, connectivity, edge_lists):
    """Compares a super-graph with its definition, one node and edge at a time."""
    tight = supergraphs.padding_budget(sizes, len(sizes), connectivity)
    budget = supergraphs.PaddingBudget(*(np.array(tight) + spare).tolist())
    built = supergraphs.build_supergraph(sizes, budget, connectivity)

    node_names = [(s, i) for s, size in enumerate(sizes) for i in range(size)]
    position = {name: row for row, name in enumerate(node_names)}
    edges = []
    for system, edge_list in enumerate(edge_lists):
        for sender, receiver in zip(*edge_list, strict=True):
            edges.append((position[system, sender], position[system, receiver]))
    num_nodes, num_edges = len(node_names), len(edges)

    graph = built.graph
    found = zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True)
    assert list(found)[:num_edges] == edges
    assert graph.senders.shape == (budget.num_edges,)
    assert (graph.senders[num_edges:] >= num_nodes).all()
    assert (graph.receivers[num_edges:] >= num_nodes).all()
    assert graph.n_node.tolist()[: len(sizes)] == sizes
    assert graph.n_node.shape == (budget.num_systems + 1,)
    assert graph.n_node.sum() == budget.num_nodes
    assert graph.n_edge.sum() == budget.num_edges
    # Jraph reads the static sizes off features, of which a super-graph has none.
    padded = graph._replace(
        nodes=np.zeros(budget.num_nodes), edges=np.zeros(budget.num_edges)
    )
    for get_mask, total, real in (
        (jraph.get_node_padding_mask, budget.num_nodes, num_nodes),
        (jraph.get_edge_padding_mask, budget.num_edges, num_edges),
        (jraph.get_graph_padding_mask, budget.num_systems + 1, len(sizes)),
    ):
        np.testing.assert_array_equal(get_mask(padded), np.arange(total) < real)

    assert built.node_mask.tolist() == [r < num_nodes for r in range(budget.num_nodes)]
    for row, (system, entity) in enumerate(node_names):
        assert built.node_system[row] == system
        assert built.node_entity[row] == entity
    slots = [sorted(s for s, r in edges if r == row) for row in range(num_nodes)]
    for row in range(budget.num_nodes):
        senders = slots[row] if row < num_nodes else []
        degree = len(senders)
        assert built.slot_mask[row].tolist() == [
            slot < degree for slot in range(budget.max_degree)
        ]
        for slot, sender in enumerate(senders):
            assert built.slot_senders[row, slot] == sender
            assert edges[built.slot_edges[row, slot]] == (sender, row)
            assert built.slot_entities[row, slot] == node_names[sender][1]
            expected = budget.max_degree
            if row in slots[sender]:
                expected = slots[sender].index(row)
            assert built.reverse_slots[row, slot] == expected
        assert (built.slot_senders[row, degree:] == budget.num_nodes - 1).all()
        assert (built.reverse_slots[row, degree:] == budget.max_degree).all()
        assert (built.slot_edges[row, degree:] == max(budget.num_edges - 1, 0)).all()
    for system in range(budget.num_systems):
        size = sizes[system] if system < len(sizes) else 0
        rows = [position[system, entity] for entity in range(size)]
        assert built.system_nodes[system, :size].tolist() == rows
        assert (built.system_nodes[system, size:] == budget.num_nodes - 1).all()
        assert built.system_mask[system].tolist() == [
            entity < size for entity in range(budget.max_nodes)
        ]


@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
@hypothesis.given(sizes=SIZES, data=st.data())
def test_budget_holds_any_batch_and_is_the_smallest(connectivity, sizes, data):
    num_systems = data.draw(st.integers(1, len(sizes)))
    budget = supergraphs.padding_budget(sizes, num_systems, connectivity)
    order = data.draw(st.permutations(sizes))
    supergraphs.build_supergraph(order[:num_systems], budget, connectivity)

    largest = sorted(sizes)[::-1][:num_systems]
    assert budget.num_nodes == sum(largest) + 1
    assert budget.num_edges == sum(len(connectivity(n)[0]) for n in largest)
    assert budget.max_nodes == max(sizes)
    degrees = [np.bincount(connectivity(n)[1], minlength=1).max() for n in sizes]
    assert budget.max_degree == max(1, *degrees)


@hypothesis.given(systems=sparse_systems(), data=st.data())
def test_budget_of_edge_lists_holds_any_batch_and_is_the_smallest(systems, data):
    sizes, edges = systems
    num_systems = data.draw(st.integers(1, len(sizes)))
    budget = supergraphs.padding_budget(sizes, num_systems, edges)
    chosen = data.draw(st.permutations(range(len(sizes))))[:num_systems]
    supergraphs.build_supergraph(
        [sizes[i] for i in chosen], budget, [edges[i] for i in chosen]
    )
    counts = sorted(len(senders) for senders, _ in edges)[::-1]
    assert budget.num_edges == sum(counts[:num_systems])
    degrees = [np.bincount(receivers, minlength=1).max() for _, receivers in edges]
    assert budget.max_degree == max(1, *degrees)


@pytest.mark.parametrize(
    "edges, message",
    [
        ([([0], [1])], "edges: found 1 lists, expected 2, one per system"),
        ([([0], [1]), ([0, 1], [1])], r"edges of system 1: found senders \(2,\)"),
        ([([0], [3]), ([0], [1])], "edges of system 0: .* to 3, expected integers"),
        ([([0.5], [1]), ([0], [1])], "edges of system 0: found values of type float"),
        ([([0], [1]), ([1], [1])], "edges of system 1: found a loop at node 1"),
        ([([2, 0, 2], [1, 1, 1]), ([0], [1])], "the edge from 2 to 1 twice"),
    ],
)
def test_edge_lists_that_are_none_are_refused(edges, message):
    edges = [(np.array(senders), np.array(receivers)) for senders, receivers in edges]
    with pytest.raises(ValueError, match=message):
        supergraphs.padding_budget([3, 2], 2, edges)


def test_budget_repeats_systems_when_there_are_too_few():
    budget = supergraphs.padding_budget([2, 3], 5)
    assert (budget.num_nodes, budget.num_edges) == (3 + 3 + 3 + 2 + 2 + 1, 22)
    supergraphs.build_supergraph([3, 2, 3, 2, 3], budget)


@pytest.mark.parametrize("field", supergraphs.PaddingBudget._fields)
def test_error_names_the_field_that_is_too_small(field):
    sizes = (4, 1, 2)
    budget = supergraphs.padding_budget(sizes, 3)
    available = getattr(budget, field) - 1
    message = f"found {field}={available}, expected at least {available + 1} "
    with pytest.raises(ValueError, match=message):
        supergraphs.build_supergraph(sizes, budget._replace(**{field: available}))


def test_mixes_of_sizes_share_one_compilation():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def degrees(supergraph):
        # One trace for all mixes: shapes come from the budget alone.
        ones = jax.numpy.where(supergraph.slot_mask, 1, 0)
        by_node = ones.sum(axis=1)[supergraph.system_nodes]
        return jax.numpy.where(supergraph.system_mask, by_node, 0).sum(axis=1)

    sizes = [5, 1, 3, 4, 2]
    budget = supergraphs.padding_budget(sizes, 3)
    for batch in ([5, 4, 3], [1, 2, 5], [2, 2], [1], [1, 1, 1]):
        found = degrees(supergraphs.build_supergraph(batch, budget))
        expected = [n * (n - 1) for n in batch] + [0] * (3 - len(batch))
        np.testing.assert_array_equal(found, expected)
