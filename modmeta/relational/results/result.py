"""The result of relational inference, and what can be done with it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from modmeta.relational import classical
from modmeta.relational.data.domains import Domain
from modmeta.relational.evaluation.conformal import RelationSets
from modmeta.relational.hidden.config import HiddenConfig
from modmeta.relational.hidden.find import find_hidden, with_symmetry
from modmeta.relational.hidden.found import SAME_SYSTEMS, HiddenEntities
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.laws.strengths import Strengths, find_strengths
from modmeta.relational.results import (
    export,
    forecast,
    sets,
    storage,
    transfer,
)
from modmeta.relational.results.contents import Contents
from modmeta.relational.verdict.finer import STRENGTHS
from modmeta.runtime import option_types

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True, repr=False)
class RelationalInference(Contents):
    """What `infer_relations` returns.

    Attributes:
      dataset: The systems.
      discovery: Model, relations and verdict.
      inference: Options of the search that found the relations.
    """

    def predict(
        self,
        num_steps: int,
        *,
        num_substeps: int = 0,
        num_samples: int = 0,
        seed: int = 0,
        domain: Domain | None = None,
        times: npt.ArrayLike | None = None,
        inputs: npt.ArrayLike | None = None,
    ) -> np.ndarray:
        """Frames that follow the last one, `[tasks, num_steps, nodes, features]`.

        In the columns and units of the input; zeros at padded nodes. The last frame is
        that which saw any of a task's nodes last. A warning says from which frame on
        columns are far beyond all that the laws were learned from.

        Args:
          num_steps: Frames to predict, at least 1.
          num_substeps: Steps per frame in which laws are integrated; 0 for as many as
            the prediction needs.
          num_samples: Futures that are drawn with errors such as the laws made on the
            observed frames, stretched about their mean as back-tests on these ask for,
            so that single ones are no paths of the laws; then the result is
            `[num_samples, tasks, num_steps, nodes, features]`. Their quantiles are a
            band, which holds what comes about as often as it says over all systems, if
            recordings go on as they were, and where motion is chaotic their mean is
            nearer to what will be than the one future without errors.
          seed: Seed of these draws.
          domain: Where bodies can be, for instance
            `Domain("reflecting", (-5, -5), (5, 5))`; None for everywhere.
          times: `[tasks, num_steps]` or `[num_steps]` of the predicted frames, in the
            unit of the velocities, where there are laws; None for one frame interval
            each.
          inputs: Values of the input columns at the predicted frames, that broadcast to
            `[tasks, num_steps, nodes, columns]`; needed where there are such columns.

        Raises:
          ValueError: If a number of steps is none or out of range, or the domain or
            times do not fit the model.
          DataError: If times or inputs are not what they should be.
        """
        num_steps = option_types.check("num_steps", num_steps, int)
        num_substeps = option_types.check("num_substeps", num_substeps, int)
        num_samples = option_types.check("num_samples", num_samples, int)
        seed = option_types.check("seed", seed, int)
        option_types.check("domain", domain, Domain | None)
        for name, number, least in (
            ("num_steps", num_steps, 1),
            ("num_substeps", num_substeps, 0),
            ("num_samples", num_samples, 0),
            ("seed", seed, 0),
        ):
            if number < least:
                raise ValueError(f"{name}: found {number}, expected at least {least}")
        return forecast.predict(
            self,
            num_steps,
            num_substeps=num_substeps,
            num_samples=num_samples,
            seed=seed,
            domain=domain,
            times=times,
            inputs=inputs,
        )

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
          columns: Names of the columns of a table; None for those of the training
            data, where the table has them.
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
          ValueError: If an option is of another type.
        """
        arrays = {
            "labels": labels,
            "node_mask": node_mask,
            "frame_mask": frame_mask,
            "times": times,
            "breaks": breaks,
        }
        seed = option_types.check_seed(seed)
        shared_graph = option_types.check("shared_graph", shared_graph, bool)
        option_types.check("inference", inference, InferenceConfig | None)
        if mesh is not None and not isinstance(mesh, Mesh):
            raise ValueError(
                f"mesh: found {mesh!r}, expected a mesh of devices or None"
            )
        dataset = transfer.read_more(
            trajectories, self.dataset, columns, frame_interval, arrays
        )
        inference = inference or self.inference
        dataset, discovery = transfer.discover_again(
            self.discovery, dataset, inference, shared_graph, seed, mesh
        )
        return RelationalInference(dataset, discovery, inference)

    def relation_sets(
        self,
        coverage: float = 0.9,
        *,
        calibration: Any = None,
        num_resampled: int = 200,
        seed: int = 0,
    ) -> RelationSets:
        """For every pair the relations that may be the true one.

        Systems are searched once more, and those that calibrate alike. With labelled
        systems as `calibration`: the set of a random pair holds its true relation with
        at least the probability `coverage`, if its system and those with labels are
        alike drawn, and the model was trained on neither: ask `result.infer(new)`.
        Without: the same of systems whose changes are what the learned laws say plus
        the errors that they left in the data, which takes the laws at their word. Sets
        are larger where the energy is higher, and full where it is beyond that of all
        calibration systems, or the verdict does not support the relations.

        Args:
          coverage: Above 0 and below 1.
          calibration: Labelled systems in any form with labels, such as a
            `TrajectoryDataset`; None to do without.
          num_resampled: Systems that calibrate where there are no labels.
          seed: Of the searches and draws.

        Raises:
          DataError: If labels are missing, or labelled systems are too few.
          ValueError: If an option is out of range.
        """
        return sets.relation_sets(self, coverage, calibration, num_resampled, seed)

    def strengths(self) -> Strengths:
        """How strong every edge is: a number by which the law of a relation is taken.

        Edges of "no interaction" get the law of their likeliest other relation, and
        relations that differ by a factor one law, so that strengths can be compared. By
        what a receiver is moved more than others, all strengths into it are larger.
        Laws are fitted once more for it, together with the strengths. Where the verdict
        finds nothing that depends on other entities, standard errors are infinite.

        Raises:
          ValueError: If messages are not terms of a sum.
        """
        verdict = self.verdict
        return find_strengths(
            self.model, self.params, self.dataset, self.found
        ).believed(verdict is None or verdict.num_relations > 0)

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
        """Finds entities that were not recorded, by what they do to those that were.

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
        option_types.check("config", config, HiddenConfig | None)
        dataset = self.dataset
        if trajectories is not None:
            dataset = transfer.read_more(
                trajectories, self.dataset, columns, frame_interval, arrays
            )
        verdict = self.verdict
        found = find_hidden(
            self.model,
            self.params,
            dataset,
            num_hidden=num_hidden,
            max_hidden=max_hidden,
            config=with_symmetry(config or HiddenConfig(), self.found.edges),
        ).believed(verdict is None or verdict.supported)
        return found if trajectories is not None else found.with_note(SAME_SYSTEMS)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes all of it to one `.npz`, which `modmeta.relational.load` reads.

        Args:
          path: File to write; `.npz` is added where it is missing. One that exists is
            replaced in one step.

        Returns:
          The file that was written.

        Raises:
          ValueError: If `path` is no path.
        """
        return storage.save(
            path, self.dataset, self.discovery, dataclasses.asdict(self.inference)
        )

    def plot(self, num_systems: int = 4, num_steps: int = 20) -> dict[str, Any]:
        """Figures of the relations and of the predicted trajectories.

        Args:
          num_systems: Systems to draw.
          num_steps: Frames to predict.

        Raises:
          ValueError: If a number is none, or below 1.

        Returns:
          Matplotlib figures by name: "adjacency", "trajectories" (not with inputs,
          whose future is unknown) and, where there are laws, "laws".
        """
        from modmeta.relational.results import drawing

        for name, number in (("num_systems", num_systems), ("num_steps", num_steps)):
            if option_types.check(name, number, int) < 1:
                raise ValueError(f"{name}: found {number}, expected at least 1")
        has_future = not self.dataset.features.inputs  # which would have to be given
        predicted = self.predict(num_steps) if has_future else None
        return drawing.draw(self, predicted, num_systems)

    def rank_pairs(self, method: str | None = None) -> np.ndarray:
        """Scores of all pairs by another method than probabilities of relations.

        Args:
          method: "strengths" for `strengths`, where modules are laws, or, where nodes
            have series, a name in `classical.METHODS`; None for the one that the
            verdict recommends.

        Returns:
          `[tasks, nodes, nodes]`, row = receiver, column = sender, larger for likelier
          edges; NaN where there is no pair. See `classical.rank_pairs`.

        Raises:
          DataError: If a classical method finds no series, or too few frames.
          ValueError: If there is no such method, or the verdict recommends none.
        """
        method = export.ranking_method(self, method)
        if method == STRENGTHS:
            return self.strengths().values
        return classical.rank_pairs(self.dataset, method)

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

        Raises:
          ValueError: If there is no such relation, or not a name for each.
        """
        option_types.check("skip_relation", skip_relation, int | None)
        count = self.model.num_relations
        if skip_relation is not None and not 0 <= skip_relation < count:
            raise ValueError(
                f"skip_relation: found {skip_relation}, expected 0 to {count - 1}"
            )
        return export.to_networkx(
            self, relation_names or self.relation_names, skip_relation
        )

    def to_dataframe(self, *, strengths: bool = False) -> pandas.DataFrame:
        """A pandas data frame with a row per edge.

        Columns: `system`, `sender`, `receiver`, `relation` (its number), `name`, and
        `probability_0` and so on.

        Args:
          strengths: Whether `strength` and `strength_error` are columns, too.
        """
        return export.to_dataframe(self, self._strengths_if(strengths))

    def to_csv(self, path: str | os.PathLike[str], *, strengths: bool = False) -> None:
        """Writes one line per edge: system, sender, receiver, relation, probabilities.

        Args:
          path: File to write.
          strengths: Whether strengths and their errors are columns, too.
        """
        export.to_csv(self, path, self._strengths_if(strengths))

    def _strengths_if(self, wanted: bool) -> Strengths | None:
        return (
            self.strengths() if option_types.check("strengths", wanted, bool) else None
        )
