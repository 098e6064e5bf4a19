"""The `loc`, `vel` and `edges` files that the NRI generator writes."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from modmeta.relational.data import validation
from modmeta.relational.data.dataset import TrajectoryDataset, validate
from modmeta.relational.data.validation import DataError

# More distinct edge values than this are strengths, not types.
_MAX_EDGE_VALUES = 64


def load_nri(
    directory: str | os.PathLike[str],
    suffix: str,
    *,
    edge_values: Sequence[float] | None = None,
    frame_interval: float = 0.1,
) -> TrajectoryDataset:
    """Reads `loc`, `vel` and `edges` files in the layout of the NRI generator.

    Kipf et al., "Neural Relational Inference for Interacting Systems", ICML 2018,
    store positions and velocities as `[tasks, time, 2, nodes]` and edges as
    `[tasks, nodes, nodes]` with row = receiver. Springs hold the strengths 0, 0.5
    and 1; charges hold the products -1 and +1. The diagonal is ignored.

    Args:
      directory: Folder with `loc_<suffix>.npy`, `vel_<suffix>.npy` and, if labels
        are known, `edges_<suffix>.npy`.
      suffix: For example "train_springs5".
      edge_values: Edge value of each label; None takes the sorted distinct values in
        the file. Give it where a small file may lack one of the values.
      frame_interval: Time between two frames.

    Returns:
      A validated data set with features (x, y, vx, vy).

    Raises:
      FileNotFoundError: If `loc` or `vel` is missing; the message lists the suffixes
        that the folder has.
      DataError: If an array is malformed, holds Python objects, disagrees with the
        others, or holds an edge value that is not among `edge_values`.
    """
    directory = pathlib.Path(directory)
    suffix = suffix.removeprefix("_")
    paths = {
        name: directory / f"{name}_{suffix}.npy" for name in ("loc", "vel", "edges")
    }
    for name in ("loc", "vel"):
        if not paths[name].is_file():
            raise FileNotFoundError(
                f"{paths[name]}: no such file, expected loc_<suffix>.npy and "
                f"vel_<suffix>.npy; loc files in the folder have the suffixes "
                f"{nri_suffixes(directory)}"
            )
    location, velocity = (_read_npy(paths[name]) for name in ("loc", "vel"))
    for name, array in (("loc", location), ("vel", velocity)):
        validation.check_numeric(str(paths[name]), array)
        if array.ndim != 4 or array.shape[2] != 2:
            raise DataError(
                f"{paths[name]}: found shape {array.shape}, expected [tasks, time, "
                "2, nodes]"
            )
    if location.shape != velocity.shape:
        raise DataError(
            f"{paths['vel']}: found shape {velocity.shape}, expected "
            f"{location.shape} as in {paths['loc'].name}"
        )
    try:
        edges, num_relations = None, None
        if paths["edges"].is_file():
            edges, num_relations = _relabel(_read_npy(paths["edges"]), edge_values)
        states = np.concatenate([location, velocity], axis=2).swapaxes(2, 3)
        dataset = TrajectoryDataset(
            states=np.ascontiguousarray(states),
            features=validation.PARTICLE_FEATURES,
            frame_interval=frame_interval,
            edges=edges,
            num_relations=num_relations,
        )
        return validate(dataset)
    except DataError as error:
        raise DataError(f"{directory} (suffix {suffix!r}): {error}") from error


def nri_suffixes(directory: pathlib.Path) -> list[str]:
    """Lists the suffixes of the `loc_<suffix>.npy` files of a folder."""
    return sorted(
        path.stem.removeprefix("loc_") for path in directory.glob("loc_*.npy")
    )


def _read_npy(path: pathlib.Path) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(
            f"{path}: found a file that holds Python objects or is no .npy "
            f"({error}), expected an array of numbers"
        ) from error


def _relabel(
    values: np.ndarray, edge_values: Sequence[float] | None
) -> tuple[np.ndarray, int]:
    """Replaces edge values by their ranks; returns labels and number of types."""
    validation.check_numeric("edges", values)
    if values.ndim != 3 or values.shape[1] != values.shape[2]:
        raise DataError(
            f"edges: found shape {values.shape}, expected [tasks, receivers, senders]"
        )
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
