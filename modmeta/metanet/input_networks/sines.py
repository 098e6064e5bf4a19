"""A sine made of sums and products, which the CPU computes on whole vectors.

XLA's own sine covers arguments of any size and takes several nanoseconds per number on
a CPU: most of the time of training small sine networks.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

# Pi in three parts, the first ones with few bits: multiples of them are exact.
_PI_PARTS = (3.140625, 9.67502593994140625e-4, 1.509957990978376432e-7)
_LARGEST = 1.58  # a little more than half of pi
# Taylor series on [-pi/2, pi/2]; the first term left out is below 6e-8.
_SINE = tuple((-1) ** n / math.factorial(2 * n + 1) for n in range(6))
_COSINE = tuple((-1) ** n / math.factorial(2 * n) for n in range(7))


def _polynomial(coefficients: tuple[float, ...], square: jax.Array) -> jax.Array:
    value = jnp.full_like(square, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * square + coefficient
    return value


def _reduce(angles: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Remainders within +-pi/2, and the sign that sine and cosine take there."""
    halves = jnp.round(angles * (1.0 / math.pi))
    for part in _PI_PARTS:
        angles = angles - halves * part
    # Of huge angles rounding is left, which a polynomial would make infinite.
    angles = jnp.clip(angles, -_LARGEST, _LARGEST)
    return angles, 1.0 - 2.0 * jnp.abs(halves - 2.0 * jnp.round(0.5 * halves))


@jax.custom_jvp
def polynomial_sine(angles: jax.Array) -> jax.Array:
    """The sine of float32 angles up to some thousands, to 3e-7.

    Args:
      angles: In radians.
    """
    remainder, sign = _reduce(angles)
    return sign * remainder * _polynomial(_SINE, remainder * remainder)


@polynomial_sine.defjvp
def _polynomial_sine_jvp(primals, tangents):
    (angles,), (direction,) = primals, tangents
    remainder, sign = _reduce(angles)
    square = remainder * remainder
    sine = sign * remainder * _polynomial(_SINE, square)
    return sine, sign * _polynomial(_COSINE, square) * direction
