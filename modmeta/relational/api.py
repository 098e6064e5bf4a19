"""Relational inference in three lines.

Example::

    from modmeta.relational import infer_relations

    result = infer_relations(trajectories, num_relations=2)
    result.edges, result.probabilities, result.predict(20)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from modmeta.relational.data import TrajectoryDataset, neighbors
from modmeta.relational.data.arrays import as_dataset
from modmeta.relational.data.derived import recorded
from modmeta.relational.data.neighbors import CandidateConfig
from modmeta.relational.data.normalization import denormalize
from modmeta.relational.data.segments import concatenate_tasks
from modmeta.relational.discovery import MAX_RELATIONS, Discovery, Options, discover
from modmeta.relational.energies.config import EnergyConfig
from modmeta.relational.evaluation import laws, rollouts
from modmeta.relational.evaluation.laws import LawCurve
from modmeta.relational.evaluation.scores import label_scores, match_labels
from modmeta.relational.evaluation.verdict import Verdict
from modmeta.relational.inference.config import (
    InferenceConfig,
    MemoryConfig,
    MoveConfig,
)
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.integration import Domain
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.modules.proposal_head import ProposalConfig
from modmeta.relational.training.config import BounceGradConfig, TrainingConfig
from modmeta.runtime.progress import ProgressMeter


@dataclasses.dataclass(frozen=True)
class RelationalInference:
    """What `infer_relations` returns.

    Attributes:
      dataset: The systems.
      discovery: Model, relations and verdict.
    """

    dataset: TrajectoryDataset
    discovery: Discovery

    @property
    def model(self) -> RelationalModel:
        """Static description of the trained model."""
        return self.discovery.model

    @property
    def params(self) -> ModelParams:
        """Its arrays."""
        return self.discovery.params

    @property
    def found(self) -> Relations:
        """Relations as the search found them, see `inference.relations.Relations`."""
        return self.discovery.found

    @property
    def verdict(self) -> Verdict:
        """Whether the graph can be believed, see `evaluation.verdict.Verdict`."""
        return self.discovery.verdict

    @property
    def edges(self) -> np.ndarray:
        """`[tasks, nodes, nodes]` relation of every edge.

        Row = receiver, column = sender, -1 where there is no edge. Relation 0 is that
        of least effect: "no relation", where there is one. Pairs that the data do not
        tell apart have one relation, see `verdict`.
        """
        return self.discovery.settled.edges

    @property
    def probabilities(self) -> np.ndarray:
        """`[tasks, nodes, nodes, K]` from samples of all restarts.

        As warm as the errors of the model ask for, see `InferenceConfig.tempered`.
        """
        return self.discovery.settled.probabilities

    @property
    def edge_accuracy(self) -> float | None:
        """Share of edges that agree with the labels, names matched; None without.

        Of the candidate edges: see `candidate_share`.
        """
        if self.dataset.edges is None:
            return None
        scores = label_scores(
            self.discovery.settled, self.dataset, self.model.num_relations
        )
        return scores["edge_accuracy"]

    @functools.cached_property
    def laws(self) -> list[LawCurve]:
        """The law of every relation as a curve with a band, see `LawCurve`.

        Empty where modules have no law of one distance or angle.
        """
        if not laws.has_curve(self.model):
            return []
        return laws.law_curves(
            self.model, self.params, self.dataset, self.found.structures
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the data, one sentence each."""
        return self.dataset.notes

    @property
    def candidate_share(self) -> float | None:
        """Share of labelled pairs that are candidates, hence scored; None without."""
        if self.dataset.edges is None:
            return None
        return neighbors.candidate_share(self.dataset.edges, self.edges)

    def predict(
        self,
        num_steps: int,
        *,
        num_substeps: int = 0,
        domain: Domain | None = None,
        times: npt.ArrayLike | None = None,
    ) -> np.ndarray:
        """Frames that follow the last one, `[tasks, num_steps, nodes, features]`.

        In the columns and units of the input; zeros at padded nodes. The last frame is
        that which saw any of a task's nodes last.

        Args:
          num_steps: Frames to predict, at least 1.
          num_substeps: Steps per frame in which laws are integrated; 0 for as many as
            the prediction needs.
          domain: Where bodies can be, for instance
            `Domain("reflecting", (-5, -5), (5, 5))`; None for everywhere.
          times: `[tasks, num_steps]` or `[num_steps]` of the predicted frames, in the
            unit of the velocities, where there are laws; None for one frame interval
            each.
        """
        if num_steps < 1:
            raise ValueError(f"num_steps: found {num_steps}, expected at least 1")
        normalized = rollouts.predict(
            self.model,
            self.params,
            self.dataset,
            self.found.structures,
            num_steps,
            num_substeps=num_substeps,
            domain=domain,
            times=times,
        )
        normalization = jax.tree.map(
            np.asarray, self.params.preprocessing.normalization
        )
        states = denormalize(normalization, normalized)
        states = recorded(self.dataset.features, states)
        node_mask = np.asarray(self.dataset.node_mask)
        return np.where(node_mask[:, None, :, None], states, 0.0)

    def plot(self, num_systems: int = 4, num_steps: int = 20) -> dict[str, Any]:
        """Figures of the relations and of the predicted trajectories.

        Args:
          num_systems: Systems to draw.
          num_steps: Frames to predict.

        Returns:
          Matplotlib figures by name: "adjacency", "trajectories" and, where there are
          laws, "laws".
        """
        from modmeta.relational import figures

        labels, names = self.dataset.edges, None
        num_labels = self.dataset.num_relations
        if labels is not None and num_labels is not None:
            names = match_labels(
                self.edges,
                labels,
                self.model.num_relations,
                num_labels,
            )
        spec = self.dataset.features
        drawn = {
            "adjacency": figures.plot_adjacency(
                self.edges,
                labels,
                self.probabilities,
                num_systems,
                matching=names,
            ),
            "trajectories": figures.plot_trajectories(
                recorded(spec, self.dataset.states),
                self.predict(num_steps),
                self.dataset.num_frames,
                spec.positions[:2] if len(spec.positions) >= 2 else None,
                num_systems=num_systems,
                node_mask=self.dataset.node_mask,
                feature_names=[spec.names[column] for column in spec.recorded],
            ),
        }
        if self.laws:
            drawn["laws"] = figures.plot_laws(self.laws)
        return drawn

    def to_networkx(self) -> list[Any]:
        """One `networkx.DiGraph` per system, sender to receiver."""
        from modmeta.relational.evaluation import export

        graphs = export.edges_to_networkx(
            self.edges, self.probabilities, node_mask=self.dataset.node_mask
        )
        return graphs if isinstance(graphs, list) else [graphs]

    def to_csv(self, path: str) -> None:
        """Writes one line per edge: system, sender, receiver, relation, probabilities.

        Args:
          path: File to write.
        """
        from modmeta.relational.evaluation import export

        export.write_edges_csv(path, self.edges, self.probabilities)


