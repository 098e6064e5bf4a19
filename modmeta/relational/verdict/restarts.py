"""Which of several trainings are witnesses of the graph that one of them found.

A training may end with laws that stand for none of the relations. If it explains the
data surely worse than another, that it found another graph says nothing of that one.
"""

from __future__ import annotations

from collections.abc import Sequence

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
