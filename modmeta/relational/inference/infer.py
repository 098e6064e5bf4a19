"""Structures of many systems under frozen modules, from cold or warm starts.

Batches, and the chains of a batch, may be spread over devices. All randomness belongs
to a batch, chain and problem, whatever device they are on, so the result is the same.
One program serves all batches of one shape, of whatever data set.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from modmeta import search
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.dataset import NO_EDGE
from modmeta.relational.data.frames import Frames, as_frames
from modmeta.relational.inference import chains, memory
from modmeta.relational.inference.config import InferenceConfig as InferenceConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.problems import build_problems
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.batches import TaskBatch, all_batches, unstacked
from modmeta.relational.tasks.states import host_states
from modmeta.relational.tasks.structures import TaskStructures, gather
from modmeta.runtime import devices, programs


class Searches(NamedTuple):
    """What is searched at once: one batch on every device, leaves `[batches, ...]`.

    Attributes:
      keys: Keys of the batches.
      frames: Leaves `[batches, N, T, ...]`, normalised.
      supergraph: Connectivity.
      start: Where chains start, leaves `[batches, N, ...]`; None for anywhere.
      changes: `[batches, N, W, Y]`, see `infer`.
    """

    keys: jax.Array
    frames: Frames
    supergraph: SuperGraph
    start: search.Structure | None
    changes: jax.Array | None = None


def infer(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    states: Frames | jax.Array,
    batches: TaskBatch,
    start: TaskStructures | None,
    config: InferenceConfig,
    mesh: Mesh | None = None,
    changes: np.ndarray | None = None,
) -> Relations:
    """Infers the structures of all tasks, batch after batch.

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
      batches: Every task once, see `all_batches`.
      start: Where the chains start; None draws structures uniformly (cold start).
      config: Options.
      mesh: Devices that share the batches and chains, see `devices.build_mesh`.
      changes: `[tasks, nodes, W, Y]` encoded, to explain in place of those observed;
        None for these.

    Returns:
      The structures, energies and probabilities, NumPy arrays.

    Raises:
      MemoryError: If the search of a batch would not fit into memory; raised before
        anything is compiled.
      ValueError: If processes do not agree on the arguments.
    """
    num_groups = 1 if mesh is None else mesh.shape[devices.CHAINS]
    num_tasks, max_nodes, num_frames = as_frames(states).states.shape[:3]
    memory.check(
        model,
        memory.budget_of(batches.supergraph),
        num_frames,
        config,
        num_chains=-(-config.num_chains // num_groups),
    )
    params = devices.replicate(params, mesh)
    compiled = config
    if "uniform_fraction" not in search.options_of(config.algorithm):
        # Uniform moves are learned ones that know nothing: one program for both.
        compiled = dataclasses.replace(config, learned=True)
    found = []
    for searches in grouped(rng_key, states, batches, start, mesh, changes):
        outcome = search_batches(
            model,
            params,
            devices.replicate(searches, mesh),
            np.bool_(config.learned),
            compiled,
            mesh,
        )
        found.append(jax.device_get(devices.to_local(outcome, mesh)))
    num_batches = batches.tasks.shape[0]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_batches], *found)
    shape = (num_tasks, max_nodes)
    return _relations(joined, batches, shape, model.energy.couples_receivers)


def grouped(
    rng_key: jax.Array,
    states: Frames | jax.Array,
    batches: TaskBatch,
    start: TaskStructures | None,
    mesh: Mesh | None,
    changes: np.ndarray | None = None,
) -> Iterator[Searches]:
    """As many batches at a time as devices share them; arguments as for `infer`.

    In the last group a batch may occur more than once.
    """
    num_batches = batches.tasks.shape[0]
    size = 1 if mesh is None else mesh.shape[devices.BATCHES]
    keys = jax.random.split(rng_key, num_batches)
    frames, start = jax.tree.map(np.asarray, (as_frames(states), start))

    every = unstacked(batches)
    for first in range(0, num_batches, size):
        rows = np.minimum(np.arange(first, first + size), num_batches - 1)
        given = [gather(every[row], (frames, changes), start) for row in rows]
        (states, targets), graph, begin = jax.tree.map(
            lambda *leaves: np.stack(leaves), *given
        )
        yield Searches(keys[rows], states, graph, begin, targets)


@functools.partial(jax.jit, static_argnames=("model", "config", "mesh"))
def search_batches(
    model: RelationalModel,
    params: ModelParams,
    searches: Searches,
    is_learned: jax.Array,
    config: InferenceConfig,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Searches one batch on every device; the compiled part of `infer`.

    Args:
      model: The model.
      params: Its arrays, frozen.
      searches: What is searched.
      is_learned: `()` whether proposals follow the proposal head.
      config: Options; whether its search is built for learned probabilities.
      mesh: See `infer`.

    Returns:
      What was found, leaves `[batches, ...]`, in the layout of super-graphs.
    """

    def everything(params, searches, is_learned):
        def one_batch(one):
            return _search_batch(model, params, one, is_learned, config, mesh)

        return devices.spread(
            lambda share: _apart(one_batch, share), searches, devices.BATCHES, mesh
        )

    return devices.on_every_device(everything, mesh)(params, searches, is_learned)


