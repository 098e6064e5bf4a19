"""When relations change: paths against brute force, times against planted changes.

Searches are exact here: all graphs of three entities are tried.
"""

import itertools
import types

import jax
import numpy as np
import pytest

from modmeta.relational import as_dataset
from modmeta.relational.evaluation.changes import Changes
from modmeta.relational.modules.entities import Effects
from modmeta.relational.tasks.structures import TaskStructures
from modmeta.relational.verdict import stretches
from modmeta.relational.verdict.conclusions import Verdict

NUM_FRAMES = 40
PAIRS = [(i, j) for i in range(3) for j in range(3) if i != j]
MODEL = types.SimpleNamespace(
    bank=types.SimpleNamespace(config=types.SimpleNamespace(span=1))
)


def all_graphs():
    graphs = np.full((2 ** len(PAIRS), 3, 3), -1)
    for graph, bits in zip(
        graphs, itertools.product(range(2), repeat=len(PAIRS)), strict=True
    ):
        for pair, bit in zip(PAIRS, bits, strict=True):
            graph[pair] = bit
    return graphs


def change(states, edges):
    """`[..., nodes, 1]`: the second feature adds up the first of those that act."""
    return np.sum((edges == 1) * states[..., None, :, 0], axis=-1)[..., None]


class Law:
    """Stands in for `ChangeModel`: the law is known, and nodes are alike."""

    def __init__(self, model, params, dataset):
        self.states = np.asarray(dataset.states, np.float64)
        self.counted = dataset.counted()[..., None]

    def __call__(self, structures, effects=None):
        edges = structures.edge_modules[:, None]
        expected = change(self.states[:, :-1], edges) * self.counted
        observed = np.diff(self.states[..., 1:], axis=1) * self.counted
        effects = self.own(expected, observed, effects)
        if effects is not None:
            expected = expected + effects.offsets[:, None] * self.counted
        expected, observed = (leaf.swapaxes(1, 2) for leaf in (expected, observed))
        return Changes(expected, observed, effects, np.ones(expected.shape))

    def own(self, expected, observed, effects):
        return None


class DriftingLaw(Law):
    """The same, of nodes with drifts that are fitted."""

    def own(self, expected, observed, effects):
        if effects is not None:
            return effects
        count = np.maximum(self.counted.sum(axis=1), 1)
        drifts = (observed - expected).sum(axis=1) / count
        return Effects(np.ones(drifts.shape[:2]), drifts)


def search(key, model, params, dataset, config):
    """Stands in for `infer_dataset`: the best of all graphs."""
    law = Law(model, params, dataset)
    graphs, errors = all_graphs(), []
    for graph in graphs:
        found = law(TaskStructures(np.broadcast_to(graph, (len(dataset), 3, 3)), None))
        errors.append(np.square(found.expected - found.observed).sum(axis=(1, 2, 3)))
    best = graphs[np.argmin(errors, axis=0)]
    structures = TaskStructures(best, np.zeros(best.shape[:2], int))
    return types.SimpleNamespace(structures=structures)


def recordings(changes_at, noise, seed=0, drift=0.0):
    """Recordings whose graph is another from a frame on; None for never."""
    rng = np.random.default_rng(seed)
    graphs = all_graphs()
    tasks = []
    for frame in changes_at:
        before, after = graphs[rng.choice(len(graphs), 2, replace=False)]
        states = rng.normal(size=(NUM_FRAMES, 3, 2)) + (drift, 0.0)
        for now in range(1, NUM_FRAMES):
            edges = before if frame is None or now <= frame else after
            kicks = noise * rng.normal(size=(3, 1))
            states[now, :, 1:] = states[now - 1, :, 1:] + kicks
            states[now, :, 1:] += change(states[now - 1], edges)
        tasks.append(states)
    return as_dataset(np.array(tasks))


