"""One run: data, meta-training, meta-test, and what is written about it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.relational_inference import report
from experiments.relational_inference.config import ExperimentConfig
from experiments.relational_inference.datasets import Datasets, make_datasets
from experiments.relational_inference.meta_test import meta_test
from modmeta.checkpoint import CheckpointStore
from modmeta.metrics import MetricWriter, read_metrics
from modmeta.progress import ProgressMeter
from modmeta.relational import api, evaluation
from modmeta.relational import training as training_lib
from modmeta.relational.model import RelationalModel
from modmeta.relational.training import TrainResult


def meta_train(
    config: ExperimentConfig,
    datasets: Datasets,
    workdir: Path,
    progress: ProgressMeter | None,
    should_stop: Callable[[], bool],
    tensorboard: bool,
) -> tuple[RelationalModel, TrainResult]:
    """Trains or resumes; checkpoints and metrics go to the working directory."""
    train_set, valid_set = api.split_validation(
        datasets.train.without_labels(), config.seed
    )
    model, params = api.build_model(
        train_set,
        jax.random.fold_in(jax.random.key(config.seed), 0),
        modules=config.modules,
        proposal=config.proposal,
        search=config.search,
        batch_size=config.bouncegrad.batch_size,
        baseline=config.baseline,
        compress=config.compress,
    )
    observed = datasets.observed
    label_metrics = None
    if observed.edges is not None:
        edges = model.candidate_edges(observed)

        def label_metrics(found):
            host = evaluation.to_host(found, observed.node_mask)
            host = api.keep_candidates(host, edges, observed)
            return evaluation.label_scores(host, observed, model.num_relations)

    with CheckpointStore(workdir / "checkpoints", max_to_keep=2) as store:
        with MetricWriter(
            workdir / "metrics.jsonl",
            resume_step=store.latest_step,
            tensorboard_dir=workdir / "tensorboard" if tensorboard else None,
        ) as writer:
            result = training_lib.train(
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


def run(
    config: ExperimentConfig,
    workdir: str | Path,
    *,
    progress: ProgressMeter | None = None,
    tensorboard: bool = False,
    started: float | None = None,
) -> dict[str, Any] | None:
    """Runs or resumes the experiment in a working directory.

    Args:
      config: The configuration.
      workdir: Directory of the run.
      progress: Progress meter.
      tensorboard: Whether to write TensorBoard event files.
      started: `time.perf_counter()` at which total time starts; now by default.

    Returns:
      The summary, read back if the run is finished already; None if training was
      asked to stop and can be resumed.

    Raises:
      FileExistsError: If the directory holds a run of another configuration.
      DataError: If the data are not what they should be.
    """
    started = time.perf_counter() if started is None else started
    workdir = Path(workdir)
    # Bad data must not leave a working directory behind, and a finished run need not
    # wait for data.
    datasets = None
    if not (workdir / common.CONFIG_FILE).exists():
        datasets = make_datasets(config.data, config.seed)
    if common.prepare_workdir(workdir, config) is common.WorkdirStatus.FINISHED:
        return json.loads((workdir / common.SUMMARY_FILE).read_text())
    if datasets is None:
        datasets = make_datasets(config.data, config.seed)
    with common.stop_on_signal() as stop:
        model, result = meta_train(
            config, datasets, workdir, progress, lambda: stop.requested, tensorboard
        )
        if not result.is_finished:
            return None
        observed = datasets.observed
        warm = evaluation.structures_to_host(
            result.state.followed["warm"], observed.node_mask
        )
        outcome = meta_test(config, datasets, model, result.params, warm)
    everything = outcome.cold
    exported = observed
    if datasets.everything is not None:
        exported = datasets.everything
        everything = api.infer_dataset(
            jax.random.fold_in(jax.random.key(config.seed), 2),
            model,
            result.params,
            exported,
            config.inference,
        )
    summary = {
        **outcome.summary,
        "num_train": datasets.train.num_tasks,
        "num_test": datasets.test.num_tasks,
        "test_systems_unseen": datasets.is_unseen,
        "num_parameters": int(
            sum(np.size(leaf) for leaf in jax.tree.leaves(result.params.modules))
        ),
        "num_proposal_parameters": int(
            sum(np.size(leaf) for leaf in jax.tree.leaves(result.params.proposal))
        ),
        "valid_energy": float(result.state.best.score),
        "num_steps": int(result.state.bouncegrad.step),
        "train_seconds": float(result.seconds),
        "seed": config.seed,
        "config": config,
    }
    records = read_metrics(workdir / "metrics.jsonl")
    report.write_outputs(
        workdir, model, result.params, datasets, outcome, exported, everything, records
    )
    summary["total_seconds"] = time.perf_counter() - started
    common.write_summary(workdir, summary)
    return summary
