import itertools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from modmeta.relational.evaluation import calibration
from modmeta.relational.evaluation.matching import (
    confusion_matrix,
    edge_accuracy,
    match_relations,
    relabel,
    relabel_probabilities,
)

SETTINGS = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


def count_by_hand(edges, labels, num_found, num_true):
    counts = [[0] * num_true for _ in range(num_found)]
    for found, true in zip(edges.flat, labels.flat, strict=True):
        if found != -1 and true != -1:
            counts[found][true] += 1
    return np.array(counts)


def accuracy_by_hand(edges, labels, names):
    """`names` maps found to true relations; relations without a name are wrong."""
    right = total = 0
    for found, true in zip(edges.flat, labels.flat, strict=True):
        if found != -1 and true != -1:
            total += 1
            right += names.get(found) == true
    return right / total


def best_accuracy_by_hand(edges, labels, num_found, num_true):
    candidates = list(range(num_true)) + [None] * max(0, num_found - num_true)
    return max(
        accuracy_by_hand(edges, labels, dict(enumerate(order)))
        for order in itertools.permutations(candidates, num_found)
    )


def random_arrays(rng, num_found, num_true, systems=3, nodes=4):
    shape = (systems, nodes, nodes)
    edges = rng.integers(-1, num_found, shape)
    labels = rng.integers(-1, num_true, shape)
    edges[0, 0, 1] = labels[0, 0, 1] = 0
    return edges, labels


@st.composite
def edge_problems(draw, sizes):
    num_found, num_true = draw(sizes)
    shape = (draw(st.integers(1, 3)), *[draw(st.integers(2, 4))] * 2)
    edges = draw(hnp.arrays(np.int32, shape, elements=st.integers(-1, num_found - 1)))
    labels = draw(hnp.arrays(np.int64, shape, elements=st.integers(-1, num_true - 1)))
    hypothesis.assume(((edges >= 0) & (labels >= 0)).any())
    return edges, labels, num_found, num_true


@hypothesis.given(edge_problems(st.sampled_from([(2, 2), (3, 3), (4, 4)])))
@SETTINGS
def test_matching_is_the_best_permutation(problem):
    edges, labels, num_found, num_true = problem
    matching = match_relations(confusion_matrix(*problem))
    assert sorted(matching) == list(range(num_true))
    assert edge_accuracy(edges, labels, matching) == pytest.approx(
        best_accuracy_by_hand(edges, labels, num_found, num_true)
    )


@hypothesis.given(
    edge_problems(st.sampled_from([(2, 3), (3, 2), (4, 2), (2, 4), (1, 3), (3, 1)]))
)
@SETTINGS
def test_matching_of_unequal_numbers(problem):
    edges, labels, num_found, num_true = problem
    matching = match_relations(confusion_matrix(*problem))
    assert len(set(matching)) == num_found
    # Surplus names continue after the true ones.
    assert set(matching[matching >= num_true]) == set(
        range(num_true, max(num_found, num_true))
    )
    assert edge_accuracy(edges, labels, matching) == pytest.approx(
        best_accuracy_by_hand(edges, labels, num_found, num_true)
    )


@hypothesis.given(edge_problems(st.sampled_from([(2, 2), (3, 4), (4, 3)])))
@SETTINGS
def test_confusion_matrix_counts(problem):
    counts = confusion_matrix(*problem)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, count_by_hand(*problem))


def test_confusion_matrices_of_parts_add_up():
    edges, labels = random_arrays(np.random.default_rng(0), 3, 3, systems=6)
    parts = [
        confusion_matrix(edges[i : i + 2], labels[i : i + 2], 3, 3) for i in (0, 2, 4)
    ]
    np.testing.assert_array_equal(sum(parts), confusion_matrix(edges, labels, 3, 3))


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
def test_undoes_a_permutation(permutation):
    labels = np.random.default_rng(1).integers(0, 3, (4, 5, 5))
    labels[:, range(5), range(5)] = -1
    found_name = np.array([*permutation, -1])
    edges = found_name[labels]
    matching = match_relations(confusion_matrix(edges, labels, 3, 3))
    np.testing.assert_array_equal(relabel(edges, matching), labels)
    assert edge_accuracy(edges, labels, matching) == 1.0
    assert edge_accuracy(edges, labels) == np.mean(edges == labels, where=labels >= 0)


