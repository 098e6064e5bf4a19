"""Where one hidden entity may have been in every frame, by all visible ones together.

The force that a receiver feels beyond the visible ones is a place, see `starts`. Every
receiver proposes one in every window, and all of them judge it: two numbers explain
the forces on all receivers, so that wrong relations show. Given the places, receivers
choose their relations anew, and so on.

Letters: V visible entities, W windows, C axes of space, K relations, A assignments of
the slots of a receiver, M sets of places.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.hidden.forces import distance_of
from modmeta.search import all_assignments

# Laws are wrong by a share of the largest force, and of the typical one left.
_SHARE, _FLOOR = 0.03, 0.02
# Relations that are started from at most, and times that they are chosen anew.
_MOST_STARTS, _NUM_ROUNDS = 64, 6
# Windows over which a path is smoothed.
_WIDTH = 1.5
_TINY = 1e-12


class Places(NamedTuple):
    """Sets of places, best first.

    Attributes:
      path: `[M, W, C]` places, in spreads of the positions.
      weight: `[M, W]` 0 to 1: how well all receivers agree on them.
      heard: `[M, V]` relation of the hidden entity to every receiver.
      misfit: `[M]` what is left unexplained; infinite where a set is one before it.
    """

    path: jax.Array
    weight: jax.Array
    heard: jax.Array
    misfit: jax.Array


def places_of(
    left: jax.Array,
    where: jax.Array,
    distance: jax.Array,
    pulls: jax.Array,
    first: jax.Array,
) -> Places:
    """Places that explain what is left of the forces on all receivers.

    Args:
      left: `[V, A, W, C]` accelerations that assignments leave unexplained.
      where: `[W, V, C]` the receivers, in spreads.
      distance: `[G]` at which laws are known.
      pulls: `[K, G]` of every law there; negative ones push.
      first: `[V]` assignments to begin with.
    """
    num_visible, num_relations = len(left), len(pulls)
    size = jnp.sqrt(jnp.sum(jnp.square(left), axis=-1) + _TINY)
    typical = jnp.median(jnp.min(size, axis=1), axis=1, keepdims=True)
    noise = _SHARE * jnp.max(size, axis=1) + _FLOOR * typical
    logs = jnp.log(distance)
    visible = jnp.arange(num_visible)

    def forces(places):
        """Of all laws `[K, V, W, C]`, of one at places `[W, C]`."""
        gap = jnp.moveaxis(places[:, None] - where, 1, 0)
        far = jnp.sqrt(jnp.sum(jnp.square(gap), axis=-1) + _TINY)
        found = jax.vmap(lambda law: jnp.interp(jnp.log(far), logs, law))(pulls)
        return (found / far[None])[..., None] * gap[None]

    def doubts(errors):
        return jnp.log1p(jnp.sum(jnp.square(errors), -1) / jnp.square(noise))

    def proposed(rows, heard):
        """Places `[2 V, W, C]` of receivers under assignments and relations `[V]`."""

        def of_receiver(receiver):
            force = left[receiver, rows[receiver]]
            strength = size[receiver, rows[receiver]]
            law = pulls[heard[receiver]]
            towards = force / strength[:, None]

            def of_sign(sign):
                far = distance_of(distance, law, sign * strength)
                return where[:, receiver] + sign * far[:, None] * towards

            return jax.vmap(of_sign)(jnp.array([1.0, -1.0]))

        found = jax.vmap(of_receiver)(visible)
        return found.reshape(-1, *found.shape[2:])

    def agreed(rows, heard, counts):
        """The place of least doubt `[W, C]`, and the doubt of every window `[W]`."""
        places = proposed(rows, heard)
        remains = left[visible, rows]

        def doubt(places):
            return counts @ doubts(remains - forces(places)[heard, visible])

        each = jax.vmap(doubt)(places)
        best = jnp.argmin(each, axis=0)
        windows = jnp.arange(len(best))
        return places[best, windows], each[best, windows]

    def chosen(places):
        """Assignments and relations `[V]` of least doubt at places."""

        def of_law(law):
            return jax.vmap(doubts, 1, 1)(left - law[:, None]).sum(axis=-1)

        each = jnp.moveaxis(jax.lax.map(of_law, forces(places)), 0, 2)
        best = jnp.argmin(each.reshape(num_visible, -1), axis=1)
        return best // num_relations, best % num_relations

    # Those who feel most speak first.
    unrest = jnp.sum(doubts(left[visible, first]), axis=-1)
    most = int(np.log(_MOST_STARTS) / np.log(num_relations) + 1e-9)
    speakers = jnp.argsort(-unrest)[:most]
    starts = jnp.asarray(all_assignments(min(most, num_visible), num_relations))

    def settled(start):
        heard = jnp.zeros(num_visible, start.dtype).at[speakers].set(start)
        counts = jnp.zeros(num_visible).at[speakers].set(1.0)
        places, _ = agreed(first, heard, counts)

        def body(places, _):
            rows, heard = chosen(places)
            places, doubt = agreed(rows, heard, jnp.ones(num_visible))
            return places, (places, doubt, rows, heard)

        _, found = jax.lax.scan(body, places, None, length=_NUM_ROUNDS)
        return jax.tree.map(lambda leaf: leaf[-1], found)

    places, doubt, rows, heard = jax.lax.map(settled, starts)
    misfit = jnp.sum(doubt, axis=1)
    misfit = jnp.where(jnp.isfinite(misfit), misfit, jnp.inf)
    order = jnp.argsort(misfit)
    places, doubt, rows, heard, misfit = (
        leaf[order] for leaf in (places, doubt, rows, heard, misfit)
    )
    names = jnp.concatenate([rows, heard], axis=1)
    is_same = jnp.all(names[:, None] == names[None], axis=-1)
    is_again = jnp.any(jnp.tril(is_same, -1), axis=1)
    misfit = jnp.where(is_again, jnp.inf, misfit)
    order = jnp.argsort(misfit)
    return Places(
        places[order], jnp.exp(-0.5 * doubt)[order], heard[order], misfit[order]
    )


def smoothed(
    path: jax.Array, weight: jax.Array, times: jax.Array, at: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Positions and velocities `[..., C]` at times `at` `[...]`.

    By straight lines through the places `[W, C]` nearby, those that receivers agree on.
    """
    since = times[None] - at.reshape(-1, 1)
    nearness = jnp.square(1.0 + jnp.square(since / _WIDTH)) ** -1.0
    weights = nearness * (weight + 1e-6)[None]
    total = jnp.sum(weights, axis=1, keepdims=True)
    middle = jnp.sum(weights * since, axis=1, keepdims=True) / total
    mean = (weights @ path) / total
    away = weights * (since - middle)
    spread = jnp.sum(away * (since - middle), axis=1, keepdims=True)
    slope = (away @ path) / jnp.maximum(spread, _TINY)
    shape = (*at.shape, path.shape[1])
    return (mean - middle * slope).reshape(shape), slope.reshape(shape)
