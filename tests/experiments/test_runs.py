"""How a run goes from new to finished, with an experiment that does nothing else.

Where runs are refused, stopped or killed, and what the next command finds.
"""

import dataclasses
import functools
import os
import re
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import pytest

from experiments import common
from modmeta.runtime import training_loop
from modmeta.runtime.metrics import read_metrics


@dataclasses.dataclass(frozen=True)
class Config:
    num_steps: int = 4
    fails: str = ""
    seed: int = 0


def fail(config, place):
    """What a place of a run does if the configuration says so."""
    if config.fails == f"data {place}":
        raise LookupError(place)
    if config.fails == f"memory {place}":
        raise MemoryError(place)
    if config.fails == f"killed {place}":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.fails == f"stopped {place}":
        os.kill(os.getpid(), signal.SIGTERM)


def compute(config, run, *, bonus=0):
    """Counts, in steps that are saved two by two."""
    fail(config, "before")
    run.claim()
    fail(config, "at claim")

    def take_steps(state, step, count):
        fail(config, f"in step {step}")
        return state + count, {"loss": jnp.float32(step)}

    with run.loop("counts") as arguments:
        fail(config, "in loop")
        outcome = training_loop.train(
            jnp.int32(config.seed),
            take_steps,
            lambda state, step, metrics: (state, {}, False),
            num_steps=config.num_steps,
            num_evaluations=config.num_steps // 2,
            **arguments,
        )
    if not outcome.is_finished:
        return None
    fail(config, "at the end")
    return {"count": outcome.state.run + bonus, "steps": len(run.records("counts"))}


EXPERIMENT = common.Experiment(
    presets={"default": Config},
    smoke=lambda config: common.override(config, {"num_steps": 2}),
    compute=compute,
    format_summary=lambda summary: f"count {summary['count']}",
    files="Nothing",
    refusals=(LookupError,),
)


def run(config, workdir, **options):
    return common.run(EXPERIMENT, config, workdir, **options)


def names(workdir):
    return {path.name for path in workdir.iterdir()}


def test_new_then_finished(tmp_path):
    summary = run(Config(seed=3), tmp_path / "run", bonus=5)
    assert summary["count"] == 12 and summary["steps"] == 2 and summary["seed"] == 3
    assert summary["config"] == Config(seed=3) and summary["total_seconds"] > 0
    assert names(tmp_path / "run") == {"config.json", "summary.json", "counts"}
    assert names(tmp_path / "run" / "counts") == {"checkpoints", "metrics.jsonl"}
    again = run(Config(seed=3), tmp_path / "run")
    assert again == common.as_json(summary)


BEFORE_WORK = ("before", "at claim", "in loop", "in step 0")


@pytest.mark.parametrize(
    "kind, error", [("data", LookupError), ("memory", MemoryError)]
)
@pytest.mark.parametrize("place", BEFORE_WORK)
def test_refused_before_the_first_checkpoint(tmp_path, kind, error, place):
    """Nothing is left, and the corrected command takes the same place."""
    with pytest.raises(error, match=place):
        run(Config(fails=f"{kind} {place}"), tmp_path / "a" / "run")
    assert not (tmp_path / "a" / "run").exists()
    # A directory of the user's own stays, with what is in it.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".gitignore").touch()
    with pytest.raises(error, match=place):
        run(Config(fails=f"{kind} {place}"), tmp_path / "mine")
    assert names(tmp_path / "mine") == {".gitignore"}
    assert run(Config(), tmp_path / "mine")["count"] == 4


@pytest.mark.parametrize("place", ["in step 2", "at the end"])
def test_refused_with_a_checkpoint(tmp_path, place):
    config = Config(fails=f"memory {place}")
    with pytest.raises(MemoryError):
        run(config, tmp_path)
    assert (tmp_path / "config.json").exists()
    with pytest.raises(FileExistsError) as caught:
        run(Config(num_steps=6), tmp_path)
    assert str(caught.value).splitlines() == [
        f"{tmp_path} holds an interrupted run of another configuration:",
        "  num_steps: 4 there, 6 now",
        f"  fails: 'memory {place}' there, '' now",
        "Choose another directory, or remove this one.",
    ]
    assert "checkpoints" in names(tmp_path / "counts")


def launch(tmp_path, *flags):
    """Runs this module's experiment as its launcher would."""
    script = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from absl import app
from experiments import launcher
FLAGS = launcher.define_flags({{"default": "four steps"}}, "seed=1", "test_runs.py")

def main(argv):
    launcher.check_arguments(argv)
    from test_runs import EXPERIMENT
    launcher.run(EXPERIMENT, launcher.configure(EXPERIMENT, FLAGS, {{}}), FLAGS)

