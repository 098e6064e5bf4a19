"""Conventions that all experiments share: options, directory, summary, stopping."""

import ast
import contextlib
import dataclasses
import enum
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from modmeta.runtime.files import atomic_write
from modmeta.runtime.metrics import as_json_scalar

CONFIG_FILE = "config.json"
SUMMARY_FILE = "summary.json"

Config = TypeVar("Config")


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """Replaces fields named by dotted paths.

    Args:
      config: nested frozen dataclasses.
      values: new values by dotted path, for instance "training.num_steps".

    Returns:
      The configuration with these fields replaced.

    Raises:
      ValueError: if there is no such field, or a value is not of its kind.
    """
    for path, value in values.items():
        config = _replaced(config, path.split("."), path, value)
    return config


def apply_assignments(config: Config, assignments: Sequence[str]) -> Config:
    """Replaces the fields that `--set` flags name.

    Args:
      config: nested frozen dataclasses.
      assignments: "path=value" strings; values in Python or plain text.

    Returns:
      The configuration with these fields replaced.

    Raises:
      ValueError: if an assignment is malformed, names no field, or its value is not of
        the kind that the field holds.
    """
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set: found {assignment!r}, expected path=value")
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        config = override(config, {path: value})
    return config


class WorkdirStatus(enum.Enum):
    """What `prepare_workdir` found."""

    NEW = "new"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"


def prepare_workdir(
    workdir: str | os.PathLike[str], config: Any, *, ignored: Sequence[str] = ()
) -> WorkdirStatus:
    """Claims a directory for the run of one configuration.

    A new directory is created and gets a `config.json`. One that holds a run of the
    same configuration is left as it is, to be resumed or, if it holds a summary, to
    be reported as finished. A directory that holds anything else is refused.

    Args:
      workdir: the directory; its parents are created too.
      config: a dataclass or a mapping.
      ignored: names of fields that do not make a run a different one.

    Returns:
      The status of the run.

    Raises:
      FileExistsError: if the directory belongs to a run of another configuration, or
        to something that is not a run. Nothing has been changed then.
    """
    workdir = Path(workdir)
    config_path = workdir / CONFIG_FILE
    wanted = as_json(config)
    if not config_path.exists():
        if workdir.exists() and any(
            not entry.name.startswith(".") for entry in workdir.iterdir()
        ):
            raise FileExistsError(
                f"{workdir} is not empty and holds no {CONFIG_FILE}; choose another "
                "directory."
            )
        workdir.mkdir(parents=True, exist_ok=True)
        _write_json(config_path, wanted)
        return WorkdirStatus.NEW
    finished = (workdir / SUMMARY_FILE).exists()
    found = json.loads(config_path.read_text())
    changed = [
        f"  {name}: {found.get(name, 'absent')} there, {wanted.get(name, 'absent')} now"
        for name in sorted(found.keys() | wanted.keys())
        if name not in ignored and found.get(name) != wanted.get(name)
    ]
    if changed:
        state = "a finished" if finished else "an interrupted"
        raise FileExistsError(
            f"{workdir} holds {state} run of another configuration:\n"
            + "\n".join(changed)
            + "\nChoose another directory, or remove this one."
        )
    return WorkdirStatus.FINISHED if finished else WorkdirStatus.INTERRUPTED


def write_summary(workdir: str | os.PathLike[str], summary: Mapping[str, Any]) -> Path:
    """Writes `summary.json`, which marks the run as finished.

    Args:
      workdir: the directory of the run.
      summary: the results; see `as_json` for what it may hold.

    Returns:
      The path of the file, which either is complete or does not exist.

    Raises:
      TypeError: if the summary holds something that JSON cannot express.
    """
    path = Path(workdir) / SUMMARY_FILE
    _write_json(path, as_json(summary))
    return path


def as_json(value: Any) -> Any:
    """Converts nested results or configurations to what strict JSON can hold.

    Args:
      value: dataclasses, mappings, sequences, NumPy and JAX arrays, paths, enums,
        strings, numbers and None, nested at will.

    Returns:
      Dicts, lists, strings, numbers, booleans and None. NaN and infinities become the
      strings "nan", "inf" and "-inf".

    Raises:
      TypeError: if something else is found.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, enum.Enum):
        return as_json(value.value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: as_json(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(name): as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, np.ndarray | jax.Array) and value.ndim:
        return [as_json(item) for item in np.asarray(value)]
    return as_json_scalar(value)


def format_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    *,
    float_format: str = ".4g",
) -> str:
    """Sets rows as a plain text table.

    Args:
      rows: one mapping per row.
      columns: the columns to show, in order; by default all, as first met.
      float_format: format specification for floating point numbers.

    Returns:
      The lines of the table, joined, without a closing line break. Columns of numbers
      are set flush right, others flush left; a missing value is a dash.
    """
    if columns is None:
        columns = list(dict.fromkeys(name for row in rows for name in row))

    def text(value: Any) -> str:
        if value is None:
            return "-"
        if isinstance(value, float | np.floating):
            return format(float(value), float_format)
        return str(value)

    lines = [[] for _ in range(len(rows) + 2)]
    for column in columns:
        values = [row.get(column) for row in rows]
        cells = [text(value) for value in values]
        width = max(len(cell) for cell in [column, *cells])
        numeric = all(
            value is None or isinstance(value, int | float | np.number)
            for value in values
        )
        align = str.rjust if numeric else str.ljust
        for line, cell in zip(lines, [column, "-" * width, *cells], strict=True):
            line.append(align(cell, width))
    return "\n".join("  ".join(line).rstrip() for line in lines)


class StopRequest:
    """Whether the user asked the run to stop; see `stop_on_signal`."""

    def __init__(self) -> None:
        self.requested = False


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turns the first Ctrl-C or SIGTERM into a request to stop at the next chunk.

    The second one raises KeyboardInterrupt at once. The previous handlers are back
    when the block ends. Outside the main thread, where Python takes no handlers, the
    request never comes.

    Example::

        with stop_on_signal() as stop:
            while step < num_steps and not stop.requested:
                ...

    Yields:
      The request, to be looked at between chunks.
    """
    stop = StopRequest()

    def handle(signal_number: int, frame: Any) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        # print is not safe here: the signal may have interrupted another print.
        os.write(2, b"\nStopping after this chunk; once more to stop at once.\n")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text.encode() + b"\n")


def _replaced(owner: Any, parts: list[str], path: str, value: Any) -> Any:
    """A copy of a dataclass with the field behind `parts` replaced."""
    name, *rest = parts
    if name not in getattr(owner, "__dataclass_fields__", {}):
        raise ValueError(f"config: found no field {path!r}")
    present = getattr(owner, name)
    if rest:
        value = _replaced(present, rest, path, value)
    else:
        value = _checked(path, value, present)
    return dataclasses.replace(owner, **{name: value})


def _checked(path: str, value: Any, default: Any) -> Any:
    """A value of the kind that a field holds; integers serve as floats."""
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise ValueError(
            f"config: found {value!r} for {path!r}, expected something like {default!r}"
        )
    return value
