"""The scaling experiment in its smallest size, with random modules.

Best structures against a list of all of them, scores against a slow loop over the
curves that the run leaves behind, compilations counted, stopping and going on.
"""

import collections
import dataclasses
import inspect
import json
import shutil
import types

import jax
import numpy as np
import pytest

from experiments import common
from experiments.search_scaling import config as config_lib
from experiments.search_scaling import figures, measure, problems, report, run, scores
from experiments.search_scaling.measure import LEARNED, OWN, UNIFORM
from experiments.search_scaling.scores import AT_LEAST, AT_MOST, EXACT, Scores
from modmeta.relational import data
from modmeta.relational.energies.config import EnergyConfig
from modmeta.relational.inference import artifacts
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.proposal_head import ProposalConfig
from modmeta.relational.training import setup
from tests.reference import Reference

SEARCHES = ("simulated_annealing", "gibbs", "enumeration")
VALUES = {
    "training.data.num_observed": 5,
    "systems.sizes": (3, 4),
    "systems.num_problems": 5,
    "training.data.mean_degree": 1.0,
    "measurement.searches": SEARCHES,
    "measurement.proposals_per_edge": 4,
    "measurement.min_proposals": 10,
    "measurement.num_chains": 2,
    "measurement.num_points": 12,
    "measurement.max_enumerated": 4,
    "measurement.chunk_size": 4,
}
# With 4 structures to enumerate, only the receivers of 3 entities are.
STAGES = {
    3: {
        ("simulated_annealing", UNIFORM),
        ("simulated_annealing", LEARNED),
        ("gibbs", OWN),
        ("enumeration", OWN),
    },
}
STAGES[4] = STAGES[3] - {("enumeration", OWN)}
CLOCKS = ("total_seconds", "seconds")


def run_experiment(config, workdir):
    return common.run(run.EXPERIMENT, config, workdir)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """A model with random modules and a head that is sure of itself."""
    dataset = data.simulate_springs(0, 16, num_nodes=3, num_frames=5)
    model, params = setup.build_model(
        dataset,
        jax.random.key(0),
        modules=ModuleConfig(
            path="start",
            edge_sizes=(4,),
            message_size=4,
            node_sizes=(4, 4),
            activation="relu",
            null_relation=True,
        ),
        proposal=ProposalConfig(encoder="mlp", width=4),
    )
    leaves, structure = jax.tree.flatten(jax.device_get(params))
    rng = np.random.default_rng(0)
    params = jax.tree.unflatten(
        structure, [leaf + rng.normal(size=leaf.shape) for leaf in leaves]
    )
    params = params._replace(preprocessing=jax.tree.unflatten(structure, leaves)[2])
    path = tmp_path_factory.mktemp("model") / "model.npz"
    artifacts.save_model(path, model, jax.tree.map(np.float32, params))
    return str(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_path):
    """A finished run: configuration, directory, summary and compilations."""
    config = common.override(config_lib.springs(), {**VALUES, "model": model_path})
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    before = measure._search._cache_size()
    summary = run_experiment(config, workdir)
    return config, workdir, summary, measure._search._cache_size() - before


def test_without_a_model_one_is_trained(tmp_path, monkeypatch):
    """The training is called as it asks to be; here it ends before it began."""
    signature = inspect.signature(run.trainings.meta_train)
    called = []

    def interrupted(*arguments, **named):
        called.append(signature.bind(*arguments, **named).arguments)
        return None, types.SimpleNamespace(is_finished=False)

    monkeypatch.setattr(run.trainings, "meta_train", interrupted)
    small = {"num_train": 4, "num_test": 2, "num_nodes": (3,)}
    small = {f"training.data.{name}": value for name, value in small.items()}
    config = common.override(config_lib.springs(), {**VALUES, **small})
    assert run_experiment(config, tmp_path / "run") is None
    assert called[0]["seed"] == config.training.seed


