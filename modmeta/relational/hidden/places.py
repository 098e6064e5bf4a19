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
    judges = _Judges(left, size, noise, where, distance, jnp.log(distance), pulls)
    # Those who feel most speak first.
    unrest = jnp.sum(judges.doubts(left[judges.visible, first]), axis=-1)
    most = int(np.log(_MOST_STARTS) / np.log(num_relations) + 1e-9)
    speakers = jnp.argsort(-unrest)[:most]
    starts = jnp.asarray(all_assignments(min(most, num_visible), num_relations))

    def settled(start):
        heard = jnp.zeros(num_visible, start.dtype).at[speakers].set(start)
        counts = jnp.zeros(num_visible).at[speakers].set(1.0)
        places, _ = judges.agreed(first, heard, counts)

        def body(places, _):
            rows, heard = judges.chosen(places)
            places, doubt = judges.agreed(rows, heard, jnp.ones(num_visible))
            return places, (places, doubt, rows, heard)

        _, found = jax.lax.scan(body, places, None, length=_NUM_ROUNDS)
        return jax.tree.map(lambda leaf: leaf[-1], found)

    return _ranked(*jax.lax.map(settled, starts))


class _Judges(NamedTuple):
    """Visible entities, each of which judges where a hidden one may be.

    Attributes:
      left: `[V, A, W, C]` accelerations that assignments leave unexplained.
      size: `[V, A, W]` of these.
      noise: `[V, W]` by which laws may be wrong.
      where: `[W, V, C]` the entities.
      distance: `[G]` at which laws are known, and
      logarithm: `[G]` of these.
      pulls: `[K, G]` of every law there.
    """

    left: jax.Array
    size: jax.Array
    noise: jax.Array
    where: jax.Array
    distance: jax.Array
    logarithm: jax.Array
    pulls: jax.Array

    @property
    def visible(self) -> jax.Array:
        """`[V]` their numbers."""
        return jnp.arange(len(self.left))

    def forces(self, places: jax.Array) -> jax.Array:
        """Of all laws `[K, V, W, C]`, of one at places `[W, C]`."""
        gap = jnp.moveaxis(places[:, None] - self.where, 1, 0)
        far = jnp.sqrt(jnp.sum(jnp.square(gap), axis=-1) + _TINY)
        found = jax.vmap(lambda law: jnp.interp(jnp.log(far), self.logarithm, law))(
            self.pulls
        )
        return (found / far[None])[..., None] * gap[None]

    def doubts(self, errors: jax.Array) -> jax.Array:
        """Of errors `[V, W, C]` of the forces, `[V, W]`."""
        squares = jnp.sum(jnp.square(errors), -1)
        return jnp.log1p(squares / jnp.square(self.noise))

    def proposed(self, rows: jax.Array, heard: jax.Array) -> jax.Array:
        """Places `[2 V, W, C]` of receivers under assignments and relations `[V]`."""

        def of_receiver(receiver):
            force = self.left[receiver, rows[receiver]]
            strength = self.size[receiver, rows[receiver]]
            law = self.pulls[heard[receiver]]
            towards = force / strength[:, None]

            def of_sign(sign):
                far = distance_of(self.distance, law, sign * strength)
                return self.where[:, receiver] + sign * far[:, None] * towards

            return jax.vmap(of_sign)(jnp.array([1.0, -1.0]))

        found = jax.vmap(of_receiver)(self.visible)
        return found.reshape(-1, *found.shape[2:])

    def agreed(
        self, rows: jax.Array, heard: jax.Array, counts: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The place of least doubt `[W, C]`, and the doubt of every window `[W]`."""
        places = self.proposed(rows, heard)
        remains = self.left[self.visible, rows]

        def doubt(places):
            return counts @ self.doubts(
                remains - self.forces(places)[heard, self.visible]
            )

        each = jax.vmap(doubt)(places)
        best = jnp.argmin(each, axis=0)
        windows = jnp.arange(len(best))
        return places[best, windows], each[best, windows]

    def chosen(self, places: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Assignments and relations `[V]` of least doubt at places."""

        def of_law(law):
            return jax.vmap(self.doubts, 1, 1)(self.left - law[:, None]).sum(axis=-1)

        each = jnp.moveaxis(jax.lax.map(of_law, self.forces(places)), 0, 2)
        best = jnp.argmin(each.reshape(len(self.left), -1), axis=1)
        return best // len(self.pulls), best % len(self.pulls)


def _ranked(
    places: jax.Array, doubt: jax.Array, rows: jax.Array, heard: jax.Array
) -> Places:
    """Sets of places `[M, W, C]`, best first; what comes again goes last."""
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
