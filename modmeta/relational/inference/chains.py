"""The chains of a batch: where they start, how they cool, and what they find.

Letters: N nodes of a super-graph, P problems, D slots, K edge modules.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from modmeta import search
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.moves import build_algorithm
from modmeta.relational.inference.problems import Problems
from modmeta.relational.tasks.structures import random_structure
from modmeta.runtime import devices

_TINY = 1e-12
# One receiver in so many gets more steps.
_ONE_IN = 20
# A model whose errors all go one way knows next to nothing; 100 times warmer is enough.
_MAX_CORRELATION = 0.98


class Draws(NamedTuple):
    """All randomness of a batch, one row per receiver whatever the chunks.

    Attributes:
      random: Structures to set the temperature by, leaves `[draws, N, ...]`.
      start: Where the chains start, leaves `[chains, N, ...]`.
      search_keys: `[chains, P]` and
      sample_keys: `[chains, P]`, keys of the problems.
    """

    random: search.Structure
    start: search.Structure
    search_keys: jax.Array
    sample_keys: jax.Array


class SearchOutcome(NamedTuple):
    """Outcome of a search.

    Attributes:
      structure: Best structures, leaves `[N, ...]`.
      energies: `[P]` their energies.
      num_proposals: `[P]` int32, of all chains, samples excluded.
      shares: `[N, D, K]` of the samples.
      best_energies: `[P, num_steps]` of the first chain.
      misfits: `[P]` mean squares of the errors under the best structures, in units of
        what is expected; 0 where nobody asks.
    """

    structure: search.Structure
    energies: jax.Array
    num_proposals: jax.Array
    shares: jax.Array
    best_energies: jax.Array
    misfits: jax.Array


def draw(
    rng_key: jax.Array,
    model: RelationalModel,
    graph: SuperGraph,
    start: search.Structure | None,
    config: InferenceConfig,
) -> Draws:
    """Draws where the chains of a batch start, and their keys.

    Args:
      rng_key: Consumed.
      model: The model.
      graph: Connectivity of the batch.
      start: Where every chain starts, leaves `[N, ...]`; None draws structures.
      config: Options.
    """
    is_coupled = model.energy.couples_receivers
    num_problems = (graph.system_mask if is_coupled else graph.node_mask).shape[0]

    num_draws = 0 if config.initial_temperature else search.SPREAD_DRAWS
    num_starts = config.num_chains if start is None else 0
    key_structures, key_chains = jax.random.split(rng_key)
    drawn = random_structure(
        key_structures,
        jnp.broadcast_to(
            graph.slot_mask, (num_draws + num_starts, *graph.slot_mask.shape)
        ),
        model.num_relations,
        model.num_node_modules,
    )
    structures = jax.tree.map(lambda leaf: leaf[num_draws:], drawn)
    if start is not None:
        structures = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (config.num_chains, *leaf.shape)),
            start,
        )
    keys = jax.random.split(key_chains, (2, config.num_chains, num_problems))
    return Draws(
        random=jax.tree.map(lambda leaf: leaf[:num_draws], drawn),
        start=structures,
        search_keys=keys[0],
        sample_keys=keys[1],
    )


def search_all(
    problems: Problems, draws: Draws, config: InferenceConfig, mesh: Mesh | None
) -> SearchOutcome:
    """Searches problems with all chains and keeps the best of every problem.

    Args:
      problems: What to search.
      draws: Leaves `[chains, N, ...]`; N may be a chunk of the nodes.
      config: Options.
      mesh: Devices that share the chains; None for one.
    """
    temperatures = _temperatures(problems, draws.random, config)
    algorithm = build_algorithm(
        problems.model,
        config.algorithm,
        options=config.options,
        learned=config.learned,
    )
    sampler = build_algorithm(problems.model, learned=config.learned)
    num_assignments = _few_assignments(problems, config)

    def one_chain(start, key_search, key_sample):
        state, trace = problems.run(
            key_search,
            problems.init(start, algorithm),
            algorithm,
            temperatures,
            transform=lambda state, _: state.best_energy,
        )
        if num_assignments:
            state = _try_all(problems, state, num_assignments)
        best = (state.best_structure, state.best_energy, state.num_proposals)
        # Samples start at the best structure: the chain is then near its mode.
        warm = problems.init(problems.join(state.best_structure))
        shares = jnp.zeros_like(problems.candidates.edge_logits)
        if config.num_samples:
            shares = problems.sample(
                key_sample,
                warm,
                sampler,
                config.num_samples,
                _sample_temperatures(problems, state.best_structure, config),
            )
        return best, trace, shares

    (structures, energies, num_proposals), traces, shares = devices.spread(
        lambda chains: jax.vmap(one_chain)(*chains),
        (draws.start, draws.search_keys, draws.sample_keys),
        devices.CHAINS,
        mesh,
    )
    winner = jnp.argmin(energies, axis=0)
    pick = jnp.arange(winner.shape[0])
    structure: search.Structure = jax.tree.map(
        lambda leaf: leaf[winner, pick], structures
    )
    misfits = jnp.zeros_like(energies[0])
    if looks_again(problems.model, config):
        errors = _errors(problems, structure)
        misfits = errors.squares / jnp.maximum(errors.count, 1.0)
    return SearchOutcome(
        structure=problems.join(structure),
        energies=jnp.min(energies, axis=0),
        num_proposals=jnp.sum(num_proposals, axis=0),
        shares=problems.join(_mean_shares(shares, config.num_samples)),
        best_energies=traces[0],
        misfits=misfits,
    )


def looks_again(model: RelationalModel, config: InferenceConfig) -> bool:
    """Whether receivers that stand out get more steps, see `InferenceConfig`."""
    return config.more_steps > 0 and model.energy.traits.independent_receivers


def again(
    draws: Draws, found: SearchOutcome, config: InferenceConfig
) -> tuple[jax.Array, Draws, InferenceConfig]:
    """What it takes to search the receivers that stand out from where they are.

    Args:
      draws: Those of the search.
      found: Its outcome, a problem per node.
      config: Its options.

    Returns:
      Their nodes, draws of all nodes, and options.
    """
    count = -(-found.misfits.shape[0] // _ONE_IN)
    _, nodes = jax.lax.top_k(found.misfits, count)
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))
    num_chains = draws.search_keys.shape[0]
    draws = Draws(
        random=jax.tree.map(lambda leaf: leaf[:0], draws.random),
        start=jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (num_chains, *leaf.shape)),
            found.structure,
        ),
        search_keys=fold(draws.search_keys, 1),
        sample_keys=fold(draws.sample_keys, 1),
    )
    config = dataclasses.replace(
        config,
        num_steps=config.more_steps,
        more_steps=0,
        initial_temperature=config.final_temperature,
    )
    return nodes, draws, config


def joined(
    found: SearchOutcome, nodes: jax.Array, more: SearchOutcome
) -> SearchOutcome:
    """The outcome of all nodes, with that of some that were searched again.

    They began at the best that was known, so that nothing gets worse.
    """
    put = found._replace(
        num_proposals=found.num_proposals.at[nodes].add(more.num_proposals)
    )
    names = ("structure", "energies", "shares")
    return put._replace(
        **{
            name: jax.tree.map(
                lambda leaf, new: leaf.at[nodes].set(new),
                getattr(found, name),
                getattr(more, name),
            )
            for name in names
        }
    )


def _few_assignments(problems: Problems, config: InferenceConfig) -> int:
    """Assignments of a receiver; 0 where chains try fewer, or receivers are tied.

    The proposals of a chain follow what a head is sure of, rightly or not, and can miss
    one of sixteen assignments in hundreds of steps.
    """
    num_slots, num_modules = problems.candidates.edge_logits.shape[-2:]
    count = num_modules**num_slots
    is_few = count <= config.num_steps * config.num_chains
    is_apart = problems.model.energy.traits.independent_receivers
    is_done = search.spec_of(config.algorithm).is_exhaustive
    return count if is_few and is_apart and not is_done else 0


def _try_all(
    problems: Problems, state: search.SearchState, num_assignments: int
) -> search.SearchState:
    """The best of what chains found and of all other edges of every receiver.

    Modules of nodes stay as the chains found them. Nothing is counted as a proposal.
    """
    algorithm = search.enumeration(chunk_size=1)
    begin = problems.init(problems.join(state.best_structure), algorithm)
    steps = jnp.zeros((problems.mask.shape[0], num_assignments))
    # Enumeration draws nothing.
    tried, _ = problems.run(jax.random.key(0), begin, algorithm, steps)
    return state._replace(
        best_structure=tried.best_structure, best_energy=tried.best_energy
    )


def _mean_shares(shares: jax.Array, num_samples: int) -> jax.Array:
    """Mean over the chains `[chains, ...]` by way of counts, whose sum is exact.

    A mean of quotients would round by what the compiler fuses it with.
    """
    counts = jnp.sum(jnp.round(shares * num_samples), axis=0)
    return counts / max(shares.shape[0] * num_samples, 1)


def excess_temperature(
    squares: jax.Array, products: jax.Array, count: jax.Array, span: int
) -> jax.Array:
    """How many errors are worth one that is independent and as large as expected.

    Errors with autocorrelation r from frame to frame are worth (1 - r) / (1 + r) as
    many independent ones (for lag one, as in a first-order autoregression).

    Args:
      squares: Sum of squared errors in units of their scale, windows by their share.
      products: Sum of products of errors `span` apart.
      count: Number of errors.
      span: Intervals per window.
    """
    correlation = products / jnp.maximum(squares, _TINY)
    correlation = jnp.clip(correlation, 0.0, _MAX_CORRELATION)
    excess = jnp.maximum(span * squares / jnp.maximum(count, 1.0), 1.0)
    return excess * (1.0 + correlation) / (1.0 - correlation)


def _sample_temperatures(
    problems: Problems, structure: search.Structure, config: InferenceConfig
) -> jax.Array:
    """Temperatures of the samples of every problem `[P]`."""
    least = jnp.full(problems.mask.shape, config.sample_temperature)
    if not (config.tempered and problems.model.energy.traits.residuals):
        return least
    errors = _errors(problems, structure)
    return least * excess_temperature(*errors, problems.model.bank.config.span)


class _Errors(NamedTuple):
    """Sums over the errors of every problem, `[P]`, see `excess_temperature`."""

    squares: jax.Array
    products: jax.Array
    count: jax.Array


def _errors(problems: Problems, structure: search.Structure) -> _Errors:
    """Errors under structures with leaves `[P, R, ...]`."""
    num_targets = problems.model.bank.layout.num_targets
    span = problems.model.bank.config.span
    num_modules = problems.model.num_relations

    def one(data, candidates, structure):
        residuals = problems.energy(data, candidates).residuals
        weights = jax.nn.one_hot(structure.edge_modules, num_modules)

        def of_receiver(receiver):
            found = residuals(
                weights[receiver], structure.node_modules[receiver], receiver
            )
            errors = found.reshape(-1, num_targets)
            squares = jnp.sum(jnp.square(errors))
            # Windows that overlap share errors, which their energies allow for.
            products = jnp.sum(errors[span:] * errors[:-span])
            count = jnp.sum(errors != 0.0).astype(errors.dtype)
            return jnp.stack([squares, products, count])

        receivers = jnp.arange(weights.shape[0])
        return _Errors(*jnp.sum(jax.lax.map(of_receiver, receivers), axis=0))

    return jax.vmap(one)(problems.data, problems.candidates, structure)


def _temperatures(
    problems: Problems, random: search.Structure, config: InferenceConfig
) -> jax.Array:
    """Geometric temperatures of every problem, `[P, num_steps]`."""
    if config.initial_temperature:
        initial = jnp.full(problems.mask.shape, config.initial_temperature)
    else:
        energies = jax.lax.map(lambda drawn: problems.init(drawn).energy, random)
        initial = search.spread_temperature(energies, config.final_temperature)
    cooling = search.geometric_curve(initial[:, None], config.final_temperature)
    return cooling(jnp.linspace(0.0, 1.0, config.num_steps)[None, :])
