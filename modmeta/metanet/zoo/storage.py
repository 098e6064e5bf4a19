"""A zoo of trained networks in a directory.

`zoo.json` says what the zoo is: the configuration that generated it, its groups (the
networks of one shape) and its splits, by network. Beside it lie chunks of networks,
`<group>-<first network>.npz`, artifacts in the sense of
`modmeta.runtime.artifact`, with

* `parameters` `[n, P]`, all variables of a network in one row, in the order and with
  the shapes that `zoo.json` gives,
* `settings/<name>` `[n, ...]`, what the networks were trained with,
* `scores/<name>` `[n, ...]`, how they came out.

A chunk is complete or not there, and says which zoo it is part of.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from modmeta.metanet.zoo.specification import GroupSpec, ZooError, ZooSpec, unflatten
from modmeta.runtime.artifact import load_artifact, save_artifact
from modmeta.runtime.files import atomic_write
from modmeta.runtime.progress import NoProgress, ProgressMeter

ZOO_FILE = "zoo.json"
_CHUNK_KIND = "modmeta.zoo.chunk"


@dataclasses.dataclass(frozen=True)
class NetworkGroup:
    """Trained networks of one shape, n of them, with P parameters each.

    Attributes:
      spec: What the group is.
      parameters: `[n, P]` float32.
      settings: What the networks were trained with, `[n, ...]` by name.
      scores: How they came out, `[n, ...]` by name.
      splits: Indices into this group, `[k]` by name of the split.
    """

    spec: GroupSpec
    parameters: np.ndarray
    settings: Mapping[str, np.ndarray]
    scores: Mapping[str, np.ndarray]
    splits: Mapping[str, np.ndarray]

    def variables(self) -> dict[str, Any]:
        """Variables of all networks, leaves `[n, ...]`, views where possible."""
        return unflatten(self.spec.leaves, self.parameters)


@dataclasses.dataclass(frozen=True)
class Zoo:
    """A zoo in memory.

    Attributes:
      config: Configuration of its generator.
      groups: Networks by the name of their group.
    """

    config: Mapping[str, Any]
    groups: Mapping[str, NetworkGroup]


class Chunk(NamedTuple):
    """Networks of one file, n of them.

    Attributes:
      parameters: `[n, P]`.
      settings: `[n, ...]` by name.
      scores: `[n, ...]` by name.
    """

    parameters: Any
    settings: Mapping[str, Any]
    scores: Mapping[str, Any]


MakeChunk = Callable[[GroupSpec, np.ndarray], Chunk]


def generate_zoo(
    directory: str | os.PathLike[str],
    spec: ZooSpec,
    make_chunk: MakeChunk,
    *,
    num_workers: int = 1,
    progress: ProgressMeter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains the networks of a zoo, or those that an earlier call left out.

    Args:
      directory: Where the zoo is, or shall be.
      spec: What it is.
      make_chunk: `(group, numbers) -> chunk` trains the networks with these `[n]`
        numbers, counted through all groups. A short last chunk repeats its last number,
        so that all calls for a group have one shape; the repetitions are dropped.
      num_workers: Chunks at once, each in a thread: on a core of its own, or, while a
        device trains one, to compile the programs of others.
      progress: Progress meter, counts networks.
      should_stop: Asked before every chunk.

    Returns:
      Whether the zoo is complete; false if it was asked to stop.

    Raises:
      ZooError: If the directory holds another zoo, something that is not a zoo, or a
        damaged chunk; or if `make_chunk` gives arrays of a wrong shape or weights that
        are not finite. Nothing that was there has been changed then.
    """
    directory = Path(directory)
    _claim(directory, spec)
    progress = progress or NoProgress()
    total = sum(group.num_networks for group in spec.groups)
    missing, done = [], 0
    for group, offset in zip(spec.groups, spec.offsets, strict=True):
        for first, size in _chunks(group, spec.chunk_size):
            path = _chunk_path(directory, group, first)
            if path.exists():
                _read_chunk(path, spec, group, first, size)
                done += size
            else:
                missing.append((path, group, offset, first, size))
    if num_workers > 1:
        # Groups in turn: threads that begin together compile different programs.
        missing.sort(key=lambda chunk: chunk[3])

    def train(path, group, offset, first, size) -> int:
        """Networks that were trained, none if it was asked to stop."""
        if should_stop():
            return 0
        numbers = first + np.minimum(np.arange(spec.chunk_size), size - 1)
        chunk = make_chunk(group, offset + numbers)
        chunk = jax.tree.map(lambda leaf: np.asarray(leaf)[:size], chunk)
        _check_chunk(path, chunk, group, first, size)
        save_artifact(
            path,
            {name: part for name, part in chunk._asdict().items() if len(part)},
            kind=_CHUNK_KIND,
            metadata=_chunk_metadata(spec, group, first),
        )
        return size

    with contextlib.closing(progress):
        progress.start(total, initial=done, description="zoo")
        progress.update(done)
        for size in _as_completed(train, missing, num_workers):
            done += size
            progress.update(done)
    return done == total


