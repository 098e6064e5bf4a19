"""Networks of first order, dx_i/dt = own(x_i) + sum_j law(x_j, x_i), under any laws.

FitzHugh-Nagumo neurons are one setting.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from modmeta.relational.data.dataset import TrajectoryDataset
from modmeta.relational.data.simulators import batching
from modmeta.relational.data.validation import FeatureSpec

# From states with the features first, `[features, ...]`, to rates of the same shape.
OwnLaw = Callable[[jax.Array], jax.Array]
# The same from the states of a sender and of its receiver, which broadcast.
CouplingLaw = Callable[[jax.Array, jax.Array], jax.Array]
# From a key and a number of nodes to initial states `[features, nodes]`.
DrawStart = Callable[[jax.Array, int], jax.Array]

# Neurons that fire by themselves, one pulse in some 40 units of time.
_STIMULUS, _RECOVERY, _OFFSET, _DAMPING = 0.5, 0.08, 0.7, 0.8


def simulate_network(
    seed: int,
    num_tasks: int,
    own: OwnLaw,
    laws: Sequence[CouplingLaw],
    *,
    feature_names: Sequence[str],
    draw_start: DrawStart,
    num_nodes: int = 5,
    num_frames: int = 49,
    probabilities: Sequence[float] | None = None,
    directed: bool = True,
    steps_per_frame: int = 10,
    time_step: float = 0.05,
    observation_noise: float = 0.0,
    task_batch: int | None = None,
) -> TrajectoryDataset:
    """Simulates nodes whose states have rates, by classical Runge-Kutta steps.

    Args:
      seed: Seed; task `t` is the same for every `num_tasks` and `task_batch`.
      num_tasks: Number of trajectories, each with its own graph.
      own: Rates of a node that nothing acts on.
      laws: Rates that a sender adds, by relation: from the states of the sender and of
        its receiver, features first. The label of an edge is the position of its law
        here. Pure JAX functions, the same object for the same law, or they are compiled
        anew.
      feature_names: Names of the features, all of them part of the state.
      draw_start: Draws initial states.
      num_nodes: Number of nodes.
      num_frames: Number of frames, `steps_per_frame * time_step` apart; frame 0 is the
        initial state.
      probabilities: Probability of each relation, uniform by default.
      directed: Draws both edges of a pair independently.
      steps_per_frame: Steps from one frame to the next.
      time_step: Length of a step.
      observation_noise: Standard deviation of Gaussian noise added to every feature.
      task_batch: Tasks integrated together; it changes speed only.

    Returns:
      A labelled data set whose features have no roles.

    Raises:
      ValueError: If a size is too small, there is no law, or probabilities do not fit
        the laws.
    """
    batching.check_simulation(
        num_tasks=num_tasks,
        num_nodes=num_nodes,
        num_frames=num_frames,
        observation_noise=observation_noise,
    )
    laws = tuple(laws)
    _, probabilities = batching.check_types("laws", range(len(laws)), probabilities)
    names = tuple(feature_names)
    chunk = functools.partial(
        _simulate_chunk,
        own=own,
        laws=laws,
        draw_start=draw_start,
        num_nodes=num_nodes,
        num_frames=num_frames,
        probabilities=probabilities,
        directed=directed,
        steps_per_frame=steps_per_frame,
        time_step=time_step,
    )
    states, edges = batching.simulate_in_chunks(
        chunk,
        seed,
        num_tasks,
        num_nodes=num_nodes,
        task_batch=task_batch,
        noise_scales=(observation_noise,) * len(names),
    )
    return TrajectoryDataset(
        states=states,
        features=FeatureSpec(names),
        frame_interval=steps_per_frame * time_step,
        edges=edges,
        num_relations=len(laws),
    )


def no_coupling(sender: jax.Array, receiver: jax.Array) -> jax.Array:
    """No interaction."""
    return jnp.zeros_like(sender + receiver)


def fitzhugh_nagumo(states: jax.Array) -> jax.Array:
    """Rates of potential and recovery of a neuron that fires by itself.

    dv/dt = v - v^3 / 3 - w + 0.5 and dw/dt = 0.08 (v + 0.7 - 0.8 w): FitzHugh,
    "Impulses and Physiological States", Biophysical Journal 1961.
    """
    potential, recovery = states
    return jnp.stack(
        [
            potential - potential**3 / 3.0 - recovery + _STIMULUS,
            _RECOVERY * (potential + _OFFSET - _DAMPING * recovery),
        ]
    )


def diffusive(sender: jax.Array, receiver: jax.Array) -> jax.Array:
    """Current 0.1 (v_j - v_i) through a gap junction."""
    current = 0.1 * (sender[0] - receiver[0])
    return jnp.stack([current, jnp.zeros_like(current)])


def simulate_neurons(seed: int, num_tasks: int, **options) -> TrajectoryDataset:
    """FitzHugh-Nagumo neurons, half of the directed pairs joined by a gap junction.

    Features are potential v and recovery w; see `fitzhugh_nagumo`, `diffusive` and
    `simulate_network`.
    """
    return simulate_network(
        seed,
        num_tasks,
        fitzhugh_nagumo,
        (no_coupling, diffusive),
        feature_names=("v", "w"),
        draw_start=_near_the_cycle,
        **options,
    )


def _near_the_cycle(rng_key: jax.Array, num_nodes: int) -> jax.Array:
    """States all around the cycle of firing, and within it."""
    low = jnp.array([[-2.0], [-0.5]])
    high = jnp.array([[2.0], [1.5]])
    return jax.random.uniform(rng_key, (2, num_nodes), minval=low, maxval=high)


@functools.partial(
    jax.jit,
    static_argnames=(
        "own",
        "laws",
        "draw_start",
        "num_nodes",
        "num_frames",
        "probabilities",
        "directed",
        "steps_per_frame",
        "time_step",
    ),
)
def _simulate_chunk(
    rng_keys: jax.Array,
    *,
    own: OwnLaw,
    laws: tuple[CouplingLaw, ...],
    draw_start: DrawStart,
    num_nodes: int,
    num_frames: int,
    probabilities: tuple[float, ...],
    directed: bool,
    steps_per_frame: int,
    time_step: float,
) -> tuple[jax.Array, jax.Array]:
    def draw(rng_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_start, key_edges = jax.random.split(rng_key)
        edges = batching.draw_relations(
            key_edges, num_nodes, probabilities, directed=directed
        )
        return draw_start(key_start, num_nodes), edges

    # With the tasks last the compiled loops vectorise over them.
    start, edges = jax.vmap(draw, out_axes=(-1, 0))(rng_keys)
    holds = [jnp.moveaxis(edges == label, 0, -1) for label in range(len(laws))]

    def rate(states: jax.Array) -> jax.Array:
        sender, receiver = states[:, None], states[:, :, None]
        total = own(states)
        for law, mask in zip(laws, holds, strict=True):
            total = total + jnp.sum(jnp.where(mask, law(sender, receiver), 0.0), axis=2)
        return total

    def step(_: Any, states: jax.Array) -> jax.Array:
        first = rate(states)
        second = rate(states + 0.5 * time_step * first)
        third = rate(states + 0.5 * time_step * second)
        fourth = rate(states + time_step * third)
        return states + time_step * (first + 2.0 * second + 2.0 * third + fourth) / 6.0

    def frame(states: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return lax.fori_loop(0, steps_per_frame, step, states), states

    _, records = lax.scan(frame, start, None, length=num_frames)
    return jnp.transpose(records, (3, 0, 2, 1)), edges
