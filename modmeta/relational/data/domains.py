"""Where bodies can be: everywhere, between walls, or in a box that repeats itself.

Positions in a box that repeats are kept unwrapped, so that paths, velocities and
changes are those of the motion; how two bodies lie to each other is told by the nearest
image of the sender, and predictions are wrapped back.

Letters: L tasks, T frames, N nodes.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from modmeta.relational.data.dataset import TrajectoryDataset
from modmeta.relational.data.gaps import nearest_observed, segment_bounds
from modmeta.relational.data.validation import DataError, first_index
from modmeta.runtime import option_types

DOMAINS = ("open", "reflecting", "periodic")
# Positions wrap that step by more than this share of their extent, so often and by
# amounts that agree to this share, and else by less than the last one, all but some.
_JUMP, _MIN_JUMPS, _AGREE, _STEP, _SOME = 0.5, 5, 0.05, 0.25, 0.02
# Share of a box by which a body may be seen outside of its sides, and by which the box
# that positions seem to wrap in may differ from the one that is declared.
_BEYOND, _OTHER_SIZE = 0.05, 0.02


@dataclasses.dataclass(frozen=True)
class Domain:
    """Where bodies can be; declared by the user, never guessed silently.

    Attributes:
      kind: "open", "reflecting": elastic walls on all sides of a box, or "periodic":
        what leaves a box on one side enters it on the other. Axes with infinite corners
        have no sides.
      lower: Coordinates of the lower corner, in the units of the data.
      upper: Those of the upper corner.
    """

    kind: str = "open"
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Checks the kind and the corners."""
        option_types.settle(self)
        if self.kind not in DOMAINS:
            raise ValueError(
                f"domain.kind: found {self.kind!r}, expected one of {DOMAINS}"
            )
        if self.kind == "open":
            return
        if not self.lower or len(self.lower) != len(self.upper):
            raise ValueError(
                f"domain: found corners {self.lower} and {self.upper}, expected one "
                "coordinate per axis in both"
            )
        if not all(a < b for a, b in zip(self.lower, self.upper, strict=True)):
            raise ValueError(
                f"domain: found corners {self.lower} and {self.upper}, expected the "
                "lower one first"
            )


def in_box(dataset: TrajectoryDataset, domain: Domain | None) -> TrajectoryDataset:
    """Declares that positions wrap, and unwraps them.

    From one observed frame to the next, a body takes the shorter way; where velocities
    were recorded, that which is nearest to what they say.

    Args:
      dataset: Positions as they were recorded.
      domain: A periodic box; None and open ones change nothing.

    Raises:
      DataError: If there are no positions, or not as many as axes of the box.
      ValueError: If it is no domain, or has walls, which predictions take, not data.
    """
    option_types.check("domain", domain, Domain | None)
    if domain is None or domain.kind == "open":
        return dataset
    if domain.kind != "periodic":
        raise ValueError(
            f"domain: found {domain.kind!r}, expected 'periodic': walls are declared "
            "where something is predicted"
        )
    features = dataset.features
    if len(features.positions) != len(domain.lower):
        raise DataError(
            f"domain: found {len(domain.lower)} coordinates with positions "
            f"{features.positions} of {features.names}, expected one per position"
        )
    periodic = tuple(
        (column, low, high - low)
        for column, low, high in zip(
            features.positions, domain.lower, domain.upper, strict=True
        )
        if math.isfinite(high - low)
    )
    if periodic == features.periodic:
        return dataset
    if features.periodic:
        raise DataError(
            f"domain: found {domain} with positions that were unwrapped already, in "
            f"the box {features.periodic}, expected the same"
        )
    states = np.array(dataset.states, np.float64)
    _check_inside(dataset, domain)
    notes = _another_box(dataset, domain)
    for column, _, period in periodic:
        velocity = None
        if features.velocities:
            velocity = features.velocities[features.positions.index(column)]
        states[..., column] = _unwrapped(dataset, column, velocity, period)
    names = ", ".join(repr(features.names[column]) for column, _, _ in periodic)
    wrap = f"Positions {names} wrap: bodies act by nearest image."
    return dataclasses.replace(
        dataset,
        states=states,
        features=dataclasses.replace(features, periodic=periodic),
        notes=(*dataset.notes, wrap, *notes),
    )


