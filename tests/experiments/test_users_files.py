"""A user's files on the command line: read as by the call, and split or scored whole.

Nothing is trained or searched.
"""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest

from experiments import common
from experiments.relational_inference import config as config_lib
from experiments.relational_inference import (
    datasets,
    report,
    train,
    trained,
    trainings,
)
from modmeta.relational import Domain, as_dataset, data
from modmeta.relational.inference import artifacts
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.training import setup

SPRINGS = data.simulate_springs(0, 24, num_nodes=3, num_frames=12)


def table():
    index = np.indices(SPRINGS.states.shape[:3]).reshape(3, -1)
    columns = dict(zip(("run", "when", "fish"), index, strict=True))
    columns["when"] = 0.1 * columns["when"]
    columns |= {n: SPRINGS.states[..., i].ravel() for i, n in enumerate("abcd")}
    return pd.DataFrame(columns)


def write_csv(folder):
    table().to_csv(folder / "tracks.csv", index=False)
    return folder / "tracks.csv"


def write_parquet(folder):
    table().to_parquet(folder / "tracks.parquet")
    return folder / "tracks.parquet"


def write_splits(folder):
    rows = {"train": slice(0, 16), "valid": slice(16, 20), "test": slice(20, 24)}
    for name, part in rows.items():
        states = SPRINGS.states[part].swapaxes(2, 3)
        np.save(folder / f"loc_{name}_springs3.npy", states[:, :, :2])
        np.save(folder / f"vel_{name}_springs3.npy", states[:, :, 2:])
        np.save(folder / f"edges_{name}_springs3.npy", SPRINGS.edges[part])
    return folder


SAID = (
    'data.columns=("system=run","time=when","entity=fish")',
    'data.features=("a","b","c","d")',
    'data.positions=("a","b")',
    'data.velocities=("c","d")',
)


def configure(path, *assignments):
    values = config_lib.values_of_file(str(path))
    return common.configure(
        train.EXPERIMENT, "springs", values=values, assignments=assignments
    )


def test_walls_and_bounds_of_simulators_are_not_those_of_a_file(tmp_path):
    values = config_lib.values_of_file(str(write_csv(tmp_path)))
    config = common.configure(train.EXPERIMENT, "charged", values=values)
    assert (config.prediction.domain.kind, config.modules.max_rate) == ("open", 0.0)


@pytest.fixture(scope="module")
def model():
    sizes = {"edge_sizes": (4,), "node_sizes": (4,), "message_size": 4}
    return setup.build_model(
        SPRINGS.take(slice(0, 4)), jax.random.key(0), modules=ModuleConfig(**sizes)
    )


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_splits])
def test_files_are_read_as_by_the_call(tmp_path, write):
    path = write(tmp_path)
    said = () if write is write_splits else SAID
    found = datasets.make_datasets(configure(path, *said).data, 0)
    assert found.is_unseen and found.train.num_tasks == 19 and found.test.num_tasks == 5
    np.testing.assert_array_equal(found.everything.states, SPRINGS.states[:, :9])
    assert found.everything.frame_interval == 0.1
    options = {}
    if said:
        options = {
            "columns": {"system": "run", "time": "when", "entity": "fish"},
            "positions": ("a", "b"),
            "velocities": ("c", "d"),
        }
    expected = as_dataset(path, **options)
    assert found.everything.features == expected.features
    assert found.everything.notes == expected.notes


@pytest.mark.parametrize("write", [write_csv, write_splits])
def test_a_run_does_not_go_on_with_other_data(tmp_path, write):
    path = write(tmp_path)
    before = configure(path)
    assert before.data.file_digest and configure(path) == before
    changed = max(tmp_path.iterdir())
    changed.write_bytes(changed.read_bytes() + b"\n")
    workdir = tmp_path / "run"
    common.claim_workdir(workdir, before)
    (workdir / "work").touch()
    with pytest.raises(FileExistsError, match="data.file_digest: .* there, .* now"):
        common.inspect_workdir(workdir, configure(path))
    absent = str(tmp_path / "absent.csv")
    assert common.digest_of(absent) == common.digest_of(str(path), absent) == ""
    assert common.digest_of(str(path), None) == common.digest_of(str(path)) != ""
    assert common.digest_of(None, "") == ""


