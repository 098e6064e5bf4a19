"""How nodes move between two observed frames: what messages are integrated along.

In inference both ends of an interval are observed, so the path between them is known
up to interpolation. Prediction never gets here: it integrates from the last frame.

Letters: N nodes, T frames, I = T - 1 intervals from one frame to the next, W windows
of one or several of them, S points on a path, F features, Y predicted changes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.data.frames import Frames, as_frames
from modmeta.relational.modules.preprocessing import (
    FeatureLayout,
    Preprocessing,
    angle_differences,
    turned,
    velocity_per_frame,
    with_columns,
)

# Frames that the path of an interval is laid through, where a feature has no velocity.
_STENCIL = 4


class Motion(NamedTuple):
    """Paths of nodes over intervals of one frame.

    Attributes:
      start: `[N, I, F]` normalised states where an interval begins.
      end: `[N, I, F]` where it ends.
      points: `[N, I, S, F]` states at the Gauss-Legendre points in between.
      duration: `[N, I]` length of an interval, in frame intervals.
      is_present: `[N, I]` true where a node is there and can be heard; None where all
        always are.
    """

    start: jax.Array
    end: jax.Array
    points: jax.Array
    duration: jax.Array
    is_present: jax.Array | None = None


class Windows(NamedTuple):
    """Which intervals follow one another in a window.

    Attributes:
      is_inside: `[W, I]` 1 where an interval lies in a window, else 0.
      remaining: `[N, W, I]` time from the end of an interval to that of the window,
        in frame intervals; 0 outside.
    """

    is_inside: jax.Array
    remaining: jax.Array


def still(states: jax.Array) -> Motion:
    """Motion of which the start alone is known, from states `[N, I, F]`."""
    duration = jnp.ones(states.shape[:-1])
    return Motion(states, states, states[..., None, :], duration)


def gauss_legendre(num_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in [0, 1] and their weights, which sum to 1, each `[num_points]`."""
    points, weights = np.polynomial.legendre.leggauss(num_points)
    return ((points + 1.0) / 2.0).astype(np.float32), (weights / 2.0).astype(np.float32)


def interpolate(
    preprocessing: Preprocessing,
    layout: FeatureLayout,
    frames: Frames | jax.Array,
    times: jax.Array,
    intervals: jax.Array,
    num_points: int,
) -> Motion:
    """Lays paths through observed frames.

    Positions whose velocities are observed follow the cubic through both ends, and
    velocities its slope. Everything else follows the cubic through the four nearest
    frames, at the ends of a trajectory and at breaks those on one side; angles by their
    turns, of which the shortest are taken. Inputs go straight. What was not observed
    bends no path but those that end there.

    Args:
      preprocessing: Fitted constants.
      layout: Static facts.
      frames: `[N, T, F]` normalised states, or `Frames` with leaves `[N, T, ...]`.
      times: `[N, T]` of the frames, in frame intervals.
      intervals: `[I]` the frames at which the wanted intervals begin.
      num_points: Points S on every path, those of Gauss and Legendre.
    """
    points, _ = gauss_legendre(num_points)
    return interpolate_at(preprocessing, layout, frames, times, intervals, points)


