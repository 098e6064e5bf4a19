"""Where a hidden entity may have been, read off the motion of one visible one.

What relations to visible entities leave unexplained of a receiver is the force of a
hidden one. A law turns a force into a place: the direction is that of the force, and
the distance that at which the law is so strong. The path of these places must move as
the laws say: twice integrated, their forces along it leave a straight line.

Letters: V visible entities, N entities whose paths are known, W windows, C axes of
space, K relations, A assignments of the slots of a receiver, B assignments of the edges
that end at the hidden one, P candidates, M sets of places, G pieces of a path.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.energies.cached import CachedEnergies, MessageCache
from modmeta.relational.hidden.forces import distance_of, law_tables, unexplained
from modmeta.relational.hidden.places import places_of, smoothed
from modmeta.relational.hidden.scenes import Scene
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.laws import relative_state, units_of
from modmeta.relational.modules.preprocessing import velocity_per_frame, with_columns

_TINY = 1e-12


class Candidates(NamedTuple):
    """Possible hidden entities, best first for every receiver.

    Attributes:
      start: `[V, P, F]` states in the first frame, normalised.
      incoming: `[V, P, N]` relations of the edges that end there.
      misfit: `[V, P]` square of the force that is left unexplained.
    """

    start: jax.Array
    incoming: jax.Array
    misfit: jax.Array


def _columns(modules: BoundBank) -> tuple[np.ndarray, np.ndarray]:
    """Columns of positions and velocities."""
    spec = modules.bank.layout.spec
    return np.array(spec.positions), np.array(spec.velocities)


def moving_states(
    modules: BoundBank, position: jax.Array, drift: jax.Array
) -> jax.Array:
    """States `[..., F]` of entities, other features at their means."""
    spec = modules.bank.layout.spec
    per_frame, shift = velocity_per_frame(modules.preprocessing, spec)
    shift = jnp.reshape(shift, (1,) * (drift.ndim - 1) + (-1,))
    motion = jnp.concatenate([position, (drift - shift) / per_frame], axis=-1)
    empty = jnp.zeros((*position.shape[:-1], modules.bank.layout.num_features))
    return with_columns(empty, [*spec.positions, *spec.velocities], motion)


def _forces_along(
    modules: BoundBank, known: jax.Array, states: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What entities `[W, N, F]` under every law, and nobody, do along paths `[W, F]`.

    Returns:
      `[N, K, W, C]` and `[W, C]` accelerations.
    """
    laws = modules.bank.laws
    units = units_of(laws.law, modules.preprocessing, laws.span)
    relative = relative_state(laws.law, modules.preprocessing, known, states[:, None])

    def of_law(edge):
        return units.cut(laws.pair_rates(units, edge, relative)[0])

    found = jax.vmap(of_law)(modules.params.edge)
    if modules.bank.config.null_relation:
        found = found.at[0].set(0.0)
    node = jax.tree.map(lambda leaf: leaf[0], modules.params.node)
    own = laws.node_module.apply({"params": node}, states, method="rates")
    own = units.acceleration * own[:, : laws.law.num_axes]
    return jnp.moveaxis(found, 2, 0), own


def _twice_integrated(rates: jax.Array, times: jax.Array) -> jax.Array:
    """Displacements `[..., W, C]` by accelerations, at rest at the first time."""
    step = jnp.reshape(jnp.diff(times), (1,) * (rates.ndim - 2) + (-1, 1))

    def integral(values):
        pieces = 0.5 * step * (values[..., 1:, :] + values[..., :-1, :])
        padding = [(0, 0)] * (values.ndim - 2) + [(1, 0), (0, 0)]
        return jnp.pad(jnp.cumsum(pieces, axis=-2), padding)

    return integral(integral(rates))


