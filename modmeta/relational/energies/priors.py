"""Structural priors.

Letters: R receivers of a system, D slots, K edge modules.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from modmeta import search


def symmetric_prior(
    candidates: search.Candidates, weight: float
) -> Callable[[search.Structure], jax.Array]:
    """A prior that charges `weight` nats for every pair whose two edges differ.

    Args:
      candidates: Slots of one system, with the tables of opposite edges.
      weight: Nats per disagreeing pair; a large weight makes the graph undirected.

    Returns:
      `structure -> ()`.
    """
    at = search.opposites(candidates)

    def prior(structure: search.Structure) -> jax.Array:
        opposite = structure.edge_modules[at.receivers, at.slots]
        differs = at.is_pair & (opposite != structure.edge_modules)
        return 0.5 * weight * jnp.sum(differs)

    return prior


def relaxed_symmetric_prior(
    candidates: search.Candidates, weight: float
) -> Callable[[jax.Array], jax.Array]:
    """`symmetric_prior` of soft assignments: `edge_weights [R, D, K] -> ()`.

    Its expectation if edges are drawn independently with these probabilities.
    """
    at = search.opposites(candidates)

    def prior(edge_weights: jax.Array) -> jax.Array:
        opposite = edge_weights[at.receivers, at.slots]
        agreement = jnp.sum(edge_weights * opposite, axis=-1)
        return 0.5 * weight * jnp.sum(jnp.where(at.is_pair, 1.0 - agreement, 0.0))

    return prior
