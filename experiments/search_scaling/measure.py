"""Runs one search on problems of one size and records how far it has come.

All problems of a chunk and all their chains move together, in one compiled program per
size and search: uniform and learned proposals differ in the logits that it is given,
and the length of a run is an argument. Letters: C problems of a chunk, P of a size, R
recorded numbers of proposals, K edge modules, L true relations.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.search_scaling import problems as problems_lib
from experiments.search_scaling.config import MeasurementConfig
from experiments.search_scaling.problems import SizedProblems
from modmeta import search
from modmeta.graphs import supergraphs
from modmeta.relational.inference import memory
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.moves import build_algorithm
from modmeta.relational.inference.problems import Problems
from modmeta.relational.tasks import structures

UNIFORM, LEARNED, OWN = "uniform", "learned", "own moves"
_ENUMERATED_AT_ONCE = 32


class Curves(NamedTuple):
    """What a search found in all problems of one size.

    Attributes:
      energies: `[P, chains, R]` nats, lowest so far.
      confusions: `[P, chains, R, K, L]` int32, candidate edges by module of the best
        structure so far and by true relation.
      num_proposals: `[P, chains]` proposals made in all.
      seconds: `()` of the compiled search of all problems, warm.
    """

    energies: np.ndarray
    confusions: np.ndarray
    num_proposals: np.ndarray
    seconds: np.ndarray


def kinds_of(name: str, model: RelationalModel) -> tuple[str, ...]:
    """The kinds of proposals that a search can be run with."""
    if not search.spec_of(name).uses_logits:
        return (OWN,)
    has_head = model.network.proposal.encoder != "none"
    return (UNIFORM, LEARNED) if has_head else (UNIFORM,)


def recorded_proposals(budget: int, num_points: int) -> np.ndarray:
    """Increasing numbers of proposals from 1 to the budget, at most `num_points`."""
    return np.unique(np.geomspace(1, budget, num_points).round().astype(np.int32))


def num_structures(problems: SizedProblems) -> int:
    """Structures of one receiver."""
    bank = problems.model.bank.config
    return bank.num_relations ** (problems.size - 1) * bank.num_node_modules


def check_memory(
    model: RelationalModel,
    name: str,
    config: MeasurementConfig,
    *,
    size: int,
    num_systems: int,
    num_frames: int,
) -> None:
    """Refuses, before anything is trained, a search that would not fit.

    Args:
      model: The model.
      name: A registered search.
      config: Options.
      size: Entities per system.
      num_systems: Systems of this size.
      num_frames: Observed frames.

    Raises:
      MemoryError: If the messages of a chunk would not fit into memory.
    """
    sizes = [size] * num_systems
    memory.check(
        model,
        supergraphs.padding_budget(sizes, num_systems),
        num_frames,
        InferenceConfig(algorithm=name, num_chains=config.num_chains),
        receiver_chunk=min(config.chunk_size, size * num_systems),
    )


def run(
    rng_key: jax.Array,
    problems: SizedProblems,
    name: str,
    kind: str,
    config: MeasurementConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> Curves | None:
    """Searches all problems of a size from random structures.

    Args:
      rng_key: Consumed; problem p uses `fold_in(rng_key, p)`, whatever the chunks.
      problems: The problems.
      name: A registered search.
      kind: `UNIFORM`, `LEARNED`, or `OWN`.
      config: Options.
      should_stop: Asked between chunks.

    Returns:
      The curves, or None if asked to stop.
    """
    budget = config.budget(problems.size)
    grid = jnp.asarray(recorded_proposals(budget, config.num_points))
    if kind != LEARNED:
        problems = problems._replace(logits=jnp.zeros_like(problems.logits))
    found, seconds = [], []
    for receivers, num_real in _chunks(problems, config):
        if should_stop():
            return None
        prepared = problems_lib.chunk(problems, receivers)
        arguments = (
            jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng_key, receivers),
            prepared.params,
            (prepared.data, prepared.candidates, prepared.observed),
            problems.labels[receivers],
            grid,
        )

        def search_for(num_proposals, arguments=arguments):
            curves = _search(
                problems.model,
                name,
                config,
                problems.num_labels,
                *arguments,
                jnp.int32(num_proposals),
            )
            return jax.block_until_ready(curves)

        if not found:
            # Compiles, and touches all memory once.
            search_for(1)
        started = time.perf_counter()
        curves = search_for(budget)
        seconds.append((time.perf_counter() - started) * num_real / len(receivers))
        found.append([np.asarray(leaf)[:num_real] for leaf in curves])
    curves = [np.concatenate(leaves) for leaves in zip(*found, strict=True)]
    return Curves(*curves, np.float64(sum(seconds)))


def _chunks(problems: SizedProblems, config: MeasurementConfig):
    """Receivers `[C]` of every chunk, and how many of them are new."""
    count = problems.num_problems
    chunk_size = min(config.chunk_size, count)
    for first in range(0, count, chunk_size):
        # The last chunk is filled up with a problem that is searched again.
        receivers = np.minimum(np.arange(first, first + chunk_size), count - 1)
        yield receivers, min(chunk_size, count - first)


@functools.partial(jax.jit, static_argnames=("model", "name", "config", "num_labels"))
def _search(
    model: RelationalModel,
    name: str,
    config: MeasurementConfig,
    num_labels: int,
    rng_keys: jax.Array,
    params: Any,
    prepared: tuple[Any, search.Candidates, Any],
    labels: jax.Array,
    grid: jax.Array,
    budget: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Energies, confusions and proposals made, see `Curves`, of one chunk."""
    data, candidates, observed = prepared
    algorithm = build_algorithm(model, name)
    problems = Problems(model, params, data, candidates, None, observed)

    def start(rng_key, data, candidates):
        energy = problems.energy(data, candidates)
        key_temperature, *keys = jax.random.split(rng_key, 1 + config.num_chains)
        initial = _initial_temperature(
            key_temperature, model, energy, candidates, config
        )

        def chain(rng_key):
            key_start, key_search = jax.random.split(rng_key)
            structure = _random_structure(key_start, model, candidates)
            return algorithm.init(structure, energy, candidates), key_search

        return *jax.vmap(chain)(jnp.stack(keys)), initial

    def step(index, state, key, data, candidates, initial):
        fraction = state.num_proposals / (config.annealed_fraction * budget)
        cooling = search.geometric_curve(initial, config.final_temperature)
        temperature = cooling(jnp.minimum(fraction, 1.0))
        state, _ = algorithm.step(
            jax.random.fold_in(key, index),
            state,
            problems.energy(data, candidates),
            candidates,
            temperature,
        )
        return state

    chains = jax.vmap(step, in_axes=(None, 0, 0, None, None, None))
    every = jax.vmap(chains, in_axes=(None, 0, 0, 0, 0, 0))
    is_label = jax.nn.one_hot(labels, num_labels)

    def record(states, energies, confusions):
        """Overwrites what was recorded for as many proposals or more."""
        modules = states.best_structure.edge_modules[:, :, 0]
        is_module = jax.nn.one_hot(modules, model.num_relations)
        present = jnp.einsum("cndk,cdl->cnkl", is_module, is_label).astype(jnp.int32)
        is_later = states.num_proposals[..., None] <= grid[None, None]
        energies = jnp.where(is_later, states.best_energy[..., None], energies)
        confusions = jnp.where(
            is_later[..., None, None], present[:, :, None], confusions
        )
        return energies, confusions

    def body(carry):
        index, states, recorded = carry
        states = every(index, states, chain_keys, data, candidates, initial)
        return index + 1, states, record(states, *recorded)

    states, chain_keys, initial = jax.vmap(start)(rng_keys, data, candidates)
    shape = (*states.num_proposals.shape, grid.shape[0])
    empty = (
        jnp.zeros(shape),
        jnp.zeros((*shape, model.num_relations, num_labels), jnp.int32),
    )
    _, states, recorded = jax.lax.while_loop(
        lambda carry: jnp.any(carry[1].num_proposals < budget),
        body,
        (jnp.int32(0), states, record(states, *empty)),
    )
    return *recorded, states.num_proposals


