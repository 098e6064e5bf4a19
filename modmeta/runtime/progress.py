"""Progress meters, handed to the loops that report to them.

Loops run jitted chunks from the host and call `update` between chunks. They take a
`ProgressMeter` argument whose default, `NoProgress`, does nothing.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TextIO

import tqdm


class ProgressMeter(Protocol):
    """What a loop calls: `start`, then `update` any number of times, then `close`."""

    def start(self, total: int, *, initial: int = 0, description: str = "") -> None:
        """Begins a loop.

        Args:
          total: the step at which the loop ends.
          initial: the step at which it starts, above zero for a resumed run.
          description: what the loop does, in a word or two.
        """

    def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Reports that `step` steps are done.

        Args:
          step: counts from zero, also in a resumed run.
          metrics: scalars that the meter may show.
        """

    def close(self) -> None:
        """Ends the loop, whether it reached its total or not. Idempotent."""


class NoProgress:
    """The meter that shows nothing."""

    def start(self, total: int, *, initial: int = 0, description: str = "") -> None:
        """Does nothing."""

    def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class TqdmProgress:
    """Shows progress, rate, remaining time and chosen metrics on standard error.

    A terminal or a notebook gets a tqdm bar. Anything else, such as a log file, gets a
    line now and then. A meter may be used for several loops, one after the other.

    Args:
      metric_names: the metrics to show, in this order; those that an update lacks
        are left out. None shows all.
      interval_seconds: the least time between two lines when there is no terminal.
      stream: where to write; standard error by default.
      clock: gives the time in seconds.
    """

    def __init__(
        self,
        metric_names: Sequence[str] | None = None,
        *,
        interval_seconds: float = 30.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._metric_names = metric_names
        self._interval_seconds = interval_seconds
        self._stream = stream
        self._clock = clock
        self._bar: _Bar | _Lines | None = None

    def start(self, total: int, *, initial: int = 0, description: str = "") -> None:
        """Begins a loop; see `ProgressMeter.start`."""
        self.close()
        stream = sys.stderr if self._stream is None else self._stream
        if _is_watched(stream):
            self._bar = _Bar(total, initial, description, stream)
        else:
            self._bar = _Lines(
                total,
                initial,
                description,
                stream,
                self._interval_seconds,
                self._clock,
            )

    def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Reports that `step` steps are done; see `ProgressMeter.update`.

        Raises:
          RuntimeError: if no loop has been started.
        """
        if self._bar is None:
            raise RuntimeError("update was called before start.")
        metrics = metrics or {}
        names = metrics.keys() if self._metric_names is None else self._metric_names
        self._bar.update(step, {n: metrics[n] for n in names if n in metrics})

    def close(self) -> None:
        """Ends the loop; see `ProgressMeter.close`."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def shown_to_people(stream: TextIO | None = None) -> ProgressMeter:
    """The meter for who starts something by hand.

    A bar in a terminal or a notebook, where somebody looks on; nothing in scripts whose
    messages go to a file, in tests and in services, where nobody does.

    Args:
      stream: Where to write; standard error by default.
    """
    stream = sys.stderr if stream is None else stream
    return TqdmProgress(stream=stream) if _is_watched(stream) else NoProgress()


def _is_watched(stream: TextIO) -> bool:
    """Whether a stream is a terminal, or that of a notebook."""
    return stream.isatty() or type(stream).__module__.startswith("ipykernel")


def _postfix(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={float(value):.4g}" for name, value in metrics.items())


class _Bar:
    def __init__(self, total: int, initial: int, description: str, stream: TextIO):
        self._bar = tqdm.tqdm(
            total=total,
            initial=initial,
            desc=description or None,
            file=stream,
            dynamic_ncols=True,
            unit=" steps",
        )

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._bar.set_postfix_str(_postfix(metrics), refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    def __init__(
        self,
        total: int,
        initial: int,
        description: str,
        stream: TextIO,
        interval_seconds: float,
        clock: Callable[[], float],
    ):
        self._total = total
        self._initial = initial
        self._description = description
        self._stream = stream
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._start_time = self._shown_time = clock()
        self._pending: tuple[int, Mapping[str, Any]] | None = None

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._pending = (step, metrics)
        if self._clock() - self._shown_time >= self._interval_seconds:
            self._show()

    def close(self) -> None:
        self._show()

    def _show(self) -> None:
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        self._shown_time = self._clock()
        elapsed = self._shown_time - self._start_time
        done = step - self._initial
        parts = [f"{step}/{self._total} steps"]
        if self._total > 0:
            parts[0] += f" ({step / self._total:.0%})"
        if done > 0 and elapsed > 0:
            rate = done / elapsed
            remaining = max(self._total - step, 0) / rate
            parts.append(f"{rate:.3g} steps/s")
            parts.append(f"{tqdm.tqdm.format_interval(elapsed)} elapsed")
            parts.append(f"{tqdm.tqdm.format_interval(remaining)} left")
        if metrics:
            parts.append(_postfix(metrics))
        prefix = f"{self._description}: " if self._description else ""
        print(prefix + ", ".join(parts), file=self._stream, flush=True)
