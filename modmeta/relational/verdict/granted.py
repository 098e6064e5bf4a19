"""What every graph is granted on held-out frames: no relation, but it looks like one.

An entity may be held by a trap of its own, and all entities of a system may feel one
wind, though neither was recorded. Others are then good witnesses of where a body is,
and of when the wind blows. So what a graph leaves unexplained may be left to a linear
law of every entity alone, and to what all entities of a system have in common. Both are
fitted in the frames that the graph was found in.

Letters: W windows, Y predicted changes, P inputs of a law.
"""

from __future__ import annotations

import numpy as np

from modmeta.relational.classical.linear import SHRINKAGES
from modmeta.relational.evaluation.parts import Split

# Blocks of consecutive windows that are held out in turn, to choose a shrinkage.
_NUM_FOLDS = 4
_NUM_PASSES = 3
_TINY = 1e-30


class Granted:
    """Takes from errors what entities do alone and what they do together.

    Args:
      split: Frames that graphs are found in, and the rest.
      span: Frame intervals of a window.
    """

    def __init__(self, split: Split, span: int) -> None:
        self._early, late = (mask[..., None] for mask in split.windows(span))
        self._counted = self._early | late
        self._inputs = _own_inputs(split.dataset.states, self._early) * self._counted
        self._fits = _Fits(self._inputs * self._early)
        rank = np.cumsum(self._early, axis=2) - 1
        size = np.maximum(self._early.sum(axis=2, keepdims=True), 1)
        number = np.maximum(rank, 0) * _NUM_FOLDS // size
        self._folds = [self._early & (number == fold) for fold in range(_NUM_FOLDS)]
        self._without = [_Fits(self._inputs * (self._early & ~f)) for f in self._folds]

    def __call__(self, errors: np.ndarray) -> np.ndarray:
        """What is left of errors `[tasks, nodes, W, Y]`, zero where none counts."""
        errors = errors * self._counted
        shrinkage = self._shrinkage(errors)
        alone = self._fits.weights(self._fits.slopes(errors), shrinkage)
        beyond = errors - self._inputs @ alone
        weights = np.zeros_like(alone)
        # What others are witnesses of shows once their own laws are known.
        for _ in range(_NUM_PASSES):
            others = _mean_of_others(errors - self._inputs @ weights, self._counted)
            # Both laws at once: what own states do not tell, of errors and witnesses.
            of_others = self._fits.weights(self._fits.slopes(others), shrinkage)
            witness = others - self._inputs @ of_others
            share = _share(witness * self._early, beyond * self._early)
            weights = alone - share * of_others
        return (errors - self._inputs @ weights - share * others) * self._counted

    def _shrinkage(self, errors: np.ndarray) -> np.ndarray:
        """That which predicts held-out blocks best, `[tasks, nodes, 1, 1]`."""
        left = np.zeros((len(SHRINKAGES), *errors.shape[:2]))
        for fold, fits in zip(self._folds, self._without, strict=True):
            slopes = fits.slopes(errors)
            for index, shrinkage in enumerate(SHRINKAGES):
                missed = errors - self._inputs @ fits.weights(slopes, shrinkage)
                left[index] += np.sum(np.square(missed * fold), axis=(2, 3))
        return np.array(SHRINKAGES)[np.argmin(left, axis=0)][..., None, None]


class _Fits:
    """Ridge regressions on the same inputs `[tasks, nodes, W, P]`, of many targets."""

    def __init__(self, inputs: np.ndarray) -> None:
        self._turned = np.swapaxes(inputs, 2, 3)
        # Rows that do not count are zero.
        count = np.count_nonzero(inputs.any(axis=3), axis=2)
        self._count = np.maximum(count, 1)[..., None, None]
        self._values, self._vectors = np.linalg.eigh(
            self._turned @ inputs / self._count
        )

    def slopes(self, targets: np.ndarray) -> np.ndarray:
        """`[tasks, nodes, P, Y]` of targets `[tasks, nodes, W, Y]`."""
        products = self._turned @ targets / self._count
        return np.swapaxes(self._vectors, 2, 3) @ products

    def weights(self, slopes: np.ndarray, shrinkage: float | np.ndarray) -> np.ndarray:
        """`[tasks, nodes, P, Y]` from slopes."""
        values = np.maximum(self._values, 0.0)[..., None]
        return self._vectors @ (slopes / (values + shrinkage))


def _own_inputs(states: np.ndarray, early: np.ndarray) -> np.ndarray:
    """Own states at the starts of windows and a constant, `[tasks, nodes, W, P]`.

    In units of their spread around their mean, of early windows `[tasks, nodes, W, 1]`.
    """
    states = np.swapaxes(states, 1, 2)[:, :, : early.shape[2]].astype(np.float64)
    count = np.maximum(early.sum(axis=2, keepdims=True), 1)
    away = states - np.sum(states * early, axis=2, keepdims=True) / count
    variance = np.sum(np.square(away) * early, axis=2, keepdims=True) / count
    spread = np.sqrt(variance)
    scaled = np.divide(away, spread, out=np.zeros_like(away), where=spread > 0.0)
    return np.concatenate([scaled, np.ones_like(scaled[..., :1])], axis=3)


def _share(others: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """What others tell of errors, `[tasks, 1, 1, Y]`, where all are moved alike.

    Forces between entities add up to nothing: where one gains, others lose. What moves
    all alike has a positive share.
    """
    product = np.sum(others * errors, axis=(1, 2), keepdims=True)
    square = np.sum(np.square(others), axis=(1, 2), keepdims=True)
    return np.maximum(product, 0.0) / np.maximum(square, _TINY)


def _mean_of_others(errors: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Mean over the other entities of a system, `[tasks, nodes, W, Y]`."""
    errors = errors * counted
    count = counted.sum(axis=1, keepdims=True) - counted
    others = errors.sum(axis=1, keepdims=True) - errors
    return counted * others / np.maximum(count, 1)
