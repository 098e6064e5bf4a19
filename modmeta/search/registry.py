"""All searches by name, and what each needs and gives.

Every one is a `SearchAlgorithm(init, step)` over the same state, diagnostics and
budget, for one problem, under jit and vmap. Libraries of searches do not fit the
problem: blackjax samples continuous parameters, evosax evolves real vectors, mctx
searches trees of actions, and none of them evaluates a change at the few receivers that
it touches, which is what makes a proposal cheap here.

Nothing outside asks for a search by its name: it asks the `SearchSpec`.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from modmeta.search import base, proposals
from modmeta.search.algorithms import (
    enumeration,
    genetic,
    gibbs,
    greedy,
    integer_least_squares,
    mean_field,
    parallel_tempering,
    reinforce,
    simulated_annealing,
    straight_through,
)


def _no_workspace(shapes: base.SearchShapes, options: Mapping[str, Any]) -> int:
    del shapes, options
    return 0


@dataclasses.dataclass(frozen=True)
class SearchSpec:
    """A search as the registry knows it.

    Attributes:
      build: Builds the search. All arguments may be given by keyword, all but `propose`
        have defaults. Who runs searches by name fills in those that a builder takes:
        `propose` (the moves), `hastings` (whether to correct for asymmetric ones),
        `uniform_fraction` (share of chance in learned probabilities) and
        `num_node_modules` (size of the bank of node modules).
      samples: Whether the present structure, at a fixed temperature, is a sample of
        the Boltzmann distribution.
      uses_logits: Whether `candidates.edge_logits` have an effect.
      is_exhaustive: Whether it goes through all assignments of a receiver, so that it
        suits receivers of few edges alone.
      sweeps: Whether a step visits all receivers that a prior ties together.
      needs: What it needs of an energy.
      workspace: `(shapes, options) -> bytes` that a step needs besides the state and
        what the energy itself needs, per chain and problem. All options are given.
    """

    build: Callable[..., base.SearchAlgorithm]
    samples: bool = False
    uses_logits: bool = True
    is_exhaustive: bool = False
    sweeps: bool = False
    needs: base.EnergyTraits = base.EnergyTraits()
    workspace: Callable[[base.SearchShapes, Mapping[str, Any]], int] = _no_workspace

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The arguments of the builder."""
        return dict(inspect.signature(self.build).parameters)

    @property
    def defaults(self) -> dict[str, Any]:
        """The arguments of the builder that may be left out, with their values."""
        return {
            name: parameter.default
            for name, parameter in self.options.items()
            if parameter.default is not parameter.empty
        }

    @property
    def needs_proposal(self) -> bool:
        """Whether it moves by proposals, which must be given as `propose`."""
        return "propose" in self.options


_SEARCHES: dict[str, SearchSpec] = {
    "simulated_annealing": SearchSpec(
        simulated_annealing.simulated_annealing, samples=True
    ),
    "parallel_tempering": SearchSpec(
        parallel_tempering.parallel_tempering, samples=True
    ),
    "gibbs": SearchSpec(gibbs.gibbs, samples=True, uses_logits=False),
    "greedy": SearchSpec(greedy.greedy),
    "enumeration": SearchSpec(
        enumeration.enumeration,
        uses_logits=False,
        is_exhaustive=True,
        needs=enumeration.NEEDS,
    ),
    "genetic": SearchSpec(genetic.genetic),
    "reinforce": SearchSpec(reinforce.reinforce),
    "straight_through": SearchSpec(
        straight_through.straight_through, needs=straight_through.NEEDS
    ),
    "mean_field": SearchSpec(mean_field.mean_field),
    "integer_least_squares": SearchSpec(
        integer_least_squares.integer_least_squares,
        sweeps=True,
        needs=integer_least_squares.NEEDS,
        workspace=integer_least_squares.workspace,
    ),
}

# What there is, read only; `register` adds to it.
SEARCHES: Mapping[str, SearchSpec] = types.MappingProxyType(_SEARCHES)


def register(name: str, spec: SearchSpec) -> None:
    """Adds a search, which can then be named wherever a search is named.

    Whether it keeps the contract is told by `modmeta.search.testing.check_search`. In
    whole, a search that draws structures at random and keeps the best:

    >>> import jax
    >>> from modmeta import search
    >>> from modmeta.search import evaluation, factorised
    >>>
    >>> def random_search(*, uniform_fraction=1.0):
    ...     def step(rng_key, state, energy, candidates, temperature):
    ...         logits = factorised.initial(candidates, uniform_fraction)
    ...         drawn = factorised.draw(
    ...             rng_key, logits, state.structure, candidates.slot_mask
    ...         )
    ...         proposed = evaluation.evaluate_fully(energy, drawn)
    ...         better = evaluation.is_better(proposed.energy, state.energy)
    ...         present = evaluation.present(state)
    ...         new_state = evaluation.advance(
    ...             state,
    ...             evaluation.select(better, proposed, present),
    ...             num_proposals=1,
    ...             num_node_updates=len(state.local_energies),
    ...         )
    ...         info = evaluation.deterministic_info(state, proposed, better)
    ...         return new_state, info
    ...
    ...     return search.SearchAlgorithm(search.init, step)
    >>>
    >>> spec = search.SearchSpec(random_search)
    >>> search.testing.check_search(spec)
    >>> search.register("random_search", spec)
    >>> algorithm = search.build_search("random_search", uniform_fraction=0.5)

    Args:
      name: A new name; letters, digits and underscores, as it becomes part of names of
        files.
      spec: The search.

    Raises:
      ValueError: If the name is taken or no identifier, or the builder cannot be
        called by keyword, `propose` alone being required.
    """
    if name in _SEARCHES:
        raise ValueError(
            f"search: found {name!r} registered before, expected a new name"
        )
    if not name.isidentifier():
        raise ValueError(f"search: found {name!r}, expected an identifier")
    for option, parameter in spec.options.items():
        if parameter.kind not in (
            parameter.KEYWORD_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
        ):
            raise ValueError(
                f"{name}.{option}: found {parameter.kind.description}, expected an "
                "argument that can be given by keyword"
            )
        if parameter.default is parameter.empty and option != "propose":
            raise ValueError(f"{name}.{option}: found no default, expected one")
    _SEARCHES[name] = spec


