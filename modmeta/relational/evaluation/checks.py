"""Checks of edge arrays and edge probabilities."""

import numpy as np
import numpy.typing as npt


def check_relations(
    name: str, array: npt.ArrayLike, num_relations: int | None = None
) -> np.ndarray:
    """Returns an edge array as NumPy, after checking its shape, dtype and range.

    Args:
      name: what to call the array in messages.
      array: `[S, N, N]`, integers from -1 upwards.
      num_relations: number of relations, or None for any.

    Raises:
      TypeError: if the array does not hold integers.
      ValueError: if the shape is not `[S, N, N]`, or a relation is out of range.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: found {array.dtype}, expected integers")
    if array.ndim != 3 or array.shape[1] != array.shape[2]:
        raise ValueError(
            f"{name}: found shape {list(array.shape)}, expected [systems, nodes, nodes]"
        )
    wrong = array < -1
    if num_relations is not None:
        wrong |= array >= num_relations
    if wrong.any():
        index = [int(axis[0]) for axis in np.nonzero(wrong)]
        upper = "" if num_relations is None else f" to {num_relations - 1}"
        raise ValueError(
            f"{name}: found {array[tuple(index)]} at index {index}, expected relations "
            f"from 0{upper}, or -1 where there is no edge"
        )
    return array


def check_probabilities(
    probabilities: npt.ArrayLike, edges_shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """Returns edge probabilities as NumPy, after checking their shape and dtype.

    Args:
      probabilities: `[S, N, N, F]`.
      edges_shape: the shape `[S, N, N]` to agree with, or None.

    Raises:
      TypeError: if they are not floating-point numbers.
      ValueError: if the shape is another.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.dtype.kind != "f":
        raise TypeError(f"probabilities: found {probabilities.dtype}, expected floats")
    shape = probabilities.shape
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] == 0:
        raise ValueError(
            f"probabilities: found shape {list(shape)}, expected [systems, nodes, "
            "nodes, relations]"
        )
    if edges_shape is not None:
        check_same_shape("probabilities[..., 0]", shape[:3], "edges", edges_shape)
    return probabilities


def check_same_shape(
    name: str, shape: tuple[int, ...], other: str, other_shape: tuple[int, ...]
) -> None:
    """Refuses an array whose shape is not that of another one.

    Raises:
      ValueError: If the shapes differ.
    """
    if shape != other_shape:
        raise ValueError(
            f"{name}: found shape {list(shape)}, expected {list(other_shape)}, as "
            f"{other} has"
        )
