"""One run: data, meta-training, meta-test, and what is written about it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import common
from experiments.relational_inference import report
from experiments.relational_inference.config import DataConfig, ExperimentConfig
from modmeta.checkpoint import CheckpointStore
from modmeta.metrics import MetricWriter, read_metrics
from modmeta.progress import ProgressMeter
from modmeta.relational import api, data, evaluation, inference
from modmeta.relational import training as training_lib
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.normalization import normalize
from modmeta.relational.model import ModelParams, RelationalModel
from modmeta.relational.training import TrainResult

REPORTED_STEPS = (1, 10, 20)
_CURVE_SYSTEMS = 100
_MIN_SYSTEMS_TO_SPLIT = 20


class Datasets(NamedTuple):
    """Data of a run.

    Attributes:
      train: Systems that training may see, observed frames.
      test: Systems that are scored, observed and future frames.
      everything: With a user's file, all of its systems, observed frames: those
        whose edges are exported. None for simulated data, where `test` is.
      num_observed: Frames that infer the structure.
      is_unseen: Whether training has not seen the test systems.
    """

    train: TrajectoryDataset
    test: TrajectoryDataset
    everything: TrajectoryDataset | None
    num_observed: int
    is_unseen: bool

    @property
    def observed(self) -> TrajectoryDataset:
        """Test systems, observed frames."""
        return self.test.frames(0, self.num_observed)


def make_datasets(config: DataConfig, seed: int) -> Datasets:
    """Simulates or loads the data of a run.

    Args:
      config: What to simulate or load.
      seed: Training systems use `2 * seed`, test systems `2 * seed + 1`.

    Raises:
      DataError: If a file's data are not what they should be.
      ValueError: If fewer systems or frames are there than asked for.
    """
    if config.file:
        return _split_file(data.load(config.file), config, seed)
    simulate: Callable[..., TrajectoryDataset] = {
        "springs": data.simulate_springs,
        "charged": data.simulate_charged,
        "kuramoto": data.simulate_kuramoto,
    }[config.system]
    options = {
        "num_nodes": config.num_nodes,
        "observation_noise": config.observation_noise,
    }
    if config.system == "kuramoto":
        options["observation"] = config.observation
    train = simulate(
        2 * seed, config.num_train, num_frames=config.num_observed, **options
    )
    test = simulate(
        2 * seed + 1,
        config.num_test,
        num_frames=config.num_observed + config.num_predicted,
        **options,
    )
    return Datasets(train, test, None, config.num_observed, True)


def _split_file(dataset: TrajectoryDataset, config: DataConfig, seed: int) -> Datasets:
    num_frames = dataset.num_frames
    num_predicted = min(config.num_predicted, num_frames // 4)
    num_observed = config.num_observed or num_frames - num_predicted
    if not 3 <= num_observed <= num_frames:
        raise ValueError(
            f"num_observed: found {num_observed}, expected 3 to the {num_frames} "
            f"frames of {config.file}"
        )
    test_frames = dataset.frames(0, min(num_observed + num_predicted, num_frames))
    observed = dataset.frames(0, num_observed)
    num_tasks = dataset.num_tasks
    num_train = config.num_train
    if num_train > num_tasks:
        raise ValueError(
            f"num_train: found {num_train}, expected at most the {num_tasks} systems "
            f"of {config.file}"
        )
    if not num_train:
        can_split = num_tasks >= _MIN_SYSTEMS_TO_SPLIT
        num_train = num_tasks * 4 // 5 if can_split else num_tasks
    order = np.random.default_rng((seed, 2)).permutation(num_tasks)
    is_unseen = num_train < num_tasks
    test_rows = np.sort(order[num_train:]) if is_unseen else np.arange(num_tasks)
    return Datasets(
        observed.take(np.sort(order[:num_train])),
        test_frames.take(test_rows),
        observed,
        num_observed,
        is_unseen,
    )


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

        def label_metrics(found):
            host = evaluation.to_host(found, observed.node_mask)
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


class MetaTest(NamedTuple):
    """Outcome of the meta-test.

    Attributes:
      summary: Scores for `summary.json`.
      cold: Relations of the test systems from a cold start.
      predictions: `[tasks, steps, nodes, F]` normalised, by name.
      errors: `[steps]` by name.
      truth: `[tasks, time, nodes, F]` normalised, observed and future frames.
      names: True name of every module, None without labels.
      curves: Lowest energy `[systems, proposals]` by kind of proposal.
      curve_proposals: `[proposals]` per system.
    """

    summary: dict[str, Any]
    cold: evaluation.Inference
    predictions: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    truth: np.ndarray
    names: np.ndarray | None
    curves: dict[str, np.ndarray]
    curve_proposals: np.ndarray


def meta_test(
    config: ExperimentConfig,
    datasets: Datasets,
    model: RelationalModel,
    params: ModelParams,
    warm: evaluation.Inference,
) -> MetaTest:
    """Scores frozen modules on the test systems.

    Args:
      config: The run's configuration.
      datasets: Its data.
      model: The model.
      params: Its trained arrays.
      warm: Structures annealed beside training.
    """
    observed, test = datasets.observed, datasets.test
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), 4)
    cold = api.infer_dataset(keys[0], model, params, observed, config.inference)
    warm = api.infer_dataset(
        keys[1], model, params, observed, config.training.inference, start=warm
    )
    num_nodes = int(observed.num_nodes.max())
    scored_frames = observed.num_nodes.sum() * (observed.num_frames - 1)
    summary: dict[str, Any] = {
        "test_energy": float(cold.energies.sum() / scored_frames),
        "test_energy_warm": float(warm.energies.sum() / scored_frames),
        "num_proposals": inference.num_proposals(model, config.inference, num_nodes),
    }

    names = None
    if observed.edges is not None:
        scores = evaluation.label_scores(cold, observed, model.num_relations)
        warm_scores = evaluation.label_scores(warm, observed, model.num_relations)
        names = evaluation.match_labels(
            cold.edges, observed.edges, model.num_relations, observed.num_relations
        )
        summary["edge_accuracy"] = scores["edge_accuracy"]
        summary["edge_accuracy_warm"] = warm_scores["edge_accuracy"]
        summary["proposal_accuracy"] = scores["proposal_accuracy"]
        summary.update(report.calibration(cold, observed, names))
        is_undirected = np.array_equal(observed.edges, observed.edges.swapaxes(1, 2))
        if model.search.prior == "none" and is_undirected:
            # A track of its own: the prior is declared, and enters the test alone.
            symmetric = _symmetric_search(
                keys[2], config, model, params, observed, cold
            )
            scores = evaluation.label_scores(symmetric, observed, model.num_relations)
            summary["edge_accuracy_symmetric_prior"] = scores["edge_accuracy"]

    normalization = jax.tree.map(np.asarray, params.preprocessing.normalization)
    truth = np.asarray(normalize(normalization, test.states), np.float32)
    future = truth[:, datasets.num_observed :]
    predictions, errors = {}, {}
    num_steps = future.shape[1]
    if num_steps:
        predictions["inferred graph"] = evaluation.predict(
            model, params, observed, cold.structures, num_steps
        )
        if names is not None:
            true_edges = evaluation.structures_from_labels(
                observed.edges, names, model.num_relations
            )
            predictions["true graph"] = evaluation.predict(
                model,
                params,
                observed,
                cold._replace(edges=true_edges).structures,
                num_steps,
            )
        baselines = evaluation.baseline_predictions(
            truth[:, : datasets.num_observed],
            num_steps,
            np.asarray(params.preprocessing.step_matrix),
            np.asarray(params.preprocessing.step_offset),
        )
        predictions["constant velocity"] = baselines["constant_velocity"]
        predictions["static"] = baselines["static"]
        columns = model.bank.layout.predicted
        errors = {
            name: evaluation.prediction_errors(values, future, test.node_mask, columns)
            for name, values in predictions.items()
        }
        for name, key in (
            ("inferred graph", "mse"),
            ("true graph", "mse_true_graph"),
            ("constant velocity", "mse_constant_velocity"),
            ("static", "mse_static"),
        ):
            if name in errors:
                summary[key] = evaluation.errors_at(errors[name], REPORTED_STEPS)

    curves, proposals = _search_curves(keys[3], config, model, params, observed)
    return MetaTest(summary, cold, predictions, errors, truth, names, curves, proposals)


def _symmetric_search(
    rng_key, config, model, params, observed, cold
) -> evaluation.Inference:
    """Repeats the search with the symmetric prior, from the structures found."""
    search = dataclasses.replace(model.search, prior="symmetric")
    # Near the answer already: what is left are pairs of edges that disagree.
    options = dataclasses.replace(
        config.inference,
        num_chains=1,
        num_steps=3 * config.inference.num_steps,
        initial_temperature=50.0,
        num_samples=0,
    )
    return api.infer_dataset(
        rng_key,
        dataclasses.replace(model, search=search),
        params,
        observed,
        options,
        start=cold,
    )


def _search_curves(
    rng_key, config, model, params, observed
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Lowest energy against proposals from random starts, by kind of proposal."""
    subset = observed.take(np.arange(min(_CURVE_SYSTEMS, observed.num_tasks)))
    kinds = {"uniform": False, "learned": True}
    if model.proposal.encoder == "none":
        kinds.pop("learned")
    curves = {}
    for name, learned in kinds.items():
        options = dataclasses.replace(
            config.inference, learned=learned, num_chains=1, num_samples=0
        )
        found = api.infer_dataset(rng_key, model, params, subset, options)
        curves[name] = found.best_energies
    one_chain = dataclasses.replace(config.inference, num_chains=1, num_steps=1)
    per_step = inference.num_proposals(model, one_chain, int(subset.num_nodes.max()))
    return curves, per_step * np.arange(1, config.inference.num_steps + 1)


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
        "valid_energy": float(result.state.best_energy),
        "num_steps": int(result.state.run.step),
        "train_seconds": float(result.state.seconds),
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
