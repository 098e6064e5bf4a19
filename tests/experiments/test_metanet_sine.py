"""The sine experiment, run whole in its smallest size.

Files and fields, the chosen model read back and scored anew, a run stopped and failed
against an uninterrupted one to the bit, zoos that do not fit, and what the launcher
refuses.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import common
from experiments.metanet_sine import config as config_lib
from experiments.metanet_sine import learner, report, train
from modmeta.metanet import zoo
from modmeta.metanet.zoo import sine
from modmeta.runtime.artifact import load_artifact
from modmeta.runtime.checkpoint import CheckpointStore
from modmeta.runtime.metrics import read_metrics

FILES = {
    "config.json",
    "summary.json",
    "metrics.jsonl",
    "model.npz",
    "embeddings.npz",
    "learning_curves.png",
    "predictions.png",
    "embedding.png",
    "checkpoints",
    "zoo",
}
CLOCKS = ("train_seconds", "zoo_seconds", "total_seconds")
CONFIG = config_lib.smoke(config_lib.sine())


@pytest.fixture(scope="module")
def one_learner():
    """Runs of `CONFIG` share a learner, hence its programs."""
    build, built = train.build_learner, []

    def build_once(config, leaves, rows):
        assert config == CONFIG
        if not built:
            built.append(build(config, leaves, rows))
        return built[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "build_learner", build_once)
        yield build


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_learner):
    """A finished run: its directory and summary."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, run(CONFIG, workdir)


@pytest.fixture(scope="module")
def again(finished, one_learner):
    """A learner built anew from the zoo of the run, and the splits."""
    leaves, splits = train.load_splits(finished[0] / "zoo", CONFIG)
    return one_learner(CONFIG, leaves, splits["train"].rows), splits


def run(config, workdir, **options):
    return common.run(train.EXPERIMENT, config, workdir, **options)


def launch(*flags):
    return subprocess.run(
        [sys.executable, "-m", "experiments.metanet_sine.main", *flags],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_files_and_summary(finished):
    workdir, summary = finished
    assert {path.name for path in workdir.iterdir()} == FILES
    written = json.loads((workdir / "summary.json").read_text())
    assert written == common.as_json(summary)
    assert written["config"] == common.as_json(CONFIG)
    assert (written["num_train"], written["num_valid"], written["num_test"]) == (
        48,
        16,
        16,
    )
    assert written["seed"] == 0 and written["num_steps"] == 12
    # 1-4-4-1 with biases: one edge per parameter at least.
    assert written["num_edges"] >= 4 + 4 + 16 + 4 + 4 + 1
    assert [point["step"] for point in written["curve"]] == [4, 8, 12]
    assert set(written["label_curve"]) == {"30", "48"}
    assert written["label_curve"]["48"] == written["test_mse"]
    assert 0.0 < written["train_seconds"] < written["total_seconds"]
    steps = [record["step"] for record in read_metrics(workdir / "metrics.jsonl")]
    assert steps == [4, 8, 12]


def test_constant_baseline_is_the_mean_of_the_training_targets(finished):
    workdir, summary = finished
    group = zoo.load_zoo(workdir / "zoo").groups["sine"]
    targets = sine.coefficients(group)
    mean = targets[group.splits["train"]].mean(axis=0)
    expected = np.mean((targets[group.splits["test"]] - mean) ** 2)
    assert summary["constant_mse"] == pytest.approx(expected, rel=1e-5)


def test_model_and_embeddings_agree_with_the_summary(finished, again):
    """The model file alone gives the embeddings; a refitted probe gives the score."""
    workdir, summary = finished
    arrays, _ = load_artifact(workdir / "model.npz", kind=report.MODEL_KIND)
    student, splits = again
    for name, values in student.statistics._asdict().items():
        np.testing.assert_array_equal(arrays["statistics"][name], values)
    sizes = [np.size(leaf) for leaf in _leaves(arrays["params"])]
    assert summary["num_parameters"] == sum(sizes)
    with np.load(workdir / "embeddings.npz") as file:
        embeddings, predictions = file["embeddings"], file["predictions"]
        np.testing.assert_array_equal(file["coefficients"], splits["test"].targets)
    found = student.embed(arrays["params"], splits["test"].rows)
    np.testing.assert_array_equal(found, embeddings)
    assert embeddings.shape == (16, 16)
    features = student.embed(arrays["params"], splits["train"].rows)
    design = np.column_stack([features, np.ones(48)]).astype(np.float64)
    solution = np.linalg.lstsq(design, splits["train"].targets, rcond=None)[0]
    expected = np.column_stack([embeddings, np.ones(16)]) @ solution
    np.testing.assert_allclose(predictions, expected, atol=0.05)
    error = np.mean((predictions - splits["test"].targets) ** 2)
    assert summary["test_mse"] == pytest.approx(error)
    assert summary["test_mse_low"] < error < summary["test_mse_high"]


def _leaves(tree):
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in _leaves(value)]
    return [tree]


