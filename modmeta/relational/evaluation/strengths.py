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

from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.frames import Frames
from modmeta.relational.evaluation.refit import Weighted, refit_laws
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
from modmeta.runtime import option_types
from modmeta.search import Structure

# Systems at once: one compilation for however many there are.
_BATCH_SIZE = 20
# Laws whose messages are this much alike (cosine) are one law of two strengths.
_ALIKE = 0.9
# A law of less than this share of the strongest says nothing.
_SILENT = 0.03
# Passes of iterated least squares, and of descent along coordinates in each.
_PASSES, _SWEEPS = 4, 60
# Of the curvature of an edge, what is added so that edges that cannot be told apart
# get large errors and not infinite ones.
_RIDGE = 1e-6


class Strengths(NamedTuple):
    """Strengths of all edges.

    Attributes:
      values: `[tasks, nodes, nodes]`, at least 0; 1 is the law as it was learned. NaN
        where there is no edge.
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
    num_refits: int = 0,
) -> Strengths:
    """Strengths of all candidate edges, those of no relation included.

    Of laws that differ by a factor, all edges get the strongest. An edge whose law says
    nothing gets that of its likeliest other relation.

    Args:
      model: The model.
      params: Its arrays.
      dataset: The systems, raw units.
      found: Their relations.
      num_refits: Times that laws are learned again under the strengths, and strengths
        found again under the laws.

    Raises:
      ValueError: If messages are not terms of a sum, or an option is out of range.
    """
    num_refits = option_types.check("num_refits", num_refits, int)
    if num_refits < 0:
        raise ValueError(f"num_refits: found {num_refits}, expected at least 0")
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

    def given(relations):
        structures = TaskStructures(np.maximum(relations, 0), nodes)
        return [gather(batch, frames, structures) for batch in batches]

    def fit(params, gathered):
        return [jax.device_get(_fit(model, params, *one)) for one in gathered]

    parts = fit(params, given(chosen))
    products = np.sum([part.products.sum(axis=0) for part in parts], axis=0)
    relations = laws_of(chosen, np.asarray(found.probabilities), products)
    gathered = given(relations)
    parts = fit(params, gathered)
    for _ in range(num_refits):
        pairs = zip(gathered, parts, strict=True)
        weighted = [Weighted(*one, _known(one[1], part)) for one, part in pairs]
        params = refit_laws(model, params, weighted)
        parts = fit(params, gathered)
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
    return Strengths(values, errors, relations)


def _known(graph: SuperGraph, part: _Fit) -> np.ndarray:
    """Strengths `[N, D]` of a batch, 0 at empty slots."""
    return np.where(graph.slot_mask, part.values, np.float32(0.0))


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
    values, curvature, trust = least_squares(
        *(columns, goal, precision / span, prior, len(edges)),
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
    size = jnp.maximum(jnp.diagonal(curvature), 1e-12)
    scaled = curvature / jnp.sqrt(size[:, None] * size[None])
    inverse = jnp.linalg.inv(scaled + _RIDGE * jnp.eye(len(size)))
    errors = jnp.sqrt(temperature * jnp.maximum(jnp.diagonal(inverse), 0.0) / size)
    count = len(edges)
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
      The weights `[C]`, the curvature `[C, C]` and how far every error is trusted
      `[W, Y]`, 1 under a Gaussian.
    """
    flat = columns.reshape(len(columns), -1)
    lowest = jnp.where(jnp.arange(len(columns)) < num_bounded, 0.0, -jnp.inf)

    def solve(trust, values):
        weighted = flat * (trust * precision).reshape(1, -1)
        curvature = weighted @ flat.T + jnp.diag(prior)
        slope = weighted @ goal.reshape(-1)
        size = jnp.diagonal(curvature)

        def along(index, values):
            one = index % len(columns)
            gain = slope[one] - curvature[one] @ values
            moved = values[one] + gain / jnp.maximum(size[one], 1e-12)
            moved = jnp.where(size[one] > 0.0, jnp.maximum(moved, lowest[one]), 0.0)
            return values.at[one].set(moved)

        return jax.lax.fori_loop(0, _SWEEPS * len(columns), along, values), curvature

    first = jnp.where(jnp.isfinite(lowest), 1.0, 0.0)
    trust = jnp.ones_like(goal)
    if freedom is None:
        return *solve(trust, first), trust

    def reweigh(_, carry):
        values, _, trust = carry
        values, curvature = solve(trust, values)
        left = goal - jnp.einsum("d,dwy->wy", values, columns)
        squares = jnp.square(left) * precision
        return values, curvature, (freedom + 1.0) / (freedom + squares)

    start = (first, jnp.zeros((len(columns), len(columns))), trust)
    values, _, trust = jax.lax.fori_loop(0, _PASSES, reweigh, start)
    return *solve(trust, values), trust