def _as_completed(
    function: Callable[..., int], arguments: Iterable[tuple], num_workers: int
) -> Iterator[int]:
    """Results as they come; after a failure no further call begins.

    A single worker is the calling thread: signals are handled there alone, so that
    no call begins after one, and an interrupt ends a call that runs.
    """
    if num_workers == 1:
        yield from itertools.starmap(function, arguments)
        return
    with futures.ThreadPoolExecutor(num_workers) as pool:
        pending = [pool.submit(function, *each) for each in arguments]
        try:
            for finished in futures.as_completed(pending):
                yield finished.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def load_zoo(
    directory: str | os.PathLike[str], config: Mapping[str, Any] | None = None
) -> Zoo:
    """Reads a complete zoo.

    Args:
      directory: Where it is.
      config: Configuration that it must have, if given.

    Raises:
      ZooError: If there is no zoo, if it is of another configuration or a later
        version, or if a chunk is missing, damaged, part of another zoo, or holds
        weights that are not finite. The message names the file.
    """
    directory = Path(directory)
    spec = read_spec(directory, config)
    groups = {}
    for group, offset in zip(spec.groups, spec.offsets, strict=True):
        chunks: list[Chunk] = []
        for first, size in _chunks(group, spec.chunk_size):
            path = _chunk_path(directory, group, first)
            chunks.append(_read_chunk(path, spec, group, first, size))
            _check_same_names(path, chunks[-1], chunks[0])
        whole = jax.tree.map(lambda *parts: np.concatenate(parts), *chunks)
        groups[group.name] = NetworkGroup(
            spec=group,
            parameters=whole.parameters,
            settings=whole.settings,
            scores=whole.scores,
            splits={
                name: _within(members, offset, group.num_networks)
                for name, members in spec.splits.items()
            },
        )
    return Zoo(spec.config, groups)


def read_spec(
    directory: str | os.PathLike[str], config: Mapping[str, Any] | None = None
) -> ZooSpec:
    """Reads `zoo.json`, and no chunk.

    Args:
      directory: Where the zoo is.
      config: Configuration that it must have, if given.

    Raises:
      ZooError: If there is none, or it is damaged, of a later version or of another
        configuration.
    """
    path = Path(directory) / ZOO_FILE
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise ZooError(f"{path}: found no file, expected a zoo") from None
    try:
        spec = ZooSpec.from_json(json.loads(text))
    except json.JSONDecodeError as error:
        raise ZooError(f"{path}: found damaged JSON, expected a zoo") from error
    except ZooError as error:
        raise ZooError(f"{path}: {error}") from error
    if config is not None:
        _check_config(path, spec.config, config)
    return spec


