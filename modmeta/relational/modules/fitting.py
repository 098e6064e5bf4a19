"""Constants between raw states and the modules, fitted on training trajectories.

Once, on the host, in NumPy and float64. Letters: F features, Y predicted changes.
"""

from __future__ import annotations

import numpy as np

from modmeta.relational.data import DataError, FeatureSpec, TrajectoryDataset, hints
from modmeta.relational.data.normalization import (
    Normalization,
    fit_normalization,
    normalize,
)
from modmeta.relational.modules.preprocessing import (
    FeatureLayout,
    Preprocessing,
    changes,
)

BASELINES = ("auto", "constant_velocity", "static")
# The unit of distances is the spread of all positions, unless that is so many times the
# spread within systems.
_FAR_APART = 2.0
# Normalised features that change by less than this do not change.
_STANDS_STILL = 1e-6


def fit_preprocessing(
    dataset: TrajectoryDataset,
    *,
    baseline: str = "auto",
    compress: bool = True,
    span: int = 1,
) -> tuple[Preprocessing, FeatureLayout]:
    """Fits normalisation, baseline and target scale on training trajectories.

    Args:
      dataset: Training systems, in raw units.
      baseline: "constant_velocity" (needs positions and velocities; each position
        advances by its velocity times `hints.moving_interval`), "static" (no change,
        as in the paper), or "auto", the first of them that applies.
      compress: See `FeatureLayout`.
      span: Frame intervals between a state and the one that is predicted from it.

    Returns:
      The constants and the static layout.

    Raises:
      DataError: If nothing changes, or no change was observed.
      ValueError: If the baseline is unknown or needs features that are not there.
    """
    baseline = _resolved(baseline, dataset.features)
    normalization = fit_normalization(dataset)
    states = np.asarray(normalize(normalization, dataset.states), np.float64)
    matrix, offset = _baseline_step(baseline, dataset, normalization)
    motion = hints.apparent_motion(dataset)
    layout = FeatureLayout(
        dataset.features,
        _predicted(dataset, states),
        compress,
        dataset.frame_interval,
        0.0 if motion is None else motion.interval,
        tuple((dataset.key_columns or {}).items()),
    )
    counted = dataset.counted(span)
    if not counted.any():
        raise DataError(
            f"states: found no node that was observed at two frames {span} intervals "
            "apart, expected at least one"
        )
    residual = _residuals(dataset, layout, states, (matrix, offset), span)[counted]
    median = np.median(residual, axis=0)
    # More than half the values at zero: fall back on their spread.
    spread = np.sqrt(np.mean(residual**2, axis=0))
    unit = np.where(median > 1e-9, 1.5 * median, np.maximum(spread, 1e-9))
    limit = np.max(residual, axis=0) / unit
    if compress:
        limit = np.log1p(limit)

    inputs = states[:, :-span][counted]
    velocities = inputs[:, list(dataset.features.velocities)]
    constants = Preprocessing(
        normalization=Normalization(
            np.asarray(normalization.offset, np.float32),
            np.asarray(normalization.scale, np.float32),
        ),
        step_matrix=matrix.astype(np.float32),
        step_offset=offset.astype(np.float32),
        target_scale=unit.astype(np.float32),
        target_limit=limit.astype(np.float32),
        position_scale=np.float32(_position_scale(dataset, normalization, inputs)),
        velocity_scale=np.float32(_deviation(velocities)),
    )
    return constants, layout


def spread_within(dataset: TrajectoryDataset) -> float:
    """Root mean square distance of positions along an axis from their system's centre.

    In raw units, over observed frames; 0 without positions.
    """
    positions = dataset.states[..., list(dataset.features.positions)]
    seen = dataset.is_observed[..., None]
    count = np.maximum(seen.sum(axis=2, keepdims=True), 1)
    positions = np.where(seen, positions.astype(np.float64), 0.0)
    away = positions - positions.sum(axis=2, keepdims=True) / count
    if not away.size or not seen.any():
        return 0.0
    return float(np.sqrt(np.mean(np.square(away[np.broadcast_to(seen, away.shape)]))))


