"""What looks wrong in data that are not: one sentence each, that says what to do.

Nothing here changes a number. A hint is a note; data may well be as they look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from modmeta.relational.data.dataset import TrajectoryDataset
from modmeta.relational.data.derived import persistence
from modmeta.relational.data.domains import apparent_box
from modmeta.relational.data.glitches import glitches

# Tasks and frames that are looked at.
_MAX_TASKS, _MAX_FRAMES = 50, 1000
# Axes are suspicious if values change evenly along nodes and not at all along time.
_EVEN, _UNEVEN, _MIN_NODES = 0.2, 0.6, 8
# Systems that share so much of their changes frame by frame, of so many, share a clock.
SHARED, _MIN_SYSTEMS = 0.1, 6
# Velocities explain positions to this share, and intervals agree to this factor.
_EXPLAINED, _SAME_INTERVAL = 0.9, 1.25
# Of all moves, so many may be made where bodies pass each other closely.
_ENCOUNTERS = 0.1
# Below this share they contradict positions whose steps go on as they went.
_CONTRADICTED, _SMOOTH = 0.5, 0.9


def suspicions(dataset: TrajectoryDataset) -> list[str]:
    """Hints on axes, entities, positions, velocities and the interval."""
    found = []
    along_time = along_nodes = np.nan
    if dataset.max_nodes >= _MIN_NODES:
        along_time, along_nodes = roughness(dataset)
    if along_nodes < _EVEN and along_time > _UNEVEN:
        found.append(
            f"Values change evenly from node to node ({dataset.max_nodes} of them) and "
            f"jump from frame to frame ({dataset.num_frames} of them): if time is axis "
            "2, states.swapaxes(1, 2) is what is expected, [tasks, time, nodes, "
            "features]."
        )
    found += twins(dataset)
    shared = shared_course(dataset)
    if shared > SHARED:
        found.append(
            f"{shared:.0%} of the changes are the same in all systems frame by frame, "
            "as of a season or a stimulus: what moves all entities looks like "
            "relations among them. Subtract the mean over systems, or give it as a "
            "column with inputs=."
        )
    found += glitches(dataset)
    box = apparent_box(dataset)
    if box is not None:
        lower, upper = _round_corners(box.lower, box.upper)
        sides = ",".join(
            f"{low:g}:{high:g}" if np.isfinite(high - low) else "open"
            for low, high in zip(lower, upper, strict=True)
        )
        found.append(
            f"Positions jump as if they wrapped between {lower} and {upper}: if they "
            f'do, give the box, as domain=Domain("periodic", {lower}, {upper}), in a '
            f"shell --box={sides}."
        )
        return found
    interval, explained = motion_by_velocities(dataset)
    if explained > _EXPLAINED and interval < 0.0:
        found.append(
            "Positions move against their velocities, as if time ran backwards: "
            "reverse the frames, or the signs of the velocities."
        )
    elif explained < _CONTRADICTED and persistence(dataset, 1) > _SMOOTH:
        found.append(
            f"Velocities explain {explained:.0%} of how positions move from frame to "
            "frame, though these move evenly: look at the order of both."
        )
    interval = moving_interval(dataset)
    if interval != dataset.frame_interval:
        found.append(
            f"Positions move by {interval:.3g} times their velocities per frame, and "
            f"frame_interval is {dataset.frame_interval:.3g}: velocities are taken to "
            "be in a unit of their own. If they are not, give frame_interval in the "
            "time unit of the velocities."
        )
    return found


def _round_corners(
    lower: Sequence[float], upper: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Corners to a thousandth of the sides, as people would say them."""
    digits = [
        2 - int(np.floor(np.log10(high - low))) if np.isfinite(high - low) else 0
        for low, high in zip(lower, upper, strict=True)
    ]
    low, high = (
        [round(c, d) + 0.0 for c, d in zip(corners, digits, strict=True)]
        for corners in (lower, upper)
    )
    return low, high


