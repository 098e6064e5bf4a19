"""What a fit of hidden entities is worth: evidence, spreads, probabilities.

Letters: V visible entities, H hidden ones, D = V - 1 slots, K relations, A assignments
of the slots of a receiver, W windows, T frames, F features, P parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from modmeta import linear_algebra
from modmeta.relational.data.domains import Domain
from modmeta.relational.hidden import fitting
from modmeta.relational.hidden.fitting import Fit
from modmeta.relational.hidden.scenes import Scene, piece_of_frames
from modmeta.relational.modules.bound_bank import BoundBank

_TINY = 1e-12
# Errors that all go one way know next to nothing.
_MAX_CORRELATION = 0.98
# A joint with a gap of more spreads is broken.
_BROKEN = 0.02


class Assessment(NamedTuple):
    """What a fit is worth.

    Attributes:
      temperature: `()` at least 1: how much errors exceed what the model expects of
        itself, and go on from frame to frame.
      occam: `()` nats by which the evidence falls short of the likelihood, at
        temperature 1: half the logarithm of prior over posterior volume.
      deviations: `[H, T, F]` of the hidden states, normalised, at temperature 1.
      probabilities: `[V, D + H, K]` of the relations of a receiver.
      effects: `[H]` root mean square of what a hidden entity changes, over that of all
        changes; large changes count less.
      breaks: `()` share of the joints of a path that did not close.
    """

    temperature: jax.Array
    occam: jax.Array
    deviations: jax.Array
    probabilities: jax.Array
    effects: jax.Array
    breaks: jax.Array


def temperature_of(residuals: jax.Array, span: int) -> jax.Array:
    """How warm samples should be, `()`, by residuals `[V, W, Y]`.

    Errors with autocorrelation r from one window to the next that shares nothing with
    it are worth (1 - r) / (1 + r) as many independent ones. Of errors that are smaller
    than the model expects, the rest of what it expects counts as independent.
    """
    squares = jnp.sum(jnp.square(residuals))
    products = jnp.sum(residuals[:, span:] * residuals[:, :-span])
    count = jnp.maximum(jnp.sum(residuals != 0.0), 1)
    correlation = span * products / jnp.maximum(span * squares, count)
    correlation = jnp.clip(correlation, 0.0, _MAX_CORRELATION)
    excess = jnp.maximum(span * squares / count, 1.0)
    return excess * (1.0 + correlation) / (1.0 - correlation)


def assess(
    modules: BoundBank, scene: Scene, fit: Fit, assignments: jax.Array, domain: Domain
) -> tuple[jax.Array, Assessment]:
    """Frames `[H, T, F]` of the hidden entities of a fit, and what it is worth.

    Args:
      modules: The bank with its arrays.
      scene: The system.
      fit: The fit.
      assignments: `[A, D + H]` of the slots of a receiver.
      domain: Where bodies can be.
    """
    start = fit.guess.start
    count, num_hidden, size = start.shape
    tight = fitting.TIGHT
    point = fitting.evaluate(modules, scene, start, fit, domain, tight)
    temperature = temperature_of(point.residuals, modules.bank.config.span)
    precision = fitting.prior_precision(modules, start)
    joints = fitting.joint_precision(modules, size, tight)
    is_joint = jnp.reshape(jnp.arange(count) > 0, (-1, 1, 1))
    precision = jnp.where(is_joint, joints, precision)
    volume, covariance = linear_algebra.log_volume_and_inverse(
        point.curvature.reshape(start.size, start.size)
    )
    own = jnp.arange(count)
    covariance = covariance.reshape(point.curvature.shape)[own, :, own]
    piece = piece_of_frames(len(scene.times), count)
    slopes = point.frame_slopes
    variance = jnp.einsum("htfp,tpq,htfq->htf", slopes, covariance[piece], slopes)
    messages = point.cache.messages[:, -num_hidden:]
    num_targets = modules.bank.layout.num_targets
    outgoing = jax.nn.one_hot(fit.edges[:, -num_hidden:], messages.shape[2])
    changes = jnp.einsum("vhk,vhkmwy->vhwy", outgoing, messages[..., :num_targets])
    squares = jnp.sum(jnp.square(scene.cache.targets), axis=-1)
    # Close encounters must not make all else small.
    share = 1.0 / (squares + jnp.median(squares) + _TINY)
    caused = jnp.einsum("vw,vhwy->h", share, jnp.square(changes))
    energies = fitting.assignment_energies(modules, point.cache, assignments)
    found = Assessment(
        temperature=temperature,
        occam=0.5 * (volume - jnp.sum(jnp.log(precision))),
        deviations=jnp.sqrt(jnp.maximum(variance, 0.0)),
        probabilities=_probabilities(modules, energies, assignments, temperature),
        effects=jnp.sqrt(caused / (jnp.sum(share * squares) + _TINY)),
        breaks=jnp.mean(jnp.append(point.gaps, jnp.nan) > _BROKEN),
    )
    return point.frames, found


def assess_alone(
    modules: BoundBank, scene: Scene, assignments: jax.Array
) -> tuple[jax.Array, jax.Array, Assessment]:
    """Relations of the visible if nothing is hidden.

    Args:
      modules: The bank with its arrays.
      scene: The system.
      assignments: `[A, D]` of the slots of a receiver.

    Returns:
      `[V, D]` the relations, `()` their energy, and what they are worth.
    """
    energies = fitting.assignment_energies(modules, scene.cache, assignments)
    edges = assignments[jnp.argmin(energies, axis=1)]
    outputs = fitting.outputs_of(modules, scene.cache, edges)
    targets, counted = scene.cache.observed()
    residuals = modules.residuals(outputs, targets, **counted)
    temperature = temperature_of(residuals, modules.bank.config.span)
    shape = (0, len(scene.times), modules.bank.layout.num_features)
    found = Assessment(
        temperature=temperature,
        occam=jnp.zeros(()),
        deviations=jnp.zeros(shape),
        probabilities=_probabilities(modules, energies, assignments, temperature),
        effects=jnp.zeros((0,)),
        breaks=jnp.zeros(()),
    )
    return edges, jnp.sum(jnp.min(energies, axis=1)), found


def _probabilities(modules, energies, assignments, temperature) -> jax.Array:
    """`[V, slots, K]` from energies `[V, A]` of assignments `[A, slots]`."""
    weights = jax.nn.softmax(-energies / temperature, axis=1)
    shares = jax.nn.one_hot(assignments, modules.bank.config.num_relations)
    return jnp.einsum("va,adk->vdk", weights, shares)
