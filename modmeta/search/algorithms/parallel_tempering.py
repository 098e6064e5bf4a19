"""Parallel tempering: chains at a ladder of temperatures that exchange structures.

Every step makes one Metropolis-Hastings move in every chain, then offers the exchange
of neighbours (0, 1), (2, 3), ... at even steps and (1, 2), (3, 4), ... at odd ones. An
exchange is accepted with the exact ratio of the joint distribution, so that every chain
samples its own Boltzmann distribution, and the coldest that of the temperature asked
for. Hukushima and Nemoto 1996 (Exchange Monte Carlo); the fixed alternation of even
and odd pairs as in Okabe et al. 2001, which keeps the distribution though it is not
reversible.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from modmeta.search import base, evaluation
from modmeta.search.algorithms import simulated_annealing


class TemperingMemory(NamedTuple):
    """The ladder.

    Attributes:
      chains: One annealing state per temperature, leaves `[L, ...]`, coldest first.
      num_exchanges: `[L - 1]` int32, accepted exchanges of every pair of neighbours.
      step: `()` int32, steps taken; its parity says which pairs are next.
    """

    chains: base.SearchState
    num_exchanges: jax.Array
    step: jax.Array


def _check_factors(factors: Sequence[float]) -> None:
    ascends = all(a < b for a, b in zip(factors, factors[1:], strict=False))
    if len(factors) < 2 or factors[0] != 1.0 or not ascends:
        raise ValueError(
            f"factors: found {list(factors)}, expected at least two, ascending from 1"
        )


def parallel_tempering(
    propose: base.ProposalFunction,
    *,
    factors: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    hastings: bool = True,
) -> base.SearchAlgorithm:
    """Parallel tempering as `SearchAlgorithm(init, step)`.

    The state's present structure is that of the coldest chain; the best structure and
    the counters are those of all chains. All chains start at the same structure. The
    diagnostics of a step are those of the coldest chain's own move.

    Args:
      propose: Draws proposals within a chain.
      factors: Temperatures of the ladder relative to the one given at every step.
      hastings: Whether to correct for asymmetric proposals.

    Raises:
      ValueError: If the factors do not ascend from 1.
    """
    _check_factors(factors)
    num_chains = len(factors)
    kernel = simulated_annealing.build_kernel(propose, hastings=hastings)

    def init(structure, energy, candidates):
        state = base.init(structure, energy, candidates)
        chains = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (num_chains, *leaf.shape)), state
        )
        memory = TemperingMemory(
            chains,
            jnp.zeros((num_chains - 1,), jnp.int32),
            jnp.zeros((), jnp.int32),
        )
        return state._replace(memory=memory)

    def step(rng_key, state, energy, candidates, temperature):
        key_moves, key_exchange = jax.random.split(rng_key)
        temperatures = temperature * jnp.asarray(factors, jnp.float32)
        before = state.memory.chains

        def move(key, chain, chain_temperature):
            return kernel(key, chain, energy, candidates, chain_temperature)

        keys = jax.random.split(key_moves, num_chains)
        chains, infos = jax.vmap(move)(keys, before, temperatures)
        # What was proposed and rejected counts too; no local energies are kept of it.
        best = evaluation.lowest(
            evaluation.Evaluated(
                chains.best_structure, chains.local_energies, chains.best_energy
            )
        )
        source, accepted = exchange(
            key_exchange, chains.energy, temperatures, state.memory.step % 2
        )
        moved = evaluation.take(evaluation.present(chains), source)
        chains = chains._replace(**moved._asdict())
        new_state = evaluation.advance(
            state,
            evaluation.take(moved, 0),
            best=best,
            num_proposals=jnp.sum(chains.num_proposals - before.num_proposals),
            num_node_updates=jnp.sum(chains.num_node_updates - before.num_node_updates),
            memory=TemperingMemory(
                chains,
                state.memory.num_exchanges + accepted,
                state.memory.step + 1,
            ),
        )
        return new_state, evaluation.take(infos, 0)

    return base.SearchAlgorithm(init, step)


def exchange(
    rng_key: jax.Array, energies: jax.Array, temperatures: jax.Array, parity: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws the exchanges of one step.

    Args:
      rng_key: Consumed.
      energies: `[L]` of the chains, coldest first.
      temperatures: `[L]`.
      parity: `()` 0 or 1, index of the first pair's colder chain.

    Returns:
      `(source, accepted)`: `[L]` the chain whose structure every chain takes, and
      `[L - 1]` whether each pair of neighbours was exchanged.
    """
    num_pairs = energies.shape[0] - 1
    colder, hotter = energies[:-1], energies[1:]
    log_ratio = (1.0 / temperatures[:-1] - 1.0 / temperatures[1:]) * (colder - hotter)
    # Structures without a finite energy drift to the hottest chain and never back.
    log_ratio = jnp.where(jnp.isfinite(colder), log_ratio, 0.0)
    log_ratio = jnp.where(jnp.isfinite(hotter), log_ratio, -jnp.inf)
    uniform = jax.random.uniform(rng_key, (num_pairs,))
    accepted = uniform < jnp.exp(jnp.minimum(log_ratio, 0.0))
    accepted &= jnp.arange(num_pairs) % 2 == parity
    offset = accepted.astype(jnp.int32)
    upwards = jnp.pad(offset, (0, 1))
    downwards = jnp.pad(offset, (1, 0))
    return jnp.arange(num_pairs + 1) + upwards - downwards, offset
