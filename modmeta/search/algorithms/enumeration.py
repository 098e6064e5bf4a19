"""Enumeration: all assignments of a receiver's incoming edges, one after the other.

Receivers must be independent: the best structure is then the best one of each. For the
same in one call see `modmeta.search.assignments`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.search import assignments, base, checks, evaluation

NEEDS = base.EnergyTraits(independent_receivers=True)


def enumeration(
    *, chunk_size: int = 64, num_node_modules: int = 1
) -> base.SearchAlgorithm:
    """Enumeration as `SearchAlgorithm(init, step)`; the temperature is ignored.

    Every step gives the next `chunk_size` assignments to all receivers at once and
    keeps the best one of each receiver. After `ceil(K ** D * M / chunk_size)` steps the
    present structure is the optimum; the search then goes round again. An assignment
    counts as one proposal, the last step's repeated ones included. The state's memory
    is the number `()` of the next assignment.

    Args:
      chunk_size: Assignments per step.
      num_node_modules: Size M of the bank of node modules; 1 leaves node modules as
        they are.

    Raises:
      ValueError: If a size is below 1; at `init` and `step`, if the energy is not
        local, has a prior, or there are too many assignments.
    """
    checks.at_least(1, chunk_size=chunk_size, num_node_modules=num_node_modules)

    def count(energy, candidates):
        base.check_traits(NEEDS, base.traits_of(energy), "enumeration")
        _, num_slots, num_modules = candidates.edge_logits.shape
        return assignments.count_assignments(num_slots, num_modules, num_node_modules)

    def init(structure, energy, candidates):
        count(energy, candidates)
        state = base.init(structure, energy, candidates)
        return state._replace(memory=jnp.zeros((), jnp.int32))

    def step(rng_key, state, energy, candidates, temperature):
        del rng_key, temperature
        num_receivers, num_slots, num_modules = candidates.edge_logits.shape
        num_assignments = count(energy, candidates)
        indices = (state.memory + jnp.arange(chunk_size)) % num_assignments
        powers = num_modules ** np.arange(num_slots - 1, -1, -1)

        def evaluate(index):
            row = index // num_node_modules // powers % num_modules
            edge_modules = jnp.where(
                candidates.slot_mask, row[None], state.structure.edge_modules
            )
            node_modules = state.structure.node_modules
            if num_node_modules > 1:
                node_modules = jnp.full_like(node_modules, index % num_node_modules)
            structure = base.Structure(edge_modules, node_modules)
            return structure, energy.local(structure, jnp.arange(num_receivers))

        structures, energies = jax.vmap(evaluate)(indices)
        energies = jnp.where(jnp.isfinite(energies), energies, jnp.inf)
        winner = jnp.argmin(energies, axis=0)
        receivers = jnp.arange(num_receivers)
        found = jnp.min(energies, axis=0)
        improves = evaluation.is_better(found, state.local_energies)
        structure, local_energies = jax.tree.map(
            lambda new, old: jnp.where(
                improves.reshape(-1, *(1,) * (old.ndim - 1)), new, old
            ),
            (evaluation.take(structures, (winner, receivers)), found),
            (state.structure, state.local_energies),
        )
        proposed = evaluation.Evaluated(
            structure, local_energies, jnp.sum(local_energies)
        )
        is_accepted = evaluation.is_better(proposed.energy, state.energy)
        new_state = evaluation.advance(
            state,
            proposed,
            num_proposals=chunk_size,
            num_node_updates=chunk_size * num_receivers,
            memory=(state.memory + chunk_size) % num_assignments,
        )
        return new_state, evaluation.deterministic_info(state, proposed, is_accepted)

    return base.SearchAlgorithm(init, step)