def curves_of(workdir):
    """Curves by size and search, from the files of a run."""
    found = collections.defaultdict(dict)
    for path in (workdir / "curves").iterdir():
        size, rest = path.stem.split("_", 1)
        for kind in (UNIFORM, LEARNED, OWN):
            if rest.endswith(kind.replace(" ", "_")):
                name = rest[: -len(kind) - 1]
                with np.load(path) as arrays:
                    found[int(size)][name, kind] = dict(arrays)
    return found


def test_files_and_summary(finished):
    config, workdir, summary, _ = finished
    assert {path.name for path in workdir.iterdir()} == {
        "config.json",
        "summary.json",
        "curves",
        "reached_by_proposals.png",
        "reached_by_seconds.png",
        "accuracy_by_proposals.png",
        "speedup.png",
    }
    written = json.loads((workdir / "summary.json").read_text())
    assert written == common.as_json(summary)
    assert written["config"] == common.as_json(config)
    found = curves_of(workdir)
    assert {size: set(searches) for size, searches in found.items()} == STAGES
    assert {
        int(size): {(name, kind) for name in by_name for kind in by_name[name]}
        for size, by_name in summary["searches"].items()
    } == STAGES
    # Whole systems; 4 proposals per edge or 10.
    expected = {"num_systems": 2, "num_problems": 6, "is_exact": True, "budget": 10}
    assert expected.items() <= summary["systems"]["3"].items()
    expected = {"num_systems": 2, "num_problems": 8, "is_exact": False, "budget": 12}
    assert expected.items() <= summary["systems"]["4"].items()
    assert set(summary["speedups"]) == {"simulated_annealing"}
    text = report.format_summary(written)
    for line in ("simulated_annealing", "own moves", "uniform / learned proposals"):
        assert line in text


def test_one_compilation_per_size_and_search(finished):
    """Kinds of proposals, chunks and the warm-up share it."""
    assert finished[3] == sum(len({name for name, _ in s}) for s in STAGES.values())


def test_enumerated_receivers_reach_the_listed_minimum(finished):
    config, workdir, summary, _ = finished
    model, params = artifacts.load_model(config.model)
    reference = Reference(model, params)
    like = config.training.data
    dataset = problems.simulate(config.systems, like, 3, config.seed)
    scale, offset = (
        np.asarray(getattr(params.preprocessing.normalization, name))
        for name in ("scale", "offset")
    )
    module_of = np.argsort(summary["module_names"])
    listed, true = [], []
    for states, labels in zip(
        (dataset.states - offset) / scale, dataset.edges, strict=True
    ):
        nodes = np.swapaxes(states, 0, 1)
        for receiver in range(3):
            energies = reference.receiver_energies(nodes, receiver)
            listed.append(min(energies.values()))
            modules = module_of[np.delete(labels[receiver], receiver)]
            true.append(energies[tuple(modules.tolist())])
    higher = np.mean(np.array(true) - listed > 0.01)
    assert summary["systems"]["3"]["true_structure_lower"] == 0.0
    assert summary["systems"]["3"]["true_structure_higher"] == higher > 0.0
    curves = curves_of(workdir)[3]
    # 4 structures within the first chunk of 64 proposals, beyond the last record:
    # the start is all that is recorded.
    assert curves["enumeration", OWN]["num_proposals"].tolist() == [[64, 64]] * 6
    best = np.min([c["energies"][..., -1].min(axis=1) for c in curves.values()], axis=0)
    np.testing.assert_allclose(best, listed, rtol=1e-4)
    sized = problems.prepare(model, params, dataset)
    exact = measure.exact_minima(sized, config.measurement)
    np.testing.assert_allclose(exact, listed, rtol=1e-4)
    energies = measure.energies_of(
        sized,
        problems.true_modules(sized, summary["module_names"]),
        config.measurement,
    )
    np.testing.assert_allclose(energies, true, rtol=1e-4)
    assert np.ptp(listed) > 1.0
    assert summary["searches"]["3"]["gibbs"][OWN]["probability"] > 0.5


