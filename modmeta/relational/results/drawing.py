"""Figures of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modmeta.relational import figures
from modmeta.relational.data.derived import recorded
from modmeta.relational.evaluation.scores import match_labels
from modmeta.relational.results.export import systems_of

if TYPE_CHECKING:
    from modmeta.relational.results.result import RelationalInference


def draw(
    result: RelationalInference, num_systems: int, num_steps: int
) -> dict[str, Any]:
    """See `RelationalInference.plot`."""
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
    if not spec.inputs:  # whose future is not given
        drawn["trajectories"] = figures.plot_trajectories(
            recorded(spec, dataset.states),
            result.predict(num_steps),
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
