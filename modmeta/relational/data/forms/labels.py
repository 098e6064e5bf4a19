"""True relations in the forms in which people have them, as matrices of numbers.

Everywhere in this package labels are `[tasks, receivers, senders]`, 0 to K - 1.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from modmeta.relational.data.forms.given import as_numpy
from modmeta.relational.data.validation import DataError, first_index, pair_mask

# More distinct texts than this are no relations.
_MAX_TEXTS = 64
_FORMS = (
    "[tasks, receivers, senders], one matrix [receivers, senders] for all tasks, or "
    "[tasks, nodes * (nodes - 1)] without the diagonal, row by row"
)


class Labels(NamedTuple):
    """Labels as a data set takes them.

    Attributes:
      matrices: `[tasks, nodes, nodes]`, or one matrix per task where sizes differ.
      notes: What was done, one sentence each.
    """

    matrices: Any
    notes: tuple[str, ...]


def read_labels(
    labels: Any,
    sizes: Sequence[int],
    num_real: Sequence[int] | None = None,
    name: str = "edges",
) -> Labels:
    """Brings labels of any form into that of a data set.

    Args:
      labels: `[tasks, nodes, nodes]`; one matrix `[nodes, nodes]` for all tasks;
        `[tasks, nodes * (nodes - 1)]` or `[nodes * (nodes - 1)]`, the rows of these
        matrices without the diagonal; or one matrix per task. Integers, floats that are
        integers, booleans, -1 and +1, or texts, which are numbered in their order.
      sizes: Size of the node axis of every task.
      num_real: Real nodes of every task, which come first; None where all are.
      name: What messages call them.

    Raises:
      DataError: If the shape fits none of these, or could mean two of them.
    """
    labels = as_numpy(labels, name)
    num_tasks = len(sizes)
    is_ragged = len(set(sizes)) > 1
    if isinstance(labels, list | tuple) and labels:
        labels = _stacked(labels, name)
    if isinstance(labels, list):
        if len(labels) != num_tasks:
            raise DataError(
                f"{name}: found {len(labels)} matrices, expected one for each of the "
                f"{num_tasks} systems"
            )
        matrices = [
            _square(np.asarray(matrix), size, f"{name}[{task}]")
            for task, (matrix, size) in enumerate(zip(labels, sizes, strict=True))
        ]
    elif is_ragged:
        array = np.asarray(labels)
        raise DataError(
            f"{name}: found one array of shape {array.shape} with systems of "
            f"{min(sizes)} to {max(sizes)} nodes, expected a list of one matrix "
            "[receivers, senders] per system"
        )
    else:
        array = np.asarray(labels)
        matrices = list(_matrices(array, num_tasks, int(sizes[0]), name))
    pairs = [
        pair_mask(np.arange(len(matrix))[None] < count)[0]
        for matrix, count in zip(matrices, num_real or sizes, strict=True)
    ]
    numbered, notes = _numbered(matrices, pairs, name)
    return Labels(numbered if is_ragged else np.stack(numbered), notes)


def _stacked(labels: Sequence[Any], name: str) -> Any:
    """One array where all parts have one shape, else a list."""
    try:
        parts = [np.asarray(part) for part in labels]
    except ValueError as error:
        raise DataError(
            f"{name}: found lists of different length, expected {_FORMS}"
        ) from error
    return parts if len({part.shape for part in parts}) > 1 else np.stack(parts)


def _matrices(array: np.ndarray, num_tasks: int, size: int, name: str) -> np.ndarray:
    """Labels `[tasks, size, size]` from any shape that means them."""
    if array.dtype == object and not array.ndim:
        raise DataError(
            f"{name}: found a {type(array.item()).__name__}, expected {_FORMS}"
        )
    flat = size * (size - 1)
    shapes = {
        (num_tasks, size, size): array,
        (size, size): array[None],
        (num_tasks, flat): array,
        (flat,): array[None],
    }
    if array.shape == (size, size) == (num_tasks, flat):
        raise DataError(
            f"{name}: found shape {array.shape}, which is one matrix for all tasks as "
            "well as one row per task, expected [tasks, receivers, senders]"
        )
    if array.shape not in shapes:
        raise DataError(
            f"{name}: found shape {array.shape}, expected {(num_tasks, size, size)} "
            f"to agree with the tasks and nodes of states: {_FORMS}"
        )
    values = shapes[array.shape]
    if values.ndim == 3:
        return np.broadcast_to(values, (num_tasks, size, size))
    values = np.broadcast_to(values, (num_tasks, flat))
    return np.stack([_square(row, size, name) for row in values])


def _square(matrix: np.ndarray, size: int, name: str) -> np.ndarray:
    """A matrix `[size, size]` from that, or from its rows without the diagonal."""
    if matrix.shape == (size, size):
        return matrix
    if matrix.shape != (size * (size - 1),):
        raise DataError(
            f"{name}: found shape {matrix.shape}, expected {(size, size)} for "
            "[receivers, senders] of its system"
        )
    # What stands on the diagonal is not looked at; it must be of the same kind.
    filled = np.full((size, size), matrix[0] if matrix.size else 0, matrix.dtype)
    filled[~np.eye(size, dtype=bool)] = matrix
    return filled


def _numbered(
    matrices: list[np.ndarray], pairs: list[np.ndarray], name: str
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Numbers in place of booleans, texts and signs."""
    matrices = [
        _as_numbers(matrix, is_pair)
        for matrix, is_pair in zip(matrices, pairs, strict=True)
    ]
    kinds = {matrix.dtype.kind for matrix in matrices}
    if kinds <= {"U", "O", "T"}:
        return _from_texts(matrices, pairs, name)
    if not kinds <= set("biuf"):
        found = next(m.dtype for m in matrices if m.dtype.kind not in "biuf")
        raise DataError(f"{name}: found dtype {found}, expected numbers or texts")
    matrices = [m.astype(np.int8) if m.dtype.kind == "b" else m for m in matrices]
    known = _distinct(matrices, pairs)
    if known.tolist() != [-1, 1]:
        return matrices, ()
    return [(matrix > 0).astype(np.int8) for matrix in matrices], (
        "Labels -1 and 1 are called 0 and 1.",
    )


