import io

import jax.numpy as jnp
import pytest

from modmeta.runtime.progress import NoProgress, TqdmProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def run(meter, clock=None, *, initial=0, total=100, chunk=10, seconds=5.0):
    meter.start(total, initial=initial, description="train")
    for step in range(initial + chunk, total + 1, chunk):
        if clock is not None:
            clock.now += seconds
        meter.update(step, {"loss": jnp.float32(0.5), "other": 1})
    meter.close()


def test_no_progress_shows_nothing(capsys):
    run(NoProgress())
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_lines_without_a_terminal():
    stream, clock = io.StringIO(), Clock()
    meter = TqdmProgress(["loss"], interval_seconds=20.0, stream=stream, clock=clock)
    run(meter, clock)
    assert stream.getvalue().splitlines() == [
        "train: 40/100 steps (40%), 2 steps/s, 00:20 elapsed, 00:30 left, loss=0.5",
        "train: 80/100 steps (80%), 2 steps/s, 00:40 elapsed, 00:10 left, loss=0.5",
        "train: 100/100 steps (100%), 2 steps/s, 00:50 elapsed, 00:00 left, loss=0.5",
    ]


def test_rate_of_a_resumed_run_counts_only_its_own_steps():
    stream, clock = io.StringIO(), Clock()
    meter = TqdmProgress([], interval_seconds=1e9, stream=stream, clock=clock)
    run(meter, clock, initial=80)
    assert stream.getvalue() == (
        "train: 100/100 steps (100%), 2 steps/s, 00:10 elapsed, 00:00 left\n"
    )


def test_interrupted_loop_shows_where_it_stopped():
    stream, clock = io.StringIO(), Clock()
    meter = TqdmProgress(stream=stream, clock=clock)
    meter.start(100)
    clock.now += 1.0
    meter.update(7)
    meter.close()
    meter.close()
    assert stream.getvalue().startswith("7/100 steps (7%)")
    assert stream.getvalue().count("\n") == 1


def test_empty_loop_shows_nothing():
    stream = io.StringIO()
    meter = TqdmProgress(stream=stream)
    meter.start(0)
    meter.close()
    assert stream.getvalue() == ""


def test_bar_on_a_terminal():
    stream = Terminal()
    run(TqdmProgress(["loss", "absent"], stream=stream))
    last = stream.getvalue().split("\r")[-1]
    assert last.startswith("train: 100%")
    assert "100/100" in last
    assert "loss=0.5" in last
    assert "other" not in last


def test_bar_starts_where_a_resumed_run_does():
    stream = Terminal()
    meter = TqdmProgress(stream=stream)
    meter.start(100, initial=40)
    assert "40/100" in stream.getvalue()
    meter.close()


def test_default_stream_is_standard_error(capsys):
    meter = TqdmProgress()
    for _ in range(2):
        run(meter)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("100/100") == 2


def test_update_needs_a_start():
    with pytest.raises(RuntimeError, match="before start"):
        TqdmProgress().update(1)