def test_curves_only_improve_and_start_alike(finished):
    for size, curves in curves_of(finished[1]).items():
        for (name, _), found in curves.items():
            energies = found["energies"]
            assert (np.diff(energies, axis=-1) <= 0.0).all()
            degree = size - 1
            assert (found["confusions"].sum(axis=(-2, -1)) == degree).all()
            grid = measure.recorded_proposals(10 if size == 3 else 12, 12)
            assert energies.shape[-1] == len(grid) and grid[0] == 1
            if name in ("gibbs", "enumeration"):
                # No step ends within one proposal.
                start = energies[..., 0]
                np.testing.assert_array_equal(
                    start, curves["gibbs", OWN]["energies"][..., 0]
                )
        uniform, learned = (
            curves["simulated_annealing", kind]["energies"]
            for kind in (UNIFORM, LEARNED)
        )
        assert (uniform != learned).any()


def test_scores_against_a_slow_loop(finished):
    config, workdir, summary, _ = finished
    found = curves_of(workdir)
    confusion = np.zeros((2, 2), int)
    for curves in found.values():
        for one in curves.values():
            confusion += one["confusions"][:, :, -1].sum(axis=(0, 1))
    swapped = confusion[0, 1] + confusion[1, 0] > confusion[0, 0] + confusion[1, 1]
    names = [1, 0] if swapped else [0, 1]
    assert list(summary["module_names"]) == names
    for size, curves in found.items():
        num_problems = summary["systems"][str(size)]["num_problems"]
        best = [
            min(one["energies"][p, :, -1].min() for one in curves.values())
            for p in range(num_problems)
        ]
        grid = measure.recorded_proposals(10 if size == 3 else 12, 12)
        for (name, kind), one in curves.items():
            shares, right = [], 0
            for r in range(len(grid)):
                hits = [
                    one["energies"][p, chain, r] - best[p] <= 0.01
                    for p in range(num_problems)
                    for chain in range(2)
                ]
                shares.append(sum(hits) / len(hits))
            systems = [
                all(
                    one["energies"][p, chain, -1] - best[p] <= 0.01
                    for p in range(first, first + size)
                )
                for first in range(0, num_problems, size)
                for chain in range(2)
            ]
            for module in range(2):
                right += one["confusions"][:, :, -1, module, names[module]].sum()
            row = summary["searches"][str(size)][name][kind]
            assert row["probability"] == pytest.approx(shares[-1])
            assert row["system_probability"] == pytest.approx(np.mean(systems))
            edges = 2 * num_problems * (size - 1)
            assert row["edge_accuracy"] == pytest.approx(right / edges)
            gaps = one["energies"][..., -1] - np.array(best)[:, None]
            assert row["energy_gap"] == pytest.approx(gaps.mean(), rel=1e-4, abs=1e-6)
            for share, key in ((0.5, "proposals_to_50%"), (0.9, "proposals_to_90%")):
                there = [g for g, s in zip(grid, shares, strict=True) if s >= share]
                assert row[key] == (int(there[0]) if there else None)
            assert 0.0 < row["seconds"] <= one["seconds"]


def test_chunks_do_not_matter(finished):
    config, workdir, _, _ = finished
    model, params = artifacts.load_model(config.model)
    dataset = problems.simulate(config.systems, config.training.data, 4, config.seed)
    sized = problems.prepare(model, params, dataset)
    options = dataclasses.replace(config.measurement, chunk_size=8)
    key = jax.random.fold_in(jax.random.key(config.seed), 4)
    found = measure.run(key, sized, "simulated_annealing", LEARNED, options)
    expected = curves_of(workdir)[4]["simulated_annealing", LEARNED]
    np.testing.assert_allclose(found.energies, expected["energies"], rtol=1e-4)
    np.testing.assert_array_equal(found.confusions, expected["confusions"])
    np.testing.assert_array_equal(found.num_proposals, expected["num_proposals"])