def _check_inside(dataset: TrajectoryDataset, domain: Domain) -> None:
    """Raises a DataError at the first body that was seen outside of a domain.

    A little is granted: noise, and the last step before a wall.
    """
    features = dataset.features
    for column, low, high in zip(
        features.positions, domain.lower, domain.upper, strict=True
    ):
        values = dataset.states[..., column]
        slack = _BEYOND * (high - low) if math.isfinite(high - low) else 0.0
        outside = (values < low - slack) | (values > high + slack)
        outside &= dataset.is_observed
        if outside.any():
            index = first_index(outside)
            raise DataError(
                f"domain: found sides at {low:g} and {high:g} and a body at "
                f"{values[index]:g} in feature {column} ({features.names[column]!r}), "
                f"index {list(index)}, expected all bodies between the sides"
            )


def _another_box(dataset: TrajectoryDataset, domain: Domain) -> tuple[str, ...]:
    """A note where positions jump as in a box of another size than is declared."""
    seen = apparent_box(dataset)
    if seen is None:
        return ()
    sizes = np.subtract([seen.upper, domain.upper], [seen.lower, domain.lower])
    both = np.isfinite(sizes).all(axis=0)
    if np.allclose(sizes[0, both], sizes[1, both], rtol=_OTHER_SIZE):
        return ()
    found, said = ([float(f"{size:.4g}") for size in row] for row in sizes)
    return (
        f"Positions jump as if the sides of the box were {found} long, and {said} are "
        "declared: look at the corners of the domain.",
    )


def check_walls(domain: Domain, dataset: TrajectoryDataset) -> None:
    """Refuses a domain that bodies which were observed do not fit in.

    Args:
      domain: What is declared where something is predicted.
      dataset: The systems, positions in the units of the domain.

    Raises:
      ValueError: If the domain has another number of axes, or is a periodic box that
        was not declared where the data were read.
      DataError: If a body was seen outside.
    """
    features = dataset.features
    if domain.kind == "periodic" and domain != domain_of(features):
        raise ValueError(
            f"domain: found {domain} with a model of {domain_of(features)}, "
            "expected the same: a periodic box is declared where data are read, in a "
            "shell by --box"
        )
    if domain.kind != "reflecting":
        return
    if len(domain.lower) != len(features.positions):
        raise ValueError(
            f"domain: found {len(domain.lower)} coordinates, expected "
            f"{len(features.positions)}"
        )
    _check_inside(dataset, domain)


def _unwrapped(
    dataset: TrajectoryDataset, column: int, velocity: int | None, period: float
) -> np.ndarray:
    """Positions `[L, T, N]` without jumps at frames that saw a node."""
    seen = dataset.is_observed
    before, _ = nearest_observed(seen, dataset.breaks)
    first, _ = segment_bounds(seen.shape[:2], dataset.breaks)
    frame = np.arange(seen.shape[1])[None, :, None]
    # The frame of the same recording that saw a node before this one.
    last = np.concatenate([np.full_like(before[:, :1], -1), before[:, :-1]], axis=1)
    last = np.where(last >= first[..., None], last, -1)
    is_step = seen & (last >= 0)
    last = np.where(is_step, last, frame)
    task = np.arange(len(seen))[:, None, None]
    node = np.arange(seen.shape[2])[None, None]
    values = dataset.states[..., column].astype(np.float64)
    expected = 0.0
    if velocity is not None and velocity not in dataset.features.derived:
        speed = dataset.states[..., velocity].astype(np.float64)
        clock = dataset.frame_interval * dataset.clock
        length = clock[..., None] - clock[task, last]
        expected = 0.5 * (speed + speed[task, last, node]) * length
    step = values - values[task, last, node]
    turns = np.where(is_step, np.rint((step - expected) / period), 0.0)
    total = np.cumsum(turns, axis=1)
    # Every recording begins in the box.
    start = np.where(first[..., None] > 0, total[task, first[..., None], node], 0.0)
    return values - period * (total - start)


