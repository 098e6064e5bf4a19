"""Zoos that others trained: folders of networks, tables of networks.

Networks are read a chunk at a time, never all at once; what comes out is a zoo on disk
like those that are trained here.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from modmeta.metanet.zoo.specification import (
    GroupSpec,
    ZooError,
    ZooSpec,
    flatten,
    leaves_of,
    split_networks,
)
from modmeta.metanet.zoo.storage import Chunk, generate_zoo
from modmeta.metanet.zoo.weights import WEIGHT_SUFFIXES, fill, read_weights
from modmeta.runtime.progress import ProgressMeter

# Where a network comes from, for messages, and its results by name.
_Row = tuple[Any, Mapping[str, Any]]
SHARES = {"train": 0.7, "valid": 0.15, "test": 0.15}


def import_folders(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    variables: Any,
    scores: Sequence[str],
    *,
    settings: Sequence[str] = (),
    convert: Callable[[dict[str, Any]], Any] | None = None,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    chunk_size: int = 64,
    progress: ProgressMeter | None = None,
) -> int:
    """Makes a zoo of a folder with a folder per network.

    A network's folder has its weights, in it or in the last of its checkpoints
    (`checkpoint_000010/`), and its results in files of JSON; of a file with a result
    per line, as Ray Tune writes it, the last line counts.

    Args:
      source: The folder of folders. Networks are numbered by name.
      directory: Where the zoo shall be; an import that was cut short goes on.
      variables: Variables of one network, arrays or shapes.
      scores: Names of results to predict; "test.accuracy" is inside "test".
      settings: Names of results that networks were trained with.
      convert: From what a file of weights holds to variables, for example with
        `metanet.from_state_dict`. Names must be the paths of variables otherwise.
      shares: Part of the networks in every split.
      seed: Seed of the splits.
      chunk_size: Networks per file, and in memory.
      progress: Progress meter.

    Returns:
      The number of networks.

    Raises:
      ZooError: If there are no networks, or one has no weights, no result, or weights
        that do not fit. The message names its folder.
    """
    folders = sorted(path for path in Path(source).glob("*/") if path.is_dir())
    if not folders:
        raise ZooError(f"{source}: found no folders, expected one per network")
    convert = convert or (lambda weights: fill(variables, weights))

    def read_one(number: int) -> tuple[Any, Mapping[str, Any]]:
        folder = folders[number]
        try:
            tree = convert(read_weights(_weights_of(folder)))
            found, wanted = leaves_of(tree), leaves_of(variables)
            if found != wanted:
                raise ZooError(f"found weights {found}, expected {wanted}")
        except (ValueError, KeyError) as error:
            raise ZooError(f"{folder}: {error}") from error
        return tree, _results_of(folder)

    def read(numbers: np.ndarray) -> tuple[np.ndarray, list[_Row]]:
        trees, results = zip(*map(read_one, numbers), strict=True)
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
        rows = list(zip([folders[n] for n in numbers], results, strict=True))
        return flatten(stacked), rows

    config = {"source": "folders", "scores": list(scores), "settings": list(settings)}
    spec = _spec(config, variables, len(folders), shares, seed, chunk_size)
    _write_zoo(directory, spec, read, scores, settings, progress)
    return len(folders)


def import_table(
    weights: str | os.PathLike[str],
    table: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    variables: Any,
    scores: Sequence[str],
    *,
    order: Sequence[str] | None = None,
    settings: Sequence[str] = (),
    chosen: Callable[[dict[str, str]], bool] = lambda row: True,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    chunk_size: int = 256,
    progress: ProgressMeter | None = None,
) -> int:
    """Makes a zoo of an array with a network per row and a table of their results.

    Args:
      weights: `.npy`, `[networks, parameters]`; it is not read as a whole.
      table: CSV with names in its first line and a line per network.
      directory: Where the zoo shall be.
      variables: Variables of one network, arrays or shapes.
      scores: Columns of numbers to predict.
      order: Paths of the variables in the order of the columns of the array, each
        row-major, "params/Conv_0/bias"; that of the variables unless given.
      settings: Columns that networks were trained with, numbers.
      chosen: Which lines of the table are wanted, for example those of the last epoch.
      shares: As for `import_folders`.
      seed: As for `import_folders`.
      chunk_size: As for `import_folders`.
      progress: Progress meter.

    Returns:
      The number of networks.

    Raises:
      ZooError: If sizes do not fit, or a column is missing or holds no number.
    """
    array = np.load(weights, mmap_mode="r", allow_pickle=False)
    leaves = {leaf.path: leaf for leaf in leaves_of(variables)}
    order = list(leaves) if order is None else list(order)
    if sorted(order) != sorted(leaves):
        raise ZooError(f"order: found {order}, expected the paths {list(leaves)}")
    with open(table, newline="") as file:
        lines = list(csv.DictReader(file))
    num_parameters = sum(int(np.prod(leaf.shape)) for leaf in leaves.values())
    if array.shape != (len(lines), num_parameters):
        raise ZooError(
            f"{weights}: found shape {array.shape}, expected {len(lines)} networks as "
            f"in {table}, with {num_parameters} parameters each"
        )
    rows = np.array([n for n, line in enumerate(lines) if chosen(line)], np.int64)
    if not len(rows):
        raise ZooError(f"{table}: found no line that is wanted, expected some")
    sizes = [int(np.prod(leaves[path].shape)) for path in order]
    parts = np.split(np.arange(num_parameters), np.cumsum(sizes)[:-1])
    places = dict(zip(order, parts, strict=True))
    columns = np.concatenate([places[path] for path in leaves])

    def read(numbers: np.ndarray) -> tuple[np.ndarray, list[_Row]]:
        found = [(f"{table} line {n + 2}", lines[n]) for n in rows[numbers]]
        return np.asarray(array[rows[numbers]], np.float32)[:, columns], found

    config = {"source": "table", "scores": list(scores), "settings": list(settings)}
    spec = _spec(config, variables, len(rows), shares, seed, chunk_size)
    _write_zoo(directory, spec, read, scores, settings, progress)
    return len(rows)


def _write_zoo(
    directory: str | os.PathLike[str],
    spec: ZooSpec,
    read: Callable[[np.ndarray], tuple[np.ndarray, list[_Row]]],
    scores: Sequence[str],
    settings: Sequence[str],
    progress: ProgressMeter | None,
) -> None:
    """Writes what is read of networks by number: weights `[n, P]` and rows."""

    def make_chunk(group: GroupSpec | None, numbers: np.ndarray) -> Chunk:
        del group
        weights, rows = read(numbers)
        return Chunk(
            weights,
            {name: _column(rows, name) for name in settings},
            {name: _column(rows, name) for name in scores},
        )

    # Options that do not fit leave nothing behind.
    make_chunk(None, np.zeros(1, np.int64))
    generate_zoo(directory, spec, make_chunk, progress=progress)


def _spec(config, variables, count, shares, seed, chunk_size) -> ZooSpec:
    if sum(shares.values()) > 1 + 1e-9 or min(shares.values()) < 0:
        raise ZooError(f"shares: found {dict(shares)}, expected parts of 1 in all")
    sizes = {name: int(share * count) for name, share in shares.items()}
    group = GroupSpec("networks", {}, count, leaves_of(variables))
    splits = split_networks(seed, count, sizes)
    return ZooSpec(config | {"seed": seed}, (group,), splits, chunk_size)


def _weights_of(folder: Path) -> Path:
    """The file of weights of a network; an orbax folder where there is no file."""
    checkpoints = sorted(path for path in folder.glob("checkpoint*") if path.is_dir())
    for place in (folder, *checkpoints[-1:]):
        files = sorted(p for p in place.iterdir() if p.suffix in WEIGHT_SUFFIXES)
        if len(files) > 1:
            raise ZooError(
                f"{place}: found {len(files)} files of weights, "
                f"{', '.join(file.name for file in files)}, expected one"
            )
        if files:
            return files[0]
    inner = [p for p in folder.iterdir() if (p / "_METADATA").exists()]
    if not inner:
        raise ZooError(
            f"{folder}: found no weights, expected a file of {WEIGHT_SUFFIXES} or a "
            "folder of orbax"
        )
    return sorted(inner)[-1]


def _results_of(folder: Path) -> dict[str, Any]:
    """All that the files of JSON say, results inside of results by "outer.inner"."""
    found: dict[str, Any] = {}
    # Parameters first: results of the same name count.
    for path in sorted(
        folder.glob("*.json"), key=lambda p: (p.stem == "result", p.name)
    ):
        text = path.read_text()
        try:
            content = json.loads(text)
        except json.JSONDecodeError:
            try:
                content = json.loads(text.strip().rpartition("\n")[2])
            except json.JSONDecodeError as error:
                raise ZooError(f"{path}: found damaged JSON ({error})") from error
        if isinstance(content, list) and content:
            content = content[-1]
        if not isinstance(content, dict):
            raise ZooError(f"{path}: found {type(content).__name__}, expected names")
        _add_results(found, content, "")
    return found


def _add_results(
    found: dict[str, Any], content: Mapping[str, Any], prefix: str
) -> None:
    for name, value in content.items():
        if isinstance(value, dict):
            _add_results(found, value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value


def _column(rows: Sequence[_Row], name: str) -> np.ndarray:
    """The numbers `[n]` of one name."""
    values = []
    for where, row in rows:
        if name not in row:
            raise ZooError(
                f"{where}: found no {name}, expected one of {', '.join(sorted(row))}"
            )
        try:
            values.append(float(row[name]))
        except (TypeError, ValueError):
            raise ZooError(
                f"{where}: found {name} {row[name]!r}, expected a number"
            ) from None
    return np.array(values, np.float32)
