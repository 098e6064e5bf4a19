"""A result prints itself, is kept, exported, and applied to new data.

Models are not trained, and relations are set by hand: their truth is known.
"""

import csv
import dataclasses
import io
import itertools
import json
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

from modmeta import relational
from modmeta.relational import (
    ProposalConfig,
    RelationalInference,
    Relations,
    TrajectoryDataset,
    as_dataset,
    classical,
    data,
    infer_relations,
)
from modmeta.relational.data import DataError
from modmeta.relational.discovery import Discovery
from modmeta.relational.inference import features
from modmeta.relational.results import forecast, transfer
from modmeta.relational.training import setup
from modmeta.relational.verdict.conclusions import Verdict
from modmeta.relational.verdict.stretches import Stretches
from modmeta.runtime import progress
from tests.relational.test_api import QUICK, random_walks

VERDICT = Verdict(
    *(True, 2, 0.1, (0.01, 0.9), 0.97, 1, "The data support 2 relations."),
    recommended="lagged correlation",
)


def result_of(dataset, edges, modules=QUICK["modules"]):
    """A result with known relations, of a model that was never trained.

    Without a proposal head: `tests.relational.test_api` keeps models with one.
    """
    model, params = setup.build_model(
        dataset,
        jax.random.key(0),
        modules=modules,
        proposal=ProposalConfig(encoder="none"),
        memory=QUICK["memory"],
    )
    rng = np.random.default_rng(0)
    likely = rng.uniform(0.6, 1.0, edges.shape)
    shares = np.stack([1.0 - likely, likely], axis=-1).astype(np.float32)
    shares = np.where((edges == 1)[..., None], shares, shares[..., ::-1])
    shares = np.where((edges >= 0)[..., None], shares, np.float32(0.0))
    counts = np.ones(len(edges), np.float32)
    found = Relations(
        edges=edges.astype(np.int32),
        node_modules=np.zeros(edges.shape[:2], np.int32),
        probabilities=shares,
        proposal_logits=shares,
        energies=counts,
        num_proposals=counts.astype(np.int32),
        best_energies=counts[:, None],
    )
    dataset = dataclasses.replace(dataset, edges=edges)
    discovery = Discovery(model, params, found, found, VERDICT)
    return RelationalInference(dataset, discovery, QUICK["inference"])


def half_symmetric():
    """Relations of which half the pairs have the same both ways, `[6, 3, 3]`."""
    rng = np.random.default_rng(1)
    edges = np.full((6, 3, 3), -1)
    for number, (task, pair) in enumerate(itertools.product(range(6), range(3))):
        one, other = [(0, 1), (0, 2), (1, 2)][pair]
        relation = rng.integers(2)
        edges[task, one, other] = relation
        edges[task, other, one] = relation if number % 2 else 1 - relation
    return edges


@pytest.fixture(scope="module")
def known():
    """Springs with recorded velocities, hence laws, and names."""
    springs = data.simulate_springs(0, 6, num_nodes=3, num_frames=10)
    named = dataclasses.replace(
        springs,
        system_names=[f"run {i}" for i in range(6)],
        node_names=[("ant", "bee", "cat")] * 6,
    )
    return result_of(named, half_symmetric())


def test_stretches_are_kept(known, tmp_path):
    tasks, starts, stops = (
        [0, 0, 1, 2, 3, 3],
        [0, 4, 0, 0, 0, 7],
        [4, 10, 10, 10, 7, 10],
    )
    parts = Stretches(*map(np.array, (tasks, starts, stops)))
    assert known.stretches is None
    discovery = dataclasses.replace(known.discovery, stretches=parts)
    names = tuple(f"run {task}" for task in tasks)
    dataset = dataclasses.replace(known.dataset, system_names=names)
    whole = dataclasses.replace(known, discovery=discovery, dataset=dataset)
    whole.save(tmp_path / "result.npz")
    whole.to_csv(tmp_path / "edges.csv")
    with open(tmp_path / "edges.csv") as file:
        lines = list(csv.DictReader(file))
    frame = whole.to_dataframe()
    assert len(lines) == len(frame) == 36
    for name, values in (("system", names), ("start", starts), ("stop", stops)):
        expected = np.repeat(values, 6).tolist()
        assert frame[name].tolist() == expected
        assert [line[name] for line in lines] == list(map(str, expected))
    for kept, given in zip(
        relational.load(tmp_path / "result.npz").stretches, parts, strict=True
    ):
        np.testing.assert_array_equal(kept, given)


