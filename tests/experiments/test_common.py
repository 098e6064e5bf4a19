import dataclasses
import enum
import json
import os
import pathlib
import signal
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import (
    WorkdirStatus,
    as_json,
    claim_workdir,
    discard_claim,
    format_table,
    inspect_workdir,
    read_summary,
    stop_on_signal,
    write_summary,
)


@dataclasses.dataclass(frozen=True)
class Modules:
    edge_sizes: tuple[int, ...] = (64, 64)
    activation: str = "relu"


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    sizes: tuple[int, ...] = (8, 8)
    temperature: float = float("inf")
    modules: Modules = Modules()


def test_new_then_interrupted_then_finished(tmp_path):
    workdir = tmp_path / "runs" / "first"
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="found a file, expected a directory"):
        inspect_workdir(tmp_path / "file", Config())
    assert inspect_workdir(workdir, Config()) is WorkdirStatus.NEW
    assert not workdir.exists()
    claim_workdir(workdir, Config())
    assert inspect_workdir(workdir, Config()) is WorkdirStatus.INTERRUPTED
    write_summary(workdir, {"accuracy": 0.5})
    assert read_summary(workdir) == {"accuracy": 0.5}
    assert inspect_workdir(workdir, Config()) is WorkdirStatus.FINISHED
    assert inspect_workdir(workdir, dataclasses.asdict(Config())) is (
        WorkdirStatus.FINISHED
    )


def tree(workdir):
    return {
        str(path.relative_to(workdir)): path.read_bytes() if path.is_file() else None
        for path in workdir.rglob("*")
    }


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("finished", [False, True])
def test_another_configuration_is_refused(tmp_path, finished):
    claim_workdir(tmp_path, Config())
    write(tmp_path / "checkpoints" / "3" / "default")
    if finished:
        write_summary(tmp_path, {})
    before = tree(tmp_path)
    state = "a finished" if finished else "an interrupted"
    other = Config(seed=1, modules=Modules(edge_sizes=(32,), activation="gelu"))
    with pytest.raises(FileExistsError) as caught:
        inspect_workdir(tmp_path, other)
    assert str(caught.value).splitlines() == [
        f"{tmp_path} holds {state} run of another configuration:",
        "  seed: 0 there, 1 now",
        "  modules.edge_sizes: (64, 64) there, (32,) now",
        "  modules.activation: 'relu' there, 'gelu' now",
        "Choose another directory, or remove this one.",
    ]
    assert before == tree(tmp_path)


def test_fields_that_one_of_them_lacks(tmp_path):
    claim_workdir(tmp_path, {"seed": 0, "modules": {"width": 4}, "options": {}})
    write(tmp_path / "curves" / "5_gibbs.npz")
    with pytest.raises(FileExistsError) as caught:
        inspect_workdir(tmp_path, {"seed": 0, "modules": {}, "options": {"beam": 2}})
    assert str(caught.value).splitlines()[1:-1] == [
        "  modules.width: 4 there, absent now",
        "  options.beam: absent there, 2 now",
    ]


@pytest.mark.parametrize(
    "left, is_work",
    [
        ("metrics.jsonl", False),
        ("models/gmn/metrics.jsonl", False),
        ("tensorboard/events.out.tfevents.1", False),
        ("checkpoints/3.orbax-checkpoint-tmp-7/default/manifest.ocdbt", False),
        (".config.json.x.tmp", False),
        ("checkpoints/3/default/manifest.ocdbt", True),
        ("models/gmn/checkpoints/3/default/manifest.ocdbt", True),
        ("curves/5_gibbs_own_moves.npz", True),
        ("model.npz", True),
        ("notes.txt", True),
        ("mine/zoo.txt", True),
    ],
)
def test_what_counts_as_work(tmp_path, left, is_work):
    """A directory without any is free for another configuration; none is lost."""
    claim_workdir(tmp_path, Config())
    write(tmp_path / left, "left")
    before = tree(tmp_path)
    other = Config(seed=1)
    if is_work:
        with pytest.raises(FileExistsError, match="seed: 0 there, 1 now"):
            inspect_workdir(tmp_path, other)
    else:
        assert inspect_workdir(tmp_path, other) is WorkdirStatus.NEW
    assert before == tree(tmp_path)
    discard_claim(tmp_path)
    if is_work:
        assert before == tree(tmp_path)
    else:
        assert set(tree(tmp_path)) <= {".config.json.x.tmp"}


