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

from modmeta.search import base, evaluation


def build_kernel(
    propose: base.ProposalFunction, *, hastings: bool = True
) -> base.StepFn:
    """Builds the annealing step for one problem.

    Args:
      propose: Draws proposals, see `modmeta.search.proposals`.
      hastings: Whether to correct for asymmetric proposals.

    Returns:
      The step of the search. A proposal of non-finite energy is never accepted. The
      best structure that was proposed so far, accepted or not, is kept apart from the
      Metropolis state.
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
        receivers = evaluation.touched_receivers(
            energy, proposal.receivers, state.local_energies.shape[0]
        )
        proposed = evaluation.evaluate(
            energy, proposal.structure, state.local_energies, receivers
        )
        log_acceptance = (state.energy - proposed.energy) / temperature
        if hastings:
            log_acceptance = log_acceptance + proposal.log_ratio
        log_acceptance = jnp.where(
            jnp.isfinite(proposed.energy), log_acceptance, -jnp.inf
        )
        # From infinite or undefined energy, the first finite proposal is taken.
        log_acceptance = jnp.where(
            jnp.isfinite(proposed.energy) & ~jnp.isfinite(state.energy),
            0.0,
            log_acceptance,
        )
        acceptance_probability = jnp.exp(jnp.minimum(log_acceptance, 0.0))
        uniform = jax.random.uniform(key_accept, dtype=acceptance_probability.dtype)
        is_accepted = uniform < acceptance_probability
        chosen = evaluation.select(is_accepted, proposed, evaluation.present(state))
        new_state = evaluation.advance(
            state,
            chosen,
            best=proposed,
            num_proposals=1,
            num_node_updates=receivers.shape[0],
        )
        info = base.SearchInfo(
            proposed_energy=proposed.energy,
            log_ratio=proposal.log_ratio,
            acceptance_probability=acceptance_probability,
            is_accepted=is_accepted,
            is_worsening=proposed.energy > state.energy,
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
