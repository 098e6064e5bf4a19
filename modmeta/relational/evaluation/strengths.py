"""How strong every edge is: the law of its relation, times a number from 0 on.

Messages of laws are terms of a sum, so that given whose law is on every edge, the
strengths of all edges into a receiver are least squares with bounds; what the receiver
has of its own is fitted with them.

Letters: N nodes, D slots, K edge modules, W windows, Y predicted changes, R rates.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta import linear_algebra
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.frames import Frames
from modmeta.relational.evaluation.changes import median_factor
from modmeta.relational.inference.chains import excess_temperature
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules import entities
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.modules.observations import (
    Observations,
    ReceiverSlots,
    observe,
    receiver_slots,
)
from modmeta.relational.tasks.batches import all_batches, unstacked
from modmeta.relational.tasks.states import host_states
from modmeta.relational.tasks.structures import TaskStructures, gather
from modmeta.search import Structure

# Systems at once: one compilation for however many there are.
_BATCH_SIZE = 20
# Laws whose messages are this much alike (cosine) are one law of two strengths.
_ALIKE = 0.9
# A law of less than this share of the strongest says nothing.
_SILENT = 0.03
# Passes of iterated least squares, and steps of each per column.
_PASSES, _STEPS = 4, 3
# Of the length of a column, what is added so that edges that cannot be told apart get
# large errors and not infinite ones; and what may be rounding.
_RIDGE, _ROUNDING = 1e-4, 1e-6


class Strengths(NamedTuple):
    """Strengths of all edges.

    Attributes:
      values: `[tasks, nodes, nodes]`, at least 0; 1 is the law as `law_curves` shows
        it, that of an entity of median factor. NaN where there is no edge.
      errors: `[tasks, nodes, nodes]` their standard errors, as if there was no bound
        at 0.
      relations: `[tasks, nodes, nodes]` the relation whose law is multiplied; -1 where
        there is no edge.
    """

    values: np.ndarray
    errors: np.ndarray
    relations: np.ndarray


class _Fit(NamedTuple):
    """What is found in one batch, leaves `[N, D, ...]`, and `[N, K, K]`."""

    values: Any
    errors: Any
    products: Any


def find_strengths(
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    found: Relations,
) -> Strengths:
    """Strengths of all candidate edges, those of no relation included.

    Of laws that differ by a factor, all edges get the strongest. An edge whose law says
    nothing gets that of its likeliest other relation.

    Args:
      model: The model.
      params: Its arrays.
      dataset: The systems, raw units.
      found: Their relations.

    Raises:
      ValueError: If messages are not terms of a sum.
    """
    bank = model.bank
    if not bank.has_laws:
        raise ValueError(
            f"strengths: found path {bank.config.path!r} with node_update "
            f"{bank.config.node_update!r}, expected laws, whose messages add up"
        )
    dataset = model.read(dataset.without_labels())
    frames = host_states(dataset, params.preprocessing.normalization)
    edges = model.candidate_edges(dataset)
    batches = unstacked(all_batches(dataset.num_nodes, _BATCH_SIZE, edges))
    nodes, chosen = np.asarray(found.node_modules), np.asarray(found.edges)

    def fit(relations: np.ndarray) -> list[_Fit]:
        structures = TaskStructures(np.maximum(relations, 0), nodes)
        given = [gather(batch, frames, structures) for batch in batches]
        return [jax.device_get(_fit(model, params, *one)) for one in given]

    products = np.sum([part.products.sum(axis=0) for part in fit(chosen)], axis=0)
    relations = laws_of(chosen, np.asarray(found.probabilities), products)
    parts = fit(relations)
    values, errors = (np.full(chosen.shape, np.nan) for _ in range(2))
    for (tasks, graph), part in zip(batches, parts, strict=True):
        at = np.nonzero(graph.slot_mask)
        # Systems that fill up a batch repeat one of it.
        place = (
            np.asarray(tasks)[graph.node_system[at[0]]],
            graph.node_entity[at[0]],
            graph.slot_entities[at],
        )
        values[place], errors[place] = part.values[at], part.errors[at]
    # In units of the laws as they are shown.
    factor = median_factor(model, params, dataset, found.structures)
    return Strengths(values / factor, errors / factor, relations)


def laws_of(
    edges: np.ndarray, probabilities: np.ndarray, products: np.ndarray
) -> np.ndarray:
    """The relation whose law is multiplied on every edge.

    Args:
      edges: `[tasks, nodes, nodes]` relations, -1 where there is no edge.
      probabilities: `[tasks, nodes, nodes, K]`.
      products: `[K, K]` sums of products of the messages of two laws on all edges.
    """
    sizes = np.sqrt(np.diag(products))
    cosines = products / np.maximum(np.outer(sizes, sizes), 1e-30)
    is_silent = sizes < _SILENT * sizes.max()
    # Of those alike, the strongest; each is like itself.
    alike = np.where((cosines > _ALIKE) & ~is_silent[None], sizes[None], -1.0)
    law = np.where(is_silent, np.arange(len(sizes)), alike.argmax(axis=1))
    counts = np.bincount(edges[edges >= 0], minlength=len(sizes))
    # Where no other relation was ever sampled, the most frequent one.
    likely = probabilities + 1e-6 * (1.0 + counts) / (1.0 + counts.sum())
    likeliest = np.where(is_silent, -1.0, likely).argmax(axis=-1)
    own = law[np.maximum(edges, 0)]
    own = np.where(is_silent[own], law[likeliest], own)
    return np.where(edges >= 0, own, edges).astype(np.int32)


@functools.partial(jax.jit, static_argnames="model")
def _fit(
    model: RelationalModel,
    params: ModelParams,
    frames: Frames,
    graph: SuperGraph,
    structure: Structure,
) -> _Fit:
    modules = model.network.modules(params)
    observed = observe(modules, graph, frames)
    slots = receiver_slots(graph)

    def one(receiver):
        own = jax.tree.map(lambda leaf: leaf[receiver], slots)
        chosen = jax.tree.map(lambda leaf: leaf[receiver], structure)
        return _fit_receiver(modules, observed, own, chosen)

    # One after the other: the messages to a single receiver are held.
    return jax.lax.map(one, jnp.arange(len(slots.nodes)))


def _fit_receiver(
    modules: BoundBank,
    observed: Observations,
    slots: ReceiverSlots,
    chosen: Structure,
) -> _Fit:
    """Strengths `[D]` of the edges into one receiver."""
    bank = modules.bank
    num_targets, span = bank.layout.num_targets, bank.config.span
    own = observed.take(slots.nodes[None])
    senders = observed.take(slots.senders)
    messages = modules.projected_messages(senders.motion, own.motion)
    messages = jnp.where(slots.slot_mask[:, None, None, None, None], messages, 0.0)
    messages = modules.collect(messages[None], own.windows)[0]
    alone = jnp.moveaxis(modules.embed(own.motion), 0, 1)
    alone = modules.collect(alone, own.windows)[0]
    node, edges = chosen.node_modules, chosen.edge_modules
    messages, alone = messages[:, :, node], alone[node]  # [D, K, W, H], [W, H]
    weights = jnp.ones(alone.shape[:-1])
    if own.weights is not None:
        weights = own.weights[0]
    changes = jnp.where(weights[:, None] > 0, messages[..., :num_targets], 0.0)
    products = jnp.einsum("dkwy,dlwy->kl", changes, changes)

    pick = jnp.arange(len(edges))
    # How far changes are known does not depend on strengths.
    _, log_scale = modules.predict(alone + jnp.sum(messages[pick, edges], axis=0))
    columns = changes[pick, edges]
    prior = jnp.zeros(len(edges))
    if bank.has_effects:
        unit = own.unit_changes[0][None] * bank.laws.rate_of_target().T[:, None]
        columns = jnp.concatenate([columns, unit])
        spreads = entities.spreads_of(jnp.asarray(modules.params.spreads))
        prior = jnp.concatenate([prior, jnp.square(1.0 / spreads[1:])])
    goal = own.targets[0] - alone[:, :num_targets]
    precision = jnp.exp(-2.0 * log_scale) * weights[:, None]
    values, deviations, trust = least_squares(
        columns,
        goal,
        precision / span,
        prior,
        len(edges),
        freedom=modules.freedom,
    )
    left = (goal - jnp.einsum("d,dwy->wy", values, columns)) * jnp.sqrt(
        trust * precision / span
    )
    temperature = excess_temperature(
        jnp.sum(jnp.square(left)),
        jnp.sum(left[span:] * left[:-span]),
        jnp.sum(precision > 0.0),
        span,
    )
    count = len(edges)
    errors = jnp.sqrt(temperature) * deviations
    return _Fit(values[:count], errors[:count], products)


def least_squares(
    columns: jax.Array,
    goal: jax.Array,
    precision: jax.Array,
    prior: jax.Array,
    num_bounded: int,
    freedom: float | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weights of columns, some not below 0, that explain a goal best.

    Args:
      columns: `[C, W, Y]`.
      goal: `[W, Y]`.
      precision: `[W, Y]` inverse variances, zero where nothing was observed.
      prior: `[C]` inverse variances of the weights around 0.
      num_bounded: The first so many are not below 0.
      freedom: Degrees of freedom of Student's distribution; None for a Gaussian.

    Returns:
      The weights `[C]`, their standard deviations as if there were no bounds `[C]`, and
      how far every error is trusted `[W, Y]`, 1 under a Gaussian.
    """
    count = len(columns)
    flat = columns.reshape(count, -1).T
    is_bounded = jnp.arange(count) < num_bounded

    def solve(trust):
        root = jnp.sqrt(trust * precision).reshape(-1, 1)
        rows = jnp.concatenate([flat * root, jnp.diag(jnp.sqrt(prior))])
        size = jnp.sqrt(jnp.sum(jnp.square(rows), axis=0))
        size = jnp.where(size > 0.0, size, 1.0)
        goals = jnp.concatenate([goal.reshape(-1) * root[:, 0], jnp.zeros(count)])
        # By orthogonal rows, as messages of two senders may be nearly the same.
        triangle, wanted = linear_algebra.triangular_system(rows / size[None], goals)
        triangle = jnp.concatenate([triangle, _RIDGE * jnp.eye(count)])
        wanted = jnp.concatenate([wanted, jnp.zeros(count)])
        values = _active_set(triangle, wanted, is_bounded)
        # Factorised after the others, see `linear_algebra`.
        triangle = jnp.where(jnp.all(jnp.isfinite(values)), triangle, jnp.nan)
        _, inverse = linear_algebra.solve_and_invert(
            *linear_algebra.triangular_system(triangle, wanted)
        )
        deviations = jnp.sqrt(jnp.sum(jnp.square(inverse), axis=1)) / size
        return values / size, deviations

    trust = jnp.ones_like(goal)
    if freedom is None:
        return *solve(trust), trust

    def reweigh(_, trust):
        values, _ = solve(trust)
        left = goal - jnp.einsum("d,dwy->wy", values, columns)
        return (freedom + 1.0) / (freedom + jnp.square(left) * precision)

    trust = jax.lax.fori_loop(0, _PASSES, reweigh, trust)
    return *solve(trust), trust


