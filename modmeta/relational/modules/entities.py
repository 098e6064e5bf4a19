"""What differs between entities and is in no column: masses, natural frequencies.

The change of a receiver is taken as factor * (sum of its messages) + offset + what acts
on it alone. Factor and offset have Gaussian priors around 1 and 0, and are found in
closed form for every receiver under every structure; energies are negative logarithms
of the evidence, with both integrated out. The spreads of the priors are learned (type
II maximum likelihood): where entities are alike, they vanish.

Letters: W windows, Y predicted changes, R rates (of every axis, then of others).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Standard deviations of the priors at the start: of a factor, and of an offset in units
# of the typical change.
_FIRST_SPREAD = 0.3
# Spreads change by orders of magnitude while other parameters change by a few units.
_GAIN = 10.0
_MIN_SPREAD = 1e-4
# No entity turns an attraction into a repulsion.
_MIN_FACTOR = 0.02
# Passes of iterated least squares: the first knows nothing about outliers.
_PASSES = 3


class Effects(NamedTuple):
    """What a receiver has of its own.

    Attributes:
      factor: `[...]` by which it is moved more than the laws say, such as 1 / mass.
      offsets: `[..., R]` rates, in units of typical ones.
    """

    factor: jax.Array
    offsets: jax.Array


class Design(NamedTuple):
    """What effects would change over the windows of a receiver.

    Attributes:
      pull: `[..., W, Y]` sum of the messages, of which there is one factor.
      unit: `[..., W, Y]` change by an offset of 1.
      rate_of_target: `[Y, R]` one-hot, whose offset moves a target.
    """

    pull: jax.Array
    unit: jax.Array
    rate_of_target: jax.Array


def init_spreads(num_rates: int) -> jax.Array:
    """Parameters `[1 + R]` of the spreads: of the factor, then of every offset."""
    logit = np.log(_FIRST_SPREAD / (1.0 - _FIRST_SPREAD))
    return jnp.full((1 + num_rates,), logit / _GAIN, jnp.float32)


def spreads_of(parameters: jax.Array) -> jax.Array:
    """Standard deviations `[1 + R]` of the priors, below 1.

    Beyond, a factor or an offset could stand for any graph.
    """
    return jnp.maximum(jax.nn.sigmoid(_GAIN * parameters), _MIN_SPREAD)


def fit(
    design: Design, errors: jax.Array, precision: jax.Array, spreads: jax.Array
) -> tuple[Effects, jax.Array]:
    """Most likely effects, and what they cost.

    Args:
      design: What effects would change.
      errors: `[..., W, Y]` targets minus what laws say at factor 1 and offset 0.
      precision: `[..., W, Y]` inverse variances, zero where nothing was observed.
      spreads: `[1 + R]`, see `spreads_of`.

    Returns:
      The effects, and the nats `[...]` by which the evidence falls short of the
      likelihood under them.
    """

    def total(values):
        """Sums over windows, by rate: `[..., R]`."""
        return jnp.sum(values, axis=-2) @ design.rate_of_target

    pull, unit = design.pull, design.unit
    prior = jnp.square(1.0 / spreads)
    prior_offset = jnp.reshape(prior[1:], (1,) * (errors.ndim - 2) + (-1,))
    curvature = total(precision * unit * unit) + prior_offset
    mixed = total(precision * unit * pull)
    slope = total(precision * unit * errors)
    own = jnp.sum(precision * pull * pull, axis=(-2, -1)) + prior[0]
    left = own - jnp.sum(mixed * mixed / curvature, axis=-1)
    gain = jnp.sum(precision * pull * errors, axis=(-2, -1))
    gain = gain - jnp.sum(mixed * slope / curvature, axis=-1)
    surplus = jnp.maximum(gain / jnp.maximum(left, prior[0]), _MIN_FACTOR - 1.0)
    offsets = (slope - mixed * surplus[..., None]) / curvature
    held, held_offsets = jax.lax.stop_gradient((surplus, offsets))
    cost = 0.5 * (
        prior[0] * jnp.square(held)
        + jnp.sum(prior_offset * jnp.square(held_offsets), axis=-1)
        + jnp.log(jnp.maximum(left / prior[0], 1.0))
        + jnp.sum(jnp.log(curvature / prior_offset), axis=-1)
    )
    return Effects(1.0 + surplus, offsets), cost


def changes(design: Design, effects: Effects) -> jax.Array:
    """What effects add to the changes at factor 1 and offset 0, `[..., W, Y]`."""
    offsets = effects.offsets @ design.rate_of_target.T
    surplus = (effects.factor - 1.0)[..., None, None]
    return surplus * design.pull + offsets[..., None, :] * design.unit


def robust_fit(
    design: Design,
    errors: jax.Array,
    precision: jax.Array,
    log_scale: jax.Array,
    spreads: jax.Array,
    freedom: float | None,
) -> tuple[Effects, jax.Array]:
    """`fit` under Student's distribution, by iterated least squares.

    Args:
      design: What effects would change.
      errors: `[..., W, Y]` as for `fit`.
      precision: `[..., W, Y]` of a Gaussian.
      log_scale: `[..., W, Y]` of the distribution.
      spreads: `[1 + R]`.
      freedom: Degrees of freedom; None for a Gaussian.
    """
    effects, cost = fit(design, errors, precision, spreads)
    if freedom is None:
        return effects, cost
    for _ in range(_PASSES - 1):
        left = jnp.square(errors - changes(design, effects)) * jnp.exp(-2 * log_scale)
        trust = jax.lax.stop_gradient((freedom + 1.0) / (freedom + left))
        effects, cost = fit(design, errors, trust * precision, spreads)
    return effects, cost
