"""Which tasks share a super-graph: random batches to train, all in turn to evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from modmeta.graphs import supergraphs
from modmeta.graphs.edges import EdgeLists, fully_connected
from modmeta.graphs.supergraphs import SuperGraph


class TaskBatch(NamedTuple):
    """The tasks of one step.

    Attributes:
      tasks: `[S]` rows of the data set; padded systems repeat one.
      supergraph: Their super-graph.
    """

    tasks: jax.Array
    supergraph: SuperGraph


class TaskSampler:
    """Batches of tasks without replacement, epoch after epoch.

    The batch of a step is a function of the seed and the step alone, so that a resumed
    run sees what an uninterrupted one would. Within a batch no task occurs twice; the
    tasks that do not fill the last batch of an epoch wait for the next.

    Args:
      system_sizes: `[tasks]` number of nodes of every task.
      batch_size: Tasks per batch, at most all of them are taken.
      seed: Seed of the order.
      edges: Edges of every task; by default all of them.
    """

    def __init__(
        self,
        system_sizes: Sequence[int],
        batch_size: int,
        seed: int,
        edges: EdgeLists = fully_connected,
    ):
        self._sizes = np.asarray(system_sizes)
        self._edges = edges
        self._seed = seed
        self.batch_size = min(batch_size, len(self._sizes))
        self.budget = supergraphs.padding_budget(self._sizes, self.batch_size, edges)

    def tasks(self, step: int) -> np.ndarray:
        """The rows `[batch_size]` of the data set that make up a step's batch."""
        per_epoch = len(self._sizes) // self.batch_size
        epoch, index = divmod(step, per_epoch)
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._sizes))
        first = index * self.batch_size
        return order[first : first + self.batch_size].astype(np.int32)

    def batches(self, first_step: int, num_steps: int) -> TaskBatch:
        """The batches of consecutive steps, stacked on a first axis."""
        return stack_batches(
            [self.tasks(first_step + index) for index in range(num_steps)],
            self._sizes,
            self.budget,
            self._edges,
        )


def all_batches(
    system_sizes: Sequence[int] | np.ndarray,
    batch_size: int,
    edges: EdgeLists = fully_connected,
) -> TaskBatch:
    """Batches that hold every task once, in order, stacked on a first axis.

    Args:
      system_sizes: `[tasks]` number of nodes of every task.
      batch_size: Systems per batch; the last batch may hold fewer, as padding.
      edges: Edges of every task; by default all of them.
    """
    sizes = np.asarray(system_sizes)
    batch_size = min(batch_size, len(sizes))
    tasks = np.arange(len(sizes), dtype=np.int32)
    rows = [tasks[i : i + batch_size] for i in range(0, len(tasks), batch_size)]
    budget = supergraphs.padding_budget(sizes, batch_size, edges)
    return stack_batches(rows, sizes, budget, edges)


def unstacked(batches: TaskBatch) -> list[TaskBatch]:
    """The batches of a stack, in order (NumPy leaves)."""

    def one(row: int) -> TaskBatch:
        return jax.tree.map(lambda leaf: np.asarray(leaf[row]), batches)

    return [one(row) for row in range(batches.tasks.shape[0])]


def stack_batches(
    rows: Sequence[np.ndarray],
    sizes: np.ndarray,
    budget: supergraphs.PaddingBudget,
    edges: EdgeLists = fully_connected,
) -> TaskBatch:
    """Builds one `TaskBatch` per list of rows and stacks them (NumPy leaves).

    Args:
      rows: Tasks of every batch.
      sizes: `[tasks]` number of nodes of every task.
      budget: Static sizes of a batch.
      edges: Edges of every task.
    """
    padded = [
        np.pad(row, (0, budget.num_systems - len(row)), mode="edge") for row in rows
    ]
    padded_graphs = [
        supergraphs.build_supergraph(
            sizes[row],
            budget,
            edges if callable(edges) else [edges[task] for task in row],
        )
        for row in rows
    ]
    if all(graph is padded_graphs[0] for graph in padded_graphs):
        stacked = jax.tree.map(
            lambda leaf: np.broadcast_to(leaf, (len(rows), *leaf.shape)),
            padded_graphs[0],
        )
    else:
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *padded_graphs)
    return TaskBatch(np.stack(padded), stacked)
