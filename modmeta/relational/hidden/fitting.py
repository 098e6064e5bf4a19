"""Where hidden entities were under given relations, by damped least squares.

Letters: V visible entities, H hidden ones, D = V - 1 slots, K relations, A assignments
of the slots of a receiver, G pieces, T frames, F features, P parameters of a start.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.data.domains import Domain
from modmeta.relational.energies.cached import CachedEnergies, MessageCache
from modmeta.relational.hidden.scenes import (
    Guess,
    Scene,
    frames_of,
    heard_with,
    hidden_messages,
    hidden_pieces,
    piece_length,
)
from modmeta.relational.modules.bound_bank import BoundBank

# Spread of the prior of a hidden state, where what was seen lies within -1 and 1.
PRIOR_SPREAD = 2.0
# Damping at the start, and what a step that was taken or refused makes of it.
_FIRST_DAMPING, _EASED, _TIGHTENED = 1e-2, 0.2, 5.0
_TINY = 1e-9
# Gaps between pieces, in spreads: as they may be at first, and at last; degrees of
# freedom of their distribution.
LOOSE, TIGHT, _FREEDOM = 0.1, 3e-4, 4.0


class Fit(NamedTuple):
    """Hidden entities that explain what was seen.

    Attributes:
      guess: Where they begin, and what acts on them.
      edges: `[V, D + H]` relations of the edges that end at visible entities, from
        hidden ones last.
      energy: `()` nats, prior of the start and joints of the pieces included.
    """

    guess: Guess
    edges: jax.Array
    energy: jax.Array


def prior_precision(modules: BoundBank, start: jax.Array) -> jax.Array:
    """Inverse variances `[G, H, P]` of starts: the first piece alone has a prior."""
    is_state = jnp.arange(start.shape[2]) < modules.bank.layout.num_features
    is_first = jnp.arange(start.shape[0]) == 0
    precision = jnp.where(is_state, PRIOR_SPREAD**-2.0, 1.0)
    precision = is_first[:, None, None] * precision[None, None]
    return jnp.broadcast_to(precision, start.shape)


def prior_energy(modules: BoundBank, start: jax.Array) -> jax.Array:
    """Nats of the starts `[G, H, P]`."""
    return 0.5 * jnp.sum(prior_precision(modules, start) * jnp.square(start))


def assignment_energies(
    modules: BoundBank, cache: MessageCache, assignments: jax.Array
) -> jax.Array:
    """Energies `[V, A]` of every receiver under assignments `[A, slots]`."""
    nodes = jnp.zeros(cache.node_mask.shape, jnp.int32)
    return CachedEnergies(modules, cache).of_assignments(assignments, nodes)


def energies_of(
    modules: BoundBank,
    scene: Scene,
    guess: Guess,
    assignments: jax.Array,
    domain: Domain,
) -> jax.Array:
    """Energies `[V, A]` of the visible in the presence of hidden entities."""
    pieces = hidden_pieces(modules, scene, guess, domain)
    cache = heard_with(scene, hidden_messages(modules, scene, pieces))
    return assignment_energies(modules, cache, assignments)


def outputs_of(modules: BoundBank, cache: MessageCache, edges: jax.Array) -> jax.Array:
    """Outputs `[V, W, outputs]` under relations `[V, slots]`."""
    weights = jax.nn.one_hot(edges, cache.messages.shape[2])
    hidden = jnp.einsum("vdk,vdkmwh->vmwh", weights, cache.messages)
    return modules.update(jnp.moveaxis(hidden + cache.embedded, 1, 0))[0]


class Point(NamedTuple):
    """What starts of hidden entities come to, under given relations.

    Attributes:
      energy: `()` nats, priors and joints included.
      residuals: `[V, W, Y]`, see `Likelihood.residuals`.
      slope: `[G, HP]` of the energy.
      curvature: `[G, HP, G, HP]` of Gauss and Newton, those of priors and joints
        included.
      frames: `[H, T, F]` of the hidden entities.
      frame_slopes: `[H, T, F, HP]` by the start of the piece that a frame is in.
      gaps: `[G - 1]` largest gap between a piece and the next one, in spreads.
      cache: Messages of all that are heard.
    """

    energy: jax.Array
    residuals: jax.Array
    slope: jax.Array
    curvature: jax.Array
    frames: jax.Array
    frame_slopes: jax.Array
    gaps: jax.Array
    cache: MessageCache


def evaluate(
    modules: BoundBank,
    scene: Scene,
    start: jax.Array,
    fit: Fit,
    domain: Domain,
    looseness: float | jax.Array,
) -> Point:
    """Evaluates hidden entities that begin at `[G, H, P]`, otherwise those of a fit.

    A piece does not know of the others, so one derivative serves all of them.
    """
    targets, counted = scene.cache.observed()
    count, num_hidden, size = start.shape

    def values(moved):
        guess = fit.guess._replace(start=start + moved[None])
        pieces = hidden_pieces(modules, scene, guess, domain)
        cache = heard_with(scene, hidden_messages(modules, scene, pieces))
        outputs = outputs_of(modules, cache, fit.edges)
        found = modules.residuals(outputs, targets, **counted)
        energy = jnp.sum(modules.frame_energies(outputs, targets, **counted))
        return (found, pieces), (found, pieces, energy, cache)

    slopes, (found, pieces, energy, cache) = jax.jacfwd(values, has_aux=True)(
        jnp.zeros((num_hidden, size))
    )
    of_residuals, of_pieces = (leaf.reshape(*leaf.shape[:-2], -1) for leaf in slopes)
    precision = prior_precision(modules, start)
    slope, curvature = _of_windows(found, of_residuals, count, len(scene.drive))
    slope = slope + (precision * start).reshape(count, -1)
    curvature = curvature + jnp.diag(precision.reshape(-1)).reshape(curvature.shape)
    joints = _joints(modules, start, pieces, of_pieces, looseness)
    num_frames = len(scene.times)
    return Point(
        energy=energy + prior_energy(modules, start) + joints.energy,
        residuals=found,
        slope=slope + joints.slope,
        curvature=curvature + joints.curvature,
        frames=frames_of(pieces, num_frames),
        frame_slopes=frames_of(of_pieces, num_frames),
        gaps=joints.gaps,
        cache=cache,
    )


def _of_windows(residuals, slopes, count, num_intervals) -> tuple[jax.Array, jax.Array]:
    """Slope `[G, HP]` and curvature `[G, HP, G, HP]` of half the squared residuals.

    Args:
      residuals: `[V, W, Y]`.
      slopes: `[V, W, Y, HP]` by the start of the piece that a window is in.
      count: Pieces G.
      num_intervals: Of all pieces together.
    """
    length = piece_length(num_intervals, count)
    piece = np.arange(residuals.shape[1]) // length if count > 1 else 0
    weights = jax.nn.one_hot(np.broadcast_to(piece, residuals.shape[1:2]), count)
    slope = jnp.einsum("wg,vwyp,vwy->gp", weights, slopes, residuals)
    blocks = jnp.einsum("wg,vwyp,vwyq->gpq", weights, slopes, slopes)
    return slope, jnp.einsum("gpq,gh->gphq", blocks, jnp.eye(count))


class _Joints(NamedTuple):
    """What it costs that pieces do not begin where the ones before them end.

    Attributes:
      energy: `()`.
      slope: `[G, HP]`.
      curvature: `[G, HP, G, HP]`.
      gaps: `[G - 1]` largest, in spreads.
    """

    energy: jax.Array
    slope: jax.Array
    curvature: jax.Array
    gaps: jax.Array


def joint_precision(modules: BoundBank, size: int, looseness) -> jax.Array:
    """Inverse variances `[size]` of the gaps of one hidden entity."""
    constants, spec = modules.preprocessing, modules.bank.layout.spec
    spreads = jnp.ones(size)
    spreads = spreads.at[np.array(spec.positions)].set(constants.position_scale)
    spreads = spreads.at[np.array(spec.velocities)].set(constants.velocity_scale)
    return (looseness * spreads) ** -2.0


def _joints(modules, start, pieces, of_pieces, looseness) -> _Joints:
    """Gaps under Student's distribution: laws may fail in an encounter."""
    count, num_hidden, size = start.shape
    num_features = pieces.shape[-1]
    width = num_hidden * size
    scale = jnp.sqrt(joint_precision(modules, size, looseness))[None, None]
    # What an entity has of its own stays as it is.
    own = start[:-1, :, num_features:]
    ends = jnp.concatenate([pieces[:-1, -1], own], axis=-1)
    of_own = jnp.eye(width).reshape(num_hidden, size, width)[:, num_features:]
    of_own = jnp.broadcast_to(of_own[None], (count - 1, *of_own.shape))
    of_ends = jnp.concatenate([of_pieces[:-1, -1], of_own], axis=-2)
    gaps = ends - start[1:]
    found = scale * gaps
    squared = jnp.square(found)
    energy = 0.5 * (_FREEDOM + 1.0) * jnp.sum(jnp.log1p(squared / _FREEDOM))
    weight = jnp.sqrt((_FREEDOM + 1.0) / (_FREEDOM + squared))
    errors = (weight * found).reshape(count - 1, width)
    rows = jnp.reshape(weight * scale, (count - 1, width, 1))
    left = rows * of_ends.reshape(count - 1, width, width)
    right = -rows * jnp.eye(width)[None]
    # Every joint knows of two pieces.
    piece = np.arange(count - 1)
    slope = jnp.zeros((count, width))
    slope = slope.at[piece].add(jnp.einsum("jrp,jr->jp", left, errors))
    slope = slope.at[piece + 1].add(jnp.einsum("jrp,jr->jp", right, errors))
    curvature = jnp.zeros((count, width, count, width))
    for first, a in ((piece, left), (piece + 1, right)):
        for second, b in ((piece, left), (piece + 1, right)):
            block = jnp.einsum("jrp,jrq->jpq", a, b)
            curvature = curvature.at[first, :, second].add(block)
    gaps = jnp.max(jnp.abs(looseness * found), axis=(1, 2))
    return _Joints(energy, slope, curvature, gaps)


