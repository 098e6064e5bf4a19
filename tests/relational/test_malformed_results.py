"""Calls of a result that are not what they should be, each answered by one sentence.

What data alone can have wrong: `tests.relational.data.test_malformed`. Commands:
`tests.experiments.test_malformed_others`. Nothing is compiled, trained or searched.
"""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest

from modmeta.graphs import supergraphs
from modmeta.relational import (
    HiddenConfig,
    InferenceConfig,
    RelationalInference,
    Relations,
    as_dataset,
    load,
)
from modmeta.relational.data.domains import Domain
from modmeta.relational.discovery import Discovery
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.bank import ModuleBank
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.fitting import fit_preprocessing
from modmeta.relational.modules.network import RelationalNetwork
from modmeta.relational.modules.proposal_head import ProposalConfig
from modmeta.relational.verdict.conclusions import Verdict

TASKS, FRAMES, NODES = 6, 10, 3
RNG = np.random.default_rng(0)
# Smooth paths whose velocities are known.
TIME = np.linspace(0.0, 1.0, FRAMES)[None, :, None, None]
SPEED = RNG.normal(size=(TASKS, 1, NODES, 2))
TURN = RNG.normal(size=(TASKS, 1, NODES, 2))
STATES = np.concatenate(
    [
        RNG.normal(size=(TASKS, 1, NODES, 2)) + SPEED * TIME + 0.5 * TURN * TIME**2,
        SPEED + TURN * TIME,
    ],
    axis=-1,
)
STEP = 1.0 / (FRAMES - 1)
NAMES = ("x", "y", "vx", "vy")
KEYS = {"system": "run", "time": "when", "entity": "fish"}
FUTURE = RNG.normal(size=(TASKS, 5, NODES, 1))
BODIES = as_dataset(
    STATES,
    feature_names=NAMES,
    positions=(0, 1),
    velocities=(2, 3),
    frame_interval=STEP,
)
SERIES = as_dataset(RNG.normal(size=(2, 40, 4, 1)), lags=1)
WIND = as_dataset(
    np.concatenate([STATES, RNG.normal(size=(*STATES.shape[:3], 1))], axis=-1),
    feature_names=(*NAMES, "wind"),
    positions=(0, 1),
    velocities=(2, 3),
    inputs=("wind",),
    frame_interval=STEP,
)
LABELLED = dataclasses.replace(
    BODIES, edges=RNG.integers(0, 2, (TASKS, NODES, NODES)), num_relations=2
)
BOX = "reflecting"


def made_up(dataset, **options):
    """A result with relations and arrays that nobody learned."""
    constants, layout = fit_preprocessing(dataset, compress=False)
    config = ModuleConfig(edge_sizes=(4,), node_sizes=(4,), span=1, **options)
    network = RelationalNetwork(ModuleBank(config, layout), ProposalConfig("none"))
    pair = supergraphs.build_supergraph([2], supergraphs.padding_budget([2], 1))
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), constants, pair))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    params = params._replace(preprocessing=constants)
    edges = RNG.integers(0, 2, (dataset.num_tasks, *2 * (dataset.max_nodes,)))
    edges = np.where(np.eye(dataset.max_nodes, dtype=bool), -1, edges).astype(np.int32)
    shares = np.where(edges[..., None] >= 0, np.float32([0.5, 0.5]), np.float32(0.0))
    ones = np.ones(len(edges), np.float32)
    found = Relations(
        edges=edges,
        node_modules=np.zeros(edges.shape[:2], np.int32),
        probabilities=shares,
        proposal_logits=shares,
        energies=ones,
        num_proposals=ones.astype(np.int32),
        best_energies=ones[:, None],
    )
    verdict = Verdict(True, 2, 0.1, (0.01, 0.9), 0.97, 1, "Two relations.")
    discovery = Discovery(RelationalModel(network), params, found, found, verdict)
    return RelationalInference(dataset, discovery)


