"""Joining systems and data sets, of different sizes too, into one data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from modmeta.relational.data import validation
from modmeta.relational.data.dataset import NO_EDGE, TrajectoryDataset, validate
from modmeta.relational.data.validation import DataError, FeatureSpec


def pad_systems(
    systems: Sequence[npt.ArrayLike],
    edges: Sequence[npt.ArrayLike] | None = None,
    *,
    features: FeatureSpec,
    frame_interval: float,
    num_relations: int | None = None,
    max_nodes: int | None = None,
) -> TrajectoryDataset:
    """Puts systems of different size into one data set.

    Args:
      systems: One array `[time, nodes, features]` per task; the number of nodes may
        differ, the number of frames may not.
      edges: One array `[nodes, nodes]` per task (row = receiver, column = sender;
        the diagonal is ignored), or None without labels.
      features: What the feature columns are.
      frame_interval: Time between two frames.
      num_relations: Number of relation types; see `TrajectoryDataset`.
      max_nodes: Size of the node axis; None means the size of the largest system.

    Returns:
      A validated data set (see `validate`).

    Raises:
      DataError: If there is no system, or a system disagrees with the others, with
        its edges or with `max_nodes`, or for the reasons of `validate`.
    """
    arrays = [np.asarray(system) for system in systems]
    if not arrays:
        raise DataError("systems: found none, expected at least one")
    expected = (arrays[0].shape[0] if arrays[0].ndim else 0, features.num_features)
    for task, array in enumerate(arrays):
        validation.check_numeric(f"systems[{task}]", array)
        if array.ndim != 3 or (array.shape[0], array.shape[2]) != expected:
            raise DataError(
                f"systems[{task}]: found shape {array.shape}, expected [time, nodes, "
                f"features] with {expected[0]} frames and {expected[1]} features"
            )
    sizes = np.array([array.shape[1] for array in arrays])
    width = int(sizes.max()) if max_nodes is None else max_nodes
    if sizes.max() > width:
        task = int(np.argmax(sizes > width))
        raise DataError(
            f"systems[{task}]: found {sizes[task]} nodes, expected at most {width}"
        )
    mask = np.arange(width) < sizes[:, None]
    node_first = np.zeros(
        (len(arrays), width, *expected), dtype=np.result_type(*arrays)
    )
    node_first[mask] = np.concatenate([array.swapaxes(0, 1) for array in arrays])
    return validate(
        TrajectoryDataset(
            states=node_first.swapaxes(1, 2),
            features=features,
            frame_interval=frame_interval,
            node_mask=mask,
            edges=None if edges is None else _pad_edges(edges, mask),
            num_relations=num_relations,
        )
    )


def concatenate(datasets: Sequence[TrajectoryDataset]) -> TrajectoryDataset:
    """Joins data sets along the tasks, padding to the largest number of nodes.

    Raises:
      DataError: If there is none, or they differ in features, frames, frame
        interval, number of relation types, or in having labels.
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

    def joined(name: str, node_axes: tuple[int, ...]) -> np.ndarray:
        padded = []
        for dataset in datasets:
            array = getattr(dataset, name)
            widths = [(0, 0)] * array.ndim
            for axis in node_axes:
                widths[axis] = (0, width - dataset.max_nodes)
            padded.append(np.pad(array, widths))
        return np.concatenate(padded)

    return dataclasses.replace(
        datasets[0],
        states=joined("states", (2,)),
        node_mask=joined("node_mask", (1,)),
        edges=joined("edges", (1, 2)) if first["labelled"] else None,
    )


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
