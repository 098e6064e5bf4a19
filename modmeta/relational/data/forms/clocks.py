"""Times of frames, from columns and axes of times."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from modmeta.relational.data.forms.cells import as_numbers, shown
from modmeta.relational.data.forms.dates import read_dates
from modmeta.relational.data.intervals import read_interval
from modmeta.relational.data.validation import DataError

# Frames that are missing everywhere are filled in up to this many times the frames.
_MAX_FILLED = 2
_SAME_STEP = 1e-3
DAYTIMES, _HALF_A_DAY = "times of the day", 12 * 3600.0


class Times(NamedTuple):
    """Times of the rows of a table, or along an axis.

    Attributes:
      name: Of the column or axis.
      values: `[rows]`, float64.
      kind: "counts" of frames, "dates", `DAYTIMES`, or "times".
    """

    name: str
    values: np.ndarray
    kind: str


def read_times(name: str, values: np.ndarray) -> Times:
    """Times as numbers; dates, durations and times of the day as seconds.

    Raises:
      DataError: If they are none of these, or one is missing.
    """
    kind = "times"
    if values.dtype.kind in "UOT":
        values, is_of_day = read_dates(name, values)
        kind = DAYTIMES if is_of_day else kind
    if values.dtype.kind in "Mm":
        times = (values - values[0]) / np.timedelta64(1, "s")
        kind = kind if kind == DAYTIMES else "dates"
    else:
        numbers = as_numbers(name, values)
        if numbers is None:
            raise DataError(
                f"column {name!r}: found {shown(values, 0)} in row 0, expected "
                "numbers, times of the day as 12:00:00.5, or dates as "
                "2020-01-31T12:00:00 or 31.01.2020 12:00:00, in the column of times"
            )
        times = numbers
        if _counts_frames(name) and np.all(times == np.rint(times)):
            kind = "counts"
    if not np.isfinite(times).all():
        row = int(np.argmin(np.isfinite(times)))
        raise DataError(
            f"column {name!r}: found {values[row]} in row {row}, expected a time in "
            "every row"
        )
    return Times(name, times, kind)


def _counts_frames(name: str) -> bool:
    """Whether a column of times is called as one that counts frames."""
    return bool(re.search("frame|step", name, re.IGNORECASE))


def frames_of(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times of the frames of a system, `[T]`, and the frame of every row.

    Where all steps are multiples of one, frames that no row is of are put in.
    """
    clock, frame = np.unique(times, return_inverse=True)
    if len(clock) < 3:
        return clock, frame
    steps = np.diff(clock)
    counts = steps / steps.min()
    places = np.concatenate([[0], np.cumsum(np.rint(counts))]).astype(int)
    is_even = np.all(np.abs(counts - np.rint(counts)) < _SAME_STEP * counts)
    total = int(places[-1]) + 1
    if not is_even or total == len(clock) or total > _MAX_FILLED * len(clock):
        return clock, frame
    whole = np.interp(np.arange(total), places, clock)
    return whole, places[frame]


def settle_clocks(
    times: Times, clocks: list[np.ndarray], frame_interval: float | None
) -> tuple[list[np.ndarray] | None, float | None]:
    """Times as a data set takes them: an interval where that says it all.

    Args:
      times: Where they come from.
      clocks: `[T]` of every system.
      frame_interval: What the user says; the length of a frame, where times count
        frames.

    Returns:
      The times of every system, None where frames are at equal intervals from 0 on, or
      are counted; and the interval, None where it is not known.

    Raises:
      DataError: If the given interval is no interval, or not that of the times.
    """
    if frame_interval is not None:
        frame_interval = read_interval(frame_interval)
    step = _common_step(clocks)
    if times.kind == "counts":
        unit = 1.0 if frame_interval is None else frame_interval
        if step is not None:
            # Frames that are numbered one by one say nothing of time.
            return (
                None,
                step if frame_interval is None and step != 1.0 else frame_interval,
            )
        return [unit * clock for clock in clocks], None
    if times.kind == DAYTIMES and any(np.ptp(c) > _HALF_A_DAY for c in clocks):
        raise DataError(
            f"column {times.name!r}: found times of the day that are more than twelve "
            "hours apart in one recording, expected dates with them, as it may have "
            "gone over midnight"
        )
    if times.kind in ("dates", DAYTIMES):
        clocks = [clock - clock[0] for clock in clocks]
    if step is None:
        return clocks, frame_interval
    if frame_interval is not None and abs(frame_interval / step - 1.0) > _SAME_STEP:
        raise DataError(
            f"frame_interval: found {frame_interval} beside times {times.name!r} that "
            f"are {step} apart, expected one of both"
        )
    is_plain = all(clock[0] == 0.0 for clock in clocks)
    return (None if is_plain else clocks), step


def _common_step(clocks: list[np.ndarray]) -> float | None:
    """The step of all systems, None where steps differ.

    Rounded, since differences of the decimals in a file are not those decimals.
    """
    steps = np.concatenate([np.diff(clock) for clock in clocks])
    if not len(steps):
        return None
    step = float(f"{np.median(steps):.10g}")
    is_even = np.all(np.abs(steps - step) < _SAME_STEP * step)
    return step if is_even else None
