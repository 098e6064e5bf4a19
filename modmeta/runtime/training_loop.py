"""The loop around a training step: compiled chunks, evaluations, checkpoints, resuming.

What is trained is the caller's: a pytree that `take_steps` advances and `evaluate`
judges. The loop asks nothing else of it than to survive a checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from modmeta.runtime import programs
from modmeta.runtime.checkpoint import CheckpointStore
from modmeta.runtime.metrics import MetricWriter
from modmeta.runtime.progress import NoProgress, ProgressMeter

_MAX_CHUNK = 50

TakeSteps = Callable[[Any, int, int], tuple[Any, Mapping[str, Any]]]
Evaluate = Callable[[Any, int, Mapping[str, Any]], tuple[Any, Mapping[str, Any], bool]]


class LoopState(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      run: The caller's state.
      step: Steps taken.
      seconds: Time spent on steps and evaluations, over all sittings.
      is_done: Whether an evaluation ended the training early.
    """

    run: Any
    step: int
    seconds: float
    is_done: bool


class TrainingOutcome(NamedTuple):
    """What `train` returns.

    Attributes:
      state: Last state.
      is_finished: False if training was asked to stop before its end.
    """

    state: LoopState
    is_finished: bool


def chunk_size(num_steps: int, num_evaluations: int) -> int:
    """Steps between looks from the host: one compilation serves a run.

    The largest divisor of `num_steps` up to 50 that leaves time for the evaluations.
    """
    largest = max(min(_MAX_CHUNK, num_steps // num_evaluations), 1)
    return max(d for d in range(1, largest + 1) if num_steps % d == 0)


def train(
    run: Any,
    take_steps: TakeSteps,
    evaluate: Evaluate,
    *,
    num_steps: int,
    num_evaluations: int,
    store: CheckpointStore | None = None,
    writer: MetricWriter | None = None,
    progress: ProgressMeter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    shown: Sequence[str] = ("loss",),
    description: str = "training",
) -> TrainingOutcome:
    """Trains from the latest checkpoint, or from the start, to the end.

    Args:
      run: Initial state of what is trained, any pytree that a checkpoint can hold.
      take_steps: `(run, step, count) -> (run, metrics)`, takes `count` steps from
        `step` on; compiled by the caller, called with one value of `count` only.
        The metrics are scalars, means over the steps; all must be finite.
      evaluate: `(run, step, metrics) -> (run, record, is_done)`, called every
        `num_steps / num_evaluations` steps. The record is written to the log beside
        the metrics; `is_done` ends the training.
      num_steps: Steps of the whole training.
      num_evaluations: How often to evaluate and save.
      store: Checkpoints; the latest one is resumed.
      writer: Receives one record per evaluation, with `seconds` among its fields.
      progress: Progress meter.
      should_stop: Asked between chunks; if true, the state is saved and training
        returns.
      shown: Names of metrics that the progress meter gets.
      description: What the progress meter calls the loop.

    Returns:
      The outcome.

    Raises:
      FloatingPointError: If a metric is not finite. The last checkpoint is untouched.
    """
    programs.make_room()
    progress = progress or NoProgress()
    state = LoopState(run, 0, 0.0, False)
    if store is not None and store.latest_step is not None:
        state = store.restore(state)

    count = chunk_size(num_steps, num_evaluations)
    visible: dict[str, float] = {}
    is_finished = True
    # An interrupted bar must not stay open: what is printed next would land in it.
    with contextlib.closing(progress):
        progress.start(num_steps, initial=state.step, description=description)
        while state.step < num_steps and not state.is_done:
            if should_stop():
                is_finished = False
                break
            started = time.perf_counter()
            step = state.step + count
            run, metrics = take_steps(state.run, state.step, count)
            metrics = {name: float(value) for name, value in metrics.items()}
            _check_finite(metrics, state.step, step)
            is_done = state.is_done
            is_due = (
                step * num_evaluations // num_steps
                > state.step * num_evaluations // num_steps
            )
            record: dict[str, float] = {}
            if is_due:
                run, found, is_done = evaluate(run, step, metrics)
                record = {**metrics, **{n: float(value) for n, value in found.items()}}
            seconds = state.seconds + time.perf_counter() - started
            state = LoopState(run, step, seconds, is_done)
            if is_due:
                if writer is not None:
                    writer.write(step, {**record, "seconds": seconds})
                if store is not None:
                    store.save(step, state)
            visible.update({**metrics, **record})
            progress.update(
                step, {name: visible[name] for name in shown if name in visible}
            )
    if store is not None and not is_finished:
        if store.latest_step is None or store.latest_step < state.step:
            store.save(state.step, state)
    return TrainingOutcome(state, is_finished)


def _check_finite(metrics: Mapping[str, float], first: int, last: int) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"training {name}: found {value} between steps {first} and {last}, "
                "expected a finite number; lower the learning rate. The last "
                "checkpoint is untouched"
            )


class Best(NamedTuple):
    """The best parameters so far, and how long nothing better came.

    Attributes:
      params: Parameters of lowest score.
      score: `()` that score.
      num_without_gain: `()` int32, evaluations since.
    """

    params: Any
    score: Any
    num_without_gain: Any

    @classmethod
    def start(cls, params: Any) -> Best:
        """Nothing was judged yet."""
        return cls(params, jnp.float32(jnp.inf), jnp.int32(0))

    def update(self, params: Any, score: Any, *, counts: bool = True) -> Best:
        """Judges parameters; a NaN score never wins.

        Args:
          params: Parameters judged.
          score: Lower is better.
          counts: Whether an evaluation without gain counts.
        """
        if bool(score < self.score):
            return Best(params, jnp.float32(score), jnp.int32(0))
        waited = self.num_without_gain + 1 if counts else 0
        return self._replace(num_without_gain=jnp.int32(waited))
