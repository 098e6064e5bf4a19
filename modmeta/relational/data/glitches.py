"""What recorders do to data that bodies do not do: frames held, and places made up."""

from __future__ import annotations

import numpy as np

from modmeta.relational.data.dataset import TrajectoryDataset

# Share of the frames, while anything moves, that may be those before once more.
_HELD = 0.02
# A step longer than so many times what nine of ten steps are at most is a jump, unless
# the step before or after is like it, up to this share: then a body is only fast.
_JUMP, _LIKE = 50.0, 0.5
# Turns between two frames beyond this part of a whole one, and the share of all turns
# that may be: half a turn and what goes beyond it cannot be told apart.
_NEAR_HALF, _FEW = 0.375, 0.05


def glitches(dataset: TrajectoryDataset) -> list[str]:
    """A note on each kind that there is; `dataset` as it was recorded."""
    return [*_resting(dataset), *_held_frames(dataset), *_jumps(dataset)]


def wide_turns(dataset: TrajectoryDataset) -> list[str]:
    """A note on angles that turn so far between frames that turns may be more."""
    spec = dataset.features
    counted = dataset.counted()
    if not spec.sines or not counted.any():
        return []
    states = dataset.states.astype(np.float64)
    phases = np.arctan2(states[..., list(spec.sines)], states[..., list(spec.cosines)])
    turns = np.abs(np.angle(np.exp(1j * np.diff(phases, axis=1))))[counted]
    share = float(np.mean(turns > 2.0 * np.pi * _NEAR_HALF))
    if share <= _FEW:
        return []
    return [
        f"{share:.0%} of the turns of angles from frame to frame are near half a turn: "
        "what turns by more is taken to turn by less the other way, and relations that "
        "come of it are wrong. If some do, frames have to be closer together."
    ]


def _resting(dataset: TrajectoryDataset) -> list[str]:
    """Systems in which nothing changes, where others do."""
    moving = _changed(dataset).any(axis=(1, 2))
    if moving.all() or not moving.any():
        return []
    return [
        f"{np.sum(~moving)} of {len(moving)} systems never change, first system "
        f"{np.argmin(moving)}: they are at rest or were not recorded, and hardly tell "
        "their relations. Leave them out if they were not recorded."
    ]


def _changed(dataset: TrajectoryDataset) -> np.ndarray:
    """Which nodes are not to the bit as in the frame before, `[L, T - 1, N]`."""
    spec = dataset.features
    columns = [c for c in spec.recorded if c not in spec.inputs]
    states = dataset.states[..., columns]
    return (states[:, 1:] != states[:, :-1]).any(axis=-1) & dataset.counted()


def _held_frames(dataset: TrajectoryDataset) -> list[str]:
    """Frames in which all of a system is to the bit as before, while it moves."""
    counted = dataset.counted()
    changed = _changed(dataset).any(axis=2)
    # Before the first change and after the last one, a system is at rest.
    begun = np.maximum.accumulate(changed, axis=1)
    lasting = np.maximum.accumulate(changed[:, ::-1], axis=1)[:, ::-1]
    moving = begun & lasting & counted.any(axis=2)
    held = moving & ~changed
    if held.sum() <= _HELD * moving.sum():
        return []
    task, frame = (int(i[0]) for i in np.nonzero(held))
    return [
        f"{held.sum() / moving.sum():.0%} of the frames repeat the frame before to the "
        f"bit, first frame {frame + 1} of system {task}, though the system moves on: "
        "if a recorder held what it last saw, leave those frames out and give times=."
    ]


def _jumps(dataset: TrajectoryDataset) -> list[str]:
    """Steps of bodies that are out of all proportion to the others."""
    positions = list(dataset.features.positions)
    counted = dataset.counted()
    if not positions or not counted.any():
        return []
    places = dataset.states[..., positions].astype(np.float64)
    moves = np.diff(places, axis=1)
    steps = np.linalg.norm(moves, axis=-1)
    usual = float(np.quantile(steps[counted], 0.9))
    bends = np.linalg.norm(np.diff(moves, axis=1), axis=-1)
    both = counted[:, 1:] & counted[:, :-1]
    is_like = np.zeros_like(counted)
    is_like[:, 1:] |= both & (bends < _LIKE * steps[:, 1:])
    is_like[:, :-1] |= both & (bends < _LIKE * steps[:, :-1])
    jumps = counted & (steps > _JUMP * usual) & ~is_like
    if usual == 0.0 or not jumps.any():
        return []
    task, frame, node = (int(i[0]) for i in np.nonzero(jumps))
    return [
        f"Positions jump {jumps.sum()} times by more than {_JUMP:g} times what nine of "
        f"ten steps are at most, first by {steps[task, frame, node]:.3g} to frame "
        f"{frame + 1} of entity {node} in system {task}: numbers that stand for "
        "missing values should be NaN, and where a track is cut, breaks= says so."
    ]
