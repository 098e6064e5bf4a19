"""What pairs may add to the changes of an entity, as columns of a linear regression.

Letters: S systems, N receivers, M senders, W windows, C components of a change, R rows
(W times C), P functions of a pair, Q of the receiver alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.domains import minimum_image

# Nearer than this share of the spread of positions, a force grows no more.
_NEAREST = 0.03
# Changes that are so many times the typical one do not count: walls and encounters.
_OUTLIER = 12.0
_TINY = 1e-30


class PairTerms(NamedTuple):
    """Rows of the regressions of some receivers; rows that do not count are zero.

    Attributes:
      changes: `[S, N, R]` rates of change, in units of the typical one.
      own: `[S, N, R, Q]` what the receiver may add alone.
      pairs: `[S, N, M, R, P]` what a sender may add.
      counted: `[S, N, R]`.
      is_pair: `[S, N, M]` whether there are two entities, and not one.
    """

    changes: np.ndarray
    own: np.ndarray
    pairs: np.ndarray
    counted: np.ndarray
    is_pair: np.ndarray


def num_functions(dataset: TrajectoryDataset) -> int:
    """Number P of functions of a pair."""
    features = dataset.features
    if features.positions:
        return 4 + bool(features.velocities)
    return 2 if features.angles else 1


def num_components(dataset: TrajectoryDataset) -> int:
    """Number C of components of a change."""
    features = dataset.features
    return len(features.positions or features.angles or features.recorded)


def length_of(dataset: TrajectoryDataset) -> float:
    """Unit of distance: spread of positions around the centre of their system."""
    where = dataset.states[..., list(dataset.features.positions)].astype(np.float64)
    away = where - where.mean(axis=2, keepdims=True)
    return max(float(np.sqrt(np.mean(np.square(away)))) if away.size else 1.0, _TINY)


def typical_change(dataset: TrajectoryDataset, span: int) -> float:
    """Median size of what entities change by in a window, per component."""
    sizes = np.abs(_changes(dataset, slice(None), span))
    sizes = sizes[dataset.counted(span)]
    return max(float(np.median(sizes)) if sizes.size else 0.0, _TINY)


def pair_terms(
    dataset: TrajectoryDataset,
    tasks: slice,
    receivers: np.ndarray,
    span: int,
    length: float,
    typical: float,
) -> PairTerms:
    """The rows of some receivers of some systems.

    Forces between bodies lie along their displacement, as a function of distance, or
    along their relative velocity; oscillators hear sines and cosines of differences of
    angles, and other entities the columns of others.

    Args:
      dataset: The systems, raw units.
      tasks: Which systems.
      receivers: `[N]` which entities of each.
      span: Frame intervals of a window.
      length: See `length_of`, in the data that laws are fitted to.
      typical: See `typical_change`, likewise.
    """
    # In units of the typical one: squares of small units would be lost.
    changes = _changes(dataset, tasks, span)[:, :, receivers] / typical
    nodes = dataset.node_mask[tasks]
    counted = dataset.counted(span)[tasks][:, :, receivers, None]
    counted = counted & (np.abs(changes) <= _OUTLIER).all(-1, keepdims=True)
    own, pairs = [], []
    for states in _ends_and_middle(dataset, tasks):
        mine, others = _functions(dataset, states, receivers, length)
        own.append(mine)
        pairs.append(others)
    own, pairs = (_means(parts, span) for parts in (own, pairs))
    components = changes.shape[-1]
    fixed = np.broadcast_to(np.eye(components), (*own.shape[:-1], components))
    own = np.concatenate([own, fixed], axis=-1)
    is_pair = nodes[:, receivers, None] & nodes[:, None]
    is_pair = is_pair & (receivers[:, None] != np.arange(nodes.shape[1]))
    # Rows last: `[S, W, N, C]` and `[S, W, N, M, C, P]` before.
    counted = np.broadcast_to(counted, changes.shape)
    own = np.moveaxis(own * counted[..., None], 1, 2)
    pairs = np.moveaxis(pairs * counted[:, :, :, None, :, None], 1, 3)
    changes, counted = (np.moveaxis(v, 1, 2) for v in (changes * counted, counted))
    rows = changes.shape[2] * components
    return PairTerms(
        changes.reshape(*changes.shape[:2], rows),
        own.reshape(*own.shape[:2], rows, own.shape[-1]),
        pairs.reshape(*pairs.shape[:3], rows, pairs.shape[-1])
        * is_pair[..., None, None],
        counted.reshape(*counted.shape[:2], rows),
        is_pair,
    )


def _changes(dataset: TrajectoryDataset, tasks: slice, span: int) -> np.ndarray:
    """Rates of change over windows, `[S, W, N, C]`."""
    features = dataset.features
    states = dataset.states[tasks].astype(np.float64)
    if features.positions:
        moving = states[..., list(features.velocities or features.positions)]
    elif features.angles:
        moving = _angles(dataset, states)
    else:
        moving = states[..., list(features.recorded)]
    length = dataset.frame_interval * dataset.durations(span)[tasks]
    return (moving[:, span:] - moving[:, :-span]) / length[..., None, None]


def _angles(dataset: TrajectoryDataset, states: np.ndarray) -> np.ndarray:
    features = dataset.features
    sines, cosines = list(features.sines), list(features.cosines)
    return np.unwrap(np.arctan2(states[..., sines], states[..., cosines]), axis=1)


def _ends_and_middle(dataset: TrajectoryDataset, tasks: slice) -> list[np.ndarray]:
    """States at both ends of every frame interval and half-way, `[S, T - 1, N, F]`.

    Half-way, bodies are where the cubic through both ends is.
    """
    features = dataset.features
    states = dataset.states[tasks].astype(np.float64)
    if features.angles and not features.positions:
        states = _angles(dataset, states)
    start, end = states[:, :-1], states[:, 1:]
    middle = 0.5 * (start + end)
    if features.has_motion:
        where, speed = list(features.positions), list(features.velocities)
        step = dataset.frame_interval * dataset.durations()[tasks, :, None, None]
        middle[..., where] += step * (start[..., speed] - end[..., speed]) / 8
        gone = (end[..., where] - start[..., where]) / step
        middle[..., speed] = 1.5 * gone - 0.5 * middle[..., speed]
    return [start, middle, end]


def _functions(
    dataset: TrajectoryDataset, states: np.ndarray, receivers: np.ndarray, length: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of receivers `[S, T, N, C, .]` and pairs `[S, T, N, M, C, P]` at an instant."""
    features = dataset.features
    mine = states[:, :, receivers]
    if features.positions:
        where = list(features.positions)
        apart = states[:, :, None][..., where] - mine[:, :, :, None][..., where]
        apart = minimum_image(apart, np.array(features.periods)) / length
        distance = np.sqrt(np.square(apart).sum(-1, keepdims=True) + _NEAREST**2)
        found = [apart / distance**power for power in range(4)]
        alone = [mine[..., where] / length]
        if features.velocities:
            speed = list(features.velocities)
            faster = states[:, :, None][..., speed] - mine[:, :, :, None][..., speed]
            found.append(faster / length)
            alone.append(mine[..., speed] / length)
        return np.stack(alone, axis=-1), np.stack(found, axis=-1)
    if features.angles:
        apart = states[:, :, None] - mine[:, :, :, None]
        alone = np.zeros((*mine.shape, 0))
        return alone, np.stack([np.sin(apart), np.cos(apart)], axis=-1)
    columns = list(features.recorded)
    others = np.broadcast_to(
        states[:, :, None][..., columns],
        (*states.shape[:2], len(receivers), states.shape[2], len(columns)),
    )
    return mine[..., columns][..., None], others[..., None]


def _means(parts: list[np.ndarray], span: int) -> np.ndarray:
    """Means over windows of what Simpson's rule makes of every frame interval."""
    start, middle, end = parts
    means = (start + 4.0 * middle + end) / 6.0
    if span == 1:
        return means
    size = means.shape[1] - span + 1
    return sum(means[:, shift : shift + size] for shift in range(span)) / span
