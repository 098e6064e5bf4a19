"""Relations that change within a recording: stretches in place of recordings."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from experiments.relational_inference.config import ExperimentConfig
from experiments.relational_inference.datasets import Datasets
from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.verdict import stretches
from modmeta.relational.verdict.stretches import Stretches


def without_labels(config: ExperimentConfig, datasets: Datasets) -> Datasets:
    """The data of a run in which relations may change: labels are of whole recordings.

    Raises:
      DataError: If recordings share one graph, or are too short to tell.
    """
    try:
        stretches.check_changing(datasets.observed.num_frames, config.data.shared_graph)
    except ValueError as error:
        raise DataError(str(error)) from error
    everything = datasets.everything
    return datasets._replace(
        train=datasets.train.without_labels(),
        test=datasets.test.without_labels(),
        everything=None if everything is None else everything.without_labels(),
    )


def on_stretches(
    config: ExperimentConfig,
    datasets: Datasets,
    model: RelationalModel,
    params: ModelParams,
) -> tuple[Datasets, Stretches]:
    """Finds when relations change.

    Returns:
      The data, with all stretches in place of all systems, and of the test systems the
      last stretch, which their future follows; and what the stretches are.
    """
    whole = datasets.everything
    rows = datasets.test_rows
    if whole is None or rows is None:
        whole = datasets.observed
        rows = np.arange(whole.num_tasks)
    key = jax.random.fold_in(jax.random.key(config.seed), 100)
    parts = stretches.find_stretches(key, model, params, whole, config.inference)
    # Stretches of a recording lie one after another.
    last = np.searchsorted(parts.tasks, rows, side="right") - 1
    frames = np.arange(datasets.test.num_frames)
    test = datasets.test.seen(frames >= parts.starts[last][:, None])
    found = datasets._replace(test=test, everything=parts.of(whole), test_rows=last)
    return found, parts


def describe(parts: Stretches, dataset: TrajectoryDataset) -> list[dict[str, Any]]:
    """Every stretch for `summary.json`: recording, first frame, frame after its last.

    Args:
      parts: The stretches.
      dataset: The stretches as tasks.
    """
    return [
        {"system": name, "start": int(start), "stop": int(stop)}
        for name, start, stop in zip(
            parts.names(dataset), parts.starts, parts.stops, strict=True
        )
    ]
