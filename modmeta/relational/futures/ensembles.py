"""Futures drawn with the errors that laws were seen to make on the observed frames.

A residual bootstrap (Thombs and Schucany 1990; Hyndman and Athanasopoulos 2021,
section 5.5): the laws predict observed frames from earlier ones, and what they were off
by there is drawn again, by chance, along a prediction. Nothing is assumed of the
distribution of these errors but that those to come are like those that were: close
encounters, which laws miss by far, stay rare and far. The mean of such futures is a
better prediction than the one without errors where motion is chaotic, and their spread
says so.

Errors are drawn in runs of frames that follow each other, of all entities of a system
at once (moving blocks, Kuensch 1989): what a law gets wrong alike frame after frame
adds up in a future as it did in the recording.

Where messages span several frames because single ones are noisy, errors are those of
windows of as many frames, so that noise of observation is not taken for an error of the
law at every frame.

Letters: W windows of observed frames, L frames that a message spans, Y changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.futures.rollouts import Rollouts
from modmeta.relational.futures.start_frames import StartFrames
from modmeta.relational.modules.entities import Effects
from modmeta.relational.modules.preprocessing import changed, changes
from modmeta.relational.tasks.states import host_states

# Windows that errors are taken from, in runs that are evenly spaced: more would tell no
# more.
_MAX_WINDOWS = 200
# A run has at most this share of the windows of a recording: runs have to differ.
_LONGEST_RUN = 0.5
# Of a recording with gaps, runs are drawn that have this share of what the fullest has.
_FULL = 0.5


class ObservedErrors(NamedTuple):
    """How far predictions of observed frames from earlier ones are off.

    Attributes:
      values: `[tasks, nodes, W, L, Y]` at 1 to L frames after the first of a window, in
        units of the typical change.
      elapsed: `[tasks, nodes, W, L]` time since then, in frame intervals.
      is_known: `[tasks, nodes, W]` whether both ends of a window were observed.
      runs: `[R, M]` numbers of M windows each of which begins where the one before
        ends.
    """

    values: np.ndarray
    elapsed: np.ndarray
    is_known: np.ndarray
    runs: np.ndarray


def observed_errors(
    rollouts: Rollouts,
    dataset: TrajectoryDataset,
    effects: Effects | None,
    num_substeps: int,
    num_steps: int,
) -> ObservedErrors:
    """Predicts observed frames from earlier ones, over as many as a message spans.

    Args:
      rollouts: Rolls out the systems.
      dataset: Their observed frames, raw units, as the model reads them.
      effects: What nodes have of their own, leaves `[tasks, nodes, ...]`.
      num_substeps: Steps per frame in which laws are integrated.
      num_steps: Frames that runs of windows are to last, as far as recordings allow.

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
    seen = dataset.is_observed.swapaxes(1, 2)
    clock = dataset.clock
    steps = None if frames.times is None else np.diff(frames.times, axis=2)
    runs = _runs(count, span, num_steps)
    starts, runs = np.unique(runs, return_inverse=True)
    runs = runs.reshape(-1, _run_length(count, span, num_steps))
    values, elapsed = [], []
    for first in starts:
        following = slice(first + 1, first + span + 1)
        begin = StartFrames(
            frames.states[:, :, first],
            None if frames.is_present is None else frames.is_present[:, :, first],
            None if steps is None else steps[:, :, first : first + span],
            effects,
            frames.states[:, :, following][..., columns] if columns else None,
        )
        found = rollouts(begin, span, num_substeps).swapaxes(1, 2)
        off = changes(bank.layout, found, frames.states[:, :, following], np) / scale
        for frame in range(span - 2, -1, -1):
            # What was missed on the way is as far off as what was seen after it.
            missed = ~seen[:, :, first + 1 + frame]
            off[missed, frame] = off[missed, frame + 1]
        values.append(off)
        elapsed.append(clock[:, following] - clock[:, first, None])
    shape = (*seen.shape[:2], len(starts), span)
    elapsed = np.broadcast_to(np.stack(elapsed, axis=1)[:, None], shape)
    values = np.stack(values, axis=2)
    return ObservedErrors(values, elapsed, is_known[:, :, starts], runs)


