"""When one error on held-out frames counts as lower than another."""

from __future__ import annotations

import numpy as np

# What is better must leave this much less unexplained,
_WORTHWHILE = 0.97
# by so many standard errors over parts of the data.
_CERTAIN = 3.0
# Sums are over the parts without so many at either end, which speak most for one of two
# errors: a single recording of a hundred, in which something else happens, must not
# decide what holds in the others.
_ATYPICAL = 0.05
# Fewer parts that differ say nothing about shares.
_MIN_WITNESSES = 5


def typical_sums(error: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Sums of two errors `[parts]` over those parts that do not decide alone."""
    count = int(_ATYPICAL * len(error))
    kept = np.argsort(other - error, kind="stable")[count : len(error) - count]
    return float(error[kept].sum()), float(other[kept].sum())


def is_worthwhile(error: np.ndarray, other: np.ndarray) -> bool:
    """Whether errors `[parts]` are lower by enough, see `typical_sums`."""
    low, high = typical_sums(error, other)
    return not low > _WORTHWHILE * high


def is_certain(error: np.ndarray, other: np.ndarray, certain: float = _CERTAIN) -> bool:
    """Whether errors `[parts]`, two or more, are lower beyond doubt, if by little.

    Args:
      error: Errors.
      other: Those that they are compared with.
      certain: Standard errors that leave no doubt.
    """
    gain = other - error
    deviation = gain.std(ddof=1) / np.sqrt(len(gain))
    return bool(gain.mean() > certain * deviation)


def is_ruled_out(error: np.ndarray, other: np.ndarray) -> bool:
    """Whether errors `[parts]` are not lower by enough, beyond doubt.

    Of two errors that are not told apart, either is as good as far as anyone knows, but
    only many parts tell that neither is better.
    """
    if len(error) < 2:
        return False
    gain = other - error
    deviation = gain.std(ddof=1) / np.sqrt(len(gain))
    most = gain.mean() + _CERTAIN * deviation
    return bool(most < (1.0 - _WORTHWHILE) * other.mean())


def is_certain_by_share(error: np.ndarray, other: np.ndarray) -> bool:
    """The same, with every gain as a share of both errors.

    Where few parts have most of the error, as recordings with a close encounter, sums
    hardly tell anything. Parts without any difference are no witnesses.
    """
    differs = error != other
    error, other = error[differs], other[differs]
    if len(error) < _MIN_WITNESSES:
        return False
    return is_certain(np.zeros(len(error)), (other - error) / (other + error))
