"""Permutations of nodes that map a graph to itself: what they move, and a search.

The search refines colours: nodes of one colour are told apart as long as their edges
lead to nodes of different colours. Two nodes of one colour are then taken for each
other's image, and what follows from that is followed; what comes out is used only if
it maps the graph, with all its features and shared parameters, to itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modmeta.metanet.parameter_graphs.edges import stable_order
from modmeta.metanet.parameter_graphs.topology import Topology

# Larger graphs are not searched, as every step reads all edges.
MAX_EDGES = 50_000
_MAX_TRIES = 48
_MAX_STEPS = 60


def edge_permutation(topology: Topology, node_permutation: np.ndarray) -> np.ndarray:
    """The permutation of edges that a permutation of nodes induces.

    Args:
      topology: The graph.
      node_permutation: `[N]`, as `sample_symmetry` returns it.

    Returns:
      `[E]`: edge i takes the place of edge `permutation[i]`.

    Raises:
      ValueError: If it is not a permutation of the nodes, or does not map the graph
        with all its features to itself.
    """
    permutation = np.asarray(node_permutation)
    if permutation.dtype.kind not in "iu" or not np.array_equal(
        np.sort(permutation), np.arange(topology.num_nodes)
    ):
        raise ValueError(
            f"node_permutation: found {permutation.dtype} of shape "
            f"{permutation.shape}, expected a permutation of {topology.num_nodes} nodes"
        )
    for field in (
        "node_types",
        "node_layers",
        "node_orders",
        "node_functions",
        "node_homogeneous",
        "node_attributes",
    ):
        values = getattr(topology, field)
        if not np.array_equal(values[permutation], values):
            raise ValueError(
                f"node_permutation: found nodes of different {field} in each other's "
                "place, expected an automorphism"
            )
    senders, receivers = topology.senders, topology.receivers
    place = _order(topology)
    # Edges of one sender and receiver keep their order: that of their kinds.
    moved = permutation.astype(np.int32)
    image = place[stable_order(moved[senders][place], topology.num_nodes)]
    image = image[stable_order(moved[receivers][image], topology.num_nodes)]
    is_equal_to_next = np.ones(max(topology.num_edges - 1, 0), bool)
    for key, target in (
        (receivers, moved[receivers]),
        (senders, moved[senders]),
        (topology.edge_kinds, topology.edge_kinds),
    ):
        ordered = key[place]
        if not np.array_equal(ordered, target[image]):
            raise ValueError(
                "node_permutation: found edges without an equal edge in their new "
                "place, expected an automorphism"
            )
        is_equal_to_next &= ordered[1:] == ordered[:-1]
    if is_equal_to_next.any():
        edge = place[np.argmax(is_equal_to_next)]
        raise ValueError(
            f"topology: found parallel edges that cannot be told apart, such as edge "
            f"{edge}, expected edges to differ in their ends, types or positions"
        )
    result = np.empty(topology.num_edges, np.int32)
    result[image] = place
    return result


def _order(topology: Topology) -> np.ndarray:
    """The order `[E]` of edges by receiver, sender and kind."""
    num_nodes, num_kinds = topology.num_nodes, len(topology.kinds.types)
    keys = topology.edge_kinds, topology.senders, topology.receivers
    if num_nodes**2 * num_kinds >= 2**63:
        return np.lexsort(keys)
    # Nearly sorted as it is, which a stable sort makes use of.
    code = (keys[2].astype(np.int64) * num_nodes + keys[1]) * num_kinds + keys[0]
    return np.argsort(code, kind="stable").astype(np.int32)


def parameter_permutation(
    topology: Topology, node_permutation: np.ndarray
) -> np.ndarray:
    """The permutation of the vector of parameters that one of nodes induces.

    Args:
      topology: The graph.
      node_permutation: `[N]`.

    Returns:
      `[M]`: parameter i takes the place of parameter `permutation[i]`.

    Raises:
      ValueError: As `edge_permutation`, or if edges of one parameter part.
    """
    edges = edge_permutation(topology, node_permutation)
    parameters = topology.edge_parameters
    result = parameters[edges[topology.parameter_edges]]
    carries = parameters >= 0
    if not np.array_equal(parameters[edges][carries], result[parameters[carries]]):
        raise ValueError(
            "node_permutation: found edges of one parameter that move to edges of "
            "different parameters, expected them to stay together"
        )
    return result


def search(topology: Topology, known: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Automorphisms that take nodes where known ones do not.

    Args:
      topology: The graph; if it has more than `MAX_EDGES` edges, nothing is found.
      known: Permutations `[N]` of nodes that map the graph to itself.

    Returns:
      Permutations `[N]`, each of which takes a node to one that products of the known
      ones and of those before do not take it to.
    """
    if not 0 < topology.num_edges <= MAX_EDGES:
        return []
    orbits = _Orbits(topology.num_nodes)
    for permutation in known:
        orbits.join(permutation)
    coloring = _Coloring(topology)
    colors = coloring.refine(coloring.start[:, None])
    found: list[np.ndarray] = []
    failed: set[tuple[int, int]] = set()
    for _ in range(_MAX_TRIES):
        pair = _open_pair(colors[:, 0], orbits.labels(), failed)
        if pair is None:
            break
        failed.add(pair)
        for at_once in (True, False):
            permutation = _image(coloring, colors, pair, at_once=at_once)
            if permutation is not None and _is_automorphism(topology, permutation):
                found.append(permutation)
                orbits.join(permutation)
                break
    return found


