"""What entities differ in, against Gaussian evidence with whole matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from modmeta.relational.modules import entities
from modmeta.relational.modules.entities import Design

NUM_WINDOWS, NUM_TARGETS = 6, 3
# The second and third target are moved by one rate.
RATES = np.array([[1, 0], [0, 1], [0, 1]], np.float32)


def draw(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    shape = (NUM_WINDOWS, NUM_TARGETS)
    design = Design(
        jnp.float32(scale * rng.normal(size=shape)),
        jnp.float32(rng.uniform(0.5, 1.5, shape)),
        jnp.asarray(RATES),
    )
    errors = jnp.float32(rng.normal(size=shape))
    precision = jnp.float32(rng.uniform(0.5, 4.0, shape))
    return design, errors, precision


def columns(design):
    """What every effect would change, `[W * Y, 1 + R]`."""
    units = [design.unit * RATES[None, :, rate] for rate in range(RATES.shape[1])]
    return np.stack([design.pull, *units], axis=-1).reshape(-1, 1 + RATES.shape[1])


@pytest.mark.parametrize("seed", range(4))
def test_energy_and_cost_are_the_evidence(seed):
    design, errors, precision = draw(seed)
    spreads = np.array([0.4, 0.7, 0.2])
    found, cost = entities.fit(design, errors, precision, jnp.float32(spreads))
    left = np.asarray(errors - entities.changes(design, found)).ravel()
    noise = 1.0 / np.asarray(precision).ravel()
    energy = -scipy.stats.norm.logpdf(left, scale=np.sqrt(noise)).sum()
    matrix = columns(design)
    covariance = np.diag(noise) + (matrix * spreads**2) @ matrix.T
    evidence = scipy.stats.multivariate_normal.logpdf(
        np.asarray(errors).ravel(), cov=covariance
    )
    np.testing.assert_allclose(energy + float(cost), -evidence, rtol=1e-4)


def test_effects_are_the_posterior_mean():
    design, errors, precision = draw(7)
    spreads = np.array([0.4, 0.7, 0.2])
    found, _ = entities.fit(design, errors, precision, jnp.float32(spreads))
    matrix, weights = columns(design), np.asarray(precision).ravel()
    curvature = matrix.T @ (weights[:, None] * matrix) + np.diag(spreads**-2)
    mean = np.linalg.solve(curvature, matrix.T @ (weights * np.ravel(errors)))
    np.testing.assert_allclose(found.factor, 1.0 + mean[0], rtol=1e-4)
    np.testing.assert_allclose(found.offsets, mean[1:], rtol=1e-3, atol=1e-5)


def test_no_entity_turns_a_pull_into_a_push():
    design, _, precision = draw(3)
    found, _ = entities.fit(design, -3.0 * design.pull, precision, jnp.full(3, 5.0))
    assert 0.0 < float(found.factor) < 0.05


def test_the_gradient_of_a_spread_is_that_of_the_evidence():
    design, errors, precision = draw(5)

    def evidence(parameters):
        matrix = jnp.asarray(columns(design))
        noise = 1.0 / precision.ravel()
        spreads = entities.spreads_of(parameters)
        covariance = jnp.diag(noise) + (matrix * spreads[None] ** 2) @ matrix.T
        flat = errors.ravel()
        _, logdet = jnp.linalg.slogdet(covariance)
        return 0.5 * (flat @ jnp.linalg.solve(covariance, flat) + logdet)

    def cost(parameters):
        return entities.fit(design, errors, precision, entities.spreads_of(parameters))[
            1
        ]

    parameters = entities.init_spreads(2) + jnp.array([0.02, -0.03, 0.05])
    wanted = jax.grad(evidence)(parameters)
    np.testing.assert_allclose(jax.grad(cost)(parameters), wanted, rtol=2e-3)


def test_outliers_do_not_decide_a_factor():
    """Half the force everywhere, and one window in which a wall was hit."""
    design, _, precision = draw(11, scale=3.0)
    errors = (-0.5 * design.pull).at[2].set(50.0)
    precision = jnp.full_like(precision, 100.0)
    log_scale = jnp.full_like(precision, np.log(0.1))
    spreads = jnp.array([1.0, 1e-3, 1e-3])
    plain, _ = entities.robust_fit(design, errors, precision, log_scale, spreads, None)
    robust, _ = entities.robust_fit(design, errors, precision, log_scale, spreads, 4.0)
    assert abs(float(plain.factor) - 0.5) > 0.1
    assert abs(float(robust.factor) - 0.5) < 0.01


def test_where_nothing_was_observed_effects_are_those_of_the_prior():
    design, errors, precision = draw(1)
    found, cost = entities.fit(design, errors, 0.0 * precision, jnp.full(3, 0.3))
    np.testing.assert_allclose(found.factor, 1.0)
    np.testing.assert_allclose(found.offsets, 0.0)
    np.testing.assert_allclose(cost, 0.0, atol=1e-6)
