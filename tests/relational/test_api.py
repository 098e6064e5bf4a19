"""What a user calls: shapes, units, files and refusals of `infer_relations`.

Runs of two steps serve, as what was learnt does not matter; what does is asked of the
learning run in `tests.relational.training.test_learning`.
"""

import csv
import dataclasses

import jax
import numpy as np
import pytest

from modmeta.relational import RelationalInference, data, discovery, infer_relations
from modmeta.relational.data import DataError
from modmeta.relational.data.forms.arrays import as_dataset
from modmeta.relational.data.neighbors import CandidateConfig
from modmeta.relational.discovery import Discovery
from modmeta.relational.inference import artifacts, infer
from modmeta.relational.inference.config import InferenceConfig, MemoryConfig
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.proposal_head import ProposalConfig
from modmeta.relational.training import setup
from modmeta.relational.training.bouncegrad import BounceGradConfig
from modmeta.relational.training.meta_training import TrainingConfig
from modmeta.runtime.artifact import load_artifact, save_artifact

QUICK = {
    "modules": ModuleConfig(edge_sizes=(4,), message_size=4, node_sizes=(4,)),
    "proposal": ProposalConfig(encoder="mlp", width=4),
    "bouncegrad": BounceGradConfig(
        num_steps=2, batch_size=4, search_steps=2, gradient_frames=3
    ),
    "training": TrainingConfig(num_evaluations=1, search_steps=2),
    "inference": InferenceConfig(num_steps=4, num_chains=1, num_samples=4),
    "memory": MemoryConfig(batch_size=4),
    "num_restarts": 1,
}


def random_walks(num_tasks=6, num_frames=8, num_nodes=3, num_features=2, seed=0):
    steps = np.random.default_rng(seed).normal(
        size=(num_tasks, num_frames, num_nodes, num_features)
    )
    return 30.0 + 0.1 * np.cumsum(steps, axis=1)


@pytest.fixture(scope="module")
def unlabelled():
    return infer_relations(random_walks(), 3, **QUICK)


def check_relations(result, num_relations):
    """Edges and probabilities agree with the node mask and with each other."""
    dataset = result.dataset
    num_tasks, num_nodes = dataset.node_mask.shape
    assert result.edges.shape == (num_tasks, num_nodes, num_nodes)
    assert result.edges.dtype == np.int32
    is_edge = dataset.node_mask[:, :, None] & dataset.node_mask[:, None, :]
    is_edge &= ~np.eye(num_nodes, dtype=bool)
    np.testing.assert_array_equal(result.edges >= 0, is_edge)
    assert result.edges.max() < num_relations
    assert result.probabilities.shape == (*result.edges.shape, num_relations)
    np.testing.assert_allclose(result.probabilities.sum(-1), is_edge, atol=1e-5)


def test_plain_array_without_labels(unlabelled):
    check_relations(unlabelled, 3)
    assert unlabelled.edge_accuracy is None
    assert unlabelled.model.num_relations == 3
    assert set(unlabelled.plot(num_systems=2, num_steps=3)) == {
        "adjacency",
        "trajectories",
    }


def test_predictions_are_in_the_units_of_the_input(unlabelled):
    found = unlabelled.predict(5)
    assert found.shape == (6, 5, 3, 2)
    assert np.isfinite(found).all()
    # After two training steps predictions stay near the last frame, far from zero.
    np.testing.assert_allclose(found[:, 0], random_walks()[:, -1], atol=2.0)
    with pytest.raises(ValueError, match="num_steps: found 0, expected at least 1"):
        unlabelled.predict(0)


