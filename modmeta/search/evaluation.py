"""What the searches share: evaluating structures, and keeping the best of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modmeta.search import base, writes


class Evaluated(NamedTuple):
    """A structure and its energies.

    Attributes:
      structure: The structure.
      local_energies: `[R]` energy of every receiver.
      energy: `()` their sum plus the prior.
    """

    structure: base.Structure
    local_energies: jax.Array
    energy: jax.Array


def present(state: base.SearchState) -> Evaluated:
    """The present structure of a search."""
    return Evaluated(state.structure, state.local_energies, state.energy)


def touched_receivers(
    energy: base.Energy, receivers: jax.Array, num_receivers: int
) -> jax.Array:
    """Receivers to evaluate after a change at some: all, if the energy is not local."""
    return receivers if energy.is_local else jnp.arange(num_receivers)


def evaluate(
    energy: base.Energy,
    structure: base.Structure,
    local_energies: jax.Array,
    receivers: jax.Array,
) -> Evaluated:
    """Evaluates a structure that differs from an evaluated one at some receivers.

    Args:
      energy: The energy.
      structure: The structure to evaluate.
      local_energies: `[R]` of the evaluated structure.
      receivers: `[r]` receivers to evaluate, see `touched_receivers`.

    Returns:
      The structure with its energies. They are summed anew: a running total would
      drift over long chains.
    """
    touched = energy.local(structure, receivers)
    local_energies = writes.put_all(local_energies, receivers, touched)
    return total(energy, structure, local_energies)


def total(
    energy: base.Energy, structure: base.Structure, local_energies: jax.Array
) -> Evaluated:
    """A structure whose receivers are evaluated, `[R]`, with its prior."""
    value = jnp.sum(local_energies) + energy.prior(structure)
    return Evaluated(structure, local_energies, value)


def with_row(
    structure: base.Structure,
    receiver: jax.Array,
    row: jax.Array,
    node_module: jax.Array | None = None,
) -> base.Structure:
    """A structure with other incoming edges of a receiver, see `evaluate_row`."""
    edge_modules, node_modules = structure
    edge_modules = writes.put(edge_modules, (receiver,), row)
    if node_module is not None:
        node_modules = writes.put(node_modules, (receiver,), node_module)
    return base.Structure(edge_modules, node_modules)


def evaluate_row(
    energy: base.Energy,
    state: base.SearchState,
    receiver: jax.Array,
    receivers: jax.Array,
    row: jax.Array,
    node_module: jax.Array | None = None,
) -> Evaluated:
    """Evaluates the present structure with other incoming edges of one receiver.

    Args:
      energy: The energy.
      state: Gives the present structure.
      receiver: `()` whose edges are others.
      receivers: `[r]` receivers to evaluate, see `touched_receivers`.
      row: `[D]` modules of its edges.
      node_module: `()` its own module; None leaves it.
    """
    structure = with_row(state.structure, receiver, row, node_module)
    return evaluate(energy, structure, state.local_energies, receivers)


def evaluate_fully(energy: base.Energy, structure: base.Structure) -> Evaluated:
    """Evaluates a structure at all receivers."""
    local_energies = energy.local(structure, jnp.arange(len(structure.node_modules)))
    return total(energy, structure, local_energies)


def select(condition: jax.Array, chosen: Any, otherwise: Any) -> Any:
    """One of two trees, by a condition `()`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, otherwise)


def take(tree: Any, index: Any) -> Any:
    """Entries of leaves that are stacked along their first axis."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def is_better(energy: jax.Array, than: jax.Array) -> jax.Array:
    """Whether an energy is finite, and lower than another or the other is not."""
    return jnp.isfinite(energy) & ((energy < than) | ~jnp.isfinite(than))


def lowest(evaluated: Evaluated) -> Evaluated:
    """The one of lowest finite energy (the first if there is none), of leaves `[n]`."""
    energies = jnp.where(jnp.isfinite(evaluated.energy), evaluated.energy, jnp.inf)
    return take(evaluated, jnp.argmin(energies))


def draw(
    rng_key: jax.Array, values: Evaluated, temperature: jax.Array, otherwise: Evaluated
) -> Evaluated:
    """One of leaves `[n]`, drawn with weights exp(-energy / T); consumes the key.

    None of non-finite energy is drawn; where there are no others, it is `otherwise`.
    """
    is_possible = jnp.isfinite(values.energy)
    logits = jnp.where(is_possible, -values.energy / temperature, -jnp.inf)
    drawn = take(values, jax.random.categorical(rng_key, logits))
    return select(jnp.any(is_possible), drawn, otherwise)


def bounded(energies: jax.Array) -> jax.Array:
    """Energies `[n, ...]`, the worst finite one of the n where not finite.

    Averages then stay finite and still speak against structures without a finite
    energy. Zero where none of the n is finite.
    """
    is_finite = jnp.isfinite(energies)
    worst = jnp.max(jnp.where(is_finite, energies, -jnp.inf), axis=0, keepdims=True)
    worst = jnp.where(jnp.isfinite(worst), worst, 0.0)
    return jnp.where(is_finite, energies, worst)


def advance(
    state: base.SearchState,
    chosen: Evaluated,
    *,
    best: Evaluated | None = None,
    num_proposals: int | jax.Array,
    num_node_updates: int | jax.Array,
    memory: Any = (),
) -> base.SearchState:
    """The state after a step.

    Args:
      state: The state before.
      chosen: The structure that is present from now on.
      best: The lowest that the step evaluated; None for `chosen`.
      num_proposals: Structures that the step evaluated.
      num_node_updates: Receivers that it evaluated.
      memory: The search's memory from now on.
    """
    best = chosen if best is None else best
    best_structure, best_energy = select(
        is_better(best.energy, state.best_energy),
        (best.structure, best.energy),
        (state.best_structure, state.best_energy),
    )
    return base.SearchState(
        *chosen,
        best_structure=best_structure,
        best_energy=best_energy,
        num_proposals=state.num_proposals + num_proposals,
        num_node_updates=state.num_node_updates + num_node_updates,
        memory=memory,
    )


def deterministic_info(
    state: base.SearchState, proposed: Evaluated, is_accepted: jax.Array
) -> base.SearchInfo:
    """Diagnostics of a step that takes a structure, or not, without chance."""
    return base.SearchInfo(
        proposed_energy=proposed.energy,
        log_ratio=jnp.zeros_like(proposed.energy),
        acceptance_probability=is_accepted.astype(proposed.energy.dtype),
        is_accepted=is_accepted,
        is_worsening=proposed.energy > state.energy,
    )


def drawn_info(
    state: base.SearchState, new_state: base.SearchState, temperature: jax.Array
) -> base.SearchInfo:
    """Diagnostics of a step that draws from Boltzmann weights and rejects nothing.

    Seen as a proposal, such a draw is always accepted: its Hastings correction cancels
    the change of energy.
    """
    change = (new_state.energy - state.energy) / temperature
    is_finite = jnp.isfinite(new_state.energy)
    return base.SearchInfo(
        proposed_energy=new_state.energy,
        log_ratio=jnp.where(jnp.isfinite(change), change, 0.0),
        acceptance_probability=is_finite.astype(new_state.energy.dtype),
        is_accepted=is_finite,
        is_worsening=new_state.energy > state.energy,
    )
