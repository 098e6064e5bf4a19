"""Networks as batches of fixed shape, for metanetworks to be trained on.

A `Source` sets some of its networks as one batch: `GraphSource` as a padded graph of
graphs, `VectorSource` as rows of features. Plans say which networks form which batch;
they are known before anything is compiled, so that one budget fits a whole training.

Letters: n networks, b networks of a batch, F edges of a graph.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from modmeta import graphs
from modmeta.metanet.learning.parts import Parts, assign
from modmeta.metanet.models.features import edge_order, to_graph
from modmeta.metanet.parameter_graphs.topology import Topology
from modmeta.runtime import option_types


class Source(Protocol):
    """Networks as inputs of a predictor.

    Attributes:
      sizes: `[n]` what a network takes in a batch, to form batches of like size.
    """

    sizes: np.ndarray

    def budget(self, batches: np.ndarray) -> Any:
        """Static sizes that hold all of the batches `[..., b]` of indices."""

    def batch(self, rows: np.ndarray, budget: Any) -> Any:
        """Sets the networks `[b]` as a pytree whose shapes follow b and the budget.

        What a predictor takes, or `Parts` of that.
        """

    def example(self, rows: np.ndarray) -> Any:
        """The networks `[b]` as a predictor takes them, to draw its parameters with."""


class Template(Protocol):
    """How the networks of one topology become graphs; a dataclass.

    Attributes:
      graph: Of any of them.
    """

    graph: graphs.GraphsTuple

    def fill(self, vector: np.ndarray) -> graphs.GraphsTuple:
        """The graph of a network with flat parameters `[M]`."""


@dataclasses.dataclass(frozen=True)
class _ParameterGraph:
    """The parameter graph of a topology, and where the values of its edges come from.

    Attributes:
      graph: With zeros for all values.
      parameters: `[F]` index into the flat parameters, -1: constant.
      fixed: `[C]` edges that are constants.
      constants: `[C]`.
    """

    graph: graphs.GraphsTuple
    parameters: np.ndarray
    fixed: np.ndarray
    constants: np.ndarray

    def fill(self, vector: np.ndarray) -> graphs.GraphsTuple:
        """The graph of a network with flat parameters `[M]`."""
        values = self.constants
        if len(vector):
            # Index -1 takes some parameter, which the constant then replaces.
            values = vector[self.parameters]
            values[self.fixed] = self.constants
        edges = self.graph.edges._replace(values=values)
        return self.graph._replace(edges=edges)


class PartsBudget(NamedTuple):
    """Sizes of batches of graphs in parts.

    Attributes:
      part: Of every part.
      num_parts: Number of parts.
    """

    part: graphs.GraphBudget
    num_parts: int


class GraphSource:
    """Networks of any topologies as padded batches of graphs (NumPy, host).

    Features are made once per topology; a network costs one gather of its values.

    Args:
      topologies: One per group of networks.
      parameters: `[networks, M]` flat parameters of every group, in the order of
        `Topology.flatten`. Networks are numbered through all groups.
      bidirectional: See `modmeta.metanet.models.features.to_graph`.
      part_edges: Edges above which a batch is set in parts of about so many, or of as
        many as the largest network has; None: in one.
      rounded: Whether budgets of batches in one part are rounded up, too, by an eighth
        at most: trainings of one model with other networks then share a compiled
        program, which is worth it where compiling is slow.

    Raises:
      ValueError: If there is no topology, or parameters do not fit theirs or are not
        finite.
    """

    def __init__(
        self,
        topologies: Sequence[Topology],
        parameters: Sequence[np.ndarray],
        *,
        bidirectional: bool = False,
        part_edges: int | None = None,
        rounded: bool = False,
        form: Callable[[Topology], Template] | None = None,
    ):
        self._rounded = rounded
        option_types.check("part_edges", part_edges, int | None)
        if part_edges is not None and part_edges < 1:
            raise ValueError(
                f"part_edges: found {part_edges}, expected at least 1, or None"
            )
        self._part_edges = part_edges
        self._parameters = _checked_groups(topologies, parameters)
        if form is None:
            form = functools.partial(_parameter_graph, bidirectional=bidirectional)
        self._templates = [form(topology) for topology in topologies]
        # Batches of any of them have arrays of one type.
        features = [(t.graph.nodes, t.graph.edges) for t in self._templates]
        types = jax.tree.map(lambda *leaves: np.result_type(*leaves), *features)
        for index, (template, given) in enumerate(
            zip(self._templates, features, strict=True)
        ):
            nodes, edges = jax.tree.map(_as_type, given, types)
            graph = template.graph._replace(nodes=nodes, edges=edges)
            self._templates[index] = dataclasses.replace(template, graph=graph)
        counts = [len(rows) for rows in parameters]
        self._groups = np.repeat(np.arange(len(counts)), counts)
        self._rows = np.concatenate([np.arange(count) for count in counts])
        num_nodes = [int(item.graph.n_node.sum()) for item in self._templates]
        num_edges = [int(item.graph.n_edge.sum()) for item in self._templates]
        self._num_nodes = np.array(num_nodes)[self._groups]
        self.sizes = np.array(num_edges)[self._groups]

    def graph(self, row: int) -> graphs.GraphsTuple:
        """The graph of one network."""
        group = self._groups[row]
        return self._templates[group].fill(self._parameters[group][self._rows[row]])

    def budget(self, batches: np.ndarray) -> graphs.GraphBudget | PartsBudget:
        """A budget that holds every batch `[..., b]`.

        The smallest one, unless it is of parts or rounded.
        """
        return self._budget(batches, self._part_edges)

    def _budget(
        self, batches: np.ndarray, part_edges: int | None
    ) -> graphs.GraphBudget | PartsBudget:
        sizes = self.sizes[batches]
        candidates = [1]
        if part_edges is not None:
            most = max(part_edges, int(sizes.max()))
            fewest = max(int(sizes.sum(-1).max()) // most, 1)
            candidates = [n for n in (fewest, fewest + 1) if n <= batches.shape[-1]]
        plans = [(count, assign(sizes, count)) for count in candidates]

        def largest(plan: tuple[int, np.ndarray], amounts: Any) -> int:
            count, parts = plan
            sums = [np.where(parts == p, amounts, 0).sum(-1) for p in range(count)]
            return int(np.max(sums))

        # With the least padding.
        plan = min(plans, key=lambda plan: plan[0] * largest(plan, sizes))

        part = graphs.GraphBudget(
            num_nodes=largest(plan, self._num_nodes[batches]) + 1,
            num_edges=largest(plan, sizes),
            num_graphs=largest(plan, 1) + 1,
            num_rows=max(graphs.num_rows(item.graph) for item in self._templates),
        )
        if plan[0] == 1 and not self._rounded:
            return part
        part = part._replace(
            num_nodes=_rounded_up(part.num_nodes), num_edges=_rounded_up(part.num_edges)
        )
        if plan[0] == 1:
            return part
        num_graphs = part.num_graphs + part.num_graphs % 2
        return PartsBudget(part._replace(num_graphs=num_graphs), plan[0])

    def example(self, rows: np.ndarray) -> graphs.GraphsTuple:
        """The networks `[b]` as one graph, however large."""
        budget = self._budget(np.asarray(rows)[None], None)
        return graphs.batch_graphs([self.graph(row) for row in rows], budget)

    def batch(
        self, rows: np.ndarray, budget: graphs.GraphBudget | PartsBudget
    ) -> graphs.GraphsTuple | Parts:
        """The networks `[b]` as one graph of b graphs and a graph of padding.

        Or, with several parts, `Parts` of such graphs.
        """
        if not isinstance(budget, PartsBudget):
            return graphs.batch_graphs([self.graph(row) for row in rows], budget)
        part, num_parts = budget
        owners = assign(self.sizes[rows], num_parts)
        places = np.full((num_parts, part.num_graphs - 1), len(rows), np.int32)
        batches = []
        for index, own in enumerate(places):
            (members,) = np.nonzero(owners == index)
            own[: len(members)] = members
            networks = [self.graph(row) for row in rows[members]]
            batches.append(graphs.batch_graphs(networks, part))
        return Parts(jax.tree.map(lambda *leaves: np.stack(leaves), *batches), places)


def _parameter_graph(topology: Topology, *, bidirectional: bool) -> _ParameterGraph:
    edges = edge_order(topology, bidirectional=bidirectional)
    edges = edges % max(topology.num_edges, 1)
    zeros = np.zeros(topology.num_edges, np.float32)
    indices = np.asarray(topology.edge_parameters)[edges]
    (fixed,) = np.nonzero(indices < 0)
    return _ParameterGraph(
        to_graph(topology, zeros, bidirectional=bidirectional),
        indices,
        fixed,
        np.asarray(topology.edge_constants, np.float32)[edges[fixed]],
    )


def _as_type(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return array.astype(dtype, copy=False)


def _checked_groups(topologies: Any, parameters: Any) -> list[np.ndarray]:
    """The parameters `[networks, M]` of every group, float32."""
    if not isinstance(topologies, list | tuple) or not topologies:
        found = "none" if isinstance(topologies, list | tuple) else "no list"
        raise ValueError(f"topologies: found {found}, expected a list of some")
    if len(parameters) != len(topologies):
        raise ValueError(
            f"parameters: found {len(parameters)} groups of networks, expected "
            f"{len(topologies)}, one per topology"
        )
    groups = []
    for index, (topology, rows) in enumerate(zip(topologies, parameters, strict=True)):
        if not isinstance(topology, Topology):
            raise ValueError(
                f"topologies[{index}]: found {type(topology).__name__}, expected a "
                "topology, as trace gives it"
            )
        if np.shape(rows)[1:] != (topology.num_parameters,):
            raise ValueError(
                f"parameters[{index}]: found shape {np.shape(rows)}, expected "
                f"(networks, {topology.num_parameters})"
            )
        dtype = np.asarray(rows).dtype
        kinds = (np.floating, np.integer)
        if not any(jax.dtypes.issubdtype(dtype, kind) for kind in kinds):
            raise ValueError(
                f"parameters[{index}]: found {dtype}, expected real numbers"
            )
        with np.errstate(over="ignore"):
            groups.append(np.asarray(rows, np.float32))
        is_finite = np.isfinite(groups[-1]).all(axis=1)
        if not is_finite.all():
            raise ValueError(
                f"parameters[{index}]: found NaN or infinite numbers in network "
                f"{np.argmin(is_finite)}, expected finite float32"
            )
    return groups


def _rounded_up(size: int) -> int:
    """A size of four leading binary digits, an eighth larger at most."""
    unit = 1 << max(size.bit_length() - 4, 0)
    return -(-size // unit) * unit


class VectorSource:
    """Features of networks as rows.

    Attributes:
      features: `[n, ...]` float32, of all networks; a batch is some of its rows.

    Args:
      features: `[n, ...]`.
      standardize_by: Networks whose mean and deviation standardise every feature, or
        None to leave features as they are. Features that do not vary become zero.
      num_networks: How many of the rows, from the first on, are networks of the source;
        the others only standardise.
    """

    def __init__(
        self,
        features: np.ndarray,
        standardize_by: np.ndarray | None = None,
        *,
        num_networks: int | None = None,
    ):
        features = np.asarray(features, np.float64)
        if standardize_by is not None:
            chosen = features[standardize_by]
            deviation = chosen.std(axis=0)
            # Rounding leaves a tiny deviation where all values are the same.
            varies = deviation > 1e-6 * (1.0 + np.abs(chosen).max(axis=0))
            features = features - chosen.mean(axis=0)
            features = np.where(varies, features / np.where(varies, deviation, 1), 0)
        self.features = features[:num_networks].astype(np.float32)
        self.sizes = np.ones(len(self.features), np.int64)

    def example(self, rows: np.ndarray) -> np.ndarray:
        """The rows `[b, ...]`."""
        return self.features[rows]

    def budget(self, batches: np.ndarray) -> None:
        """Rows need no padding."""

    def batch(self, rows: np.ndarray, budget: None) -> np.ndarray:
        """The rows `[b, ...]`."""
        return self.features[rows]


def training_plan(
    sizes: np.ndarray, batch_size: int, num_steps: int, seed: int
) -> np.ndarray:
    """Which networks every step sees, small and large ones in equal shares.

    Networks are sorted by size and cut into one stratum per place of a batch. In every
    epoch each batch takes one network of every stratum, in random order, and no
    network twice; where strata differ in length, those left over have their turn in
    another epoch. Batches are then nearly of one size, and hardly any padding is
    needed.

    Args:
      sizes: `[n]`.
      batch_size: b, at most n.
      num_steps: Number of batches.
      seed: Seed of the order.

    Returns:
      `[num_steps, b]` indices below n.
    """
    strata = np.array_split(np.argsort(sizes, kind="stable"), batch_size)
    per_epoch = len(strata[-1])
    batches = []
    for epoch in range(-(-num_steps // per_epoch)):
        rng = np.random.default_rng([seed, epoch])
        order = [rng.permutation(stratum)[:per_epoch] for stratum in strata]
        batches.append(np.stack(order, axis=1))
    return np.concatenate(batches)[:num_steps]


def evaluation_plan(sizes: np.ndarray, batch_size: int) -> tuple[np.ndarray, ...]:
    """Batches that hold every network, of nearly one size.

    Args:
      sizes: `[n]`.
      batch_size: b.

    Returns:
      `[batches, b]` indices below n, and `[batches, b]` false where an index repeats
      one only to fill up the batch.
    """
    order = np.argsort(sizes, kind="stable")
    num_batches = -(-len(order) // batch_size)
    places = np.arange(batch_size) * num_batches + np.arange(num_batches)[:, None]
    # Sizes rise along a row: what fills up is the smallest network.
    return order[np.where(places < len(order), places, 0)], places < len(order)
