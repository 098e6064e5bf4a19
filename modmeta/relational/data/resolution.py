"""Whether the numbers that states are held in tell one frame from the next."""

from __future__ import annotations

import numpy as np

from modmeta.relational.data.dataset import TrajectoryDataset
from modmeta.relational.data.validation import DataError

# A typical change from frame to frame is at least so many steps of single precision.
_MIN_STEPS = 4.0


def check_resolution(dataset: TrajectoryDataset) -> None:
    """Refuses columns that change by less than single precision can hold.

    Such as coordinates on the globe in metres, of bodies that move by centimetres.

    Raises:
      DataError: If a column is so far from zero.
    """
    counted = dataset.counted()
    for column in dataset.features.recorded:
        values = dataset.states[..., column]
        changes = np.diff(values.astype(np.float64), axis=1)[counted]
        usual = float(np.sqrt(np.mean(np.square(changes)))) if changes.size else 0.0
        place = float(np.median(values))
        step = float(np.spacing(np.float32(np.abs(values).max())))
        if 0.0 < usual < _MIN_STEPS * step:
            name = dataset.features.names[column]
            raise DataError(
                f"states: found feature {column} ({name!r}) near {place:.6g} that "
                f"changes by {usual:.3g} from frame to frame, expected changes above "
                f"{_MIN_STEPS * step:.3g}, as single precision does not hold smaller "
                "ones so far from zero: subtract a place nearby from this feature"
            )