class Results:
    """Results of bodies with laws, of series without, and of bodies in a wind."""

    def __init__(self, folder):
        self.folder = folder
        self.bodies = made_up(BODIES, path="interpolated")
        self.series = made_up(SERIES, path="start", entities="alike")
        self.wind = made_up(WIND, path="interpolated")
        self.unsampled = dataclasses.replace(
            self.bodies, inference=InferenceConfig(num_samples=0)
        )
        for result in (self.bodies, self.series, self.wind):
            _ = result.found.structures  # small operations are compiled by now

    def file(self, name, content):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def edited(self, ending, change):
        """The file of a result with some arrays changed; None leaves them out."""
        path = self.folder / "edited.npz"
        self.bodies.save(path)
        with np.load(path) as file:
            arrays = dict(file)
        for name in [name for name in arrays if name.endswith(ending)]:
            array = change(arrays.pop(name))
            if array is not None:
                arrays[name] = array
        np.savez(path, **arrays)
        return path

    def part(self, share):
        self.bodies.save(self.folder / "whole.npz")
        content = (self.folder / "whole.npz").read_bytes()
        return self.file("part.npz", content[: int(share * len(content))])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return Results(tmp_path_factory.mktemp("results"))


def changed(index, value, states=STATES):
    states = np.array(states)
    states[index] = value
    return states


def table(**columns):
    index = np.indices(STATES.shape[:3]).reshape(3, -1)
    found = dict(zip(KEYS.values(), index, strict=True))
    found["when"] = STEP * found["when"]
    found |= {name: STATES[..., i].ravel() for i, name in enumerate(NAMES)}
    return pd.DataFrame(found).assign(**columns)


