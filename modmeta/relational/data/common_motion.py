"""Systems that something moves as a whole: seen from the mean of their entities."""

from __future__ import annotations

import dataclasses

import numpy as np

from modmeta.relational.data.dataset import TrajectoryDataset, check_dataset
from modmeta.relational.data.validation import DataError

_NOTE = (
    "Positions and velocities are relative to the mean of the entities of a system: "
    "what moves all alike is left out, of predictions too."
)


def relative_to_mean(dataset: TrajectoryDataset) -> TrajectoryDataset:
    """Positions and velocities relative to the mean over the entities of a system.

    A drive that accelerates all entities alike, such as a wind or a vehicle that
    carries them, is gone, whatever its course in time; forces that pairs of equal
    masses exert on each other stay as they are. Forces that are felt by one side alone
    move the mean, and a wind is then better given as a column, see `inputs` of
    `infer_relations`.

    Args:
      dataset: Systems with positions. At frames where some entity of a system was not
        observed, the mean is not known, and none of the system counts.

    Raises:
      DataError: If there are no positions, or they wrap in a box.
    """
    features = check_dataset(dataset).features
    if not features.positions or features.periodic:
        raise DataError(
            f"positions: found columns {features.positions}, wrapped in a box "
            f"{features.periodic}"
            ", expected columns of positions that do not wrap, to be seen from their "
            "mean"
        )
    columns = [*features.positions, *features.velocities]
    is_real = dataset.node_mask[:, None, :, None]
    values = dataset.states[..., columns].astype(np.float64)
    total = np.sum(np.where(is_real, values, 0.0), axis=2, keepdims=True)
    mean = total / dataset.num_nodes[:, None, None, None]
    states = dataset.states.copy()
    states[..., columns] = np.where(is_real, values - mean, 0.0)
    frame_mask = dataset.frame_mask
    if frame_mask is not None:
        is_whole = np.all(frame_mask | ~dataset.node_mask[:, None], axis=2)
        frame_mask = frame_mask & is_whole[..., None]
    dataset = dataclasses.replace(dataset, states=states, frame_mask=frame_mask)
    return dataset.with_notes([_NOTE])
