"""The moves of a search, and the search that makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modmeta import search
from modmeta.relational.inference.config import GIVEN_OPTIONS
from modmeta.relational.inference.model import RelationalModel

# The annealing kernel trains the modules (Alet et al. 2019) and draws the samples.
TRAINING_SEARCH = "simulated_annealing"
# Of all moves, the share that redraws the module of a node, where there are several,
# and that renames its edges, where a factor of the node may make up for wrong names.
_NODE_MODULE_SHARE = 0.25
_RENAMED_SHARE = 0.25
# A head may be sure of what is wrong. A redraw by chance is hardly ever right about all
# other edges, so flips see to it.
_UNIFORM_FLIPS = 0.5


def build_moves(model: RelationalModel, fraction: float) -> search.ProposalFunction:
    """The mixture of moves that a model asks for.

    Args:
      model: The model.
      fraction: Share of the moves that ignore the learned probabilities; of flips at
        least `_UNIFORM_FLIPS`.
    """
    of_flips = max(fraction, _UNIFORM_FLIPS)
    moves = [
        search.flip_edge(uniform_fraction=of_flips),
        search.redraw_node(uniform_fraction=fraction),
    ]
    weights = [model.moves.flip_weight, model.moves.redraw_weight]
    if model.energy.prior == "symmetric":
        # One edge of a pair alone would have to climb over the prior: half of the
        # moves or more are of pairs.
        moves.append(search.flip_pair(uniform_fraction=of_flips))
        weights.append(max(sum(weights), 1.0))
    if model.num_node_modules > 1:
        moves.append(search.redraw_node_module(num_node_modules=model.num_node_modules))
        weights.append(_NODE_MODULE_SHARE * sum(weights))
    if model.bank.has_effects and model.num_relations > 2:
        moves.append(search.rename_modules())
        weights.append(_RENAMED_SHARE * sum(weights))
    chosen = [(m, w) for m, w in zip(moves, weights, strict=True) if w > 0]
    return search.mixture(*zip(*chosen, strict=True))


def build_algorithm(
    model: RelationalModel,
    name: str = TRAINING_SEARCH,
    *,
    options: Mapping[str, Any] | None = None,
    learned: bool = True,
) -> search.SearchAlgorithm:
    """A registered search with the moves of a model.

    Args:
      model: The model.
      name: One of `modmeta.search.SEARCHES`.
      options: Options of the search, see `InferenceConfig.options`.
      learned: Whether proposals follow the proposal head; uniform otherwise.

    Raises:
      ValueError: If there is no such search, it has no such option, or it cannot
        minimise the energy of the model.
    """
    model.energy.check_algorithm(name)
    is_uniform = not learned or model.network.proposal.encoder == "none"
    fraction = 1.0 if is_uniform else model.moves.uniform_fraction
    given = {
        "propose": build_moves(model, fraction),
        "hastings": model.moves.hastings,
        "uniform_fraction": fraction,
        "num_node_modules": model.num_node_modules,
        # Of a problem of a single receiver, no part could be inherited whole.
        "crossover": "receiver" if model.energy.couples_receivers else "slot",
    }
    taken = search.options_of(name)
    given = {key: given[key] for key in GIVEN_OPTIONS if key in taken}
    return search.build_search(name, **given, **dict(options or {}))
