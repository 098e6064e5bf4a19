"""Frames that a graph is found in, those that it is asked about, and their blocks.

Letters: W windows of a span of frame intervals, one from every frame that has one.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from modmeta.relational.data import TrajectoryDataset

# Share of the frames of a recording that the graph is found in.
_FIRST_PART = 0.75
# Windows that either part needs at least.
_MIN_WINDOWS = 3
# Blocks that a standard error takes: fewer recordings are cut, as that of three is too
# uncertain.
MIN_BLOCKS = 6


class Split(NamedTuple):
    """The first frames of every recording, and the rest.

    Attributes:
      dataset: All frames.
      early: `[tasks, time]` true at the first.
      late: `[tasks, time]` true at the rest.
    """

    dataset: TrajectoryDataset
    early: np.ndarray
    late: np.ndarray

    @property
    def first(self) -> TrajectoryDataset:
        """The first frames alone."""
        return _select(self.dataset, self.early)

    @property
    def rest(self) -> TrajectoryDataset:
        """The rest alone."""
        return _select(self.dataset, self.late)

    def windows(self, span: int) -> tuple[np.ndarray, np.ndarray]:
        """Windows of which all was observed, in the first frames and in the rest.

        Returns:
          Two arrays `[tasks, nodes, W]`, bool.
        """
        counted = np.swapaxes(self.dataset.counted(span), 1, 2)
        # Recordings begin with their first frames: nothing comes back to them.
        early = self.early[:, None, span:] & counted
        return early, self.late[:, None, :-span] & counted

    def of_first(self, values: np.ndarray) -> np.ndarray:
        """Of values `[tasks, nodes, W, ...]` of all windows, those of `first`."""
        return _windows_of(values, self.early)

    def of_rest(self, values: np.ndarray) -> np.ndarray:
        """The same of `rest`."""
        return _windows_of(values, self.late)


def split(
    dataset: TrajectoryDataset, span: int, share: float = _FIRST_PART
) -> Split | None:
    """Keeps the last quarter of every recording, or as much more as windows ask for.

    Args:
      dataset: The systems, raw units.
      span: Frame intervals of a window.
      share: Of the frames that come first.

    Returns:
      None where recordings are too short.
    """
    seen = dataset.is_observed.any(axis=2)
    early = np.zeros_like(seen)
    shortest = span + _MIN_WINDOWS
    for task, recordings in enumerate(recordings_of(dataset)):
        for recording in np.unique(recordings):
            (frames,) = np.nonzero((recordings == recording) & seen[task])
            stop = min(round(share * len(frames)), len(frames) - shortest)
            # What is too short to be cut tells of no frame that it was not found in.
            early[task, frames[: stop if stop >= shortest else len(frames)]] = True
    late = seen & ~early
    if not late.any():
        return None
    return Split(dataset, early, late)


def recordings_of(dataset: TrajectoryDataset) -> np.ndarray:
    """Number of the recording that every frame is of, `[tasks, time]`, from 0."""
    if dataset.breaks is None:
        return np.zeros((dataset.num_tasks, dataset.num_frames), int)
    return np.cumsum(dataset.breaks, axis=1)


def blocks_of(dataset: TrajectoryDataset, counted: np.ndarray) -> np.ndarray:
    """Number of the block of every window, `[tasks, W]`, from 0.

    A block is a system; where these are few, a recording of it, or a part of its time:
    of few systems, only some may have the relation that is asked about.

    Args:
      dataset: All frames.
      counted: `[tasks, W]` windows that count.
    """
    num_tasks, num_windows = counted.shape
    rank = np.cumsum(counted, axis=1) - 1
    blocks = np.zeros((num_tasks, num_windows), int)
    wanted = MIN_BLOCKS if num_tasks < MIN_BLOCKS else 1
    if wanted > 1:
        size = np.maximum(counted.sum(axis=1, keepdims=True), 1)
        blocks = np.maximum(rank, 0) * np.minimum(wanted, size) // size
    if wanted > 1 and dataset.breaks is not None:
        recordings = recordings_of(dataset)[:, :num_windows]
        rows = [row[is_in] for row, is_in in zip(recordings, counted, strict=True)]
        if min(len(np.unique(row)) for row in rows) >= wanted:
            blocks = recordings
    where = np.arange(num_tasks)[:, None] * (blocks.max() + 1) + blocks
    return np.searchsorted(np.unique(where[counted]), where)


def sums(values: np.ndarray, blocks: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Sums `[blocks]` of the values `[tasks, W]` that count."""
    return np.bincount(blocks[counted], values[counted])


def _windows_of(values: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Values from the frames that `_select` keeps, of windows that it keeps."""
    counts = keep.sum(axis=1)
    if (counts != counts[0]).any():
        return values
    num_frames, num_windows = keep.shape[1], values.shape[2]
    span = num_frames - num_windows
    starts = np.nonzero(keep)[1].reshape(len(keep), -1)[:, :-span]
    # Windows that reach beyond the last frame lead across a break: they do not count.
    starts = np.minimum(starts, num_windows - 1)
    return values[np.arange(len(keep))[:, None], :, starts].swapaxes(1, 2)


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
