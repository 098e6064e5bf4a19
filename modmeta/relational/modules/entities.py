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
# of the typical change. A factor that may be far from 1 while laws are learned makes up
# for wrong relations, and the laws then agree: where springs have several strengths, a
# tenth of the edges stayed wrong. Where masses differ, the data say so soon enough.
_FIRST_FACTOR_SPREAD, _FIRST_OFFSET_SPREAD = 0.05, 0.3
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
    first = np.full(1 + num_rates, _FIRST_OFFSET_SPREAD)
    first[0] = _FIRST_FACTOR_SPREAD
    return jnp.asarray(np.log(first / (1.0 - first)) / _GAIN, jnp.float32)


def spreads_of(parameters: jax.Array) -> jax.Array:
    """Standard deviations `[1 + R]` of the priors, below 1.

    Beyond, a factor or an offset could stand for any graph.
    """
    return jnp.maximum(jax.nn.sigmoid(_GAIN * parameters), _MIN_SPREAD)


class _Sums(NamedTuple):
    """Sums over windows, by rate `[..., R]`; pulls and offsets are told apart by them.

    Attributes:
      curvature: Of the offsets, their priors included.
      mixed: Of offsets with the factor.
      slope: Of offsets with the errors.
      own: `[...]` curvature of the factor, its prior included.
      gain: `[...]` of the factor with the errors.
    """

    curvature: jax.Array
    mixed: jax.Array
    slope: jax.Array
    own: jax.Array
    gain: jax.Array


def _sums(
    design: Design, errors: jax.Array, precision: jax.Array, prior: jax.Array
) -> _Sums:
    by_unit, by_pull = precision * design.unit, precision * design.pull
    products = (
        by_unit * design.unit,
        by_unit * design.pull,
        by_unit * errors,
        by_pull * design.pull,
        by_pull * errors,
    )
    sums = jnp.stack([jnp.sum(product, axis=-2) for product in products])
    # Of every product, what belongs to a rate; every target belongs to one.
    curvature, mixed, slope, own, gain = sums @ design.rate_of_target
    prior_offset = jnp.reshape(prior[1:], (1,) * (curvature.ndim - 1) + (-1,))
    return _Sums(
        curvature + prior_offset,
        mixed,
        slope,
        jnp.sum(own, axis=-1) + prior[0],
        jnp.sum(gain, axis=-1),
    )


def _solve(sums: _Sums, prior: jax.Array) -> tuple[Effects, jax.Array]:
    """Most likely effects, and the curvature of the factor that offsets leave."""
    share = sums.mixed / sums.curvature
    left = sums.own - jnp.sum(share * sums.mixed, axis=-1)
    gain = sums.gain - jnp.sum(share * sums.slope, axis=-1)
    surplus = jnp.maximum(gain / jnp.maximum(left, prior[0]), _MIN_FACTOR - 1.0)
    offsets = (sums.slope - sums.mixed * surplus[..., None]) / sums.curvature
    return Effects(1.0 + surplus, offsets), left


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
    prior = jnp.square(1.0 / spreads)
    sums = _sums(design, errors, precision, prior)
    effects, left = _solve(sums, prior)
    held = jax.lax.stop_gradient(effects)
    prior_offset = jnp.reshape(prior[1:], (1,) * (sums.curvature.ndim - 1) + (-1,))
    of_offsets = prior_offset * jnp.square(held.offsets)
    of_offsets = of_offsets + jnp.log(sums.curvature / prior_offset)
    of_factor = prior[0] * jnp.square(held.factor - 1.0)
    of_factor = of_factor + jnp.log(jnp.maximum(left / prior[0], 1.0))
    return effects, 0.5 * (of_factor + jnp.sum(of_offsets, axis=-1))


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
    if freedom is None:
        return fit(design, errors, precision, spreads)
    held = jax.lax.stop_gradient((design, errors, precision, log_scale, spreads))

    def reweigh(_, trust):
        design, errors, precision, log_scale, spreads = held
        prior = jnp.square(1.0 / spreads)
        effects, _ = _solve(_sums(design, errors, trust * precision, prior), prior)
        left = jnp.square(errors - changes(design, effects)) * jnp.exp(-2 * log_scale)
        return (freedom + 1.0) / (freedom + left)

    trust = jax.lax.fori_loop(0, _PASSES - 1, reweigh, jnp.ones_like(errors))
    return fit(design, errors, trust * precision, spreads)
