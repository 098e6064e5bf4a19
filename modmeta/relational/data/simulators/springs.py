"""Bodies joined by springs: force F_i = -k sum_j e_ij (x_i - x_j), k = 0.1."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from modmeta.relational.data.dataset import TrajectoryDataset
from modmeta.relational.data.simulators import batching, particles
from modmeta.relational.data.validation import PARTICLE_FEATURES

SPRING_CONSTANT = 0.1
INITIAL_POSITION_SCALE = 0.5


def simulate_springs(
    seed: int,
    num_tasks: int,
    *,
    num_nodes: int = 5,
    num_frames: int = 49,
    strengths: Sequence[float] = (0.0, 1.0),
    probabilities: Sequence[float] | None = None,
    directed: bool = False,
    observation_noise: float = 0.0,
    task_batch: int | None = None,
) -> TrajectoryDataset:
    """Simulates bodies in a box, each pair joined by a spring of some type or none.

    The defaults give the "springs" data of Kipf et al., "Neural Relational Inference
    for Interacting Systems", ICML 2018: 5 bodies, each pair joined with probability
    1/2, positions normal with standard deviation 0.5, speed 0.5, walls at +-5, 5,000
    steps of 0.001 with every 100th recorded (49 frames; 99 for their test set). The
    random numbers differ from theirs.

    Args:
      seed: Seed; task `t` is the same for every `num_tasks` and `task_batch`.
      num_tasks: Number of trajectories, each with its own graph.
      num_nodes: Number of bodies.
      num_frames: Number of frames, 0.1 time units apart.
      strengths: Strength e_ij of each relation type; the label of an edge is its
        position here. (0, 0.5, 1) gives the three types of Kipf et al.
      probabilities: Probability of each type, uniform by default. A larger share of
        the type of strength 0 gives sparser graphs.
      directed: Draws e_ij and e_ji independently; else e_ij = e_ji.
      observation_noise: Standard deviation of Gaussian noise added to every recorded
        feature, in their own units.
      task_batch: Tasks integrated together; it changes speed only.

    Returns:
      A labelled data set with features (x, y, vx, vy).

    Raises:
      ValueError: If a size is too small, or strengths and probabilities disagree.
    """
    batching.check_simulation(
        num_tasks=num_tasks,
        num_nodes=num_nodes,
        num_frames=num_frames,
        observation_noise=observation_noise,
    )
    strengths, probabilities = batching.check_types(
        "strengths", strengths, probabilities
    )
    chunk = functools.partial(
        _simulate_chunk,
        num_nodes=num_nodes,
        num_frames=num_frames,
        strengths=strengths,
        probabilities=probabilities,
        directed=directed,
    )
    states, edges = batching.simulate_in_chunks(
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
        edges=edges,
        num_relations=len(strengths),
    )


def springs_trajectory(
    position: Any,
    velocity: Any,
    strengths: Any,
    *,
    num_frames: int = 49,
    steps_per_frame: int = particles.STEPS_PER_FRAME,
    time_step: float = particles.TIME_STEP,
) -> jax.Array:
    """Integrates springs from given initial states; pure, differentiable JAX.

    Args:
      position: Initial positions `[tasks, nodes, 2]`.
      velocity: Initial velocities `[tasks, nodes, 2]`.
      strengths: e_ij as `[tasks, nodes, nodes]`: pull of sender `j` (column) on
        receiver `i` (row). The diagonal has no effect.
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
        strengths,
        num_frames=num_frames,
        steps_per_frame=steps_per_frame,
        time_step=time_step,
    )


def springs_energy(states: Any, strengths: Any) -> jax.Array:
    """Total energy, 1/2 k e_ij d_ij^2 per pair and 1/2 v^2 per body.

    Args:
      states: `[tasks, time, nodes, 4]` with features (x, y, vx, vy).
      strengths: Symmetric e_ij, `[tasks, nodes, nodes]`; the diagonal has no effect.

    Returns:
      `[tasks, time]`.
    """
    states, strengths = jnp.asarray(states), jnp.asarray(strengths)
    squares = jnp.sum(particles.pair_differences(states) ** 2, axis=-1)
    # Every pair occurs twice in the sum over ordered pairs.
    potential = 0.25 * SPRING_CONSTANT * strengths[:, None] * squares
    return particles.kinetic_energy(states) + jnp.sum(potential, axis=(-2, -1))


def _force(strengths: jax.Array, position: jax.Array, velocity: jax.Array) -> jax.Array:
    del velocity
    differences = position[:, :, None] - position[:, None]
    return -SPRING_CONSTANT * jnp.sum(strengths[None] * differences, axis=2)


@functools.partial(
    jax.jit,
    static_argnames=(
        "num_nodes",
        "num_frames",
        "strengths",
        "probabilities",
        "directed",
    ),
)
def _simulate_chunk(
    rng_keys: jax.Array,
    *,
    num_nodes: int,
    num_frames: int,
    strengths: tuple[float, ...],
    probabilities: tuple[float, ...],
    directed: bool,
) -> tuple[jax.Array, jax.Array]:
    def draw(rng_key: jax.Array) -> tuple[jax.Array, ...]:
        key_motion, key_edges = jax.random.split(rng_key)
        edges = batching.draw_relations(
            key_edges, num_nodes, probabilities, directed=directed
        )
        motion = particles.draw_motion(key_motion, num_nodes, INITIAL_POSITION_SCALE)
        return *motion, edges

    position, velocity, edges = jax.vmap(draw)(rng_keys)
    states = springs_trajectory(
        position, velocity, jnp.asarray(strengths)[edges], num_frames=num_frames
    )
    return states, edges
