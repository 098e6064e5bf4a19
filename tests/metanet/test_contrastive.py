"""Contrastive learning against slow loops, closed forms and statistics of its noise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from modmeta.metanet.learning import contrastive
from modmeta.metanet.learning.contrastive import ViewConfig

RNG = np.random.default_rng(0)
nt_xent = jax.jit(contrastive.nt_xent)
SIZES = (12, 1, 400)
PARAMETERS = np.concatenate(
    [
        RNG.normal(size=(5, 12)) * 3.0,
        RNG.normal(size=(5, 1)),
        RNG.normal(size=(5, 400)) * 0.1 + 2.0,
    ],
    axis=1,
).astype(np.float32)


def slow_nt_xent(first, second, temperature):
    """Every view, every candidate, one cosine at a time."""
    views = [np.asarray(view, np.float64) for view in (*first, *second)]
    count = len(first)
    losses, hits = [], []
    for index, view in enumerate(views):
        other = index + count if index < count else index - count
        similarities = {
            candidate: view
            @ views[candidate]
            / (np.linalg.norm(view) * np.linalg.norm(views[candidate]))
            for candidate in range(2 * count)
            if candidate != index
        }
        total = sum(math.exp(value / temperature) for value in similarities.values())
        losses.append(-math.log(math.exp(similarities[other] / temperature) / total))
        hits.append(max(similarities, key=similarities.get) == other)
    return np.mean(losses), np.mean(hits)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_nt_xent_against_a_loop(temperature):
    first = RNG.normal(size=(6, 4)).astype(np.float32)
    second = (first + RNG.normal(size=(6, 4))).astype(np.float32)
    found = nt_xent(first, second, temperature)
    loss, accuracy = slow_nt_xent(first, second, temperature)
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.accuracy == pytest.approx(accuracy)
    assert 0.0 < accuracy < 1.0
    # Lengths do not matter.
    scaled = nt_xent(3.0 * first, second, temperature)
    assert scaled.loss == pytest.approx(float(found.loss), rel=1e-5)


def test_nt_xent_extremes():
    """Equal views: log(2B - 1). Orthogonal networks: the closed form of B + B views."""
    ones = jnp.ones((4, 3))
    assert nt_xent(ones, ones).loss == pytest.approx(math.log(7), rel=1e-5)
    basis = jnp.eye(4)
    expected = -10 + math.log(math.exp(10) + 6)
    found = nt_xent(basis, basis, 0.1)
    assert found.loss == pytest.approx(expected, abs=1e-5)
    assert found.accuracy == 1.0
    gradient = jax.grad(lambda views: nt_xent(views, ones).loss)(0 * ones)
    assert np.isfinite(gradient).all()


def test_noise_is_relative_to_the_leaf_and_the_network():
    """Normal by Kolmogorov-Smirnov at a fixed key; 1 key in 1,000 would fail."""
    config = ViewConfig(noise=0.2, dropout=0.0)
    view = contrastive.disturb(jax.random.key(0), PARAMETERS, SIZES, config)
    shifts = np.asarray(view) - PARAMETERS
    for network in range(5):
        spread = PARAMETERS[network, 13:].std()
        shift = shifts[network, 13:] / (0.2 * spread)
        assert scipy.stats.kstest(shift, "norm").pvalue > 0.001 / 5
    # Rounding aside, a leaf of one number stays.
    np.testing.assert_array_equal(shifts[:, 12], 0.0)
    correlation = np.corrcoef(shifts[:, 13:])[np.triu_indices(5, 1)]
    assert np.abs(correlation).max() < 5 / math.sqrt(400)


def test_constant_noise_is_one_offset_per_leaf():
    config = ViewConfig(noise=0.3, noise_kind="constant", dropout=0.0)
    view = contrastive.disturb(jax.random.key(0), PARAMETERS, SIZES, config)
    expected = PARAMETERS.copy()
    for network in range(5):
        for first, last in ((0, 12), (13, 413)):
            leaf = PARAMETERS[network, first:last]
            expected[network, first:last] += 0.3 * leaf.std()
    np.testing.assert_allclose(view, expected, atol=1e-5)


def test_dropout_leaves_out_the_stated_share():
    """A binomial test at a fixed key; 1 key in 1,000 would fail."""
    config = ViewConfig(noise=0.0, dropout=0.3)
    view = np.asarray(contrastive.disturb(jax.random.key(1), PARAMETERS, SIZES, config))
    is_zero = view == 0.0
    np.testing.assert_allclose(view[~is_zero], PARAMETERS[~is_zero] / 0.7, rtol=1e-6)
    assert scipy.stats.binomtest(is_zero.sum(), view.size, 0.3).pvalue > 0.001


@pytest.mark.parametrize("both", [False, True])
def test_two_views(both):
    config = ViewConfig(both_views=both)
    views = contrastive.two_views(jax.random.key(2), PARAMETERS, SIZES, config)
    first, second = np.split(np.asarray(views), 2)
    assert (first == PARAMETERS).all() != both
    assert not (second == PARAMETERS).any(axis=1).all()
    # Independent draws: at a dropout of a half, both agree on half of the zeros.
    if both:
        agreement = ((first == 0.0) == (second == 0.0)).mean()
        assert abs(agreement - 0.5) < 5 * 0.5 / math.sqrt(first.size)


def test_statistics_keep_the_symmetry():
    """One mean and deviation per leaf, so that units may change places."""
    statistics = contrastive.weight_statistics(PARAMETERS, SIZES)
    normalized = np.asarray(statistics.normalize(PARAMETERS))
    for first, last in ((0, 12), (12, 13), (13, 413)):
        assert normalized[:, first:last].mean() == pytest.approx(0.0, abs=1e-4)
        assert normalized[:, first:last].std() == pytest.approx(1.0, abs=1e-4)
        assert len(np.unique(statistics.mean[first:last])) == 1
    shuffled = np.random.default_rng(0).permutation(400) + 13
    moved = PARAMETERS.copy()
    moved[:, 13:] = PARAMETERS[:, shuffled]
    again = contrastive.weight_statistics(moved, SIZES)
    np.testing.assert_allclose(again.mean, statistics.mean, rtol=1e-6)


def test_leaf_that_does_not_vary_is_not_divided_by_zero():
    statistics = contrastive.weight_statistics(np.full((3, 2), 7.0), (2,))
    np.testing.assert_array_equal(statistics.normalize(jnp.full((3, 2), 7.0)), 0.0)


def test_probe_finds_a_linear_map():
    """Noise-free targets exactly; noisy ones as the normal equations have it."""
    features = RNG.normal(size=(50, 4))
    kernel, bias = RNG.normal(size=(4, 2)), np.array([3.0, -1.0])
    probe = contrastive.fit_probe(features, features @ kernel + bias)
    np.testing.assert_allclose(probe.kernel, kernel, atol=1e-10)
    np.testing.assert_allclose(probe.bias, bias, atol=1e-10)

    targets = features @ kernel + bias + RNG.normal(size=(50, 2))
    probe = contrastive.fit_probe(features, targets)
    design = np.column_stack([features, np.ones(50)])
    solution = np.linalg.solve(design.T @ design, design.T @ targets)
    np.testing.assert_allclose(probe.kernel, solution[:-1], atol=1e-10)
    np.testing.assert_allclose(probe.bias, solution[-1], atol=1e-10)
    expected = np.mean((design @ solution - targets) ** 2)
    found = probe.mean_squared_error(features, targets)
    assert found == pytest.approx(expected)
    # Any other line is worse.
    assert found < probe._replace(bias=probe.bias + 0.1).mean_squared_error(
        features, targets
    )


def test_probe_with_more_features_than_networks():
    features, targets = RNG.normal(size=(5, 9)), RNG.normal(size=(5, 1))
    probe = contrastive.fit_probe(features, targets)
    assert probe.mean_squared_error(features, targets) < 1e-20
    # Least norm: the kernel lies in the span of the centred features.
    centred = features - features.mean(axis=0)
    outside = np.linalg.svd(centred)[2][4:]
    np.testing.assert_allclose(outside @ probe.kernel, 0.0, atol=1e-10)


def test_constant_predictor_of_the_recipe():
    """Without features a probe predicts the mean: variance 100/12 for U(0, 10)."""
    targets = np.random.default_rng(0).uniform(0, 10, size=(20_000, 2))
    features = np.zeros((20_000, 1))
    probe = contrastive.fit_probe(features, targets)
    error = probe.mean_squared_error(features, targets)
    # Five standard errors of a sample variance.
    assert abs(error - 100 / 12) < 5 * math.sqrt(10**4 / 180 / 40_000)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ViewConfig(noise=-0.1), "noise: found -0.1, expected at least 0"),
        (lambda: ViewConfig(dropout=1.0), "dropout: found 1.0, expected 0 to below 1"),
        (
            lambda: ViewConfig(noise_kind="pink"),
            "noise_kind: found 'pink', expected one of",
        ),
        (
            lambda: contrastive.weight_statistics(PARAMETERS, (12, 400)),
            "leaf_sizes: found 412 parameters in all, expected 413",
        ),
        (
            lambda: contrastive.fit_probe(np.zeros((3, 1)), np.zeros((2, 1))),
            "targets: found 2 for 3 networks, expected as many",
        ),
        (
            lambda: contrastive.fit_probe(np.full((3, 1), np.nan), np.zeros((3, 1))),
            "features: found NaN or infinity",
        ),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_vicreg_against_a_loop():
    first = RNG.normal(size=(7, 3)).astype(np.float32) * [0.3, 1.0, 2.0]
    second = first + 0.1 * RNG.normal(size=(7, 3))
    expected = 25.0 * np.mean((first - second) ** 2)
    for view in (first, second):
        covariances = np.cov(view, rowvar=False)
        for row in range(3):
            shortfall = 1.0 - math.sqrt(covariances[row, row] + 1e-4)
            expected += 25.0 * max(shortfall, 0.0) / 3
            for column in set(range(3)) - {row}:
                expected += covariances[row, column] ** 2 / 3
    found = jax.jit(contrastive.vicreg)(first, second)
    assert found == pytest.approx(expected, rel=1e-5)


def test_principal_components_are_those_of_the_covariance():
    """Uncorrelated, of the largest variances; new features are centred by the old."""
    features = RNG.normal(size=(40, 5)) @ RNG.normal(size=(5, 5)) + 3.0
    project = contrastive.principal_components(features, 2)
    variances = np.linalg.eigvalsh(np.cov(features, rowvar=False))[::-1]
    found = np.cov(project(features), rowvar=False)
    np.testing.assert_allclose(found, np.diag(variances[:2]), atol=1e-9)
    np.testing.assert_allclose(project(features.mean(axis=0)[None]), 0.0, atol=1e-9)
    with pytest.raises(ValueError, match="found 6, expected 1 to 5"):
        contrastive.principal_components(features, 6)