def test_networks_of_an_abandoned_run_are_kept(tmp_path):
    """A zoo has its own configuration; an empty one is worth nothing."""
    claim_workdir(tmp_path, Config())
    write(tmp_path / "zoo" / "zoo.json")
    write(tmp_path / "zoo" / "sine-000000.npz")
    write(tmp_path / "metrics.jsonl")
    discard_claim(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {
        "config.json",
        "zoo",
        "zoo.json",
        "sine-000000.npz",
    }
    assert inspect_workdir(tmp_path, Config(seed=1)) is WorkdirStatus.NEW
    (tmp_path / "zoo" / "sine-000000.npz").unlink()
    discard_claim(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[1]", '{"architectures": ["other"]}'])
def test_config_of_something_else_is_never_replaced(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FileExistsError):
        inspect_workdir(tmp_path, Config())
    assert (tmp_path / "config.json").read_text() == text


def test_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / ".hidden").touch()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="holds no config.json"):
        inspect_workdir(tmp_path, Config())
    (tmp_path / "thesis.tex").unlink()
    assert inspect_workdir(tmp_path, Config()) is WorkdirStatus.NEW
    # Nothing of others is touched, however the run ends.
    (tmp_path / ".git" / "refs").mkdir(parents=True)
    (tmp_path / ".git" / "metrics.jsonl").touch()
    claim_workdir(tmp_path, Config())
    discard_claim(tmp_path)
    assert set(tree(tmp_path)) == {
        ".hidden",
        ".git",
        ".git/refs",
        ".git/metrics.jsonl",
    }


def test_summary_is_strict_json(tmp_path):
    class Color(enum.Enum):
        RED = "red"

    path = write_summary(
        tmp_path,
        {
            "float32": np.float32(0.5),
            "int64": np.int64(3),
            "flag": np.bool_(True),
            "array": jnp.array([[1.0, jnp.nan]]),
            "nested": {1: (np.inf, -np.inf)},
            "path": pathlib.Path("a") / "b",
            "color": Color.RED,
            "config": Config(),
            "none": None,
        },
    )
    text = path.read_text()
    for constant in ("NaN", "Infinity"):
        assert constant not in text
    assert json.loads(text) == {
        "float32": 0.5,
        "int64": 3,
        "flag": True,
        "array": [[1.0, "nan"]],
        "nested": {"1": ["inf", "-inf"]},
        "path": "a/b",
        "color": "red",
        "config": {
            "seed": 0,
            "sizes": [8, 8],
            "temperature": "inf",
            "modules": {"edge_sizes": [64, 64], "activation": "relu"},
        },
        "none": None,
    }


def test_failed_summary_does_not_finish_the_run(tmp_path):
    claim_workdir(tmp_path, Config())
    with pytest.raises(TypeError):
        write_summary(tmp_path, {"model": object()})
    assert inspect_workdir(tmp_path, Config()) is WorkdirStatus.INTERRUPTED


def test_as_json_rejects_types():
    with pytest.raises(TypeError):
        as_json({"config": Config})


def test_table():
    rows = [
        {"method": "annealing", "error": np.float32(0.123456), "steps": 10},
        {"method": "proposal", "error": None, "note": "x"},
    ]
    assert format_table(rows) == "\n".join(
        [
            "method      error  steps  note",
            "---------  ------  -----  ----",
            "annealing  0.1235     10  -",
            "proposal        -      -  x",
        ]
    )
    assert format_table(rows, ["steps"], float_format=".1f") == (
        "steps\n-----\n   10\n    -"
    )
    assert format_table([], ["a"]) == "a\n-"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_requests_a_stop_and_second_raises(number, capfd):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        with stop_on_signal() as stop:
            assert not stop.requested
            os.kill(os.getpid(), number)
            assert stop.requested
            assert "Stopping after this chunk" in capfd.readouterr().err
            os.kill(os.getpid(), signal.SIGINT)
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


def test_no_handlers_outside_the_main_thread():
    requested = []

    def work():
        with stop_on_signal() as stop:
            requested.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requested == [False]
