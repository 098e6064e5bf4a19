"""The training loop against itself: interrupted runs against uninterrupted ones.

Beside bit-for-bit equality: the parameters that the checkpoints of every evaluation
hold, and the energies that the log holds. All runs take the same steps, of modules that
soon move too far, between nearest neighbours: one program serves them.
"""

import dataclasses
import itertools

import chex
import jax
import numpy as np
import pytest

from modmeta.relational import data
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.neighbors import CandidateConfig
from modmeta.relational.training import bouncegrad, meta_training, setup
from modmeta.relational.training.bouncegrad import BounceGradConfig
from modmeta.relational.training.meta_training import TrainingConfig
from modmeta.runtime.checkpoint import CheckpointStore
from modmeta.runtime.metrics import MetricWriter, read_metrics
from modmeta.runtime.training_loop import LoopState
from tests.fixtures import small_model

NUM_STEPS, CHUNK, EVALUATIONS = 22, 2, [8, 16, 22]
SYSTEMS = {"num_nodes": 3, "num_frames": 8}
# The lowest validation energy comes early: the modules soon move too far.
SEED = 5


class Run:
    """A run of 22 steps in chunks of 2, evaluated three times, in a directory."""

    def __init__(self, path, *, num_evaluations=3, patience=0):
        self.path = path
        self.path.mkdir(exist_ok=True)
        self.config = BounceGradConfig(
            num_steps=NUM_STEPS,
            batch_size=4,
            search_steps=2,
            gradient_frames=3,
            learning_rate=0.5,
            warmup_fraction=0.2,
        )
        self.training = TrainingConfig(num_evaluations, 2, patience)
        sets = data.simulate_springs(0, 26, **SYSTEMS).split([14, 6, 6])
        self.train_set, self.valid_set, self.warm_set = sets
        config = small_model().bank.config
        self.model, self.params = setup.build_model(
            self.train_set,
            jax.random.key(0),
            modules=config,
            proposal=small_model(encoder="mlp").network.proposal,
            candidates=CandidateConfig(num_neighbors=1),
        )

    def train(
        self, *, stop_after=None, max_to_keep=5, change=TrajectoryDataset.without_labels
    ):
        """Trains until the end, or for some chunks, on data sets that are changed."""
        asked = itertools.count()
        with (
            CheckpointStore(self.path / "store", max_to_keep=max_to_keep) as store,
            MetricWriter(self.path / "log", resume_step=store.latest_step) as writer,
        ):
            return meta_training.train(
                self.model,
                self.params,
                change(self.train_set),
                change(self.valid_set),
                self.config,
                self.training,
                seed=SEED,
                warm_set=change(self.warm_set),
                store=store,
                writer=writer,
                should_stop=lambda: next(asked) == stop_after,
                label_metrics=lambda found: {"warm_energy": found.energies.sum()},
            )

    def records(self):
        """The log without what a clock says."""
        records = read_metrics(self.path / "log")
        for record in records:
            assert record.pop("seconds") > 0.0
        return records

    def checkpoint(self, step):
        with CheckpointStore(self.path / "store") as store:
            assert store.latest_step == step
            return {
                path.relative_to(self.path): path.read_bytes()
                for path in (self.path / "store" / str(step)).rglob("*")
                if path.is_file()
            }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("runs") / "uninterrupted")
    return run, run.train()


def test_log_of_a_run(uninterrupted):
    run, result = uninterrupted
    assert result.is_finished
    assert int(result.state.bouncegrad.step) == NUM_STEPS
    records = run.records()
    assert [record["step"] for record in records] == EVALUATIONS
    for record in records:
        assert {"loss", "proposal_loss", "valid_energy", "warm_energy"} <= set(record)
        assert all(np.isfinite(value) for value in record.values())
    assert float(result.seconds) > 0.0


@pytest.mark.parametrize("stop_after", [4, 5])
def test_stopped_run_goes_on_to_the_same_end(uninterrupted, tmp_path, stop_after):
    """Stopped right after an evaluation, and between two of them."""
    whole, expected = uninterrupted
    run = Run(tmp_path)
    first = run.train(stop_after=stop_after)
    assert not first.is_finished
    assert int(first.state.bouncegrad.step) == CHUNK * stop_after
    assert [record["step"] for record in run.records()] == [8]
    second = run.train()
    assert second.is_finished
    chex.assert_trees_all_equal(second.params, expected.params)
    without_seconds = [
        result.state._replace(bouncegrad=result.state.bouncegrad._replace(rng_key=0))
        for result in (second, expected)
    ]
    chex.assert_trees_all_equal(*without_seconds)
    assert run.records() == whole.records()


