"""One run: data, meta-training or a trained model, meta-test, and what is written.

Training runs on one device. The meta-test may be spread over a mesh; with several
processes every one of them searches and scores, and the first one writes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import common
from experiments.relational_inference import changing, hidden, report, trained
from experiments.relational_inference.config import CONFIGS, ExperimentConfig, smoke
from experiments.relational_inference.datasets import Datasets, make_datasets
from experiments.relational_inference.meta_test import (
    MetaTest,
    edge_accuracies,
    meta_test,
)
from modmeta.relational import discovery
from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.evaluation import rollouts, scores, verdict
from modmeta.relational.inference import infer, memory
from modmeta.relational.inference.features import renamed
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.batches import all_batches
from modmeta.relational.tasks.structures import TaskStructures
from modmeta.relational.training import meta_training, setup
from modmeta.relational.training.meta_training import TrainResult
from modmeta.runtime import devices


def check_ahead(
    config: ExperimentConfig,
    datasets: Datasets,
    model: RelationalModel,
    mesh: Mesh | None = None,
) -> None:
    """Refuses, before anything is trained, what could not be done after it.

    Raises:
      MemoryError: If the meta-test would not fit into memory.
      DataError: If a search refuses these systems, or systems of these sizes, or
        predictions the walls.
    """
    observed = datasets.observed
    rollouts.check_domain(model.bank, config.prediction_of(model.bank).domain, observed)
    everything = datasets.everything
    hidden.check(config, model, observed if everything is None else everything)
    batches = all_batches(
        observed.num_nodes, config.memory.batch_size, model.candidate_edges(observed)
    )
    num_groups = 1 if mesh is None else mesh.shape[devices.CHAINS]
    try:
        memory.check(
            model,
            memory.budget_of(batches.supergraph),
            observed.num_frames,
            config.inference,
            num_chains=-(-config.inference.num_chains // num_groups),
        )
    except ValueError as error:
        raise DataError(str(error)) from error


def meta_train(
    config: ExperimentConfig,
    datasets: Datasets,
    run: common.Run,
    check: Callable[[RelationalModel], None],
    seed: int,
    name: str = "",
) -> tuple[RelationalModel, TrainResult]:
    """Trains or resumes; checkpoints and metrics go to the directory of the run.

    Args:
      config: The configuration.
      datasets: Its data.
      run: The run.
      check: Refuses what could not be done with the model, before it is trained.
      seed: Seed of this training.
      name: Directory of this training in that of the run.

    Raises:
      DataError: If there is no such model of these columns.
    """
    train_set, valid_set = setup.split_validation(
        discovery.training_windows(
            datasets.train.without_labels(), changing=config.changing
        ),
        config.seed,
    )
    try:
        model, params = setup.build_model(
            train_set,
            jax.random.fold_in(jax.random.key(seed), 0),
            modules=config.modules,
            proposal=config.proposal,
            **config.search_options,
            baseline=config.baseline,
            compress=config.compress,
        )
    except ValueError as error:
        # Options that are right by themselves, and not for these columns.
        raise DataError(str(error)) from error
    check(model)
    observed = datasets.observed
    label_metrics = None
    if observed.edges is not None:

        def label_metrics(found):
            return scores.label_scores(found, observed, model.num_relations)

    with run.loop(name) as arguments:
        result = meta_training.train(
            model,
            params,
            train_set,
            valid_set,
            config.bouncegrad,
            config.training,
            seed=seed,
            warm_set=observed.without_labels(),
            label_metrics=label_metrics,
            **arguments,
        )
    if result.is_finished:
        result = discovery.name_relations(model, result, valid_set)
    return model, result


class Trained(NamedTuple):
    """What the meta-test starts from.

    Attributes:
      model: The model.
      params: Its trained arrays.
      warm: Structures annealed beside training; None if the model came from a file.
      summary: What `summary.json` says about the training.
      restarts: Arrays of the other trainings.
    """

    model: RelationalModel
    params: ModelParams
    warm: TaskStructures | None
    summary: dict[str, Any]
    restarts: tuple[ModelParams, ...] = ()


def _trained(
    config: ExperimentConfig,
    datasets: Datasets,
    run: common.Run,
    mesh: Mesh | None,
    loaded: tuple[RelationalModel, ModelParams] | None,
) -> Trained | None:
    """Takes the model that was loaded, or trains one; None if stopped."""
    check = functools.partial(check_ahead, config, datasets, mesh=mesh)
    if loaded is not None:
        model, params = loaded
        check(model)
        return Trained(model, params, None, {})
    num_relations = config.modules.num_relations
    if config.auto_relations:
        num_relations = _count_relations(config, datasets, run, check)
        if num_relations is None:
            return None
        modules = dataclasses.replace(config.modules, num_relations=num_relations)
        config = dataclasses.replace(config, modules=modules)
    runs = []
    for restart in range(config.num_restarts):
        name = f"restart_{restart}" if restart else ""
        seed = config.seed + restart
        model, result = meta_train(config, datasets, run, check, seed, name)
        if not result.is_finished:
            return None
        runs.append(result)
    runs.sort(key=lambda result: float(result.state.best.score))
    result = runs[0]
    summary = {
        "num_train": datasets.train.num_tasks,
        "num_relations": num_relations,
        "valid_energy": float(result.state.best.score),
        "num_steps": int(result.state.bouncegrad.step),
        "train_seconds": float(sum(result.seconds for result in runs)),
    }
    others = tuple(other.params for other in runs[1:])
    return Trained(model, result.params, result.state.followed["warm"], summary, others)


def _count_relations(
    config: ExperimentConfig,
    datasets: Datasets,
    run: common.Run,
    check: Callable[[RelationalModel], None],
) -> int | None:
    """Relations that the data tell apart, at least 2; None if stopped."""
    modules = dataclasses.replace(config.modules, num_relations=discovery.MAX_RELATIONS)
    config = dataclasses.replace(config, modules=modules)
    model, result = meta_train(
        config, datasets, run, check, config.seed, "number_of_relations"
    )
    if not result.is_finished:
        return None
    recordings = datasets.train
    if config.changing:
        recordings = discovery.training_windows(recordings, changing=True)
    count = verdict.count_relations(
        jax.random.fold_in(jax.random.key(config.seed), 3),
        model,
        result.params,
        recordings,
        config.inference,
    )
    return max(count, 2)


def compute(
    config: ExperimentConfig, run: common.Run, *, mesh: Mesh | None = None
) -> dict[str, Any] | None:
    """Training or a trained model, meta-test, outputs; the summary, or None if stopped.

    Args:
      config: The configuration.
      run: The run.
      mesh: Devices that share the meta-test, see `modmeta.runtime.devices`; None for
        one. It does not change the results.

    Raises:
      DataError: If the data are not what they should be.
      ModelMismatchError: If the model does not fit the data.
      MemoryError: If the meta-test would not fit into memory.
      ValueError: If several processes were to train.
    """
    if jax.process_count() > 1 and not config.model:
        raise ValueError(
            f"model: found none with {jax.process_count()} processes, expected a "
            "trained one: training runs on one device"
        )
    datasets, loaded = _read(config)
    config = trained.with_search(config, datasets, loaded and loaded[0])
    found = _trained(config, datasets, run, mesh, loaded)
    if found is None:
        return None
    model, params, warm, parts = found.model, found.params, found.warm, None
    if config.changing:
        datasets, parts = changing.on_stretches(config, datasets, model, params)
        warm = None  # of whole recordings
    exported = datasets.observed
    if datasets.everything is not None:
        exported = datasets.everything

    def search(params, index):
        key = jax.random.fold_in(jax.random.key(config.seed), index)
        return infer.infer_dataset(
            key, model, params, exported, config.inference, mesh=mesh
        )

    # It takes as long as a short training: who looks on should know what goes on.
    run.progress.start(3, description="search, test, verdict")
    everything = cold = None
    if datasets.everything is not None:
        everything = search(params, 2)
    if datasets.test_rows is not None:
        cold = jax.tree.map(lambda leaf: leaf[datasets.test_rows], everything)
    run.progress.update(1)
    outcome = meta_test(config, datasets, model, params, warm, mesh, cold)
    run.progress.update(2)
    if everything is None:
        everything = outcome.cold
    _, everything, judged = discovery.conclude(
        jax.random.fold_in(jax.random.key(config.seed), 3),
        model,
        params,
        exported,
        [everything, *(search(p, 4 + i) for i, p in enumerate(found.restarts))],
        config.inference,
        parts,
    )
    run.progress.update(3)
    run.progress.close()
    summary = {
        **outcome.summary,
        **found.summary,
        **_accuracies(config, datasets, model, outcome, everything),
        "verdict": judged.to_dict(),
        "notes": [*exported.notes, *_notes(model, everything, exported)],
        "num_test": datasets.test.num_tasks,
        "test_systems_unseen": datasets.is_unseen,
        "num_parameters": _num_numbers(params.modules),
        "num_proposal_parameters": _num_numbers(params.proposal),
    }
    if parts is not None:
        summary["stretches"] = changing.describe(parts, exported)
    if config.hidden != "none":
        is_known = datasets.everything is not None and not config.model
        entities = hidden.look(
            config, model, params, exported, everything, judged, is_known
        )
        summary["hidden"] = entities.summary()
        if run.is_first:
            hidden.write(run.directory() / "hidden.npz", entities)
    if run.is_first:
        report.write_outputs(
            run.directory(),
            model,
            params,
            datasets,
            outcome,
            exported,
            everything,
            [] if config.model else run.records(),
            parts,
        )
    return summary


def _read(
    config: ExperimentConfig,
) -> tuple[Datasets, tuple[RelationalModel, ModelParams] | None]:
    """The data, and the model that was trained on others, if one is named."""
    loaded = None
    if config.model:
        model, params = trained.load(config.model)
        loaded = dataclasses.replace(model, **config.search_options), params
        datasets = make_datasets(config.data, config.seed, model)
        model = loaded[0].reaching(datasets.observed.frame_interval)
        loaded = model, params
        trained.check(config.model, *loaded, datasets.observed)
    else:
        datasets = make_datasets(config.data, config.seed)
    if config.changing:
        datasets = changing.without_labels(config, datasets)
    return datasets, loaded


def _accuracies(
    config: ExperimentConfig,
    datasets: Datasets,
    model: RelationalModel,
    outcome: MetaTest,
    settled: Relations,
) -> dict[str, Any]:
    """Accuracy of the edges that are written, as far as the verdict bears them out."""
    if datasets.test_rows is not None:
        scored = jax.tree.map(lambda leaf: leaf[datasets.test_rows], settled)
        return edge_accuracies(scored, datasets.observed, model.num_relations)
    if datasets.everything is None:
        return edge_accuracies(settled, datasets.observed, model.num_relations)
    accuracies = edge_accuracies(settled, datasets.everything, model.num_relations)
    if not config.data.shared_graph:
        return accuracies
    shared = accuracies
    accuracies = edge_accuracies(outcome.cold, datasets.observed, model.num_relations)
    if shared:
        accuracies["edge_accuracy_shared_graph"] = shared["edge_accuracy"]
    return accuracies


def _num_numbers(tree: Any) -> int:
    """How many numbers a tree of arrays holds."""
    return int(sum(np.size(leaf) for leaf in jax.tree.leaves(tree)))


def _notes(
    model: RelationalModel, found: Relations, exported: TrajectoryDataset
) -> list[str]:
    """What looks odd in the data beside a model, and in labels beside edges."""
    notes = list(renamed(model.bank.layout.spec, exported.features))
    if exported.edges is not None and exported.num_relations:
        hint = scores.transposed_labels(
            found.edges, exported.edges, model.num_relations, exported.num_relations
        )
        notes += [] if hint is None else [hint]
    return notes


EXPERIMENT = common.Experiment(
    presets=CONFIGS,
    smoke=smoke,
    compute=compute,
    format_summary=report.format_summary,
    files="Edges, figures, model",
    shown=("loss", "valid_energy", "temperature"),
    refusals=(DataError, trained.ModelMismatchError),
)
