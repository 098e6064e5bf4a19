"""Small systems against NumPy, and no two factorisations at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta import linear_algebra
from modmeta.relational.laws import strengths
from modmeta.search import decoding
from tests.linear_algebra_order import chain


def test_least_squares():
    rng = np.random.default_rng(0)
    columns, target = rng.normal(size=(9, 4)), rng.normal(size=9)
    expected = np.linalg.lstsq(columns, target, rcond=None)[0]
    triangle, right = linear_algebra.triangular_system(
        jnp.float32(columns), jnp.float32(target)
    )
    found, inverse = linear_algebra.solve_and_invert(triangle, right)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    covariance = np.linalg.inv(columns.T @ columns)
    np.testing.assert_allclose(inverse @ inverse.T, covariance, rtol=1e-3, atol=1e-5)


def test_as_many_rows_as_columns():
    """The last row of the factor, which holds the residual, is missing then."""
    columns = jnp.array([[2.0, 1.0], [0.0, 4.0]])
    system = linear_algebra.triangular_system(columns, jnp.array([4.0, 8.0]))
    found, _ = linear_algebra.solve_and_invert(*system)
    np.testing.assert_allclose(found, [1.0, 2.0], rtol=1e-6)
    with pytest.raises(
        ValueError, match="found 1 rows of 2 columns, expected at least"
    ):
        linear_algebra.triangular_system(columns[:1], jnp.ones(1))


def test_volume_and_inverse():
    matrix = np.random.default_rng(1).normal(size=(5, 5))
    volume, inverse = linear_algebra.log_volume_and_inverse(jnp.float32(matrix))
    np.testing.assert_allclose(volume, np.linalg.slogdet(matrix)[1], rtol=1e-4)
    np.testing.assert_allclose(inverse, np.linalg.inv(matrix), rtol=1e-3, atol=1e-4)


def test_two_at_once_are_noticed():
    """The pair that made programs stand still: the factor Q, and a solution by R."""

    def both(columns):
        basis, triangle = jnp.linalg.qr(columns)
        return basis, jax.scipy.linalg.solve_triangular(triangle, jnp.eye(3))

    with pytest.raises(
        AssertionError, match="triangular_solve does not wait for the basis"
    ):
        chain(jax.vmap(both), jnp.ones((2, 5, 3)))


def test_factorisations_wait_for_each_other():
    key, columns = jax.random.key(0), jnp.ones((4, 6, 3, 2))
    model = decoding.LinearModel(
        design=columns,
        offset=jnp.ones((4, 6)),
        probabilities=jnp.full((4, 3, 2), 0.5),
        slot_mask=jnp.ones((4, 3), bool),
    )

    def search(model):
        # As a proposal head does it, whose logits are the prior of the search.
        evidence = jax.nn.softmax(decoding.posterior(model).means)
        return decoding.decode(key, model._replace(probabilities=evidence), 4, 4, 0.1)

    assert len(chain(jax.vmap(search), model)) >= 5
    bounded = functools.partial(strengths.least_squares, num_bounded=2, freedom=4.0)
    many = jnp.ones((4, 3, 6, 2)), jnp.ones((4, 6, 2)), jnp.ones((4, 6, 2))
    assert len(chain(jax.vmap(bounded), *many, jnp.ones((4, 3)))) >= 5