def infer_relations(
    trajectories: npt.ArrayLike | Sequence[npt.ArrayLike] | TrajectoryDataset,
    num_relations: int | str = 2,
    *,
    labels: Any = None,
    positions: Sequence[int] = (),
    velocities: Sequence[int] = (),
    sines: Sequence[int] = (),
    cosines: Sequence[int] = (),
    angles: Sequence[int] = (),
    angle_unit: str | None = None,
    derive_velocities: bool = True,
    lags: int = 0,
    frame_interval: float | None = None,
    frame_mask: npt.ArrayLike | None = None,
    times: Any = None,
    breaks: npt.ArrayLike | None = None,
    shared_graph: bool = False,
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
    progress: ProgressMeter | None = None,
) -> RelationalInference:
    """Finds which relation holds on every edge, and the dynamics, without labels.

    Args:
      trajectories: `[tasks, time, nodes, features]`; or one array `[time, nodes,
        features]` per task, of any length and size; or a `TrajectoryDataset`. NaN and
        masked entries were not observed.
      num_relations: Number of relations K to tell apart ("no relation" is one). "auto"
        trains with 4, counts those that cannot stand for one another on held-out
        frames, and trains again with as many.
      labels: `[tasks, nodes, nodes]` true relations, row = receiver; used for
        `edge_accuracy` and figures alone.
      positions: Feature columns that are positions. Naming positions and velocities,
        or angles, lets the modules see relative geometry, which needs far less data.
      velocities: Feature columns that are the velocities of these positions.
      sines: Feature columns that are the sines of angles (phases, headings).
      cosines: Feature columns that are the cosines of these angles.
      angles: Feature columns that are angles; columns that wrap are found without.
      angle_unit: "radians" or "degrees"; None tells it from the values.
      derive_velocities: Whether positions without velocities get them.
      lags: Frames that a change of features without roles may depend on; 0 for as many
        as the data bear out.
      frame_interval: Time between frames, in the time unit of the velocities; None for
        the median step of `times`, or 1.
      frame_mask: `[tasks, time, nodes]` true where a node was observed.
      times: `[tasks, time]` or `[time]` of the frames, or one vector per task.
      breaks: `[tasks, time]` or `[time]` true at frames that do not follow from the one
        before.
      shared_graph: Whether the tasks are recordings of one graph. Training sees them
        one by one; the search sees all of them as one task, and so does the result.
      seed: Seed of everything random.
      num_restarts: Trainings from different seeds. The one of lowest energy counts;
        probabilities are averaged, and the verdict tells how far they agree.
      modules: Options of the bank; its number of relations is overridden.
      proposal: Options of the proposal head.
      energy: What a search minimises.
      moves: How a search moves.
      candidates: Which edges may hold a relation; by default all.
      memory: What is held at once.
      bouncegrad: Options of a step of meta-training.
      training: Options of the loop around it.
      inference: Options of the final search.
      mesh: Devices that share the final search; training stays on one.
      progress: Progress meter, for instance `modmeta.runtime.progress.TqdmProgress()`.

    Returns:
      Relations, probabilities and a model that predicts.

    Raises:
      DataError: If the trajectories or labels are not what they should be.
      ValueError: If an option is out of range.
    """
    dataset = as_dataset(
        trajectories,
        labels=labels,
        positions=positions,
        velocities=velocities,
        sines=sines,
        cosines=cosines,
        angles=angles,
        angle_unit=angle_unit,
        derive_velocities=derive_velocities,
        lags=lags,
        frame_interval=frame_interval,
        frame_mask=frame_mask,
        times=times,
        breaks=breaks,
    )
    # Before anything is trained: systems that share a graph may turn out not to.
    searched = concatenate_tasks(dataset) if shared_graph else dataset
    is_auto = num_relations == "auto"
    if not is_auto and not isinstance(num_relations, int | np.integer):
        raise ValueError(
            f"num_relations: found {num_relations!r}, expected a number or 'auto'"
        )
    if num_restarts < 1:
        raise ValueError(f"num_restarts: found {num_restarts}, expected at least 1")
    modules = dataclasses.replace(
        modules or ModuleConfig(),
        num_relations=MAX_RELATIONS if is_auto else int(num_relations),
    )
    energy, inference = energy or EnergyConfig(), inference or InferenceConfig()
    energy.check_algorithm(inference.algorithm)
    options = Options(
        modules=modules,
        search={
            "proposal": proposal,
            "energy": energy,
            "moves": moves,
            "candidates": candidates,
            "memory": memory,
        },
        bouncegrad=bouncegrad or BounceGradConfig(),
        training=training or TrainingConfig(),
        inference=inference,
        num_restarts=num_restarts,
    )
    arguments = {"seed": seed, "mesh": mesh, "progress": progress}
    if is_auto:
        found = discover(
            dataset, searched, dataclasses.replace(options, num_restarts=1), **arguments
        )
        count = max(found.verdict.num_relations, 2)
        modules = dataclasses.replace(modules, num_relations=count)
        options = dataclasses.replace(options, modules=modules)
    return RelationalInference(
        searched, discover(dataset, searched, options, **arguments)
    )
