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

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

_SUM_TOLERANCE = 1e-3


class ReliabilityBins(NamedTuple):
    """Edges grouped by the probability of their most probable relation.

    Attributes:
      confidence: `[bins]`, mean of that probability, NaN in an empty bin.
      accuracy: `[bins]`, fraction of edges whose most probable relation is the true
        one, NaN in an empty bin.
      count: `[bins]`, int64, number of edges.
      boundaries: `[bins + 1]`, limits of the bins, from 0 to 1; a probability on a
        limit belongs to the bin above.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray
    boundaries: np.ndarray


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
    _check_same_shape("labels", labels.shape, "edges", edges.shape)
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
        raise TypeError(f"confusion: expected integers, got {confusion.dtype}.")
    if confusion.ndim != 2 or 0 in confusion.shape:
        raise ValueError(
            "confusion: expected shape [found relations, true relations], got "
            f"{list(confusion.shape)}."
        )
    if (confusion < 0).any():
        raise ValueError("confusion: expected counts, got a negative number.")
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
            f"matching: expected {probabilities.shape[-1]} names, one for each found "
            f"relation of probabilities, got {matching.size}."
        )
    smallest = int(matching.max()) + 1
    if num_relations is None:
        num_relations = smallest
    if num_relations < smallest:
        raise ValueError(
            f"num_relations: expected at least {smallest} for the matching "
            f"{matching.tolist()}, got {num_relations}."
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
    _check_same_shape("labels", labels.shape, "edges", edges.shape)
    compared = (edges >= 0) & (labels >= 0)
    if not compared.any():
        raise ValueError("No entry has both a found and a true relation.")
    return float((edges == labels)[compared].mean())


def brier_score(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    matching: npt.ArrayLike | None = None,
) -> float:
    """Returns the mean squared distance of edge probabilities from the truth.

    Args:
      probabilities: `[S, N, N, F]`, summing to 1 over the last axis; NaN or all zero
        where there is no edge.
      labels: `[S, N, N]`, integers, true relations. Entries that are -1, or that have
        no probabilities, are left out.
      matching: `[F]`, the result of `match_relations`; None takes the names as they
        are.

    Returns:
      The mean over edges of the sum over relations of squared differences: 0 is
      perfect, 2 is certain and wrong, and 1 - 1/F is the value of uniform
      probabilities.

    Raises:
      TypeError: if labels or matching do not hold integers.
      ValueError: if the shapes disagree, probabilities do not sum to 1, or no edge is
        left.
    """
    distribution, truth = _labelled_edges(probabilities, labels, matching)
    # A relation that the search has no name for has probability 0.
    width = max(distribution.shape[1], int(truth.max()) + 1)
    error = np.zeros((len(truth), width))
    error[:, : distribution.shape[1]] = distribution
    error[np.arange(len(truth)), truth] -= 1.0
    return float((error**2).sum(axis=1).mean())


def reliability_bins(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    matching: npt.ArrayLike | None = None,
    num_bins: int = 10,
) -> ReliabilityBins:
    """Compares confidence and accuracy in bins of equal width.

    Args:
      probabilities: `[S, N, N, F]`, as for `brier_score`.
      labels: `[S, N, N]`, as for `brier_score`.
      matching: `[F]` or None, as for `brier_score`.
      num_bins: number of bins between 0 and 1.

    Raises:
      TypeError: if labels or matching do not hold integers.
      ValueError: if the shapes disagree, probabilities do not sum to 1, no edge is
        left, or `num_bins` is not positive.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins: expected at least 1, got {num_bins}.")
    distribution, truth = _labelled_edges(probabilities, labels, matching)
    confidence = distribution.max(axis=1)
    correct = distribution.argmax(axis=1) == truth
    boundaries = np.linspace(0.0, 1.0, num_bins + 1)
    index = np.searchsorted(boundaries[1:-1], confidence, side="right")
    count = np.bincount(index, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        return ReliabilityBins(
            confidence=np.bincount(index, confidence, num_bins) / count,
            accuracy=np.bincount(index, correct, num_bins) / count,
            count=count.astype(np.int64),
            boundaries=boundaries,
        )


def expected_calibration_error(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    matching: npt.ArrayLike | None = None,
    num_bins: int = 10,
) -> float:
    """Returns the mean gap between confidence and accuracy, weighted by edges.

    Args:
      probabilities: `[S, N, N, F]`, as for `brier_score`.
      labels: `[S, N, N]`, as for `brier_score`.
      matching: `[F]` or None, as for `brier_score`.
      num_bins: number of bins between 0 and 1.

    Raises:
      TypeError: if labels or matching do not hold integers.
      ValueError: as for `reliability_bins`.
    """
    bins = reliability_bins(probabilities, labels, matching, num_bins)
    filled = bins.count > 0
    gap = np.abs(bins.confidence - bins.accuracy)[filled]
    return float(np.average(gap, weights=bins.count[filled]))


def check_relations(
    name: str, array: npt.ArrayLike, num_relations: int | None = None
) -> np.ndarray:
    """Returns an edge array as NumPy, after checking its shape, dtype and range.

    Args:
      name: what to call the array in messages.
      array: `[S, N, N]`, integers from -1 upwards.
      num_relations: number of relations, or None for any.

    Raises:
      TypeError: if the array does not hold integers.
      ValueError: if the shape is not `[S, N, N]`, or a relation is out of range.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {array.dtype}.")
    if array.ndim != 3 or array.shape[1] != array.shape[2]:
        raise ValueError(
            f"{name}: expected shape [systems, nodes, nodes], got {list(array.shape)}."
        )
    wrong = array < -1
    if num_relations is not None:
        wrong |= array >= num_relations
    if wrong.any():
        index = [int(axis[0]) for axis in np.nonzero(wrong)]
        upper = "" if num_relations is None else f" to {num_relations - 1}"
        raise ValueError(
            f"{name}: expected relations from 0{upper}, or -1 where there is no edge, "
            f"got {array[tuple(index)]} at index {index}."
        )
    return array


def check_probabilities(
    probabilities: npt.ArrayLike, edges_shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """Returns edge probabilities as NumPy, after checking their shape and dtype.

    Args:
      probabilities: `[S, N, N, F]`.
      edges_shape: the shape `[S, N, N]` to agree with, or None.

    Raises:
      TypeError: if they are not floating-point numbers.
      ValueError: if the shape is another.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.dtype.kind != "f":
        raise TypeError(f"probabilities: expected floats, got {probabilities.dtype}.")
    shape = probabilities.shape
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] == 0:
        raise ValueError(
            "probabilities: expected shape [systems, nodes, nodes, relations], got "
            f"{list(shape)}."
        )
    if edges_shape is not None:
        _check_same_shape("probabilities[..., 0]", shape[:3], "edges", edges_shape)
    return probabilities