def test_summary_is_of_plain_numbers(known):
    summary = known.summary()
    assert json.loads(json.dumps(summary)) == summary
    is_edge = known.edges >= 0
    assert summary["num_systems"] == 6 and summary["num_frames"] == 10
    assert summary["num_entities"] == [3, 3] and summary["num_pairs"] == 36
    assert summary["features"] == ["x", "y", "vx", "vy"]
    names = [entry["name"] for entry in summary["relations"]]
    assert names == ["no interaction", "relation 1"]
    share = np.mean(known.edges[is_edge] == 1)
    assert summary["relations"][1]["share"] == pytest.approx(share)
    surest = known.probabilities.max(-1)[is_edge]
    assert summary["mean_confidence"] == pytest.approx(surest.mean())
    assert summary["share_sure"] == pytest.approx(np.mean(surest > 0.9))
    assert summary["edge_accuracy"] == 1.0
    assert summary["verdict"]["sentence"] == VERDICT.sentence


def test_pairs_are_ranked_by_the_recommended_method(known):
    """Of series alone; without a recommendation, a method must be named."""
    series = as_dataset(np.random.default_rng(0).normal(size=(2, 30, 3, 1)))
    discovery = dataclasses.replace(known.discovery, verdict=VERDICT)
    result = RelationalInference(series, discovery)
    for arguments in ((), ("Granger causality",)):
        expected = classical.rank_pairs(series, *(arguments or ("lagged correlation",)))
        np.testing.assert_array_equal(result.rank_pairs(*arguments), expected)
    silent = dataclasses.replace(
        known.discovery, verdict=VERDICT._replace(recommended=None)
    )
    known_names = "expected one of .'strengths', 'correlation', 'partial"
    with pytest.raises(ValueError, match=f"found none.*{known_names}"):
        RelationalInference(series, silent).rank_pairs()
    with pytest.raises(ValueError, match=f"found 'correlations', {known_names}"):
        known.rank_pairs("correlations")
    with pytest.raises(DataError, match="expected columns without roles"):
        known.rank_pairs()


def test_what_is_printed_is_short(known):
    text = repr(known)
    assert len(text) < 900 and len(text.splitlines()) < 12
    share = known.summary()["relations"][0]["share"]
    for part in (
        "6 systems of 3 entities, 10 frames, features x, y, vx, vy",
        f"no interaction {share:.1%}",
        "of 36 pairs",
        "edge accuracy 1.0000",
        f"supported. {VERDICT.sentence}",
    ):
        assert part in text
    html = known._repr_html_()
    assert html.count("<tr>") == len(text.splitlines()) - 1
    odd = dataclasses.replace(known.dataset, notes=("a < b & c",) * 4 + ("x" * 500,))
    html = dataclasses.replace(known, dataset=odd)._repr_html_()
    assert "a &lt; b &amp; c" in html and "2 more in result.notes" in html
    assert "x" * 200 not in html
    assert repr(known.dataset) == (
        "TrajectoryDataset(6 tasks, 10 frames, 3 nodes, features x, y, vx, vy)"
    )


def test_results_without_verdict_labels_or_samples_print_too(known):
    found = known.found._replace(probabilities=np.zeros((6, 3, 3, 2), np.float32))
    bare = dataclasses.replace(
        known,
        dataset=known.dataset.without_labels(),
        discovery=dataclasses.replace(
            known.discovery, found=found, settled=found, verdict=None
        ),
    )
    text = repr(bare)
    assert "relation 0" in text
    assert not {"confidence", "accuracy", "verdict"} & set(text.split())
    assert bare.summary()["mean_confidence"] is None