def test_embeddings_ignore_the_order_of_hidden_units(finished, again):
    """The metanetwork sees the function, not the numbering of the units."""
    workdir, _ = finished
    arrays, _ = load_artifact(workdir / "model.npz", kind=report.MODEL_KIND)
    student, splits = again
    rows = splits["test"].rows
    params = zoo.unflatten(student.leaves, rows)["params"]
    first, second = np.array([2, 0, 3, 1]), np.array([1, 3, 0, 2])
    moved = {
        "layer_0": {
            "kernel": params["layer_0"]["kernel"][:, :, first],
            "bias": params["layer_0"]["bias"][:, first],
        },
        "layer_1": {
            "kernel": params["layer_1"]["kernel"][:, first][:, :, second],
            "bias": params["layer_1"]["bias"][:, second],
        },
        "layer_2": {
            "kernel": params["layer_2"]["kernel"][:, second],
            "bias": params["layer_2"]["bias"],
        },
    }
    found = student.embed(arrays["params"], zoo.flatten({"params": moved}))
    expected = student.embed(arrays["params"], rows)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # Other weights give other embeddings.
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_best_of_several_trainings_is_kept(finished, again, tmp_path, monkeypatch):
    """Trainings count seeds up, and the validation score of one chooses."""
    student, _ = again
    monkeypatch.setattr(train, "build_learner", lambda *_: student)
    zoos = {"zoo_directory": finished[0] / "zoo"}
    single = [finished[1]]
    for seed in (1, 2):
        config = dataclasses.replace(CONFIG, seed=seed)
        single.append(run(config, tmp_path / str(seed), **zoos))
    config = dataclasses.replace(CONFIG, num_restarts=3)
    save = CheckpointStore.save

    def signalled(store, step, tree):
        save(store, step, tree)
        if list(tmp_path.glob("all/restarts/1/checkpoints/*")):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", signalled)
        assert run(config, tmp_path / "all", **zoos) is None
    assert not (tmp_path / "all" / "restarts" / "2").exists()
    summary = run(config, tmp_path / "all", **zoos)
    losses = [one["valid_loss"] for one in single]
    assert summary["restart_scores"] == losses
    assert summary["restart"] == np.argmin(losses)
    best = single[np.argmin(losses)]
    for name in ("test_mse", "valid_mse", "curve"):
        assert common.as_json(summary)[name] == common.as_json(best)[name]
    assert f"Training {summary['restart'] + 1} of 3" in report.format_summary(summary)
    with pytest.raises(ValueError, match="num_restarts: found 0, expected at least 1"):
        dataclasses.replace(CONFIG, num_restarts=0)


def test_table_on_the_screen(finished):
    text = report.format_summary(finished[1])
    for line in (
        "constant",
        "linear regression on weights",
        "linear probe, metanetwork before training",
        "48 training networks, 16 test networks",
        "12 steps",
    ):
        assert line in text


def test_finished_run_is_reported_at_once(finished, monkeypatch):
    workdir, summary = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}

    def generate(*_, **__):
        raise AssertionError("a finished run needs no zoo")

    monkeypatch.setattr(sine, "generate_sine_zoo", generate)
    assert run(CONFIG, workdir) == common.as_json(summary)
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


def test_another_configuration_is_refused(finished):
    with pytest.raises(FileExistsError, match="a finished run of another conf"):
        run(dataclasses.replace(CONFIG, seed=1), finished[0])


def assert_same_run(found, path, expected, whole):
    found, expected = common.as_json(found), common.as_json(expected)
    for clock in CLOCKS:
        assert found.pop(clock) > 0.0
        expected.pop(clock)
    assert found == expected
    for name in ("model.npz", "embeddings.npz"):
        with np.load(path / name) as one, np.load(whole / name) as other:
            assert set(one.files) == set(other.files)
            for array in one.files:
                np.testing.assert_array_equal(one[array], other[array])
    logs = [read_metrics(place / "metrics.jsonl") for place in (path, whole)]
    for record in (*logs[0], *logs[1]):
        record.pop("seconds")
    assert logs[0] == logs[1]


