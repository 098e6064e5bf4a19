"""Candidate edges from where nodes have been: the nearest ones, or all within a radius.

With all n (n - 1) directed edges, memory and cost per proposal grow with n; with k
candidates per receiver they grow with k. What is no candidate has no relation: no
message, no probability, no part in an accuracy. Two nodes are as far apart as in the
observed frame in which they come closest, of those in which both are there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from modmeta.graphs.edges import EdgeLists, Edges, fully_connected
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.domains import minimum_image
from modmeta.runtime import option_types

# Receivers at once: the memory of their distances stays linear in the nodes.
_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class CandidateConfig:
    """Which edges may hold a relation.

    Attributes:
      num_neighbors: This many nearest senders per receiver; 0 for all.
      radius: Senders that come as near as this, in the unit of the positions; 0 for
        all.
    """

    num_neighbors: int = 0
    radius: float = 0.0

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        if self.num_neighbors < 0 or not self.radius >= 0.0:
            raise ValueError(
                f"num_neighbors: found {self.num_neighbors}, radius: found "
                f"{self.radius}, expected at least 0"
            )


def _check(positions: np.ndarray, node_mask: np.ndarray) -> None:
    if positions.ndim != 3:
        raise ValueError(
            f"positions: found shape {positions.shape}, expected [time, nodes, dims]"
        )
    if node_mask.shape != positions.shape[1:2] or node_mask.dtype != bool:
        raise ValueError(
            f"node_mask: found {node_mask.dtype} of shape {node_mask.shape}, expected "
            f"bool of shape {positions.shape[1:2]}"
        )
    if not np.isfinite(positions[:, node_mask]).all():
        raise ValueError("positions: found NaN or infinity, expected finite numbers")


def _squared_distances(
    positions: np.ndarray,
    node_mask: np.ndarray,
    is_present: np.ndarray | None,
    periods: Sequence[float],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Receivers `[r]` and their smallest squared distances to all nodes `[r, nodes]`.

    Infinite to padded nodes and to themselves. A block of receivers at a time, so that
    memory stays linear in the number of nodes.
    """
    positions = np.where(node_mask[:, None], np.asarray(positions, np.float64), 0.0)
    if is_present is not None:
        positions = np.where(is_present[..., None], positions, np.nan)
    receivers = np.flatnonzero(node_mask)
    for first in range(0, len(receivers), _BLOCK):
        block = receivers[first : first + _BLOCK]
        smallest = np.full((len(block), len(node_mask)), np.inf)
        for frame in positions:
            squared = np.zeros_like(smallest)
            for coordinate, period in zip(frame.T, periods, strict=True):
                gap = coordinate[block, None] - coordinate[None, :]
                if period:
                    gap = minimum_image(gap, np.asarray(period))
                squared += gap**2
            np.fmin(smallest, squared, out=smallest)
        smallest[:, ~node_mask] = np.inf
        smallest[np.arange(len(block)), block] = np.inf
        yield block, smallest


