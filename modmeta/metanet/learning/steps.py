"""Training steps of predictors, one by one or in blocks.

Letters: n networks, b networks of a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from modmeta.metanet.learning import checks, parts
from modmeta.metanet.learning.predictors import Predictor
from modmeta.runtime import training_loop

Objective = Callable[[Any, Any], jax.Array]
Disturb = Callable[[jax.Array, Any], Any]


class FitState(NamedTuple):
    """What the training carries and a checkpoint holds.

    Attributes:
      params: Parameters.
      optimizer: State of the optimiser.
      best: Parameters of lowest validation loss.
    """

    params: Any
    optimizer: optax.OptState
    best: training_loop.Best


def adam(gradient_norm: float, weight_decay: float) -> optax.GradientTransformation:
    """AdamW for a learning rate of 1, of which every step takes its share."""
    changes = [optax.clip_by_global_norm(gradient_norm), optax.scale_by_adam()]
    if weight_decay:
        changes.append(optax.add_decayed_weights(weight_decay))
    # Of all parameters as one vector: a few operations in place of some for each.
    return optax.flatten(optax.chain(*changes))


_STATIC = ("predictor", "objective", "disturb", "gradient_norm", "weight_decay")


def take_step(
    predictor: Predictor,
    objective: Objective,
    disturb: Disturb | None,
    gradient_norm: float,
    weight_decay: float,
    learning_rate: jax.Array,
    rng_key: jax.Array | None,
    state: FitState,
    inputs: Any,
    targets: Any,
) -> tuple[FitState, jax.Array]:
    """The state after a step, and the mean loss of its batch.

    Args:
      predictor: What learns.
      objective: `(outputs, targets) -> [b]`.
      disturb: `(key, inputs) -> inputs`, or None.
      gradient_norm: See `adam`.
      weight_decay: See `adam`.
      learning_rate: Of this step.
      rng_key: Of this step, consumed by `disturb`; None without.
      state: What training changes.
      inputs: The batch, as a source sets it.
      targets: Leaves `[b, ...]`.
    """

    def losses(params, inputs, targets):
        found = objective(predictor.apply(params, inputs), targets)
        return checks.checked_losses(found, targets)

    if disturb is not None:
        inputs = disturb(rng_key, inputs)
    value, gradient = parts.value_and_gradient(losses, state.params, inputs, targets)
    updates, optimizer = adam(gradient_norm, weight_decay).update(
        gradient, state.optimizer, state.params
    )
    updates = jax.tree.map(lambda leaf: -learning_rate * leaf, updates)
    params = optax.apply_updates(state.params, updates)
    return state._replace(params=params, optimizer=optimizer), value


# What differs between trainings of one model, its learning rate and length, is no part
# of the program: all of them share one.
step = functools.partial(jax.jit, static_argnames=_STATIC)(take_step)


@functools.partial(jax.jit, static_argnames=_STATIC)
def block(
    predictor: Predictor,
    objective: Objective,
    disturb: Disturb | None,
    gradient_norm: float,
    weight_decay: float,
    learning_rates: jax.Array,
    rng_keys: jax.Array | None,
    state: FitState,
    rows: jax.Array,
    features: jax.Array,
    targets: Any,
) -> tuple[FitState, jax.Array]:
    """Steps one after another, as `take_step` does one.

    Args as there, but for:
      learning_rates: `[steps]`.
      rng_keys: `[steps]`, or None.
      rows: `[steps, b]` indices of networks.
      features: `[n, ...]` all networks, as rows.
      targets: Leaves `[n, ...]`.

    Returns:
      The last state and the losses `[steps]`.
    """

    def body(state, given):
        learning_rate, rng_key, rows = given
        own = jax.tree.map(lambda leaf: leaf[rows], (features, targets))
        return take_step(
            predictor,
            objective,
            disturb,
            gradient_norm,
            weight_decay,
            learning_rate,
            rng_key,
            state,
            *own,
        )

    return jax.lax.scan(body, state, (learning_rates, rng_keys, rows))