def _random_structure(
    rng_key: jax.Array, model: RelationalModel, candidates: search.Candidates
) -> search.Structure:
    return structures.random_structure(
        rng_key,
        candidates.slot_mask,
        model.num_relations,
        model.bank.config.num_node_modules,
    )


def _initial_temperature(
    rng_key: jax.Array,
    model: RelationalModel,
    energy: search.Energy,
    candidates: search.Candidates,
    config: MeasurementConfig,
) -> jax.Array:
    """That of the configuration, or the spread of a few random energies, in nats."""
    if config.initial_temperature:
        return jnp.float32(config.initial_temperature)
    keys = jax.random.split(rng_key, search.SPREAD_DRAWS)
    energies = jax.lax.map(
        lambda key: (
            search.init(
                _random_structure(key, model, candidates), energy, candidates
            ).energy
        ),
        keys,
    )
    return search.spread_temperature(energies, config.final_temperature)


def exact_minima(problems: SizedProblems, config: MeasurementConfig) -> np.ndarray:
    """Lowest energy `[P]` over all structures of every problem, in nats."""
    found = []
    for receivers, num_real in _chunks(problems, config):
        prepared = problems_lib.chunk(problems, receivers)
        chunk = (prepared.data, prepared.candidates, prepared.observed)
        minima = _minima(problems.model, prepared.params, chunk)
        found.append(np.asarray(minima)[:num_real])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames="model")
