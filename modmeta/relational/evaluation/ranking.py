"""How well scores of pairs rank true edges above the rest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.stats


def auroc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Chance that an edge scores higher than a pair without; ties count half.

    Args:
      scores: Any shape, larger for likelier edges; pairs with NaN are left out.
      labels: The same shape, relations: 0 for none, -1 where there is no pair.

    Returns:
      The area under the receiver operating characteristic; None where all pairs are
      alike.

    Raises:
      ValueError: If the shapes differ.
    """
    values, is_edge = _pairs(scores, labels)
    count = int(is_edge.sum())
    if count in (0, len(values)):
        return None
    ranks = scipy.stats.rankdata(values)[is_edge]
    area = ranks.sum() - count * (count + 1) / 2
    return float(area / (count * (len(values) - count)))


def average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Mean over edges of the share of edges among all pairs that score as high.

    Args:
      scores: See `auroc`. Pairs of one score enter together.
      labels: See `auroc`.

    Returns:
      1 if all edges come first, about the share of edges for scores by chance; None
      where all pairs are alike.

    Raises:
      ValueError: If the shapes differ.
    """
    values, is_edge = _pairs(scores, labels)
    if is_edge.all() or not is_edge.any():
        return None
    order = np.argsort(-values, kind="stable")
    found = np.cumsum(is_edge[order])
    # The last pair of every score.
    last = np.append(np.diff(values[order]) != 0.0, True)
    found, taken = found[last], np.flatnonzero(last) + 1
    gained = np.diff(found, prepend=0)
    return float(np.sum(gained * found / taken) / found[-1])


def roc_curve(
    scores: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of wrong and of true edges that are found as the bar is lowered.

    Args:
      scores: See `auroc`.
      labels: See `auroc`.

    Returns:
      False and true positive rates, from 0 to 1, a point per distinct score.

    Raises:
      ValueError: If the shapes differ, or all pairs are alike.
    """
    values, is_edge = _pairs(scores, labels)
    if is_edge.all() or not is_edge.any():
        raise ValueError("labels: found one kind of pair, expected edges and others")
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0.0, True)
    true = np.cumsum(is_edge[order])[last]
    taken = np.flatnonzero(last) + 1
    false = taken - true
    return (
        np.concatenate([[0.0], false / false[-1]]),
        np.concatenate([[0.0], true / true[-1]]),
    )


def majority(labels: npt.ArrayLike) -> float:
    """Share of the more frequent of edges and pairs without."""
    labels = np.asarray(labels)
    share = float(np.mean(labels[labels >= 0] > 0))
    return max(share, 1.0 - share)


def _pairs(
    scores: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the pairs that have one, and whether they are edges."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.shape != labels.shape:
        raise ValueError(
            f"labels: found shape {list(labels.shape)}, expected "
            f"{list(scores.shape)} as of the scores"
        )
    is_pair = (labels >= 0) & ~np.isnan(scores)
    return scores[is_pair], labels[is_pair] > 0
