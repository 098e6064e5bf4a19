"""Types that every structure search shares.

A search works on one *problem*: a set of receivers, each with the same number of slots
for incoming edges, and an energy that is a sum over receivers plus an optional prior.
Everything is written for one problem; batches of problems and chains come from
`jax.vmap`. Nothing here knows where the energy comes from.

Functions that are passed around have a `Protocol` each. Callers may name the arguments,
so the names of the parameters are part of the contract; tests hold every registered
search and every move to them.

Letters: R receivers, D slots, K edge modules, M node modules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Structure(NamedTuple):
    """Which module sits where.

    Attributes:
      edge_modules: `[R, D]` int32, module of every incoming edge.
      node_modules: `[R]` int32, module of every node.
    """

    edge_modules: jax.Array
    node_modules: jax.Array


def no_prior(structure: Structure) -> jax.Array:
    """The structural prior that prefers nothing: zero for every structure."""
    del structure
    return jnp.zeros(())


class Energy(NamedTuple):
    """The energy of a structure: a sum over receivers plus a prior, in nats.

    Attributes:
      local: `(structure, receivers [r]) -> [r]`, the terms of these receivers.
      prior: `structure -> ()`, negative log prior up to a constant.
      is_local: Whether a receiver's term depends on its own incoming edges and node
        module alone. If not (free roll-outs), every move re-evaluates all receivers.
      relaxed: `(edge_weights [R, D, K], node_modules [R]) -> ()`, energy and prior of
        soft assignments, differentiable, equal to the energy where the weights are
        one-hot. None where there is no relaxation.
      residuals: `(edge_weights [D, K], node_module (), receiver ()) -> [P]`, what is
        squared in the term of one receiver under soft assignments of its edges: half
        of the sum of squares stands for the energy, differentiable, the closer to
        linear the better. None where there is no such form.
    """

    local: Callable[[Structure, jax.Array], jax.Array]
    prior: Callable[[Structure], jax.Array] = no_prior
    is_local: bool = True
    relaxed: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    residuals: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None


class EnergyTraits(NamedTuple):
    """What an energy offers to a search, or what a search needs of an energy.

    Attributes:
      independent_receivers: Whether the energy is local and without prior, so that the
        best structure is the best one of every receiver.
      relaxed: Whether there is `Energy.relaxed`.
      residuals: Whether there is `Energy.residuals`.
    """

    independent_receivers: bool = False
    relaxed: bool = False
    residuals: bool = False


_EXPECTED_TRAITS = (
    "energy: found one that couples receivers (a prior or "
    "roll-outs), expected a local one without prior",
    "energy.relaxed: found None, expected a differentiable energy of soft assignments",
    "energy.residuals: found None, expected the residuals of a receiver",
)


def traits_of(energy: Energy) -> EnergyTraits:
    """What an energy offers."""
    return EnergyTraits(
        independent_receivers=energy.is_local and energy.prior is no_prior,
        relaxed=energy.relaxed is not None,
        residuals=energy.residuals is not None,
    )


def check_traits(needed: EnergyTraits, offered: EnergyTraits, reader: str = "") -> None:
    """Refuses an energy that lacks what is needed.

    Args:
      needed: What a search needs.
      offered: What the energy offers, see `traits_of`.
      reader: Who needs it, for the message.

    Raises:
      ValueError: That names everything that is missing.
    """
    missing = [
        message
        for message, is_needed, is_offered in zip(
            _EXPECTED_TRAITS, needed, offered, strict=True
        )
        if is_needed and not is_offered
    ]
    if missing:
        suffix = f" ({reader})" if reader else ""
        raise ValueError("; ".join(missing) + suffix)


class Candidates(NamedTuple):
    """What a search may choose from.

    Attributes:
      slot_mask: `[R, D]` true at slots that hold an edge.
      edge_logits: `[R, D, K]` log-probabilities of the learned proposal; zeros make
        it uniform.
      reverse_slots: `[R, D]` slot, at the sender, of the opposite edge (D if none),
        used by moves on pairs of edges. None where no move needs it.
      sender_receivers: `[R, D]` index among the R receivers of the sender behind a
        slot. None where no move needs it.
    """

    slot_mask: jax.Array
    edge_logits: jax.Array
    reverse_slots: jax.Array | None = None
    sender_receivers: jax.Array | None = None


class Proposal(NamedTuple):
    """A proposed structure.

    Attributes:
      structure: The structure proposed.
      receivers: `[r]` receivers whose incoming edges or module may differ; an entry
        may repeat.
      log_ratio: `()` log q(present | proposed) - log q(proposed | present), the
        Hastings correction.
    """

    structure: Structure
    receivers: jax.Array
    log_ratio: jax.Array


class ProposalFunction(Protocol):
    """Draws a proposal; the seam between uniform and learned search."""

    def __call__(
        self, rng_key: jax.Array, structure: Structure, candidates: Candidates
    ) -> Proposal:
        """Proposes a structure from the present one.

        Args:
          rng_key: Consumed.
          structure: The present structure.
          candidates: What to choose from.
        """
        ...


class SearchState(NamedTuple):
    """What the next step of a search needs; the same for every search.

    Attributes:
      structure: Present structure; of a search that samples, its sample.
      local_energies: `[R]` energy of every receiver.
      energy: `()` their sum plus the prior.
      best_structure: Structure of lowest energy so far.
      best_energy: `()` its energy.
      num_proposals: `()` int32, structures evaluated so far, the start excepted.
      num_node_updates: `()` int32, node updates evaluated so far: one per receiver
        whose energy was computed.
      memory: What this search alone needs besides: further chains, a population, a
        policy. Empty for annealing.
    """

    structure: Structure
    local_energies: jax.Array
    energy: jax.Array
    best_structure: Structure
    best_energy: jax.Array
    num_proposals: jax.Array
    num_node_updates: jax.Array
    memory: Any = ()


class SearchInfo(NamedTuple):
    """Diagnostics of one step.

    A step that evaluates several structures reports the one that it would move to.

    Attributes:
      proposed_energy: `()` energy of the structure proposed (accepted or not).
      log_ratio: `()` Hastings correction of the proposal; zero for searches that do
        not sample.
      acceptance_probability: `()` probability with which it was accepted.
      is_accepted: `()` bool.
      is_worsening: `()` bool, whether the proposed energy was higher.
    """

    proposed_energy: jax.Array
    log_ratio: jax.Array
    acceptance_probability: jax.Array
    is_accepted: jax.Array
    is_worsening: jax.Array


class InitFn(Protocol):
    """Starts a search at a structure."""

    def __call__(
        self, structure: Structure, energy: Energy, candidates: Candidates
    ) -> SearchState:
        """Evaluates the structure and sets up the memory.

        Args:
          structure: Where to start.
          energy: Energy to minimise or sample.
          candidates: What to choose from.
        """
        ...


class StepFn(Protocol):
    """Takes one step of a search."""

    def __call__(
        self,
        rng_key: jax.Array,
        state: SearchState,
        energy: Energy,
        candidates: Candidates,
        temperature: jax.Array,
    ) -> tuple[SearchState, SearchInfo]:
        """Takes one step. A structure of non-finite energy is never accepted.

        Args:
          rng_key: Consumed.
          state: The state before.
          energy: As at `init`.
          candidates: As at `init`; the logits may be others.
          temperature: `()` in the unit of the energy; searches that do not sample may
            ignore it.
        """
        ...


class SearchAlgorithm(NamedTuple):
    """A search as a pair of pure functions.

    Attributes:
      init: `(structure, energy, candidates) -> state`.
      step: `(rng_key, state, energy, candidates, temperature) -> (state, info)`.
    """

    init: InitFn
    step: StepFn


class SearchShapes(NamedTuple):
    """Sizes of a problem, from which the memory of a search is told.

    Attributes:
      num_receivers: R.
      num_slots: D.
      num_modules: K, edge modules.
      num_residuals: Length of `Energy.residuals`; 0 where there are none.
    """

    num_receivers: int
    num_slots: int
    num_modules: int
    num_residuals: int = 0


def init(structure: Structure, energy: Energy, candidates: Candidates) -> SearchState:
    """Evaluates a structure from scratch and starts the counters at zero.

    The `InitFn` of a search without a memory.

    Args:
      structure: Where to start.
      energy: Energy to minimise or sample.
      candidates: Not looked at here.

    Returns:
      The state without memory; the start counts as best so far, its evaluation as
      node updates.
    """
    del candidates
    num_receivers = structure.node_modules.shape[0]
    local_energies = energy.local(structure, jnp.arange(num_receivers))
    total = jnp.sum(local_energies) + energy.prior(structure)
    return SearchState(
        structure=structure,
        local_energies=local_energies,
        energy=total,
        best_structure=structure,
        best_energy=total,
        num_proposals=jnp.zeros((), jnp.int32),
        num_node_updates=jnp.full((), num_receivers, jnp.int32),
    )