LOAD = {
    "absent": (lambda r: load(r.folder / "no.npz"), "no.npz: found no such file"),
    "nothing": (lambda r: load(None), "path: found None, expected the path of a file"),
    "a number": (lambda r: load(3), "path: found 3, expected the path"),
    "an array": (lambda r: load(STATES), "path: found array.*expected the path"),
    "a folder": (lambda r: load(r.folder), "found a folder, expected a file"),
    "empty": (lambda r: load(r.file("e.npz", b"")), "found no readable file"),
    "a text": (lambda r: load(r.file("t.npz", "hello")), "found no readable file"),
    "a table": (lambda r: load(r.file("t.csv", "a,b\n1,2\n")), "found no readable"),
    "cut": (lambda r: load(r.part(0.5)), "found no readable file"),
    "cut late": (lambda r: load(r.part(0.99)), "found no readable file"),
    "no header": (
        lambda r: load(r.edited("__header__", lambda a: None)),
        "found no readable file",
    ),
    "no states": (
        lambda r: load(r.edited("dataset/states", lambda a: None)),
        "expected .'dataset/states'. too",
    ),
    "fewer nodes": (
        lambda r: load(r.edited("dataset/states", lambda a: a[:, :, :2])),
        r"dataset/states: found float32.6, 10, 2, 4., expected float32.6, 10, 3, 4",
    ),
    "texts": (
        lambda r: load(r.edited("dataset/states", lambda a: a.astype(str))),
        "dataset/states: found <U",
    ),
    "relations out of range": (
        lambda r: load(r.edited("found/edges", lambda a: a + 7)),
        r"found/edges: found 8|found/edges: found 6 at|found/edges: found 7 at",
    ),
    "fewer relations": (
        lambda r: load(r.edited("settled/probabilities", lambda a: a[..., :1])),
        "settled/probabilities: found",
    ),
    "NaN in a module": (
        lambda r: load(r.edited("layer_0.bias", lambda a: np.full_like(a, np.nan))),
        "model: found NaN in .*layer_0.bias",
    ),
}
INFER = {
    "nothing": ((None,), {}, "trajectories: found NoneType, expected an array"),
    "a vector": ((STATES[0, 0, 0],), {}, "states: found 1 axes"),
    "features as nodes": ((STATES.swapaxes(2, 3),), {}, "expected 3, one per feature"),
    "two features": ((STATES[..., :2],), {}, "found 4 names .*expected 2.*model knows"),
    "eight features": ((np.tile(STATES, 2),), {}, "found 4 names .* expected 8"),
    "texts": ((STATES.astype(str),), {}, "states: found dtype <U"),
    "complex": ((STATES.astype(complex),), {}, "states: found dtype complex128"),
    "infinity": ((changed((1, 2, 0, 1), np.inf),), {}, r"inf at index \[1, 2, 0, 1\]"),
    "never seen": ((np.full_like(STATES, np.nan),), {}, "node 0 of task 0 observed at"),
    "two frames": ((STATES[:, :2],), {}, "states: found 2 frames"),
    "one node": ((STATES[:, :, :1],), {}, "found one node in every task"),
    "all breaks": ((STATES,), {"breaks": np.ones(FRAMES, bool)}, "no two frames in a"),
    "constant": ((np.ones_like(STATES),), {}, "found the one value 1.0"),
    "no file": (("none.csv",), {}, "none.csv: found no such file or folder"),
    "columns, none": ((table(),), {"columns": {"time": "t"}}, "found 't' for the time"),
    "columns, text": ((table(),), {"columns": "run"}, "columns: found 'run', expected"),
    "columns, array": ((STATES,), {"columns": KEYS}, "columns: found .* with arrays"),
    "a column less": (
        (table().drop(columns="vy"),),
        {"columns": KEYS},
        "feature_names: found 'vy', expected columns among",
    ),
    "a column renamed": (
        (table().rename(columns={"vx": "ux"}),),
        {"columns": KEYS},
        "feature_names: found 'vx'.* the model knows",
    ),
    "a column of texts": (
        (table(vx="fast"),),
        {"columns": KEYS},
        "column 'vx': found 'fast' in row 0, expected a number",
    ),
    "rows twice": (
        (pd.concat([table(), table()[:3].assign(vx=7.0)]),),
        {"columns": KEYS},
        "rows: found rows 0 and 180 both of entity",
    ),
    "interval, other": (
        (STATES,),
        {"frame_interval": 100 * STEP},
        "found 11.* with",
    ),
    "interval, negative": ((STATES,), {"frame_interval": -1}, "interval: found -1.0"),
    "interval, text": ((STATES,), {"frame_interval": "a"}, "interval: found 'a'"),
    "labels, tasks": ((STATES,), {"labels": np.zeros((2, 3, 3))}, "edges: found shape"),
    "labels, negative": (
        (STATES,),
        {"labels": np.full((TASKS, 3, 3), -5)},
        r"edges: found label -5 at index \[0, 0, 1\]",
    ),
    "labels, half": (
        (STATES,),
        {"labels": np.full((TASKS, 3, 3), 0.5)},
        "edges: found label 0.5",
    ),
    "node mask": ((STATES,), {"node_mask": np.ones((6, 2), bool)}, "node_mask: found"),
    "frame mask": (
        (STATES,),
        {"frame_mask": np.ones((6, 10), bool)},
        r"frame_mask: found shape \(6, 10\), expected \(6, 10, 3\)",
    ),
    "times, backwards": (
        (STATES,),
        {"times": np.arange(FRAMES)[::-1]},
        r"times: found 8.0 after 9.0 at index \[0, 1\]",
    ),
    "times, few": ((STATES,), {"times": np.arange(9)}, r"times: found shape \(9,\)"),
    "breaks, few": ((STATES,), {"breaks": np.zeros(3, bool)}, "breaks: found shape"),
    "shared graph": ((STATES,), {"shared_graph": "yes"}, "shared_graph: found 'yes'"),
    "shared sizes": (
        ([STATES[0], STATES[1, :, :2]],),
        {"shared_graph": True},
        "found 2 nodes in task 1, expected 3 as in task 0",
    ),
    "seed, negative": ((STATES,), {"seed": -1}, "seed: found -1, expected 0 to"),
    "seed, text": ((STATES,), {"seed": "a"}, "seed: found 'a', expected a whole"),
    "inference": ((STATES,), {"inference": {"num_steps": 3}}, "inference: found {'num"),
    "mesh": ((STATES,), {"mesh": 2}, "mesh: found 2, expected a mesh of devices"),
    "a data set and times": (
        (BODIES,),
        {"times": np.arange(FRAMES)},
        "found a TrajectoryDataset together with",
    ),
}
SERIES_CALLS = {
    "infer bodies": (lambda s: s.infer(STATES), "features: found 4, .* expected 1"),
    "infer at another interval": (
        lambda s: s.infer(SERIES.states, frame_interval=3.0),
        "frame_interval: found 3.0 with path 'start', expected 1.0",
    ),
    "infer irregular times": (
        lambda s: s.infer(SERIES.states[:1], times=np.arange(40.0) ** 1.5),
        "only laws hold at others|times: found irregular",
    ),
    "predict at times": (lambda s: s.predict(2, times=[41.0, 43.5]), "expected laws"),
    "predict futures": (
        lambda s: s.predict(2, num_samples=4),
        "num_samples: found 4 with path 'start', expected laws",
    ),
    "predict with walls": (
        lambda s: s.predict(2, domain=Domain(BOX, (-9.0,), (9.0,))),
        "domain: found 'reflecting' with path 'start', expected laws",
    ),
    "predict in steps": (
        lambda s: s.predict(2, num_substeps=3),
        "num_substeps: found 3 with path 'start', expected 0",
    ),
    "strengths": (lambda s: s.strengths(), "strengths: found path 'start'.*expected l"),
    "a table of strengths": (lambda s: s.to_dataframe(strengths=True), "expected laws"),
    "hidden": (lambda s: s.find_hidden(), "path: found 'start', expected laws"),
    "rank without a method": (lambda s: s.rank_pairs(), "method: found none, and a"),
    "rank by no method": (lambda s: s.rank_pairs("granger"), "method: found 'granger'"),
    "rank by a number": (lambda s: s.rank_pairs(3), "method: found 3"),
}
PREDICT = {
    "none": ((0,), {}, "num_steps: found 0, expected at least 1"),
    "negative": ((-3,), {}, "num_steps: found -3"),
    "fraction": ((2.5,), {}, "num_steps: found 2.5, expected a whole number"),
    "text": (("5",), {}, "num_steps: found '5'"),
    "truth": ((True,), {}, "num_steps: found True"),
    "nothing": ((None,), {}, "num_steps: found None"),
    "substeps": ((2,), {"num_substeps": -1}, "num_substeps: found -1"),
    "substeps, fraction": ((2,), {"num_substeps": 0.5}, "num_substeps: found 0.5"),
    "domain, text": ((2,), {"domain": "box"}, "domain: found 'box', expected Domain"),
    "domain, axes": (
        (2,),
        {"domain": Domain(BOX, (-9.0,), (9.0,))},
        "domain: found 1 coordinates, expected 2",
    ),
    "domain, outside": (
        (2,),
        {"domain": Domain(BOX, (50.0, 50.0), (60.0, 60.0))},
        r"sides at 50 and 60 and a body at .* in feature 0 \('x'\), index \[0, 0, 0\]",
    ),
    "domain, periodic": (
        (2,),
        {"domain": Domain("periodic", (0.0, 0.0), (1.0, 1.0))},
        "domain: found .*periodic.* expected the same",
    ),
    "times, past": ((2,), {"times": [0.0, 0.1]}, r"times: found 0.0 after 1.0 at"),
    "times, backwards": (
        (2,),
        {"times": [9.0, 8.0]},
        r"times: found 8.0 after 9.0 at index \[0, 1\]",
    ),
    "times, few": ((2,), {"times": [9.0]}, r"times: found shape \(1,\), expected"),
    "times, NaN": ((2,), {"times": [np.nan, 9.0]}, "times: found nan after 1.0 at"),
    "times, texts": ((2,), {"times": ["a", "b"]}, "times: found dtype <U1"),
    "inputs": ((5,), {"inputs": np.zeros(5)}, "inputs: found some, expected none"),
}
FUTURES = {
    "none": (None, r"inputs: found none, expected the values of \['wind'\] at the 5"),
    "frames": (FUTURE[:, :4], r"inputs: found shape \(6, 4, 3, 1\), expected one that"),
    "axes": (FUTURE.swapaxes(1, 2), r"inputs: found shape \(6, 3, 5, 1\), expected"),
    "NaN": (
        changed((1, 2, 0, 0), np.nan, FUTURE),
        r"found nan at index \[1, 2, 0, 0\]",
    ),
    "infinity": (changed((0, 1, 2, 0), np.inf, FUTURE), r"found inf at index \[0, 1, "),
    "text": ("strong", "inputs: found dtype <U6, expected real numbers"),
}
HIDDEN = {
    "none": ({"num_hidden": 0}, "num_hidden: found 0, expected a number from 1 to 3"),
    "text": ({"num_hidden": "two"}, "num_hidden: found 'two'"),
    "truth": ({"num_hidden": True}, "num_hidden: found True"),
    "fraction": ({"num_hidden": 1.5}, "num_hidden: found 1.5"),
    "many": ({"max_hidden": 9}, "max_hidden: found 9, expected a number from 1 to 3"),
    "most, truth": ({"max_hidden": True}, "max_hidden: found True"),
    "options": ({"config": {"num_fits": 3}}, "config: found {'num_fits': 3}, expected"),
    "walls, axes": (
        {"config": HiddenConfig(domain=Domain(BOX, (-9.0,), (9.0,)))},
        "domain: found 1 coordinates, expected 2",
    ),
    "walls, outside": (
        {"config": HiddenConfig(domain=Domain(BOX, (50.0, 50.0), (60.0, 60.0)))},
        "domain: found sides at 50 and 60 and a body at",
    ),
    "walls, periodic": (
        {"config": HiddenConfig(domain=Domain("periodic", (-9.0, -9.0), (9.0, 9.0)))},
        "domain: found .*periodic.* expected the same",
    ),
    "one body": ({"trajectories": STATES[:, :, :1]}, "found one node in every task"),
    "late": (
        {"trajectories": changed((0, slice(0, 4), 1), np.nan)},
        "frame_mask: found entities that come late",
    ),
    "infinity": (
        {"trajectories": changed((0, 3, 1, 0), np.inf)},
        r"inf at index \[0, 3, 1, 0\]",
    ),
    "three features": ({"trajectories": STATES[..., :3]}, "found 4 names .*expected 3"),
    "interval": (
        {"trajectories": STATES, "frame_interval": 9 * STEP},
        "frame_interval: found 1 with positions that",
    ),
    "times": ({"trajectories": STATES, "times": np.zeros(FRAMES)}, "found 0.0 after 0"),
    "no file": ({"trajectories": "none.csv"}, "none.csv: found no such file"),
    "columns": (
        {"trajectories": table(), "columns": {"time": "t"}},
        "columns: found 't' for the time",
    ),
    "fifteen bodies": (
        {"trajectories": np.tile(STATES, (1, 1, 5, 1)) + np.arange(15.0)[:, None]},
        "found a system of 15 entities, .* expected at most 4,096",
    ),
}
SETS = {
    "none": ({"coverage": 0}, "coverage: found 0"),
    "all": ({"coverage": 1.0}, "coverage: found 1.0"),
    "percent": ({"coverage": 90}, "coverage: found 90"),
    "NaN": ({"coverage": np.nan}, "coverage: found nan"),
    "text": ({"coverage": "0.9"}, "coverage: found '0.9'"),
    "few": ({"num_resampled": 3}, "num_resampled: found 3, expected at least 9"),
    "number, text": ({"num_resampled": "a"}, "num_resampled: found 'a'"),
    "seed": ({"seed": -1}, "seed: found -1, expected 0 to"),
    "seed, text": ({"seed": "a"}, "seed: found 'a', expected a whole number"),
    "seed, huge": ({"seed": 2**32}, "seed: found 4294967296, expected 0 to"),
    "number, fraction": ({"num_resampled": 30.5}, "num_resampled: found 30.5"),
    "no labels": ({"calibration": STATES}, "calibration: found no labels"),
    "few labels": ({"calibration": LABELLED.take([0, 1])}, "calibration: found 2 syst"),
    "other labels": (
        {
            "calibration": dataclasses.replace(
                LABELLED, edges=LABELLED.edges * 3, num_relations=4
            )
        },
        "calibration: found labels of 4 relations, expected at most 2",
    ),
    "of series": ({"calibration": SERIES}, "calibration: found no labels|features: f"),
    "no file": ({"calibration": "no.npz"}, "no.npz: found no such file or folder"),
}
OTHERS = {
    "sets without samples": (
        lambda r: r.unsampled.relation_sets(),
        "inference.num_samples: found 0",
    ),
    "hidden in a wind": (
        lambda r: r.wind.find_hidden(),
        "found inputs .*'wind'",
    ),
    "infer without the wind": (
        lambda r: r.wind.infer(STATES),
        "found 5 names .*'wind'.* expected 4",
    ),
    "save, nothing": (lambda r: r.bodies.save(None), "path: found None, expected"),
    "save, no folder": (
        lambda r: r.bodies.save(r.folder / "a" / "b.npz"),
        "found no folder .*a', expected one that exists",
    ),
    "edges, a folder": (
        lambda r: r.bodies.to_csv(r.folder),
        "found a folder, expected",
    ),
    "edges, nothing": (lambda r: r.bodies.to_csv(None), "path: found None, expected"),
    "edges, no folder": (
        lambda r: r.bodies.to_csv(r.folder / "a" / "b.csv"),
        "found no folder",
    ),
    "strengths, text": (
        lambda r: r.bodies.to_dataframe(strengths="yes"),
        "strengths: found 'yes', expected True or False",
    ),
    "plot none": (lambda r: r.bodies.plot(0), "num_systems: found 0, expected at le"),
    "plot text": (lambda r: r.bodies.plot("a"), "num_systems: found 'a', expected a"),
    "plot no step": (lambda r: r.bodies.plot(num_steps=0), "num_steps: found 0"),
    "plot half a step": (lambda r: r.bodies.plot(1, 1.5), "num_steps: found 1.5"),
    "graphs, names": (
        lambda r: r.bodies.to_networkx(relation_names=["a"]),
        "names: found 1.* expected",
    ),
    "graphs, no relation": (
        lambda r: r.bodies.to_networkx(skip_relation=7),
        "skip_relation: found 7, expected 0 to 1",
    ),
    "graphs, text": (
        lambda r: r.bodies.to_networkx(skip_relation="no"),
        "skip_relation: found 'no', expected a whole number or None",
    ),
    "rank bodies": (lambda r: r.bodies.rank_pairs("correlation"), "found .*expected"),
    "domain, kind": (
        lambda r: Domain("box", (0.0,), (1.0,)),
        "kind: found 'box",
    ),
    "domain, corners": (
        lambda r: Domain(BOX, (1.0, 1.0), (0.0, 0.0)),
        "expected the lower one first",
    ),
    "domain, NaN": (
        lambda r: Domain(BOX, (np.nan, 0.0), (1.0, 1.0)),
        "expected the lower one first",
    ),
    "hidden, fits": (lambda r: HiddenConfig(num_fits=0), "num_fits: found 0, expected"),
    "hidden, steps": (lambda r: HiddenConfig(num_steps="a"), "num_steps: found 'a'"),
    "hidden, domain": (lambda r: HiddenConfig(domain="box"), "domain: found 'box', ex"),
}


