"""Structures of many systems under frozen modules, from cold or warm starts."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from modmeta import search
from modmeta.relational import bouncegrad
from modmeta.relational.bouncegrad import TaskBatch, TaskStructures
from modmeta.relational.model import (
    ModelParams,
    Problems,
    RelationalModel,
    random_structure,
)

_TEMPERATURE_DRAWS = 8


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """How structures are inferred.

    Attributes:
      num_steps: Proposals per chain and problem: per receiver, or per system where a
        prior or a roll-out couples receivers.
      num_chains: Chains per problem; the best structure of all counts.
      initial_temperature: Nats, at the first proposal; 0 takes, for every problem,
        the standard deviation of the energy over a few random structures, at which
        nearly every move is accepted.
      final_temperature: Nats, at the last.
      num_samples: Further proposals per chain at temperature 1, over which edge
        probabilities are averaged; 0 for none.
      learned: Whether proposals follow the proposal head.
    """

    num_steps: int = 128
    num_chains: int = 2
    initial_temperature: float = 0.0
    final_temperature: float = 1.0
    num_samples: int = 64
    learned: bool = True


class InferredStructures(NamedTuple):
    """What `infer` finds for every task.

    Attributes:
      structures: Structures of lowest energy.
      energies: `[tasks]` their energies, prior included, in nats.
      probabilities: `[tasks, nodes, nodes, K]` share of samples in which a module sat
        on an edge; zeros where there is no edge, or without samples.
      proposal_logits: `[tasks, nodes, nodes, K]` of the proposal head; zeros where
        there is no edge.
      best_energies: `[tasks, num_steps]` lowest energy of the first chain after every
        proposal, summed over the receivers of a system.
    """

    structures: TaskStructures
    energies: jax.Array
    probabilities: jax.Array
    proposal_logits: jax.Array
    best_energies: jax.Array


@functools.partial(jax.jit, static_argnames=("model", "config"))
def infer(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    states: jax.Array,
    batches: TaskBatch,
    start: TaskStructures | None,
    config: InferenceConfig,
) -> InferredStructures:
    """Infers the structures of all tasks; one compilation, batch after batch.

    Args:
      rng_key: Consumed.
      model: The model.
      params: Its arrays, frozen.
      states: `[tasks, nodes, time, F]` normalised observed frames.
      batches: Every task once, see `batching.all_batches`.
      start: Where the chains start; None draws structures uniformly (cold start).
      config: Options.

    Returns:
      The structures, energies and probabilities.
    """
    num_tasks, max_nodes = states.shape[:2]
    num_relations = model.num_relations
    num_batches = batches.tasks.shape[0]

    def one_batch(item):
        key, batch = item
        return _infer_batch(key, model, params, states, batch, start, config)

    keys = jax.random.split(rng_key, num_batches)
    found = jax.lax.map(one_batch, (keys, batches))

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
        jnp.zeros((num_tasks, max_nodes, max_nodes), jnp.int32),
        jnp.zeros((num_tasks, max_nodes), jnp.int32),
    )

    def write(structures, item):
        batch, structure = item
        return bouncegrad.scatter_structure(
            structures, batch.tasks, batch.supergraph, structure
        ), None

    structures, _ = jax.lax.scan(write, empty, (batches, found["structure"]))
    return InferredStructures(
        structures=structures,
        energies=to_tasks(found["energies"]),
        probabilities=to_edges(found["probabilities"]),
        proposal_logits=to_edges(found["logits"]),
        best_energies=to_tasks(found["best_energies"]),
    )


def _infer_batch(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    states: jax.Array,
    batch: TaskBatch,
    start: TaskStructures | None,
    config: InferenceConfig,
) -> dict:
    graph = batch.supergraph
    inputs = bouncegrad.gather_states(states, batch.tasks, graph)
    logits = model.edge_logits(params, graph, inputs)
    problems = model.problems(params, graph, inputs, logits)
    num_systems, max_nodes = graph.system_nodes.shape
    key_temperature, rng_key = jax.random.split(rng_key)
    temperatures = _temperatures(key_temperature, model, problems, config)

    def one_chain(key):
        key_start, key_search, key_sample = jax.random.split(key, 3)
        if start is None:
            structure = random_structure(key_start, model, graph)
        else:
            structure = bouncegrad.gather_structure(start, batch.tasks, graph)
        state, trace = problems.anneal(
            key_search,
            problems.init(structure),
            temperatures,
            learned=config.learned,
            transform=lambda state, _: state.best_energy,
        )
        best = (state.best_structure, state.best_energy)
        # Samples start at the best structure: the chain is then near its mode.
        warm = problems.init(problems.join(state.best_structure))
        counts = jnp.zeros((*problems.candidates.edge_logits.shape,))
        if config.num_samples:
            counts = problems.sample(
                key_sample, warm, config.num_samples, learned=config.learned
            )
        return best, trace, counts

    keys = jax.random.split(rng_key, config.num_chains)
    (structures, energies), traces, counts = jax.vmap(one_chain)(keys)
    winner = jnp.argmin(energies, axis=0)
    pick = jnp.arange(winner.shape[0])
    structure: search.Structure = jax.tree.map(
        lambda leaf: leaf[winner, pick], structures
    )
    probabilities = problems.join(jnp.mean(counts, axis=0))

    def per_system(values):
        """Sums `[P, ...]` over the problems of every system: `[S, ...]`."""
        if model.search.couples_receivers:
            return values
        mask = graph.system_mask.reshape(
            num_systems, max_nodes, *(1,) * (values.ndim - 1)
        )
        return jnp.sum(jnp.where(mask, values[graph.system_nodes], 0.0), axis=1)

    return {
        "structure": problems.join(structure),
        "energies": per_system(jnp.min(energies, axis=0)),
        "probabilities": jnp.where(graph.slot_mask[..., None], probabilities, 0.0),
        "logits": jnp.where(graph.slot_mask[..., None], logits, 0.0),
        "best_energies": per_system(traces[0]),
    }


def _temperatures(
    rng_key: jax.Array,
    model: RelationalModel,
    problems: Problems,
    config: InferenceConfig,
) -> jax.Array:
    """Geometric temperatures of every problem, `[P, num_steps]`."""
    if config.initial_temperature:
        initial = jnp.full(problems.mask.shape, config.initial_temperature)
    else:

        def random_energy(key):
            structure = random_structure(key, model, problems.supergraph)
            return problems.init(structure).energy

        keys = jax.random.split(rng_key, _TEMPERATURE_DRAWS)
        energies = jax.vmap(random_energy)(keys)
        energies = jnp.where(jnp.isfinite(energies), energies, jnp.nan)
        spread = jnp.nan_to_num(jnp.nanstd(energies, axis=0))
        initial = jnp.maximum(spread, config.final_temperature)
    fractions = jnp.linspace(0.0, 1.0, config.num_steps)
    decay = jnp.log(config.final_temperature / initial)
    return initial[:, None] * jnp.exp(decay[:, None] * fractions[None, :])


def num_proposals(
    model: RelationalModel, config: InferenceConfig, num_nodes: int
) -> int:
    """Proposals that `infer` spends on the search of one system, samples excluded."""
    problems = 1 if model.search.couples_receivers else num_nodes
    return problems * config.num_steps * config.num_chains
