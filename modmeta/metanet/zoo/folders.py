"""Zoos that others trained: folders of networks, tables of networks.

Networks are read a chunk at a time, never all at once; what comes out is a zoo on disk
like those that are trained here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from modmeta.metanet.zoo.results import Row, column, read_lines, results_by_network
from modmeta.metanet.zoo.specification import (
    GroupSpec,
    ZooError,
    ZooSpec,
    flatten,
    leaves_of,
    split_networks,
)
from modmeta.metanet.zoo.storage import ZOO_FILE, Chunk, generate_zoo
from modmeta.metanet.zoo.weights import WEIGHT_SUFFIXES, fill, read_weights
from modmeta.runtime import option_types
from modmeta.runtime.progress import ProgressMeter

SHARES = {"train": 0.7, "valid": 0.15, "test": 0.15}


def import_folders(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    variables: Any,
    scores: Sequence[str],
    *,
    results: str | os.PathLike[str] | None = None,
    settings: Sequence[str] = (),
    convert: Callable[[dict[str, Any]], Any] | None = None,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    chunk_size: int = 64,
    progress: ProgressMeter | None = None,
) -> int:
    """Makes a zoo of a folder with a folder or a file of weights per network.

    A network's folder has its weights, in it or in the last of its checkpoints
    (`checkpoint_000010/`), and its results in files of JSON; of a file with a result
    per line, as Ray Tune writes it, the last line counts. A network that is a file,
    `first.npz`, has its results in `first.json` beside it. Names that begin with a dot
    are passed over.

    Args:
      source: The folder of folders or files. Networks are numbered by name.
      directory: Where the zoo shall be; an import that was cut short goes on, unless a
        file has changed since.
      variables: Variables of one network, arrays or shapes.
      scores: Names of results to predict; "test.accuracy" is inside "test".
      results: One table for all in place of files of JSON: a CSV with a column of the
        names of networks, or JSON with results by name. A file goes by its name with
        or without suffix.
      settings: Names of results that networks were trained with.
      convert: From what a file of weights holds to variables, for example with
        `metanet.from_state_dict`. Names must be the paths of variables otherwise.
      shares: Part of the networks in every split; with parts of 1 in all, every network
        is in one.
      seed: Seed of the splits.
      chunk_size: Networks per file, and in memory.
      progress: Progress meter.

    Returns:
      The number of networks.

    Raises:
      ZooError: If there are no networks, or one has no weights, no result, or weights
        that do not fit or are not finite; if a result has no network. The message names
        the folder, the file or the line.
    """
    places = _networks_of(Path(source))
    weights = [_weights_of(place) if place.is_dir() else place for place in places]
    found, files = results_by_network(places, results)
    if not (convert is None or callable(convert)):
        raise ZooError(f"convert: found {convert!r}, expected a function, or None")
    convert = convert or (lambda weights: fill(variables, weights))

    def read_one(number: int) -> Any:
        arrays = read_weights(weights[number])
        try:
            tree = convert(arrays)
            _check_fit(tree, variables)
        except ZooError as error:
            raise ZooError(f"{places[number]}: {error}") from error
        except Exception as error:  # the user's own
            raise ZooError(
                f"{places[number]}: convert failed ({type(error).__name__}: {error})"
            ) from error
        return tree

    def read(numbers: np.ndarray) -> tuple[np.ndarray, list[Row]]:
        trees = map(read_one, numbers)
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
        with np.errstate(over="ignore"):
            return flatten(stacked), [found[number] for number in numbers]

    config = _config("folders", scores, settings, [*weights, *files])
    spec = _spec(config, variables, len(places), shares, seed, chunk_size)
    _write_zoo(directory, spec, read, scores, settings, progress)
    return len(places)


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
      ZooError: If a file is missing, sizes do not fit, weights are not finite, or a
        column is missing or holds no number.
    """
    array = _rows_of_weights(Path(weights))
    leaves = {leaf.path: leaf for leaf in leaves_of(variables)}
    order = list(leaves) if order is None else list(order)
    if sorted(order) != sorted(leaves):
        raise ZooError(f"order: found {order}, expected the paths {list(leaves)}")
    lines = read_lines(Path(table))
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

    def read(numbers: np.ndarray) -> tuple[np.ndarray, list[Row]]:
        found = [(f"{table} line {n + 2}", lines[n]) for n in rows[numbers]]
        with np.errstate(over="ignore"):
            return np.asarray(array[rows[numbers]], np.float32)[:, columns], found

    config = _config("table", scores, settings, [Path(weights), Path(table)])
    spec = _spec(config, variables, len(rows), shares, seed, chunk_size)
    _write_zoo(directory, spec, read, scores, settings, progress)
    return len(rows)


