"""How much further from their mean futures have to be than they are drawn.

What laws are off by on frames that were observed is less than what they will be off by:
what entities have of their own was fitted to the same frames, and laws may be further
off where bodies have not been yet. So futures are drawn from frames of the last third
of a recording on, as if nothing after had been seen, and compared with what came: a
back-test with a rolling origin (Tashman 2000).

Bodies that leave each other go on to where laws were never asked. Then the later a
future begins, the more is asked of it, and that goes on beyond the recording.

Letters: H predicted frames, Y predicted changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.evaluation.changes import ChangeModel
from modmeta.relational.evaluation.parts import recordings_of
from modmeta.relational.futures.ensembles import draw_errors, observed_errors
from modmeta.relational.futures.rollouts import Rollouts
from modmeta.relational.futures.start_frames import StartFrames
from modmeta.relational.modules.preprocessing import changes
from modmeta.relational.tasks.states import host_states

# Systems, and futures of each: more would tell little more.
_MAX_SYSTEMS, _NUM_FUTURES = 100, 32
# Parts of a recording that lie ahead of start frames: what late ones ask for is nearest
# to what will be asked, but they tell of few frames ahead.
_AHEAD = (3, 6, 12)
# A line is trusted so many times as far as could be compared.
_FURTHER = 2
# Share of what came that is to lie within futures.
_SHARE = 0.9
# Of fewer numbers that were compared, there is no such share.
_MIN_COMPARED = 10


def widening(
    rollouts: Rollouts, dataset: TrajectoryDataset, num_substeps: int, num_steps: int
) -> np.ndarray:
    """Factors of distances from the mean for nine tenths of what came to lie within.

    At least 1, a line in the number of frames ahead, as high as starts at the end of
    the recording would ask for if later starts ask for more. It is trusted twice as far
    ahead as could be compared; beyond that, factors are the same as there.

    Args:
      rollouts: Rolls out the systems.
      dataset: Their observed frames, raw units, as the model reads them.
      num_substeps: Steps per frame in which laws are integrated.
      num_steps: Frames H that futures last.

    Returns:
      `[H]`; ones where nothing can be compared.
    """
    some = slice(0, _MAX_SYSTEMS)
    part = dataset.take(some)
    rollouts = dataclasses.replace(
        rollouts,
        num_nodes=rollouts.num_nodes[some],
        structures=jax.tree.map(
            lambda leaf: np.asarray(leaf)[some], rollouts.structures
        ),
    )
    found, ago = [], []
    for start in _starts(part.num_frames):
        ratios = _compared(rollouts, part, int(start), num_substeps, num_steps)
        if ratios is not None:
            found.append(np.moveaxis(ratios, 2, 0).reshape(num_steps, -1))
            ago.append(part.num_frames - 1 - start)
    return _factors(found, ago, num_steps)


def _factors(
    ratios: Sequence[np.ndarray], ago: Sequence[int], num_steps: int
) -> np.ndarray:
    """Factors `[H]` after the last frame, of futures that began some frames before it.

    Args:
      ratios: `[H, ...]` of errors to futures, NaN where unknown, one for every start.
      ago: Frames from every start to the last.
      num_steps: Frames H.
    """
    steps = np.arange(1, num_steps + 1)
    places, asked = [], []
    for values, before in zip(ratios, ago, strict=True):
        for step, row in zip(steps, values, strict=True):
            if np.isfinite(row).sum() >= _MIN_COMPARED:
                places.append((step, -before))
                asked.append(np.nanquantile(row, _SHARE))
    if not asked:
        return np.ones(num_steps)
    places, asked = np.array(places, float), np.array(asked)
    middle, level = places.mean(axis=0), asked.mean()
    away = places - middle
    slope, trend = np.linalg.lstsq(away, asked - level)[0]
    if trend < 0.0:
        # Errors that shrink as more is known of every entity need not go on to.
        trend = 0.0
        slope = np.linalg.lstsq(away[:, :1], asked - level)[0][0]
    ahead = np.minimum(steps, _FURTHER * places[:, 0].max())
    line = level + slope * (ahead - middle[0]) - trend * middle[1]
    return np.maximum(line, 1.0)


def _compared(
    rollouts: Rollouts,
    dataset: TrajectoryDataset,
    start: int,
    num_substeps: int,
    num_steps: int,
) -> np.ndarray | None:
    """Errors after a start over what futures hold, `[tasks, nodes, H, Y]`.

    NaN at what was not observed; None where no errors were seen before the start.
    """
    model, params = rollouts.model, rollouts.params
    effects = None
    if model.bank.has_effects:
        before = np.zeros((dataset.num_tasks, dataset.num_frames), bool)
        before[:, : start + 1] = True
        known = ChangeModel(model, params, dataset.seen(before).without_labels())
        effects = known(rollouts.structures).effects
    try:
        seen = observed_errors(
            rollouts, dataset.frames(0, start + 1), effects, num_substeps, num_steps
        )
    except DataError:
        return None
    frames = host_states(dataset, params.preprocessing.normalization)
    # What is beyond the recording is not compared.
    following = start + np.arange(1, num_steps + 1)
    following = np.minimum(following, dataset.num_frames - 1)
    durations = None
    if frames.times is not None:
        times = frames.times[:, :, [start, *following]]
        durations = np.diff(times, axis=2)
        durations = np.where(durations > 0.0, durations, 1.0).astype(np.float32)
    columns = list(dataset.features.inputs)
    came = frames.states[:, :, following]
    begin = StartFrames(
        frames.states[:, :, start],
        None if frames.is_present is None else frames.is_present[:, :, start],
        durations,
        effects,
        came[..., columns] if columns else None,
    )

    def run(errors):
        found = rollouts(begin._replace(errors=errors), num_steps, num_substeps)
        return found.swapaxes(1, 2)

    path, layout = run(None), model.bank.layout
    drawn = draw_errors(start, seen, num_steps, _NUM_FUTURES, durations)
    away = np.stack([changes(layout, path, run(errors), np) for errors in drawn])
    middle = away.mean(axis=0)
    reach = np.quantile(np.abs(away - middle), _SHARE, axis=0)
    missed = np.abs(changes(layout, path, came, np) - middle)
    is_known = _is_counted(dataset, start, following)[..., None] & (reach > 0.0)
    nothing = np.full_like(missed, np.nan)
    return np.divide(missed, reach, out=nothing, where=is_known)


def _starts(num_frames: int) -> np.ndarray:
    """Frames from which futures are drawn, the last of which has few after it."""
    ahead = np.maximum(np.rint(num_frames / np.array(_AHEAD)), 1)
    return np.unique(num_frames - 1 - ahead).astype(int)


def _is_counted(
    dataset: TrajectoryDataset, start: int, following: np.ndarray
) -> np.ndarray:
    """Frames that carry on from a start, `[tasks, nodes, H]`."""
    number = recordings_of(dataset)
    is_same = number[:, following] == number[:, start, None]
    is_same &= np.diff(following, prepend=start) > 0
    seen = dataset.is_observed
    counted = seen[:, following] & seen[:, start, None] & is_same[..., None]
    return counted.swapaxes(1, 2)
