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
    format_table,
    prepare_workdir,
    stop_on_signal,
    write_summary,
)


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    sizes: tuple[int, ...] = (8, 8)
    temperature: float = float("inf")
    show_progress: bool = False


def test_new_then_interrupted_then_finished(tmp_path):
    workdir = tmp_path / "runs" / "first"
    assert prepare_workdir(workdir, Config()) is WorkdirStatus.NEW
    assert prepare_workdir(workdir, Config()) is WorkdirStatus.INTERRUPTED
    write_summary(workdir, {"accuracy": 0.5})
    assert prepare_workdir(workdir, Config()) is WorkdirStatus.FINISHED
    assert prepare_workdir(workdir, dataclasses.asdict(Config())) is (
        WorkdirStatus.FINISHED
    )


@pytest.mark.parametrize("finished", [False, True])
def test_another_configuration_is_refused(tmp_path, finished):
    prepare_workdir(tmp_path, Config())
    if finished:
        write_summary(tmp_path, {})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    state = "a finished" if finished else "an interrupted"
    with pytest.raises(FileExistsError, match=f"{state} run") as caught:
        prepare_workdir(tmp_path, Config(seed=1))
    assert "seed: 0 there, 1 now" in str(caught.value)
    assert "sizes" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_ignored_fields_do_not_make_another_run(tmp_path):
    prepare_workdir(tmp_path, Config())
    status = prepare_workdir(
        tmp_path, Config(show_progress=True), ignored=["show_progress"]
    )
    assert status is WorkdirStatus.INTERRUPTED


def test_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / ".hidden").touch()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="holds no config.json"):
        prepare_workdir(tmp_path, Config())
    (tmp_path / "thesis.tex").unlink()
    assert prepare_workdir(tmp_path, Config()) is WorkdirStatus.NEW


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
            "show_progress": False,
        },
        "none": None,
    }


def test_failed_summary_does_not_finish_the_run(tmp_path):
    prepare_workdir(tmp_path, Config())
    with pytest.raises(TypeError):
        write_summary(tmp_path, {"model": object()})
    assert prepare_workdir(tmp_path, Config()) is WorkdirStatus.INTERRUPTED


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