def moving_interval(dataset: TrajectoryDataset) -> float:
    """By what velocities are multiplied to give how far positions move per frame.

    The frame interval, unless recorded velocities evidently are in another unit than
    positions per time.
    """
    stated = dataset.frame_interval
    motion = apparent_motion(dataset) if dataset.features.has_motion else None
    if motion is None:
        return stated
    ratio = motion.interval / stated
    return stated if 1.0 / _SAME_INTERVAL < ratio < _SAME_INTERVAL else motion.interval


def roughness(dataset: TrajectoryDataset) -> tuple[float, float]:
    """How much neighbours differ along time and along nodes.

    Returns:
      Mean squared differences of neighbours over twice the variance along the axis:
      near 0 where values change evenly, 1 where neighbours are strangers. NaN where
      entries are missing or nothing varies.
    """
    if (
        dataset.frame_mask is not None
        or dataset.is_padded
        or dataset.breaks is not None
    ):
        return np.nan, np.nan
    states = dataset.states[:_MAX_TASKS, :_MAX_FRAMES].astype(np.float64)
    scale = states.std(axis=(0, 1, 2))
    states = states[..., scale > 0.0] / scale[scale > 0.0]
    found = []
    for axis in (1, 2):
        spread = 2.0 * states.var(axis=axis, ddof=1).mean() if states.size else 0.0
        squares = np.square(np.diff(states, axis=axis))
        found.append(float(squares.mean() / spread) if spread > 0.0 else np.nan)
    return found[0], found[1]


def shared_course(dataset: TrajectoryDataset) -> float:
    """Share of all changes that the mean over all other systems tells.

    Of columns without roles, frame by frame; about 0 where systems go their own ways.
    Columns that only say what an entity is, without any change, are left out. NaN where
    entries are missing, nothing changes, systems are few, or some are copies of others.
    """
    spec = dataset.features
    columns = [c for c in spec.recorded if c not in spec.inputs]
    has_roles = bool(spec.positions or spec.velocities or spec.angles)
    is_whole = dataset.frame_mask is None and not dataset.is_padded
    if has_roles or not is_whole or dataset.num_tasks < _MIN_SYSTEMS:
        return np.nan
    states = dataset.states[:_MAX_TASKS, :_MAX_FRAMES, ..., columns]
    if len(np.unique(states.reshape(len(states), -1), axis=0)) < len(states):
        return np.nan
    changes = np.diff(states.astype(np.float64), axis=1)
    changes = changes[..., np.any(changes != 0.0, axis=(0, 1, 2))]
    if not changes.shape[-1]:
        return np.nan
    changes -= changes.mean(axis=(0, 1, 2))
    others = (changes.sum(axis=0) - changes) / (len(changes) - 1)
    scale = np.maximum(np.square(changes).sum(axis=(0, 1, 2)), 1e-300)
    left = np.square(changes - others).sum(axis=(0, 1, 2))
    return float(np.mean(1.0 - left / scale))


def twins(dataset: TrajectoryDataset) -> list[str]:
    """A note on entities that are the same all the time, if there are any."""
    pairs: dict[tuple[int, int], int] = {}
    some = dataset.take(slice(0, _MAX_TASKS))
    for states, size in zip(some.states, some.num_nodes, strict=True):
        first: dict[bytes, int] = {}
        for node in range(size):
            values = np.ascontiguousarray(states[:, node])
            same = first.setdefault(values.tobytes(), node)
            if same != node and np.ptp(values, axis=0).any():
                pairs[same, node] = pairs.get((same, node), 0) + 1
    if not pairs:
        return []
    (one, other), count = max(pairs.items(), key=lambda item: item[1])
    return [
        f"Entities {one} and {other} are the same in {count} of {some.num_tasks} "
        "systems, all the time: nothing tells which of them acts on others."
    ]


class Motion(NamedTuple):
    """How far things go per frame by columns that say how fast they are.

    Attributes:
      interval: Time between frames at which these columns explain it.
      sentence: What goes by what, as messages say it.
    """

    interval: float
    sentence: str


