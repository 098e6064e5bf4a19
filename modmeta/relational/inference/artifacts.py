"""Trained models as one `.npz` file that plain NumPy reads, and back."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from modmeta.graphs import supergraphs
from modmeta.relational.data import FeatureSpec
from modmeta.relational.data.neighbors import CandidateConfig
from modmeta.relational.data.normalization import Normalization
from modmeta.relational.energies.config import EnergyConfig
from modmeta.relational.inference.config import MemoryConfig, MoveConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.bank import ModuleBank, ModuleParams
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.network import ModelParams, RelationalNetwork
from modmeta.relational.modules.preprocessing import FeatureLayout, Preprocessing
from modmeta.relational.modules.proposal_head import ProposalConfig
from modmeta.runtime.artifact import load_artifact, save_artifact

MODEL_KIND = "modmeta.relational_model"
# A result, which holds its model.
RESULT_KIND = "modmeta.relational_inference"
# What the outputs of a law are; the arrays mean something else under another rule.
_LAW_FORM = "size and sign, saturated"
_BOUND_LAW_FORM = "size and sign, saturated far beyond the bounds"


def save_model(
    path: str | os.PathLike[str], model: RelationalModel, params: ModelParams
) -> None:
    """Writes the trained arrays and the options that give them meaning.

    Args:
      path: File to write; one that exists is replaced in one step.
      model: The model.
      params: Its arrays.
    """
    arrays, metadata = describe_model(model, params)
    save_artifact(path, arrays, kind=MODEL_KIND, metadata=metadata)


def describe_model(
    model: RelationalModel, params: ModelParams
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of a model by name, and its options as JSON holds them."""
    params = jax.device_get(params)
    constants = params.preprocessing._asdict()
    constants["normalization"] = params.preprocessing.normalization._asdict()
    arrays = {
        "edge_modules": _flatten(params.modules.edge),
        "node_modules": _flatten(params.modules.node),
        "log_scale": params.modules.log_scale,
        "preprocessing": constants,
    }
    if params.modules.spreads is not None:
        arrays["spreads"] = params.modules.spreads
    if params.proposal:
        arrays["proposal_head"] = _flatten(params.proposal)
    metadata = {
        "modules": dataclasses.asdict(model.bank.config),
        "layout": dataclasses.asdict(model.bank.layout),
        "proposal": dataclasses.asdict(model.network.proposal),
        "energy": dataclasses.asdict(model.energy),
        "moves": dataclasses.asdict(model.moves),
        "candidates": dataclasses.asdict(model.candidates),
        "memory": dataclasses.asdict(model.memory),
        "law_form": _law_form(model.bank.config.max_rate),
    }
    return arrays, metadata


def load_model(path: str | os.PathLike[str]) -> tuple[RelationalModel, ModelParams]:
    """Reads what `save_model` wrote, or the model of a saved result.

    Args:
      path: File to read.

    Returns:
      The model and its arrays.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If the file is damaged, holds something else, or comes from a version
        with other arrays or options.
    """
    arrays, metadata = load_artifact(path, kind=(MODEL_KIND, RESULT_KIND))
    try:
        if "model" in metadata:
            arrays, metadata = arrays["model"], metadata["model"]
        return rebuild_model(arrays, metadata)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"model: found {os.fspath(path)} of another version ({error}), expected "
            "arrays and options of this one; train it again"
        ) from error


def rebuild_model(arrays: Any, metadata: Any) -> tuple[RelationalModel, ModelParams]:
    """A model of what `describe_model` gave.

    Raises:
      KeyError: Or TypeError, if it comes from a version with other arrays or options.
      ValueError: If its proposal head has another architecture, its laws have another
        form, or an array holds NaN.
    """
    for name, leaf in _flatten(arrays).items():
        # Constants may be infinite, but nothing is NaN.
        if np.isnan(leaf).any():
            raise ValueError(
                f"model: found NaN in {name}, expected numbers: train it again"
            )
    arrays = jax.device_put(arrays)
    constants = dict(arrays["preprocessing"])
    constants["normalization"] = Normalization(**constants["normalization"])
    layout = metadata["layout"]
    layout = FeatureLayout(
        FeatureSpec(**{name: tuple(value) for name, value in layout["spec"].items()}),
        tuple(layout["predicted"]),
        layout["compress"],
        layout.get("frame_interval", 0.0),
        layout.get("apparent_interval", 0.0),
        tuple(map(tuple, layout.get("key_columns", ()))),
    )
    # Files from before there was a choice hold what the paper has.
    options = {"node_update": "mlp", "path": "start", "entities": "alike"}
    options |= metadata["modules"]
    form = metadata.get("law_form", "of an earlier version")
    expected = _law_form(options.get("max_rate", 0.0))
    if options["path"] != "start" and form != expected:
        raise ValueError(
            f"model: found laws {form!r}, expected {expected!r}: train it again"
        )
    for name in ("edge_sizes", "node_sizes"):
        options[name] = tuple(options[name])
    if "search" in metadata:
        metadata = {**metadata, **_split_search_options(metadata["search"])}
    model = RelationalModel(
        RelationalNetwork(
            ModuleBank(ModuleConfig(**options), layout),
            ProposalConfig(**metadata["proposal"]),
        ),
        EnergyConfig(**metadata["energy"]),
        MoveConfig(**metadata["moves"]),
        CandidateConfig(**metadata["candidates"]),
        MemoryConfig(**metadata["memory"]),
    )
    params = ModelParams(
        modules=ModuleParams(
            edge=_unflatten(arrays["edge_modules"]),
            node=_unflatten(arrays["node_modules"]),
            log_scale=arrays["log_scale"],
            spreads=arrays.get("spreads"),
        ),
        proposal=_unflatten(arrays.get("proposal_head", {})),
        preprocessing=Preprocessing(**constants),
    )
    _check_head(model, params)
    return model, params


def _law_form(max_rate: float) -> str:
    return _BOUND_LAW_FORM if max_rate else _LAW_FORM


def _check_head(model: RelationalModel, params: ModelParams) -> None:
    """Refuses heads of another architecture, such as those of one number of frames."""
    pair = supergraphs.build_supergraph([2], supergraphs.padding_budget([2], 1))
    expected = jax.eval_shape(
        lambda: model.network.init(jax.random.key(0), params.preprocessing, pair)
    )
    found, wanted = (
        {name: leaf.shape for name, leaf in _flatten(tree.proposal).items()}
        for tree in (params, expected)
    )
    if found != wanted:
        different = sorted(set(found.items()) ^ set(wanted.items()))[0][0]
        raise ValueError(
            f"model: found a proposal head whose {different} has shape "
            f"{found.get(different)}, expected {wanted.get(different)}; heads of "
            "earlier versions were made for one number of frames: train it again"
        )


def _split_search_options(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of files from before they were told apart by their job."""
    options = dict(options)
    energy = {"form": options.pop("energy")}
    energy |= {name: options.pop(name) for name in ("horizon", "prior", "prior_weight")}
    candidates = {name: options.pop(name) for name in ("num_neighbors", "radius")}
    memory = {"messages": options.pop("messages")}
    return {
        "energy": energy,
        "candidates": candidates,
        "memory": memory,
        "moves": options,
    }


def _flatten(tree: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep=".")


def _unflatten(arrays: dict[str, Any]) -> Any:
    return traverse_util.unflatten_dict(arrays, sep=".")
