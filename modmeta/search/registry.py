"""All searches by name.

Every one is a `SearchAlgorithm(init, step)` over the same state, diagnostics and
budget, for one problem, under jit and vmap. Libraries of searches do not fit the
problem: blackjax samples continuous parameters, evosax evolves real vectors, mctx
searches trees of actions, and none of them evaluates a change at the few receivers that
it touches, which is what makes a proposal cheap here.

| name | samples exactly | moves by | needs |
|---|---|---|---|
| simulated_annealing | at fixed temperature | `propose` | |
| parallel_tempering | its coldest chain | `propose` | |
| gibbs | at fixed temperature | itself | |
| greedy | no | itself | |
| enumeration | no | itself | local energy without prior, K^D small |
| genetic | no | `propose` | |
| reinforce | no | itself | |
| straight_through | no | itself | `energy.relaxed` |
| mean_field | no | itself | |
| integer_least_squares | no | itself | `energy.residuals` |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from modmeta.search import base
from modmeta.search.annealing import simulated_annealing
from modmeta.search.enumeration import exhaustive_search
from modmeta.search.genetic import genetic_algorithm
from modmeta.search.gibbs import gibbs_sampling
from modmeta.search.greedy import greedy_descent
from modmeta.search.least_squares import integer_least_squares
from modmeta.search.mean_field import mean_field_descent
from modmeta.search.reinforce import policy_search
from modmeta.search.relaxation import straight_through
from modmeta.search.tempering import parallel_tempering

SEARCHES: dict[str, Callable[..., base.SearchAlgorithm]] = {
    "simulated_annealing": simulated_annealing,
    "parallel_tempering": parallel_tempering,
    "gibbs": gibbs_sampling,
    "greedy": greedy_descent,
    "enumeration": exhaustive_search,
    "genetic": genetic_algorithm,
    "reinforce": policy_search,
    "straight_through": straight_through,
    "mean_field": mean_field_descent,
    "integer_least_squares": integer_least_squares,
}


def options_of(name: str) -> dict[str, inspect.Parameter]:
    """The arguments of a search's builder.

    Raises:
      ValueError: If there is no such search.
    """
    if name not in SEARCHES:
        raise ValueError(f"search: found {name!r}, expected one of {tuple(SEARCHES)}")
    return dict(inspect.signature(SEARCHES[name]).parameters)


def build_search(name: str, **options: Any) -> base.SearchAlgorithm:
    """Builds a search by name.

    Args:
      name: One of `SEARCHES`.
      **options: Arguments of its builder; searches that move by proposals need
        `propose`.

    Raises:
      ValueError: If there is no such search, it has no such option, or lacks one.
    """
    parameters = options_of(name)
    try:
        inspect.signature(SEARCHES[name]).bind(**options)
    except TypeError as error:
        expected = {
            option: "required" if parameter.default is parameter.empty else "optional"
            for option, parameter in parameters.items()
        }
        raise ValueError(
            f"options of {name}: found {sorted(options)}, expected {expected}"
        ) from error
    return SEARCHES[name](**options)
