"""The arrays among the variables of a network: parameters, their types, the others."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Types that float32 holds exactly, and the one that it rounds.
EXACT_DTYPES = ("float32", "bfloat16", "float16")
LEAF_DTYPES = (*EXACT_DTYPES, "float64")


class LeafSpec(NamedTuple):
    """One array of the variables of a network.

    Attributes:
      path: Keys from the root of the tree to the array.
      shape: Its shape.
      dtype: Name of its type.
      offset: Index of its first entry in the vector of all parameters.
      position: Index among the leaves of the tree.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    offset: int
    position: int

    @property
    def name(self) -> str:
        """The path as text, "params/Dense_0/kernel"."""
        return "/".join(self.path)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


def path_names(path: Any) -> tuple[str, ...]:
    """The keys of a path of JAX as texts; a variable of NNX is its value."""
    keys = tuple(path)
    if len(keys) > 1 and getattr(keys[-1], "name", None) == "value":
        keys = keys[:-1]
    return tuple(map(_key_name, keys))


def _key_name(key: Any) -> str:
    for field in ("key", "name", "idx"):
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key)


class StateLeaf(NamedTuple):
    """An array among the variables that is no parameter: integers, booleans, keys.

    Attributes:
      name: Path, as text.
      position: Index among the leaves of the tree.
      value: The array of the traced network, or its `jax.ShapeDtypeStruct`, which
        stands for zeros.
      is_used: True if the output depends on it.
    """

    name: str
    position: int
    value: Any
    is_used: bool


def leaf_specs(
    variables: Any,
) -> tuple[tuple[LeafSpec, ...], tuple[StateLeaf, ...], Any]:
    """Describes the arrays of a variables tree.

    Args:
      variables: Tree of arrays or `jax.ShapeDtypeStruct`.

    Returns:
      One `LeafSpec` per array of floating-point numbers, one `StateLeaf` per other
      array, not used, and the tree structure.

    Raises:
      ValueError: If a leaf is not an array, or of other numbers than `LEAF_DTYPES`.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(variables)
    leaves, state, offset = [], [], 0
    for position, (path, leaf) in enumerate(paths):
        names = path_names(path)
        kinds = jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct
        dtype = leaf.dtype if isinstance(leaf, kinds) else None
        if dtype is not None and not jax.dtypes.issubdtype(dtype, np.inexact):
            state.append(StateLeaf("/".join(names), position, leaf, False))
            continue
        if dtype is None:
            name = "/".join(names) or "variables"
            raise ValueError(
                f"{name}: found a {type(leaf).__name__}, which is no array, "
                "expected arrays alone: settings and functions belong into the model, "
                "for example by equinox.partition(module, equinox.is_array)"
            )
        if str(dtype) not in LEAF_DTYPES:
            raise ValueError(
                f"{'/'.join(names)}: found type {dtype}, expected one of "
                f"{', '.join(LEAF_DTYPES)}"
            )
        leaves.append(LeafSpec(names, tuple(leaf.shape), str(dtype), offset, position))
        offset += leaves[-1].size
    return tuple(leaves), tuple(state), structure


def typed(values: Any, dtype: str, given: Any) -> Any:
    """Values in a type; what float32 rounds is as it was given, unless changed."""
    if dtype in EXACT_DTYPES:
        return jnp.asarray(values, dtype)
    is_traced = any(isinstance(item, jax.core.Tracer) for item in (values, given))
    xp = jnp if is_traced else np
    wide = xp.asarray(
        values, jax.dtypes.canonicalize_dtype(dtype) if is_traced else dtype
    )
    if given is None or values.dtype != np.float32:
        return wide
    given = xp.asarray(given, wide.dtype)
    return xp.where(given.astype(np.float32) == values, given, wide)
