"""Trained models as one `.npz` file that plain NumPy reads, and back."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from modmeta.relational.data import FeatureSpec
from modmeta.relational.data.normalization import Normalization
from modmeta.relational.inference.model import (
    ModelParams,
    RelationalModel,
    SearchConfig,
)
from modmeta.relational.modules.bank import ModuleBank, ModuleParams
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.preprocessing import FeatureLayout, Preprocessing
from modmeta.relational.modules.proposal_head import ProposalConfig
from modmeta.runtime.checkpoint import load_artifact, save_artifact

MODEL_KIND = "modmeta.relational_model"


def save_model(
    path: str | os.PathLike[str], model: RelationalModel, params: ModelParams
) -> None:
    """Writes the trained arrays and the options that give them meaning.

    Args:
      path: File to write; one that exists is replaced in one step.
      model: The model.
      params: Its arrays.
    """
    params = jax.device_get(params)
    constants = params.preprocessing._asdict()
    constants["normalization"] = params.preprocessing.normalization._asdict()
    arrays = {
        "edge_modules": _flatten(params.modules.edge),
        "node_modules": _flatten(params.modules.node),
        "log_scale": params.modules.log_scale,
        "preprocessing": constants,
    }
    if params.proposal:
        arrays["proposal_head"] = _flatten(params.proposal)
    metadata = {
        "modules": dataclasses.asdict(model.bank.config),
        "layout": dataclasses.asdict(model.bank.layout),
        "proposal": dataclasses.asdict(model.proposal),
        "search": dataclasses.asdict(model.search),
    }
    save_artifact(path, arrays, kind=MODEL_KIND, metadata=metadata)


def load_model(path: str | os.PathLike[str]) -> tuple[RelationalModel, ModelParams]:
    """Reads what `save_model` wrote.

    Args:
      path: File to read.

    Returns:
      The model and its arrays.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If the file is damaged, holds something else, or comes from a version
        with other arrays or options.
    """
    arrays, metadata = load_artifact(path, kind=MODEL_KIND)
    try:
        return _rebuild(arrays, metadata)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"model: found {os.fspath(path)} of another version ({error}), expected "
            "arrays and options of this one; train it again"
        ) from error


def _rebuild(arrays: Any, metadata: Any) -> tuple[RelationalModel, ModelParams]:
    arrays = jax.tree.map(jnp.asarray, arrays)
    constants = dict(arrays["preprocessing"])
    constants["normalization"] = Normalization(**constants["normalization"])
    layout = metadata["layout"]
    layout = FeatureLayout(
        FeatureSpec(**{name: tuple(value) for name, value in layout["spec"].items()}),
        tuple(layout["predicted"]),
        layout["compress"],
    )
    # Files from before there was a choice hold what the paper has.
    options = {"node_update": "mlp", **metadata["modules"]}
    for name in ("edge_sizes", "node_sizes"):
        options[name] = tuple(options[name])
    model = RelationalModel(
        ModuleBank(ModuleConfig(**options), layout),
        ProposalConfig(**metadata["proposal"]),
        SearchConfig(**metadata["search"]),
    )
    params = ModelParams(
        modules=ModuleParams(
            edge=_unflatten(arrays["edge_modules"]),
            node=_unflatten(arrays["node_modules"]),
            log_scale=arrays["log_scale"],
        ),
        proposal=_unflatten(arrays.get("proposal_head", {})),
        preprocessing=Preprocessing(**constants),
    )
    return model, params


def _flatten(tree: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep=".")


def _unflatten(arrays: dict[str, Any]) -> Any:
    return traverse_util.unflatten_dict(arrays, sep=".")
