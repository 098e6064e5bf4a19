"""Cells of the accuracy table: runs of many seeds, and what they say together."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from experiments.common.image_data import read_images
from experiments.metanet_accuracy import figures
from experiments.metanet_accuracy.config import ExperimentConfig
from experiments.metanet_accuracy.presets import ALL_WIDTHS, CELLS, WIDER
from experiments.metanet_accuracy.train import EXPERIMENT
from modmeta.metanet.zoo import classifiers
from modmeta.runtime.files import atomic_write
from modmeta.runtime.progress import TqdmProgress

SCORES = ("r_squared", "kendall_tau", "kendall_tau_within_families")


def configs_of(
    base: ExperimentConfig,
    num_seeds: int,
    max_train_width: int,
    cells: Sequence[str] = CELLS,
) -> dict[str, ExperimentConfig]:
    """The runs of a table, by the names of their directories; seeds count up.

    Args:
      base: Of all runs but for what a cell is; its seed is the first.
      num_seeds: Runs per cell.
      max_train_width: Of the cell of wider networks.
      cells: Cells to run.

    Raises:
      ValueError: If no network, or every one, is wider than `max_train_width`.
    """
    found = {}
    for seed in range(base.seed, base.seed + num_seeds):
        of_cells = {
            ALL_WIDTHS: {},
            WIDER: {"max_train_width": max_train_width, "counts": ()},
        }
        for cell, options in of_cells.items():
            if cell in cells:
                config = dataclasses.replace(base, seed=seed, **options)
                found[f"{cell}_{seed}"] = config
    return found


def run_all(
    configs: Mapping[str, ExperimentConfig],
    workdir: str | Path,
    zoo_directory: str | Path | None,
    num_processes: int,
) -> dict[str, Mapping[str, Any]] | None:
    """Runs what is missing; summaries by name, or None if it was asked to stop.

    Args:
      configs: The runs, of one zoo.
      workdir: Directory with one directory per run.
      zoo_directory: Where the zoo is or shall be; None for `zoo` beside the runs.
      num_processes: Runs at once.

    Raises:
      Exception: What a run raises.
    """
    workdir = Path(workdir)
    zoo = Path(zoo_directory or workdir / "zoo")
    jobs = {name: (config, workdir / name, zoo) for name, config in configs.items()}
    if num_processes == 1:
        summaries = {}
        for name, job in jobs.items():
            summary = _run(*job)
            if summary is None:
                return None
            summaries[name] = summary
        return summaries
    # Processes share the memory of a device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with (
        common.stop_on_signal() as stop,
        futures.ProcessPoolExecutor(
            num_processes, multiprocessing.get_context("spawn")
        ) as pool,
    ):
        # The zoo comes first: no two runs shall train it.
        first = next(iter(configs.values()))
        if not pool.submit(_make_zoo, first, zoo).result() or stop.requested:
            return None
        pending = {pool.submit(_run, *job): name for name, job in jobs.items()}
        try:
            for number, finished in enumerate(futures.as_completed(pending), start=1):
                if stop.requested or finished.result() is None:
                    return None
                print(f"{number} of {len(pending)}: {pending[finished]}", flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return {name: future.result() for future, name in pending.items()}


def _make_zoo(config: ExperimentConfig, zoo_directory: Path) -> bool:
    with common.stop_on_signal() as stop:
        return classifiers.generate_classifier_zoo(
            zoo_directory,
            config.zoo,
            read_images(config.images),
            progress=TqdmProgress(()),
            should_stop=lambda: stop.requested,
        )


def _run(
    config: ExperimentConfig, workdir: Path, zoo_directory: Path
) -> Mapping[str, Any] | None:
    summary = common.run(
        EXPERIMENT,
        config,
        workdir,
        progress=TqdmProgress(EXPERIMENT.shown),
        zoo_directory=zoo_directory,
    )
    return None if summary is None else common.as_json(summary)


def collect(summaries: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table, one per cell and model.

    Args:
      summaries: Of all runs.

    Returns:
      Rows with `cell`, `num_train`, `num_test`, `model`, `num_seeds`,
      `num_parameters`, the `mean` and `standard_deviation` (of n - 1; NaN of one seed)
      over seeds of every score, and `num_first`: in how many seeds its R2 is the
      highest.
    """
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    sizes: dict[str, int] = {}
    num_parameters: dict[str, int] = {}
    for summary in summaries.values():
        is_wider = summary["config"]["max_train_width"] > 0
        cell = WIDER if is_wider else ALL_WIDTHS
        sizes[cell] = summary["num_test"]
        for name, model in summary["models"].items():
            num_parameters[name] = model["num_parameters"]
        by_count = {
            **{int(n): models for n, models in summary["models_by_count"].items()},
            summary["num_train"]: summary["models"],
        }
        for count, models in by_count.items():
            found.setdefault((cell, count), []).append(models)
    rows = []
    for (cell, count), seeds in sorted(found.items()):
        best = [
            max(models, key=lambda name: _value(models[name], "r_squared"))
            for models in seeds
        ]
        for name in seeds[0]:
            scored = {
                key: _spread([_value(models[name], key) for models in seeds])
                for key in SCORES
            }
            seconds = [models[name]["train_seconds"] for models in seeds]
            rows.append(
                {
                    "cell": cell,
                    "num_train": count,
                    "num_test": sizes[cell],
                    "model": name,
                    "num_seeds": len(seeds),
                    "num_parameters": num_parameters[name],
                    "num_first": best.count(name),
                    "seconds": _spread(seconds),
                    **scored,
                }
            )
    return rows


def _value(scored: Mapping[str, Any], score: str) -> float:
    value = scored[score]["value"]
    return float("nan") if value is None else float(value)


def _spread(values: Sequence[float]) -> dict[str, float]:
    values = np.asarray(values, np.float64)
    deviation = values.std(ddof=1) if len(values) > 1 else np.nan
    return {"mean": float(values.mean()), "standard_deviation": float(deviation)}


def write(rows: Sequence[Mapping[str, Any]], workdir: str | Path) -> None:
    """Writes `table.json` and `table.png`."""
    with atomic_write(Path(workdir) / "table.json") as file:
        file.write(json.dumps(common.as_json(rows), indent=1).encode() + b"\n")
    figures.plot_cells(rows).savefig(Path(workdir) / "table.png", dpi=150)


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as plain text."""

    def spread(found: Mapping[str, float]) -> str:
        mean, deviation = found["mean"], found["standard_deviation"]
        return f"{mean:.3f}" + ("" if np.isnan(deviation) else f" +- {deviation:.3f}")

    lines = [
        {
            "cell": figures.CELL_NAMES[row["cell"]],
            "networks": row["num_train"],
            "model": figures.MODEL_NAMES[row["model"]],
            "R2": spread(row["r_squared"]),
            "tau": spread(row["kendall_tau"]),
            "tau in families": spread(row["kendall_tau_within_families"]),
            "first": f"{row['num_first']}/{row['num_seeds']}",
            "parameters": row["num_parameters"],
            "seconds": f"{row['seconds']['mean']:.0f}",
        }
        for row in rows
    ]
    return "\n".join(
        [
            common.format_table(lines),
            "",
            "Mean and standard deviation over seeds; first: seeds whose highest R2 it "
            "has.",
        ]
    )
