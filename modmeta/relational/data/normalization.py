"""Scaling of states to [-1, 1] with constants taken from the training data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from modmeta.relational.data import validation
from modmeta.relational.data.dataset import TrajectoryDataset

# Axes of coordinates share their limits unless that would make these so many times as
# wide.
_FAR_APART = 2.0


class Normalization(NamedTuple):
    """An affine map per feature column: normalised = (state - offset) / scale.

    Attributes:
      offset: `[features]`, float32, in the units of the states.
      scale: `[features]`, float32, positive, in the units of the states.
    """

    offset: Any
    scale: Any

    def to_dict(self) -> dict[str, list[float]]:
        """Returns plain lists that JSON and `np.savez` can hold."""
        return {
            "offset": np.asarray(self.offset, np.float32).tolist(),
            "scale": np.asarray(self.scale, np.float32).tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[float]]) -> Normalization:
        """Rebuilds what `to_dict` gave.

        Raises:
          DataError: If an entry is missing, or the two are not finite vectors of one
            length with positive scales.
        """
        arrays = {}
        for name in cls._fields:
            if name not in values:
                raise validation.DataError(
                    f"normalization: found the entries {sorted(values)}, expected "
                    f"{list(cls._fields)}"
                )
            arrays[name] = np.asarray(values[name], np.float32)
        offset, scale = arrays["offset"], arrays["scale"]
        if offset.ndim != 1 or offset.shape != scale.shape:
            raise validation.DataError(
                f"normalization: found offset of shape {offset.shape} and scale of "
                f"shape {scale.shape}, expected two vectors of one length"
            )
        validation.check_finite(offset, "normalization offset")
        validation.check_finite(scale, "normalization scale")
        if not (scale > 0).all():
            (column,) = validation.first_index(~(scale > 0))
            raise validation.DataError(
                f"normalization scale: found {scale[column]} at index [{column}], "
                "expected positive numbers"
            )
        return cls(offset=offset, scale=scale)


def fit_normalization(dataset: TrajectoryDataset) -> Normalization:
    """Finds the map that takes training data to [-1, 1].

    All position columns share one minimum and maximum (over both axes, all nodes,
    all frames), all velocity columns share another pair (a length alone, where axes are
    further apart than they are long), sines and cosines stay as
    they are, and every other column has its own; positions in a periodic box count as
    if they filled it. Padded nodes and what was not observed
    are left out. What has one value everywhere becomes zero, in its own unit. This is
    the scaling under which prediction errors are reported for the springs and charged
    data of Kipf et al., "Neural Relational Inference for Interacting Systems", ICML
    2018; use the constants of the training data for validation and test data too.

    Args:
      dataset: The training data, with at least one task.

    Returns:
      The map, as NumPy arrays `[features]`.

    Raises:
      DataError: If the data set holds no task.
    """
    if not dataset.num_tasks:
        raise validation.DataError("states: found no task, expected at least one")
    # The infinite initial value stands for what was not observed.
    reduce_axes = {"axis": (0, 1, 2), "where": dataset.is_observed[..., None]}
    low = np.min(dataset.states, initial=np.inf, **reduce_axes).astype(np.float64)
    high = np.max(dataset.states, initial=-np.inf, **reduce_axes).astype(np.float64)
    for column, lowest, period in dataset.features.periodic:
        low[column], high[column] = lowest, lowest + period
    for group in (dataset.features.positions, dataset.features.velocities):
        if group:
            columns = list(group)
            extent = (high - low)[columns].max()
            if high[columns].max() - low[columns].min() <= _FAR_APART * extent:
                low[columns] = low[columns].min()
                high[columns] = high[columns].max()
            else:
                middle = (high + low)[columns] / 2
                low[columns], high[columns] = middle - extent / 2, middle + extent / 2
    circle = [*dataset.features.sines, *dataset.features.cosines]
    low[circle], high[circle] = -1.0, 1.0
    for column, source in dataset.features.lagged:
        low[column], high[column] = low[source], high[source]
    scale = ((high - low) / 2).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1.0))
    return Normalization(offset=((high + low) / 2).astype(np.float32), scale=scale)


def normalize(normalization: Normalization, states: Any) -> Any:
    """Maps states to normalised units.

    Args:
      normalization: The map.
      states: `[..., features]`, NumPy or JAX; the result is of the same kind.

    Returns:
      `[..., features]`. Training data lie in [-1, 1] up to rounding, others may not.
      Zero padding does not stay zero: see `normalize_dataset`.
    """
    offset, scale = _aligned(normalization, states)
    return (states - offset) / scale


def denormalize(normalization: Normalization, states: Any) -> Any:
    """Inverts `normalize` up to rounding; `[..., features]` to `[..., features]`."""
    offset, scale = _aligned(normalization, states)
    return states * scale + offset


def normalize_dataset(
    normalization: Normalization, dataset: TrajectoryDataset
) -> TrajectoryDataset:
    """Returns the data set in normalised units, with padded nodes zero again."""
    states = normalize(normalization, dataset.states)
    states = np.where(dataset.node_mask[:, None, :, None], states, 0)
    gapless = dataclasses.replace(dataset, states=states, frame_mask=None)
    # What was filled in raw units stays: velocities have a unit of their own now.
    object.__setattr__(gapless, "frame_mask", dataset.frame_mask)
    return gapless


def _aligned(normalization: Normalization, states: Any) -> tuple[Any, Any]:
    # Explicit axes, so that the arithmetic passes strict rank promotion.
    shape = (1,) * (np.ndim(states) - 1) + (-1,)
    return normalization.offset.reshape(shape), normalization.scale.reshape(shape)
