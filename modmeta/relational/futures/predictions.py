"""Predictions: the frames that follow those that inferred the structure.

Protocol of Kipf et al. 2018 and Alet et al. 2019, section 5.1: the first frames of a
test system infer its structure, the frames that follow are predicted freely. Errors
are mean squared errors in normalised units over systems, nodes and predicted features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.data.domains import Domain
from modmeta.relational.data.validation import check_numeric
from modmeta.relational.evaluation.changes import ChangeModel
from modmeta.relational.futures.backtests import widening
from modmeta.relational.futures.ensembles import (
    draw_errors,
    observed_errors,
    stretched,
)
from modmeta.relational.futures.rollouts import Rollouts, check_domain, settled
from modmeta.relational.futures.start_frames import (
    inputs_of,
    last_frames,
    start_of,
)
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.structures import TaskStructures


def predict(
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    structures: TaskStructures,
    num_steps: int,
    *,
    num_substeps: int = 0,
    num_samples: int = 0,
    seed: int = 0,
    domain: Domain | None = None,
    batch_size: int = 100,
    times: npt.ArrayLike | None = None,
    inputs: npt.ArrayLike | None = None,
) -> np.ndarray:
    """Predicts the frames that follow the last frame of every system.

    That is the last frame that saw any of its nodes; where it missed some, they are
    taken to be where they were filled in, and nodes that have left say nothing.

    Args:
      model: The model.
      params: Its arrays.
      dataset: Observed systems, raw units.
      structures: Their structures.
      num_steps: Frames to predict.
      num_substeps: Steps per frame in which laws are integrated; 0 doubles them, from 8
        to at most 128, until that changes the prediction by less than 1e-4 in
        normalised units at 99 of 100 values.
      num_samples: Futures that are drawn, each with errors such as the laws made on the
        observed frames, see `ensembles`, and as much further from their mean as
        `backtests` ask for; 0 for the one without errors.
      seed: Seed of these draws.
      domain: Where bodies can be; None for everywhere.
      batch_size: Systems at once.
      times: `[tasks, num_steps]` or `[num_steps]` of the predicted frames, in the unit
        of the velocities, where there are laws; None for one frame interval each.
      inputs: Raw values of the input columns at the predicted frames, that broadcast to
        `[tasks, num_steps, nodes, columns]`; None where there are no such columns.

    Returns:
      `[tasks, num_steps, nodes, F]` in normalised units, zeros at padded nodes; with
      `num_samples`, `[num_samples, tasks, num_steps, nodes, F]`.

    Raises:
      DataError: If times do not increase from the last frame on, inputs are missing or
        of another shape, there are too few frames to draw errors from, or as
        `check_domain` says.
      ValueError: If times or samples are asked for where there are no laws.
    """
    for name, value in (("times", times), ("num_samples", num_samples or None)):
        if value is not None and not model.bank.has_laws:
            found = "some" if name == "times" else value
            raise ValueError(
                f"{name}: found {found} with path {model.bank.config.path!r}, "
                "expected laws"
            )
    domain = domain or Domain()
    bank = model.bank
    step, dataset = dataset.frame_interval, model.read(dataset)
    if times is None and step != dataset.frame_interval:
        ends = dataset.times[np.arange(dataset.num_tasks), last_frames(dataset)]
        times = ends[:, None] + step * np.arange(1, num_steps + 1)
    check_domain(bank, domain, dataset)
    if num_substeps and not bank.has_laws:
        raise ValueError(
            f"num_substeps: found {num_substeps} with path {bank.config.path!r}, "
            "expected 0: nothing but laws is integrated"
        )
    if times is not None:
        check_numeric("times", np.asarray(times))
        times = np.asarray(times, np.float64)
        if times.shape not in ((num_steps,), (dataset.num_tasks, num_steps)):
            raise DataError(
                f"times: found shape {times.shape}, expected "
                f"{(dataset.num_tasks, num_steps)} for [tasks, steps]"
            )
        times = np.broadcast_to(times, (dataset.num_tasks, num_steps))
    begin = start_of(dataset, params, times)._replace(
        inputs=inputs_of(params, dataset, inputs, num_steps)
    )
    if bank.has_effects:
        changes = ChangeModel(model, params, dataset.without_labels())
        begin = begin._replace(effects=changes(structures).effects)
    rollouts = Rollouts(
        model,
        params,
        np.asarray(dataset.num_nodes),
        dataset.max_nodes,
        structures,
        domain,
        batch_size,
    )
    if bank.has_laws and not num_substeps:
        path, num_substeps = settled(lambda count: rollouts(begin, num_steps, count))
    else:
        path = rollouts(begin, num_steps, num_substeps)
    if not num_samples:
        return path
    seen = observed_errors(rollouts, dataset, begin.effects, num_substeps, num_steps)
    drawn = draw_errors(seed, seen, num_steps, num_samples, begin.durations)
    futures = np.stack(
        [
            rollouts(begin._replace(errors=errors), num_steps, num_substeps)
            for errors in drawn
        ]
    )
    factors = widening(rollouts, dataset, num_substeps, num_steps)
    return stretched(rollouts, path, futures, factors)


def predict_following(
    model: RelationalModel,
    params: ModelParams,
    whole: TrajectoryDataset,
    num_observed: int,
    structures: TaskStructures,
    **options: Any,
) -> np.ndarray:
    """Predicts the frames after the first `num_observed`, at the times that they have.

    Args:
      model: The model.
      params: Its arrays.
      whole: Systems with all of their frames, raw units.
      num_observed: Frames that may be looked at.
      structures: Structures of the systems.
      **options: See `predict`.

    Returns:
      `[tasks, frames, nodes, F]` in normalised units.
    """
    observed = whole.frames(0, num_observed)
    num_steps = whole.num_frames - num_observed
    columns = list(whole.features.inputs)
    if columns:
        options["inputs"] = whole.states[:, num_observed:][..., columns]
    if whole.frame_mask is None and whole.is_regular:
        return predict(model, params, observed, structures, num_steps, **options)
    if model.bank.has_laws:
        times = whole.times
        if times is None:
            times = whole.frame_interval * whole.clock
        options["times"] = times[:, num_observed:]
        return predict(model, params, observed, structures, num_steps, **options)
    # Frames since the one that saw any node last are predicted as well.
    missed = num_observed - 1 - last_frames(observed)
    count = num_steps + int(missed.max(initial=0))
    if columns:
        frames = num_observed - missed[:, None] + np.arange(count)
        frames = np.minimum(frames, whole.num_frames - 1)
        rows = np.arange(whole.num_tasks)[:, None]
        options["inputs"] = whole.states[rows, frames][..., columns]
    found = predict(model, params, observed, structures, count, **options)
    rows = missed[:, None] + np.arange(num_steps)
    return found[np.arange(len(found))[:, None], rows]


def following_mask(whole: TrajectoryDataset, num_observed: int) -> np.ndarray:
    """Where predictions of `predict_following` can be scored, `[tasks, frames, nodes]`.

    At what was observed, of nodes that were there when the prediction began, before
    any break.
    """
    observed = whole.frames(0, num_observed)
    tasks = np.arange(whole.num_tasks)
    mask = whole.is_observed[:, num_observed:].copy()
    mask &= observed.is_present[tasks, last_frames(observed)][:, None]
    if whole.breaks is not None:
        mask &= ~np.cumsum(whole.breaks[:, num_observed:], axis=1)[..., None].astype(
            bool
        )
    return mask


def baseline_predictions(
    states: np.ndarray,
    num_steps: int,
    step_matrix: np.ndarray,
    step_offset: np.ndarray,
    durations: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Static and constant-velocity predictions.

    Args:
      states: `[tasks, time, nodes, F]` normalised observed frames.
      num_steps: Frames to predict.
      step_matrix: `[F, F]` and
      step_offset: `[F]` of a constant-velocity step; where they are the identity
        (no velocities known) the last observed change is repeated instead.
      durations: `[tasks, num_steps]` from the last frame to the predicted ones, in
        frame intervals; None for 1, 2, and so on.

    Returns:
      "static" and "constant_velocity", each `[tasks, num_steps, nodes, F]`.
    """
    last = states[:, -1]
    static = np.repeat(last[:, None], num_steps, axis=1)
    identity = np.eye(len(step_matrix))
    if np.array_equal(step_matrix, identity):
        change = last - states[:, -2]
        steps = np.arange(1, num_steps + 1)[None, :, None, None]
        moving = last[:, None] + steps * change[:, None]
    elif durations is not None:
        drift = last @ (step_matrix - identity) + step_offset
        moving = last[:, None] + durations[..., None, None] * drift[:, None]
    else:
        frames = [last]
        for _ in range(num_steps):
            frames.append(frames[-1] @ step_matrix + step_offset)
        moving = np.stack(frames[1:], axis=1)
    return {"static": static, "constant_velocity": moving}