def interpolate_at(
    preprocessing: Preprocessing,
    layout: FeatureLayout,
    frames: Frames | jax.Array,
    times: jax.Array,
    intervals: jax.Array,
    points: np.ndarray,
) -> Motion:
    """`interpolate` with other points `[S]`, from 0 at the start to 1 at the end."""
    frames = as_frames(frames)
    states = frames.states
    stencil, is_used = _stencil(frames, intervals)
    start, end = states[:, intervals], states[:, intervals + 1]
    duration = times[:, intervals + 1] - times[:, intervals]
    at = duration[..., None] * points[None, None, :]
    since = _at_stencil(times, stencil) - times[:, intervals, None]
    weights = _lagrange(since, at, is_used)
    values = _at_stencil(states, stencil)
    path = jnp.einsum("nisc,nicf->nisf", weights, values)
    spec = layout.spec
    if spec.angles:
        own = jnp.expand_dims(intervals, tuple(range(stencil.ndim - 2)))
        own = own - stencil[..., 0]
        path = _turn(path, start, values, weights, spec.angles, own)
    if spec.has_motion:
        path = _follow(
            preprocessing, layout, path, start, end, points, duration[..., None, None]
        )
    if spec.inputs:
        # Straight: a curve would overshoot where an input is switched.
        inputs = np.array(spec.inputs)
        begin, change = start[..., None, inputs], (end - start)[..., None, inputs]
        values = begin + points[None, None, :, None] * change
        path = with_columns(path, spec.inputs, values)
    return Motion(start, end, path, duration, presence(frames, intervals))


def presence(frames: Frames, intervals: jax.Array) -> jax.Array | None:
    """Whether nodes are there throughout intervals `[I]`, `[N, I]`; None if always."""
    is_present = frames.is_present
    if is_present is None:
        return None
    return is_present[:, intervals] & is_present[:, intervals + 1]


def from_present(
    is_present: jax.Array | None, messages: jax.Array, num_axes: int = 0
) -> jax.Array:
    """Messages `[..., I, H]`, zero where a sender `[..., I]` is not there.

    Args:
      is_present: See `Motion`.
      messages: With `num_axes` more axes before the intervals.
      num_axes: See above.
    """
    if is_present is None:
        return messages
    axes = tuple(range(-2 - num_axes, -2))
    return jnp.where(jnp.expand_dims(is_present[..., None], axes), messages, 0.0)


