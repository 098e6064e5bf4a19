"""One run: zoo, training of every reader, scores, modules of trained banks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import common
from experiments.common.zoos import open_zoo
from experiments.metanet_modules import law_zoo, report, transfer
from experiments.metanet_modules.config import CONFIGS, ExperimentConfig, smoke
from experiments.metanet_modules.law_zoo import LawNetworks
from experiments.metanet_modules.readers import (
    Contender,
    law_objective,
    make_contenders,
    targets_of,
)
from experiments.metanet_modules.scores import Readings, readings_of, score_reader
from modmeta.metanet import zoo
from modmeta.metanet.learning import prediction


class Trained(NamedTuple):
    """A reader after training.

    Attributes:
      result: Of the learning rate that validation networks chose.
      learning_rate: That rate.
      name: Directory of its training.
    """

    result: prediction.FitResult
    learning_rate: float
    name: str


def read_zoo(directory: Path, config: ExperimentConfig) -> LawNetworks:
    """The networks, with as few training networks as the configuration says."""
    networks = law_zoo.read_networks(directory, config.zoo)
    if config.num_train:
        members = networks.splits["train"][: config.num_train]
        networks.splits["train"] = members
    return networks


def train_reader(
    config: ExperimentConfig,
    networks: LawNetworks,
    name: str,
    contender: Contender,
    run: common.Run,
) -> Trained | None:
    """Trains or resumes a reader with every learning rate; None if stopped."""
    source = contender.source(networks.rows, networks.rows[networks.splits["train"]])
    tried = []
    for rate in contender.learning_rates:
        place = f"models/{name}/{rate:g}"
        with run.loop(place) as arguments:
            result = prediction.fit(
                contender.predictor,
                law_objective(config.constant_weight),
                source,
                targets_of(networks),
                networks.splits,
                dataclasses.replace(contender.training, learning_rate=rate),
                seed=config.seed,
                description=name,
                **arguments,
            )
        if not result.is_finished:
            return None
        tried.append(Trained(result, rate, place))
    return min(tried, key=lambda trained: trained.result.valid_loss)


def read(
    contender: Contender, trained: Trained, rows: np.ndarray, known: np.ndarray
) -> Readings:
    """What a reader says about networks `[k, P]`; features as of `known` `[m, P]`."""
    outputs = prediction.predict(
        contender.predictor,
        trained.result.params,
        contender.source(rows, known),
        np.arange(len(rows)),
        batch_size=contender.training.batch_size,
    )
    return readings_of(outputs)


def compute(
    config: ExperimentConfig,
    run: common.Run,
    *,
    zoo_directory: str | Path | None = None,
    models: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Zoo, training, scores, outputs; the summary, or None if stopped.

    Args:
      config: The configuration.
      run: The run.
      zoo_directory: Where the zoo is or shall be; `zoo` in the directory of the run by
        default.
      models: Models of the relational system whose modules are read, too.

    Raises:
      ModelError: If a model cannot be read.
      ZooError: If the zoo is damaged or of another configuration.
    """
    modules = transfer.read_modules(models, config.zoo.shape)
    directory = open_zoo(
        run,
        zoo_directory,
        law_zoo.zoo_config(config.zoo),
        functools.partial(law_zoo.generate_law_zoo, config=config.zoo),
    )
    if directory is None:
        return None
    zoo_seconds = run.seconds
    networks = read_zoo(directory, config)
    topology = config.zoo.shape.topology()
    contenders = make_contenders(config, networks, topology)
    targets = {
        name: jax.tree.map(lambda leaf, rows=rows: leaf[rows], targets_of(networks))
        for name, rows in networks.splits.items()
    }
    known = networks.rows[networks.splits["train"]]
    summary: dict[str, Any] = {"models": {}}
    found, of_banks = {}, {}
    for name, contender in contenders.items():
        trained = train_reader(config, networks, name, contender, run)
        if trained is None:
            return None
        readings = {
            split: read(contender, trained, networks.rows[rows], known)
            for split, rows in networks.splits.items()
            if split != "train"
        }
        found[name] = readings["test"]
        if modules:
            rows = np.stack([module.row for module in modules])
            of_banks[name] = read(contender, trained, rows, known)
        summary["models"][name] = {
            **score_reader(
                readings["test"],
                targets["test"],
                readings["valid"],
                targets["valid"],
                seed=config.seed,
                num_resamples=config.num_resamples,
            ),
            "valid_loss": trained.result.valid_loss,
            "learning_rate": trained.learning_rate,
            "num_parameters": contender.num_parameters,
            "train_seconds": trained.result.seconds,
        }
        report.write_model(run.workdir / "models" / name, trained.result.params)
    errors = networks.fit_errors
    summary |= {
        "bank_modules": transfer.describe(modules, of_banks),
        "fit_error_median": np.median(errors),
        "fit_error_90": np.quantile(errors, 0.9),
        **{f"num_{name}": len(rows) for name, rows in networks.splits.items()},
        "num_edges": topology.num_edges,
        "zoo_seconds": zoo_seconds,
    }
    report.write_outputs(run.workdir, networks, targets["test"], found)
    return summary


EXPERIMENT = common.Experiment(
    presets=CONFIGS,
    smoke=smoke,
    compute=compute,
    format_summary=report.format_summary,
    files="Readings, figures",
    shown=("loss", "valid_loss"),
    refusals=(zoo.ZooError, transfer.ModelError),
)