def _is_automorphism(topology: Topology, permutation: np.ndarray) -> bool:
    try:
        parameter_permutation(topology, permutation)
    except ValueError:
        return False
    return True


class _Orbits:
    """Which nodes are taken to each other's place, by permutations seen so far."""

    def __init__(self, size: int):
        self._labels = np.arange(size)

    def labels(self) -> np.ndarray:
        """The smallest node `[N]` of every node's orbit."""
        return self._labels

    def join(self, permutation: np.ndarray) -> None:
        """Joins every node with its image."""
        while True:
            lowest = np.minimum(self._labels, self._labels[permutation])
            smaller = self._labels.copy()
            np.minimum.at(smaller, self._labels, lowest)
            np.minimum.at(smaller, self._labels[permutation], lowest)
            smaller = smaller[smaller[self._labels]]
            if np.array_equal(smaller, self._labels):
                return
            self._labels = smaller


def _open_pair(
    colors: np.ndarray, orbits: np.ndarray, failed: set[tuple[int, int]]
) -> tuple[int, int] | None:
    """Two nodes of one colour and different orbits that were not tried, or None."""
    heads = np.unique(orbits)
    order = heads[np.argsort(colors[heads], kind="stable")]
    starts = np.nonzero(np.diff(colors[order], prepend=colors[order[0]] ^ 1))[0]
    for group in np.split(order, starts[1:]):
        for other in group[1:]:
            pair = int(group[0]), int(other)
            if pair not in failed:
                return pair
    return None


def _image(
    coloring: _Coloring, colors: np.ndarray, pair: tuple[int, int], *, at_once: bool
) -> np.ndarray | None:
    """A permutation that takes one node of a pair to the other, or None.

    Args:
      coloring: Of the graph.
      colors: Its refined colours `[N, 1]`.
      pair: A node and its image.
      at_once: Whether all nodes of one colour are given images at once.
    """
    both = np.repeat(colors, 2, axis=1)
    steps = [(np.array([pair[0]]), np.array([pair[1]]))]
    for _ in range(_MAX_STEPS):
        for index, (sources, targets) in enumerate(steps):
            marks = np.arange(len(sources)) + (1 + index) * len(both)
            marks = _mixed(marks.astype(np.uint64))
            both[sources, 0] ^= marks
            both[targets, 1] ^= marks
        both = coloring.refine(both)
        order = np.argsort(both, axis=0, kind="stable")
        sources, targets = order.T
        sorted_colors = both[sources, 0]
        if not np.array_equal(sorted_colors, both[targets, 1]):
            return None
        if np.all(sorted_colors[1:] != sorted_colors[:-1]):
            permutation = np.empty(len(both), np.int64)
            permutation[sources] = targets
            return permutation
        starts = np.nonzero(np.diff(sorted_colors, prepend=sorted_colors[0] ^ 1))[0]
        cells = [
            (np.sort(left), np.sort(right))
            for left, right in zip(
                np.split(sources, starts[1:]),
                np.split(targets, starts[1:]),
                strict=True,
            )
            if len(left) > 1
        ]
        # What need not move does not.
        steps = [cell for cell in cells if np.array_equal(*cell)]
        if at_once:
            steps = [_paired(*cell) for cell in cells]
        elif not steps:
            steps = [(cells[0][0][:1], cells[0][1][:1])]
    return None


