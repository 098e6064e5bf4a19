"""A genetic algorithm whose crossover exchanges receivers.

The energy is a sum over receivers, so the incoming edges of a receiver are the natural
gene: a child that takes every receiver from one of two parents inherits the energies
of its receivers too, and only what mutates is evaluated. Parents win tournaments, the
best are kept (Goldberg 1989; elitism after De Jong 1975).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from modmeta.search import base, checks, evaluation

CROSSOVERS = ("receiver", "slot")


def genetic(
    propose: base.ProposalFunction,
    *,
    population_size: int = 16,
    num_elites: int = 2,
    tournament_size: int = 2,
    crossover: str = "receiver",
) -> base.SearchAlgorithm:
    """The genetic algorithm as `SearchAlgorithm(init, step)`.

    The population starts as copies of one structure, all evaluated with it, and
    spreads by mutation. The state's memory is the population, leaves
    `[population_size, ...]`, its present structure the best of it. The temperature is
    ignored. A step costs `population_size - num_elites` proposals. A child of
    non-finite energy is replaced by its first parent.

    Args:
      propose: The mutation, one proposal per child; its log-ratio is ignored.
      population_size: Structures per generation.
      num_elites: Best structures that pass on unchanged; at least 1, so that the best
        never worsens.
      tournament_size: Structures drawn, with replacement, of which the best becomes
        a parent.
      crossover: "receiver": a child takes all modules of a receiver from one parent.
        "slot": it takes every edge from one of them and is evaluated in full; for
        problems of a single receiver, where "receiver" leaves only mutation.

    Raises:
      ValueError: If a size or the crossover is not possible.
    """
    if not 1 <= num_elites < population_size:
        raise ValueError(
            f"num_elites: found {num_elites}, expected at least 1 and fewer than the "
            f"population of {population_size}"
        )
    checks.at_least(1, tournament_size=tournament_size)
    if crossover not in CROSSOVERS:
        raise ValueError(
            f"crossover: found {crossover!r}, expected one of {CROSSOVERS}"
        )
    num_children = population_size - num_elites

    def init(structure, energy, candidates):
        state = base.init(structure, energy, candidates)
        population = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (population_size, *leaf.shape)),
            evaluation.present(state),
        )
        return state._replace(memory=population)

    def parent(rng_key, population):
        drawn = jax.random.randint(rng_key, (tournament_size,), 0, population_size)
        return evaluation.lowest(evaluation.take(population, drawn))

    def breed(rng_key, population, energy, candidates):
        key_first, key_second, key_cross, key_slots, key_mutate = jax.random.split(
            rng_key, 5
        )
        first, second = parent(key_first, population), parent(key_second, population)
        num_receivers, num_slots = candidates.slot_mask.shape
        is_first = jax.random.bernoulli(key_cross, shape=(num_receivers,))
        is_first_slot = jnp.broadcast_to(is_first[:, None], candidates.slot_mask.shape)
        if crossover == "slot":
            is_first_slot = jax.random.bernoulli(
                key_slots, shape=(num_receivers, num_slots)
            )
        child = base.Structure(
            jnp.where(
                is_first_slot,
                first.structure.edge_modules,
                second.structure.edge_modules,
            ),
            jnp.where(
                is_first, first.structure.node_modules, second.structure.node_modules
            ),
        )
        proposal = propose(key_mutate, child, candidates)
        receivers = evaluation.touched_receivers(
            energy, proposal.receivers, num_receivers
        )
        if crossover == "slot":
            receivers = jnp.arange(num_receivers)
        inherited = jnp.where(is_first, first.local_energies, second.local_energies)
        child = evaluation.evaluate(energy, proposal.structure, inherited, receivers)
        child = evaluation.select(jnp.isfinite(child.energy), child, first)
        return child, jnp.int32(receivers.shape[0])

    def step(rng_key, state, energy, candidates, temperature):
        del temperature
        population = state.memory
        energies = jnp.where(
            jnp.isfinite(population.energy), population.energy, jnp.inf
        )
        elites = evaluation.take(population, jnp.argsort(energies)[:num_elites])
        children, num_updates = jax.vmap(
            lambda key: breed(key, population, energy, candidates)
        )(jax.random.split(rng_key, num_children))
        proposed = evaluation.lowest(children)
        is_accepted = evaluation.is_better(proposed.energy, state.energy)
        new_state = evaluation.advance(
            state,
            evaluation.select(is_accepted, proposed, evaluation.present(state)),
            num_proposals=num_children,
            num_node_updates=jnp.sum(num_updates),
            memory=jax.tree.map(
                lambda *leaves: jnp.concatenate(leaves), elites, children
            ),
        )
        return new_state, evaluation.deterministic_info(state, proposed, is_accepted)

    return base.SearchAlgorithm(init, step)
