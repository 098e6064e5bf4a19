"""Columns of CSV and Parquet files."""

from __future__ import annotations

import csv
import gzip
import pathlib
import re

import numpy as np

from modmeta.relational.data.validation import DataError
from modmeta.runtime.optional import import_optional

CSV_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PARQUET_ENDINGS = (".parquet", ".pq")
_DELIMITERS = ",;\t|"
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")


def read_csv(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Columns of a text table with a line of names, as texts.

    Commas, semicolons, tabs or bars are between columns, whichever the line of names
    has most; with semicolons, decimals may have commas. Lines above it that begin with
    "#" are remarks, but for the last one if numbers follow: it has the names.

    Raises:
      DataError: If there is no line of names, or a line has another number of columns.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            text = file.readlines()
        start = _line_of_names(text)
        if start < len(text):
            text[start] = text[start].lstrip("# ")
        delimiter = max(_DELIMITERS, key="".join(text[start : start + 1]).count)
        rows = list(csv.reader(text[start:], delimiter=delimiter, strict=True))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: found a file that is no table of text in UTF-8 ({error}), "
            'expected one: spreadsheets write it as "CSV UTF-8"'
        ) from error
    except (csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: found a file that is no table of text ({error}), expected names "
            "of columns in the first line and values below"
        ) from error
    lines = [(number, row) for number, row in enumerate(rows, start + 1) if row]
    if not lines:
        raise DataError(
            f"{path}: found an empty file, expected names of columns in the first line"
        )
    names = [name.strip() for name in lines[0][1]]
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{path}: found numbers {names} in the first line, expected names of "
            "columns"
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(
            f"{path}: found the columns {repeated} more than once, expected once"
        )
    for number, row in lines[1:]:
        if len(row) != len(names):
            raise DataError(
                f"{path}: found {len(row)} values in line {number}, expected "
                f"{len(names)} as in the first line, one per column of {names}"
            )
    values = [[row[i] for _, row in lines[1:]] for i in range(len(names))]
    if delimiter == ";":
        values = [_with_points(column) for column in values]
    return {
        name: np.array(column, dtype=str)
        for name, column in zip(names, values, strict=True)
    }


def _line_of_names(lines: list[str]) -> int:
    """Which line has the names of columns, from 0."""
    start = 0
    while start < len(lines) and lines[start].startswith("#"):
        start += 1
    if not start:
        return 0
    cells = re.split(f"[{_DELIMITERS}]", "".join(lines[start : start + 1]))
    return start - 1 if all(_is_number(cell) for cell in cells) else start


def read_parquet(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Columns of a Parquet file.

    Raises:
      DataError: If it is none.
      ImportError: If pyarrow is not installed.
    """
    parquet = import_optional("pyarrow.parquet", "tables")
    try:
        with open(path, "rb") as file:
            table = parquet.read_table(file)
        names = [str(name) for name in table.column_names]
        columns = {
            name: column.to_numpy()
            for name, column in zip(names, table.columns, strict=True)
        }
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise DataError(
            f"{path}: found a file that is no readable Parquet ({error}), expected one"
        ) from error
    if len(columns) < len(names):
        raise DataError(f"{path}: found {names}, expected every column once")
    return columns


def _with_points(column: list[str]) -> list[str]:
    """Numbers with decimal commas, as go with semicolons, with decimal points."""
    is_decimal = any(_DECIMAL_COMMA.fullmatch(text.strip()) for text in column)
    if not is_decimal or any("." in text for text in column):
        return column
    return [
        text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text.strip()) else text
        for text in column
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
