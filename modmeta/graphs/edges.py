"""Which pairs of nodes have an edge: lists per system, or a function of its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

Array = np.ndarray | jax.Array
"""NumPy where a graph is built, JAX inside compiled functions."""

Edges = tuple[np.ndarray, np.ndarray]
"""`(senders, receivers)`, each `[edges]`, as positions of nodes in their system."""

EdgeLists = Sequence[Edges] | Callable[[int], Edges]
"""Edges of every system, or a function that makes them from its number of nodes."""


def index_array(values: npt.ArrayLike) -> Any:
    """Indices as int32 on the host; Jraph's annotations know device arrays alone."""
    return np.asarray(values, np.int32)


def fully_connected(num_nodes: int) -> Edges:
    """All directed edges without self-loops, sorted by receiver, then sender.

    Args:
      num_nodes: Number of nodes.

    Returns:
      `(senders, receivers)`, each `[num_nodes * (num_nodes - 1)]`, int32.
    """
    receivers, senders = np.nonzero(~np.eye(num_nodes, dtype=bool))
    return senders.astype(np.int32), receivers.astype(np.int32)


def edges_of(sizes: Sequence[int], edges: EdgeLists) -> list[Edges]:
    """The edges of every system; systems of equal size share what a function made.

    Args:
      sizes: Number of nodes of every system.
      edges: Their edges.

    Raises:
      ValueError: If the number of lists is not that of the systems, or a list holds
        nodes out of range, loops, or an edge twice.
    """
    if callable(edges):
        by_size = {size: edges(size) for size in set(sizes)}
        return [by_size[size] for size in sizes]
    if len(edges) != len(sizes):
        raise ValueError(
            f"edges: found {len(edges)} lists, expected {len(sizes)}, one per system"
        )
    for system, (size, (senders, receivers)) in enumerate(
        zip(sizes, edges, strict=True)
    ):
        _check_edges(system, size, np.asarray(senders), np.asarray(receivers))
    return list(edges)


def _check_edges(
    system: int, size: int, senders: np.ndarray, receivers: np.ndarray
) -> None:
    if senders.ndim != 1 or senders.shape != receivers.shape:
        raise ValueError(
            f"edges of system {system}: found senders {senders.shape} and receivers "
            f"{receivers.shape}, expected two vectors of one length"
        )
    if not senders.size:
        return
    ends = np.concatenate([senders, receivers])
    if ends.dtype.kind not in "iu" or ((ends < 0) | (ends >= size)).any():
        raise ValueError(
            f"edges of system {system}: found values of type {ends.dtype} from "
            f"{ends.min()} to {ends.max()}, expected integers from 0 to {size - 1}"
        )
    is_loop = senders == receivers
    if is_loop.any():
        raise ValueError(
            f"edges of system {system}: found a loop at node {senders[is_loop][0]}, "
            "expected edges between different nodes"
        )
    keys = np.sort(receivers.astype(np.int64) * size + senders)
    repeated = keys[1:][keys[1:] == keys[:-1]]
    if repeated.size:
        raise ValueError(
            f"edges of system {system}: found the edge from {repeated[0] % size} to "
            f"{repeated[0] // size} twice, expected every edge once"
        )
