"""One run: a model, systems of every size, all searches, and what is written.

Every search of every size is a stage with a file of its own; a run that is stopped goes
on with the first one that is missing.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.relational_inference import train as relational_train
from experiments.relational_inference import trained
from experiments.relational_inference.datasets import make_datasets
from experiments.search_scaling import measure, problems, report, scores
from experiments.search_scaling.config import ExperimentConfig
from experiments.search_scaling.measure import Curves
from experiments.search_scaling.problems import SizedProblems
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.inference import artifacts
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.network import ModelParams
from modmeta.runtime.files import atomic_write
from modmeta.runtime.progress import NoProgress, ProgressMeter
from modmeta.search import SEARCHES

MODEL_FILE = "model.npz"
CURVES_DIRECTORY = "curves"


def _model(
    config: ExperimentConfig,
    like: TrajectoryDataset,
    workdir: Path,
    progress: ProgressMeter | None,
    should_stop: Callable[[], bool],
) -> tuple[RelationalModel, ModelParams] | None:
    """Loads the model of the configuration or of this run, or trains it first."""
    path = Path(config.model) if config.model else workdir / MODEL_FILE
    if not config.model and not path.exists():
        model, result = relational_train.meta_train(
            config.training,
            make_datasets(config.training.data, config.training.seed),
            workdir,
            progress,
            should_stop,
            False,
        )
        if not result.is_finished:
            return None
        artifacts.save_model(path, model, result.params)
    # From the file in any case, so that a resumed run goes on from the same numbers.
    model, params = trained.load(str(path), like)
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


def run(
    config: ExperimentConfig,
    workdir: str | Path,
    *,
    progress: ProgressMeter | None = None,
    started: float | None = None,
) -> dict[str, Any] | None:
    """Runs or resumes the experiment in a working directory.

    Args:
      config: The configuration.
      workdir: Directory of the run.
      progress: Progress meter.
      started: `time.perf_counter()` at which total time starts; now by default.

    Returns:
      The summary, read back if the run is finished already; None if it was asked to
      stop and can be resumed.

    Raises:
      FileExistsError: If the directory holds a run of another configuration.
      FileNotFoundError: If there is no such model.
      ValueError: If the model does not fit the systems.
    """
    started = time.perf_counter() if started is None else started
    workdir = Path(workdir)
    options, data = config.measurement, config.training.data
    sizes = config.systems.sizes
    smallest = None
    if not (workdir / common.CONFIG_FILE).exists():
        # A wrong model must not leave a working directory behind.
        smallest = problems.simulate(config.systems, data, sizes[0], config.seed)
        if config.model:
            trained.load(config.model, smallest)
    if common.prepare_workdir(workdir, config) is common.WorkdirStatus.FINISHED:
        return json.loads((workdir / common.SUMMARY_FILE).read_text())
    (workdir / CURVES_DIRECTORY).mkdir(exist_ok=True)
    if smallest is None:
        smallest = problems.simulate(config.systems, data, sizes[0], config.seed)

    runs: dict[int, dict[tuple[str, str], Curves]] = {}
    best: dict[int, np.ndarray] = {}
    exact: dict[int, np.ndarray] = {}
    sized: dict[int, SizedProblems] = {}
    progress = progress or NoProgress()
    with common.stop_on_signal() as stop:
        found = _model(config, smallest, workdir, progress, lambda: stop.requested)
        if found is None:
            return None
        model, params = found
        stages = {size: _stages(config, model, size) for size in sizes}
        progress.start(sum(map(len, stages.values())), description="searches")
        num_done = 0
        for size in sizes:
            dataset = smallest
            if size != sizes[0]:
                dataset = problems.simulate(config.systems, data, size, config.seed)
            sized[size] = problems.prepare(model, params, dataset)
            rng_key = jax.random.fold_in(jax.random.key(config.seed), size)
            runs[size] = {}
            for name, kind in stages[size]:
                path = f"{size}_{name}_{kind.replace(' ', '_')}.npz"
                curves = _stage(
                    workdir / CURVES_DIRECTORY / path,
                    functools.partial(
                        measure.run,
                        rng_key,
                        sized[size],
                        name,
                        kind,
                        options,
                        lambda: stop.requested,
                    ),
                )
                if curves is None:
                    return None
                runs[size][name, kind] = curves
                num_done += 1
                progress.update(num_done, {"entities": size})
            if measure.num_structures(sized[size]) <= options.max_enumerated:
                exact[size] = measure.exact_minima(sized[size], options)
            best[size] = scores.best_known(runs[size], exact.get(size))
        progress.close()

    names = scores.module_names(runs)
    scored = {
        size: {
            search: scores.score(
                curves,
                best[size],
                measure.recorded_proposals(options.budget(size), options.num_points),
                names,
                size=size,
                tolerance=options.tolerance,
            )
            for search, curves in of_size.items()
        }
        for size, of_size in runs.items()
    }
    searches, speedups = scores.summarize(scored)
    summary = {
        "searches": searches,
        "speedups": speedups,
        "systems": {
            str(size): {
                "num_systems": config.systems.num_systems(size),
                "num_problems": len(best[size]),
                "is_exact": size in exact,
                "budget": options.budget(size),
                **scores.compare_to_truth(
                    measure.energies_of(
                        sized[size], problems.true_modules(sized[size], names), options
                    ),
                    best[size],
                    options.tolerance,
                ),
            }
            for size in sizes
        },
        "module_names": names,
        "seed": config.seed,
        "config": config,
    }
    report.write_figures(workdir, scored, speedups)
    summary["total_seconds"] = time.perf_counter() - started
    common.write_summary(workdir, summary)
    return summary
