"""Sets of relations that hold the true one with a stated probability.

Split conformal prediction: how ill true relations conform to their probabilities is
seen in systems whose relations are known, and what conforms as ill as the worst of them
is left out of a set. A system is a group: its pairs are no independent witnesses, so
that all systems weigh alike, and the one asked about as much as each of them (Lee,
Barber and Willett 2023, "Distribution-free inference with hierarchical data").
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modmeta.relational.evaluation.checks import (
    check_probabilities,
    check_relations,
    check_same_shape,
)

# Of sums of weights that should be equal, rounding may separate them by so much.
_ROUNDING = 1e-9
# Strata by energy hold at least so many times the systems that a threshold needs.
_MOST_STRATA, _ROOM = 4, 3


class Calibration(NamedTuple):
    """How ill true relations conform, by how well their systems are explained.

    Attributes:
      coverage: What sets promise.
      boundaries: `[strata - 1]` energies per change that part the strata.
      lowest: Energy per change of the calibration system explained best, and
      highest: of that explained worst; nothing is known beyond.
      thresholds: `[strata]` of one minus a probability; infinite where systems are too
        few.
      num_systems: `[strata]` systems behind every threshold.
    """

    coverage: float
    boundaries: np.ndarray
    lowest: float
    highest: float
    thresholds: np.ndarray
    num_systems: np.ndarray


class RelationSets(NamedTuple):
    """For every pair the relations that the data leave possible.

    Attributes:
      members: `[tasks, nodes, nodes, K]` true at relations in the set of a pair; false
        where there is no edge.
      coverage: Probability with which the set of a pair holds its true relation.
      source: "labels" or "resampling", which says what the probability is about.
      in_range: `[tasks]` false at systems that the model explains better or worse than
        all calibration systems, or where nothing was learned: their sets are full.
      energies: `[tasks]` energy per observed change.
      calibration: Thresholds.
      matching: `[K]` name among the labels of every relation; None without labels.
      is_edge: `[tasks, nodes, nodes]` true where there is a pair.
    """

    members: np.ndarray
    coverage: float
    source: str
    in_range: np.ndarray
    energies: np.ndarray
    calibration: Calibration
    matching: np.ndarray | None
    is_edge: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """`[tasks, nodes, nodes]` relations in a set; -1 where there is no edge.

        0 says that no relation is as likely as the true ones among the calibration
        systems were: the pair is one of the few that the coverage leaves out.
        """
        return np.where(self.is_edge, self.members.sum(axis=-1), -1)

    def summary(self) -> dict[str, Any]:
        """Plain numbers, as JSON holds them.

        Returns:
          `coverage`, `source`, `num_pairs`, `mean_size`, `share_single`, `share_empty`,
          `share_full` of the pairs, `num_systems` (behind every threshold),
          `thresholds` (None where systems are too few), and `num_out_of_range`.
        """
        sizes = self.sizes[self.is_edge]
        count = max(sizes.size, 1)
        thresholds = [float(t) for t in self.calibration.thresholds]
        return {
            "coverage": self.coverage,
            "source": self.source,
            "num_pairs": int(sizes.size),
            "mean_size": float(sizes.sum() / count),
            "share_single": float(np.sum(sizes == 1) / count),
            "share_empty": float(np.sum(sizes == 0) / count),
            "share_full": float(np.sum(sizes == self.members.shape[-1]) / count),
            "num_systems": self.calibration.num_systems.tolist(),
            "thresholds": [t if math.isfinite(t) else None for t in thresholds],
            "num_out_of_range": int(np.sum(~self.in_range)),
        }

    def __repr__(self) -> str:
        """One line."""
        found = self.summary()
        return (
            f"RelationSets(coverage {self.coverage:g} by {self.source}: "
            f"{found['num_pairs']:,} pairs, mean size {found['mean_size']:.2f}, "
            f"{found['share_single']:.0%} single, {found['share_full']:.0%} full, "
            f"{found['share_empty']:.0%} empty; {found['num_out_of_range']} of "
            f"{len(self.in_range)} systems out of range)"
        )

    def covered(self, labels: npt.ArrayLike, matching: npt.ArrayLike) -> float:
        """Share of labelled pairs whose set holds the true relation.

        Args:
          labels: `[tasks, nodes, nodes]` true relations, -1 where there is none.
          matching: `[K]` name among the labels of every relation.
        """
        labels = check_relations("labels", labels)
        check_same_shape("labels", labels.shape, "sets", self.is_edge.shape)
        compared = self.is_edge & (labels >= 0)
        if not compared.any():
            raise ValueError("labels: found none at any pair, expected at least one")
        names = np.asarray(matching)
        is_true = names == labels[..., None]
        return float(np.mean((self.members & is_true).any(axis=-1)[compared]))


def check_coverage(coverage: float) -> float:
    """Refuses what is no probability.

    Raises:
      ValueError: If it is not above 0 and below 1.
    """
    if isinstance(coverage, bool) or not isinstance(coverage, int | float):
        raise ValueError(f"coverage: found {coverage!r}, expected a number")
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage: found {coverage}, expected above 0 and below 1")
    return float(coverage)


def needed_systems(coverage: float) -> int:
    """Fewest calibration systems from which a coverage can be promised."""
    return math.ceil(coverage / (1.0 - coverage) - _ROUNDING)


def strata_for(num_systems: int, coverage: float) -> int:
    """As many strata as so many calibration systems allow, at most 4."""
    return int(
        np.clip(num_systems // (_ROOM * needed_systems(coverage)), 1, _MOST_STRATA)
    )


def nonconformity(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> np.ndarray:
    """One minus the probability of the true relation of every pair.

    Args:
      probabilities: `[S, N, N, K]`, all zero where there is no edge.
      labels: `[S, N, N]` true relations in the names of the probabilities.

    Returns:
      `[S, N, N]`, NaN where there is no edge or no label.

    Raises:
      TypeError: If an array has a wrong dtype.
      ValueError: If shapes disagree, or a label is no relation.
    """
    probabilities = check_probabilities(probabilities)
    labels = check_relations("labels", labels, probabilities.shape[-1])
    check_same_shape(
        "labels", labels.shape, "probabilities[..., 0]", probabilities.shape[:3]
    )
    of_true = np.take_along_axis(
        probabilities, np.maximum(labels, 0)[..., None], axis=-1
    )[..., 0]
    is_scored = (labels >= 0) & (probabilities.sum(axis=-1) > 0.0)
    return np.where(is_scored, 1.0 - of_true.astype(np.float64), np.nan)


def threshold(scores: np.ndarray, coverage: float) -> float:
    """Smallest score that enough of the calibration does not exceed.

    Of n systems, each weighs 1 / (n + 1), in equal parts on its pairs; the rest is the
    weight of the system asked about, whose scores are taken to be infinite. With
    systems that are exchangeable, a random pair of it then has a score up to the
    threshold with at least this probability.

    Args:
      scores: `[S, pairs]`, NaN where there is no pair; systems without any do not
        count.
      coverage: The probability.

    Returns:
      The threshold; infinity where systems are too few.
    """
    is_pair = ~np.isnan(scores)
    counts = is_pair.sum(axis=1)
    num_systems = int(np.sum(counts > 0))
    weights = 1.0 / ((num_systems + 1) * np.maximum(counts, 1))
    weights = np.broadcast_to(weights[:, None], scores.shape)[is_pair]
    values = scores[is_pair]
    order = np.argsort(values)
    enough = np.cumsum(weights[order]) >= coverage - _ROUNDING
    if not enough.any():
        return math.inf
    return float(values[order][np.argmax(enough)])


def calibrate(
    scores: np.ndarray,
    energies: np.ndarray,
    coverage: float,
    boundaries: npt.ArrayLike = (),
) -> Calibration:
    """Thresholds in strata of systems that the model explains alike.

    Coverage holds in every stratum by itself if its boundaries were not chosen by the
    systems that calibrate.

    Args:
      scores: `[S, N, N]`, see `nonconformity`.
      energies: `[S]` energies per change.
      coverage: What sets promise.
      boundaries: Energies that part the strata, increasing; none for a single one.
    """
    flat = scores.reshape(len(scores), -1)
    boundaries = np.asarray(boundaries, np.float64)
    has_pairs = ~np.isnan(flat).all(axis=1)
    flat, energies = flat[has_pairs], np.asarray(energies, np.float64)[has_pairs]
    strata = np.searchsorted(boundaries, energies, side="right")
    members = [strata == number for number in range(len(boundaries) + 1)]
    return Calibration(
        coverage,
        boundaries,
        float(energies.min(initial=np.inf)),
        float(energies.max(initial=-np.inf)),
        np.array([threshold(flat[rows], coverage) for rows in members]),
        np.array([int(rows.sum()) for rows in members]),
    )


def relation_sets(
    calibration: Calibration,
    probabilities: npt.ArrayLike,
    energies: np.ndarray,
    source: str,
    matching: np.ndarray | None = None,
) -> RelationSets:
    """Sets of all pairs of other systems.

    Args:
      calibration: Thresholds.
      probabilities: `[tasks, nodes, nodes, K]`, found as those of the calibration.
      energies: `[tasks]` energies per change.
      source: See `RelationSets`.
      matching: See `RelationSets`.
    """
    probabilities = check_probabilities(probabilities)
    is_edge = probabilities.sum(axis=-1) > 0.0
    energies = np.asarray(energies, np.float64)
    strata = np.searchsorted(calibration.boundaries, energies, side="right")
    limits = calibration.thresholds[strata]
    in_range = (energies >= calibration.lowest) & (energies <= calibration.highest)
    limits = np.where(in_range, limits, np.inf)[:, None, None, None]
    members = (1.0 - probabilities.astype(np.float64)) <= limits
    return RelationSets(
        members & is_edge[..., None],
        calibration.coverage,
        source,
        in_range,
        energies,
        calibration,
        matching,
        is_edge,
    )


def in_found_names(labels: np.ndarray, matching: np.ndarray) -> np.ndarray:
    """Labels `[S, N, N]` in the names of found relations, given theirs `[K]`.

    Raises:
      ValueError: If no relation stands for one of the labels.
    """
    names = np.asarray(matching)
    labels = check_relations("labels", labels)
    missing = sorted(set(np.unique(labels[labels >= 0]).tolist()) - set(names.tolist()))
    if missing:
        raise ValueError(
            f"calibration: found the label {missing[0]} that none of the {len(names)} "
            "relations of the model stands for, expected as many relations as labels"
        )
    found = np.argmax(labels[..., None] == names, axis=-1)
    return np.where(labels >= 0, found, labels)
