"""Runs a search for many steps as one compiled scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from modmeta.search import base


def run_search(
    rng_key: jax.Array,
    state: base.SearchState,
    algorithm: base.SearchAlgorithm,
    energy: base.Energy,
    candidates: base.Candidates,
    temperature: Callable[[jax.Array], jax.Array],
    num_steps: int,
    transform: Callable[[base.SearchState, base.SearchInfo], Any] | None = None,
) -> tuple[base.SearchState, Any]:
    """Runs one chain on one problem; `jax.vmap` it over problems and chains.

    Args:
      rng_key: Consumed; step i uses `fold_in(rng_key, i)`.
      state: Where to start.
      algorithm: The search.
      energy: Energy of a structure.
      candidates: What to choose from.
      temperature: `step -> temperature`.
      num_steps: Static number of steps.
      transform: What to keep of every step; stacked along a new first axis. None
        keeps the energy after every step.

    Returns:
      `(state, trace)`.
    """
    if transform is None:
        transform = _keep_energy

    def body(state, index):
        key = jax.random.fold_in(rng_key, index)
        state, info = algorithm.step(key, state, energy, candidates, temperature(index))
        return state, transform(state, info)

    return jax.lax.scan(body, state, jnp.arange(num_steps))


def _keep_energy(state: base.SearchState, info: base.SearchInfo) -> jax.Array:
    del info
    return state.energy


def sample_marginals(
    rng_key: jax.Array,
    state: base.SearchState,
    algorithm: base.SearchAlgorithm,
    energy: base.Energy,
    candidates: base.Candidates,
    num_steps: int,
    temperature: float | jax.Array = 1.0,
) -> jax.Array:
    """Runs one chain at a fixed temperature and averages where its modules sit.

    Args:
      rng_key: Consumed; step i uses `fold_in(rng_key, i)`.
      state: Where to start.
      algorithm: A search that samples at fixed temperature.
      energy: Energy of a structure.
      candidates: What to choose from.
      num_steps: Static number of steps; the state after every one counts.
      temperature: In the unit of the energy.

    Returns:
      `[R, D, K]`, share of the steps at which a module sat on an edge.
    """
    num_modules = candidates.edge_logits.shape[-1]

    def body(carry, index):
        state, counts = carry
        key = jax.random.fold_in(rng_key, index)
        state, _ = algorithm.step(
            key, state, energy, candidates, jnp.float32(temperature)
        )
        counts += jax.nn.one_hot(state.structure.edge_modules, num_modules)
        return (state, counts), None

    counts = jnp.zeros_like(candidates.edge_logits)
    (_, counts), _ = jax.lax.scan(body, (state, counts), jnp.arange(num_steps))
    return counts / num_steps
