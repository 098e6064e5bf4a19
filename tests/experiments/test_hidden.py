"""Scores of hidden bodies, against what can be counted by hand."""

import types

import numpy as np
import pytest

from experiments import common
from experiments.hidden import compute, report
from experiments.relational_inference import hidden, train
from modmeta.relational import HiddenEntities, TrajectoryDataset
from modmeta.relational.data import FeatureSpec

BODIES = FeatureSpec(("x", "vx"), positions=(0,), velocities=(1,))


def found_of(whole, num_hidden, states, hidden_edges):
    """What was found: the visible part as it is, the hidden one as given."""
    num_tasks, num_frames = whole.states.shape[:2]
    most = states.shape[2]
    edges = np.full((num_tasks, 2 + most, 2 + most), -1)
    edges[:, :2, :2] = whole.edges[:, :2, :2]
    edges[:, :2, 2:] = hidden_edges
    return HiddenEntities(
        num_hidden=np.array(num_hidden),
        states=states,
        deviations=np.zeros_like(states),
        is_known=np.arange(most) < np.array(num_hidden)[:, None],
        edges=edges,
        probabilities=np.eye(2)[np.maximum(edges, 0)],
        evidence=np.zeros((num_tasks, most + 1)),
        misfit=np.ones(num_tasks),
        effects=np.ones((num_tasks, most)),
    )


def test_bodies_are_compared_with_those_they_are_nearest_to():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2, 4, 4, 2)).astype(np.float32)
    edges = np.zeros((2, 4, 4), int)
    edges[:, np.arange(4), np.arange(4)] = -1
    # In system 0, body 2 acts on both visible ones and body 3 on none; in system 1 both
    # on one.
    edges[0, :2, 2] = 1
    edges[1, 0, 2] = edges[1, 1, 3] = 1
    whole = TrajectoryDataset(
        states=states,
        features=BODIES,
        frame_interval=1.0,
        edges=edges,
        num_relations=2,
    )
    # Found in the other order, one of them off by 0.2; in system 0 one alone.
    hidden = states[:, :, [3, 2]].copy()
    hidden[0, :, 0], hidden[0, :, 1] = states[0, :, 2], np.nan
    hidden[1, :, 1, 0] += 0.2
    outgoing = np.zeros((2, 2, 2), int)
    outgoing[0, :, 0] = 1
    outgoing[1] = edges[1, :2, [3, 2]].T
    outgoing[1, 1, 1] = 1  # wrong
    found = found_of(whole, [1, 2], hidden, outgoing)
    rows = compute.score(
        whole, 2, found, np.array([2.0, 1.0]), np.array([0, 1]), acting=(1,)
    )

    assert [row["num_found"] for row in rows] == [1, 2]
    assert [row["num_acting"] for row in rows] == [1, 2]
    assert [row["visible_edges"] for row in rows] == [1.0, 1.0]
    first, lost = rows[0]["bodies"]
    assert first == {"degree": 2, "error": 0.0, "is_known": True, "edges": 1.0}
    assert lost == {"degree": 0, "error": None, "is_known": False, "edges": None}
    off, exact = rows[1]["bodies"]
    np.testing.assert_allclose(off["error"], 0.5 * (0.2 / 2.0) ** 2, rtol=1e-4)
    assert (off["edges"], exact["edges"], exact["error"]) == (0.5, 1.0, 0.0)

    entry = {"2": {"systems": rows, "seconds": 1.0}}
    by_degree = {row["degree"]: row for row in report.by_degree(entry)}
    assert {d: row["bodies"] for d, row in by_degree.items()} == {0: 1, 1: 2, 2: 1}
    assert by_degree[0]["mean_error"] is None and by_degree[1]["edges"] == 0.75
    # Pooled over two runs; one body of degree 1 is off by 0.005, and all are counted.
    pooled = {row["degree"]: row for row in report.pooled([*entry.values()] * 2)}
    assert {d: row["bodies"] for d, row in pooled.items()} == {0: 2, 1: 4, 2: 2}
    assert pooled[0]["found"] == pooled[0]["known"] == 0.0
    assert pooled[0]["median_error"] is None and pooled[0]["visible_edges"] == 1.0
    assert pooled[1]["below"] == [0.5, 1.0] and pooled[1]["found"] == 1.0
    np.testing.assert_allclose(pooled[1]["median_error"], 0.0025, rtol=1e-3)
    (numbers,) = report.by_number(entry)
    assert numbers["right_number"] == 1.0 and numbers["systems"] == 2


def configured(*assignments):
    return common.configure(train.EXPERIMENT, "springs", assignments=assignments)


@pytest.mark.parametrize("is_loaded", [False, True])
@pytest.mark.parametrize("supported", [False, True])
def test_a_run_looks_with_its_walls_and_says_what_it_knows(
    monkeypatch, tmp_path, is_loaded, supported
):
    """A verdict of modules that were trained here counts; of others it is on these."""
    whole = TrajectoryDataset(
        states=np.random.default_rng(0).normal(size=(2, 4, 3, 2)).astype(np.float32),
        features=BODIES,
        frame_interval=1.0,
        edges=np.ones((2, 3, 3), int),
    )
    found = found_of(whole, [1, 1], whole.states[:, :, 2:], np.ones((2, 2, 1), int))
    asked = {}

    def find_hidden(model, params, dataset, **options):
        asked.update(options)
        return found

    monkeypatch.setattr(hidden.find, "find_hidden", find_hidden)
    config = configured("hidden=auto", *["model=m.npz"] * is_loaded)
    mutual = types.SimpleNamespace(edges=np.ones((2, 3, 3), int))
    verdict = types.SimpleNamespace(supported=supported)
    entities = hidden.look(config, None, None, whole, mutual, verdict, not is_loaded)
    assert asked["num_hidden"] == "auto" and asked["config"].symmetric
    assert asked["config"].domain == config.prediction.domain
    assert entities.is_known.any() == (is_loaded or supported)
    assert any("these very systems" in note for note in entities.notes) != is_loaded
    hidden.write(tmp_path / "hidden.npz", entities)
    with np.load(tmp_path / "hidden.npz") as file:
        np.testing.assert_array_equal(file["states"], found.states)
        assert {"num_hidden", "is_known", "edges", "evidence"} <= set(file.files)


def test_what_a_run_cannot_look_for_is_refused():
    for words, message in (
        (("hidden=many",), "hidden: found 'many', expected one of"),
        (("hidden=auto", "changing=True"), "hidden: found 'auto' with relations that"),
        (("hidden=1", "modules.path=start"), "hidden: found 1 with modules.path"),
    ):
        with pytest.raises(ValueError, match=message):
            configured(*words)