def _active_set(rows: jax.Array, wanted: jax.Array, is_bounded: jax.Array) -> jax.Array:
    """Least squares with bounds at 0 (Lawson and Hanson 1974), one change per step.

    Args:
      rows: `[R, C]` columns of about unit length.
      wanted: `[R]`.
      is_bounded: `[C]`.
    """
    count = rows.shape[1]
    tolerance = _ROUNDING * jnp.sqrt(jnp.sum(jnp.square(wanted)))

    def step(_, carry):
        values, is_free = carry
        # Columns that are held at 0 have rows of their own that say so.
        held = jnp.diag(jnp.where(is_free, 0.0, 1.0))
        triangle, right = linear_algebra.triangular_system(
            jnp.concatenate([rows * is_free[None], held]),
            jnp.concatenate([wanted, jnp.zeros(count)]),
        )
        solved = jax.scipy.linalg.solve_triangular(triangle, right)
        solved = jnp.where(is_free, solved, 0.0)
        is_below = is_free & is_bounded & (solved < 0.0)
        # As far as the first that reaches 0, which is held there.
        shares = jnp.where(is_below, values / (values - solved), jnp.inf)
        share = jnp.minimum(jnp.min(shares), 1.0)
        moved = values + share * (solved - values)
        is_left = is_free & ~(is_below & (shares <= share))
        # Or else one that would gain by it is let go.
        gain = rows.T @ (wanted - rows @ solved)
        gain = jnp.where(is_free, -jnp.inf, gain)
        best = jnp.argmax(gain)
        is_more = is_free | ((jnp.arange(count) == best) & (gain[best] > tolerance))
        is_done = ~jnp.any(is_below)
        is_free = jnp.where(is_done, is_more, is_left)
        return jnp.where(is_free | ~is_bounded, moved, 0.0), is_free

    start = jnp.zeros(count), ~is_bounded
    values, _ = jax.lax.fori_loop(0, _STEPS * count + 1, step, start)
    return jnp.where(is_bounded, jnp.maximum(values, 0.0), values)
