"""Frames that a graph is found in, those that it is asked about, and their blocks."""

from __future__ import annotations

import dataclasses

import numpy as np

from modmeta.relational.data import TrajectoryDataset

# Share of the frames of a recording that the graph is found in.
_FIRST_PART = 0.75
# Windows that either part needs at least.
_MIN_WINDOWS = 3
# Blocks that a standard error takes: fewer recordings are cut, as that of three is too
# uncertain.
MIN_BLOCKS = 6


def split(
    dataset: TrajectoryDataset, span: int
) -> tuple[TrajectoryDataset, TrajectoryDataset] | None:
    """The first frames of every recording, and the rest.

    The rest is a quarter, or as much more as windows of the span ask for.

    Args:
      dataset: The systems, raw units.
      span: Frame intervals of a window.

    Returns:
      None where recordings are too short.
    """
    seen = dataset.is_observed.any(axis=2)
    number = np.zeros(seen.shape, int)
    if dataset.breaks is not None:
        number = np.cumsum(dataset.breaks, axis=1)
    early = np.zeros_like(seen)
    shortest = span + _MIN_WINDOWS
    for task, recordings in enumerate(number):
        for recording in np.unique(recordings):
            (frames,) = np.nonzero((recordings == recording) & seen[task])
            stop = min(round(_FIRST_PART * len(frames)), len(frames) - shortest)
            # What is too short to be cut tells of no frame that it was not found in.
            early[task, frames[: stop if stop >= shortest else len(frames)]] = True
    late = seen & ~early
    if not late.any(axis=1).any() or not early.any():
        return None
    return _select(dataset, early), _select(dataset, late)


def blocks_of(dataset: TrajectoryDataset, num_windows: int) -> np.ndarray:
    """Number of the block of every window, `[tasks, W]`, from 0.

    A block is a system; where these are few, a recording of it, or a part of its time.
    """
    num_tasks = dataset.num_tasks
    count = -(-MIN_BLOCKS // max(num_tasks, 1))
    blocks = np.zeros((num_tasks, num_windows), int)
    if count > 1:
        blocks[:] = np.arange(num_windows) * min(count, num_windows) // num_windows
    if count > 1 and dataset.breaks is not None:
        recordings = np.cumsum(dataset.breaks, axis=1)[:, :num_windows]
        if min(map(len, map(np.unique, recordings))) >= count:
            blocks = recordings
    rows = np.broadcast_to(np.arange(num_tasks)[:, None], blocks.shape)
    pairs = np.stack([rows.ravel(), blocks.ravel()])
    return np.unique(pairs, axis=1, return_inverse=True)[1].reshape(blocks.shape)


def sums(values: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Sums `[blocks]` of values `[tasks, W]`."""
    return np.bincount(blocks.ravel(), values.ravel())


def _select(dataset: TrajectoryDataset, keep: np.ndarray) -> TrajectoryDataset:
    """The frames `[tasks, time]` that are kept; shorter where all keep as many."""
    counts = keep.sum(axis=1)
    if (counts != counts[0]).any():
        return dataset.seen(keep)
    index = np.nonzero(keep)[1].reshape(len(keep), -1)
    if (index == index[:1]).all() and np.ptp(index[0]) + 1 == index.shape[1]:
        return dataset.frames(int(index[0, 0]), int(index[0, -1]) + 1)
    rows = np.arange(len(keep))[:, None]
    breaks = np.diff(index, axis=1, prepend=-2) > 1
    if dataset.breaks is not None:
        breaks = breaks | dataset.breaks[rows, index]
    arrays = {
        name: None if array is None else array[rows, index]
        for name in ("states", "frame_mask", "times")
        for array in [getattr(dataset, name)]
    }
    return dataclasses.replace(dataset, **arrays, breaks=breaks)
