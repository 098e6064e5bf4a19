"""Real data: files in, rows out, beside classical methods; modules are made up."""

import json

import numpy as np
import pytest

from experiments import common
from experiments.real_data import compute, config, sources
from modmeta.relational import DataError
from modmeta.relational.classical import METHODS
from modmeta.relational.verdict.conclusions import Verdict
from modmeta.relational.verdict.finer import STRENGTHS

NUM_NODES, NUM_FRAMES = 6, 120
ADJACENCY = np.eye(NUM_NODES, k=-1, dtype=int)


def recordings(num_systems, num_nodes=NUM_NODES, num_frames=NUM_FRAMES, seed=0):
    """A chain 0 -> 1 -> ... of lag 1, `[systems, time, nodes]`."""
    rng = np.random.default_rng(seed)
    series = rng.normal(size=(num_systems, num_frames, num_nodes))
    chain = np.eye(num_nodes, k=-1)
    for frame in range(1, num_frames):
        series[:, frame] += 0.6 * series[:, frame - 1] @ chain.T
    return series


@pytest.fixture
def netsim(tmp_path):
    path = tmp_path / "netsim.npz"
    series = recordings(3).transpose(0, 2, 1)
    # The file has links of nodes to themselves.
    np.savez(path, timeseries=series, adjacency=ADJACENCY + np.eye(NUM_NODES))
    return path


@pytest.fixture
def dream3(tmp_path):
    path = tmp_path / "dream3.npz"
    arrays = {}
    for name, count, size in (
        ("size10_b", 4, 10),
        ("size10_a", 4, 10),
        ("size30_a", 1, 30),
    ):
        arrays[f"{name}_timeseries"] = recordings(count, size, 21)
        arrays[f"{name}_adjacency"] = np.eye(size, k=-1)
    np.savez(path, **arrays)
    return path


class MadeUp:
    """A result that ranks pairs as senders' numbers do, and knows it is no good."""

    def __init__(self, dataset, shared_graph, recommended):
        count = 1 if shared_graph else dataset.num_tasks
        size = dataset.max_nodes
        likely = np.tile(np.arange(size) / size, (count, size, 1))
        self.probabilities = np.stack([1.0 - likely, likely], axis=-1)
        self.verdict = Verdict(
            False, 0, 1.0, (0.0, 0.0), None, 1, "Made up.", recommended
        )
        self._recommended = recommended

    def infer(self, dataset, *, shared_graph, seed):
        return MadeUp(dataset, shared_graph, self._recommended)

    def rank_pairs(self, method):
        """Senders the other way round."""
        assert method == STRENGTHS
        return self.probabilities[..., 0]


@pytest.fixture
def trained(monkeypatch, request):
    """Replaces training; holds what it was called with."""
    calls, method = [], getattr(request, "param", "Granger causality")

    def infer(dataset, *, shared_graph, **options):
        calls.append(options["seed"])
        return MadeUp(dataset, shared_graph, method)

    monkeypatch.setattr(compute, "infer_relations", infer)
    return calls


def test_rows_of_one_graph_and_of_its_recordings(netsim, trained, tmp_path):
    options = config.ExperimentConfig(file=str(netsim))
    summary = common.run(compute.EXPERIMENT, options, tmp_path / "run")
    rows = {row["method"]: row for row in summary["rows"]}
    assert list(rows) == [*METHODS, compute.OURS, compute.ADVISED]
    for row in rows.values():
        assert row["majority"] == pytest.approx(25 / 30)
        assert len(row["aurocs"]) == 3
        assert row["auroc"] == pytest.approx(np.mean(row["aurocs"]))
    # Every node but the last sends once: numbers rank senders by chance or worse.
    ours = rows[compute.OURS]
    assert ours["auroc"] == pytest.approx(ours["auroc_pooled"]) == pytest.approx(0.4)
    granger, advised = rows["Granger causality"], rows[compute.ADVISED]
    assert granger["auroc_pooled"] == advised["auroc_pooled"] == 1.0
    assert granger["aurocs"] == advised["aurocs"] and granger["auroc"] > 0.95
    assert advised["recommended"] == "Granger causality"
    text = compute.EXPERIMENT.format_summary(summary)
    assert "netsim, one by one: Made up." in text and "Granger" in text
    assert (tmp_path / "run" / "auroc.png").stat().st_size > 10_000
    with np.load(tmp_path / "run" / "networks" / "netsim_classical.npz") as file:
        assert file["Granger_causality"].shape == (NUM_NODES, NUM_NODES)
        assert file["Granger_causality_alone"].shape == (3, NUM_NODES, NUM_NODES)


def test_networks_by_size_and_short_recordings_together(dream3, trained, tmp_path):
    """Larger networks have no modules, and methods that lack frames no row."""
    options = config.ExperimentConfig(source="dream3", file=str(dream3), sizes=(10, 30))
    summary = common.run(compute.EXPERIMENT, options, tmp_path / "run")
    rows = {(row["dataset"], row["method"]): row for row in summary["rows"]}
    names = list(dict.fromkeys(name for name, _ in rows))
    assert names == ["size10_a", "size10_b", "size30_a"]
    assert all(row["auroc"] is None for row in rows.values())
    assert ("size10_a", compute.OURS) in rows and ("size30_a", compute.OURS) not in rows
    assert rows["size30_a", "lagged correlation"]["auroc_pooled"] > 0.7
    assert ("size10_a", "Granger causality") in rows
    assert ("size30_a", "Granger causality") not in rows
    assert len(trained) == 2