def test_stopped_run_goes_on_with_the_missing_stage(finished, monkeypatch, tmp_path):
    config, workdir, expected, _ = finished
    compute, calls = measure.run, []

    def stopped(*arguments):
        calls.append(arguments[2:4])
        return compute(*arguments[:-1], lambda: len(calls) > 1)

    monkeypatch.setattr(measure, "run", stopped)
    assert run_experiment(config, tmp_path) is None
    assert calls == [("simulated_annealing", kind) for kind in (UNIFORM, LEARNED)]
    assert [path.name for path in (tmp_path / "curves").iterdir()] == [
        "3_simulated_annealing_uniform.npz"
    ]
    assert not (tmp_path / "summary.json").exists()

    # All but one stage as another run left them.
    for path in (workdir / "curves").iterdir():
        if path.name != "4_gibbs_own_moves.npz":
            (tmp_path / "curves" / path.name).write_bytes(path.read_bytes())
    calls.clear()
    monkeypatch.setattr(measure, "run", lambda *a: calls.append(a[2:4]) or compute(*a))
    summary = common.as_json(run_experiment(config, tmp_path))
    assert calls == [("gibbs", OWN)]
    assert without_clocks(summary) == without_clocks(common.as_json(expected))
    # A finished run is read back.
    assert run_experiment(config, tmp_path) == summary and len(calls) == 1
    with pytest.raises(FileExistsError, match="a finished run of another conf"):
        run_experiment(dataclasses.replace(config, seed=1), tmp_path)


def without_clocks(tree):
    if not isinstance(tree, dict):
        return tree
    return {k: without_clocks(v) for k, v in tree.items() if k not in CLOCKS}


def scores_with(probability, proposals=(1, 10, 100)):
    filler = np.zeros(len(proposals))
    return Scores(
        np.array(proposals), filler, np.array(probability), filler, filler, filler
    )


@pytest.mark.parametrize(
    "uniform, learned, expected",
    [
        ((0.0, 0.4, 0.6), (0.0, 0.5, 0.6), (10.0, EXACT)),
        ((0.0, 0.5, 0.6), (0.0, 0.4, 0.6), (0.1, EXACT)),
        ((0.0, 0.0, 0.4), (0.0, 0.6, 0.6), (10.0, AT_LEAST)),
        ((0.0, 0.6, 0.6), (0.0, 0.0, 0.4), (0.1, AT_MOST)),
        ((0.0, 0.0, 0.4), (0.0, 0.0, 0.4), (None, None)),
    ],
)
def test_speedup_and_its_bounds(uniform, learned, expected):
    found = scores.speedup(scores_with(uniform), scores_with(learned), 0.5)
    assert found == expected


@pytest.mark.parametrize(
    "found, helps_up_to, stops_at",
    [
        ([(2.0, EXACT), (1.5, AT_LEAST), (0.8, EXACT), (1.0, AT_MOST)], 10, 20),
        ([(0.5, EXACT), (2.0, EXACT), (0.9, AT_LEAST), (None, None)], 10, None),
        ([(1.0, EXACT), (2.0, AT_MOST), (3.0, EXACT), (4.0, EXACT)], 50, None),
        ([(1.0, EXACT), (1.0, EXACT), (0.2, EXACT), (0.1, AT_MOST)], None, 5),
    ],
)
def test_where_learning_helps(found, helps_up_to, stops_at):
    by_size = {
        str(size): {"factor": factor, "kind": kind}
        for size, (factor, kind) in zip((5, 10, 20, 50), found, strict=True)
    }
    assert scores.where_it_helps(by_size) == {
        "helps_up_to": helps_up_to,
        "stops_helping_at": stops_at,
    }


