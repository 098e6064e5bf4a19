"""Columns that follow from recorded ones: velocities, sines and cosines of angles.

They are appended after the recorded columns, whose places stay as they are; `recorded`
takes states back to what the user gave.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from modmeta.relational.data.dataset import TrajectoryDataset
from modmeta.relational.data.domains import wrapped_back
from modmeta.relational.data.gaps import nearest_observed, segment_bounds
from modmeta.relational.data.lags import choose_lags, with_lags
from modmeta.relational.data.validation import ROLES, DataError, FeatureSpec
from modmeta.runtime import option_types

# Of bodies without inertia, displacements are correlated by less than this over any
# span up to this at least, of which a recording holds so many.
_PERSISTENCE, _LEAST_SPAN, _LEAST_WINDOWS = 0.25, 4, 5
ALWAYS = "always"
_NO_INERTIA = (
    "No velocities were derived from positions: where a body went does not tell where "
    'it goes, as of beads in a fluid; derive_velocities="always" derives them.'
)
PERIODS = {"degrees": 360.0, "radians": 2.0 * np.pi}
# A column is taken for an angle if it jumps by more than the first share of a period,
# turns else by less than the second between frames, all but some, and is met in most
# twelfths of the period.
_JUMP, _TURN, _SOME, _SECTORS, _MET = 0.75, 0.25, 0.05, 12, 10


def prepare(
    dataset: TrajectoryDataset,
    *,
    derive_velocities: bool | str = True,
    angles: Sequence[int] = (),
    angle_unit: str | None = None,
    lags: int = 0,
) -> TrajectoryDataset:
    """Gives roles to what can be given one, with a note on all that is done.

    Args:
      dataset: Recorded columns.
      derive_velocities: Whether positions without velocities get them, where bodies
        have inertia, see `has_inertia`; "always" for everywhere.
      angles: Columns that are angles; those that wrap are found without being named.
      angle_unit: "radians" or "degrees"; None tells it from the values.
      lags: Frames that a change may depend on; 0 for as many as the data bear out, see
        `lags.choose_lags`.

    Raises:
      DataError: If an angle has another role, or its unit cannot be told.
      ValueError: If an option is of another type.
    """
    lags = option_types.check("lags", lags, int)
    dataset = with_angles(dataset, angles, angle_unit)
    if derive_velocities != ALWAYS:
        option_types.check("derive_velocities", derive_velocities, bool)
    if derive_velocities == ALWAYS or (derive_velocities and has_inertia(dataset)):
        dataset = with_velocities(dataset)
    elif derive_velocities:
        dataset = dataset.with_notes([_NO_INERTIA])
    return with_lags(dataset, lags or choose_lags(dataset))


def recorded(features: FeatureSpec, states: Any) -> np.ndarray:
    """Recorded columns `[..., recorded]` of states `[..., F]`, angles in their unit."""
    states = wrapped_back(features, np.asarray(states))
    found = states[..., list(features.recorded)]
    cosine_of = dict(zip(features.sines, features.cosines, strict=True))
    for column, low, period in features.wrapped:
        angle = np.arctan2(states[..., column], states[..., cosine_of[column]])
        angle = angle * (period / (2.0 * np.pi))
        found[..., column] = low + np.mod(angle - low, period)
    return found


def has_inertia(dataset: TrajectoryDataset) -> bool:
    """Whether positions without velocities go on as they went, over some time.

    What was observed of bodies with inertia does, over times in which they move by more
    than noise; what diffuses, as beads in a fluid, does not over any. True where frames
    are too few or not regular.
    """
    features = dataset.features
    if not features.positions or features.velocities or not dataset.is_regular:
        return True
    longest = dataset.num_frames // _LEAST_WINDOWS
    if longest < _LEAST_SPAN:  # noise may hide how motion goes on
        return True
    spans = range(1, longest + 1)
    return max(persistence(dataset, span) for span in spans) > _PERSISTENCE


def persistence(dataset: TrajectoryDataset, span: int) -> float:
    """Correlation of displacements over some frames with those just before."""
    positions = dataset.states[..., list(dataset.features.positions)]
    steps = positions[:, span:].astype(np.float64) - positions[:, :-span]
    counted = dataset.counted(span)
    counted = counted[:, span:] & counted[:, :-span] & dataset.counted(2 * span)
    later, earlier = steps[:, span:][counted], steps[:, :-span][counted]
    sizes = np.sqrt(np.sum(np.square(later)) * np.sum(np.square(earlier)))
    return float(np.sum(later * earlier) / sizes) if sizes > 0.0 else 1.0


def with_velocities(dataset: TrajectoryDataset) -> TrajectoryDataset:
    """Appends the velocities of positions that move and have none.

    Differences through the frame before and the one after, exact for paths of second
    degree, also at ends of recordings and beside gaps, where both lie on one side.
    """
    features = dataset.features
    if not features.positions or features.velocities:
        return dataset
    positions = dataset.states[..., list(features.positions)].astype(np.float64)
    seen = dataset.is_observed
    moved = (np.diff(positions, axis=1) != 0.0) & dataset.counted()[..., None]
    if not moved.any():
        return dataset
    slope = _slopes(positions, seen, dataset)
    count = features.num_features
    columns = tuple(range(count, count + len(features.positions)))
    names = tuple(f"velocity of {features.names[c]}" for c in features.positions)
    spec = dataclasses.replace(
        features,
        names=features.names + names,
        velocities=columns,
        derived=features.derived + columns,
    )
    return dataclasses.replace(
        dataset,
        states=np.concatenate([dataset.states, slope.astype(np.float32)], axis=-1),
        features=spec,
        notes=(*dataset.notes, "Velocities were derived from positions."),
    )


def _slopes(values: np.ndarray, seen: np.ndarray, dataset) -> np.ndarray:
    """Slopes in time of values `[L, T, N, C]` at frames that saw a node `[L, T, N]`."""
    num_frames = values.shape[1]
    clock = dataset.frame_interval * dataset.clock
    is_linked = dataset.counted()  # from one frame to the next
    nothing = np.zeros_like(seen[:, :1])
    next_one = np.concatenate([is_linked, nothing], axis=1)
    last_one = np.concatenate([nothing, is_linked], axis=1)
    next_two = next_one & np.roll(next_one, -1, axis=1)
    last_two = last_one & np.roll(last_one, 1, axis=1)
    frame = np.broadcast_to(np.arange(num_frames)[None, :, None], seen.shape)
    # Next to gaps: what was seen last, and what is seen next.
    first, last = segment_bounds(seen.shape[:2], dataset.breaks)
    before, after = nearest_observed(seen, dataset.breaks)
    before, after = np.roll(before, 1, axis=1), np.roll(after, -1, axis=1)
    before = np.where((before < frame) & (before >= first[..., None]), before, -1)
    after = np.where((after > frame) & (after <= last[..., None]), after, -1)
    task = np.arange(len(values))[:, None, None]
    node = np.arange(values.shape[2])[None, None]
    later = np.where(after < 0, -1, after[task, after, node])
    earlier = np.where(before < 0, -1, before[task, before, node])
    choices = [
        (next_one & last_one, frame - 1, frame + 1),
        (next_two, frame + 1, frame + 2),
        (last_two, frame - 1, frame - 2),
        ((before >= 0) & (after >= 0), before, after),
        (later >= 0, after, later),
        (earlier >= 0, before, earlier),
        (after >= 0, after, frame),
        (before >= 0, before, frame),
    ]
    holds = [choice[0] for choice in choices]
    one = np.select(holds, [choice[1] for choice in choices], frame)
    two = np.select(holds, [choice[2] for choice in choices], frame)
    a, b = ((clock[task, at] - clock[..., None])[..., None] for at in (one, two))
    rise_a, rise_b = (values[task, at, node] - values for at in (one, two))
    with np.errstate(divide="ignore", invalid="ignore"):
        curved = (b**2 * rise_a - a**2 * rise_b) / (a * b * (b - a))
        straight = rise_a / a
    slope = np.where(b == 0.0, straight, curved)
    return np.where((a == 0.0) | ~seen[..., None], 0.0, slope)


def with_angles(
    dataset: TrajectoryDataset, angles: Sequence[int] = (), unit: str | None = None
) -> TrajectoryDataset:
    """Replaces angles by their sine, in the same column, and their cosine, appended.

    Arguments as for `prepare`.
    """
    features = dataset.features
    if unit is not None and unit not in PERIODS:
        raise DataError(
            f"angle_unit: found {unit!r}, expected one of {sorted(PERIODS)}"
        )
    taken = {c for role in ROLES for c in getattr(features, role)} | set(
        features.derived
    )
    notes, states = [], dataset.states
    for column in sorted({*map(int, angles), *range(features.num_features)}):
        if column in taken and column not in angles:
            continue
        if column in taken or not 0 <= column < features.num_features:
            raise DataError(
                f"angles: found column {column}, expected a column of "
                f"{features.names} that has no other role"
            )
        values = dataset.states[..., column].astype(np.float64)
        seen = values[dataset.is_observed]
        found = wraps(values, dataset)
        if column in angles:
            kind = unit or found
            if kind is None:
                largest = float(np.abs(seen).max(initial=0.0))
                kind = "degrees" if largest > 4.0 * np.pi else "radians"
            verb = "is"
        elif found is None:
            continue
        else:
            kind, verb = found, "wraps like"
        period = PERIODS[kind]
        low = -0.5 * period if seen.min(initial=0.0) < 0.0 else 0.0
        angle = values * (2.0 * np.pi / period)
        name = features.names[column]
        states = np.concatenate([states, np.cos(angle)[..., None]], axis=-1)
        states[..., column] = np.sin(angle)
        names = list(features.names)
        names[column] = f"sine of {name}"
        features = dataclasses.replace(
            features,
            names=(*names, f"cosine of {name}"),
            sines=(*features.sines, column),
            cosines=(*features.cosines, len(names)),
            wrapped=(*features.wrapped, (column, low, period)),
        )
        notes.append(
            f"Feature {column} ({name!r}) {verb} an angle in {kind}: its sine and "
            "cosine are used, predictions come in its own unit."
        )
    if not notes:
        return dataset
    return dataclasses.replace(
        dataset,
        states=states.astype(np.float32),
        features=features,
        notes=(*dataset.notes, *notes),
    )


def wraps(values: np.ndarray, dataset: TrajectoryDataset) -> str | None:
    """Unit of the angle that a column looks like, or None.

    Args:
      values: `[L, T, N]`, one column.
      dataset: Where it comes from.
    """
    seen = values[dataset.is_observed]
    steps = np.diff(values, axis=1)[dataset.counted()]
    if not len(steps):
        return None
    low, high = seen.min(), seen.max()
    for unit, period in PERIODS.items():
        room = 1e-3 * period
        is_inside = (low >= -room and high <= period + room) or (
            low >= -0.5 * period - room and high <= 0.5 * period + room
        )
        jumps = np.abs(steps) > _JUMP * period
        if not is_inside or jumps.sum() < 2:
            continue
        turns = np.abs(steps - period * np.rint(steps / period))
        is_smooth = np.mean(turns > _TURN * period) < _SOME
        sectors = np.unique(np.floor(seen / period * _SECTORS) % _SECTORS)
        if is_smooth and len(sectors) >= _MET:
            return unit
    return None