class _Descent(NamedTuple):
    """Where least squares stand.

    Attributes:
      start: `[G, H, P]`.
      curvature: `[GHP, GHP]` there.
      slope: `[GHP]`.
      energy: `()`.
      damping: `()`.
    """

    start: jax.Array
    curvature: jax.Array
    slope: jax.Array
    energy: jax.Array
    damping: jax.Array


def descend(
    modules: BoundBank,
    scene: Scene,
    fit: Fit,
    num_steps: int,
    domain: Domain,
    looseness: float | jax.Array,
) -> Fit:
    """Steps of Levenberg and Marquardt under given relations."""
    start = fit.guess.start

    def body(state, _):
        size = jnp.diag(jnp.diag(state.curvature))
        step = jnp.linalg.solve(state.curvature + state.damping * size, state.slope)
        start = state.start - step.reshape(state.start.shape)
        point = evaluate(modules, scene, start, fit, domain, looseness)
        is_better = (point.energy < state.energy) & jnp.all(
            jnp.isfinite(point.curvature)
        )
        factor = jnp.where(is_better, _EASED, _TIGHTENED)
        damping = jnp.clip(state.damping * factor, _TINY, 1.0 / _TINY)
        curvature = point.curvature.reshape(start.size, start.size)
        slope = point.slope.reshape(-1)
        moved = _Descent(start, curvature, slope, point.energy, damping)
        stayed = state._replace(damping=damping)
        return jax.tree.map(lambda a, b: jnp.where(is_better, a, b), moved, stayed), ()

    # The first step leads nowhere: it evaluates the start.
    first = _Descent(
        start,
        jnp.eye(start.size),
        jnp.zeros(start.size),
        jnp.float32(jnp.inf),
        jnp.float32(_FIRST_DAMPING),
    )
    last, _ = jax.lax.scan(body, first, None, length=num_steps + 1)
    return Fit(fit.guess._replace(start=last.start), fit.edges, last.energy)
