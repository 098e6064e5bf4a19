"""Trajectory data as named arrays: one `.npz` per data set, never unpickled.

The `.npy` files of the NRI generator are read by `nri_files`, tables by `table_files`.
The arrays of a `.npz`:

| name | shape | needed | meaning |
|---|---|---|---|
| `states` | `[tasks, time, nodes, features]` | yes | see `TrajectoryDataset` |
| `edges` | `[tasks, nodes, nodes]` | no | labels, row = receiver; see `labels` |
| `node_mask` | `[tasks, nodes]`, bool | no | real nodes; default: all |
| `num_relations` | scalar | no | default: largest label + 1 |
| `feature_names` | `[features]`, text | no | default: see below |
| `positions`, `velocities` | vectors of columns | no | default: none |
| `sines`, `cosines` | vectors of columns | no | of the same angles; default: none |
| `angles` | vector of columns | no | angles, in `angle_unit`; default: what wraps |
| `angle_unit` | text | no | "radians" or "degrees"; default: by the values |
| `frame_interval` | scalar | no | default: median step of `times`, or 1 |
| `frame_mask` | `[tasks, time, nodes]`, bool | no | observed entries; default: all |
| `times` | `[tasks, time]` or `[time]` | no | of the frames; default: regular |
| `breaks` | the same, bool | no | frames that follow from none; default: none |
| `notes` | vector of text | no | what was done to the data |
| `system_names` | `[tasks]`, text | no | default: numbers |
| `node_names` | `[tasks, nodes]`, text | no | default: numbers |
| `derived`, `wrapped`, `periodic`, `lagged` | | no | of `save_npz`, see `FeatureSpec` |

`labels` is another name of `edges`. `states` may also be `[time, nodes, features]`, for
one task, and columns may be named as well as numbered. Other arrays are left out, with
a note. Columns without `feature_names` are called `feature_0`, `feature_1`, and so on.
Give `positions` and `velocities` where there are such columns: they share one scale.
Positions alone get velocities. An angle is best given as its sine and its cosine; a
column that wraps at a whole turn is replaced by them. NaN in `states` was not observed:
it does not count. Columns that never change are kept, and not predicted. `notes` of the
data set say what was done.
"""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from modmeta.relational.data import validation
from modmeta.relational.data.dataset import TrajectoryDataset, check_dataset
from modmeta.relational.data.forms.given import Given, as_numpy
from modmeta.relational.data.validation import DataError
from modmeta.runtime.files import atomic_write, npz_path

_OPTIONAL_ARRAYS = (
    "edges",
    "node_mask",
    "num_relations",
    "feature_names",
    *validation.ROLES,
    "angles",
    "angle_unit",
    "frame_interval",
    "frame_mask",
    "times",
    "breaks",
    "notes",
    "system_names",
    "node_names",
    "derived",
    "wrapped",
    "periodic",
    "lagged",
)


def save_npz(path: str | os.PathLike[str], dataset: TrajectoryDataset) -> pathlib.Path:
    """Writes a data set as a compressed `.npz` that `load` reads.

    Args:
      path: File to write; `.npz` is added where it is missing.
      dataset: The data set.

    Returns:
      The file that was written.

    Raises:
      ValueError: If `path` is no path.
    """
    path = npz_path(path)
    arrays = {
        "states": check_dataset(dataset).states,
        "node_mask": dataset.node_mask,
        "feature_names": np.array(dataset.features.names),
        "frame_interval": np.float64(dataset.frame_interval),
    }
    for role in validation.ROLES:
        arrays[role] = np.array(getattr(dataset.features, role), np.int32)
    if dataset.features.derived:
        arrays["derived"] = np.array(dataset.features.derived, np.int32)
    for name in ("wrapped", "periodic"):
        if getattr(dataset.features, name):
            arrays[name] = np.array(getattr(dataset.features, name), np.float64)
    if dataset.features.lagged:
        arrays["lagged"] = np.array(dataset.features.lagged, np.int32)
    if dataset.notes:
        arrays["notes"] = np.array(dataset.notes)
    for name in ("system_names", "node_names"):
        if getattr(dataset, name) is not None:
            arrays[name] = np.array(getattr(dataset, name), str)
    for name in ("edges", "frame_mask", "times", "breaks"):
        if getattr(dataset, name) is not None:
            arrays[name] = getattr(dataset, name)
    if dataset.num_relations is not None:
        arrays["num_relations"] = np.int32(dataset.num_relations)
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)
    return path


