"""Plain arrays as a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from modmeta.relational.data.dataset import TrajectoryDataset
from modmeta.relational.data.validation import FeatureSpec


def as_dataset(
    trajectories: npt.ArrayLike | TrajectoryDataset,
    *,
    labels: npt.ArrayLike | None = None,
    feature_names: Sequence[str] | None = None,
    positions: Sequence[int] = (),
    velocities: Sequence[int] = (),
    sines: Sequence[int] = (),
    cosines: Sequence[int] = (),
    frame_interval: float = 1.0,
) -> TrajectoryDataset:
    """Wraps an array `[tasks, time, nodes, features]` as a data set.

    Args:
      trajectories: The array, or a data set, which is returned as it is.
      labels: `[tasks, nodes, nodes]` true relations, for evaluation alone.
      feature_names: Names of the features.
      positions: Feature columns that are positions.
      velocities: Feature columns that are the velocities of these positions.
      sines: Feature columns that are the sines of angles.
      cosines: Feature columns that are the cosines of these angles.
      frame_interval: Time between frames, in the time unit of the velocities.

    Raises:
      DataError: If the array is not what it should be.
      ValueError: If a data set comes with labels or features besides.
    """
    if isinstance(trajectories, TrajectoryDataset):
        roles = (positions, velocities, sines, cosines)
        if labels is not None or feature_names or any(roles):
            raise ValueError(
                "trajectories: found a TrajectoryDataset together with labels or "
                "names or roles of features, expected these inside the data set"
            )
        return trajectories
    array = np.asarray(trajectories)
    num_features = array.shape[-1] if array.ndim else 0
    names = tuple(feature_names or (f"feature_{i}" for i in range(num_features)))
    return TrajectoryDataset(
        states=array,
        features=FeatureSpec(names, positions, velocities, sines, cosines),
        frame_interval=frame_interval,
        edges=labels,
    )
