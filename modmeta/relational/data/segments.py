"""Recordings laid end to end, and long recordings cut into pieces."""

from __future__ import annotations

import dataclasses

import numpy as np

from modmeta.relational.data.dataset import TrajectoryDataset, check_dataset
from modmeta.relational.data.selections import read_count
from modmeta.relational.data.validation import MINIMUM_FRAMES, DataError, first_index


def concatenate_tasks(dataset: TrajectoryDataset) -> TrajectoryDataset:
    """One task that holds all tasks one after another, with breaks in between.

    For recordings of one system, or of systems that share one graph. Frames after the
    last that saw any node of a task are left out.

    Raises:
      DataError: If there is no task, or tasks differ in size or in labels.
    """
    num_tasks, num_frames = check_dataset(dataset).num_tasks, dataset.num_frames
    if not num_tasks:
        raise DataError("states: found no task, expected at least one")
    sizes = dataset.num_nodes
    if (sizes != sizes[0]).any():
        (task,) = first_index(sizes != sizes[0])
        raise DataError(
            f"states: found {sizes[task]} nodes in task {task}, expected {sizes[0]} as "
            "in task 0: tasks that share one graph have the same nodes"
        )
    edges = dataset.edges
    if edges is not None:
        if (edges != edges[:1]).any():
            index = first_index(edges != edges[:1])
            raise DataError(
                f"edges: found label {edges[index]} at index {list(index)}, expected "
                f"{edges[(0, *index[1:])]} as in task 0: tasks share one graph"
            )
        edges = edges[:1]
    names = dataset.node_names
    if names is not None:
        task = next((i for i, row in enumerate(names) if row != names[0]), None)
        if task is not None:
            raise DataError(
                f"node_names: found {names[task]} in task {task}, expected {names[0]} "
                "as in task 0: tasks that share one graph have the same nodes"
            )
        names = names[:1]
    seen = dataset.is_observed.any(axis=2)
    later = np.cumsum(seen[:, ::-1], axis=1)[:, ::-1]
    keep = later > 0

    breaks = np.zeros((num_tasks, num_frames), bool)
    if dataset.breaks is not None:
        breaks |= dataset.breaks
    breaks[:, 0] = True
    times = None
    if dataset.times is not None:
        # Every recording begins a frame interval after the one before it.
        ends = np.where(keep, dataset.times, -np.inf).max(axis=1)
        begins = dataset.times[:, 0]
        lengths = np.maximum(ends - begins, 0.0) + dataset.frame_interval
        offsets = np.concatenate([[0.0], np.cumsum(lengths[:-1])])
        times = (dataset.times - begins[:, None] + offsets[:, None])[keep][None]
    mask = dataset.frame_mask
    return dataclasses.replace(
        dataset,
        states=dataset.states[keep][None],
        node_mask=dataset.node_mask[:1],
        edges=edges,
        frame_mask=None if mask is None else mask[keep][None],
        times=times,
        breaks=breaks[keep][None],
        system_names=None,
        node_names=names,
    )


def cut(
    dataset: TrajectoryDataset, num_frames: int, *, keep_rest: bool = True
) -> tuple[TrajectoryDataset, np.ndarray]:
    """Cuts every task into windows of a number of frames.

    Args:
      dataset: The tasks.
      num_frames: Frames of every window.
      keep_rest: Whether frames that are left over make up a last window, which
        overlaps the one before it; they are dropped otherwise.

    Returns:
      The windows as tasks, labels repeated, task after task; and the task that every
      window comes from, `[windows]`. Windows in which no change was observed are left
      out.

    Raises:
      DataError: If windows would be shorter than 3 frames, or longer than the tasks.
    """
    total = check_dataset(dataset).num_frames
    num_frames = read_count("num_frames", num_frames)
    if not MINIMUM_FRAMES <= num_frames <= total:
        raise DataError(
            f"num_frames: found {num_frames}, expected {MINIMUM_FRAMES} to the {total} "
            "frames of the tasks"
        )
    starts = list(range(0, total - num_frames + 1, num_frames))
    if keep_rest and starts[-1] + num_frames < total:
        starts.append(total - num_frames)
    tasks = np.repeat(np.arange(dataset.num_tasks), len(starts))
    frames = np.tile(starts, dataset.num_tasks)[:, None] + np.arange(num_frames)

    def windows(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[tasks[:, None], frames]

    pieces = dataclasses.replace(
        dataset,
        states=windows(dataset.states),
        node_mask=dataset.node_mask[tasks],
        edges=None if dataset.edges is None else dataset.edges[tasks],
        frame_mask=windows(dataset.frame_mask),
        times=windows(dataset.times),
        breaks=windows(dataset.breaks),
        **dataset.names_of(tasks),
    )
    counts = pieces.counted().any(axis=(1, 2))
    return (pieces, tasks) if counts.all() else (pieces.take(counts), tasks[counts])