def unregister(name: str) -> None:
    """Forgets a search, so that its name can be given to another one.

    What was built by that name before stays as it is.

    Raises:
      ValueError: If there is no such search.
    """
    spec_of(name)
    del _SEARCHES[name]


def spec_of(name: str) -> SearchSpec:
    """What the registry knows of a search.

    Raises:
      ValueError: If there is no such search.
    """
    if name not in _SEARCHES:
        raise ValueError(f"search: found {name!r}, expected one of {tuple(_SEARCHES)}")
    return _SEARCHES[name]


def options_of(name: str) -> dict[str, inspect.Parameter]:
    """The arguments of a search's builder.

    Raises:
      ValueError: If there is no such search.
    """
    return spec_of(name).options


def check_energy(name: str, energy: base.Energy | base.EnergyTraits) -> None:
    """Refuses a search that an energy does not suit.

    Args:
      name: One of `SEARCHES`.
      energy: The energy, or what is known of it before there is one.

    Raises:
      ValueError: If there is no such search, or it needs what the energy lacks; the
        message names all of it.
    """
    offered = base.traits_of(energy) if isinstance(energy, base.Energy) else energy
    base.check_traits(spec_of(name).needs, offered, name)


def build_search(name: str, **options: Any) -> base.SearchAlgorithm:
    """Builds a search by name.

    Args:
      name: One of `SEARCHES`.
      **options: Arguments of its builder; searches that move by proposals need
        `propose`.

    Raises:
      ValueError: If there is no such search, it has no such option, or lacks one.
    """
    spec = spec_of(name)
    _check_options(name, spec, options)
    return spec.build(**options)


def _check_options(name: str, spec: SearchSpec, options: Mapping[str, Any]) -> None:
    try:
        inspect.signature(spec.build).bind(**options)
    except TypeError as error:
        expected = {
            option: "optional" if option in spec.defaults else "required"
            for option in spec.options
        }
        raise ValueError(
            f"options of {name}: found {sorted(options)}, expected {expected}"
        ) from error


def bytes_per_chain(name: str, shapes: base.SearchShapes, **options: Any) -> int:
    """Bytes that one chain of a search needs on one problem.

    The state, read off the search itself, and its `SearchSpec.workspace`. What the
    energy needs (messages, roll-outs, derivatives of the residuals) is not counted.

    Args:
      name: One of `SEARCHES`.
      shapes: Sizes of the problem.
      **options: Arguments of the builder; moves may be left out.

    Raises:
      ValueError: If there is no such search, it has no such option, or it refuses
        problems of these sizes.
    """
    spec = spec_of(name)
    if spec.needs_proposal:
        options = {"propose": proposals.flip_edge(), **options}
    _check_options(name, spec, options)
    options = {**spec.defaults, **options}
    algorithm = spec.build(**options)
    # Never computed with, only their shapes.
    # Several receivers are one problem because a prior ties them together.
    is_tied = shapes.num_receivers > 1 and not spec.needs.independent_receivers
    energy = base.Energy(
        local=lambda structure, receivers: jnp.zeros(receivers.shape),
        prior=(lambda structure: jnp.zeros(())) if is_tied else base.no_prior,
        relaxed=lambda edge_weights, node_modules: jnp.zeros(()),
        residuals=lambda weights, node, receiver: jnp.zeros(shapes.num_residuals),
    )

    def start() -> base.SearchState:
        slots = (shapes.num_receivers, shapes.num_slots)
        structure = base.Structure(
            jnp.zeros(slots, jnp.int32), jnp.zeros(slots[:1], jnp.int32)
        )
        candidates = base.Candidates(
            jnp.ones(slots, bool),
            jnp.zeros((*slots, shapes.num_modules)),
            reverse_slots=jnp.zeros(slots, jnp.int32),
            sender_receivers=jnp.zeros(slots, jnp.int32),
        )
        return algorithm.init(structure, energy, candidates)

    leaves = jax.tree.leaves(jax.eval_shape(start))
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return state + spec.workspace(shapes, options)
