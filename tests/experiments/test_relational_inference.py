"""The relational-inference experiment, run whole in its smallest size.

Files and fields against the list that the documentation gives, a killed run against
an uninterrupted one to the bit, users' files, and what the launcher refuses.
"""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from experiments import common
from experiments.relational_inference import (
    changing,
    datasets,
    exact,
    report,
    train,
    trained,
    trainings,
)
from experiments.relational_inference import config as config_lib
from modmeta.relational import InferenceConfig, data
from modmeta.relational.data import DataError, validation
from modmeta.relational.inference import artifacts, infer
from modmeta.relational.laws import curves
from modmeta.relational.verdict import stretches
from modmeta.relational.verdict.stretches import Stretches
from modmeta.runtime import devices
from modmeta.runtime.metrics import read_metrics

BODIES = data.FeatureSpec(("x", "y", "vx", "vy"), (0, 1), (2, 3))
FILES = {
    "config.json",
    "summary.json",
    "metrics.jsonl",
    "model.npz",
    "edges.npz",
    "edges.csv",
    "laws.json",
    "laws.png",
    "learning_curves.png",
    "adjacency.png",
    "trajectories.png",
    "rollout_error.png",
    "search.png",
    "calibration.png",
    "checkpoints",
}
# Validation and test systems, and those of a file of triples, are batches of one shape
# in training and in a search: one program serves them. So does that of a search for
# the verdict, as 13 frames are too few to hold some out.
SHARED = {
    "memory.batch_size": 4,
    "bouncegrad.batch_size": 8,
    # The launcher takes other options of a search for those of annealing.
    "inference.algorithm": "simulated_annealing",
    "inference.num_steps": 8,
    "proposal.encoder": "mlp",
}
SHRINK = {
    "data.num_train": 32,
    "data.num_test": 8,
    "data.num_nodes": (2, 3),
    "data.num_observed": 13,
    **SHARED,
}
TRAINING_FILES = {"metrics.jsonl", "checkpoints", "learning_curves.png"}
CLOCKS = ("train_seconds", "total_seconds")


