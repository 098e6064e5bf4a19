"""How strong every edge is: the law of its relation, times a number from 0 on.

Messages of laws are terms of a sum, so that given whose law is on every edge, the
strengths of all edges into a receiver are least squares with bounds; what the receiver
has of its own is fitted with them. Laws that were learned of kinds are fitted once
more, see `strength_laws`.

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
from modmeta.relational.evaluation.changes import median_factor
from modmeta.relational.inference.chains import excess_temperature
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.laws import strength_laws
from modmeta.relational.laws.bounded import least_squares
from modmeta.relational.laws.strength_terms import precision_of, terms_of
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


class Strengths(NamedTuple):
    """Strengths of all edges.

    Attributes:
      values: `[tasks, nodes, nodes]`, at least 0; 1 is the law as `law_curves` shows
        it, that of an entity of median factor. NaN where there is no edge.
      errors: `[tasks, nodes, nodes]` their standard errors, as if there was no bound
        at 0; infinite where a verdict finds nothing that depends on others.
      relations: `[tasks, nodes, nodes]` the relation whose law is multiplied; -1 where
        there is no edge.
    """

    values: np.ndarray
    errors: np.ndarray
    relations: np.ndarray

    def believed(self, is_supported: bool) -> Strengths:
        """The same; laws that explain nothing leave every strength open.

        Args:
          is_supported: Whether anything depends on other entities.
        """
        if is_supported:
            return self
        return self._replace(errors=np.where(np.isnan(self.errors), np.nan, np.inf))


class _Fit(NamedTuple):
    """What is found in one batch.

    Attributes:
      values: `[N, D]` strengths.
      deviations: `[N, D]` standard errors where the model's scale of errors is right.
      misfit: `[N, 3]` sums of squares and of products of errors, and their number, see
        `excess_temperature`.
      products: `[N, K, K]` sums of products of the messages of two laws.
      overlaps: `[N, 2, K]` those of the messages of a law as it is shown, on the edges
        that have it: with the same as it is fitted, and with themselves.
    """

    values: Any
    deviations: Any
    misfit: Any
    products: Any
    overlaps: Any


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

    def given(relations: np.ndarray) -> list[strength_laws.Given]:
        structures = TaskStructures(np.maximum(relations, 0), nodes)
        return [gather(batch, frames, structures) for batch in batches]

    def fit(fitted: ModelParams, given: list[strength_laws.Given]) -> list[_Fit]:
        return [jax.device_get(_fit(model, params, fitted, *one)) for one in given]

    parts = fit(params, given(chosen))
    products = np.sum([part.products.sum(axis=0) for part in parts], axis=0)
    relations = laws_of(chosen, np.asarray(found.probabilities), products)
    assigned = given(relations)
    # Laws of kinds that mix strengths are too flat: these go with strengths.
    parts = fit(strength_laws.refine(model, params, assigned), assigned)
    values, errors = (np.full(chosen.shape, np.nan) for _ in range(2))
    misfits = [part.misfit for part in parts]
    for (tasks, graph), part, scale in zip(
        batches, parts, _scales(misfits, model.bank.config.span), strict=True
    ):
        at = np.nonzero(graph.slot_mask)
        # Systems that fill up a batch repeat one of it.
        place = (
            np.asarray(tasks)[graph.node_system[at[0]]],
            graph.node_entity[at[0]],
            graph.slot_entities[at],
        )
        values[place] = part.values[at]
        errors[place] = (part.deviations * scale[:, None])[at]
    # In units of the laws as they are shown, to which those fitted are nearest.
    overlaps = np.sum([part.overlaps.sum(axis=0) for part in parts], axis=0)
    unit = overlaps[0] / np.maximum(overlaps[1], 1e-30)
    unit = unit[relations] / median_factor(model, params, dataset, found.structures)
    return Strengths(values * unit, errors * unit, relations)


def _scales(misfits: list[np.ndarray], span: int) -> list[np.ndarray]:
    """By how much standard errors are larger than deviations, `[N]` per batch.

    How large errors are as a rule is told by all receivers, if that is less than the
    model, which took edges for alike, says; no receiver alone has smaller ones.
    """
    squares, _, count = np.sum([misfit.sum(axis=0) for misfit in misfits], axis=0)
    usual = min(float(span * squares / max(count, 1.0)), 1.0)
    found = []
    for squares, products, count in (misfit.T for misfit in misfits):
        excess = excess_temperature(
            squares / max(usual, 1e-30), products / max(usual, 1e-30), count, span
        )
        found.append(np.sqrt(usual * np.asarray(excess)))
    return found


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
    counts = np.bincount(edges[edges >= 0], minlength=len(sizes))
    # What is on no edge was not learned from any, unless edges have nothing that acts.
    is_had = counts > 0
    if sizes[is_had].max(initial=0.0) < _SILENT * sizes.max():
        is_had[:] = True
    is_silent = ~is_had | (sizes < _SILENT * sizes[is_had].max(initial=0.0))
    # Of those alike, the strongest; each is like itself.
    alike = np.where((cosines > _ALIKE) & ~is_silent[None], sizes[None], -1.0)
    law = np.where(is_silent, np.arange(len(sizes)), alike.argmax(axis=1))
    # Where no other relation was ever sampled, the most frequent one.
    likely = probabilities + 1e-6 * (1.0 + counts) / (1.0 + counts.sum())
    likeliest = np.where(is_silent, -1.0, likely).argmax(axis=-1)
    own = law[np.maximum(edges, 0)]
    own = np.where(is_silent[own], law[likeliest], own)
    return np.where(edges >= 0, own, edges).astype(np.int32)


@functools.partial(jax.jit, static_argnames="model")
def _fit(
    model: RelationalModel,
    shown: ModelParams,
    fitted: ModelParams,
    frames: Frames,
    graph: SuperGraph,
    structure: Structure,
) -> _Fit:
    modules, trained = model.network.modules(fitted), model.network.modules(shown)
    observed = observe(modules, graph, frames)
    slots = receiver_slots(graph)

    def one(receiver):
        own = jax.tree.map(lambda leaf: leaf[receiver], slots)
        chosen = jax.tree.map(lambda leaf: leaf[receiver], structure)
        return _fit_receiver(modules, trained, observed, own, chosen)

    # One after the other: the messages to a single receiver are held.
    return jax.lax.map(one, jnp.arange(len(slots.nodes)))


def _fit_receiver(
    modules: BoundBank,
    trained: BoundBank,
    observed: Observations,
    slots: ReceiverSlots,
    chosen: Structure,
) -> _Fit:
    """Strengths of the edges into one receiver, leaves without N."""
    span, count = modules.bank.config.span, len(chosen.edge_modules)
    terms = terms_of(modules, observed, slots, chosen)
    precision = precision_of(modules, observed, slots, terms)
    goal = observed.targets[slots.nodes] - terms.alone
    values, deviations, trust = least_squares(
        terms.columns, goal, precision, terms.prior, count, modules.freedom
    )
    left = (goal - jnp.einsum("d,dwy->wy", values, terms.columns)) * jnp.sqrt(
        trust * precision
    )
    left = jnp.where(slots.node_mask, left, 0.0)
    misfit = [
        jnp.sum(jnp.square(left)),
        jnp.sum(left[span:] * left[:-span]),
        jnp.sum(jnp.where(slots.node_mask, precision, 0.0) > 0.0),
    ]
    products = jnp.einsum("dkwy,dlwy->kl", terms.changes, terms.changes)
    shown = terms_of(trained, observed, slots, chosen).columns[:count]
    both = (terms.columns[:count], shown)
    overlaps = jnp.stack([jnp.sum(shown * one, axis=(1, 2)) for one in both])
    has_law = jax.nn.one_hot(chosen.edge_modules, len(products))
    return _Fit(
        values[:count],
        deviations[:count],
        jnp.stack(misfit),
        products,
        overlaps @ has_law,
    )
