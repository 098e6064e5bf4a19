"""Networks of files that others made; nothing is downloaded."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.real_data.config import ExperimentConfig
from modmeta.relational import DataError, TrajectoryDataset, as_dataset
from modmeta.relational.classical import is_series
from modmeta.relational.data.validation import first_index
from modmeta.runtime.files import check_file


class Network(NamedTuple):
    """Recordings of one graph.

    Attributes:
      name: Of the network.
      dataset: Its recordings, a system each.
      series: One column of them, which classical methods see; all of it where there is
        one alone.
      is_scored_alone: Whether recordings are long enough to be scored one by one, too.
    """

    name: str
    dataset: TrajectoryDataset
    series: TrajectoryDataset
    is_scored_alone: bool


def read_networks(config: ExperimentConfig) -> list[Network]:
    """The networks of a file.

    - "netsim": `timeseries [subjects, nodes, time]`, `adjacency [receiver, sender]` of
      all subjects.
    - "dream3": per network `NAME_timeseries [perturbations, time, genes]` and
      `NAME_adjacency [target, source]`, `NAME` such as size10_ecoli1.
    - "csv": series or bodies in any form that `as_dataset` reads; with several systems,
      these are recordings of one graph. Labels are a CSV matrix without heading, row =
      receiver.

    Raises:
      DataError: If the file holds something else, or no network is asked for.
      FileNotFoundError: If there is no such file.
    """
    readers = {"netsim": _netsim, "dream3": _dream3, "csv": _csv}
    path = Path(config.file)
    if config.source != "csv":  # which may be a folder
        check_file(path)
    networks = list(readers[config.source](path, config))
    if not networks:
        raise DataError(
            f"{path}: found no network of {config.sizes} genes, expected some of them"
        )
    for network in networks:
        network.dataset.check_pairs()
    return networks


def series_of(dataset: TrajectoryDataset, name: str, lags: int) -> TrajectoryDataset:
    """One recorded column of a data set as series; the data set itself if it is one.

    Args:
      dataset: The recordings.
      name: Of the column; empty for the first velocity that was recorded, else the
        first column.
      lags: See `as_dataset`.

    Raises:
      DataError: If there is no such column.
    """
    features = dataset.features
    if is_series(dataset) and not name:
        return dataset
    names = [features.names[column] for column in features.recorded]
    if name and name not in names:
        raise DataError(f"series: found {name!r}, expected one of {names}")
    moving = [c for c in features.velocities if c not in features.derived]
    column = features.names.index(name) if name else (moving or features.recorded)[0]
    states = np.where(
        dataset.is_observed[..., None], dataset.states[..., [column]], np.nan
    )
    return as_dataset(
        states,
        labels=dataset.edges,
        feature_names=(features.names[column],),
        positions=(),
        angles=(),
        frame_interval=dataset.frame_interval,
        breaks=dataset.breaks,
        lags=lags,
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        # A broken archive would leave a file open that NumPy opened itself.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return dict(file)
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: found no .npz of arrays, expected one") from error


def _take(
    path: Path, arrays: dict[str, np.ndarray], name: str, axes: str
) -> np.ndarray:
    count = axes.count(",") + 1
    if name not in arrays:
        raise DataError(
            f"{path}: found the arrays {sorted(arrays)}, expected {name} {axes}"
        )
    if arrays[name].ndim != count:
        raise DataError(
            f"{path}: found {name} of shape {list(arrays[name].shape)}, expected {axes}"
        )
    if arrays[name].dtype.kind not in "buif":
        raise DataError(
            f"{path}: found {name} of dtype {arrays[name].dtype}, expected numbers"
        )
    return arrays[name]


def _dataset(
    path: Path, series: np.ndarray, adjacency: np.ndarray, config: ExperimentConfig
) -> TrajectoryDataset:
    """From series `[systems, time, nodes]` and what is not 0 at an edge."""
    num_nodes = series.shape[2]
    if adjacency.shape != (num_nodes, num_nodes):
        raise DataError(
            f"{path}: found an adjacency of shape {list(adjacency.shape)}, expected "
            f"{[num_nodes, num_nodes]}, as the series have {num_nodes} nodes"
        )
    _check_labels(path, adjacency)
    some = series[: config.max_systems or None, ..., None].astype(np.float32)
    labels = (adjacency != 0).astype(np.int32)
    labels = np.broadcast_to(labels, (len(some), *labels.shape))
    return as_dataset(some, labels=labels, lags=config.lags, angles=())


def _check_labels(path: Path, labels: np.ndarray) -> None:
    if not np.isfinite(labels).all():
        index = first_index(~np.isfinite(labels))
        raise DataError(
            f"{path}: found the label {labels[index]} at index {list(index)}, expected "
            "finite numbers: what is not 0 is an edge"
        )


def _netsim(path: Path, config: ExperimentConfig) -> Iterator[Network]:
    arrays = _arrays(path)
    series = _take(path, arrays, "timeseries", "[subjects, nodes, time]")
    adjacency = _take(path, arrays, "adjacency", "[receiver, sender]")
    dataset = _dataset(path, series.transpose(0, 2, 1), adjacency, config)
    yield Network("netsim", dataset, dataset, True)


def _dream3(path: Path, config: ExperimentConfig) -> Iterator[Network]:
    arrays = _arrays(path)
    names = [
        f"{size}_{kind}"
        for size in (f"size{size}" for size in config.sizes)
        for kind in sorted(
            name.removeprefix(f"{size}_").removesuffix("_timeseries")
            for name in arrays
            if name.startswith(f"{size}_") and name.endswith("_timeseries")
        )
    ]
    for name in names:
        series = _take(
            path, arrays, f"{name}_timeseries", "[perturbations, time, genes]"
        )
        adjacency = _take(path, arrays, f"{name}_adjacency", "[target, source]")
        if f"size{series.shape[2]}" != name.partition("_")[0]:
            raise DataError(
                f"{path}: found {name}_timeseries with {series.shape[2]} genes, "
                "expected as many as its name says"
            )
        dataset = _dataset(path, series, adjacency, config)
        yield Network(name, dataset, dataset, False)


def _csv(path: Path, config: ExperimentConfig) -> Iterator[Network]:
    labels = None
    if config.labels:
        labels_path = check_file(config.labels)
        if not labels_path.stat().st_size:
            raise DataError(f"{labels_path}: found an empty file, expected a matrix")
        try:
            labels = np.loadtxt(labels_path, delimiter=",", ndmin=2)
        except ValueError as error:
            raise DataError(
                f"{labels_path}: found {error}, expected numbers between commas"
            ) from error
        _check_labels(labels_path, labels)
        labels = (labels != 0).astype(np.int32)
    dataset = as_dataset(str(path), labels=labels, lags=config.lags)
    if config.max_systems:
        dataset = dataset.take(slice(0, config.max_systems))
    series = series_of(dataset, config.series, config.lags)
    is_scored_alone = dataset.num_tasks > 1 and not config.shared_graph
    yield Network(path.stem, dataset, series, is_scored_alone)
