"""Figures of a result."""

from __future__ import annotations

from typing import Any

import numpy as np

from modmeta.relational import figures
from modmeta.relational.data.derived import recorded
from modmeta.relational.evaluation.scores import match_labels
from modmeta.relational.results.contents import Contents
from modmeta.relational.results.export import systems_of


def draw(
    result: Contents, predicted: np.ndarray | None, num_systems: int
) -> dict[str, Any]:
    """See `RelationalInference.plot`; trajectories where there are predictions."""
    dataset, names = result.dataset, None
    if dataset.edges is not None and dataset.num_relations is not None:
        names = match_labels(
            result.edges,
            dataset.edges,
            result.model.num_relations,
            dataset.num_relations,
        )
    spec = dataset.features
    systems = systems_of(result)
    drawn = {
        "adjacency": figures.plot_adjacency(
            result.edges,
            dataset.edges,
            result.probabilities,
            num_systems,
            matching=names,
            system_names=systems,
            node_names=dataset.node_names,
        ),
    }
    if predicted is not None:
        drawn["trajectories"] = figures.plot_trajectories(
            recorded(spec, dataset.states),
            predicted,
            dataset.num_frames,
            spec.positions[:2] if len(spec.positions) >= 2 else None,
            num_systems=num_systems,
            node_mask=dataset.node_mask,
            feature_names=[spec.names[column] for column in spec.recorded],
            system_names=systems,
            node_names=dataset.node_names,
        )
    if result.laws:
        drawn["laws"] = figures.plot_laws(
            result.laws,
            names=[result.relation_names[curve.relation] for curve in result.laws],
        )
    return drawn
