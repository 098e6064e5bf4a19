"""Edges that the law which made the data tells: the ceiling of every accuracy.

    python -m benchmarks.exact_edges --system=charged --nodes=10 --systems=60

Messages of the true law along two-body paths, of all assignments of a receiver the
likeliest one by enumeration: nothing is learned and nothing searched. How far a message
is known is taken from the true graph, by the distance at which a receiver was passed.
What is wrong nevertheless, no better law or search would mend. Among more than twelve
bodies there are too many assignments: from the true one, the best change of one or two
edges is made as long as one is likelier, so that a likelier one farther off is missed,
and the share of right edges is one that no search for the likeliest would exceed.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments.relational_inference import exact
from experiments.relational_inference.config import DataConfig
from experiments.relational_inference.datasets import simulate
from modmeta.relational.modules.integrals import two_body_flow
from modmeta.relational.modules.laws import RelativeState
from modmeta.search import all_assignments

_SYSTEM = flags.DEFINE_enum(
    "system", "charged", ["springs", "charged", "lennard_jones"], "Simulator."
)
_NODES = flags.DEFINE_integer(
    "nodes", 5, "Bodies per system.", lower_bound=2, upper_bound=40
)
_SYSTEMS = flags.DEFINE_integer("systems", 300, "Systems.", lower_bound=1)
_FRAMES = flags.DEFINE_integer("frames", 49, "Frames.", lower_bound=3)
_STRIDE = flags.DEFINE_integer(
    "stride", 1, "Every how many frames one is kept.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the systems.")
_POINTS = flags.DEFINE_list(
    "points", ["8", "16", "64"], "Steps of the two-body path per frame interval."
)
# A softening and a grid that are far below any distance that matters.
_SMALL = 1e-4
_GRID = np.geomspace(1e-3, 1e2, 4096)
_NUM_BINS = 40
_FREEDOM = 4.0
_MOST_ENUMERATED = 12


class Messages(NamedTuple):
    """Messages of all relations on all ordered pairs of one system.

    Attributes:
      changes: `[K, T, N, N, 4]` of positions and velocities of receivers (rows).
      nearest: `[K, T, N, N]` smallest distance on the way.
    """

    changes: jax.Array
    nearest: jax.Array


def main(argv: list[str]) -> None:
    """Prints the share of edges that are right."""
    del argv
    config = DataConfig(system=_SYSTEM.value, num_nodes=(_NODES.value,))
    num_frames = (_FRAMES.value - 1) * _STRIDE.value + 1
    dataset = simulate(config, _SEED.value, _SYSTEMS.value, num_frames)
    laws = exact.true_laws(config, dataset)
    table = jnp.asarray(np.stack([law(_GRID) for law in laws]), jnp.float32)
    edges, states = np.asarray(dataset.edges), dataset.states[:, :: _STRIDE.value]
    interval = _STRIDE.value * float(dataset.frame_interval or 1.0)
    for points in map(int, _POINTS.value):
        found = most_likely(table, states, edges, interval, points)
        pairs = ~np.eye(_NODES.value, dtype=bool)
        right = (found == edges)[:, pairs].mean(axis=1)
        error = right.std(ddof=1) / np.sqrt(len(right)) if len(right) > 1 else np.nan
        print(
            f"{_SYSTEM.value}, {_NODES.value} bodies, {_SYSTEMS.value} systems, "
            f"{points} steps: {right.mean():.4f} of the edges, standard error "
            f"{error:.4f}",
            flush=True,
        )


def most_likely(
    table: jax.Array,
    states: np.ndarray,
    edges: np.ndarray,
    interval: float,
    num_steps: int,
) -> np.ndarray:
    """The likeliest relations `[tasks, N, N]`.

    Args:
      table: `[K, G]` laws on the grid of distances, positive where they attract.
      states: `[tasks, frames, N, 4]` positions and velocities.
      edges: `[tasks, N, N]` true relations; they tell how far messages are known, and
        nothing else.
      interval: Time between frames.
      num_steps: Steps of a path.
    """
    compute = jax.jit(functools.partial(messages, num_steps=num_steps))
    every = jax.lax.map(
        lambda states: compute(table, states, interval), jnp.asarray(states)
    )
    position, velocity = np.split(np.asarray(states), 2, axis=-1)
    moved = np.diff(position, axis=1) - interval * velocity[:, :-1]
    targets = np.concatenate([moved, np.diff(velocity, axis=1)], axis=-1)
    labels = np.maximum(edges, 0)[:, None, None, :, :]
    changes = np.take_along_axis(every.changes, labels[..., None], 1)[:, 0].sum(axis=-2)
    nearest = np.take_along_axis(every.nearest, labels, 1)[:, 0].min(axis=-1)
    bounds = np.quantile(nearest, np.linspace(0.0, 1.0, _NUM_BINS + 1)[1:-1])
    place, errors = np.digitize(nearest, bounds), np.abs(targets - changes)
    scales = np.ones((_NUM_BINS, 4), np.float32)
    for index in np.unique(place):
        of_bin = errors[place == index].reshape(-1, 2, 2)
        # Of both axes alike; of a normal error, the median is 0.67 deviations.
        typical = np.median(of_bin, axis=(0, 2)) / 0.67
        scales[index] = np.repeat(np.maximum(typical, 1e-7), 2)

    def of_system(item):
        every, targets, edges = item
        return decide(every, targets, edges, jnp.asarray(bounds), jnp.asarray(scales))

    given = every, jnp.asarray(targets), jnp.asarray(edges, jnp.int32)
    return np.asarray(jax.lax.map(of_system, given))


def messages(
    table: jax.Array, states: jax.Array, interval: float, num_steps: int
) -> Messages:
    """Messages of one system, states `[frames, N, 4]`."""
    position, velocity = jnp.split(states, 2, axis=-1)
    grid = jnp.asarray(np.log(_GRID), jnp.float32)

    def seen(values):
        return values[:, None, :] - values[:, :, None]

    def of_law(law):
        def rates(relative):
            away = jnp.asarray(relative.displacement)
            distance = jnp.sqrt(jnp.sum(jnp.square(away), axis=-1) + _SMALL**2)
            size = jnp.interp(jnp.log(distance), grid, law) / distance
            rate = size[..., None] * away
            return rate, -rate, distance[..., None]

        def at(frames):
            away, drift = seen(position)[frames], seen(velocity)[frames]
            return RelativeState(away, drift, jnp.zeros((*away.shape[:-1], 0)))

        first, last = at(slice(None, -1)), at(slice(1, None))
        num_frames, num_nodes, _ = states.shape
        duration = jnp.full((num_frames - 1, num_nodes, num_nodes), interval)
        integrals, passed = two_body_flow(rates, first, last, duration, num_steps)
        changes = jnp.concatenate([integrals.moment, integrals.impulse], axis=-1)
        is_self = jnp.eye(states.shape[1], dtype=bool)[None]
        nearest = jnp.min(passed, axis=(-2, -1))
        return Messages(
            jnp.where(is_self[..., None], 0.0, changes),
            jnp.where(is_self, jnp.inf, nearest),
        )

    return jax.vmap(of_law)(table)


def decide(
    every: Messages,
    targets: jax.Array,
    edges: jax.Array,
    bounds: jax.Array,
    scales: jax.Array,
) -> jax.Array:
    """The likeliest relations `[N, N]` of one system, -1 on the diagonal.

    Args:
      every: Its messages.
      targets: `[T, N, 4]` what they should add up to.
      edges: `[N, N]` true relations, where many bodies are descended from.
      bounds: `[B - 1]` between bins of distance.
      scales: `[B, 4]` errors of a sum of messages, by the nearest sender.
    """
    num_relations, _, num_nodes, _ = every.nearest.shape
    is_enumerated = num_nodes <= _MOST_ENUMERATED
    if is_enumerated:
        choices = jnp.asarray(all_assignments(num_nodes - 1, num_relations))
    else:
        choices = jnp.asarray(_changes(num_nodes - 1, num_relations))

    def of_receiver(receiver):
        senders = jnp.arange(num_nodes - 1)
        senders = senders + (senders >= receiver)
        changes = every.changes[:, :, receiver][:, :, senders]
        nearest = every.nearest[:, :, receiver][:, :, senders]

        def energy(choice):
            chosen = (choice, slice(None), jnp.arange(num_nodes - 1))
            total, least = changes[chosen].sum(axis=0), nearest[chosen].min(axis=0)
            scale = scales[jnp.searchsorted(bounds, least)]
            errors = jnp.square((targets[:, receiver] - total) / scale)
            tails = 0.5 * (_FREEDOM + 1.0) * jnp.log1p(errors / _FREEDOM)
            return jnp.sum(tails + jnp.log(scale))

        def best_of(rows):
            return rows[jnp.argmin(jax.lax.map(energy, rows, batch_size=64))]

        if is_enumerated:
            found = best_of(choices)
        else:
            # No change comes first: it stays where nothing is likelier.
            found, _ = jax.lax.while_loop(
                lambda pair: jnp.any(pair[0] != pair[1]),
                lambda pair: (best_of((pair[0] + choices) % num_relations), pair[0]),
                (edges[receiver, senders], jnp.full(num_nodes - 1, -1)),
            )
        return jnp.full(num_nodes, -1).at[senders].set(found)

    return jax.lax.map(of_receiver, jnp.arange(num_nodes))


def _changes(num_slots: int, num_relations: int) -> np.ndarray:
    """What is added to an assignment to change none, one or two edges, `[C, D]`."""
    one = np.concatenate(
        [k * np.eye(num_slots, dtype=int) for k in range(num_relations)]
    )
    two = one[:, None] + one[None]
    is_apart = (two > 0).sum(axis=-1) == (one > 0).sum(-1)[:, None] + (one > 0).sum(-1)
    return np.unique(two[is_apart], axis=0).astype(np.int32)


if __name__ == "__main__":
    app.run(main)
