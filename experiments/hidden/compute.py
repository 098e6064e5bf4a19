"""Bodies are left out of complete systems, and found again."""

from __future__ import annotations

import functools
import itertools
import time
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.hidden import report
from experiments.hidden.config import CONFIGS, ExperimentConfig, smoke
from experiments.relational_inference import trained
from modmeta.relational import (
    DataError,
    HiddenEntities,
    ModelParams,
    RelationalModel,
    TrajectoryDataset,
    build_model,
    data,
    find_hidden,
    save_model,
)
from modmeta.relational.evaluation.scores import match_labels
from modmeta.relational.training import meta_training, setup

_SIMULATORS = {"springs": data.simulate_springs, "charged": data.simulate_charged}
# Data of one seed are apart from those of another.
_SEEDS = 1000


def visible_part(whole: TrajectoryDataset, num_visible: int) -> TrajectoryDataset:
    """The first entities of complete systems; nothing tells of the others."""
    return TrajectoryDataset(
        states=whole.states[:, :, :num_visible],
        features=whole.features,
        frame_interval=whole.frame_interval,
    )


def score(
    whole: TrajectoryDataset,
    num_visible: int,
    found: HiddenEntities,
    scale: np.ndarray,
    names: np.ndarray,
    acting: tuple[int, ...],
) -> list[dict[str, Any]]:
    """What was found of every system, beside what is true.

    Args:
      whole: Complete systems, hidden bodies last.
      num_visible: Visible ones of every system.
      found: What was found in the visible part.
      scale: `[F]` unit of the errors.
      names: `[K]` label that every relation stands for.
      acting: Labels of the relations that do something.

    Returns:
      By system: `num_found`; `num_acting`, of the hidden bodies that act on a visible
      one; `visible_edges`, the share that is right; and `bodies`: of every hidden one
      its `degree`, and `error` (squared, mean over frames and features), `is_known` and
      `edges` (share) of that one of those found that is nearest, None if there is none.
    """
    truth = np.asarray(whole.edges)
    edges = names[np.maximum(found.edges, 0)]
    pairs = ~np.eye(num_visible, dtype=bool)
    first = found.edges.shape[1] - found.states.shape[2]
    rows = []
    for task, number in enumerate(found.num_hidden):
        among = truth[task, :num_visible]
        degrees = np.isin(among[:, num_visible:], acting).sum(axis=0)
        actual = whole.states[task, :, num_visible:]
        gaps = found.states[task, :, :number, None] - actual[:, None]
        errors = np.square(gaps / scale).mean(axis=(0, 3))
        bodies = [
            {"degree": int(degree), "error": None, "is_known": False, "edges": None}
            for degree in degrees
        ]
        for one, body in _nearest(errors):
            related = edges[task, :num_visible, first + one]
            right = related == among[:, num_visible + body]
            bodies[body] |= {
                "error": float(errors[one, body]),
                "is_known": bool(found.is_known[task, one]),
                "edges": float(np.mean(right)),
            }
        right = edges[task, :num_visible, :num_visible] == among[:, :num_visible]
        rows.append(
            {
                "num_found": int(number),
                "num_acting": int((degrees > 0).sum()),
                "visible_edges": float(right[pairs].mean()),
                "bodies": bodies,
            }
        )
    return rows


def _nearest(errors: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of found and true of least error `[found, true]`; NaN is no error."""
    if not errors.size:
        return []
    errors = np.where(np.isnan(errors), np.inf, errors)
    finite = np.where(np.isinf(errors), 1e9, errors)
    num_found, num_true = errors.shape
    if num_found > num_true:
        return [(one, body) for body, one in _nearest(errors.T)]
    orders = itertools.permutations(range(num_true), num_found)
    rows = list(range(num_found))
    best = min(orders, key=lambda order: finite[rows, list(order)].sum())
    return [pair for pair in zip(rows, best, strict=True) if np.isfinite(errors[pair])]


def run_number(
    config: ExperimentConfig, model: RelationalModel, params: ModelParams, number: int
) -> dict[str, Any]:
    """Finds the hidden bodies of systems that have so many."""
    whole = _SIMULATORS[config.system](
        _SEEDS * config.seed + number + 1,
        config.num_test,
        num_nodes=config.num_visible + number,
    )
    start = time.perf_counter()
    found = find_hidden(
        model,
        params,
        visible_part(whole, config.num_visible),
        max_hidden=config.max_hidden,
        config=config.search,
    )
    seconds = time.perf_counter() - start
    visible = slice(0, config.num_visible)
    names = match_labels(
        found.edges[:, visible, visible],
        np.asarray(whole.edges)[:, visible, visible],
        model.num_relations,
        whole.num_relations,
    )
    acting = (1,) if config.system == "springs" else (0, 1)
    scale = np.asarray(params.preprocessing.normalization.scale)
    rows = score(whole, config.num_visible, found, scale, names, acting)
    return {"systems": rows, "sentence": found.sentence, "seconds": seconds}


def _trained(
    config: ExperimentConfig, run: common.Run
) -> tuple[RelationalModel, ModelParams] | None:
    """Modules of complete systems; None if stopped."""
    if config.model:
        return trained.load(config.model)
    complete = _SIMULATORS[config.system](
        _SEEDS * config.seed, config.num_train, num_nodes=config.num_visible
    )
    train_set, valid_set = setup.split_validation(
        complete.without_labels(), config.seed
    )
    key = jax.random.key(config.seed)
    model, params = build_model(train_set, key, modules=config.modules)
    with run.loop() as arguments:
        result = meta_training.train(
            model,
            params,
            train_set,
            valid_set,
            config.bouncegrad,
            config.training,
            seed=config.seed,
            **arguments,
        )
    if not result.is_finished:
        return None
    save_model(run.directory() / "model.npz", model, result.params)
    return model, result.params


def compute(config: ExperimentConfig, run: common.Run) -> dict[str, Any] | None:
    """Trains on complete systems, then looks for what is hidden in others."""
    modules = _trained(config, run)
    if modules is None:
        return None
    parts = {
        f"hidden_{number}": functools.partial(run_number, config, *modules, number)
        for number in config.hidden
    }
    kept = run.each_once(parts, "numbers of hidden bodies")
    if kept is None:
        return None
    found = dict(zip(map(str, config.hidden), kept, strict=True))
    return {
        "bodies": report.by_degree(found),
        "degrees": report.pooled(found.values()),
        "numbers": report.by_number(found),
        "seconds": {number: entry["seconds"] for number, entry in found.items()},
    }


EXPERIMENT = common.Experiment(
    presets=CONFIGS,
    smoke=smoke,
    compute=compute,
    format_summary=report.format_summary,
    files="A model and a file per number of hidden bodies",
    shown=("loss", "valid_energy"),
    refusals=(DataError, trained.ModelMismatchError),
)
