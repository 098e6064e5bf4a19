"""Commands on real data and on hidden bodies that are not what they should be.

As in `tests.experiments.test_malformed`: one message, no traceback, no file.
"""

import numpy as np
import pytest

from tests.experiments.commands import check_refused, launched

REAL = "experiments.real_data.main"
HIDDEN = "experiments.hidden.main"
RELATIONS = "experiments.relational_inference.main"
RNG = np.random.default_rng(0)
SERIES = RNG.normal(size=(3, 5, 40))  # [subjects, nodes, time]
CHAIN = np.eye(5, k=-1)
LINE = "system,time,entity,v\n"
ROWS = "".join(
    f"{system},{time},{node},{value}\n"
    for (system, node, time), value in np.ndenumerate(SERIES)
)
MATRIX = "\n".join(",".join(str(int(entry)) for entry in row) for row in CHAIN)


def changed(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of all kinds, most of them broken."""
    root = tmp_path_factory.mktemp("inputs")
    pairs = {
        "good": (SERIES, CHAIN),
        "swapped": (SERIES.swapaxes(1, 2), CHAIN),
        "four": (SERIES, np.eye(4)),
        "unknown": (SERIES, changed(CHAIN, (1, 0), np.nan)),
        "words": (SERIES, CHAIN.astype(str)),
        "three": (SERIES, np.stack([CHAIN] * 3)),
        "texts": (SERIES.astype(str), CHAIN),
        "complex": (SERIES.astype(complex), CHAIN),
        "inf": (changed(SERIES, (1, 2, 3), np.inf), CHAIN),
        "unseen": (changed(SERIES, (1, 2), np.nan), CHAIN),
        "constant": (np.ones_like(SERIES), CHAIN),
        "short": (SERIES[..., :2], CHAIN),
        "matrix": (SERIES[0], CHAIN),
        "nobody": (SERIES[:0], CHAIN),
        "lonely": (SERIES[:, :1], CHAIN[:1, :1]),
        "objects": (np.array([{}]), CHAIN),
    }
    for name, (series, adjacency) in pairs.items():
        np.savez(root / f"{name}.npz", timeseries=series, adjacency=adjacency)
    np.savez(root / "unlabelled.npz", timeseries=SERIES)
    genes = RNG.normal(size=(4, 21, 10))
    sizes = {"genes": genes, "flat": genes[0], "nine": genes[..., :9]}
    for name, array in sizes.items():
        links = np.eye(array.shape[-1], k=1)
        arrays = {"size10_a_timeseries": array, "size10_a_adjacency": links}
        np.savez(root / f"{name}.npz", **arrays)
    np.savez(root / "nolinks.npz", size10_a_timeseries=genes)
    (root / "cut.npz").write_bytes((root / "good.npz").read_bytes()[:500])
    (root / "folder").mkdir()
    texts = {
        "text.npz": "no archive",
        "empty.npz": "",
        "a_file": "x",
        "good.csv": LINE + ROWS,
        "empty.csv": "",
        "head.csv": LINE,
        "two.csv": "system,time,entity,v,u\n" + ROWS.replace("\n", ",1.5\n"),
        "word.csv": LINE + ROWS + "1,41,0,one\n",
        "twice.csv": LINE + ROWS + ROWS.split("\n")[0] + "7\n",
        "ragged.csv": LINE + ROWS + "1,2\n",
        "inf.csv": LINE + ROWS + "1,40,0,inf\n",
        "notime.csv": "system,entity,v\n0,0,1\n",
        "links.csv": MATRIX,
        "links4.csv": "0,1\n1,0\n",
        "links_words.csv": "a,b\nc,d\n",
        "links_head.csv": "a,b,c,d,e\n" + MATRIX,
        "links_ragged.csv": "0,1\n1\n",
        "links_empty.csv": "",
        "links_nan.csv": MATRIX.replace("1", "nan", 1),
        "links_inf.csv": MATRIX.replace("1", "inf", 1),
        "links_semicolons.csv": MATRIX.replace(",", ";"),
    }
    for name, text in texts.items():
        (root / name).write_text(text)
    return root


NETSIM = {
    "absent.npz": "absent.npz: found no such file, expected one",
    "folder": "folder: found a folder, expected a file",
    "text.npz": "found no .npz of arrays",
    "empty.npz": "found no .npz of arrays",
    "cut.npz": "found no .npz of arrays",
    "good.csv": "found no .npz of arrays",
    "genes.npz": r"found the arrays .*, expected timeseries \[subjects, nodes, time\]",
    "unlabelled.npz": r"expected adjacency \[receiver, sender\]",
    "swapped.npz": r"found an adjacency of shape \[5, 5\], expected \[40, 40\]",
    "four.npz": r"found an adjacency of shape \[4, 4\], expected \[5, 5\]",
    "unknown.npz": r"found the label nan at index \[1, 0\], expected finite",
    "words.npz": "found adjacency of dtype <U",
    "three.npz": r"found adjacency of shape \[3, 5, 5\], expected \[receiver, sender\]",
    "texts.npz": "found timeseries of dtype <U",
    "complex.npz": "found timeseries of dtype complex128",
    "inf.npz": r"states: found inf at index \[1, 3, 2, 0\]",
    "unseen.npz": "node 2 of task 1 observed at 0 frames",
    "constant.npz": "found the one value 1.0",
    "short.npz": "found 2 frames",
    "matrix.npz": r"found timeseries of shape \[5, 40\]",
    "nobody.npz": "found no task",
    "lonely.npz": "found one node in every task",
    "objects.npz": "found no .npz of arrays",
}
DREAM3 = {
    "good.npz": r"found no network of \(10, 100\) genes",
    "nolinks.npz": r"expected size10_a_adjacency \[target, source\]",
    "flat.npz": r"found size10_a_timeseries of shape \[21, 10\]",
    "nine.npz": "found size10_a_timeseries with 9 genes, expected as many as its name",
    "text.npz": "found no .npz of arrays",
}
CSV = {
    "absent.csv": "absent.csv: found no such file or folder",
    "empty.csv": "found an empty file",
    "head.csv": "rows: found none",
    "word.csv": "column 'v': found 'one' in row 600",
    "twice.csv": "rows: found rows 0 and 600 both of entity '0' at time 0",
    "ragged.csv": "found 2 values in line 602, expected 4",
    "inf.csv": r"states: found inf at index \[1, 40, 0, 0\]",
    "notime.csv": "none that names the time",
    "a_file": "found a file of unknown form",
    "folder": "found a folder without",
}
LABELS = {
    "absent.csv": "absent.csv: found no such file",
    "folder": "folder: found a folder, expected a file",
    "links4.csv": r"edges: found shape \(2, 2\)",
    "links_words.csv": "expected numbers between commas",
    "links_head.csv": "expected numbers between commas",
    "links_ragged.csv": "expected numbers between commas",
    "links_empty.csv": "found an empty file, expected a matrix",
    "links_nan.csv": r"found the label nan at index \[1, 0\]",
    "links_inf.csv": r"found the label inf at index \[1, 0\]",
    "links_semicolons.csv": "expected numbers between commas",
    "good.npz": "expected numbers between commas",
}
GOOD = "--data={folder}/good.npz"
REAL_FLAGS = {
    "no data": ([], "data: found no file, expected --data=FILE for --config=netsim"),
    "no data, csv": (["--config=csv"], "expected --data=FILE for --config=csv"),
    "no preset": (
        ["--config=netsin"],
        "config: found 'netsin', expected one of netsim, ",
    ),
    "empty data": (["--data="], "--data=: found nothing, expected a value"),
    "empty labels": ([GOOD, "--labels="], "--labels=: found nothing"),
    "labels of netsim": (
        [GOOD, "--labels={folder}/links.csv"],
        "labels: found '",
    ),
    "a word": ([GOOD, "netsim"], "arguments: found netsim"),
    "no flag": ([GOOD, "--steps=3"], "Unknown command line flag 'steps'"),
    "no sizes": (
        ["--config=dream3", "--data={folder}/genes.npz", "--set=sizes=(7,)"],
        r"found no network of \(7,\) genes",
    ),
    "sizes, text": (
        ["--config=dream3", "--data={folder}/genes.npz", "--set=sizes=ten"],
        "found 'ten' for 'sizes'",
    ),
    "steps, none": (
        [GOOD, "--num_steps=0"],
        "num_steps: found '0', expected a whole number from 1 on",
    ),
    "steps, text": (
        [GOOD, "--num_steps=many"],
        "num_steps: found 'many', expected a whole number from",
    ),
    "seed, negative": (
        [GOOD, "--seed=-1"],
        "seed: found '-1', expected a whole number from 0 to 4294967295",
    ),
    "seed, huge": (
        [GOOD, "--seed=5000000000"],
        "seed: found '5000000000', expected .* to 4294967295",
    ),
    "seed, set": ([GOOD, "--set=seed=-4"], "seed: found -4, expected 0 to"),
    "nodes": ([GOOD, "--set=max_nodes=-1"], "max_nodes: found -1"),
    "nodes, text": ([GOOD, "--set=max_nodes=all"], "found 'all' for 'max_nodes'"),
    "lags": ([GOOD, "--set=lags=-1"], "lags: found -1"),
    "lags, many": ([GOOD, "--set=lags=99"], "lags: found 99"),
    "systems": ([GOOD, "--set=max_systems=-2"], "max_systems: found -2"),
    "restarts": ([GOOD, "--set=num_restarts=0"], "num_restarts: found 0"),
    "nothing": ([GOOD, "--set=nothing=1"], "found no field 'nothing'"),
    "no value": ([GOOD, "--set=seed"], "--set: found 'seed'"),
    "relations": ([GOOD, "--set=modules.num_relations=0"], "num_relations: found 0"),
    "law": ([GOOD, "--set=modules.law=straight"], "law: found 'straight'"),
    "layers": ([GOOD, "--set=modules.edge_sizes=(0,)"], r"edge_sizes: found \(0,\)"),
    "rate": ([GOOD, "--set=bouncegrad.learning_rate=-1"], "learning_rate: found -1"),
    "clip": ([GOOD, "--set=bouncegrad.clip_norm=0"], "clip_norm: found 0"),
    "evaluations": ([GOOD, "--set=training.num_evaluations=0"], "num_evaluations"),
    "search": (
        [GOOD, "--set=inference.algorithm=magic"],
        "found 'magic', expected",
    ),
    "smoke": (
        [GOOD, "--smoke=perhaps"],
        "smoke: found 'perhaps', expected true or false",
    ),
    "series": (
        ["--config=csv", "--data={folder}/two.csv", "--set=series=w"],
        r"series: found 'w', expected one of \['v', 'u'\]",
    ),
}
HIDDEN_FLAGS = {
    "preset": (
        ["--config=general"],
        "config: found 'general', expected one of springs, ",
    ),
    "hidden, empty": (
        ["--hidden="],
        "hidden: found",
    ),
    "hidden, text": (["--hidden=one"], "hidden: found 'one', expected whole numbers"),
    "hidden, negative": (["--hidden=-1"], r"hidden: found \(-1,\), expected different"),
    "hidden, half": (["--hidden=1.5"], "hidden: found '1.5'"),
    "hidden, twice": (["--hidden=0,0"], r"hidden: found \(0, 0\), expected different"),
    "hidden, many": (["--hidden=9"], r"hidden: found \(9,\).* max_hidden, 2"),
    "tests": (
        ["--num_test=0"],
        "num_test: found '0', expected a whole number from 1 on",
    ),
    "tests, set": (["--set=num_test=-4"], "num_test: found -4, expected at least 1"),
    "model, empty": (["--model="], "--model=: found nothing"),
    "model, absent": (["--model=none.npz"], "none.npz: found no such file, expected"),
    "model, text": (["--model={folder}/text.npz"], "expected a modmeta.artifact"),
    "model, data": (["--model={folder}/good.npz"], "expected a modmeta.artifact"),
    "model, folder": (["--model={folder}/folder"], "found a folder, expected a file"),
    "data": (["--data=x"], "Unknown command line flag 'data'"),
    "one visible": (["--set=num_visible=1"], "num_visible: found 1, expected at least"),
    "many visible": (["--set=num_visible=40"], "found 40, .* expected at most 4,096"),
    "no training": (["--set=num_train=0"], "num_train: found 0, expected at least 1"),
    "most, none": (["--set=max_hidden=0"], "max_hidden: found 0, expected 1 to 3"),
    "most, many": (["--set=max_hidden=7"], "max_hidden: found 7, expected 1 to 3"),
    "most, text": (["--set=max_hidden=x"], "found 'x' for 'max_hidden'"),
    "system": (["--set=system=moons"], "system: found 'moons', expected one of"),
    "fits": (["--set=search.num_fits=0"], "num_fits: found 0"),
    "walls": (["--set=search.domain.kind=box"], "domain.kind: found 'box'"),
    "corners": (["--set=search.domain.lower=5"], "found 5 for 'search.domain.lower'"),
    "mutual": (["--set=search.symmetric=maybe"], "found 'maybe' for 'search.symm"),
    "no laws": (
        ["--set=modules.path=start"],
        "path: found 'start'",
    ),
    "batch": (["--set=bouncegrad.batch_size=0"], "batch_size: found 0"),
    "patience": (["--set=training.patience=-1"], "training: found .*patience=-1"),
}
RELATION_FLAGS = {
    "data, empty": (["--data="], "--data=: found nothing, expected a value"),
    "model, empty": (["--model="], "--model=: found nothing"),
    "system": (["--set=data.system=moons"], "system: found 'moons', expected one of"),
    "observation": (["--set=data.observation=all"], "observation: found 'all', expect"),
    "noise": (["--set=data.observation_noise=-1"], "observation_noise: found -1"),
    "noise, NaN": (["--set=data.observation_noise=nan"], "found 'nan' for|found nan"),
    "observed": (["--set=data.num_observed=1"], "num_observed: found 1, expected at"),
    "predicted": (["--set=data.num_predicted=-1"], "num_predicted: found -1"),
    "rate": (["--set=bouncegrad.learning_rate=-1"], "learning_rate: found -1"),
    "layers": (["--set=modules.edge_sizes=(0,)"], r"edge_sizes: found \(0,\)"),
    "radius": (["--set=candidates.radius=-1"], "radius: found -1"),
    "walls": (["--set=prediction.domain.kind=box"], "domain.kind: found 'box'"),
}
ALL = {
    **{
        f"{name}, {file}": (REAL, [*words, f"{flag}={{folder}}/{file}"], message)
        for name, words, flag, cases in (
            ("netsim", [], "--data", NETSIM),
            ("dream3", ["--config=dream3"], "--data", DREAM3),
            ("csv", ["--config=csv"], "--data", CSV),
            (
                "labels",
                ["--config=csv", "--data={folder}/good.csv"],
                "--labels",
                LABELS,
            ),
        )
        for file, message in cases.items()
    },
    **{
        f"{main.split('.')[1]}, {name}": (main, words, message)
        for main, cases in (
            (REAL, REAL_FLAGS),
            (HIDDEN, HIDDEN_FLAGS),
            (RELATIONS, RELATION_FLAGS),
        )
        for name, (words, message) in cases.items()
    },
    **{
        f"{main.split('.')[1]}, workdir {place}": (
            main,
            [*([GOOD] if main == REAL else []), f"--workdir={place}"],
            message,
        )
        for main in (REAL, HIDDEN, RELATIONS)
        for place, message in {
            "": "--workdir=: found nothing, expected a value",
            "{folder}": "not empty and holds no config.json, expected a new one",
            "{folder}/a_file": "found a file, expected a directory",
            "{folder}/a_file/run": "found that nothing can be written to .*a_file",
        }.items()
    },
}


def test_the_list_is_long():
    assert len(ALL) >= 120


def forbid(monkeypatch):
    """Whatever would compile or train."""

    def no(*_, **__):
        raise AssertionError("the command should have been refused by now")

    from experiments.hidden import compute as hidden
    from experiments.real_data import compute as real_data
    from experiments.relational_inference import datasets

    monkeypatch.setattr(real_data, "infer_relations", no)
    monkeypatch.setattr(real_data, "rank_pairs", no)
    for module, name in ((hidden, "_SIMULATORS"), (datasets, "SIMULATORS")):
        kinds = dict.fromkeys(getattr(module, name), no)
        monkeypatch.setattr(module, name, kinds)


@pytest.mark.parametrize("name", ALL)
def test_malformed_command_gets_one_message(
    name, folder, tmp_path, monkeypatch, capsys
):
    main, words, message = ALL[name]
    words = [word.format(folder=folder) for word in words]
    workdir = tmp_path / "run"
    if not any(word.startswith("--workdir") for word in words):
        words = [f"--workdir={workdir}", *words]
    forbid(monkeypatch)
    with launched(main) as program:
        check_refused(program, words, message, folder, workdir, capsys)
