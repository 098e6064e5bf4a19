"""Integer least squares: the edges of a receiver decoded from its residuals.

Where the energy is half of a sum of squares whose terms are nearly linear in the edges,
as the change of a node is in the messages that add up to it, finding the incoming edges
of a receiver is what decoding is to an antenna: least squares over corners of
simplices. A step makes the residuals of one receiver linear, orders its edges by how
well they are determined (the surest first, as V-BLAST does: Wolniansky et al. 1998) and
walks down a tree of decisions, the edges that are still open solved for as real
numbers. Of all partial assignments of a depth the best few are kept (K-best sphere
decoding: Guo and Nilsson 2006). The energy itself judges what is left in the end.

Learned probabilities are the prior of the edges that are still open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from modmeta.search import base, evaluation, proposals

_MIN_PROBABILITY = 1e-4


class LeastSquaresMemory(NamedTuple):
    """Where residuals are made linear, and what is known of the edges before.

    Attributes:
      centers: `[R, D, K]` weights of the modules around which a receiver's residuals
        are made linear: prior probabilities, later its present structure.
      shares: `[R, K]` modules among the incoming edges of a receiver as found so far,
        one of each added; uniform at first.
    """

    centers: jax.Array
    shares: jax.Array


class LinearModel(NamedTuple):
    """Residuals `design . weights - offset` of one receiver.

    Attributes:
      design: `[P, D, K]`, zero at masked slots.
      offset: `[P]`.
      probabilities: `[D, K]` prior.
      slot_mask: `[D]`.
    """

    design: jax.Array
    offset: jax.Array
    probabilities: jax.Array
    slot_mask: jax.Array


def integer_least_squares(
    *,
    num_candidates: int = 16,
    beam_size: int = 64,
    uniform_fraction: float = 0.5,
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
        than there are assignments.
      uniform_fraction: Prior of an edge is its learned probability, blended with this
        share of what is found among the receiver's other edges.
      order_noise: Standard deviation of the logarithm of what the variances, by which
        edges are ordered, are multiplied with: steps that find nothing then differ.
      num_node_modules: Size M of the bank of node modules; 1 leaves node modules as
        they are.

    Raises:
      ValueError: If a number is out of its range; at `init` and `step`, if the energy
        has no residuals.
    """
    for name, value in [
        ("num_candidates", num_candidates),
        ("num_node_modules", num_node_modules),
    ]:
        if value < 1:
            raise ValueError(f"{name}: found {value}, expected at least 1")
    if beam_size < num_candidates:
        raise ValueError(
            f"beam_size: found {beam_size}, expected at least the number of "
            f"candidates, {num_candidates}"
        )
    if order_noise < 0.0:
        raise ValueError(f"order_noise: found {order_noise}, expected at least 0")

    def prior(candidates, shares):
        learned = jnp.exp(proposals.edge_log_probabilities(candidates, 0.0))
        blended = (1.0 - uniform_fraction) * learned + uniform_fraction * shares
        return jnp.maximum(blended, _MIN_PROBABILITY)

    def init(structure, energy, candidates):
        _check_residuals(energy)
        num_receivers, _, num_modules = candidates.edge_logits.shape
        shares = jnp.full((num_receivers, num_modules), 1.0 / num_modules)
        memory = LeastSquaresMemory(prior(candidates, shares[:, None]), shares)
        return base.init(structure, energy, candidates)._replace(memory=memory)

    def step(rng_key, state, energy, candidates, temperature):
        _check_residuals(energy)
        num_receivers, num_slots, num_modules = candidates.edge_logits.shape
        key_receiver, key_order, key_draw = jax.random.split(rng_key, 3)
        has_edges = jnp.any(candidates.slot_mask, axis=1)
        receiver = proposals.uniform_index(key_receiver, has_edges)
        mask = candidates.slot_mask[receiver]
        row, node_module = evaluation.take(state.structure, receiver)
        centers, shares = state.memory
        center = jnp.where(
            mask[:, None], centers[receiver], jax.nn.one_hot(row, num_modules)
        )
        probabilities = prior(candidates, shares[:, None])[receiver]
        nodes = jnp.arange(num_node_modules, dtype=jnp.int32)
        if num_node_modules == 1:
            nodes = node_module[None]

        def decode_for(node_module):
            def residuals(weights):
                return energy.residuals(weights, node_module, receiver)

            model = linear_model(residuals, center, probabilities, mask)
            rows = decode(key_order, model, beam_size, order_noise)
            return rows[:num_candidates]

        rows = jax.vmap(decode_for)(nodes)
        nodes = jnp.repeat(nodes, rows.shape[1])
        rows = jnp.where(mask[None], rows.reshape(-1, num_slots), row[None])
        receivers = evaluation.touched_receivers(energy, receiver[None], num_receivers)

        def evaluate(item):
            row, node_module = item
            structure = base.Structure(
                state.structure.edge_modules.at[receiver].set(row),
                state.structure.node_modules.at[receiver].set(node_module),
            )
            return evaluation.evaluate(
                energy, structure, state.local_energies, receivers
            )

        # One after the other: all together would gather their messages all at once.
        decoded = jax.lax.map(evaluate, (rows, nodes))
        values = jax.tree.map(
            lambda leaf, leaves: jnp.concatenate([leaf[None], leaves]),
            evaluation.present(state),
            decoded,
        )
        is_possible = jnp.isfinite(values.energy)
        logits = jnp.where(is_possible, -values.energy / temperature, -jnp.inf)
        drawn = evaluation.take(values, jax.random.categorical(key_draw, logits))
        chosen = evaluation.select(
            jnp.any(is_possible), drawn, evaluation.present(state)
        )
        found = jax.nn.one_hot(chosen.structure.edge_modules[receiver], num_modules)
        counts = jnp.sum(jnp.where(mask[:, None], found, 0.0), axis=0)
        share = (counts + 1.0) / (jnp.sum(counts) + num_modules)
        linearisations = num_node_modules * num_slots * num_modules
        new_state = evaluation.advance(
            state,
            chosen,
            best=evaluation.lowest(decoded),
            num_proposals=len(rows),
            num_node_updates=len(rows) * receivers.shape[0] + linearisations,
            memory=LeastSquaresMemory(
                centers.at[receiver].set(found), shares.at[receiver].set(share)
            ),
        )
        return new_state, evaluation.drawn_info(state, new_state, temperature)

    return base.SearchAlgorithm(init, step)


