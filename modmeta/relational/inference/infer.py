"""Structures of many systems under frozen modules, from cold or warm starts.

Batches, and the chains of a batch, may be spread over devices. All randomness belongs
to a batch, chain and problem, whatever device they are on, so the result is the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.dataset import NO_EDGE
from modmeta.relational.data.frames import Frames, as_frames
from modmeta.relational.inference import chains, memory
from modmeta.relational.inference.config import InferenceConfig as InferenceConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.problems import build_problems
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.batches import TaskBatch, all_batches
from modmeta.relational.tasks.states import device_states, gather_states
from modmeta.relational.tasks.structures import TaskStructures, scatter_structure
from modmeta.runtime import devices, programs


@functools.partial(jax.jit, static_argnames=("model", "config", "mesh"))
def infer(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    states: Frames | jax.Array,
    batches: TaskBatch,
    start: TaskStructures | None,
    config: InferenceConfig,
    mesh: Mesh | None = None,
) -> Relations:
    """Infers the structures of all tasks; one compilation, batch after batch.

    On a mesh, the same compilation serves all devices. Arrays that are not searched
    over are repeated on every one, the messages of a batch on those that share its
    chains. On CPU devices the result is that of a single device to the bit; on others
    as far as the library of matrix products rounds alike for as many chains at once.

    Args:
      rng_key: Consumed.
      model: The model.
      params: Its arrays, frozen.
      states: `[tasks, nodes, time, F]` normalised frames, or `Frames` with leaves
        `[tasks, nodes, time, ...]`.
      batches: Every task once, see `batching.all_batches`.
      start: Where the chains start; None draws structures uniformly (cold start).
      config: Options.
      mesh: Devices that share the batches and chains, see `devices.build_mesh`; the
        arguments and the result are then replicated, see `devices.replicate`.

    Returns:
      The structures, energies and probabilities.

    Raises:
      MemoryError: If the search of a batch would not fit into memory; raised before
        anything is compiled.
    """
    num_groups = 1 if mesh is None else mesh.shape[devices.CHAINS]
    memory.check(
        model,
        memory.budget_of(batches.supergraph),
        as_frames(states).states.shape[2],
        config,
        num_chains=-(-config.num_chains // num_groups),
    )

    def everything(rng_key, params, states, batches, start):
        return _infer(rng_key, model, params, states, batches, start, config, mesh)

    return devices.on_every_device(everything, mesh)(
        rng_key, params, states, batches, start
    )


def _infer(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    states: Frames | jax.Array,
    batches: TaskBatch,
    start: TaskStructures | None,
    config: InferenceConfig,
    mesh: Mesh | None,
) -> Relations:
    num_tasks, max_nodes = as_frames(states).states.shape[:2]
    num_relations = model.num_relations
    num_batches = batches.tasks.shape[0]

    def one_batch(item):
        key, batch = item
        return _infer_batch(key, model, params, states, batch, start, config, mesh)

    keys = jax.random.split(rng_key, num_batches)
    found = devices.spread(
        lambda items: _map_batches(one_batch, items),
        (keys, batches),
        devices.BATCHES,
        mesh,
    )

    def to_edges(values):
        """`[batches, N, D, K]` to `[tasks, nodes, nodes, K]`."""
        graph = batches.supergraph
        system = graph.node_system
        rows = jnp.take_along_axis(batches.tasks, system, axis=1)
        rows = jnp.where(graph.slot_mask, rows[..., None], num_tasks)
        matrix = jnp.zeros((num_tasks, max_nodes, max_nodes, num_relations))
        entity = jnp.broadcast_to(graph.node_entity[..., None], rows.shape)
        return matrix.at[rows, entity, graph.slot_entities].set(values, mode="drop")

    def to_tasks(values):
        """`[batches, S, ...]` to `[tasks, ...]`; padding comes last and is cut."""
        count = values.shape[0] * values.shape[1]
        return values.reshape(count, *values.shape[2:])[:num_tasks]

    empty = TaskStructures(
        jnp.full((num_tasks, max_nodes, max_nodes), NO_EDGE, jnp.int32),
        jnp.zeros((num_tasks, max_nodes), jnp.int32),
    )

    def write(structures, item):
        batch, structure = item
        return scatter_structure(
            structures, batch.tasks, batch.supergraph, structure
        ), None

    structures, _ = jax.lax.scan(write, empty, (batches, found["structure"]))
    return Relations(
        edges=structures.edge_modules,
        node_modules=structures.node_modules,
        energies=to_tasks(found["energies"]),
        num_proposals=to_tasks(found["num_proposals"]),
        probabilities=to_edges(found["probabilities"]),
        proposal_logits=to_edges(found["logits"]),
        best_energies=to_tasks(found["best_energies"]),
    )


def _map_batches(function: Callable[[Any], Any], items: tuple[Any, TaskBatch]) -> Any:
    """`jax.lax.map` over batches whose number is left to the data.

    A loop of a single pass, or one whose passes are all the same, would be unrolled
    and fused with what surrounds it, and round otherwise than the same batch in a
    longer loop: hence a number that the compiler cannot know, of two batches or more.
    """
    _, batches = items
    is_real = jnp.any(batches.supergraph.system_mask, axis=(1, 2))
    num_batches = is_real.shape[0]
    rows = jnp.minimum(jnp.arange(max(num_batches, 2)), num_batches - 1)
    items = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], items)

    @jax.jit  # traced once for both the shapes of the result and the loop
    def one(index):
        return function(jax.tree.map(lambda leaf: leaf[index], items))

    def body(index, found):
        return jax.tree.map(
            lambda leaves, leaf: leaves.at[index].set(leaf), found, one(index)
        )

    empty = jax.tree.map(
        lambda leaf: jnp.zeros((rows.shape[0], *leaf.shape), leaf.dtype),
        jax.eval_shape(one, jnp.int32(0)),
    )
    # A plain 0 would make the index weakly typed, and trace the function once more.
    found = jax.lax.fori_loop(jnp.int32(0), jnp.sum(is_real), body, empty)
    return jax.tree.map(lambda leaf: leaf[:num_batches], found)


def _infer_batch(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    states: Frames | jax.Array,
    batch: TaskBatch,
    start: TaskStructures | None,
    config: InferenceConfig,
    mesh: Mesh | None,
) -> dict:
    graph = batch.supergraph
    inputs = gather_states(states, batch.tasks, graph)
    num_systems, max_nodes = graph.system_nodes.shape
    draws = chains.draw(rng_key, model, batch, start, config)
    chunk = 0 if model.energy.couples_receivers else model.memory.receiver_chunk
    network = model.network
    if chunk:
        logits = network.edge_logits(params, graph, inputs)

        def one_chunk(receivers):
            problems = build_problems(
                model, params, graph, inputs, logits, receivers=receivers
            )
            selected = jax.tree.map(lambda leaf: leaf[:, receivers], draws)
            return chains.search_all(problems, selected, config, mesh)

        found = _map_chunks(one_chunk, graph.node_mask.shape[0], chunk)
    else:
        unknown = jnp.zeros((*graph.slot_mask.shape, model.num_relations))
        problems = build_problems(model, params, graph, inputs, unknown)
        evidence = network.evidence(params, graph, inputs, problems.residuals)
        logits = network.edge_logits(params, graph, inputs, evidence=evidence)
        problems = problems.with_logits(logits)
        found = chains.search_all(problems, draws, config, mesh)

    def per_system(values):
        """Sums `[P, ...]` over the problems of every system: `[S, ...]`."""
        if model.energy.couples_receivers:
            return values
        mask = graph.system_mask.reshape(
            num_systems, max_nodes, *(1,) * (values.ndim - 1)
        )
        values = values[graph.system_nodes]
        return jnp.sum(jnp.where(mask, values, jnp.zeros_like(values)), axis=1)

    return {
        "structure": found.structure,
        "energies": per_system(found.energies),
        "num_proposals": per_system(found.num_proposals),
        "probabilities": jnp.where(graph.slot_mask[..., None], found.shares, 0.0),
        "logits": jnp.where(graph.slot_mask[..., None], logits, 0.0),
        "best_energies": per_system(found.best_energies),
    }


def _map_chunks(
    function: Callable[[jax.Array], chains.SearchOutcome], num_nodes: int, chunk: int
) -> chains.SearchOutcome:
    """Applies a function to chunks of nodes in turn and joins its results."""
    num_chunks = -(-num_nodes // chunk)
    # The last node is padding: it fills up the last chunk.
    nodes = jnp.minimum(jnp.arange(num_chunks * chunk), num_nodes - 1)
    found = jax.lax.map(function, nodes.reshape(num_chunks, chunk))
    return jax.tree.map(
        lambda leaf: leaf.reshape(num_chunks * chunk, *leaf.shape[2:])[:num_nodes],
        found,
    )


def infer_dataset(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    config: InferenceConfig,
    *,
    start: TaskStructures | None = None,
    mesh: Mesh | None = None,
) -> Relations:
    """Infers the relations of every system of a data set under frozen modules.

    With several processes, all of them call this on the same arguments and all get
    the relations of every system.

    Args:
      rng_key: Consumed.
      model: The model.
      params: Its arrays.
      dataset: Observed systems, raw units, as many frames as in training.
      config: Options of the search.
      start: Structures to start from; None for a cold start.
      mesh: Devices that share the work, see `devices.build_mesh`; None for one.

    Returns:
      Edges, probabilities and energies; what is no candidate edge of the model has
      relation -1 and probabilities 0.

    Raises:
      DataError: If the model cannot read such trajectories.
      MemoryError: If the search would not fit into memory.
      ValueError: If processes do not agree on the arguments.
    """
    dataset = model.read(dataset)
    programs.make_room()
    edges = model.candidate_edges(dataset)
    states = device_states(dataset, params.preprocessing.normalization)
    batches = all_batches(dataset.num_nodes, model.memory.batch_size, edges)
    rng_key, params, states, batches, start = devices.replicate(
        (rng_key, params, states, batches, start), mesh
    )
    found = infer(rng_key, model, params, states, batches, start, config, mesh)
    return jax.device_get(devices.to_local(found, mesh))