def method(name, cases, of="bodies"):
    """Calls of a method with arguments, as calls of the results."""
    return {
        f"{name}, {case}": (
            lambda r, a=args, o=options: getattr(getattr(r, of), name)(*a, **o),
            pattern,
        )
        for case, (args, options, pattern) in cases.items()
    }


def named(name, cases):
    return method(name, {case: ((), *rest) for case, rest in cases.items()})


ALL = {
    **{f"load, {case}": call for case, call in LOAD.items()},
    **method("infer", INFER),
    **{
        f"series, {case}": (lambda r, c=call: c(r.series), pattern)
        for case, (call, pattern) in SERIES_CALLS.items()
    },
    **method("predict", PREDICT),
    **{
        f"inputs, {case}": (lambda r, i=inputs: r.wind.predict(5, inputs=i), pattern)
        for case, (inputs, pattern) in FUTURES.items()
    },
    **named("find_hidden", HIDDEN),
    **named("relation_sets", SETS),
    **OTHERS,
}


def test_the_list_is_long():
    assert len(ALL) >= 150


@pytest.mark.parametrize("name", ALL)
def test_malformed_call_gets_one_sentence(name, results, monkeypatch):
    compiled = []

    def count(event, _, **__):
        compiled.extend([event] * ("backend_compile" in event))

    call, message = ALL[name]
    if name.startswith("load"):
        before = None  # which writes what it then reads
    else:
        before = sorted(results.folder.rglob("*"))
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        with pytest.raises((ValueError, OSError), match=message) as caught:
            call(results)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    said = str(caught.value)
    assert "found" in said and "expected" in said
    assert len(said.splitlines()) == 1 and len(said) < 700
    assert not compiled
    assert before is None or before == sorted(results.folder.rglob("*"))
