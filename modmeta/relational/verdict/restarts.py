"""Which of several trainings are witnesses of the graph that one of them found.

A training may end with laws that stand for none of the relations. If it explains the
data surely worse than another, that it found another graph says nothing of that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from modmeta.relational.evaluation import matching
from modmeta.relational.evaluation.parts import MIN_BLOCKS
from modmeta.relational.inference.relations import Relations
from modmeta.relational.verdict.gains import is_certain

# Restarts, or parts of recordings, that agree on fewer pairs than this have not found
# the graph.
AGREEMENT = 0.9


def agreement(edges: np.ndarray, others: np.ndarray) -> float:
    """Share of pairs `[tasks, nodes, nodes]` with the same relation, names matched."""
    edges, others = np.asarray(edges), np.asarray(others)
    count = int(max(edges.max(initial=0), others.max(initial=0))) + 1
    confusion = matching.confusion_matrix(others, edges, count, count)
    names = matching.match_relations(confusion)
    return float(matching.edge_accuracy(others, edges, names))


def witnesses(found: Sequence[Relations], best: int) -> list[int]:
    """Trainings that agree with the best one, or may be as good.

    Others explain surely less, by three standard errors over systems, whose energies
    are those of the same data; of fewer than six systems nothing is sure.

    Args:
      found: Relations of the same systems by every training.
      best: The one that counts.
    """
    energies = [np.asarray(one.energies, np.float64) for one in found]

    def is_witness(index: int) -> bool:
        if agreement(found[best].edges, found[index].edges) >= AGREEMENT:
            return True
        is_enough = len(energies[best]) >= MIN_BLOCKS
        return not (is_enough and is_certain(energies[best], energies[index]))

    return [index for index in range(len(found)) if index != best and is_witness(index)]


class Choice(NamedTuple):
    """Which trainings count, by number.

    Attributes:
      best: The one of lowest energy on the systems that were held out.
      others: Those that it is compared with: witnesses, or all where there are none.
      is_final: Whether no further training is asked for.
    """

    best: int
    others: list[int]
    is_final: bool


def most_trainings(num_restarts: int, *, changing: bool) -> int:
    """How many trainings there may be, those in place of bad ones among them.

    Where relations may change, stretches are those of one training: none is replaced.
    """
    return num_restarts if changing or num_restarts == 1 else 2 * num_restarts


def choose(scores: Sequence[float], found: Sequence[Relations], most: int) -> Choice:
    """Chooses among the trainings so far.

    Args:
      scores: Energies of all of them on the systems that were held out.
      found: Relations of the same systems by every training; empty where they are not
        compared.
      most: See `most_trainings`.
    """
    best = min(range(len(scores)), key=scores.__getitem__)
    agreeing = witnesses(found, best) if found else []
    everyone = [index for index in range(len(scores)) if index != best]
    is_final = bool(agreeing) or len(scores) >= most
    return Choice(best, agreeing or everyone, is_final)
