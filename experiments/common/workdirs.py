"""Whose a working directory is, and the files that say so.

`config.json` names the run of a directory, `summary.json` says that it is finished.
What binds a directory to its run is work: a run that ended before there was any can be
followed by one of another configuration.
"""

import dataclasses
import enum
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None

from modmeta.runtime.files import atomic_write
from modmeta.runtime.metrics import as_json_scalar

CONFIG_FILE = "config.json"
SUMMARY_FILE = "summary.json"
METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIRECTORY = "tensorboard"

# A directory with this file has a configuration of its own, which it is checked
# against: see `modmeta.metanet.zoo`.
_ZOO_FILE = "zoo.json"
# A checkpoint that is not complete.
_ORBAX_UNFINISHED = ".orbax-checkpoint-tmp"


class WorkdirStatus(enum.Enum):
    """What `inspect_workdir` found."""

    NEW = "new"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"


def inspect_workdir(workdir: str | os.PathLike[str], config: Any) -> WorkdirStatus:
    """Tells what the run of a configuration would find in a directory.

    Nothing is changed. A directory with a run of the same configuration is there to be
    resumed or, if it holds a summary, to be reported as finished. One that does not
    exist, is empty, or holds a run of the same experiment that ended before it left any
    work, is new. Anything else is refused.

    Args:
      workdir: The directory.
      config: A dataclass or a mapping.

    Returns:
      The status of the run.

    Raises:
      FileExistsError: If the directory belongs to a run of another configuration, or
        to something that is not a run; the message names the fields that differ.
    """
    workdir = Path(workdir)
    config_path = workdir / CONFIG_FILE
    if workdir.is_file():
        raise FileExistsError(f"{workdir}: found a file, expected a directory.")
    if not config_path.exists():
        if workdir.exists() and any(_visible(workdir)):
            raise FileExistsError(
                f"{workdir}: found a directory that is not empty and holds no "
                f"{CONFIG_FILE}, expected a new one, or that of a run"
            )
        return WorkdirStatus.NEW
    wanted = as_json(config)
    finished = is_finished(workdir)
    try:
        found = json.loads(config_path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise FileExistsError(
            f"{workdir} holds a {CONFIG_FILE} that is not of a run; choose another "
            "directory."
        )
    if found == wanted:
        return WorkdirStatus.FINISHED if finished else WorkdirStatus.INTERRUPTED
    # Other fields: of another experiment or not of a run at all, and not ours to judge.
    if found.keys() == wanted.keys() and not any(_work(workdir)):
        return WorkdirStatus.NEW
    state = "a finished" if finished else "an interrupted"
    raise FileExistsError(
        f"{workdir} holds {state} run of another configuration:\n"
        + "\n".join(_differences(found, wanted))
        + "\nChoose another directory, or remove this one."
    )


def check_writable(workdir: str | os.PathLike[str]) -> None:
    """Refuses a directory that a run could not make, or write to; leaves nothing.

    Raises:
      OSError: If so.
    """
    place = Path(workdir)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=place))
    except OSError as error:
        raise OSError(
            f"{workdir}: found that nothing can be written to {place} "
            f"({error.strerror}), expected a directory that can be"
        ) from error


def is_finished(workdir: str | os.PathLike[str]) -> bool:
    """Whether a directory is that of a finished run."""
    return (Path(workdir) / SUMMARY_FILE).exists()


def claim_workdir(workdir: str | os.PathLike[str], config: Any) -> None:
    """Makes a directory that of a run: creates it, and writes its `config.json`.

    Args:
      workdir: The directory, one that `inspect_workdir` does not refuse; its parents
        are created too.
      config: A dataclass or a mapping.
    """
    path = Path(workdir) / CONFIG_FILE
    wanted = as_json(config)
    if path.exists() and json.loads(path.read_bytes()) == wanted:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_json(path, wanted)