def _minima(model, params, prepared):
    energy, candidates = _joined_energy(model, params, prepared)
    num_receivers = candidates.slot_mask.shape[0]
    minima = [
        jnp.min(
            search.enumerate_receivers(
                energy,
                candidates,
                jnp.full((num_receivers,), module, jnp.int32),
                chunk_size=_ENUMERATED_AT_ONCE,
            ).energies,
            axis=1,
        )
        for module in range(model.bank.config.num_node_modules)
    ]
    return jnp.min(jnp.stack(minima), axis=0)


def energies_of(
    problems: SizedProblems, edge_modules: np.ndarray, config: MeasurementConfig
) -> np.ndarray:
    """Energy `[P]` of given modules `[P, D]` of every problem, in nats.

    With the best node module, where there are several.
    """
    found = []
    for receivers, num_real in _chunks(problems, config):
        prepared = problems_lib.chunk(problems, receivers)
        chunk = (prepared.data, prepared.candidates, prepared.observed)
        modules = jnp.asarray(edge_modules)[receivers]
        energies = _energies(problems.model, prepared.params, chunk, modules)
        found.append(np.asarray(energies)[:num_real])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames="model")
def _energies(model, params, prepared, edge_modules):
    energy, candidates = _joined_energy(model, params, prepared)
    num_receivers = candidates.slot_mask.shape[0]
    energies = [
        energy.local(
            search.Structure(edge_modules, jnp.full((num_receivers,), module)),
            jnp.arange(num_receivers),
        )
        for module in range(model.bank.config.num_node_modules)
    ]
    return jnp.min(jnp.stack(energies), axis=0)


def _joined_energy(
    model: RelationalModel, params: Any, prepared: tuple[Any, search.Candidates, Any]
) -> tuple[search.Energy, search.Candidates]:
    """The receivers `[C]` of a chunk as one problem of C receivers."""
    data, candidates, observed = prepared
    problems = Problems(model, params, data, candidates, None, observed)
    data, candidates = jax.tree.map(lambda leaf: leaf[:, 0], (data, candidates))
    return problems.energy(data, candidates), candidates
