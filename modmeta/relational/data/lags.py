"""Series whose past counts: columns of earlier frames, and how many are needed."""

from __future__ import annotations

import dataclasses

import numpy as np

from modmeta.relational.data.dataset import TrajectoryDataset
from modmeta.relational.data.validation import ROLES, DataError

_MAX_LAGS = 4
# Systems that the number of lags is told from.
_MAX_SYSTEMS = 50
# Rows per coefficient of a regression, at least.
_ROWS = 4


def with_lags(dataset: TrajectoryDataset, lags: int) -> TrajectoryDataset:
    """Appends what every recorded column was 1 to `lags` - 1 frames before.

    The first `lags` - 1 frames are given up: they are the past of the next.

    Args:
      dataset: Recorded columns.
      lags: Frames that a change may depend on, the present one included.

    Raises:
      DataError: If too few frames are left, or recordings have breaks or roles whose
        past would have no role.
    """
    if lags < 1:
        raise DataError(
            f"lags: found {lags}, expected the frames that a change depends on, from 1 "
            "on, or 0 for as many as the data bear out"
        )
    if lags == 1:
        return dataset
    features = dataset.features
    given = [role for role in ROLES if getattr(features, role)]
    if given or dataset.breaks is not None:
        raise DataError(
            f"lags: found {lags} with {given or 'breaks'}, expected 1: laws of motion "
            "need the present alone, and lags one recording per task"
        )
    if dataset.num_frames < lags + 2:
        raise DataError(
            f"lags: found {lags} with {dataset.num_frames} frames, expected at most "
            f"{dataset.num_frames - 2}"
        )
    names, lagged = list(features.names), list(features.lagged)
    size = dataset.num_frames - lags + 1
    columns = [dataset.states[:, lags - 1 :]]
    sources = [c for c in range(features.num_features) if c not in features.derived]
    for back in range(1, lags):
        start = lags - 1 - back
        columns.append(dataset.states[:, start : start + size][..., sources])
        before = len(names)
        for column in range(len(sources)):
            newer = sources[column] if back == 1 else before - len(sources) + column
            lagged.append((before + column, newer))
            names.append(f"{features.names[sources[column]]}, {back} before")
    count = len(names) - features.num_features
    spec = dataclasses.replace(
        features,
        names=tuple(names),
        derived=features.derived
        + tuple(range(features.num_features, features.num_features + count)),
        lagged=tuple(lagged),
    )

    def later(values):
        return None if values is None else values[:, lags - 1 :]

    return dataclasses.replace(
        dataset,
        states=np.concatenate(columns, axis=-1),
        features=spec,
        frame_mask=later(dataset.frame_mask),
        times=later(dataset.times),
        notes=(
            *dataset.notes,
            f"Changes may depend on {lags} frames: the first {lags - 1} serve as past "
            "alone.",
        ),
    )


def choose_lags(dataset: TrajectoryDataset) -> int:
    """Order of the linear autoregression that the data bear out best.

    By Akaike's information criterion, summed over vector autoregressions, one per
    system, of all of its nodes on the past of all of them. 1 where features have roles,
    entities are missing at times, or systems are too large for their length.
    """
    features = dataset.features
    has_roles = any(getattr(features, role) for role in ROLES)
    is_whole = dataset.frame_mask is None and dataset.breaks is None
    if has_roles or features.derived or not (is_whole and dataset.is_regular):
        return 1
    scores = np.zeros(_MAX_LAGS)
    for states, size in zip(
        dataset.states[:_MAX_SYSTEMS], dataset.num_nodes[:_MAX_SYSTEMS], strict=True
    ):
        series = states[:, :size].reshape(dataset.num_frames, -1).astype(np.float64)
        series = series[:, series.std(axis=0) > 0.0]
        rows = dataset.num_frames - _MAX_LAGS
        if rows < _ROWS * (_MAX_LAGS * series.shape[1] + 1):
            return 1
        scores += _criteria(series)
    return 1 + int(np.argmin(scores))


def _criteria(series: np.ndarray) -> np.ndarray:
    """Information criterion of the orders 1 to the largest, of series `[T, C]`."""
    rows = len(series) - _MAX_LAGS
    scores = []
    for order in range(1, _MAX_LAGS + 1):
        stops = [len(series) - back for back in range(1, order + 1)]
        past = [series[stop - rows : stop] for stop in stops]
        design = np.concatenate([*past, np.ones((rows, 1))], axis=1)
        target = series[_MAX_LAGS:]
        solution, *_ = np.linalg.lstsq(design, target, rcond=None)
        squares = np.mean((target - design @ solution) ** 2, axis=0)
        fit = rows * np.sum(np.log(np.maximum(squares, 1e-30)))
        scores.append(fit + 2.0 * design.shape[1] * series.shape[1])
    return np.array(scores)
