"""Systems that do not belong together as they are: other units, intervals, copies."""

from __future__ import annotations

import hashlib

import numpy as np

from modmeta.relational.data.dataset import TrajectoryDataset
from modmeta.relational.data.hints import motion_by_velocities
from modmeta.relational.data.validation import DataError

# Systems that are looked at.
_MAX_TASKS = 200
# Between the sizes of two groups of systems, no other one: a factor that hardly comes
# about by chance, and laws learned of one group say nothing of the other.
_APART = 10.0
# Share of the systems that the smaller group has at least, to cast doubt on a graph.
_MIN_SHARE = 0.05
# Velocities explain how the positions of a system move to this share, and intervals by
# them differ by this factor, in this share of the systems.
_EXPLAINED, _OTHER_INTERVAL, _MANY = 0.95, 1.5, 0.1
_ENCOUNTERS = 0.1


def check_intervals(dataset: TrajectoryDataset) -> None:
    """Refuses systems whose positions move at evidently different intervals.

    One law per relation cannot hold where velocities of some systems are in another
    unit, or their frames further apart than is said.

    Raises:
      DataError: If so.
    """
    if not dataset.features.has_motion or dataset.num_tasks < 2:
        return
    intervals = np.full(min(dataset.num_tasks, _MAX_TASKS), np.nan)
    for task in range(len(intervals)):
        interval, explained = motion_by_velocities(dataset.take([task]), _ENCOUNTERS)
        if explained > _EXPLAINED and interval > 0.0:
            intervals[task] = interval
    if np.isnan(intervals).all():
        return
    usual = float(np.nanmedian(intervals))
    # Of an even number of systems, the median may lie between two groups.
    usual = float(intervals[np.nanargmin(np.abs(intervals - usual))])
    is_other = np.abs(np.log(intervals / usual)) > np.log(_OTHER_INTERVAL)
    if is_other.sum() < max(2.0, _MANY * len(intervals)):
        return
    one, other = int(np.nanargmin(np.abs(intervals - usual))), int(np.argmax(is_other))
    raise DataError(
        f"frame_interval: found positions that move by {usual:.3g} times their "
        f"velocities per frame in system {one}, and by {intervals[other]:.3g} times in "
        f"system {other} and {is_other.sum() - 1} more, expected one interval and one "
        "unit of velocities: give times=, one vector per system, or bring velocities "
        "to one unit"
    )


def notes(dataset: TrajectoryDataset) -> list[str]:
    """A note on each kind of mixture that there is; `dataset` as it was recorded."""
    return [*_copies(dataset), *_sizes(dataset)]


def are_apart(dataset: TrajectoryDataset) -> bool:
    """Whether systems fall into two groups of sizes, each of a fair share of them.

    A law is learned at the sizes that occur. Nothing ties what a relation is called in
    one group to what it is called in the other.
    """
    found = _groups(dataset)
    if found is None:
        return False
    share = found[0].mean()
    return bool(min(share, 1.0 - share) >= _MIN_SHARE)


def _copies(dataset: TrajectoryDataset) -> list[str]:
    first: dict[bytes, int] = {}
    copies = []
    for task, states in enumerate(dataset.states):
        digest = hashlib.blake2b(np.ascontiguousarray(states)).digest()
        same = first.setdefault(digest, task)
        if same != task and dataset.node_mask[task].any() and np.ptp(states):
            copies.append((task, same))
    if not copies:
        return []
    (task, same), count = copies[0], len(copies)
    return [
        f"{count} of {dataset.num_tasks} systems are copies of others to the bit, "
        f"first system {task} of system {same}: they tell nothing new, and the verdict "
        "counts them as if they did. Leave them out."
    ]


def _sizes(dataset: TrajectoryDataset) -> list[str]:
    found = _groups(dataset)
    if found is None:
        return []
    is_small, ratio = found
    minority = is_small if 2 * is_small.sum() <= len(is_small) else ~is_small
    kind = "smaller" if minority is is_small else "larger"
    return [
        f"{minority.sum()} of {len(minority)} systems are {ratio:.3g} times {kind} "
        f"than all others and more, first system {np.argmax(minority)}: if they are in "
        "another unit, bring all to one; if not, infer them by themselves, as laws "
        "learned at one size say nothing of the other."
    ]


def _groups(dataset: TrajectoryDataset) -> tuple[np.ndarray, float] | None:
    """Which systems `[tasks]` are of the smaller size, and by what factor at least."""
    spec = dataset.features
    some = dataset.take(slice(0, _MAX_TASKS))
    if some.num_tasks < 2:
        return None
    columns = [list(spec.positions)]
    if not spec.positions:
        others = {*spec.sines, *spec.cosines, *spec.inputs}
        columns = [[c] for c in spec.recorded if c not in others]
    counted = some.counted()[..., None]
    best = None
    for group in columns:
        changes = np.diff(some.states[..., group].astype(np.float64), axis=1)
        if spec.positions:
            changes = _places(some, group)
        squares = np.sum(np.square(changes) * counted, axis=(1, 2, 3))
        count = np.maximum(counted.sum(axis=(1, 2, 3)), 1)
        size = np.sqrt(squares / count)
        is_moving = size > 0.0
        if is_moving.sum() < 2:
            continue
        order = np.sort(np.log(size[is_moving]))
        gaps = np.diff(order)
        ratio = float(np.exp(gaps.max()))
        if ratio > _APART and (best is None or ratio > best[1]):
            limit = order[np.argmax(gaps)]
            best = is_moving & (size <= np.exp(limit) * (1.0 + 1e-9)), ratio
    return best


def _places(dataset: TrajectoryDataset, columns: list[int]) -> np.ndarray:
    """Positions relative to the mean of those seen, of frames that begin a change."""
    places = dataset.states[:, :-1, :, columns].astype(np.float64)
    counted = dataset.counted()[..., None]
    total = np.sum(places * counted, axis=2, keepdims=True)
    mean = total / np.maximum(counted.sum(axis=2, keepdims=True), 1)
    return places - mean
