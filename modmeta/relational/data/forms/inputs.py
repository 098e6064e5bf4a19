"""Whatever holds trajectories, told apart and handed to its reader."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modmeta.relational.data.forms.columns import KEYS, KeyNames, find_keys
from modmeta.relational.data.forms.files import read_arrays, read_npz
from modmeta.relational.data.forms.given import Given, as_numpy
from modmeta.relational.data.forms.labelled import is_labelled, read_labelled
from modmeta.relational.data.forms.nri_files import choose_suffixes, read_npy, read_nri
from modmeta.relational.data.forms.table_files import (
    CSV_ENDINGS,
    PARQUET_ENDINGS,
    read_csv,
    read_parquet,
)
from modmeta.relational.data.forms.tables import frame_columns, read_table
from modmeta.relational.data.validation import DataError


def read_input(
    trajectories: Any,
    *,
    columns: Mapping[str, str] | None = None,
    usual_columns: Mapping[str, str] | None = None,
    feature_names: Sequence[str] | None = None,
    frame_interval: float | None = None,
) -> Given:
    """Reads trajectories of any accepted form.

    Args:
      trajectories: See `arrays.as_dataset`; not yet a data set.
      columns: Names of the columns or axes of "system", "time" and "entity".
      usual_columns: Names of those that are not given, where the input has them.
      feature_names: Names of the features, or which columns are features.
      frame_interval: Time between frames.

    Raises:
      FileNotFoundError: If there is nothing at a path.
      DataError: If the form is unknown, or its content is not what it should be.
      ImportError: If a package is missing that reads it.
    """
    if columns is not None and not isinstance(columns, Mapping):
        raise DataError(
            f"columns: found {columns!r}, expected a mapping such as "
            "{'time': 't', 'entity': 'fish'}"
        )
    keys = KeyNames(columns or {}, usual_columns or {})
    options = (keys, feature_names, frame_interval)
    if isinstance(trajectories, str | os.PathLike):
        if not os.fspath(trajectories):
            raise DataError("trajectories: found an empty path, expected that of data")
        return _read_path(pathlib.Path(trajectories), *options)
    if is_labelled(trajectories):
        return read_labelled(trajectories, *options)
    if _is_frame(trajectories):
        return read_table(frame_columns(trajectories), *options)
    if _is_record_array(trajectories):
        return read_table(_fields(trajectories), *options)
    if _are_tables(trajectories):
        return read_table(_one_below_the_other(trajectories, keys), *options)
    if isinstance(trajectories, Mapping):
        if "states" in trajectories:
            _refuse_columns(columns)
            return read_arrays(trajectories)
        return read_table(trajectories, *options)
    _refuse_columns(columns)
    return Given(_plain_states(trajectories))


def names_columns(trajectories: Any) -> bool:
    """Whether features are picked by name: from tables, and from axes with names."""
    if _is_table_path(trajectories):
        return True
    if is_labelled(trajectories) or _is_frame(trajectories):
        return True
    if _is_record_array(trajectories) or _are_tables(trajectories):
        return True
    return isinstance(trajectories, Mapping) and "states" not in trajectories


def _is_frame(value: Any) -> bool:
    return hasattr(value, "columns") and hasattr(value, "iloc")


def _is_record_array(value: Any) -> bool:
    """Whether it is a vector of rows with named fields, as NumPy reads from tables."""
    return isinstance(value, np.ndarray) and value.ndim == 1 and bool(value.dtype.names)


def _fields(rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: rows[name] for name in rows.dtype.names or ()}


def _is_table_path(value: Any) -> bool:
    if not isinstance(value, str | os.PathLike):
        return False
    endings = (*CSV_ENDINGS, *PARQUET_ENDINGS)
    return os.fspath(value).lower().endswith(endings) or _holds_rows(value)


def _holds_rows(path: str | os.PathLike) -> bool:
    """Whether it is a `.npy` of rows with named fields."""
    if pathlib.Path(path).suffix != ".npy":
        return False
    try:
        return _is_record_array(np.load(path, mmap_mode="r"))
    except (ValueError, EOFError, OSError):  # told where it is read
        return False


def _are_tables(value: Any) -> bool:
    """Whether it is a list with a table per system, data frames or files."""
    if not isinstance(value, list | tuple) or not value:
        return False
    first = value[0]
    return _is_frame(first) or _is_record_array(first) or _is_table_path(first)


def _one_below_the_other(tables: Sequence[Any], keys: KeyNames) -> dict[str, Any]:
    """Columns of one table, with one of systems, of a table per system.

    Raises:
      DataError: If their columns differ, or they say of systems themselves.
    """
    parts = []
    for index, table in enumerate(tables):
        if _is_frame(table):
            columns = frame_columns(table)
        elif _is_record_array(table):
            columns = _fields(table)
        elif _is_table_path(table):
            columns = _table_columns(pathlib.Path(table))
        else:
            raise DataError(
                f"trajectories[{index}]: found a {type(table).__name__} in a list of "
                "tables, expected one table per system"
            )
        if parts and set(columns) != set(parts[0]):
            raise DataError(
                f"trajectories[{index}]: found the columns {list(columns)}, expected "
                f"those of the first table, {list(parts[0])}"
            )
        parts.append(columns)
    first = parts[0]
    there = find_keys(list(first), keys, KEYS).get("system")
    if there is not None:
        raise DataError(
            f"columns: found {there!r} for the system in a list of tables, expected "
            "either one table with it or a table per system without"
        )
    sizes = [len(next(iter(columns.values()), ())) for columns in parts]
    joined = {key: np.concatenate([c[key] for c in parts]) for key in first}
    return {"system": np.repeat(np.arange(len(parts)), sizes), **joined}


def _table_columns(path: pathlib.Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: found no such file or folder, expected one")
    if path.suffix == ".npy":
        return _fields(read_npy(path))
    is_csv = path.name.lower().endswith(CSV_ENDINGS)
    return (read_csv if is_csv else read_parquet)(path)


def _read_path(path: pathlib.Path, keys, feature_names, frame_interval) -> Given:
    try:
        path.exists()
    except OSError as error:
        raise DataError(
            f"trajectories: found a text of {len(str(path))} characters that is no "
            "path, expected one, or what a file holds as a table or an array"
        ) from error
    if path.is_dir():
        _refuse_columns(keys.explicit)
        return read_nri(path, choose_suffixes(path), **_interval(frame_interval))
    if not path.exists():
        raise FileNotFoundError(f"{path}: found no such file or folder, expected one")
    if _is_table_path(path):
        return read_table(_table_columns(path), keys, feature_names, frame_interval)
    _refuse_columns(keys.explicit)
    if path.suffix == ".npy" and path.stem.startswith("loc_"):
        suffix = path.stem.removeprefix("loc_")
        return read_nri(path.parent, [suffix], **_interval(frame_interval))
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix == ".npy":
        return Given(read_npy(path))
    raise DataError(
        "found a file of unknown form, expected a .npz, a .npy, a table that ends in "
        ".csv, .tsv or .parquet, a loc_<suffix>.npy or a folder with such files; what "
        "other packages read (xarray, scipy.io, pandas) can be passed as it is"
    )


def _interval(frame_interval: float | None) -> dict[str, float]:
    return {} if frame_interval is None else {"frame_interval": frame_interval}


def _refuse_columns(columns: Mapping[str, str] | None) -> None:
    if columns:
        raise DataError(
            f"columns: found {dict(columns)} with arrays, expected a table or an array "
            "with named axes; arrays are [tasks, time, nodes, features]"
        )


def _plain_states(trajectories: Any) -> Any:
    """An array, or a list with one array per system."""
    found = as_numpy(trajectories, "trajectories")
    if isinstance(found, np.ndarray):
        return found
    if not isinstance(found, list | tuple):
        raise DataError(
            f"trajectories: found {type(trajectories).__name__}, expected an array, "
            "a list of arrays, a table or a path"
        )
    if not found:
        raise DataError("trajectories: found no system, expected at least one")
    for index, system in enumerate(trajectories):
        if is_labelled(system) or _is_frame(system) or isinstance(system, Mapping):
            raise DataError(
                f"trajectories[{index}]: found a {type(system).__name__} in a list, "
                "expected arrays [time, nodes, features], or a table per system"
            )
    try:
        arrays = [
            system if isinstance(system, np.ndarray) else np.asarray(system)
            for system in found
        ]
    except ValueError as error:
        raise DataError(
            "trajectories: found nested lists of different length "
            f"({error}), expected one array [time, nodes, features] per system"
        ) from error
    shapes = {array.shape for array in arrays}
    if len(shapes) == 1 and arrays[0].ndim != 3:
        # The rows of one array, as a nested list.
        return np.stack(arrays)
    return arrays
