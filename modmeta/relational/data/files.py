"""Trajectory data on disk: one `.npz` per data set, never unpickled.

The `.npy` files of the NRI generator are read by `nri_files`. The arrays of a `.npz`:

| name | shape | needed | meaning |
|---|---|---|---|
| `states` | `[tasks, time, nodes, features]` | yes | see `TrajectoryDataset` |
| `edges` | `[tasks, nodes, nodes]` | no | labels, row = receiver |
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
| `derived`, `wrapped`, `lagged` | | no | written by `save_npz`, see `FeatureSpec` |

Columns without `feature_names` are called `feature_0`, `feature_1`, and so on. Give
`positions` and `velocities` where there are such columns: they share one scale.
Positions alone get velocities. An angle is best given as its sine and its cosine; a
column that wraps at a whole turn is replaced by them. NaN in `states` was not observed:
it does not count. Columns that never change are kept, and not predicted. `notes` of the
data set say what was done.
"""

from __future__ import annotations

import os
import pathlib
import zipfile

import numpy as np

from modmeta.relational.data import validation
from modmeta.relational.data.dataset import TrajectoryDataset, validate
from modmeta.relational.data.derived import prepare
from modmeta.relational.data.nri_files import load_nri, nri_suffixes
from modmeta.relational.data.validation import DataError, FeatureSpec

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
    "derived",
    "wrapped",
    "lagged",
)


def save_npz(path: str | os.PathLike[str], dataset: TrajectoryDataset) -> None:
    """Writes a data set as a compressed `.npz` that `load_npz` reads.

    Args:
      path: File to write; it must end in `.npz`.
      dataset: The data set.

    Raises:
      ValueError: If the path does not end in `.npz`.
    """
    path = pathlib.Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"path: found {str(path)!r}, expected a name ending in .npz")
    arrays = {
        "states": dataset.states,
        "node_mask": dataset.node_mask,
        "feature_names": np.array(dataset.features.names),
        "frame_interval": np.float64(dataset.frame_interval),
    }
    for role in validation.ROLES:
        arrays[role] = np.array(getattr(dataset.features, role), np.int32)
    if dataset.features.derived:
        arrays["derived"] = np.array(dataset.features.derived, np.int32)
    if dataset.features.wrapped:
        arrays["wrapped"] = np.array(dataset.features.wrapped, np.float64)
    if dataset.features.lagged:
        arrays["lagged"] = np.array(dataset.features.lagged, np.int32)
    if dataset.notes:
        arrays["notes"] = np.array(dataset.notes)
    for name in ("edges", "frame_mask", "times", "breaks"):
        if getattr(dataset, name) is not None:
            arrays[name] = getattr(dataset, name)
    if dataset.num_relations is not None:
        arrays["num_relations"] = np.int32(dataset.num_relations)
    np.savez_compressed(path, **arrays)


