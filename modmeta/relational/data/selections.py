"""Which tasks and frames of a data set somebody asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from modmeta.relational.data.validation import DataError
from modmeta.runtime import option_types


def read_tasks(indices: Any, num_tasks: int) -> Any:
    """Indices of tasks as NumPy takes them: integers, a mask `[tasks]` or a slice.

    Raises:
      DataError: If there is no such task, or they are no indices.
    """
    if isinstance(indices, slice):
        return indices
    found = np.asarray(indices)
    if not found.size:
        return found.astype(np.int64)
    if found.dtype == bool:
        if found.shape != (num_tasks,):
            raise DataError(
                f"indices: found a mask of shape {found.shape}, expected ({num_tasks},)"
            )
    elif found.dtype.kind not in "iu" or found.ndim != 1:
        raise DataError(
            f"indices: found dtype {found.dtype} with shape {found.shape}, expected "
            "whole numbers, a mask of the tasks or a slice"
        )
    elif found.min() < -num_tasks or found.max() >= num_tasks:
        worst = found.max() if found.max() >= num_tasks else found.min()
        raise DataError(
            f"indices: found task {worst}, expected 0 to {num_tasks - 1}, or negative "
            "ones from the end"
        )
    return found


def read_count(name: str, value: Any) -> int:
    """A whole number.

    Raises:
      DataError: If it is none.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise DataError(f"{name}: found {value!r}, expected a whole number")
    return int(value)


def read_sizes(sizes: Any, num_tasks: int) -> tuple[int, ...]:
    """Numbers of tasks of disjoint parts.

    Raises:
      DataError: If they are no whole numbers from 0 on, or more than there are.
    """
    if not isinstance(sizes, Sequence | np.ndarray) or isinstance(sizes, str):
        raise DataError(
            f"split: found sizes {sizes!r}, expected several, such as (8, 2)"
        )
    sizes = tuple(read_count("split", size) for size in sizes)
    if min(sizes, default=0) < 0 or sum(sizes) > num_tasks:
        raise DataError(
            f"split: found sizes {sizes} with sum {sum(sizes)}, expected "
            f"non-negative sizes with a sum of at most {num_tasks} tasks"
        )
    return sizes


def order_of(num_tasks: int, seed: int | None) -> np.ndarray:
    """Numbers `[num_tasks]` of all tasks, shuffled by a seed.

    Raises:
      ValueError: If the seed is no whole number from 0 on.
    """
    order = np.arange(num_tasks)
    if seed is None:
        return order
    return np.random.default_rng(option_types.check_seed(seed)).permutation(order)