def test_one_matching_for_the_whole_data_set():
    # The second system has the names exchanged: a matching per system would score 1.
    labels = np.full((2, 3, 3), -1)
    labels[:, 0, 1], labels[:, 1, 2], labels[:, 2, 0] = 0, 1, 1
    edges = labels.copy()
    edges[1] = np.array([1, 0, -1])[labels[1]]
    matching = match_relations(confusion_matrix(edges, labels, 2, 2))
    assert edge_accuracy(edges, labels, matching) == 0.5
    for system in range(2):
        one = (edges[system : system + 1], labels[system : system + 1])
        alone = match_relations(confusion_matrix(*one, 2, 2))
        assert edge_accuracy(*one, alone) == 1.0


def test_random_edges_score_at_chance():
    rng = np.random.default_rng(2)
    edges, labels = rng.integers(0, 2, (2, 500, 5, 5))
    matching = match_relations(confusion_matrix(edges, labels, 2, 2))
    # 12,500 fair coins: 0.02 is 4.5 standard deviations, false alarms below 1e-5.
    assert 0.5 <= edge_accuracy(edges, labels, matching) < 0.52


@pytest.mark.parametrize(
    ("confusion", "expected"),
    [
        (np.zeros((3, 3), int), [0, 1, 2]),
        (np.zeros((2, 3), int), [0, 1]),
        (np.zeros((3, 2), int), [0, 1, 2]),
        ([[5, 5], [5, 5]], [0, 1]),
        ([[5, 6], [5, 5]], [1, 0]),
        # Relation 1 was never found; 0 and 2 are exchanged.
        ([[0, 0, 4], [0, 0, 0], [4, 0, 0]], [2, 1, 0]),
        ([[1, 0], [0, 9], [8, 0]], [2, 1, 0]),
        # The more frequent pairs win, although one row loses its maximum.
        ([[10, 9], [8, 0]], [1, 0]),
    ],
)
def test_ties_and_special_cases(confusion, expected):
    assert match_relations(confusion).tolist() == expected


def test_relabel_keeps_missing_edges_and_surplus_names_apart():
    edges = np.array([[[-1, 0], [2, -1]], [[-1, 1], [0, -1]]])
    relabelled = relabel(edges, [1, 2, 0])
    assert relabelled.tolist() == [[[-1, 1], [0, -1]], [[-1, 2], [1, -1]]]
    assert relabel(edges.astype(np.int8), [1, 2, 0]).dtype == np.int64


def test_unmatched_relations_count_as_wrong():
    labels = np.array([[[-1, 0, 1], [1, -1, 0], [0, 0, -1]]])
    edges = np.array([[[-1, 2, 1], [1, -1, 2], [2, 0, -1]]])
    matching = match_relations(confusion_matrix(edges, labels, 3, 2))
    assert matching.tolist() == [2, 1, 0]
    assert edge_accuracy(edges, labels, matching) == pytest.approx(5 / 6)


def test_entries_without_edge_or_label_do_not_count():
    edges, labels = random_arrays(np.random.default_rng(3), 3, 3)
    counts = confusion_matrix(edges, labels, 3, 3)
    accuracy = edge_accuracy(edges, labels)
    ignored = (edges < 0) | (labels < 0)
    assert ignored.any()
    other_edges, other_labels = edges.copy(), labels.copy()
    other_edges[ignored] = -1
    other_labels[ignored & (edges < 0)] = 2
    np.testing.assert_array_equal(
        confusion_matrix(other_edges, other_labels, 3, 3), counts
    )
    assert edge_accuracy(other_edges, other_labels) == accuracy


