"""Whether pairs differ in more ways than their relations say.

Where a third kind, or a strength of every pair, is pressed into two relations, laws are
those of mixtures, and parts of recordings agree on what is wrong. A number of every
pair then explains much of what relations leave. Letters: W windows, Y predicted
changes, D other entities.
"""

from __future__ import annotations

import numpy as np

from modmeta.relational.evaluation.changes import ChangeModel, Changes
from modmeta.relational.tasks.structures import TaskStructures

# Name of the ranking of pairs that goes with numbers of all pairs.
STRENGTHS = "strengths"
# Numbers of all pairs ask for every change once per sender: for no more than this.
_MAX_MESSAGES = 700_000
# Ridge, in units of the mean square of a column.
_RIDGE = 0.01
_TINY = 1e-30


def left_by_pairs(
    changes: ChangeModel,
    structures: TaskStructures,
    found: Changes,
    strongest: int,
    early: np.ndarray,
) -> np.ndarray | None:
    """What is left if every pair also has a number times the strongest law.

    Args:
      changes: The systems under any structure.
      structures: Those found in the early windows.
      found: Changes under these.
      strongest: The relation that does most.
      early: `[tasks, nodes, W]` windows that numbers are fitted in.

    Returns:
      `[tasks, nodes, W, Y]`; None for too many or too large systems.
    """
    edges = np.asarray(structures.edge_modules)
    size = edges.shape[1]
    if early.size * (size - 1) > _MAX_MESSAGES:
        return None
    receivers, columns = np.arange(size), []
    for step in range(1, size):
        one = np.zeros(edges.shape, bool)
        one[:, receivers, (receivers + step) % size] = True
        having = structures._replace(edge_modules=np.where(one, strongest, edges))
        heard, silent = (
            changes(having, mask, effects=found.effects).expected
            for mask in (np.zeros_like(one), one)
        )
        columns.append(np.asarray(heard - silent, np.float64))
    left = np.asarray(found.observed - found.expected, np.float64)
    inputs = np.stack(columns, axis=2)  # [tasks, nodes, D, W, Y]
    known = inputs * early[:, :, None, :, None]
    squares = np.einsum("tndwy,tnewy->tnde", known, known)
    usual = np.trace(squares, axis1=2, axis2=3)[..., None, None] / (size - 1)
    squares = squares + (_RIDGE * usual + _TINY) * np.eye(size - 1)
    slopes = np.einsum("tndwy,tnwy->tnd", known, left)
    numbers = np.linalg.solve(squares, slopes[..., None])[..., 0]
    return left - np.einsum("tnd,tndwy->tnwy", numbers, inputs)
