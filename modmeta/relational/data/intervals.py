"""The time between frames, as somebody says it."""

from __future__ import annotations

from typing import Any

import numpy as np

from modmeta.relational.data.validation import DataError


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
    return interval
