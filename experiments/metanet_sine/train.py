"""One run: zoo, contrastive training, linear probe, and what is written about it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.common.zoos import open_zoo
from experiments.metanet_sine import report
from experiments.metanet_sine.config import CONFIGS, ExperimentConfig, smoke
from experiments.metanet_sine.learner import Learner, LearnerState, epoch_batches
from modmeta.metanet import zoo
from modmeta.metanet.learning import contrastive, scores
from modmeta.metanet.parameter_graphs import tracing
from modmeta.metanet.zoo import sine
from modmeta.metanet.zoo.sine_rows import canonical_rows
from modmeta.runtime import training_loop

SPLITS = ("train", "valid", "test")
SHOWN = ("loss", "valid_loss", "valid_mse")
_LABEL_COUNTS = (30, 100, 300, 1000)


class SineNetworks(NamedTuple):
    """Networks of one split.

    Attributes:
      rows: `[n, P]` raw parameters.
      targets: `[n, 2]` amplitude and frequency.
      fit_mse: `[n]` mean squared error of the networks on their waves.
    """

    rows: np.ndarray
    targets: np.ndarray
    fit_mse: np.ndarray


class RunState(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      learner: State of the learner.
      best: Parameters that validation networks chose.
    """

    learner: LearnerState
    best: training_loop.Best


def load_splits(
    directory: Path, config: ExperimentConfig
) -> tuple[tuple[zoo.Leaf, ...], dict[str, SineNetworks]]:
    """Reads the zoo: leaves of a row, and networks by the name of their split."""
    group = zoo.load_zoo(directory, sine.zoo_config(config.zoo)).groups[sine.GROUP]
    targets, leaves = sine.coefficients(group), group.spec.leaves
    splits = {}
    for name in SPLITS:
        members = group.splits[name]
        if name == "train" and config.num_train:
            # Members are in rising order, networks are independent.
            members = members[: config.num_train]
        rows = group.parameters[members]
        if config.canonical:
            rows = np.asarray(canonical_rows(leaves, rows, config.zoo.omega))
        splits[name] = SineNetworks(
            rows,
            targets[members],
            group.scores["fit_mse"][members],
        )
    return leaves, splits


def build_learner(
    config: ExperimentConfig, leaves: tuple[zoo.Leaf, ...], rows: np.ndarray
) -> Learner:
    """Traces the networks of the zoo and measures the training rows."""
    module = sine.network(config.zoo)
    inputs = jnp.asarray(sine.points(config.zoo)[:2], jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), inputs)
    topology = tracing.trace(module, variables, inputs)
    sizes = [int(np.prod(leaf.shape)) for leaf in leaves]
    statistics = contrastive.weight_statistics(rows, sizes)
    return Learner(config, topology, leaves, statistics)


def probe_scores(
    embed: Callable[[np.ndarray], np.ndarray],
    splits: Mapping[str, SineNetworks],
    names: tuple[str, ...],
    components: int = 0,
) -> tuple[contrastive.LinearProbe, dict[str, np.ndarray], dict[str, float]]:
    """Fits the probe to the training split, which gives its components, too.

    Returns:
      The probe, and features and mean squared errors by the name of the split.
    """
    features = {name: embed(splits[name].rows) for name in names}
    if components:
        project = contrastive.principal_components(features["train"], components)
        features = {name: project(found) for name, found in features.items()}
    probe = contrastive.fit_probe(features["train"], splits["train"].targets)
    errors = {
        name: probe.mean_squared_error(features[name], splits[name].targets)
        for name in names
    }
    return probe, features, errors


def place_of(restart: int) -> str:
    """Directory of a training in that of its run."""
    return f"restarts/{restart}" if restart else ""


def train(
    config: ExperimentConfig,
    learner: Learner,
    splits: Mapping[str, SineNetworks],
    run: common.Run,
    restart: int = 0,
) -> training_loop.TrainingOutcome:
    """Trains or resumes; checkpoints and metrics go to `place_of(restart)`."""
    training, seed = config.training, config.seed + restart
    key_init, key_views, key_valid = jax.random.split(jax.random.key(seed), 3)
    rows = jnp.asarray(splits["train"].rows)
    learner_state = learner.init(key_init)
    start = RunState(learner_state, training_loop.Best.start(learner_state.params))

    def take_steps(state: RunState, step: int, count: int):
        batches = epoch_batches(seed, len(rows), training.batch_size, step, count)
        learner_state, metrics = learner.take_steps(
            state.learner, key_views, rows, jnp.asarray(batches), jnp.int32(step)
        )
        return state._replace(learner=learner_state), metrics

    def evaluate(state: RunState, step: int, metrics: Mapping[str, Any]):
        del step, metrics
        params = state.learner.params
        outcome = learner.evaluate(params, key_valid, splits["valid"].rows)
        _, _, errors = probe_scores(
            lambda rows: learner.embed(params, rows),
            splits,
            ("train", "valid"),
            config.components,
        )
        record = {
            "valid_loss": outcome.loss,
            "valid_accuracy": outcome.accuracy,
            "train_mse": errors["train"],
            "valid_mse": errors["valid"],
        }
        score = outcome.loss if training.select_by == "loss" else errors["valid"]
        return state._replace(best=state.best.update(params, score)), record, False

    description = "contrastive training"
    if config.num_restarts > 1:
        description += f" {restart + 1} of {config.num_restarts}"
    with run.loop(place_of(restart)) as arguments:
        return training_loop.train(
            start,
            take_steps,
            evaluate,
            num_steps=training.num_steps,
            num_evaluations=training.num_evaluations,
            shown=SHOWN,
            description=description,
            **arguments,
        )