def _collect(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> Edges:
    """Blocks of receivers `[r]` and chosen senders `[r, nodes]`, bool, as edges."""
    senders, receivers = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for block, is_chosen in rows:
        row, sender = np.nonzero(is_chosen)
        senders.append(sender.astype(np.int32))
        receivers.append(block[row].astype(np.int32))
    return np.concatenate(senders), np.concatenate(receivers)


def _nearest(squared: np.ndarray, num_neighbors: int) -> np.ndarray:
    """Marks, in every row, the smallest finite entries; the first of equal ones."""
    order = np.argsort(squared, axis=1, kind="stable")[:, :num_neighbors]
    is_chosen = np.zeros(squared.shape, bool)
    np.put_along_axis(is_chosen, order, True, axis=1)
    return is_chosen & np.isfinite(squared)


def nearest_neighbors(
    positions: np.ndarray,
    node_mask: np.ndarray,
    num_neighbors: int,
    is_present: np.ndarray | None = None,
    periods: Sequence[float] | None = None,
) -> Edges:
    """Edges to every node from the nodes that come nearest to it.

    Args:
      positions: `[time, nodes, dims]`, in any unit.
      node_mask: `[nodes]` true at real nodes.
      num_neighbors: Senders per receiver, at least 1; all others, if there are fewer.
        Of senders equally near, those of smaller index count.
      is_present: `[time, nodes]` true where a node is there; None for always.
      periods: `[dims]` of a box that repeats itself, 0 for axes that do not; None for
        none.

    Returns:
      `(senders, receivers)`, int32, sorted by receiver, then sender.

    Raises:
      ValueError: If an argument is not what it should be.
    """
    positions, node_mask = np.asarray(positions), np.asarray(node_mask)
    _check(positions, node_mask)
    periods = periods or (0.0,) * positions.shape[2]
    if num_neighbors < 1:
        raise ValueError(f"num_neighbors: found {num_neighbors}, expected at least 1")
    given = (positions, node_mask, is_present)
    return _collect(
        [
            (block, _nearest(squared, num_neighbors))
            for block, squared in _squared_distances(*given, periods)
        ]
    )


def within_radius(
    positions: np.ndarray,
    node_mask: np.ndarray,
    radius: float,
    is_present: np.ndarray | None = None,
    periods: Sequence[float] | None = None,
) -> Edges:
    """Edges between all nodes that come at least as near as a radius.

    Args:
      positions: `[time, nodes, dims]`.
      node_mask: `[nodes]` true at real nodes.
      radius: Positive, in the unit of the positions.
      is_present: `[time, nodes]` true where a node is there; None for always.
      periods: `[dims]` of a box that repeats itself, 0 for axes that do not; None for
        none.

    Returns:
      `(senders, receivers)`, int32, sorted by receiver, then sender.

    Raises:
      ValueError: If an argument is not what it should be.
    """
    positions, node_mask = np.asarray(positions), np.asarray(node_mask)
    _check(positions, node_mask)
    periods = periods or (0.0,) * positions.shape[2]
    if not radius > 0.0:
        raise ValueError(f"radius: found {radius}, expected a positive number")
    given = (positions, node_mask, is_present)
    return _collect(
        [
            (block, squared <= float(radius) ** 2)
            for block, squared in _squared_distances(*given, periods)
        ]
    )


def candidate_edges(
    dataset: TrajectoryDataset, config: CandidateConfig = CandidateConfig()
) -> EdgeLists:
    """Candidate edges of every system of a data set.

    Args:
      dataset: Observed systems; positions in the unit of the data.
      config: Limits; with both, the nearest of those within the radius.

    Returns:
      Edges per system, or `fully_connected` without a limit.

    Raises:
      ValueError: If there is a limit but no positions.
    """
    num_neighbors, radius = config.num_neighbors, config.radius
    if not num_neighbors and not radius:
        return fully_connected
    columns = list(dataset.features.positions)
    if not columns:
        raise ValueError(
            "positions: found no feature that is a position, expected some for "
            f"num_neighbors={num_neighbors}, radius={radius}"
        )

    def of_system(states: np.ndarray, size: int, is_present: np.ndarray) -> Edges:
        positions, node_mask = states[:, :size, columns], np.ones(size, bool)
        others = (is_present[:, :size], dataset.features.periods)
        if not radius:
            return nearest_neighbors(positions, node_mask, num_neighbors, *others)
        near = within_radius(positions, node_mask, radius, *others)
        if not num_neighbors:
            return near
        nearest = nearest_neighbors(positions, node_mask, num_neighbors, *others)
        both = np.intersect1d(
            *(r.astype(np.int64) * size + s for s, r in (near, nearest))
        )
        return (both % size).astype(np.int32), (both // size).astype(np.int32)

    sizes = dataset.num_nodes.tolist()
    systems = zip(dataset.states, sizes, dataset.is_present, strict=True)
    return [of_system(*system) for system in systems]


def candidate_share(labels: np.ndarray, edges: np.ndarray) -> float:
    """Share of the labelled pairs that were candidates, hence scored.

    Args:
      labels: `[tasks, nodes, nodes]` true relations, -1 where there is none.
      edges: `[tasks, nodes, nodes]` relations found, -1 at all but candidates.

    Raises:
      ValueError: If no pair is labelled.
    """
    is_labelled = labels >= 0
    if not is_labelled.any():
        raise ValueError("labels: found no labelled pair, expected at least one")
    return float((edges >= 0)[is_labelled].mean())
