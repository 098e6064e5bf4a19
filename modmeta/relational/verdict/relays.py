"""Whether entities tell of others whom, by the graph found, they reach by others alone.

A driver of white noise that every series hears at a lag of its own makes of them what
looks like a chain, each moved by the one that hears earlier. But in a chain, who is in
between tells all that those before it tell. Under a driver every series is a noisy
witness of it, and those before tell more. So what a graph leaves of a pair that is
joined by others alone must not go together at the lag of two relations and more.

The statistic is that of a portmanteau test of residuals (Hosking 1980), less what
chance alone has of it. Letters: W windows, N nodes, B blocks.
"""

from __future__ import annotations

import numpy as np

from modmeta.relational.classical import linear
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.evaluation import parts
from modmeta.relational.verdict.gains import is_certain

# Lags of two relations and more, in windows, and frames of its own past that are taken
# from what is left of an entity.
_LAGS, _OWN = (2, 3, 4), 2
# Windows that a block needs.
_MIN_WINDOWS = 12
# Share of what a graph leaves that is worth a word.
_MUCH = 0.01


def shares_by_relays(
    dataset: TrajectoryDataset, left: np.ndarray, is_joined: np.ndarray
) -> np.ndarray | None:
    """Share of what a graph leaves that goes with what it left of indirect senders.

    Chance is taken off, so that shares of nothing are about 0 on average, and some of
    them below.

    Args:
      dataset: Series that hear the frame before, raw units.
      left: `[tasks, nodes, W]` what the graph leaves of every window of one interval.
      is_joined: `[tasks, nodes, nodes]` true where a sender (column) acts most.

    Returns:
      `[B]`, one per block of `parts.blocks_of` that is long enough; None where there
      are too few of them.
    """
    counted = np.swapaxes(dataset.counted(), 1, 2) | ~dataset.node_mask[..., None]
    counted = counted.all(axis=1)
    blocks = parts.blocks_of(dataset, counted)
    number = parts.recordings_of(dataset)
    shares = []
    for task, size in enumerate(dataset.num_nodes):
        joined = is_joined[task, :size, :size].astype(int)
        is_indirect = (joined @ joined > 0) & (joined == 0)
        np.fill_diagonal(is_indirect, False)
        # Windows of different recordings are far apart, as are those beyond a gap.
        times = np.flatnonzero(counted[task])
        times = times + number[task, times] * (counted.shape[1] + max(_LAGS))
        values = left[task, :size][:, counted[task]].T.astype(np.float64)
        values = _standard(values, times)
        rows = blocks[task, counted[task]]
        for block in np.unique(rows):
            share = _share(values, times, rows == block, is_indirect)
            if share is not None:
                shares.append(share)
    return np.asarray(shares) if len(shares) >= parts.MIN_BLOCKS else None


def has_relays(shares: np.ndarray | None) -> bool:
    """Whether shares `[B]` are surely more than what is worth a word."""
    if shares is None or not shares.mean() > _MUCH:
        return False
    return is_certain(np.zeros(len(shares)), shares)


def _standard(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Values `[R, N]` beyond their own past, of mean 0 and variance 1."""
    past = np.zeros((*values.shape, _OWN))
    for lag in range(1, _OWN + 1):
        now, before = _pairs(times, lag)
        past[now, :, lag - 1] = values[before]
    values = linear.innovations(values[..., None], past)[..., 0]
    values = values - values.mean(axis=0)
    spread = values.std(axis=0)
    return np.divide(values, spread, out=np.zeros_like(values), where=spread > 0.0)


def _pairs(times: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of increasing times `[R]`, and those of the times that lie a lag before."""
    before = np.searchsorted(times, times - lag)
    is_there = times[before] == times - lag
    return np.flatnonzero(is_there), before[is_there]


def _share(
    values: np.ndarray, times: np.ndarray, is_in: np.ndarray, is_indirect: np.ndarray
) -> float | None:
    """The share of one block, mean over nodes; None where it is too short."""
    total = 0.0
    for lag in _LAGS:
        now, before = _pairs(times, lag)
        is_kept = is_in[now]
        now, before = now[is_kept], before[is_kept]
        if len(now) < _MIN_WINDOWS:
            return None
        together = values[now].T @ values[before] / len(now)
        total += np.sum(np.square(together) - 1.0 / len(now), where=is_indirect)
    return float(total / len(is_indirect))
