"""Walls that bodies turned back at, as a suggestion for predictions.

A body that would have passed a wall before the next frame is found on this side, its
velocity reversed. From such a turn follows where the wall was; a wall is suggested
where several turns say the same and nothing was seen beyond.
"""

from __future__ import annotations

import numpy as np

from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.domains import Domain, apparent_box

# Turns that have to agree on a wall.
_MIN_TURNS = 5
# Of the speed: how far an elastic turn may change it. Of the extent of the data: how
# far turns may disagree on where the wall is.
_SPEED_CHANGE, _DISAGREEMENT = 0.1, 0.01
# Of all turns beyond the others' positions, those that have to agree.
_AGREEING = 0.5


def suggest_domain(dataset: TrajectoryDataset) -> Domain:
    """Where bodies seem to be confined to, for `predict(domain=)`; look at it first.

    Positions that jump from one side to the other lie in a periodic box, which is
    declared where data are read: `infer_relations(domain=)`. A side without enough
    turns is at infinity; without any, the domain is open. Soft walls, and such as no
    body reached, are not found.

    Args:
      dataset: Systems with positions and velocities, raw units, in one box.

    Raises:
      ValueError: If there are no positions and velocities.
    """
    spec = dataset.features
    if not spec.has_motion:
        raise ValueError(
            f"features: found positions {spec.positions} and velocities "
            f"{spec.velocities}, expected columns of both"
        )
    box = apparent_box(dataset)
    if box is not None:
        return box
    seen = dataset.is_observed
    both = seen[:, 1:] & seen[:, :-1]
    if dataset.breaks is not None:
        both = both & ~dataset.breaks[:, 1:, None]
    steps = np.diff(dataset.clock, axis=1)[..., None] * dataset.frame_interval
    steps = np.broadcast_to(steps, both.shape)[both]
    corners = []
    for position, velocity in zip(spec.positions, spec.velocities, strict=True):
        where = np.asarray(dataset.states[..., position], np.float64)
        speed = np.asarray(dataset.states[..., velocity], np.float64)
        pairs = [x[both] for x in (where[:, :-1], where[:, 1:])]
        pairs += [v[both] for v in (speed[:, :-1], speed[:, 1:])]
        upper = _wall(*pairs, steps, where[seen])
        lower = _wall(*(-values for values in pairs), steps, -where[seen])
        corners.append((-lower, upper))
    lower, upper = np.array(corners).T.tolist()
    if not np.isfinite([lower, upper]).any():
        return Domain()
    return Domain("reflecting", tuple(lower), tuple(upper))


def _wall(before, after, speed_before, speed_after, steps, everywhere) -> float:
    """The upper wall of one axis; infinity where there is none."""
    sizes = np.abs(speed_before)
    is_turn = (speed_before > 0.0) & (speed_after < 0.0)
    is_turn &= np.abs(speed_after + speed_before) <= _SPEED_CHANGE * sizes
    # On the way: constant speed to the wall and back.
    walls = 0.5 * (before + after + speed_before * steps)[is_turn]
    highest = everywhere.max(initial=-np.inf)
    tolerance = _DISAGREEMENT * np.ptp(everywhere) if everywhere.size else 0.0
    near = walls[walls >= highest - tolerance]
    if len(near) < _MIN_TURNS:
        return np.inf
    wall = float(np.median(near))
    is_agreed = np.mean(np.abs(near - wall) <= tolerance) > _AGREEING
    return max(wall, highest) if is_agreed else np.inf
