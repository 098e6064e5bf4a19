"""The structure of every task, kept between visits, and its part in a super-graph."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modmeta import search
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.tasks.batches import TaskBatch
from modmeta.relational.tasks.states import gather_states
from modmeta.search import draws


class TaskStructures(NamedTuple):
    """The structure of every task, kept between visits.

    Attributes:
      edge_modules: `[tasks, nodes, nodes]` int32, row = receiver, column = sender.
      node_modules: `[tasks, nodes]` int32.
    """

    edge_modules: jax.Array
    node_modules: jax.Array


def random_structure(
    rng_key: jax.Array,
    slot_mask: jax.Array,
    num_relations: int,
    num_node_modules: int = 1,
) -> search.Structure:
    """Draws modules uniformly.

    Args:
      rng_key: Consumed.
      slot_mask: `[..., D]` true at slots that hold an edge; others get module 0.
      num_relations: Number of edge modules.
      num_node_modules: Number of node modules.

    Returns:
      Leaves `[..., D]` and `[...]`.
    """
    shape = slot_mask.shape
    edges, nodes = draws.uniforms(rng_key, shape, shape[:-1])
    edges = jnp.floor(edges * num_relations).astype(jnp.int32)
    nodes = jnp.floor(nodes * num_node_modules).astype(jnp.int32)
    return search.Structure(jnp.where(slot_mask, edges, 0), nodes)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def random_structures(
    rng_key: jax.Array,
    num_tasks: int,
    max_nodes: int,
    num_relations: int,
    num_node_modules: int = 1,
) -> TaskStructures:
    """Draws a structure for every task, uniformly; consumes the key."""
    everywhere = jnp.ones((num_tasks, max_nodes, max_nodes), bool)
    return TaskStructures(
        *random_structure(rng_key, everywhere, num_relations, num_node_modules)
    )


def gather_structure(
    structures: TaskStructures, tasks: jax.Array, supergraph: SuperGraph
) -> search.Structure:
    """Structures of the tasks of a batch in super-graph form, `[N, D]` and `[N]`."""
    rows = tasks[supergraph.node_system]
    edges = structures.edge_modules[
        rows[:, None], supergraph.node_entity[:, None], supergraph.slot_entities
    ]
    nodes = structures.node_modules[rows, supergraph.node_entity]
    # A product, so that NumPy arrays stay what they are.
    return search.Structure(edges * supergraph.slot_mask.astype(edges.dtype), nodes)


def gather(
    batch: TaskBatch, states: Any, structures: TaskStructures | None
) -> tuple[Any, SuperGraph, search.Structure | None]:
    """States, connectivity and structures of a batch, None where there are none."""
    structure = None if structures is None else gather_structure(structures, *batch)
    return gather_states(states, *batch), batch.supergraph, structure


def scatter_structure(
    structures: TaskStructures,
    tasks: jax.Array,
    supergraph: SuperGraph,
    structure: search.Structure,
) -> TaskStructures:
    """Writes the structures of a batch back; padding is dropped."""
    num_tasks = structures.node_modules.shape[0]
    rows = jnp.where(supergraph.node_mask, tasks[supergraph.node_system], num_tasks)
    slot_rows = jnp.where(supergraph.slot_mask, rows[:, None], num_tasks)
    return TaskStructures(
        structures.edge_modules.at[
            slot_rows, supergraph.node_entity[:, None], supergraph.slot_entities
        ].set(structure.edge_modules, mode="drop"),
        structures.node_modules.at[rows, supergraph.node_entity].set(
            structure.node_modules, mode="drop"
        ),
    )
