"""How well readers name laws, tell constants, and find duplicates in a bank.

Letters: n networks, D size of an embedding, R numbers of a description.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.special
from scipy import stats
from scipy.spatial import distance

from experiments.metanet_modules import laws
from experiments.metanet_modules.readers import constants_of
from modmeta.metanet.learning import scores

QUANTILES = (0.5, 0.75, 0.9, 0.95)
# Laws of one family whose constants differ by less are neither duplicates nor not.
_NEARLY_EQUAL = 0.2


class Readings(NamedTuple):
    """What a reader says about n networks.

    Attributes:
      laws: `[n]` most probable law.
      probabilities: `[n]` of that law.
      constants: `[n, 2]` strength and length under it; where a law has none, 1.
      embeddings: `[n, D]`.
    """

    laws: np.ndarray
    probabilities: np.ndarray
    constants: np.ndarray
    embeddings: np.ndarray


def readings_of(outputs: Mapping[str, np.ndarray]) -> Readings:
    """What the outputs of a reader say."""
    named = outputs["logits"].argmax(axis=1)
    probabilities = scipy.special.softmax(outputs["logits"], axis=1)
    logarithms = constants_of(jnp.asarray(outputs["constants"]), jnp.asarray(named))
    exists = np.stack([laws.HAS_STRENGTH, laws.HAS_LENGTH], axis=-1)[named]
    return Readings(
        named,
        probabilities.max(axis=1),
        np.exp(np.where(exists, np.asarray(logarithms), 0.0)),
        outputs["embedding"],
    )


def constant_errors(
    readings: Readings, targets: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Relative errors `[n, 2]` of constants; NaN where the law has none.

    Where the law is named wrong, its constants are wrong: infinity.
    """
    ratio = readings.constants / np.exp(targets["constants"])
    errors = np.abs(ratio - 1.0)
    is_named = readings.laws == targets["law"]
    errors = np.where(is_named[:, None], errors, np.inf)
    return np.where(targets["exists"], errors, np.nan)


def descriptions(readings: Readings) -> np.ndarray:
    """Law and constants as numbers `[n, R]`; other laws are further than constants."""
    one_hot = 10.0 * np.eye(len(laws.LAWS))[readings.laws]
    return np.concatenate([one_hot, np.log(readings.constants)], axis=1)


def pairs_of(targets: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs of networks are duplicates, and which are not, `[n (n - 1) / 2]`.

    Duplicates have the same law and constants. Pairs of one law with constants within
    a fifth of each other are neither.
    """
    constants = np.where(targets["exists"], targets["constants"], 0.0)
    gap = distance.pdist(constants, "chebyshev")
    is_same_law = distance.pdist(targets["law"][:, None].astype(float)) == 0.0
    is_duplicate = is_same_law & (gap < 1e-6)
    return is_duplicate, ~is_same_law | (gap > np.log1p(_NEARLY_EQUAL))


def duplicate_scores(
    found: np.ndarray,
    targets: Mapping[str, np.ndarray],
    choosing: np.ndarray,
    choosing_targets: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """How well distances between networks tell duplicates.

    Args:
      found: `[n, R]` what stands for a network.
      targets: Of the n networks.
      choosing: `[m, R]` of validation networks, which choose the distance below which
        two networks are called duplicates: where F1 is largest.
      choosing_targets: Of these.

    Returns:
      `auroc`, and `precision` and `recall` at the chosen distance.
    """
    gaps = distance.pdist(choosing)
    is_duplicate, is_other = pairs_of(choosing_targets)
    order = np.argsort(gaps[is_duplicate | is_other])
    hits = np.cumsum(is_duplicate[is_duplicate | is_other][order])
    f1 = 2.0 * hits / (np.arange(len(hits)) + 1.0 + hits[-1])
    limit = gaps[is_duplicate | is_other][order][np.argmax(f1)]
    gaps = distance.pdist(found)
    is_duplicate, is_other = pairs_of(targets)
    same, other = gaps[is_duplicate], gaps[is_other]
    called = np.sum(same <= limit), np.sum(other <= limit)
    ranks = stats.rankdata(np.concatenate([same, other]))[: len(same)]
    above = ranks.sum() - len(same) * (len(same) + 1) / 2
    return {
        "auroc": 1.0 - above / (len(same) * len(other)),
        "precision": called[0] / max(sum(called), 1),
        "recall": called[0] / len(same),
    }


def score_reader(
    readings: Readings,
    targets: Mapping[str, np.ndarray],
    choosing: Readings,
    choosing_targets: Mapping[str, np.ndarray],
    *,
    seed: int,
    num_resamples: int,
) -> dict[str, Any]:
    """Scores of a reader on test networks; validation networks choose."""
    is_right = readings.laws == targets["law"]
    errors = constant_errors(readings, targets)
    summary: dict[str, Any] = {
        "law_accuracy": scores.bootstrap(
            lambda values: float(np.mean(values)),
            is_right,
            seed=seed,
            num_resamples=num_resamples,
        )._asdict(),
        "accuracy_by_law": {
            name: float(np.mean(is_right[targets["law"] == index]))
            for index, name in enumerate(laws.LAW_NAMES)
            if np.any(targets["law"] == index)
        },
    }
    for column, name in enumerate(("strength", "length")):
        some = errors[~np.isnan(errors[:, column]), column]
        levels = np.quantile(some, QUANTILES, method="higher")
        summary[f"{name}_error"] = dict(
            zip(map(str, QUANTILES), levels.tolist(), strict=True)
        )
    for name, describe in (
        ("embedding", lambda readings: readings.embeddings),
        ("readings", descriptions),
    ):
        summary[f"duplicates_by_{name}"] = duplicate_scores(
            describe(readings), targets, describe(choosing), choosing_targets
        )
    return summary
