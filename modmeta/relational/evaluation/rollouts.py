"""Meta-test: relations and predictions on unseen systems, modules frozen.

Protocol of Kipf et al. 2018 and Alet et al. 2019, section 5.1: the first frames of a
test system infer its structure, the frames that follow are predicted freely. Errors
are mean squared errors in normalised units over systems, nodes and predicted features.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from modmeta import search
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.integration import Domain, Integrator
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.tasks.batches import TaskBatch, all_batches
from modmeta.relational.tasks.states import device_states, gather_states
from modmeta.relational.tasks.structures import TaskStructures, gather_structure

# Substeps per frame are doubled until a prediction moves by less than this, in
# normalised units, at all but one in a hundred values; or until there are so many.
_TOLERANCE = 1e-4
_FIRST_SUBSTEPS, _MAX_SUBSTEPS = 8, 128


@functools.partial(
    jax.jit, static_argnames=("model", "num_steps", "num_substeps", "domain")
)
def _predict(
    model: RelationalModel,
    params: ModelParams,
    states: jax.Array,
    batches: TaskBatch,
    structures: TaskStructures,
    num_steps: int,
    num_substeps: int,
    domain: Domain,
) -> jax.Array:
    """Rolls out from `[tasks, nodes, F]` to `[tasks, nodes, num_steps, F]`."""
    modules = model.network.modules(params)

    def one_batch(batch):
        graph = batch.supergraph
        structure: search.Structure = gather_structure(structures, batch.tasks, graph)
        start = gather_states(states, batch.tasks, graph)
        slots = (graph.slot_senders, graph.slot_mask)

        def body(current, _):
            if model.bank.has_laws:
                following = Integrator(
                    modules, structure, *slots, num_substeps, domain
                ).advance(current)
            else:
                following = modules.step(structure, current[:, None], *slots)[:, 0]
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
    num_substeps: int = 0,
    domain: Domain | None = None,
    batch_size: int = 100,
) -> np.ndarray:
    """Predicts the frames that follow the last frame of every system.

    Args:
      model: The model.
      params: Its arrays.
      dataset: Observed systems, raw units.
      structures: Their structures.
      num_steps: Frames to predict.
      num_substeps: Steps per frame in which laws are integrated; 0 doubles them, from 8
        to at most 128, until that changes the prediction by less than 1e-4 in
        normalised units at 99 of 100 values.
      domain: Where bodies can be; None for everywhere.
      batch_size: Systems at once.

    Returns:
      `[tasks, num_steps, nodes, F]` in normalised units, zeros at padded nodes.

    Raises:
      ValueError: If walls are declared where there are no laws or no velocities.
    """
    domain = domain or Domain()
    bank = model.bank
    if domain.kind != "open":
        axes = len(bank.layout.spec.positions)
        if not (bank.has_laws and bank.layout.spec.has_motion):
            raise ValueError(
                f"domain: found {domain.kind!r} with path {bank.config.path!r}, "
                "expected laws of positions and velocities"
            )
        if len(domain.lower) != axes:
            raise ValueError(
                f"domain: found {len(domain.lower)} coordinates, expected {axes}"
            )
    states = device_states(dataset, params.preprocessing.normalization)
    batches = all_batches(dataset.num_nodes, batch_size)

    def run(num_substeps):
        found = _predict(
            model,
            params,
            states[:, :, -1],
            batches,
            structures,
            num_steps,
            num_substeps,
            domain,
        )
        return np.asarray(jnp.swapaxes(found, 1, 2))

    if num_substeps or not bank.has_laws:
        return run(num_substeps)
    count = _FIRST_SUBSTEPS
    found = run(count)
    while count < _MAX_SUBSTEPS:
        count *= 2
        finer = run(count)
        error = np.quantile(np.abs(finer - found), 0.99)
        found = finer
        if error < _TOLERANCE:
            break
    return found


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