def _apart(function: Callable[[Searches], Any], searches: Searches) -> Any:
    """Applies a function to the batch of a device, apart from what surrounds it.

    Else the compiler would fuse the two, and round otherwise where other devices share
    the work: hence a loop whose passes, one, and whose inputs it cannot know.
    """
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), searches)

    @jax.jit  # traced once for both the shapes of the result and the loop
    def one(index):
        return function(jax.tree.map(lambda leaf: leaf[index], twice))

    # A plain 0 would make the index weakly typed, and trace the function once more.
    first = jnp.int32(0)
    empty = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(one, first)
    )
    num_passes = jnp.any(searches.supergraph.system_mask).astype(jnp.int32)
    found = jax.lax.fori_loop(first, num_passes, lambda index, _: one(index), empty)
    return jax.tree.map(lambda leaf: leaf[None], found)


def _relations(
    found: dict[str, Any],
    batches: TaskBatch,
    shape: tuple[int, int],
    is_coupled: bool,
) -> Relations:
    """What was found in all batches, in the layout of labels `[tasks, nodes, ...]`."""
    num_tasks, max_nodes = shape
    graph = jax.tree.map(np.asarray, batches.supergraph)
    rows = np.take_along_axis(np.asarray(batches.tasks), graph.node_system, axis=1)

    def of_edges(values, empty):
        """`[batches, N, D, ...]` to `[tasks, nodes, nodes, ...]`."""
        shape = (num_tasks, max_nodes, max_nodes, *values.shape[3:])
        matrix = np.full(shape, empty, values.dtype)
        at = np.nonzero(graph.slot_mask)
        matrix[rows[at[:2]], graph.node_entity[at[:2]], graph.slot_entities[at]] = (
            values[at]
        )
        return matrix

    def of_tasks(values):
        """Sums over the problems `[batches, P, ...]` of every task: `[tasks, ...]`."""
        if not is_coupled:
            # A problem is a receiver. Here sums round alike on however many devices.
            batch = np.arange(len(values))[:, None, None]
            mask = graph.system_mask.reshape(
                *graph.system_mask.shape, *(1,) * (values.ndim - 2)
            )
            of_nodes = np.where(mask, values[batch, graph.system_nodes], 0)
            values = of_nodes.sum(axis=2, dtype=values.dtype)
        count = values.shape[0] * values.shape[1]
        return values.reshape(count, *values.shape[2:])[:num_tasks]

    node_modules = np.zeros((num_tasks, max_nodes), np.int32)
    at = np.nonzero(graph.node_mask)
    node_modules[rows[at], graph.node_entity[at]] = found["structure"].node_modules[at]
    return Relations(
        edges=of_edges(found["structure"].edge_modules, NO_EDGE),
        node_modules=node_modules,
        energies=of_tasks(found["energies"]),
        num_proposals=of_tasks(found["num_proposals"]),
        probabilities=of_edges(found["probabilities"], 0.0),
        proposal_logits=of_edges(found["logits"], 0.0),
        best_energies=of_tasks(found["best_energies"]),
    )


