"""How much warmer samples are than the likelihood, against known processes."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from modmeta.relational.inference.chains import excess_temperature


def temperature(errors, span=1):
    """From errors `[frames]` in units of their scale, windows by their share."""
    products = errors[span:] * errors[:-span]
    sums = np.array([np.sum(errors**2), np.sum(products)]) / span
    sums = jnp.asarray(sums, jnp.float32)
    return float(excess_temperature(*sums, jnp.float32(errors.size), span))


@pytest.mark.parametrize("scale, correlation", [(1.0, 0.6), (3.0, 0.0), (2.0, 0.8)])
def test_it_is_the_variance_of_sums_of_errors(scale, correlation):
    """Of an autoregression, over blocks, in units of independent errors of scale 1.

    Blocks are 400 times as long as errors remember. With 2,000 blocks, a variance has
    a relative standard error of 3 %: 15 % are five of these.
    """
    rng = np.random.default_rng(0)
    noise = rng.normal(size=800_000) * scale * np.sqrt(1.0 - correlation**2)
    errors = scipy.signal.lfilter([1.0], [1.0, -correlation], noise)
    blocks = errors.reshape(2000, -1)
    spread = np.var(blocks.sum(axis=1)) / blocks.shape[1]
    np.testing.assert_allclose(temperature(errors), spread, rtol=0.15)


@pytest.mark.parametrize("span", [1, 4])
def test_errors_as_expected_or_smaller_change_nothing(span):
    errors = np.random.default_rng(1).normal(size=100_000)
    np.testing.assert_allclose(temperature(errors, span), 1.0, rtol=0.03)
    assert temperature(0.1 * errors, span) == pytest.approx(1.0, rel=0.03)
