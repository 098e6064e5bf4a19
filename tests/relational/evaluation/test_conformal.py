"""Sets of relations: coverage is counted, thresholds are recounted by hand."""

import math

import numpy as np
import pytest
import scipy.stats

from modmeta.relational.evaluation import conformal, resampling


def draw_systems(rng, num_systems, num_pairs=6, num_relations=3):
    """Probabilities and labels of exchangeable systems, some of them much harder.

    Pairs of a system have a difficulty in common, and probabilities are far too sure.
    """
    hardness = rng.uniform(0.0, 3.0, (num_systems, 1, 1))
    labels = rng.integers(num_relations, size=(num_systems, num_pairs))
    logits = rng.normal(size=(num_systems, num_pairs, num_relations)) * hardness
    logits += 2.0 * np.eye(num_relations)[labels]
    probabilities = np.exp(4.0 * logits)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    return probabilities[:, None], labels[:, None], hardness[:, 0, 0]


def as_matrices(probabilities, labels):
    """`[S, 1, pairs]` as `[S, pairs, pairs]` of which one row holds edges."""
    count = labels.shape[-1]
    wide = np.zeros((len(labels), count, count, probabilities.shape[-1]))
    wide[:, :1] = probabilities
    edges = np.full((len(labels), count, count), -1)
    edges[:, :1] = labels
    return wide, edges


def test_random_pairs_of_new_systems_are_covered():
    """In 400 trials of 39 systems and a new one; each bound errs once in a million.

    Strata are parted by a number that no system chose, so that each keeps its promise.
    """
    rng, num_trials = np.random.default_rng(0), 400
    hits = {coverage: np.zeros((num_trials, 2), bool) for coverage in (0.8, 0.9)}
    is_hard = np.zeros(num_trials, bool)
    for trial in range(num_trials):
        probabilities, labels, energies = draw_systems(rng, 40)
        wide, edges = as_matrices(probabilities, labels)
        scores = conformal.nonconformity(wide[1:], edges[1:])
        pair = rng.integers(labels.shape[-1])
        is_hard[trial] = energies[0] > 1.5
        for coverage, found in hits.items():
            for number, boundaries in enumerate(([], [1.5])):
                known = conformal.calibrate(scores, energies[1:], coverage, boundaries)
                sets = conformal.relation_sets(known, wide[:1], energies[:1], "labels")
                found[trial, number] = sets.members[0, 0, pair, labels[0, 0, pair]]
    for coverage, found in hits.items():
        for counted in (found[:, 0], found[is_hard, 1], found[~is_hard, 1]):
            assert scipy.stats.binom.cdf(counted.sum(), len(counted), coverage) > 1e-6
        # Without a promise for each kind of system, the hard ones would be short.
        assert found[is_hard, 0].mean() < found[is_hard, 1].mean()


def test_threshold_weighs_systems_alike():
    """Against sums by hand: three systems of which one has many pairs."""
    scores = np.full((3, 4), np.nan)
    scores[0, 0], scores[1, 1], scores[2] = 0.5, 0.2, [0.1, 0.1, 0.9, 0.9]
    # Of four quarters the last is beyond: 0.1 holds 1/8, 0.2 3/8, 0.5 5/8, 0.9 3/4.
    for coverage, expected in ((0.1, 0.1), (0.375, 0.2), (0.5, 0.5), (0.75, 0.9)):
        assert conformal.threshold(scores, coverage) == expected
    assert conformal.threshold(scores, 0.76) == math.inf
    assert conformal.threshold(np.full((2, 3), np.nan), 0.5) == math.inf
    assert conformal.needed_systems(0.75) == 3
    assert conformal.needed_systems(0.9) == 9
    assert conformal.needed_systems(0.99) == 99


def test_sets_grow_with_coverage_and_are_full_out_of_range():
    rng = np.random.default_rng(1)
    wide, edges = as_matrices(*draw_systems(rng, 60)[:2])
    energies = rng.normal(size=60)
    scores = conformal.nonconformity(wide[:50], edges[:50])
    energies[52:] = np.clip(energies[52:], energies[:50].min(), energies[:50].max())
    energies[50], energies[51] = energies[:50].max() + 1e-6, energies[:50].min() - 1.0
    before = None
    for coverage in (0.3, 0.6, 0.9, 0.97, 0.99):
        found = conformal.calibrate(scores, energies[:50], coverage)
        sets = conformal.relation_sets(found, wide[50:], energies[50:], "labels")
        assert not sets.in_range[:2].any() and sets.in_range[2:].all()
        np.testing.assert_array_equal(sets.sizes[:2, 0], 3)
        np.testing.assert_array_equal(sets.sizes[:, 1:], -1)
        if before is not None:
            assert (sets.members | ~before).all()
        before = sets.members
        summary = sets.summary()
        sizes = sets.sizes[:, 0]
        assert summary["num_pairs"] == 60
        assert summary["mean_size"] == pytest.approx(sizes.mean())
        for name, size in (("empty", 0), ("single", 1), ("full", 3)):
            assert summary[f"share_{name}"] == pytest.approx(np.mean(sizes == size))
        assert summary["num_out_of_range"] == 2 and "2 of 10 systems" in repr(sets)
    # 50 systems cannot promise 99 %.
    assert summary["thresholds"] == [None] and summary["share_full"] == 1.0
    labels = edges[50:]
    assert sets.covered(labels, np.arange(3)) == 1.0
    with pytest.raises(ValueError, match="found none at any pair"):
        sets.covered(np.full_like(labels, -1), np.arange(3))


def test_labels_in_the_names_of_relations():
    labels = np.array([[[-1, 2], [0, -1]]])
    found = conformal.in_found_names(labels, np.array([2, 0, 1]))
    np.testing.assert_array_equal(found, [[[-1, 0], [1, -1]]])
    with pytest.raises(ValueError, match="found the label 2 that none of the 2"):
        conformal.in_found_names(labels, np.array([1, 0]))
    for wrong, message in ((1.0, "found 1.0"), (True, "a number"), ("1", "a number")):
        with pytest.raises(ValueError, match=message):
            conformal.check_coverage(wrong)


def test_signs_turn_whole_blocks():
    signs = resampling._signs(np.random.default_rng(0), (3, 2, 50, 4), 1)
    assert signs.shape == (3, 2, 50, 1) and set(np.unique(signs)) == {-1.0, 1.0}
    turns = np.flatnonzero(np.diff(signs[..., 0], axis=-1).any(axis=(0, 1))) + 1
    assert set(turns.tolist()) <= set(range(7, 50, 7)) and len(turns) > 3