def test_tables_and_graphs_have_the_names_of_the_data(known, tmp_path):
    frame = known.to_dataframe()
    assert len(frame) == 36
    for row in frame.sample(12, random_state=0).itertuples():
        task = int(row.system.removeprefix("run "))
        sender, receiver = (
            ("ant", "bee", "cat").index(name) for name in (row.sender, row.receiver)
        )
        assert row.relation == known.edges[task, receiver, sender]
        assert row.name == ("no interaction", "relation 1")[row.relation]
        expected = known.probabilities[task, receiver, sender]
        assert (row.probability_0, row.probability_1) == tuple(expected.tolist())
        graph = known.to_networkx()[task]
        assert graph.graph["system"] == row.system
        edge = graph.edges[row.sender, row.receiver]
        assert edge["relation"] == row.name
        assert edge["probability"] == expected[row.relation]
    known.to_csv(tmp_path / "edges.csv")
    with open(tmp_path / "edges.csv") as file:
        lines = list(csv.DictReader(file))
    for name in ("system", "sender", "receiver"):
        assert [line[name] for line in lines] == frame[name].tolist()
    assert [int(line["relation"]) for line in lines] == frame.relation.tolist()
    written = [float(line["probability_1"]) for line in lines]
    np.testing.assert_allclose(written, frame.probability_1, rtol=1e-6)
    graphs = known.to_networkx(relation_names=["none", "spring"], skip_relation=0)
    assert sum(graph.number_of_edges() for graph in graphs) == np.sum(known.edges == 1)
    assert {e["relation"] for g in graphs for *_, e in g.edges(data=True)} == {"spring"}
    assert set(graphs[0]) == {"ant", "bee", "cat"}


def test_labels_the_other_way_round_get_a_hint(known):
    assert known.notes == known.dataset.notes
    transposed = dataclasses.replace(
        known.dataset, edges=known.edges.swapaxes(1, 2).copy()
    )
    swapped = dataclasses.replace(known, dataset=transposed)
    assert swapped.edge_accuracy == 0.5
    assert "labels.swapaxes(-1, -2) exchanges them" in swapped.notes[-1]
    assert "and with 1.00 if rows" in swapped.notes[-1]


NEW_PROCESS = """
import sys
import warnings
import numpy as np
from modmeta import relational

result = relational.load(sys.argv[1])
again = result.infer(sys.argv[2], seed=1)
np.savez(
    sys.argv[3],
    edges=again.edges,
    probabilities=again.probabilities,
    predictions=result.predict(2),
    text=repr(result),
)
"""


def test_save_load_and_infer_in_a_new_process(tmp_path):
    """Without laws: quick to compile."""
    trained = result_of(as_dataset(random_walks(), lags=1), half_symmetric())
    path = tmp_path / "result.npz"
    trained.save(path)
    new = as_dataset(random_walks(4, 9, 4, seed=5), lags=1, labels=np.eye(4, dtype=int))
    data.save_npz(tmp_path / "new.npz", new)
    names = ("result.npz", "new.npz", "out.npz")
    subprocess.run(
        [sys.executable, "-c", NEW_PROCESS, *(str(tmp_path / name) for name in names)],
        check=True,
        timeout=300,
    )
    here = trained.infer(new, seed=1)
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_array_equal(out["edges"], here.edges)
        np.testing.assert_array_equal(out["probabilities"], here.probabilities)
        np.testing.assert_array_equal(out["predictions"], trained.predict(2))
        assert str(out["text"]) == repr(trained)
    # One label everywhere, and a graph that the verdict does not bear out.
    assert not here.verdict.supported
    assert here.edges.shape == (4, 4, 4) and here.edge_accuracy == 1.0
    loaded = relational.load(path)
    assert loaded.verdict == trained.verdict and loaded.inference == trained.inference
    assert loaded.dataset.node_names == trained.dataset.node_names
    np.testing.assert_array_equal(loaded.dataset.states, trained.dataset.states)
    assert loaded.model == trained.model
    model, params = relational.load_model(path)
    assert model == trained.model
    jax.tree.map(np.testing.assert_array_equal, params, trained.params)


