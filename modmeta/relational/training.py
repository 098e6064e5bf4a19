"""The meta-training loop: compiled chunks of BounceGrad steps, driven from the host.

Model choice and early stopping look at one number, the energy of validation systems
under structures that the search finds for them. Labels never get here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.checkpoint import CheckpointStore
from modmeta.metrics import MetricWriter
from modmeta.progress import NoProgress, ProgressMeter
from modmeta.relational import batching, bouncegrad, inference
from modmeta.relational.bouncegrad import BounceGradConfig, BounceGradState
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.normalization import Normalization, normalize
from modmeta.relational.inference import InferenceConfig, InferredStructures
from modmeta.relational.model import ModelParams, RelationalModel

_EVALUATION_BATCH = 100
_MAX_CHUNK = 50


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Options of the loop around BounceGrad.

    Attributes:
      num_evaluations: How often validation systems are searched and scored.
      search_steps: Proposals per problem at every evaluation; structures of
        validation and warm-start systems persist between evaluations.
      patience: Evaluations without a lower validation energy, once the temperature
        has reached 1, after which training stops; 0 never stops early.
    """

    num_evaluations: int = 20
    search_steps: int = 16
    patience: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.num_evaluations < 1 or self.search_steps < 1 or self.patience < 0:
            raise ValueError(
                f"found {self}, expected num_evaluations >= 1, search_steps >= 1, "
                "patience >= 0"
            )

    @property
    def inference(self) -> InferenceConfig:
        """The search of followed systems: one chain, from where it was."""
        return InferenceConfig(
            num_steps=self.search_steps,
            num_chains=1,
            initial_temperature=5.0,
            final_temperature=1.0,
            num_samples=0,
        )