def test_data_as_it_comes():
    """Positions alone, gaps, recordings of different length and times: one graph.

    Its 13 frames are too few to hold some out: a graph and its verdict come from
    searches of one shape. Entities that differ are asked by the tests of laws.
    """
    rng = np.random.default_rng(0)
    lengths = (5, 4, 4)
    times = [np.cumsum(rng.uniform(0.5, 1.5, length)) for length in lengths]
    arrays = [
        walk[:length] for walk, length in zip(random_walks(3, 5), lengths, strict=True)
    ]
    arrays[1] = np.ma.MaskedArray(arrays[1], np.zeros(arrays[1].shape, bool))
    arrays[1][2, 1, 0] = np.ma.masked
    options = {
        "modules": dataclasses.replace(QUICK["modules"], entities="alike"),
        "proposal": ProposalConfig(width=4),
        "num_restarts": 2,
    }
    result = infer_relations(
        arrays, positions=(0, 1), times=times, shared_graph=True, **{**QUICK, **options}
    )
    assert result.dataset.num_tasks == 1
    assert result.dataset.num_frames == sum(lengths)
    check_relations(result, 2)
    # Two steps of training teach nothing, and the verdict says so.
    assert not result.verdict.supported and 0.0 <= result.verdict.agreement <= 1.0
    assert result.notes[-1] == "Velocities were derived from positions."
    found = result.predict(4, num_substeps=8)
    assert found.shape == (1, 4, 3, 2) and np.isfinite(found).all()
    np.testing.assert_allclose(found[0, 0], arrays[-1][-1], atol=2.0)
    step = result.dataset.frame_interval
    times = result.dataset.times[0, -1] + step * np.arange(1, 5)
    again = result.predict(4, num_substeps=8, times=times)
    np.testing.assert_allclose(again, found, atol=1e-3)
    with pytest.raises(
        DataError, match="times: found .* after .* expected times that increase"
    ):
        result.predict(4, times=times - 2 * step)
    assert set(result.plot(num_systems=1, num_steps=4)) == {
        "adjacency",
        "trajectories",
        "laws",
    }


def test_relations_of_candidate_edges_alone():
    """One nearest sender per receiver: the other pairs are no edges, nor scored.

    Receivers in chunks, which is the harder case. What a message is does not matter.
    """
    rng = np.random.default_rng(0)
    dataset = as_dataset(
        random_walks(num_nodes=4),
        labels=rng.integers(0, 2, (6, 4, 4)),
        positions=(0, 1),
    )
    model, params = setup.build_model(
        dataset,
        jax.random.key(0),
        modules=dataclasses.replace(QUICK["modules"], path="start", entities="alike"),
        proposal=QUICK["proposal"],
        candidates=CandidateConfig(num_neighbors=1),
        memory=MemoryConfig(receiver_chunk=2),
    )
    found = infer.infer_dataset(
        jax.random.key(0), model, params, dataset, QUICK["inference"]
    )
    distances = np.linalg.norm(
        dataset.states[:, :, :, None, :2] - dataset.states[:, :, None, :, :2], axis=-1
    ).min(axis=1)
    distances[:, np.arange(4), np.arange(4)] = np.inf
    is_candidate = distances == distances.min(axis=2, keepdims=True)
    np.testing.assert_array_equal(found.edges >= 0, is_candidate)
    np.testing.assert_array_equal(found.proposal_edges >= 0, is_candidate)
    totals = found.probabilities.sum(axis=-1)
    np.testing.assert_allclose(totals, is_candidate, atol=1e-5)
    result = RelationalInference(dataset, Discovery(model, params, found, found, None))
    assert result.candidate_share == pytest.approx(1 / 3)
    same = (found.edges == dataset.edges)[is_candidate].mean()
    assert result.edge_accuracy == pytest.approx(max(same, 1 - same))


def test_same_seed_same_result(unlabelled):
    again = infer_relations(random_walks(), 3, **QUICK)
    np.testing.assert_array_equal(again.edges, unlabelled.edges)
    np.testing.assert_array_equal(again.probabilities, unlabelled.probabilities)
    np.testing.assert_array_equal(again.predict(2), unlabelled.predict(2))


def test_systems_of_different_size(unlabelled, tmp_path):
    """Batches of four are as large as those of `unlabelled`: one program for both."""
    sizes = (3, 2, 3, 1, 3, 3)
    rng = np.random.default_rng(0)
    dataset = data.pad_systems(
        [rng.normal(size=(8, size, 2)) for size in sizes],
        [rng.integers(0, 3, (size, size)) for size in sizes],
        features=unlabelled.dataset.features,
        frame_interval=1.0,
    )
    result = infer_relations(dataset, 3, **QUICK)
    check_relations(result, 3)
    assert 1 / 3 <= result.edge_accuracy <= 1.0
    predicted = result.predict(3)
    assert predicted.shape == (6, 3, 3, 2)
    assert np.isfinite(predicted).all()
    is_padded = np.broadcast_to(~dataset.node_mask[:, None, :, None], predicted.shape)
    np.testing.assert_array_equal(predicted[is_padded], 0.0)
    assert (predicted[~is_padded] != 0.0).all()
    assert [graph.number_of_nodes() for graph in result.to_networkx()] == list(sizes)
    result.plot(num_systems=3, num_steps=3)
    result.to_csv(str(tmp_path / "edges.csv"))
    with open(tmp_path / "edges.csv") as file:
        assert len(list(csv.DictReader(file))) == sum(n * (n - 1) for n in sizes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"modules": ModuleConfig(num_node_modules=2, null_relation=True)},
        {"proposal": ProposalConfig(encoder="none"), "compress": False},
    ],
)
def test_every_kind_of_model_survives_its_file(tmp_path, changes):
    dataset = as_dataset(random_walks())
    model, params = setup.build_model(dataset, jax.random.key(0), **changes)
    artifacts.save_model(tmp_path / "model.npz", model, params)
    loaded, arrays = artifacts.load_model(tmp_path / "model.npz")
    assert loaded == model
    assert jax.tree.structure(arrays) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, arrays, params)


