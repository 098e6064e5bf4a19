"""Long tables: one row per system, time and entity, features in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modmeta.relational.data.forms.cells import (
    Ids,
    as_numbers,
    read_ids,
    shown,
    unless_all_numbers,
    unless_numbers,
)
from modmeta.relational.data.forms.clocks import frames_of, read_times, settle_clocks
from modmeta.relational.data.forms.columns import (
    KEYS,
    KeyNames,
    find_keys,
    is_row_number,
    is_usual,
    is_usual_role,
    of_one_entity_each,
    saying,
    usual_names,
)
from modmeta.relational.data.forms.given import Given, as_numpy
from modmeta.relational.data.validation import DataError


def frame_columns(frame: Any) -> dict[str, np.ndarray]:
    """Columns of a pandas data frame, those of a named index among them.

    Raises:
      DataError: If a name is there twice, or there are several levels of names.
    """
    if getattr(frame.columns, "nlevels", 1) > 1:
        raise DataError(
            f"columns: found names of {frame.columns.nlevels} levels, expected one "
            "name per column: a long table has a row per system, time and entity"
        )
    named = [name for name in frame.index.names if name is not None]
    if named:
        repeated = [name for name in named if name in frame.columns]
        frame = frame.reset_index(level=[n for n in named if n not in repeated])
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"columns: found {repeated} more than once, expected once")
    columns = {}
    for position, name in enumerate(names):
        series = frame.iloc[:, position]
        kind = getattr(series.dtype, "kind", "O")
        is_own = not isinstance(series.dtype, np.dtype)
        if is_own and kind in "iufb":
            # Whole numbers with missing ones have a type of their own.
            columns[name] = series.to_numpy(np.float64, na_value=np.nan)
        elif is_own and kind == "M":
            columns[name] = series.to_numpy("datetime64[ns]")
        else:
            columns[name] = series.to_numpy()
    return columns


def read_table(
    columns: Mapping[str, Any],
    keys: KeyNames,
    feature_names: Sequence[str] | None = None,
    frame_interval: float | None = None,
) -> Given:
    """Reads a long table.

    Systems and entities come in the order of their numbers, or of their texts, whatever
    the order of the rows. Entities that a system has no row of are not in it; rows that
    are missing in between were not observed.

    Args:
      columns: Values by the name of the column, all of one length.
      keys: Names of the columns of "system", "time" and "entity", where they have no
        usual name; a table without systems is one system.
      feature_names: Columns that are features; None for all others that hold numbers.
      frame_interval: Time between frames, where the time column counts frames.

    Raises:
      DataError: If the table lacks a column or a row, or a value is not what it should
        be; the message names column and row, from 0.
    """
    columns = {str(n): np.asarray(as_numpy(v, str(n))) for n, v in columns.items()}
    length = _check_lengths(columns)
    found = find_keys(list(columns), keys, KEYS)
    for key in ("time", "entity"):
        if key not in found:
            raise DataError(
                f"columns: found {list(columns)} and none that names the {key}, "
                f"expected one such as {usual_names(key)}, in a table with one row per "
                f"system, time and entity; say which with {saying(key)}"
                f"{of_one_entity_each(list(columns)) if key == 'entity' else ''}"
            )
    times = read_times(found["time"], columns[found["time"]])
    entities = read_ids(found["entity"], columns[found["entity"]])
    systems = Ids(["0"], np.zeros(length, int))
    if "system" in found:
        systems = read_ids(found["system"], columns[found["system"]])
    names, values, notes = _read_features(columns, found, feature_names)
    rows = _different_rows(systems, times.values, entities, values, found, names)
    if len(rows) < length:
        notes.append(
            f"{length - len(rows):,} of {length:,} rows repeat others: they are left "
            "out."
        )
        times = times._replace(values=times.values[rows])
        entities = entities._replace(codes=entities.codes[rows])
        systems = systems._replace(codes=systems.codes[rows])
        values = values[rows]

    states, clocks, members = [], [], []
    order = np.argsort(systems.codes, kind="stable")
    ends = np.cumsum(np.bincount(systems.codes))
    for rows in np.split(order, ends[:-1]):
        clock, frame = frames_of(times.values[rows])
        there, node = np.unique(entities.codes[rows], return_inverse=True)
        array = np.full((len(clock), len(there), len(names)), np.nan)
        array[frame, node] = values[rows]
        states.append(array)
        clocks.append(clock)
        members.append([entities.names[entity] for entity in there])
    clocks, interval = settle_clocks(times, clocks, frame_interval)
    return Given(
        states=states,
        feature_names=tuple(names),
        times=clocks,
        frame_interval=interval,
        system_names=unless_numbers(systems.names),
        node_names=unless_all_numbers(members),
        key_columns=found,
        notes=tuple(notes),
    )


def _check_lengths(columns: dict[str, np.ndarray]) -> int:
    if not columns:
        raise DataError("columns: found none, expected time, entity and features")
    for name, values in columns.items():
        if values.ndim != 1:
            raise DataError(
                f"column {name!r}: found shape {values.shape}, expected a vector with "
                "one value per row"
            )
    lengths = {name: len(values) for name, values in columns.items()}
    first, length = next(iter(lengths.items()))
    for name, other in lengths.items():
        if other != length:
            raise DataError(
                f"column {name!r}: found {other} rows, expected {length} as in column "
                f"{first!r}"
            )
    if not length:
        raise DataError("rows: found none, expected one per system, time and entity")
    return length


def _read_features(
    columns: dict[str, np.ndarray],
    keys: dict[str, str],
    feature_names: Sequence[str] | None,
) -> tuple[list[str], np.ndarray, list[str]]:
    """Names of the features, `[rows, features]`, and notes on what is left out."""
    notes, found = [], {}
    if feature_names is not None:
        for name in feature_names:
            if name not in columns or name in keys.values():
                free = [n for n in columns if n not in keys.values()]
                raise DataError(
                    f"feature_names: found {name!r}, expected columns among {free}"
                )
            numbers = as_numbers(name, columns[name])
            if numbers is None:
                raise DataError(
                    f"column {name!r}: found {shown(columns[name], 0)} in row 0, "
                    "expected a number"
                )
            found[name] = numbers
    else:
        for name, values in columns.items():
            if name in keys.values():
                continue
            other = next((key for key in KEYS if is_usual(name, key)), None)
            if other or is_row_number(name):
                kind = f"another {other}" if other else "numbers of rows"
                notes.append(f"Column {name!r} is left out: {kind}.")
                continue
            numbers = as_numbers(name, values)
            if numbers is None and is_usual_role(name):
                raise DataError(
                    f"column {name!r}: found {shown(values, 0)} in row 0, expected a "
                    "number: its name is that of a position or velocity; "
                    "feature_names= names other columns"
                )
            if numbers is None or np.isnan(numbers).all():
                notes.append(f"Column {name!r} is left out: it holds no numbers.")
            else:
                found[name] = numbers
    if not found:
        raise DataError(
            f"columns: found {list(columns)} and none with features, expected columns "
            f"of numbers beside {list(keys.values())}"
        )
    return list(found), np.stack(list(found.values()), axis=-1), notes


def _different_rows(
    systems: Ids,
    times: np.ndarray,
    entities: Ids,
    values: np.ndarray,
    keys: dict[str, str],
    names: list[str],
) -> np.ndarray:
    """Rows without those that repeat an earlier one, in their order.

    Raises:
      DataError: If rows of an entity at a time say different things.
    """
    order = np.lexsort((entities.codes, times, systems.codes))
    rows = np.stack([systems.codes, times, entities.codes], axis=1)[order]
    again = np.flatnonzero((rows[1:] == rows[:-1]).all(axis=1))
    first, second = order[again], order[again + 1]
    are_equal = (values[first] == values[second]) | (
        np.isnan(values[first]) & np.isnan(values[second])
    )
    unlike = np.flatnonzero(~are_equal.all(axis=1))
    if not len(unlike):
        return np.setdiff1d(np.arange(len(order)), second)
    one, other = int(first[unlike[0]]), int(second[unlike[0]])
    column = names[int(np.argmin(are_equal[unlike[0]]))]
    advice = ""
    if "system" not in keys:
        advice = (
            f"; if there are several systems, name their column with {saying('system')}"
        )
    raise DataError(
        f"rows: found rows {one} and {other} both of entity "
        f"{entities.names[entities.codes[one]]!r} at time {times[one]:g} of system "
        f"{systems.names[systems.codes[one]]!r}, with another {column!r}, expected one"
        f"{advice}"
    )