def test_a_box_on_the_command_line(tmp_path):
    """The same as by the call, with an axis that does not wrap."""
    rows = table().rename(columns={"a": "x", "b": "y", "when": "time"})
    rows["x"] = np.mod(rows["x"], 2.0)
    rows.drop(columns=["c", "d"]).to_csv(tmp_path / "box.csv", index=False)
    columns = 'data.columns=("system=run","entity=fish")'
    domain = Domain("periodic", (0.0, -np.inf), (2.0, np.inf))
    values = config_lib.values_of_file(str(tmp_path / "box.csv"))
    config = common.configure(
        train.EXPERIMENT,
        "springs",
        values=values
        | {f"data.domain.{f}": getattr(domain, f) for f in ("kind", "lower", "upper")},
        assignments=[columns],
    )
    expected = as_dataset(
        tmp_path / "box.csv",
        columns={"system": "run", "entity": "fish"},
        domain=domain,
    )
    found = datasets.read_file(config.data)
    assert found.features == expected.features and found.features.periodic
    np.testing.assert_array_equal(found.states, expected.states)


def test_columns_by_number_and_none(tmp_path):
    np.savez(tmp_path / "set.npz", states=SPRINGS.states, frame_interval=0.1)
    config = configure(
        tmp_path / "set.npz", 'data.positions=("0","1")', "data.frame_interval=0.2"
    )
    found = datasets.read_file(config.data)
    assert found.features.positions == (0, 1) and found.frame_interval == 0.2
    named = table().rename(columns={"a": "x", "b": "y", "when": "time"})
    named.to_csv(tmp_path / "named.csv", index=False)
    columns = 'data.columns=("system=run","entity=fish")'
    found = datasets.read_file(configure(tmp_path / "named.csv", columns).data)
    assert found.features.positions == (0, 1)
    for none in ("none", "()"):
        said = f'data.positions=("{none}",)'
        config = configure(tmp_path / "named.csv", columns, said)
        assert datasets.read_file(config.data).features.positions == ()


def test_a_model_remembers_the_columns_of_its_table(tmp_path):
    """So that a new table of the same kind needs no words; what is said wins."""
    said = configure(write_csv(tmp_path), *SAID)
    sizes = {"edge_sizes": (4,), "node_sizes": (4,), "message_size": 4}
    model, params = setup.build_model(
        datasets.read_file(said.data), jax.random.key(0), modules=ModuleConfig(**sizes)
    )
    artifacts.save_model(tmp_path / "model.npz", model, params)
    again, _ = artifacts.load_model(tmp_path / "model.npz")
    assert again == model and again.bank.layout.key_columns == (
        ("system", "run"),
        ("time", "when"),
        ("entity", "fish"),
    )
    plain = configure(tmp_path / "tracks.csv")
    found = datasets.read_file(plain.data, again)
    np.testing.assert_array_equal(found.states, SPRINGS.states)
    assert found.features == model.bank.layout.spec
    renamed = table().rename(columns={"when": "time", "fish": "who"})
    renamed.to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(data.DataError, match="none that names the entity"):
        datasets.read_file(configure(tmp_path / "other.csv").data, again)
    config = configure(tmp_path / "other.csv", 'data.columns=("entity=who",)')
    found = datasets.read_file(config.data, again)
    np.testing.assert_array_equal(found.states, SPRINGS.states)
    # Frames further apart than is said move positions further than velocities tell.
    sparse = {"states": SPRINGS.states[:, ::2], "positions": (0, 1)}
    np.savez(tmp_path / "sparse.npz", velocities=(2, 3), **sparse)
    with pytest.raises(data.DataError, match="frame_interval: .* expected about 0.2"):
        datasets.read_file(configure(tmp_path / "sparse.npz").data, again)
    config = configure(tmp_path / "sparse.npz", "data.frame_interval=0.2")
    assert datasets.read_file(config.data, again).frame_interval == 0.2


