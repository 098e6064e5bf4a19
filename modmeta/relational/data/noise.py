"""How noisy recordings are, and over how many frames a change stands out of the noise.

The signal of a change grows with the time between two frames, the noise of its two ends
does not.
"""

from __future__ import annotations

import numpy as np

from modmeta.relational.data.dataset import TrajectoryDataset

# Fourth differences remove what is smooth; of white noise they have this variance, in
# units of its own, and this correlation from one to the next.
_COEFFICIENTS = np.array([1.0, -4.0, 6.0, -4.0, 1.0])
_VARIANCE = float(np.sum(_COEFFICIENTS**2))
_CORRELATION = -56.0 / 70.0
# Noise is told from fast motion by that correlation, to this far. Random walks have
# -0.75, and are taken for noise: to look at them over several frames does no harm.
_NEAR = 0.2
# In units of the median: encounters and walls must not be taken for noise.
_OUTLIER = 6.0
# Below this share of the spread of a column, what looks like noise is rounding.
_ROUNDING = 1e-5
# Of the variance of a change, the share that may be noise.
_SHARE = 0.15
_SPANS = (1, 2, 3, 4, 6, 8, 12, 16, 20)
# Windows may cover this share of a recording: more would leave too few.
_LONGEST = 0.4
_TINY = np.finfo(np.float64).tiny


def noise_levels(dataset: TrajectoryDataset) -> np.ndarray:
    """Standard deviation `[features]` of white noise on every recorded column.

    0 where none is told from motion, and where frames are not regular. Derived
    velocities have that of the positions, by the differences that they are.
    """
    features = dataset.features
    levels = np.zeros(features.num_features)
    if dataset.num_frames < 7 or not dataset.is_regular or not dataset.num_tasks:
        return levels
    counted = dataset.counted(4)
    for shift in range(1, 4):  # in between, everything was observed as well
        counted = counted & dataset.counted(shift)[:, : counted.shape[1]]
    states = dataset.states.astype(np.float64)
    size = states.shape[1] - 4
    fourth = sum(c * states[:, i : i + size] for i, c in enumerate(_COEFFICIENTS))
    for column in features.recorded:
        found = np.where(counted, fourth[..., column], 0.0)
        values = np.abs(found[counted])
        if not values.size:
            continue
        limit = _OUTLIER * max(float(np.median(values)), _TINY)
        found = np.clip(found, -limit, limit)
        squares = float(np.sum(found[:, 1:] ** 2 + found[:, :-1] ** 2)) / 2.0
        correlation = float(np.sum(found[:, 1:] * found[:, :-1])) / max(squares, _TINY)
        spread = float(np.std(states[..., column]))
        level = np.sqrt(np.sum(found**2) / counted.sum() / _VARIANCE)
        if correlation < _CORRELATION + _NEAR and level > _ROUNDING * spread:
            levels[column] = level
    if features.has_motion:
        moving = zip(features.positions, features.velocities, strict=True)
        for position, velocity in moving:
            if velocity in features.derived:
                level = levels[position] / np.sqrt(2.0) / dataset.frame_interval
                levels[velocity] = level
    return levels


def choose_span(dataset: TrajectoryDataset) -> int:
    """Fewest frame intervals over which changes stand out of the noise.

    Those of velocities, and of angles beyond their mean turn; 1 where there are none.
    """
    features = dataset.features
    levels = noise_levels(dataset)
    longest = max(int(_LONGEST * (dataset.num_frames - 1)), 1)
    spans = [span for span in _SPANS if span <= longest]
    for span in spans:
        shares = [
            2.0 * levels[column] ** 2 / _change_variance(dataset, column, span)
            for column in features.velocities
        ]
        shares += [
            (levels[sine] ** 2 + levels[cosine] ** 2)
            / _turn_variance(dataset, sine, cosine, span)
            for sine, cosine in features.angles
        ]
        if not shares or max(shares) <= _SHARE:
            return span
    return spans[-1]


def _variance(changes: np.ndarray, counted: np.ndarray) -> float:
    """Mean square of what was observed, outliers cut; never 0."""
    values = np.abs(changes[counted])
    if not values.size:
        return 1.0
    limit = _OUTLIER * max(float(np.median(values)), _TINY)
    return max(float(np.mean(np.minimum(values, limit) ** 2)), _TINY)


def _change_variance(dataset: TrajectoryDataset, column: int, span: int) -> float:
    values = dataset.states[..., column].astype(np.float64)
    return _variance(values[:, span:] - values[:, :-span], dataset.counted(span))


def _turn_variance(
    dataset: TrajectoryDataset, sine: int, cosine: int, span: int
) -> float:
    angles = np.arctan2(dataset.states[..., sine], dataset.states[..., cosine])
    angles = np.unwrap(angles.astype(np.float64), axis=1)
    turns = angles[:, span:] - angles[:, :-span]
    return _variance(turns - turns.mean(axis=1, keepdims=True), dataset.counted(span))
