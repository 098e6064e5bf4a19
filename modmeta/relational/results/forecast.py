"""Predictions of a result, in the columns and units of its input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from modmeta.relational.data.derived import recorded
from modmeta.relational.data.normalization import denormalize
from modmeta.relational.evaluation import rollouts

if TYPE_CHECKING:
    from modmeta.relational.results.result import RelationalInference


def predict(result: RelationalInference, num_steps: int, **options: Any) -> np.ndarray:
    """See `RelationalInference.predict`."""
    normalized = rollouts.predict(
        result.model,
        result.params,
        result.dataset,
        result.found.structures,
        num_steps,
        **options,
    )
    normalization = jax.tree.map(np.asarray, result.params.preprocessing.normalization)
    states = denormalize(normalization, normalized)
    states = recorded(result.dataset.features, states)
    node_mask = np.asarray(result.dataset.node_mask)
    return np.where(node_mask[:, None, :, None], states, 0.0)