def baselines(
    config: ExperimentConfig, learner: Learner, splits: Mapping[str, SineNetworks]
) -> dict[str, float]:
    """Test errors of what has not learned from networks.

    The mean of the training targets; a linear regression on the normalised weights;
    one on the embeddings of the metanetwork before training.
    """
    params = learner.init(jax.random.key(config.seed)).params
    embeddings = {
        "constant_mse": (lambda rows: np.zeros((len(rows), 1)), 0),
        "raw_weights_mse": (
            lambda rows: np.asarray(learner.statistics.normalize(rows)),
            0,
        ),
        "untrained_mse": (lambda rows: learner.embed(params, rows), config.components),
    }
    return {
        name: probe_scores(embed, splits, ("train", "test"), components)[2]["test"]
        for name, (embed, components) in embeddings.items()
    }


def label_curve(
    features: Mapping[str, np.ndarray], splits: Mapping[str, SineNetworks]
) -> dict[int, float]:
    """Test error of probes that see the labels of fewer training networks."""
    targets = splits["train"].targets
    counts = [count for count in _LABEL_COUNTS if count < len(targets)]
    curve = {}
    for count in [*counts, len(targets)]:
        probe = contrastive.fit_probe(features["train"][:count], targets[:count])
        curve[count] = probe.mean_squared_error(
            features["test"], splits["test"].targets
        )
    return curve


def compute(
    config: ExperimentConfig,
    run: common.Run,
    *,
    zoo_directory: str | Path | None = None,
) -> dict[str, Any] | None:
    """Zoo, training, probe, outputs; the summary, or None if stopped.

    Args:
      config: The configuration.
      run: The run.
      zoo_directory: Where the zoo is or shall be; `zoo` in the directory of the run by
        default.

    Raises:
      ZooError: If the zoo is damaged or of another configuration.
    """
    directory = open_zoo(
        run,
        zoo_directory,
        sine.zoo_config(config.zoo),
        functools.partial(sine.generate_sine_zoo, config=config.zoo),
    )
    if directory is None:
        return None
    zoo_seconds = run.seconds
    leaves, splits = load_splits(directory, config)
    learner = build_learner(config, leaves, splits["train"].rows)
    outcomes = []
    for restart in range(config.num_restarts):
        outcomes.append(train(config, learner, splits, run, restart))
        if not outcomes[-1].is_finished:
            return None
    restart_scores = [float(outcome.state.run.best.score) for outcome in outcomes]
    chosen = int(np.argmin(restart_scores))
    outcome = outcomes[chosen]
    params = outcome.state.run.best.params
    probe, features, errors = probe_scores(
        lambda rows: learner.embed(params, rows), splits, SPLITS, config.components
    )
    records = run.records(place_of(chosen))
    fit_mse = np.concatenate([splits[name].fit_mse for name in SPLITS])
    predictions = probe.predict(features["test"])
    squares = (predictions - splits["test"].targets) ** 2
    test_errors = np.mean(squares, axis=0)
    interval = scores.bootstrap(np.mean, np.mean(squares, axis=1), seed=config.seed)
    summary = {
        **{f"{name}_mse": errors[name] for name in SPLITS},
        "test_mse_low": interval.low,
        "test_mse_high": interval.high,
        "test_mse_amplitude": test_errors[0],
        "test_mse_frequency": test_errors[1],
        **baselines(config, learner, splits),
        "valid_loss": float(outcome.state.run.best.score)
        if config.training.select_by == "loss"
        else min(record["valid_loss"] for record in records),
        "label_curve": label_curve(features, splits),
        "curve": [
            {name: record[name] for name in ("step", "loss", "valid_loss", "valid_mse")}
            for record in records
        ],
        "fit_mse_median": np.median(fit_mse),
        "fit_mse_mean": np.mean(fit_mse),
        **{f"num_{name}": len(splits[name].rows) for name in SPLITS},
        "num_parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(params)),
        "num_edges": learner.topology.num_edges,
        "num_steps": outcome.state.step,
        "restart": chosen,
        "restart_scores": restart_scores,
        "train_seconds": sum(outcome.state.seconds for outcome in outcomes),
        "zoo_seconds": zoo_seconds,
    }
    report.write_outputs(
        run.workdir,
        params,
        learner.statistics,
        features["test"],
        predictions,
        splits["test"].targets,
        records,
        summary["constant_mse"],
    )
    return summary


EXPERIMENT = common.Experiment(
    presets=CONFIGS,
    smoke=smoke,
    compute=compute,
    format_summary=report.format_summary,
    files="Embeddings, figures, model",
    shown=SHOWN,
    refusals=(zoo.ZooError,),
)
