"""Relational inference in three lines.

Example::

    from modmeta.relational import infer_relations

    result = infer_relations(trajectories, num_relations=2)
    result.edges, result.probabilities, result.predict(20)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from modmeta import devices, supergraphs
from modmeta.edges import EdgeLists
from modmeta.progress import ProgressMeter
from modmeta.relational import batching, evaluation, inference, neighbors
from modmeta.relational import training as training_lib
from modmeta.relational.bouncegrad import BounceGradConfig
from modmeta.relational.data import FeatureSpec, TrajectoryDataset
from modmeta.relational.data.normalization import denormalize
from modmeta.relational.inference import InferenceConfig
from modmeta.relational.model import ModelParams, RelationalModel, SearchConfig
from modmeta.relational.modules import ModuleBank, ModuleConfig
from modmeta.relational.preprocessing import fit_preprocessing
from modmeta.relational.proposal_head import ProposalConfig
from modmeta.relational.training import TrainingConfig

_MAX_VALID = 200


def build_model(
    train_set: TrajectoryDataset,
    rng_key: jax.Array,
    *,
    modules: ModuleConfig | None = None,
    proposal: ProposalConfig | None = None,
    search: SearchConfig | None = None,
    baseline: str = "auto",
    compress: bool = True,
) -> tuple[RelationalModel, ModelParams]:
    """Fits the preprocessing and draws the parameters of a model.

    Args:
      train_set: Training systems, observed frames, raw units.
      rng_key: Consumed.
      modules: Options of the bank.
      proposal: Options of the proposal head.
      search: Options of the search.
      baseline: See `preprocessing.fit_preprocessing`.
      compress: See `preprocessing.FeatureLayout`.

    Returns:
      The model and its arrays.
    """
    preprocessing, layout = fit_preprocessing(
        train_set, baseline=baseline, compress=compress
    )
    bank = ModuleBank(modules or ModuleConfig(), layout)
    model = RelationalModel(
        bank, proposal or ProposalConfig(), search or SearchConfig()
    )
    # A pair of nodes: the head is run once to draw its parameters.
    supergraph = supergraphs.build_supergraph([2], supergraphs.padding_budget([2], 1))
    return model, model.init(rng_key, preprocessing, supergraph, train_set.num_frames)


def split_validation(
    dataset: TrajectoryDataset, seed: int
) -> tuple[TrajectoryDataset, TrajectoryDataset]:
    """Sets a tenth of the systems aside (8 to 200) to choose the model by energy.

    Data sets of fewer than 16 systems serve for both.

    Args:
      dataset: All systems that training may see.
      seed: Seed of the split.

    Returns:
      `(training systems, validation systems)`.
    """
    if dataset.num_tasks < 16:
        return dataset, dataset
    num_valid = int(np.clip(dataset.num_tasks // 10, 8, _MAX_VALID))
    order = np.random.default_rng((seed, 1)).permutation(dataset.num_tasks)
    return dataset.take(order[num_valid:]), dataset.take(order[:num_valid])


def infer_dataset(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    config: InferenceConfig,
    *,
    start: evaluation.Inference | None = None,
    mesh: Mesh | None = None,
) -> evaluation.Inference:
    """Infers the relations of every system of a data set under frozen modules.

    With several processes, all of them call this on the same arguments and all get
    the relations of every system.

    Args:
      rng_key: Consumed.
      model: The model.
      params: Its arrays.
      dataset: Observed systems, raw units, as many frames as in training.
      config: Options of the search.
      start: Structures to start from; None for a cold start.
      mesh: Devices that share the work, see `devices.build_mesh`; None for one.

    Returns:
      Edges, probabilities and energies; what is no candidate edge of the model has
      relation -1 and probabilities 0.

    Raises:
      MemoryError: If the search would not fit into memory.
      ValueError: If processes do not agree on the arguments.
    """
    edges = model.candidate_edges(dataset)
    states = training_lib.device_states(dataset, params.preprocessing.normalization)
    batches = batching.all_batches(dataset.num_nodes, config.batch_size, edges)
    structures = None if start is None else start.structures
    rng_key, params, states, batches, structures = devices.replicate(
        (rng_key, params, states, batches, structures), mesh
    )
    found = inference.infer(
        rng_key, model, params, states, batches, structures, config, mesh
    )
    found = evaluation.to_host(devices.to_local(found, mesh), dataset.node_mask)
    return keep_candidates(found, edges, dataset)


def keep_candidates(
    found: evaluation.Inference, edges: EdgeLists, dataset: TrajectoryDataset
) -> evaluation.Inference:
    """Marks as no edge, -1, all pairs that are no candidates.

    Args:
      found: Relations found, in the layout of labels.
      edges: Candidate edges of every system.
      dataset: The systems.
    """
    mask = neighbors.candidate_mask(edges, dataset.num_nodes, dataset.max_nodes)
    return found._replace(
        edges=neighbors.drop_others(found.edges, mask),
        proposal_edges=neighbors.drop_others(found.proposal_edges, mask),
    )


@dataclasses.dataclass(frozen=True)
class RelationalInference:
    """What `infer_relations` returns.

    Attributes:
      dataset: The systems.
      model: Static description of the trained model.
      params: Its arrays.
      found: Relations found, see `evaluation.Inference`.
    """

    dataset: TrajectoryDataset
    model: RelationalModel
    params: ModelParams
    found: evaluation.Inference

    @property
    def edges(self) -> np.ndarray:
        """`[tasks, nodes, nodes]` relation of every edge.

        Row = receiver, column = sender, -1 where there is no edge. Relations are
        named 0 to K - 1 in an order without meaning.
        """
        return self.found.edges

    @property
    def probabilities(self) -> np.ndarray:
        """`[tasks, nodes, nodes, K]` from chains at temperature 1."""
        return self.found.probabilities

    @property
    def edge_accuracy(self) -> float | None:
        """Share of edges that agree with the labels, names matched; None without.

        Of the candidate edges: see `candidate_share`.
        """
        if self.dataset.edges is None:
            return None
        scores = evaluation.label_scores(
            self.found, self.dataset, self.model.num_relations
        )
        return scores["edge_accuracy"]

    @property
    def candidate_share(self) -> float | None:
        """Share of labelled pairs that are candidates, hence scored; None without."""
        if self.dataset.edges is None:
            return None
        return neighbors.candidate_share(self.dataset.edges, self.edges)

    def predict(self, num_steps: int) -> np.ndarray:
        """Frames that follow the last one, `[tasks, num_steps, nodes, features]`.

        In the units of the input; zeros at padded nodes.

        Args:
          num_steps: Frames to predict, at least 1.
        """
        if num_steps < 1:
            raise ValueError(f"num_steps: found {num_steps}, expected at least 1")
        normalized = evaluation.predict(
            self.model, self.params, self.dataset, self.found.structures, num_steps
        )
        normalization = jax.tree.map(
            np.asarray, self.params.preprocessing.normalization
        )
        states = denormalize(normalization, normalized)
        return np.where(self.dataset.node_mask[:, None, :, None], states, 0.0)

    def plot(self, num_systems: int = 4, num_steps: int = 20) -> dict[str, Any]:
        """Figures of the relations and of the predicted trajectories.

        Args:
          num_systems: Systems to draw.
          num_steps: Frames to predict.

        Returns:
          Matplotlib figures by name: "adjacency", "trajectories".
        """
        from modmeta.relational import figures

        labels, names = self.dataset.edges, None
        if labels is not None:
            names = evaluation.match_labels(
                self.edges,
                labels,
                self.model.num_relations,
                self.dataset.num_relations,
            )
        spec = self.dataset.features
        return {
            "adjacency": figures.plot_adjacency(
                self.edges,
                labels,
                self.probabilities,
                num_systems,
                matching=names,
            ),
            "trajectories": figures.plot_trajectories(
                self.dataset.states,
                self.predict(num_steps),
                self.dataset.num_frames,
                spec.positions[:2] if len(spec.positions) >= 2 else None,
                num_systems=num_systems,
                node_mask=self.dataset.node_mask,
                feature_names=spec.names,
            ),
        }

    def to_networkx(self) -> list[Any]:
        """One `networkx.DiGraph` per system, sender to receiver."""
        from modmeta.relational import export

        return export.edges_to_networkx(
            self.edges, self.probabilities, node_mask=self.dataset.node_mask
        )

    def to_csv(self, path: str) -> None:
        """Writes one line per edge: system, sender, receiver, relation, probabilities.

        Args:
          path: File to write.
        """
        from modmeta.relational import export

        export.write_edges_csv(path, self.edges, self.probabilities)


def as_dataset(
    trajectories: npt.ArrayLike | TrajectoryDataset,
    *,
    labels: npt.ArrayLike | None = None,
    feature_names: Sequence[str] | None = None,
    positions: Sequence[int] = (),
    velocities: Sequence[int] = (),
    sines: Sequence[int] = (),
    cosines: Sequence[int] = (),
    frame_interval: float = 1.0,
) -> TrajectoryDataset:
    """Wraps an array `[tasks, time, nodes, features]` as a data set.

    Args:
      trajectories: The array, or a data set, which is returned as it is.
      labels: `[tasks, nodes, nodes]` true relations, for evaluation alone.
      feature_names: Names of the features.
      positions: Feature columns that are positions.
      velocities: Feature columns that are the velocities of these positions.
      sines: Feature columns that are the sines of angles.
      cosines: Feature columns that are the cosines of these angles.
      frame_interval: Time between frames, in the time unit of the velocities.

    Raises:
      DataError: If the array is not what it should be.
      ValueError: If a data set comes with labels or features besides.
    """
    if isinstance(trajectories, TrajectoryDataset):
        roles = (positions, velocities, sines, cosines)
        if labels is not None or feature_names or any(roles):
            raise ValueError(
                "trajectories: found a TrajectoryDataset together with labels or "
                "names or roles of features, expected these inside the data set"
            )
        return trajectories
    array = np.asarray(trajectories)
    num_features = array.shape[-1] if array.ndim else 0
    names = tuple(feature_names or (f"feature_{i}" for i in range(num_features)))
    return TrajectoryDataset(
        states=array,
        features=FeatureSpec(names, positions, velocities, sines, cosines),
        frame_interval=frame_interval,
        edges=labels,
    )


def infer_relations(
    trajectories: npt.ArrayLike | TrajectoryDataset,
    num_relations: int = 2,
    *,
    labels: npt.ArrayLike | None = None,
    positions: Sequence[int] = (),
    velocities: Sequence[int] = (),
    sines: Sequence[int] = (),
    cosines: Sequence[int] = (),
    frame_interval: float = 1.0,
    seed: int = 0,
    modules: ModuleConfig | None = None,
    proposal: ProposalConfig | None = None,
    search: SearchConfig | None = None,
    training: BounceGradConfig | None = None,
    loop: TrainingConfig | None = None,
    inference_config: InferenceConfig | None = None,
    mesh: Mesh | None = None,
    progress: ProgressMeter | None = None,
) -> RelationalInference:
    """Finds which relation holds on every edge, and the dynamics, without labels.

    Args:
      trajectories: `[tasks, time, nodes, features]`, or a `TrajectoryDataset`.
      num_relations: Number of relations K to tell apart ("no relation" is one).
      labels: `[tasks, nodes, nodes]` true relations, row = receiver; used for
        `edge_accuracy` and figures alone.
      positions: Feature columns that are positions. Naming positions and velocities,
        or angles, lets the modules see relative geometry, which needs far less data.
      velocities: Feature columns that are the velocities of these positions.
      sines: Feature columns that are the sines of angles (phases, headings).
      cosines: Feature columns that are the cosines of these angles.
      frame_interval: Time between frames, in the time unit of the velocities.
      seed: Seed of everything random.
      modules: Options of the bank; its number of relations is overridden.
      proposal: Options of the proposal head.
      search: Options of the search.
      training: Options of BounceGrad.
      loop: Options of the training loop.
      inference_config: Options of the final search.
      mesh: Devices that share the final search; training stays on one.
      progress: Progress meter, for instance `modmeta.progress.TqdmProgress()`.

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
        frame_interval=frame_interval,
    )
    modules = dataclasses.replace(
        modules or ModuleConfig(), num_relations=num_relations
    )
    training = training or BounceGradConfig()
    inference_config = inference_config or InferenceConfig()
    (search or SearchConfig()).check_algorithm(inference_config.algorithm)
    unlabelled = dataset.without_labels()
    train_set, valid_set = split_validation(unlabelled, seed)
    key_init, key_infer = jax.random.split(jax.random.key(seed))
    model, params = build_model(
        train_set,
        key_init,
        modules=modules,
        proposal=proposal,
        search=search,
    )
    result = training_lib.train(
        model,
        params,
        train_set,
        valid_set,
        training,
        loop or TrainingConfig(),
        seed=seed,
        progress=progress,
    )
    found = infer_dataset(
        key_infer,
        model,
        result.params,
        unlabelled,
        inference_config,
        mesh=mesh,
    )
    return RelationalInference(dataset, model, result.params, found)
