"""Operations on known numbers, in NumPy where that gives the same numbers.

Every new shape would else be a program to compile. Arithmetic of real numbers is left
to JAX, which rounds and flushes the smallest numbers in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


def evaluate(
    primitive: Any, operands: Sequence[Any], params: dict[str, Any]
) -> list[Any]:
    """Results of a primitive, arrays of NumPy or JAX.

    Args:
      primitive: A JAX primitive.
      operands: Known arrays and numbers.
      params: Its parameters.
    """
    rule = _rule(primitive.name, operands, params)
    if rule is not None:
        arrays = [np.asarray(operand) for operand in operands]
        return [np.asarray(rule(params, *arrays))]
    results = primitive.bind(*operands, **params)
    return list(results) if primitive.multiple_results else [results]


def _rule(
    name: str, operands: Sequence[Any], params: dict[str, Any]
) -> Callable[..., Any] | None:
    """The function of parameters and arrays that is exact on these operands."""
    kinds = [_kind(operand) for operand in operands]
    if None in kinds:
        return None
    if name in _MOVES:
        return _MOVES[name]
    # Conversions to other real numbers may round twice.
    target = np.dtype(params.get("new_dtype", np.float32))
    if "f" in kinds or (target.kind not in "biu" and target != np.float32):
        return None
    return _OF_INTEGERS.get(name)


def _kind(operand: Any) -> str | None:
    """One letter: of booleans b, integers i, real numbers f; None of all else."""
    dtype = getattr(operand, "dtype", None)
    if dtype is None or jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        return None
    if dtype != jax.dtypes.canonicalize_dtype(dtype):
        return None
    return {"b": "b", "i": "i", "u": "i", "f": "f"}.get(np.dtype(dtype).kind)


def _broadcast_in_dim(params: dict[str, Any], array: np.ndarray) -> np.ndarray:
    shape, axes = params["shape"], params["broadcast_dimensions"]
    sizes = [1] * len(shape)
    for axis, size in zip(axes, array.shape, strict=True):
        sizes[axis] = size
    return np.broadcast_to(array.reshape(sizes), shape)


def _reshape(params: dict[str, Any], array: np.ndarray) -> np.ndarray:
    if params["dimensions"] is not None:
        array = np.transpose(array, params["dimensions"])
    return array.reshape(params["new_sizes"])


def _iota(params: dict[str, Any]) -> np.ndarray:
    shape, axis = params["shape"], params["dimension"]
    sizes = [size if a == axis else 1 for a, size in enumerate(shape)]
    steps = np.arange(shape[axis]).astype(params["dtype"])
    return np.broadcast_to(steps.reshape(sizes), shape)


def _slice(params: dict[str, Any], array: np.ndarray) -> np.ndarray:
    starts, stops = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * array.ndim
    return array[tuple(map(slice, starts, stops, strides))]


def _select_n(params: dict[str, Any], which: np.ndarray, *cases: np.ndarray):
    del params
    which = np.broadcast_to(which, cases[0].shape)
    return np.select([which == index for index in range(len(cases))], cases)


def _converted(params: dict[str, Any], array: np.ndarray) -> np.ndarray:
    return array.astype(params["new_dtype"])


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, *arrays: function(*arrays)


_MOVES: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": lambda params, *arrays: np.concatenate(arrays, params["dimension"]),
    "copy": _plain(np.array),
    "iota": _iota,
    "reshape": _reshape,
    "rev": lambda params, array: np.flip(array, params["dimensions"]),
    "select_n": _select_n,
    "slice": _slice,
    "squeeze": lambda params, array: np.squeeze(array, tuple(params["dimensions"])),
    "transpose": lambda params, array: np.transpose(array, params["permutation"]),
}
_OF_INTEGERS: dict[str, Callable[..., Any]] = {
    "add": _plain(np.add),
    "and": _plain(np.bitwise_and),
    "convert_element_type": _converted,
    "eq": _plain(np.equal),
    "ge": _plain(np.greater_equal),
    "gt": _plain(np.greater),
    "le": _plain(np.less_equal),
    "lt": _plain(np.less),
    "max": _plain(np.maximum),
    "min": _plain(np.minimum),
    "mul": _plain(np.multiply),
    "ne": _plain(np.not_equal),
    "not": _plain(np.invert),
    "or": _plain(np.bitwise_or),
    "sub": _plain(np.subtract),
    "xor": _plain(np.bitwise_xor),
}
