"""Relations that change within a recording: what is true of every frame, and found."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from experiments.situations import baselines
from modmeta.relational.data import TrajectoryDataset, cut
from modmeta.relational.verdict.stretches import Stretches

# Frames of the windows that regression sees one by one.
WINDOW = 10
# A change that was missed counts so many frames.
_MISSED = 1000.0


class Change(NamedTuple):
    """When relations become others, as often in every recording.

    Attributes:
      frames: `[tasks, changes]` first frames of the later graphs.
      edges: `[tasks, changes, nodes, nodes]` the later graphs.
    """

    frames: np.ndarray
    edges: np.ndarray

    def at(
        self, first: np.ndarray, tasks: np.ndarray, frames: np.ndarray
    ) -> np.ndarray:
        """Graphs `[rows, nodes, nodes]` that hold in tasks `[rows]` at frames `[rows]`.

        Args:
          first: `[tasks, nodes, nodes]` the graphs at the beginning.
          tasks: See above.
          frames: See above.
        """
        graphs = np.concatenate([first[:, None], self.edges], axis=1)
        index = np.sum(frames[:, None] >= self.frames[tasks], axis=1)
        return graphs[tasks, index]


def labels_of_stretches(
    dataset: TrajectoryDataset, change: Change, stretches: Stretches
) -> np.ndarray:
    """Graphs `[stretches, nodes, nodes]` that hold in the middle of each."""
    middle = (stretches.starts + stretches.stops) / 2
    return change.at(dataset.edges, stretches.tasks, middle)


def frames_late(change: Change, stretches: Stretches) -> float:
    """Nine of ten changes are found within so many frames."""
    errors = np.full(change.frames.shape, _MISSED)
    for task, start in zip(stretches.tasks, stretches.starts, strict=True):
        if start:
            gaps = np.abs(start - change.frames[task])
            errors[task] = np.minimum(errors[task], gaps)
    return float(np.quantile(errors, 0.9, method="higher"))


def by_frame(
    dataset: TrajectoryDataset, change: Change, stretches: Stretches, edges: np.ndarray
) -> dict[str, float]:
    """Scores of all pairs in all frames, and those of regressions in windows.

    Args:
      dataset: The recordings, whose labels are the first graphs.
      change: How they change.
      stretches: That were found.
      edges: `[stretches, nodes, nodes]` relations in each, called as labels are.
    """
    num_tasks, num_frames = dataset.states.shape[:2]
    rows = np.indices((num_tasks, num_frames)).reshape(2, -1)
    labels = change.at(dataset.edges, *rows)
    # Stretches of a recording lie one after another.
    order = np.searchsorted(
        stretches.tasks * num_frames + stretches.starts,
        rows[0] * num_frames + rows[1],
        side="right",
    )
    windows, tasks = cut(dataset.without_labels(), WINDOW, keep_rest=True)
    per_task = len(tasks) // num_tasks
    which = np.minimum(rows[1] // WINDOW, per_task - 1)
    strengths = baselines.edge_strengths(windows, is_alone=False)
    strong = strengths > _between(strengths[~np.isnan(strengths)])
    found = {
        "": edges[order - 1],
        "_windows": strong.astype(int)[rows[0] * per_task + which],
    }
    scores: dict[str, Any] = {}
    is_pair = labels >= 0
    for name, graphs in found.items():
        said, true = graphs[is_pair], labels[is_pair]
        both = np.sum((said > 0) & (true > 0))
        total = np.sum(said > 0) + np.sum(true > 0)
        scores[f"frame_accuracy{name}"] = float(np.mean(said == true))
        scores[f"frame_f1{name}"] = float(2.0 * both / max(total, 1))
    return scores


def _between(values: np.ndarray) -> float:
    """The value that parts numbers in two groups of least variance.

    Large ones count as thrice the median: windows that tell little have some.
    """
    values = np.minimum(np.sort(values.astype(np.float64)), 3.0 * np.median(values))
    count = np.arange(1, len(values))
    total = np.cumsum(values)[:-1]
    means = total / count, (values.sum() - total) / (len(values) - count)
    apart = count * (len(values) - count) * np.square(means[1] - means[0])
    best = int(np.argmax(apart))
    return float(0.5 * (values[best] + values[best + 1]))
