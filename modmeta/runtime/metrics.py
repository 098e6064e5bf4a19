"""Scalar metrics of a run, as one JSON object per line."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def as_json_scalar(value: Any) -> bool | int | float | str:
    """Converts a scalar to what strict JSON can hold.

    Args:
      value: a Python or NumPy number, or an array of shape `[]`.

    Returns:
      The Python number; JSON knows no NaN and no infinity, which become the strings
      "nan", "inf" and "-inf".

    Raises:
      TypeError: if `value` is not a real number.
      ValueError: if `value` is an array of another shape.
    """
    array = np.asarray(value)
    if array.dtype.kind in "OUSMmc":
        raise TypeError(f"found {value!r}, expected a real number")
    if array.shape:
        raise ValueError(f"found an array of shape {array.shape}, expected a scalar")
    number = array.item()
    if isinstance(number, float) and not math.isfinite(number):
        return str(number)
    return number


class MetricWriter:
    """Appends scalar metrics to a JSONL file, and optionally for TensorBoard.

    Each line holds `step` and the metrics of one call of `write`. A line is handed
    to the operating system at once, so that it outlives a killed process. The writer
    adds no time stamps: the log of a resumed run equals that of an uninterrupted one,
    as long as the records of a step are written before its checkpoint is saved.

    Example::

        with MetricWriter(path, resume_step=store.latest_step) as writer:
            writer.write(step, {"train/loss": loss})

    Args:
      path: the JSONL file. Its directory must exist.
      resume_step: the step that the run resumes from. Records up to and including it
        are kept, later ones and a cut-short last line are dropped. None starts an
        empty log, also where `path` exists.
      tensorboard_dir: where to write event files besides; needs tensorboardX.

    Raises:
      ImportError: if `tensorboard_dir` is given and tensorboardX is not installed.
      ValueError: if the log to resume is damaged before its last line.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        resume_step: int | None = None,
        tensorboard_dir: str | os.PathLike[str] | None = None,
    ):
        self._path = Path(path)
        self._last_step: int | None = None
        self._tensorboard = None
        if tensorboard_dir is not None:
            self._tensorboard = _event_writer(tensorboard_dir, resume_step)
        kept = 0
        if resume_step is not None and self._path.exists():
            kept = self._end_of_kept_records(resume_step)
        self._file = self._path.open("ab")
        self._file.truncate(kept)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one record.

        Args:
          step: number of steps done; not below that of the previous record.
          metrics: names and scalars.

        Raises:
          TypeError: if a metric is not a real number.
          ValueError: if a metric is not a scalar, if one is named "step", if `step`
            decreases, or if the writer is closed.
        """
        if self._file.closed:
            raise ValueError(
                f"{self._path}: found a closed writer, expected an open one"
            )
        step = int(step)
        if self._last_step is not None and step < self._last_step:
            raise ValueError(
                f"step: found {step} after {self._last_step}, expected no decrease"
            )
        if "step" in metrics:
            raise ValueError("metrics: found one named 'step', expected other names")
        record: dict[str, bool | float | int | str] = {"step": step}
        for name, value in metrics.items():
            try:
                record[name] = as_json_scalar(value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"metric {name!r}: {error}") from None
        self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._file.flush()
        self._last_step = step
        if self._tensorboard is not None:
            for name, value in metrics.items():
                self._tensorboard.add_scalar(name, float(value), step)

    def flush(self) -> None:
        """Makes the records written so far survive a loss of power."""
        if self._file.closed:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._tensorboard is not None:
            self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and closes the files. Idempotent."""
        if self._file.closed:
            return
        self.flush()
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _end_of_kept_records(self, resume_step: int) -> int:
        end = 0
        for line, record in _complete_records(self._path):
            if record["step"] > resume_step:
                break
            self._last_step = record["step"]
            end += len(line)
        return end


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the records of a `MetricWriter`, also while it still writes.

    Args:
      path: the JSONL file. A cut-short last line is left out.

    Returns:
      One dict per record, oldest first, with `step` and the metrics. NaN and
      infinities are floats again.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if a line other than the last is not a record.
    """
    return [
        {
            name: _NON_FINITE.get(value, value) if isinstance(value, str) else value
            for name, value in record.items()
        }
        for _, record in _complete_records(Path(path))
    ]


def _complete_records(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    lines = path.read_bytes().splitlines(keepends=True)
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise ValueError(
                f"{path}:{number}: found another line, expected a metric record"
            )
        records.append((line, record))
    return records


def _event_writer(directory: str | os.PathLike[str], resume_step: int | None) -> Any:
    try:
        import tensorboardX
    except ImportError as error:
        raise ImportError(
            "Event files for TensorBoard need tensorboardX: "
            "pip install 'modmeta[tensorboard]'."
        ) from error
    # A new file: tensorboardX names files by the second, and overwrites.
    return tensorboardX.SummaryWriter(
        str(directory),
        purge_step=None if resume_step is None else resume_step + 1,
        filename_suffix="" if resume_step is None else f".from{resume_step}",
    )
