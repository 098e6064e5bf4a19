"""What stands in the columns of tables: numbers, and names of systems and entities."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from modmeta.relational.data.validation import DataError

# A number to a person, not to a program.
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
# Texts that stand for a missing number.
_MISSING = ("", "nan", "na", "n/a", "null", "none")


class Ids(NamedTuple):
    """Names of systems or entities in their order, and which row is of which."""

    names: list[str]
    codes: np.ndarray


def as_numbers(name: str, values: np.ndarray) -> np.ndarray | None:
    """A column as float64, NaN where a number is missing; None if none is a number.

    Raises:
      DataError: If some values are numbers and others are not.
    """
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    if values.dtype.kind not in "UOT":
        return None
    numbers = np.full(len(values), np.nan)
    wrong, count = None, 0
    for row, value in enumerate(values):
        if _is_missing(value):
            continue
        try:
            numbers[row] = float(value)
            count += 1
        except (TypeError, ValueError):
            wrong = row if wrong is None else wrong
    if wrong is None:
        return numbers
    if not count and not _DECIMAL_COMMA.fullmatch(str(values[wrong]).strip()):
        return None
    raise DataError(
        f"column {name!r}: found {shown(values, wrong)} in row {wrong}, expected a "
        "number, or nothing where it was not observed"
    )


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in _MISSING
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def shown(values: np.ndarray, row: int) -> str:
    """A value as messages show it."""
    return repr(values[row : row + 1].tolist()[0])


def read_ids(name: str, values: np.ndarray) -> Ids:
    """Names of systems or entities in their order, and the number of every row's."""
    missing = np.array([_is_missing(value) for value in values.tolist()])
    if missing.any():
        row = int(np.argmax(missing))
        raise DataError(
            f"column {name!r}: found no value in row {row}, expected a number or a "
            "text in every row"
        )
    if values.dtype.kind in "biuf":
        found, codes = np.unique(values, return_inverse=True)
        return Ids([_name_of(value) for value in found.tolist()], codes)
    texts = np.array([_name_of(value) for value in values.tolist()])
    found, codes = np.unique(texts, return_inverse=True)
    order = sorted(range(len(found)), key=lambda i: _natural(str(found[i])))
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    return Ids([str(found[i]) for i in order], rank[codes])


def member_names(values: np.ndarray) -> list[str]:
    """Names of systems or entities along an axis."""
    return [_name_of(value) for value in values.tolist()]


def _name_of(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _natural(text: str) -> list[tuple[int, float, str]]:
    """Sorts "b2" before "b10", and "-1" before "0"."""
    try:
        return [(0, float(text), "")]
    except ValueError:
        pieces = re.split(r"(\d+)", text)
        return [
            (1, float(piece), "") if piece.isdigit() else (2, 0.0, piece)
            for piece in pieces
            if piece
        ]


def unless_numbers(names: list[str]) -> list[str] | None:
    """Names, None where they are 0, 1, 2, ..."""
    return None if names == [str(i) for i in range(len(names))] else names


def unless_all_numbers(members: list[list[str]]) -> list[list[str]] | None:
    """Lists of names, None where all are 0, 1, 2, ..."""
    plain = all(unless_numbers(names) is None for names in members)
    return None if plain else members
