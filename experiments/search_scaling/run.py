"""One run: a model, systems of every size, all searches, and what is written.

Every search of every size is a stage with a file of its own; a run that is stopped goes
on with the first one that is missing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import common
from experiments.relational_inference import trained, trainings
from experiments.relational_inference.datasets import make_datasets
from experiments.search_scaling import measure, problems, report, scores
from experiments.search_scaling.config import CONFIGS, ExperimentConfig, smoke
from experiments.search_scaling.measure import Curves
from experiments.search_scaling.problems import SizedProblems
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.inference import artifacts
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.network import ModelParams
from modmeta.runtime.files import atomic_write
from modmeta.search import SEARCHES

MODEL_FILE = "model.npz"
CURVES_DIRECTORY = "curves"


def _model(
    config: ExperimentConfig, like: TrajectoryDataset, run: common.Run
) -> tuple[RelationalModel, ModelParams] | None:
    """Loads the model of the configuration or of this run, or trains it first."""
    path = Path(config.model) if config.model else run.workdir / MODEL_FILE
    if not config.model and not path.exists():
        model, result = trainings.meta_train(
            config.training,
            make_datasets(config.training.data, config.training.seed),
            run,
            functools.partial(_check_memory, config),
            config.training.seed,
        )
        if not result.is_finished:
            return None
        artifacts.save_model(path, model, result.params)
    # From the file in any case, so that a resumed run goes on from the same numbers.
    model, params = trained.load(str(path))
    trained.check(str(path), model, params, like)
    return dataclasses.replace(model, **config.training.search_options), params


def _stage(path: Path, compute: Callable[[], Curves | None]) -> Curves | None:
    """The curves in a file, computed and written where there is none."""
    if not path.exists():
        curves = compute()
        if curves is None:
            return None
        with atomic_write(path) as file:
            np.savez(file, **curves._asdict())
    with np.load(path) as arrays:
        return Curves(**arrays)


def _stages(
    config: ExperimentConfig, model: RelationalModel, size: int
) -> list[tuple[str, str]]:
    """Searches of a size, by name and kind of proposals."""
    bank, options = model.bank.config, config.measurement
    num_structures = bank.num_relations ** (size - 1) * bank.num_node_modules
    return [
        (name, kind)
        for name in options.names
        if not SEARCHES[name].is_exhaustive or num_structures <= options.max_enumerated
        for kind in measure.kinds_of(name, model)
    ]


def _check_memory(config: ExperimentConfig, model: RelationalModel) -> None:
    """Refuses searches that would not fit, before the first of them."""
    for size in config.systems.sizes:
        for name in dict.fromkeys(name for name, _ in _stages(config, model, size)):
            measure.check_memory(
                model,
                name,
                config.measurement,
                size=size,
                num_systems=config.systems.num_systems(size),
                num_frames=config.training.data.num_observed,
            )


def _num_done(paths: Mapping[tuple[int, str, str], Path]) -> int:
    return sum(path.exists() for path in paths.values())


class _Searched(NamedTuple):
    """Systems of one size, and what every search found in them.

    Attributes:
      problems: The systems.
      runs: Curves by name of the search and kind of proposals.
      best: Best known energy of every problem.
      is_exact: Whether that is the lowest of all.
    """

    problems: SizedProblems
    runs: dict[tuple[str, str], Curves]
    best: np.ndarray
    is_exact: bool


def compute(config: ExperimentConfig, run: common.Run) -> dict[str, Any] | None:
    """A model, all searches, scores, figures; the summary, or None if stopped.

    Raises:
      FileNotFoundError: If there is no such model.
      MemoryError: If a search would not fit into memory.
      ModelMismatchError: If the model does not fit the systems.
    """
    sizes = config.systems.sizes
    dataset = problems.simulate(
        config.systems, config.training.data, sizes[0], config.seed
    )
    found = _model(config, dataset, run)
    if found is None:
        return None
    model, params = found
    _check_memory(config, model)
    directory = run.directory(CURVES_DIRECTORY)
    paths = {
        (size, name, kind): directory / f"{size}_{name}_{kind.replace(' ', '_')}.npz"
        for size in sizes
        for name, kind in _stages(config, model, size)
    }
    run.progress.start(len(paths), initial=_num_done(paths), description="searches")
    searched: dict[int, _Searched] = {}
    for size in sizes:
        if size != sizes[0]:
            dataset = problems.simulate(
                config.systems, config.training.data, size, config.seed
            )
        sized = problems.prepare(model, params, dataset)
        outcome = _search(config, run, model, sized, size, paths)
        if outcome is None:
            return None
        searched[size] = outcome
    run.progress.close()
    return _summarise(config, run, searched)


def _search(
    config: ExperimentConfig,
    run: common.Run,
    model: RelationalModel,
    sized: SizedProblems,
    size: int,
    paths: Mapping[tuple[int, str, str], Path],
) -> _Searched | None:
    """All searches of systems of one size, kept in files; None if stopped."""
    options = config.measurement
    rng_key = jax.random.fold_in(jax.random.key(config.seed), size)
    runs: dict[tuple[str, str], Curves] = {}
    for name, kind in _stages(config, model, size):
        curves = _stage(
            paths[size, name, kind],
            functools.partial(
                measure.run, rng_key, sized, name, kind, options, run.should_stop
            ),
        )
        if curves is None:
            return None
        runs[name, kind] = curves
        run.progress.update(_num_done(paths), {"entities": size})
    exact = None
    if measure.num_structures(sized) <= options.max_enumerated:
        exact = measure.exact_minima(sized, options)
    return _Searched(sized, runs, scores.best_known(runs, exact), exact is not None)


def _summarise(
    config: ExperimentConfig, run: common.Run, searched: dict[int, _Searched]
) -> dict[str, Any]:
    """Scores of all searches, and their figures."""
    options = config.measurement
    names = scores.module_names({size: found.runs for size, found in searched.items()})
    scored = {
        size: {
            search: scores.score(
                curves,
                found.best,
                measure.recorded_proposals(options.budget(size), options.num_points),
                names,
                size=size,
                tolerance=options.tolerance,
            )
            for search, curves in found.runs.items()
        }
        for size, found in searched.items()
    }
    searches, speedups = scores.summarize(scored)
    systems = {}
    for size, found in searched.items():
        truth = problems.true_modules(found.problems, names)
        systems[str(size)] = {
            "num_systems": config.systems.num_systems(size),
            "num_problems": len(found.best),
            "is_exact": found.is_exact,
            "budget": options.budget(size),
            **scores.compare_to_truth(
                measure.energies_of(found.problems, truth, options),
                found.best,
                options.tolerance,
            ),
        }
    report.write_figures(run.workdir, scored, speedups)
    return {
        "searches": searches,
        "speedups": speedups,
        "systems": systems,
        "module_names": names,
    }


EXPERIMENT = common.Experiment(
    presets=CONFIGS,
    smoke=smoke,
    compute=compute,
    format_summary=report.format_summary,
    files="Curves, figures",
    shown=("loss", "valid_energy", "entities"),
    refusals=(trained.ModelMismatchError,),
)