def _resolved(baseline: str, spec: FeatureSpec) -> str:
    """The baseline that a name stands for, given the features."""
    if baseline not in BASELINES:
        raise ValueError(f"baseline: found {baseline!r}, expected one of {BASELINES}")
    if baseline == "auto":
        return "constant_velocity" if spec.has_motion else "static"
    if baseline == "constant_velocity" and not spec.has_motion:
        raise ValueError(
            f"baseline: found 'constant_velocity' with positions {spec.positions} and "
            f"velocities {spec.velocities}, expected columns of both"
        )
    return baseline


def _baseline_step(
    baseline: str, dataset: TrajectoryDataset, normalization: Normalization
) -> tuple[np.ndarray, np.ndarray]:
    """`step_matrix` and `step_offset` of a baseline, see `Preprocessing`."""
    spec = dataset.features
    matrix, offset = np.eye(len(spec.names)), np.zeros(len(spec.names))
    if baseline == "constant_velocity":
        interval = hints.moving_interval(dataset)
        for position, velocity in zip(spec.positions, spec.velocities, strict=True):
            per_frame = interval / normalization.scale[position]
            matrix[velocity, position] = per_frame * normalization.scale[velocity]
            offset[position] = per_frame * normalization.offset[velocity]
    for column, source in spec.lagged:
        matrix[:, column] = 0.0
        matrix[source, column] = 1.0
    return matrix, offset


def _predicted(dataset: TrajectoryDataset, states: np.ndarray) -> tuple[int, ...]:
    """Columns that change between observed frames, those aside that are given."""
    spec = dataset.features
    change = np.where(dataset.counted()[..., None], np.diff(states, axis=1), 0.0)
    is_moving = np.abs(change).max(axis=(0, 1, 2)) > _STANDS_STILL
    for pair in spec.angles:
        is_moving[list(pair)] = is_moving[list(pair)].any()
    is_moving[[column for column, _ in spec.lagged]] = False
    is_moving[list(spec.inputs)] = False
    if not is_moving.any():
        raise DataError(
            f"states: found the features {spec.names}, of which none changes between "
            "two observed frames, expected at least one"
        )
    return tuple(int(column) for column in np.flatnonzero(is_moving))


def _residuals(
    dataset: TrajectoryDataset,
    layout: FeatureLayout,
    states: np.ndarray,
    step: tuple[np.ndarray, np.ndarray],
    span: int,
) -> np.ndarray:
    """Sizes of changes beyond the baseline, `[tasks, windows, nodes, Y]`."""
    matrix, offset = step
    before, after = states[:, :-span], states[:, span:]
    drift = before @ (matrix - np.eye(layout.num_features)) + offset
    duration = float(span)
    if not dataset.is_regular:
        duration = dataset.durations(span)[..., None, None]
    residual = changes(layout, before + duration * drift, after, np)
    if span > 1 and layout.turning:
        # Over several frames an angle may turn by more than half a circle.
        num_shifts = len(layout.shifting)
        turns = changes(layout, states[:, :-1], states[:, 1:], np)[..., num_shifts:]
        total = np.pad(np.cumsum(turns, axis=1), ((0, 0), (1, 0), (0, 0), (0, 0)))
        residual[..., num_shifts:] = total[:, span:] - total[:, :-span]
    return np.abs(residual)


def _deviation(values: np.ndarray) -> float:
    """Standard deviation of `[rows, columns]`; 1 where there is none."""
    spread = float(np.std(values)) if values.size else 0.0
    return spread if spread > 0.0 else 1.0


def _position_scale(
    dataset: TrajectoryDataset, normalization: Normalization, inputs: np.ndarray
) -> float:
    """As far as bodies are apart, wherever their systems are or move to.

    Args:
      dataset: The systems.
      normalization: Of their features.
      inputs: `[rows, F]` normalised states.
    """
    spec = dataset.features
    if spec.periodic:
        # Positions fill the axes that wrap.
        sizes = [
            period / np.sqrt(12.0) / normalization.scale[column]
            if period
            else _deviation(inputs[:, [column]])
            for column, period in zip(spec.positions, spec.periods, strict=True)
        ]
        return float(np.sqrt(np.mean(np.square(sizes))))
    everywhere = _deviation(inputs[:, list(spec.positions)])
    within = spread_within(dataset) / normalization.scale[list(spec.positions[:1])]
    if not within.size or not within[0] > 0.0:
        return everywhere
    return min(everywhere, _FAR_APART * float(within[0]))
