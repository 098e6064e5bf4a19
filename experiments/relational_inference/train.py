"""One run: data, meta-training or a trained model, meta-test, and what is written.

Training runs on one device. The meta-test may be spread over a mesh; with several
processes every one of them searches and scores, and the first one writes.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import common
from experiments.relational_inference import report, trained
from experiments.relational_inference.config import ExperimentConfig
from experiments.relational_inference.datasets import Datasets, make_datasets
from experiments.relational_inference.meta_test import meta_test
from modmeta.relational.evaluation import scores
from modmeta.relational.inference import infer
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.structures import TaskStructures
from modmeta.relational.training import meta_training, setup
from modmeta.relational.training.meta_training import TrainResult
from modmeta.runtime import devices
from modmeta.runtime.checkpoint import CheckpointStore
from modmeta.runtime.metrics import MetricWriter, read_metrics
from modmeta.runtime.progress import ProgressMeter


def meta_train(
    config: ExperimentConfig,
    datasets: Datasets,
    workdir: Path,
    progress: ProgressMeter | None,
    should_stop: Callable[[], bool],
    tensorboard: bool,
) -> tuple[RelationalModel, TrainResult]:
    """Trains or resumes; checkpoints and metrics go to the working directory."""
    train_set, valid_set = setup.split_validation(
        datasets.train.without_labels(), config.seed
    )
    model, params = setup.build_model(
        train_set,
        jax.random.fold_in(jax.random.key(config.seed), 0),
        modules=config.modules,
        proposal=config.proposal,
        **config.search_options,
        baseline=config.baseline,
        compress=config.compress,
    )
    observed = datasets.observed
    label_metrics = None
    if observed.edges is not None:

        def label_metrics(found):
            return scores.label_scores(found, observed, model.num_relations)

    with CheckpointStore(workdir / "checkpoints", max_to_keep=2) as store:
        with MetricWriter(
            workdir / "metrics.jsonl",
            resume_step=store.latest_step,
            tensorboard_dir=workdir / "tensorboard" if tensorboard else None,
        ) as writer:
            result = meta_training.train(
                model,
                params,
                train_set,
                valid_set,
                config.bouncegrad,
                config.training,
                seed=config.seed,
                warm_set=observed.without_labels(),
                store=store,
                writer=writer,
                progress=progress,
                should_stop=should_stop,
                label_metrics=label_metrics,
            )
    return model, result


class Trained(NamedTuple):
    """What the meta-test starts from.

    Attributes:
      model: The model.
      params: Its trained arrays.
      warm: Structures annealed beside training; None if the model came from a file.
      summary: What `summary.json` says about the training.
    """

    model: RelationalModel
    params: ModelParams
    warm: TaskStructures | None
    summary: dict[str, Any]


def _trained(
    config: ExperimentConfig, datasets: Datasets, *options: Any
) -> Trained | None:
    """Loads the model that the configuration names, or trains one; None if stopped."""
    if config.model:
        model, params = trained.load(config.model, datasets.observed)
        model = dataclasses.replace(model, **config.search_options)
        return Trained(model, params, None, {})
    model, result = meta_train(config, datasets, *options)
    if not result.is_finished:
        return None
    warm = result.state.followed["warm"]
    summary = {
        "num_train": datasets.train.num_tasks,
        "valid_energy": float(result.state.best.score),
        "num_steps": int(result.state.bouncegrad.step),
        "train_seconds": float(result.seconds),
    }
    return Trained(model, result.params, warm, summary)


def _claim(
    config: ExperimentConfig, workdir: Path
) -> tuple[common.WorkdirStatus, Datasets | None]:
    """Claims the directory; also the data, if they were looked at for that."""
    # Bad data must not leave a working directory behind, and a finished run need not
    # wait for data.
    datasets = None
    if not (workdir / common.CONFIG_FILE).exists():
        datasets = make_datasets(config.data, config.seed)
    return common.prepare_workdir(workdir, config), datasets


def run(
    config: ExperimentConfig,
    workdir: str | Path,
    *,
    mesh: Mesh | None = None,
    progress: ProgressMeter | None = None,
    tensorboard: bool = False,
    started: float | None = None,
) -> dict[str, Any] | None:
    """Runs or resumes the experiment in a working directory.

    Args:
      config: The configuration.
      workdir: Directory of the run; with several processes that of the first one.
      mesh: Devices that share the meta-test, see `modmeta.runtime.devices`; None for
        one. It does not change the results.
      progress: Progress meter.
      tensorboard: Whether to write TensorBoard event files.
      started: `time.perf_counter()` at which total time starts; now by default.

    Returns:
      The summary, read back if the run is finished already (None in all processes but
      the first); None if training was asked to stop and can be resumed.

    Raises:
      FileExistsError: If the directory holds a run of another configuration.
      DataError: If the data are not what they should be.
      ValueError: If several processes were to train, or the model does not fit.
    """
    started = time.perf_counter() if started is None else started
    workdir = Path(workdir)
    is_first = devices.is_first_process()
    if jax.process_count() > 1 and not config.model:
        raise ValueError(
            f"model: found none with {jax.process_count()} processes, expected a "
            "trained one: training runs on one device"
        )
    status, datasets = common.WorkdirStatus.NEW, None
    if is_first:
        status, datasets = _claim(config, workdir)
    if devices.from_first_process(status is common.WorkdirStatus.FINISHED):
        if not is_first:
            return None
        return json.loads((workdir / common.SUMMARY_FILE).read_text())
    if datasets is None:
        datasets = make_datasets(config.data, config.seed)
    with common.stop_on_signal() as stop:
        found = _trained(
            config, datasets, workdir, progress, lambda: stop.requested, tensorboard
        )
        if found is None:
            return None
        model, params = found.model, found.params
        outcome = meta_test(config, datasets, model, params, found.warm, mesh)
    everything = outcome.cold
    exported = datasets.observed
    if datasets.everything is not None:
        exported = datasets.everything
        everything = infer.infer_dataset(
            jax.random.fold_in(jax.random.key(config.seed), 2),
            model,
            params,
            exported,
            config.inference,
            mesh=mesh,
        )
    summary = {
        **outcome.summary,
        **found.summary,
        "num_test": datasets.test.num_tasks,
        "test_systems_unseen": datasets.is_unseen,
        "num_parameters": int(
            sum(np.size(leaf) for leaf in jax.tree.leaves(params.modules))
        ),
        "num_proposal_parameters": int(
            sum(np.size(leaf) for leaf in jax.tree.leaves(params.proposal))
        ),
        "seed": config.seed,
        "config": config,
    }
    if is_first:
        records = [] if config.model else read_metrics(workdir / "metrics.jsonl")
        report.write_outputs(
            workdir, model, params, datasets, outcome, exported, everything, records
        )
    summary["total_seconds"] = time.perf_counter() - started
    if is_first:
        common.write_summary(workdir, summary)
    return summary
