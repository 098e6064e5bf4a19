"""Trainings that end at laws that stand for nothing are no witnesses of a graph."""

import types

import numpy as np
import pytest

from modmeta.relational import as_dataset, discovery
from modmeta.relational.inference.relations import Relations
from modmeta.relational.verdict import restarts

NUM_TASKS, NUM_NODES = 10, 4
PAIRS = ~np.eye(NUM_NODES, dtype=bool)


def relations(seed, energy, num_tasks=NUM_TASKS):
    """Edges drawn by one seed, and energies about a mean."""
    edges = np.random.default_rng(seed).integers(
        0, 2, (NUM_TASKS, NUM_NODES, NUM_NODES)
    )
    edges = np.where(PAIRS, edges, -1)[:num_tasks]
    noise = np.random.default_rng(99).normal(size=NUM_TASKS)[:num_tasks]
    size = (num_tasks, NUM_NODES)
    shares = np.full((*edges.shape, 2), 0.5)
    return Relations(
        edges=edges,
        node_modules=np.zeros(size, int),
        energies=energy + noise * (1 + seed),
        num_proposals=np.zeros(num_tasks, int),
        probabilities=shares,
        proposal_logits=shares,
        best_energies=np.zeros((num_tasks, 1)),
    )


@pytest.mark.parametrize(
    "other, is_witness",
    [
        (relations(1, 100.0), False),  # worse, another graph
        (relations(0, 100.0), True),  # worse, the same graph
        (relations(1, -9.7), True),  # another graph, perhaps as good
    ],
)
def test_a_witness_agrees_or_may_be_as_good(other, is_witness):
    found = [other, relations(0, -10.0)]
    assert restarts.witnesses(found, 1) == [0] * is_witness
    few = [relations(1, 100.0, 3), relations(0, -10.0, 3)]
    assert restarts.witnesses(few, 1) == [0]


def test_agreement_is_the_share_of_pairs_whatever_their_names():
    edges = relations(0, 0.0).edges
    changed = edges.copy()
    changed[0, 0, 1] = 1 - changed[0, 0, 1]
    renamed = np.where(edges >= 0, 1 - changed, -1)
    expected = 1.0 - 1.0 / (NUM_TASKS * PAIRS.sum())
    assert restarts.agreement(edges, renamed) == pytest.approx(expected)


@pytest.mark.parametrize(
    "graphs, energies, counted, others",
    [
        # The second is as good: no more trainings, and its graph counts.
        ([0, 1], [-10.0, -9.9], 0, [1]),
        # The second ended badly; the third agrees with the first.
        ([0, 1, 0], [-10.0, 50.0, -9.0], 0, [2]),
        # The first ended badly, the third found what the second did.
        ([1, 0, 0], [50.0, -10.0, -9.0], 1, [2]),
        # All others end badly, each in its way: they are all compared.
        ([0, 1, 2, 3], [-10.0, 50.0, 60.0, 70.0], 0, [1, 2, 3]),
    ],
)
def test_bad_trainings_are_replaced(monkeypatch, graphs, energies, counted, others):
    known = [relations(*item) for item in zip(graphs, energies, strict=True)]
    numbers, concluded = [], []

    def train(self, restart):
        numbers.append(restart)
        state = types.SimpleNamespace(
            best=types.SimpleNamespace(score=energies[restart])
        )
        result = types.SimpleNamespace(state=state, params=restart)
        return discovery._Training(None, result, None)

    def conclude(key, model, params, searched, found, *rest):
        places = [next(i for i, one in enumerate(known) if one is f) for f in found]
        concluded.append([params, *places])
        return found[0], found[0], None

    monkeypatch.setattr(discovery._Trainings, "train", train)
    monkeypatch.setattr(
        discovery._Trainings, "search", lambda self, one, _: known[one.result.params]
    )
    monkeypatch.setattr(discovery, "conclude", conclude)
    states = np.random.default_rng(0).normal(size=(20, 6, NUM_NODES, 1))
    dataset = as_dataset(states)
    options = discovery.Options(None, {}, None, None, None, num_restarts=2)
    discovery.discover(dataset, dataset, options, seed=0)
    assert numbers == list(range(len(graphs)))
    assert concluded == [[counted, counted, *others]]
