"""Integer least squares: edges decoded from residuals, and judged by the energy.

For energies that are half of a sum of squares whose terms are nearly linear in the
edges, as the change of a node is in the messages that add up to it. A step makes the
residuals of one receiver linear, decodes its edges (`modmeta.search.decoding`) and
evaluates the best of what comes out. Learned probabilities are the prior of the edges.

Where a prior ties edges to their opposites, deciding receiver after receiver would stop
where two of them are wrong together. There a step decodes all receivers in turn, and
each is told what the others know of its edges (`modmeta.search.extrinsic`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modmeta.search import (
    base,
    checks,
    decoding,
    draws,
    evaluation,
    extrinsic,
    proposals,
    writes,
)

NEEDS = base.EnergyTraits(residuals=True)

# Partial assignments per edge of a receiver, and in all at least. Among 49 senders, 64
# left one receiver in seventy far from the best, 392 one in two hundred; among 99, 33
# decodings with 128 left one in fourteen.
_BEAM_PER_SLOT = 8
_SMALLEST_BEAM = 64
# The prior weighs the square of a wrong edge by half of its inverse: 5,000 nats, enough
# to be sure, little enough that residuals may contradict and float32 keeps digits.
_MIN_PROBABILITY = 1e-4


def workspace(shapes: base.SearchShapes, options: Mapping[str, Any]) -> int:
    """Bytes of the linear models that one step decodes, one per node module."""
    one = decoding.num_bytes(shapes.num_residuals, shapes.num_slots, shapes.num_modules)
    return options["num_node_modules"] * one


class Exchange(NamedTuple):
    """What receivers that a prior ties together know of each other.

    Attributes:
      opinions: See `extrinsic`.
      best_local: `[R]` energies of the receivers in the best structure.
    """

    opinions: extrinsic.Opinions
    best_local: jax.Array


class LeastSquaresMemory(NamedTuple):
    """Where residuals are made linear, and what is known of the edges before.

    Attributes:
      centers: `[R, D, K]` weights of the modules around which a receiver's residuals
        are made linear: prior probabilities, later the best structure.
      shares: `[R, K]` modules among the incoming edges of a receiver as found so far,
        one of each added; uniform at first.
      is_visited: `[R]` bool, whether a receiver was decoded before.
      exchange: What receivers told each other; None where nothing ties them together.
    """

    centers: jax.Array
    shares: jax.Array
    is_visited: jax.Array
    exchange: Exchange | None = None


def is_exchanged(energy: base.Energy, candidates: base.Candidates) -> bool:
    """Whether a prior ties receivers, and tables tell which edges are opposite."""
    tables = (candidates.reverse_slots, candidates.sender_receivers)
    is_tied = energy.prior is not base.no_prior and energy.is_local
    return is_tied and all(table is not None for table in tables)


def integer_least_squares(
    *,
    num_candidates: int = 16,
    beam_size: int = 0,
    uniform_fraction: float = 0.5,
    residual_noise: float = 4.0,
    order_noise: float = 1.0,
    num_node_modules: int = 1,
) -> base.SearchAlgorithm:
    """Decoding of one receiver per step as `SearchAlgorithm(init, step)`.

    The receiver is drawn among those with incoming edges, and its edges from what was
    decoded and what is present, with weights exp(-energy / T). That samples nothing:
    which assignments are decoded depends on the present one. The lowest of all counts
    as best.

    Where a prior ties receivers together and candidates have the tables of opposite
    edges, a step visits all R receivers. The present edges of each are then those that
    it and what it was told find best, whatever the temperature. All that is known of a
    receiver is tried in the best structure too, which costs no node update. A visit
    costs D (K - 1) proposals more, single changes of the first decoded assignment.

    A visit costs `num_candidates` proposals per node module at one receiver, and D K
    node updates more for each of these modules to make the residuals linear; decoding
    itself takes O(`beam_size` D^2 K) operations and no node update.

    Args:
      num_candidates: Assignments that are evaluated.
      beam_size: Partial assignments that are kept, at least `num_candidates`; no more
        than there are assignments. 0 for eight per incoming edge and at least 64.
      uniform_fraction: Prior of an edge is its learned probability, blended with this
        share of what is found among the receiver's other edges.
      residual_noise: Standard deviation of noise that is added to the residuals, in
        their unit, and
      order_noise: of the logarithm of what the variances, by which edges are ordered,
        are multiplied with, so that steps differ: none at a receiver's first visit,
        later a share of both that is drawn uniformly.
      num_node_modules: Size M of the bank of node modules; 1 leaves node modules as
        they are.

    Raises:
      ValueError: If a number is out of its range; at `init` and `step`, if the energy
        has no residuals.
    """
    checks.at_least(1, num_candidates=num_candidates, num_node_modules=num_node_modules)
    if beam_size and beam_size < num_candidates:
        raise ValueError(
            f"beam_size: found {beam_size}, expected 0 or at least the number of "
            f"candidates, {num_candidates}"
        )
    checks.share(uniform_fraction=uniform_fraction)
    checks.at_least(0, residual_noise=residual_noise, order_noise=order_noise)

    options = _Options(
        num_candidates,
        beam_size,
        uniform_fraction,
        residual_noise,
        order_noise,
        num_node_modules,
    )

    def init(structure, energy, candidates):
        base.check_traits(NEEDS, base.traits_of(energy), "integer_least_squares")
        num_receivers, _, num_modules = candidates.edge_logits.shape
        shares = jnp.full((num_receivers, num_modules), 1.0 / num_modules)
        state = base.init(structure, energy, candidates)
        exchange = None
        if is_exchanged(energy, candidates):
            opinions = extrinsic.unknown(structure, num_modules)
            exchange = Exchange(opinions, state.local_energies)
        memory = LeastSquaresMemory(
            centers=_prior(options, candidates, shares[:, None]),
            shares=shares,
            is_visited=jnp.zeros(num_receivers, bool),
            exchange=exchange,
        )
        return state._replace(memory=memory)

    def step(rng_key, state, energy, candidates, temperature):
        base.check_traits(NEEDS, base.traits_of(energy), "integer_least_squares")
        if is_exchanged(energy, candidates):
            return _step_together(rng_key, options, state, energy, candidates)
        return _step_alone(rng_key, options, state, energy, candidates, temperature)

    return base.SearchAlgorithm(init, step)


class _Options(NamedTuple):
    """Options of the search, see `integer_least_squares`."""

    num_candidates: int
    beam_size: int
    uniform_fraction: float
    residual_noise: float
    order_noise: float
    num_node_modules: int


def _prior(
    options: _Options, candidates: base.Candidates, shares: jax.Array
) -> jax.Array:
    """`[..., D, K]` probabilities of modules before residuals are looked at."""
    learned = jnp.exp(proposals.edge_log_probabilities(candidates, 0.0))
    blended = (
        1.0 - options.uniform_fraction
    ) * learned + options.uniform_fraction * shares
    return jnp.maximum(blended, _MIN_PROBABILITY)


def _decode(
    rng_keys: tuple[jax.Array, jax.Array],
    options: _Options,
    state: base.SearchState,
    energy: base.Energy,
    candidates: base.Candidates,
    receiver: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Assignments `[n, D]` of a receiver and its own module with each, `[n]`."""
    key_noise, key_order = rng_keys
    _, num_slots, num_modules = candidates.edge_logits.shape
    mask = candidates.slot_mask[receiver]
    row, node_module = evaluation.take(state.structure, receiver)
    centers, shares, is_visited, exchange = state.memory
    key_scale, key_noise = jax.random.split(key_noise)
    scale = jnp.where(is_visited[receiver], jax.random.uniform(key_scale), 0.0)
    center = jnp.where(
        mask[:, None], centers[receiver], jax.nn.one_hot(row, num_modules)
    )
    probabilities = _prior(
        options, evaluation.take(candidates, receiver), shares[receiver][None]
    )
    if exchange is not None:
        probabilities = extrinsic.heard(probabilities, exchange.opinions.told[receiver])
        probabilities = jnp.maximum(probabilities, _MIN_PROBABILITY)
    nodes = jnp.arange(options.num_node_modules, dtype=jnp.int32)
    if options.num_node_modules == 1:
        nodes = node_module[None]
    residuals = energy.residuals
    assert residuals is not None

    count = options.num_candidates
    width = options.beam_size or max(count, _SMALLEST_BEAM, _BEAM_PER_SLOT * num_slots)

    def decode_for(node_module):
        def of_weights(weights):
            return residuals(weights, node_module, receiver)

        model = decoding.linear_model(of_weights, center, probabilities, mask)
        noise = jax.random.normal(key_noise, model.offset.shape)
        noise = scale * options.residual_noise * noise
        model = model._replace(offset=model.offset + noise)
        order_noise = scale * options.order_noise
        return decoding.decode(key_order, model, count, width, order_noise)

    rows = jax.vmap(decode_for)(nodes)
    nodes = jnp.repeat(nodes, rows.shape[1])
    rows = jnp.where(mask[None], rows.reshape(-1, num_slots), row[None])
    return rows, nodes