def discard_claim(workdir: str | os.PathLike[str]) -> None:
    """Removes what a run has written before it left any work, if that is so.

    Logs and empty directories go, and `config.json` if nothing else is there. A
    directory with work stays as it is, and so do hidden files and the directory itself.

    Args:
      workdir: The directory of a run that has ended, if there is one.
    """
    workdir = Path(workdir)
    if not (workdir / CONFIG_FILE).exists() or any(_work(workdir)):
        return
    # From the innermost directory out.
    for directory, files in reversed(list(_walk(workdir))):
        has_networks = any(name.endswith(".npz") for name in files)
        for name in files:
            path = directory / name
            is_empty_zoo = name == _ZOO_FILE and not has_networks
            if is_empty_zoo or _is_log(path.relative_to(workdir)):
                path.unlink()
        if directory != workdir and not any(directory.iterdir()):
            directory.rmdir()
    if [entry.name for entry in _visible(workdir)] == [CONFIG_FILE]:
        (workdir / CONFIG_FILE).unlink()


class Occupation:
    """Keeps others out of a directory for as long as this process works there.

    The system forgets it when the process ends, however that happens. Nothing is kept
    out on systems and file systems that cannot lock a directory.

    Attributes:
      is_refused: Whether another run is at work there.
    """

    def __init__(self) -> None:
        """Of no directory yet."""
        self._descriptor: int | None = None
        self.is_refused = False

    def __enter__(self) -> "Occupation":
        """Nothing is taken yet."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Lets others in."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def begin(self, workdir: str | os.PathLike[str]) -> None:
        """Takes a directory that is there; again without effect.

        Raises:
          FileExistsError: If another run is at work there.
        """
        if self._descriptor is not None or fcntl is None:
            return
        descriptor = os.open(workdir, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            self.is_refused = True
            raise FileExistsError(
                f"{workdir}: found another run at work there, expected none: wait for "
                "it, or choose another directory"
            ) from None
        except OSError:
            os.close(descriptor)
        else:
            self._descriptor = descriptor


def write_summary(workdir: str | os.PathLike[str], summary: Mapping[str, Any]) -> Path:
    """Writes `summary.json`, which marks the run as finished.

    Args:
      workdir: The directory of the run.
      summary: The results; see `as_json` for what it may hold.

    Returns:
      The path of the file, which either is complete or does not exist.

    Raises:
      TypeError: If the summary holds something that JSON cannot express.
    """
    path = Path(workdir) / SUMMARY_FILE
    _write_json(path, as_json(summary))
    return path


def read_summary(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the `summary.json` of a finished run."""
    return json.loads((Path(workdir) / SUMMARY_FILE).read_bytes())


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


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text.encode() + b"\n")


def _visible(directory: Path) -> Iterator[Path]:
    """What `ls` shows."""
    return (entry for entry in directory.iterdir() if not entry.name.startswith("."))


def _is_log(path: Path) -> bool:
    """Whether a file, by its path in a run, is worth nothing without a checkpoint."""
    return (
        path.name == METRICS_FILE
        or TENSORBOARD_DIRECTORY in path.parts[:-1]
        or any(_ORBAX_UNFINISHED in part for part in path.parts)
    )


def _walk(workdir: Path) -> Iterator[tuple[Path, list[str]]]:
    """Directories of a run and their files, from the outermost in, none of others'."""
    for directory, names, files in os.walk(workdir):
        names[:] = [name for name in names if not name.startswith(".")]
        yield Path(directory), files


def _work(workdir: Path) -> Iterator[Path]:
    """Files of a run that would be lost, or are not its own."""
    for directory, files in _walk(workdir):
        if _ZOO_FILE in files and directory != workdir:
            continue
        for name in files:
            path = (directory / name).relative_to(workdir)
            if not (name.startswith(".") or path == Path(CONFIG_FILE) or _is_log(path)):
                yield path


def _differences(found: Any, wanted: Any) -> list[str]:
    """One line for every field in which two configurations differ."""
    there, now = dict(_fields(found)), dict(_fields(wanted))

    def text(fields: Mapping[str, Any], path: str) -> str:
        return repr(_as_tuples(fields[path])) if path in fields else "absent"

    return [
        f"  {path}: {text(there, path)} there, {text(now, path)} now"
        for path in dict.fromkeys([*there, *now])
        if (path in there) != (path in now) or there[path] != now[path]
    ]


def _fields(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _fields(item, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, value


def _as_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_as_tuples(item) for item in value)
    return value
