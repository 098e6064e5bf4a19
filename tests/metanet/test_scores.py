"""Scores against loops over pairs, closed forms, and coverage of intervals."""

import itertools

import numpy as np
import pytest

from modmeta.metanet.learning import scores


def pairs_with_ties(rng, size):
    """Targets and predictions of few values: many ties, in one and in both."""
    return rng.integers(5, size=size) / 4, rng.integers(4, size=size) / 3


def tau_by_pairs(targets, predictions):
    """Tau-b of Kendall 1945, pair by pair."""
    agreement = target_pairs = prediction_pairs = 0
    for i, j in itertools.combinations(range(len(targets)), 2):
        first = np.sign(targets[i] - targets[j])
        second = np.sign(predictions[i] - predictions[j])
        agreement += first * second
        target_pairs += first != 0
        prediction_pairs += second != 0
    return agreement / np.sqrt(target_pairs * prediction_pairs)


@pytest.mark.parametrize("seed", range(5))
def test_kendall_tau_counts_pairs(seed):
    targets, predictions = pairs_with_ties(np.random.default_rng(seed), 23)
    expected = tau_by_pairs(targets, predictions)
    np.testing.assert_allclose(scores.kendall_tau(targets, predictions), expected)


def test_r_squared_of_a_noisy_line():
    # Errors of +-1 around targets of variance 4, orthogonal to them.
    targets = np.array([1.0, 1.0, -1.0, -1.0]) * 2 + 10
    predictions = targets + np.array([1.0, -1.0, 1.0, -1.0])
    np.testing.assert_allclose(scores.r_squared(targets, predictions), 1 - 1 / 4)
    np.testing.assert_allclose(scores.r_squared(targets, targets), 1.0)
    mean = np.full(4, targets.mean())
    np.testing.assert_allclose(scores.r_squared(targets, mean), 0.0, atol=1e-12)
    # The squared error of a constant that is off by d grows by d^2.
    np.testing.assert_allclose(scores.r_squared(targets, mean + 4.0), -4.0)


def test_scores_are_not_defined_without_variation():
    constant, varying = np.ones(4), np.arange(4.0)
    assert np.isnan(scores.r_squared(constant, varying))
    assert np.isnan(scores.kendall_tau(constant, varying))
    assert np.isnan(scores.kendall_tau(varying, constant))
    assert np.isnan(scores.kendall_tau(np.ones(1), np.ones(1)))
    groups = np.arange(4)
    assert np.isnan(scores.kendall_tau_within(varying, varying, groups))


def test_tau_within_groups_ignores_order_between_groups():
    rng = np.random.default_rng(0)
    groups = np.repeat(["small", "large", "one"], [9, 14, 1])
    targets, predictions = rng.normal(size=(2, 24))
    found = scores.kendall_tau_within(targets, predictions, groups)
    expected = np.mean(
        [
            tau_by_pairs(targets[groups == name], predictions[groups == name])
            for name in ("small", "large")
        ]
    )
    np.testing.assert_allclose(found, expected)
    shifted = predictions + 100.0 * (groups == "large")
    shuffled = rng.permutation(24)
    np.testing.assert_allclose(
        scores.kendall_tau_within(
            targets[shuffled], shifted[shuffled], groups[shuffled]
        ),
        expected,
    )
    assert scores.kendall_tau(targets, shifted) != pytest.approx(expected)


def test_bootstrap_matches_a_loop_of_its_own():
    values = np.random.default_rng(1).normal(size=(17, 2))
    found = scores.bootstrap(np.mean, values, seed=4, num_resamples=50, level=0.5)
    rng = np.random.default_rng(4)
    means = sorted(values[rng.integers(17, size=17)].mean() for _ in range(50))
    # Quartiles of 50 numbers lie a quarter of the way between two of them.
    low = means[12] + 0.25 * (means[13] - means[12])
    high = means[36] + 0.75 * (means[37] - means[36])
    np.testing.assert_allclose(found, (values.mean(), low, high))


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    """200 experiments at level 0.9; the intervals of 40 normal numbers cover 0.885.

    A binomial of 200 trials at 0.885 is outside of 160 to 192 once in 1,000 times.
    """
    rng = np.random.default_rng(2)
    covered = 0
    for experiment in range(200):
        numbers = rng.normal(3.0, 2.0, size=40)
        _, low, high = scores.bootstrap(
            np.mean, numbers, seed=experiment, num_resamples=200, level=0.9
        )
        covered += low <= 3.0 <= high
    assert 160 <= covered <= 192


def test_bootstrap_keeps_arrays_together():
    """The difference of two equal predictors is zero in every resample."""
    rng = np.random.default_rng(3)
    targets, noise = rng.normal(size=(2, 30))
    predictions = targets + noise

    def difference(targets, first, second):
        return scores.r_squared(targets, first) - scores.r_squared(targets, second)

    found = scores.bootstrap(
        difference, targets, predictions, predictions.copy(), num_resamples=20
    )
    assert found == (0.0, 0.0, 0.0)
    alone = scores.bootstrap(
        scores.r_squared, targets, predictions, seed=5, num_resamples=20
    )
    again = scores.bootstrap(
        scores.r_squared, targets, predictions, seed=5, num_resamples=20
    )
    other = scores.bootstrap(
        scores.r_squared, targets, predictions, seed=6, num_resamples=20
    )
    assert alone == again != other
    assert alone.low < alone.value < alone.high


def test_bootstrap_leaves_out_what_is_not_defined():
    """Of two networks, half of the resamples hold one of them twice."""
    targets = np.array([0.0, 1.0])
    found = scores.bootstrap(scores.kendall_tau, targets, targets, num_resamples=50)
    assert found == (1.0, 1.0, 1.0)
    found = scores.bootstrap(scores.kendall_tau, np.ones(3), np.ones(3))
    assert np.isnan(found).all()


@pytest.mark.parametrize(
    ("targets", "predictions", "message"),
    [
        ([0.0, np.nan], [0.0, 1.0], "targets: found NaN"),
        ([0.0, 1.0], [0.0, np.inf], "predictions: found NaN or infinity"),
        ([0.0, 1.0], [0.0, 1.0, 2.0], r"predictions: found shape \(3,\)"),
        ([[0.0], [1.0]], [0.0, 1.0], r"targets: found shape \(2, 1\)"),
        ([], [], "at least one"),
    ],
)
def test_bad_arrays_are_named(targets, predictions, message):
    for score in (scores.r_squared, scores.kendall_tau):
        with pytest.raises(ValueError, match=message):
            score(np.array(targets), np.array(predictions))


def test_bad_options_are_named():
    numbers = np.arange(3.0)
    with pytest.raises(ValueError, match=r"groups: found shape \(2,\)"):
        scores.kendall_tau_within(numbers, numbers, np.zeros(2))
    with pytest.raises(ValueError, match=r"lengths \[3, 2\]"):
        scores.bootstrap(scores.r_squared, numbers, numbers[:2])
    with pytest.raises(ValueError, match="num_resamples: found 0"):
        scores.bootstrap(np.mean, numbers, num_resamples=0)
    with pytest.raises(ValueError, match="level: found 1.0"):
        scores.bootstrap(np.mean, numbers, level=1.0)
