"""Predictions of a result, in the columns and units of its input."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np

from modmeta.relational.data.derived import recorded
from modmeta.relational.data.normalization import denormalize
from modmeta.relational.futures import predictions
from modmeta.relational.results.contents import Contents

# Half ranges of a column, and spreads of bodies around the middle of their system, in
# the training data: laws say nothing of what is so far from all that they were learned
# from.
_FAR, _FAR_APART = 10.0, 30.0


def predict(result: Contents, num_steps: int, **options: Any) -> np.ndarray:
    """See `RelationalInference.predict`."""
    normalized = predictions.predict(
        result.model,
        result.params,
        result.dataset,
        result.found.structures,
        num_steps,
        **options,
    )
    is_sampled = normalized.ndim == 5
    warn_of_far(result, normalized.mean(axis=0) if is_sampled else normalized)
    normalization = jax.tree.map(np.asarray, result.params.preprocessing.normalization)
    states = denormalize(normalization, normalized)
    states = recorded(result.dataset.features, states)
    node_mask = np.asarray(result.dataset.node_mask)
    return np.where(node_mask[:, None, :, None], states, 0.0)


def warn_of_far(result: Contents, normalized: np.ndarray) -> None:
    """Warns of predictions that leave all that the laws were learned from far behind.

    Args:
      result: The result that predicts.
      normalized: `[tasks, num_steps, nodes, features]`, normalised.
    """
    features = result.dataset.features
    # In a box, bodies act by their nearest images, however far they went.
    wrapped = [column for column, _, _ in features.periodic]
    positions = [c for c in features.positions if c not in wrapped]
    real = np.asarray(result.dataset.node_mask)[:, None, :, None]
    away = np.where(real, np.abs(normalized), 0.0).astype(np.float64) / _FAR
    away[..., [*features.inputs, *wrapped]] = 0.0
    if positions:
        places = np.where(real, normalized[..., positions], 0.0).astype(np.float64)
        middle = places.sum(axis=2, keepdims=True) / real.sum(axis=2, keepdims=True)
        spread = float(result.params.preprocessing.position_scale)
        away[..., positions] = np.where(real, np.abs(places - middle), 0.0)
        away[..., positions] /= max(_FAR_APART * spread, 1e-30)
    is_far = ~(away <= 1.0).all(axis=(0, 2))
    if not is_far.any():
        return
    first, column = (int(i[0]) for i in np.nonzero(is_far))
    warnings.warn(
        f"predictions: found {features.names[column]!r} from frame {first + 1} of "
        f"{len(is_far)} on far beyond all that the laws were learned from, which say "
        "nothing of it",
        stacklevel=4,
    )
