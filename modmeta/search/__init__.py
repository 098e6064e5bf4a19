"""Searches over structures: pure functions that know neither Flax nor files.

A search is a pair of pure functions, `init(structure, energy, candidates) -> state` and
`step(rng_key, state, energy, candidates, temperature) -> (state, info)`, for one
problem; `jax.vmap` makes batches of problems and chains. In whole:

>>> import jax
>>> import jax.numpy as jnp
>>> from modmeta import search
>>>
>>> costs = jnp.array([[3.0, 0.0], [0.0, 2.0], [1.0, 0.5]])  # [receiver, module]
>>>
>>> def local(structure, receivers):  # of three receivers with two edges each
...     chosen = costs[receivers[:, None], structure.edge_modules[receivers]]
...     return chosen.sum(axis=1)
>>>
>>> energy = search.Energy(local)
>>> candidates = search.Candidates(
...     slot_mask=jnp.ones((3, 2), bool), edge_logits=jnp.zeros((3, 2, 2))
... )
>>> start = search.Structure(jnp.zeros((3, 2), jnp.int32), jnp.zeros(3, jnp.int32))
>>>
>>> propose = search.mixture([search.flip_edge(), search.redraw_node()], [2.0, 1.0])
>>> algorithm = search.simulated_annealing(propose)
>>> state = algorithm.init(start, energy, candidates)
>>> state, energies = search.run_search(
...     jax.random.key(0),
...     state,
...     algorithm,
...     energy,
...     candidates,
...     search.geometric_temperature(initial=2.0, final=0.1, num_steps=100),
...     num_steps=100,
... )
>>> state.best_structure.edge_modules.tolist()
[[1, 1], [0, 0], [1, 1]]
>>> search.SEARCHES["integer_least_squares"].needs
EnergyTraits(independent_receivers=False, relaxed=False, residuals=True)

| place | what lives there |
|---|---|
| `base.py` | the types and protocols that everything shares |
| `algorithms/` | the ten searches, one file each, named as in the registry |
| `registry.py` | all searches by name: options, needs, memory; adding one's own |
| `testing.py` | the contract of a search as a function that checks it |
| `run.py` | many steps as one compiled scan |
| `proposals.py`, `schedules.py` | moves; temperatures |
| `assignments.py` | exact answers for small problems |
| `evaluation.py`, `factorised.py`, `decoding.py`, `checks.py` | parts of searches |
| `extrinsic.py` | what receivers that a prior ties together tell each other |
| `draws.py` | random choices |

| search | samples at fixed temperature | moves by | needs |
|---|---|---|---|
| `simulated_annealing` | yes | `propose` | |
| `parallel_tempering` | yes, its coldest chain | `propose` | |
| `gibbs` | yes | itself | |
| `greedy` | no | itself | |
| `enumeration` | no | itself | local energy without prior, K^D small |
| `genetic` | no | `propose` | |
| `reinforce` | no | itself | |
| `straight_through` | no | itself | `energy.relaxed` |
| `mean_field` | no | itself | |
| `integer_least_squares` | no | itself | `energy.residuals` |
"""