@pytest.mark.parametrize("name", ["found", "found.npz", "found.pkl", "run.2"])
def test_a_name_without_npz_gets_it(known, tmp_path, name):
    """No one who has waited for a result loses it to a name."""
    path = known.save(tmp_path / name)
    assert path == tmp_path / (name if name == "found.npz" else f"{name}.npz")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert relational.load(path).verdict == known.verdict


def test_files_that_are_no_result(known, tmp_path):
    with pytest.raises(ValueError, match="path: found 3, expected the path of a file"):
        known.save(3)
    data.save_npz(tmp_path / "data.npz", known.dataset)
    with pytest.raises(ValueError, match="expected a modmeta.artifact"):
        relational.load(tmp_path / "data.npz")
    relational.save_model(tmp_path / "model.npz", known.model, known.params)
    with pytest.raises(ValueError, match="a model without data, .* load_model reads"):
        relational.load(tmp_path / "model.npz")
    with pytest.raises(FileNotFoundError):
        relational.load(tmp_path / "absent.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "model.npz"]


@pytest.fixture
def read_only(known, monkeypatch):
    """`infer` up to the search, which gives back what it was asked to search."""

    def stop(discovery, dataset, *_):
        discovery.model.read(dataset)
        return dataset, discovery

    monkeypatch.setattr("modmeta.relational.results.transfer.discover_again", stop)
    return known


def test_new_data_are_read_as_the_training_data_were(read_only, tmp_path):
    new = data.simulate_springs(7, 3, num_nodes=5, num_frames=37)
    index = np.indices(new.states.shape[:3]).reshape(3, -1)
    columns = dict(zip(("system", "frame", "entity"), index, strict=True))
    # Other columns and another order, in a table.
    columns |= {
        name: new.states[..., i].ravel() for name, i in (("vy", 3), ("y", 1), ("x", 0))
    }
    columns |= {"mass": np.zeros(index.shape[1]), "vx": new.states[..., 2].ravel()}
    for given in (new, new.states, columns, list(new.states)):
        found = read_only.infer(given).dataset
        assert isinstance(found, TrajectoryDataset)
        np.testing.assert_array_equal(found.states, new.states)
        assert found.frame_interval == new.frame_interval
        assert found.features == new.features
    renamed = dataclasses.replace(
        new.features, names=("east", "north", "speed", "climb")
    )
    other = dataclasses.replace(new, features=renamed)
    assert read_only.infer(other).dataset.num_nodes[0] == 5


def test_new_data_at_another_interval(read_only):
    new = data.simulate_springs(7, 3, num_nodes=3, num_frames=41)
    twice = new.states[:, ::2]
    found = read_only.infer(twice, frame_interval=0.2).dataset
    read = read_only.model.read(found)
    np.testing.assert_allclose(read.clock[0], 2.0 * np.arange(21))
    # Frames say that the interval is another than that of the training data.
    with pytest.raises(DataError, match="frame_interval: found 0.1 .* about 0.2: give"):
        read_only.infer(twice)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s[..., :3], "feature_names: found 4 names .*, expected 3"),
        (lambda s: s[:, :2], "states: found 2 frames"),
        (
            lambda s: {"states": s, "positions": [2, 3], "velocities": [0, 1]},
            r"features: found positions \(2, 3\)",
        ),
        (
            lambda s: as_dataset(s, feature_names=("vx", "vy", "x", "y")),
            r"features: found positions \(2, 3\)",
        ),
        (lambda s: as_dataset(s[..., :2], positions=()), "features: found 2"),
        (
            lambda s: {"entity": [0], "frame": [0], "x": [1.0]},
            "feature_names: found 'y', expected columns among .*; the model knows",
        ),
    ],
)
def test_new_data_that_the_model_cannot_read(read_only, change, message):
    states = data.simulate_springs(7, 3, num_nodes=3, num_frames=12).states
    with pytest.raises(DataError, match=message):
        read_only.infer(change(states))


