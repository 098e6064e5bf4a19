"""Which of many columns, added up, explain a target.

Letters: B targets, R rows, X columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

# Sets of columns that go on: so many per sender, at least, and at most; and how often
# a set may grow without a gain.
_BEAM_PER_SENDER, _LEAST_BEAM, _LARGEST_BEAM, _PATIENCE = 8, 64, 256, 3
# Share of a target that rounding, and laws that are nearly right, leave.
FLOOR = 1e-10
TINY = 1e-30


def criterion(
    squares: np.ndarray, start: np.ndarray, count: np.ndarray, num_senders: int, size
) -> np.ndarray:
    """Extended Bayesian criterion of sums of squares; sets of `size` of the senders.

    Chen and Chen (2008): of many sets, one will explain something by chance.
    """
    floor = FLOOR * np.maximum(start, TINY)
    sets = (
        gammaln(num_senders + 1) - gammaln(size + 1) - gammaln(num_senders - size + 1)
    )
    return count * np.log(np.maximum(squares, 0.0) + floor) + 2.0 * sets


def best_sum(
    target: np.ndarray,
    columns: np.ndarray,
    is_pair: np.ndarray,
    count: np.ndarray,
    num_laws: int,
) -> np.ndarray:
    """Columns whose sum, times a factor of the receiver, explains a target best.

    By a beam search over sets that grow by one sender at a time.

    Args:
      target: `[B, R]`.
      columns: `[B, R, X]`, those of a sender's laws side by side.
      is_pair: `[B, X]` whether there is such a sender.
      count: `[B]` independent rows.
      num_laws: L.

    Returns:
      `[B, X]` bool.
    """
    batch, _, size = columns.shape
    turned = np.swapaxes(columns, 1, 2)
    gram = turned @ columns
    slopes = (turned @ target[..., None])[..., 0]
    start = np.square(target).sum(axis=1)
    own_square = np.einsum("bxx->bx", gram)
    sender = np.arange(size) // num_laws
    names = np.random.default_rng(0).integers(1, 2**52, size)
    num_senders, beam = size // num_laws, _BEAM_PER_SENDER * (size // num_laws)
    beam = int(np.clip(beam, _LEAST_BEAM, _LARGEST_BEAM))
    best = np.zeros((batch, size), bool)
    lowest = criterion(start, start, count, num_senders, 0)
    since = np.zeros(batch, int)
    sets = _Sets.empty(batch, size)
    going = np.arange(batch)
    for number in range(1, num_senders + 1):
        at = np.arange(len(going))[:, None]
        products = sets.product[..., None] + slopes[going, None]
        squares = sets.square[..., None] + 2.0 * sets.cross + own_square[going, None]
        gain = np.square(np.maximum(products, 0.0)) / np.maximum(squares, TINY)
        taken = sets.chosen.reshape(*sets.chosen.shape[:2], num_senders, num_laws)
        is_open = is_pair[going, None] & ~taken.any(axis=3)[..., sender]
        gain = np.where(is_open, gain, -1.0).reshape(len(going), -1)
        keys = (sets.key[..., None] + names).reshape(len(going), -1)
        width = min(4 * beam, gain.shape[1])
        top = np.argpartition(-gain, width - 1, axis=1)[:, :width]
        # A set is reached in many orders: one of them goes on.
        top = np.take_along_axis(top, np.argsort(keys[at, top], axis=1), axis=1)
        repeated = np.diff(keys[at, top], axis=1, prepend=0) == 0
        value = np.where(repeated, -2.0, gain[at, top])
        first = np.argsort(-value, axis=1)[:, :beam]
        top, value = top[at, first], value[at, first]
        parent, added = np.divmod(top, size)
        chosen = sets.chosen[at, parent]
        chosen[at, np.arange(top.shape[1]), added] = True
        sets = _Sets(
            chosen,
            # What is no set, as there are fewer of them, never comes to anything.
            np.where(value < 0.0, -1 - np.arange(top.shape[1]), keys[at, top]),
            np.where(value < 0.0, -np.inf, products[at, parent, added]),
            squares[at, parent, added],
            sets.cross[at, parent] + gram[going[:, None], added],
        )
        left = start[going] - value[:, 0]
        score = criterion(left, start[going], count[going], num_senders, number)
        is_better = (score < lowest[going]) & (value[:, 0] >= 0.0)
        lowest[going] = np.where(is_better, score, lowest[going])
        best[going] = np.where(is_better[:, None], chosen[:, 0], best[going])
        since[going] = np.where(is_better, 0, since[going] + 1)
        goes_on = since[going] < _PATIENCE
        going, sets = going[goes_on], _Sets(*(leaf[goes_on] for leaf in sets))
        if not len(going):
            break
    return best


class _Sets(NamedTuple):
    """Sets of columns `[B, sets, ...]`, and what their sums do.

    Attributes:
      chosen: `[..., X]` whether a column is in the set.
      key: A number that sets of the same columns share.
      product: Of their sum with the target.
      square: Of their sum.
      cross: `[..., X]` products of their sum with all columns.
    """

    chosen: np.ndarray
    key: np.ndarray
    product: np.ndarray
    square: np.ndarray
    cross: np.ndarray

    @classmethod
    def empty(cls, batch: int, size: int) -> _Sets:
        """One set of nothing for each of a batch."""
        zeros = np.zeros((batch, 1))
        nothing = np.zeros((batch, 1, size))
        return cls(nothing.astype(bool), zeros.astype(np.int64), zeros, zeros, nothing)