def _stencil(
    frames: Frames, intervals: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Frames that the path of every interval is laid through.

    Args:
      frames: Leaves `[N, T, ...]`.
      intervals: `[I]`.

    Returns:
      `[I, C]`, or `[N, I, C]` with breaks, and which of them count, `[N, I, C]`; None
      if all do. The ends of an interval always do.
    """
    num_frames = frames.states.shape[1]
    size = min(_STENCIL, num_frames)
    wanted = intervals - (size - 2) // 2
    if frames.breaks is None:
        first = jnp.clip(wanted, 0, num_frames - size)
    else:
        # Shifted to one side, as far as the recording goes.
        begin, end = _recording(frames.breaks)
        begin, end = begin[:, intervals], end[:, intervals]
        first = jnp.maximum(jnp.minimum(wanted[None], end + 1 - size), begin)
        first = jnp.clip(first, 0, num_frames - size)
    stencil = first[..., None] + jnp.arange(size)[(None,) * first.ndim]
    if frames.breaks is None and frames.is_observed is None:
        return stencil, None
    shape = (frames.states.shape[0], len(intervals), size)
    is_used = jnp.ones(shape, bool)
    if frames.is_observed is not None:
        is_used &= _at_stencil(frames.is_observed, stencil)
    if frames.breaks is not None:
        is_used &= (stencil >= begin[..., None]) & (stencil <= end[..., None])
    own = stencil - intervals[:, None][(None,) * (first.ndim - 1)]
    return stencil, is_used | jnp.broadcast_to((own == 0) | (own == 1), shape)


def _recording(breaks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First and last frame of the recording of every frame, each `[N, T]`."""
    num_frames = breaks.shape[1]
    frame = jnp.broadcast_to(jnp.arange(num_frames)[None], breaks.shape)
    begin = jax.lax.cummax(jnp.where(breaks, frame, 0), axis=1)
    is_last = jnp.pad(breaks[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    end = jax.lax.cummin(
        jnp.where(is_last, frame, num_frames - 1), axis=1, reverse=True
    )
    return begin, end


def _at_stencil(values: jax.Array, stencil: jax.Array) -> jax.Array:
    """`[N, T, ...]` at frames `[I, C]` or `[N, I, C]`, to `[N, I, C, ...]`."""
    if stencil.ndim == 2:
        return values[:, stencil]
    return jax.vmap(lambda value, at: value[at])(values, stencil)


def windows_of(
    times: jax.Array, starts: jax.Array, num_frames: int, span: int
) -> Windows:
    """Windows of `span` intervals each.

    Args:
      times: `[N, T]` of the frames, in frame intervals.
      starts: `[W]` first frames.
      num_frames: Number of frames T.
      span: Intervals per window.
    """
    interval = jnp.arange(num_frames - 1)[None, :]
    is_inside = (interval >= starts[:, None]) & (interval < starts[:, None] + span)
    remaining = times[:, starts + span][:, :, None] - times[:, None, 1:]
    return Windows(
        is_inside.astype(times.dtype), jnp.where(is_inside[None], remaining, 0.0)
    )


def _lagrange(
    nodes: jax.Array, at: jax.Array, is_used: jax.Array | None = None
) -> jax.Array:
    """Weights `[..., S, C]` of C nodes `[..., C]` at S times `[..., S]`.

    Of nodes that are not used `[..., C]` the weight is zero, and that of the others is
    as if they were not there.
    """
    is_own = np.eye(nodes.shape[-1], dtype=bool)[(None,) * nodes.ndim]
    own, others = nodes[..., None, :, None], nodes[..., None, None, :]
    gaps = jnp.where(is_own, 1.0, own - others)
    factors = (at[..., None, None] - others) / gaps
    if is_used is None:
        return jnp.prod(jnp.where(is_own, 1.0, factors), axis=-1)
    is_left_out = is_own | ~is_used[..., None, None, :]
    weights = jnp.prod(jnp.where(is_left_out, 1.0, factors), axis=-1)
    return jnp.where(is_used[..., None, :], weights, 0.0)


def _turn(path, start, values, weights, angles, own):
    """Angles along the path, from the turns between the nodes of the stencil."""
    turns = jnp.arctan2(*angle_differences(values[:, :, 1:], values[:, :, :-1], angles))
    turned_by = jnp.pad(jnp.cumsum(turns, axis=2), ((0, 0), (0, 0), (1, 0), (0, 0)))
    own = own[None, :] if own.ndim == 1 else own
    begin = jnp.take_along_axis(turned_by, own[..., None, None], axis=2)
    along = jnp.einsum("nisc,nica->nisa", weights, turned_by - begin)
    sine, cosine = np.array(angles).T
    after = turned(start[:, :, None, sine], start[:, :, None, cosine], along)
    return with_columns(path, [*sine, *cosine], jnp.concatenate(after, axis=-1))


def _follow(preprocessing, layout, path, start, end, points, duration):
    """Positions along the cubic Hermite path of both ends, and its slope."""
    spec = layout.spec
    position, velocity = np.array(spec.positions), np.array(spec.velocities)
    per_frame, shift = velocity_per_frame(preprocessing, spec)
    # In normalised positions per frame interval, the drift of the scales included.
    shift = jnp.reshape(shift, (1, 1, 1, -1))
    slope = [per_frame * s[..., None, velocity] + shift for s in (start, end)]
    x0, x1 = (s[..., None, position] for s in (start, end))
    t = points[None, None, :, None]
    u0, u1 = (duration * s for s in slope)
    where = (
        (2 * t**3 - 3 * t**2 + 1) * x0
        + (t**3 - 2 * t**2 + t) * u0
        + (3 * t**2 - 2 * t**3) * x1
        + (t**3 - t**2) * u1
    )
    speed = (
        (6 * t**2 - 6 * t) * (x0 - x1)
        + (3 * t**2 - 4 * t + 1) * u0
        + (3 * t**2 - 2 * t) * u1
    ) / duration
    motion = jnp.concatenate([where, (speed - shift) / per_frame], axis=-1)
    return with_columns(path, [*position, *velocity], motion)
