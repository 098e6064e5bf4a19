"""Results as one `.npz` file that plain NumPy reads, and back, in any process."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from modmeta.relational.data import FeatureSpec, TrajectoryDataset
from modmeta.relational.data.dataset import NO_EDGE
from modmeta.relational.data.validation import first_index
from modmeta.relational.discovery import Discovery
from modmeta.relational.inference.artifacts import (
    MODEL_KIND,
    RESULT_KIND,
    describe_model,
    rebuild_model,
)
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.relations import Relations
from modmeta.relational.verdict.conclusions import Verdict
from modmeta.relational.verdict.stretches import Stretches
from modmeta.runtime.artifact import load_artifact, save_artifact
from modmeta.runtime.files import npz_path

_ARRAYS = ("states", "node_mask", "edges", "frame_mask", "times", "breaks")
_TEXTS = (
    "frame_interval",
    "num_relations",
    "system_names",
    "node_names",
    "key_columns",
    "notes",
)


def save(
    path: str | os.PathLike[str],
    dataset: TrajectoryDataset,
    discovery: Discovery,
    inference: dict[str, Any],
) -> Path:
    """Writes data, model, relations and verdict.

    Args:
      path: File to write; `.npz` is added where it is missing. One that exists is
        replaced in one step.
      dataset: The systems.
      discovery: Model, relations and verdict.
      inference: Options of the search.

    Returns:
      The file that was written.

    Raises:
      ValueError: If `path` is no path.
    """
    path = npz_path(path)
    model_arrays, model = describe_model(discovery.model, discovery.params)
    data_arrays = {
        name: getattr(dataset, name)
        for name in _ARRAYS
        if getattr(dataset, name) is not None
    }
    arrays = {
        "model": model_arrays,
        "dataset": data_arrays,
        "found": jax.device_get(discovery.found)._asdict(),
        "settled": jax.device_get(discovery.settled)._asdict(),
    }
    if discovery.stretches is not None:
        arrays["stretches"] = discovery.stretches._asdict()
    verdict = discovery.verdict
    metadata = {
        "model": model,
        "dataset": {name: getattr(dataset, name) for name in _TEXTS},
        "features": dataclasses.asdict(dataset.features),
        "verdict": None if verdict is None else verdict.to_dict(),
        "inference": {**inference, "options": dict(inference["options"])},
    }
    save_artifact(path, arrays, kind=RESULT_KIND, metadata=metadata)
    return path


def read(
    path: str | os.PathLike[str],
) -> tuple[TrajectoryDataset, Discovery, InferenceConfig]:
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If the file is damaged, holds something else, or comes from a version
        with other arrays or options.
    """
    arrays, metadata = load_artifact(path, kind=(RESULT_KIND, MODEL_KIND))
    if "model" not in metadata:
        raise ValueError(
            f"{os.fspath(path)}: found a model without data, expected what result.save "
            "writes; load_model reads it, and --model= in a shell applies it"
        )
    try:
        features = {
            name: tuple(tuple(e) if isinstance(e, list) else e for e in entries)
            for name, entries in metadata["features"].items()
        }
        dataset = TrajectoryDataset(
            features=FeatureSpec(**features),
            **arrays["dataset"],
            **metadata["dataset"],
        )
        found = Relations(**arrays["found"])
        settled = Relations(**arrays["settled"])
        num_relations = metadata["model"]["modules"]["num_relations"]
        for name, relations in (("found", found), ("settled", settled)):
            _check_relations(path, name, relations, dataset, num_relations)
        model, params = rebuild_model(arrays["model"], metadata["model"])
        verdict = metadata["verdict"]
        if verdict is not None:
            verdict = Verdict(**{**verdict, "effects": tuple(verdict["effects"])})
        inference = InferenceConfig(**metadata["inference"])
        stretches = arrays.get("stretches")
        stretches = None if stretches is None else Stretches(**stretches)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"result: found {os.fspath(path)} of another version ({error}), expected "
            "arrays and options of this one; infer it again"
        ) from error
    discovery = Discovery(model, params, found, settled, verdict, stretches)
    return dataset, discovery, inference


def _check_relations(
    path: str | os.PathLike[str],
    name: str,
    relations: Relations,
    dataset: TrajectoryDataset,
    num_relations: int,
) -> None:
    """Raises a ValueError if relations are not those of the data under the model."""
    shape = (*dataset.node_mask.shape, dataset.max_nodes)
    edges = np.asarray(relations.edges)
    if edges.shape != shape:
        raise ValueError(
            f"{os.fspath(path)}: {name}/edges: found shape {edges.shape}, expected "
            f"{shape}, as the data have it"
        )
    wrong = (edges < NO_EDGE) | (edges >= num_relations)
    if wrong.any():
        index = first_index(wrong)
        raise ValueError(
            f"{os.fspath(path)}: {name}/edges: found {edges[index]} at index "
            f"{list(index)}, expected {NO_EDGE} to {num_relations - 1}"
        )
