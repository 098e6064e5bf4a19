"""Search problems of a super-graph: what is searched together, and how it is run.

Letters: P problems, R receivers of a problem, N nodes of the super-graph, D slots, K
edge modules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from modmeta import search
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data.frames import Frames, rollout_states
from modmeta.relational.energies.base import ReceiverEnergies
from modmeta.relational.energies.cached import CachedEnergies, build_cache
from modmeta.relational.energies.composed import RolloutEnergies
from modmeta.relational.energies.priors import relaxed_symmetric_prior, symmetric_prior
from modmeta.relational.energies.recomputed import RecomputedEnergies
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.evidence import Residuals
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.modules.observations import (
    Observations,
    observe,
    receiver_slots,
)


@dataclasses.dataclass(frozen=True)
class Problems:
    """Independent search problems of one super-graph, stacked on a first axis P.

    Attributes:
      model: The model.
      params: Its arrays.
      data: Cache, slots of the receivers, or states and node mask, leaves
        `[P, R, ...]`.
      candidates: Leaves `[P, R, D, ...]`.
      supergraph: Connectivity.
      observed: Observations of all nodes, which all problems share; None where
        roll-outs are searched.
    """

    model: RelationalModel
    params: ModelParams
    data: Any
    candidates: search.Candidates
    supergraph: SuperGraph
    observed: Observations | None = None

    def energy(self, data: Any, candidates: search.Candidates) -> search.Energy:
        """The energy of one problem, from its slices of `data` and `candidates`."""
        options = self.model.energy
        modules = self.model.network.modules(self.params)
        prior = relaxed_prior = search.no_prior
        if options.prior == "symmetric":
            prior = symmetric_prior(candidates, options.prior_weight)
            relaxed_prior = relaxed_symmetric_prior(candidates, options.prior_weight)
        if options.form == "rollout":
            states, node_mask = data
            rolled = RolloutEnergies(
                modules,
                states,
                candidates.sender_receivers,
                candidates.slot_mask,
                node_mask,
                options.horizon,
            )
            return search.Energy(rolled.local, prior, is_local=False)
        terms: ReceiverEnergies
        if self.model.keeps_messages:
            terms = CachedEnergies(modules, data)
        else:
            terms = RecomputedEnergies(modules, self.observed, data)

        def relaxed(edge_weights, node_modules):
            energies = terms.relaxed(edge_weights, node_modules)
            return jnp.sum(energies) + relaxed_prior(edge_weights)

        return search.Energy(
            terms.local, prior, relaxed=relaxed, residuals=terms.residuals
        )

    def split(self, structure: search.Structure) -> search.Structure:
        """Structures of a super-graph, leaves `[N, ...]`, to problems `[P, R, ...]`."""
        if self.model.energy.couples_receivers:
            return system_problems(self.supergraph, structure)
        return receiver_problems(structure)

    def join(self, tree: Any) -> Any:
        """Inverts `split`: leaves `[P, R, ...]` to `[N, ...]`."""
        if self.model.energy.couples_receivers:
            graph = self.supergraph
            return jax.tree.map(
                lambda leaf: leaf[graph.node_system, graph.node_entity], tree
            )
        return jax.tree.map(lambda leaf: leaf[:, 0], tree)

    def with_logits(self, edge_logits: jax.Array) -> Problems:
        """The same problems under other proposals, those of all edges `[N, D, K]`."""
        candidates = _candidates(self.model, self.supergraph, edge_logits)
        return dataclasses.replace(self, candidates=candidates)

    @property
    def residuals(self) -> Residuals | None:
        """Residuals of any receiver of the super-graph, from kept messages.

        None without them, or where some receivers are searched alone.
        """
        num_nodes = self.supergraph.node_mask.shape[0]
        is_whole = self.model.energy.couples_receivers or len(self.mask) == num_nodes
        if not (self.model.keeps_messages and is_whole):
            return None
        modules = self.model.network.modules(self.params)
        return CachedEnergies(modules, self.join(self.data)).residuals

    @property
    def mask(self) -> jax.Array:
        """`[P]` true at problems with at least one edge."""
        return jnp.any(self.candidates.slot_mask, axis=(1, 2))

    def keys(self, rng_key: jax.Array) -> jax.Array:
        """One key per problem, `[P]`; from a single one, `split(rng_key, P)`."""
        if rng_key.ndim:
            return rng_key
        return jax.random.split(rng_key, self.mask.shape[0])

    def init(
        self,
        structure: search.Structure,
        algorithm: search.SearchAlgorithm | None = None,
    ) -> search.SearchState:
        """Starts one chain per problem from structures with leaves `[N, ...]`.

        Args:
          structure: Where to start.
          algorithm: The search; None for those without a memory.
        """
        begin = search.init if algorithm is None else algorithm.init

        def start(data, candidates, structure):
            return begin(structure, self.energy(data, candidates), candidates)

        return jax.vmap(start)(self.data, self.candidates, self.split(structure))

    def run(
        self,
        rng_key: jax.Array,
        state: search.SearchState,
        algorithm: search.SearchAlgorithm,
        temperatures: jax.Array,
        *,
        transform: Callable | None = None,
    ) -> tuple[search.SearchState, Any]:
        """Searches every problem, one step per temperature.

        Args:
          rng_key: Consumed; one for all problems, or `[P]`, see `keys`.
          state: Chains, leaves `[P, ...]`.
          algorithm: The search.
          temperatures: `[P, num_steps]` nats.
          transform: See `modmeta.search.run_search`.

        Returns:
          State and trace, leaves `[P, ...]` and `[P, num_steps, ...]`.
        """
        num_steps = temperatures.shape[1]
        # One more, never used: an array without entries cannot be indexed.
        temperatures = jnp.pad(temperatures, ((0, 0), (0, 1)))

        def run_one(key, state, data, candidates, temperatures):
            return search.run_search(
                key,
                state,
                algorithm,
                self.energy(data, candidates),
                candidates,
                lambda step: temperatures[step],
                num_steps,
                transform,
            )

        return jax.vmap(run_one)(
            self.keys(rng_key), state, self.data, self.candidates, temperatures
        )

    def sample(
        self,
        rng_key: jax.Array,
        state: search.SearchState,
        algorithm: search.SearchAlgorithm,
        num_steps: int,
        temperatures: jax.Array,
    ) -> jax.Array:
        """Shares of the modules on every edge at fixed temperatures, `[P, R, D, K]`.

        Args:
          rng_key: Consumed; one for all problems, or `[P]`, see `keys`.
          state: Chains, leaves `[P, ...]`.
          algorithm: A search that samples.
          num_steps: Steps to average over.
          temperatures: `[P]` nats.
        """

        def run_one(key, state, data, candidates, temperature):
            return search.sample_marginals(
                key,
                state,
                algorithm,
                self.energy(data, candidates),
                candidates,
                num_steps,
                temperature,
            )

        return jax.vmap(run_one)(
            self.keys(rng_key), state, self.data, self.candidates, temperatures
        )


def receiver_problems(tree: Any) -> Any:
    """Splits leaves `[N, ...]` into N problems of one receiver, `[N, 1, ...]`.

    Without a prior that couples them, receivers are independent given the cache, and
    all of them move at once: N chains in place of one.
    """
    return jax.tree.map(lambda leaf: leaf[:, None], tree)


def system_problems(supergraph: SuperGraph, tree: Any) -> Any:
    """Splits leaves `[N, ...]` into systems, `[S, R, ...]`; padding is repeated."""
    return jax.tree.map(lambda leaf: leaf[supergraph.system_nodes], tree)


def receiver_candidates(
    supergraph: SuperGraph, edge_logits: jax.Array, receivers: jax.Array | None = None
) -> search.Candidates:
    """Candidates of `receiver_problems`: leaves `[N, 1, D, ...]`, or `[C, 1, ...]`."""
    candidates = search.Candidates(supergraph.slot_mask, edge_logits)
    if receivers is not None:
        candidates = jax.tree.map(lambda leaf: leaf[receivers], candidates)
    return receiver_problems(candidates)


def system_candidates(
    supergraph: SuperGraph, edge_logits: jax.Array
) -> search.Candidates:
    """Candidates of `system_problems`: leaves `[S, R, D, ...]`."""
    candidates = system_problems(
        supergraph,
        search.Candidates(
            supergraph.slot_mask,
            edge_logits,
            supergraph.reverse_slots,
            supergraph.slot_entities,
        ),
    )
    mask = candidates.slot_mask & supergraph.system_mask[..., None]
    return candidates._replace(
        slot_mask=mask,
        sender_receivers=jnp.where(mask, candidates.sender_receivers, 0),
    )


def _candidates(model, supergraph, edge_logits, receivers=None) -> search.Candidates:
    if model.energy.couples_receivers:
        return system_candidates(supergraph, edge_logits)
    return receiver_candidates(supergraph, edge_logits, receivers)


def build_problems(
    model: RelationalModel,
    params: ModelParams,
    supergraph: SuperGraph,
    states: Frames | jax.Array,
    edge_logits: jax.Array,
    windows: jax.Array | None = None,
    receivers: jax.Array | None = None,
    changes: jax.Array | None = None,
) -> Problems:
    """Prepares the search problems of a super-graph; computes the message cache.

    Args:
      model: The model.
      params: Its arrays.
      supergraph: Connectivity.
      states: `[N, T, F]` normalised frames, or `Frames` with leaves `[N, T, ...]`.
      edge_logits: `[N, D, K]` log-probabilities of learned proposals.
      windows: `[t]` frames at which the windows begin that count; None for all.
        Ignored by the roll-out energy, which needs all frames in order.
      receivers: `[C]` receivers to search, where they are independent; None for all.
      changes: `[N, W, Y]` encoded, to explain in place of those observed; None for
        these. Ignored by the roll-out energy.

    Returns:
      The problems: one per receiver, or per system if receivers are coupled.

    Raises:
      ValueError: If some of several coupled receivers are asked for.
    """
    is_coupled = model.energy.couples_receivers
    if is_coupled and receivers is not None:
        raise ValueError(
            "receivers: found a selection, expected None where a prior or a "
            "roll-out couples the receivers"
        )
    candidates = _candidates(model, supergraph, edge_logits, receivers)
    if model.energy.form == "rollout":
        states = rollout_states(states)
        data = system_problems(supergraph, (states, supergraph.node_mask))
        return Problems(model, params, data, candidates, supergraph)
    modules = model.network.modules(params)
    observed = observe(modules, supergraph, states, windows)
    if changes is not None:
        observed = observed._replace(targets=changes)
    if model.keeps_messages:
        data = build_cache(modules, supergraph, observed, receivers)
    else:
        data = receiver_slots(supergraph, receivers)
    if is_coupled:
        data = system_problems(supergraph, data)
        data = data._replace(node_mask=data.node_mask & supergraph.system_mask)
    else:
        data = receiver_problems(data)
    return Problems(model, params, data, candidates, supergraph, observed)