def _write_zoo(
    directory: str | os.PathLike[str],
    spec: ZooSpec,
    read: Callable[[np.ndarray], tuple[np.ndarray, list[Row]]],
    scores: Sequence[str],
    settings: Sequence[str],
    progress: ProgressMeter | None,
) -> None:
    """Writes what is read of networks by number: weights `[n, P]` and rows."""

    def make_chunk(group: GroupSpec | None, numbers: np.ndarray) -> Chunk:
        del group
        weights, rows = read(numbers)
        _check_finite(weights, rows, spec)
        return Chunk(
            weights,
            {name: column(rows, name) for name in settings},
            {name: column(rows, name) for name in scores},
        )

    # Options that do not fit leave nothing behind.
    make_chunk(None, np.zeros(1, np.int64))
    is_new = not (Path(directory) / ZOO_FILE).exists()
    try:
        generate_zoo(directory, spec, make_chunk, progress=progress)
    except ZooError:
        # Nor does a network, before the first chunk: mended, it is another file.
        if is_new and not any(Path(directory).glob("*.npz")):
            (Path(directory) / ZOO_FILE).unlink(missing_ok=True)
        raise


def _check_finite(weights: np.ndarray, rows: Sequence[Row], spec: ZooSpec) -> None:
    bad = ~np.isfinite(weights)
    if bad.any():
        network, place = np.unravel_index(np.argmax(bad), bad.shape)
        leaves = spec.groups[0].leaves
        ends = np.cumsum([int(np.prod(leaf.shape)) for leaf in leaves])
        path = leaves[int(np.searchsorted(ends, place, side="right"))].path
        raise ZooError(
            f"{rows[network][0]}: found {weights[network, place]} in {path}, expected "
            "finite float32"
        )


def _config(
    kind: str, scores: Sequence[str], settings: Sequence[str], files: Sequence[Path]
) -> dict[str, Any]:
    """What makes an import the same: another source is not gone on from."""
    for field, names in (("scores", scores), ("settings", settings)):
        if isinstance(names, str):
            raise ZooError(f"{field}: found the text {names!r}, expected [{names!r}]")
    digest = hashlib.sha256()
    for path in files:
        state = path.stat()
        line = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}\n"
        digest.update(line.encode())
    described = f"{len(files)}, in state {digest.hexdigest()[:16]}"
    return {
        "source": kind,
        "scores": list(scores),
        "settings": list(settings),
        "files": described,
    }


def _is_floating(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, np.floating)


def _check_fit(tree: Any, variables: Any) -> None:
    """Raises ZooError unless paths, shapes and kinds of numbers are the same."""
    found, wanted = leaves_of(tree), leaves_of(variables)
    if found != wanted:
        raise ZooError(f"found weights {found}, expected {wanted}")
    arrays = jax.tree.leaves(tree), jax.tree.leaves(variables)
    for leaf, array, expected in zip(wanted, *arrays, strict=True):
        if _is_floating(expected) and not _is_floating(array):
            raise ZooError(
                f"{leaf.path}: found type {array.dtype}, expected floating-point "
                "numbers, or a function that converts them"
            )


def _rows_of_weights(path: Path) -> np.ndarray:
    """The array of a file, not read as a whole."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ZooError(f"{path}: found no array ({error}), expected .npy") from error
    if not isinstance(array, np.ndarray) or not _is_floating(array):
        found = array.dtype if isinstance(array, np.ndarray) else "several arrays"
        raise ZooError(
            f"{path}: found {found}, expected .npy of floating-point numbers"
        )
    return array


def _spec(config, variables, count, shares, seed, chunk_size) -> ZooSpec:
    option_types.check("chunk_size", chunk_size, int)
    parts = list(shares.values()) if isinstance(shares, Mapping) else []
    is_number = all(option_types.is_number(part) and part >= 0 for part in parts)
    if not parts or not is_number or not sum(parts) <= 1 + 1e-9:
        raise ZooError(
            f"shares: found {shares!r}, expected parts of 1 in all by name of split"
        )
    sizes = dict(zip(shares, _sizes(np.asarray(parts) * count), strict=True))
    group = GroupSpec("networks", {}, count, leaves_of(variables))
    splits = split_networks(option_types.check_seed(seed), count, sizes)
    return ZooSpec(config | {"seed": seed}, (group,), splits, chunk_size)


def _sizes(wanted: np.ndarray) -> list[int]:
    """Whole numbers near what is wanted, with the same sum, rounded.

    What is left over goes to those that would be empty, then to the largest remainders.
    """
    sizes = np.floor(wanted + 1e-9).astype(int)
    left = round(wanted.sum()) - sizes.sum()
    is_served = (sizes > 0) | (wanted == 0)
    sizes[np.lexsort((sizes - wanted, is_served))[:left]] += 1
    return sizes.tolist()


def _networks_of(source: Path) -> list[Path]:
    """Folders, or files of weights, a network each."""
    if not source.is_dir():
        raise ZooError(f"{source}: found no folder, expected one with networks")
    entries = sorted(p for p in source.iterdir() if not p.name.startswith("."))
    folders = [path for path in entries if path.is_dir()]
    files = [path for path in entries if path.suffix in WEIGHT_SUFFIXES]
    if bool(folders) == bool(files):
        raise ZooError(
            f"{source}: found {len(folders)} folders and {len(files)} files of "
            "weights, expected either, one per network"
        )
    return folders or files


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
            f"{folder}: found no weights, expected a file of "
            f"{', '.join(WEIGHT_SUFFIXES)} or a folder of orbax"
        )
    return sorted(inner)[-1]
