"""Dates, times of the day and durations that are texts or objects."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from modmeta.relational.data.validation import DataError


def read_dates(name: str, values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Dates, or durations, of texts or objects; the values as they are if of others.

    Args:
      name: Of the column.
      values: `[rows]` texts such as 2020-01-31T12:00:00, 31.01.2020 12:00, 12:00:00 or
        "0 days 00:00:00.1", or dates and times of the standard library.

    Returns:
      `[rows]` instants or durations, and whether these are times of the day, which
      begin anew at midnight.

    Raises:
      DataError: If one is missing among others.
    """
    texts = [_text_of(value) for value in values.tolist()]
    if not all(isinstance(text, str) for text in texts):
        return values, False
    # All entities of a frame have one time.
    different, rows = np.unique(texts, return_inverse=True)
    for pattern, read in _FORMS.items():
        matches = [pattern.fullmatch(text.strip()) for text in different.tolist()]
        if all(matches):
            try:
                found = np.array([read(match) for match in matches])
            except ValueError:
                return values, False
            return found[rows], read is _time_of_day
        is_known = np.array([match is not None for match in matches])
        if np.all(is_known | np.isin(np.char.strip(different), _MISSING)):
            if not is_known.any():
                continue
            row = int(np.argmin(is_known[rows]))
            raise DataError(
                f"column {name!r}: found {texts[row]!r} in row {row}, expected a time "
                "in every row"
            )
    return values, False


def _text_of(value: Any) -> Any:
    """A date or time of the standard library as its text."""
    return value.isoformat() if hasattr(value, "isoformat") else value


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


def _duration(match: re.Match[str]) -> np.timedelta64:
    """Days, and a time."""
    return np.timedelta64(int(match["days"]), "D") + _time_of_day(match)


def _time_of_day(match: re.Match[str]) -> np.timedelta64:
    """A time since midnight."""
    parts = match.groupdict()
    hour, minute = int(parts["hour"]), int(parts["minute"] or 0)
    second = float((parts["second"] or "0").replace(",", "."))
    if hour > 24 or minute > 59 or second >= 61.0:
        raise ValueError(match.string)
    micros = round(1e6 * (60.0 * (60.0 * hour + minute) + second))
    return np.timedelta64(micros, "us")


_MISSING = ["", "NaT", "nan", "NaN", "NA"]
_EXACT = r"(?P<hour>\d{1,2}):(?P<minute>\d{2}):(?P<second>\d{2}([.,]\d+)?)"
_DAYTIME = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(:(?P<second>\d{2}([.,]\d+)?))?"
_REST = rf"([T ]+{_DAYTIME})? ?(?P<zone>Z|[+-]\d{{2}}(:?\d{{2}})?)?"
_FORMS: dict[re.Pattern[str], Callable[[re.Match[str]], np.generic]] = {
    re.compile(
        rf"(?P<year>\d{{4}})[-/](?P<month>\d{{1,2}})([-/](?P<day>\d{{1,2}}))?{_REST}"
    ): _day,
    # Points put the day first, everywhere; what slashes put first differs.
    re.compile(
        rf"(?P<day>\d{{1,2}})\.(?P<month>\d{{1,2}})\.(?P<year>\d{{4}}){_REST}"
    ): _day,
    re.compile(rf"(?P<days>-?\d+) days? \+?{_EXACT}"): _duration,
    re.compile(_EXACT): _time_of_day,
}
