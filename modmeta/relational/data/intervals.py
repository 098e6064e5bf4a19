"""The time between frames, as somebody says it."""

from __future__ import annotations

from typing import Any

import numpy as np

from modmeta.relational.data.validation import DataError

# Rates are divided by it in single precision.
_LEAST, _MOST = 1e-30, 1e30


def read_interval(interval: Any) -> float:
    """Time between frames as a positive number.

    Raises:
      DataError: If it is none.
    """
    if np.ndim(interval) or np.asarray(interval).dtype.kind not in "iuf":
        raise DataError(f"frame_interval: found {interval!r}, expected a number")
    interval = float(interval)
    if not (np.isfinite(interval) and interval > 0.0):
        raise DataError(f"frame_interval: found {interval}, expected a positive number")
    if not _LEAST <= interval <= _MOST:
        raise DataError(
            f"frame_interval: found {interval}, expected {_LEAST} to {_MOST}: numbers "
            "have single precision, so count in another unit of time"
        )
    return interval