def test_run_stopped_thrice_goes_on_to_the_same_end(finished, tmp_path, monkeypatch):
    """SIGTERM after the first chunk of networks, then after the first checkpoint.

    And a full disk between the record of an evaluation and its checkpoint.
    """
    whole, expected = finished

    def signalled(function):
        def wrapped(*args, **kwargs):
            result = function(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGTERM)
            return result

        return wrapped

    def fail(store, step, tree):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sine, "train_networks", signalled(sine.train_networks))
        assert run(CONFIG, tmp_path) is None
    names = {path.name for path in (tmp_path / "zoo").iterdir()}
    assert names == {"zoo.json", "sine-000000.npz"}
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", signalled(CheckpointStore.save))
        assert run(CONFIG, tmp_path) is None
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", fail)
        with pytest.raises(OSError, match="No space left"):
            run(CONFIG, tmp_path)
    assert not (tmp_path / "summary.json").exists()
    steps = [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [4, 8]
    assert_same_run(run(CONFIG, tmp_path), tmp_path, expected, whole)


def test_fewer_networks_of_the_same_zoo(finished):
    """The first of them are trained on; that a zoo is shared, accuracy shows."""
    directory = finished[0] / "zoo"
    few = dataclasses.replace(CONFIG, num_train=40, seed=1)
    (_, fewer), (_, whole) = (
        train.load_splits(directory, config) for config in (few, CONFIG)
    )
    np.testing.assert_array_equal(fewer["train"].rows, whole["train"].rows[:40])
    for name in ("valid", "test"):
        np.testing.assert_array_equal(fewer[name].rows, whole[name].rows)
    features = {name: split.targets for name, split in fewer.items()}
    assert set(train.label_curve(features, fewer)) == {30, 40}


def test_zoo_that_does_not_fit_leaves_no_directory_behind(finished, tmp_path):
    config = common.override(CONFIG, {"zoo.num_points": 17})
    with pytest.raises(zoo.ZooError, match="num_points: found 16, expected 17"):
        run(config, tmp_path / "run", zoo_directory=finished[0] / "zoo")
    assert not (tmp_path / "run").exists()


def test_damaged_zoo_is_named(finished, tmp_path):
    directory = tmp_path / "zoo"
    directory.mkdir()
    for path in (finished[0] / "zoo").iterdir():
        (directory / path.name).write_bytes(path.read_bytes()[:-100])
    with pytest.raises(zoo.ZooError, match="zoo.json: found damaged JSON"):
        run(CONFIG, tmp_path / "run", zoo_directory=directory)
    whole = (finished[0] / "zoo" / "zoo.json").read_bytes()
    (directory / "zoo.json").write_bytes(whole)
    with pytest.raises(zoo.ZooError, match="sine-000000.npz: found a damaged file"):
        run(CONFIG, tmp_path / "run", zoo_directory=directory)


def test_batches_cover_every_epoch_once():
    batches = learner.epoch_batches(3, 10, 3, 0, 6)
    for epoch in (batches[:3], batches[3:]):
        assert len(set(epoch.ravel().tolist())) == 9
    assert (batches[:3] != batches[3:]).any()
    # A chunk that starts within an epoch finds the same batches.
    again = learner.epoch_batches(3, 10, 3, 2, 3)
    np.testing.assert_array_equal(again, batches[2:5])


def flags(name="sine", *, assignments=(), **values):
    return common.configure(
        train.EXPERIMENT, name, assignments=assignments, values=values
    )


def test_flags_and_assignments():
    for name, preset in config_lib.CONFIGS.items():
        assert flags(name) == preset()
    config = flags(
        assignments=["zoo.num_steps=7", "views.noise_kind=constant"],
        **{"training.num_steps": 5, "num_train": None},
    )
    assert config.zoo.num_steps == 7 and config.training.num_steps == 5
    assert config.views.noise_kind == "constant"
    back = common.override(
        config,
        {
            "zoo.num_steps": config_lib.sine().zoo.num_steps,
            "training.num_steps": config_lib.sine().training.num_steps,
            "views.noise_kind": "gaussian",
        },
    )
    assert back == config_lib.sine()


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("training.steps=3", "found no field 'training.steps'"),
        ("training.num_steps=0", "num_steps: found 0, expected above 0"),
        ("training.batch_size=1001", "batch_size: found 1001, expected at most 1000"),
        ("training.batch_size=1", "batch_size: found 1, expected >= 2"),
        ("training.select_by=luck", "select_by: found 'luck', expected one of"),
        ("num_train=3001", "num_train: found 3001, expected 0 to 3000"),
        ("zoo.stop_loss=-1.0", "stop_loss: found -1.0, expected >= 0"),
        ("views.dropout=1.0", "dropout: found 1.0, expected 0 to below 1"),
    ],
)
def test_wrong_assignments(assignment, message):
    with pytest.raises(ValueError, match=message):
        flags(assignments=[assignment])


def test_launcher_refuses_a_wrong_value(tmp_path):
    process = launch(f"--workdir={tmp_path / 'run'}", "--set=views.noise=much")
    assert process.returncode != 0
    assert "found 'much' for 'views.noise'" in process.stderr + process.stdout
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "run").exists()


def test_equal_networks_compute_the_same_waves(again):
    """Signs and half turns change nearly all weights, and no wave."""
    learner_, splits = again
    options = dataclasses.replace(CONFIG, half_turns=2)
    turning = dataclasses.replace(learner_, config=options)
    rows = splits["test"].rows[:3]
    drawn = np.asarray(turning.equal_networks(jax.random.key(0), rows))
    assert np.mean(np.abs(drawn - rows) > 1e-6) > 0.4
    points = np.linspace(-3.0, 3.0, 9)[:, None]

    def waves(rows):
        network = sine.network(CONFIG.zoo)
        variables = zoo.unflatten(learner_.leaves, rows)
        return jax.vmap(lambda weights: network.apply(weights, points))(variables)

    np.testing.assert_allclose(waves(drawn), waves(rows), atol=2e-4)
    assert np.ptp(waves(rows)) > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"components": 17}, "components: found 17, expected 0 to 16"),
        ({"half_turns": -2}, "half_turns: found -2, expected at least -1"),
        ({"training.objective": "barlow"}, "objective: found 'barlow', expected one"),
    ],
)
def test_options_of_representations_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        common.override(CONFIG, change)
