"""Commands with inputs that are not what they should be: one sentence, and no file.

The launcher runs in this process. What it answers by itself, and what the data say, are
told apart by the kind of error; a traceback would be any other.
"""

import numpy as np
import pytest

from experiments.relational_inference import trainings
from modmeta.relational import data
from tests.experiments.commands import check_refused, launched

MAIN = "experiments.relational_inference.main"
STATES = np.random.default_rng(0).normal(size=(24, 12, 3, 4)).cumsum(axis=1)
LINE = "system,time,entity,x,y\n"
ROWS = "".join(
    f"{system},{time},{entity},{time * 0.5 + system},{(time - entity) ** 2}\n"
    for system in range(2)
    for time in range(6)
    for entity in range(2)
)


@pytest.fixture(scope="module")
def launcher():
    with launched(MAIN) as program:
        yield program


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of all kinds, most of them broken."""
    root = tmp_path_factory.mktemp("inputs")

    def write(name, content):
        (root / name).write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )

    np.savez(root / "good.npz", states=STATES)
    infinite = STATES.copy()
    infinite[5, 6, 1, 2] = np.inf
    arrays = {
        "inf": {"states": infinite},
        "axes": {"states": STATES[0, 0]},
        "short": {"states": STATES[:, :2]},
        "texts": {"states": STATES.astype(str)},
        "nostates": {"x": STATES},
        "objects": {"states": STATES, "edges": np.array([{}])},
        "labels": {"states": STATES, "edges": np.zeros((2, 3, 3))},
        "negative": {"states": STATES, "edges": np.full((24, 3, 3), -3)},
        "names": {"states": STATES, "feature_names": ["x", "y"]},
        "roles": {"states": STATES, "positions": [7]},
        "interval": {"states": STATES, "frame_interval": -1.0},
        "times": {"states": STATES, "times": np.zeros(12)},
        "mask": {"states": STATES, "node_mask": np.zeros((24, 3), bool)},
        "unit": {"states": STATES, "angles": [0], "angle_unit": "turns"},
        "constant": {"states": np.ones_like(STATES)},
        "unseen": {"states": np.full_like(STATES, np.nan)},
        "graphs": {
            "states": STATES,
            "edges": np.arange(24)[:, None, None] % 2 + np.zeros((24, 3, 3)),
        },
    }
    for name, content in arrays.items():
        np.savez(root / f"{name}.npz", **content)
    write("text.npz", "no archive")
    write("table.doc", LINE + ROWS)
    write("good.csv", LINE + ROWS)
    write("empty.csv", "")
    write("head.csv", LINE)
    write("nohead.csv", ROWS)
    write("noentity.csv", "system,time,x\n0,0,1\n")
    write("notime.csv", "system,entity,x\n0,0,1\n")
    write("nofeature.csv", "system,time,entity\n0,0,1\n")
    write("ragged.csv", LINE + "0,0,0,1\n")
    write("word.csv", LINE + ROWS + "1,9,0,one,2\n")
    write("comma.csv", LINE + '0,0,0,"1,5","2,5"\n')
    write("twice.csv", LINE + ROWS + "0,0,0,1,2\n")
    write("inf.csv", LINE + ROWS + "1,6,0,inf,2\n")
    write("gap.csv", LINE + ROWS + "1,,0,1,2\n")
    write("noid.csv", LINE + ROWS + "1,7,,1,2\n")
    write("short.csv", LINE + "0,0,0,1,2\n0,1,0,1,3\n")
    write("bytes.csv", b"\xff\xfe\x00\x81" * 9)
    write("fake.csv.gz", LINE)
    write("fake.parquet", "PAR1")
    write("nothing.npz", "")
    (root / "none").mkdir()
    for name, suffixes in (("several", ("a", "b")), ("splits", ("train_a", "test_a"))):
        (root / name).mkdir()
        for number, suffix in enumerate(suffixes):
            part = STATES[:, :, : 3 - number].swapaxes(2, 3)
            np.save(root / name / f"loc_{suffix}.npy", part[:, :, :2])
    (root / "bad").mkdir()
    np.save(root / "bad" / "loc_a.npy", STATES[0])
    (root / "model.npz").write_bytes((root / "good.npz").read_bytes())
    data.save_npz(root / "saved.npz", data.simulate_springs(0, 4, num_frames=8))
    return root


DATA = {
    "absent.npz": "FATAL: .*absent.npz: found no such file or folder",
    "absent.csv": "absent.csv: found no such file or folder",
    "inf.npz": r"inf.npz: states: found inf at index \[5, 6, 1, 2\]",
    "axes.npz": "axes.npz: states: found 2 axes with shape",
    "short.npz": "states: found 2 frames",
    "texts.npz": "states: found dtype <U",
    "nostates.npz": r"found the arrays \['x'\], expected 'states'",
    "objects.npz": "an array 'edges' that holds Python objects",
    "labels.npz": r"edges: found shape \(2, 3, 3\)",
    "negative.npz": r"edges: found label -3 at index \[0, 0, 1\]",
    "names.npz": "feature_names: found 2 names",
    "roles.npz": "feature columns: found 7",
    "interval.npz": "frame_interval: found -1.0",
    "times.npz": "times: found 0.0 after 0.0",
    "mask.npz": "node_mask: found no real node in task 0",
    "unit.npz": "angle_unit: found 'turns'",
    "constant.npz": "found the one value 1.0",
    "unseen.npz": "node 0 of task 0 observed at 0 frames",
    "text.npz": "found a file that is no .npz archive",
    "nothing.npz": "found a file that is no .npz archive",
    "table.doc": "found a file of unknown form, expected a .npz",
    "empty.csv": "empty.csv: found an empty file",
    "head.csv": "head.csv: rows: found none",
    "nohead.csv": "found numbers .* in the first line",
    "noentity.csv": "none that names the entity",
    "notime.csv": "none that names the time",
    "nofeature.csv": "none with features",
    "ragged.csv": "found 4 values in line 2, expected 5",
    "word.csv": "column 'x': found 'one' in row 24",
    "comma.csv": "column 'x': found '1,5' in row 0",
    "twice.csv": "rows: found rows 0 and 24 both of entity '0' at time 0",
    "inf.csv": r"states: found inf at index \[1, 6, 0, 0\]",
    "gap.csv": "column 'time': found  in row 24, expected a time",
    "noid.csv": "column 'entity': found no value in row 24",
    "short.csv": "states: found 2 frames",
    "bytes.csv": "found a file that is no table of text",
    "fake.csv.gz": "found a file that is no table of text",
    "fake.parquet": "found a file that is no readable Parquet",
    "none": r"found a folder without loc_<suffix>.npy, expected the files of NRI",
    "several": r"found loc files with the suffixes \['a', 'b'\], expected exactly one",
    "splits": "found 2 nodes with 2 features, expected 3 with 2 as in train_a",
    "bad": "loc_a.npy: found shape",
}
GOOD, CSV = "--data={folder}/good.npz", "--data={folder}/good.csv"
FLAGS = {
    "no config": (["--config=sprigs"], "config.*sprigs"),
    "no flag": (["--dat=a.npz"], "Unknown command line flag 'dat'"),
    "no data": (["--config=general"], "data: found none with --config=general"),
    "a word": (["springs"], "arguments: found springs"),
    "seed": (["--seed=-1"], "seed"),
    "seed, text": (
        ["--seed=one"],
        "seed: found 'one', expected a whole number from 0 to",
    ),
    "steps": (["--num_steps=0"], "num_steps"),
    "restarts": (["--num_restarts=0"], "num_restarts"),
    "relations": (["--num_relations=1"], "num_relations: found '1'"),
    "relations, text": (["--num_relations=many"], "num_relations: found 'many'"),
    "nodes": (["--num_nodes=5,ten"], "num_nodes: found '5,ten'"),
    "nodes, one": (["--num_nodes=1"], r"num_nodes: found \(1,\)"),
    "degree": (["--mean_degree=9"], "mean_degree: found 9.0"),
    "degree, text": (
        ["--mean_degree=few"],
        "^FATAL: mean_degree: found 'few', expected a number from 0.0 on$",
    ),
    "workdir": (["--workdir="], "--workdir=: found nothing, expected a value"),
    "box, no file": (["--box=0:1"], "box: found .* without --data"),
    "box, side": ([CSV, "--box=0:10,5"], "box: found '5', expected lower:upper"),
    "box, order": ([CSV, "--box=0:10,5:0"], "found corners .* the lower one first"),
    "box, axes": ([CSV, "--box=0:50"], "domain: found 1 coordinates with positions"),
    "box, too small": ([CSV, "--box=0:2,open"], "found sides at 0 and 2 and a body at"),
    "box, simulated": (
        ["--set=data.domain.kind=periodic", "--set=data.domain.lower=(0,0)"]
        + ["--set=data.domain.upper=(1,1)"],
        "data.domain: found 'periodic', expected 'periodic' with a file",
    ),
    "box, walls": (
        [CSV, "--set=data.domain.kind=reflecting", "--set=data.domain.lower=(0,0)"]
        + ["--set=data.domain.upper=(9,9)"],
        "data.domain: found 'reflecting', expected .* walls are prediction.domain",
    ),
    "changing": (
        ["--changing", "--set=data.num_observed=12"],
        "changing: found True with 12 frames, expected at least 20",
    ),
    "prior": (["--prior=antisymmetric"], "prior"),
    "system": (["--set=data.system=pendulum"], "system: found 'pendulum', expected"),
    "observation": (["--set=data.observation=sine"], "observation: found 'sine'"),
    "frames": (["--set=data.num_observed=2"], "num_observed: found 2, expected at l"),
    "train": ([GOOD, "--num_train=99"], "num_train: found 99, expected at most the 24"),
    "observed": ([GOOD, "--set=data.num_observed=99"], "num_observed: found 99"),
    "predicted": ([GOOD, "--set=data.num_observed=2"], "num_observed: found 2"),
    "shared": (["--data={folder}/graphs.npz", "--set=data.shared_graph=True"], "share"),
    "set": (["--set=seed"], "--set: found 'seed'"),
    "set, field": (["--set=data.sede=1"], "found no field 'data.sede'"),
    "set, kind": (["--set=data.num_observed=many"], "found 'many' for 'data.num_obs"),
    "columns, none": ([GOOD, "--columns=time=t"], "columns: found .* with arrays"),
    "columns, no file": (["--columns=time=t"], "columns: found .* without --data"),
    "columns, form": ([CSV, "--columns=time"], "columns: found 'time', expected syst"),
    "columns, key": ([CSV, "--columns=node=x"], "columns: found 'node=x', expected"),
    "columns, name": ([CSV, "--columns=time=t"], "columns: found 't' for the time"),
    "features, name": ([CSV, "--features=x,z"], "feature_names: found 'z'"),
    "features, number": ([GOOD, "--features=x"], "feature_names: found 1 names"),
    "positions, name": ([CSV, "--positions=x,z"], "positions: found the name 'z'"),
    "positions, column": ([GOOD, "--positions=0,9"], "feature columns: found 9"),
    "velocities": ([CSV, "--positions=x,y", "--velocities=x,y"], "overlap"),
    "velocities, number": ([GOOD, "--positions=0,1", "--velocities=2"], "2 positions"),
    "interval": ([GOOD, "--frame_interval=-1"], "frame_interval: found -1.0"),
    "interval, zero": ([CSV, "--frame_interval=0"], "frame_interval: found 0.0, expe"),
    "interval, text": (
        [GOOD, "--frame_interval=fast"],
        "^FATAL: frame_interval: found 'fast', expected a number$",
    ),
    "interval, no file": (["--frame_interval=1"], "frame_interval: found 1.0 without"),
    "model, absent": (["--model={folder}/absent.npz"], "absent.npz"),
    "model, none": (["--model={folder}/model.npz"], "expected a modmeta.artifact"),
    "model, data": (["--model={folder}/saved.npz"], "expected a modmeta.artifact"),
    "model, text": (["--model={folder}/text.npz"], "expected a modmeta.artifact"),
    "model, steps": (["--model=a.npz", "--num_steps=9"], "found --num_steps beside it"),
    "model, set": (
        ["--model=a.npz", "--set=modules.num_points=32"],
        "model: found modules.num_points=32 beside it, expected nothing that is tr",
    ),
    "devices": (["--num_devices=99"], "num_devices: found 99"),
    "processes": (["--num_processes=2"], "coordinator: found none"),
    "coordinator": (["--coordinator=localhost:1"], "model: found none"),
}
ALL = {
    **{f"data, {n}": ([f"--data={{folder}}/{n}"], m) for n, m in DATA.items()},
    **{f"flag, {n}": case for n, case in FLAGS.items()},
}


def test_the_list_is_long():
    assert len(ALL) >= 80


@pytest.mark.parametrize("name", ALL)
def test_malformed_command_gets_one_sentence(
    name, launcher, folder, tmp_path, monkeypatch, capsys
):
    def meta_train(*_, **__):
        raise AssertionError("the command should have been refused by now")

    monkeypatch.setattr(trainings, "meta_train", meta_train)
    words, message = ALL[name]
    words = [word.format(folder=folder) for word in words]
    workdir = tmp_path / "run"
    words = [f"--workdir={workdir}", *words]
    check_refused(launcher, words, message, folder, workdir, capsys)
