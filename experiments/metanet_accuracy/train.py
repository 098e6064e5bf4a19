"""One run: zoo, training of every model, scores, and what is written about them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special

from experiments import common
from experiments.metanet_accuracy import report
from experiments.metanet_accuracy.config import ExperimentConfig, check
from experiments.metanet_accuracy.contenders import Contender, make_contenders
from experiments.metanet_accuracy.networks import Networks, read_images, read_networks
from modmeta.metanet import zoo
from modmeta.metanet.learning import prediction, scores
from modmeta.metanet.zoo import classifiers
from modmeta.runtime.checkpoint import CheckpointStore
from modmeta.runtime.metrics import MetricWriter, read_metrics
from modmeta.runtime.progress import ProgressMeter


def train_contender(
    config: ExperimentConfig,
    networks: Networks,
    name: str,
    contender: Contender,
    workdir: Path,
    progress: ProgressMeter | None,
    should_stop: Callable[[], bool],
    tensorboard: bool,
) -> prediction.FitResult:
    """Trains or resumes a model; its files go to `workdir/models/<name>`."""
    directory = workdir / "models" / name
    directory.mkdir(parents=True, exist_ok=True)
    with (
        CheckpointStore(directory / "checkpoints", max_to_keep=2) as store,
        MetricWriter(
            directory / "metrics.jsonl",
            resume_step=store.latest_step,
            tensorboard_dir=directory / "tensorboard" if tensorboard else None,
        ) as writer,
    ):
        return prediction.fit(
            contender.predictor,
            prediction.accuracy_loss,
            contender.source,
            networks.accuracies,
            networks.splits,
            contender.training,
            seed=config.seed,
            store=store,
            writer=writer,
            progress=progress,
            should_stop=should_stop,
            description=name,
        )


def score_predictions(
    config: ExperimentConfig, networks: Networks, predictions: dict[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Scores of every model on the test networks, with intervals.

    All intervals are over the same resampled networks; `*_behind_first` is how much
    better the first model is.
    """
    rows = networks.splits["test"]
    targets, families = networks.accuracies[rows], networks.families[rows]
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
        }
        if name != config.models[0]:
            for score in (scores.r_squared, scores.kendall_tau):
                found[name][f"{score.__name__}_behind_first"] = interval(
                    behind(score), targets, first, predicted
                )
    return found


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


def _is_taken(directory: Path) -> bool:
    """Whether a zoo or something else is there already."""
    if not directory.is_dir():
        return directory.exists()
    return any(not entry.name.startswith(".") for entry in directory.iterdir())


def run(
    config: ExperimentConfig,
    workdir: str | Path,
    *,
    zoo_directory: str | Path | None = None,
    progress: ProgressMeter | None = None,
    tensorboard: bool = False,
    started: float | None = None,
) -> dict[str, Any] | None:
    """Runs or resumes the experiment in a working directory.

    Args:
      config: The configuration.
      workdir: Directory of the run.
      zoo_directory: Where the zoo is or shall be; `workdir/zoo` by default.
      progress: Progress meter.
      tensorboard: Whether to write TensorBoard event files.
      started: `time.perf_counter()` at which total time starts; now by default.

    Returns:
      The summary, read back if the run is finished already; None if it was asked to
      stop and can be resumed.

    Raises:
      ValueError: If parts of the configuration do not fit each other.
      FileExistsError: If the directory holds a run of another configuration.
      ImageError: If the images are not what they should be.
      ZooError: If the zoo is damaged or of another configuration.
    """
    started = time.perf_counter() if started is None else started
    check(config)
    workdir = Path(workdir)
    directory = workdir / "zoo" if zoo_directory is None else Path(zoo_directory)
    image_set = None
    # Wrong images or a wrong zoo must not leave a working directory behind, and a
    # finished run needs neither.
    if not (workdir / common.CONFIG_FILE).exists():
        image_set = read_images(config)
        classifiers.split_of(config.zoo, image_set)
        if _is_taken(directory):
            zoo.read_spec(directory, classifiers.zoo_config(config.zoo, image_set))
    if common.prepare_workdir(workdir, config) is common.WorkdirStatus.FINISHED:
        return json.loads((workdir / common.SUMMARY_FILE).read_text())
    if image_set is None:
        image_set = read_images(config)
    with common.stop_on_signal() as stop:

        def should_stop() -> bool:
            return stop.requested

        is_complete = classifiers.generate_classifier_zoo(
            directory,
            config.zoo,
            image_set,
            progress=progress,
            should_stop=should_stop,
        )
        if not is_complete:
            return None
        zoo_seconds = time.perf_counter() - started
        networks = read_networks(directory, config, image_set)
        contenders = make_contenders(config, networks)
        results, predictions = {}, {}
        for name, contender in contenders.items():
            results[name] = train_contender(
                config,
                networks,
                name,
                contender,
                workdir,
                progress,
                should_stop,
                tensorboard,
            )
            if not results[name].is_finished:
                return None
            outputs = prediction.predict(
                contender.predictor,
                results[name].params,
                contender.source,
                networks.splits["test"],
                batch_size=contender.training.batch_size,
            )
            predictions[name] = scipy.special.expit(outputs)
    found = score_predictions(config, networks, predictions)
    summary = {
        "models": {
            name: {
                **found[name],
                "valid_loss": results[name].valid_loss,
                "num_parameters": contenders[name].num_parameters,
                "train_seconds": results[name].seconds,
            }
            for name in contenders
        },
        "zoo": describe_zoo(networks),
        **{f"num_{name}": len(rows) for name, rows in networks.splits.items()},
        "zoo_seconds": zoo_seconds,
        "seed": config.seed,
        "config": config,
    }
    records = {
        name: read_metrics(workdir / "models" / name / "metrics.jsonl")
        for name in contenders
    }
    params = {name: result.params for name, result in results.items()}
    report.write_outputs(workdir, networks, params, predictions, records, found)
    summary["total_seconds"] = time.perf_counter() - started
    common.write_summary(workdir, summary)
    return summary
