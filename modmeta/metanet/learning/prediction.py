"""Supervised training of metanetworks: from networks to a number about each.

What learns is a `Predictor`, a pair of functions over the batches of a
`modmeta.metanet.learning.sources.Source`. The training below knows neither graphs nor
accuracies: an objective compares outputs with targets, network by network. Outputs and
targets are pytrees with one row per network. A task that edits networks differs in the
three alone: the batches of its source hold the flat parameters `[b, P]` beside the
graph, the predictor gives new ones `[b, P]`
(`modmeta.metanet.models.weight_updates.WeightUpdateMetanet`, with axes swapped), and
the objective runs the networks with them and compares what comes out with targets
`[b, ...]`, say images, or compares the weights themselves.

Accuracy prediction follows Lim et al. 2023 (arXiv 2312.04501): binary cross-entropy
between the sigmoid of the output and the accuracy, Adam, model choice by validation.
Deviations: the entropy of the accuracy, which no prediction changes, is taken off the
loss; the learning rate rises, then falls to zero along a cosine; gradients are clipped;
batches are stratified by the size of the networks.

Letters: n networks, b networks of a batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from modmeta.metanet.learning import checks, parts, steps
from modmeta.metanet.learning.predictors import GraphPredictor as GraphPredictor
from modmeta.metanet.learning.predictors import (
    NeuralGraphPredictor as NeuralGraphPredictor,
)
from modmeta.metanet.learning.predictors import Predictor as Predictor
from modmeta.metanet.learning.predictors import TopologyPredictor as TopologyPredictor
from modmeta.metanet.learning.predictors import VectorPredictor as VectorPredictor
from modmeta.metanet.learning.sources import (
    Source,
    VectorSource,
    evaluation_plan,
    training_plan,
)
from modmeta.metanet.learning.steps import Disturb, FitState, Objective, adam
from modmeta.runtime import option_types, training_loop
from modmeta.runtime.checkpoint import CheckpointStore
from modmeta.runtime.metrics import MetricWriter
from modmeta.runtime.progress import ProgressMeter

# Batches whose networks are looked at to draw parameters.
_EXAMPLE_BATCHES = 4
# Steps whose learning rates are computed at once.
_BLOCK = 1024
# Initial values are drawn once: what the compiler takes to make that fast is lost.
_QUICK_COMPILATION = {"xla_backend_optimization_level": 0}


def accuracy_loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """How far the sigmoid of outputs `[b]` is from accuracies `[b]`, in nats `[b]`.

    The Kullback-Leibler divergence, which is the binary cross-entropy less the entropy
    of the accuracies: the same gradients, and zero for a perfect prediction.
    """
    entropy = -jax.scipy.special.xlogy(targets, targets)
    entropy = entropy - jax.scipy.special.xlog1py(1.0 - targets, -targets)
    return optax.sigmoid_binary_cross_entropy(outputs, targets) - entropy


@dataclasses.dataclass(frozen=True)
class PredictionConfig:
    """Options of the training.

    Attributes:
      num_steps: Steps of Adam.
      batch_size: Networks per step; all of the training networks if there are fewer.
      learning_rate: Its peak; it rises to it over the first twentieth of the steps.
      gradient_norm: Norm that gradients are clipped to.
      weight_decay: Of AdamW, as a multiple of the learning rate; 0: Adam.
      num_evaluations: How often validation networks are judged; once per step at most.
    """

    num_steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 3e-3
    gradient_norm: float = 1.0
    weight_decay: float = 0.0
    num_evaluations: int = 20

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        option_types.check_positive(self, or_zero=("weight_decay",))


class FitResult(NamedTuple):
    """Outcome of `fit`.

    Attributes:
      params: Parameters of lowest validation loss.
      valid_loss: That loss.
      seconds: Time spent on steps and evaluations, over all sittings.
      is_finished: False if training was asked to stop.
    """

    params: Any
    valid_loss: float
    seconds: float
    is_finished: bool


def _learning_rates(config: PredictionConfig) -> np.ndarray:
    """Of every step, `[num_steps]` float32."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        max(config.num_steps // 20, 1),
        max(config.num_steps, 2),
    )
    # Of whole blocks of steps: one program for trainings of any length.
    steps = np.arange(-(-config.num_steps // _BLOCK) * _BLOCK)
    return np.asarray(schedule(steps), np.float32)[: config.num_steps]


@functools.partial(
    jax.jit, static_argnames="predictor", compiler_options=_QUICK_COMPILATION
)
def _init(predictor: Predictor, rng_key: jax.Array, inputs: Any) -> Any:
    return predictor.init(rng_key, inputs)


@functools.partial(jax.jit, static_argnames=("predictor", "count"))
def _apply(predictor: Predictor, params: Any, inputs: Any, count: int) -> Any:
    return parts.outputs_of(functools.partial(predictor.apply, params), inputs, count)


def predict(
    predictor: Predictor,
    params: Any,
    source: Source,
    rows: np.ndarray,
    *,
    batch_size: int = 16,
) -> Any:
    """Outputs for some networks.

    Args:
      predictor: What was trained.
      params: Its parameters.
      source: The networks.
      rows: `[k]` indices of networks.
      batch_size: Networks per batch.

    Returns:
      Outputs with NumPy leaves `[k, ...]`, in the order of `rows`.

    Raises:
      ValueError: If the predictor, its parameters, the source, the rows or the size of
        a batch are something else.
    """
    checks.check_predictor(predictor, params)
    if params is None:
        raise ValueError("params: found None, expected those that fit gave, .params")
    checks.check_source(source)
    if option_types.check("batch_size", batch_size, int) < 1:
        raise ValueError(f"batch_size: found {batch_size}, expected at least 1")
    rows = checks.checked_rows("rows", rows, len(source.sizes))
    if not len(rows):
        raise ValueError("rows: found no networks, expected some")
    plan, is_first = evaluation_plan(source.sizes[rows], min(batch_size, len(rows)))
    budget = source.budget(rows[plan])
    size = plan.shape[1]
    found = [
        _apply(predictor, params, source.batch(rows[indices], budget), size)
        for indices in plan
    ]
    order = np.argsort(plan[is_first])

    def gather(*leaves):
        return np.stack(leaves)[is_first][order]

    return jax.tree.map(gather, *jax.device_get(found))


def fit(
    predictor: Predictor,
    objective: Objective,
    source: Source,
    targets: Any,
    splits: Mapping[str, np.ndarray],
    config: PredictionConfig,
    *,
    seed: int,
    params: Any = None,
    disturb: Disturb | None = None,
    in_blocks: bool | None = None,
    store: CheckpointStore | None = None,
    writer: MetricWriter | None = None,
    progress: ProgressMeter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    description: str = "training",
) -> FitResult:
    """Trains a predictor and keeps the parameters of lowest validation loss.

    Args:
      predictor: What learns.
      objective: `(outputs, targets) -> [b]` losses, one per network.
      source: The networks.
      targets: Pytree with leaves `[n, ...]`. Networks whose targets are NaN or infinite
        are left out, with a warning.
      splits: Indices of networks; "train" is trained on, "valid" chooses. Other splits
        are not looked at.
      config: Options.
      seed: Seed of initial values and order.
      params: Parameters to start from, as another training gave them; random ones
        unless given.
      disturb: `(key, inputs) -> inputs`, changes every batch to train on, within the
        compiled step; the key is consumed and follows from the seed and the step. Make
        it once: programs are kept by it.
      in_blocks: Whether all networks are kept on the device, and many steps are one
        program; for a `VectorSource`. None: where such a source is read by another
        device than a CPU, whose programs then wait for the host once in many steps. The
        same steps up to rounding.
      store: Checkpoints; the latest one is resumed.
      writer: Receives `loss` and `valid_loss` at every evaluation.
      progress: Progress meter.
      should_stop: Asked between chunks of steps; if true, the state is saved and
        training returns.
      description: What the progress meter calls the training.

    Returns:
      The result.

    Raises:
      ValueError: If the predictor, the objective, the source, the options or the seed
        are something else; if a split is missing or empty, or a network
        is in both; if targets are not of these networks, or finite for none of them; if
        steps shall be in blocks and the source is no `VectorSource`.
      FloatingPointError: If a loss is not finite.
    """
    checks.check_predictor(predictor, params)
    checks.check_objective(objective)
    checks.check_source(source)
    option_types.check("config", config, PredictionConfig)
    option_types.check_seed(seed)
    count = len(source.sizes)
    has_rows = isinstance(source, VectorSource)
    if in_blocks and not has_rows:
        raise ValueError(
            f"in_blocks: found True for a {type(source).__name__}, expected a "
            "VectorSource"
        )
    if in_blocks is None:
        in_blocks = has_rows and jax.default_backend() != "cpu"
    train_rows, valid_rows = checks.checked_splits(splits, count)
    train_rows, valid_rows = checks.rows_with_targets(
        targets, {"train": train_rows, "valid": valid_rows}, count
    )
    batch_size = min(config.batch_size, len(train_rows))
    plan = train_rows[
        training_plan(source.sizes[train_rows], batch_size, config.num_steps, seed)
    ]
    budget = source.budget(plan)
    if params is None:
        # Some parameters start by what networks there are.
        example = source.example(np.unique(plan[:_EXAMPLE_BATCHES]))
        params = _init(predictor, jax.random.key(seed), example)
    options = (config.gradient_norm, config.weight_decay)
    optimizer = jax.jit(adam(*options).init)(params)
    state = FitState(params, optimizer, training_loop.Best.start(params))
    learning_rates = _learning_rates(config)
    everything = jax.device_put((source.features, targets)) if in_blocks else None

    def targets_of(rows: np.ndarray) -> Any:
        return jax.tree.map(lambda leaf: leaf[rows], targets)

    key = jax.random.fold_in(jax.random.key(seed), 1)
    keys_of = jax.vmap(functools.partial(jax.random.fold_in, key))

    def take_steps(state: FitState, step: int, count: int):
        now = slice(step, step + count)
        rates = learning_rates[now]
        keys = None if disturb is None else keys_of(np.arange(step, step + count))
        given = (predictor, objective, disturb, *options)
        if in_blocks:
            given = (*given, rates, keys, state, plan[now], *everything)
            state, losses = steps.block(*given)
            return state, {"loss": np.mean(jax.device_get(losses))}
        losses = []
        for index, rows in enumerate(plan[now]):
            inputs, own = source.batch(rows, budget), targets_of(rows)
            rng_key = None if keys is None else keys[index]
            state, loss = steps.step(*given, rates[index], rng_key, state, inputs, own)
            losses.append(loss)
        return state, {"loss": np.mean(jax.device_get(losses))}

    def evaluate(state: FitState, step: int, metrics: Mapping[str, Any]):
        del step, metrics
        outputs = predict(
            predictor, state.params, source, valid_rows, batch_size=batch_size
        )
        loss = float(jnp.mean(objective(outputs, targets_of(valid_rows))))
        state = state._replace(best=state.best.update(state.params, loss))
        return state, {"valid_loss": loss}, False

    outcome = training_loop.train(
        state,
        take_steps,
        evaluate,
        num_steps=config.num_steps,
        num_evaluations=config.num_evaluations,
        store=store,
        writer=writer,
        progress=progress,
        should_stop=should_stop,
        shown=("loss", "valid_loss"),
        description=description,
    )
    best = outcome.state.run.best
    if outcome.is_finished and not np.isfinite(best.score):
        raise FloatingPointError(
            "validation loss: found none that is finite, expected one to choose by"
        )
    return FitResult(
        best.params, float(best.score), outcome.state.seconds, outcome.is_finished
    )
