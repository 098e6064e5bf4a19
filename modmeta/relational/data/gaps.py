"""Entries that were not observed: found, filled, and never counted.

An entry is what one node is at one frame. What is filled in keeps every array finite
and is where an entity is heard from between two frames that saw it; nothing is ever
scored there. Letters: L tasks, T frames, N nodes, F features.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from modmeta.relational.data.validation import FeatureSpec


def read_entries(states: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """States as a plain array, and which of its entries are missing.

    Args:
      states: `[L, T, N, F]`; entries of a masked array, NaN, and None among numbers
        are missing, and with one feature all features of that node at that frame.

    Returns:
      The array, NaN where something is masked, and `[L, T, N]`, None where nothing is.
    """
    if isinstance(states, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(states)
        states = np.asarray(states)
        if masked.any() and states.dtype.kind in "biuf":
            kind = np.result_type(states.dtype, np.float32)
            states = np.where(masked, np.nan, states.astype(kind))
    states = _as_floats(np.asarray(states))
    if states.dtype.kind != "f" or not states.ndim:
        return states, None
    # A sum is NaN if an entry is, and needs no mask of the size of the data.
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isnan(states.sum(dtype=np.float64)):
            return states, None
    missing = np.isnan(states).any(axis=-1)
    return states, missing if missing.any() else None


def _as_floats(states: np.ndarray) -> np.ndarray:
    """Numbers that NumPy does not hold as such: Python's, and half floats of others."""
    if states.dtype.kind == "V" and "float" in states.dtype.name:
        return states.astype(np.float32)
    is_number = (numbers.Real, np.bool_, type(None))
    if states.dtype == object and all(isinstance(v, is_number) for v in states.flat):
        return states.astype(np.float64)
    return states


