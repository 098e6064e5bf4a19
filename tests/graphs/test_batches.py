"""Batches of graphs with features: masks, budgets, segment sums."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from modmeta import graphs

# Nodes and edges of every graph; a graph without edges is among them.
SIZES = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 7)), min_size=1, max_size=4
)


def random_graph(rng, num_nodes, num_edges):
    nodes = {
        "value": rng.normal(size=(num_nodes, 2)).astype(np.float32),
        "type": rng.integers(1, 9, num_nodes),
    }
    edges = {"value": rng.normal(size=num_edges).astype(np.float32)}
    senders = rng.integers(0, num_nodes, num_edges)
    receivers = np.sort(rng.integers(0, num_nodes, num_edges))
    return graphs.single_graph(nodes, edges, senders, receivers)


@hypothesis.settings(max_examples=20)
@hypothesis.given(sizes=SIZES, spare=st.tuples(*[st.integers(0, 3)] * 3))
def test_batch_holds_the_graphs_one_after_the_other(sizes, spare):
    rng = np.random.default_rng(len(sizes))
    singles = [random_graph(rng, *size) for size in sizes]
    tight = graphs.graph_budget(singles, len(singles))
    budget = graphs.GraphBudget(*(np.array(tight[:3]) + spare).tolist())
    batch = graphs.batch_graphs(singles, budget)
    assert jax.tree.leaves(batch.nodes)[0].shape[0] == budget.num_nodes
    assert len(batch.senders) == len(batch.receivers) == budget.num_edges
    assert len(batch.n_node) == len(batch.globals.is_real) == budget.num_graphs
    assert batch.senders.dtype == batch.n_node.dtype == np.int32
    assert (np.diff(batch.receivers) >= 0).all()
    node_counts = [n for n, _ in sizes]
    edge_counts = [e for _, e in sizes]
    np.testing.assert_array_equal(
        graphs.node_mask(batch), np.arange(budget.num_nodes) < sum(node_counts)
    )
    np.testing.assert_array_equal(
        graphs.edge_mask(batch), np.arange(budget.num_edges) < sum(edge_counts)
    )
    first_node = first_edge = 0
    for index, single in enumerate(singles):
        nodes = slice(first_node, first_node + node_counts[index])
        edges = slice(first_edge, first_edge + edge_counts[index])
        jax.tree.map(
            lambda whole, part, rows=nodes: np.testing.assert_array_equal(
                whole[rows], part
            ),
            batch.nodes,
            single.nodes,
        )
        np.testing.assert_array_equal(
            batch.edges["value"][edges], single.edges["value"]
        )
        for name in ("senders", "receivers"):
            np.testing.assert_array_equal(
                getattr(batch, name)[edges], getattr(single, name) + first_node
            )
        assert (np.asarray(graphs.node_graphs(batch))[nodes] == index).all()
        assert (np.asarray(graphs.edge_graphs(batch))[edges] == index).all()
        first_node, first_edge = nodes.stop, edges.stop
    # Padding hangs together with itself alone.
    assert (batch.senders[first_edge:] >= first_node).all()
    assert (batch.receivers[first_edge:] >= first_node).all()


def test_masks_of_graphs_without_padding():
    rng = np.random.default_rng(0)
    single = random_graph(rng, 3, 4)
    assert np.asarray(graphs.node_mask(single)).tolist() == [True] * 3
    both = graphs.batch_graphs([single, random_graph(rng, 2, 1)])
    assert np.asarray(graphs.edge_mask(both)).tolist() == [True] * 5
    assert np.asarray(graphs.node_graphs(both)).tolist() == [0, 0, 0, 1, 1]


def test_masks_follow_the_graph_under_one_compilation():
    rng = np.random.default_rng(1)
    budget = graphs.GraphBudget(9, 9, 4)
    traces = []

    @jax.jit
    def masks(graph):
        traces.append(1)
        return graphs.node_mask(graph), graphs.edge_mask(graph)

    for sizes in ([(3, 2)], [(1, 0), (4, 5)], [(2, 3), (2, 1), (4, 4)]):
        batch = graphs.batch_graphs([random_graph(rng, *s) for s in sizes], budget)
        for mask, column in zip(masks(batch), (0, 1), strict=True):
            real = sum(size[column] for size in sizes)
            np.testing.assert_array_equal(mask, np.arange(9) < real)
    assert len(traces) == 1


def test_padding_becomes_zero_whatever_it_holds():
    rng = np.random.default_rng(2)
    batch = graphs.batch_graphs([random_graph(rng, 3, 4)], graphs.GraphBudget(5, 6, 2))
    poisoned = jax.tree.map(np.copy, batch)
    poisoned.nodes["value"][3:] = np.nan
    poisoned.nodes["type"][3:] = 7
    poisoned.edges["value"][4:] = np.inf
    cleaned = graphs.zero_padding(poisoned)
    jax.tree.map(np.testing.assert_array_equal, cleaned.nodes, batch.nodes)
    jax.tree.map(np.testing.assert_array_equal, cleaned.edges, batch.edges)

    def loss(values):
        edges = {"value": values}
        return jnp.sum(
            graphs.zero_padding(poisoned._replace(edges=edges)).edges["value"]
        )

    gradient = jax.grad(loss)(jnp.asarray(poisoned.edges["value"]))
    assert np.asarray(gradient).tolist() == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("shape", [(), (2,), (3, 2)])
@pytest.mark.parametrize("num_segments", [1, 4])
def test_segment_sums_and_means_equal_loops(num_segments, shape, is_sorted):
    rng = np.random.default_rng(3)
    values = rng.normal(size=(7, *shape)).astype(np.float32)
    # Segment 2 of four is empty.
    segments = np.array([1, 3, 0, 1, 3, 3, 0]) % num_segments
    if is_sorted:
        segments = np.sort(segments)
    options = {"num_segments": num_segments, "is_sorted": is_sorted}
    sums = graphs.segment_sum(jnp.asarray(values), segments, **options)
    means = graphs.segment_mean(jnp.asarray(values), segments, **options)
    assert sums.shape == means.shape == (num_segments, *shape)
    for segment in range(num_segments):
        rows = values[segments == segment]
        np.testing.assert_allclose(sums[segment], rows.sum(axis=0), rtol=1e-5)
        expected = rows.mean(axis=0) if len(rows) else np.zeros(shape)
        np.testing.assert_allclose(means[segment], expected, rtol=1e-5, atol=1e-6)


def test_budget_holds_the_largest_graphs():
    rng = np.random.default_rng(4)
    singles = [random_graph(rng, *size) for size in [(5, 1), (2, 7), (4, 3), (1, 2)]]
    assert graphs.graph_budget(singles, 2) == graphs.GraphBudget(10, 10, 3)
    with pytest.raises(ValueError, match="num_graphs: found 5, expected at most 4"):
        graphs.graph_budget(singles, 5)


def test_bad_input_is_named():
    rng = np.random.default_rng(5)
    single = random_graph(rng, 3, 4)
    for budget, message in (
        ((3, 4, 2), "found num_nodes=3, expected at least 4"),
        ((4, 3, 2), "found num_edges=3, expected at least 4"),
        ((4, 4, 1), "found num_graphs=1, expected at least 2"),
    ):
        with pytest.raises(ValueError, match=f"graph budget: {message}"):
            graphs.batch_graphs([single], graphs.GraphBudget(*budget))
    with pytest.raises(ValueError, match="receivers: found an unsorted array"):
        graphs.single_graph(single.nodes, {}, [0, 1], [1, 0])


@pytest.mark.parametrize("is_padded", [False, True])
def test_batches_are_those_of_jraph(is_padded):
    """To the bit and the type: graphs and tables of several sizes."""
    rng = np.random.default_rng(0)
    made, aligned = [], []
    for num_nodes, num_edges, num_rows in ((3, 4, 2), (2, 0, 3), (4, 7, 1)):
        senders, receivers = rng.integers(0, num_nodes, (2, num_edges))
        ends = senders, np.sort(receivers)
        nodes = {"a": rng.normal(size=(num_nodes, 2)).astype(np.float16)}
        edges = rng.integers(0, 9, num_edges).astype(np.uint8)
        shared = rng.normal(size=(1, num_rows, 2)).astype(np.float32)
        longest = np.concatenate([shared, np.zeros((1, 3 - num_rows, 2))], axis=1)
        made.append(graphs.single_graph(nodes, edges, *ends, (shared,)))
        longest = (longest.astype(np.float32),)
        aligned.append(graphs.single_graph(nodes, edges, *ends, longest))
    expected = jraph.batch_np(aligned)
    budget = graphs.GraphBudget(12, 13, 6) if is_padded else None
    if is_padded:
        expected = jraph.pad_with_graphs(expected, 12, 13, 6)
    found = graphs.batch_graphs(made, budget)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for own, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_array_equal(own, other)
    for name in ("nodes", "edges", "globals"):
        pairs = zip(
            jax.tree.leaves(getattr(found, name)),
            jax.tree.leaves(getattr(expected, name)),
            strict=True,
        )
        assert all(own.dtype == other.dtype for own, other in pairs)
