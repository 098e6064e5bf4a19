"""Trained modules on recordings of another kind, beside modules trained on that kind.

    python -m benchmarks.transfer --config=charged --model=MODEL --systems=60
    python -m benchmarks.transfer --config=kuramoto --model=MODEL --train=1000

The model comes from its file, data come as arrays: what is not said of them is as in
training. Every row has the share of edges, how sure the search is, and what the program
said of the data; refusals have their sentence. With `--train`, modules are also trained
on so many systems of the same kind and find the edges of the same test systems.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags

from experiments.relational_inference import trained
from experiments.relational_inference.config import CONFIGS, ExperimentConfig
from experiments.relational_inference.datasets import SIMULATORS, Datasets
from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.data.forms.arrays import Reading
from modmeta.relational.evaluation.scores import label_scores
from modmeta.relational.inference.infer import infer_dataset
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.results import transfer
from modmeta.relational.training import meta_training, setup

_CONFIG = flags.DEFINE_enum(
    "config", "springs", ["springs", "charged", "kuramoto"], "Preset of the model."
)
_MODEL = flags.DEFINE_string("model", None, "Its model.npz.", required=True)
_SYSTEMS = flags.DEFINE_integer("systems", 60, "Test systems.", lower_bound=1)
_TRAIN = flags.DEFINE_integer(
    "train", 0, "Systems that fresh modules learn from; 0 for none.", lower_bound=0
)
_STEPS = flags.DEFINE_integer(
    "steps", 0, "Steps of a fresh training; 0 for those of the preset.", lower_bound=0
)
_KINDS = flags.DEFINE_list("kinds", None, "Kinds of recordings, by number from 0.")
_SEED = flags.DEFINE_integer("seed", 101, "Seed of the test systems.")
_FRAMES = 49
# Training systems have seeds of their own.
_TRAINING_SEED = 10_000


class Kind(NamedTuple):
    """A kind of recordings.

    Attributes:
      name: What it is.
      num_frames: Frames.
      num_nodes: Bodies.
      stride: Every how many frames of the simulator one is kept.
      unit: Time is counted in this unit.
      is_said: Whether the interval is said.
    """

    name: str
    num_frames: int = _FRAMES
    num_nodes: int = 5
    stride: int = 1
    unit: float = 1.0
    is_said: bool = False


KINDS = (
    Kind("as in training"),
    Kind("30 frames", num_frames=30),
    Kind("60 frames", num_frames=60),
    Kind("200 frames", num_frames=200),
    Kind("8 bodies", num_nodes=8),
    Kind("twice the interval", stride=2, is_said=True),
    Kind("twice the interval, not said", stride=2),
    Kind("time in hundredths, said", unit=0.01, is_said=True),
)


def recordings(
    simulate: Callable[..., TrajectoryDataset], kind: Kind, seed: int, num_tasks: int
) -> TrajectoryDataset:
    """Systems of a kind."""
    dataset = simulate(
        seed,
        num_tasks,
        num_nodes=kind.num_nodes,
        num_frames=(kind.num_frames - 1) * kind.stride + 1,
    )
    states = np.array(dataset.states[:, :: kind.stride], np.float64)
    spec = dataset.features
    circles = {*spec.positions, *spec.sines, *spec.cosines}
    rates = [c for c in range(spec.num_features) if c not in circles]
    states[..., rates] *= kind.unit
    interval = float(dataset.frame_interval or 1.0) * kind.stride / kind.unit
    return dataclasses.replace(
        dataset, states=states.astype(np.float32), frame_interval=interval
    )


def found_by(
    config: ExperimentConfig,
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
) -> tuple[float, float]:
    """Share of edges that are right, and mean probability of those found."""
    config = trained.with_search(
        config, Datasets(dataset, dataset, None, dataset.num_frames, True), model
    )
    found = infer_dataset(
        jax.random.key(0), model, params, dataset.without_labels(), config.inference
    )
    scores = label_scores(found, dataset, model.num_relations)
    pairs = np.asarray(dataset.edges) >= 0
    return scores["edge_accuracy"], float(
        found.probabilities.max(axis=-1)[pairs].mean()
    )


def of_trained(config: ExperimentConfig, kind: Kind, test: TrajectoryDataset) -> str:
    """What a model from its file says of recordings that come as an array."""
    model, params = trained.load(_MODEL.value)
    interval = test.frame_interval if kind.is_said else None
    reading = Reading(frame_interval=interval, arrays={"labels": test.edges})
    try:
        dataset = transfer.read_for(test.states, model.bank.layout, reading)
        trained.check(_MODEL.value, model, params, dataset)
    except (DataError, trained.ModelMismatchError) as error:
        return f"refused: {error}"
    model = model.reaching(dataset.frame_interval)
    notes = [*dataset.notes, *transfer.other_sizes(dataset, params.preprocessing)]
    accuracy, sure = found_by(config, model, params, dataset)
    return f"{accuracy:.4f} of the edges at {sure:.3f} {' '.join(notes)}".rstrip()


def of_fresh(
    config: ExperimentConfig, complete: TrajectoryDataset, test: TrajectoryDataset
) -> str:
    """What modules find that are trained on recordings of the same kind."""
    train_set, valid_set = setup.split_validation(
        complete.without_labels(), config.seed
    )
    key = jax.random.key(config.seed)
    model, params = setup.build_model(train_set, key, modules=config.modules)
    result = meta_training.train(
        model,
        params,
        train_set,
        valid_set,
        config.bouncegrad,
        config.training,
        seed=config.seed,
    )
    accuracy, sure = found_by(config, model, result.params, test)
    return f"{accuracy:.4f} of the edges at {sure:.3f}"


def main(argv: list[str]) -> None:
    """Prints a row per kind of recordings."""
    del argv
    config = CONFIGS[_CONFIG.value]()
    steps = _STEPS.value or config.bouncegrad.num_steps
    config = dataclasses.replace(
        config, bouncegrad=dataclasses.replace(config.bouncegrad, num_steps=steps)
    )
    simulate = SIMULATORS[_CONFIG.value]
    for number in map(int, _KINDS.value or range(len(KINDS))):
        kind = KINDS[number]
        started = time.perf_counter()
        test = recordings(simulate, kind, _SEED.value, _SYSTEMS.value)
        print(f"{kind.name}: {of_trained(config, kind, test)}", end="", flush=True)
        print(f" ({time.perf_counter() - started:.0f} s)", flush=True)
        if _TRAIN.value:
            started = time.perf_counter()
            complete = recordings(simulate, kind, _TRAINING_SEED, _TRAIN.value)
            print(f"  trained on it: {of_fresh(config, complete, test)}", end="")
            print(f" ({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    app.run(main)
