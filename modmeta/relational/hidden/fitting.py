"""Where hidden entities were, by damped least squares from many starts.

Relations are chosen anew at every round, from all that a receiver may have: given the
paths, receivers are independent.

Letters: V visible entities, H hidden ones, D = V - 1 slots, K relations, A assignments
of the slots of a receiver, T frames, F features, P parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.data.domains import Domain
from modmeta.relational.energies.cached import CachedEnergies, MessageCache
from modmeta.relational.hidden.config import HiddenConfig
from modmeta.relational.hidden.scenes import (
    Guess,
    Scene,
    heard_with,
    hidden_frames,
    hidden_messages,
    until,
)
from modmeta.relational.modules.bound_bank import BoundBank

# Spread of the prior of a hidden state, where what was seen lies within -1 and 1.
PRIOR_SPREAD = 2.0
# Damping at the start, and what a step that was taken or refused makes of it.
_FIRST_DAMPING, _EASED, _TIGHTENED = 1e-2, 0.2, 5.0
_TINY = 1e-9


class Fit(NamedTuple):
    """Hidden entities that explain what was seen.

    Attributes:
      guess: Where they begin, and what acts on them.
      edges: `[V, D + H]` relations of the edges that end at visible entities, from
        hidden ones last.
      energy: `()` nats, prior of the start included.
    """

    guess: Guess
    edges: jax.Array
    energy: jax.Array


def prior_precision(modules: BoundBank, size: int) -> jax.Array:
    """Inverse variances `[size]` of the parameters of one hidden entity."""
    is_state = jnp.arange(size) < modules.bank.layout.num_features
    return jnp.where(is_state, PRIOR_SPREAD**-2.0, 1.0)


def prior_energy(modules: BoundBank, start: jax.Array) -> jax.Array:
    """Nats of the starts `[H, P]`."""
    precision = prior_precision(modules, start.shape[1])
    return 0.5 * jnp.sum(precision[None] * jnp.square(start))


def assignment_energies(
    modules: BoundBank, cache: MessageCache, assignments: jax.Array
) -> jax.Array:
    """Energies `[V, A]` of every receiver under assignments `[A, slots]`."""
    nodes = jnp.zeros(cache.node_mask.shape, jnp.int32)
    return CachedEnergies(modules, cache).of_assignments(assignments, nodes)


def energies_of(
    modules: BoundBank,
    scene: Scene,
    guess: Guess,
    assignments: jax.Array,
    domain: Domain,
) -> jax.Array:
    """Energies `[V, A]` of the visible in the presence of hidden entities."""
    frames = hidden_frames(modules, scene, guess, domain)
    cache = heard_with(scene, hidden_messages(modules, scene, frames))
    return assignment_energies(modules, cache, assignments)


def outputs_of(modules: BoundBank, cache: MessageCache, edges: jax.Array) -> jax.Array:
    """Outputs `[V, W, outputs]` under relations `[V, slots]`."""
    weights = jax.nn.one_hot(edges, cache.messages.shape[2])
    hidden = jnp.einsum("vdk,vdkmwh->vmwh", weights, cache.messages)
    return modules.update(jnp.moveaxis(hidden + cache.embedded, 1, 0))[0]


class Point(NamedTuple):
    """What a start of hidden entities comes to, under given relations.

    Attributes:
      energy: `()` nats, prior of the start included.
      residuals: `[V, W, Y]`, see `Likelihood.residuals`.
      slopes: `[V W Y, H P]` of the residuals.
      curvature: `[H P, H P]` of Gauss and Newton, that of the prior included.
      frames: `[H, T, F]` of the hidden entities.
      frame_slopes: `[H, T, F, H P]`.
      cache: Messages of all that are heard.
    """

    energy: jax.Array
    residuals: jax.Array
    slopes: jax.Array
    curvature: jax.Array
    frames: jax.Array
    frame_slopes: jax.Array
    cache: MessageCache


def evaluate(
    modules: BoundBank, scene: Scene, start: jax.Array, fit: Fit, domain: Domain
) -> Point:
    """Evaluates hidden entities that begin at `[H, P]`, otherwise those of a fit."""
    targets, counted = scene.cache.observed()

    def values(start):
        frames = hidden_frames(modules, scene, fit.guess._replace(start=start), domain)
        cache = heard_with(scene, hidden_messages(modules, scene, frames))
        outputs = outputs_of(modules, cache, fit.edges)
        found = modules.residuals(outputs, targets, **counted)
        energy = jnp.sum(modules.frame_energies(outputs, targets, **counted))
        return (found, frames), (found, frames, energy, cache)

    slopes, (found, frames, energy, cache) = jax.jacfwd(values, has_aux=True)(start)
    of_residuals, of_frames = slopes
    of_residuals = of_residuals.reshape(found.size, start.size)
    precision = jnp.tile(prior_precision(modules, start.shape[1]), len(start))
    return Point(
        energy=energy + prior_energy(modules, start),
        residuals=found,
        slopes=of_residuals,
        curvature=of_residuals.T @ of_residuals + jnp.diag(precision),
        frames=frames,
        frame_slopes=of_frames.reshape(*frames.shape, start.size),
        cache=cache,
    )


class _Descent(NamedTuple):
    """Where least squares stand.

    Attributes:
      start: `[H, P]`.
      curvature: `[HP, HP]` there.
      slope: `[HP]`.
      energy: `()`.
      damping: `()`.
    """

    start: jax.Array
    curvature: jax.Array
    slope: jax.Array
    energy: jax.Array
    damping: jax.Array


def descend(
    modules: BoundBank, scene: Scene, fit: Fit, num_steps: int, domain: Domain
) -> Fit:
    """Steps of Levenberg and Marquardt under given relations."""
    start = fit.guess.start
    precision = jnp.tile(prior_precision(modules, start.shape[1]), len(start))

    def body(state, _):
        size = jnp.diag(jnp.diag(state.curvature))
        step = jnp.linalg.solve(state.curvature + state.damping * size, state.slope)
        start = state.start - step.reshape(state.start.shape)
        point = evaluate(modules, scene, start, fit, domain)
        slope = point.slopes.T @ point.residuals.reshape(-1)
        slope = slope + precision * start.reshape(-1)
        is_better = (point.energy < state.energy) & jnp.all(
            jnp.isfinite(point.curvature)
        )
        factor = jnp.where(is_better, _EASED, _TIGHTENED)
        damping = jnp.clip(state.damping * factor, _TINY, 1.0 / _TINY)
        moved = _Descent(start, point.curvature, slope, point.energy, damping)
        stayed = state._replace(damping=damping)
        return jax.tree.map(lambda a, b: jnp.where(is_better, a, b), moved, stayed), ()

    # The first step leads nowhere: it evaluates the start.
    first = _Descent(
        start,
        jnp.eye(start.size),
        jnp.zeros(start.size),
        jnp.float32(jnp.inf),
        jnp.float32(_FIRST_DAMPING),
    )
    last, _ = jax.lax.scan(body, first, None, length=num_steps + 1)
    return Fit(fit.guess._replace(start=last.start), fit.edges, last.energy)


def with_relations(
    guess: Guess, energies: jax.Array, assignments: jax.Array, symmetric: bool
) -> Fit:
    """The relations of lowest energy, given energies `[V, A]` under a guess."""
    edges = assignments[jnp.argmin(energies, axis=1)]
    num_visible, num_hidden = len(edges), len(guess.start)
    if symmetric:
        outgoing = edges[:, edges.shape[1] - num_hidden :].T
        incoming = guess.incoming.at[:, :num_visible].set(outgoing)
        guess = guess._replace(incoming=incoming)
    return Fit(guess, edges, jnp.float32(jnp.inf))


def refine(
    modules: BoundBank,
    scene: Scene,
    guess: Guess,
    assignments: jax.Array,
    config: HiddenConfig,
) -> Fit:
    """Chooses relations and fits paths in turn; the best round counts.

    The first round sees a share of the recording, the last ones all of it: what happens
    late depends on the start in ways that least squares cannot follow from afar.
    """

    def body(carry, share):
        guess, best = carry
        early = until(scene, share)
        energies = energies_of(modules, early, guess, assignments, config.domain)
        fit = with_relations(guess, energies, assignments, config.symmetric)
        fit = descend(modules, early, fit, config.num_steps, config.domain)
        is_better = (fit.energy < best.energy) & (share >= 1.0)
        best = jax.tree.map(lambda a, b: jnp.where(is_better, a, b), fit, best)
        return (fit.guess, best), None

    num_visible = scene.drive.shape[2]
    nothing = jnp.zeros((num_visible, assignments.shape[1]), assignments.dtype)
    first = (guess, Fit(guess, nothing, jnp.float32(jnp.inf)))
    growing = np.linspace(config.first_share, 1.0, max(config.num_rounds - 1, 1))
    shares = [*growing, 1.0][-config.num_rounds :]
    (_, best), _ = jax.lax.scan(body, first, jnp.asarray(shares, jnp.float32))
    return best
