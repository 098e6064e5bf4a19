"""Finds hidden entities in a data set: how many, where, and how they are related.

Letters: T frames, F features, N node axis of the data set, K relations.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.data.dataset import NO_EDGE
from modmeta.relational.data.domains import check_walls
from modmeta.relational.data.frames import Frames
from modmeta.relational.hidden import search
from modmeta.relational.hidden.combining import (
    LEAST_EFFECT,
    combine,
    evidence_of,
    number_of,
)
from modmeta.relational.hidden.config import HiddenConfig
from modmeta.relational.hidden.found import HiddenEntities
from modmeta.relational.hidden.search import Level
from modmeta.relational.inference.features import check_time_unit
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.states import host_states
from modmeta.runtime import option_types

# Assignments of the slots of a receiver that are listed.
MAX_ROWS = 4096
# A trajectory is known if its deviations are below this, where data fill -1 to 1.
_SURE = 0.1
# Where errors go on from frame to frame or exceed what the model expects by more than
# this, something is left to explain, and no trajectory is known.
_MOST_MISFIT = 6.0
# A path that breaks at more of its joints obeys no law.
_MOST_BREAKS = 0.25
# Share of pairs whose edges agree from which on they are taken to.
_MUTUAL = 0.9
MOST_HIDDEN = 3
_SUBSTEPS = {"interpolated": 2, "two_body": 8}


def with_symmetry(config: HiddenConfig, edges: np.ndarray) -> HiddenConfig:
    """Options that take relations to be mutual if nearly all are among known entities.

    Args:
      config: Options; what they say themselves stays.
      edges: `[tasks, N, N]` relations of known entities.
    """
    if config.symmetric is not None:
        return config
    opposite = np.swapaxes(edges, 1, 2)
    is_pair = (edges >= 0) & (opposite >= 0)
    share = np.mean(edges[is_pair] == opposite[is_pair]) if is_pair.any() else 0.0
    return dataclasses.replace(config, symmetric=bool(share > _MUTUAL))


def find_hidden(
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    *,
    num_hidden: int | str = "auto",
    max_hidden: int = 2,
    config: HiddenConfig | None = None,
) -> HiddenEntities:
    """Finds entities that were not recorded by what they do to the visible ones.

    Nothing is random: starts are read off the motion of the visible entities.

    Args:
      model: The model; its modules were trained on complete systems.
      params: Its arrays.
      dataset: The systems, raw units; labels are not looked at.
      num_hidden: How many there are in every system; "auto" for as many as the data
        tell, of at most `max_hidden`.
      max_hidden: See above.
      config: How thoroughly; None for the defaults.

    Raises:
      ValueError: If the model or a number does not allow it; the message says why.
      DataError: If the data do not.
    """
    option_types.check("config", config, HiddenConfig | None)
    config = config or HiddenConfig()
    check_time_unit(dataset, model.bank.layout, params.preprocessing)
    dataset, most = check(
        model, dataset, num_hidden=num_hidden, max_hidden=max_hidden, config=config
    )
    symmetric = config.symmetric
    if symmetric is None:
        symmetric = model.bank.config.law == "mutual" or model.energy.prior != "none"
    path = model.bank.config.path
    substeps = config.num_substeps or _SUBSTEPS[path]
    pieces = config.piece_length
    if pieces is None:
        pieces = int(path == "two_body")
    config = dataclasses.replace(
        config, symmetric=symmetric, num_substeps=substeps, piece_length=pieces
    )
    modules = model.network.modules(params)
    frames = host_states(dataset, params.preprocessing.normalization)
    shape = (*dataset.states.shape[:3], model.num_relations)
    is_auto = num_hidden == "auto"
    found = _Found.empty(shape, most, dataset.features.num_features)
    for size in np.unique(dataset.num_nodes):
        tasks = np.flatnonzero(dataset.num_nodes == size)
        # Real nodes first, in their order.
        order = np.argsort(~dataset.node_mask[tasks], axis=1, kind="stable")[:, :size]
        where = (tasks[:, None], order)
        some = Frames(
            *(None if leaf is None else leaf[where] for leaf in frames[:3]), None, None
        )
        systems = search.scenes_of(modules, some, substeps)

        def attempt(systems, config, size=int(size)):
            levels = search.all_levels(modules, systems, most, config)
            evidence = evidence_of(levels, size, model.num_relations)
            number = number_of(evidence) if is_auto else most
            number = np.broadcast_to(number, len(evidence))
            return Attempt(levels, evidence, number)

        first = attempt(systems, config)
        is_left = ~first.is_explained & config.is_repeated
        for row in np.flatnonzero(is_left):
            one = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], systems)
            again = attempt(one, config.more_thorough())
            is_better = again.is_explained[0] or again.misfit[0] < first.misfit[row]
            is_left[row] = is_better
            if is_better:
                where = slice(row, row + 1)
                found.write(tasks[where], order[where], again, is_auto)
        done = ~is_left
        found.write(tasks[done], order[done], first.of(done), is_auto)
    return found.to_entities(dataset, params, symmetric)


def check(
    model: RelationalModel,
    dataset: TrajectoryDataset,
    *,
    num_hidden: int | str = "auto",
    max_hidden: int = 2,
    config: HiddenConfig,
) -> tuple[TrajectoryDataset, int]:
    """Refuses what could not be looked for, before anything is computed.

    Arguments and errors are those of `find_hidden`.

    Returns:
      The data set as the model reads it, and the largest number to look for.
    """
    most = _most_hidden(num_hidden, max_hidden)
    _check_model(model)
    dataset = model.read(dataset.without_labels())
    check_walls(config.domain, dataset)
    _check_data(model, dataset, most)
    return dataset, most


def _most_hidden(num_hidden: int | str, max_hidden: int) -> int:
    """Largest number of hidden entities to look for."""
    name, most = "max_hidden", max_hidden
    if num_hidden != "auto":
        name, most = "num_hidden", num_hidden
    is_number = isinstance(most, int | np.integer) and not isinstance(most, bool)
    if not is_number or not 1 <= most <= MOST_HIDDEN:
        also = " or 'auto'" if name == "num_hidden" else ""
        raise ValueError(
            f"{name}: found {most!r}, expected a number from 1 to {MOST_HIDDEN}{also}"
        )
    return int(most)


def _check_model(model: RelationalModel) -> None:
    bank = model.bank
    if not bank.has_laws:
        raise ValueError(
            f"path: found {bank.config.path!r}, expected laws: messages from the first "
            "frame do not say how a hidden entity moves"
        )
    spec = bank.layout.spec
    moving = {*spec.positions, *spec.velocities}
    if not spec.has_motion or set(bank.layout.predicted) != moving:
        names = [spec.names[column] for column in bank.layout.predicted]
        raise ValueError(
            f"features: found {names} that change, expected positions and their "
            "velocities, all of them and nothing else: places of hidden entities are "
            "read off forces"
        )
    if spec.inputs or spec.periodic:
        names = [spec.names[column] for column in spec.inputs]
        raise ValueError(
            f"features: found inputs {names} and periodic columns {spec.periodic}, "
            "expected neither: the inputs of a hidden entity are not known, nor which "
            "of its images acts"
        )
    if bank.config.num_node_modules > 1:
        raise ValueError(
            f"num_node_modules: found {bank.config.num_node_modules}, expected 1: "
            "which one a hidden entity has would be unknown too"
        )


def _check_data(model: RelationalModel, dataset: TrajectoryDataset, most: int) -> None:
    if dataset.breaks is not None:
        raise DataError(
            "breaks: found some, expected none: a hidden entity is followed from the "
            "first frame to the last"
        )
    if not np.all(dataset.is_present | ~dataset.node_mask[:, None]):
        raise DataError(
            "frame_mask: found entities that come late or leave early, expected all of "
            "them from the first frame to the last"
        )
    smallest, largest = int(dataset.num_nodes.min()), int(dataset.num_nodes.max())
    if smallest < 2:
        raise DataError(
            f"states: found a system of {smallest} entities, expected at least 2"
        )
    count = model.num_relations ** (largest - 1 + most)
    if count > MAX_ROWS:
        raise DataError(
            f"states: found a system of {largest} entities, in which one with {most} "
            f"hidden ones may have {count:,} combinations of {model.num_relations} "
            f"relations, expected at most {MAX_ROWS:,}: they are listed"
        )


class Attempt(NamedTuple):
    """What one search of some systems comes to.

    Attributes:
      levels: Fits with 0, 1, ... hidden entities, leaves `[S, M, ...]`.
      evidence: `[S, numbers]`, see `combining.evidence_of`.
      number: `[S]` of hidden entities that are taken.
    """

    levels: list[Level]
    evidence: np.ndarray
    number: np.ndarray

    @property
    def misfit(self) -> np.ndarray:
        """Of the best fit with the number that is taken, `[S]`."""
        return self._taken("temperature")

    @property
    def is_explained(self) -> np.ndarray:
        """Whether that fit leaves nothing to explain, and its paths obey the laws."""
        return (self.misfit < _MOST_MISFIT) & (self._taken("breaks") <= _MOST_BREAKS)

    def _taken(self, name: str) -> np.ndarray:
        """An assessment of the best fit with the chosen number, `[S]`."""
        each = [getattr(level.assessments, name)[:, 0] for level in self.levels]
        return np.stack(each, axis=1)[np.arange(len(self.number)), self.number]

    def of(self, rows: np.ndarray) -> Attempt:
        """The same of some of the systems."""
        levels = jax.tree.map(lambda leaf: leaf[rows], self.levels)
        return Attempt(levels, self.evidence[rows], self.number[rows])


@dataclasses.dataclass(frozen=True)
class _Found:
    """What is found, filled in one group of systems after the other; normalised."""

    num_hidden: np.ndarray
    states: np.ndarray
    deviations: np.ndarray
    is_known: np.ndarray
    edges: np.ndarray
    probabilities: np.ndarray
    evidence: np.ndarray
    misfit: np.ndarray
    effects: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, ...], most: int, num_features: int) -> _Found:
        """Nothing yet, for `[tasks, T, N, K]`."""
        num_tasks, num_frames, num_nodes, num_relations = shape
        motion = (num_tasks, num_frames, most, num_features)
        square = (num_tasks, num_nodes + most, num_nodes + most)
        return cls(
            num_hidden=np.zeros(num_tasks, int),
            states=np.full(motion, np.nan, np.float32),
            deviations=np.full(motion, np.inf, np.float32),
            is_known=np.zeros((num_tasks, most), bool),
            edges=np.full(square, NO_EDGE, np.int32),
            probabilities=np.zeros((*square, num_relations), np.float32),
            evidence=np.full((num_tasks, most + 1), np.inf, np.float32),
            misfit=np.ones(num_tasks, np.float32),
            effects=np.zeros((num_tasks, most), np.float32),
        )

    def write(
        self, tasks: np.ndarray, order: np.ndarray, attempt: Attempt, is_auto: bool
    ) -> None:
        """Fills in systems `tasks` with nodes `[S, V]`, number by number.

        Where their number is not given, those that act on a visible one count.
        """
        self.evidence[tasks] = attempt.evidence
        for count in np.unique(attempt.number):
            rows = attempt.number == count
            found = _write(self, tasks[rows], order[rows], attempt.of(rows), int(count))
            self.num_hidden[tasks[rows]] = found.sum(axis=1) if is_auto else count
        if is_auto:
            most = self.is_known.shape[1]
            idle = np.arange(most) >= self.num_hidden[tasks][:, None]
            rows, which = np.nonzero(idle)
            nodes = self.edges.shape[1] - most + which
            for values, nothing in ((self.edges, NO_EDGE), (self.probabilities, 0.0)):
                values[tasks[rows], nodes] = nothing
                values[tasks[rows], :, nodes] = nothing

    def to_entities(
        self, dataset: TrajectoryDataset, params: ModelParams, symmetric: bool
    ) -> HiddenEntities:
        """The same in the units and columns of the data."""
        normalization = jax.tree.map(np.asarray, params.preprocessing.normalization)
        columns = list(dataset.features.recorded)
        scale, offset = normalization.scale[columns], normalization.offset[columns]
        notes = [
            *dataset.notes,
            "Trajectories, and relations that end at a hidden entity, are those under "
            "laws that were learned from other systems: they are as good as these, if "
            "nothing was hidden there.",
        ]
        if not symmetric:
            notes.append(
                "What acts on a hidden entity shows in its motion alone: relations of "
                "a pair are not taken to be mutual here."
            )
        return HiddenEntities(
            num_hidden=self.num_hidden,
            states=self.states[..., columns] * scale + offset,
            deviations=self.deviations[..., columns] * scale,
            is_known=self.is_known,
            edges=self.edges,
            probabilities=self.probabilities,
            evidence=self.evidence,
            misfit=self.misfit,
            effects=self.effects,
            notes=tuple(notes),
        )


def _write(
    found: _Found, tasks: np.ndarray, order: np.ndarray, attempt: Attempt, count: int
) -> np.ndarray:
    """Fills in systems with a number of hidden entities, strongest first.

    Returns:
      `[S, count]` which of them act on a visible one, and are asked for.
    """
    level, evidence = attempt.levels[count], attempt.evidence
    combined = combine(level, found.probabilities.shape[-1])
    found.misfit[tasks] = level.assessments.temperature[:, 0]
    num_nodes = found.edges.shape[1] - found.states.shape[2]
    hidden = np.broadcast_to(num_nodes + np.arange(count), (len(tasks), count))
    nodes = np.concatenate([order, hidden], axis=1)
    where = (tasks[:, None, None], nodes[:, :, None], nodes[:, None])
    found.edges[where] = combined.edges
    found.probabilities[where] = combined.probabilities
    # Of those that the evidence does not ask for, the weakest come last.
    asked = np.argmin(evidence[:, : count + 1], axis=1)
    acts = combined.effects >= LEAST_EFFECT
    acts &= np.arange(count) < asked[:, None]
    if not count:
        return acts
    size = np.sqrt(np.mean(np.square(combined.deviations), axis=(2, 3)))
    found.is_known[tasks, :count] = (
        acts & (size < _SURE) & attempt.is_explained[:, None]
    )
    found.effects[tasks, :count] = combined.effects
    for name, empty in (("states", np.nan), ("deviations", np.inf)):
        values = combined.frames if name == "states" else combined.deviations
        values = np.where(acts[..., None, None], values, empty)
        getattr(found, name)[tasks, :, :count] = np.moveaxis(values, 1, 2)
    return acts
