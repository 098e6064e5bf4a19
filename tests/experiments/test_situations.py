"""The suite of situations: its data, its baseline, and a run that goes on."""

import dataclasses

import numpy as np
import pytest

from experiments import common
from experiments.situations import baselines, compute, config, generators
from modmeta.relational.api import RelationalInference
from modmeta.relational.discovery import Discovery
from modmeta.relational.evaluation import ranking
from modmeta.relational.inference.relations import Relations
from modmeta.relational.verdict.conclusions import Verdict
from modmeta.relational.verdict.stretches import Stretches


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
        dataset, count, *_ = generators.SITUATIONS[name](1)
        found = np.unique(dataset.edges[dataset.edges >= 0])
        assert count == {1: 1 if name.startswith("one") else 0}.get(len(found), 2)
        again, *_ = generators.SITUATIONS[name](1)
        np.testing.assert_array_equal(again.states, dataset.states)


def test_regression_finds_springs_and_series():
    springs = generators.bodies(0, num_systems=1, num_frames=400, probability=0.3)
    assert ranking.auroc(baselines.edge_strengths(springs), springs.edges) > 0.99
    series, *_ = generators.SITUATIONS["series of lag 2"](0)
    found = baselines.edge_strengths(series)
    assert ranking.auroc(found, series.edges) > 0.95


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
    assert summary["expected_calibration_error"] < 0.03
    again = common.run(compute.EXPERIMENT, experiment, tmp_path / "run")
    assert again["situations"] == summary["situations"]


def test_the_calibration_of_all_kinds_is_that_of_all_their_pairs():
    """One kind of 90 pairs that errs by 0.1, and one of 10 that errs by 0.5."""

    def row(count, confidence, accuracy, num_relations=2):
        bins = {"count": count, "confidence": confidence, "accuracy": accuracy}
        return {"reliability": bins, "verdict": {"num_relations": num_relations}}

    rows = [row([0, 90], [0, 81.0], [0, 72.0]), row([10, 0], [5.0, 0], [10.0, 0])]
    assert compute._pooled_error(rows) == pytest.approx(0.14)
    nothing = row([100, 0], [50.0, 0], [100.0, 0], num_relations=0)
    assert compute._pooled_error([rows[0], nothing]) == pytest.approx(0.1)
    assert compute._pooled_error([nothing]) is None


def test_springs_that_change_follow_either_graph():
    situation = generators.SITUATIONS["springs that change"](1)
    dataset, change = situation.dataset, situation.change
    where, speed = dataset.states[..., :2], dataset.states[..., 2:]
    towards = where[:, :, None] - where[:, :, :, None]
    measured = np.gradient(speed, 0.1, axis=1)
    assert change.frames.shape == (40, 1)
    for edges, is_later in ((dataset.edges, False), (change.edges[:, 0], True)):
        force = 0.5 * np.einsum("nrs,ntrsc->ntrc", edges == 1, towards)
        frames = np.arange(60)
        after = frames > change.frames
        there = after if is_later else frames < change.frames - 1
        # Central differences over frames in which springs turn a little.
        error = (measured - force)[:, 1:-1][there[:, 1:-1]]
        assert np.sqrt(np.mean(error**2)) < 0.02 * np.sqrt(np.mean(measured**2))


def test_relations_may_change_thrice():
    """The graph of every frame is the last one drawn before it."""
    situation = generators.SITUATIONS["springs that change thrice"](0)
    change, first = situation.change, situation.dataset.edges
    assert situation.dataset.num_frames == 120 and change.frames.shape == (40, 3)
    assert (np.diff(change.frames, axis=1) > 10).all()
    for frame in (0, 30, 119):
        tasks = np.arange(40)
        found = change.at(first, tasks, np.full(40, frame))
        for task in tasks:
            expected = first[task]
            for when, edges in zip(*(part[task] for part in change), strict=True):
                expected = edges if frame >= when else expected
            np.testing.assert_array_equal(found[task], expected)


def test_stretches_are_scored_by_the_graph_of_their_middle():
    situation = generators.SITUATIONS["springs that change"](2)
    change, count = situation.change, situation.dataset.num_tasks
    tasks = np.repeat(np.arange(count), 2)
    turns = change.frames[:, 0] + 1
    starts = np.stack([np.zeros(count, int), turns], axis=1).ravel()
    stops = np.stack([turns, np.full(count, 60)], axis=1).ravel()
    parts = Stretches(tasks, starts, stops)
    both = np.concatenate([situation.dataset.edges[:, None], change.edges], axis=1)
    dataset = parts.of(situation.dataset)
    labelled = dataclasses.replace(dataset, edges=both.reshape(-1, *both.shape[2:]))
    result = made_up(labelled)
    found = dataclasses.replace(result.discovery, stretches=parts)
    result = dataclasses.replace(result, dataset=dataset, discovery=found)
    row = compute.score(situation, result)
    assert row["edge_accuracy"] == pytest.approx(0.9, abs=0.03)
    assert row["frames_late"] == 1.0
    # A frame too late in sixty, and half of the pairs have the same relation then.
    assert row["frame_accuracy"] == pytest.approx(0.9, abs=0.03)
    assert 0.8 < row["frame_f1"] < 1.0
    # Six windows, of which one holds a change.
    assert 0.9 < row["frame_accuracy_windows"] < 0.97
    early = parts._replace(starts=np.where(starts > 0, starts + 4, 0))
    found = dataclasses.replace(found, stretches=early)
    late = compute.score(situation, dataclasses.replace(result, discovery=found))
    assert late["frames_late"] == 5.0


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
