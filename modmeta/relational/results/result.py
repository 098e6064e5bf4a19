"""The result of relational inference, and all that can be asked of it."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from modmeta.relational.classical import METHODS, rank_pairs
from modmeta.relational.data import TrajectoryDataset, neighbors
from modmeta.relational.data.derived import recorded
from modmeta.relational.data.normalization import denormalize
from modmeta.relational.discovery import Discovery
from modmeta.relational.evaluation import laws, rollouts
from modmeta.relational.evaluation.effects import relation_names
from modmeta.relational.evaluation.laws import LawCurve
from modmeta.relational.evaluation.scores import label_scores
from modmeta.relational.evaluation.stretches import Stretches
from modmeta.relational.evaluation.verdict import Verdict
from modmeta.relational.hidden.config import HiddenConfig
from modmeta.relational.hidden.find import find_hidden, with_symmetry
from modmeta.relational.hidden.found import SAME_SYSTEMS, HiddenEntities
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.integration import Domain
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.results import display, export, storage, transfer

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True, repr=False)
class RelationalInference:
    """What `infer_relations` returns.

    Attributes:
      dataset: The systems.
      discovery: Model, relations and verdict.
      inference: Options of the search that found the relations.
    """

    dataset: TrajectoryDataset
    discovery: Discovery
    inference: InferenceConfig = InferenceConfig()

    def __repr__(self) -> str:
        """A few lines: sizes, shares of relations, confidence, verdict."""
        return display.as_text(self.summary())

    def _repr_html_(self) -> str:
        """The same as a small table, for notebooks."""
        return display.as_html(self.summary())

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
    def stretches(self) -> Stretches | None:
        """Recording, first frame and the frame after the last of every task.

        None where relations were not asked to change: a task is a whole recording.
        """
        return self.discovery.stretches

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
    def relation_names(self) -> tuple[str, ...]:
        """A name for every relation: "no interaction", "relation 1", and so on."""
        effects = self.verdict.effects if self.verdict else ()
        return relation_names(effects, self.model.num_relations)

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

    @functools.cached_property
    def notes(self) -> tuple[str, ...]:
        """What was done to the data, and what looks wrong, one sentence each."""
        return display.notes_of(self)

    @property
    def candidate_share(self) -> float | None:
        """Share of labelled pairs that are candidates, hence scored; None without."""
        if self.dataset.edges is None:
            return None
        return neighbors.candidate_share(self.dataset.edges, self.edges)

    def summary(self) -> dict[str, Any]:
        """Plain numbers and texts, as JSON holds them.

        Returns:
          `num_systems`, `num_frames`, `num_entities` (smallest and largest system),
          `features`, `num_pairs`, `relations` (a list of `name` and `share` of the
          pairs), `mean_confidence` and `share_sure` (probabilities of the relations
          found: their mean, and the share above 0.9; None without samples),
          `edge_accuracy` (None without labels), `verdict` (None if there is none), and
          `notes`.
        """
        return display.summarise(self)

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

    def infer(
        self,
        trajectories: Any,
        *,
        labels: Any = None,
        columns: Mapping[str, str] | None = None,
        frame_interval: float | None = None,
        node_mask: npt.ArrayLike | None = None,
        frame_mask: npt.ArrayLike | None = None,
        times: Any = None,
        breaks: npt.ArrayLike | None = None,
        shared_graph: bool = False,
        seed: int = 0,
        inference: InferenceConfig | None = None,
        mesh: Mesh | None = None,
    ) -> RelationalInference:
        """Finds the relations of new systems by the modules that are trained already.

        Systems may have any number of entities and frames. Where there are laws, frames
        may be further apart or nearer than in training. Columns are those of the
        training data, by name in tables, by place in arrays.

        Args:
          trajectories: Of any form that `infer_relations` takes.
          labels: See `infer_relations`, as are the arguments not listed here.
          columns: Names of the columns of a table.
          frame_interval: Time between frames; None for what the input says, else that
            of the training data.
          node_mask: See `infer_relations`.
          frame_mask: See `infer_relations`.
          times: See `infer_relations`.
          breaks: See `infer_relations`.
          shared_graph: See `infer_relations`.
          seed: Seed of the search.
          inference: Options of the search; None for those of this result.
          mesh: Devices that share the search.

        Returns:
          Relations, verdict and predictions of the new systems.

        Raises:
          DataError: If the model cannot read the data; the message says why.
        """
        arrays = {
            "labels": labels,
            "node_mask": node_mask,
            "frame_mask": frame_mask,
            "times": times,
            "breaks": breaks,
        }
        dataset = transfer.read_more(
            trajectories, self.dataset, columns, frame_interval, arrays
        )
        inference = inference or self.inference
        dataset, discovery = transfer.discover_again(
            self.discovery, dataset, inference, shared_graph, seed, mesh
        )
        return RelationalInference(dataset, discovery, inference)

    def find_hidden(
        self,
        trajectories: Any = None,
        *,
        num_hidden: int | str = "auto",
        max_hidden: int = 2,
        columns: Mapping[str, str] | None = None,
        frame_interval: float | None = None,
        node_mask: npt.ArrayLike | None = None,
        frame_mask: npt.ArrayLike | None = None,
        times: Any = None,
        config: HiddenConfig | None = None,
    ) -> HiddenEntities:
        """Finds entities that nobody recorded, by what they do to those recorded.

        For bodies with positions and velocities, whose laws were learned from complete
        systems. Nothing is trained and nothing is random.

        Args:
          trajectories: Of any form that `infer_relations` takes; None for the systems
            of this result. Laws learned from systems in all of which something was
            hidden may have taken it in.
          num_hidden: Hidden entities of every system; "auto" for as many as the data
            tell, none included.
          max_hidden: The most that "auto" looks for.
          columns: See `infer`, as are the next ones.
          frame_interval: Time between frames.
          node_mask: Which entities are real.
          frame_mask: What was observed.
          times: Of the frames.
          config: How thoroughly, walls, and whether relations are mutual.

        Returns:
          How many there are, where they were, how sure that is, and all relations.

        Raises:
          DataError: If the data do not allow it; the message says why.
          ValueError: If the model does not, or a number is out of range.
        """
        arrays = {"node_mask": node_mask, "frame_mask": frame_mask, "times": times}
        dataset = self.dataset
        if trajectories is not None:
            dataset = transfer.read_more(
                trajectories, self.dataset, columns, frame_interval, arrays
            )
        found = find_hidden(
            self.model,
            self.params,
            dataset,
            num_hidden=num_hidden,
            max_hidden=max_hidden,
            config=with_symmetry(config or HiddenConfig(), self.found.edges),
        )
        return found if trajectories is not None else found.with_note(SAME_SYSTEMS)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all of it to one `.npz`, which `modmeta.relational.load` reads.

        Args:
          path: File to write; one that exists is replaced in one step.
        """
        storage.save(
            path, self.dataset, self.discovery, dataclasses.asdict(self.inference)
        )

    def plot(self, num_systems: int = 4, num_steps: int = 20) -> dict[str, Any]:
        """Figures of the relations and of the predicted trajectories.

        Args:
          num_systems: Systems to draw.
          num_steps: Frames to predict.

        Returns:
          Matplotlib figures by name: "adjacency", "trajectories" and, where there are
          laws, "laws".
        """
        return display.draw(self, num_systems, num_steps)

    def rank_pairs(self, method: str | None = None) -> np.ndarray:
        """Scores of all pairs by a classical method, where nodes have series.

        Args:
          method: A name in `classical.METHODS`; None for the one that the verdict
            recommends.

        Returns:
          `[tasks, nodes, nodes]`, see `classical.rank_pairs`.

        Raises:
          DataError: If nodes have no series, or frames are too few.
          ValueError: If there is no such method, or the verdict recommends none.
        """
        method = method or (self.verdict.recommended if self.verdict else None)
        if method is None:
            raise ValueError(
                "method: found none, and a verdict that recommends none, expected one "
                f"of {list(METHODS)}"
            )
        return rank_pairs(self.dataset, method)

    def to_networkx(
        self,
        *,
        relation_names: Sequence[str] | None = None,
        skip_relation: int | None = None,
    ) -> list[Any]:
        """One `networkx.DiGraph` per system, sender to receiver.

        Nodes and the graph have the names that the data give them. Edges have the
        attributes `relation`, its name, and `probability`.

        Args:
          relation_names: One name per relation; None for those of this result.
          skip_relation: A relation whose edges are left out, such as 0.
        """
        return export.to_networkx(
            self, relation_names or self.relation_names, skip_relation
        )

    def to_dataframe(self) -> pandas.DataFrame:
        """A pandas data frame with a row per edge.

        Columns: `system`, `sender`, `receiver`, `relation` (its number), `name`, and
        `probability_0` and so on.
        """
        return export.to_dataframe(self)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes one line per edge: system, sender, receiver, relation, probabilities.

        Args:
          path: File to write.
        """
        export.to_csv(self, path)
