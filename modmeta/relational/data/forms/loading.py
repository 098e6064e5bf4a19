"""Data sets from files and folders, by name of the form or whichever it is."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from modmeta.relational.data.dataset import TrajectoryDataset
from modmeta.relational.data.forms.arrays import as_dataset, dataset_of
from modmeta.relational.data.forms.files import read_npz
from modmeta.relational.data.forms.nri_files import FRAME_INTERVAL, read_nri
from modmeta.relational.data.validation import DataError


def load(path: str | os.PathLike[str], **options: Any) -> TrajectoryDataset:
    """Reads a data set from a file or folder of any known form.

    Args:
      path: See `as_dataset`.
      **options: Of `as_dataset`.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: found a {type(path).__name__}, expected a path")
    return as_dataset(path, **options)


def load_npz(
    path: str | os.PathLike[str], *, derive_velocities: bool | str = True
) -> TrajectoryDataset:
    """Reads a data set from a `.npz`, see `data.files`.

    Args:
      path: The file, from `save_npz` or made by hand with `np.savez`.
      derive_velocities: See `as_dataset`.

    Returns:
      A validated data set.

    Raises:
      FileNotFoundError: If there is no such file.
      DataError: If it is not a `.npz`, lacks `states`, holds Python objects, or the
        data are invalid (see `validate`).
    """
    path = pathlib.Path(path)
    given = read_npz(path)
    try:
        return dataset_of(given, derive_velocities=derive_velocities)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def load_nri(
    directory: str | os.PathLike[str],
    suffix: str,
    *,
    edge_values: Sequence[float] | None = None,
    frame_interval: float = FRAME_INTERVAL,
) -> TrajectoryDataset:
    """Reads `loc`, `vel` and `edges` files in the layout of the NRI generator.

    Kipf et al., "Neural Relational Inference for Interacting Systems", ICML 2018,
    store positions and velocities as `[tasks, time, 2, nodes]` and edges as
    `[tasks, nodes, nodes]` with row = receiver. Springs hold the strengths 0, 0.5
    and 1; charges hold the products -1 and +1. The diagonal is ignored.

    Args:
      directory: Folder with `loc_<suffix>.npy` and, if there are velocities and labels,
        `vel_<suffix>.npy` and `edges_<suffix>.npy`. There may be one to three axes of
        space.
      suffix: For example "train_springs5".
      edge_values: Edge value of each label; None takes the sorted distinct values in
        the file. Give it where a small file may lack one of the values.
      frame_interval: Time between two frames.

    Returns:
      A validated data set with features such as (x, y, vx, vy).

    Raises:
      FileNotFoundError: If `loc` is missing; the message lists the suffixes that the
        folder has.
      DataError: If an array is malformed, holds Python objects, disagrees with the
        others, or holds an edge value that is not among `edge_values`.
    """
    given = read_nri(pathlib.Path(directory), [suffix], edge_values, frame_interval)
    try:
        return dataset_of(given)
    except DataError as error:
        raise DataError(f"{directory} (suffix {suffix!r}): {error}") from error
