"""One run: zoo, training of every model, scores, and what is written about them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from experiments import common
from experiments.common.image_data import check_images, read_images
from experiments.common.rates import choose_rate
from experiments.common.zoos import open_zoo
from experiments.metanet_accuracy import report
from experiments.metanet_accuracy.config import (
    BOTH,
    CONFIGS,
    ExperimentConfig,
    smoke,
)
from experiments.metanet_accuracy.contenders import Contender, make_contenders
from experiments.metanet_accuracy.networks import Networks, read_networks
from modmeta.metanet import zoo
from modmeta.metanet.learning import prediction, scores
from modmeta.metanet.zoo import classifiers
from modmeta.metanet.zoo.images import ImageError


class Fitted(NamedTuple):
    """A model after training.

    Attributes:
      result: Of the training.
      learning_rate: The rate that validation networks chose.
      predicted: `[test networks]` accuracies.
    """

    result: prediction.FitResult
    learning_rate: float
    predicted: np.ndarray


def train_contender(
    config: ExperimentConfig,
    networks: Networks,
    name: str,
    contender: Contender,
    run: common.Run,
) -> dict[int, Fitted]:
    """Trains or resumes a model with all training networks (0) and some of them.

    Its files go to `models/<name>`.

    Raises:
      common.Stopped: If the user asked to stop.
    """

    def fit(place, training, count=0):
        with run.loop(place) as arguments:
            result = prediction.fit(
                contender.predictor,
                prediction.accuracy_loss,
                contender.source,
                networks.accuracies,
                config.splits(count),
                training,
                seed=config.seed,
                description=place.removeprefix("models/"),
                **arguments,
            )
        if not result.is_finished:
            raise common.Stopped
        return result

    training = contender.training
    rate = choose_rate(
        config.learning_rates,
        training,
        math.ceil(config.pilot_share * training.num_steps),
        lambda label, short: fit(f"models/{name}/pilots/{label}", short),
    )
    training = dataclasses.replace(training, learning_rate=rate)
    fitted = {}
    for count in (0, *config.counts):
        place = f"models/{name}/of_{count}" if count else f"models/{name}"
        result = fit(place, training, count)
        outputs = prediction.predict(
            contender.predictor,
            result.params,
            contender.source,
            networks.splits["test"],
            batch_size=training.batch_size,
        )
        fitted[count] = Fitted(result, rate, scipy.special.expit(outputs))
    return fitted


def parts_of(name: str) -> tuple[str, ...]:
    """The models that learn for a model of the table."""
    return BOTH if name == "gmn_and_probing" else (name,)


def predictions_of(
    config: ExperimentConfig, fitted: Mapping[str, Fitted]
) -> dict[str, np.ndarray]:
    """Predictions `[test networks]` of all models of the table, in its order."""
    return {
        name: np.mean([fitted[part].predicted for part in parts_of(name)], axis=0)
        for name in config.models
    }


def score_predictions(
    config: ExperimentConfig, networks: Networks, predictions: dict[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Scores of every model on the test networks, with intervals.

    All intervals are over the same resampled networks; `*_behind_first` is how much
    better the first model is. Networks that were hardly trained are the hardest to
    read, so scores of quarters of the networks by their training steps come besides.
    """
    rows = networks.splits["test"]
    targets, families = networks.accuracies[rows], networks.families[rows]
    num_steps = networks.num_steps[rows]
    quarters = _quarters(num_steps)
    first = predictions[config.models[0]]

    def interval(statistic, *arrays):
        return scores.bootstrap(
            statistic,
            *arrays,
            seed=config.seed,
            num_resamples=config.num_resamples,
        )._asdict()

    def behind(score):
        return lambda targets, one, other: score(targets, one) - score(targets, other)

    found = {}
    for name, predicted in predictions.items():
        found[name] = {
            "r_squared": interval(scores.r_squared, targets, predicted),
            "kendall_tau": interval(scores.kendall_tau, targets, predicted),
            "kendall_tau_within_families": interval(
                scores.kendall_tau_within, targets, predicted, families
            ),
            "kendall_tau_by_family": {
                family: scores.kendall_tau(
                    targets[families == family], predicted[families == family]
                )
                for family in np.unique(families)
            },
            "by_training_steps": [
                {
                    "fewest": num_steps[part].min(),
                    "most": num_steps[part].max(),
                    "num_networks": len(part),
                    "root_mean_squared_error": np.sqrt(
                        np.mean((targets[part] - predicted[part]) ** 2)
                    ),
                    "r_squared": interval(
                        scores.r_squared, targets[part], predicted[part]
                    ),
                    "kendall_tau": interval(
                        scores.kendall_tau, targets[part], predicted[part]
                    ),
                }
                for part in quarters
            ],
        }
        if name != config.models[0]:
            for score in (scores.r_squared, scores.kendall_tau):
                found[name][f"{score.__name__}_behind_first"] = interval(
                    behind(score), targets, first, predicted
                )
    return found


