"""Batches of networks against graphs made one by one, and plans against their rules."""

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from modmeta import graphs
from modmeta.metanet import to_graph, trace
from modmeta.metanet.learning import sources
from modmeta.metanet.parameter_graphs.topology import ParameterGraph
from modmeta.networks import MLP
from tests.metanet.small_networks import normal, random_variables


class Residual(nn.Module):
    """Edges of all kinds: parameters, constants, statistics."""

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.Dense(4, name="first")(inputs)
        hidden = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(hidden))
        hidden = hidden + nn.Dense(4, name="second")(hidden)
        return nn.Dense(2, name="last")(hidden)


MODELS = (MLP((3, 2)), Residual(), MLP((5, 4, 2)))
INPUTS = normal(1, 2)
COUNTS = (3, 2, 4)


def make_networks():
    """Topologies, and every network of every one as variables."""
    networks, seed = [], 0
    topologies = []
    for model, count in zip(MODELS, COUNTS, strict=True):
        variables = [
            random_variables(model, INPUTS, seed=seed + index) for index in range(count)
        ]
        topologies.append(trace(model, variables[0], INPUTS))
        networks.append(variables)
        seed += count
    return topologies, networks


TOPOLOGIES, NETWORKS = make_networks()
PARAMETERS = [
    np.stack([topology.flatten(variables) for variables in group])
    for topology, group in zip(TOPOLOGIES, NETWORKS, strict=True)
]
PAIRS = [
    ParameterGraph(topology, np.asarray(topology.edge_values(variables)))
    for topology, group in zip(TOPOLOGIES, NETWORKS, strict=True)
    for variables in group
]


def make_source(bidirectional=False):
    return sources.GraphSource(TOPOLOGIES, PARAMETERS, bidirectional=bidirectional)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_graphs_equal_those_made_one_by_one(bidirectional):
    source = make_source(bidirectional)
    assert len(source.sizes) == len(PAIRS)
    for row, pair in enumerate(PAIRS):
        expected = to_graph(*pair, bidirectional=bidirectional)
        assert_equal(source.graph(row), expected)
        assert source.sizes[row] == (1 + bidirectional) * pair.topology.num_edges


def test_batch_is_the_graphs_and_padding():
    source = make_source()
    rows = np.array([8, 0, 4, 0])
    budget = source.budget(np.array([[8, 0, 4, 0], [8, 7, 6, 5]]))
    batch = source.batch(rows, budget)
    ones = [to_graph(*PAIRS[row], bidirectional=False) for row in rows]
    assert_equal(batch, graphs.batch_graphs(ones, budget))
    assert batch.globals.is_real.tolist() == [True] * 4 + [False]
    assert batch.nodes.types.shape == (budget.num_nodes,)
    assert batch.edges.values.shape == (budget.num_edges,)


def test_parts_hold_every_network_once():
    """Parts of like size, whose graphs are those of the networks they name."""
    source = sources.GraphSource(TOPOLOGIES, PARAMETERS, part_edges=80)
    batches = np.array([[8, 0, 4, 7, 1], [8, 7, 6, 5, 3]])
    budget = source.budget(batches)
    most = source.sizes.max()
    assert budget.num_parts > 1 and budget.part.num_edges < 1.5 * max(most, 80)
    assert most > 1
    for rows in batches:
        batch = source.batch(rows, budget)
        named = batch.places[batch.places < len(rows)]
        assert sorted(named) == list(range(len(rows)))
        assert (batch.places < len(rows)).any(axis=1).all()
        for index, places in enumerate(batch.places):
            own = rows[places[places < len(rows)]]
            part = jax.tree.map(lambda leaf, index=index: leaf[index], batch.inputs)
            ones = [to_graph(*PAIRS[row], bidirectional=False) for row in own]
            assert_equal(part, graphs.batch_graphs(ones, budget.part))
    # What fits is one batch as ever; a network larger than a part is a part.
    whole = sources.GraphSource(TOPOLOGIES, PARAMETERS, part_edges=10**6)
    assert whole.budget(batches) == make_source().budget(batches)
    alone = sources.GraphSource(TOPOLOGIES, PARAMETERS, part_edges=1)
    assert alone.budget(batches).part.num_edges >= most
    with pytest.raises(ValueError, match="part_edges: found 0, expected at least 1"):
        sources.GraphSource(TOPOLOGIES, PARAMETERS, part_edges=0)


def test_rounded_budgets_are_few():
    """Other networks, the same program: budgets of four leading binary digits."""
    source = sources.GraphSource(TOPOLOGIES, PARAMETERS, rounded=True)
    exact, rows = make_source(), np.array([[8, 0, 4], [7, 6, 1]])
    budget, least = source.budget(rows), exact.budget(rows)
    for field in ("num_nodes", "num_edges"):
        size, smallest = getattr(budget, field), getattr(least, field)
        assert smallest <= size <= smallest * 9 / 8
        assert size % 2 ** max(size.bit_length() - 4, 0) == 0
    assert budget._replace(num_nodes=0, num_edges=0) == least._replace(
        num_nodes=0, num_edges=0
    )
    assert_equal(source.batch(rows[0], budget), exact.batch(rows[0], budget))


def test_networks_without_edges_fill_parts():
    parts = sources.assign(np.array([[0, 5, 0, 0]]), 3)
    assert sorted(set(parts.ravel().tolist())) == [0, 1, 2]


