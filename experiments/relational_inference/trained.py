"""Modules trained by an earlier run, for systems like those that it was trained on."""

from __future__ import annotations

from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.inference.artifacts import load_model
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.network import ModelParams


class ModelMismatchError(ValueError):
    """A file that holds no model for these systems."""


def load(path: str, observed: TrajectoryDataset) -> tuple[RelationalModel, ModelParams]:
    """Reads the `model.npz` of a run and checks it against data.

    Args:
      path: The file.
      observed: Systems to search, observed frames; they may have any size and number
        of frames.

    Returns:
      The model, with the search options that it was trained with, and its arrays.

    Raises:
      FileNotFoundError: If there is no such file.
      ModelMismatchError: If it holds something else, or was trained on other
        features.
    """
    try:
        model, params = load_model(path)
    except ValueError as error:
        raise ModelMismatchError(str(error)) from error
    features = model.bank.layout.spec
    if observed.features != features:
        raise ModelMismatchError(
            f"model: found {path} trained on {features}, expected {observed.features}"
        )
    return model, params