def load_npz(
    path: str | os.PathLike[str], *, derive_velocities: bool = True
) -> TrajectoryDataset:
    """Reads a data set from a `.npz`; the module docstring lists its arrays.

    Args:
      path: The file, from `save_npz` or made by hand with `np.savez`.
      derive_velocities: Whether positions without velocities get them.

    Returns:
      A validated data set.

    Raises:
      FileNotFoundError: If there is no such file.
      DataError: If it is not a `.npz`, lacks `states`, holds Python objects or
        unknown arrays, or the data are invalid (see `validate`).
    """
    path = pathlib.Path(path)
    arrays = _read_npz(path)
    if "states" not in arrays:
        raise DataError(
            f"{path}: found the arrays {sorted(arrays)}, expected 'states' [tasks, "
            "time, nodes, features] among them"
        )
    unknown = sorted(set(arrays) - {"states", *_OPTIONAL_ARRAYS})
    if unknown:
        raise DataError(
            f"{path}: found the unknown arrays {unknown}, expected 'states' and any "
            f"of {list(_OPTIONAL_ARRAYS)}"
        )
    try:
        states = arrays["states"]
        validation.check_states(states)
        dataset = TrajectoryDataset(
            states=states,
            features=_read_features(arrays, states.shape[-1]),
            frame_interval=_read_scalar(arrays, "frame_interval"),
            node_mask=arrays.get("node_mask"),
            edges=arrays.get("edges"),
            num_relations=_read_num_relations(arrays),
            frame_mask=arrays.get("frame_mask"),
            times=arrays.get("times"),
            breaks=arrays.get("breaks"),
            notes=tuple(_read_texts(arrays, "notes")),
        )
        unit = _read_texts(arrays, "angle_unit")
        dataset = prepare(
            dataset,
            derive_velocities=derive_velocities,
            angles=_read_columns(arrays, "angles"),
            angle_unit=unit[0] if unit else None,
        )
        return validate(dataset)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def load(
    path: str | os.PathLike[str], *, derive_velocities: bool = True
) -> TrajectoryDataset:
    """Reads a data set, whichever of the known forms it has.

    Args:
      path: A `.npz` file (see `load_npz`), a `loc_<suffix>.npy` file, or a folder
        with exactly one such file (see `load_nri`).
      derive_velocities: Whether positions without velocities get them.

    Returns:
      A validated data set.

    Raises:
      FileNotFoundError: If there is nothing at the path.
      DataError: If the form is unknown, the folder holds no or several data sets, or
        the data are invalid.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        suffixes = nri_suffixes(path)
        if len(suffixes) != 1:
            raise DataError(
                f"{path}: found loc files with the suffixes {suffixes}, expected "
                "exactly one loc_<suffix>.npy; name the file to choose one"
            )
        return load_nri(path, suffixes[0])
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.suffix == ".npy" and path.stem.startswith("loc_"):
        return load_nri(path.parent, path.stem.removeprefix("loc_"))
    if path.suffix == ".npz":
        return load_npz(path, derive_velocities=derive_velocities)
    raise DataError(
        f"{path}: found a file of unknown form, expected a .npz, a loc_<suffix>.npy "
        "or a folder with one"
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


def _read_features(arrays: dict[str, np.ndarray], num_features: int) -> FeatureSpec:
    roles = {
        role: _read_columns(arrays, role) for role in (*validation.ROLES, "derived")
    }
    for name, width, kinds in (("wrapped", 3, "iuf"), ("lagged", 2, "iu")):
        rows = arrays.get(name, np.zeros((0, width), np.int32))
        if rows.dtype.kind not in kinds or rows.shape[1:] != (width,):
            raise DataError(
                f"{name}: found dtype {rows.dtype} and shape {rows.shape}, expected "
                f"[columns, {width}]"
            )
        roles[name] = tuple(map(tuple, rows.tolist()))
    if "feature_names" in arrays:
        names = np.atleast_1d(arrays["feature_names"])
        if names.dtype.kind != "U" or names.shape != (num_features,):
            raise DataError(
                f"feature_names: found dtype {names.dtype} and shape {names.shape}, "
                f"expected {num_features} texts"
            )
        return FeatureSpec(names=tuple(names.tolist()), **roles)
    names = tuple(f"feature_{column}" for column in range(num_features))
    return FeatureSpec(names=names, **roles)


def _read_columns(arrays: dict[str, np.ndarray], name: str) -> tuple[int, ...]:
    columns = np.atleast_1d(arrays.get(name, np.zeros(0, np.int32)))
    if columns.size and (columns.dtype.kind not in "iu" or columns.ndim != 1):
        raise DataError(
            f"{name}: found dtype {columns.dtype} and shape {columns.shape}, "
            "expected a vector of feature columns"
        )
    return tuple(columns.ravel().tolist())


def _read_texts(arrays: dict[str, np.ndarray], name: str) -> list[str]:
    texts = np.atleast_1d(arrays.get(name, np.zeros(0, "U1")))
    if texts.dtype.kind != "U" or texts.ndim != 1:
        raise DataError(
            f"{name}: found dtype {texts.dtype} and shape {texts.shape}, expected text"
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