def _run_length(count: int, span: int, num_steps: int) -> int:
    """Windows of a run, of `count` windows that begin at every frame."""
    longest = int(_LONGEST_RUN * (count - 1) / span) + 1
    return min(-(-num_steps // span), longest)


def _runs(count: int, span: int, num_steps: int) -> np.ndarray:
    """First frames `[R, M]` of windows that follow each other, R runs of M."""
    length = _run_length(count, span, num_steps)
    last = count - 1 - (length - 1) * span
    num_runs = last + 1
    if count > _MAX_WINDOWS:
        num_runs = min(num_runs, max(_MAX_WINDOWS // length, 1))
    begins = np.unique(np.linspace(0, last, num_runs).astype(int))
    return begins[:, None] + span * np.arange(length)


def draw_errors(
    seed: int,
    observed: ObservedErrors,
    num_steps: int,
    num_samples: int,
    durations: jax.Array | None = None,
) -> Iterator[np.ndarray]:
    """Draws the errors of futures from those that were observed.

    All nodes of a system get those of one run of windows, then of another. Of a window
    that did not see a node, it gets those of another of its own; a node without any
    gets those of others. They grow with the time that passes where more passes than in
    the window. Futures come in pairs of opposite errors, so that their mean is off by
    what is not linear in the errors alone.

    Args:
      seed: Seed of the draws.
      observed: What to draw from.
      num_steps: Frames to predict.
      num_samples: Futures.
      durations: `[tasks, nodes, num_steps]` of the steps, in frame intervals; None for
        one each.

    Yields:
      `[tasks, nodes, num_steps, Y]`, once per future.
    """
    rng = np.random.default_rng(seed)
    num_tasks, num_nodes, _, span, num_targets = observed.values.shape
    num_windows = -(-num_steps // span)
    shape = (num_tasks, num_nodes, num_windows)
    if durations is None:
        durations = np.ones((num_tasks, num_nodes, num_steps))
    spare = num_windows * span - num_steps
    passing = np.pad(np.asarray(durations), ((0, 0), (0, 0), (0, spare)), mode="edge")
    passing = np.cumsum(passing.reshape(*shape, span), axis=-1)
    known_first = np.argsort(~observed.is_known, axis=2, kind="stable")
    count = observed.is_known.sum(axis=2)[..., None]
    has_own = (count > 0)[..., None]
    everyone = np.argwhere(observed.is_known)
    fullness = observed.is_known[:, :, observed.runs].sum(axis=(1, 3))
    is_full = fullness >= _FULL * fullness.max(axis=1, keepdims=True)
    full_first = np.argsort(~is_full, axis=1, kind="stable")
    num_full = is_full.sum(axis=1)[:, None]
    length = observed.runs.shape[1]
    num_runs = -(-num_windows // length)
    own = np.stack(np.indices(shape)[:2], axis=-1)
    for sample in range(num_samples):
        if sample % 2 == 0:
            place = (rng.random((num_tasks, num_runs)) * num_full).astype(int)
            run = np.take_along_axis(full_first, place, axis=1)
            following = observed.runs[run].reshape(num_tasks, 1, -1)
            window = np.broadcast_to(following[:, :, :num_windows], shape)
            is_seen = np.take_along_axis(observed.is_known, window, axis=2)
            place = (rng.random(shape) * count).astype(int)
            another = np.take_along_axis(known_first, place, axis=2)
            window = np.where(is_seen, window, another)[..., None]
            others = everyone[rng.integers(len(everyone), size=shape)]
            mine = np.concatenate([own, window], axis=-1)
            chosen = tuple(np.moveaxis(np.where(has_own, mine, others), -1, 0))
            growth = np.maximum(passing / observed.elapsed[chosen], 1.0)
            drawn = observed.values[chosen] * growth[..., None]
            drawn = drawn.reshape(num_tasks, num_nodes, -1, num_targets)
            drawn = drawn[:, :, :num_steps].astype(np.float32)
        yield drawn if sample % 2 == 0 else -drawn


def stretched(
    rollouts: Rollouts, path: np.ndarray, futures: np.ndarray, factors: np.ndarray
) -> np.ndarray:
    """Futures further from their mean, which stays, within walls if there are any.

    The mean of futures whose errors were larger instead would be a worse prediction
    where motion is chaotic.

    Args:
      rollouts: Rolled them out.
      path: `[tasks, num_steps, nodes, features]` normalised, without errors.
      futures: `[num_samples, tasks, num_steps, nodes, features]` normalised.
      factors: `[num_steps]` of distances, 1 for futures as they are.
    """
    if (factors == 1.0).all():
        return futures
    layout, domain = rollouts.model.bank.layout, rollouts.domain
    found = futures.copy()
    away = changes(layout, path, futures, np)
    middle = away.mean(axis=0)
    away = middle + np.float32(factors)[:, None, None] * (away - middle)
    columns = list(layout.predicted)
    # The path is repeated: what is moved has as many futures.
    moved = changed(layout, np.broadcast_to(path, futures.shape), away)
    found[..., columns] = np.asarray(moved)[..., columns]
    if domain.kind == "reflecting":
        columns = list(layout.spec.positions)
        offset, scale = (
            np.asarray(leaf)[columns]
            for leaf in rollouts.params.preprocessing.normalization
        )
        lower, upper = (
            (np.array(corner) - offset) / scale
            for corner in (domain.lower, domain.upper)
        )
        found[..., columns] = np.clip(found[..., columns], lower, upper)
    return found
