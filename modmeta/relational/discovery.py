"""From a data set to relations to trust: windows, restarts, names, verdict."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.data.noise import choose_span
from modmeta.relational.data.segments import cut
from modmeta.relational.data.validation import pair_mask
from modmeta.relational.evaluation import matching, parts
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.infer import infer_dataset
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.training import meta_training
from modmeta.relational.training.config import BounceGradConfig, TrainingConfig
from modmeta.relational.training.meta_training import TrainResult
from modmeta.relational.training.setup import build_model, split_validation
from modmeta.relational.verdict import conclusions, held_out, restarts, stretches
from modmeta.relational.verdict.conclusions import Verdict
from modmeta.relational.verdict.stretches import Stretches
from modmeta.runtime.progress import ProgressMeter

# Of fewer systems than this, long recordings are cut into windows for the training: in
# every one, the search can be wrong in another way.
_FEW_SYSTEMS = 16
_WINDOW = 50
# A relation that fewer of the pairs have is not named "no relation".
_MIN_SHARE = 0.01
# Relations that "auto" starts with, to see which of them are the same.
MAX_RELATIONS = 4


@dataclasses.dataclass(frozen=True)
class Options:
    """How relations are looked for, see `infer_relations`.

    Attributes:
      modules: Options of the bank.
      search: Options of `build_model` about the search.
      bouncegrad: Options of a step of meta-training.
      training: Options of the loop around it.
      inference: Options of the final search.
      num_restarts: Trainings, each from a seed of its own; up to twice as many where
        all others are surely worse than the best and found other graphs.
    """

    modules: ModuleConfig
    search: dict[str, Any]
    bouncegrad: BounceGradConfig
    training: TrainingConfig
    inference: InferenceConfig
    num_restarts: int


@dataclasses.dataclass(frozen=True)
class Discovery:
    """Relations of a data set, and what they are worth.

    Attributes:
      model: Static description of the trained model.
      params: Its arrays.
      found: Relations as the search found them.
      settled: The same as far as the verdict bears them out.
      verdict: Whether they can be believed.
      stretches: What the tasks are, where relations may change in time; else None.
    """

    model: RelationalModel
    params: ModelParams
    found: Relations
    settled: Relations
    verdict: Verdict
    stretches: Stretches | None = None


def training_windows(
    dataset: TrajectoryDataset, *, changing: bool = False
) -> TrajectoryDataset:
    """What training sees: windows of long recordings where there are few systems.

    Of few systems, modules learn what happened by chance, so that the frames that a
    verdict asks about are left out. Where relations may change, windows that are mostly
    free of changes.
    """
    if changing:
        return cut(dataset, stretches.window_length(dataset.num_frames))[0]
    if dataset.num_tasks >= _FEW_SYSTEMS:
        return dataset
    split = parts.split(dataset, choose_span(dataset))
    dataset = dataset if split is None else split.first
    if dataset.num_frames < 2 * _WINDOW:
        return dataset
    try:
        windows, _ = cut(dataset, _WINDOW)
    except DataError:  # a node that some window sees too rarely
        return dataset
    return windows


def discover(
    dataset: TrajectoryDataset,
    searched: TrajectoryDataset,
    options: Options,
    *,
    seed: int,
    changing: bool = False,
    mesh: Mesh | None = None,
    progress: ProgressMeter | None = None,
) -> Discovery:
    """Trains modules and searches relations, without labels.

    Args:
      dataset: The systems, raw units.
      searched: The same as they are searched: in one task where they share a graph.
      options: How.
      seed: Seed of everything random.
      changing: Whether relations may change in time. What is found are then those of
        stretches of the tasks.
      mesh: Devices that share the final search.
      progress: Progress meter.

    Raises:
      ValueError: If relations may change in recordings too short to tell, or that
        share one graph.
    """
    if changing:
        stretches.check_changing(
            dataset.num_frames, shared_graph=searched is not dataset
        )
    windows = training_windows(dataset.without_labels(), changing=changing)
    trainings = _Trainings(
        *split_validation(windows, seed), options, seed, mesh, progress
    )
    num_restarts = options.num_restarts
    trained = [trainings.train(restart) for restart in range(num_restarts)]
    key_judge = jax.random.fold_in(jax.random.key(seed), num_restarts)
    changes = None
    if changing:
        best = trained[_choose(trained, [], num_restarts).best]
        key_judge, key_parts = jax.random.split(key_judge)
        changes = stretches.find_stretches(
            key_parts, best.model, best.result.params, searched, options.inference
        )
        searched = changes.of(searched)
    found = [trainings.search(one, searched) for one in trained]
    most = restarts.most_trainings(num_restarts, changing=changing)
    while not (choice := _choose(trained, found, most)).is_final:
        trained.append(trainings.train(len(trained)))
        found.append(trainings.search(trained[-1], searched))
    best = trained[choice.best]
    chosen, settled, concluded = conclude(
        key_judge,
        best.model,
        best.result.params,
        searched,
        [found[choice.best], *(found[other] for other in choice.others)],
        options.inference,
        changes,
    )
    return Discovery(
        best.model, best.result.params, chosen, settled, concluded, changes
    )


class _Training(NamedTuple):
    """What one training found, and the key of its search."""

    model: RelationalModel
    result: TrainResult
    key_search: jax.Array


class _Trainings(NamedTuple):
    """What all trainings share."""

    train_set: TrajectoryDataset
    valid_set: TrajectoryDataset
    options: Options
    seed: int
    mesh: Mesh | None
    progress: ProgressMeter | None

    def train(self, restart: int) -> _Training:
        """One more training, by its number."""
        options = self.options
        # One number is that of the verdict.
        number = restart + (restart >= options.num_restarts)
        key = jax.random.fold_in(jax.random.key(self.seed), number)
        key_init, key_search = jax.random.split(key)
        model, params = build_model(
            self.train_set, key_init, modules=options.modules, **options.search
        )
        result = meta_training.train(
            model,
            params,
            self.train_set,
            self.valid_set,
            options.bouncegrad,
            options.training,
            seed=self.seed + restart,
            progress=self.progress,
        )
        result = name_relations(model, result, self.valid_set)
        return _Training(model, result, key_search)

    def search(self, one: _Training, searched: TrajectoryDataset) -> Relations:
        """The relations of a data set under the modules of one training."""
        return infer_dataset(
            one.key_search,
            one.model,
            one.result.params,
            searched.without_labels(),
            self.options.inference,
            mesh=self.mesh,
        )


def _choose(
    trained: list[_Training], found: list[Relations], most: int
) -> restarts.Choice:
    scores = [float(one.result.state.best.score) for one in trained]
    return restarts.choose(scores, found, most)


def name_relations(
    model: RelationalModel, result: TrainResult, valid_set: TrajectoryDataset
) -> TrainResult:
    """Puts the relation of least effect first: "no relation", if there is one.

    Of those that pairs have: what a relation on no pair would do is not known.

    Args:
      model: The model.
      result: What training found.
      valid_set: The systems that chose the model.

    Returns:
      Parameters, and followed structures, in the new order.
    """
    followed = result.state.followed
    effects = held_out.relation_effects(
        model, result.params, valid_set, followed["valid"]
    )
    # One that hardly a pair has does nothing because of that, not by its law.
    edges = np.asarray(followed["valid"].edge_modules)[pair_mask(valid_set.node_mask)]
    counts = np.bincount(edges, minlength=model.num_relations)
    is_had = counts >= max(_MIN_SHARE * counts.sum(), 1.0)
    first = int(np.argmin(np.where(is_had, effects, np.inf)))
    if first == 0 or model.bank.config.null_relation:
        return result
    order = np.array([first, *np.delete(np.arange(model.num_relations), first)])
    names = np.argsort(order).astype(np.int32)
    followed = {
        name: structures._replace(
            edge_modules=jax.device_put(names[np.asarray(structures.edge_modules)])
        )
        for name, structures in followed.items()
    }
    params = model.network.reorder(result.params, order)
    state = result.state._replace(followed=followed)
    return dataclasses.replace(result, params=params, state=state)


def conclude(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    searched: TrajectoryDataset,
    found: list[Relations],
    inference: InferenceConfig,
    changes: Stretches | None = None,
) -> tuple[Relations, Relations, Verdict]:
    """Joins what several trainings found, and judges it.

    Args:
      rng_key: Random key.
      model: The model.
      params: Arrays of the training that counts.
      searched: The data that were searched.
      found: Relations by the training that counts, then by the others.
      inference: Options of the search.
      changes: What the tasks are, where relations may change in time; else None.

    Returns:
      The relations, the same as far as the verdict bears them out, and the verdict.
    """
    first, *others = found
    joined = average(first, others)
    concluded = conclusions.judge(
        rng_key,
        model,
        params,
        searched,
        joined,
        inference,
        [other.edges for other in others],
    )
    settled = conclusions.settle(joined, concluded)
    if changes is not None:
        concluded = changes.add_to(concluded)
    return joined, settled, concluded


def average(found: Relations, others: list[Relations]) -> Relations:
    """Relations with the mean probabilities of several runs, names matched."""
    if not others or not found.is_sampled:
        return found
    num_relations = found.probabilities.shape[-1]
    total = np.asarray(found.probabilities, np.float64)
    for other in others:
        confusion = matching.confusion_matrix(
            other.edges, found.edges, num_relations, num_relations
        )
        names = matching.match_relations(confusion)
        total = total + matching.relabel_probabilities(other.probabilities, names)
    mean = total / (1 + len(others))
    return found._replace(probabilities=mean.astype(np.float32))