def prediction_errors(
    prediction: np.ndarray,
    truth: np.ndarray,
    node_mask: np.ndarray,
    columns: Sequence[int],
) -> np.ndarray:
    """Mean squared error of every predicted frame; NaN where nothing was observed.

    Args:
      prediction: `[tasks, steps, nodes, F]` normalised.
      truth: Same shape.
      node_mask: `[tasks, nodes]`, or `[tasks, steps, nodes]` true at what was observed.
      columns: Features that count.

    Returns:
      `[steps]`, averaged over systems, real nodes and the given features.
    """
    squared = np.square(prediction - truth)[..., list(columns)].mean(axis=-1)
    if node_mask.ndim == 2:
        node_mask = node_mask[:, None]
    weights = np.broadcast_to(node_mask, squared.shape)
    if node_mask.any(axis=(0, 2)).all():
        return np.average(squared, axis=(0, 2), weights=weights)
    count = weights.sum(axis=(0, 2))
    total = np.sum(squared, axis=(0, 2), where=weights)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def errors_at(errors: np.ndarray, steps: Sequence[int]) -> dict[str, float]:
    """Picks the errors at some steps, counted from 1, as far as they exist."""
    return {
        str(step): float(errors[step - 1])
        for step in steps
        if step <= len(errors) and np.isfinite(errors[step - 1])
    }