@pytest.mark.parametrize("trained", [STRENGTHS], indirect=True)
def test_strengths_rank_where_the_verdict_says_so(netsim, trained, tmp_path):
    options = config.ExperimentConfig(file=str(netsim))
    summary = common.run(compute.EXPERIMENT, options, tmp_path / "run")
    rows = {row["method"]: row for row in summary["rows"]}
    advised = rows[compute.ADVISED]
    assert trained and advised["recommended"] == STRENGTHS
    assert advised["auroc"] == pytest.approx(1.0 - rows[compute.OURS]["auroc"])


def test_held_out_frames_choose_where_no_modules_are_trained(netsim, trained, tmp_path):
    options = config.ExperimentConfig(file=str(netsim), max_nodes=3)
    summary = common.run(compute.EXPERIMENT, options, tmp_path / "run")
    rows = {row["method"]: row for row in summary["rows"]}
    assert not trained and list(rows) == [*METHODS, compute.CHOSEN]
    chosen = rows[compute.CHOSEN]
    assert chosen["recommended"] == "vector autoregression"
    assert chosen["auroc_pooled"] == rows["vector autoregression"]["auroc_pooled"]
    assert chosen["verdict"] in compute.EXPERIMENT.format_summary(summary)


def test_a_run_goes_on_where_it_stopped(dream3, trained, monkeypatch, tmp_path):
    options = config.ExperimentConfig(source="dream3", file=str(dream3), sizes=(10,))
    score = compute.classical_scores
    done = []

    def fail_at_second(network):
        done.append(network.name)
        if len(done) == 2:
            raise MemoryError("full")
        yield from score(network)

    monkeypatch.setattr(compute, "classical_scores", fail_at_second)
    with pytest.raises(MemoryError):
        common.run(compute.EXPERIMENT, options, tmp_path / "run")
    monkeypatch.setattr(compute, "classical_scores", score)
    first = (tmp_path / "run" / "networks" / "size10_a_classical.json").read_text()
    summary = common.run(compute.EXPERIMENT, options, tmp_path / "run")
    assert len(trained) == 2
    assert json.loads(first) == summary["rows"][: len(json.loads(first))]


def test_a_users_table_with_and_without_labels(trained, tmp_path):
    table, labels = tmp_path / "mine.csv", tmp_path / "labels.csv"
    rows = [
        f"{system},{time},{node},{value}"
        for (system, time, node), value in np.ndenumerate(recordings(2))
    ]
    table.write_text("\n".join(["system,time,entity,activity", *rows]))
    np.savetxt(labels, ADJACENCY, delimiter=",", fmt="%d")
    options = config.ExperimentConfig(source="csv", file=str(table))
    summary = common.run(compute.EXPERIMENT, options, tmp_path / "without")
    assert all(row["auroc_pooled"] is None for row in summary["rows"])
    assert summary["rows"][-1]["verdict"] == "Made up."
    assert not (tmp_path / "without" / "auroc.png").exists()
    with np.load(tmp_path / "without" / "networks" / "mine_classical.npz") as file:
        assert np.argmax(np.nan_to_num(file["Granger_causality"][1])) == 0
    options = config.ExperimentConfig(source="csv", file=str(table), labels=str(labels))
    summary = common.run(compute.EXPERIMENT, options, tmp_path / "with")
    rows = {row["method"]: row for row in summary["rows"]}
    assert rows["Granger causality"]["auroc_pooled"] == 1.0


def test_what_the_files_lack_is_refused(netsim, dream3, tmp_path):
    def refuse(error, match, **options):
        with pytest.raises(error, match=match):
            sources.read_networks(config.ExperimentConfig(**options))

    refuse(
        FileNotFoundError,
        "none.npz: found no such file",
        file=str(tmp_path / "none.npz"),
    )
    refuse(DataError, "expected timeseries .subjects", file=str(dream3))
    refuse(
        DataError,
        "found no network of .7,. genes",
        file=str(dream3),
        source="dream3",
        sizes=(7,),
    )
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, timeseries=np.zeros((2, 3, 9)), adjacency=np.zeros((4, 4)))
    refuse(
        DataError, r"adjacency of shape \[4, 4\], expected \[3, 3\]", file=str(wrong)
    )
    text = tmp_path / "text.npz"
    text.write_text("no arrays")
    refuse(DataError, "found no .npz of arrays", file=str(text))
    with pytest.raises(ValueError, match="expected --data=FILE for --config=netsim"):
        config.check("netsim", config.ExperimentConfig())
    with pytest.raises(ValueError, match="labels: found 'a.csv', expected none"):
        config.check("netsim", config.ExperimentConfig(file="a", labels="a.csv"))
    with pytest.raises(ValueError, match="source: found 'moon'"):
        config.ExperimentConfig(source="moon")