def _check_residuals(energy: base.Energy) -> None:
    if energy.residuals is None:
        raise ValueError(
            "energy.residuals: found None, expected the residuals of a receiver"
        )


def linear_model(
    residuals: Callable[[jax.Array], jax.Array],
    center: jax.Array,
    probabilities: jax.Array,
    slot_mask: jax.Array,
) -> LinearModel:
    """Residuals to first order; of no use, all zero, where they are not finite.

    Args:
      residuals: `[D, K]` weights to `[P]`.
      center: `[D, K]` weights around which they are made linear.
      probabilities: `[D, K]` prior, all above zero.
      slot_mask: `[D]` true at slots that hold an edge.
    """

    def twice(weights):
        value = residuals(weights)
        return value, value

    design, value = jax.jacfwd(twice, has_aux=True)(center)
    offset = jnp.einsum("pdk,dk->p", design, center) - value
    is_finite = jnp.all(jnp.isfinite(design)) & jnp.all(jnp.isfinite(value))
    return LinearModel(
        design=jnp.where(is_finite & slot_mask[None, :, None], design, 0.0),
        offset=jnp.where(is_finite, offset, 0.0),
        probabilities=probabilities,
        slot_mask=slot_mask,
    )


def _free_columns(model: LinearModel) -> tuple[jax.Array, jax.Array]:
    """Residuals and prior in the weights of all modules but the first.

    Returns:
      `[Q, D, K - 1]` and `[Q]`: the sum of squares of `columns . weights - target`.
    """
    _, num_slots, num_modules = model.design.shape
    # A categorical prior with its mean and covariance as a Gaussian: one residual
    # (weight - p) / sqrt(p) per slot and module (Pearson's statistic).
    root = jnp.sqrt(model.probabilities).reshape(-1)
    prior = jnp.diag(1.0 / root).reshape(-1, num_slots, num_modules)
    design = jnp.concatenate([model.design, prior])
    # The weights of a slot add up to one, which leaves K - 1 of them.
    target = jnp.concatenate([model.offset, root]) - jnp.sum(design[..., 0], axis=1)
    return design[..., 1:] - design[..., :1], target


class Posterior(NamedTuple):
    """Weights of the modules as real numbers, without any search.

    Attributes:
      means: `[D, K]`, the least-squares solution; adds up to one.
      deviations: `[D, K]`, standard deviations by the curvature.
      misfit: `()` root of the mean of squares that are left, masked slots excepted.
    """

    means: jax.Array
    deviations: jax.Array
    misfit: jax.Array


