"""The suite of situations: its data, its baseline, and a run that goes on."""

import itertools

import numpy as np
import pytest

from experiments import common
from experiments.situations import baselines, compute, config, generators
from modmeta.relational.api import RelationalInference
from modmeta.relational.discovery import Discovery
from modmeta.relational.evaluation.verdict import Verdict
from modmeta.relational.inference.relations import Relations


def test_springs_keep_momentum_and_energy():
    """Undirected springs without friction, masses one: closed system."""
    dataset = generators.bodies(0, num_systems=4)
    where, speed = dataset.states[..., :2], dataset.states[..., 2:]
    momentum = speed.sum(axis=2)
    np.testing.assert_allclose(momentum, momentum[:, :1].repeat(50, 1), atol=1e-4)
    apart = np.square(where[:, :, :, None] - where[:, :, None]).sum(axis=-1)
    joined = np.maximum(dataset.edges, 0)[:, None]
    # Every pair twice: half of 1/2 k d^2.
    potential = 0.125 * 2.0 * np.sum(joined * apart, axis=(2, 3)) / 2.0
    kinetic = 0.5 * np.square(speed).sum(axis=(2, 3))
    total = kinetic + potential * 1.0
    np.testing.assert_allclose(total, total[:, :1].repeat(50, 1), rtol=1e-3)


def test_every_situation_has_its_labels():
    for name in ("springs", "friction alone", "one spring everywhere", "white noise"):
        dataset, count, _ = generators.SITUATIONS[name](1)
        found = np.unique(dataset.edges[dataset.edges >= 0])
        assert count == {1: 1 if name.startswith("one") else 0}.get(len(found), 2)
        again, *_ = generators.SITUATIONS[name](1)
        np.testing.assert_array_equal(again.states, dataset.states)


def test_ranking_equals_counting_pairs():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 2, (2, 4, 4))
    scores = rng.integers(0, 4, labels.shape).astype(float)
    scores[0, 0, 1] = np.nan
    is_edge = (labels >= 0) & np.isfinite(scores)
    yes, no = scores[is_edge & (labels == 1)], scores[is_edge & (labels == 0)]
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(yes, no)]
    assert baselines.ranking(scores, labels) == pytest.approx(np.mean(pairs))
    assert baselines.ranking(scores, np.zeros_like(labels)) is None


def test_regression_finds_springs_and_series():
    springs = generators.bodies(0, num_systems=1, num_frames=400, probability=0.3)
    assert baselines.ranking(baselines.edge_strengths(springs), springs.edges) > 0.99
    series, *_ = generators.SITUATIONS["series of lag 2"](0)
    found = baselines.edge_strengths(series)
    assert baselines.ranking(found, series.edges) > 0.95


def made_up(dataset, *_, **__):
    """Relations that are the labels, but for one edge in ten, and as sure as that."""
    edges = dataset.edges.copy()
    wrong = (np.random.default_rng(0).random(edges.shape) < 0.1) & (edges >= 0)
    edges[wrong] = 1 - edges[wrong]
    probabilities = 0.1 + 0.8 * np.eye(2)[np.maximum(edges, 0)]
    probabilities[edges < 0] = 0.0
    shape = edges.shape
    found = Relations(
        edges,
        np.zeros(shape[:2], np.int32),
        probabilities,
        np.zeros((*shape, 2)),
        np.zeros(shape[0]),
        np.zeros(shape[0], np.int32),
        np.zeros((shape[0], 0)),
    )
    verdict = Verdict(True, 2, 0.1, (0.0, 1.0), None, 1, "Made up.")
    model = type("Model", (), {"num_relations": 2})()
    return RelationalInference(dataset, Discovery(model, None, found, found, verdict))


def test_a_run_scores_every_situation_and_goes_on(monkeypatch, tmp_path):
    monkeypatch.setattr(compute, "infer_relations", made_up)
    experiment = config.ExperimentConfig(situations=("springs", "directed springs"))
    summary = common.run(compute.EXPERIMENT, experiment, tmp_path / "run")
    row = summary["situations"]["springs"]
    assert row["edge_accuracy"] == pytest.approx(0.9, abs=0.03)
    assert row["confidence"] == pytest.approx(0.9)
    assert row["expected_calibration_error"] < 0.03 and row["right_count"]
    assert row["auroc"] == pytest.approx(0.9, abs=0.03)
    assert "directed springs" in compute.format_summary(summary)


def test_what_is_done_is_not_done_again(monkeypatch, tmp_path):
    """After a failure; other options need another directory."""
    calls = []

    def fail_at_second(dataset, *arguments, **options):
        calls.append(options["seed"])
        if len(calls) == 2:
            raise MemoryError("full")
        return made_up(dataset)

    monkeypatch.setattr(compute, "infer_relations", fail_at_second)
    names = ("springs", "directed springs")
    experiment = config.ExperimentConfig(situations=names)
    with pytest.raises(MemoryError):
        common.run(compute.EXPERIMENT, experiment, tmp_path / "run")
    assert len(calls) == 2
    common.run(compute.EXPERIMENT, experiment, tmp_path / "run")
    assert len(calls) == 3
    other = config.ExperimentConfig(situations=names, num_restarts=1)
    with pytest.raises(FileExistsError):
        common.run(compute.EXPERIMENT, other, tmp_path / "run")


def test_unknown_situations_are_refused():
    with pytest.raises(ValueError, match="situations: found .'snow'., expected some"):
        config.ExperimentConfig(situations=("snow",))
