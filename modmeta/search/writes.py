"""Entries of small arrays written by selection.

The compiler turns a scatter into a loop of its own, which takes longer to compile, and
in a search to run, than to look at all entries of a structure once.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def put(values: jax.Array, index: tuple[jax.Array, ...], new: jax.Array) -> jax.Array:
    """`values.at[index].set(new)` for one index `()` per leading axis, in range."""
    shape = values.shape[: len(index)]
    is_written = jnp.bool_(True)
    for axis, position in enumerate(index):
        places = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
        is_written = (places == position) & is_written
    is_written = is_written.reshape(*shape, *(1,) * (values.ndim - len(shape)))
    new = jnp.asarray(new, values.dtype)
    return jnp.where(is_written, new[(None,) * len(shape)], values)


def put_all(values: jax.Array, indices: jax.Array, new: jax.Array) -> jax.Array:
    """`values.at[indices].set(new)` for `[n]`, indices `[r]`, in range, and new `[r]`.

    Of values for the same index any may be written.
    """
    is_written = indices[:, None] == jnp.arange(len(values))[None]
    chosen = new[jnp.argmax(is_written, axis=0)]
    return jnp.where(jnp.any(is_written, axis=0), chosen, values)
