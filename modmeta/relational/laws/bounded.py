"""Least squares of which some weights are bounded, robust and in single precision.

Letters: C columns, W windows, Y predicted changes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from modmeta import linear_algebra

# Passes of iterated least squares, and steps of each per column.
_PASSES, _STEPS = 4, 3
# Of the length of a column, what is added so that edges that cannot be told apart get
# large errors and not infinite ones; and what may be rounding.
_RIDGE, _ROUNDING = 1e-4, 1e-6


def least_squares(
    columns: jax.Array,
    goal: jax.Array,
    precision: jax.Array,
    prior: jax.Array,
    num_bounded: int,
    freedom: float | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weights of columns, some not below 0, that explain a goal best.

    Args:
      columns: `[C, W, Y]`.
      goal: `[W, Y]`.
      precision: `[W, Y]` inverse variances, zero where nothing was observed.
      prior: `[C]` inverse variances of the weights around 0.
      num_bounded: As many of the first ones are not below 0.
      freedom: Degrees of freedom of Student's distribution; None for a Gaussian.

    Returns:
      The weights `[C]`, their standard deviations as if there were no bounds `[C]`, and
      how far every error is trusted `[W, Y]`, 1 under a Gaussian.
    """
    count = len(columns)
    flat = columns.reshape(count, -1).T
    is_bounded = jnp.arange(count) < num_bounded

    def solve(trust):
        root = jnp.sqrt(trust * precision).reshape(-1, 1)
        rows = jnp.concatenate([flat * root, jnp.diag(jnp.sqrt(prior))])
        size = jnp.sqrt(jnp.sum(jnp.square(rows), axis=0))
        size = jnp.where(size > 0.0, size, 1.0)
        goals = jnp.concatenate([goal.reshape(-1) * root[:, 0], jnp.zeros(count)])
        # By orthogonal rows, as messages of two senders may be nearly the same.
        triangle, wanted = linear_algebra.triangular_system(rows / size[None], goals)
        triangle = jnp.concatenate([triangle, _RIDGE * jnp.eye(count)])
        wanted = jnp.concatenate([wanted, jnp.zeros(count)])
        values = _active_set(triangle, wanted, is_bounded)
        # Factorised after the others, see `linear_algebra`.
        triangle = jnp.where(jnp.all(jnp.isfinite(values)), triangle, jnp.nan)
        _, inverse = linear_algebra.solve_and_invert(
            *linear_algebra.triangular_system(triangle, wanted)
        )
        deviations = jnp.sqrt(jnp.sum(jnp.square(inverse), axis=1)) / size
        return values / size, deviations

    trust = jnp.ones_like(goal)
    if freedom is None:
        return *solve(trust), trust

    def reweigh(_, trust):
        values, _ = solve(trust)
        left = goal - jnp.einsum("d,dwy->wy", values, columns)
        return (freedom + 1.0) / (freedom + jnp.square(left) * precision)

    trust = jax.lax.fori_loop(0, _PASSES, reweigh, trust)
    return *solve(trust), trust


def _active_set(rows: jax.Array, wanted: jax.Array, is_bounded: jax.Array) -> jax.Array:
    """Least squares with bounds at 0 (Lawson and Hanson 1974), one change per step.

    Args:
      rows: `[R, C]` columns of about unit length.
      wanted: `[R]`.
      is_bounded: `[C]`.
    """
    count = rows.shape[1]
    tolerance = _ROUNDING * jnp.sqrt(jnp.sum(jnp.square(wanted)))

    def step(_, carry):
        values, is_free = carry
        # Columns that are held at 0 have rows of their own that say so.
        held = jnp.diag(jnp.where(is_free, 0.0, 1.0))
        triangle, right = linear_algebra.triangular_system(
            jnp.concatenate([rows * is_free[None], held]),
            jnp.concatenate([wanted, jnp.zeros(count)]),
        )
        solved = jax.scipy.linalg.solve_triangular(triangle, right)
        solved = jnp.where(is_free, solved, 0.0)
        is_below = is_free & is_bounded & (solved < 0.0)
        # As far as the first that reaches 0, which is held there.
        shares = jnp.where(is_below, values / (values - solved), jnp.inf)
        share = jnp.minimum(jnp.min(shares), 1.0)
        moved = values + share * (solved - values)
        is_left = is_free & ~(is_below & (shares <= share))
        # Or else one that would gain by it is let go.
        gain = rows.T @ (wanted - rows @ solved)
        gain = jnp.where(is_free, -jnp.inf, gain)
        best = jnp.argmax(gain)
        is_more = is_free | ((jnp.arange(count) == best) & (gain[best] > tolerance))
        is_done = ~jnp.any(is_below)
        is_free = jnp.where(is_done, is_more, is_left)
        return jnp.where(is_free | ~is_bounded, moved, 0.0), is_free

    start = jnp.zeros(count), ~is_bounded
    values, _ = jax.lax.fori_loop(0, _STEPS * count + 1, step, start)
    return jnp.where(is_bounded, jnp.maximum(values, 0.0), values)
