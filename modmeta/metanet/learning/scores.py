"""How well predictions of a number per network agree with the truth.

R2 and Kendall's tau, as in the tables of Lim et al. 2023 (arXiv 2312.04501), with
percentile bootstrap intervals over networks, and tau within families of networks:
telling good families from bad ones is no credit to a reader of weights.

Letters: n networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A score and where it may lie.

    Attributes:
      value: Score of all networks.
      low: Lower end.
      high: Upper end.
    """

    value: float
    low: float
    high: float


def r_squared(targets: np.ndarray, predictions: np.ndarray) -> float:
    """The share of the variance of `[n]` targets that predictions explain.

    One minus the squared error over that of the mean target: 1 is perfect, 0 no better
    than the mean, and there is no lower end. NaN if all targets are equal.

    Raises:
      ValueError: If the arrays are not finite or not of one shape `[n]`.
    """
    targets, predictions = _checked(targets, predictions)
    total = np.sum((targets - targets.mean()) ** 2)
    if total == 0:
        return float("nan")
    return float(1.0 - np.sum((targets - predictions) ** 2) / total)


def kendall_tau(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Kendall's tau-b, the agreement of two orders of n networks, corrected for ties.

    1 is the same order, -1 the reverse. NaN if either array is constant.

    Raises:
      ValueError: If the arrays are not finite or not of one shape `[n]`.
    """
    targets, predictions = _checked(targets, predictions)
    if len(targets) < 2:
        return float("nan")
    return float(stats.kendalltau(targets, predictions).statistic)


def kendall_tau_within(
    targets: np.ndarray, predictions: np.ndarray, groups: np.ndarray
) -> float:
    """Kendall's tau within every group, averaged over the groups.

    Every group counts the same, however large. Groups in which tau is not defined are
    left out; NaN if it is defined in none.

    Args:
      targets: `[n]`.
      predictions: `[n]`.
      groups: `[n]` group of every network, numbers or names.

    Raises:
      ValueError: If the arrays are not finite or not of one shape `[n]`.
    """
    targets, predictions = _checked(targets, predictions)
    groups = np.asarray(groups)
    if groups.shape != targets.shape:
        raise ValueError(
            f"groups: found shape {groups.shape}, expected {targets.shape}"
        )
    values = [
        kendall_tau(targets[groups == group], predictions[groups == group])
        for group in np.unique(groups)
    ]
    values = [value for value in values if not np.isnan(value)]
    return float(np.mean(values)) if values else float("nan")


def bootstrap(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    seed: int = 0,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """A statistic with its percentile interval over resampled networks.

    Networks are drawn with replacement, and all arrays keep together: of two metanets
    on the same networks, the interval of the difference is
    `bootstrap(lambda t, a, b: r_squared(t, a) - r_squared(t, b), t, a, b)`. Calls with
    the same seed and number of networks draw the same networks.

    Args:
      statistic: Takes the arrays and gives a number. Resamples on which it is NaN,
        because all targets are equal, are left out.
      *arrays: `[n, ...]`, one row per network.
      seed: Seed of the draws.
      num_resamples: Number of draws.
      level: Probability between the ends of the interval.

    Returns:
      The statistic of all networks and the interval, NaN if it is NaN everywhere.

    Raises:
      ValueError: If the arrays are empty or differ in length, or an option is out of
        range.
    """
    arrays = tuple(np.asarray(array) for array in arrays)
    sizes = {len(array) for array in arrays}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"arrays: found lengths {[len(array) for array in arrays]}, expected one "
            "length above 0"
        )
    if num_resamples < 1:
        raise ValueError(f"num_resamples: found {num_resamples}, expected at least 1")
    if not 0 < level < 1:
        raise ValueError(f"level: found {level}, expected between 0 and 1")
    (size,) = sizes
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(num_resamples):
        rows = rng.integers(size, size=size)
        values.append(statistic(*(array[rows] for array in arrays)))
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    low = high = float("nan")
    if len(values):
        tail = (1.0 - level) / 2
        low, high = (float(end) for end in np.quantile(values, (tail, 1.0 - tail)))
    return Interval(float(statistic(*arrays)), low, high)


def _checked(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    arrays = tuple(np.asarray(array, np.float64) for array in arrays)
    for name, array in zip(("targets", "predictions"), arrays, strict=True):
        if array.ndim != 1 or array.shape != arrays[0].shape or not array.size:
            raise ValueError(
                f"{name}: found shape {array.shape}, expected one number per network, "
                "as many targets as predictions, and at least one"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: found NaN or infinity, expected finite numbers")
    return arrays
