"""Modules trained by an earlier run, for systems like those that it was trained on."""

from __future__ import annotations

import dataclasses

from experiments.relational_inference.config import ExperimentConfig
from experiments.relational_inference.datasets import Datasets
from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.inference.artifacts import load_model
from modmeta.relational.inference.features import check_time_unit
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.bank import resolve
from modmeta.relational.modules.network import ModelParams


class ModelMismatchError(ValueError):
    """A file that holds no model for these systems."""


def load(path: str) -> tuple[RelationalModel, ModelParams]:
    """Reads the `model.npz` of a run.

    Args:
      path: The file.

    Returns:
      The model, with the search options that it was trained with, and its arrays.

    Raises:
      FileNotFoundError: If there is no such file.
      ModelMismatchError: If it holds something else.
    """
    try:
        return load_model(path)
    except ValueError as error:
        raise ModelMismatchError(str(error)) from error


def check(
    path: str,
    model: RelationalModel,
    params: ModelParams,
    observed: TrajectoryDataset,
) -> None:
    """Refuses data that a model cannot read.

    Args:
      path: Where the model comes from.
      model: The model.
      params: Its arrays.
      observed: Systems to search, observed frames; they may have any size and number
        of frames, and names of features of their own.

    Raises:
      ModelMismatchError: If columns have other roles than in training, frames are at an
        interval at which the model says nothing, or time is in another unit.
    """
    try:
        model.read(observed)
        check_time_unit(observed, model.bank.layout, params.preprocessing)
    except DataError as error:
        raise ModelMismatchError(f"{path}: {error}") from error


def with_search(
    config: ExperimentConfig, datasets: Datasets, model: RelationalModel | None
) -> ExperimentConfig:
    """The same with the search that suits the systems for "auto".

    Args:
      config: The configuration.
      datasets: Its data.
      model: The model, where one is given; None where it is to be trained.

    Raises:
      DataError: If there is no model of these columns.
    """
    if model is None:
        try:
            modules = resolve(config.modules, datasets.observed.features)
        except ValueError as error:
            raise DataError(str(error)) from error
        is_additive = modules.node_update == "additive"
    else:
        is_additive = model.bank.is_additive
    sizes = [part.num_nodes.max() for part in (datasets.train, datasets.observed)]
    inference = config.inference.resolved(
        int(max(sizes)), config.energy, is_additive=is_additive
    )
    return dataclasses.replace(config, inference=inference)