def _quarters(num_steps: np.ndarray) -> list[np.ndarray]:
    """Indices of the quarters of `[n]` networks, the least trained first.

    Networks of as many steps stay together; a quarter that has none then is left out.
    """
    ends = np.quantile(num_steps, (0.25, 0.5, 0.75))
    quarter_of = np.searchsorted(ends, num_steps)
    parts = [np.flatnonzero(quarter_of == quarter) for quarter in range(4)]
    return [part for part in parts if len(part)]


def describe_zoo(networks: Networks) -> dict[str, Any]:
    """How accurate the networks are, by family."""

    def spread(values):
        return {
            "mean": np.mean(values),
            "standard_deviation": np.std(values),
            "lowest": np.min(values),
            "highest": np.max(values),
        }

    diverged = [group.scores["is_diverged"] for group in networks.groups]
    return {
        "num_shapes": len(networks.groups),
        "num_diverged": np.concatenate(diverged).sum(),
        "accuracy": spread(networks.accuracies),
        "accuracy_by_family": {
            family: spread(networks.accuracies[networks.families == family])
            for family in np.unique(networks.families)
        },
    }


def compute(
    config: ExperimentConfig,
    run: common.Run,
    *,
    zoo_directory: str | Path | None = None,
) -> dict[str, Any] | None:
    """Zoo, training, scores, outputs; the summary, or None if stopped.

    Args:
      config: The configuration.
      run: The run.
      zoo_directory: Where the zoo is or shall be; `zoo` in the directory of the run by
        default.

    Raises:
      ImageError: If the images are not what they should be.
      ZooError: If the zoo is damaged or of another configuration.
    """
    image_set = read_images(config.images)
    classifiers.split_of(config.zoo, image_set)
    directory = open_zoo(
        run,
        zoo_directory,
        classifiers.zoo_config(config.zoo, image_set),
        functools.partial(
            classifiers.generate_classifier_zoo, config=config.zoo, image_set=image_set
        ),
    )
    if directory is None:
        return None
    zoo_seconds = run.seconds
    networks = read_networks(directory, config, image_set)
    contenders = make_contenders(config, networks)
    try:
        fitted = {
            name: train_contender(config, networks, name, contender, run)
            for name, contender in contenders.items()
        }
    except common.Stopped:
        return None
    found, predictions = {}, {}
    for count in (0, *config.counts):
        single = {name: models[count] for name, models in fitted.items()}
        predictions[count] = predictions_of(config, single)
        found[count] = score_predictions(config, networks, predictions[count])
        for name, scored in found[count].items():
            parts = [single[part].result for part in parts_of(name)]
            scored["train_seconds"] = sum(part.seconds for part in parts)
            if len(parts) == 1:
                scored["valid_loss"] = parts[0].valid_loss
    summary = {
        "models": {
            name: {
                **found[0][name],
                "learning_rates": [
                    fitted[part][0].learning_rate for part in parts_of(name)
                ],
                "num_parameters": sum(
                    contenders[part].num_parameters for part in parts_of(name)
                ),
            }
            for name in config.models
        },
        "models_by_count": {str(count): found[count] for count in config.counts},
        "zoo": describe_zoo(networks),
        **{f"num_{name}": len(rows) for name, rows in networks.splits.items()},
        "zoo_seconds": zoo_seconds,
    }
    records = {name: run.records(f"models/{name}") for name in contenders}
    params = {name: fitted[name][0].result.params for name in contenders}
    report.write_outputs(
        run.workdir, networks, params, predictions[0], records, summary
    )
    return summary


EXPERIMENT = common.Experiment(
    presets=CONFIGS,
    smoke=smoke,
    compute=compute,
    format_summary=report.format_summary,
    files="Predictions, figures",
    shown=("loss", "valid_loss"),
    check=check_images,
    refusals=(ImageError, zoo.ZooError),
)
