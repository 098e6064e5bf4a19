"""Hidden entities one after the other: the next one beside those that were found.

Every number of them is fitted from the best few fits with one less, joined by what
receivers show of a further one, and then all of them together.

Letters: S systems, V visible entities, H hidden ones, M fits, T frames, F features.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.data.frames import Frames
from modmeta.relational.hidden import assessment, fitting, rounds, scenes, starts
from modmeta.relational.hidden.assessment import Assessment
from modmeta.relational.hidden.config import HiddenConfig
from modmeta.relational.hidden.fitting import Fit
from modmeta.relational.hidden.scenes import Guess, Scene
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.motion import interpolate_at
from modmeta.search import all_assignments

# Fits whose paths are nearer than this, in normalised units, are one.
_SAME_PATH = 0.05


class Level(NamedTuple):
    """All fits with one number of hidden entities.

    Attributes:
      fits: Leaves `[S, M, ...]`, lowest energy first.
      frames: `[S, M, H, T, F]` normalised states of the hidden entities.
      assessments: What the fits are worth, leaves `[S, M, ...]`.
    """

    fits: Fit
    frames: Any
    assessments: Assessment


@functools.partial(jax.jit, static_argnames="num_substeps")
def scenes_of(modules: BoundBank, frames: Frames, num_substeps: int) -> Scene:
    """Scenes of systems of one size, leaves `[S, ...]`, from frames `[S, V, ...]`."""
    return jax.lax.map(
        lambda one: scenes.build_scene(modules, one, num_substeps), frames
    )


def all_levels(
    modules: BoundBank, systems: Scene, most: int, config: HiddenConfig
) -> list[Level]:
    """Fits with 0, 1, ... hidden entities, up to the most, on the host."""
    span, num_frames = modules.bank.config.span, systems.times.shape[1]
    count = scenes.num_pieces(num_frames, span, config.piece_length)
    levels = [without_hidden(modules, systems, count)]
    for _ in range(most):
        known = distinct(levels[-1], config.num_kept)
        levels.append(next_level(modules, systems, known, config))
    return jax.device_get(levels)


@functools.partial(jax.jit, static_argnames="config")
def next_level(
    modules: BoundBank,
    systems: Scene,
    known: Guess,
    config: HiddenConfig,
) -> Level:
    """Fits with one hidden entity more than is known.

    Args:
      modules: The bank with its arrays.
      systems: Leaves `[S, ...]`.
      known: Fits with fewer hidden entities, leaves `[S, kept, ...]`.
      config: How thoroughly; whether both edges of a pair agree is said.
    """
    num_relations = modules.bank.config.num_relations
    num_known = known.start.shape[3]
    num_visible = systems.drive.shape[3]
    rows = [
        jnp.asarray(all_assignments(num_visible + extra, num_relations))
        for extra in (num_known - 1, num_known)
    ]
    incoming = jnp.asarray(all_assignments(num_visible + num_known, num_relations))

    def one(given):
        scene, known = given

        def beside(guess):
            return _started(modules, scene, guess, rows[0], incoming, config)

        guesses, agreed, misfit = jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.lax.map(beside, known)
        )
        # Half of the fits begin where all receivers agree.
        shared = min(config.num_fits // 2, len(misfit))
        _, best = jax.lax.top_k(-misfit, shared)
        agreed = jax.tree.map(lambda leaf: leaf[best], agreed)

        def screened(guess):
            found = fitting.energies_of(modules, scene, guess, rows[1], config.domain)
            energy = jnp.sum(jnp.min(found, axis=1))
            return jnp.where(jnp.isfinite(energy), energy, jnp.inf)

        energies = jax.lax.map(screened, guesses, batch_size=num_visible)
        count = min(config.num_fits - shared, len(energies))
        _, best = jax.lax.top_k(-energies, count)
        chosen = jax.tree.map(
            lambda some, leaf: jnp.concatenate([some, leaf[best]]), agreed, guesses
        )
        if not rounds.is_joint(config, known.start.shape[1]):
            chosen = _with_all_inner(chosen, num_relations, config.symmetric)
        fits = jax.vmap(lambda g: rounds.refine(modules, scene, g, rows[1], config))(
            chosen
        )
        order = jnp.argsort(fits.energy)
        fits = jax.tree.map(lambda leaf: leaf[order], fits)
        frames, found = jax.lax.map(
            lambda fit: assessment.assess(modules, scene, fit, rows[1], config.domain),
            fits,
        )
        return Level(fits, frames, found)

    return jax.lax.map(one, (systems, known))


def _with_all_inner(guesses: Guess, num_relations: int, symmetric: bool) -> Guess:
    """Guesses `[M, ...]` with all relations between the last hidden one and the others.

    These show in the motion of the hidden ones alone, so that no later round would
    choose them anew.
    """
    num_known = guesses.start.shape[2] - 1
    if not num_known:
        return guesses
    first = guesses.incoming.shape[2] - num_known  # the visible ones come before
    ends = num_known if symmetric else 2 * num_known
    rows = jnp.asarray(all_assignments(ends, num_relations))

    def with_row(row):
        # Whom the last one hears, and what of it the others hear, who list it last.
        heard = guesses.incoming.at[:, -1, first:].set(row[None, :num_known])
        heard = heard.at[:, :-1, -1].set(row[None, ends - num_known :])
        return guesses._replace(incoming=heard)

    found = jax.vmap(with_row)(rows)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)


def _started(
    modules, scene, guess, rows, incoming, config
) -> tuple[Guess, Guess, jax.Array]:
    """Guesses of one hidden entity more, beside one `[G, H, P]` of those before it.

    Returns:
      `[V * candidates, ...]` by one receiver each, `[M, ...]` by all of them together,
      and `[M]` what the latter leave unexplained.
    """
    count, num_known = guess.start.shape[:2]
    num_frames = len(scene.times)
    known, cache = scene.middles, scene.cache
    if num_known:
        pieces = scenes.hidden_pieces(modules, scene, guess, config.domain)
        messages = scenes.hidden_messages(modules, scene, pieces)
        cache = scenes.heard_with(scene, messages)
        frames = scenes.frames_of(pieces, num_frames)
        known = jnp.concatenate([known, _middles(modules, scene, frames)], axis=1)
    found = starts.candidates(
        modules,
        scene,
        cache,
        known,
        rows,
        incoming,
        config.num_candidates,
        config.symmetric,
    )
    found = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)
    heads = np.arange(count) * scenes.piece_length(num_frames - 1, count)
    own = ((0, 0), (0, scenes.num_effects(modules)))
    num_visible = scene.drive.shape[2]

    def joined(states, heard):
        """With one more that is in states `[G, F]` where pieces begin."""
        # What hears the new one is related to it as it is to them.
        last = heard[num_visible:, None]
        others = jnp.concatenate([guess.incoming, last], axis=1)
        start = jnp.pad(states, own)[:, None]
        return Guess(
            jnp.concatenate([guess.start, start], axis=1),
            jnp.concatenate([others, heard[None]]),
        )

    def alone(start, heard):
        whole = joined(jnp.broadcast_to(start[None], (count, len(start))), heard)
        whole = whole._replace(start=whole.start[:1])
        frames = scenes.hidden_frames(modules, scene, whole, config.domain)
        return joined(frames[-1, heads], heard)

    agreed = starts.agreed(
        modules, scene, cache, known, rows, incoming, heads, config.symmetric
    )
    return (
        jax.vmap(alone)(found.start, found.incoming),
        jax.vmap(joined)(agreed.start, agreed.incoming),
        agreed.misfit,
    )


def _middles(modules: BoundBank, scene: Scene, frames: jax.Array) -> jax.Array:
    """States `[W, H, F]` of hidden entities at the middles of the windows."""
    span = modules.bank.config.span
    first = jnp.arange(frames.shape[1] - span) + span // 2
    if not span % 2:
        return jnp.moveaxis(frames[:, first], 0, 1)
    times = jnp.broadcast_to(scene.times[None], frames.shape[:2])
    found = interpolate_at(
        modules.preprocessing,
        modules.bank.layout,
        frames,
        times,
        first,
        np.array([0.5], np.float32),
    )
    return jnp.moveaxis(found.points[:, :, 0], 0, 1)


def nobody(num_systems: int, num_visible: int, count: int, size: int) -> Guess:
    """No hidden entity, in so many pieces, leaves `[S, 1, ...]`."""
    return Guess(
        jnp.zeros((num_systems, 1, count, 0, size)),
        jnp.zeros((num_systems, 1, 0, num_visible - 1), jnp.int32),
    )


@functools.partial(jax.jit, static_argnames="count")
def without_hidden(modules: BoundBank, systems: Scene, count: int = 1) -> Level:
    """The one fit without any hidden entity, leaves `[S, 1, ...]`."""
    num_visible = systems.drive.shape[3]
    rows = all_assignments(num_visible - 1, modules.bank.config.num_relations)
    size = modules.bank.layout.num_features + scenes.num_effects(modules)
    num_systems, num_frames = systems.times.shape

    def one(scene):
        return assessment.assess_alone(modules, scene, jnp.asarray(rows))

    edges, energy, found = jax.lax.map(one, systems)
    guess = nobody(num_systems, num_visible, count, size)
    fits = Fit(guess, edges[:, None], energy[:, None])
    shape = (num_systems, 1, 0, num_frames, modules.bank.layout.num_features)
    found = jax.tree.map(lambda leaf: leaf[:, None], found)
    return Level(fits, jnp.zeros(shape), found)


@functools.partial(jax.jit, static_argnames="num_kept")
def distinct(level: Level, num_kept: int) -> Guess:
    """The best few fits of every system that are not the same, `[S, kept, ...]`."""

    def one(fits, frames):
        energy = jnp.where(repeated(frames), jnp.inf, fits.energy)
        best = jnp.argsort(energy)[:num_kept]
        return jax.tree.map(lambda leaf: leaf[best], fits.guess)

    return jax.vmap(one)(level.fits, level.frames)


def repeated(frames: jax.Array) -> jax.Array:
    """Which fits `[M]` with frames `[M, H, T, F]` are one that comes before."""
    gaps = jnp.square(frames[:, None] - frames[None])
    gaps = jnp.sqrt(jnp.sum(gaps, axis=(2, 3, 4)) / max(frames[0].size, 1))
    earlier = jnp.tril(jnp.ones(gaps.shape, bool), -1)
    return jnp.any((gaps < _SAME_PATH) & earlier, axis=1)
