"""Results for other tools, with the names that the data give to their parts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modmeta.relational.classical import METHODS
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.evaluation import export
from modmeta.relational.laws.strengths import Strengths
from modmeta.relational.results.contents import Contents
from modmeta.relational.verdict.finer import STRENGTHS
from modmeta.runtime.optional import import_optional

if TYPE_CHECKING:
    import pandas


def to_networkx(
    result: Contents,
    relation_names: Sequence[str],
    skip_relation: int | None,
) -> list[Any]:
    """See `RelationalInference.to_networkx`."""
    dataset, systems = result.dataset, systems_of(result)
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
        graph.graph["system"] = systems[task]
        graphs.append(graph)
    return graphs


def ranking_method(result: Contents, method: str | None) -> str:
    """The name of a ranking; None for the one that the verdict recommends.

    Raises:
      ValueError: If there is no such method, or the verdict recommends none.
    """
    known = [STRENGTHS, *METHODS]
    if method in known:
        return method
    if method is not None:
        raise ValueError(f"method: found {method!r}, expected one of {known}")
    recommended = result.verdict.recommended if result.verdict else None
    if recommended is None:
        raise ValueError(
            "method: found none, and a verdict that recommends none, expected one "
            f"of {known}"
        )
    return recommended


def to_dataframe(result: Contents, strengths: Strengths | None) -> pandas.DataFrame:
    """See `RelationalInference.to_dataframe`."""
    pandas = import_optional("pandas", "tables")
    dataset, names = result.dataset, result.relation_names
    extra = _extra(result, strengths)
    systems, rows = systems_of(result), []
    for task, sender, receiver in export.edge_indices(result.edges):
        members = _members(dataset, task) or range(dataset.max_nodes)
        relation = int(result.edges[task, receiver, sender])
        rows.append(
            (
                systems[task],
                members[sender],
                members[receiver],
                relation,
                names[relation],
                *result.probabilities[task, receiver, sender].tolist(),
                *(values[task, receiver, sender].item() for values in extra.values()),
            )
        )
    columns = ["system", "sender", "receiver", "relation", "name"]
    columns += [f"probability_{k}" for k in range(result.model.num_relations)]
    columns += list(extra)
    return pandas.DataFrame(rows, columns=columns)


def to_csv(
    result: Contents, path: str | os.PathLike[str], strengths: Strengths | None
) -> None:
    """See `RelationalInference.to_csv`."""
    export.write_edges_csv(
        path,
        result.edges,
        result.probabilities,
        node_names=result.dataset.node_names,
        system_names=systems_of(result),
        extra=_extra(result, strengths),
    )


def _extra(result: Contents, strengths: Strengths | None) -> dict[str, np.ndarray]:
    """Further columns `[tasks, nodes, nodes]`: of stretches, and of strengths."""
    columns = {}
    if result.stretches is not None:
        columns |= result.stretches.columns(result.dataset.max_nodes)
    if strengths is not None:
        columns["strength"] = strengths.values.astype(np.float32)
        columns["strength_error"] = strengths.errors.astype(np.float32)
    return columns


def systems_of(result: Contents) -> list[Any]:
    """Names or numbers of the recordings of all tasks."""
    dataset = result.dataset
    if result.stretches is not None:
        return result.stretches.names(dataset)
    return list(dataset.system_names or range(dataset.num_tasks))


def _members(dataset: TrajectoryDataset, task: int) -> Sequence[str] | None:
    return None if dataset.node_names is None else dataset.node_names[task]
