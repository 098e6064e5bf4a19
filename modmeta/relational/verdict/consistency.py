"""Whether two parts of the same recordings tell the same relations.

Probabilities say how sure a pair is if laws are right. Where laws do not fit, both
parts of a recording may be sure and still contradict each other, more often than their
probabilities allow. Then all probabilities are tempered as far as that asks for. What
is wrong in both parts alike stays hidden, so that they may still be too high.

Letters: K relations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from modmeta.relational.inference.relations import Relations
from modmeta.relational.verdict.gains import is_certain

# A pair is sure above this probability.
SURE = 0.9
# Contradictions beyond those that are stated, as a share of the pairs that both parts
# are sure of, which are worth a word; of fewer pairs, nothing is said.
_TOLERATED, _MIN_PAIRS, _MIN_BLOCKS = 0.01, 20, 6
# By so many standard errors: to be less sure without need costs little.
_CERTAIN = 2.0
# Shares of samples are probabilities to about so much, and may be 0.
_RESOLUTION = 1.0 / 256.0
_HIGHEST, _NUM_HALVINGS = 64.0, 40


class Consistency(NamedTuple):
    """How far two parts agree on the pairs that both are sure of.

    Attributes:
      agreement: Share of these pairs that have one relation in both.
      stated: Share that their probabilities let expect.
      temperature: By which probabilities are to be divided, as logarithms, so that both
        are equal; 1 where parts agree as far as they say, or nothing is known.
    """

    agreement: float
    stated: float
    temperature: float


def compare_parts(early: Relations, late: Relations) -> Consistency | None:
    """Compares what two parts of the same systems tell.

    Args:
      early: Relations that one part tells alone, `[tasks, nodes, nodes]`.
      late: The same of the other.

    Returns:
      None where nothing was sampled, or too few pairs are sure in both.
    """
    if not (early.is_sampled and late.is_sampled):
        return None
    parts = [np.asarray(part.probabilities, np.float64) for part in (early, late)]
    is_sure = np.all([part.max(axis=-1) > SURE for part in parts], axis=0)
    if is_sure.sum() < _MIN_PAIRS:
        return None
    names = [part.argmax(axis=-1) for part in parts]
    agree = (names[0] == names[1])[is_sure]
    sure = [part[is_sure] for part in parts]
    stated = _stated(*sure)
    # Errors of a system, or where these are few those of a receiver, go together.
    tasks, receivers, _ = np.nonzero(is_sure)
    block = tasks
    if len(np.unique(tasks)) < _MIN_BLOCKS:
        block = tasks * is_sure.shape[1] + receivers
    block = np.unique(block, return_inverse=True)[1]
    contradictions, allowed = (
        np.bincount(block, values) for values in (1.0 - agree, 1.0 - stated)
    )
    agreement, expected = float(agree.mean()), float(stated.mean())
    is_excess = len(allowed) >= _MIN_BLOCKS
    is_excess = is_excess and is_certain(allowed, contradictions, _CERTAIN)
    if not is_excess or expected - agreement < _TOLERATED:
        return Consistency(agreement, expected, 1.0)
    return Consistency(agreement, expected, _temperature(sure, agreement))


def tempered(found: Relations, temperature: float) -> Relations:
    """The same relations with probabilities that are less sure; never surer."""
    if not temperature > 1.0 or not found.is_sampled:
        return found
    probabilities = np.asarray(found.probabilities)
    is_edge = (np.asarray(found.edges) >= 0)[..., None]
    flat = np.where(is_edge, _tempered(probabilities, temperature), 0.0)
    return found._replace(probabilities=flat.astype(np.float32))


def _tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    logits = np.log(np.maximum(probabilities, _RESOLUTION)) / temperature
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _stated(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Probability that both most likely relations are one, of `[pairs, K]` each.

    Where both are right, or wrong in the same way.
    """
    right = [part.max(axis=-1) for part in (first, second)]
    others = max(first.shape[-1] - 1, 1)
    return right[0] * right[1] + (1.0 - right[0]) * (1.0 - right[1]) / others


def _temperature(sure: list[np.ndarray], agreement: float) -> float:
    """The temperature at which the stated agreement is what was found."""
    low, high = 0.0, float(np.log(_HIGHEST))
    for _ in range(_NUM_HALVINGS):
        middle = 0.5 * (low + high)
        parts = [_tempered(part, float(np.exp(middle))) for part in sure]
        is_colder = float(_stated(*parts).mean()) > agreement
        low, high = (middle, high) if is_colder else (low, middle)
    return float(np.exp(high))
