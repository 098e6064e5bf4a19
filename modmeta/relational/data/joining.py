"""Joining systems and data sets, of different sizes too, into one data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modmeta.relational.data import gaps, validation
from modmeta.relational.data.dataset import NO_EDGE, TrajectoryDataset, validate
from modmeta.relational.data.validation import DataError, FeatureSpec


def pad_systems(
    systems: Sequence[npt.ArrayLike],
    edges: Sequence[npt.ArrayLike] | None = None,
    *,
    features: FeatureSpec,
    frame_interval: float | None,
    num_relations: int | None = None,
    max_nodes: int | None = None,
    times: Sequence[npt.ArrayLike] | None = None,
    system_names: Sequence[str] | None = None,
    node_names: Sequence[Sequence[str]] | None = None,
    notes: Sequence[str] = (),
) -> TrajectoryDataset:
    """Puts systems of different size and length into one data set.

    Args:
      systems: One array `[time, nodes, features]` per task; the numbers of nodes and of
        frames may differ. Frames beyond the last one count as not observed.
      edges: One array `[nodes, nodes]` per task (row = receiver, column = sender;
        the diagonal is ignored), or None without labels.
      features: What the feature columns are.
      frame_interval: Time between two frames; see `TrajectoryDataset`.
      num_relations: Number of relation types; see `TrajectoryDataset`.
      max_nodes: Size of the node axis; None means the size of the largest system.
      times: One vector `[time]` per task; None for frames `frame_interval` apart.
      system_names: See `TrajectoryDataset`, as are
      node_names: and
      notes: what was done to the data before.

    Returns:
      A validated data set (see `validate`).

    Raises:
      DataError: If there is no system, or a system disagrees with the others, with
        its edges or with `max_nodes`, or for the reasons of `validate`.
    """
    arrays = [gaps.read_entries(system)[0] for system in systems]
    if not arrays:
        raise DataError("systems: found none, expected at least one")
    num_features = features.num_features
    for task, array in enumerate(arrays):
        validation.check_numeric(f"systems[{task}]", array)
        if array.ndim != 3 or array.shape[2] != num_features:
            raise DataError(
                f"systems[{task}]: found shape {array.shape}, expected [time, nodes, "
                f"features] with {num_features} features"
            )
    lengths = np.array([len(array) for array in arrays])
    num_frames = int(lengths.max())
    sizes = np.array([array.shape[1] for array in arrays])
    width = int(sizes.max()) if max_nodes is None else max_nodes
    if sizes.max() > width:
        task = int(np.argmax(sizes > width))
        raise DataError(
            f"systems[{task}]: found {sizes[task]} nodes, expected at most {width}"
        )
    mask = np.arange(width) < sizes[:, None]
    states = np.zeros(
        (len(arrays), num_frames, width, num_features), dtype=np.result_type(*arrays)
    )
    for task, array in enumerate(arrays):
        states[task, : len(array), : array.shape[1]] = array
    frame_mask = None
    if lengths.min() < num_frames:
        is_there = np.arange(num_frames) < lengths[:, None]
        frame_mask = np.broadcast_to(is_there[..., None], states.shape[:3])
    return validate(
        TrajectoryDataset(
            states=states,
            frame_mask=frame_mask,
            times=None if times is None else _pad_times(times, lengths, num_frames),
            features=features,
            frame_interval=frame_interval,
            node_mask=mask,
            edges=None if edges is None else _pad_edges(edges, mask),
            num_relations=num_relations,
            system_names=None if system_names is None else tuple(system_names),
            node_names=None if node_names is None else tuple(map(tuple, node_names)),
            notes=tuple(notes),
        )
    )


def concatenate(datasets: Sequence[TrajectoryDataset]) -> TrajectoryDataset:
    """Joins data sets along the tasks, padding to the largest number of nodes.

    Raises:
      DataError: If there is none, or they differ in features, frames, frame
        interval, number of relation types, or in having labels or times.
    """
    if not datasets:
        raise DataError("datasets: found none, expected at least one")

    def signature(dataset: TrajectoryDataset) -> dict[str, object]:
        return {
            "features": dataset.features,
            "num_frames": dataset.num_frames,
            "frame_interval": dataset.frame_interval,
            "num_relations": dataset.num_relations,
            "labelled": dataset.edges is not None,
            "timed": dataset.times is not None,
        }

    first = signature(datasets[0])
    for position, dataset in enumerate(datasets):
        for name, value in signature(dataset).items():
            if value != first[name]:
                raise DataError(
                    f"datasets[{position}]: found {name} {value}, expected "
                    f"{first[name]} as in datasets[0]"
                )
    width = max(dataset.max_nodes for dataset in datasets)

    def joined(
        name: str, node_axes: tuple[int, ...], default: Any = None
    ) -> np.ndarray | None:
        if all(getattr(dataset, name) is None for dataset in datasets):
            return None
        padded = []
        for dataset in datasets:
            array = getattr(dataset, name)
            if array is None:
                array = default(dataset)
            widths = [(0, 0)] * array.ndim
            for axis in node_axes:
                widths[axis] = (0, width - dataset.max_nodes)
            padded.append(np.pad(array, widths))
        return np.concatenate(padded)

    return dataclasses.replace(
        datasets[0],
        states=joined("states", (2,)),
        node_mask=joined("node_mask", (1,)),
        edges=joined("edges", (1, 2)),
        frame_mask=joined("frame_mask", (2,), lambda dataset: dataset.is_observed),
        times=joined("times", ()),
        breaks=joined(
            "breaks", (), lambda dataset: np.zeros(dataset.states.shape[:2], bool)
        ),
        system_names=_joined_names(datasets, "system_names"),
        node_names=_joined_names(datasets, "node_names"),
        notes=tuple(dict.fromkeys(note for d in datasets for note in d.notes)),
    )


def _joined_names(datasets: Sequence[TrajectoryDataset], name: str) -> Any:
    """Names of all tasks; None unless all data sets have some."""
    names = [getattr(dataset, name) for dataset in datasets]
    return None if None in names else sum(names, ())


def _pad_times(
    times: Sequence[npt.ArrayLike], lengths: np.ndarray, num_frames: int
) -> np.ndarray:
    """Times `[tasks, time]` that go on at the median step beyond the last frame."""
    if len(times) != len(lengths):
        raise DataError(
            f"times: found {len(times)} vectors, expected one for each of the "
            f"{len(lengths)} systems"
        )
    rows = []
    for task, (vector, length) in enumerate(zip(times, lengths, strict=True)):
        row = np.asarray(vector)
        validation.check_numeric(f"times[{task}]", row)
        if row.shape != (length,):
            raise DataError(
                f"times[{task}]: found shape {row.shape}, expected {(int(length),)} to "
                "agree with its system"
            )
        row = row.astype(np.float64)
        step = np.median(np.diff(row)) if length > 1 else 1.0
        later = row[-1] + step * np.arange(1, num_frames - length + 1)
        rows.append(np.concatenate([row, later]))
    return np.stack(rows)


def _pad_edges(edges: Sequence[npt.ArrayLike], mask: np.ndarray) -> np.ndarray:
    matrices = [np.asarray(matrix) for matrix in edges]
    if len(matrices) != mask.shape[0]:
        raise DataError(
            f"edges: found {len(matrices)} matrices, expected one for each of the "
            f"{mask.shape[0]} systems"
        )
    for task, matrix in enumerate(matrices):
        validation.check_numeric(f"edges[{task}]", matrix)
        size = int(mask[task].sum())
        if matrix.shape != (size, size):
            raise DataError(
                f"edges[{task}]: found shape {matrix.shape}, expected {(size, size)} "
                "for [receivers, senders] of its system"
            )
    width = mask.shape[1]
    padded = np.full(
        (len(matrices), width, width), NO_EDGE, dtype=np.result_type(*matrices, np.int8)
    )
    both = mask[:, :, None] & mask[:, None, :]
    padded[both] = np.concatenate([matrix.ravel() for matrix in matrices])
    return padded
