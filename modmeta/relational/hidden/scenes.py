"""One system as its visible entities show it, and what hidden ones do in it.

A hidden entity moves under the laws, driven by the visible ones, whose paths are known:
its own motion is an initial value problem without feedback, which is not chaotic. What
it does to the visible ones are messages like any other.

A path is laid in pieces, each with a start of its own, that are joined where they meet:
what happens late depends on how a single one begins in ways that least squares cannot
follow, through close encounters above all.

Letters: V visible entities, H hidden ones, D = V - 1 slots, K relations, T frames, I
intervals, G pieces of L intervals, W windows, S substeps, F features, E effects of an
entity, P = F + E, Y targets.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.graphs import supergraphs
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data.domains import Domain
from modmeta.relational.data.frames import Frames
from modmeta.relational.energies.cached import MessageCache, build_cache
from modmeta.relational.modules import entities
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.entities import Effects
from modmeta.relational.modules.integration import Integrator
from modmeta.relational.modules.motion import (
    Motion,
    Windows,
    interpolate,
    interpolate_at,
)
from modmeta.relational.modules.observations import observe
from modmeta.search import Structure

# No entity turns an attraction into a repulsion.
_MIN_FACTOR = 0.02
# Pieces of a path at most: their starts are fitted together.
_MOST_PIECES = 64


class Scene(NamedTuple):
    """What is known of one system.

    Attributes:
      motion: Paths of the visible entities, leaves `[V, I, ...]`.
      windows: Which intervals are in which window; None where every one is one.
      cache: Messages among the visible, leaves `[V, ...]`, slots in the order of
        senders.
      middles: `[W, V, F]` visible states at the middles of the windows.
      middle_times: `[W]` since the first frame, in frame intervals.
      drive: `[I, 2 S + 1, V, F]` visible states on the way through every interval.
      times: `[T]` in frame intervals.
    """

    motion: Motion
    windows: Windows | None
    cache: MessageCache
    middles: jax.Array
    middle_times: jax.Array
    drive: jax.Array
    times: jax.Array


class Guess(NamedTuple):
    """Hidden entities as far as they are guessed.

    Attributes:
      start: `[G, H, P]` states in the first frames of all pieces, normalised, and what
        entities have of their own, in units of the spreads of its priors.
      incoming: `[H, V + H - 1]` relation of every edge that ends at a hidden entity,
        from the visible ones first.
    """

    start: jax.Array
    incoming: jax.Array


def lone_graph(num_visible: int) -> SuperGraph:
    """Connectivity of one system in which everyone may hear everyone."""
    budget = supergraphs.padding_budget([num_visible], 1)
    graph = supergraphs.build_supergraph([num_visible], budget)
    names = ("node_mask", "slot_senders", "slot_mask")
    return graph._replace(**{name: getattr(graph, name)[:-1] for name in names})


def build_scene(modules: BoundBank, frames: Frames, num_substeps: int) -> Scene:
    """Lays paths through the frames of one system and keeps its messages.

    Args:
      modules: The bank with its arrays.
      frames: Leaves `[V, T, ...]`, normalised.
      num_substeps: Steps S per frame in which hidden entities will be integrated.
    """
    num_visible, num_frames = frames.states.shape[:2]
    graph = lone_graph(num_visible)
    observed = observe(modules, graph, frames)
    times = frames.times
    if times is None:
        times = jnp.broadcast_to(
            jnp.arange(num_frames, dtype=jnp.float32)[None], (num_visible, num_frames)
        )
    steps = np.linspace(0.0, 1.0, 2 * num_substeps + 1, dtype=np.float32)
    intervals = jnp.arange(num_frames - 1)
    constants, layout = modules.preprocessing, modules.bank.layout
    along = interpolate_at(constants, layout, frames, times, intervals, steps)
    drive = jnp.moveaxis(along.points, 0, 2)
    span = modules.bank.config.span
    first = np.arange(num_frames - span) + span // 2
    odd = span % 2
    middles = drive[first, num_substeps] if odd else frames.states[:, first]
    after = times[0, first + odd]
    return Scene(
        motion=observed.motion,
        windows=observed.windows,
        cache=build_cache(modules, graph, observed),
        middles=middles if odd else jnp.moveaxis(middles, 0, 1),
        middle_times=0.5 * (times[0, first] + after) - times[0, 0],
        drive=drive,
        times=times[0],
    )


def num_effects(modules: BoundBank) -> int:
    """Numbers E that an entity has of its own: a factor and offsets, or none."""
    return 1 + modules.bank.laws.num_rates if modules.bank.has_effects else 0


def effects_of(modules: BoundBank, own: jax.Array) -> Effects | None:
    """What entities have of their own, from numbers `[H, E]` of unit spread."""
    if not modules.bank.has_effects:
        return None
    spreads = entities.spreads_of(jnp.asarray(modules.params.spreads))
    scaled = own * spreads[None]
    return Effects(jnp.maximum(1.0 + scaled[:, 0], _MIN_FACTOR), scaled[:, 1:])


def hidden_slots(num_hidden: int, num_visible: int) -> np.ndarray:
    """`[H, V + H - 1]` whom a hidden entity hears: hidden ones count from 0."""
    visible = num_hidden + np.arange(num_visible)
    rows = [
        [*visible, *(other for other in range(num_hidden) if other != one)]
        for one in range(num_hidden)
    ]
    return np.array(rows, np.int32)


def num_pieces(num_frames: int, span: int, length: int) -> int:
    """Pieces G of a path: one where messages cover several frames.

    Args:
      num_frames: Frames T.
      span: Frame intervals that a message covers.
      length: Intervals of a piece, more in long recordings; 0 for one piece.
    """
    if span > 1 or not length:
        return 1
    length = max(length, -(-(num_frames - 1) // _MOST_PIECES))
    return -(-(num_frames - 1) // length)


def piece_length(num_intervals: int, count: int) -> int:
    """Intervals L of each of `count` pieces; the last may pass the last frame.

    Args:
      num_intervals: Of the recording.
      count: Pieces G.
    """
    return -(-num_intervals // count)


def piece_of_frames(num_frames: int, count: int) -> np.ndarray:
    """The piece `[T]` that every frame is in, of a number of pieces."""
    frames = np.arange(num_frames)
    return np.minimum(frames // piece_length(num_frames - 1, count), count - 1)


def _steps_of_pieces(scene: Scene, count: int) -> jax.Array:
    """Lengths `[G, L]` of the intervals of all pieces."""
    steps = jnp.diff(scene.times)
    rest = count * piece_length(len(steps), count) - len(steps)
    return jnp.pad(steps, (0, rest), mode="edge").reshape(count, -1)


def hidden_pieces(
    modules: BoundBank, scene: Scene, guess: Guess, domain: Domain
) -> jax.Array:
    """States of hidden entities along all pieces, `[G, L + 1, H, F]`, normalised.

    The last piece goes on beyond the last frame where they are not all of one length.
    """
    count = len(guess.start)
    steps = _steps_of_pieces(scene, count)
    rest = steps.size - len(scene.drive)
    drive = jnp.pad(scene.drive, ((0, rest), *[(0, 0)] * 3), mode="edge")
    num_hidden, num_visible = guess.start.shape[1], scene.drive.shape[2]
    slots = hidden_slots(num_hidden, num_visible)

    def along(start, drive, steps):
        states, own = jnp.split(start, [modules.bank.layout.num_features], axis=-1)
        integrator = Integrator(
            modules,
            Structure(guess.incoming, jnp.zeros(num_hidden, jnp.int32)),
            jnp.asarray(slots),
            jnp.ones(slots.shape, bool),
            scene.drive.shape[1] // 2,
            domain,
            effects_of(modules, own),
        )

        def body(states, step):
            following = integrator.advance_among(states, *step)
            return following, following

        _, later = jax.lax.scan(body, states, (drive, steps))
        return jnp.concatenate([states[None], later])

    return jax.vmap(along)(
        guess.start,
        drive.reshape(*steps.shape, *drive.shape[1:]),
        steps,
    )


def frames_of(pieces: jax.Array, num_frames: int) -> jax.Array:
    """States `[H, T, ...]` in all frames, from pieces `[G, L + 1, H, ...]`."""
    piece = piece_of_frames(num_frames, len(pieces))
    since = np.arange(num_frames) - piece * (pieces.shape[1] - 1)
    return jnp.moveaxis(pieces[piece, since], 1, 0)


def hidden_frames(
    modules: BoundBank, scene: Scene, guess: Guess, domain: Domain
) -> jax.Array:
    """States of hidden entities in all frames, `[H, T, F]`, normalised."""
    pieces = hidden_pieces(modules, scene, guess, domain)
    return frames_of(pieces, len(scene.times))


def hidden_motion(modules: BoundBank, scene: Scene, pieces: jax.Array) -> Motion:
    """Paths along pieces `[G, L + 1, H, F]`, leaves `[H, I, ...]`."""
    steps = _steps_of_pieces(scene, len(pieces))

    def along(piece, steps):
        states = jnp.moveaxis(piece, 1, 0)
        times = jnp.pad(jnp.cumsum(steps), (1, 0))
        return interpolate(
            modules.preprocessing,
            modules.bank.layout,
            states,
            jnp.broadcast_to(times[None], states.shape[:2]),
            jnp.arange(len(steps)),
            modules.bank.config.num_points,
        )

    motion = jax.vmap(along, out_axes=1)(pieces, steps)
    num_intervals = len(scene.drive)
    return jax.tree.map(
        lambda leaf: leaf.reshape(len(leaf), -1, *leaf.shape[3:])[:, :num_intervals],
        motion,
    )


def hidden_messages(modules: BoundBank, scene: Scene, pieces: jax.Array) -> jax.Array:
    """What hidden entities say to visible ones, `[V, H, K, 1, W, size]`."""
    senders = jax.tree.map(
        lambda leaf: leaf[None], hidden_motion(modules, scene, pieces)
    )
    receivers = jax.tree.map(
        lambda leaf: leaf[:, None], scene.motion._replace(is_present=None)
    )
    messages = modules.projected_messages(senders, receivers)
    return modules.collect(messages, scene.windows)


def heard_with(scene: Scene, messages: jax.Array) -> MessageCache:
    """The cache of the visible with further slots, `hidden_messages`."""
    joined = jnp.concatenate([scene.cache.messages, messages], axis=1)
    return scene.cache._replace(messages=joined)


def until(scene: Scene, share: jax.Array) -> Scene:
    """The scene in which the first windows count alone, a share of all of them."""
    num_windows = len(scene.middle_times)
    counts = jnp.arange(num_windows) < jnp.ceil(share * num_windows)
    weights = jnp.broadcast_to(counts[None], scene.cache.targets.shape[:2])
    if scene.cache.weights is not None:
        weights = weights * scene.cache.weights
    cache = scene.cache._replace(weights=weights.astype(jnp.float32))
    return scene._replace(cache=cache)