def test_jax_arrays_are_arrays():
    jnp = pytest.importorskip("jax.numpy")
    edges, labels = random_arrays(np.random.default_rng(4), 2, 2)
    np.testing.assert_array_equal(
        confusion_matrix(jnp.asarray(edges), jnp.asarray(labels), 2, 2),
        count_by_hand(edges, labels, 2, 2),
    )


def probabilities_of(edges, num_relations, rng):
    logits = rng.normal(size=(*edges.shape, num_relations))
    values = np.exp(logits)
    values /= values.sum(axis=-1, keepdims=True)
    values[edges < 0] = np.nan
    return values


@hypothesis.given(edge_problems(st.sampled_from([(2, 2), (3, 2), (2, 3), (3, 4)])))
@SETTINGS
def test_brier_score_and_calibration_against_loops(problem):
    edges, labels, num_found, num_true = problem
    values = probabilities_of(edges, num_found, np.random.default_rng(5))
    matching = match_relations(confusion_matrix(*problem))
    scores, bins = [], {}
    for index in np.ndindex(edges.shape):
        if edges[index] == -1 or labels[index] == -1:
            continue
        by_name = dict(zip(matching.tolist(), values[index], strict=True))
        scores.append(
            sum(
                (by_name.get(name, 0.0) - (name == labels[index])) ** 2
                for name in range(num_found + num_true)
            )
        )
        best = max(by_name, key=by_name.get)
        bins.setdefault(int(by_name[best] * 5), []).append(
            (by_name[best], best == labels[index])
        )
    error = sum(
        abs(sum(p for p, _ in entries) - sum(right for _, right in entries))
        for entries in bins.values()
    ) / len(scores)
    assert calibration.brier_score(values, labels, matching) == pytest.approx(
        np.mean(scores)
    )
    assert calibration.expected_calibration_error(
        values, labels, matching, num_bins=5
    ) == pytest.approx(error)
    counts = calibration.reliability_bins(values, labels, matching, num_bins=5).count
    assert {i: n for i, n in enumerate(counts) if n} == {
        i: len(entries) for i, entries in bins.items()
    }


@pytest.mark.parametrize(
    ("probability_of_truth", "brier"), [(1.0, 0.0), (0.0, 2.0), (0.5, 0.5)]
)
@pytest.mark.parametrize("filler", [np.nan, 0.0])
def test_known_brier_scores(probability_of_truth, brier, filler):
    labels = np.array([[[-1, 0], [1, -1]]])
    values = np.full((1, 2, 2, 2), filler)
    values[0, 0, 1] = probability_of_truth, 1 - probability_of_truth
    values[0, 1, 0] = 1 - probability_of_truth, probability_of_truth
    assert calibration.brier_score(values, labels) == brier
    assert calibration.brier_score(values[..., ::-1], labels, [1, 0]) == brier


def test_certain_and_right_is_calibrated_and_sits_in_the_last_bin():
    labels = np.array([[[-1, 0], [1, -1]]])
    values = np.zeros((1, 2, 2, 2), np.float32)
    values[0, 0, 1, 0] = values[0, 1, 0, 1] = 1.0
    bins = calibration.reliability_bins(values, labels, num_bins=4)
    assert bins.count.tolist() == [0, 0, 0, 2]
    assert bins.confidence[3] == bins.accuracy[3] == 1.0
    assert np.isnan(bins.confidence[:3]).all()
    assert bins.boundaries.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert calibration.expected_calibration_error(values, labels) == 0.0
    assert (
        calibration.expected_calibration_error(values, 1 - labels * (labels >= 0))
        == 1.0
    )


def test_a_probability_on_a_limit_belongs_to_the_bin_above():
    values = np.full((1, 2, 2, 2), 0.5)
    bins = calibration.reliability_bins(values, np.zeros((1, 2, 2), int), num_bins=2)
    assert bins.count.tolist() == [0, 4]


