"""Small dense systems, many at a time, in programs that end.

On CPUs, JAX spreads a batch of factorisations over the threads that run the program,
and the thread that asked for it waits. Two that wait at once on a machine of two cores
leave none to work, and the program stands still for good (jax 0.10.1 to 0.12.0). So
every factorisation of a program must need the result of the one before; QR with its
orthogonal factor, beside anything that needs the triangle alone, does not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def triangular_system(
    columns: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Least squares as a triangular system, by QR without the orthogonal factor.

    Of the normal equations the condition number would be the square.

    Args:
      columns: `[R, C]`, at least as many rows as columns.
      target: `[R]`.

    Returns:
      The triangle `[C, C]` and the right-hand side `[C]`: the solution of
      `columns @ x = target` in the sense of least squares is that of
      `triangle @ x = right`.

    Raises:
      ValueError: If there are fewer rows than columns.
    """
    num_rows, count = columns.shape
    if num_rows < count:
        raise ValueError(
            f"columns: found {num_rows} rows of {count} columns, expected at least as "
            "many rows"
        )
    both = jnp.concatenate([columns, target[:, None]], axis=1)
    factor = jnp.linalg.qr(both, mode="r")
    return factor[:count, :count], factor[:count, count]


def solve_and_invert(
    triangle: jax.Array, right: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Solution `[C]` of a triangular system, and the inverse of its triangle `[C, C]`.

    Args:
      triangle: `[C, C]`, upper.
      right: `[C]`.
    """
    sides = jnp.concatenate([jnp.eye(len(triangle)), right[:, None]], axis=1)
    solved = jax.scipy.linalg.solve_triangular(triangle, sides)
    return solved[:, -1], solved[:, :-1]


def log_volume_and_inverse(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logarithm of the absolute determinant `()`, and the inverse `[C, C]`.

    Args:
      matrix: `[C, C]`.
    """
    factors = jax.scipy.linalg.lu_factor(matrix)
    volume = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(factors[0]))))
    return volume, jax.scipy.linalg.lu_solve(factors, jnp.eye(len(matrix)))
