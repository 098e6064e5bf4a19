"""Trainings of a run, each resumed by itself."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from experiments import common
from experiments.common.rates import choose_rate
from experiments.metanet_editing.config import ExperimentConfig
from experiments.metanet_editing.networks import FieldNetworks
from modmeta.metanet.learning import prediction


class Fitted(NamedTuple):
    """An editor or a reader after training.

    Attributes:
      params: Its parameters.
      learning_rate: The rate that validation networks chose.
      seconds: Time spent, without pilots.
    """

    params: Any
    learning_rate: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Trains what a run compares.

    Attributes:
      config: Options.
      networks: The networks.
      run: The run.
    """

    config: ExperimentConfig
    networks: FieldNetworks
    run: common.Run

    def _fit(self, name, contender, objective, targets, training, count):
        splits = self.networks.splits
        # All views of an image follow each other.
        count *= self.config.zoo.num_views
        with self.run.loop(f"models/{name}") as arguments:
            result = prediction.fit(
                contender.predictor,
                objective,
                contender.source,
                targets,
                {**splits, "train": splits["train"][: count or None]},
                training,
                seed=self.config.seed,
                disturb=contender.disturb,
                description=name,
                **arguments,
            )
        if not result.is_finished:
            raise common.Stopped
        return result

    def choose_rate(self, name, contender, objective, targets, training) -> float:
        """The learning rate of least validation loss after a short training.

        Raises:
          common.Stopped: If the user asked to stop.
        """

        def pilot(rate, short):
            place = f"pilots/{name}/{rate}"
            return self._fit(place, contender, objective, targets, short, 0)

        rates, num_steps = self.config.learning_rates, self.config.pilot_steps
        return choose_rate(rates, training, num_steps, pilot)

    def fit(
        self, name, contender, objective, targets, training, rate, count=0
    ) -> Fitted:
        """Trains with the first `count` training images, 0 for all.

        Raises:
          common.Stopped: If the user asked to stop.
        """
        training = dataclasses.replace(training, learning_rate=rate)
        result = self._fit(name, contender, objective, targets, training, count)
        return Fitted(result.params, rate, result.seconds)

    def outputs(self, contender, fitted: Fitted, rows: np.ndarray) -> Any:
        """Outputs for networks `[k]`."""
        return prediction.predict(
            contender.predictor,
            fitted.params,
            contender.source,
            rows,
            batch_size=self.config.training.batch_size,
        )