def test_paths_are_the_best_of_all():
    rng = np.random.default_rng(1)
    costs = rng.exponential(size=(20, 3, 6))
    penalties = rng.uniform(0.0, 2.0, size=20)
    paths = stretches.shortest_paths(costs, penalties)
    every = np.array(list(itertools.product(range(3), repeat=6)))
    for task in range(20):

        def total(path, task=task):
            return costs[task, path, np.arange(6)].sum() + penalties[
                task
            ] * np.count_nonzero(np.diff(path))

        least = min(map(total, every))
        assert total(paths[task]) == pytest.approx(least)


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr(stretches, "ChangeModel", Law)
    monkeypatch.setattr(stretches, "infer_dataset", search)


def test_planted_changes_are_found(exact):
    """What no graph explains is as large as what one sender adds."""
    planted = [None, 13, 20, 27, None, 18, 24, 31] * 5
    dataset = recordings(planted, 0.7)
    found = stretches.find_stretches(jax.random.key(0), MODEL, None, dataset, None)
    counts = np.bincount(found.tasks)
    right = counts == [1 if frame is None else 2 for frame in planted]
    assert right.mean() >= 0.85
    late = [
        abs(start - planted[task])
        for task, start in zip(found.tasks, found.starts, strict=True)
        if start and planted[task]
    ]
    assert np.mean(np.array(late) <= 2) >= 0.8
    # Stretches follow one another and leave nothing out.
    for task in range(len(planted)):
        mine = found.tasks == task
        assert found.starts[mine][0] == 0 and found.stops[mine][-1] == NUM_FRAMES
        np.testing.assert_array_equal(found.starts[mine][1:], found.stops[mine][:-1])


def test_what_nodes_have_of_their_own_outlasts_changes(exact, monkeypatch):
    """What is sent has a mean: a graph with another drift is nearly as good."""
    monkeypatch.setattr(stretches, "ChangeModel", DriftingLaw)
    planted = [13, 20, 27, None, 18, 24] * 6
    dataset = recordings(planted, 0.3, seed=1, drift=2.0)
    found = stretches.find_stretches(jax.random.key(0), MODEL, None, dataset, None)
    late = [
        [
            abs(start - frame)
            for start in found.starts[(found.tasks == task) & (found.starts > 0)]
        ]
        for task, frame in enumerate(planted)
        if frame is not None
    ]
    assert np.mean([gaps == [0] for gaps in late]) >= 0.8


def test_recordings_without_changes_stay_whole(exact):
    dataset = recordings([None] * 60, 1.0)
    found = stretches.find_stretches(jax.random.key(0), MODEL, None, dataset, None)
    assert np.mean(np.bincount(found.tasks) == 1) >= 0.95


def test_stretches_as_tasks():
    dataset = recordings([None] * 2, 0.0)
    parts = stretches.Stretches(
        np.array([0, 0, 1]), np.array([0, 25, 0]), np.array([25, 40, 40])
    )
    tasks = parts.of(dataset)
    np.testing.assert_array_equal(tasks.is_observed.sum(axis=(1, 2)), [75, 45, 120])
    np.testing.assert_array_equal(
        tasks.states[1][tasks.is_observed[1]], dataset.states[0, 25:].reshape(-1, 2)
    )
    verdict = Verdict(
        True, 2, 0.1, (0.0, 1.0), None, 1, "The data support 2 relations."
    )
    told = parts.add_to(verdict)
    assert told.num_segments == 2
    assert told.sentence == (
        "The data support 2 relations; relations change within 1 of 2 recordings."
    )


def test_recordings_in_which_no_change_can_be_found_are_refused():
    dataset = recordings([None] * 2, 0.0)
    stretches.check_changing(dataset.num_frames, False)
    with pytest.raises(ValueError, match="changing: found True with shared_graph=True"):
        stretches.check_changing(dataset.num_frames, True)
    with pytest.raises(ValueError, match="changing: found True with 19 frames, expect"):
        stretches.check_changing(19, False)
