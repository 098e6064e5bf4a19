"""What rates add up to over the interval between two observed frames.

Over an interval of length h, a rate a adds to a velocity its impulse, the integral of
a dt, and to a position, beyond constant velocity, its moment, that of (h - t) a dt.

Letters: I intervals, S points on a path, C axes of space, O other predicted features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from modmeta.relational.modules.laws import RelativeState
from modmeta.relational.modules.motion import gauss_legendre

# Shares of a time: how near in time a passage is thought to be at least, however close,
# as a path that bends passes elsewhere; and beyond which steps are of one length.
_BRIEF, _LONG = 0.05, 10.0
# Of squared distances in spreads of position: a pair that stands still.
_TINY = 1e-12


class Integrals(NamedTuple):
    """What a rate adds over an interval.

    Attributes:
      moment: `[..., I, C]` of accelerations.
      impulse: `[..., I, C]`.
      others: `[..., I, O]` integrals of the other rates.
    """

    moment: jax.Array
    impulse: jax.Array
    others: jax.Array


def quadrature(
    accelerations: jax.Array, others: jax.Array, duration: jax.Array
) -> Integrals:
    """Gauss-Legendre sums of rates over the points of a path.

    Args:
      accelerations: `[..., I, S, C]` at the S points of `motion.gauss_legendre`.
      others: `[..., I, S, O]`.
      duration: `[..., I]`; the leading axes broadcast.
    """
    points, weights = gauss_legendre(accelerations.shape[-2])
    shape = (1,) * (accelerations.ndim - 2) + (-1, 1)
    left, weights = (1.0 - points).reshape(shape), weights.reshape(shape)
    length = jnp.broadcast_to(duration, accelerations.shape[:-2])[..., None]
    return Integrals(
        jnp.square(length) * jnp.sum(left * weights * accelerations, axis=-2),
        length * jnp.sum(weights * accelerations, axis=-2),
        length * jnp.sum(weights * others, axis=-2),
    )


def two_body_flow(
    rates: Callable[[RelativeState], tuple[jax.Array, jax.Array, jax.Array]],
    first: RelativeState,
    last: RelativeState,
    duration: jax.Array,
    num_steps: int,
) -> tuple[Integrals, jax.Array]:
    """Integrals of a law along the motion that a pair would take under it alone.

    Leapfrog, half of the steps forwards from the first state, half backwards from the
    last: the others, who pull as well, have less time to lead the pair elsewhere. Steps
    are shorter where the pair is about to pass closely, see `next_step`.

    Args:
      rates: From relative states to the accelerations of receiver and sender, both
        `[..., C]`, and the inputs `[..., inputs]` of the law.
      first: Relative states at the start, leaves `[..., I, C]`.
      last: Those at the end.
      duration: `[..., I]`; the leading axes broadcast.
      num_steps: Steps, an even number.

    Returns:
      The integrals, and the inputs at all steps `[..., I, num_steps, inputs]`.
    """
    shape = first.displacement.shape[:-1]
    duration = jnp.broadcast_to(duration, shape)[None, ..., None]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, last)
    # Backwards in time velocities point the other way, and forces do not.
    sign = jnp.reshape(jnp.array([1.0, -1.0]), (2,) + (1,) * len(shape) + (1,))

    def body(carry, num_left):
        displacement, velocity, left = carry
        step = next_step(displacement, velocity, left, num_left)
        displacement = displacement + 0.5 * step * velocity
        rate, of_sender, inputs = rates(
            RelativeState(displacement, sign * velocity, both.others)
        )
        velocity = velocity + step * (of_sender - rate)
        displacement = displacement + 0.5 * step * velocity
        # Until the middle of the interval, and from where the rate acts to its end.
        until = left - 0.5 * step
        after = 0.5 * duration + sign * until
        impulse = step * rate
        return (displacement, velocity, left - step), (impulse, after * impulse, inputs)

    half = num_steps // 2
    left = jnp.broadcast_to(0.5 * duration, (2, *shape, 1))
    _, (impulses, moments, inputs) = jax.lax.scan(
        body,
        (both.displacement, sign * both.velocity, left),
        jnp.arange(half, 0, -1, dtype=jnp.float32),
    )
    integrals = Integrals(
        jnp.sum(moments, axis=(0, 1)),
        jnp.sum(impulses, axis=(0, 1)),
        jnp.zeros((*shape, 0)),
    )
    inputs = inputs.reshape(num_steps, *inputs.shape[2:])
    return integrals, jnp.moveaxis(inputs, 0, -2)


def next_step(
    displacement: jax.Array, velocity: jax.Array, left: jax.Array, num_left: jax.Array
) -> jax.Array:
    """Length `[..., 1]` of the next of some steps that fill a time.

    As many of them per time as the pair would be near each other if it went straight:
    their number grows with one over the distance. Asked anew before every step, so that
    it follows the pair where its path bends.

    Args:
      displacement: `[..., C]`.
      velocity: `[..., C]` of the displacement.
      left: `[..., 1]` the time.
      num_left: `()` the number of steps.
    """
    # Steps are no part of what is learned.
    displacement, velocity, left = jax.lax.stop_gradient((displacement, velocity, left))
    ahead = velocity * left
    squared = jnp.sum(jnp.square(ahead), axis=-1, keepdims=True) + _TINY
    closest = -jnp.sum(displacement * ahead, axis=-1, keepdims=True) / squared
    passed_at = jnp.square(displacement + closest * ahead)
    width = jnp.sqrt(jnp.sum(passed_at, axis=-1, keepdims=True) / squared)
    # In units of the time: when the pair is nearest, and how long it stays near.
    closest = jnp.clip(closest, -_LONG, _LONG)
    width = jnp.clip(width, _BRIEF, _LONG)
    begin, end = jnp.arcsinh(-closest / width), jnp.arcsinh((1.0 - closest) / width)
    share = closest + width * jnp.sinh(begin + (end - begin) / num_left)
    return left * jnp.where(num_left > 1, jnp.clip(share, 0.0, 1.0), 1.0)
