"""Whether columns that are named as sines and cosines are those of angles."""

from __future__ import annotations

import numpy as np

from modmeta.relational.data.validation import DataError, FeatureSpec

# By how much squared radii of angles may be off 1 in the mean: noise of 0.3 on either
# column makes 0.5, two normal numbers 1. From where on orders are compared.
_OFF_CIRCLE, _MIXED_UP = 0.6, 0.1


def check_angles(
    states: np.ndarray, node_mask: np.ndarray, features: FeatureSpec
) -> None:
    """Raises a DataError if columns named as sine and cosine are not of an angle.

    Noise is allowed, but the cosine of another angle may not fit much better, as where
    two angles are named in different orders.

    Args:
      states: `[tasks, time, nodes, features]`.
      node_mask: `[tasks, nodes]`.
      features: What the columns are.
    """
    if not states.shape[0]:
        return
    is_real = np.broadcast_to(node_mask[:, None], states.shape[:3])
    for sine, cosine in features.angles:
        off = _off_circle(states, sine, cosine, is_real)
        names = f"{features.names[sine]!r} and {features.names[cosine]!r}"
        if off > _OFF_CIRCLE:
            raise DataError(
                f"states: found sine^2 + cosine^2 off 1 by {off:.3g} in the mean in "
                f"the features {names}, expected 1, as for the sine and the cosine of "
                "an angle"
            )
        if off < _MIXED_UP:
            continue
        for other in features.cosines:
            if 2.0 * _off_circle(states, sine, other, is_real) < off:
                raise DataError(
                    f"states: found sine^2 + cosine^2 off 1 by {off:.3g} in the mean "
                    f"in the features {names}, and less than half as much with "
                    f"{features.names[other]!r}, expected sines and cosines of the "
                    "same angles in the same order"
                )


def _off_circle(
    states: np.ndarray, sine: int, cosine: int, is_real: np.ndarray
) -> float:
    squared = states[..., sine] ** 2 + states[..., cosine] ** 2
    return float(np.mean(np.abs(squared - 1.0), where=is_real, dtype=np.float64))
