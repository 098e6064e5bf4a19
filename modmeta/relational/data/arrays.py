"""Plain arrays as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modmeta.relational.data.dataset import TrajectoryDataset, validate
from modmeta.relational.data.derived import prepare
from modmeta.relational.data.gaps import read_entries
from modmeta.relational.data.joining import pad_systems
from modmeta.relational.data.validation import DataError, FeatureSpec


def as_dataset(
    trajectories: npt.ArrayLike | Sequence[npt.ArrayLike] | TrajectoryDataset,
    *,
    labels: Any = None,
    feature_names: Sequence[str] | None = None,
    positions: Sequence[int] = (),
    velocities: Sequence[int] = (),
    sines: Sequence[int] = (),
    cosines: Sequence[int] = (),
    angles: Sequence[int] = (),
    angle_unit: str | None = None,
    derive_velocities: bool = True,
    lags: int = 0,
    frame_interval: float | None = None,
    frame_mask: npt.ArrayLike | None = None,
    times: Any = None,
    breaks: npt.ArrayLike | None = None,
) -> TrajectoryDataset:
    """Wraps an array `[tasks, time, nodes, features]` as a data set.

    Args:
      trajectories: The array; or one array `[time, nodes, features]` per task, whose
        numbers of frames and of nodes may differ; or a data set, which is returned as
        it is. NaN and masked entries were not observed.
      labels: `[tasks, nodes, nodes]` true relations, or one matrix per task, for
        evaluation alone.
      feature_names: Names of the features.
      positions: Feature columns that are positions.
      velocities: Feature columns that are the velocities of these positions.
      sines: Feature columns that are the sines of angles.
      cosines: Feature columns that are the cosines of these angles.
      angles: Feature columns that are angles; columns that wrap are found without.
      angle_unit: "radians" or "degrees"; None tells it from the values.
      derive_velocities: Whether positions without velocities get them.
      lags: Frames that a change of features without roles may depend on; 0 for as many
        as the data bear out.
      frame_interval: Time between frames, in the time unit of the velocities; None for
        the median step of `times`, or 1.
      frame_mask: `[tasks, time, nodes]` true where a node was observed.
      times: `[tasks, time]` or `[time]` of the frames, or one vector per task.
      breaks: `[tasks, time]` or `[time]` true at frames that do not follow from the one
        before.

    Raises:
      DataError: If the array is not what it should be.
      ValueError: If a data set comes with labels or features besides.
    """
    if isinstance(trajectories, TrajectoryDataset):
        given = (positions, velocities, sines, cosines, angles, feature_names)
        arrays = (labels, frame_interval, frame_mask, times, breaks)
        if any(given) or any(array is not None for array in arrays):
            raise ValueError(
                "trajectories: found a TrajectoryDataset together with labels, times, "
                "masks, or names or roles of features, expected these inside the data "
                "set"
            )
        return trajectories
    systems = _systems(trajectories)
    if len({system.shape for system in systems}) == 1:
        trajectories, systems = np.stack(systems), []
    array = systems[0] if systems else read_entries(trajectories)[0]
    num_features = array.shape[-1] if array.ndim else 0
    names = tuple(feature_names or (f"feature_{i}" for i in range(num_features)))
    features = FeatureSpec(names, positions, velocities, sines, cosines)
    if systems:
        if frame_mask is not None or breaks is not None:
            raise DataError(
                "trajectories: found arrays of different shapes with a frame_mask or "
                "breaks, expected NaN where nothing was observed, and one array"
            )
        dataset = pad_systems(
            systems,
            labels,
            features=features,
            frame_interval=frame_interval,
            times=times,
        )
    else:
        dataset = TrajectoryDataset(
            states=array,
            features=features,
            frame_interval=frame_interval,
            edges=labels,
            frame_mask=frame_mask,
            times=times,
            breaks=breaks,
        )
    dataset = prepare(
        dataset,
        derive_velocities=derive_velocities,
        angles=angles,
        angle_unit=angle_unit,
        lags=lags,
    )
    return validate(dataset)


def _systems(trajectories: Any) -> list[np.ndarray]:
    """The arrays of a sequence of systems; none if it is something else."""
    if not isinstance(trajectories, list | tuple) or not trajectories:
        return []
    try:
        arrays = [read_entries(system)[0] for system in trajectories]
    except ValueError:  # not even one of them is rectangular
        return []
    is_ragged = len({array.shape for array in arrays}) > 1
    return arrays if is_ragged or all(array.ndim == 3 for array in arrays) else []
