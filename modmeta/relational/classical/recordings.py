"""Data sets as plain series: numbers of every node and frame that have no role."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.data.validation import ROLES


def is_series(dataset: TrajectoryDataset) -> bool:
    """Whether nodes have columns without roles alone, at equal steps."""
    features = dataset.features
    has_roles = any(getattr(features, role) for role in ROLES)
    return not has_roles and dataset.is_regular


def recordings(dataset: TrajectoryDataset, task: int) -> list[np.ndarray]:
    """Pieces of a system in which every node was observed, each `[T, N, C]`.

    They end at breaks, and where a node was missed.

    Raises:
      DataError: If nodes have no series, see `is_series`, or no piece has two frames.
    """
    if not is_series(dataset):
        raise DataError(
            f"states: found the features {dataset.features.names}, expected columns "
            "without roles, at equal steps of time: series alone have classical scores"
        )
    size = int(dataset.num_nodes[task])
    columns = list(dataset.features.recorded)
    series = dataset.states[task, :, :size][..., columns].astype(np.float64)
    follows = dataset.counted()[task, :, :size].all(axis=1)
    is_seen = dataset.is_observed[task, :, :size].all(axis=1)
    starts = np.flatnonzero(~follows) + 1
    pieces = [
        piece
        for piece, seen in zip(
            np.split(series, starts), np.split(is_seen, starts), strict=True
        )
        if len(piece) > 1 and seen.all()
    ]
    if not pieces:
        raise DataError(
            f"states: found no two consecutive frames of system {task} that saw every "
            "node, expected some"
        )
    return pieces


def standardised(pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same with mean 0 and variance 1 over all; constant columns become 0."""
    joined = np.concatenate(pieces)
    spread = joined.std(axis=0)
    is_constant = spread <= 1e-12 * np.abs(joined).max(axis=0)
    spread = np.where(is_constant, 1.0, spread)
    mean = joined.mean(axis=0)
    return [np.where(is_constant, 0.0, (part - mean) / spread) for part in pieces]


def with_past(
    pieces: Sequence[np.ndarray], order: int, skipped: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Frames and those before them.

    Args:
      pieces: Each `[T, N, C]`.
      order: Frames before.
      skipped: Frames that are left out at the start of every piece, beyond these.

    Returns:
      Frames `[R, N, C]`, and the past of each, `[R, N, order * C]`, the latest first.
    """
    first = order + skipped
    long = [part for part in pieces if len(part) > first]
    if not long:
        num_nodes, size = pieces[0].shape[1:]
        return np.zeros((0, num_nodes, size)), np.zeros((0, num_nodes, order * size))
    present = np.concatenate([part[first:] for part in long])
    past = [
        np.concatenate([part[first - back : len(part) - back] for part in long])
        for back in range(1, order + 1)
    ]
    return present, np.concatenate(past, axis=2)