def obeying(
    modules: BoundBank,
    scene: Scene,
    known: jax.Array,
    path: jax.Array,
    weight: jax.Array,
    incoming: jax.Array,
    is_allowed: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """How a path moves best as the laws say.

    Args:
      modules: The bank with its arrays.
      scene: The system.
      known: `[W, N, F]` states of those whose paths are known.
      path: `[W, C]` places, in spreads.
      weight: `[W]` what every place counts.
      incoming: `[B, N]` relations of the edges that may end there.
      is_allowed: `[B]` which of them are asked about.

    Returns:
      The state `[F]` in the first frame, the incoming relations `[N]`, and `()` what
      is left unexplained; infinite where nothing is allowed.
    """
    spread, times = modules.preprocessing.position_scale, scene.middle_times
    drift = jnp.gradient(path, axis=0) / jnp.gradient(times)[:, None]
    states = moving_states(modules, spread * path, spread * drift)
    forces, own = _forces_along(modules, known, states)
    num_relations = forces.shape[1]
    forces = forces.reshape(-1, *forces.shape[2:])
    moved = _twice_integrated(jnp.concatenate([own[None], forces]), times)
    moved = moved.at[0].set(path - moved[0])
    # Straight lines through all of these, in closed form.
    counts = jnp.square(weight) / (jnp.sum(jnp.square(weight)) + _TINY)
    middle = counts @ times
    away = times - middle
    mean = jnp.einsum("w,nwc->nc", counts, moved)
    slope = jnp.einsum("w,nwc->nc", counts * away, moved)
    slope = slope / (counts @ jnp.square(away) + _TINY)
    lines = jnp.stack([mean - middle * slope, slope], axis=1)
    rest = moved - mean[:, None] - slope[:, None] * away[None, :, None]
    rest = weight[None, :, None] * rest
    gram = jnp.einsum("nwc,mwc->nm", rest, rest)
    heard = jax.nn.one_hot(incoming, num_relations)
    heard = -heard.reshape(len(incoming), -1)
    signs = jnp.concatenate([jnp.ones((len(heard), 1)), heard], axis=1)
    misfit = jnp.einsum("bn,nm,bm->b", signs, gram, signs)
    misfit = jnp.where(is_allowed & jnp.isfinite(misfit), misfit, jnp.inf)
    best = jnp.argmin(misfit)
    place, speed = jnp.einsum("n,nlc->lc", signs[best], lines)
    start = moving_states(modules, spread * place, spread * speed)
    return start, incoming[best], misfit[best]


def candidates(
    modules: BoundBank,
    scene: Scene,
    cache: MessageCache,
    known: jax.Array,
    assignments: jax.Array,
    incoming: jax.Array,
    num_candidates: int,
    symmetric: bool,
) -> Candidates:
    """Possible hidden entities by what every receiver alone shows of one.

    Args:
      modules: The bank with its arrays.
      scene: The system.
      cache: Messages of those whose paths are known, leaves `[V, ...]`.
      known: `[W, N, F]` their states at the middles of the windows, the visible first.
      assignments: `[A, slots]` of a receiver.
      incoming: `[B, N]` of the hidden entity.
      num_candidates: Candidates P of every receiver.
      symmetric: Whether both edges of a pair have one relation.
    """
    spread = modules.preprocessing.position_scale
    position, _ = _columns(modules)
    left = unexplained(modules, cache, scene, assignments)
    size = jnp.sqrt(jnp.sum(jnp.square(left), axis=-1) + _TINY)
    distance, pulls = law_tables(modules)
    num_relations = len(pulls)

    def of_receiver(receiver):
        where = scene.middles[:, receiver, position] / spread
        force, strength = left[receiver], size[receiver]

        def of_branch(branch):
            relation, sign, row = branch
            far = distance_of(distance, pulls[relation], sign * strength[row])
            towards = force[row] / strength[row][:, None]
            path = where + sign * far[:, None] * towards
            is_allowed = jnp.ones(len(incoming), bool)
            if symmetric:
                is_allowed = incoming[:, receiver] == relation
            # Places count as far as forces tell them.
            return obeying(
                modules, scene, known, path, strength[row] / far, incoming, is_allowed
            )

        grid = jnp.meshgrid(
            jnp.arange(num_relations),
            jnp.array([1.0, -1.0]),
            jnp.arange(len(assignments)),
            indexing="ij",
        )
        branches = tuple(axis.reshape(-1) for axis in grid)
        start, heard, misfit = jax.lax.map(of_branch, branches, batch_size=64)
        _, best = jax.lax.top_k(-misfit, num_candidates)
        return Candidates(start[best], heard[best], misfit[best])

    return jax.lax.map(of_receiver, jnp.arange(scene.drive.shape[2]))


def agreed(
    modules: BoundBank,
    scene: Scene,
    cache: MessageCache,
    known: jax.Array,
    assignments: jax.Array,
    incoming: jax.Array,
    heads: np.ndarray,
    symmetric: bool,
) -> Candidates:
    """Possible hidden entities by what all receivers together show of one.

    Arguments as for `candidates`, and `heads` `[G]`, the frames that states are wanted
    in.

    Returns:
      Leaves `[M, ...]`, best first; states `[M, G, F]`.
    """
    spread = modules.preprocessing.position_scale
    position, _ = _columns(modules)
    nodes = jnp.zeros(cache.node_mask.shape, jnp.int32)
    energies = CachedEnergies(modules, cache).of_assignments(assignments, nodes)
    distance, pulls = law_tables(modules)
    found = places_of(
        unexplained(modules, cache, scene, assignments),
        scene.middles[..., position] / spread,
        distance,
        pulls,
        jnp.argmin(energies, axis=1),
    )
    at = scene.times[heads] - scene.times[0]

    def state(path, weight, heard):
        times = scene.middle_times
        smooth, _ = smoothed(path, weight, times, times)
        is_allowed = jnp.ones(len(incoming), bool)
        if symmetric:
            is_allowed = jnp.all(incoming[:, : len(heard)] == heard[None], axis=1)
        _, ending, _ = obeying(
            modules, scene, known, smooth, weight, incoming, is_allowed
        )
        place, speed = smoothed(path, weight, times, at)
        return moving_states(modules, spread * place, spread * speed), ending

    start, ending = jax.lax.map(lambda one: state(*one), found[:3])
    return Candidates(start, ending, found.misfit)
