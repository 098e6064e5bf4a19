"""The training loop on a state that one can compute by hand."""

import itertools
import math

import jax.numpy as jnp
import pytest

from modmeta.runtime.checkpoint import CheckpointStore
from modmeta.runtime.metrics import MetricWriter, read_metrics
from modmeta.runtime.progress import NoProgress
from modmeta.runtime.training_loop import Best, chunk_size, train

NUM_STEPS = 12


def take_steps(total, step, count):
    """Adds the numbers of the steps taken; the loss is their mean."""
    steps = range(step, step + count)
    return total + sum(steps), {"loss": sum(steps) / count}


def evaluate(total, step, metrics):
    assert metrics == {"loss": step - 2.5}
    return total, {"total": total}, False


def run(path, *, stop_after=None, evaluate=evaluate, take_steps=take_steps):
    asked = itertools.count()
    with (
        CheckpointStore(path / "store") as store,
        MetricWriter(path / "log", resume_step=store.latest_step) as writer,
    ):
        return train(
            0,
            take_steps,
            evaluate,
            num_steps=NUM_STEPS,
            num_evaluations=3,
            store=store,
            writer=writer,
            should_stop=lambda: next(asked) == stop_after,
        )


def log(path):
    return [
        {name: value for name, value in record.items() if name != "seconds"}
        for record in read_metrics(path / "log")
    ]


EXPECTED_LOG = [
    {"step": step, "loss": step - 2.5, "total": step * (step - 1) // 2}
    for step in (4, 8, 12)
]


@pytest.mark.parametrize("stop_after", [None, 0, 1, 2])
def test_stopped_run_ends_like_an_uninterrupted_one(tmp_path, stop_after):
    if stop_after is not None:
        first = run(tmp_path, stop_after=stop_after)
        assert not first.is_finished
        assert first.state.step == 4 * stop_after
    outcome = run(tmp_path)
    assert outcome.is_finished
    assert outcome.state.run == sum(range(NUM_STEPS))
    assert outcome.state.seconds > 0.0
    assert log(tmp_path) == EXPECTED_LOG


def test_evaluation_may_end_the_training_for_good(tmp_path):
    def stop_at_eight(total, step, metrics):
        return total, {}, step == 8

    for _ in range(2):
        outcome = run(tmp_path, evaluate=stop_at_eight)
        assert outcome.is_finished
        assert outcome.state.step == 8
        assert outcome.state.run == sum(range(8))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_metrics_that_are_not_finite(tmp_path, value):
    def diverge(total, step, count):
        return total, {"loss": 0.0, "gradient": value if step == 8 else 0.0}

    with pytest.raises(
        FloatingPointError,
        match=f"training gradient: found {value} between steps 8 and 12, expected",
    ):
        run(tmp_path, take_steps=diverge, evaluate=lambda s, *_: (s, {}, False))
    with CheckpointStore(tmp_path / "store") as store:
        assert store.latest_step == 8


@pytest.mark.parametrize("error", [KeyboardInterrupt, FloatingPointError])
def test_a_meter_is_closed_whatever_ends_the_loop(error):
    """A bar that stays open swallows what is printed next."""
    calls = []

    class Meter(NoProgress):
        def start(self, *_, **__):
            calls.append("start")

        def close(self):
            calls.append("close")

    def interrupted(total, step, count):
        raise error

    with pytest.raises(error):
        train(
            0,
            interrupted,
            evaluate,
            num_steps=NUM_STEPS,
            num_evaluations=3,
            progress=Meter(),
        )
    assert calls == ["start", "close"]


def test_best_keeps_the_lowest_score():
    best = Best.start("none")
    for name, score in [("a", 3.0), ("b", math.nan), ("c", 2.0), ("d", 2.0)]:
        best = best.update(name, jnp.float32(score))
    assert best.params == "c"
    assert float(best.score) == 2.0
    assert int(best.num_without_gain) == 1
    assert int(best.update("e", 5.0, counts=False).num_without_gain) == 0


@pytest.mark.parametrize(
    "num_steps, num_evaluations, expected",
    [(1200, 12, 50), (24_000, 30, 50), (40, 4, 10), (22, 3, 2), (53, 2, 1), (5, 9, 1)],
)
def test_chunks_leave_time_for_every_evaluation(num_steps, num_evaluations, expected):
    assert chunk_size(num_steps, num_evaluations) == expected
    assert num_steps % expected == 0
