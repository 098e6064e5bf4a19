"""Results for other tools, with the names that the data give to their parts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.evaluation import export
from modmeta.runtime.optional import import_optional

if TYPE_CHECKING:
    import pandas

    from modmeta.relational.results.result import RelationalInference


def to_networkx(
    result: RelationalInference,
    relation_names: Sequence[str],
    skip_relation: int | None,
) -> list[Any]:
    """See `RelationalInference.to_networkx`."""
    dataset = result.dataset
    graphs = []
    for task in range(dataset.num_tasks):
        count = int(dataset.num_nodes[task])
        graph = export.edges_to_networkx(
            result.edges[task, :count, :count],
            result.probabilities[task, :count, :count],
            node_names=_members(dataset, task),
            relation_names=relation_names,
            skip_relation=skip_relation,
        )
        assert not isinstance(graph, list)
        graph.graph["system"] = _system(dataset, task)
        graphs.append(graph)
    return graphs


def to_dataframe(result: RelationalInference) -> pandas.DataFrame:
    """See `RelationalInference.to_dataframe`."""
    pandas = import_optional("pandas", "tables")
    dataset, names = result.dataset, result.relation_names
    rows = []
    for task, sender, receiver in export.edge_indices(result.edges):
        members = _members(dataset, task) or range(dataset.max_nodes)
        relation = int(result.edges[task, receiver, sender])
        rows.append(
            (
                _system(dataset, task),
                members[sender],
                members[receiver],
                relation,
                names[relation],
                *result.probabilities[task, receiver, sender].tolist(),
            )
        )
    columns = ["system", "sender", "receiver", "relation", "name"]
    columns += [f"probability_{k}" for k in range(result.model.num_relations)]
    return pandas.DataFrame(rows, columns=columns)


def to_csv(result: RelationalInference, path: str | os.PathLike[str]) -> None:
    """See `RelationalInference.to_csv`."""
    export.write_edges_csv(
        path,
        result.edges,
        result.probabilities,
        node_names=result.dataset.node_names,
        system_names=result.dataset.system_names,
    )


def _system(dataset: TrajectoryDataset, task: int) -> Any:
    return task if dataset.system_names is None else dataset.system_names[task]


def _members(dataset: TrajectoryDataset, task: int) -> Sequence[str] | None:
    return None if dataset.node_names is None else dataset.node_names[task]
