"""Names of systems and entities of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np

from modmeta.relational.data.validation import DataError


def read_system_names(names: Any, num_tasks: int) -> tuple[str, ...] | None:
    """Names of tasks as texts; None where there are none.

    Raises:
      DataError: Unless there is one per task.
    """
    if names is None:
        return None
    found = tuple(map(str, np.asarray(names).tolist()))
    if len(found) != num_tasks:
        raise DataError(
            f"system_names: found {len(found)}, expected {num_tasks}, one per task"
        )
    return found


def read_node_names(
    names: Any, node_mask: np.ndarray
) -> tuple[tuple[str, ...], ...] | None:
    """Names of the real nodes of every task as texts; None where there are none.

    Raises:
      DataError: Unless every node has one of its own within its task.
    """
    if names is None:
        return None
    rows = [list(map(str, row)) for row in names]
    if len(rows) != len(node_mask):
        raise DataError(
            f"node_names: found {len(rows)} lists, expected {len(node_mask)}, one per "
            "task"
        )
    found = []
    for task, (row, count) in enumerate(zip(rows, node_mask.sum(axis=1), strict=True)):
        # Names of padded nodes are of no interest.
        if len(row) not in (count, node_mask.shape[1]):
            raise DataError(
                f"node_names[{task}]: found {len(row)}, expected {count}, one per node"
            )
        row = row[:count]
        if len(set(row)) < len(row):
            raise DataError(f"node_names[{task}]: found {row}, expected distinct names")
        found.append(tuple(row))
    return tuple(found)
