"""Numbers of single pairs beside relations, of messages that are known."""

import numpy as np

from modmeta.relational.evaluation.changes import Changes
from modmeta.relational.tasks.structures import TaskStructures
from modmeta.relational.verdict import finer
from modmeta.relational.verdict.finer import left_by_pairs

TASKS, NODES, WINDOWS = 3, 4, 40


class KnownChanges:
    """Changes that are sums of messages times the strength of a relation."""

    def __init__(self, messages, strengths, observed):
        self._messages, self._strengths = messages, np.asarray(strengths)
        self._observed = observed

    def __call__(self, structures, silent=None, *, effects=None):
        weights = self._strengths[structures.edge_modules] * ~np.eye(NODES, dtype=bool)
        weights = np.where(False if silent is None else silent, 0.0, weights)
        expected = np.einsum("trs,trswy->trwy", weights, self._messages)
        return Changes(expected, self._observed, effects)


def test_numbers_of_pairs_explain_what_two_relations_cannot_say(monkeypatch):
    """Strengths 0, 0.25 and 1 under laws of 0 and 0.8, and strengths of 0 and 0.8."""
    rng = np.random.default_rng(0)
    messages = rng.normal(size=(TASKS, NODES, NODES, WINDOWS, 2))
    early = np.arange(WINDOWS) < 30
    early = np.broadcast_to(early, (TASKS, NODES, WINDOWS))
    late = ~early[..., None]
    noise = 0.01 * rng.normal(size=(TASKS, NODES, WINDOWS, 2))
    kinds = rng.integers(0, 3, (TASKS, NODES, NODES))
    nodes = np.zeros((TASKS, NODES), np.int32)
    for values, is_coarse in (([0.0, 0.25, 1.0], True), ([0.0, 0.8, 0.8], False)):
        true = np.asarray(values)[kinds] * ~np.eye(NODES, dtype=bool)
        observed = np.einsum("trs,trswy->trwy", true, messages) + noise
        changes = KnownChanges(messages, [0.0, 0.8], observed)
        structures = TaskStructures((true > 0.5).astype(np.int32), nodes)
        found = changes(structures)
        left = left_by_pairs(changes, structures, found, 1, early)
        before = np.sum(np.square((observed - found.expected) * late))
        ratio = np.sum(np.square(left * late)) / before
        assert ratio < 0.02 if is_coarse else 0.8 < ratio < 1.5
    for excess, is_asked in ((0, True), (1, False)):
        monkeypatch.setattr(finer, "_MAX_MESSAGES", early.size * (NODES - 1) - excess)
        left = left_by_pairs(changes, structures, found, 1, early)
        assert (left is not None) == is_asked
