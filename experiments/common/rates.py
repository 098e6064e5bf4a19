"""A learning rate that validation networks choose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from modmeta.metanet.learning.prediction import FitResult, PredictionConfig


def choose_rate(
    rates: Sequence[float],
    training: PredictionConfig,
    num_steps: int,
    fit: Callable[[str, PredictionConfig], FitResult],
) -> float:
    """The learning rate of least validation loss after a short training.

    Args:
      rates: To choose from; one is taken as it is.
      training: The long training.
      num_steps: Steps of every short one; 0 takes the first rate.
      fit: From a name of the rate and a training to its result.
    """
    if len(rates) == 1 or not num_steps:
        return rates[0]
    losses = []
    for rate in rates:
        short = dataclasses.replace(
            training, num_steps=num_steps, num_evaluations=1, learning_rate=rate
        )
        losses.append(fit(f"{rate:g}", short).valid_loss)
    return rates[int(np.argmin(losses))]