def read_npz(path: pathlib.Path) -> Given:
    """What a `.npz` holds; the module docstring lists its arrays.

    Raises:
      FileNotFoundError: If there is no such file.
      DataError: If it is not a `.npz`, lacks `states` or holds Python objects.
    """
    arrays = _read_npz(path)
    try:
        return read_arrays(arrays)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def read_arrays(arrays: Mapping[str, Any]) -> Given:
    """Arrays by their names, those of the module docstring.

    Raises:
      DataError: If `states` is missing, or an array is not what it should be.
    """
    arrays = {str(name): np.asarray(as_numpy(a, name)) for name, a in arrays.items()}
    if "states" not in arrays:
        raise DataError(
            f"found the arrays {sorted(arrays)}, expected 'states' [tasks, time, "
            "nodes, features] among them"
        )
    if "labels" in arrays and "edges" not in arrays:
        arrays["edges"] = arrays.pop("labels")
    notes = _read_texts(arrays, "notes")
    unknown = sorted(set(arrays) - {"states", *_OPTIONAL_ARRAYS})
    if unknown:
        notes.append(
            f"Left out of the file: the arrays {', '.join(map(repr, unknown))}, which "
            "mean nothing here."
        )
    unit = _read_texts(arrays, "angle_unit")
    roles = {
        role: _read_columns(arrays, role)
        for role in (*validation.ROLES, "angles")
        if role in arrays
    }
    names = None
    if "feature_names" in arrays:
        names = tuple(_read_texts(arrays, "feature_names"))
    system_names = node_names = None
    if "system_names" in arrays:
        system_names = _read_texts(arrays, "system_names")
    if "node_names" in arrays:
        node_names = arrays["node_names"].tolist()
    return Given(
        states=arrays["states"],
        feature_names=names,
        roles=roles,
        angle_unit=unit[0] if unit else None,
        labels=arrays.get("edges"),
        num_relations=_read_num_relations(arrays),
        node_mask=arrays.get("node_mask"),
        frame_mask=arrays.get("frame_mask"),
        times=arrays.get("times"),
        breaks=arrays.get("breaks"),
        frame_interval=_read_scalar(arrays, "frame_interval"),
        system_names=system_names,
        node_names=node_names,
        derived=_read_columns(arrays, "derived"),
        wrapped=_read_rows(arrays, "wrapped", 3, "iuf"),
        periodic=_read_rows(arrays, "periodic", 3, "iuf"),
        lagged=_read_rows(arrays, "lagged", 2, "iu"),
        notes=tuple(notes),
    )


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: found a file that is no .npz archive, expected one")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: found one array, expected a .npz archive")
            return {name: _entry(path, archive, name) for name in archive.files}
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{path}: found a damaged .npz archive ({error})") from error


def _entry(path: pathlib.Path, archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        entry = archive[name]
    except ValueError as error:
        raise DataError(
            f"{path}: found an array {name!r} that holds Python objects or is damaged "
            f"({error}), expected numbers or text"
        ) from error
    if not isinstance(entry, np.ndarray):
        raise DataError(f"{path}: found {name!r}, expected arrays only")
    return entry


def _read_rows(arrays, name: str, width: int, kinds: str) -> tuple[tuple, ...]:
    rows = arrays.get(name, np.zeros((0, width), np.int32))
    if rows.dtype.kind not in kinds or rows.shape[1:] != (width,):
        raise DataError(
            f"{name}: found dtype {rows.dtype} and shape {rows.shape}, expected "
            f"[columns, {width}]"
        )
    return tuple(map(tuple, rows.tolist()))


def _read_columns(arrays: dict[str, np.ndarray], name: str) -> tuple[Any, ...]:
    columns = np.atleast_1d(arrays.get(name, np.zeros(0, np.int32)))
    if columns.size and (columns.dtype.kind not in "iuU" or columns.ndim != 1):
        raise DataError(
            f"{name}: found dtype {columns.dtype} and shape {columns.shape}, "
            "expected a vector of feature columns, by number or by name"
        )
    return tuple(columns.ravel().tolist())


def _read_texts(arrays: dict[str, np.ndarray], name: str) -> list[str]:
    texts = np.atleast_1d(arrays.get(name, np.zeros(0, "U1")))
    if texts.dtype.kind != "U" or texts.ndim != 1:
        raise DataError(
            f"{name}: found dtype {texts.dtype} and shape {texts.shape}, expected a "
            "vector of texts"
        )
    return texts.tolist()


def _read_scalar(arrays: dict[str, np.ndarray], name: str) -> float | None:
    if name not in arrays:
        return None
    value = arrays[name]
    if value.dtype.kind not in "iuf" or value.size != 1:
        raise DataError(
            f"{name}: found dtype {value.dtype} and shape {value.shape}, expected one "
            "number"
        )
    return float(value.item())


def _read_num_relations(arrays: dict[str, np.ndarray]) -> int | None:
    value = _read_scalar(arrays, "num_relations")
    if value is None:
        return None
    if value != int(value):
        raise DataError(f"num_relations: found {value}, expected an integer")
    return int(value)
