"""The experiment of the guide: its files, written out and run as a user would."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from experiments import common
from modmeta.runtime.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending" / "experiment.md"


def files():
    """Text of every file of the page, by its path."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.S | re.M)
    named = dict(block.split("\n", 1) for block in blocks)
    return {name.removeprefix("# "): text for name, text in named.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the package that the page describes."""
    folder = tmp_path_factory.mktemp("guide")
    (folder / "noise_levels").mkdir()
    (folder / "noise_levels" / "__init__.py").touch()
    for name, text in files().items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def experiment(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        from noise_levels.compute import EXPERIMENT

        yield EXPERIMENT
    for name in [name for name in sys.modules if name.startswith("noise_levels")]:
        del sys.modules[name]


class StopAtFirstChunk:
    """A progress meter that asks the run to stop as Ctrl-C does."""

    def start(self, total, *, initial=0, description=""):
        pass

    def update(self, step, metrics=None):
        os.kill(os.getpid(), signal.SIGINT)

    def close(self):
        pass


def launch(folder, *flags):
    return subprocess.run(
        [sys.executable, "-m", "noise_levels.main", *flags],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])},
    )


def test_an_experiment_is_a_page():
    lines = [line for text in files().values() for line in text.splitlines()]
    assert len(lines) < 250
    assert max(map(len, lines)) <= 88


def test_new_then_stopped_then_finished(experiment, folder, tmp_path):
    config = common.configure(experiment, "springs", smoke=True)
    whole = common.run(experiment, config, tmp_path / "whole")
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {
        "config.json",
        "summary.json",
        "metrics.jsonl",
        "checkpoints",
        "accuracy.png",
    }
    assert set(whole["edge_accuracy"]) == {"0.0", "0.1"}
    assert all(0.5 <= value <= 1.0 for value in whole["edge_accuracy"].values())

    workdir = tmp_path / "stopped"
    stopped = common.run(experiment, config, workdir, progress=StopAtFirstChunk())
    assert stopped is None and not (workdir / "summary.json").exists()
    resumed = common.run(experiment, config, workdir)
    assert resumed["edge_accuracy"] == whole["edge_accuracy"]
    places = (workdir, tmp_path / "whole")
    logs = [read_metrics(path / "metrics.jsonl") for path in places]
    for record in (*logs[0], *logs[1]):
        record.pop("seconds")
    assert logs[0] == logs[1] and len(logs[0]) == 2
    assert common.run(experiment, config, workdir) == common.as_json(resumed)

    flags = ("--smoke", f"--workdir={workdir}")
    finished = launch(folder, *flags)
    assert finished.returncode == 0, finished.stderr[-2000:]
    rows = [line.split() for line in finished.stdout.splitlines()]
    for level, accuracy in whole["edge_accuracy"].items():
        assert [level, f"{accuracy:.4f}"] in rows
    other = common.override(config, {"inference.algorithm": "gibbs"})
    with pytest.raises(FileExistsError) as caught:
        common.run(experiment, other, workdir)
    assert str(caught.value).splitlines() == [
        f"{workdir} holds a finished run of another configuration:",
        "  inference.algorithm: 'simulated_annealing' there, 'gibbs' now",
        "Choose another directory, or remove this one.",
    ]


def test_options_of_the_search_are_checked(experiment):
    with pytest.raises(ValueError, match=r"options: found \['beam_size'\] for"):
        common.configure(
            experiment, "springs", assignments=["inference.options.beam_size=4"]
        )


def test_wrong_value_on_the_command_line(folder, tmp_path):
    process = launch(folder, f"--workdir={tmp_path / 'run'}", "--set=noise_levels=()")
    assert process.returncode == 1 and "Traceback" not in process.stderr
    message = "noise_levels: found (), expected numbers from 0"
    assert message in " ".join((process.stdout + process.stderr).split())
    assert not (tmp_path / "run").exists()


def test_help_and_unknown_flags(folder):
    process = launch(folder, "--num_step=3")
    assert process.returncode == 1
    assert "Unknown command line flag 'num_step'" in process.stderr
    process = launch(folder, "--help")
    for text in ("--workdir", "--num_steps", "five bodies", "algorithm=gibbs"):
        assert text in process.stdout