def posterior(model: LinearModel) -> Posterior:
    """The Gaussian posterior of the edges of a receiver under a linear model."""
    _, num_slots, num_modules = model.design.shape
    columns, target = _free_columns(model)
    columns = columns.reshape(len(target), -1)
    # Of the normal equations the condition number would be the square.
    basis, triangle = jnp.linalg.qr(columns)
    solution = jax.scipy.linalg.solve_triangular(triangle, target @ basis)
    root = jax.scipy.linalg.solve_triangular(triangle, jnp.eye(len(triangle)))
    root = root.reshape(num_slots, num_modules - 1, -1)
    # The weight of the first module is one minus the sum of the others.
    root = jnp.concatenate([-jnp.sum(root, axis=1, keepdims=True), root], axis=1)
    free = solution.reshape(num_slots, -1)
    left = jnp.sum(jnp.square(columns @ solution - target))
    count = len(model.offset) + num_modules * jnp.sum(model.slot_mask)
    return Posterior(
        means=jnp.concatenate([1.0 - jnp.sum(free, axis=1, keepdims=True), free], 1),
        deviations=jnp.sqrt(jnp.sum(jnp.square(root), axis=-1)),
        misfit=jnp.sqrt(left / count),
    )


def decode(
    rng_key: jax.Array, model: LinearModel, beam_size: int, order_noise: float
) -> jax.Array:
    """Assignments of low half sum of squares, prior included, best first.

    Args:
      rng_key: Consumed by the order of the edges.
      model: Residuals, linear in the weights of D slots, and the prior.
      beam_size: B, assignments kept; at most all K^D.
      order_noise: See `integer_least_squares`.

    Returns:
      `[B, D]` int32, of which some repeat only if masked slots leave fewer than B.
    """
    _, num_slots, num_modules = model.design.shape
    num_free = num_modules - 1
    beam_size = min(beam_size, num_modules**num_slots)
    design, offset = _free_columns(model)
    order = _decision_order(rng_key, design, order_noise)[::-1]
    columns = design[:, order].reshape(len(offset), -1)
    basis, triangle = jnp.linalg.qr(columns)
    target = (offset @ basis).reshape(num_slots, num_free)
    triangle = triangle.reshape(num_slots, num_free, num_slots, num_free)
    steps = jnp.pad(jnp.moveaxis(triangle, 2, 0), ((0, 0),) * 3 + ((1, 0),))
    is_allowed = model.slot_mask[order][:, None] | (jnp.arange(num_modules) == 0)[None]

    def decide(carry, item):
        remaining, costs, rows = carry
        slot, step, is_allowed = item
        # What the slot's own equations leave, all later ones being decided.
        left = remaining[:, slot, :, None] - step[slot][None]
        options = costs[:, None] + 0.5 * jnp.sum(jnp.square(left), axis=1)
        options = jnp.where(is_allowed[None], options, jnp.inf)
        negative, kept = jax.lax.top_k(-options.reshape(-1), beam_size)
        parent, module = kept // num_modules, kept % num_modules
        remaining = remaining[parent] - jnp.moveaxis(step, -1, 0)[module]
        rows = rows[parent].at[:, slot].set(module)
        return (remaining, -negative, rows), None

    start = (
        jnp.broadcast_to(target, (beam_size, *target.shape)),
        jnp.where(jnp.arange(beam_size) == 0, 0.0, jnp.inf),
        jnp.zeros((beam_size, num_slots), jnp.int32),
    )
    (_, _, rows), _ = jax.lax.scan(
        decide, start, (jnp.arange(num_slots), steps, is_allowed), reverse=True
    )
    return jnp.zeros_like(rows).at[:, order].set(rows)


def _decision_order(
    rng_key: jax.Array, design: jax.Array, order_noise: float
) -> jax.Array:
    """Slots `[D]`, at every place the one of least variance given those before it.

    Args:
      rng_key: Consumed.
      design: `[P, D, K - 1]`, prior included.
      order_noise: See `integer_least_squares`.
    """
    _, num_slots, num_free = design.shape
    columns = design.reshape(len(design), -1)
    noise = jnp.exp(order_noise * jax.random.normal(rng_key, (num_slots,)))
    covariance = jnp.linalg.inv(columns.T @ columns)

    def condition(carry, _):
        covariance, is_decided = carry
        variances = jnp.sum(jnp.diag(covariance).reshape(num_slots, num_free), axis=1)
        slot = jnp.argmin(jnp.where(is_decided, jnp.inf, variances * noise))
        for free in range(num_free):
            index = slot * num_free + free
            row = covariance[index]
            covariance -= jnp.outer(row, row) / jnp.maximum(row[index], 1e-12)
        return (covariance, is_decided.at[slot].set(True)), slot

    start = (covariance, jnp.zeros(num_slots, bool))
    return jax.lax.scan(condition, start, None, length=num_slots)[1]