def test_finished_run_does_no_further_step(uninterrupted):
    run, expected = uninterrupted
    again = run.train()
    chex.assert_trees_all_equal(again.params, expected.params)
    assert float(again.seconds) == float(expected.seconds)


def test_diverging_run_keeps_its_last_checkpoint(tmp_path, monkeypatch):
    """NaN in the last gradient before an evaluation is not yet in any loss."""
    run, take_chunk = Run(tmp_path), meta_training._run_chunk

    def spoiled(model, config, state, *data):
        state, metrics = take_chunk(model, config, state, *data)
        if int(state.step) == EVALUATIONS[1]:
            params = state.params._replace(
                modules=jax.tree.map(lambda leaf: leaf * np.nan, state.params.modules)
            )
            state = state._replace(params=params)
            metrics = {**metrics, "gradient_norm": np.nan}
        return state, metrics

    monkeypatch.setattr(meta_training, "_run_chunk", spoiled)
    with pytest.raises(
        FloatingPointError,
        match="training gradient_norm: found nan between steps 14 and 16",
    ):
        run.train()
    before = run.checkpoint(8)
    # Taken up again it ends there again, and what was saved stays.
    with pytest.raises(FloatingPointError, match="between steps 14 and 16"):
        run.train()
    assert run.checkpoint(8) == before


@pytest.fixture(scope="module")
def often_evaluated(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("runs") / "often", num_evaluations=11)
    return run, run.train(max_to_keep=11)


def test_best_parameters_are_those_of_lowest_validation_energy(often_evaluated):
    run, result = often_evaluated
    records = run.records()
    assert len(records) == 11
    best = min(records, key=lambda record: record["valid_energy"])
    assert best["step"] < NUM_STEPS  # Not simply the last ones.
    with CheckpointStore(run.path / "store", max_to_keep=11) as store:
        template = LoopState(result.state, 0, 0.0, False)
        state = store.restore(template, step=best["step"])
    assert state.step == int(state.run.bouncegrad.step) == best["step"]
    chex.assert_trees_all_equal(result.params, state.run.bouncegrad.params)
    np.testing.assert_allclose(
        float(result.state.best.score), best["valid_energy"], rtol=1e-6
    )


def test_patience(often_evaluated, tmp_path):
    """The same run, ended by what a loop over its log would end it by.

    Evaluations in vain count from when the temperature has come down.
    """
    records = often_evaluated[0].records()
    annealed = often_evaluated[0].config.annealed_fraction * NUM_STEPS
    length, best, in_vain = 0, np.inf, 0
    while in_vain < 3:
        record = records[length]
        in_vain = 0 if record["valid_energy"] < best else in_vain + 1
        in_vain *= record["step"] >= annealed
        best = min(best, record["valid_energy"])
        length += 1
    assert length < len(records)
    run = Run(tmp_path, num_evaluations=11, patience=3)
    result = run.train()
    assert result.is_finished
    assert run.records() == records[:length]
    assert int(result.state.bouncegrad.step) == records[length - 1]["step"]
    assert float(result.state.best.score) == best
    assert int(result.state.best.num_without_gain) == 3


def test_labels_cannot_reach_training(uninterrupted, tmp_path):
    """True, shuffled and missing labels give the same parameters to the bit."""
    _, expected = uninterrupted

    def shuffled(dataset):
        return dataclasses.replace(dataset, edges=1 - np.maximum(dataset.edges, 0))

    for name, change in (("true", lambda dataset: dataset), ("shuffled", shuffled)):
        result = Run(tmp_path / name).train(change=change)
        chex.assert_trees_all_equal(result.params, expected.params)
        chex.assert_trees_all_equal(
            result.state.bouncegrad.structures, expected.state.bouncegrad.structures
        )


@pytest.mark.parametrize(
    "options", [{"num_evaluations": 0}, {"search_steps": 0}, {"patience": -1}]
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match="expected num_evaluations >= 1"):
        TrainingConfig(**options)


def test_only_candidate_edges_are_searched(uninterrupted):
    """The nearest sender of every receiver: other edges keep their first module."""
    run, result = uninterrupted
    state = result.state.bouncegrad
    key = jax.random.split(jax.random.key(SEED), 3)[0]
    start = bouncegrad.bouncegrad(run.model, run.config).init(key, run.params, 14, 3)
    is_changed = np.asarray(
        state.structures.edge_modules != start.structures.edge_modules
    )
    positions = run.train_set.states[..., :2].swapaxes(1, 2)
    distances = np.square(positions[:, :, None] - positions[:, None]).sum(-1).min(-1)
    distances += np.where(np.eye(3, dtype=bool), np.inf, 0.0)[None]
    is_nearest = distances == distances.min(axis=2, keepdims=True)
    assert is_changed[is_nearest].any()
    assert not is_changed[~is_nearest].any()
