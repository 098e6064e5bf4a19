"""Times of frames, from columns and axes of times."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from modmeta.relational.data.forms.cells import as_numbers, shown
from modmeta.relational.data.intervals import read_interval
from modmeta.relational.data.validation import DataError

# Frames that are missing everywhere are filled in up to this many times the frames.
_MAX_FILLED = 2
_SAME_STEP = 1e-3
_HALF_A_DAY = np.timedelta64(12, "h")


class Times(NamedTuple):
    """Times of the rows of a table, or along an axis.

    Attributes:
      name: Of the column or axis.
      values: `[rows]`, float64.
      kind: "counts" of frames, "dates", or "times".
    """

    name: str
    values: np.ndarray
    kind: str


def read_times(name: str, values: np.ndarray) -> Times:
    """Times as numbers; dates and times of the day as seconds.

    Raises:
      DataError: If they are neither, one is missing, or times of the day may have gone
        over midnight.
    """
    if values.dtype.kind in "UOT":
        values = _as_dates(values)
    if values.dtype.kind == "m" and np.ptp(values) > _HALF_A_DAY:
        raise DataError(
            f"column {name!r}: found times of the day that are more than twelve hours "
            "apart, expected dates with them, as a recording may go over midnight"
        )
    if values.dtype.kind in "Mm":
        times, kind = (values - values[0]) / np.timedelta64(1, "s"), "dates"
    else:
        numbers = as_numbers(name, values)
        if numbers is None:
            raise DataError(
                f"column {name!r}: found {shown(values, 0)} in row 0, expected "
                "numbers, times of the day as 12:00:00.5, or dates as "
                "2020-01-31T12:00:00 or 31.01.2020 12:00:00, in the column of times"
            )
        times, kind = numbers, "times"
        if _counts_frames(name) and np.all(times == np.rint(times)):
            kind = "counts"
    if not np.isfinite(times).all():
        row = int(np.argmin(np.isfinite(times)))
        raise DataError(
            f"column {name!r}: found {values[row]} in row {row}, expected a time in "
            "every row"
        )
    return Times(name, times, kind)


def _as_dates(values: np.ndarray) -> np.ndarray:
    """Texts such as 2020-01-31 as dates, such as 12:00:00 as durations since midnight.

    The values are as they are if they are others.
    """
    texts = values.tolist()
    if not all(isinstance(text, str) for text in texts):
        return values
    # All entities of a frame have one time.
    different, rows = np.unique(texts, return_inverse=True)
    for pattern, read in _DATES.items():
        matches = [pattern.fullmatch(text.strip()) for text in different.tolist()]
        if all(matches):
            try:
                return np.array([read(match) for match in matches])[rows]
            except ValueError:
                return values
    return values


def _day(match: re.Match[str]) -> np.datetime64:
    """A date with or without a time of the day, and with or without a zone."""
    parts = match.groupdict()
    numbers = [parts[name] or "" for name in ("year", "month", "day")]
    date = "-".join(number.zfill(2) for number in numbers if number)
    when = np.datetime64(date, "us")
    if parts["hour"]:
        when += _time_of_day(match)
    zone = parts.get("zone")
    if zone and zone != "Z":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        minutes = 60 * int(digits[:2]) + int(digits[2:])
        when -= np.timedelta64(int(f"{zone[0]}{minutes}"), "m")
    return when


def _time_of_day(match: re.Match[str]) -> np.timedelta64:
    """A time since midnight."""
    parts = match.groupdict()
    hour, minute = int(parts["hour"]), int(parts["minute"] or 0)
    second = float((parts["second"] or "0").replace(",", "."))
    if hour > 24 or minute > 59 or second >= 61.0:
        raise ValueError(match.string)
    micros = round(1e6 * (60.0 * (60.0 * hour + minute) + second))
    return np.timedelta64(micros, "us")


_DAYTIME = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(:(?P<second>\d{2}([.,]\d+)?))?"
_REST = rf"([T ]+{_DAYTIME})? ?(?P<zone>Z|[+-]\d{{2}}(:?\d{{2}})?)?"
_DATES: dict[re.Pattern[str], Callable[[re.Match[str]], np.generic]] = {
    re.compile(
        rf"(?P<year>\d{{4}})[-/](?P<month>\d{{1,2}})([-/](?P<day>\d{{1,2}}))?{_REST}"
    ): _day,
    # Points put the day first, everywhere; what slashes put first differs.
    re.compile(
        rf"(?P<day>\d{{1,2}})\.(?P<month>\d{{1,2}})\.(?P<year>\d{{4}}){_REST}"
    ): _day,
    re.compile(
        r"(?P<hour>\d{1,2}):(?P<minute>\d{2}):(?P<second>\d{2}([.,]\d+)?)"
    ): _time_of_day,
}


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
    if times.kind == "dates":
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
