"""Whether parts of recordings agree, on relations that are drawn from probabilities."""

import types

import numpy as np
import pytest

from modmeta.relational import InferenceConfig, as_dataset
from modmeta.relational.evaluation import parts
from modmeta.relational.inference.relations import Relations
from modmeta.relational.verdict import consistency, held_out

SHAPE = (40, 6, 6)


def relations(right, truth, confidence):
    """Relations of which those named are right, all at one confidence."""
    num_relations = 2
    names = np.where(right, truth, 1 - truth)
    edges = np.where(np.eye(SHAPE[1], dtype=bool), -1, names).astype(np.int32)
    one_hot = np.eye(num_relations)[np.maximum(edges, 0)]
    probabilities = np.where(one_hot > 0, confidence, 1.0 - confidence)
    probabilities = probabilities * (edges >= 0)[..., None]
    return Relations(
        edges, np.zeros(SHAPE[:2], int), probabilities, probabilities, *[None] * 3
    )


def two_parts(accuracy, confidence, seed=0):
    """Two parts with independent errors."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, SHAPE)
    return [
        relations(rng.random(SHAPE) < accuracy, truth, confidence) for _ in range(2)
    ]


@pytest.mark.parametrize("accuracy", [0.92, 0.98, 0.999])
def test_parts_that_err_as_they_say_are_left_alone(accuracy):
    """By chance two standard errors are exceeded in one of 40 such tests."""
    found = consistency.compare_parts(*two_parts(accuracy, accuracy))
    assert found.temperature == 1.0
    assert abs(found.agreement - found.stated) < 0.03


@pytest.mark.parametrize("accuracy, confidence", [(0.93, 0.999), (0.85, 0.99)])
def test_parts_that_err_more_often_are_lowered_to_what_they_reach(accuracy, confidence):
    early, late = two_parts(accuracy, confidence)
    found = consistency.compare_parts(early, late)
    assert found.stated > found.agreement and found.temperature > 1.0
    lower = consistency.tempered(early, found.temperature)
    # Errors are independent here, so that agreement tells accuracy.
    surest = np.max(lower.probabilities, axis=-1)[early.edges >= 0]
    np.testing.assert_allclose(surest, accuracy, atol=0.02)
    np.testing.assert_array_equal(lower.edges, early.edges)
    sums = lower.probabilities.sum(axis=-1)
    np.testing.assert_allclose(sums, early.edges >= 0, atol=1e-6)


def test_what_is_not_sure_or_not_sampled_says_nothing():
    unsure = two_parts(0.6, 0.8)
    assert consistency.compare_parts(*unsure) is None
    early, late = two_parts(0.9, 0.99)
    silent = late._replace(probabilities=0.0 * late.probabilities)
    assert consistency.compare_parts(early, silent) is None


def test_nothing_is_made_surer():
    """However well parts agree, and however low a temperature is asked for."""
    early, _ = two_parts(1.0, 0.95)
    assert consistency.tempered(early, 0.5) is early
    found = consistency.compare_parts(*two_parts(1.0, 0.95))
    assert found.temperature == 1.0


def test_parts_of_more_disagreement_than_chance_know_nothing():
    early, _ = two_parts(0.5, 0.99)
    other = relations(np.zeros(SHAPE, bool), np.maximum(early.edges, 0), 0.99)
    found = consistency.compare_parts(early, other)
    assert found.agreement == 0.0
    lower = consistency.tempered(early, found.temperature)
    assert np.max(lower.probabilities) < 0.55


@pytest.mark.parametrize(
    "num_frames, encoder, num_samples, expected",
    [
        (40, "evidence", 8, [30, 20, 20]),
        (40, "evidence", 0, [30]),
        (40, "mlp+evidence", 8, [30]),
        (12, "evidence", 8, [8]),
    ],
)
def test_halves_are_searched_where_they_can_tell(
    monkeypatch, num_frames, encoder, num_samples, expected
):
    """The first frames that count, then both halves of frames, each as a mask."""
    states = np.random.default_rng(0).normal(size=(2, num_frames, 3, 2))
    dataset = as_dataset(states, lags=1)
    model = types.SimpleNamespace(
        network=types.SimpleNamespace(proposal=types.SimpleNamespace(encoder=encoder)),
        energy=types.SimpleNamespace(form="one_step"),
        bank=types.SimpleNamespace(config=types.SimpleNamespace(span=1)),
    )
    seen = []

    def search(rng_key, model, params, part, config):
        seen.append(part.is_observed.any(axis=2))
        return len(seen)

    monkeypatch.setattr(held_out, "infer_dataset", search)
    monkeypatch.setattr(held_out, "compare_parts", lambda *halves: halves)
    early, found = held_out._search_parts(
        None,
        model,
        None,
        dataset,
        parts.split(dataset, 1),
        InferenceConfig(num_samples=num_samples),
    )
    assert early == 1 and found == ((2, 3) if len(expected) == 3 else None)
    assert [int(frames[0].sum()) for frames in seen] == expected
    if found:
        np.testing.assert_array_equal(seen[1], ~seen[2])
        assert seen[1][:, :20].all()
