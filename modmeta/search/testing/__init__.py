"""The contract of a search, as a function that checks it.

    from modmeta.search import testing

    testing.check_search(search.SearchSpec(my_search))
    testing.check_search("gibbs", block_size=2)

Everything runs on a tiny problem whose energies are a table: what a search returns can
be looked up, and the energy itself counts how often it is asked.
"""

from modmeta.search.testing.contract import (
    Checked,
    check_search,
    checked_chains,
    parameter_names,
)
from modmeta.search.testing.problem import (
    NUM_CHAINS,
    TableProblem,
    chain_key,
    temperature,
)

__all__ = [
    "NUM_CHAINS",
    "Checked",
    "TableProblem",
    "chain_key",
    "check_search",
    "checked_chains",
    "parameter_names",
    "temperature",
]
