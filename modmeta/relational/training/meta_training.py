"""Meta-training: BounceGrad steps, and searches that tell how the modules do.

Model choice and early stopping look at one number, the energy of validation systems
under structures that the search finds for them. Labels never get here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.frames import Frames
from modmeta.relational.inference import infer
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.batches import TaskBatch, TaskSampler, all_batches
from modmeta.relational.tasks.states import device_states, host_states
from modmeta.relational.tasks.structures import random_structures
from modmeta.relational.training.bouncegrad import (
    BounceGradConfig,
    BounceGradState,
    bouncegrad,
)
from modmeta.relational.training.config import TrainingConfig
from modmeta.relational.training.starts import find_start
from modmeta.runtime import training_loop
from modmeta.runtime.checkpoint import CheckpointStore
from modmeta.runtime.metrics import MetricWriter
from modmeta.runtime.progress import ProgressMeter


class MetaTrainingState(NamedTuple):
    """What the training loop carries and a checkpoint holds.

    Attributes:
      bouncegrad: State of BounceGrad.
      best: Parameters of lowest validation energy, in nats per node and change.
      followed: Structures of the validation systems and, if any, of the warm-start
        systems, annealed beside training.
    """

    bouncegrad: BounceGradState
    best: training_loop.Best
    followed: Any


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Outcome of `train`.

    Attributes:
      params: Parameters of lowest validation energy.
      state: Last state.
      seconds: Time spent on training over all sittings.
      is_finished: False if training was asked to stop.
    """

    params: ModelParams
    state: MetaTrainingState
    seconds: float
    is_finished: bool


LabelMetrics = Callable[[Relations], Mapping[str, float]]


# Not inside `train`: a second call with the same options need not compile again.
@functools.partial(jax.jit, static_argnames=("model", "config"))
def _run_chunk(
    model: RelationalModel,
    config: BounceGradConfig,
    run: BounceGradState,
    task_states: Frames,
    batches: TaskBatch,
) -> tuple[BounceGradState, dict[str, jax.Array]]:
    """Takes a step per batch; metrics are means over the steps."""
    algorithm = bouncegrad(model, config)

    def body(run, batch):
        return algorithm.step(run, task_states, batch)

    run, metrics = jax.lax.scan(body, run, batches)
    return run, jax.tree.map(jnp.mean, metrics)


def train(
    model: RelationalModel,
    params: ModelParams,
    train_set: TrajectoryDataset,
    valid_set: TrajectoryDataset,
    config: BounceGradConfig,
    training: TrainingConfig,
    *,
    seed: int,
    warm_set: TrajectoryDataset | None = None,
    store: CheckpointStore | None = None,
    writer: MetricWriter | None = None,
    progress: ProgressMeter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    label_metrics: LabelMetrics | None = None,
) -> TrainResult:
    """Meta-trains a model.

    Args:
      model: The model.
      params: Its initial arrays.
      train_set: Training systems, raw units; labels are not looked at.
      valid_set: Unseen systems whose energy chooses the model.
      config: Options of BounceGrad.
      training: Options of the loop.
      seed: Seed of order, structures and search.
      warm_set: Systems whose structures are annealed beside training without any
        gradient (warm-started evaluation); same frames as `train_set`.
      store: Checkpoints; the latest one is resumed.
      writer: Receives one record per evaluation.
      progress: Progress meter.
      should_stop: Asked between chunks; if true, the state is saved and training
        returns.
      label_metrics: Metrics of warm structures, for the log alone.

    Returns:
      The result.
    """
    config = config.resolved(int(train_set.num_nodes.max(initial=1)))
    algorithm = bouncegrad(model, config)
    sampler = TaskSampler(
        train_set.num_nodes,
        config.batch_size,
        seed,
        model.candidate_edges(train_set),
    )
    normalization = params.preprocessing.normalization
    task_states = device_states(train_set, normalization)
    followed = {"valid": valid_set}
    if warm_set is not None:
        followed["warm"] = warm_set
    systems = {
        name: (
            host_states(dataset, normalization),
            all_batches(
                dataset.num_nodes,
                model.memory.batch_size,
                model.candidate_edges(dataset),
            ),
        )
        for name, dataset in followed.items()
    }
    scored = float(max(valid_set.counted().sum(), 1))

    key_run, key_follow, key_evaluate = jax.random.split(jax.random.key(seed), 3)
    start = find_start(model, train_set, config, seed)
    state = MetaTrainingState(
        bouncegrad=algorithm.init(
            key_run, params, train_set.num_tasks, train_set.max_nodes, start(train_set)
        ),
        best=training_loop.Best.start(params),
        followed={
            name: start(dataset)
            or random_structures(
                jax.random.fold_in(key_follow, index),
                dataset.num_tasks,
                dataset.max_nodes,
                model.num_relations,
                model.num_node_modules,
            )
            for index, (name, dataset) in enumerate(followed.items())
        },
    )

    def take_steps(state: MetaTrainingState, step: int, count: int):
        batches = sampler.batches(step, count)
        run, metrics = _run_chunk(model, config, state.bouncegrad, task_states, batches)
        return state._replace(bouncegrad=run), metrics

    def evaluate(state: MetaTrainingState, step: int, metrics: Mapping[str, Any]):
        """Anneals the followed systems and records how the model does on them."""
        del metrics
        found = {}
        for index, (name, (states, batches)) in enumerate(systems.items()):
            key = jax.random.fold_in(jax.random.fold_in(key_evaluate, step), index)
            found[name] = infer.infer(
                key,
                model,
                state.bouncegrad.params,
                states,
                batches,
                state.followed[name],
                training.inference,
            )
        energy = jnp.sum(found["valid"].energies) / scored
        record = {"valid_energy": float(energy)}
        if "warm" in found and label_metrics is not None:
            record.update(label_metrics(found["warm"]))
        # Modules that have just begun would lead away from what regression found.
        is_held = step < int(state.bouncegrad.num_held)
        is_annealed = step >= config.annealed_fraction * config.num_steps
        best = state.best.update(state.bouncegrad.params, energy, counts=is_annealed)
        state = state._replace(best=best)
        if not is_held:
            state = state._replace(
                followed={name: item.structures for name, item in found.items()}
            )
        is_done = training.patience > 0 and best.num_without_gain >= training.patience
        return state, record, bool(is_done)

    outcome = training_loop.train(
        state,
        take_steps,
        evaluate,
        num_steps=config.num_steps,
        num_evaluations=training.num_evaluations,
        store=store,
        writer=writer,
        progress=progress,
        should_stop=should_stop,
        shown=("loss", "valid_energy", "temperature"),
        description="meta-training",
    )
    state = outcome.state.run
    return TrainResult(
        state.best.params, state, outcome.state.seconds, outcome.is_finished
    )