def _as_numbers(matrix: np.ndarray, is_pair: np.ndarray) -> np.ndarray:
    """Python's numbers as those of NumPy, whatever stands where there is no pair."""
    is_number = (numbers.Real, np.bool_)
    if matrix.dtype != object or not is_pair.any():
        return matrix
    if not all(isinstance(value, is_number) for value in matrix[is_pair]):
        return matrix
    return np.where(is_pair, matrix, 0).astype(np.float64)


def _from_texts(
    matrices: list[np.ndarray], pairs: list[np.ndarray], name: str
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    texts = []
    for task, (matrix, is_pair) in enumerate(zip(matrices, pairs, strict=True)):
        wrong = is_pair & ~np.vectorize(_is_text, otypes=[bool])(matrix)
        if wrong.any():
            index = first_index(wrong)
            raise DataError(
                f"{name}: found {matrix[index]!r} at index {[task, *index]}, expected "
                "a text or numbers everywhere"
            )
        texts.append(np.where(is_pair, matrix, "").astype(str))
    known = _distinct(texts, pairs)
    if len(known) > _MAX_TEXTS:
        raise DataError(
            f"{name}: found {len(known)} distinct texts, expected at most {_MAX_TEXTS} "
            "relations"
        )
    numbers = [
        np.where(is_pair, np.searchsorted(known, text), 0).astype(np.int32)
        for text, is_pair in zip(texts, pairs, strict=True)
    ]
    called = ", ".join(
        f"{text!r} is {rank}" for rank, text in enumerate(known.tolist())
    )
    return numbers, (f"Labels are numbered in their order: {called}.",)


def _distinct(matrices: list[np.ndarray], pairs: list[np.ndarray]) -> np.ndarray:
    """The values on pairs of real nodes, sorted."""
    values = [np.unique(m[pair]) for m, pair in zip(matrices, pairs, strict=True)]
    return np.unique(np.concatenate(values))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""
