"""Training and test systems of a run, simulated or from a file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.relational_inference.config import DataConfig
from modmeta.relational import data
from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.data.forms.arrays import Reading, read_dataset
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.results import transfer

# Strengths of the springs of four relations: none, and three that differ.
SPRINGS4 = (0.0, 0.5, 1.0, 2.0)
SIMULATORS: dict[str, Callable[..., TrajectoryDataset]] = {
    "springs": data.simulate_springs,
    "springs4": functools.partial(data.simulate_springs, strengths=SPRINGS4),
    "charged": data.simulate_charged,
    "kuramoto": data.simulate_kuramoto,
    "gravity": data.simulate_gravity,
    "lennard_jones": data.simulate_lennard_jones,
    "mixed": data.simulate_mixed,
    "flocks": data.simulate_flocks,
    "neurons": data.simulate_neurons,
}
# Relations of simulators that have more than two.
_NUM_KINDS = {"springs4": len(SPRINGS4), "mixed": 3}
_MIN_SYSTEMS_TO_SPLIT = 20
# Systems of another size get seeds of their own.
_SEEDS_PER_SIZE = 2**24


class Datasets(NamedTuple):
    """Data of a run.

    Attributes:
      train: Systems that training may see, observed frames.
      test: Systems that are scored, observed and future frames.
      everything: With a user's file, all of its systems, observed frames, in one task
        if they share a graph: those whose edges are exported. None for simulated data,
        where `test` is.
      num_observed: Frames that infer the structure.
      is_unseen: Whether training has not seen the test systems; None where that is not
        known, of a model from a file on systems from a file.
      test_rows: `[tests]` rows of `everything` that the test systems are; None where
        there is no such row.
    """

    train: TrajectoryDataset
    test: TrajectoryDataset
    everything: TrajectoryDataset | None
    num_observed: int
    is_unseen: bool | None
    test_rows: np.ndarray | None = None

    @property
    def observed(self) -> TrajectoryDataset:
        """Test systems, observed frames."""
        return self.test.frames(0, self.num_observed)

    @property
    def exported(self) -> TrajectoryDataset:
        """Systems whose edges are written and judged."""
        return self.observed if self.everything is None else self.everything


def make_datasets(
    config: DataConfig, seed: int, model: RelationalModel | None = None
) -> Datasets:
    """Simulates or loads the data of a run.

    Args:
      config: What to simulate or load.
      seed: Training systems use `2 * seed`, test systems `2 * seed + 1`.
      model: A trained model that all systems of a file are for; None to train one.

    Raises:
      DataError: If a file's data are not what they should be, or fewer systems or
        frames are there than asked for.
    """
    if config.file:
        loaded = read_file(config, model)
        if config.shared_graph:
            data.concatenate_tasks(loaded)  # refuses those that cannot share one
        if model is not None:
            return _all_of_file(loaded, config)
        return _split_file(loaded, config, seed)
    num_observed = config.num_observed
    num_frames = num_observed + config.num_predicted
    train = simulate(config, 2 * seed, config.num_train, num_observed)
    test = simulate(config, 2 * seed + 1, config.num_test, num_frames)
    return Datasets(train, test, None, num_observed, True)


def read_file(
    config: DataConfig, model: RelationalModel | None = None
) -> TrajectoryDataset:
    """Reads a user's trajectories, as `infer_relations` does.

    Args:
      config: Where they are, and what is said of them.
      model: A trained model: what is not said of columns and of time is as in its
        training.

    Raises:
      FileNotFoundError: If there is nothing.
      DataError: If the data are not what they should be.
    """
    roles = {
        "positions": config.positions,
        "velocities": config.velocities,
        "inputs": config.inputs,
    }
    reading = Reading(
        columns=dict(c.split("=", 1) for c in config.columns) or None,
        feature_names=config.features or None,
        roles={name: _columns(said) for name, said in roles.items() if said},
        derive_velocities=config.derive_velocities,
        domain=None if config.domain.kind == "open" else config.domain,
        frame_interval=config.frame_interval or None,
    )
    if model is None:
        return read_dataset(config.file, reading)
    return transfer.read_for(config.file, model.bank.layout, reading)


def _columns(said: tuple[str, ...]) -> tuple[int | str, ...]:
    """Columns by number where they are called so."""
    # Notes speak of positions=(), which is a word to a shell.
    if said in (("none",), ("()",)):
        return ()
    return tuple(int(column) if column.isdigit() else column for column in said)


def simulate(
    config: DataConfig, seed: int, num_tasks: int, num_frames: int
) -> TrajectoryDataset:
    """Simulates systems, of all sizes in turn.

    Args:
      config: What the systems look like.
      seed: Seed, that of the simulator for the smallest size.
      num_tasks: Number of systems.
      num_frames: Frames of each.
    """
    sizes = sorted(config.num_nodes)
    options: dict[str, Any] = {
        "num_frames": num_frames,
        "observation_noise": config.observation_noise,
    }
    if config.system == "kuramoto":
        options["observation"] = config.observation
    simulated, places = [], []
    for index, size in enumerate(sizes):
        tasks = np.arange(index, num_tasks, len(sizes))
        if not len(tasks):
            break
        if config.mean_degree:
            share = config.mean_degree / (size - 1)
            num_kinds = _NUM_KINDS.get(config.system, 2) - 1
            options["probabilities"] = (1.0 - share, *[share / num_kinds] * num_kinds)
        simulated.append(
            SIMULATORS[config.system](
                seed + index * _SEEDS_PER_SIZE, len(tasks), num_nodes=size, **options
            )
        )
        places.append(tasks)
    if len(simulated) == 1:
        return simulated[0]
    return data.concatenate(simulated).take(np.argsort(np.concatenate(places)))


def _observed_frames(dataset: TrajectoryDataset, config: DataConfig) -> tuple[int, int]:
    """Frames of a file that infer the structure, and frames that are used in all."""
    num_frames = dataset.num_frames
    num_predicted = min(config.num_predicted, num_frames // 4)
    num_observed = config.num_observed or num_frames - num_predicted
    if not 3 <= num_observed <= num_frames:
        raise DataError(
            f"num_observed: found {num_observed}, expected 3 to the {num_frames} "
            f"frames of {config.file}"
        )
    return num_observed, min(num_observed + num_predicted, num_frames)


def _all_of_file(dataset: TrajectoryDataset, config: DataConfig) -> Datasets:
    """All systems of a file are scored: a model may have been trained on any."""
    num_observed, num_used = _observed_frames(dataset, config)
    observed = dataset.frames(0, num_observed)
    return Datasets(
        observed,
        dataset.frames(0, num_used),
        data.concatenate_tasks(observed) if config.shared_graph else observed,
        num_observed,
        None,
        None if config.shared_graph else np.arange(dataset.num_tasks),
    )


def _split_file(dataset: TrajectoryDataset, config: DataConfig, seed: int) -> Datasets:
    num_observed, num_used = _observed_frames(dataset, config)
    test_frames = dataset.frames(0, num_used)
    observed = dataset.frames(0, num_observed)
    num_tasks = dataset.num_tasks
    num_train = config.num_train
    if num_train > num_tasks:
        raise DataError(
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
        data.concatenate_tasks(observed) if config.shared_graph else observed,
        num_observed,
        is_unseen,
        None if config.shared_graph else test_rows,
    )