def _claim(directory: Path, spec: ZooSpec) -> None:
    """Writes `zoo.json`, or checks the one that is there."""
    path = directory / ZOO_FILE
    wanted = spec.to_json()
    if path.exists():
        if read_spec(directory, spec.config).to_json() != wanted:
            raise ZooError(
                f"{path}: found other groups, splits or chunks under the same "
                "configuration, expected those of this generator"
            )
        return
    if directory.exists() and any(
        not entry.name.startswith(".") for entry in directory.iterdir()
    ):
        raise ZooError(
            f"{directory}: found files but no {ZOO_FILE}, expected a zoo or nothing"
        )
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(json.dumps(wanted, allow_nan=False).encode() + b"\n")


def _check_config(
    path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    expected = json.loads(json.dumps(expected))
    changed = [
        f"  {name}: found {found.get(name, 'absent')}, expected "
        f"{expected.get(name, 'absent')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if changed:
        raise ZooError(f"{path} is of another configuration:\n" + "\n".join(changed))


def _within(members: Sequence[int], offset: int, size: int) -> np.ndarray:
    """Those of some networks that are in one group, counted from its first."""
    indices = np.asarray(members, np.int64) - offset
    return indices[(indices >= 0) & (indices < size)]


def _chunks(group: GroupSpec, chunk_size: int) -> list[tuple[int, int]]:
    """First network and number of networks of every chunk."""
    return [
        (first, min(chunk_size, group.num_networks - first))
        for first in range(0, group.num_networks, chunk_size)
    ]


def _chunk_path(directory: Path, group: GroupSpec, first: int) -> Path:
    return directory / f"{group.name}-{first:06d}.npz"


def _chunk_metadata(spec: ZooSpec, group: GroupSpec, first: int) -> dict[str, Any]:
    return {"zoo": spec.digest, "group": group.name, "first": first}


def _read_chunk(
    path: Path, spec: ZooSpec, group: GroupSpec, first: int, size: int
) -> Chunk:
    try:
        arrays, metadata = load_artifact(path, kind=_CHUNK_KIND)
    except FileNotFoundError:
        raise ZooError(
            f"{path}: found no file, expected networks {first} to {first + size - 1} "
            f"of group {group.name}; generate the zoo again to train them"
        ) from None
    except ValueError as error:
        raise ZooError(
            f"{path}: found a damaged file ({error}), expected a chunk of a zoo; "
            "remove it and generate the zoo again"
        ) from error
    expected = _chunk_metadata(spec, group, first)
    for field, value in expected.items():
        if metadata.get(field) != value:
            raise ZooError(
                f"{path}: found {field} {metadata.get(field)!r}, expected {value!r} as "
                f"{ZOO_FILE} beside it says"
            )
    chunk = Chunk(
        arrays.get("parameters", np.zeros(0)),
        arrays.get("settings", {}),
        arrays.get("scores", {}),
    )
    _check_chunk(path, chunk, group, first, size)
    return chunk


def _check_chunk(
    path: Path, chunk: Chunk, group: GroupSpec, first: int, size: int
) -> None:
    found, expected = chunk.parameters.shape, (size, group.num_parameters)
    if found != expected:
        raise ZooError(f"{path}: found parameters {found}, expected {expected}")
    for part, arrays in (("settings", chunk.settings), ("scores", chunk.scores)):
        for name, array in arrays.items():
            if array.shape[:1] != (size,):
                raise ZooError(
                    f"{path}: found {part}/{name} of shape {array.shape}, expected "
                    f"{size} networks"
                )
    bad = ~np.isfinite(chunk.parameters)
    if bad.any():
        network, column = np.unravel_index(np.argmax(bad), bad.shape)
        sizes = np.cumsum([math.prod(leaf.shape) for leaf in group.leaves])
        leaf = group.leaves[int(np.searchsorted(sizes, column, side="right"))]
        raise ZooError(
            f"{path}: found {chunk.parameters[network, column]} in {leaf.path} of "
            f"network {first + network} of group {group.name}, expected finite weights"
        )


def _check_same_names(path: Path, chunk: Chunk, other: Chunk) -> None:
    found, expected = (sorted((*c.settings, *c.scores)) for c in (chunk, other))
    if found != expected:
        raise ZooError(
            f"{path}: found settings and scores {found}, expected {expected} as in the "
            "first chunk"
        )