def test_relabel_probabilities_follows_relabel():
    rng = np.random.default_rng(6)
    edges, _ = random_arrays(rng, 3, 3)
    values = probabilities_of(edges, 3, rng)
    values[edges < 0] = 0.0
    moved = relabel_probabilities(values, [3, 0, 1], num_relations=5)
    assert moved.shape == (*edges.shape, 5)
    present = edges >= 0
    most_probable = np.where(present, values.argmax(-1), -1)
    np.testing.assert_array_equal(
        np.where(present, moved.argmax(-1), -1),
        relabel(most_probable, [3, 0, 1]),
    )
    np.testing.assert_allclose(moved.sum(-1), values.sum(-1))
    assert relabel_probabilities(values, [3, 0, 1]).shape[-1] == 4


SQUARE = np.zeros((2, 3, 3), int)
HALF = np.full((2, 3, 3, 2), 0.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: confusion_matrix(SQUARE, SQUARE[:1], 2, 2),
            ValueError,
            r"labels: found shape \[1, 3, 3\], expected \[2, 3, 3\], as edges has",
        ),
        (
            lambda: confusion_matrix(SQUARE[0], SQUARE[0], 2, 2),
            ValueError,
            r"edges: found shape \[3, 3\], expected \[systems, nodes, nodes\]",
        ),
        (
            lambda: confusion_matrix(SQUARE[:, :2], SQUARE[:, :2], 2, 2),
            ValueError,
            "edges: found shape",
        ),
        (
            lambda: confusion_matrix(SQUARE + 2, SQUARE, 2, 2),
            ValueError,
            r"edges: found 2 at index \[0, 0, 0\], expected relations from 0 to 1",
        ),
        (
            lambda: confusion_matrix(SQUARE, SQUARE - 2, 2, 2),
            ValueError,
            "labels",
        ),
        (
            lambda: confusion_matrix(SQUARE, SQUARE * 1.0, 2, 2),
            TypeError,
            "labels",
        ),
        (
            lambda: match_relations(SQUARE),
            ValueError,
            "confusion: found shape",
        ),
        (lambda: match_relations([[1, -1]]), ValueError, "counts"),
        (lambda: match_relations([[0.5, 1.0]]), TypeError, "confusion"),
        (
            lambda: edge_accuracy(SQUARE, SQUARE[:, :2, :2]),
            ValueError,
            "labels",
        ),
        (
            lambda: edge_accuracy(SQUARE, SQUARE - 1),
            ValueError,
            "labels: found none where",
        ),
        (lambda: relabel(SQUARE + 2, [1, 0]), ValueError, "from 0 to 1"),
        (lambda: relabel(SQUARE, [1, 1]), ValueError, "distinct"),
        (
            lambda: relabel(SQUARE, [-1, 0]),
            ValueError,
            "distinct names from 0",
        ),
        (lambda: relabel(SQUARE, [1.0, 0.0]), TypeError, "matching"),
        (lambda: relabel(SQUARE, [[1, 0]] * 2), ValueError, "whole data set"),
        (
            lambda: relabel_probabilities(HALF, [0, 1, 2]),
            ValueError,
            "expected 2 names",
        ),
        (
            lambda: relabel_probabilities(HALF, [0, 2], 2),
            ValueError,
            "num_relations: found 2, expected at least 3",
        ),
        (
            lambda: calibration.brier_score(HALF[..., 0], SQUARE),
            ValueError,
            "probabilities",
        ),
        (
            lambda: calibration.brier_score(HALF.astype(int), SQUARE),
            TypeError,
            "probabilities",
        ),
        (
            lambda: calibration.brier_score(HALF, SQUARE[:1]),
            ValueError,
            "labels: found shape",
        ),
        (lambda: calibration.brier_score(HALF * 3, SQUARE), ValueError, "sum to 1"),
        (
            lambda: calibration.brier_score(HALF + np.array([0.7, -0.7]), SQUARE),
            ValueError,
            "non-negative",
        ),
        (
            lambda: calibration.brier_score(HALF * np.nan, SQUARE),
            ValueError,
            "labels: found none where",
        ),
        (
            lambda: calibration.reliability_bins(HALF, SQUARE, num_bins=0),
            ValueError,
            "num_bins",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()
