"""What predictions start from, and what is known of the frames to come."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.data.validation import (
    check_finite,
    check_numeric,
    first_index,
)
from modmeta.relational.modules.entities import Effects
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.states import host_states


class StartFrames(NamedTuple):
    """What predictions start from.

    Attributes:
      states: `[tasks, nodes, F]` normalised.
      is_present: `[tasks, nodes]` true at nodes that are there; None if all are.
      durations: `[tasks, nodes, steps]` between predicted frames, in frame intervals;
        None for one each.
      effects: What nodes have of their own, leaves `[tasks, nodes, ...]`; None where
        all are alike.
      inputs: `[tasks, nodes, steps, C]` normalised, at the predicted frames; None
        where there are none.
      errors: `[tasks, nodes, steps, Y]` that are added to every predicted frame, in
        units of the typical change; those at the end of as many frames as a message
        spans go on. None for none.
    """

    states: jax.Array
    is_present: jax.Array | None
    durations: jax.Array | None
    effects: Effects | None = None
    inputs: jax.Array | None = None
    errors: jax.Array | None = None


def last_frames(dataset: TrajectoryDataset) -> np.ndarray:
    """The last frame of every task that saw any node, `[tasks]`."""
    seen = dataset.is_observed.any(axis=2)
    return dataset.num_frames - 1 - np.argmax(seen[:, ::-1], axis=1)


def start_of(
    dataset: TrajectoryDataset,
    params: ModelParams,
    times: np.ndarray | None,
) -> StartFrames:
    """The last frame that saw any node, and how long it is to those at `times`."""
    frames = host_states(dataset, params.preprocessing.normalization)
    if dataset.frame_mask is None and times is None:
        return StartFrames(frames.states[:, :, -1], None, None)
    last = last_frames(dataset)
    tasks = np.arange(dataset.num_tasks)
    is_present = durations = None
    if frames.is_present is not None:
        is_present = frames.is_present[tasks, :, last]
    if times is not None:
        clock = dataset.times
        if clock is None:
            clock = dataset.frame_interval * dataset.clock
        whole = np.concatenate([clock[tasks, last][:, None], times], axis=1)
        steps = np.diff(whole, axis=1) / dataset.frame_interval
        late = ~(steps > 0)
        if late.any():
            task, step = first_index(late)
            raise DataError(
                f"times: found {whole[task, step + 1]} after {whole[task, step]} at "
                f"index {[task, step]}, expected times that increase from the last "
                "observed frame on"
            )
        shape = (dataset.num_tasks, dataset.max_nodes, steps.shape[1])
        durations = np.broadcast_to(steps[:, None], shape).astype(np.float32)
    return StartFrames(frames.states[tasks, :, last], is_present, durations)


def inputs_of(
    params: ModelParams,
    dataset: TrajectoryDataset,
    inputs: npt.ArrayLike | None,
    num_steps: int,
) -> np.ndarray | None:
    """Normalised inputs `[tasks, nodes, steps, C]`; None where there are none."""
    columns = list(dataset.features.inputs)
    names = [dataset.features.names[column] for column in columns]
    if not columns:
        if inputs is not None:
            raise DataError("inputs: found some, expected none: no column is an input")
        return None
    if inputs is None:
        raise DataError(
            f"inputs: found none, expected the values of {names} at the {num_steps} "
            "predicted frames"
        )
    shape = (dataset.num_tasks, num_steps, dataset.max_nodes, len(columns))
    check_numeric("inputs", np.asarray(inputs))
    values = np.asarray(inputs, np.float64)
    try:
        values = np.broadcast_to(values, shape)
    except ValueError as error:
        raise DataError(
            f"inputs: found shape {values.shape}, expected one that broadcasts to "
            f"{shape} for [tasks, steps, nodes, columns]"
        ) from error
    check_finite(values, "inputs")
    offset, scale = (
        np.asarray(leaf)[columns] for leaf in params.preprocessing.normalization
    )
    return np.float32(np.swapaxes((values - offset) / scale, 1, 2))