@pytest.mark.parametrize("is_shared", [False, True])
def test_with_a_model_all_systems_are_scored(tmp_path, model, is_shared):
    """Of names, sizes and a number of frames that the model never saw."""
    path = write_csv(tmp_path)
    config = configure(path, *SAID[:1], f"data.shared_graph={is_shared}")
    said = dataclasses.replace(config.data, features=("a", "b", "c", "d"))
    found = datasets.make_datasets(said, 0, model[0])
    assert found.is_unseen is None
    assert found.test.num_tasks == 24
    assert found.test.features.positions == (0, 1)
    if is_shared:
        assert found.test_rows is None and found.everything.num_tasks == 1
    else:
        np.testing.assert_array_equal(found.test_rows, np.arange(24))
    trained.check("model.npz", *model, found.observed)
    notes = train._notes(model[0], None, found.everything)
    assert "'a' for 'x'" in notes[0] and "'d' for 'vy'" in notes[0]


def test_a_run_with_a_model_searches_all_systems_of_the_file(
    tmp_path, model, monkeypatch
):
    """Up to the first search, which would be compiled."""
    artifacts.save_model(tmp_path / "model.npz", *model)
    config = configure(
        write_csv(tmp_path), *SAID[:2], f"model={str(tmp_path / 'model.npz')!r}"
    )
    asked = []

    class Reached(Exception):
        pass

    def infer_dataset(key, model, params, dataset, *_, **__):
        asked.append(dataset)
        raise Reached

    monkeypatch.setattr(trainings.infer, "infer_dataset", infer_dataset)
    with pytest.raises(Reached):
        common.run(train.EXPERIMENT, config, tmp_path / "run")
    assert asked[0].num_tasks == 24 and not (tmp_path / "run").exists()


def test_a_model_that_does_not_fit_is_refused(tmp_path, model):
    config = configure(write_csv(tmp_path), *SAID[:3])
    other = dataclasses.replace(config.data, features=("a", "b", "c"))
    with pytest.raises(data.DataError, match="feature columns: found 3"):
        datasets.make_datasets(other, 0, model[0])
    swapped = dataclasses.replace(
        config.data,
        features=("a", "b", "c", "d"),
        positions=("c", "d"),
        velocities=("a", "b"),
    )
    found = datasets.make_datasets(swapped, 0, model[0])
    with pytest.raises(
        trained.ModelMismatchError, match=r"model.npz: features: found positions \(2, 3"
    ):
        trained.check("model.npz", *model, found.observed)


def test_labels_the_other_way_round_are_told(model):
    """The edges found are the transposes of labels, half of them symmetric."""
    rng = np.random.default_rng(0)
    edges = np.where(np.eye(8, dtype=bool), -1, rng.integers(0, 2, (3, 8, 8)))
    labelled = as_dataset(
        rng.normal(size=(3, 12, 8, 4)).cumsum(axis=1),
        labels=edges,
        feature_names=SPRINGS.features.names,
    )

    class Found:
        pass

    Found.edges = edges.swapaxes(1, 2)
    notes = train._notes(model[0], Found, labelled)
    assert "labels.swapaxes(-1, -2) exchanges them" in notes[-1]
    Found.edges = edges
    assert not train._notes(model[0], Found, labelled)


@pytest.mark.parametrize(
    "is_unseen, text",
    [
        (True, "unseen systems scored"),
        (False, "training sys"),
        (None, "systems scored"),
    ],
)
def test_the_table_says_what_was_scored(is_unseen, text):
    summary = {
        "test_systems_unseen": is_unseen,
        "num_test": 3,
        "num_proposals": 1,
        "test_energy": 0.0,
        "total_seconds": 1.0,
        "verdict": {"sentence": "Yes."},
    }
    line = report.format_summary(summary).splitlines()[2]
    assert line.lstrip("| ").startswith(text)
