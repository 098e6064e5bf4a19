"""Searches over structures: pure kernels that know neither Flax nor files."""

from modmeta.search.annealing import build_kernel as build_kernel
from modmeta.search.annealing import simulated_annealing as simulated_annealing
from modmeta.search.base import Candidates as Candidates
from modmeta.search.base import Energy as Energy
from modmeta.search.base import Proposal as Proposal
from modmeta.search.base import ProposalFunction as ProposalFunction
from modmeta.search.base import SearchAlgorithm as SearchAlgorithm
from modmeta.search.base import SearchInfo as SearchInfo
from modmeta.search.base import SearchState as SearchState
from modmeta.search.base import Structure as Structure
from modmeta.search.base import init as init
from modmeta.search.base import no_prior as no_prior
from modmeta.search.registry import SEARCHES as SEARCHES
from modmeta.search.registry import build_search as build_search
from modmeta.search.registry import options_of as options_of
from modmeta.search.run import run_search as run_search
from modmeta.search.run import sample_marginals as sample_marginals

__all__ = [
    "SEARCHES",
    "Candidates",
    "Energy",
    "Proposal",
    "ProposalFunction",
    "SearchAlgorithm",
    "SearchInfo",
    "SearchState",
    "Structure",
    "build_kernel",
    "build_search",
    "init",
    "no_prior",
    "options_of",
    "run_search",
    "sample_marginals",
    "simulated_annealing",
]