app.run(main)
"""
    return subprocess.run(
        [sys.executable, "-c", script, f"--workdir={tmp_path / 'run'}", *flags],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("place", ["at claim", "in step 0"])
def test_killed_before_the_first_checkpoint(tmp_path, place):
    config = Config(fails=f"killed {place}")
    if place == "at claim":  # all that is there then
        common.claim_workdir(tmp_path / "run", config)
    else:
        process = launch(tmp_path, f"--set=fails=killed {place}")
        assert process.returncode == -signal.SIGKILL, process.stderr
    assert (tmp_path / "run" / "config.json").exists()
    assert run(Config(num_steps=6), tmp_path / "run")["count"] == 6
    log = read_metrics(tmp_path / "run" / "counts" / "metrics.jsonl")
    assert [record["step"] for record in log] == [2, 4, 6]


def test_one_run_at_a_time(tmp_path):
    """A directory is let go when a run ends, and nothing of the other one is lost."""
    workdir = tmp_path / "run"

    def twice(config, run):
        run.claim()
        for num_steps in (config.num_steps, 2):
            with pytest.raises(FileExistsError, match="found another run at work"):
                common.run(EXPERIMENT, Config(num_steps=num_steps), workdir)
        return {"files": sorted(names(workdir))}

    experiment = dataclasses.replace(EXPERIMENT, compute=twice)
    summary = common.run(experiment, Config(), workdir)
    assert summary["files"] == [common.CONFIG_FILE]
    assert common.run(experiment, Config(), workdir)["files"] == summary["files"]


def test_launcher(tmp_path):
    """Exit status and last words: refused, stopped, resumed, finished."""
    stopped = launch(tmp_path, "--set=fails=stopped in step 2", "--set=num_steps=8")
    assert stopped.returncode == 0, stopped.stderr
    assert "Stopping after this chunk" in stopped.stderr
    assert stopped.stdout.strip() == "Stopped. The same command goes on from here."
    refused = launch(tmp_path, "--smoke", "--seed=2")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert refused.stderr.splitlines()[-5:] == [
        f"FATAL: {tmp_path / 'run'} holds an interrupted run of another configuration:",
        "  num_steps: 8 there, 2 now",
        "  fails: 'stopped in step 2' there, '' now",
        "  seed: 0 there, 2 now",
        "Choose another directory, or remove this one.",
    ]
    config = Config(fails="stopped in step 2", num_steps=8)
    assert run(config, tmp_path / "run")["count"] == 8
    finished = launch(tmp_path, "--set=fails=stopped in step 2", "--set=num_steps=8")
    assert finished.stdout.splitlines() == [
        "count 8",
        "",
        f"Nothing and summary.json are in {tmp_path / 'run'}.",
        "That run had finished before: nothing was read or computed again. Another "
        "--workdir, or this one removed, makes a new run.",
    ]


EXPERIMENTS = (
    "relational_inference",
    "search_scaling",
    "metanet_sine",
    "metanet_accuracy",
    "metanet_modules",
    "metanet_editing",
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_and_wrong_flags_wait_for_nothing(name):
    """Neither JAX nor the library is imported; each flag is explained."""
    script = f"""
import runpy, sys
try:
    runpy.run_module("experiments.{name}.main", run_name="__main__")
finally:
    slow = [m for m in ("jax", "numpy", "flax", "modmeta") if m in sys.modules]
    print("imported", slow, file=sys.stderr)
"""
    wrong = {
        "relational_inference": ["--workdir=x", "--no_such_flag=1"],
        "search_scaling": ["--workdir=x", "--config=no_such_preset"],
        "metanet_sine": ["--workdir=x", "--seed=-1"],
        "metanet_accuracy": [],
        "metanet_modules": ["--workdir=x", "--num_train=0"],
        "metanet_editing": ["--workdir=x", "--edit=blur"],
    }
    for flags in (["--help"], wrong[name]):
        started = time.perf_counter()
        process = subprocess.run(
            [sys.executable, "-c", script, *flags],
            capture_output=True,
            text=True,
            timeout=100,
        )
        seconds = time.perf_counter() - started
        assert process.returncode == 1
        assert "imported []" in process.stderr
        # A quarter of a second; other work may run beside.
        assert seconds < 10.0
        if flags == ["--help"]:
            explained = re.split(r"\n  --", process.stdout)[1:]
            for text in explained:
                text = " ".join(text.split())
                assert re.search(r"default: |Default: |Required", text), text


def test_presets_of_launchers_are_those_of_experiments():
    """All in one process, each without the flags of the others."""
    script = f"""
import importlib
from absl import flags
for name in {EXPERIMENTS}:
    before = set(flags.FLAGS)
    importlib.import_module(f"experiments.{{name}}.main")
    part = "run" if name == "search_scaling" else "train"
    module = importlib.import_module(f"experiments.{{name}}.{{part}}")
    flags.FLAGS(["x", "--workdir=x"])
    assert flags.FLAGS["config"].parser.enum_values == list(module.EXPERIMENT.presets)
    assert flags.FLAGS.config == next(iter(module.EXPERIMENT.presets))
    for flag in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, flag)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)


class Shown:
    """A progress meter that notes what it is told."""

    def __init__(self):
        self.seen = []

    def start(self, total, *, initial=0, description=""):
        self.seen.append((description, initial, total))

    def update(self, step, metrics=None):
        self.seen.append(step)

    def close(self):
        self.seen.append("end")


def test_parts_are_computed_once_and_shown(tmp_path):
    computed, progress = [], Shown()

    def square(number):
        computed.append(number)
        if computed == [1, 2]:
            os.kill(os.getpid(), signal.SIGTERM)
        return number**2

    def compute_parts(config, run):
        parts = {f"squares/{n}": functools.partial(square, n) for n in (1, 2, 3)}
        found = run.each_once(parts, "squares")
        return None if found is None else {"found": found}

    experiment = dataclasses.replace(EXPERIMENT, compute=compute_parts)
    assert common.run(experiment, Config(), tmp_path, progress=progress) is None
    assert names(tmp_path / "squares") == {"1.json", "2.json"}
    assert progress.seen == [("squares", 0, 3), 1, 2, "end"]
    # The first is computed again where it is lost, and the others are not.
    (tmp_path / "squares" / "1.json").unlink()
    progress.seen.clear()
    summary = common.run(experiment, Config(), tmp_path, progress=progress)
    assert summary["found"] == [1, 4, 9] and computed == [1, 2, 1, 3]
    assert progress.seen == [("squares", 1, 3), 2, 2, 3, "end"]
