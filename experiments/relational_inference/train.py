"""One run: data, meta-training or a trained model, meta-test, and what is written.

Training runs on one device. The meta-test may be spread over a mesh; with several
processes every one of them searches and scores, and the first one writes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import common
from experiments.relational_inference import (
    changing,
    hidden,
    report,
    trained,
    trainings,
)
from experiments.relational_inference.config import CONFIGS, ExperimentConfig, smoke
from experiments.relational_inference.datasets import Datasets, make_datasets
from experiments.relational_inference.meta_test import (
    MetaTest,
    edge_accuracies,
    meta_test,
)
from modmeta.relational import discovery
from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.evaluation import scores
from modmeta.relational.inference.features import renamed
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.network import ModelParams


def compute(
    config: ExperimentConfig, run: common.Run, *, mesh: Mesh | None = None
) -> dict[str, Any] | None:
    """Training or a trained model, meta-test, outputs; the summary, or None if stopped.

    Args:
      config: The configuration.
      run: The run.
      mesh: Devices that share the meta-test, see `modmeta.runtime.devices`; None for
        one. It does not change the results.

    Raises:
      DataError: If the data are not what they should be.
      ModelMismatchError: If the model does not fit the data.
      MemoryError: If the meta-test would not fit into memory.
      ValueError: If several processes were to train.
    """
    if jax.process_count() > 1 and not config.model:
        raise ValueError(
            f"model: found none with {jax.process_count()} processes, expected a "
            "trained one: training runs on one device"
        )
    datasets, loaded = _read(config)
    config = trained.with_search(config, datasets, loaded and loaded[0])
    found = trainings.train_or_take(config, datasets, run, mesh, loaded)
    if found is None:
        return None
    model, params, warm, parts = found.model, found.params, found.warm, None
    if config.changing:
        datasets, parts = changing.on_stretches(config, datasets, model, params)
        warm = None  # of whole recordings
    exported = datasets.exported

    def search(params, index):
        return trainings.search(config, datasets, model, params, index, mesh)

    # It takes as long as a short training: who looks on should know what goes on.
    run.progress.start(3, description="search, test, verdict")
    everything = cold = None
    if datasets.everything is not None:
        everything = search(params, 2)
    if datasets.test_rows is not None:
        cold = jax.tree.map(lambda leaf: leaf[datasets.test_rows], everything)
    run.progress.update(1)
    outcome = meta_test(config, datasets, model, params, warm, mesh, cold)
    run.progress.update(2)
    if everything is None:
        everything = outcome.cold
    _, everything, judged = discovery.conclude(
        jax.random.fold_in(jax.random.key(config.seed), 3),
        model,
        params,
        exported,
        [
            everything,
            *(
                search(one.params, one.index) if one.found is None else one.found
                for one in found.restarts
            ),
        ],
        config.inference,
        parts,
    )
    run.progress.update(3)
    run.progress.close()
    summary = {
        **outcome.summary,
        **found.summary,
        **_accuracies(config, datasets, model, outcome, everything),
        "verdict": judged.to_dict(),
        "notes": [*exported.notes, *_notes(model, everything, exported)],
        "num_test": datasets.test.num_tasks,
        "test_systems_unseen": datasets.is_unseen,
        "num_parameters": _num_numbers(params.modules),
        "num_proposal_parameters": _num_numbers(params.proposal),
    }
    if parts is not None:
        summary["stretches"] = changing.describe(parts, exported)
    if config.hidden != "none":
        is_known = datasets.everything is not None and not config.model
        entities = hidden.look(
            config, model, params, exported, everything, judged, is_known
        )
        summary["hidden"] = entities.summary()
        if run.is_first:
            hidden.write(run.directory() / "hidden.npz", entities)
    if run.is_first:
        report.write_outputs(
            run.directory(),
            model,
            params,
            datasets,
            outcome,
            exported,
            everything,
            [] if config.model else run.records(),
            parts,
        )
    return summary


def _read(
    config: ExperimentConfig,
) -> tuple[Datasets, tuple[RelationalModel, ModelParams] | None]:
    """The data, and the model that was trained on others, if one is named."""
    loaded = None
    if config.model:
        model, params = trained.load(config.model)
        loaded = dataclasses.replace(model, **config.search_options), params
        datasets = make_datasets(config.data, config.seed, model)
        model = loaded[0].reaching(datasets.observed.frame_interval)
        loaded = model, params
        trained.check(config.model, *loaded, datasets.observed)
    else:
        datasets = make_datasets(config.data, config.seed)
    if config.changing:
        datasets = changing.without_labels(config, datasets)
    return datasets, loaded


def _accuracies(
    config: ExperimentConfig,
    datasets: Datasets,
    model: RelationalModel,
    outcome: MetaTest,
    settled: Relations,
) -> dict[str, Any]:
    """Accuracy of the edges that are written, as far as the verdict bears them out."""
    if datasets.test_rows is not None:
        scored = jax.tree.map(lambda leaf: leaf[datasets.test_rows], settled)
        return edge_accuracies(scored, datasets.observed, model.num_relations)
    if datasets.everything is None:
        return edge_accuracies(settled, datasets.observed, model.num_relations)
    accuracies = edge_accuracies(settled, datasets.everything, model.num_relations)
    if not config.data.shared_graph:
        return accuracies
    shared = accuracies
    accuracies = edge_accuracies(outcome.cold, datasets.observed, model.num_relations)
    if shared:
        accuracies["edge_accuracy_shared_graph"] = shared["edge_accuracy"]
    return accuracies


def _num_numbers(tree: Any) -> int:
    """How many numbers a tree of arrays holds."""
    return int(sum(np.size(leaf) for leaf in jax.tree.leaves(tree)))


def _notes(
    model: RelationalModel, found: Relations, exported: TrajectoryDataset
) -> list[str]:
    """What looks odd in the data beside a model, and in labels beside edges."""
    notes = list(renamed(model.bank.layout.spec, exported.features))
    if exported.edges is not None and exported.num_relations:
        hint = scores.transposed_labels(
            found.edges, exported.edges, model.num_relations, exported.num_relations
        )
        notes += [] if hint is None else [hint]
    return notes


EXPERIMENT = common.Experiment(
    presets=CONFIGS,
    smoke=smoke,
    compute=compute,
    format_summary=report.format_summary,
    files="Edges, figures, model",
    shown=("loss", "valid_energy", "temperature"),
    refusals=(DataError, trained.ModelMismatchError),
)
