"""Training and test systems of a run, simulated or from a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.relational_inference.config import DataConfig
from modmeta.relational import data
from modmeta.relational.data import TrajectoryDataset

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
