"""What every graph is granted on held-out frames: no relation, but it looks like one.

An entity may be held by a trap of its own, and all entities of a system may feel one
wind, though nobody recorded either. Others are then good witnesses of where a body is,
and of when the wind blows. So what a graph leaves unexplained may be left to a linear
law of every entity alone, and to what all entities of a system have in common. Both are
fitted in the frames that the graph was found in.

Letters: W windows, Y predicted changes, P inputs of a law.
"""

from __future__ import annotations

import numpy as np

from modmeta.relational.classical.linear import SHRINKAGES
from modmeta.relational.data import TrajectoryDataset

# Blocks of consecutive windows that are held out in turn, to choose a shrinkage.
_NUM_FOLDS = 4
_TINY = 1e-30


class Granted:
    """Takes from errors what entities do alone and what they do together.

    Args:
      first: Frames that graphs are found in.
      rest: Frames that they are asked about.
      span: Frame intervals of a window.
    """

    def __init__(
        self, first: TrajectoryDataset, rest: TrajectoryDataset, span: int
    ) -> None:
        self._early, self._late = (_windows_of(part, span) for part in (first, rest))
        inputs, center, spread = _inputs(first, self._early)
        self._inputs = inputs
        self._later, _, _ = _inputs(rest, self._late, center, spread)
        self._fits = _Fits(inputs)
        num_windows = self._early.shape[2]
        folds = np.arange(num_windows) * _NUM_FOLDS // max(num_windows, 1)
        self._folds = [folds == fold for fold in range(_NUM_FOLDS)]
        self._without = [_Fits(inputs * ~fold[:, None]) for fold in self._folds]

    def __call__(self, early: np.ndarray, late: np.ndarray) -> np.ndarray:
        """What is left of the later errors.

        Args:
          early: `[tasks, nodes, W, Y]` errors of a graph in the first frames, zero
            where nothing was observed.
          late: The same in the rest.
        """
        weights = self._weights(early)
        early = (early - self._inputs @ weights) * self._early[..., None]
        late = (late - self._later @ weights) * self._late[..., None]
        others, later_others = (
            _mean_of_others(*pair)
            for pair in ((early, self._early), (late, self._late))
        )
        # Forces between entities add up to nothing: where one gains, others lose. What
        # moves all alike has a positive share.
        product = np.sum(others * early, axis=(1, 2), keepdims=True)
        square = np.sum(np.square(others), axis=(1, 2), keepdims=True)
        share = np.maximum(product, 0.0) / np.maximum(square, _TINY)
        return late - share * later_others

    def _weights(self, errors: np.ndarray) -> np.ndarray:
        """`[tasks, nodes, P, Y]`, shrunk as far as held-out blocks ask for."""
        left = np.zeros((len(SHRINKAGES), *errors.shape[:2]))
        for fold, fits in zip(self._folds, self._without, strict=True):
            inputs, targets = self._inputs[:, :, fold], errors[:, :, fold]
            slopes = fits.slopes(errors)
            for index, shrinkage in enumerate(SHRINKAGES):
                missed = targets - inputs @ fits.weights(slopes, shrinkage)
                missed *= self._early[:, :, fold, None]
                left[index] += np.sum(np.square(missed), axis=(2, 3))
        slopes = self._fits.slopes(errors)
        chosen = np.array(SHRINKAGES)[np.argmin(left, axis=0)]
        return self._fits.weights(slopes, chosen[..., None, None])


class _Fits:
    """Ridge regressions on the same inputs `[tasks, nodes, W, P]`, of many targets."""

    def __init__(self, inputs: np.ndarray) -> None:
        self._inputs = inputs
        self._count = max(inputs.shape[2], 1)
        second = np.swapaxes(inputs, 2, 3) @ inputs / self._count
        self._values, self._vectors = np.linalg.eigh(second)

    def slopes(self, targets: np.ndarray) -> np.ndarray:
        """`[tasks, nodes, P, Y]` of targets `[tasks, nodes, W, Y]`."""
        return np.swapaxes(self._inputs @ self._vectors, 2, 3) @ targets / self._count

    def weights(self, slopes: np.ndarray, shrinkage: float | np.ndarray) -> np.ndarray:
        """`[tasks, nodes, P, Y]` from slopes."""
        values = np.maximum(self._values, 0.0)[..., None]
        return self._vectors @ (slopes / (values + shrinkage))


def _windows_of(dataset: TrajectoryDataset, span: int) -> np.ndarray:
    """`[tasks, nodes, W]` whether the change over a window was observed."""
    return np.swapaxes(dataset.counted(span), 1, 2)


def _inputs(
    dataset: TrajectoryDataset,
    counted: np.ndarray,
    center: np.ndarray | None = None,
    spread: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Own states at the starts of windows and a constant, `[tasks, nodes, W, P]`.

    In units of their spread around a center, `[tasks, nodes, 1, F]` each, of these
    windows if none are given.
    """
    states = np.swapaxes(dataset.states, 1, 2)[:, :, : counted.shape[2]]
    states = states.astype(np.float64)
    mask = counted[..., None]
    count = np.maximum(mask.sum(axis=2, keepdims=True), 1)
    if center is None:
        center = np.sum(states * mask, axis=2, keepdims=True) / count
    away = (states - center) * mask
    if spread is None:
        spread = np.sqrt(np.sum(np.square(away), axis=2, keepdims=True) / count)
    scaled = np.divide(away, spread, out=np.zeros_like(away), where=spread > 0.0)
    return np.concatenate([scaled, mask.astype(np.float64)], axis=3), center, spread


def _mean_of_others(errors: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Mean over the other entities of a system, `[tasks, nodes, W, Y]`."""
    mask = counted[..., None]
    count = mask.sum(axis=1, keepdims=True) - mask
    others = errors.sum(axis=1, keepdims=True) - errors
    return np.where(mask, others / np.maximum(count, 1), 0.0)
