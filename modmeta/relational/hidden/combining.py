"""Several fits of the same systems as one answer: how many, where, how sure.

Letters: S systems of one size, V visible entities, H hidden ones, M fits, K relations,
T frames, F features.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import numpy as np

from modmeta.relational.data.dataset import NO_EDGE
from modmeta.relational.hidden import scenes, search
from modmeta.relational.hidden.search import Level

# A hidden entity that changes less than this share of all changes is not known.
LEAST_EFFECT = 0.03
# Nats by which the evidence must be better for every further hidden entity.
_MARGIN = 3.0


def evidence_of(
    levels: list[Level], num_visible: int, num_relations: int
) -> np.ndarray:
    """Negative logarithms of the evidence `[S, numbers]` for 0, 1, ... hidden entities.

    All at the temperature of the richest fit, whose errors tell how far likelihoods can
    be trusted. The relations of a hidden entity cost what choosing them costs.
    """
    warm = levels[-1].assessments.temperature[:, :1]
    found = []
    for number, level in enumerate(levels):
        each = nats_of(level, warm)[:, 0]
        found.append(each + number * num_visible * np.log(num_relations))
    return np.stack(found, axis=1)


def nats_of(level: Level, temperature: np.ndarray) -> np.ndarray:
    """Negative logarithm of the evidence `[S, M]` of every fit at `[S, 1]`."""
    size = np.prod(level.fits.guess.start.shape[3:])
    occam = level.assessments.occam - 0.5 * size * np.log(temperature)
    return level.fits.energy / temperature + np.maximum(occam, 0.0)


def number_of(evidence: np.ndarray) -> np.ndarray:
    """The number of hidden entities `[S]` that the evidence `[S, numbers]` speaks for.

    Those that act on another hidden one alone are among them.
    """
    return np.argmin(evidence + _MARGIN * np.arange(evidence.shape[1]), axis=1)


class Combined(NamedTuple):
    """The fits of some systems with H hidden entities, as one.

    Attributes:
      frames: `[S, H, T, F]` of the best fit, strongest effect first.
      deviations: `[S, H, T, F]`.
      effects: `[S, H]`.
      edges: `[S, V + H, V + H]` of the best fit, row = receiver.
      probabilities: `[S, V + H, V + H, K]`.
    """

    frames: np.ndarray
    deviations: np.ndarray
    effects: np.ndarray
    edges: np.ndarray
    probabilities: np.ndarray


def combine(level: Level, num_relations: int) -> Combined:
    """Means over fits that explain what was seen about as well as the best one."""
    order = _matched(level)
    frames, deviations, effects = (
        _ordered(values, order, 2)
        for values in (
            level.frames,
            level.assessments.deviations,
            level.assessments.effects,
        )
    )
    warm = level.assessments.temperature[:, :1]
    is_repeated = np.asarray(jax.vmap(search.repeated)(frames))
    nats = np.where(is_repeated, np.inf, nats_of(level, warm))
    weights = np.exp(nats.min(axis=1, keepdims=True) - nats)
    weights /= weights.sum(axis=1, keepdims=True)
    spread = np.square(frames - frames[:, :1])
    spread = spread + np.square(deviations) * warm[..., None, None, None]
    edges, shares = _squares(level, num_relations)
    # Hidden entities in the same order as in the frames, at both ends of an edge.
    num_visible = edges.shape[2] - order.shape[2]
    visible = np.broadcast_to(np.arange(num_visible), (*order.shape[:2], num_visible))
    nodes = np.concatenate([visible, num_visible + order], axis=2)
    edges, shares = (
        np.swapaxes(
            _ordered(np.swapaxes(_ordered(values, nodes, 2), 2, 3), nodes, 2), 2, 3
        )
        for values in (edges, shares)
    )
    return Combined(
        frames[:, 0],
        np.sqrt(np.einsum("sm,smhtf->shtf", weights, spread)),
        effects[:, 0],
        edges[:, 0],
        np.einsum("sm,smijk->sijk", weights, shares),
    )


def _ordered(values: np.ndarray, order: np.ndarray, axis: int) -> np.ndarray:
    """Values with one axis in another order, `[...]` of the axes up to it."""
    shape = (*order.shape, *(1,) * (values.ndim - axis - 1))
    return np.take_along_axis(values, order.reshape(shape), axis)


def _matched(level: Level) -> np.ndarray:
    """Order `[S, M, H]` of hidden entities: the strongest of the best fit first.

    Those of other fits as they are nearest to these.
    """
    frames = level.frames
    strongest = np.argsort(-level.assessments.effects[:, 0], axis=1)
    best = _ordered(frames[:, 0], strongest, 1)
    orders = np.array(list(itertools.permutations(range(frames.shape[2]))), int)
    gaps = [
        np.square(frames[:, :, order] - best[:, None]).sum(axis=(2, 3, 4))
        for order in orders
    ]
    return orders[np.argmin(np.stack(gaps), axis=0)]


def _squares(level: Level, num_relations: int) -> tuple[np.ndarray, np.ndarray]:
    """Relations `[S, M, V + H, V + H]` of the enlarged systems, and probabilities."""
    edges, shares = level.fits.edges, level.assessments.probabilities
    num_visible, num_hidden = edges.shape[2], level.frames.shape[2]
    size = num_visible + num_hidden
    everyone = np.arange(size)
    heard = np.stack([np.delete(everyone, node) for node in range(num_visible)])
    rows = np.arange(num_visible)[:, None]
    whole = np.full((*edges.shape[:2], size, size), NO_EDGE, np.int32)
    likely = np.zeros((*whole.shape, num_relations), np.float32)
    whole[:, :, rows, heard] = edges
    likely[:, :, rows, heard] = shares
    if num_hidden:
        # Slots of hidden entities count these first, systems last.
        slots = scenes.hidden_slots(num_hidden, num_visible)
        slots = (slots - num_hidden) % size
        rows = num_visible + np.arange(num_hidden)[:, None]
        incoming = level.fits.guess.incoming
        whole[:, :, rows, slots] = incoming
        likely[:, :, rows, slots] = np.eye(num_relations)[incoming]
    return whole, likely
