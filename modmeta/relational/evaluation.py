"""Meta-test: relations and predictions on unseen systems, modules frozen.

Protocol of Kipf et al. 2018 and Alet et al. 2019, section 5.1: the first frames of a
test system infer its structure, the frames that follow are predicted freely. Errors
are mean squared errors in normalised units over systems, nodes and predicted features.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta import search
from modmeta.relational import batching, bouncegrad, matching
from modmeta.relational.bouncegrad import TaskBatch, TaskStructures
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.dataset import NO_EDGE
from modmeta.relational.data.validation import pair_mask
from modmeta.relational.inference import InferredStructures
from modmeta.relational.model import ModelParams, RelationalModel
from modmeta.relational.training import device_states


class Inference(NamedTuple):
    """Relations found on a data set, on the host.

    Attributes:
      edges: `[tasks, nodes, nodes]` int32, row = receiver, column = sender, -1 where
        there is no edge.
      node_modules: `[tasks, nodes]` int32.
      probabilities: `[tasks, nodes, nodes, K]`, zeros where there is no edge.
      proposal_edges: `[tasks, nodes, nodes]` most likely relation under the proposal
        head, -1 where there is no edge.
      energies: `[tasks]` nats.
      num_proposals: `[tasks]` structures evaluated in the search.
      best_energies: `[tasks, steps]` lowest energy so far.
    """

    edges: np.ndarray
    node_modules: np.ndarray
    probabilities: np.ndarray
    proposal_edges: np.ndarray
    energies: np.ndarray
    num_proposals: np.ndarray
    best_energies: np.ndarray

    @property
    def is_sampled(self) -> bool:
        """Whether there are probabilities: whether the search ended in samples."""
        return bool(np.any(self.probabilities))

    @property
    def structures(self) -> TaskStructures:
        """The structures as the search takes them."""
        return TaskStructures(
            jnp.asarray(np.maximum(self.edges, 0)), jnp.asarray(self.node_modules)
        )


def to_host(found: InferredStructures, node_mask: np.ndarray) -> Inference:
    """Brings inferred structures to the host in the layout of labels."""
    is_edge = pair_mask(node_mask)
    found = jax.device_get(found)
    return Inference(
        edges=np.where(is_edge, found.structures.edge_modules, NO_EDGE),
        node_modules=found.structures.node_modules,
        probabilities=found.probabilities,
        proposal_edges=np.where(
            is_edge, np.argmax(found.proposal_logits, axis=-1), NO_EDGE
        ).astype(np.int32),
        energies=found.energies,
        num_proposals=found.num_proposals,
        best_energies=found.best_energies,
    )


def structures_to_host(structures: TaskStructures, node_mask: np.ndarray) -> Inference:
    """Structures alone in the layout of labels; nothing else is known of them."""
    num_tasks, num_nodes = node_mask.shape
    edges = np.where(pair_mask(node_mask), structures.edge_modules, NO_EDGE)
    nothing = np.zeros((num_tasks, num_nodes, num_nodes, 1), np.float32)
    return Inference(
        edges=edges,
        node_modules=np.asarray(structures.node_modules),
        probabilities=nothing,
        proposal_edges=np.full_like(edges, NO_EDGE),
        energies=np.full(num_tasks, np.nan),
        num_proposals=np.zeros(num_tasks, np.int32),
        best_energies=np.full((num_tasks, 0), np.nan),
    )


def match_labels(
    edges: np.ndarray, labels: np.ndarray, num_found: int, num_true: int
) -> np.ndarray:
    """One assignment of found to true relations for the whole data set, `[K]`."""
    confusion = matching.confusion_matrix(edges, labels, num_found, num_true)
    return matching.match_relations(confusion)


def label_scores(
    found: Inference, dataset: TrajectoryDataset, num_relations: int
) -> dict[str, float]:
    """Edge accuracy of the search and of the proposal head, each matched by itself."""
    labels, num_true = dataset.edges, dataset.num_relations
    scores = {}
    for name, edges in (
        ("edge_accuracy", found.edges),
        ("proposal_accuracy", found.proposal_edges),
    ):
        names = match_labels(edges, labels, num_relations, num_true)
        scores[name] = matching.edge_accuracy(edges, labels, names)
    return scores


def structures_from_labels(
    labels: np.ndarray, names: np.ndarray, num_relations: int
) -> np.ndarray:
    """The true graph in the names of the modules.

    Args:
      labels: `[tasks, nodes, nodes]` true relations.
      names: `[K]` true name of every module, from `match_labels`.
      num_relations: Number of modules K.

    Returns:
      `[tasks, nodes, nodes]`; a true relation that no module stands for becomes
      module 0.
    """
    num_true = max(int(labels.max()), int(np.max(names))) + 1
    module_of = np.zeros(num_true, np.int32)
    module_of[names[:num_relations]] = np.arange(num_relations)
    return np.where(labels >= 0, module_of[np.maximum(labels, 0)], NO_EDGE)


@functools.partial(jax.jit, static_argnames=("model", "num_steps"))
def _predict(
    model: RelationalModel,
    params: ModelParams,
    states: jax.Array,
    batches: TaskBatch,
    structures: TaskStructures,
    num_steps: int,
) -> jax.Array:
    """Rolls out from `[tasks, nodes, F]` to `[tasks, nodes, num_steps, F]`."""

    def one_batch(batch):
        graph = batch.supergraph
        structure: search.Structure = bouncegrad.gather_structure(
            structures, batch.tasks, graph
        )
        start = bouncegrad.gather_states(states, batch.tasks, graph)

        def body(current, _):
            following = model.bank.step(
                params.modules,
                params.preprocessing,
                structure,
                current,
                graph.slot_senders,
                graph.slot_mask,
            )
            return following, following

        _, rollout = jax.lax.scan(body, start, None, length=num_steps)
        values = jnp.moveaxis(rollout, 0, 1)[graph.system_nodes]
        return values * graph.system_mask[..., None, None]

    rollouts = jax.lax.map(one_batch, batches)
    rollouts = rollouts.reshape(-1, *rollouts.shape[2:])[: states.shape[0]]
    # The node axis may be longer than the largest of these systems.
    missing = states.shape[1] - rollouts.shape[1]
    return jnp.pad(rollouts, ((0, 0), (0, missing), (0, 0), (0, 0)))


def predict(
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    structures: TaskStructures,
    num_steps: int,
    *,
    batch_size: int = 100,
) -> np.ndarray:
    """Predicts the frames that follow the last frame of every system.

    Args:
      model: The model.
      params: Its arrays.
      dataset: Observed systems, raw units.
      structures: Their structures.
      num_steps: Frames to predict.
      batch_size: Systems at once.

    Returns:
      `[tasks, num_steps, nodes, F]` in normalised units, zeros at padded nodes.
    """
    states = device_states(dataset, params.preprocessing.normalization)
    batches = batching.all_batches(dataset.num_nodes, batch_size)
    rollout = _predict(model, params, states[:, :, -1], batches, structures, num_steps)
    return np.asarray(jnp.swapaxes(rollout, 1, 2))


def baseline_predictions(
    states: np.ndarray, num_steps: int, step_matrix: np.ndarray, step_offset: np.ndarray
) -> dict[str, np.ndarray]:
    """Static and constant-velocity predictions.

    Args:
      states: `[tasks, time, nodes, F]` normalised observed frames.
      num_steps: Frames to predict.
      step_matrix: `[F, F]` and
      step_offset: `[F]` of a constant-velocity step; where they are the identity
        (no velocities known) the last observed change is repeated instead.

    Returns:
      "static" and "constant_velocity", each `[tasks, num_steps, nodes, F]`.
    """
    last = states[:, -1]
    static = np.repeat(last[:, None], num_steps, axis=1)
    if np.array_equal(step_matrix, np.eye(len(step_matrix))):
        change = last - states[:, -2]
        steps = np.arange(1, num_steps + 1)[None, :, None, None]
        moving = last[:, None] + steps * change[:, None]
    else:
        frames = [last]
        for _ in range(num_steps):
            frames.append(frames[-1] @ step_matrix + step_offset)
        moving = np.stack(frames[1:], axis=1)
    return {"static": static, "constant_velocity": moving}


def prediction_errors(
    prediction: np.ndarray,
    truth: np.ndarray,
    node_mask: np.ndarray,
    columns: Sequence[int],
) -> np.ndarray:
    """Mean squared error of every predicted frame.

    Args:
      prediction: `[tasks, steps, nodes, F]` normalised.
      truth: Same shape.
      node_mask: `[tasks, nodes]`.
      columns: Features that count.

    Returns:
      `[steps]`, averaged over systems, real nodes and the given features.
    """
    squared = np.square(prediction - truth)[..., list(columns)].mean(axis=-1)
    weights = np.broadcast_to(node_mask[:, None], squared.shape)
    return np.average(squared, axis=(0, 2), weights=weights)


def errors_at(errors: np.ndarray, steps: Sequence[int]) -> dict[str, float]:
    """Picks the errors at some steps, counted from 1, as far as they exist."""
    return {str(step): float(errors[step - 1]) for step in steps if step <= len(errors)}
