"""Results as one `.npz` file that plain NumPy reads, and back, in any process."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax

from modmeta.relational.data import FeatureSpec, TrajectoryDataset
from modmeta.relational.discovery import Discovery
from modmeta.relational.evaluation.stretches import Stretches
from modmeta.relational.evaluation.verdict import Verdict
from modmeta.relational.inference.artifacts import (
    MODEL_KIND,
    RESULT_KIND,
    describe_model,
    rebuild_model,
)
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.relations import Relations
from modmeta.runtime.artifact import load_artifact, save_artifact

_ARRAYS = ("states", "node_mask", "edges", "frame_mask", "times", "breaks")
_TEXTS = (
    "frame_interval",
    "num_relations",
    "system_names",
    "node_names",
    "notes",
)


def save(
    path: str | os.PathLike[str],
    dataset: TrajectoryDataset,
    discovery: Discovery,
    inference: dict[str, Any],
) -> None:
    """Writes data, model, relations and verdict.

    Args:
      path: File to write; it must end in `.npz`. One that exists is replaced in one
        step.
      dataset: The systems.
      discovery: Model, relations and verdict.
      inference: Options of the search.

    Raises:
      ValueError: If the path does not end in `.npz`.
    """
    if os.path.splitext(os.fspath(path))[1] != ".npz":
        raise ValueError(
            f"path: found {os.fspath(path)!r}, expected a name ending in .npz"
        )
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
        model, params = rebuild_model(arrays["model"], metadata["model"])
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