from modmeta.search import testing as testing
from modmeta.search.algorithms.enumeration import enumeration as enumeration
from modmeta.search.algorithms.genetic import genetic as genetic
from modmeta.search.algorithms.gibbs import gibbs as gibbs
from modmeta.search.algorithms.greedy import greedy as greedy
from modmeta.search.algorithms.integer_least_squares import (
    integer_least_squares as integer_least_squares,
)
from modmeta.search.algorithms.mean_field import mean_field as mean_field
from modmeta.search.algorithms.parallel_tempering import (
    parallel_tempering as parallel_tempering,
)
from modmeta.search.algorithms.reinforce import reinforce as reinforce
from modmeta.search.algorithms.simulated_annealing import build_kernel as build_kernel
from modmeta.search.algorithms.simulated_annealing import (
    simulated_annealing as simulated_annealing,
)
from modmeta.search.algorithms.straight_through import (
    straight_through as straight_through,
)
from modmeta.search.assignments import Enumeration as Enumeration
from modmeta.search.assignments import all_assignments as all_assignments
from modmeta.search.assignments import best_structure as best_structure
from modmeta.search.assignments import count_assignments as count_assignments
from modmeta.search.assignments import edge_marginals as edge_marginals
from modmeta.search.assignments import enumerate_receivers as enumerate_receivers
from modmeta.search.base import Candidates as Candidates
from modmeta.search.base import Energy as Energy
from modmeta.search.base import EnergyTraits as EnergyTraits
from modmeta.search.base import InitFn as InitFn
from modmeta.search.base import Proposal as Proposal
from modmeta.search.base import ProposalFunction as ProposalFunction
from modmeta.search.base import SearchAlgorithm as SearchAlgorithm
from modmeta.search.base import SearchInfo as SearchInfo
from modmeta.search.base import SearchShapes as SearchShapes
from modmeta.search.base import SearchState as SearchState
from modmeta.search.base import StepFn as StepFn
from modmeta.search.base import Structure as Structure
from modmeta.search.base import init as init
from modmeta.search.base import no_prior as no_prior
from modmeta.search.base import traits_of as traits_of
from modmeta.search.extrinsic import Opposites as Opposites
from modmeta.search.extrinsic import opposites as opposites
from modmeta.search.proposals import flip_edge as flip_edge
from modmeta.search.proposals import flip_pair as flip_pair
from modmeta.search.proposals import mixture as mixture
from modmeta.search.proposals import redraw_node as redraw_node
from modmeta.search.proposals import redraw_node_module as redraw_node_module
from modmeta.search.proposals import rename_modules as rename_modules
from modmeta.search.registry import SEARCHES as SEARCHES
from modmeta.search.registry import SearchSpec as SearchSpec
from modmeta.search.registry import build_search as build_search
from modmeta.search.registry import bytes_per_chain as bytes_per_chain
from modmeta.search.registry import check_energy as check_energy
from modmeta.search.registry import options_of as options_of
from modmeta.search.registry import register as register
from modmeta.search.registry import spec_of as spec_of
from modmeta.search.registry import unregister as unregister
from modmeta.search.run import run_search as run_search
from modmeta.search.run import sample_marginals as sample_marginals
from modmeta.search.schedules import SPREAD_DRAWS as SPREAD_DRAWS
from modmeta.search.schedules import ScheduleState as ScheduleState
from modmeta.search.schedules import TemperatureFunction as TemperatureFunction
from modmeta.search.schedules import TemperatureSchedule as TemperatureSchedule
from modmeta.search.schedules import count_worsening as count_worsening
from modmeta.search.schedules import geometric as geometric
from modmeta.search.schedules import geometric_curve as geometric_curve
from modmeta.search.schedules import geometric_temperature as geometric_temperature
from modmeta.search.schedules import reference_target as reference_target
from modmeta.search.schedules import spread_temperature as spread_temperature
from modmeta.search.schedules import worsening_acceptance as worsening_acceptance

__all__ = [
    "Candidates",
    "Energy",
    "EnergyTraits",
    "Enumeration",
    "InitFn",
    "Opposites",
    "Proposal",
    "ProposalFunction",
    "SEARCHES",
    "SPREAD_DRAWS",
    "ScheduleState",
    "SearchAlgorithm",
    "SearchInfo",
    "SearchShapes",
    "SearchSpec",
    "SearchState",
    "StepFn",
    "Structure",
    "TemperatureFunction",
    "TemperatureSchedule",
    "all_assignments",
    "best_structure",
    "build_kernel",
    "build_search",
    "bytes_per_chain",
    "check_energy",
    "count_assignments",
    "count_worsening",
    "edge_marginals",
    "enumerate_receivers",
    "enumeration",
    "flip_edge",
    "flip_pair",
    "genetic",
    "geometric",
    "geometric_curve",
    "geometric_temperature",
    "gibbs",
    "greedy",
    "init",
    "integer_least_squares",
    "mean_field",
    "mixture",
    "no_prior",
    "opposites",
    "options_of",
    "parallel_tempering",
    "redraw_node",
    "redraw_node_module",
    "reference_target",
    "register",
    "reinforce",
    "rename_modules",
    "run_search",
    "sample_marginals",
    "simulated_annealing",
    "spec_of",
    "spread_temperature",
    "straight_through",
    "testing",
    "traits_of",
    "unregister",
    "worsening_acceptance",
]
