"""Laws that go with strengths: those of a kind that mixes strengths are too flat.

Messages are terms of a sum, and a law is nearly linear in the last layer of its module,
so that strengths and last layers are a separable least-squares problem: given laws, the
strengths into a receiver are solved for, and what a change of a law does beyond what
strengths make up for says how to change it (Golub and Pereyra 1973, as simplified by
Kaufman 1975). Steps are those of Levenberg and Marquardt.

Letters: W windows, Y predicted changes, C columns, P parameters of last layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from modmeta import linear_algebra
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data.frames import Frames
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.laws.bounded import least_squares
from modmeta.relational.laws.curves import last_layer
from modmeta.relational.laws.strength_terms import precision_of, terms_of
from modmeta.relational.modules.bank import ModuleParams
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.modules.observations import observe, receiver_slots
from modmeta.search import Structure

# Steps at most, and the gain in nats per observed change below which they end.
_STEPS, _SETTLED = 20, 1e-4
# Of curvatures, what is added in the first step, and what it is multiplied by.
_FIRST_DAMPING, _LESS, _MORE = 1e-3, 0.1, 10.0
# Windows of a recording that laws are fitted to, and batches of systems.
_MAX_WINDOWS, _MAX_BATCHES = 200, 10


class _Sums(NamedTuple):
    """What one batch says, in nats.

    Attributes:
      cost: `()`.
      slope: `[P]`.
      curvature: `[P, P]`.
      count: `()` changes that were observed.
    """

    cost: Any
    slope: Any
    curvature: Any
    count: Any


Given = tuple[Frames, SuperGraph, Structure]


def refine(
    model: RelationalModel, params: ModelParams, given: Sequence[Given]
) -> ModelParams:
    """Arrays of the model with last layers that fit if every edge has a strength.

    Args:
      model: The model, with laws.
      params: Its arrays.
      given: Batches of systems, whose edges have the relation whose law is multiplied.
        Systems that only fill up a batch have no real nodes.
    """
    given = given[:_MAX_BATCHES]
    used = sorted({int(k) for _, graph, s in given for k in _chosen(graph, s)})
    flat, restore = _last_layers(params.modules, tuple(used))
    start = np.asarray(flat, np.float64)

    def sums(flat: np.ndarray) -> _Sums:
        flat = jnp.asarray(flat, jnp.float32)
        parts = [
            jax.device_get(_sums(model, tuple(used), params, flat, *batch))
            for batch in given
        ]
        total = jax.tree.map(
            lambda *leaves: np.sum(np.asarray(leaves, np.float64), axis=0), *parts
        )
        # What the data leave open stays as it was trained.
        away = flat - start
        return total._replace(
            cost=total.cost + 0.5 * float(away @ away),
            slope=total.slope + away,
            curvature=total.curvature + np.eye(len(start)),
        )

    best, at, damping = sums(start), start, _FIRST_DAMPING
    for _ in range(_STEPS):
        damped = best.curvature + damping * np.diag(np.diag(best.curvature))
        tried_at = at - np.linalg.solve(damped, best.slope)
        tried = sums(tried_at)
        gain = best.cost - tried.cost
        if not gain > 0.0:
            damping *= _MORE
            continue
        best, at, damping = tried, tried_at, damping * _LESS
        if gain < _SETTLED * best.count:
            break
    return params._replace(modules=restore(jnp.asarray(at, jnp.float32)))


def _chosen(graph: SuperGraph, structure: Structure) -> np.ndarray:
    return np.unique(np.asarray(structure.edge_modules)[np.asarray(graph.slot_mask)])


def _last_layers(
    modules: ModuleParams, used: tuple[int, ...]
) -> tuple[jax.Array, Callable[[jax.Array], ModuleParams]]:
    """Last layers of the rates of some edge modules and of all node modules, flat."""
    index = np.array(used)
    edge, put_edge = last_layer(modules.edge)
    node, put_node = last_layer(modules.node)
    linear = modules.node["linear"]
    flat, unravel = ravel_pytree(
        (jax.tree.map(lambda leaf: leaf[index], edge), node, linear)
    )

    def restore(flat: jax.Array) -> ModuleParams:
        some, node, linear = unravel(flat)
        changed = jax.tree.map(lambda a, b: a.at[index].set(b), edge, some)
        return modules._replace(
            edge=put_edge(changed), node={**put_node(node), "linear": linear}
        )

    return flat, restore


@functools.partial(jax.jit, static_argnames=("model", "used"))
def _sums(
    model: RelationalModel,
    used: tuple[int, ...],
    params: ModelParams,
    flat: jax.Array,
    frames: Frames,
    graph: SuperGraph,
    structure: Structure,
) -> _Sums:
    """Sums over the receivers of one batch."""
    trained = model.network.modules(params)
    num_windows = frames.states.shape[1] - model.bank.config.span
    starts = np.unique(
        np.linspace(0, num_windows - 1, min(num_windows, _MAX_WINDOWS)).astype(int)
    )
    observed = observe(trained, graph, frames, jnp.asarray(starts))
    slots = receiver_slots(graph)
    _, restore = _last_layers(params.modules, used)

    def of_receiver(total, receiver):
        own = jax.tree.map(lambda leaf: leaf[receiver], slots)
        chosen = jax.tree.map(lambda leaf: leaf[receiver], structure)

        def terms(flat):
            modules = BoundBank(model.bank, restore(flat), params.preprocessing)
            return terms_of(modules, observed, own, chosen)

        found = terms(flat)
        precision = precision_of(trained, observed, own, found)
        precision = jnp.where(own.node_mask, precision, 0.0)
        goal = observed.targets[own.nodes] - found.alone
        values, _, trust = least_squares(
            found.columns,
            goal,
            precision,
            found.prior,
            len(chosen.edge_modules),
            trained.freedom,
        )

        def explained(flat):
            terms_there = terms(flat)
            of_edges = jnp.einsum("c,cwy->wy", values, terms_there.columns)
            return terms_there.alone + of_edges

        slopes = jax.jacfwd(explained)(flat)  # [W, Y, P]
        left = goal - jnp.einsum("c,cwy->wy", values, found.columns)
        added = _beyond(found, values, precision * trust, slopes, left)
        if trained.freedom is None:
            cost = 0.5 * jnp.square(left) * precision
        else:
            # Precisions are of windows that overlap: each counts by its share.
            share = 1.0 / model.bank.config.span
            cost = (
                0.5
                * share
                * (trained.freedom + 1.0)
                * jnp.log1p(jnp.square(left) * precision / share / trained.freedom)
            )
        cost = jnp.sum(cost) + 0.5 * jnp.sum(found.prior * jnp.square(values))
        more = _Sums(cost, *added, jnp.sum(precision > 0.0))
        return jax.tree.map(jnp.add, total, more), None

    size = len(flat)
    zero = _Sums(0.0, jnp.zeros(size), jnp.zeros((size, size)), 0)
    total, _ = jax.lax.scan(of_receiver, zero, jnp.arange(len(slots.nodes)))
    return total


def _beyond(terms, values, precision, slopes, left) -> tuple[jax.Array, jax.Array]:
    """Slope `[P]` and curvature `[P, P]` of the cost where strengths make up for it."""
    root = jnp.sqrt(precision)
    count, size = len(values), slopes.shape[-1]
    is_held = (jnp.arange(count) < len(terms.changes)) & (values <= 0.0)
    prior = jnp.sqrt(terms.prior)
    # Columns that are held at 0 make up for nothing.
    columns = jnp.where(is_held[:, None, None], 0.0, terms.columns) * root[None]
    rows = jnp.concatenate([columns.reshape(count, -1).T, jnp.diag(prior)])
    lengths = jnp.sqrt(jnp.sum(jnp.square(rows), axis=0))
    rows = rows / jnp.where(lengths > 0.0, lengths, 1.0)[None]
    slopes = (slopes * root[..., None]).reshape(-1, size)
    slopes = jnp.concatenate([slopes, jnp.zeros((count, size))])
    left = jnp.concatenate([(left * root).reshape(-1), -prior * values])
    triangle, _ = linear_algebra.triangular_system(
        jnp.concatenate([rows, jnp.diag(jnp.where(lengths > 0.0, 1e-4, 1.0))]),
        jnp.zeros(len(rows) + count),
    )
    across = jax.scipy.linalg.solve_triangular(triangle.T, rows.T, lower=True)
    slopes = slopes - across.T @ (across @ slopes)
    return -slopes.T @ left, slopes.T @ slopes
