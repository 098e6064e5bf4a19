"""Modules that were trained in a bank, read from saved relational models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.metanet_modules import laws
from experiments.metanet_modules.scores import Readings
from modmeta import networks
from modmeta.metanet import zoo
from modmeta.relational.inference.artifacts import load_model
from modmeta.relational.modules.laws import units_of


class ModelError(ValueError):
    """A model whose modules cannot be read: names the file, the finding, the need."""


class BankModule(NamedTuple):
    """One edge module of a bank.

    Attributes:
      model: File that it comes from.
      index: Its number in the bank.
      row: `[P]` its parameters, as `laws.NetworkShape` has them.
      length_unit: Distance in the user's units at which a law has x = 1; 1 for angles.
      rate_unit: Rate in the user's units where that of the network is 1.
    """

    model: str
    index: int
    row: np.ndarray
    length_unit: float
    rate_unit: float

    def in_users_units(self, law: int, constants: np.ndarray) -> dict[str, Any]:
        """Strength and length `[2]` of a law in the user's units, None without one."""
        strength = constants[0] * self.rate_unit
        strength *= self.length_unit ** -float(laws.LAWS[law].degree)
        return {
            "strength": float(strength) if laws.HAS_STRENGTH[law] else None,
            "length": float(constants[1] * self.length_unit)
            if laws.HAS_LENGTH[law]
            else None,
        }


def read_modules(paths: Sequence[str], shape: laws.NetworkShape) -> list[BankModule]:
    """Edge modules of several models, null relations left out.

    Args:
      paths: Files that `experiments.relational_inference` wrote.
      shape: Shape that readers know.

    Raises:
      ModelError: If a file is no model, or its modules are of another shape or depend
        on more than a distance or an angle.
    """
    modules = []
    for path in paths:
        modules += _modules_of(path, shape)
    return modules


def _modules_of(path: str, shape: laws.NetworkShape) -> list[BankModule]:
    try:
        model, params = load_model(path)
    except FileNotFoundError:
        raise ModelError(f"models: found no file {path}, expected a model") from None
    except ValueError as error:
        raise ModelError(f"models: {path}: {error}") from error
    bank = model.bank
    found = (bank.config.edge_sizes, bank.config.activation)
    if found != (shape.sizes, shape.activation):
        raise ModelError(
            f"models: {path}: found modules with layers {found[0]} and {found[1]}, "
            f"expected {shape.sizes} and {shape.activation}, as in the zoo"
        )
    spec = bank.layout.spec
    law = bank.laws.law if bank.has_laws else None
    is_distance = law is not None and law.num_outputs == 1 and law.is_spatial
    is_angle = law is not None and not law.is_spatial and len(spec.angles) == 1
    if law is None or not (is_distance or is_angle) or law.columns():
        raise ModelError(
            f"models: {path}: found modules that depend on more than one distance or "
            "one angle, expected central or mutual laws without attributes, or one "
            "angle"
        )
    units = units_of(law, params.preprocessing, bank.laws.span)
    constants = params.preprocessing
    interval = bank.layout.frame_interval or 1.0
    if is_distance:
        scale = constants.normalization.scale[spec.positions[0]]
        length_unit = float(scale * constants.position_scale)
        power = 2 if spec.velocities else 1
        rate_unit = float(units.acceleration) * length_unit / interval**power
        inverse_limit = float(units.acceleration / units.limit)
    else:
        turning = law.layout.num_targets - 1
        length_unit, inverse_limit = 1.0, 0.0
        rate_unit = float(units.others * constants.target_scale[turning]) / interval
    first = int(bank.config.null_relation)
    modules = []
    for index in range(first, bank.config.num_relations):
        layers = networks.copy_of(params.modules.edge, index)["rate_network"]
        variables = {
            "params": {"inverse_limit": np.float32(inverse_limit), "network": layers}
        }
        row = zoo.flatten(jax.tree.map(lambda leaf: np.asarray(leaf)[None], variables))
        modules.append(BankModule(path, index, row[0], length_unit, rate_unit))
    return modules


def describe(
    modules: Sequence[BankModule], readings: Mapping[str, Readings]
) -> list[dict[str, Any]]:
    """What every reader says about every module, in the user's units.

    Args:
      modules: The modules.
      readings: Of all modules, by reader.
    """
    rows = []
    for place, module in enumerate(modules):
        for reader, found in readings.items():
            law = int(found.laws[place])
            rows.append(
                {
                    "model": str(Path(module.model)),
                    "module": module.index,
                    "reader": reader,
                    "law": laws.LAW_NAMES[law],
                    "probability": float(found.probabilities[place]),
                    **module.in_users_units(law, found.constants[place]),
                }
            )
    return rows
