"""An experiment, a run of it, and how a run goes from new to finished.

An experiment is a frozen dataclass of options with presets, a function that computes,
and one that sets its summary as a table. In whole: `docs/extending/experiment.md`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from experiments.common import options, workdirs
from experiments.common.stopping import stop_on_signal
from experiments.common.workdirs import WorkdirStatus
from modmeta.runtime import devices, option_types
from modmeta.runtime.checkpoint import CheckpointStore
from modmeta.runtime.files import atomic_write
from modmeta.runtime.metrics import MetricWriter, read_metrics
from modmeta.runtime.progress import NoProgress, ProgressMeter


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What an experiment consists of.

    Attributes:
      presets: Configurations by name: frozen dataclasses with a field `seed`, which
        check themselves.
      smoke: Shrinks a configuration to one that runs in seconds.
      compute: `(config, run, **options) -> summary`, or None if it was asked to stop.
        The summary is what `experiments.common.as_json` takes. Options are what does
        not change the results, such as places of files.
      format_summary: Makes a table of a summary, fresh or read back.
      files: What a run leaves beside `summary.json`, for its last words.
      shown: Names of the metrics that the progress meter shows.
      check: `(preset, config)`, refuses by a ValueError what a configuration cannot
        know of itself.
      refusals: Errors that are the user's to mend: a message, not a traceback. Those of
        files, memory and checkpoints are anyway.
    """

    presets: Mapping[str, Callable[[], Any]]
    smoke: Callable[[Any], Any]
    compute: Callable[..., dict[str, Any] | None]
    format_summary: Callable[[Mapping[str, Any]], str]
    files: str
    shown: Sequence[str] = ("loss",)
    check: Callable[[str, Any], None] = lambda preset, config: None
    refusals: tuple[type[Exception], ...] = ()


class LoopArguments(TypedDict):
    """Arguments that all training loops of the library take."""

    store: CheckpointStore
    writer: MetricWriter
    progress: ProgressMeter
    should_stop: Callable[[], bool]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, as `compute` sees it.

    The directory is taken when the first of `claim`, `directory` and `loop` is called:
    what may be refused, such as data that are not what they should be, comes before
    that, and then leaves nothing behind.

    Attributes:
      config: The configuration.
      workdir: Directory of the run.
      progress: Progress meter.
      should_stop: Whether the user asked to stop; asked between chunks of work.
      started: `time.perf_counter()` at which total time starts.
      tensorboard: Whether to write TensorBoard event files.
      occupation: Of the directory, by this run.
    """

    config: Any
    workdir: Path
    progress: ProgressMeter
    should_stop: Callable[[], bool]
    started: float
    tensorboard: bool = False
    occupation: workdirs.Occupation = dataclasses.field(
        default_factory=workdirs.Occupation
    )

    @property
    def is_first(self) -> bool:
        """Whether this process, of several, is the one that writes."""
        return devices.is_first_process()

    @property
    def seconds(self) -> float:
        """Time since the start of this sitting."""
        return time.perf_counter() - self.started

    def claim(self) -> None:
        """Makes the directory that of this run; again without effect.

        Raises:
          FileExistsError: If another run is at work there.
        """
        if self.is_first:
            self.workdir.mkdir(parents=True, exist_ok=True)
            self.occupation.begin(self.workdir)
            workdirs.claim_workdir(self.workdir, self.config)

    def directory(self, name: str | Path = "") -> Path:
        """A directory of this run, made if it is not there."""
        self.claim()
        path = self.workdir / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What a function returns, kept: a run that goes on does not do it again.

        Args:
          name: Of the file in the directory of the run, without its suffix.
          compute: The function; what it returns can be written as JSON.
        """
        path = self._kept(name)
        self.directory(path.parent.relative_to(self.workdir))
        if not path.exists():
            text = json.dumps(compute(), indent=1)
            with atomic_write(path) as file:
                file.write(f"{text}\n".encode())
        return json.loads(path.read_text())

    def each_once(
        self, parts: Mapping[str, Callable[[], Any]], description: str
    ) -> list[Any] | None:
        """What several functions return, each kept as `once` does, with progress.

        Args:
          parts: Functions by name, called in this order.
          description: What they do, in a word or two.

        Returns:
          What they returned; None if the run was asked to stop before the end.
        """
        paths = [self._kept(name) for name in parts]
        done = sum(path.exists() for path in paths)
        found = []
        with contextlib.closing(self.progress) as progress:
            progress.start(len(parts), initial=done, description=description)
            for name, compute in parts.items():
                if self.should_stop():
                    return None
                found.append(self.once(name, compute))
                progress.update(sum(path.exists() for path in paths))
        return found

    def _kept(self, name: str) -> Path:
        return self.workdir / f"{name}.json"

    @contextlib.contextmanager
    def loop(self, name: str = "") -> Iterator[LoopArguments]:
        """Opens checkpoints and metrics of a training loop, new or to be resumed.

        Example::

            with run.loop() as arguments:
                outcome = training_loop.train(state, take_steps, evaluate, **arguments)

        Args:
          name: Directory in that of the run, one for every loop.

        Yields:
          The store, the writer, the progress meter, and when to stop.
        """
        directory = self.directory(name)
        tensorboard = directory / workdirs.TENSORBOARD_DIRECTORY
        with (
            CheckpointStore(directory / "checkpoints", max_to_keep=2) as store,
            MetricWriter(
                directory / workdirs.METRICS_FILE,
                resume_step=store.latest_step,
                tensorboard_dir=tensorboard if self.tensorboard else None,
            ) as writer,
        ):
            yield {
                "store": store,
                "writer": writer,
                "progress": self.progress,
                "should_stop": self.should_stop,
            }

    def records(self, name: str = "") -> list[dict[str, Any]]:
        """The metrics that a loop wrote, see `modmeta.runtime.metrics.read_metrics`."""
        return read_metrics(self.workdir / name / workdirs.METRICS_FILE)


