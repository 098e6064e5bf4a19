"""Futures drawn with the errors that laws were seen to make on the observed frames.

A residual bootstrap (Thombs and Schucany 1990; Hyndman and Athanasopoulos 2021,
section 5.5): the laws predict observed frames from earlier ones, and what they were off
by there is drawn again, by chance, along a prediction. Nothing is assumed of the
distribution of these errors but that those to come are like those that were: close
encounters, which laws miss by far, stay rare and far. The mean of such futures is a
better prediction than the one without errors where motion is chaotic, and their spread
says so.

Letters: W windows of observed frames, Y predicted changes.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.evaluation.rollouts import Rollouts
from modmeta.relational.evaluation.start_frames import StartFrames
from modmeta.relational.modules.entities import Effects
from modmeta.relational.modules.preprocessing import FeatureLayout
from modmeta.relational.tasks.states import host_states

# Windows that errors are taken from, evenly spaced: more would tell no more.
_MAX_WINDOWS = 100


def observed_errors(
    rollouts: Rollouts,
    dataset: TrajectoryDataset,
    effects: Effects | None,
    num_substeps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """How far predictions of observed frames from earlier ones are off.

    Over as many frames as the messages of the model span, so that noise of single
    frames is not taken for an error of every frame.

    Args:
      rollouts: Rolls out the systems.
      dataset: Their observed frames, raw units, as the model reads them.
      effects: What nodes have of their own, leaves `[tasks, nodes, ...]`.
      num_substeps: Steps per frame in which laws are integrated.

    Returns:
      Errors `[tasks, nodes, W, Y]` per frame interval, in units of the typical change,
      and whether both ends of a window were observed `[tasks, nodes, W]`.

    Raises:
      DataError: If no window was observed.
    """
    bank, preprocessing = rollouts.model.bank, rollouts.params.preprocessing
    span = bank.laws.span
    count = dataset.num_frames - span
    is_known = dataset.counted(span).swapaxes(1, 2) if count > 0 else np.zeros(0, bool)
    if not is_known.any():
        raise DataError(
            f"num_samples: found no entity that was observed {span} frames apart, "
            "expected some: errors of predictions are drawn from those of observed "
            "frames"
        )
    frames = host_states(dataset, preprocessing.normalization)
    columns = list(dataset.features.inputs)
    scale = np.asarray(preprocessing.target_scale)
    durations = dataset.durations(span)
    starts = np.unique(np.linspace(0, count - 1, min(count, _MAX_WINDOWS)).astype(int))
    errors = []
    for first in starts:
        following = slice(first + 1, first + span + 1)
        begin = StartFrames(
            frames.states[:, :, first],
            None if frames.is_present is None else frames.is_present[:, :, first],
            None
            if frames.times is None
            else np.diff(frames.times, axis=2)[:, :, first : first + span],
            effects,
            frames.states[:, :, following][..., columns] if columns else None,
        )
        found = rollouts(begin, span, num_substeps)[:, -1]
        off = _difference(bank.layout, frames.states[:, :, first + span], found)
        errors.append(off / scale / durations[:, first, None, None])
    return np.stack(errors, axis=2), is_known[:, :, starts]


def _difference(
    layout: FeatureLayout, states: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """What changes others into states `[..., F]`, as `Integrator.move` takes it."""
    columns = list(layout.shifting)
    parts = [(states - others)[..., columns]]
    for sine, cosine in layout.turning:
        across = states[..., sine] * others[..., cosine]
        across = across - states[..., cosine] * others[..., sine]
        along = states[..., cosine] * others[..., cosine]
        along = along + states[..., sine] * others[..., sine]
        parts.append(np.arctan2(across, along)[..., None])
    return np.concatenate(parts, axis=-1)


def draw_errors(
    seed: int,
    errors: np.ndarray,
    is_known: np.ndarray,
    span: int,
    num_steps: int,
    num_samples: int,
    durations: jax.Array | None = None,
) -> Iterator[np.ndarray]:
    """Draws the errors of futures from those that were observed.

    A node gets errors of its own, the same for `span` frames; one without any gets
    those of others. Futures come in pairs of opposite errors, so that their mean is off
    by what is not linear in the errors alone.

    Args:
      seed: Seed of the draws.
      errors: `[tasks, nodes, W, Y]` per frame interval, and
      is_known: `[tasks, nodes, W]`, see `observed_errors`.
      span: Frames that a draw holds for.
      num_steps: Frames to predict.
      num_samples: Futures.
      durations: `[tasks, nodes, num_steps]` of the steps, in frame intervals; None for
        one each.

    Yields:
      `[tasks, nodes, num_steps, Y]`, once per future.
    """
    rng = np.random.default_rng(seed)
    num_tasks, num_nodes = errors.shape[:2]
    shape = (num_tasks, num_nodes, -(-num_steps // span))
    known_first = np.argsort(~is_known, axis=2, kind="stable")
    count = is_known.sum(axis=2)[..., None]
    of_anyone = errors[is_known]
    for sample in range(num_samples):
        if sample % 2 == 0:
            chance = rng.random(shape)
            place = np.minimum((chance * count).astype(int), np.maximum(count - 1, 0))
            window = np.take_along_axis(known_first, place, axis=2)
            own = np.take_along_axis(errors, window[..., None], axis=2)
            others = of_anyone[rng.integers(len(of_anyone), size=shape)]
            drawn = np.where(count[..., None] > 0, own, others)
            drawn = np.repeat(drawn, span, axis=2)[:, :, :num_steps]
            if durations is not None:
                drawn = drawn * np.asarray(durations)[..., None]
            drawn = drawn.astype(np.float32)
        yield drawn if sample % 2 == 0 else -drawn
