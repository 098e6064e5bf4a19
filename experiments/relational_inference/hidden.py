"""Hidden entities, looked for in the systems of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.relational_inference.config import ExperimentConfig
from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.hidden import find
from modmeta.relational.hidden.config import HiddenConfig
from modmeta.relational.hidden.found import SAME_SYSTEMS, HiddenEntities
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.verdict.conclusions import Verdict
from modmeta.runtime.files import atomic_write


def check(
    config: ExperimentConfig, model: RelationalModel, dataset: TrajectoryDataset
) -> None:
    """Refuses, before anything is trained, what could not be looked for.

    Raises:
      DataError: If neither model nor data allow it; the message says why.
    """
    if config.hidden == "none":
        return
    try:
        find.check(
            model,
            dataset,
            num_hidden=config.hidden,
            config=HiddenConfig(domain=config.prediction.domain),
        )
    except ValueError as error:
        raise DataError(str(error)) from error


def look(
    config: ExperimentConfig,
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    found: Relations,
    verdict: Verdict,
    was_trained_on: bool,
) -> HiddenEntities:
    """Looks for them, with the walls that are declared for predictions.

    Args:
      config: The configuration.
      model: The model.
      params: Its arrays.
      dataset: The systems.
      found: Relations found in them.
      verdict: Whether these can be believed, of modules that were trained here.
      was_trained_on: Whether the modules learned from some of them.
    """
    options = HiddenConfig(domain=config.prediction.domain)
    entities = find.find_hidden(
        model,
        params,
        dataset,
        num_hidden=config.hidden,
        config=find.with_symmetry(options, np.asarray(found.edges)),
    )
    if not config.model:  # else the verdict is on these systems, hidden ones missing
        entities = entities.believed(verdict.supported)
    return entities.with_note(SAME_SYSTEMS) if was_trained_on else entities


def write(path: Path, entities: HiddenEntities) -> None:
    """Writes all of it to one `.npz`, arrays by their names."""
    arrays = {
        name: value
        for name, value in vars(entities).items()
        if isinstance(value, np.ndarray)
    }
    with atomic_write(path) as file:
        np.savez(file, **arrays)