def _check_same_shape(
    name: str, shape: tuple[int, ...], other: str, other_shape: tuple[int, ...]
) -> None:
    if shape != other_shape:
        raise ValueError(
            f"{name}: expected shape {list(other_shape)}, as {other} has, got "
            f"{list(shape)}."
        )


def _check_matching(matching: npt.ArrayLike) -> np.ndarray:
    matching = np.asarray(matching)
    if matching.dtype.kind not in "iu":
        raise TypeError(f"matching: expected integers, got {matching.dtype}.")
    if matching.ndim != 1 or not matching.size:
        raise ValueError(
            "matching: expected shape [found relations], one for the whole data set, "
            f"got {list(matching.shape)}."
        )
    if (matching < 0).any() or np.unique(matching).size != matching.size:
        raise ValueError(
            "matching: expected distinct names from 0 upwards, got "
            f"{matching.tolist()}."
        )
    return matching.astype(np.int64)


def _labelled_edges(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    matching: npt.ArrayLike | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[edges, relations]` float64 and the true relations `[edges]`."""
    if matching is not None:
        probabilities = relabel_probabilities(probabilities, matching)
    probabilities = check_probabilities(probabilities)
    labels = check_relations("labels", labels)
    _check_same_shape(
        "labels", labels.shape, "probabilities[..., 0]", probabilities.shape[:3]
    )
    total = probabilities.sum(axis=-1)
    # False for NaN as well.
    compared = (labels >= 0) & (np.abs(total) > 0)
    if not compared.any():
        raise ValueError("No entry has both probabilities and a true relation.")
    distribution = probabilities[compared].astype(np.float64)
    off = np.abs(total[compared] - 1.0).max()
    if off > _SUM_TOLERANCE or distribution.min() < 0:
        raise ValueError(
            "probabilities: expected non-negative numbers that sum to 1 over the last "
            f"axis, got a sum that is off by {off:.3g} or a negative number."
        )
    return distribution, labels[compared].astype(np.int64)
