"""What a result holds: relations, probabilities, laws, verdict."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from modmeta.relational.data import TrajectoryDataset, neighbors
from modmeta.relational.discovery import Discovery
from modmeta.relational.evaluation.scores import label_scores, transposed_labels
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.laws import curves
from modmeta.relational.laws.curves import LawCurve
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.results import display
from modmeta.relational.verdict.conclusions import Verdict
from modmeta.relational.verdict.effects import relation_names
from modmeta.relational.verdict.stretches import Stretches


@dataclasses.dataclass(frozen=True, repr=False)
class Contents:
    """What a result holds, see `RelationalInference`.

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
        """Whether the graph can be believed, see `verdict.conclusions.Verdict`."""
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
        return relation_names(effects, self.edges, self.model.num_relations)

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
        if not curves.has_curve(self.model):
            return []
        return curves.law_curves(
            self.model, self.params, self.dataset, self.found.structures
        )

    @functools.cached_property
    def notes(self) -> tuple[str, ...]:
        """What was done to the data, and what looks wrong, one sentence each."""
        dataset = self.dataset
        if dataset.edges is None or not dataset.num_relations:
            return dataset.notes
        hint = transposed_labels(
            self.edges, dataset.edges, self.model.num_relations, dataset.num_relations
        )
        return dataset.notes if hint is None else (*dataset.notes, hint)

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
        dataset, edges = self.dataset, np.asarray(self.edges)
        is_edge = edges >= 0
        sizes = dataset.num_nodes
        counts = np.bincount(edges[is_edge], minlength=self.model.num_relations)
        total = max(int(is_edge.sum()), 1)
        confidence = share_sure = None
        if self.discovery.settled.is_sampled and is_edge.any():
            surest = np.max(np.asarray(self.probabilities), axis=-1)[is_edge]
            confidence = float(surest.mean())
            share_sure = float(np.mean(surest > display.SURE))
        accuracy = self.edge_accuracy
        return {
            "num_systems": dataset.num_tasks,
            "num_frames": dataset.num_frames,
            "num_entities": [int(sizes.min()), int(sizes.max())],
            "features": [dataset.features.names[c] for c in dataset.features.recorded],
            "num_pairs": int(is_edge.sum()),
            "relations": [
                {"name": name, "share": float(count / total)}
                for name, count in zip(self.relation_names, counts, strict=True)
            ],
            "mean_confidence": confidence,
            "share_sure": share_sure,
            "edge_accuracy": None if accuracy is None else float(accuracy),
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
            "notes": list(self.notes),
        }