def minimum_image(differences: Any, periods: Any, xp: Any = np) -> Any:
    """Differences `[..., C]` of positions, by the nearest image in a periodic box.

    Args:
      differences: NumPy or JAX.
      periods: `[C]`, 0 for axes that do not wrap; with as many axes as `differences`.
      xp: Module of the arrays.
    """
    turns = xp.round(differences / xp.where(periods > 0.0, periods, 1.0))
    return differences - periods * turns


def wrapped_back(features: Any, states: np.ndarray) -> np.ndarray:
    """States `[..., F]` with positions in their box, where they have one."""
    if not features.periodic:
        return states
    states = np.array(states)
    for column, low, period in features.periodic:
        states[..., column] = low + np.mod(states[..., column] - low, period)
    return states


def domain_of(features: Any) -> Domain | None:
    """The periodic box that was declared, or None."""
    if not features.periodic:
        return None
    box = {column: (low, low + period) for column, low, period in features.periodic}
    sides = [box.get(column, (-np.inf, np.inf)) for column in features.positions]
    lower, upper = zip(*sides, strict=True)
    return Domain("periodic", lower, upper)


def apparent_box(dataset: TrajectoryDataset) -> Domain | None:
    """A box that positions seem to wrap in, or None; look at it first."""
    features = dataset.features
    if not features.positions or features.periodic or not dataset.num_tasks:
        return None
    counted = dataset.counted()
    if not counted.any():
        return None
    sides = []
    for axis, column in enumerate(features.positions):
        values = dataset.states[..., column].astype(np.float64)
        seen = values[dataset.is_observed]
        steps = np.diff(values, axis=1)
        # What the motion makes of a step: by velocities, else by the step before it.
        moved = np.concatenate([np.zeros_like(steps[:, :1]), steps[:, :-1]], axis=1)
        if features.velocities:
            speed = dataset.states[..., features.velocities[axis]].astype(np.float64)
            clock = dataset.frame_interval * np.diff(dataset.clock, axis=1)[..., None]
            moved = 0.5 * (speed[:, 1:] + speed[:, :-1]) * clock
        sides.append(_side(seen, steps[counted], moved[counted]))
    if not any(map(math.isfinite, np.ravel(sides))):
        return None
    lower, upper = zip(*sides, strict=True)
    return Domain("periodic", lower, upper)


def _side(
    seen: np.ndarray, steps: np.ndarray, moved: np.ndarray
) -> tuple[float, float]:
    """Ends of the box along one axis; infinite if positions do not wrap."""
    low, high = float(seen.min()), float(seen.max())
    extent = high - low
    is_jump = np.abs(steps) > _JUMP * extent
    nowhere = (-math.inf, math.inf)
    is_smooth = np.mean(np.abs(steps[~is_jump]) > _STEP * extent) < _SOME
    if is_jump.sum() < _MIN_JUMPS or np.mean(is_jump) > _STEP or not is_smooth:
        return nowhere
    # A step before a jump may have been one.
    usual = np.where(np.abs(moved) > _JUMP * extent, 0.0, moved)
    lengths = np.abs(steps - usual)[is_jump]
    period = max(float(np.median(lengths)), extent)
    if np.mean(np.abs(lengths - period) > _AGREE * period) > _JUMP:
        return nowhere
    middle = 0.5 * (low + high)
    return middle - 0.5 * period, middle + 0.5 * period
