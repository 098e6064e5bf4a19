"""Integer least squares: edges decoded from residuals, and judged by the energy.

For energies that are half of a sum of squares whose terms are nearly linear in the
edges, as the change of a node is in the messages that add up to it. A step makes the
residuals of one receiver linear, decodes its edges (`modmeta.search.decoding`) and
evaluates the best of what comes out. Learned probabilities are the prior of the edges.
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
    proposals,
    writes,
)

NEEDS = base.EnergyTraits(residuals=True)

# Partial assignments per edge of a receiver, and in all at least. Among 49 senders, 64
# left one receiver in seventy far from the best, 392 one in two hundred.
_BEAM_PER_SLOT = 8
_SMALLEST_BEAM = 64
# The prior weighs the square of a wrong edge by half of its inverse: 5,000 nats, enough
# to be sure, little enough that residuals may contradict and float32 keeps digits.
_MIN_PROBABILITY = 1e-4


def workspace(shapes: base.SearchShapes, options: Mapping[str, Any]) -> int:
    """Bytes of the linear models that one step decodes, one per node module."""
    one = decoding.num_bytes(shapes.num_residuals, shapes.num_slots, shapes.num_modules)
    return options["num_node_modules"] * one


class LeastSquaresMemory(NamedTuple):
    """Where residuals are made linear, and what is known of the edges before.

    Attributes:
      centers: `[R, D, K]` weights of the modules around which a receiver's residuals
        are made linear: prior probabilities, later the best structure.
      shares: `[R, K]` modules among the incoming edges of a receiver as found so far,
        one of each added; uniform at first.
      is_visited: `[R]` bool, whether a receiver was decoded before.
    """

    centers: jax.Array
    shares: jax.Array
    is_visited: jax.Array


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
    decoded and what is present, with weights exp(-energy / T). That leaves minima which
    a prior ties together, but samples nothing: which assignments are decoded depends on
    the present one. The lowest of all counts as best.

    A step costs `num_candidates` proposals per node module at one receiver, and D K
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

    def prior(candidates, shares):
        learned = jnp.exp(proposals.edge_log_probabilities(candidates, 0.0))
        blended = (1.0 - uniform_fraction) * learned + uniform_fraction * shares
        return jnp.maximum(blended, _MIN_PROBABILITY)

    def init(structure, energy, candidates):
        base.check_traits(NEEDS, base.traits_of(energy), "integer_least_squares")
        num_receivers, _, num_modules = candidates.edge_logits.shape
        shares = jnp.full((num_receivers, num_modules), 1.0 / num_modules)
        memory = LeastSquaresMemory(
            centers=prior(candidates, shares[:, None]),
            shares=shares,
            is_visited=jnp.zeros(num_receivers, bool),
        )
        return base.init(structure, energy, candidates)._replace(memory=memory)

    def step(rng_key, state, energy, candidates, temperature):
        base.check_traits(NEEDS, base.traits_of(energy), "integer_least_squares")
        num_receivers, num_slots, num_modules = candidates.edge_logits.shape
        keys = jax.random.split(rng_key, 4)
        key_receiver, key_noise, key_order, key_draw = keys
        has_edges = jnp.any(candidates.slot_mask, axis=1)
        receiver = draws.uniform_index(key_receiver, has_edges)
        mask = candidates.slot_mask[receiver]
        row, node_module = evaluation.take(state.structure, receiver)
        centers, shares, is_visited = state.memory
        key_scale, key_noise = jax.random.split(key_noise)
        scale = jnp.where(is_visited[receiver], jax.random.uniform(key_scale), 0.0)
        center = jnp.where(
            mask[:, None], centers[receiver], jax.nn.one_hot(row, num_modules)
        )
        probabilities = prior(
            evaluation.take(candidates, receiver), shares[receiver][None]
        )
        nodes = jnp.arange(num_node_modules, dtype=jnp.int32)
        if num_node_modules == 1:
            nodes = node_module[None]

        def decode_for(node_module):
            def residuals(weights):
                return energy.residuals(weights, node_module, receiver)

            model = decoding.linear_model(residuals, center, probabilities, mask)
            noise = jax.random.normal(key_noise, model.offset.shape)
            noise = scale * residual_noise * noise
            model = model._replace(offset=model.offset + noise)
            spread = scale * order_noise
            width = beam_size or max(
                num_candidates, _SMALLEST_BEAM, _BEAM_PER_SLOT * num_slots
            )
            rows = decoding.decode(key_order, model, width, spread)
            return rows[:num_candidates]

        rows = jax.vmap(decode_for)(nodes)
        nodes = jnp.repeat(nodes, rows.shape[1])
        rows = jnp.where(mask[None], rows.reshape(-1, num_slots), row[None])
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
        chosen = evaluation.draw(
            key_draw, values, temperature, evaluation.present(state)
        )
        linearisations = num_node_modules * num_slots * num_modules
        new_state = evaluation.advance(
            state,
            chosen,
            best=evaluation.lowest(decoded),
            num_proposals=len(rows),
            num_node_updates=len(rows) * receivers.shape[0] + linearisations,
        )
        best = new_state.best_structure.edge_modules[receiver]
        found = jax.nn.one_hot(best, num_modules)
        counts = jnp.sum(jnp.where(mask[:, None], found, 0.0), axis=0)
        share = (counts + 1.0) / (jnp.sum(counts) + num_modules)
        memory = LeastSquaresMemory(
            centers=writes.put(centers, (receiver,), found),
            shares=writes.put(shares, (receiver,), share),
            is_visited=writes.put(is_visited, (receiver,), jnp.bool_(True)),
        )
        new_state = new_state._replace(memory=memory)
        return new_state, evaluation.drawn_info(state, new_state, temperature)

    return base.SearchAlgorithm(init, step)
