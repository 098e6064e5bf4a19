"""Whether a model reads the columns of a data set: by their roles, not their names."""

from __future__ import annotations

import numpy as np

from modmeta.relational.data import DataError, FeatureSpec, TrajectoryDataset
from modmeta.relational.data.validation import ROLES
from modmeta.relational.modules.fitting import spread_within
from modmeta.relational.modules.preprocessing import FeatureLayout, Preprocessing

# Time is in another unit where frames are so many times as far apart, and rates, by so
# much at most, as many times smaller.
_OTHER_UNIT, _ALIKE = 5.0, 3.0


def check_features(expected: FeatureSpec, found: FeatureSpec) -> None:
    """Raises a DataError unless columns play the parts of those of the training data.

    Names may differ, unless they say that the columns are in another order.
    """
    if found.num_features != expected.num_features:
        raise DataError(
            f"features: found {found.num_features}, {found.names}, expected "
            f"{expected.num_features}, as in training: {expected.names}"
        )
    for role in (*ROLES, "lagged"):
        columns, wanted = getattr(found, role), getattr(expected, role)
        if columns != wanted:
            raise DataError(
                f"features: found {role} {columns} of {found.names}, expected "
                f"{wanted}, as in training on {expected.names}"
            )
    if found.periodic != expected.periodic:
        raise DataError(
            f"features: found the periodic box {found.periodic}, expected "
            f"{expected.periodic}, as in training"
        )
    if found.names != expected.names and set(found.names) == set(expected.names):
        raise DataError(
            f"features: found the columns {found.names}, expected them in the order "
            f"{expected.names} of the training data"
        )


def renamed(expected: FeatureSpec, found: FeatureSpec) -> tuple[str, ...]:
    """A sentence on columns of other names than in training, if there are any."""
    pairs = [
        f"{new!r} for {old!r}"
        for old, new in zip(expected.names, found.names, strict=True)
        if old != new
    ]
    if not pairs:
        return ()
    return (
        "Columns have other names than those that the model was trained on and are "
        f"taken for them by their places: {', '.join(pairs)}.",
    )


def relative_spreads(
    dataset: TrajectoryDataset, preprocessing: Preprocessing
) -> dict[int, float]:
    """How many times as much as in training recorded columns spread.

    Args:
      dataset: New data, raw units.
      preprocessing: Fitted constants of the model.

    Returns:
      By column, of those that vary; of positions, that within systems.
    """
    features, seen = dataset.features, dataset.is_observed
    scale = np.asarray(preprocessing.normalization.scale, np.float64)
    found = {}
    for column in features.recorded:
        values = dataset.states[..., column].astype(np.float64)[seen]
        if column not in features.positions and values.size and np.ptp(values):
            found[column] = 0.5 * np.ptp(values) / scale[column]
    for column in features.positions:
        trained = float(preprocessing.position_scale) * scale[column]
        found[column] = spread_within(dataset) / trained
    return found


def check_time_unit(
    dataset: TrajectoryDataset, layout: FeatureLayout, preprocessing: Preprocessing
) -> None:
    """Refuses data whose time is evidently in another unit than that of training.

    Raises:
      DataError: If frames are many times as far apart, and rates as many times smaller.
    """
    features = dataset.features
    circles = {*features.positions, *features.sines, *features.cosines}
    spreads = relative_spreads(dataset, preprocessing)
    rates = {c: ratio for c, ratio in spreads.items() if c not in circles}
    if not layout.frame_interval or not rates:
        return
    longer = dataset.frame_interval / layout.frame_interval
    is_other = max(longer, 1.0 / longer) >= _OTHER_UNIT
    if is_other and all(1.0 / _ALIKE < longer * r < _ALIKE for r in rates.values()):
        column, ratio = next(iter(rates.items()))
        raise DataError(
            f"frame_interval: found {dataset.frame_interval:g} with "
            f"{features.names[column]!r} that spreads {ratio:.2g} times as much as in "
            f"the training data, whose frames are {layout.frame_interval:g} apart: "
            "time seems to be in another unit, expected that of the training data"
        )
