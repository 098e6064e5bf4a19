"""Relational inference in three lines.

Example::

    from modmeta.relational import infer_relations

    result = infer_relations(trajectories, num_relations=2)
    result.edges, result.probabilities, result.predict(20)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.domains import Domain
from modmeta.relational.data.forms.arrays import as_dataset
from modmeta.relational.data.neighbors import CandidateConfig
from modmeta.relational.data.segments import concatenate_tasks
from modmeta.relational.discovery import MAX_RELATIONS, Options, discover
from modmeta.relational.energies.config import EnergyConfig
from modmeta.relational.inference.config import (
    InferenceConfig,
    MemoryConfig,
    MoveConfig,
)
from modmeta.relational.modules.bank import resolve
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.proposal_head import ProposalConfig
from modmeta.relational.results import RelationalInference
from modmeta.relational.training.config import BounceGradConfig, TrainingConfig
from modmeta.runtime import option_types
from modmeta.runtime.progress import ProgressMeter, shown_to_people

_MOST_RESTARTS = 1_000


def infer_relations(
    trajectories: Any,
    num_relations: int | str = 2,
    *,
    labels: Any = None,
    columns: Mapping[str, str] | None = None,
    feature_names: Sequence[str] | None = None,
    positions: Sequence[int | str] | None = None,
    velocities: Sequence[int | str] | None = None,
    sines: Sequence[int | str] | None = None,
    cosines: Sequence[int | str] | None = None,
    angles: Sequence[int | str] | None = None,
    inputs: Sequence[int | str] | None = None,
    angle_unit: str | None = None,
    derive_velocities: bool | str = True,
    lags: int = 0,
    domain: Domain | None = None,
    frame_interval: float | None = None,
    node_mask: npt.ArrayLike | None = None,
    frame_mask: npt.ArrayLike | None = None,
    times: Any = None,
    breaks: npt.ArrayLike | None = None,
    shared_graph: bool = False,
    changing: bool = False,
    seed: int = 0,
    num_restarts: int = 2,
    modules: ModuleConfig | None = None,
    proposal: ProposalConfig | None = None,
    energy: EnergyConfig | None = None,
    moves: MoveConfig | None = None,
    candidates: CandidateConfig | None = None,
    memory: MemoryConfig | None = None,
    bouncegrad: BounceGradConfig | None = None,
    training: TrainingConfig | None = None,
    inference: InferenceConfig | None = None,
    mesh: Mesh | None = None,
    progress: ProgressMeter | str | None = "auto",
) -> RelationalInference:
    """Finds which relation holds on every edge, and the dynamics, without labels.

    Args:
      trajectories: `[tasks, time, nodes, features]`, of NumPy, PyTorch or another
        library, or `[time, nodes, features]` for one task; one array `[time, nodes,
        features]` per task, of any length and size; a pandas data frame with a row per
        system, time and entity, or a list of such, one per system; an xarray; a path of
        a `.npz`, `.csv` or `.parquet`, or of a folder of NRI; or a `TrajectoryDataset`.
        See `as_dataset`. NaN and masked entries were not observed.
      num_relations: Number of relations K to tell apart ("no relation" is one). "auto"
        trains with 4, counts those that cannot stand for one another on held-out
        frames, and trains again with as many.
      labels: `[tasks, nodes, nodes]` true relations, row = receiver, or one matrix for
        all tasks; numbers, booleans, -1 and 1, or texts; without the diagonal, too.
        Used for `edge_accuracy` and figures alone.
      columns: Which columns of a table are "system", "time" and "entity", for instance
        `{"entity": "fish"}`; None for the usual names.
      feature_names: Names of the features; of a table, the columns that are features.
      positions: Feature columns that are positions, by number or name; None for those
        called x, y, z. Naming positions and velocities, or angles, lets the modules see
        relative geometry, which needs far less data.
      velocities: Feature columns that are the velocities of these positions.
      sines: Feature columns that are the sines of angles (phases, headings).
      cosines: Feature columns that are the cosines of these angles.
      angles: Feature columns that are angles; columns that wrap are found without.
      inputs: Feature columns that are known at all frames and not predicted, such as a
        stimulus or a wind: what acts on an entity alone hears them. Predictions take
        them, see `RelationalInference.predict`.
      angle_unit: "radians" or "degrees"; None tells it from the values.
      derive_velocities: Whether positions get velocities where these go on from frame
        to frame; "always" for everywhere.
      lags: Frames that a change of features without roles may depend on; 0 for as many
        as the data bear out.
      domain: The box that positions wrap in, `Domain("periodic", lower, upper)`, where
        bodies act by their nearest images; None for none. Walls are for `predict`.
      frame_interval: Time between frames, in the time unit of the velocities; None for
        the median step of `times`, or 1.
      node_mask: `[tasks, nodes]` true at real nodes, which come first.
      frame_mask: `[tasks, time, nodes]` true where a node was observed.
      times: `[tasks, time]` or `[time]` of the frames, or one vector per task.
      breaks: `[tasks, time]` or `[time]` true at frames that do not follow from the one
        before.
      shared_graph: Whether the tasks are recordings of one graph. Training sees them
        one by one; the search sees all of them as one task, and so does the result.
      changing: Whether relations may change within a recording. The tasks of the result
        are then stretches of the recordings, see `result.stretches`, each with the
        relations that held in it; labels are not used.
      seed: Seed of everything random.
      num_restarts: Trainings from different seeds. The one of lowest energy counts;
        probabilities are averaged, and the verdict tells how far they agree. If all
        others found another graph that explains the data surely worse, up to as many
        more are trained, and those are left out.
      modules: Options of the bank; its number of relations is overridden.
      proposal: Options of the proposal head.
      energy: What a search minimises.
      moves: How a search moves.
      candidates: Which edges may hold a relation; by default all.
      memory: What is held at once.
      bouncegrad: Options of a step of meta-training; None for those that suit the
        number of entities, see `BounceGradConfig.resolved`.
      training: Options of the loop around it.
      inference: Options of the final search; None for those that suit the number of
        entities, see `InferenceConfig.resolved`.
      mesh: Devices that share the final search; training stays on one.
      progress: "auto" shows a bar where somebody looks on, in a terminal or a notebook;
        None shows none, anywhere; or a meter such as
        `modmeta.runtime.progress.TqdmProgress()`.

    Returns:
      Relations, probabilities and a model that predicts.

    Raises:
      DataError: If the trajectories or labels are not what they should be.
      ValueError: If an option is out of range, or relations may change in recordings
        too short to tell, or that share one graph.
    """
    dataset = as_dataset(
        trajectories,
        labels=labels,
        columns=columns,
        feature_names=feature_names,
        positions=positions,
        velocities=velocities,
        sines=sines,
        cosines=cosines,
        angles=angles,
        inputs=inputs,
        angle_unit=angle_unit,
        derive_velocities=derive_velocities,
        lags=lags,
        domain=domain,
        frame_interval=frame_interval,
        node_mask=node_mask,
        frame_mask=frame_mask,
        times=times,
        breaks=breaks,
    )
    dataset.check_pairs()
    options = _options(
        dataset,
        num_relations,
        num_restarts,
        modules=_checked("modules", modules, ModuleConfig),
        proposal=_checked("proposal", proposal, ProposalConfig),
        energy=_checked("energy", energy, EnergyConfig),
        moves=_checked("moves", moves, MoveConfig),
        candidates=_checked("candidates", candidates, CandidateConfig),
        memory=_checked("memory", memory, MemoryConfig),
        bouncegrad=_checked("bouncegrad", bouncegrad, BounceGradConfig),
        training=_checked("training", training, TrainingConfig),
        inference=option_types.check("inference", inference, InferenceConfig | None),
    )
    shared_graph = option_types.check("shared_graph", shared_graph, bool)
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ValueError(f"mesh: found {mesh!r}, expected a mesh of devices or None")
    arguments = {
        "seed": option_types.check_seed(seed),
        "changing": option_types.check("changing", changing, bool),
        "mesh": mesh,
        "progress": _meter(progress),
    }
    # Before anything is trained: systems that share a graph may turn out not to.
    searched = concatenate_tasks(dataset) if shared_graph else dataset
    if num_relations == "auto":
        found = discover(
            dataset, searched, dataclasses.replace(options, num_restarts=1), **arguments
        )
        count = max(found.verdict.num_relations, 2)
        modules = dataclasses.replace(options.modules, num_relations=count)
        options = dataclasses.replace(options, modules=modules)
    found = discover(dataset, searched, options, **arguments)
    if found.stretches is not None:
        searched = found.stretches.of(searched)
    return RelationalInference(searched, found, options.inference)


def _checked(name: str, config: Any, kind: type) -> Any:
    """The options of a topic, the default ones for None."""
    return option_types.check(name, config, kind | None) or kind()


def _options(
    dataset: TrajectoryDataset,
    num_relations: Any,
    num_restarts: Any,
    *,
    modules: ModuleConfig,
    energy: EnergyConfig,
    bouncegrad: BounceGradConfig,
    training: TrainingConfig,
    inference: InferenceConfig | None,
    **search: Any,
) -> Options:
    """What `discover` takes, settled for the number of entities.

    Raises:
      ValueError: If a number is out of range, or the search cannot minimise the energy.
    """
    is_auto = num_relations == "auto"
    if not is_auto and not isinstance(num_relations, int | np.integer):
        raise ValueError(
            f"num_relations: found {num_relations!r}, expected a number or 'auto'"
        )
    num_restarts = option_types.check("num_restarts", num_restarts, int)
    if not 1 <= num_restarts <= _MOST_RESTARTS:
        raise ValueError(
            f"num_restarts: found {num_restarts}, expected at least 1 and at most "
            f"{_MOST_RESTARTS}: each is a whole training"
        )
    modules = dataclasses.replace(
        modules, num_relations=MAX_RELATIONS if is_auto else int(num_relations)
    )
    is_additive = resolve(modules, dataset.features).node_update == "additive"
    inference = (inference or InferenceConfig(algorithm="auto")).resolved(
        int(dataset.num_nodes.max(initial=1)), energy, is_additive=is_additive
    )
    energy.check_algorithm(inference.algorithm)
    return Options(
        modules=modules,
        search={"energy": energy, **search},
        bouncegrad=bouncegrad,
        training=training,
        inference=inference,
        num_restarts=num_restarts,
    )


def _meter(progress: ProgressMeter | str | None) -> ProgressMeter | None:
    """The meter that an argument stands for."""
    if progress == "auto":
        return shown_to_people()
    if isinstance(progress, str) or not (
        progress is None or hasattr(progress, "update")
    ):
        raise ValueError(
            f"progress: found {progress!r}, expected 'auto', None or a meter"
        )
    return progress
