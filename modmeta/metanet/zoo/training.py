"""Trains many networks of one shape at once.

Everything random about a network follows from the key of the zoo and the index of the
network: what is trained, from where, on which batches. So network i is the same in a
zoo of ten as in a zoo of ten thousand, in whichever chunk it is trained, up to the
rounding of programs compiled for chunks of different size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Settings = Mapping[str, jax.Array]
Variables = Mapping[str, Any]


def never(
    loss: jax.Array, num_steps: jax.Array, variables: Variables, settings: Settings
) -> jax.Array:
    """Trains every network to the last step."""
    del num_steps, variables, settings
    return jnp.zeros_like(loss, bool)


class ZooTask(NamedTuple):
    """How the networks of one shape are trained, as pure functions of one network.

    The functions see one network and are mapped over all of them, so that whatever
    differs between networks (data drawn for one network, learning rate, dropout rate,
    number of epochs) is an array in `settings`, and whatever they share (images) is in
    `data`. A task is compiled once: make it once and keep it.

    Attributes:
      draw: `key -> settings`, a dict of arrays, by name.
      init: `(key, settings) -> variables`: a dict of the collections of a Flax module,
        of which "params" are trained.
      loss: `(variables, data, key, step, settings) -> (loss, collections)`: a scalar,
        and the other collections as they are after the step (running statistics), an
        empty dict if there are none. The key is fresh at every step, for batches and
        dropout.
      optimizer: `settings -> optimizer`.
      score: `(variables, data, settings) -> scores`, a dict of arrays by name, of the
        trained network.
      num_steps: Steps that no network exceeds.
      is_done: `(loss, num_steps, variables, settings) -> bool`, whether a network has
        been trained enough once it has taken `num_steps`. `loss` is that of the last
        step, before its update; `variables` are those after it.
    """

    draw: Callable[[jax.Array], Settings]
    init: Callable[[jax.Array, Settings], Variables]
    loss: Callable[
        [Variables, Any, jax.Array, jax.Array, Settings], tuple[jax.Array, Variables]
    ]
    optimizer: Callable[[Settings], optax.GradientTransformation]
    score: Callable[[Variables, Any, Settings], Mapping[str, jax.Array]]
    num_steps: int
    is_done: Callable[[jax.Array, jax.Array, Variables, Settings], jax.Array] = never


class TrainedNetworks(NamedTuple):
    """Networks after training, n of them.

    Attributes:
      variables: What `ZooTask.init` gives, leaves `[n, ...]`.
      settings: What `ZooTask.draw` gives, leaves `[n, ...]`.
      scores: What `ZooTask.score` gives, leaves `[n, ...]`.
      losses: `[n]` loss of the last step, before its update.
      num_steps: `[n]` int32, steps taken.
      is_diverged: `[n]` whether training ended because the next step had led to a loss
        or variables that are not finite. The step was not taken.
    """

    variables: Variables
    settings: Settings
    scores: Mapping[str, jax.Array]
    losses: jax.Array
    num_steps: jax.Array
    is_diverged: jax.Array

    @property
    def outcome(self) -> dict[str, jax.Array]:
        """Scores, steps taken and whether it diverged, as a zoo keeps them."""
        return {
            **self.scores,
            "num_steps": self.num_steps,
            "is_diverged": self.is_diverged,
        }


class _State(NamedTuple):
    """One network in training."""

    variables: Variables
    optimizer: optax.OptState
    loss: jax.Array
    num_steps: jax.Array
    is_running: jax.Array
    is_diverged: jax.Array


def network_keys(rng_key: jax.Array, index: jax.Array) -> tuple[jax.Array, ...]:
    """Keys of one network of a zoo: for its settings, initial values and training.

    Args:
      rng_key: Key of the zoo; not consumed.
      index: `()` number of the network within its zoo.
    """
    return tuple(jax.random.split(jax.random.fold_in(rng_key, index), 3))


@functools.partial(jax.jit, static_argnames=("task", "one_by_one"))
def train_networks(
    task: ZooTask,
    rng_key: jax.Array,
    indices: jax.Array,
    data: Any = None,
    given: Settings | None = None,
    *,
    one_by_one: bool = False,
) -> TrainedNetworks:
    """Trains one network per index, all in one compiled program.

    Side by side, a network that is done or has diverged stays as it is while others go
    on; the program ends when none goes on. Early stopping therefore saves time only if
    it spares a whole chunk: sort networks by how long they train. One by one, each ends
    when it is done, and what it computes stays in the cache of a processor; for
    networks whose single step keeps a processor busy.

    Args:
      task: How to train.
      rng_key: Key of the zoo, the same for every chunk of it; not consumed.
      indices: `[n]` numbers of the networks within the zoo.
      data: What the networks share.
      given: Settings that are not drawn, leaves `[n, ...]` by name; for instance what
        each of them is to fit.
      one_by_one: Whether to train them one after another. The networks are the same, up
        to rounding.

    Returns:
      The trained networks.
    """
    given = given or {}
    if not one_by_one:
        return _train_side_by_side(task, rng_key, indices, data, given)

    def train(network):
        index, own = jax.tree.map(lambda leaf: leaf[None], network)
        trained = _train_side_by_side(task, rng_key, index, data, own)
        return jax.tree.map(lambda leaf: leaf[0], trained)

    return jax.lax.map(train, (indices, given))


def _train_side_by_side(
    task: ZooTask, rng_key: jax.Array, indices: jax.Array, data: Any, given: Settings
) -> TrainedNetworks:
    """Trains all networks step by step together, until none goes on."""

    def start(index, own):
        key_settings, key_variables, key_training = network_keys(rng_key, index)
        settings = {**task.draw(key_settings), **own}
        variables = task.init(key_variables, settings)
        state = _State(
            variables=variables,
            optimizer=task.optimizer(settings).init(variables["params"]),
            loss=jnp.float32(jnp.nan),
            num_steps=jnp.int32(0),
            is_running=jnp.bool_(True),
            is_diverged=jnp.bool_(False),
        )
        return key_training, settings, state

    keys, settings, states = jax.vmap(start)(indices, given)

    def is_due(carry):
        step, states = carry
        return (step < task.num_steps) & jnp.any(states.is_running)

    def body(carry):
        step, states = carry

        def advance(key, settings, state):
            return _advance(task, data, key, step, settings, state)

        return step + 1, jax.vmap(advance)(keys, settings, states)

    _, states = jax.lax.while_loop(is_due, body, (jnp.int32(0), states))
    scores = jax.vmap(lambda variables, own: task.score(variables, data, own))(
        states.variables, settings
    )
    return TrainedNetworks(
        variables=states.variables,
        settings=settings,
        scores=scores,
        losses=states.loss,
        num_steps=states.num_steps,
        is_diverged=states.is_diverged,
    )


def _advance(
    task: ZooTask,
    data: Any,
    key: jax.Array,
    step: jax.Array,
    settings: Settings,
    state: _State,
) -> _State:
    """Takes one step of one network, unless it is frozen."""

    def loss_of(params):
        variables = {**state.variables, "params": params}
        step_key = jax.random.fold_in(key, step)
        return task.loss(variables, data, step_key, step, settings)

    params = state.variables["params"]
    (loss, collections), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, optimizer_state = task.optimizer(settings).update(
        gradient, state.optimizer, params
    )
    variables = {
        **state.variables,
        **collections,
        "params": optax.apply_updates(params, updates),
    }
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(variables)]
    is_finite = jnp.isfinite(loss) & jnp.all(jnp.stack(finite))
    is_taken = state.is_running & is_finite
    taken = _State(
        variables=variables,
        optimizer=optimizer_state,
        loss=loss.astype(jnp.float32),
        num_steps=step + 1,
        is_running=~task.is_done(loss, step + 1, variables, settings),
        is_diverged=state.is_diverged,
    )
    kept = state._replace(
        is_running=jnp.bool_(False),
        is_diverged=state.is_diverged | (state.is_running & ~is_finite),
    )
    return jax.tree.map(lambda new, old: jnp.where(is_taken, new, old), taken, kept)
