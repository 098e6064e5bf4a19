"""Bodies under any law of pairs; gravity, atoms, flocks are some of its settings.

A law says how strongly a sender pulls its receiver at a distance, an alignment how fast
the receiver takes over the velocity of its sender. Integration is that
of `particles`: kicks and drifts, elastic walls at +-5, every component of the net
force clipped to +-100.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from modmeta.relational.data.dataset import TrajectoryDataset
from modmeta.relational.data.simulators import batching, particles
from modmeta.relational.data.validation import PARTICLE_FEATURES, FeatureSpec

PairLaw = Callable[[jax.Array], jax.Array]

MASSIVE_FEATURES = FeatureSpec(
    names=("x", "y", "vx", "vy", "mass"), positions=(0, 1), velocities=(2, 3)
)
GRAVITATIONAL_CONSTANT = 0.5
# Depth and length of the Lennard-Jones potential: bound pairs swing in seven frames.
WELL_DEPTH, WELL_LENGTH = 0.3, 0.7
SPRING_CONSTANT = 0.1
# Of flocks: what draws a body to the distance that it keeps, and aligns it.
COHESION, KEPT_DISTANCE, ALIGNMENT = 0.2, 1.0, 0.5
# Where atoms start on top of each other they explode.
_SPREAD_DRAWS = 64


def no_law(distance: jax.Array) -> jax.Array:
    """No interaction."""
    return jnp.zeros_like(distance)


def gravity_law(distance: jax.Array) -> jax.Array:
    """Pull G / d^2 of a sender of mass one."""
    return GRAVITATIONAL_CONSTANT / jnp.square(distance)


def lennard_jones_law(distance: jax.Array) -> jax.Array:
    """Pull of the potential 4 e ((s / d)^12 - (s / d)^6); negative pushes."""
    sixth = (WELL_LENGTH / distance) ** 6
    return 24.0 * WELL_DEPTH * (sixth - 2.0 * jnp.square(sixth)) / distance


def spring_law(distance: jax.Array) -> jax.Array:
    """Pull 0.1 d."""
    return SPRING_CONSTANT * distance


def repulsion_law(distance: jax.Array) -> jax.Array:
    """Push 1 / d^2 of two charges of one sign."""
    return -1.0 / jnp.square(distance)


def cohesion_law(distance: jax.Array) -> jax.Array:
    """Pull beyond distance one, push within: 0.2 (d - 1)."""
    return COHESION * (distance - KEPT_DISTANCE)


def alignment_law(distance: jax.Array) -> jax.Array:
    """Rate 0.5 / (1 + d^2) at which a velocity becomes that of the sender."""
    return ALIGNMENT / (1.0 + jnp.square(distance))


def simulate_pairs(
    seed: int,
    num_tasks: int,
    laws: Sequence[PairLaw],
    *,
    alignments: Sequence[PairLaw] | None = None,
    num_nodes: int = 5,
    num_frames: int = 49,
    probabilities: Sequence[float] | None = None,
    directed: bool = False,
    masses: tuple[float, float] | None = None,
    friction: float = 0.0,
    position_scale: float = 1.0,
    spread_draws: int = 1,
    steps_per_frame: int = particles.STEPS_PER_FRAME,
    time_step: float = particles.TIME_STEP,
    observation_noise: float = 0.0,
    task_batch: int | None = None,
) -> TrajectoryDataset:
    """Simulates bodies in a box, each pair under one of several laws.

    Args:
      seed: Seed; task `t` is the same for every `num_tasks` and `task_batch`.
      num_tasks: Number of trajectories, each with its own graph.
      laws: Law of every relation: from distances to the acceleration that a sender of
        mass one gives its receiver, positive towards the sender. The label of an edge
        is the position of its law here. Pure JAX functions, the same object for the
        same law, or they are compiled anew.
      alignments: Of every relation too: from distances to the rate at which a receiver
        takes over the velocity of a sender of mass one. None for no such thing.
      num_nodes: Number of bodies.
      num_frames: Number of frames, `steps_per_frame * time_step` apart.
      probabilities: Probability of each relation, uniform by default.
      directed: Draws both edges of a pair independently.
      masses: Smallest and largest mass, drawn uniformly on a logarithmic scale; they
        are recorded as a fifth feature and multiply what a sender does. None for 1.
      friction: Rate at which velocities decay.
      position_scale: Standard deviation of initial positions.
      spread_draws: Draws of initial positions, of which that one is taken whose nearest
        pair is farthest apart.
      steps_per_frame: Steps from one frame to the next.
      time_step: Length of a step.
      observation_noise: Standard deviation of Gaussian noise added to every recorded
        feature but the mass.
      task_batch: Tasks integrated together; it changes speed only.

    Returns:
      A labelled data set with features (x, y, vx, vy), and mass if there are masses.

    Raises:
      ValueError: If a size is too small, there is no law, masses are not two positive
        numbers in order, a number is out of range, or alignments or probabilities do
        not fit the laws.
    """
    batching.check_simulation(
        num_tasks=num_tasks,
        num_nodes=num_nodes,
        num_frames=num_frames,
        observation_noise=observation_noise,
    )
    laws = tuple(laws)
    _, probabilities = batching.check_types("laws", range(len(laws)), probabilities)
    if alignments is not None and len(alignments) != len(laws):
        raise ValueError(
            f"alignments: found {len(alignments)}, expected {len(laws)}, one per law"
        )
    if masses is not None and not 0.0 < masses[0] <= masses[1]:
        raise ValueError(
            f"masses: found {masses}, expected the smallest and the largest, above 0"
        )
    if spread_draws < 1:
        raise ValueError(f"spread_draws: found {spread_draws}, expected at least 1")
    if not friction >= 0.0:
        raise ValueError(f"friction: found {friction}, expected at least 0")
    chunk = functools.partial(
        _simulate_chunk,
        laws=laws,
        alignments=alignments and tuple(alignments),
        num_nodes=num_nodes,
        num_frames=num_frames,
        probabilities=probabilities,
        directed=directed,
        masses=masses,
        friction=friction,
        position_scale=position_scale,
        spread_draws=spread_draws,
        steps_per_frame=steps_per_frame,
        time_step=time_step,
    )
    noise = (observation_noise,) * 4 + ((0.0,) if masses is not None else ())
    states, edges = batching.simulate_in_chunks(
        chunk,
        seed,
        num_tasks,
        num_nodes=num_nodes,
        task_batch=task_batch,
        noise_scales=noise,
    )
    return TrajectoryDataset(
        states=states,
        features=PARTICLE_FEATURES if masses is None else MASSIVE_FEATURES,
        frame_interval=steps_per_frame * time_step,
        edges=edges,
        num_relations=len(laws),
    )


def simulate_gravity(
    seed: int,
    num_tasks: int,
    *,
    masses: tuple[float, float] = (0.5, 2.0),
    position_scale: float = 1.5,
    **options,
) -> TrajectoryDataset:
    """Bodies of different mass, half of the pairs under gravity; see `simulate_pairs`.

    A body j pulls i by G m_j / d^2 with G = 0.5.
    """
    return simulate_pairs(
        seed,
        num_tasks,
        (no_law, gravity_law),
        masses=masses,
        position_scale=position_scale,
        **options,
    )


def simulate_lennard_jones(
    seed: int,
    num_tasks: int,
    *,
    position_scale: float = 0.6,
    spread_draws: int = _SPREAD_DRAWS,
    **options,
) -> TrajectoryDataset:
    """Bodies of which half of the pairs attract and repel as neutral atoms do.

    The potential has depth 0.3 and length 0.7; see `simulate_pairs`. No two bodies
    start on top of each other.
    """
    return simulate_pairs(
        seed,
        num_tasks,
        (no_law, lennard_jones_law),
        position_scale=position_scale,
        spread_draws=spread_draws,
        **options,
    )


def simulate_mixed(
    seed: int, num_tasks: int, *, position_scale: float = 1.0, **options
) -> TrajectoryDataset:
    """Bodies of which a pair has nothing, a spring, or charges of one sign.

    A third of the pairs each; see `spring_law`, `repulsion_law` and `simulate_pairs`.
    """
    return simulate_pairs(
        seed,
        num_tasks,
        (no_law, spring_law, repulsion_law),
        position_scale=position_scale,
        **options,
    )


def simulate_flocks(
    seed: int,
    num_tasks: int,
    *,
    directed: bool = True,
    position_scale: float = 1.0,
    **options,
) -> TrajectoryDataset:
    """Bodies that follow others: cohesion, separation and alignment, or nothing.

    The three rules of Reynolds, "Flocks, Herds, and Schools", SIGGRAPH 1987, towards
    the half of the others that a body looks at; alignment with the rate of Cucker and
    Smale, "Emergent Behavior in Flocks", IEEE TAC 2007. See `cohesion_law`,
    `alignment_law` and `simulate_pairs`.
    """
    return simulate_pairs(
        seed,
        num_tasks,
        (no_law, cohesion_law),
        alignments=(no_law, alignment_law),
        directed=directed,
        position_scale=position_scale,
        **options,
    )


def _draw_spread(
    rng_key: jax.Array, num_nodes: int, position_scale: float, spread_draws: int
) -> tuple[jax.Array, jax.Array]:
    """Initial positions and velocities `[nodes, 2]`, see `simulate_pairs`."""
    if spread_draws == 1:
        return particles.draw_motion(rng_key, num_nodes, position_scale)
    keys = jax.random.split(rng_key, spread_draws)
    position, velocity = jax.vmap(
        lambda key: particles.draw_motion(key, num_nodes, position_scale)
    )(keys)
    gaps = particles.pair_differences(position)
    itself = jnp.where(jnp.eye(num_nodes, dtype=bool), jnp.inf, 0.0)
    nearest = jnp.min(jnp.sum(jnp.square(gaps), axis=-1) + itself[None], axis=(1, 2))
    best = jnp.argmax(nearest)
    return position[best], velocity[best]


@functools.partial(
    jax.jit,
    static_argnames=(
        "laws",
        "alignments",
        "num_nodes",
        "num_frames",
        "probabilities",
        "directed",
        "masses",
        "friction",
        "position_scale",
        "spread_draws",
        "steps_per_frame",
        "time_step",
    ),
)
def _simulate_chunk(
    rng_keys: jax.Array,
    *,
    laws: tuple[PairLaw, ...],
    alignments: tuple[PairLaw, ...] | None,
    num_nodes: int,
    num_frames: int,
    probabilities: tuple[float, ...],
    directed: bool,
    masses: tuple[float, float] | None,
    friction: float,
    position_scale: float,
    spread_draws: int,
    steps_per_frame: int,
    time_step: float,
) -> tuple[jax.Array, jax.Array]:
    def draw(rng_key: jax.Array) -> tuple[jax.Array, ...]:
        key_motion, key_edges, key_masses = jax.random.split(rng_key, 3)
        edges = batching.draw_relations(
            key_edges, num_nodes, probabilities, directed=directed
        )
        position, velocity = _draw_spread(
            key_motion, num_nodes, position_scale, spread_draws
        )
        low, high = masses or (1.0, 1.0)
        exponent = jax.random.uniform(key_masses, (num_nodes,))
        return position, velocity, edges, low * (high / low) ** exponent

    position, velocity, edges, mass = jax.vmap(draw)(rng_keys)
    weights = [(edges == label) * mass[:, None, :] for label in range(len(laws))]

    def force(couplings: jax.Array, position: jax.Array, velocity: jax.Array):
        """From couplings `[laws * nodes, nodes, tasks]` to `[2, nodes, tasks]`."""
        couplings = couplings.reshape(len(laws), num_nodes, *couplings.shape[1:])
        towards = position[:, None] - position[:, :, None]
        self_pair = jnp.eye(num_nodes, dtype=position.dtype)[:, :, None]
        distance = jnp.sqrt(jnp.sum(towards**2, axis=0) + self_pair)
        pull = sum(
            coupling * law(distance)
            for coupling, law in zip(couplings, laws, strict=True)
        )
        net = jnp.sum((pull / distance)[None] * towards, axis=2)
        if alignments is not None:
            faster = velocity[:, None] - velocity[:, :, None]
            rate = sum(
                coupling * alignment(distance)
                for coupling, alignment in zip(couplings, alignments, strict=True)
            )
            net = net + jnp.sum(rate[None] * faster, axis=2)
        return net - friction * velocity

    states = particles.particle_trajectory(
        force,
        position,
        velocity,
        jnp.concatenate(weights, axis=1).astype(position.dtype),
        num_frames=num_frames,
        steps_per_frame=steps_per_frame,
        time_step=time_step,
    )
    if masses is not None:
        column = jnp.broadcast_to(mass[:, None, :, None], (*states.shape[:-1], 1))
        states = jnp.concatenate([states, column], axis=-1)
    return states, edges
