"""Charged bodies: force F_i = sum_j q_i q_j (x_i - x_j) / |x_i - x_j|^3."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.data.dataset import TrajectoryDataset
from modmeta.relational.data.simulators import batching, particles
from modmeta.relational.data.validation import PARTICLE_FEATURES

INITIAL_POSITION_SCALE = 1.0


def simulate_charged(
    seed: int,
    num_tasks: int,
    *,
    num_nodes: int = 5,
    num_frames: int = 49,
    charges: Sequence[float] = (-1.0, 1.0),
    probabilities: Sequence[float] | None = None,
    observation_noise: float = 0.0,
    task_batch: int | None = None,
) -> TrajectoryDataset:
    """Simulates charged bodies in a box; equal signs repel.

    The defaults give the "charged" data of Kipf et al., "Neural Relational Inference
    for Interacting Systems", ICML 2018: 5 bodies with charge -1 or +1 at random,
    positions normal with standard deviation 1, speed 0.5, walls at +-5, each
    component of the net force clipped to +-100, 5,000 steps of 0.001 with every
    100th recorded (49 frames; 99 for their test set). The random numbers differ from
    theirs. Distances come from coordinate differences; their generator expands the
    square, which loses digits for close pairs.

    Args:
      seed: Seed; task `t` is the same for every `num_tasks` and `task_batch`.
      num_tasks: Number of trajectories, each with its own charges.
      num_nodes: Number of bodies.
      num_frames: Number of frames, 0.1 time units apart.
      charges: Values that a charge may take. The label of an edge is the position of
        q_i q_j among the sorted distinct products: 0 attracts and 1 repels for the
        default.
      probabilities: Probability of each charge, uniform by default.
      observation_noise: Standard deviation of Gaussian noise added to every recorded
        feature, in their own units.
      task_batch: Tasks integrated together; it changes speed only.

    Returns:
      A labelled data set with features (x, y, vx, vy).

    Raises:
      ValueError: If a size is too small, or charges and probabilities disagree.
    """
    batching.check_simulation(
        num_tasks=num_tasks,
        num_nodes=num_nodes,
        num_frames=num_frames,
        observation_noise=observation_noise,
    )
    charges, probabilities = batching.check_types("charges", charges, probabilities)
    labels = product_labels(charges)
    chunk = functools.partial(
        _simulate_chunk,
        num_nodes=num_nodes,
        num_frames=num_frames,
        charges=charges,
        probabilities=probabilities,
    )
    states, charge_types = batching.simulate_in_chunks(
        chunk,
        seed,
        num_tasks,
        num_nodes=num_nodes,
        task_batch=task_batch,
        noise_scales=(observation_noise,) * 4,
    )
    return TrajectoryDataset(
        states=states,
        features=PARTICLE_FEATURES,
        frame_interval=particles.STEPS_PER_FRAME * particles.TIME_STEP,
        edges=labels[charge_types[:, :, None], charge_types[:, None, :]],
        num_relations=int(labels.max()) + 1,
    )


def product_labels(charges: Sequence[float]) -> np.ndarray:
    """Labels each pair of charge values by the rank of its product.

    Products that agree to nine digits share a label, so that values such as 0.1 and
    0.3 do not make two types out of one by rounding.

    Args:
      charges: Values that a charge may take, `[values]`.

    Returns:
      `[values, values]`, int32, from 0 to the number of distinct products minus one.
    """
    products = np.multiply.outer(np.asarray(charges), np.asarray(charges))
    ordered = np.sort(products, axis=None)
    starts = np.diff(ordered, prepend=ordered[0]) > 1e-9 * np.abs(ordered).max()
    ranks = np.cumsum(starts)
    return ranks[np.searchsorted(ordered, products)].astype(np.int32)


def charged_trajectory(
    position: Any,
    velocity: Any,
    couplings: Any,
    *,
    num_frames: int = 49,
    steps_per_frame: int = particles.STEPS_PER_FRAME,
    time_step: float = particles.TIME_STEP,
) -> jax.Array:
    """Integrates charges from given initial states; pure, differentiable JAX.

    Args:
      position: Initial positions `[tasks, nodes, 2]`.
      velocity: Initial velocities `[tasks, nodes, 2]`.
      couplings: e_ij = q_i q_j as `[tasks, nodes, nodes]`: push of sender `j`
        (column) on receiver `i` (row). The diagonal has no effect.
      num_frames: Number of recorded frames.
      steps_per_frame: Steps from one frame to the next.
      time_step: Length of a step.

    Returns:
      `[tasks, frames, nodes, 4]` with features (x, y, vx, vy), in the precision of
      the arguments. The initial state is not among the frames.
    """
    return particles.particle_trajectory(
        _force,
        position,
        velocity,
        couplings,
        num_frames=num_frames,
        steps_per_frame=steps_per_frame,
        time_step=time_step,
    )


def charged_energy(states: Any, couplings: Any) -> jax.Array:
    """Total energy, e_ij / d_ij per pair and 1/2 v^2 per body.

    Args:
      states: `[tasks, time, nodes, 4]` with features (x, y, vx, vy).
      couplings: e_ij = q_i q_j, `[tasks, nodes, nodes]`; the diagonal has no effect.

    Returns:
      `[tasks, time]`.
    """
    states, couplings = jnp.asarray(states), jnp.asarray(couplings)
    self_pair = jnp.eye(states.shape[2], dtype=states.dtype)[None, None]
    squares = jnp.sum(particles.pair_differences(states) ** 2, axis=-1) + self_pair
    # Every pair occurs twice in the sum over ordered pairs.
    potential = 0.5 * (1.0 - self_pair) * couplings[:, None] / jnp.sqrt(squares)
    return particles.kinetic_energy(states) + jnp.sum(potential, axis=(-2, -1))


def _force(couplings: jax.Array, position: jax.Array, velocity: jax.Array) -> jax.Array:
    del velocity
    differences = position[:, :, None] - position[:, None]
    # Unit distance of a body to itself: its difference of zero cancels the force.
    self_pair = jnp.eye(position.shape[1], dtype=position.dtype)[:, :, None]
    squares = differences[0] ** 2 + differences[1] ** 2 + self_pair
    weights = couplings / (squares * jnp.sqrt(squares))
    return jnp.sum(weights[None] * differences, axis=2)


@functools.partial(
    jax.jit,
    static_argnames=(
        "num_nodes",
        "num_frames",
        "charges",
        "probabilities",
    ),
)
def _simulate_chunk(
    rng_keys: jax.Array,
    *,
    num_nodes: int,
    num_frames: int,
    charges: tuple[float, ...],
    probabilities: tuple[float, ...],
) -> tuple[jax.Array, jax.Array]:
    def draw(rng_key: jax.Array) -> tuple[jax.Array, ...]:
        key_motion, key_charges = jax.random.split(rng_key)
        charge_types = jax.random.choice(
            key_charges, len(charges), (num_nodes,), p=jnp.asarray(probabilities)
        ).astype(jnp.int32)
        motion = particles.draw_motion(key_motion, num_nodes, INITIAL_POSITION_SCALE)
        return *motion, charge_types

    position, velocity, charge_types = jax.vmap(draw)(rng_keys)
    charge = jnp.asarray(charges)[charge_types]
    states = charged_trajectory(
        position,
        velocity,
        charge[:, :, None] * charge[:, None, :],
        num_frames=num_frames,
    )
    return states, charge_types
