"""What laws say of the force of a hidden entity, and what is left of one.

Letters: V visible entities, W windows, C axes of space, K relations, A assignments of
the slots of a receiver, G points of a grid.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.energies.cached import MessageCache
from modmeta.relational.hidden.scenes import Scene
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.laws import SOFTENING, RelativeState, units_of

# Distances at which a law is asked, in spreads of the positions.
_GRID, _NEAREST, _FARTHEST = 256, 2.0 * SOFTENING, 30.0


def unexplained(
    modules: BoundBank, cache: MessageCache, scene: Scene, assignments: jax.Array
) -> jax.Array:
    """Accelerations `[V, A, W, C]` that assignments of known edges leave unexplained.

    In spreads of position per squared frame interval, means over the windows.
    """
    laws, layout = modules.bank.laws, modules.bank.layout
    weights = jax.nn.one_hot(assignments, cache.messages.shape[2])
    hidden = jnp.einsum("adk,vdkmwh->vamwh", weights, cache.messages)
    mean = (hidden + cache.embedded[:, None])[:, :, 0, :, : layout.num_targets]
    left = cache.targets[:, None] - mean
    targets = np.array([layout.shifting.index(c) for c in layout.spec.velocities])
    units = units_of(laws.law, modules.preprocessing, laws.span).changes
    axes = laws.law.num_axes
    span = laws.span
    length = scene.times[span:] - scene.times[:-span]
    scale = jnp.reshape(units[axes : 2 * axes], (1, 1, 1, -1))
    return left[..., targets] / scale / length[None, None, :, None]


def law_tables(modules: BoundBank) -> tuple[jax.Array, jax.Array]:
    """Distances `[G]` and the pull of every law there `[K, G]`; negative pushes."""
    laws = modules.bank.laws
    law = laws.law
    units = units_of(law, modules.preprocessing, laws.span)
    distance = jnp.asarray(np.geomspace(_NEAREST, _FARTHEST, _GRID), jnp.float32)
    displacement = jnp.zeros((_GRID, law.num_axes)).at[:, 0].set(distance)
    velocity = jnp.zeros_like(displacement)
    relative = RelativeState(
        displacement, velocity, jnp.zeros((_GRID, 2 * len(law.columns())))
    )
    pulls = jax.vmap(
        lambda edge: units.cut(laws.pair_rates(units, edge, relative)[0])[:, 0]
    )(modules.params.edge)
    if modules.bank.config.null_relation:
        pulls = pulls.at[0].set(0.0)
    return distance, pulls


def distance_of(distance: jax.Array, pulls: jax.Array, wanted: jax.Array) -> jax.Array:
    """The shortest distance at which a law pulls as wanted.

    Args:
      distance: `[G]`.
      pulls: `[G]` of the law.
      wanted: `[W]`; negative pushes.

    Returns:
      `[W]`; where there is none, the distance at which the law comes nearest.
    """

    def one(wanted):
        excess = pulls - wanted
        is_crossed = excess[1:] * excess[:-1] <= 0.0
        at = jnp.argmax(is_crossed)
        first, last = excess[at], excess[at + 1]
        share = first / jnp.where(first == last, 1.0, first - last)
        logs = jnp.log(distance)
        crossing = jnp.exp(logs[at] + share * (logs[at + 1] - logs[at]))
        nearest = distance[jnp.argmin(jnp.abs(excess))]
        return jnp.where(jnp.any(is_crossed), crossing, nearest)

    return jax.vmap(one)(wanted)
