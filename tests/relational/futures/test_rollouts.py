"""Scores and roll-outs against loops over single systems, and closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.graphs import supergraphs
from modmeta.relational.data import FeatureSpec, TrajectoryDataset, normalize
from modmeta.relational.data.dataset import NO_EDGE
from modmeta.relational.evaluation.scores import (
    label_scores,
    match_labels,
    structures_from_labels,
)
from modmeta.relational.futures import predictions, rollouts, start_frames
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.fitting import fit_preprocessing
from modmeta.relational.tasks.structures import TaskStructures
from tests.fixtures import (
    SPEC,
    Batch,
    small_model,
    small_params,
    structure_from_matrices,
)

SIZES = (3, 1, 4, 2, 3)
NUM_STEPS = 4


def inference_of(edges, proposal_edges=None):
    nothing = np.zeros(len(edges))
    if proposal_edges is None:
        proposal_edges = edges
    logits = np.eye(proposal_edges.max() + 1)[np.maximum(proposal_edges, 0)]
    return Relations(edges, nothing, nothing, logits, nothing, nothing, nothing)


def test_without_samples_there_are_no_probabilities():
    found = inference_of(np.zeros((1, 2, 2), int))
    shares = np.full((1, 2, 2, 2), 0.5)
    assert not found._replace(probabilities=0.0 * shares).is_sampled
    assert found._replace(probabilities=shares).is_sampled


def labelled(labels, num_relations=None):
    return TrajectoryDataset(
        states=np.zeros((len(labels), 3, labels.shape[1], 1)),
        features=FeatureSpec(("x",)),
        frame_interval=1.0,
        edges=labels,
        num_relations=num_relations,
    )


def random_labels(num_tasks, num_nodes, num_relations, seed=0):
    labels = np.random.default_rng(seed).integers(
        0, num_relations, (num_tasks, num_nodes, num_nodes)
    )
    labels[:, range(num_nodes), range(num_nodes)] = NO_EDGE
    return labels


def test_names_are_matched_once_for_the_whole_data_set():
    """Half of the systems with swapped names are half wrong, not all right."""
    labels = random_labels(10, 4, 2)
    swapped = np.where(labels >= 0, 1 - labels, NO_EDGE)
    dataset = labelled(labels)
    found = inference_of(swapped, labels)
    scores = label_scores(found, dataset, 2)
    assert scores == {"edge_accuracy": 1.0, "proposal_accuracy": 1.0}
    mixed = np.concatenate([labels[:4], swapped[4:]])
    scores = label_scores(inference_of(mixed), dataset, 2)
    assert scores["edge_accuracy"] == pytest.approx(0.6)


def test_random_edges_score_near_chance():
    labels, found = random_labels(400, 4, 2), random_labels(400, 4, 2, seed=1)
    score = label_scores(inference_of(found), labelled(labels), 2)
    # 4,800 edges: five standard errors.
    assert 0.5 <= score["edge_accuracy"] < 0.5 + 5 * 0.5 / np.sqrt(4800)


@pytest.mark.parametrize("num_found, num_true", [(3, 3), (4, 3), (2, 3)])
def test_structures_from_labels_inverts_the_names(num_found, num_true):
    labels = random_labels(6, 4, num_true)
    permutation = np.random.default_rng(2).permutation(max(num_found, num_true))
    edges = np.where(labels >= 0, permutation[labels], NO_EDGE)
    edges = np.where(edges < num_found, edges, 0)
    names = match_labels(edges, labels, num_found, num_true)
    back = structures_from_labels(labels, names, num_found)
    np.testing.assert_array_equal(back < 0, labels < 0)
    assert back.max() < num_found
    has_module = np.isin(labels, names[:num_found]) & (labels >= 0)
    np.testing.assert_array_equal(names[back[has_module]], labels[has_module])
    np.testing.assert_array_equal(back[~has_module & (labels >= 0)], 0)
    if num_found >= num_true:
        np.testing.assert_array_equal(back, edges)


def test_prediction_errors_equal_loops():
    rng = np.random.default_rng(0)
    prediction, truth = rng.normal(size=(2, 5, 3, 4, 3))
    mask = np.arange(4) < np.array([4, 1, 3, 2, 4])[:, None]
    prediction[~mask[:, None, :].repeat(3, 1)] = 1e3  # Padding must not count.
    found = predictions.prediction_errors(prediction, truth, mask, (0, 2))
    for step in range(3):
        squares = [
            (prediction[task, step, node, column] - truth[task, step, node, column])
            ** 2
            for task in range(5)
            for node in range(4)
            if mask[task, node]
            for column in (0, 2)
        ]
        assert found[step] == pytest.approx(np.mean(squares))


def test_errors_at_steps_that_exist():
    errors = np.array([0.5, 0.25, 0.125])
    assert predictions.errors_at(errors, (1, 3, 20)) == {"1": 0.5, "3": 0.125}


class Rollout:
    """Systems of several sizes, observed for some frames, and a random model."""

    def __init__(self, max_nodes=4):
        self.model = small_model(num_node_modules=2)
        self.tasks = Batch(SIZES, nodes=2, frames=3)
        params = small_params(self.model, self.tasks.supergraph, 3)
        # Smaller changes, or the roll-out leaves the range of float32.
        self.params = params._replace(
            modules=jax.tree.map(lambda leaf: 0.3 * leaf, params.modules)
        )
        self.step = jax.jit(self.model.network.modules(self.params).step)
        num_tasks = len(SIZES)
        states = np.zeros((num_tasks, max_nodes, 3, len(SPEC.names)), np.float32)
        edges = np.zeros((num_tasks, max_nodes, max_nodes), np.int32)
        nodes = np.zeros((num_tasks, max_nodes), np.int32)
        for task, size in enumerate(SIZES):
            states[task, :size] = self.tasks.states[task]
            edges[task, :size, :size] = self.tasks.edges[task]
            nodes[task, :size] = self.tasks.node_modules[task]
        self.structures = TaskStructures(jnp.asarray(edges), jnp.asarray(nodes))
        self.dataset = TrajectoryDataset(
            states=np.swapaxes(states, 1, 2),
            features=SPEC,
            frame_interval=1.0,
            node_mask=np.arange(max_nodes) < np.array(SIZES)[:, None],
        )

    def predict(self, **options):
        return predictions.predict(
            self.model, self.params, self.dataset, self.structures, NUM_STEPS, **options
        )

    def step_by_step(self, task):
        """Predictions `[steps, nodes, F]` of one system, one frame after the other."""
        size = SIZES[task]
        graph = supergraphs.build_supergraph([size], supergraphs.padding_budget([4], 1))
        structure = structure_from_matrices(
            [self.tasks.edges[task]], [self.tasks.node_modules[task]], graph
        )
        current = np.zeros((5, len(SPEC.names)), np.float32)
        current[:size] = self.tasks.states[task][:, -1]
        frames = []
        for _ in range(NUM_STEPS):
            current = self.step(
                structure,
                jnp.asarray(current),
                graph.slot_senders,
                graph.slot_mask,
            )
            frames.append(np.asarray(current[:size]))
        return np.stack(frames)


@pytest.fixture(scope="module")
def rollout():
    return Rollout()


def test_predictions_equal_steps_of_single_systems(rollout):
    found = rollout.predict()
    assert found.shape == (len(SIZES), NUM_STEPS, 4, len(SPEC.names))
    for task, size in enumerate(SIZES):
        expected = rollout.step_by_step(task)
        assert np.abs(expected).max() < 1e3
        np.testing.assert_allclose(
            found[task, :, :size], expected, rtol=1e-4, atol=1e-4
        )
        np.testing.assert_array_equal(found[task, :, size:], 0.0)


def test_predictions_do_not_depend_on_the_batch(rollout):
    np.testing.assert_allclose(
        rollout.predict(batch_size=2), rollout.predict(), rtol=1e-4, atol=1e-5
    )


def test_predictions_keep_a_node_axis_longer_than_every_system(rollout):
    """As in the test part of a data set whose largest system is in the other part."""
    found = Rollout(max_nodes=6).predict()
    assert found.shape == (len(SIZES), NUM_STEPS, 6, len(SPEC.names))
    np.testing.assert_allclose(found[:, :, :4], rollout.predict(), rtol=1e-5)
    np.testing.assert_array_equal(found[:, :, 4:], 0.0)


def falls(steps_needed):
    """Predictions of three frames; the last one needs so many steps per frame."""
    calls = []

    def run(num_substeps):
        calls.append(num_substeps)
        found = np.zeros((2, 3, 4, 1))
        found[:, 2] = 1.0 if num_substeps >= steps_needed else num_substeps
        return found

    return run, calls


def test_steps_are_doubled_until_nothing_changes():
    run, calls = falls(16)
    found, count = rollouts.settled(run)
    np.testing.assert_array_equal(found[:, 2], 1.0)
    assert count == 32
    assert calls == [8, 16, 32]


def test_predictions_that_do_not_settle_are_told():
    run, calls = falls(10_000)
    with pytest.warns(UserWarning, match="64 and 128 steps .* from frame 3 of 3 on"):
        rollouts.settled(run)
    assert calls == [8, 16, 32, 64, 128]


def with_gaps(dataset, frames=5, seen=None):
    """More frames than were observed, of which `[tasks, time, nodes]` are seen."""
    states = np.concatenate([dataset.states] * 2, axis=1)[:, :frames]
    return dataclasses.replace(dataset, states=states, frame_mask=seen)


def test_frames_that_follow_are_predicted_at_their_places(rollout):
    """Systems that ended early are rolled out until the frames that are scored."""
    dataset = rollout.dataset
    seen = np.ones((len(SIZES), 5, 4), bool)
    seen[0, 2] = False
    whole = with_gaps(dataset, seen=seen)
    arguments = (rollout.model, rollout.params)
    found = predictions.predict_following(*arguments, whole, 3, rollout.structures)
    last = whole.frames(0, 3)
    assert start_frames.last_frames(last).tolist() == [1] + [2] * (len(SIZES) - 1)
    early = dataclasses.replace(dataset, states=np.roll(dataset.states, 1, axis=1))
    for task in range(len(SIZES)):
        start = early if task == 0 else dataset
        expected = predictions.predict(*arguments, start, rollout.structures, 3)
        rows = slice(1, 3) if task == 0 else slice(0, 2)
        np.testing.assert_allclose(found[task], expected[task, rows], rtol=1e-4)


def test_nodes_that_have_left_are_not_heard(rollout):
    task = int(np.argmax(SIZES))
    size = SIZES[task]
    seen = np.ones((len(SIZES), 3, 4), bool)
    seen[task, 2, size - 1] = False
    dataset = dataclasses.replace(rollout.dataset, frame_mask=seen)
    arguments = (rollout.model, rollout.params)
    found = predictions.predict(*arguments, dataset, rollout.structures, 2)
    # The last node of a system is the one that its padding may stand for.
    mask = rollout.dataset.node_mask.copy()
    mask[task, size - 1] = False
    smaller = dataclasses.replace(rollout.dataset, node_mask=mask)
    expected = predictions.predict(*arguments, smaller, rollout.structures, 2)
    np.testing.assert_allclose(
        found[task, :, : size - 1], expected[task, :, : size - 1], rtol=1e-4
    )


def test_what_can_be_scored():
    states = np.random.default_rng(0).normal(size=(2, 8, 3, 5))
    seen = np.ones((2, 8, 3), bool)
    seen[0, 3:, 0] = False  # has left
    seen[1, :5, 1] = False  # has not come yet
    seen[1, 6, 2] = False
    breaks = np.zeros((2, 8), bool)
    breaks[0, 7] = breaks[0, 2] = True
    dataset = TrajectoryDataset(
        states=states, features=SPEC, frame_mask=seen, breaks=breaks
    )
    found = predictions.following_mask(dataset, 5)
    expected = np.ones((2, 3, 3), bool)
    expected[0, :, 0] = expected[1, :, 1] = expected[1, 1, 2] = expected[0, 2] = False
    np.testing.assert_array_equal(found, expected)


def test_errors_of_what_was_observed():
    rng = np.random.default_rng(0)
    prediction, truth = rng.normal(size=(2, 3, 4, 2, 5))
    mask = rng.random((3, 4, 2)) < 0.5
    mask[:, 2] = False
    found = predictions.prediction_errors(prediction, truth, mask, (0, 2))
    squared = np.square(prediction - truth)[..., [0, 2]].mean(axis=-1)
    for step in range(4):
        values = squared[:, step][mask[:, step]]
        expected = values.mean() if len(values) else np.nan
        np.testing.assert_allclose(found[step], expected)
    assert set(predictions.errors_at(found, (1, 2, 3, 4))) == {"1", "2", "4"}


def free_motion(spec, num_frames=12):
    """Bodies that keep their velocities, `x, y, vx, vy`."""
    rng = np.random.default_rng(0)
    position, velocity = rng.normal(size=(2, 6, 1, 3, 2))
    times = 0.1 * np.arange(num_frames)[None, :, None, None]
    moving = position + times * velocity
    states = np.concatenate([moving, np.broadcast_to(velocity, moving.shape)], axis=-1)
    return TrajectoryDataset(states=states, features=spec, frame_interval=0.1)


@pytest.mark.parametrize(
    "spec, baseline",
    [
        (FeatureSpec(("x", "y", "vx", "vy"), (0, 1), (2, 3)), "constant_velocity"),
        # Without velocities the last change is repeated, exact as well.
        (FeatureSpec(("x", "y", "vx", "vy")), "static"),
    ],
)
def test_constant_velocity_is_exact_for_free_motion(spec, baseline):
    dataset = free_motion(spec)
    preprocessing, _ = fit_preprocessing(dataset, baseline=baseline)
    states = normalize(preprocessing.normalization, dataset.states)
    found = predictions.baseline_predictions(
        states[:, :8], 4, preprocessing.step_matrix, preprocessing.step_offset
    )
    np.testing.assert_allclose(found["constant_velocity"], states[:, 8:], atol=1e-5)
    np.testing.assert_array_equal(found["static"], states[:, 7:8].repeat(4, axis=1))


def test_constant_velocity_takes_the_true_times():
    spec = FeatureSpec(("x", "y", "vx", "vy"), (0, 1), (2, 3))
    dataset = free_motion(spec)
    preprocessing, _ = fit_preprocessing(dataset, baseline="constant_velocity")
    states = normalize(preprocessing.normalization, dataset.states)
    found = predictions.baseline_predictions(
        states[:, :8],
        2,
        preprocessing.step_matrix,
        preprocessing.step_offset,
        np.array([[1.0, 4.0]] * 6),
    )["constant_velocity"]
    np.testing.assert_allclose(found, states[:, [8, 11]], atol=1e-5)


def test_labels_without_systems_of_their_size_are_refused():
    labels = random_labels(3, 4, 2)
    other = dataclasses.replace(labelled(labels[:, :3, :3]))
    with pytest.raises(ValueError, match="labels: found shape"):
        label_scores(inference_of(labels), other, 2)
