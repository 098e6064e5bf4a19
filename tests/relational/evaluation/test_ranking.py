"""Scores of rankings against counting, ties among them."""

import itertools

import numpy as np
import pytest

from modmeta.relational.evaluation import ranking


@pytest.fixture
def ranked():
    """Scores with many ties, pairs without a label and without a score."""
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, (2, 6, 6))
    scores = rng.integers(0, 5, labels.shape) + 0.5 * (labels > 0)
    scores[0, 0, 1] = np.nan
    is_pair = (labels >= 0) & np.isfinite(scores)
    return scores, labels, scores[is_pair], labels[is_pair] > 0


def test_area_equals_counting_pairs(ranked):
    scores, labels, values, is_edge = ranked
    pairs = itertools.product(values[is_edge], values[~is_edge])
    expected = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
    assert ranking.auroc(scores, labels) == pytest.approx(expected)
    false, true = ranking.roc_curve(scores, labels)
    assert np.trapezoid(true, false) == pytest.approx(expected)


def test_average_precision_equals_one_bar_after_the_other(ranked):
    scores, labels, values, is_edge = ranked
    expected, before = 0.0, 0.0
    for bar in np.unique(values)[::-1]:
        taken = values >= bar
        recall = np.sum(taken & is_edge) / is_edge.sum()
        expected += (recall - before) * np.mean(is_edge[taken])
        before = recall
    assert ranking.average_precision(scores, labels) == pytest.approx(expected)


def test_perfect_and_useless_rankings():
    labels = np.array([1, 1, 0, 0, 0])
    assert ranking.auroc([4, 3, 2, 1, 0], labels) == 1.0
    assert ranking.average_precision([4, 3, 2, 1, 0], labels) == 1.0
    assert ranking.auroc(np.zeros(5), labels) == 0.5
    assert ranking.average_precision(np.zeros(5), labels) == pytest.approx(0.4)
    assert ranking.majority([[-1, 1], [0, -1]]) == 0.5
    assert ranking.majority(labels) == pytest.approx(0.6)


def test_pairs_that_are_all_alike_have_no_ranking():
    for labels in (np.zeros(3, int), np.ones(3, int)):
        assert ranking.auroc([1, 2, 3], labels) is None
        assert ranking.average_precision([1, 2, 3], labels) is None
        with pytest.raises(ValueError, match="expected edges and others"):
            ranking.roc_curve([1, 2, 3], labels)
    with pytest.raises(ValueError, match=r"labels: found shape \[2\], expected \[3\]"):
        ranking.auroc([1, 2, 3], [0, 1])