def test_budget_is_the_smallest_that_holds_every_batch():
    source = make_source()
    batches = np.array([[0, 1, 2], [3, 4, 0], [5, 6, 7]])
    budget = source.budget(batches)
    for rows in batches:
        source.batch(rows, budget)
    for field in ("num_nodes", "num_edges", "num_graphs"):
        smaller = budget._replace(**{field: getattr(budget, field) - 1})
        with pytest.raises(ValueError, match=f"found {field}="):
            for rows in batches:
                source.batch(rows, smaller)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda rows: rows[:, :-1], r"parameters\[1\]: found shape \(2, 57\), expect"),
        (lambda rows: rows * np.array([[1], [np.nan]]), r"\[1\]: .* in network 1"),
        (lambda rows: rows[0], r"parameters\[1\]: found shape \(58,\), expected \(net"),
    ],
)
def test_parameters_that_do_not_fit(spoil, message):
    parameters = [PARAMETERS[0], spoil(PARAMETERS[1]), PARAMETERS[2]]
    with pytest.raises(ValueError, match=message):
        sources.GraphSource(TOPOLOGIES, parameters)


def test_groups_that_do_not_fit():
    for topologies, parameters, message in (
        (TOPOLOGIES, PARAMETERS[:2], "parameters: found 2 groups .* expected 3"),
        (TOPOLOGIES[0], PARAMETERS[0], "topologies: found no list"),
        ([], [], "topologies: found none"),
        (TOPOLOGIES[:1], [{"kernel": PARAMETERS[0]}], r"\[0\]: found shape \(\)"),
        (TOPOLOGIES[:1], [PARAMETERS[0] + 0j], r"\[0\]: found complex64, expected re"),
        ([np.tanh], PARAMETERS[:1], r"topologies\[0\]: found ufunc, expected a topol"),
    ):
        with pytest.raises(ValueError, match=message):
            sources.GraphSource(topologies, parameters)


def test_rows_that_only_standardise_are_no_networks():
    features = np.random.default_rng(0).normal(size=(5, 2))
    whole = sources.VectorSource(features, np.arange(3, 5))
    source = sources.VectorSource(features, np.arange(3, 5), num_networks=3)
    assert len(source.sizes) == 3
    rows = np.arange(3)
    np.testing.assert_array_equal(source.batch(rows, None), whole.batch(rows, None))


def test_vectors_are_standardised_by_the_chosen_networks():
    features = np.random.default_rng(0).normal(2.0, 3.0, size=(20, 4, 2))
    features[:, 2] = 1e4 / 3
    chosen = np.arange(3, 15)
    source = sources.VectorSource(features, chosen)
    found = source.batch(np.arange(20), source.budget(np.arange(20)[None]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, 2], 0.0)
    varying = found[:, [0, 1, 3]]
    np.testing.assert_allclose(varying[chosen].mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(varying[chosen].std(0), 1.0, rtol=1e-5)
    # The same affine map for all others.
    expected = features[:, [0, 1, 3]]
    expected = (expected - expected[chosen].mean(0)) / expected[chosen].std(0)
    np.testing.assert_allclose(varying, expected, rtol=1e-4, atol=1e-5)
    raw = sources.VectorSource(features)
    rows = np.array([4, 4, 1])
    np.testing.assert_array_equal(raw.batch(rows, None), features[rows].astype("f4"))


SIZES = st.lists(st.integers(1, 1000), min_size=1, max_size=40).map(np.array)


@hypothesis.given(SIZES, st.integers(1, 12), st.integers(1, 30), st.integers(0, 3))
def test_training_plan_takes_one_of_every_stratum(sizes, batch_size, num_steps, seed):
    batch_size = min(batch_size, len(sizes))
    plan = sources.training_plan(sizes, batch_size, num_steps, seed)
    assert plan.shape == (num_steps, batch_size)
    ranks = np.empty(len(sizes), int)
    ranks[np.argsort(sizes, kind="stable")] = np.arange(len(sizes))
    per_epoch = len(sizes) // batch_size
    for first in range(0, num_steps, per_epoch):
        epoch = plan[first : first + per_epoch]
        assert len(np.unique(epoch)) == epoch.size
    for batch in plan:
        # A network of a higher place is never smaller.
        assert (np.diff(ranks[batch]) > 0).all()
        # And there is one of every share of the networks, which differ by one in size.
        lengths = len(sizes) // batch_size + (
            np.arange(batch_size) < len(sizes) % batch_size
        )
        ends = np.cumsum(lengths)
        assert (ranks[batch] < ends).all() and (ranks[batch] >= ends - lengths).all()
    np.testing.assert_array_equal(
        plan, sources.training_plan(sizes, batch_size, num_steps, seed)
    )


def test_training_plan_reaches_every_network_and_follows_its_seed():
    sizes = np.arange(11)[::-1]
    plan = sources.training_plan(sizes, 4, 40, seed=0)
    counts = np.bincount(plan.ravel(), minlength=11)
    assert counts.min() > 0 and counts.max() <= 40 // 2 + 1
    assert (plan != sources.training_plan(sizes, 4, 40, seed=1)).any()
    # Longer trainings begin alike.
    np.testing.assert_array_equal(plan[:7], sources.training_plan(sizes, 4, 7, 0))


@hypothesis.given(SIZES, st.integers(1, 50))
def test_evaluation_plan_holds_every_network_once(sizes, batch_size):
    plan, is_first = sources.evaluation_plan(sizes, batch_size)
    assert plan.shape == is_first.shape == (-(-len(sizes) // batch_size), batch_size)
    assert sorted(plan[is_first]) == list(range(len(sizes)))
    assert (plan >= 0).all() and (plan < len(sizes)).all()


def test_evaluation_batches_are_of_nearly_one_size():
    sizes = np.random.default_rng(0).integers(1, 1000, size=64)
    plan, _ = sources.evaluation_plan(sizes, 16)
    totals = sizes[plan].sum(axis=1)
    assert totals.max() < 1.1 * totals.mean()
    # Sorted batches would not be.
    assert np.sort(sizes).reshape(4, 16).sum(axis=1).max() > 1.5 * totals.mean()
