"""Scores of inferred relations against true ones.

Relations found without labels carry arbitrary names: relation 0 of the search may be
relation 1 of the data. The names mean the same in every system, because all systems
share their modules, so that one assignment of found to true names holds for the whole
data set. An assignment per system would score above chance on random edges.

Edge arrays are `[systems, nodes, nodes]`, row = receiver, column = sender, with -1
where there is no edge. Letters: S systems, N nodes, F found and K true relations::

    matching = match_relations(confusion_matrix(edges, labels, 2, 2))
    edge_accuracy(edges, labels, matching)
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from modmeta.relational.evaluation.checks import (
    check_probabilities,
    check_relations,
    check_same_shape,
)


def confusion_matrix(
    edges: npt.ArrayLike, labels: npt.ArrayLike, num_found: int, num_true: int
) -> np.ndarray:
    """Counts how often each found relation meets each true one.

    Matrices of the parts of a data set add up to that of the whole.

    Args:
      edges: `[S, N, N]`, integers, found relations from 0 to `num_found` - 1.
      labels: `[S, N, N]`, integers, true relations from 0 to `num_true` - 1. Entries
        that are -1 in either array are left out.
      num_found: number F of relations the search distinguishes.
      num_true: number K of relations in the data.

    Returns:
      `[F, K]`, int64, row = found, column = true.

    Raises:
      TypeError: if an array does not hold integers.
      ValueError: if the shapes differ or are not `[S, N, N]`, or a relation is out of
        range.
    """
    edges = check_relations("edges", edges, num_found)
    labels = check_relations("labels", labels, num_true)
    check_same_shape("labels", labels.shape, "edges", edges.shape)
    compared = (edges >= 0) & (labels >= 0)
    pairs = edges[compared].astype(np.int64) * num_true + labels[compared]
    counts = np.bincount(pairs, minlength=num_found * num_true)
    return counts.reshape(num_found, num_true).astype(np.int64)


def match_relations(confusion: npt.ArrayLike) -> np.ndarray:
    """Finds the one-to-one naming of relations with the highest accuracy.

    Among equally good namings, one that leaves the most names unchanged.

    Args:
      confusion: `[F, K]`, counts of `confusion_matrix` over the whole data set.

    Returns:
      `[F]`, int64, the new name of each found relation; no name occurs twice. Names
      from K upwards stand for found relations that no true one is left for (F > K):
      they stay apart, and count as wrong. With F < K some true relations are not
      assigned.

    Raises:
      TypeError: if `confusion` does not hold integers.
      ValueError: if it is not a matrix of counts.
    """
    confusion = np.asarray(confusion)
    if confusion.dtype.kind not in "iu":
        raise TypeError(f"confusion: found {confusion.dtype}, expected integers")
    if confusion.ndim != 2 or 0 in confusion.shape:
        raise ValueError(
            f"confusion: found shape {list(confusion.shape)}, expected [found "
            "relations, true relations]"
        )
    if (confusion < 0).any():
        raise ValueError("confusion: found a negative number, expected counts")
    num_found, num_true = confusion.shape
    # All bonuses together weigh less than one edge.
    weight = confusion.astype(np.int64) * (num_found + 1)
    weight += np.eye(num_found, num_true, dtype=np.int64)
    found, true = linear_sum_assignment(weight, maximize=True)
    matching = np.full(num_found, -1, dtype=np.int64)
    matching[found] = true
    unmatched = matching < 0
    matching[unmatched] = num_true + np.arange(unmatched.sum())
    return matching


def relabel(edges: npt.ArrayLike, matching: npt.ArrayLike) -> np.ndarray:
    """Gives found relations their new names.

    Args:
      edges: `[S, N, N]`, integers from -1 to F - 1.
      matching: `[F]`, the result of `match_relations`.

    Returns:
      `[S, N, N]`, int64; -1 stays -1.

    Raises:
      TypeError: if an array does not hold integers.
      ValueError: if a relation is out of range, or `matching` is not one-to-one.
    """
    matching = _check_matching(matching)
    edges = check_relations("edges", edges, matching.size)
    return np.append(matching, -1)[edges]


def relabel_probabilities(
    probabilities: npt.ArrayLike,
    matching: npt.ArrayLike,
    num_relations: int | None = None,
) -> np.ndarray:
    """Moves the probabilities of found relations to their new names.

    Args:
      probabilities: `[S, N, N, F]`.
      matching: `[F]`, the result of `match_relations`.
      num_relations: size of the last axis of the result. None means one more than
        the largest new name.

    Returns:
      `[S, N, N, num_relations]`, with zeros for names that no found relation has.

    Raises:
      TypeError: if `matching` does not hold integers.
      ValueError: if the shapes disagree, `matching` is not one-to-one, or
        `num_relations` is too small for it.
    """
    matching = _check_matching(matching)
    probabilities = check_probabilities(probabilities)
    if probabilities.shape[-1] != matching.size:
        raise ValueError(
            f"matching: found {matching.size}, expected {probabilities.shape[-1]} "
            "names, one for each found relation of probabilities"
        )
    smallest = int(matching.max()) + 1
    if num_relations is None:
        num_relations = smallest
    if num_relations < smallest:
        raise ValueError(
            f"num_relations: found {num_relations}, expected at least {smallest} for "
            f"the matching {matching.tolist()}"
        )
    renamed = np.zeros((*probabilities.shape[:-1], num_relations), probabilities.dtype)
    renamed[..., matching] = probabilities
    return renamed


def edge_accuracy(
    edges: npt.ArrayLike,
    labels: npt.ArrayLike,
    matching: npt.ArrayLike | None = None,
) -> float:
    """Returns the fraction of edges with the true relation, over all systems.

    Args:
      edges: `[S, N, N]`, integers, found relations.
      labels: `[S, N, N]`, integers, true relations. Entries that are -1 in either
        array are left out.
      matching: `[F]`, the result of `match_relations`. None compares the names as
        they are. It is never chosen here, since this function may be called on a
        part of the data, such as a single system.

    Raises:
      TypeError: if an array does not hold integers.
      ValueError: if the shapes differ or are not `[S, N, N]`, a relation is out of
        range, or no edge is left.
    """
    if matching is not None:
        edges = relabel(edges, matching)
    edges = check_relations("edges", edges)
    labels = check_relations("labels", labels)
    check_same_shape("labels", labels.shape, "edges", edges.shape)
    compared = (edges >= 0) & (labels >= 0)
    if not compared.any():
        raise ValueError(
            "labels: found none where a relation was found, expected at least one"
        )
    return float((edges == labels)[compared].mean())


def _check_matching(matching: npt.ArrayLike) -> np.ndarray:
    matching = np.asarray(matching)
    if matching.dtype.kind not in "iu":
        raise TypeError(f"matching: found {matching.dtype}, expected integers")
    if matching.ndim != 1 or not matching.size:
        raise ValueError(
            f"matching: found shape {list(matching.shape)}, expected [found "
            "relations], one for the whole data set"
        )
    if (matching < 0).any() or np.unique(matching).size != matching.size:
        raise ValueError(
            f"matching: found {matching.tolist()}, expected distinct names from 0 "
            "upwards"
        )
    return matching.astype(np.int64)
