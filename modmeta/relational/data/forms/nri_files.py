"""The `loc`, `vel` and `edges` files that the NRI generator writes."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from modmeta.relational.data import validation
from modmeta.relational.data.forms.given import Given
from modmeta.relational.data.validation import DataError

# More distinct edge values than this are strengths, not types.
_MAX_EDGE_VALUES = 64
_SPLITS = ("train", "valid", "test")
_AXIS_NAMES = ("x", "y", "z")
FRAME_INTERVAL = 0.1


def nri_suffixes(directory: pathlib.Path) -> list[str]:
    """Lists the suffixes of the `loc_<suffix>.npy` files of a folder."""
    return sorted(
        path.stem.removeprefix("loc_") for path in directory.glob("loc_*.npy")
    )


def choose_suffixes(directory: pathlib.Path) -> list[str]:
    """Suffixes of the one data set of a folder: one, or those of its splits in order.

    Raises:
      DataError: If there is none, or there are several.
    """
    suffixes = nri_suffixes(directory)
    if not suffixes:
        raise DataError(
            f"{directory}: found a folder without loc_<suffix>.npy, expected the files "
            "of NRI in it, or the path of one file, such as a .csv or .npz"
        )
    if len(suffixes) == 1:
        return suffixes
    rests = {_split_of(suffix)[1] for suffix in suffixes}
    splits = {_split_of(suffix)[0]: suffix for suffix in suffixes}
    is_one = len(rests) == 1 and None not in splits and len(splits) == len(suffixes)
    if is_one:
        return [splits[name] for name in _SPLITS if name in splits]
    raise DataError(
        f"{directory}: found loc files with the suffixes {suffixes}, expected exactly "
        "one loc_<suffix>.npy, or one for each of train, valid and test; name the file "
        "to choose one"
    )


def read_nri(
    directory: pathlib.Path,
    suffixes: Sequence[str],
    edge_values: Sequence[float] | None = None,
    frame_interval: float = FRAME_INTERVAL,
) -> Given:
    """The files of one or several suffixes as one input, in this order.

    Raises:
      FileNotFoundError: If a `loc` file is missing.
      DataError: See `loading.load_nri`; also if the splits disagree.
    """
    parts = [_read_part(directory, suffix.removeprefix("_")) for suffix in suffixes]
    states = [part for part, _ in parts]
    edges = [part for _, part in parts]
    for suffix, part in zip(suffixes, states, strict=True):
        if part.shape[2:] != states[0].shape[2:]:
            raise DataError(
                f"{directory / f'loc_{suffix}.npy'}: found {part.shape[2]} nodes with "
                f"{part.shape[3]} features, expected {states[0].shape[2]} with "
                f"{states[0].shape[3]} as in {suffixes[0]}"
            )
    labels = num_relations = None
    if all(part is not None for part in edges):
        labels, num_relations = _relabel(edges, edge_values)
    elif any(part is not None for part in edges):
        missing = suffixes[[part is None for part in edges].index(True)]
        raise DataError(
            f"{directory}: found no edges_{missing}.npy beside those of other splits, "
            "expected edges of all splits or of none"
        )
    num_axes = _num_axes(states[0], directory, suffixes[0])
    names = _AXIS_NAMES[:num_axes]
    roles: dict[str, Any] = {"positions": tuple(range(num_axes))}
    if states[0].shape[3] > num_axes:
        names += tuple(f"v{axis}" for axis in names)
        roles["velocities"] = tuple(range(num_axes, 2 * num_axes))
    notes = ()
    if len(states) > 1:
        counts = np.cumsum([0, *map(len, states)])
        ranges = [
            f"{first} to {last - 1} are {_split_of(suffix)[0]}"
            for first, last, suffix in zip(counts, counts[1:], suffixes, strict=False)
        ]
        notes = (f"The splits of the folder are joined: systems {', '.join(ranges)}.",)
    is_even = len({part.shape[1] for part in states}) == 1
    return Given(
        states=np.concatenate(states) if is_even else [a for s in states for a in s],
        feature_names=names,
        roles=roles,
        labels=labels,
        num_relations=num_relations,
        frame_interval=frame_interval,
        notes=notes,
    )


def _split_of(suffix: str) -> tuple[str | None, str]:
    """The split that a suffix names, and the rest of it."""
    match = re.match(rf"({'|'.join(_SPLITS)})(.*)$", suffix)
    return (match[1], match[2]) if match else (None, suffix)


def _num_axes(states: np.ndarray, directory: pathlib.Path, suffix: str) -> int:
    """Axes of space of states `[tasks, time, nodes, axes]`, with velocities twice."""
    has_velocities = (directory / f"vel_{suffix.removeprefix('_')}.npy").is_file()
    return states.shape[3] // 2 if has_velocities else states.shape[3]


def _read_part(
    directory: pathlib.Path, suffix: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """States `[tasks, time, nodes, features]` and edge values of one suffix."""
    paths = {
        name: directory / f"{name}_{suffix}.npy" for name in ("loc", "vel", "edges")
    }
    if not paths["loc"].is_file():
        raise FileNotFoundError(
            f"{paths['loc']}: no such file, expected loc_<suffix>.npy; loc files in "
            f"the folder have the suffixes {nri_suffixes(directory)}"
        )
    location = read_npy(paths["loc"])
    validation.check_numeric(str(paths["loc"]), location)
    if location.ndim != 4 or not 1 <= location.shape[2] <= len(_AXIS_NAMES):
        raise DataError(
            f"{paths['loc']}: found shape {location.shape}, expected [tasks, time, 2, "
            "nodes], with one to three axes of space"
        )
    both = [location]
    if paths["vel"].is_file():
        velocity = read_npy(paths["vel"])
        validation.check_numeric(str(paths["vel"]), velocity)
        if velocity.shape != location.shape:
            raise DataError(
                f"{paths['vel']}: found shape {velocity.shape}, expected "
                f"{location.shape} as in loc"
            )
        both.append(velocity)
    states = np.ascontiguousarray(np.concatenate(both, axis=2).swapaxes(2, 3))
    edges = None
    if paths["edges"].is_file():
        edges = read_npy(paths["edges"])
        expected = (len(states), states.shape[2], states.shape[2])
        validation.check_numeric(f"{paths['edges']}: edges", edges)
        if edges.shape != expected:
            raise DataError(
                f"{paths['edges']}: edges: found shape {edges.shape}, expected "
                f"[tasks, receivers, senders], which is {expected}"
            )
    return states, edges


def read_npy(path: pathlib.Path) -> np.ndarray:
    """The array of a `.npy`.

    Raises:
      DataError: If it is damaged, or holds Python objects.
    """
    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(
            f"{path}: found a file that holds Python objects or is no .npy "
            f"({error}), expected an array of numbers"
        ) from error


def _relabel(
    parts: Sequence[np.ndarray], edge_values: Sequence[float] | None
) -> tuple[list[np.ndarray] | np.ndarray, int]:
    """Replaces edge values by their ranks; returns labels and number of types."""
    values = np.concatenate(parts)
    pairs = ~np.eye(values.shape[1], dtype=bool)
    validation.check_finite(np.where(pairs, values, 0), "edges")
    if edge_values is None:
        known = np.unique(values[:, pairs])
        if known.size > _MAX_EDGE_VALUES:
            raise DataError(
                f"edges: found {known.size} distinct values, expected at most "
                f"{_MAX_EDGE_VALUES} relation types"
            )
        known = known if known.size else np.zeros(1)
    else:
        known = np.asarray(edge_values, np.float64)
    matches = values[..., None] == known
    foreign = ~matches.any(axis=-1) & pairs
    if foreign.any():
        index = validation.first_index(foreign)
        raise DataError(
            f"edges: found value {values[index]} at index {list(index)}, expected one "
            f"of {known.tolist()}"
        )
    return np.where(pairs, np.argmax(matches, axis=-1), -1), known.size