def segment_bounds(
    shape: tuple[int, int], breaks: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """First and last frame of the recording that every frame belongs to, `[L, T]`.

    Args:
      shape: `(L, T)`.
      breaks: `[L, T]` true where a recording begins; None for one recording.
    """
    num_frames = shape[1]
    frames = np.broadcast_to(np.arange(num_frames), shape)
    if breaks is None:
        return np.zeros(shape, int), np.full(shape, num_frames - 1)
    first = np.maximum.accumulate(np.where(breaks, frames, 0), axis=1)
    ends = np.pad(breaks[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    last = np.where(ends, frames, num_frames - 1)[:, ::-1]
    return first, np.minimum.accumulate(last, axis=1)[:, ::-1]


def nearest_observed(
    is_observed: np.ndarray, breaks: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Frames of the same recording that saw a node last, and that see it next.

    Args:
      is_observed: `[L, T, N]`.
      breaks: See `segment_bounds`.

    Returns:
      Two arrays `[L, T, N]`, the frame itself where it saw the node; -1 for none.
    """
    num_frames = is_observed.shape[1]
    first, last = segment_bounds(is_observed.shape[:2], breaks)
    frames = np.arange(num_frames)[None, :, None]
    before = np.maximum.accumulate(np.where(is_observed, frames, -1), axis=1)
    after = np.where(is_observed, frames, num_frames)[:, ::-1]
    after = np.minimum.accumulate(after, axis=1)[:, ::-1]
    before = np.where(before >= first[..., None], before, -1)
    return before, np.where(after <= last[..., None], after, -1)


def presence(is_observed: np.ndarray, breaks: np.ndarray | None) -> np.ndarray:
    """Whether a node is there.

    From a recording's first sight of it to its last; and before and after these for as
    long as it was missed in between, since one that is missed now and then has neither
    come nor left.

    Arguments and result as those of `nearest_observed`.
    """
    before, after = nearest_observed(is_observed, breaks)
    is_between = (before >= 0) & (after >= 0)
    gap = np.where(is_between, after - before - 1, 0).max(axis=1, keepdims=True)
    frames = np.arange(is_observed.shape[1])[None, :, None]
    is_soon = (after >= 0) & (after - frames <= gap)
    is_just = (before >= 0) & (frames - before <= gap)
    return is_between | is_soon | is_just


def fill(
    states: np.ndarray,
    is_observed: np.ndarray,
    features: FeatureSpec,
    times: np.ndarray,
    breaks: np.ndarray | None,
) -> np.ndarray:
    """Puts something finite where nothing was observed.

    Between two frames that saw a node, positions whose velocities are known follow the
    cubic through both, angles turn evenly along the shorter way, the rest is linear.
    Elsewhere the nearest frame that saw the node is held, one of the same recording
    where there is one; while the node is there, see `presence`, its position moves on
    with its velocity. A node that no frame saw gets zeros.

    Args:
      states: `[L, T, N, F]`, anything where nothing was observed.
      is_observed: `[L, T, N]`.
      features: What the columns are.
      times: `[L, T]` in the unit of the velocities.
      breaks: See `segment_bounds`.

    Returns:
      A new array.
    """
    before, after = nearest_observed(is_observed, breaks)
    rows = np.nonzero(~is_observed)
    task, frame, node = rows
    first, last = before[rows], after[rows]
    # Outside of what this recording saw: what any other one saw is better than nothing.
    anywhere = nearest_observed(is_observed, None)
    held = np.where(first >= 0, first, last)
    for other in anywhere:
        held = np.where(held >= 0, held, other[rows])
    filled = states[task, np.maximum(held, 0), node].astype(np.float64)
    if features.has_motion:
        is_near = (first < 0) != (last < 0)
        is_near &= presence(is_observed, breaks)[rows]
        frames = held[is_near]
        away = times[task[is_near], frame[is_near]] - times[task[is_near], frames]
        speed = filled[np.ix_(is_near, list(features.velocities))]
        filled[np.ix_(is_near, list(features.positions))] += away[:, None] * speed
    filled[held < 0] = 0.0
    filled[np.ix_(held < 0, list(features.cosines))] = 1.0
    inside = (first >= 0) & (last >= 0)
    task, node = task[inside], node[inside]
    low, high = first[inside], last[inside]
    start, end = (states[task, at, node].astype(np.float64) for at in (low, high))
    begin = times[task, low]
    length = (times[task, high] - begin)[:, None]
    along = (times[task, frame[inside]] - begin)[:, None] / length
    filled[inside] = _between(start, end, along, length, features)
    result = np.array(states, np.result_type(states.dtype, np.float32))
    result[rows] = filled
    return result


def _between(start, end, along, length, features: FeatureSpec) -> np.ndarray:
    """States `[rows, F]` at shares `[rows, 1]` of the way between two others."""
    found = start + along * (end - start)
    if features.angles:
        sine, cosine = np.array(features.angles).T
        across = end[:, sine] * start[:, cosine] - end[:, cosine] * start[:, sine]
        turn = np.arctan2(
            across, end[:, sine] * start[:, sine] + end[:, cosine] * start[:, cosine]
        )
        angle = np.arctan2(start[:, sine], start[:, cosine]) + along * turn
        found[:, sine], found[:, cosine] = np.sin(angle), np.cos(angle)
    if features.has_motion:
        position, velocity = list(features.positions), list(features.velocities)
        x0, x1 = start[:, position], end[:, position]
        v0, v1 = length * start[:, velocity], length * end[:, velocity]
        t = along
        found[:, position] = (
            (2 * t**3 - 3 * t**2 + 1) * x0
            + (t**3 - 2 * t**2 + t) * v0
            + (3 * t**2 - 2 * t**3) * x1
            + (t**3 - t**2) * v1
        )
        slope = (
            (6 * t**2 - 6 * t) * (x0 - x1)
            + (3 * t**2 - 4 * t + 1) * v0
            + (3 * t**2 - 2 * t) * v1
        )
        found[:, velocity] = slope / length
    return found