def test_options_of_another_type_are_named(known):
    for call, message in (
        (lambda: known.predict(2.5), "num_steps: found 2.5, expected a whole number"),
        (
            lambda: known.predict(2, num_substeps=-1),
            "num_substeps: found -1, expected at le",
        ),
        (
            lambda: known.predict(2, num_samples=-1),
            "num_samples: found -1, expected at least 0",
        ),
        (
            lambda: known.predict(2, domain="box"),
            "domain: found 'box', expected Domain",
        ),
        (lambda: known.infer(None, seed=-1), "seed: found -1, expected 0 to"),
        (lambda: known.infer(None, shared_graph="no"), "shared_graph: found 'no'"),
        (lambda: known.infer(None, inference=5), "inference: found 5, expected Inf"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_new_data_in_other_units_get_a_note(known):
    """Also where systems are elsewhere: what counts is how far bodies are apart."""
    new = data.simulate_springs(7, 3, num_nodes=5, num_frames=12)
    constants = known.params.preprocessing
    assert not transfer.other_sizes(new, constants)
    elsewhere = dataclasses.replace(new, states=new.states + [1e3, -1e3, 0.0, 0.0])
    assert not transfer.other_sizes(elsewhere, constants)
    millimetres = dataclasses.replace(new, states=1e3 * new.states)
    (note,) = transfer.other_sizes(millimetres, constants)
    assert note.startswith("Features 'x', 'y', 'vx', 'vy' spread over")
    assert "in the units of the training data" in note


def test_another_unit_of_time_is_refused(known):
    """Frames a hundred times as far apart, and velocities a hundredth, or so many more.

    Frames that are further apart in the same unit are no other unit.
    """
    new = data.simulate_springs(7, 3, num_nodes=5, num_frames=36)
    layout, constants = known.model.bank.layout, known.params.preprocessing
    for factor in (0.01, 100.0):
        scale = np.array([1.0, 1.0, 1.0 / factor, 1.0 / factor])
        other = dataclasses.replace(
            new, states=new.states * scale, frame_interval=0.1 * factor
        )
        with pytest.raises(DataError, match="time seems to be in another unit"):
            features.check_time_unit(other, layout, constants)
    sparse = dataclasses.replace(new, states=new.states[:, ::6], frame_interval=0.6)
    for same in (new, sparse, dataclasses.replace(new, states=1e3 * new.states)):
        features.check_time_unit(same, layout, constants)


def test_angles_and_lags_of_new_data(tmp_path):
    """What was derived from recorded columns is derived again."""
    rng = np.random.default_rng(0)
    turns = np.mod(np.cumsum(rng.uniform(5, 25, (3, 60, 4, 1)), axis=1), 360.0)
    like = as_dataset(turns, feature_names=["heading"], angles=[0])
    again = transfer.read_like(turns[:1, :9], like.features, 1.0)
    assert again.features == like.features
    np.testing.assert_array_equal(again.states, like.states[:1, :9])
    series = random_walks(3, 40)
    like = as_dataset(series, lags=3)
    assert like.features.lagged
    again = transfer.read_like(series[:2, :9], like.features, 1.0)
    assert again.features == like.features and again.num_frames == 7
    # A data set that was saved has its past already.
    data.save_npz(tmp_path / "lagged.npz", again)
    kept = transfer.read_like(tmp_path / "lagged.npz", like.features, 1.0)
    np.testing.assert_array_equal(kept.states, again.states)
    with pytest.raises(ValueError, match="found a TrajectoryDataset together"):
        as_dataset(like, positions=0)
    moved = as_dataset(series, positions=(0, 1))
    again = transfer.read_like(series[:2], moved.features, 1.0)
    assert again.features == moved.features
    np.testing.assert_array_equal(again.states, moved.states[:2])


class Watched(io.StringIO):
    """Stands in for a terminal."""

    def isatty(self):
        return True


def test_progress_is_shown_where_somebody_looks_on():
    assert isinstance(progress.shown_to_people(Watched()), progress.TqdmProgress)
    assert isinstance(progress.shown_to_people(io.StringIO()), progress.NoProgress)
    notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    stream = notebook()
    meter = progress.shown_to_people(stream)
    meter.start(10)
    meter.update(5)
    meter.close()
    assert "5/10" in stream.getvalue()
    with pytest.raises(ValueError, match="progress: found 'yes', expected 'auto'"):
        infer_relations(random_walks(), progress="yes")


def odd_table(**renamed):
    """A table of bodies whose columns nobody would guess."""
    springs = data.simulate_springs(0, 3, num_nodes=3, num_frames=6)
    index = np.indices(springs.states.shape[:3]).reshape(3, -1)
    columns = dict(zip(("dish", "clock", "worm"), index, strict=True))
    columns["clock"] = springs.frame_interval * columns["clock"]
    columns |= {n: springs.states[..., i].ravel() for i, n in enumerate("abcd")}
    return {renamed.get(name, name): values for name, values in columns.items()}


def test_names_of_columns_are_remembered(known, tmp_path):
    """Said once, with the training data; those that are there go before usual names."""
    keys = {"system": "dish", "time": "clock", "entity": "worm"}
    roles = {"positions": ("a", "b"), "velocities": ("c", "d")}
    first = as_dataset(odd_table(), columns=keys, **roles)
    assert first.key_columns == keys
    kept = dataclasses.replace(known.dataset, key_columns=keys)
    dataclasses.replace(known, dataset=kept).save(tmp_path / "result.npz")
    assert relational.load(tmp_path / "result.npz").dataset.key_columns == keys
    again = transfer.read_new(odd_table(), first)
    np.testing.assert_array_equal(again.states, first.states)
    # A table of one system has no column of systems.
    one = {name: values[:18] for name, values in odd_table().items() if name != "dish"}
    np.testing.assert_array_equal(
        transfer.read_new(one, first).states, first.states[:1]
    )
    # What is said wins, and usual names serve for what is not there.
    renamed = odd_table(clock="time", worm="who")
    found = transfer.read_more(renamed, first, {"entity": "who"}, None, {})
    np.testing.assert_array_equal(found.states, first.states)
    with pytest.raises(DataError, match="none that names the entity"):
        transfer.read_new(odd_table(worm="who"), first)


def test_predictions_far_beyond_the_training_data_are_warned_of(known):
    """A flock that drifts is not far; bodies that fly apart, and what is no number."""
    shape = (known.dataset.num_tasks, 6, known.dataset.max_nodes)
    states = np.zeros((*shape, known.dataset.features.num_features))
    at = list(known.dataset.features.positions)
    states[..., at] = 1e6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forecast.warn_of_far(known, states)
    for value in (1e7, np.nan):
        apart = states.copy()
        apart[0, 3:, 0, at[0]] = value
        with pytest.warns(UserWarning, match="from frame 4 of 6 on far beyond"):
            forecast.warn_of_far(known, apart)


def test_new_data_without_columns_of_the_model_are_told_which_it_knows(known):
    states = known.dataset.states
    unnamed = as_dataset(states, positions=(0, 1), velocities=(2, 3))
    message = "columns: found 2, .*; the model knows .*'feature_2', 'feature_3'"
    with pytest.raises(DataError, match=message):
        transfer.read_like(states[..., :2], unnamed.features, 0.1)