def _remember(
    state: base.SearchState, candidates: base.Candidates, receiver: jax.Array
) -> base.SearchState:
    """The state, once a receiver was decoded, with what is known of its edges."""
    num_modules = candidates.edge_logits.shape[2]
    mask, memory = candidates.slot_mask[receiver], state.memory
    best = state.best_structure.edge_modules[receiver]
    found = jax.nn.one_hot(best, num_modules)
    counts = jnp.sum(jnp.where(mask[:, None], found, 0.0), axis=0)
    share = (counts + 1.0) / (jnp.sum(counts) + num_modules)
    memory = memory._replace(
        centers=writes.put(memory.centers, (receiver,), found),
        shares=writes.put(memory.shares, (receiver,), share),
        is_visited=writes.put(memory.is_visited, (receiver,), jnp.bool_(True)),
    )
    return state._replace(memory=memory)


def _step_alone(
    rng_key: jax.Array,
    options: _Options,
    state: base.SearchState,
    energy: base.Energy,
    candidates: base.Candidates,
    temperature: jax.Array,
) -> tuple[base.SearchState, base.SearchInfo]:
    """One receiver, whatever the others are."""
    num_receivers, num_slots, num_modules = candidates.edge_logits.shape
    key_receiver, key_noise, key_order, key_draw = jax.random.split(rng_key, 4)
    has_edges = jnp.any(candidates.slot_mask, axis=1)
    receiver = draws.uniform_index(key_receiver, has_edges)
    rows, nodes = _decode(
        (key_noise, key_order), options, state, energy, candidates, receiver
    )
    receivers = evaluation.touched_receivers(energy, receiver[None], num_receivers)

    def evaluate(item):
        return evaluation.evaluate_row(energy, state, receiver, receivers, *item)

    # One after the other: all together would gather their messages all at once.
    decoded = jax.lax.map(evaluate, (rows, nodes))
    values = jax.tree.map(
        lambda leaf, leaves: jnp.concatenate([leaf[None], leaves]),
        evaluation.present(state),
        decoded,
    )
    chosen = evaluation.draw(key_draw, values, temperature, evaluation.present(state))
    linearisations = options.num_node_modules * num_slots * num_modules
    new_state = evaluation.advance(
        state,
        chosen,
        best=evaluation.lowest(decoded),
        num_proposals=len(rows),
        num_node_updates=len(rows) * receivers.shape[0] + linearisations,
        memory=state.memory,
    )
    new_state = _remember(new_state, candidates, receiver)
    return new_state, evaluation.drawn_info(state, new_state, temperature)


