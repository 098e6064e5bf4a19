"""Inferred graphs for other tools: networkx, CSV and plain NumPy.

Arrays follow one convention: edges `[systems, nodes, nodes]`, row = receiver, column =
sender, -1 where there is no edge; probabilities `[systems, nodes, nodes, relations]`.
The exported formats name sender and receiver, and their edges point from the sender to
the receiver.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modmeta.relational.evaluation.checks import check_probabilities, check_relations
from modmeta.runtime.files import atomic_write
from modmeta.runtime.optional import import_optional

if TYPE_CHECKING:
    import networkx


def real_nodes(edges: npt.ArrayLike) -> np.ndarray:
    """Tells real nodes from padding, by the entries of an edge array.

    Args:
      edges: `[systems, nodes, nodes]`, integers.

    Returns:
      `[systems, nodes]`, bool: true up to the last node that some edge enters or
      leaves, and always at node 0.

    Raises:
      TypeError: if `edges` does not hold integers.
      ValueError: if its shape is another, or an entry is below -1.
    """
    present = check_relations("edges", edges) >= 0
    touched = present.any(axis=1) | present.any(axis=2)
    touched[:, :1] = True
    return np.logical_or.accumulate(touched[:, ::-1], axis=1)[:, ::-1]


def edges_to_networkx(
    edges: npt.ArrayLike,
    probabilities: npt.ArrayLike | None = None,
    node_names: Sequence[Hashable] | None = None,
    relation_names: Sequence[str] | None = None,
    skip_relation: int | None = None,
    *,
    node_mask: npt.ArrayLike | None = None,
) -> networkx.DiGraph | list[networkx.DiGraph]:
    """Converts edges to directed graphs that point from sender to receiver.

    Args:
      edges: `[systems, nodes, nodes]`, or `[nodes, nodes]` for one system, integers.
      probabilities: `edges.shape + [relations]`, or None.
      node_names: one distinct name per node of the array, the same in all systems.
        None means 0, 1, ....
      relation_names: one name per relation. None means 0, 1, ....
      skip_relation: a relation whose edges are left out, such as one that stands for
        no interaction.
      node_mask: `edges.shape[:-1]`, bool, false at padded nodes, which are left out.
        None means `real_nodes(edges)`.

    Returns:
      One `networkx.DiGraph` per system, or a single one for edges `[nodes, nodes]`.
      Edges have the attribute `relation` and, given probabilities, `probability`,
      that of their relation. All attributes are plain Python objects, as graph file
      formats require.

    Raises:
      ImportError: if networkx is not installed.
      TypeError: if an array has a wrong dtype.
      ValueError: if shapes or numbers of names disagree, names repeat, a relation is
        out of range, an edge has no probability, or an edge ends at a padded node.
    """
    networkx = import_optional("networkx", "export")
    edges = np.asarray(edges)
    single = edges.ndim == 2
    if single:
        edges = edges[None]
        probabilities = (
            None if probabilities is None else np.asarray(probabilities)[None]
        )
        node_mask = None if node_mask is None else np.asarray(node_mask)[None]
    edges, probabilities, node_mask = _check_arrays(edges, probabilities, node_mask)
    node_names = _node_names(node_names, edges.shape[1])
    relation_names = _relation_names(relation_names, edges, probabilities)

    graphs = []
    for real in node_mask:
        graph = networkx.DiGraph()
        graph.add_nodes_from(node_names[node] for node in np.flatnonzero(real))
        graphs.append(graph)
    for system, sender, receiver in edge_indices(edges):
        relation = int(edges[system, receiver, sender])
        if relation == skip_relation:
            continue
        attributes = {"relation": relation_names[relation]}
        if probabilities is not None:
            attributes["probability"] = float(
                probabilities[system, receiver, sender, relation]
            )
        graphs[system].add_edge(node_names[sender], node_names[receiver], **attributes)
    return graphs[0] if single else graphs


def write_edges_csv(
    path: str | os.PathLike[str],
    edges: npt.ArrayLike,
    probabilities: npt.ArrayLike | None = None,
    node_names: Sequence[Hashable] | None = None,
    relation_names: Sequence[str] | None = None,
    system_names: Sequence[Hashable] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes one line per edge, ordered by system, sender and receiver.

    The columns are `system`, `sender`, `receiver`, `relation` and, given
    probabilities, `probability_0` to `probability_{K-1}`, written so that reading
    them back gives the same numbers. `path` is replaced only once the file is
    complete.

    Args:
      path: the file. Its directory must exist.
      edges: `[systems, nodes, nodes]`, integers; entries of -1 are left out.
      probabilities: `[systems, nodes, nodes, relations]`, or None.
      node_names: one distinct name per node of the array, or a tuple of names of the
        real nodes of every system. None means 0, 1, ....
      relation_names: one name per relation. None means 0, 1, ....
      system_names: one name per system. None means 0, 1, ....
      extra: further columns by name, each `[systems, nodes, nodes]`.

    Raises:
      TypeError: if an array has a wrong dtype.
      ValueError: if shapes or numbers of names disagree, names repeat, a relation is
        out of range, or an edge has no probability.
    """
    extra = extra or {}
    edges, probabilities, real = _check_arrays(edges, probabilities, None)
    if node_names is not None and all(isinstance(n, tuple) for n in node_names):
        members = [
            _node_names(names, max(len(names), int(count)))
            for names, count in zip(node_names, real.sum(axis=1), strict=True)
        ]
    else:
        members = [_node_names(node_names, edges.shape[1])] * len(edges)
    systems = range(len(edges)) if system_names is None else system_names
    relation_names = _relation_names(relation_names, edges, probabilities)
    header = ["system", "sender", "receiver", "relation"]
    if probabilities is not None:
        header += [f"probability_{k}" for k in range(probabilities.shape[-1])]
    header += list(extra)
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        for system, sender, receiver in edge_indices(edges):
            relation = int(edges[system, receiver, sender])
            names = members[system]
            row = [systems[system], names[sender], names[receiver]]
            row.append(relation_names[relation])
            if probabilities is not None:
                # The shortest text that gives the number back in its own precision.
                row += map(str, probabilities[system, receiver, sender])
            row += (str(values[system, receiver, sender]) for values in extra.values())
            writer.writerow(row)
        # Closing the wrapper would close the file, which `atomic_write` still needs.
        text.detach()