def small_config(**values):
    return common.override(config_lib.smoke(config_lib.springs()), {**SHRINK, **values})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its configuration, directory and summary."""
    config, workdir = small_config(), tmp_path_factory.mktemp("runs") / "finished"
    return config, workdir, run(config, workdir)


def run(config, workdir, **options):
    return common.run(train.EXPERIMENT, config, workdir, **options)


def launch(*flags, script=None):
    command = ["-m", "experiments.relational_inference.main"]
    if script is not None:
        command = ["-c", script]
    return subprocess.run(
        [sys.executable, *command, *flags],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_files_and_summary(finished):
    config, workdir, summary = finished
    assert {path.name for path in workdir.iterdir()} == FILES
    written = json.loads((workdir / "summary.json").read_text())
    assert written == common.as_json(summary)
    assert written["config"] == common.as_json(config)
    assert written["seed"] == 0
    assert written["num_test"] == 8
    assert written["test_systems_unseen"] is True
    for name in (
        "edge_accuracy",
        "edge_accuracy_warm",
        "edge_accuracy_symmetric_prior",
    ):
        assert 0.5 <= written[name] <= 1.0
    assert 0.5 <= written["proposal_accuracy"] <= 1.0
    for name in ("mse", "mse_true_graph", "mse_constant_velocity", "mse_static"):
        assert set(written[name]) == {"1", "10", "20"}
        assert all(np.isfinite(value) and value > 0 for value in written[name].values())
    by_size = written["edge_accuracy_by_size"]
    # A pair has two edges, a triple six.
    mean = (2 * by_size["2"] + 6 * by_size["3"]) / 8
    assert mean == pytest.approx(written["edge_accuracy"])
    # Two or three receivers, eight proposals, two chains.
    assert written["num_proposals"] == 2.5 * 8 * 2
    assert 0.0 < written["train_seconds"] < written["total_seconds"]
    model, params = artifacts.load_model(workdir / "model.npz")
    sizes = [leaf.size for leaf in jax.tree.leaves(params.modules)]
    assert written["num_parameters"] == sum(sizes)
    assert written["num_steps"] == config.bouncegrad.num_steps
    steps = [record["step"] for record in read_metrics(workdir / "metrics.jsonl")]
    assert steps == [10, 20, 30, 40]


@pytest.mark.parametrize("system", ["springs", "kuramoto"])
def test_systems_of_several_sizes(system):
    config = config_lib.DataConfig(
        system=system, num_nodes=(9, 4), mean_degree=2.0, num_observed=4
    )
    mixed = datasets.simulate(config, 6, 401, 4)
    # Every size in turn, the smaller one first.
    np.testing.assert_array_equal(mixed.num_nodes, [4, 9] * 200 + [4])
    for size in (4, 9):
        edges = mixed.edges[mixed.num_nodes == size][:, :size, :size]
        degrees = (edges == 1).sum() / (len(edges) * size)
        # At most 1,800 nodes of variance below 2: five standard deviations.
        assert abs(degrees - 2.0) < 0.25
    alone = datasets.simulate(dataclasses.replace(config, num_nodes=(4,)), 6, 201, 4)
    np.testing.assert_array_equal(mixed.states[::2, :, :4], alone.states)
    again = datasets.simulate(config, 6, 401, 4)
    np.testing.assert_array_equal(again.states, mixed.states)
    # The larger systems are not the smaller ones with more entities.
    assert not np.isclose(mixed.states[1::2, 0, :4], mixed.states[:-1:2, 0, :4]).any()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"num_nodes": ()}, r"num_nodes: found \(\), expected numbers from 2 on"),
        ({"num_nodes": (5, 1)}, r"num_nodes: found \(5, 1\), expected numbers from 2"),
        ({"num_nodes": (5, 5)}, "expected every size once"),
        ({"mean_degree": 4.5}, "mean_degree: found 4.5, expected 0 to 4"),
        ({"mean_degree": 1.0, "system": "charged"}, "mean_degree: found 1.0 with ch"),
    ],
)
def test_impossible_sizes(values, message):
    with pytest.raises(ValueError, match=message):
        config_lib.DataConfig(**values)


def test_exported_edges(finished):
    _, workdir, summary = finished
    with np.load(workdir / "edges.npz") as file:
        edges, labels = file["edges"], file["labels"]
    assert edges.shape == labels.shape == (8, 3, 3)
    is_edge = labels >= 0
    same = (edges == labels)[is_edge].mean()
    assert max(same, 1 - same) == pytest.approx(summary["edge_accuracy"])
    with open(workdir / "edges.csv") as file:
        assert len(list(csv.DictReader(file))) == is_edge.sum()


def test_table_on_the_screen(finished):
    text = report.format_summary(finished[2])
    unused = finished[2] | {"laws": [{"relation": 0, "num_edges": 0}]}
    assert "no pair has it" in report.format_summary(unused)
    for line in (
        "unseen systems scored",
        "edge accuracy, cold start",
        "edge accuracy, warm start",
        "edge accuracy, proposal head alone",
        "MSE at step 20, true graph",
        "training seconds",
    ):
        assert line in text


def test_finished_run_is_reported_at_once(finished, monkeypatch):
    config, workdir, summary = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}

    def make_datasets(*_):
        raise AssertionError("a finished run needs no data")

    monkeypatch.setattr(train, "make_datasets", make_datasets)
    assert run(config, workdir) == common.as_json(summary)
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


def test_another_configuration_is_refused(finished):
    config, workdir, _ = finished
    with pytest.raises(FileExistsError, match="a finished run of another conf"):
        run(dataclasses.replace(config, seed=1), workdir)


KILLED = """
import os, signal, sys
from absl import app
from experiments.relational_inference import main
from modmeta.runtime.checkpoint import CheckpointStore

save = CheckpointStore.save

def save_or_die(store, step, tree):
    if step > 10:
        os.kill(os.getpid(), signal.SIGKILL)
    save(store, step, tree)

