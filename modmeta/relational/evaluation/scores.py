"""Scores of a data set's relations against labels."""

from __future__ import annotations

import numpy as np

from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.dataset import NO_EDGE
from modmeta.relational.evaluation import matching
from modmeta.relational.inference.relations import Relations

# Labels agree by chance up to this much above the share of the most frequent one, and
# transposed ones clearly from this much more on, and so many standard deviations.
_BY_CHANCE, _CLEARLY, _DEVIATIONS = 0.1, 0.2, 3.0


def match_labels(
    edges: np.ndarray, labels: np.ndarray, num_found: int, num_true: int
) -> np.ndarray:
    """One assignment of found to true relations for the whole data set, `[K]`."""
    confusion = matching.confusion_matrix(edges, labels, num_found, num_true)
    return matching.match_relations(confusion)


def label_scores(
    found: Relations, dataset: TrajectoryDataset, num_relations: int
) -> dict[str, float]:
    """Edge accuracy of the search and of the proposal head, each matched by itself."""
    labels, num_true = dataset.edges, dataset.num_relations
    scores = {}
    for name, edges in (
        ("edge_accuracy", found.edges),
        ("proposal_accuracy", found.proposal_edges),
    ):
        names = match_labels(edges, labels, num_relations, num_true)
        scores[name] = matching.edge_accuracy(edges, labels, names)
    return scores


def transposed_labels(
    edges: np.ndarray, labels: np.ndarray, num_found: int, num_true: int
) -> str | None:
    """A hint that labels may be the other way round; None where nothing says so.

    It takes labels that the graph found agrees with as little as guesses would, and
    their transposes, with which it agrees well.
    """
    both = (edges >= 0) & (labels >= 0)
    if not both.any():
        return None
    shares = np.bincount(labels[both], minlength=num_true) / both.sum()
    accuracies = []
    for one in (labels, np.swapaxes(labels, 1, 2)):
        names = match_labels(edges, one, num_found, num_true)
        accuracies.append(float(matching.edge_accuracy(edges, one, names)))
    straight, transposed = accuracies
    # Of few pairs that differ from their opposites, many agree by chance.
    count = np.sum(both & (labels != np.swapaxes(labels, 1, 2)))
    clearly = max(_CLEARLY, _DEVIATIONS * 0.5 / np.sqrt(max(count, 1)))
    if straight > shares.max() + _BY_CHANCE or transposed < straight + clearly:
        return None
    return (
        f"Labels agree with {straight:.2f} of the edges found, and with "
        f"{transposed:.2f} if rows and columns are exchanged: expected are rows that "
        "receive and columns that send; labels.swapaxes(-1, -2) exchanges them."
    )


def structures_from_labels(
    labels: np.ndarray, names: np.ndarray, num_relations: int
) -> np.ndarray:
    """The true graph in the names of the modules.

    Args:
      labels: `[tasks, nodes, nodes]` true relations.
      names: `[K]` true name of every module, from `match_labels`.
      num_relations: Number of modules K.

    Returns:
      `[tasks, nodes, nodes]`; a true relation that no module stands for becomes
      module 0.
    """
    num_true = max(int(labels.max()), int(np.max(names))) + 1
    module_of = np.zeros(num_true, np.int32)
    module_of[names[:num_relations]] = np.arange(num_relations)
    return np.where(labels >= 0, module_of[np.maximum(labels, 0)], NO_EDGE)