def configure(
    experiment: Experiment,
    preset: str,
    *,
    smoke: bool = False,
    values: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> Any:
    """Builds a configuration as the command line does.

    Args:
      experiment: The experiment.
      preset: One of its presets.
      smoke: Whether to shrink it.
      values: Fields by dotted path; None leaves the preset.
      assignments: "path=value" strings, which win; values in Python or plain text.

    Raises:
      ValueError: If an assignment is malformed or names no field, or an option is out
        of range.
    """
    config = experiment.presets[preset]()
    if smoke:
        config = experiment.smoke(config)
    given = {path: value for path, value in (values or {}).items() if value is not None}
    given |= options.parse_assignments(assignments)
    config = options.override(config, given)
    option_types.check_seed(config.seed)
    experiment.check(preset, config)
    return config


def run(
    experiment: Experiment,
    config: Any,
    workdir: str | Path,
    *,
    progress: ProgressMeter | None = None,
    tensorboard: bool = False,
    started: float | None = None,
    **compute_options: Any,
) -> dict[str, Any] | None:
    """Runs or resumes an experiment in a working directory.

    With several processes, the first one alone touches the directory.

    Args:
      experiment: The experiment.
      config: The configuration.
      workdir: Directory of the run.
      progress: Progress meter.
      tensorboard: Whether to write TensorBoard event files.
      started: `time.perf_counter()` at which total time starts; now by default.
      **compute_options: What `compute` takes besides.

    Returns:
      The summary, read back if the run is finished already (None in all processes but
      the first); None if the run was asked to stop and can be resumed.

    Raises:
      FileExistsError: If the directory holds a run of another configuration, or
        another run is at work there.
      OSError: If it cannot be written; known before anything is computed.
      Exception: What `compute` raises. A run without a checkpoint leaves nothing
        behind then.
    """
    started = time.perf_counter() if started is None else started
    workdir = Path(workdir)
    with workdirs.Occupation() as occupation:
        return _run(
            experiment,
            config,
            workdir,
            occupation,
            compute_options,
            progress=progress or NoProgress(),
            started=started,
            tensorboard=tensorboard,
        )


def _run(
    experiment: Experiment,
    config: Any,
    workdir: Path,
    occupation: workdirs.Occupation,
    compute_options: Mapping[str, Any],
    **others: Any,
) -> dict[str, Any] | None:
    """`run`, with what `Run` takes besides."""
    is_first = devices.is_first_process()
    status, is_there = WorkdirStatus.NEW, workdir.exists()
    if is_first:
        status = workdirs.inspect_workdir(workdir, config)
        if is_there and status is not WorkdirStatus.FINISHED:
            occupation.begin(workdir)
        if status is WorkdirStatus.NEW:
            workdirs.check_writable(workdir)
            workdirs.discard_claim(workdir)
    if devices.from_first_process(status is WorkdirStatus.FINISHED):
        return workdirs.read_summary(workdir) if is_first else None
    with stop_on_signal() as stop:
        present = Run(
            config=config,
            workdir=workdir,
            should_stop=lambda: stop.requested,
            occupation=occupation,
            **others,
        )
        try:
            summary = experiment.compute(config, present, **compute_options)
        except BaseException:
            if is_first and not occupation.is_refused:
                workdirs.discard_claim(workdir)
                if not is_there and workdir.exists() and not any(workdir.iterdir()):
                    workdir.rmdir()
            raise
    if summary is None:
        return None
    summary = {
        **summary,
        "seed": config.seed,
        "config": config,
        "total_seconds": present.seconds,
    }
    if is_first:
        present.claim()
        workdirs.write_summary(workdir, summary)
    return summary