class TrainState(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      run: State of meta-training.
      best_params: Parameters of lowest validation energy.
      best_energy: `()` that energy, nats per node and frame.
      num_without_gain: `()` int32, evaluations since.
      followed: Structures of the validation systems and, if any, of the warm-start
        systems, annealed beside training.
      seconds: `()` float32, time spent so far over all sittings.
    """

    run: BounceGradState
    best_params: ModelParams
    best_energy: jax.Array
    num_without_gain: jax.Array
    followed: Any
    seconds: jax.Array


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Outcome of `train`.

    Attributes:
      params: Parameters of lowest validation energy.
      state: Last state.
      is_finished: False if training was asked to stop.
    """

    params: ModelParams
    state: TrainState
    is_finished: bool


LabelMetrics = Callable[[InferredStructures], Mapping[str, float]]


def device_states(dataset: TrajectoryDataset, normalization: Normalization):
    """Normalised states on the device, `[tasks, nodes, time, F]`."""
    states = normalize(jax.tree.map(np.asarray, normalization), dataset.states)
    return jnp.asarray(np.swapaxes(states, 1, 2), jnp.float32)


def chunk_size(num_steps: int, num_evaluations: int) -> int:
    """Steps between looks from the host: one compilation serves a run.

    The largest divisor of `num_steps` up to 50 that leaves time for the evaluations.
    """
    largest = max(min(_MAX_CHUNK, num_steps // num_evaluations), 1)
    return max(d for d in range(1, largest + 1) if num_steps % d == 0)


# Not inside `train`: a second call with the same options need not compile again.
@functools.partial(jax.jit, static_argnames=("model", "config"))
def _run_chunk(
    model: RelationalModel,
    config: BounceGradConfig,
    run: BounceGradState,
    task_states: jax.Array,
    batches: bouncegrad.TaskBatch,
) -> tuple[BounceGradState, dict[str, jax.Array]]:
    """Takes a step per batch; metrics are means over the steps."""
    algorithm = bouncegrad.bouncegrad(model, config)

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
    progress = progress or NoProgress()
    algorithm = bouncegrad.bouncegrad(model, config)
    sampler = batching.TaskSampler(train_set.num_nodes, config.batch_size, seed)
    normalization = params.preprocessing.normalization
    task_states = device_states(train_set, normalization)
    followed = {"valid": valid_set}
    if warm_set is not None:
        followed["warm"] = warm_set
    systems = {
        name: (
            device_states(dataset, normalization),
            batching.all_batches(dataset.num_nodes, _EVALUATION_BATCH),
        )
        for name, dataset in followed.items()
    }
    scored = float(valid_set.num_nodes.sum() * (valid_set.num_frames - 1))

    key_run, key_follow, key_evaluate = jax.random.split(jax.random.key(seed), 3)
    state = TrainState(
        run=algorithm.init(key_run, params, train_set.num_tasks, train_set.max_nodes),
        best_params=params,
        best_energy=jnp.float32(jnp.inf),
        num_without_gain=jnp.int32(0),
        followed={
            name: bouncegrad.random_structures(
                jax.random.fold_in(key_follow, index),
                model,
                dataset.num_tasks,
                dataset.max_nodes,
            )
            for index, (name, dataset) in enumerate(followed.items())
        },
        seconds=jnp.float32(0),
    )
    if store is not None and store.latest_step is not None:
        state = store.restore(state)

    def evaluate(state: TrainState, metrics: Mapping[str, Any]):
        """Anneals the followed systems and records how the model does on them."""
        step = int(state.run.step)
        found = {}
        for index, (name, (states, batches)) in enumerate(systems.items()):
            key = jax.random.fold_in(jax.random.fold_in(key_evaluate, step), index)
            found[name] = inference.infer(
                key,
                model,
                state.run.params,
                states,
                batches,
                state.followed[name],
                training.inference,
            )
        energy = jnp.sum(found["valid"].energies) / scored
        is_best = bool(energy < state.best_energy)
        is_annealed = step >= config.annealed_fraction * config.num_steps
        waited = state.num_without_gain + 1 if is_annealed else 0
        record = {name: float(value) for name, value in metrics.items()}
        record["seconds"] = float(state.seconds)
        record["valid_energy"] = float(energy)
        if "warm" in found and label_metrics is not None:
            record.update(label_metrics(found["warm"]))
        if writer is not None:
            writer.write(step, record)
        state = state._replace(
            best_params=state.run.params if is_best else state.best_params,
            best_energy=energy if is_best else state.best_energy,
            num_without_gain=jnp.int32(0 if is_best else waited),
            followed={name: item.structures for name, item in found.items()},
        )
        return state, record

    steps_per_chunk = chunk_size(config.num_steps, training.num_evaluations)
    first_step = int(state.run.step)
    progress.start(config.num_steps, initial=first_step, description="meta-training")
    shown: dict[str, float] = {}
    is_finished = True
    for step in range(first_step, config.num_steps, steps_per_chunk):
        if training.patience and state.num_without_gain >= training.patience:
            break
        if should_stop():
            is_finished = False
            break
        started = time.perf_counter()
        batches = sampler.batches(step, steps_per_chunk)
        run, metrics = _run_chunk(model, config, state.run, task_states, batches)
        state = state._replace(run=run)
        loss = float(metrics["loss"])
        # The last gradient of a chunk is in its parameters, but not in its loss.
        for name, value in (("loss", loss), ("gradient", metrics["gradient_norm"])):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"training {name}: found {float(value)} between steps {step} and "
                    f"{step + steps_per_chunk}, expected a finite number; lower the "
                    "learning rate. The last checkpoint is untouched"
                )
        done = step + steps_per_chunk
        is_due = (
            done * training.num_evaluations // config.num_steps
            > step * training.num_evaluations // config.num_steps
        )
        elapsed = time.perf_counter() - started
        state = state._replace(seconds=state.seconds + jnp.float32(elapsed))
        shown = {**shown, "loss": loss, "temperature": float(metrics["temperature"])}
        if is_due:
            started = time.perf_counter()
            state, record = evaluate(state, metrics)
            shown = {**shown, "valid_energy": record["valid_energy"]}
            elapsed = time.perf_counter() - started
            state = state._replace(seconds=state.seconds + jnp.float32(elapsed))
            if store is not None:
                store.save(done, state)
        progress.update(done, shown)
    progress.close()
    if not is_finished and store is not None:
        step = int(state.run.step)
        if store.latest_step is None or store.latest_step < step:
            store.save(step, state)
    return TrainResult(state.best_params, state, is_finished)