def test_figures_show_every_search_and_bound(finished):
    config, _, summary, _ = finished
    scored = {
        size: {key: scores_with((0.1, 0.5, 0.9)) for key in stages}
        for size, stages in STAGES.items()
    }
    figure = figures.plot_curves(scored)
    panels = {panel.get_ylabel(): panel for panel in figure.axes}
    assert {"simulated\nannealing", "gibbs", "enumeration"} <= set(panels)
    lines = [len(panel.get_lines()) for panel in figure.axes]
    assert sum(lines) == sum(map(len, STAGES.values()))
    assert "too many\nstructures" in [
        t.get_text() for a in figure.axes for t in a.texts
    ]
    speedups = {
        "greedy": {
            "50%": {
                "sizes": {
                    "3": {"factor": 3.0, "kind": EXACT},
                    "4": {"factor": 5.0, "kind": AT_LEAST},
                    "5": {"factor": 0.5, "kind": AT_MOST},
                    "6": {"factor": None, "kind": None},
                }
            }
        }
    }
    axes = figures.plot_speedups(speedups).axes[0]
    markers = {
        line.get_xdata()[0]: line.get_marker()
        for line in axes.get_lines()
        if len(line.get_xdata()) == 1
    }
    assert markers == {3: "o", 4: "^", 5: "v"}
    low, high = axes.get_ylim()
    assert low < 0.5 and high > 5.0


class Training:
    """In place of meta-training: random arrays of the model, or nothing yet."""

    def __init__(self, path, is_finished):
        self.model, self.params = artifacts.load_model(path)
        self.is_finished = is_finished

    def __call__(self, config, datasets, workdir, *_):
        assert config.modules.null_relation
        return self.model, types.SimpleNamespace(
            params=self.params, is_finished=self.is_finished
        )


def test_training_comes_first(finished, monkeypatch, model_path, tmp_path):
    config, workdir, expected, _ = finished
    config = common.override(
        config,
        {"model": "", "training.data.num_train": 16, "training.data.num_test": 4},
    )
    monkeypatch.setattr(run.trainings, "meta_train", Training(model_path, False))
    assert run_experiment(config, tmp_path) is None
    assert not (tmp_path / "model.npz").exists()
    monkeypatch.setattr(run.trainings, "meta_train", Training(model_path, True))
    shutil.copytree(workdir / "curves", tmp_path / "curves")
    common.claim_workdir(tmp_path, config)
    summary = run_experiment(config, tmp_path)
    assert (tmp_path / "model.npz").exists()
    found, wanted = (
        without_clocks(common.as_json(s)["searches"]) for s in (summary, expected)
    )
    assert found == wanted


@pytest.mark.parametrize(
    "values, message",
    [
        ({"systems.sizes": (5, 4)}, r"sizes: found \(5, 4\), expected ascending"),
        ({"systems.sizes": ()}, r"sizes: found \(\), expected ascending"),
        ({"training.data.mean_degree": 5.0}, "mean_degree: found 5.0, expected 0 to 4"),
        ({"systems.num_problems": 0}, "num_problems: found 0, expected at least 1"),
        ({"measurement.searches": ("best",)}, "searches: found 'best', expected some"),
        ({"measurement.num_chains": 0}, "num_chains: found 0, expected at least 1"),
        ({"measurement.annealed_fraction": 0.0}, "annealed_fraction: found 0.0"),
        ({"measurement.final_temperature": 0.0}, "temperatures: found 0.0 and 0.0"),
        ({"measurement.tolerance": -1.0}, "tolerance: found -1.0"),
        ({"measurement.chain": 1}, "found no field 'measurement.chain'"),
    ],
)
def test_impossible_options(values, message):
    with pytest.raises(ValueError, match=message):
        common.configure(run.EXPERIMENT, "springs", values=values)


def test_models_and_systems_that_do_not_fit(finished, model_path, tmp_path):
    config = finished[0]
    for values, error, message in (
        (
            {"training.data.system": "kuramoto"},
            ValueError,
            "npz: features: found",
        ),
        ({"training.data.system": "charged"}, ValueError, "mean_degree: found 1.0"),
        ({"training.data.file": "own.npz"}, ValueError, "file: found own.npz"),
        ({"model": str(tmp_path / "no.npz")}, FileNotFoundError, "no.npz"),
    ):
        with pytest.raises(error, match=message):
            run_experiment(common.override(config, values), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    model, params = artifacts.load_model(model_path)
    model = dataclasses.replace(model, energy=EnergyConfig(prior="symmetric"))
    with pytest.raises(ValueError, match="energy: found .*prior='symmetric'"):
        problems.prepare(model, params, None)
