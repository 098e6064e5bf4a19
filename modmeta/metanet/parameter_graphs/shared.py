"""Parameters with several edges: what these have to do alike.

A permutation of nodes moves every edge, hence every parameter. Where a parameter has
several edges, all of them must move to edges of one other parameter.

Letters: n parameters, N nodes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.edges import EdgeBlock


def tie_shared_parameters(builder: Builder) -> None:
    """Makes all edges of one parameter move to edges of one other parameter."""
    _tie_across_blocks(builder)
    _fix_parting_copies(builder)


class _Use(NamedTuple):
    """Where a block of edges has some parameters.

    Attributes:
      block: The block.
      parameters: `[n]`, in order.
      edges: `[n]` the first edge of each in the block.
      ends: `[2, n]` sender and receiver of that edge.
    """

    block: EdgeBlock
    parameters: np.ndarray
    edges: np.ndarray
    ends: np.ndarray

    def of(self, chosen: np.ndarray) -> _Use:
        """The use of some of the parameters."""
        return _Use(
            self.block,
            self.parameters[chosen],
            self.edges[chosen],
            self.ends[:, chosen],
        )

    def positions(self) -> np.ndarray:
        """Numbers `[n]` of the positions of the edges, among those of the block."""
        return self.block.flat("places")[self.edges]

    def is_closed(self, num_nodes: int) -> bool:
        """True if no edge of another parameter lies between the same ends.

        Ends that move among themselves then move these edges among themselves.
        """
        carried = self.block.flat("parameters")
        is_other = ~np.isin(carried, self.parameters)
        for name, ends in zip(("senders", "receivers"), self.ends, strict=True):
            is_end = np.zeros(num_nodes, bool)
            is_end[ends] = True
            is_other &= is_end[self.block.flat(name)]
        return not is_other.any()


def _tie_across_blocks(builder: Builder) -> None:
    count = 1 + max((b.parameters.max(initial=-1) for b in builder.edges), default=-1)
    owners = np.full(count, -1, np.int32)
    is_shared = np.zeros(count, bool)
    for index, block in enumerate(builder.edges):
        own = block.parameters[block.parameters >= 0]
        is_new = owners[own] < 0
        is_shared[own[~is_new]] = True
        owners[own[is_new]] = index
    uses: dict[int, _Use] = {}
    for index, block in enumerate(builder.edges if is_shared.any() else ()):
        if not is_shared[block.parameters[block.parameters >= 0]].any():
            continue
        carried = block.flat("parameters")
        chosen = np.nonzero(carried >= 0)[0]
        chosen = chosen[is_shared[carried[chosen]]]
        parameters, first = np.unique(carried[chosen], return_index=True)
        edges = chosen[first]
        ends = np.stack([block.flat(name)[edges] for name in ("senders", "receivers")])
        uses[index] = use = _Use(block, parameters, edges, ends)
        for owner in np.unique(owners[parameters]):
            if owner != index:
                own = use.of(owners[parameters] == owner)
                earlier = uses[owner]
                earlier = earlier.of(np.isin(earlier.parameters, own.parameters))
                _tie_uses(builder, earlier, own)


def _tie_uses(builder: Builder, first: _Use, second: _Use) -> None:
    """Makes two uses of the same parameters move together; fixes both if they cannot.

    It is enough if one of them is closed, and its ends and positions tell those of the
    other: sender by sender and receiver by receiver; in the reverse, where a table is
    used the other way round, as in a tied autoencoder; or both by one end, as entries
    of a diagonal.
    """
    for told, telling in ((first, second), (second, first)):
        if telling.is_closed(builder.num_nodes):
            ways = _ways(told, telling)
            if ways is None:
                continue
            for end, way in enumerate(ways):
                pairs = np.stack([told.ends[end], telling.ends[way]])
                builder.tie(*np.unique(pairs, axis=1))
            for ends in telling.ends:
                builder.classes.separate(*builder.members(ends))
            if _tells_positions(builder, told, telling):
                return
    for ends in (*first.ends, *second.ends):
        builder.fix(np.unique(ends))


def _ways(told: _Use, telling: _Use) -> tuple[int, int] | None:
    """Which end of one use tells the sender, and the receiver, of the other."""
    one_way = np.array([[_tells(b, a) for b in telling.ends] for a in told.ends])
    back = np.array([[_tells(a, b) for b in telling.ends] for a in told.ends])
    one_to_one = one_way & back
    for ways in ((0, 1), (1, 0)):
        if one_to_one[[0, 1], ways].all():
            return ways
    if not one_way.any(axis=1).all():
        return None
    # Each by the end of its own kind, if that tells it.
    return (0 if one_way[0, 0] else 1), (1 if one_way[1, 1] else 0)


def _tells(known: np.ndarray, others: np.ndarray) -> bool:
    """True if where known numbers `[n]` are equal, so are the others `[n]`."""
    table = np.zeros(known.max() + 1, others.dtype)
    table[known] = others
    return np.array_equal(table[known], others)


def _tells_positions(builder: Builder, told: _Use, telling: _Use) -> bool:
    """True if what does not move in one use tells the positions in the other."""
    steady = telling.positions()
    for ends in telling.ends:
        for own in (builder.node_array("blocks")[ends], builder.members(ends)[0]):
            steady = steady.astype(np.int64) * (own.max() + 1) + own
            steady = np.unique(steady, return_inverse=True)[1].ravel()
    return _tells(steady, told.positions())


def _fix_parting_copies(builder: Builder) -> None:
    """Fixes the ends of edges of one parameter that need not move in step.

    Within a block. Rules tie copies of a layer; a table may repeat parameters in any
    other pattern.
    """
    for block in builder.edges:
        is_whole = block.parameters.shape == block.shape
        is_increasing = is_whole and np.all(np.diff(block.parameters.ravel()) > 0)
        if block.in_step or is_increasing or np.all(block.parameters < 0):
            continue
        values = block.flat("parameters")
        chosen = np.nonzero(values >= 0)[0]
        parameters, first, which, counts = np.unique(
            values[chosen],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        if len(parameters) < 2 or counts.max() < 2:
            continue
        for ends in (block.flat("senders")[chosen], block.flat("receivers")[chosen]):
            members = np.stack(builder.members(ends))
            differ = np.any(members != members[:, first[which]], axis=0)
            parting = np.isin(which, which[differ])
            if parting.any():
                builder.fix(np.unique(ends[parting]))