def _paired(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and images: themselves where they can be, others in order."""
    both = np.intersect1d(left, right)
    rest = np.setdiff1d(left, both), np.setdiff1d(right, both)
    return np.concatenate([both, rest[0]]), np.concatenate([both, rest[1]])


_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_MARK = np.uint64(0x9E3779B97F4A7C15)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Numbers that look random, equal for equal numbers; uint64."""
    values = (values ^ (values >> np.uint64(30))) * _FACTORS[0]
    values = (values ^ (values >> np.uint64(27))) * _FACTORS[1]
    return values ^ (values >> np.uint64(31))


def _numbers(*columns: np.ndarray) -> np.ndarray:
    """A number per row that looks random, equal for equal rows; uint64."""
    total = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        column = np.asarray(column)
        flat = column.reshape(len(column), -1).astype(np.float64) + 0.0
        for part in flat.T:
            total = _mixed(total + _mixed(part.copy().view(np.uint64)))
    return total


class _Sums:
    """Sums of rows by a number each; numbers below `size`."""

    def __init__(self, numbers: np.ndarray, size: int):
        self._order = np.argsort(numbers, kind="stable")
        self._targets, self._starts = np.unique(numbers[self._order], return_index=True)
        self._size = size

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        total = np.zeros((self._size, rows.shape[1]), rows.dtype)
        if len(self._starts):
            total[self._targets] = np.add.reduceat(rows[self._order], self._starts)
        return total


class _Coloring:
    """Colours `[N, columns]` of the nodes of a graph, refined by their edges."""

    def __init__(self, topology: Topology):
        self.start = _numbers(
            topology.node_types,
            topology.node_layers,
            topology.node_orders,
            topology.node_functions,
            topology.node_homogeneous,
            topology.node_attributes,
        )
        parameters = topology.edge_parameters
        self._edges = _numbers(*topology.kinds)[topology.edge_kinds][:, None]
        self._senders, self._receivers = topology.senders, topology.receivers
        self._by_sender = _Sums(topology.senders, topology.num_nodes)
        self._by_receiver = _Sums(topology.receivers, topology.num_nodes)
        counts = np.bincount(parameters[parameters >= 0])
        shared = np.nonzero(counts > 1)[0]
        self._shared = np.nonzero(np.isin(parameters, shared))[0]
        self._owners = np.searchsorted(shared, parameters[self._shared])
        self._by_owner = _Sums(self._owners, len(shared))

    def refine(self, colors: np.ndarray) -> np.ndarray:
        """Colours after rounds of refinement, until none of them splits.

        Args:
          colors: `[N, columns]` uint64, refined each for itself; equal ones in
            different columns stay equal if the graph looks the same from there.
        """
        counts: list[int] = []
        while True:
            found = [len(np.unique(column)) for column in colors.T]
            if found == counts or min(found) == len(colors):
                return colors
            counts = found
            first, second = _mixed(colors), _mixed(colors ^ _MARK)
            terms = first[self._senders] + second[self._receivers]
            terms = _mixed(terms + self._edges)
            if len(self._shared):
                owners = self._by_owner(_mixed(terms[self._shared] ^ _MARK))
                terms[self._shared] = _mixed(
                    terms[self._shared] + _mixed(owners)[self._owners]
                )
            inflow = self._by_receiver(terms)
            outflow = self._by_sender(_mixed(terms ^ _MARK))
            colors = _mixed(first + _mixed(inflow) + _mixed(outflow ^ _MARK))