def _visit(
    rng_key: jax.Array,
    options: _Options,
    state: base.SearchState,
    energy: base.Energy,
    candidates: base.Candidates,
    opposites: extrinsic.Opposites,
    receiver: jax.Array,
) -> base.SearchState:
    """Decodes one receiver, which hears what others know and tells what it knows."""
    _, num_slots, num_modules = candidates.edge_logits.shape
    key_noise, key_order = jax.random.split(rng_key)
    rows, nodes = _decode(
        (key_noise, key_order), options, state, energy, candidates, receiver
    )
    # So that there is an assignment with every module on every edge.
    changed = extrinsic.single_changes(
        rows[0], candidates.slot_mask[receiver], num_modules
    )
    rows = jnp.concatenate([rows, changed])
    nodes = jnp.concatenate([nodes, jnp.full(len(changed), nodes[0])])
    present, (opinions, best_local) = state.structure, state.memory.exchange

    def evaluate(item):
        structure = evaluation.with_row(present, receiver, *item)
        return energy.local(structure, receiver[None])[0]

    energies = jax.lax.map(evaluate, (rows, nodes))
    energies = jnp.where(jnp.isfinite(energies), energies, extrinsic.UNKNOWN)
    found = extrinsic.Assignments(rows, nodes, energies)
    costs = extrinsic.pair_costs(energy, present, opposites, receiver, num_modules)
    opinions, every, believed = extrinsic.consider(
        opinions, opposites, receiver, found, costs
    )

    def placed(structure, local_energies, assignment):
        row, node_module, local = assignment
        local = jnp.where(local < extrinsic.UNKNOWN, local, jnp.inf)
        return evaluation.total(
            energy,
            evaluation.with_row(structure, receiver, row, node_module),
            writes.put(local_energies, (receiver,), local),
        )

    chosen = placed(
        present, state.local_energies, evaluation.take(every, believed.argmin())
    )
    is_finite = jnp.isfinite(chosen.energy)
    chosen = evaluation.select(is_finite, chosen, evaluation.present(state))
    # What is known costs nothing to try in the best structure as well.
    best = state.best_structure, best_local
    totals = jax.lax.map(lambda one: placed(*best, one).energy, every)
    totals = jnp.where(jnp.isfinite(totals), totals, jnp.inf)
    improved = placed(*best, evaluation.take(every, totals.argmin()))
    lowest = evaluation.select(
        evaluation.is_better(improved.energy, chosen.energy), improved, chosen
    )
    is_better = evaluation.is_better(lowest.energy, state.best_energy)
    best_local = jnp.where(is_better, lowest.local_energies, best_local)
    new_state = evaluation.advance(
        state,
        chosen,
        best=lowest,
        num_proposals=len(rows),
        num_node_updates=len(rows) + options.num_node_modules * num_slots * num_modules,
        memory=state.memory._replace(exchange=Exchange(opinions, best_local)),
    )
    return _remember(new_state, candidates, receiver)


def _step_together(
    rng_key: jax.Array,
    options: _Options,
    state: base.SearchState,
    energy: base.Energy,
    candidates: base.Candidates,
) -> tuple[base.SearchState, base.SearchInfo]:
    """Every receiver in turn, each told by the others what they know."""
    opposites = extrinsic.opposites(candidates)

    def visit(state, item):
        receiver, key = item
        state = _visit(key, options, state, energy, candidates, opposites, receiver)
        return state, None

    num_receivers = len(candidates.edge_logits)
    key_order, key_visits = jax.random.split(rng_key)
    order = jax.random.permutation(key_order, num_receivers)
    keys = jax.random.split(key_visits, num_receivers)
    new_state, _ = jax.lax.scan(visit, state, (order, keys))
    reached = evaluation.present(new_state)
    is_finite = jnp.isfinite(reached.energy)
    return new_state, evaluation.deterministic_info(state, reached, is_finite)