def apparent_motion(dataset: TrajectoryDataset) -> Motion | None:
    """How positions move by their velocities, or angles turn by a column beside them.

    None without such columns, at irregular times, or where they explain too little.
    """
    if dataset.features.has_motion:
        interval, explained = motion_by_velocities(dataset, _ENCOUNTERS)
        what = "positions that move by {:.3g} times their velocities per frame"
    else:
        interval, explained, name = _turning_by_a_column(dataset)
        what = f"angles that turn by {{:.3g}} times {name!r} per frame"
    if not (explained > _EXPLAINED and interval > 0.0):
        return None
    return Motion(interval, what.format(interval))


def _turning_by_a_column(dataset: TrajectoryDataset) -> tuple[float, float, str]:
    """The interval that fits best, the share that is explained, and the column.

    Of the columns that are neither angles nor given, the one that explains most: in the
    systems of training and in new ones alike, that is the frequency of an oscillator.
    """
    spec, best = dataset.features, (np.nan, np.nan, "")
    if not spec.sines or not dataset.is_regular:
        return best
    some = dataset.take(slice(0, _MAX_TASKS))
    counted = some.counted()
    states = some.states.astype(np.float64)
    phases = np.arctan2(states[..., list(spec.sines)], states[..., list(spec.cosines)])
    turned = np.diff(phases, axis=1)[counted]
    turned = np.angle(np.exp(1j * turned))
    total = np.sum(turned**2)
    others = {*spec.sines, *spec.cosines, *spec.inputs}
    for column in sorted({*spec.recorded} - others):
        rate = states[:, :-1, :, column][counted][:, None]
        squares = turned.shape[-1] * np.sum(rate**2)
        if not squares > 0.0 or not total > 0.0:
            continue
        interval = np.sum(turned * rate) / squares
        explained = 1.0 - np.sum((turned - interval * rate) ** 2) / total
        # What is faster should turn more: a mass of one explains any steady turning.
        apart = rate - rate.mean()
        slope = np.sum(turned * apart) / (turned.shape[-1] * np.sum(apart**2) or np.nan)
        if not abs(slope - interval) < (_SAME_INTERVAL - 1.0) * abs(interval):
            continue
        if not explained <= best[1]:
            best = (float(interval), float(explained), spec.names[column])
    return best


def motion_by_velocities(
    dataset: TrajectoryDataset, encounters: float = 0.0
) -> tuple[float, float]:
    """The interval that fits best, and the share of motion that velocities explain.

    Over two frames by Simpson's rule, which also knows motion that turns within a few.
    Without the share `encounters` of moves that they explain worst, of bodies that pass
    each other closely. NaN where there is nothing to compare.
    """
    spec = dataset.features
    nothing = (np.nan, np.nan)
    if not spec.has_motion or set(spec.velocities) & set(spec.derived):
        return nothing
    if not dataset.is_regular:
        return nothing
    some = dataset.take(slice(0, _MAX_TASKS))
    counted = some.counted()[:, 1:] & some.counted()[:, :-1]
    positions = some.states[..., list(spec.positions)].astype(np.float64)
    velocities = some.states[..., list(spec.velocities)].astype(np.float64)
    moved = (positions[:, 2:] - positions[:, :-2])[counted]
    mean = (velocities[:, 2:] + 4.0 * velocities[:, 1:-1] + velocities[:, :-2]) / 3.0
    mean = mean[counted]
    squares = np.sum(mean**2, axis=-1)
    going = squares > 0.0
    if not going.any():
        return nothing
    typical = np.median(np.sum(moved * mean, axis=-1)[going] / squares[going])
    missed = np.sum((moved - typical * mean) ** 2, axis=-1)
    kept = missed <= np.quantile(missed, 1.0 - encounters)
    moved, mean = moved[kept], mean[kept]
    squares, total = np.sum(mean**2), np.sum(moved**2)
    if not squares > 0.0 or not total > 0.0:
        return nothing
    interval = np.sum(moved * mean) / squares
    explained = 1.0 - np.sum((moved - interval * mean) ** 2) / total
    return float(interval), float(explained)
