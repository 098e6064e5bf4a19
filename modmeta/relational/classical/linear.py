"""Linear regressions that are shrunk as far as held-out rows ask for.

Letters: R rows (frames of all recordings), P inputs, N nodes, C columns of a node, M
columns of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

# Ridges, in units of the variance of every input; the last leaves next to nothing.
SHRINKAGES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
# Blocks of consecutive rows that are held out in turn.
_NUM_FOLDS = 4


def ridge(
    inputs: np.ndarray, targets: np.ndarray, shrinkages: Sequence[float]
) -> np.ndarray:
    """Weights `[shrinkages, P, M]` of inputs `[R, P]` for targets `[R, M]`.

    An input that never varies has weight 0.
    """
    count = max(len(inputs), 1)
    spread = np.sqrt(np.mean(np.square(inputs), axis=0))
    inverse = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0.0)
    scaled = inputs * inverse
    values, vectors = np.linalg.eigh(scaled.T @ scaled / count)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ (scaled.T @ targets) / count
    return np.stack(
        [
            inverse[:, None] * (vectors @ (turned / (values + shrinkage)[:, None]))
            for shrinkage in shrinkages
        ]
    )


def precision(values: np.ndarray, shrinkage: float) -> np.ndarray:
    """Inverse of the correlations of columns `[R, M]`, shrunk towards none."""
    second = values.T @ values / max(len(values), 1)
    spread = np.sqrt(np.diag(second))
    spread = np.where(spread > 0.0, spread, 1.0)
    correlations = second / np.outer(spread, spread)
    np.fill_diagonal(correlations, 1.0)
    return np.linalg.inv(correlations + shrinkage * np.eye(len(spread)))


def from_others(
    values: np.ndarray, shrinkages: Sequence[float], size: int = 1
) -> np.ndarray:
    """Weights `[shrinkages, M, M]` of all other nodes for each column of `[R, M]`.

    All of these regressions are in one inverse: that of the correlations.

    Args:
      values: `[R, M]`, those of a node side by side.
      shrinkages: Ridges.
      size: Columns of a node, which have no weights for one another.
    """
    count = values.shape[1] // size
    nodes = np.arange(count)
    is_other = np.kron(1.0 - np.eye(count), np.ones((size, size)))
    spread = np.sqrt(np.mean(np.square(values), axis=0))
    spread = np.where(spread > 0.0, spread, 1.0)
    found = []
    for shrinkage in shrinkages:
        inverse = precision(values, shrinkage).reshape(-1, count, size)
        of_node = inverse.reshape(count, size, count, size)[nodes, :, nodes]
        weights = -np.einsum("mnc,ncd->mnd", inverse, np.linalg.inv(of_node))
        weights = is_other * weights.reshape(len(spread), -1)
        found.append(weights * spread / spread[:, None])
    return np.stack(found)


def choose_shrinkage(
    fit: Callable[[np.ndarray, np.ndarray, Sequence[float]], np.ndarray],
    inputs: np.ndarray,
    targets: np.ndarray,
) -> float:
    """The shrinkage whose weights predict blocks of held-out rows best.

    Args:
      fit: Weights `[shrinkages, P, M]` from inputs and targets.
      inputs: `[R, P]`.
      targets: `[R, M]`.
    """
    errors = np.zeros(len(SHRINKAGES))
    rows = np.arange(len(inputs))
    for held_out in np.array_split(rows, min(_NUM_FOLDS, len(rows))):
        kept = np.setdiff1d(rows, held_out)
        if not len(kept):
            continue
        weights = fit(inputs[kept], targets[kept], SHRINKAGES)
        left = targets[held_out] - inputs[held_out] @ weights
        errors += np.sum(np.square(left), axis=(1, 2))
    return SHRINKAGES[int(np.argmin(errors))]


def shrunk_ridge(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights `[P, M]` of inputs `[R, P]`, see `choose_shrinkage`."""
    shrinkage = choose_shrinkage(ridge, inputs, targets)
    return ridge(inputs, targets, [shrinkage])[0]


def choose_shrinkage_of_others(values: np.ndarray, size: int = 1) -> float:
    """The same for regressions of every column on other nodes, see `from_others`."""

    def fit(inputs, _, shrinkages):
        return from_others(inputs, shrinkages, size)

    return choose_shrinkage(fit, values, values)


def shrunk_from_others(values: np.ndarray, size: int = 1) -> np.ndarray:
    """Weights `[M, M]` of all other nodes, see `choose_shrinkage`."""
    shrinkage = choose_shrinkage_of_others(values, size)
    return from_others(values, [shrinkage], size)[0]


def innovations(targets: np.ndarray, past: np.ndarray) -> np.ndarray:
    """What the own past of every node leaves of its targets, `[R, N, C]`.

    Args:
      targets: `[R, N, C]`.
      past: `[R, N, P]`.
    """
    return targets - own_prediction(own_weights(targets, past), past)


def own_weights(targets: np.ndarray, past: np.ndarray) -> np.ndarray:
    """Least squares of every node on its own past, `[N, P, C]`."""
    weights = [
        np.linalg.lstsq(past[:, node], targets[:, node], rcond=None)[0]
        for node in range(past.shape[1])
    ]
    return np.stack(weights)


def own_prediction(weights: np.ndarray, past: np.ndarray) -> np.ndarray:
    """What weights `[N, P, C]` make of the past `[R, N, P]`, `[R, N, C]`."""
    return np.einsum("rnp,npc->rnc", past, weights)
