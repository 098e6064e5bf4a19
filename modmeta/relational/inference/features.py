"""Whether a model reads the columns of a data set: by their roles, not their names."""

from __future__ import annotations

from modmeta.relational.data import DataError, FeatureSpec
from modmeta.relational.data.validation import ROLES


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
