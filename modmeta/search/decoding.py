"""Decoding: what residuals that are linear in the edges of a receiver say of them.

Finding the incoming edges of a receiver is then what decoding is to an antenna: least
squares over corners of simplices. Edges are put in the order of how well they are
determined (the surest first, as V-BLAST does: Wolniansky et al. 1998), and a tree of
decisions is walked down, the edges that are still open solved for as real numbers. Of
all partial assignments of a depth the best few are kept (K-best sphere decoding: Guo
and Nilsson 2006).

Letters: P residuals, D slots, K edge modules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from modmeta import linear_algebra

# Of a variance; that of the prior is about 1. What is left below it after conditioning
# is rounding, and must not be divided by.
_MIN_VARIANCE = 1e-12
_FLOAT_BYTES = 4
# Free columns, the same beside their target, and what the factorisation works on.
_FACTOR_COPIES = 3


def num_bytes(num_residuals: int, num_slots: int, num_modules: int) -> int:
    """Bytes of a linear model of one receiver and of the factors of its columns.

    What the residuals themselves need in order to be differentiated is not counted.
    """
    num_weights = num_slots * num_modules
    num_free = num_slots * (num_modules - 1)
    factors = _FACTOR_COPIES * (num_residuals + num_weights) * num_free
    return _FLOAT_BYTES * (num_weights * num_residuals + factors)


class LinearModel(NamedTuple):
    """Residuals `design . weights - offset` of one receiver.

    Attributes:
      design: `[P, D, K]`, zero at masked slots.
      offset: `[P]`.
      probabilities: `[D, K]` prior.
      slot_mask: `[D]`.
    """

    design: jax.Array
    offset: jax.Array
    probabilities: jax.Array
    slot_mask: jax.Array


def linear_model(
    residuals: Callable[[jax.Array], jax.Array],
    center: jax.Array,
    probabilities: jax.Array,
    slot_mask: jax.Array,
) -> LinearModel:
    """Residuals to first order; of no use, all zero, where they are not finite.

    Args:
      residuals: `[D, K]` weights to `[P]`.
      center: `[D, K]` weights around which they are made linear.
      probabilities: `[D, K]` prior, all above zero.
      slot_mask: `[D]` true at slots that hold an edge.
    """

    def twice(weights):
        value = residuals(weights)
        return value, value

    design, value = jax.jacfwd(twice, has_aux=True)(center)
    offset = jnp.einsum("pdk,dk->p", design, center) - value
    is_finite = jnp.all(jnp.isfinite(design)) & jnp.all(jnp.isfinite(value))
    return LinearModel(
        design=jnp.where(is_finite & slot_mask[None, :, None], design, 0.0),
        offset=jnp.where(is_finite, offset, 0.0),
        probabilities=probabilities,
        slot_mask=slot_mask,
    )


def _free_columns(model: LinearModel) -> tuple[jax.Array, jax.Array]:
    """Residuals and prior in the weights of all modules but the first.

    Returns:
      `[Q, D, K - 1]` and `[Q]`: the sum of squares of `columns . weights - target`.
    """
    _, num_slots, num_modules = model.design.shape
    # A categorical prior with its mean and covariance as a Gaussian: one residual
    # (weight - p) / sqrt(p) per slot and module (Pearson's statistic).
    root = jnp.sqrt(model.probabilities).reshape(-1)
    prior = jnp.diag(1.0 / root).reshape(-1, num_slots, num_modules)
    design = jnp.concatenate([model.design, prior])
    # The weights of a slot add up to one, which leaves K - 1 of them.
    target = jnp.concatenate([model.offset, root]) - jnp.sum(design[..., 0], axis=1)
    return design[..., 1:] - design[..., :1], target


class Posterior(NamedTuple):
    """Weights of the modules as real numbers, without any search.

    Attributes:
      means: `[D, K]`, the least-squares solution; adds up to one.
      deviations: `[D, K]`, standard deviations by the curvature.
      misfit: `()` root of the mean of squares that are left, masked slots excepted.
    """

    means: jax.Array
    deviations: jax.Array
    misfit: jax.Array


def posterior(model: LinearModel) -> Posterior:
    """The Gaussian posterior of the edges of a receiver under a linear model."""
    _, num_slots, num_modules = model.design.shape
    columns, target = _free_columns(model)
    columns = columns.reshape(len(target), -1)
    solution, root = linear_algebra.solve_and_invert(
        *linear_algebra.triangular_system(columns, target)
    )
    root = root.reshape(num_slots, num_modules - 1, -1)
    # The weight of the first module is one minus the sum of the others.
    root = jnp.concatenate([-jnp.sum(root, axis=1, keepdims=True), root], axis=1)
    free = solution.reshape(num_slots, -1)
    left = jnp.sum(jnp.square(columns @ solution - target))
    count = len(model.offset) + num_modules * jnp.sum(model.slot_mask)
    return Posterior(
        means=jnp.concatenate([1.0 - jnp.sum(free, axis=1, keepdims=True), free], 1),
        deviations=jnp.sqrt(jnp.sum(jnp.square(root), axis=-1)),
        misfit=jnp.sqrt(left / count),
    )


def decode(
    rng_key: jax.Array,
    model: LinearModel,
    num_best: int,
    beam_size: int,
    order_noise: float | jax.Array,
) -> jax.Array:
    """Assignments of low half sum of squares, prior included, best first.

    Args:
      rng_key: Consumed by the order of the edges.
      model: Residuals, linear in the weights of D slots, and the prior.
      num_best: Assignments returned; at most those kept.
      beam_size: B, assignments kept; at most all K^D.
      order_noise: See `integer_least_squares`.

    Returns:
      `[num_best, D]` int32, of which some repeat only if masked slots leave fewer.
    """
    _, num_slots, num_modules = model.design.shape
    num_free = num_modules - 1
    beam_size = min(beam_size, num_modules**num_slots)
    design, offset = _free_columns(model)
    order = _decision_order(rng_key, design, order_noise)[::-1]
    columns = design[:, order].reshape(len(offset), -1)
    triangle, target = linear_algebra.triangular_system(columns, offset)
    target = target.reshape(num_slots, num_free)
    triangle = triangle.reshape(num_slots, num_free, num_slots, num_free)
    steps = jnp.pad(jnp.moveaxis(triangle, 2, 0), ((0, 0),) * 3 + ((1, 0),))
    is_allowed = model.slot_mask[order][:, None] | (jnp.arange(num_modules) == 0)[None]

    def decide(carry, item):
        remaining, costs = carry
        slot, step, is_allowed = item
        # What the slot's own equations leave, all later ones being decided.
        left = remaining[:, slot, :, None] - step[slot][None]
        options = costs[:, None] + 0.5 * jnp.sum(jnp.square(left), axis=1)
        options = jnp.where(is_allowed[None], options, jnp.inf).reshape(-1)
        kept = _lowest(options, beam_size)
        parent, module = kept // num_modules, kept % num_modules
        remaining = remaining[parent] - jnp.moveaxis(step, -1, 0)[module]
        return (remaining, options[kept]), (parent, module)

    start = (
        jnp.broadcast_to(target, (beam_size, *target.shape)),
        jnp.where(jnp.arange(beam_size) == 0, 0.0, jnp.inf),
    )
    (_, costs), decisions = jax.lax.scan(
        decide, start, (jnp.arange(num_slots), steps, is_allowed), reverse=True
    )

    def follow(index, decision):
        parents, modules = decision
        return parents[index], modules[index]

    # Whole assignments are copied for the best alone, back from the last decision.
    _, best = jax.lax.top_k(-costs, min(num_best, beam_size))
    _, rows = jax.lax.scan(follow, best, decisions)
    return jnp.zeros_like(rows.T).at[:, order].set(rows.T)


def _lowest(values: jax.Array, count: int) -> jax.Array:
    """Places `[count]` of the least of `[n]` values, none negative, in their order.

    Numbers that are not negative are ordered as their bits are, so the last value that
    is kept is found two bits at a time, by counting; on a CPU, `jax.lax.top_k` of half
    of the values takes three times as long.
    """
    codes = jax.lax.bitcast_convert_type(values, jnp.uint32)

    def refine(prefix, shift):
        thresholds = prefix + (jnp.arange(4, dtype=jnp.uint32) << shift)
        below = jnp.sum(codes[None] < thresholds[:, None], axis=1)
        return thresholds[jnp.sum(below < count) - 1], None

    shifts = jnp.arange(30, -1, -2, dtype=jnp.uint32)
    last, _ = jax.lax.scan(refine, jnp.uint32(0), shifts)
    is_below, is_last = codes < last, codes == last
    is_kept = is_below | (is_last & (jnp.cumsum(is_last) <= count - jnp.sum(is_below)))
    return jnp.searchsorted(
        jnp.cumsum(is_kept), jnp.arange(1, count + 1), method="scan_unrolled"
    )


def _decision_order(
    rng_key: jax.Array, design: jax.Array, order_noise: float | jax.Array
) -> jax.Array:
    """Slots `[D]`, at every place the one of least variance given those before it.

    Args:
      rng_key: Consumed.
      design: `[P, D, K - 1]`, prior included.
      order_noise: See `integer_least_squares`.
    """
    _, num_slots, num_free = design.shape
    columns = design.reshape(len(design), -1)
    noise = jnp.exp(order_noise * jax.random.normal(rng_key, (num_slots,)))
    covariance = jnp.linalg.inv(columns.T @ columns)

    def condition(carry, _):
        covariance, is_decided = carry
        variances = jnp.sum(jnp.diag(covariance).reshape(num_slots, num_free), axis=1)
        slot = jnp.argmin(jnp.where(is_decided, jnp.inf, variances * noise))
        for free in range(num_free):
            index = slot * num_free + free
            row = covariance[index]
            covariance -= jnp.outer(row, row) / jnp.maximum(row[index], _MIN_VARIANCE)
        return (covariance, is_decided.at[slot].set(True)), slot

    start = (covariance, jnp.zeros(num_slots, bool))
    return jax.lax.scan(condition, start, None, length=num_slots)[1]