def _search_batch(
    model: RelationalModel,
    params: ModelParams,
    searches: Searches,
    is_learned: jax.Array,
    config: InferenceConfig,
    mesh: Mesh | None,
) -> dict[str, Any]:
    rng_key, inputs, graph, start, changes = searches
    draws = chains.draw(rng_key, model, graph, start, config)
    chunk = 0 if model.energy.couples_receivers else model.memory.receiver_chunk
    network = model.network
    num_nodes = graph.node_mask.shape[0]

    def search_some(receivers, draws, config):
        """Receivers by themselves, as many at once as memory is for."""

        def one_chunk(receivers):
            problems = build_problems(
                model,
                params,
                graph,
                inputs,
                jnp.where(is_learned, logits, 0.0),
                receivers=receivers,
                changes=changes,
            )
            selected = jax.tree.map(lambda leaf: leaf[:, receivers], draws)
            return chains.search_all(problems, selected, config, mesh)

        return _map_chunks(one_chunk, receivers, chunk or len(receivers))

    if chunk:
        logits = network.edge_logits(params, graph, inputs)
        found = search_some(jnp.arange(num_nodes), draws, config)
    else:
        unknown = jnp.zeros((*graph.slot_mask.shape, model.num_relations))
        problems = build_problems(
            model, params, graph, inputs, unknown, changes=changes
        )
        evidence = network.evidence(params, graph, inputs, problems.residuals)
        logits = network.edge_logits(params, graph, inputs, evidence=evidence)
        problems = problems.with_logits(jnp.where(is_learned, logits, 0.0))
        found = chains.search_all(problems, draws, config, mesh)
    if chains.looks_again(model, config):
        nodes, *longer = chains.again(draws, found, config)
        found = chains.joined(found, nodes, search_some(nodes, *longer))

    return {
        "structure": found.structure,
        "energies": found.energies,
        "num_proposals": found.num_proposals,
        "probabilities": jnp.where(graph.slot_mask[..., None], found.shares, 0.0),
        "logits": jnp.where(graph.slot_mask[..., None], logits, 0.0),
        "best_energies": found.best_energies,
    }


def _map_chunks(
    function: Callable[[jax.Array], chains.SearchOutcome], nodes: jax.Array, chunk: int
) -> chains.SearchOutcome:
    """Applies a function to chunks of nodes in turn and joins its results."""
    num_nodes, num_chunks = len(nodes), -(-len(nodes) // chunk)
    # The last node fills up the last chunk.
    nodes = nodes[jnp.minimum(jnp.arange(num_chunks * chunk), num_nodes - 1)]
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
    changes: np.ndarray | None = None,
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
      changes: `[tasks, nodes, W, Y]` encoded, to explain in place of those observed;
        None for these.

    Returns:
      Edges, probabilities and energies; what is no candidate edge of the model has
      relation -1 and probabilities 0.

    Raises:
      DataError: If the model cannot read such trajectories.
      MemoryError: If the search would not fit into memory.
      ValueError: If processes do not agree on the arguments.
    """
    dataset = model.read(dataset)
    config = config.resolved(
        int(dataset.num_nodes.max(initial=1)),
        model.energy,
        is_additive=model.bank.is_additive,
    )
    programs.make_room()
    edges = model.candidate_edges(dataset)
    states = host_states(dataset, params.preprocessing.normalization)
    batches = all_batches(dataset.num_nodes, model.memory.batch_size, edges)
    return infer(rng_key, model, params, states, batches, start, config, mesh, changes)
