"""The trainings of a run, and which of them count.

Each trains on one device, stops and resumes by itself. One that ended badly is no
witness of the graph that the best one found, see `verdict.restarts`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from experiments import common
from experiments.relational_inference import hidden
from experiments.relational_inference.config import ExperimentConfig
from experiments.relational_inference.datasets import Datasets
from modmeta.relational import discovery
from modmeta.relational.data import DataError
from modmeta.relational.evaluation import scores
from modmeta.relational.futures import rollouts
from modmeta.relational.inference import infer, memory
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.batches import all_batches
from modmeta.relational.tasks.structures import TaskStructures
from modmeta.relational.training import meta_training, setup
from modmeta.relational.training.meta_training import TrainResult
from modmeta.relational.verdict import conclusions, restarts
from modmeta.runtime import devices

# Number of the key by which the first training is searched; those before have others.
_FIRST_RESTART = 4


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
    hidden.check(config, model, datasets.exported)
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
      restarts: The other trainings.
    """

    model: RelationalModel
    params: ModelParams
    warm: TaskStructures | None
    summary: dict[str, Any]
    restarts: tuple[Restart, ...] = ()


class Restart(NamedTuple):
    """A further training.

    Attributes:
      params: Its arrays.
      index: Number of its search, see `search`.
      found: What it finds in all that is judged; None where stretches come first.
    """

    params: ModelParams
    index: int
    found: Relations | None = None


def search(
    config: ExperimentConfig,
    datasets: Datasets,
    model: RelationalModel,
    params: ModelParams,
    index: int,
    mesh: Mesh | None,
) -> Relations:
    """Relations of all that is judged, by the key of a number."""
    key = jax.random.fold_in(jax.random.key(config.seed), index)
    return infer.infer_dataset(
        key, model, params, datasets.exported, config.inference, mesh=mesh
    )


def train_or_take(
    config: ExperimentConfig,
    datasets: Datasets,
    run: common.Run,
    mesh: Mesh | None,
    loaded: tuple[RelationalModel, ModelParams] | None,
) -> Trained | None:
    """Takes the model that was loaded, or trains; None if stopped."""
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
    runs: list[TrainResult] = []
    found: list[Relations] = []
    most = restarts.most_trainings(config.num_restarts, changing=config.changing)
    is_compared = most > config.num_restarts
    choice = None
    while choice is None or not choice.is_final:
        restart = len(runs)
        name = f"restart_{restart}" if restart else ""
        seed = config.seed + restart
        model, result = meta_train(config, datasets, run, check, seed, name)
        if not result.is_finished:
            return None
        runs.append(result)
        if is_compared:
            params = result.params
            index = _FIRST_RESTART + restart
            found.append(search(config, datasets, model, params, index, mesh))
        if len(runs) >= config.num_restarts:
            energies = [float(one.state.best.score) for one in runs]
            choice = restarts.choose(energies, found, most)
    result = runs[choice.best]
    summary = {
        "num_train": datasets.train.num_tasks,
        "num_relations": num_relations,
        "valid_energy": float(result.state.best.score),
        "num_steps": int(result.state.bouncegrad.step),
        "train_seconds": float(sum(result.seconds for result in runs)),
    }
    further = tuple(
        Restart(
            runs[other].params,
            _FIRST_RESTART + other,
            found[other] if is_compared else None,
        )
        for other in choice.others
    )
    warm = result.state.followed["warm"]
    return Trained(model, result.params, warm, summary, further)


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
    count = conclusions.count_relations(
        jax.random.fold_in(jax.random.key(config.seed), 3),
        model,
        result.params,
        recordings,
        config.inference,
    )
    return max(count, 2)
