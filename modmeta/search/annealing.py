"""Simulated annealing over structures as a Metropolis-Hastings kernel.

At a fixed temperature T the kernel leaves the Boltzmann distribution
exp(-energy / T) invariant, whatever the proposal, because it applies the exact
Hastings correction. The published method (Alet et al. 2019, section 4) leaves the
correction out; `hastings=False` gives its acceptance rule, which optimises but does
not sample.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from modmeta.search import base


def build_kernel(propose: base.ProposalFunction, *, hastings: bool = True):
    """Builds the annealing step for one problem.

    Args:
      propose: Draws proposals, see `modmeta.search.proposals`.
      hastings: Whether to correct for asymmetric proposals.

    Returns:
      `kernel(rng_key, state, energy, candidates, temperature) -> (state, info)`. The
      key is consumed. A proposal of non-finite energy is never accepted. The best
      structure so far is kept apart from the Metropolis state.
    """

    def kernel(
        rng_key: jax.Array,
        state: base.SearchState,
        energy: base.Energy,
        candidates: base.Candidates,
        temperature: jax.Array,
    ) -> tuple[base.SearchState, base.SearchInfo]:
        key_propose, key_accept = jax.random.split(rng_key)
        proposal = propose(key_propose, state.structure, candidates)
        if energy.is_local:
            receivers = proposal.receivers
        else:
            receivers = jnp.arange(state.local_energies.shape[0])
        touched = energy.local(proposal.structure, receivers)
        local_energies = state.local_energies.at[receivers].set(touched)
        # Summed anew at every step: a running total would drift over long chains.
        proposed_energy = jnp.sum(local_energies) + energy.prior(proposal.structure)

        log_acceptance = (state.energy - proposed_energy) / temperature
        if hastings:
            log_acceptance = log_acceptance + proposal.log_ratio
        log_acceptance = jnp.where(
            jnp.isfinite(proposed_energy), log_acceptance, -jnp.inf
        )
        # From infinite or undefined energy, the first finite proposal is taken.
        log_acceptance = jnp.where(
            jnp.isfinite(proposed_energy) & ~jnp.isfinite(state.energy),
            0.0,
            log_acceptance,
        )
        acceptance_probability = jnp.exp(jnp.minimum(log_acceptance, 0.0))
        uniform = jax.random.uniform(key_accept, dtype=acceptance_probability.dtype)
        is_accepted = uniform < acceptance_probability

        def select(condition, chosen, otherwise):
            return jax.tree.map(
                lambda a, b: jnp.where(condition, a, b), chosen, otherwise
            )

        structure, local_energies, new_energy = select(
            is_accepted,
            (proposal.structure, local_energies, proposed_energy),
            (state.structure, state.local_energies, state.energy),
        )
        is_best = (new_energy < state.best_energy) | (
            jnp.isfinite(new_energy) & ~jnp.isfinite(state.best_energy)
        )
        best_structure, best_energy = select(
            is_best,
            (structure, new_energy),
            (state.best_structure, state.best_energy),
        )
        new_state = base.SearchState(
            structure=structure,
            local_energies=local_energies,
            energy=new_energy,
            best_structure=best_structure,
            best_energy=best_energy,
            num_proposals=state.num_proposals + 1,
            num_node_updates=state.num_node_updates + receivers.shape[0],
        )
        info = base.SearchInfo(
            proposed_energy=proposed_energy,
            log_ratio=proposal.log_ratio,
            acceptance_probability=acceptance_probability,
            is_accepted=is_accepted,
            is_worsening=proposed_energy > state.energy,
        )
        return new_state, info

    return kernel


def simulated_annealing(
    propose: base.ProposalFunction, *, hastings: bool = True
) -> base.SearchAlgorithm:
    """Simulated annealing as `SearchAlgorithm(init, step)`.

    Args:
      propose: Draws proposals.
      hastings: Whether to correct for asymmetric proposals.

    Returns:
      The algorithm; the temperature enters at every step.
    """
    return base.SearchAlgorithm(base.init, build_kernel(propose, hastings=hastings))
