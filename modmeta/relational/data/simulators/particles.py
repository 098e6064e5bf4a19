"""Bodies in a box with elastic walls: the integrator of springs and charges.

Constants and scheme are those of the data of Kipf et al., "Neural Relational
Inference for Interacting Systems", ICML 2018 (their public generator
`data/synthetic_sim.py`). Arrays inside the integrator are `[axis, nodes, tasks]`:
with the tasks last the compiled loops vectorise over them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

TIME_STEP = 0.001
STEPS_PER_FRAME = 100
BOX_HALF_WIDTH = 5.0
MAX_FORCE = 100.0
INITIAL_SPEED = 0.5

Force = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def draw_motion(
    rng_key: jax.Array, num_nodes: int, position_scale: float
) -> tuple[jax.Array, jax.Array]:
    """Draws initial positions and velocities of one task, each `[nodes, 2]`.

    Positions are normal around the centre; velocities have a random direction and
    speed 0.5.
    """
    # One draw for both: every further one takes about a second to compile.
    normal = jax.random.normal(rng_key, (num_nodes, 4))
    position, direction = position_scale * normal[:, :2], normal[:, 2:]
    length = jnp.sqrt(jnp.sum(direction**2, axis=-1, keepdims=True))
    return position, INITIAL_SPEED * direction / length


def particle_trajectory(
    force: Force,
    position: Any,
    velocity: Any,
    couplings: Any,
    *,
    num_frames: int,
    steps_per_frame: int,
    time_step: float,
) -> jax.Array:
    """Integrates bodies under a net force, clipped, between elastic walls.

    A first kick v += dt F(x) uses the initial state. Every step then moves
    x += dt v, reflects at the walls, and kicks v += dt F(x). Frame m is the state
    between reflection and kick of step `steps_per_frame` (m + 1), so the initial
    state is not recorded.

    Args:
      force: From couplings `[nodes, nodes, tasks]`, positions and velocities
        `[2, nodes, tasks]` to forces `[2, nodes, tasks]`.
      position: `[tasks, nodes, 2]`.
      velocity: `[tasks, nodes, 2]`.
      couplings: `[tasks, nodes, nodes]`, row = receiver; or anything else that the
        force understands, tasks first.
      num_frames: Number of recorded frames.
      steps_per_frame: Steps from one frame to the next.
      time_step: Length dt of a step.

    Returns:
      `[tasks, frames, nodes, 4]` with features (x, y, vx, vy), in the precision of
      the arguments.
    """
    position = jnp.transpose(jnp.asarray(position), (2, 1, 0))
    velocity = jnp.transpose(jnp.asarray(velocity), (2, 1, 0))
    couplings = jnp.transpose(jnp.asarray(couplings), (1, 2, 0))

    def move(position: jax.Array, velocity: jax.Array) -> tuple[jax.Array, jax.Array]:
        position = position + time_step * velocity
        above = position > BOX_HALF_WIDTH
        below = position < -BOX_HALF_WIDTH
        position = jnp.where(above, 2.0 * BOX_HALF_WIDTH - position, position)
        position = jnp.where(below, -2.0 * BOX_HALF_WIDTH - position, position)
        speed = jnp.abs(velocity)
        velocity = jnp.where(above, -speed, jnp.where(below, speed, velocity))
        return position, velocity

    def kick(position: jax.Array, velocity: jax.Array) -> jax.Array:
        net = force(couplings, position, velocity)
        clipped = jnp.clip(net, -MAX_FORCE, MAX_FORCE)
        return velocity + time_step * clipped

    def step(
        _: jax.Array, motion: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        position, velocity = move(*motion)
        return position, kick(position, velocity)

    def frame(
        motion: tuple[jax.Array, jax.Array], _: None
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        motion = lax.fori_loop(0, steps_per_frame - 1, step, motion)
        position, velocity = move(*motion)
        record = jnp.concatenate([position, velocity])
        return (position, kick(position, velocity)), record

    start = (position, kick(position, velocity))
    _, records = lax.scan(frame, start, None, length=num_frames)
    return jnp.transpose(records, (3, 0, 2, 1))


def pair_differences(states: jax.Array) -> jax.Array:
    """Position of receiver minus sender: `[..., nodes, 4]` to `[..., i, j, 2]`."""
    position = states[..., :2]
    return position[..., :, None, :] - position[..., None, :, :]


def kinetic_energy(states: jax.Array) -> jax.Array:
    """Kinetic energy of bodies of mass one, `[..., nodes, 4]` to `[...]`."""
    return 0.5 * jnp.sum(states[..., 2:4] ** 2, axis=(-2, -1))