CheckpointStore.save = save_or_die
app.run(main.main)
"""


def test_killed_launcher_goes_on_to_the_same_end(finished, tmp_path):
    """Killed between the record of an evaluation and its checkpoint."""
    config, whole, expected = finished
    process = launch(
        f"--workdir={tmp_path}",
        "--config=springs",
        "--smoke",
        *(f"--set={path}={value}" for path, value in SHRINK.items()),
        script=KILLED,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr[-2000:]
    steps = [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [10, 20]
    assert not (tmp_path / "summary.json").exists()

    summary = run(config, tmp_path)
    found, wanted = common.as_json(summary), common.as_json(expected)
    for clock in CLOCKS:
        assert found.pop(clock) > 0.0
        wanted.pop(clock)
    assert found == wanted
    for name in ("model.npz", "edges.npz"):
        with np.load(tmp_path / name) as one, np.load(whole / name) as other:
            assert set(one.files) == set(other.files)
            for array in one.files:
                np.testing.assert_array_equal(one[array], other[array])
    logs = [read_metrics(path / "metrics.jsonl") for path in (tmp_path, whole)]
    for record in (*logs[0], *logs[1]):
        record.pop("seconds")
    assert logs[0] == logs[1]


def test_polite_stop_leaves_a_run_to_resume(tmp_path, monkeypatch):
    """SIGTERM before the first chunk: the state is saved, and no summary written."""
    meta_train = trainings.meta_train

    def signalled(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return meta_train(*args)

    monkeypatch.setattr(trainings, "meta_train", signalled)
    config = small_config()
    assert run(config, tmp_path) is None
    assert not (tmp_path / "summary.json").exists()
    status = common.inspect_workdir(tmp_path, config)
    assert status is common.WorkdirStatus.INTERRUPTED
    assert not read_metrics(tmp_path / "metrics.jsonl")


@pytest.fixture
def users_file(tmp_path):
    """Writes a file of random walks, columns without roles."""

    def write(states=None, **arrays):
        if states is None:
            states = random_walks()
        path = tmp_path / "mine.npz"
        np.savez(path, states=states, **arrays)
        return str(path)

    return write


def file_config(path):
    return common.configure(
        train.EXPERIMENT,
        "springs",
        smoke=True,
        assignments=[f"{path}={value}" for path, value in SHARED.items()],
        values={"seed": None, **config_lib.values_of_file(path)},
    )


def random_walks(num_systems=24, num_frames=20):
    steps = np.random.default_rng(0).normal(size=(num_systems, num_frames, 3, 4))
    return steps.cumsum(axis=1)


def test_users_file_without_labels(tmp_path):
    springs = data.simulate_springs(0, 40, num_nodes=3, num_frames=17)
    data.save_npz(tmp_path / "mine.npz", springs.without_labels())
    config = file_config(str(tmp_path / "mine.npz"))
    assert config.seed == 0
    summary = run(config, tmp_path / "run")
    assert not [name for name in summary if "accuracy" in name]
    assert {"mse_true_graph", "brier_score"}.isdisjoint(summary)
    # Four frames are held back, a quarter of them, and a fifth of the systems.
    assert set(summary["mse"]) == {"1"}
    assert summary["num_test"] == 8 and summary["test_systems_unseen"]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == FILES - {"calibration.png"}
    assert "edge accuracy" not in report.format_summary(summary)
    # Edges of all systems are exported, not only of those that were scored.
    with np.load(tmp_path / "run" / "edges.npz") as file:
        assert file["edges"].shape == (40, 3, 3)
        assert "labels" not in file.files


def test_users_file_of_recordings_of_one_graph(users_file, tmp_path):
    """Positions alone at irregular times: laws, and one graph for all recordings.

    Without a proposal head; with one, `tests.relational.test_api` has such data.
    """
    rng = np.random.default_rng(0)
    states = random_walks(3, 5)[..., :2]
    states[1, 2, 1, 1] = states[0, 3, 0] = np.nan
    path = users_file(
        states,
        positions=[0, 1],
        times=np.cumsum(rng.uniform(0.5, 1.5, (3, 5)), axis=1),
        edges=np.broadcast_to(rng.integers(0, 2, (3, 3)), (3, 3, 3)),
    )
    config = common.override(
        file_config(path), {"data.shared_graph": True, "proposal.encoder": "none"}
    )
    summary = run(config, tmp_path / "run")
    gaps = "2 of 45 entries (a node at a frame) are missing: they do not count."
    assert summary["notes"] == ["Velocities were derived from positions.", gaps]
    assert f"\n{gaps}" in report.format_summary(summary)
    assert 0.5 <= summary["edge_accuracy_shared_graph"] <= 1.0
    # Too few to leave some for the test alone.
    assert summary["num_test"] == 3 and summary["test_systems_unseen"] is False
    with np.load(tmp_path / "run" / "edges.npz") as file:
        assert file["edges"].shape == (1, 3, 3)


def test_relations_that_change(users_file, tmp_path, monkeypatch):
    """Test systems are the last stretches; what is found is of all stretches."""
    walks = np.cumsum(np.random.default_rng(0).normal(size=(24, 30, 3, 2)), axis=1)
    np.savez(tmp_path / "walks.npz", states=walks, edges=np.zeros((24, 3, 3), int))
    values = {
        **config_lib.values_of_file(str(tmp_path / "walks.npz")),
        "changing": True,
    }
    config = small_config(**values)
    given = changing.without_labels(config, datasets.make_datasets(config.data, 0))
    assert given.everything.edges is None and given.test.edges is None
    assert (given.num_observed, given.test.num_frames) == (23, 30)
    # Every third recording changes once.
    counts = 1 + (np.arange(24) % 3 == 0)
    tasks = np.repeat(np.arange(24), counts)
    is_second = np.append(False, np.diff(tasks) == 0)
    is_first = np.append(np.diff(tasks) == 0, False)
    parts = Stretches(tasks, 9 * is_second, np.where(is_first, 9, 23))
    monkeypatch.setattr(stretches, "find_stretches", lambda *_: parts)
    found, again = changing.on_stretches(config, given, None, None)
    assert again is parts and found.everything.num_tasks == len(tasks)
    np.testing.assert_array_equal(tasks[found.test_rows], given.test_rows)
    for row, stretch in enumerate(found.test_rows):
        start = 9 * (counts[given.test_rows[row]] - 1)
        assert parts.stops[stretch] == 23
        seen = found.test.is_observed[row].all(axis=1)
        np.testing.assert_array_equal(seen, np.arange(30) >= start)
        np.testing.assert_array_equal(
            found.everything.is_observed[stretch], found.test.is_observed[row, :23]
        )
    described = changing.describe(parts, found.everything)
    assert described[:3] == [
        {"system": 0, "start": 0, "stop": 9},
        {"system": 0, "start": 9, "stop": 23},
        {"system": 1, "start": 0, "stop": 23},
    ]
    # Without a true graph there is nothing exact to compare with.
    assert exact.exact_predictions(config_lib.DataConfig(), given.observed, 3) == {}
    short = given._replace(test=given.test.frames(0, 12), num_observed=12)
    with pytest.raises(DataError, match="changing: found True with 12 frames"):
        changing.without_labels(config, short)
    assert flags(changing=True).changing and not flags().changing


def test_model_for_other_data_is_refused(finished, users_file, tmp_path):
    """Angles are no positions; columns without names or roles are those of training."""
    angles = random_walks()[..., :2]
    states = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    path = users_file(states, sines=[0, 1], cosines=[2, 3])
    config = dataclasses.replace(
        file_config(path), model=str(finished[1] / "model.npz")
    )
    with pytest.raises(ValueError, match=r"npz: features: found positions \(\) of"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_file_leaves_no_directory_behind(users_file, tmp_path):
    states = random_walks()
    states[5, 6, 1, 2] = np.inf
    config = file_config(users_file(states))
    with pytest.raises(
        DataError, match=r"mine.npz: states: found inf at index \[5, 6, 1, 2\]"
    ):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("num_train", 25, "num_train: found 25, expected at most the 24 systems"),
        ("num_observed", 21, "num_observed: found 21, expected 3 to the 20 frames"),
    ],
)
def test_more_than_the_file_holds(users_file, field, value, message):
    config = common.override(file_config(users_file()), {f"data.{field}": value})
    with pytest.raises(ValueError, match=message):
        datasets.make_datasets(config.data, 0)


def test_trained_model_on_two_devices(finished, tmp_path, monkeypatch):
    """The modules of a finished run find again what they found at its end.

    Every search of the test is given the devices; that it finds the same on them is
    asked by `tests.relational.inference.test_devices`, hence one is enough here.
    """
    meshes, infer_dataset = [], infer.infer_dataset

    def on_one_device(*args, mesh, **options):
        meshes.append(mesh)
        return infer_dataset(*args, **options)

    monkeypatch.setattr(infer, "infer_dataset", on_one_device)
    config, workdir, expected = finished
    path = str(workdir / "model.npz")
    config = dataclasses.replace(config, model=path)
    mesh = devices.build_mesh(2)
    summary = run(config, tmp_path / "run", mesh=mesh)
    # From a cold start, with the prior, and under the other kind of proposals.
    assert meshes == 3 * [mesh]
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert names == FILES - TRAINING_FILES
    with np.load(tmp_path / "run" / "edges.npz") as one:
        with np.load(workdir / "edges.npz") as other:
            for array in other.files:
                np.testing.assert_array_equal(one[array], other[array])
    for name in ("edge_accuracy", "edge_accuracy_symmetric_prior", "mse"):
        assert common.as_json(summary[name]) == common.as_json(expected[name])
    assert {"train_seconds", "edge_accuracy_warm"}.isdisjoint(summary)
    assert "training seconds" not in report.format_summary(summary)


def test_trained_model_under_another_search_without_samples(
    finished, tmp_path, monkeypatch
):
    """All structures of a receiver are listed; with the prior, annealing steps in.

    Nor is anything written about laws where modules have none.
    """
    monkeypatch.setattr(curves, "has_curve", lambda model: False)
    config, workdir, expected = finished
    config = common.override(
        config,
        {
            "model": str(workdir / "model.npz"),
            "inference.algorithm": "enumeration",
            "inference.num_samples": 0,
        },
    )
    summary = run(config, tmp_path / "run")
    assert summary["test_energy"] <= expected["test_energy"] + 1e-4
    assert 0.5 <= summary["edge_accuracy_symmetric_prior"] <= 1.0
    assert "brier_score" in expected and "brier_score" not in summary
    assert "laws" in expected and {"laws", "assumed"}.isdisjoint(summary)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    absent = {"calibration.png", "laws.json", "laws.png"}
    assert names == FILES - TRAINING_FILES - absent


def flags(name="springs", *, assignments=(), **values):
    return common.configure(
        train.EXPERIMENT, name, assignments=assignments, values=values
    )


def test_flags_and_assignments():
    for name, preset in config_lib.CONFIGS.items():
        assert flags(name) == preset()
        # Without a file, the general preset simulates springs.
        expected = "springs" if name == "general" else name
        assert preset().data.system == expected
    config = flags(
        assignments=[
            "bouncegrad.learning_rate=1",
            "modules.edge_sizes=(8,)",
            "proposal.encoder=cnn+denoiser",
            "compress=False",
        ],
        **{"bouncegrad.num_steps": 7, "seed": None},
    )
    assert config.bouncegrad.num_steps == 7 and config.seed == 0
    assert config.bouncegrad.learning_rate == 1.0
    assert isinstance(config.bouncegrad.learning_rate, float)
    assert config.modules.edge_sizes == (8,)
    assert config.proposal.encoder == "cnn+denoiser"
    assert config.compress is False
    # Nothing else has changed.
    back = common.override(
        config,
        {
            "bouncegrad.num_steps": 600,
            "bouncegrad.learning_rate": 3e-3,
            "modules.edge_sizes": (32, 32),
            "proposal.encoder": "evidence",
            "compress": True,
        },
    )
    assert back == config_lib.springs()


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("bouncegrad.num_steps", "--set: found 'bouncegrad.num_steps', expected path="),
        ("bouncegrad.steps=3", "found no field 'bouncegrad.steps'"),
        ("bouncegard.num_steps=3", "found no field 'bouncegard.num_steps'"),
        ("seed.value=3", "found no field 'seed.value'"),
        ("training.inference=3", "found no field 'training.inference'"),
        ("bouncegrad.num_steps=many", "found 'many' for 'bouncegrad.num_steps'"),
        ("bouncegrad.num_steps=1e3", "found 1000.0 for 'bouncegrad.num_steps'"),
        ("bouncegrad=3", "found 3 for 'bouncegrad'"),
        ("bouncegrad.num_steps=0", "num_steps: found 0, expected at least 1"),
        ("proposal.encoder=gnn", "encoder: found 'gnn', expected one of"),
        ("inference.algorithm=anneal", "search: found 'anneal', expected one of"),
    ],
)
def test_wrong_assignments(assignment, message):
    with pytest.raises(ValueError, match=message):
        flags(assignments=[assignment])


def test_search_that_cannot_minimise_the_energy_is_refused():
    with pytest.raises(ValueError, match="energy.residuals: found None.*integer_l"):
        flags(
            assignments=[
                "inference.algorithm=integer_least_squares",
                "energy.form=rollout",
            ]
        )


def test_many_entities_are_searched_as_suits_them():
    """Unless an option of the search was named, or energies are not sums."""

    def algorithm(num_nodes, *assignments):
        config = flags(assignments=list(assignments))
        few, many = (
            types.SimpleNamespace(num_nodes=np.array([5, count]), features=BODIES)
            for count in (5, num_nodes)
        )
        given = types.SimpleNamespace(train=few, observed=many)
        found = trained.with_search(config, given, None)
        return found.inference.algorithm, found.inference.num_steps

    usual = InferenceConfig()
    unchanged = usual.algorithm, usual.num_steps
    assert algorithm(5) == unchanged
    assert algorithm(40, "inference.algorithm=simulated_annealing") == unchanged
    mutual = "energy.prior=symmetric"
    assert algorithm(5, mutual) == ("integer_least_squares", 8)
    for said in ((), (mutual,)):
        found = algorithm(40, *said)
        assert found[0] == "integer_least_squares"
        assert found[1] > algorithm(20, *said)[1] // 2
    for said in ("energy.form=rollout", "modules.node_update=mlp"):
        assert algorithm(40, said) == unchanged


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--data=nowhere.npz", "nowhere.npz: found no such file or folder"),
        ("--num_steps=many", "num_steps: found 'many', expected a whole number from 1"),
    ],
)
def test_launcher_refuses_a_wrong_value(tmp_path, word, message):
    """Other wrong values are tried within this process, see `test_malformed`."""
    process = launch(f"--workdir={tmp_path / 'run'}", word)
    assert process.returncode != 0
    output = " ".join((process.stderr + process.stdout).split())
    assert f"FATAL: {message}" in output
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "run").exists()


def test_help_lists_every_flag():
    process = launch("--help")
    for name in (
        "config",
        "workdir",
        "data",
        "num_train",
        "num_test",
        "num_nodes",
        "mean_degree",
        "num_relations",
        "columns",
        "features",
        "positions",
        "velocities",
        "frame_interval",
        "num_steps",
        "prior",
        "model",
        "num_devices",
        "num_chain_groups",
        "coordinator",
        "num_processes",
        "process_id",
        "seed",
        "smoke",
        "tensorboard",
        "set",
    ):
        assert f"\n  --{name}:" in process.stdout or f"--[no]{name}:" in process.stdout
    assert "without labels" in process.stdout


@pytest.mark.parametrize(
    "size, expected", [(5, "simulated_annealing"), (20, "integer")]
)
def test_the_general_preset_searches_as_the_number_of_entities_asks_for(size, expected):
    """As `infer_relations` does; what is named stays, and numbers of steps follow."""
    general = config_lib.CONFIGS["general"]()
    states = np.random.default_rng(0).normal(size=(3, 6, size, 4)).astype(np.float32)
    dataset = data.TrajectoryDataset(
        states=states, features=validation.PARTICLE_FEATURES, frame_interval=0.1
    )
    given = datasets.Datasets(dataset, dataset, None, 6, True)
    found = trained.with_search(general, given, None)
    assert found.inference.algorithm.startswith(expected)
    assert general.bouncegrad.resolved(size).batch_size == (32 if size == 5 else 4)
    named = common.override(general, {"inference.algorithm": "gibbs"})
    assert trained.with_search(named, given, None) == named
    coupled = common.override(general, {"energy.prior": "symmetric"})
    found = trained.with_search(coupled, given, None)
    assert found.inference.algorithm == "integer_least_squares"


def test_laws_alone_are_integrated_and_meet_walls():
    config = config_lib.charged()
    found = [
        config.prediction_of(types.SimpleNamespace(has_laws=has_laws))
        for has_laws in (True, False)
    ]
    assert [(f.num_substeps, f.domain.kind) for f in found] == [
        (config.prediction.num_substeps, "reflecting"),
        (0, "open"),
    ]
