"""Classical methods and modules on the same recordings, in one table."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import common
from experiments.real_data import report
from experiments.real_data.config import CONFIGS, ExperimentConfig, check, smoke
from experiments.real_data.sources import Network, read_networks
from modmeta.relational import DataError, infer_relations
from modmeta.relational.api import RelationalInference
from modmeta.relational.classical import METHODS, rank_pairs
from modmeta.relational.data import TrajectoryDataset, concatenate_tasks
from modmeta.relational.evaluation import ranking
from modmeta.relational.verdict.held_out import recommend_for
from modmeta.runtime.files import atomic_write

OURS, ADVISED = "modmeta", "modmeta, as its verdict recommends"
# Networks that no modules are trained on.
CHOSEN = "as held-out frames recommend"


class Advice(NamedTuple):
    """A verdict in plain words, and the ranking that it names, or None."""

    sentence: str
    method: str | None


class Scores(NamedTuple):
    """What a method says of one network.

    Attributes:
      method: Its name.
      alone: `[systems, nodes, nodes]` of recordings one by one; None where these are
        too short.
      pooled: `[1, nodes, nodes]` of all recordings.
      seconds: How long that took.
      advice: On the pooled graph; None for classical methods.
      advice_alone: The same on recordings one by one.
    """

    method: str
    alone: np.ndarray | None
    pooled: np.ndarray
    seconds: float
    advice: Advice | None = None
    advice_alone: Advice | None = None


def classical_scores(network: Network) -> Iterator[Scores]:
    """Those of all classical methods that the frames suffice for."""
    for method in METHODS:
        start = time.perf_counter()
        alone = None
        try:
            if network.is_scored_alone:
                alone = rank_pairs(network.series, method)
            pooled = rank_pairs(network.series, method, shared_graph=True)
        except DataError:
            # Too few frames for as many coefficients.
            continue
        yield Scores(method, alone, pooled, time.perf_counter() - start)


def trained_scores(network: Network, config: ExperimentConfig) -> Iterator[Scores]:
    """Those of modules, and of the methods that the verdict prefers to them.

    One training for both: recordings are searched one by one, then as one.
    """
    start = time.perf_counter()
    result = infer_relations(
        network.dataset,
        num_relations=2,
        shared_graph=not network.is_scored_alone,
        seed=config.seed,
        num_restarts=config.num_restarts,
        modules=config.modules,
        proposal=config.proposal,
        bouncegrad=config.bouncegrad,
        training=config.training,
        inference=config.inference,
        progress=None,
    )
    alone, advice_alone, pooled = None, None, result
    if network.is_scored_alone:
        alone, advice_alone = _probabilities(result), _advice(result)
        pooled = result.infer(network.dataset, shared_graph=True, seed=config.seed)
    seconds = time.perf_counter() - start
    ours = Scores(
        OURS, alone, _probabilities(pooled), seconds, _advice(pooled), advice_alone
    )
    yield ours
    if alone is not None:
        alone = _advised(network.series, result, alone)
    scores = _advised(network.series, pooled, ours.pooled)
    seconds = time.perf_counter() - start
    yield ours._replace(method=ADVISED, alone=alone, pooled=scores, seconds=seconds)


def chosen_scores(network: Network) -> Iterator[Scores]:
    """Those of the method that held-out frames speak for, without any modules."""
    start = time.perf_counter()
    found = recommend_for(concatenate_tasks(network.series))
    if found is None:
        return
    pooled = rank_pairs(network.series, found.method, shared_graph=True)
    seconds = time.perf_counter() - start
    advice = Advice(f"{found.sentence}.", found.method)
    yield Scores(CHOSEN, None, pooled, seconds, advice)


def _advice(result: RelationalInference) -> Advice:
    return Advice(result.verdict.sentence, result.verdict.recommended)


def _probabilities(result: RelationalInference) -> np.ndarray:
    """Probability of any relation but that of least effect, which comes first."""
    return 1.0 - np.asarray(result.probabilities)[..., 0]


def _advised(
    series: TrajectoryDataset, result: RelationalInference, ours: np.ndarray
) -> np.ndarray:
    """Scores by the ranking that the verdict names, ours where it names none.

    Classical methods see series, which are one column of bodies.
    """
    method = result.verdict.recommended
    if method is None:
        return ours
    if method not in METHODS:
        return result.rank_pairs(method)
    return rank_pairs(series, method, shared_graph=len(ours) == 1)


def row_of(network: Network, scores: Scores) -> dict[str, Any]:
    """A row of the table; None where there are no labels, or no scores."""
    labels = network.dataset.edges
    advice, alone = scores.advice, scores.advice_alone
    row = {
        "dataset": network.name,
        "method": scores.method,
        "auroc": None,
        "auroc_pooled": None,
        "auroc_spread": None,
        "aurocs": None,
        "average_precision": None,
        "average_precision_pooled": None,
        "majority": None,
        "seconds": scores.seconds,
        "verdict": None if advice is None else advice.sentence,
        "recommended": None if advice is None else advice.method,
        "verdict_alone": None if alone is None else alone.sentence,
        "recommended_alone": None if alone is None else alone.method,
    }
    if labels is None:
        return row
    row |= {
        "auroc_pooled": ranking.auroc(scores.pooled[0], labels[0]),
        "average_precision_pooled": ranking.average_precision(
            scores.pooled[0], labels[0]
        ),
        "majority": ranking.majority(labels[0]),
    }
    if scores.alone is None or row["auroc_pooled"] is None:
        return row
    pairs = list(zip(scores.alone, labels, strict=True))
    areas = np.array([ranking.auroc(*pair) for pair in pairs])
    precisions = [ranking.average_precision(*pair) for pair in pairs]
    return row | {
        "auroc": float(areas.mean()),
        "auroc_spread": float(areas.std()),
        "aurocs": areas.tolist(),
        "average_precision": float(np.mean(np.array(precisions))),
    }


def compute(config: ExperimentConfig, run: common.Run) -> dict[str, Any] | None:
    """One network after the other; what is done is not done again."""
    parts = {}
    for network in read_networks(config):
        is_small = network.dataset.max_nodes <= (config.max_nodes or np.inf)
        # Nothing is computed before it is asked for.
        scores = {"classical": classical_scores(network)}
        if is_small:
            scores["modmeta"] = trained_scores(network, config)
        else:
            scores["chosen"] = chosen_scores(network)
        for part, found in scores.items():
            name = f"networks/{network.name}_{part}"
            path = run.workdir / f"{name}.npz"
            parts[name] = functools.partial(_rows_of, network, found, path)
    kept = run.each_once(parts, "networks")
    if kept is None:
        return None
    rows = [row for found in kept for row in found]
    report.write_figure(run.directory(), rows)
    return {"rows": rows}


def _rows_of(
    network: Network, scores: Iterator[Scores], path: Path
) -> list[dict[str, Any]]:
    """Rows of all scores, which are written besides."""
    found = list(scores)
    _write_scores(path, found)
    return [row_of(network, one) for one in found]


def _write_scores(path: Path, found: list[Scores]) -> None:
    """Scores of all pairs by method, pooled, and of recordings where there are any."""
    arrays = {}
    for scores in found:
        name = scores.method.replace(",", "").replace(" ", "_")
        arrays[name] = scores.pooled[0]
        if scores.alone is not None:
            arrays[f"{name}_alone"] = scores.alone
    with atomic_write(path) as file:
        np.savez(file, **arrays)


EXPERIMENT = common.Experiment(
    presets=CONFIGS,
    smoke=smoke,
    compute=compute,
    format_summary=report.format_summary,
    files="Scores of all pairs in networks/, auroc.png",
    shown=(),
    check=check,
    refusals=(DataError,),
)