def save_edges_npz(
    path: str | os.PathLike[str],
    edges: npt.ArrayLike,
    probabilities: npt.ArrayLike | None = None,
    node_mask: npt.ArrayLike | None = None,
    labels: npt.ArrayLike | None = None,
) -> None:
    """Saves edges as arrays that `numpy.load` reads.

    The file holds `edges` (int32), `node_mask` (bool) and, where given,
    `probabilities` (in their own dtype) and `labels` (int32). It holds no pickled
    objects. `path` is replaced only once the file is complete, and no suffix is added.

    Args:
      path: the file. Its directory must exist.
      edges: `[systems, nodes, nodes]`, integers.
      probabilities: `[systems, nodes, nodes, relations]`, or None.
      node_mask: `[systems, nodes]`, bool. None means `real_nodes(edges)`.
      labels: `[systems, nodes, nodes]`, integers, true relations, or None.

    Raises:
      TypeError: if an array has a wrong dtype.
      ValueError: if shapes disagree, a relation is below -1, an edge has no
        probability, or an edge ends at a padded node.
    """
    edges, probabilities, node_mask = _check_arrays(edges, probabilities, node_mask)
    arrays = {"edges": edges.astype(np.int32), "node_mask": node_mask}
    if probabilities is not None:
        arrays["probabilities"] = probabilities
    if labels is not None:
        labels = check_relations("labels", labels)
        if labels.shape != edges.shape:
            raise ValueError(
                f"labels: found shape {list(labels.shape)}, expected "
                f"{list(edges.shape)}, as edges has"
            )
        arrays["labels"] = labels.astype(np.int32)
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def _check_arrays(
    edges: npt.ArrayLike,
    probabilities: npt.ArrayLike | None,
    node_mask: npt.ArrayLike | None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    edges = check_relations("edges", edges)
    if probabilities is not None:
        probabilities = check_probabilities(probabilities, edges.shape)
        check_relations("edges", edges, probabilities.shape[-1])
        missing = (edges >= 0) & np.isnan(probabilities).any(axis=-1)
        if missing.any():
            index = np.argwhere(missing)[0].tolist()
            raise ValueError(
                f"probabilities: found NaN at {index}, expected numbers at every edge"
            )
    if node_mask is None:
        return edges, probabilities, real_nodes(edges)
    node_mask = np.asarray(node_mask)
    if node_mask.dtype != np.bool_:
        raise TypeError(f"node_mask: found {node_mask.dtype}, expected bool")
    if node_mask.shape != edges.shape[:2]:
        raise ValueError(
            f"node_mask: found shape {list(node_mask.shape)}, expected "
            f"{list(edges.shape[:2])}, [systems, nodes] of edges"
        )
    padded = ~(node_mask[:, :, None] & node_mask[:, None, :])
    if (padded & (edges >= 0)).any():
        index = np.argwhere(padded & (edges >= 0))[0].tolist()
        raise ValueError(
            f"edges: found a relation at index {index}, expected -1 at padded nodes"
        )
    return edges, probabilities, node_mask


def edge_indices(edges: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yields system, sender and receiver of every edge `[systems, nodes, nodes]`."""
    for indices in np.argwhere(edges.swapaxes(1, 2) >= 0):
        yield tuple(indices.tolist())


def _node_names(names: Sequence[Hashable] | None, num_nodes: int) -> Sequence[Hashable]:
    if names is None:
        return range(num_nodes)
    if len(names) != num_nodes:
        raise ValueError(f"node_names: found {len(names)}, expected {num_nodes} names")
    if len(set(names)) != len(names):
        raise ValueError(f"node_names: found {list(names)}, expected distinct names")
    return names


def _relation_names(
    names: Sequence[str] | None, edges: np.ndarray, probabilities: np.ndarray | None
) -> Sequence[Hashable]:
    needed = int(edges.max(initial=-1)) + 1
    if probabilities is not None:
        needed = probabilities.shape[-1]
    if names is None:
        return range(needed)
    if len(names) < needed or (probabilities is not None and len(names) > needed):
        raise ValueError(f"relation_names: found {len(names)}, expected {needed} names")
    if len(set(names)) != len(names):
        raise ValueError(
            f"relation_names: found {list(names)}, expected distinct names"
        )
    return names
