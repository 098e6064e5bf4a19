"""Checks of what a training is given, before anything is compiled."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np


def check_predictor(predictor: Any, params: Any) -> None:
    """Raises ValueError for what is no predictor, and a result without `.params`.

    Args:
      predictor: What shall be a predictor.
      params: Its parameters, None if there are none yet.
    """
    parts = [getattr(predictor, name, None) for name in ("init", "apply")]
    if isinstance(predictor, type) or not all(map(callable, parts)):
        found = getattr(predictor, "__name__", type(predictor).__name__)
        raise ValueError(
            f"predictor: found {found}, expected a predictor, such as "
            "GraphPredictor(module)"
        )
    if isinstance(predictor, nn.Module):
        raise ValueError(
            f"predictor: found a module, {type(predictor).__name__}, expected a "
            "predictor of it, such as GraphPredictor(module)"
        )
    if hasattr(params, "params"):
        raise ValueError(
            f"params: found {type(params).__name__}, expected its field params"
        )


def check_source(source: Any) -> None:
    """Raises ValueError for what is no source of networks."""
    if not (hasattr(source, "sizes") and callable(getattr(source, "batch", None))):
        raise ValueError(
            f"source: found {type(source).__name__}, expected networks as a "
            "GraphSource or a VectorSource"
        )


def check_objective(objective: Any) -> None:
    """Raises ValueError for what is no function."""
    if not callable(objective):
        raise ValueError(
            f"objective: found {objective!r}, expected a function of outputs and "
            "targets, such as optax.squared_error"
        )


def checked_rows(field: str, rows: Any, count: int) -> np.ndarray:
    """Numbers `[k]` of networks as an array.

    Args:
      field: Name for messages.
      rows: The numbers.
      count: How many networks there are.

    Raises:
      ValueError: If they are no integers in one axis, or not from 0 to `count - 1`.
    """
    array = np.asarray(rows)
    if array.size == 0 and array.ndim == 1:
        return array.astype(np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{field}: found {array.dtype} of shape {array.shape}, expected numbers of "
            "networks (k,), integers"
        )
    if array.min() < 0 or array.max() >= count:
        raise ValueError(
            f"{field}: found network {array.max() if array.min() >= 0 else array.min()}"
            f", expected 0 to {count - 1}"
        )
    return array


def checked_splits(
    splits: Mapping[str, Any], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Networks to train on and to choose by.

    Raises:
      ValueError: If a split is missing or empty, or a network is in both.
    """
    if not isinstance(splits, Mapping):
        raise ValueError(
            f"splits: found {type(splits).__name__}, expected numbers of networks by "
            "name, train and valid"
        )
    missing = [name for name in ("train", "valid") if name not in splits]
    if missing:
        raise ValueError(
            f"splits: found {', '.join(splits) or 'none'}, expected train and valid"
        )
    train, valid = (
        checked_rows(f"splits[{name!r}]", splits[name], count)
        for name in ("train", "valid")
    )
    shared = np.intersect1d(train, valid)
    if not len(train) or not len(valid) or len(shared):
        raise ValueError(
            f"splits: found {len(train)} networks to train, {len(valid)} to "
            f"choose and {len(shared)} for both, expected some, some and none"
        )
    return train, valid


def rows_with_targets(
    targets: Any, splits: Mapping[str, np.ndarray], count: int
) -> list[np.ndarray]:
    """The networks of every split whose targets are finite.

    A network whose result is NaN or infinite has nothing to learn from; a warning says
    how many there are.

    Args:
      targets: Pytree with leaves `[n, ...]`.
      splits: Networks whose targets are needed, by the name of their split.
      count: n.

    Raises:
      ValueError: If a leaf is no array of numbers with a row per network, or no network
        of a split has finite targets; the message names the leaf.
    """
    if not jax.tree.leaves(targets):
        raise ValueError(f"targets: found {targets!r}, expected an array")
    is_finite = np.ones(count, bool)
    for path, leaf in jax.tree_util.tree_leaves_with_path(targets):
        name = "targets" + jax.tree_util.keystr(path)
        if not hasattr(leaf, "shape") or leaf.shape[:1] != (count,):
            found = getattr(leaf, "shape", type(leaf).__name__)
            raise ValueError(
                f"{name}: found {found}, expected an array with a row for each of "
                f"{count} networks"
            )
        values = np.asarray(leaf)
        kinds = (np.floating, np.integer, np.bool_)
        if not any(jax.dtypes.issubdtype(values.dtype, kind) for kind in kinds):
            raise ValueError(f"{name}: found {values.dtype}, expected real numbers")
        if jax.dtypes.issubdtype(values.dtype, np.inexact):
            is_finite &= np.isfinite(values).reshape(count, -1).all(axis=1)
        for split, rows in splits.items():
            if not is_finite[rows].any():
                raise ValueError(
                    f"{name}: found NaN or infinite numbers for all {len(rows)} "
                    f"networks of the split {split}, expected finite ones for some"
                )
    missing = [(split, rows, is_finite[rows]) for split, rows in splits.items()]
    if not all(kept.all() for _, _, kept in missing):
        counts = [f"{(~kept).sum()} of {len(kept)} ({s})" for s, _, kept in missing]
        warnings.warn(
            "targets: found NaN or infinite numbers for some networks, which are left "
            f"out: {', '.join(counts)}",
            stacklevel=3,
        )
    return [rows[kept] for _, rows, kept in missing]


def checked_losses(losses: jax.Array, targets: Any) -> jax.Array:
    """Losses `[b]` of a batch.

    Args:
      losses: What an objective made of outputs and targets.
      targets: Leaves `[b, ...]`.

    Raises:
      ValueError: If they are not one per network: outputs `[b]` less targets `[b, 1]`
        compare every network with every other.
    """
    leaves = jax.tree.leaves(targets)
    if losses.shape != leaves[0].shape[:1]:
        shapes = ", ".join(str(leaf.shape) for leaf in leaves)
        raise ValueError(
            f"objective: found losses of shape {losses.shape} for targets of shape "
            f"{shapes}, expected one per network: outputs and targets may be of "
            "different shape"
        )
    return losses
