"""Whether edge probabilities mean what they say."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modmeta.relational.evaluation.checks import (
    check_probabilities,
    check_relations,
    check_same_shape,
)
from modmeta.relational.evaluation.matching import relabel_probabilities

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
        raise ValueError(f"num_bins: found {num_bins}, expected at least 1")
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
    check_same_shape(
        "labels", labels.shape, "probabilities[..., 0]", probabilities.shape[:3]
    )
    total = probabilities.sum(axis=-1)
    # False for NaN as well.
    compared = (labels >= 0) & (np.abs(total) > 0)
    if not compared.any():
        raise ValueError(
            "labels: found none where there are probabilities, expected at least one"
        )
    distribution = probabilities[compared].astype(np.float64)
    off = np.abs(total[compared] - 1.0).max()
    if off > _SUM_TOLERANCE or distribution.min() < 0:
        raise ValueError(
            f"probabilities: found a sum that is off by {off:.3g} or a negative "
            "number, expected non-negative numbers that sum to 1 over the last axis"
        )
    return distribution, labels[compared].astype(np.int64)
