"""Random choices of a move, from as few calls of the generator as can be.

Every call is a loop of its own in the program, which takes longer to compile than to
run: what a move needs is drawn at once and handed out.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

# Numbers are drawn so many at a time: the compiler writes out a short loop of an odd
# length number by number, in programs ten times as long.
_MULTIPLE = 16


def uniforms(rng_key: jax.Array, *shapes: tuple[int, ...]) -> list[jax.Array]:
    """Independent uniform numbers in [0, 1), one array per shape; consumes the key."""
    sizes = [math.prod(shape) for shape in shapes]
    drawn = jax.random.uniform(rng_key, (-(-sum(sizes) // _MULTIPLE) * _MULTIPLE,))
    parts = jnp.split(drawn, [sum(sizes[: i + 1]) for i in range(len(sizes))])[:-1]
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def categorical(uniform: jax.Array, logits: jax.Array) -> jax.Array:
    """Indices drawn from the softmax over the last axis.

    The index of the highest sum of a logit and Gumbel noise.

    Args:
      uniform: Independent uniform numbers, of the shape of `logits`.
      logits: `[..., n]`; where all are minus infinity the index is 0.
    """
    tiny = jnp.finfo(uniform.dtype).tiny
    noise = -jnp.log(-jnp.log(jnp.maximum(uniform, tiny)))
    return jnp.argmax(logits + noise, axis=-1)


def allowed(mask: jax.Array) -> jax.Array:
    """Logits under which every index with a true mask is as likely."""
    return jnp.where(mask, 0.0, -jnp.inf)


def uniform_index(rng_key: jax.Array, mask: jax.Array) -> jax.Array:
    """A uniformly drawn index at which `mask` `[n]` is true (0 if there is none)."""
    return categorical(jax.random.uniform(rng_key, mask.shape), allowed(mask))
