"""Shrunk regressions against least squares with made-up rows."""

import numpy as np
import pytest

from modmeta.relational.classical import linear


def with_rows(inputs, targets, shrinkage, spread):
    """Least squares whose added rows pull every weight towards 0."""
    extra = np.sqrt(shrinkage * len(inputs)) * np.diag(spread)
    inputs = np.concatenate([inputs, extra])
    targets = np.concatenate([targets, np.zeros((len(extra), targets.shape[1]))])
    return np.linalg.lstsq(inputs, targets, rcond=None)[0]


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5))
    return inputs, inputs @ rng.normal(size=(5, 3)) + rng.normal(size=(40, 3))


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 10.0])
def test_ridge_is_least_squares_with_more_rows(rows, shrinkage):
    inputs, targets = rows
    spread = np.sqrt(np.mean(inputs**2, axis=0))
    expected = with_rows(inputs, targets, shrinkage, spread)
    np.testing.assert_allclose(
        linear.ridge(inputs, targets, [shrinkage])[0], expected, rtol=1e-8
    )


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_one_inverse_holds_all_regressions_on_the_others(rows, shrinkage):
    values, _ = rows
    spread = np.sqrt(np.mean(values**2, axis=0))
    found = linear.from_others(values, [shrinkage])[0]
    for column in range(5):
        others = np.delete(np.arange(5), column)
        expected = with_rows(
            values[:, others], values[:, [column]], shrinkage, spread[others]
        )
        np.testing.assert_allclose(found[others, column], expected[:, 0], rtol=1e-8)
        assert found[column, column] == 0.0


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_columns_of_a_node_are_not_among_the_others(shrinkage):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6))
    spread = np.sqrt(np.mean(values**2, axis=0))
    found = linear.from_others(values, [shrinkage], size=2)[0]
    for node in range(3):
        own = [2 * node, 2 * node + 1]
        others = np.delete(np.arange(6), own)
        expected = with_rows(
            values[:, others], values[:, own], shrinkage, spread[others]
        )
        np.testing.assert_allclose(found[np.ix_(others, own)], expected, rtol=1e-7)
        assert (found[np.ix_(own, own)] == 0.0).all()


def test_shrinkage_follows_what_there_is_to_learn():
    """Noise alone: all but nothing is left; a law without noise: all of it."""
    rng = np.random.default_rng(0)
    inputs, weights = rng.normal(size=(60, 12)), rng.normal(size=(12, 4))
    noise = rng.normal(size=(60, 4))
    assert linear.choose_shrinkage(linear.ridge, inputs, noise) >= 3.0
    exact = linear.choose_shrinkage(linear.ridge, inputs, inputs @ weights)
    assert exact == min(linear.SHRINKAGES)


def test_an_input_that_never_varies_has_no_weight():
    inputs = np.random.default_rng(0).normal(size=(20, 3))
    inputs[:, 1] = 0.0
    weights = linear.shrunk_ridge(inputs, inputs[:, :1])
    assert np.isfinite(weights).all() and weights[1, 0] == 0.0
    assert np.isfinite(linear.shrunk_from_others(inputs)).all()


def test_innovations_are_what_the_own_past_leaves():
    rng = np.random.default_rng(0)
    past = rng.normal(size=(50, 3, 4))
    noise = rng.normal(size=(50, 3, 2))
    targets = 0.5 * past[..., :2] - 0.2 * past[..., 2:] + noise
    left = linear.innovations(targets, past)
    for node in range(3):
        np.testing.assert_allclose(past[:, node].T @ left[:, node], 0.0, atol=1e-9)
    assert np.square(left).sum() <= np.square(noise).sum()
