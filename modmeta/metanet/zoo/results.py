"""How networks came out, as files of others say it: JSON for each, a table for all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modmeta.metanet.zoo.specification import ZooError

# Where a network comes from, for messages, and its results by name.
Row = tuple[Any, Mapping[str, Any]]


def results_by_network(
    places: Sequence[Path], table: str | os.PathLike[str] | None
) -> tuple[list[Row], list[Path]]:
    """Results of networks, and the files that they are from.

    Args:
      places: Folder or file of every network.
      table: Results of all; beside the weights of each if there is none.

    Raises:
      ZooError: If a file is damaged, or a network and a line of the table have no
        counterpart.
    """
    if table is None:
        groups = [_files_of(place) for place in places]
        rows = [(p, _results_of(g)) for p, g in zip(places, groups, strict=True)]
        return rows, [path for group in groups for path in group]
    path = Path(table)
    is_json = path.suffix == ".json"
    named = _named_results(path) if is_json else _named_lines(path, places)
    return _matched(path, places, named), [path]


def _files_of(place: Path) -> list[Path]:
    if not place.is_dir():
        path = place.with_suffix(".json")
        return [path] if path.is_file() else []
    # Parameters first: results of the same name count.
    files = [path for path in place.glob("*.json") if path.is_file()]
    return sorted(files, key=lambda p: (p.stem == "result", p.name))


def _named_results(path: Path) -> list[tuple[str, Row]]:
    """Names and results of a file of JSON."""
    if not path.is_file():
        raise ZooError(f"{path}: found no file, expected results")
    content = _read_json(path)
    if not isinstance(content, dict) or not all(
        isinstance(value, dict) for value in content.values()
    ):
        raise ZooError(f"{path}: found other JSON, expected results by name of network")
    named = []
    for name, value in content.items():
        results: dict[str, Any] = {}
        _add_results(results, value, "")
        named.append((name, (f"{path} {name}", results)))
    return named


def _named_lines(path: Path, places: Sequence[Path]) -> list[tuple[str, Row]]:
    """Names and lines of a CSV: names are the column with most names of networks."""
    lines = read_lines(path)
    known = {name for place in places for name in _names(place)}
    counts = {
        field: len(known & {_last_part(line[field]) for line in lines})
        for field in (lines[0] if lines else ())
    }
    most = max(counts.values(), default=0)
    best, *others = [field for field, count in counts.items() if count == most] or [""]
    if not most or others:
        found = "several columns" if most else "no column"
        raise ZooError(
            f"{path}: found {found} with names such as {places[0].name}, expected one "
            f"among {', '.join(counts) or 'its columns'}"
        )
    return [
        (_last_part(line[best]), (f"{path} line {number}", line))
        for number, line in enumerate(lines, start=2)
    ]


def _names(place: Path) -> tuple[str, ...]:
    return (place.name,) if place.is_dir() else (place.name, place.stem)


def _last_part(name: str | None) -> str:
    """The name of a path, which tables may hold as a whole."""
    return (name or "").strip().rstrip("/").rpartition("/")[2]


def _matched(
    path: Path, places: Sequence[Path], named: Sequence[tuple[str, Row]]
) -> list[Row]:
    """The row of every network; every row has to have a network."""
    owners: dict[str, Path] = {}
    for place in places:
        for name in _names(place):
            if owners.setdefault(name, place) != place:
                raise ZooError(
                    f"{place}: found {owners[name].name} beside it, expected one file "
                    "per network"
                )
    found: dict[Path, Row] = {}
    for name, row in named:
        place = owners.get(name)
        if place is None:
            raise ZooError(
                f"{row[0]}: found a result of {name!r}, expected networks of "
                f"{places[0].parent} alone"
            )
        if place in found:
            raise ZooError(
                f"{row[0]}: found {name} again after {found[place][0]}, expected one "
                "result per network"
            )
        found[place] = row
    for place in places:
        if place not in found:
            raise ZooError(f"{place}: found no result in {path}, expected one")
    return [found[place] for place in places]


def read_lines(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV whose first line has names.

    Raises:
      ZooError: If there is no such file, or a line has more values than names.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ZooError(f"{path}: found no table ({error}), expected a CSV") from error
    for number, line in enumerate(lines, start=2):
        if None in line:
            raise ZooError(
                f"{path} line {number}: found more values than the {len(line) - 1} "
                "names of the first line"
            )
    return lines


def _read_json(path: Path) -> Any:
    """What a file holds; its last line where every line is a result."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ZooError(f"{path}: found no text in UTF-8 ({error})") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        try:
            return json.loads(text.strip().rpartition("\n")[2])
        except json.JSONDecodeError as error:
            raise ZooError(f"{path}: found damaged JSON ({error})") from error


def _results_of(files: Sequence[Path]) -> dict[str, Any]:
    """All that the files of JSON say, results inside of results by "outer.inner"."""
    found: dict[str, Any] = {}
    for path in files:
        content = _read_json(path)
        if isinstance(content, list) and content:
            content = content[-1]
        if not isinstance(content, dict):
            raise ZooError(f"{path}: found {type(content).__name__}, expected names")
        _add_results(found, content, "")
    return found


def _add_results(
    found: dict[str, Any], content: Mapping[str, Any], prefix: str
) -> None:
    for name, value in content.items():
        if isinstance(value, dict):
            _add_results(found, value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value


def column(rows: Sequence[Row], name: str) -> np.ndarray:
    """The numbers `[n]` of one name, float32.

    Raises:
      ZooError: If a network has none of this name, or no number.
    """
    values = []
    for where, row in rows:
        if name not in row:
            known = f"one of {', '.join(sorted(row))}" if row else "results in JSON"
            raise ZooError(f"{where}: found no {name}, expected {known}")
        try:
            values.append(float(row[name]))
        except (TypeError, ValueError):
            raise ZooError(
                f"{where}: found {name} {row[name]!r}, expected a number"
            ) from None
    with np.errstate(over="ignore"):  # infinite, as results that are no numbers
        return np.array(values, np.float32)