def test_a_file_from_before_additive_updates_is_read(tmp_path):
    dataset = as_dataset(random_walks())
    modules = ModuleConfig(node_update="mlp")
    model, params = setup.build_model(dataset, jax.random.key(0), modules=modules)
    artifacts.save_model(tmp_path / "new.npz", model, params)
    arrays, metadata = load_artifact(tmp_path / "new.npz", kind=artifacts.MODEL_KIND)
    del metadata["modules"]["node_update"]
    # Before options were told apart by their job.
    energy, memory = metadata.pop("energy"), metadata.pop("memory")
    metadata["search"] = {
        "energy": energy.pop("form"),
        **energy,
        **metadata.pop("moves"),
        **metadata.pop("candidates"),
        "messages": memory["messages"],
    }
    save_artifact(
        tmp_path / "old.npz", arrays, kind=artifacts.MODEL_KIND, metadata=metadata
    )
    assert artifacts.load_model(tmp_path / "old.npz")[0] == model
    del arrays["preprocessing"]["target_limit"]
    save_artifact(
        tmp_path / "older.npz", arrays, kind=artifacts.MODEL_KIND, metadata=metadata
    )
    with pytest.raises(ValueError, match="older.npz of another version .*target_lim"):
        artifacts.load_model(tmp_path / "older.npz")


def with_infinity():
    array = random_walks()
    array[2, 3, 1, 0] = np.inf
    return array


def never_seen():
    array = random_walks()
    array[2, 2:, 1, 0] = np.nan
    return array


@pytest.mark.parametrize(
    "array, options, error, message",
    [
        (with_infinity(), {}, DataError, r"states: found inf at index \[2, 3, 1, 0\]"),
        (never_seen(), {}, DataError, "found node 1 of task 2 observed at 2 frames"),
        (
            random_walks(),
            {
                "shared_graph": True,
                "labels": np.arange(6)[:, None, None] + np.zeros((6, 3, 3)),
            },
            DataError,
            r"edges: found label 1.* as in task 0: tasks share one graph",
        ),
        (random_walks()[0, 0], {}, DataError, "states: found 2 axes"),
        (np.float64(1.0), {}, DataError, "trajectories: found float64"),
        (random_walks()[:, :2], {}, DataError, "states: found 2 frames"),
        (random_walks(), {"num_relations": 1}, ValueError, "num_relations: found 1"),
        (random_walks(), {"labels": np.full((6, 3, 3), -2)}, DataError, "label -2 at"),
        (random_walks(), {"labels": np.full((6, 3, 3), 0.5)}, DataError, "label 0.5 a"),
        (random_walks(), {"labels": np.zeros((6, 3))}, DataError, "edges: found shape"),
        (random_walks(), {"positions": (2,)}, DataError, "feature columns: found 2"),
        (random_walks(), {"frame_interval": 0.0}, DataError, "frame_interval: found 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_compiled(
    monkeypatch, array, options, error, message
):
    def build_model(*_, **__):
        raise AssertionError("the input should have been refused by now")

    monkeypatch.setattr(discovery, "build_model", build_model)
    with pytest.raises(error, match=message):
        infer_relations(array, **{"num_relations": 2, **options})


def test_one_entity_has_no_relations():
    with pytest.raises(DataError, match="found one node in every task, expected"):
        infer_relations(random_walks()[:, :, :1], 2, lags=1)


@pytest.mark.parametrize("num_tasks, num_valid", [(15, 0), (16, 8), (200, 20)])
def test_split_for_validation(num_tasks, num_valid):
    dataset = as_dataset(random_walks(num_tasks), lags=1)
    train_set, valid_set = setup.split_validation(dataset, seed=0)
    if not num_valid:
        assert train_set is valid_set is dataset
        return
    assert valid_set.num_tasks == num_valid
    rows = np.concatenate([train_set.states, valid_set.states])[:, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(rows), np.sort(dataset.states[:, 0, 0, 0]))
    other = setup.split_validation(dataset, seed=1)[1]
    assert not np.array_equal(other.states, valid_set.states)
