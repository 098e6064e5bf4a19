"""Sparse regression against springs in closed form, and against all sets."""

import dataclasses
import itertools

import numpy as np
import pytest

from modmeta.relational import as_dataset
from modmeta.relational.classical import sparse, subsets

NUM_SYSTEMS, NUM_NODES, NUM_FRAMES, INTERVAL = 10, 10, 40, 0.1
SPRING = 0.4


def sparse_graphs(rng, probability=0.2):
    shape = (NUM_SYSTEMS, NUM_NODES, NUM_NODES)
    edges = np.triu(rng.random(shape) < probability, 1)
    return (edges | edges.swapaxes(1, 2)).astype(np.int32)


def springs(strengths, rng):
    """States `[S, T, N, 4]` of bodies on springs `[S, N, N]`, by their normal modes."""
    laplacian = np.eye(NUM_NODES) * strengths.sum(axis=2)[:, None] - strengths
    squares, modes = np.linalg.eigh(laplacian)
    rates = np.sqrt(np.maximum(squares, 1e-12))[:, None, :, None]
    start = rng.normal(size=(2, NUM_SYSTEMS, NUM_NODES, 2))
    where, speed = np.swapaxes(modes, 1, 2) @ start
    where, speed = where[:, None], 0.5 * speed[:, None]
    time = INTERVAL * np.arange(NUM_FRAMES)[None, :, None, None]
    turn = rates * time
    moved = where * np.cos(turn) + speed * np.sin(turn) / rates
    moving = speed * np.cos(turn) - where * rates * np.sin(turn)
    return np.concatenate([modes[:, None] @ moved, modes[:, None] @ moving], axis=-1)


def bodies(states, edges=None, **options):
    return as_dataset(
        states,
        labels=edges,
        positions=(0, 1),
        velocities=(2, 3),
        frame_interval=INTERVAL,
        **options,
    )


@pytest.fixture(scope="module")
def known():
    """Springs of one strength, and what is found."""
    rng = np.random.default_rng(0)
    edges = sparse_graphs(rng)
    dataset = bodies(springs(SPRING * edges, rng), edges)
    return dataset, sparse.fit(dataset, 2)


def accuracy(laws, dataset):
    is_edge = dataset.edges >= 0
    return float((laws.edges(dataset) == dataset.edges)[is_edge].mean())


def test_springs_are_found_with_their_law(known):
    dataset, laws = known
    assert laws.unexplained < 1e-3
    expected = [[SPRING * laws.length / laws.typical, 0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(laws.weights, expected, atol=5e-3)
    assert accuracy(laws, dataset) > 0.99


def test_names_of_entities_do_not_matter(known):
    dataset, laws = known
    order = np.random.default_rng(1).permutation(NUM_NODES)
    moved = dataclasses.replace(dataset, states=dataset.states[:, :, order], edges=None)
    found = laws.edges(moved)
    expected = laws.edges(dataset)[:, order][:, :, order]
    # Sums round in another order, and of sets that explain as much one is taken.
    assert (found == expected).mean() > 0.98


def test_entries_that_were_not_seen_do_not_count(known):
    """What is filled in is some way off, and the masses of receivers are not told."""
    rng = np.random.default_rng(2)
    edges = sparse_graphs(rng)
    states = springs(SPRING * edges, rng)
    states[rng.random(states.shape[:3]) < 0.02] = np.nan
    dataset = bodies(states, edges)
    laws = sparse.fit(dataset, 2)
    assert accuracy(laws, dataset) > 0.97


def test_two_strengths_are_two_laws():
    rng = np.random.default_rng(3)
    edges = sparse_graphs(rng)
    edges = edges * np.where(rng.random((NUM_SYSTEMS, 1, 1)) < 0.5, 1, 2)
    dataset = bodies(springs(0.5 * SPRING * edges, rng), edges)
    laws = sparse.fit(dataset, 3)
    strengths = np.sort(laws.weights[:, 0]) * laws.typical / laws.length
    np.testing.assert_allclose(strengths, [0.5 * SPRING, SPRING], rtol=0.02)


@pytest.mark.parametrize("probability, least", [(0.4, 0.95), (0.8, 0.9)])
def test_graphs_that_are_not_sparse_are_found_as_well(probability, least):
    """Of eight senders some two explain some receiver; scales of laws are not known."""
    rng = np.random.default_rng(4)
    edges = sparse_graphs(rng, probability)
    dataset = bodies(springs(SPRING * edges, rng), edges)
    laws = sparse.fit(dataset, 2)
    assert accuracy(laws, dataset) > least
    np.testing.assert_allclose(laws.weights[:, 1:], 0.0, atol=0.01)


@pytest.mark.parametrize("kind", ["free", "noise"])
def test_where_few_senders_explain_nothing_there_are_no_laws(kind):
    rng = np.random.default_rng(4)
    states = rng.normal(size=(NUM_SYSTEMS, NUM_FRAMES, NUM_NODES, 4))
    if kind == "free":
        states[..., 2:] = 0.5 * states[:, :1, :, 2:]
        states[..., :2] = np.cumsum(INTERVAL * states[..., 2:], axis=1)
        states += 1e-3 * rng.normal(size=states.shape)
    assert sparse.fit(bodies(states), 2) is None


@pytest.mark.parametrize("num_laws", [1, 2])
def test_the_best_sum_is_that_of_all_sets(num_laws):
    """Five senders, so that all sets can be tried; some noise, a factor."""
    rng = np.random.default_rng(5)
    num_senders, rows, batch = 5, 30, 6
    columns = rng.normal(size=(batch, rows, num_senders * num_laws))
    is_open = np.ones((batch, num_senders * num_laws), bool)
    target = np.empty((batch, rows))
    sets = []
    for labels in itertools.product(range(num_laws + 1), repeat=num_senders):
        one_hot = np.eye(num_laws + 1)[list(labels)][:, 1:]
        sets.append(one_hot.ravel().astype(bool))
    for b in range(batch):
        truth = sets[rng.integers(len(sets))]
        target[b] = 0.7 * columns[b] @ truth + 0.1 * rng.normal(size=rows)
    count = np.full(batch, float(rows))
    found = subsets.best_sum(target, columns, is_open, count, num_laws)
    for b in range(batch):
        scores = []
        for chosen in sets:
            added = columns[b] @ chosen
            factor = max(float(added @ target[b]), 0.0) / max(added @ added, 1e-30)
            left = np.square(target[b] - factor * added).sum()
            start = np.square(target[b]).sum()
            size = int(chosen.sum())
            scores.append(subsets.criterion(left, start, rows, num_senders, size))
        np.testing.assert_array_equal(found[b], sets[int(np.argmin(scores))])


@pytest.mark.parametrize("unit", [1e-20, 1e15])
def test_units_do_not_matter(known, unit):
    dataset, laws = known
    scaled = bodies(np.asarray(dataset.states, np.float64) * unit, dataset.edges)
    found = sparse.fit(scaled, 2)
    assert accuracy(found, scaled) == accuracy(laws, dataset)
    assert found.unexplained == pytest.approx(laws.unexplained, rel=1e-2, abs=1e-6)
