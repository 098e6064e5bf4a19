"""The relational model: module bank, proposal head, and search over a batch.

Ties the pure pieces together for one super-graph of systems; training and evaluation
both stand on it. Letters: N nodes, D slots, K edge modules, T frames, F features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modmeta import search
from modmeta.graphs import SuperGraph
from modmeta.relational import energy as energy_lib
from modmeta.relational.modules import ModuleBank, ModuleParams
from modmeta.relational.preprocessing import Preprocessing, edge_inputs
from modmeta.relational.proposal_head import ProposalConfig, ProposalHead
from modmeta.search import proposals

ENERGIES = ("one_step", "rollout")
PRIORS = ("none", "symmetric")


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """What the search minimises and how it moves.

    Attributes:
      energy: "one_step": observed frames as input, with the message cache.
        "rollout": free roll-outs of `horizon` steps, as in the paper.
      horizon: Steps of a roll-out.
      prior: "none", or "symmetric": opposite edges should agree.
      prior_weight: Nats per pair of edges that disagree, for "symmetric".
      flip_weight: Share of moves that flip one edge.
      redraw_weight: Share of moves that redraw all incoming edges of a node.
      uniform_fraction: Weight of the uniform distribution in learned proposals.
      hastings: Whether asymmetric proposals are corrected for.
    """

    energy: str = "one_step"
    horizon: int = 10
    prior: str = "none"
    prior_weight: float = 100.0
    flip_weight: float = 0.5
    redraw_weight: float = 0.5
    uniform_fraction: float = 0.5
    hastings: bool = True

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.energy not in ENERGIES:
            raise ValueError(
                f"energy: found {self.energy!r}, expected one of {ENERGIES}"
            )
        if self.prior not in PRIORS:
            raise ValueError(f"prior: found {self.prior!r}, expected one of {PRIORS}")
        if self.horizon < 1:
            raise ValueError(f"horizon: found {self.horizon}, expected at least 1")
        if not 0.0 <= self.uniform_fraction <= 1.0:
            raise ValueError(
                f"uniform_fraction: found {self.uniform_fraction}, expected a share "
                "in [0, 1]"
            )

    @property
    def couples_receivers(self) -> bool:
        """Whether the receivers of a system must be searched together."""
        return self.prior != "none" or self.energy == "rollout"


class ModelParams(NamedTuple):
    """All arrays of a relational model.

    Attributes:
      modules: The bank of edge and node modules.
      proposal: Parameters of the proposal head.
      preprocessing: Constants fitted on the training data; not trained.
    """

    modules: ModuleParams
    proposal: Any
    preprocessing: Preprocessing


@dataclasses.dataclass(frozen=True)
class RelationalModel:
    """Static description; every method is a pure function of `ModelParams`.

    Attributes:
      bank: Edge and node modules.
      proposal: Options of the proposal head.
      search: Options of the search.
    """

    bank: ModuleBank
    proposal: ProposalConfig = ProposalConfig()
    search: SearchConfig = SearchConfig()

    @property
    def num_relations(self) -> int:
        """Number of edge modules K."""
        return self.bank.config.num_relations

    @property
    def head(self) -> ProposalHead:
        """The proposal head's Flax module."""
        return ProposalHead(self.proposal, self.num_relations)

    def init(
        self,
        rng_key: jax.Array,
        preprocessing: Preprocessing,
        supergraph: SuperGraph,
        num_frames: int,
    ) -> ModelParams:
        """Draws all parameters.

        Args:
          rng_key: Consumed.
          preprocessing: Fitted constants.
          supergraph: Any super-graph of the budget in use.
          num_frames: Frames that the proposal head will see.
        """
        key_modules, key_head = jax.random.split(rng_key)
        preprocessing = jax.tree.map(jnp.asarray, preprocessing)
        num_features = self.bank.layout.num_features
        states = jnp.zeros((len(supergraph.node_mask), num_frames, num_features))
        weights = jnp.zeros((*supergraph.slot_mask.shape, self.num_relations))
        sequences = self._edge_sequences(preprocessing, supergraph, states)
        variables = self.head.init(key_head, states, sequences, weights, supergraph)
        return ModelParams(
            modules=self.bank.init(key_modules, preprocessing),
            proposal=variables.get("params", {}),
            preprocessing=preprocessing,
        )

    def _edge_sequences(
        self, preprocessing: Preprocessing, supergraph: SuperGraph, states: jax.Array
    ) -> jax.Array | None:
        if "cnn" not in self.proposal.encoder:
            return None
        return edge_inputs(
            self.bank.config.geometry,
            preprocessing,
            self.bank.layout,
            states[supergraph.slot_senders],
            states[:, None],
        )

    def edge_logits(
        self,
        params: ModelParams,
        supergraph: SuperGraph,
        states: jax.Array,
        structure_weights: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of the proposal head.

        Args:
          params: Arrays of the model.
          supergraph: Connectivity.
          states: `[N, T, F]` normalised observed frames.
          structure_weights: `[N, D, K]` present structure for the denoiser; None
            hides it everywhere.

        Returns:
          `[N, D, K]`.
        """
        if structure_weights is None:
            shape = (*supergraph.slot_mask.shape, self.num_relations)
            structure_weights = jnp.full(shape, 1.0 / self.num_relations)
        sequences = self._edge_sequences(params.preprocessing, supergraph, states)
        return self.head.apply(
            {"params": params.proposal},
            states,
            sequences,
            structure_weights,
            supergraph,
        )

    def algorithm(self, *, learned: bool = True) -> search.SearchAlgorithm:
        """The annealing search with the moves of the configuration.

        Args:
          learned: Whether proposals follow the proposal head; uniform otherwise.
        """
        config = self.search
        is_uniform = not learned or self.proposal.encoder == "none"
        fraction = 1.0 if is_uniform else config.uniform_fraction
        moves = [
            proposals.flip_edge(uniform_fraction=fraction),
            proposals.redraw_node(uniform_fraction=fraction),
        ]
        weights = [config.flip_weight, config.redraw_weight]
        if config.prior == "symmetric":
            moves.append(proposals.flip_pair(uniform_fraction=fraction))
            weights.append(max(sum(weights), 1.0))
        num_node_modules = self.bank.config.num_node_modules
        if num_node_modules > 1:
            moves.append(
                proposals.redraw_node_module(num_node_modules=num_node_modules)
            )
            weights.append(0.25 * sum(weights))
        chosen = [(m, w) for m, w in zip(moves, weights, strict=True) if w > 0]
        return search.simulated_annealing(
            proposals.mixture(*zip(*chosen, strict=True)), hastings=config.hastings
        )

    def problems(
        self,
        params: ModelParams,
        supergraph: SuperGraph,
        states: jax.Array,
        edge_logits: jax.Array,
        frames: jax.Array | None = None,
    ) -> Problems:
        """Prepares the search problems of a super-graph; computes the message cache.

        Args:
          params: Arrays of the model.
          supergraph: Connectivity.
          states: `[N, T, F]` normalised observed frames.
          edge_logits: `[N, D, K]` log-probabilities of learned proposals.
          frames: `[t]` indices of the frames that serve as inputs; None for all but
            the last. Ignored by the roll-out energy, which needs them in order.

        Returns:
          The problems: one per receiver, or per system if receivers are coupled.
        """
        if self.search.energy == "rollout":
            candidates = energy_lib.system_candidates(supergraph, edge_logits)
            data = energy_lib.system_problems(
                supergraph, (states, supergraph.node_mask)
            )
            return Problems(self, params, data, candidates, supergraph)
        if frames is None:
            inputs, following = states[:, :-1], states[:, 1:]
        else:
            inputs, following = states[:, frames], states[:, frames + 1]
        cache = energy_lib.build_cache(
            self.bank,
            params.modules,
            params.preprocessing,
            supergraph,
            inputs,
            following,
        )
        if self.search.couples_receivers:
            candidates = energy_lib.system_candidates(supergraph, edge_logits)
            data = energy_lib.system_problems(supergraph, cache)
            data = data._replace(
                node_mask=data.node_mask & supergraph.system_mask,
            )
        else:
            candidates = energy_lib.receiver_candidates(supergraph, edge_logits)
            data = energy_lib.receiver_problems(cache)
        return Problems(self, params, data, candidates, supergraph)


@dataclasses.dataclass(frozen=True)
class Problems:
    """Independent search problems of one super-graph, stacked on a first axis P.

    Attributes:
      model: The model.
      params: Its arrays.
      data: Cache, or states and node mask, leaves `[P, R, ...]`.
      candidates: Leaves `[P, R, D, ...]`.
      supergraph: Connectivity.
    """

    model: RelationalModel
    params: ModelParams
    data: Any
    candidates: search.Candidates
    supergraph: SuperGraph

    def energy(self, data: Any, candidates: search.Candidates) -> search.Energy:
        """The energy of one problem, from its slices of `data` and `candidates`."""
        model, params = self.model, self.params
        prior = search.no_prior
        if model.search.prior == "symmetric":
            prior = energy_lib.symmetric_prior(candidates, model.search.prior_weight)
        if model.search.energy == "one_step":

            def local(structure, receivers):
                return energy_lib.cached_energies(
                    model.bank, params.modules, data, structure, receivers
                )

            return search.Energy(local, prior)

        def every(structure, receivers):
            return energy_lib.rollout_energies(
                model.bank,
                params.modules,
                params.preprocessing,
                structure,
                data[0],
                candidates.sender_receivers,
                candidates.slot_mask,
                data[1],
                horizon=model.search.horizon,
            )[receivers]

        return search.Energy(every, prior, is_local=False)

    def split(self, structure: search.Structure) -> search.Structure:
        """Structures of a super-graph, leaves `[N, ...]`, to problems `[P, R, ...]`."""
        if self.model.search.couples_receivers:
            return energy_lib.system_problems(self.supergraph, structure)
        return energy_lib.receiver_problems(structure)

    def join(self, tree: Any) -> Any:
        """Inverts `split`: leaves `[P, R, ...]` to `[N, ...]`."""
        if self.model.search.couples_receivers:
            graph = self.supergraph
            return jax.tree.map(
                lambda leaf: leaf[graph.node_system, graph.node_entity], tree
            )
        return jax.tree.map(lambda leaf: leaf[:, 0], tree)

    @property
    def mask(self) -> jax.Array:
        """`[P]` true at problems with at least one edge."""
        return jnp.any(self.candidates.slot_mask, axis=(1, 2))

    def init(self, structure: search.Structure) -> search.SearchState:
        """Starts one chain per problem from structures with leaves `[N, ...]`."""

        def start(data, candidates, structure):
            return search.init(structure, self.energy(data, candidates))

        return jax.vmap(start)(self.data, self.candidates, self.split(structure))

    def anneal(
        self,
        rng_key: jax.Array,
        state: search.SearchState,
        temperatures: jax.Array,
        *,
        learned: bool = True,
        transform: Callable | None = None,
    ) -> tuple[search.SearchState, Any]:
        """Anneals every problem, one proposal per temperature.

        Args:
          rng_key: Consumed; problem p uses `split(rng_key, P)[p]`.
          state: Chains, leaves `[P, ...]`.
          temperatures: `[P, num_steps]` nats.
          learned: Whether proposals follow the proposal head.
          transform: See `modmeta.search.run_search`.

        Returns:
          State and trace, leaves `[P, ...]` and `[P, num_steps, ...]`.
        """
        algorithm = self.model.algorithm(learned=learned)
        num_steps = temperatures.shape[1]
        # One more, never used: an array without entries cannot be indexed.
        temperatures = jnp.pad(temperatures, ((0, 0), (0, 1)))

        def run(key, state, data, candidates, temperatures):
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

        keys = jax.random.split(rng_key, self.mask.shape[0])
        return jax.vmap(run)(keys, state, self.data, self.candidates, temperatures)

    def sample(
        self,
        rng_key: jax.Array,
        state: search.SearchState,
        num_steps: int,
        *,
        learned: bool = True,
    ) -> jax.Array:
        """Shares of the modules on every edge at temperature 1, `[P, R, D, K]`.

        Args:
          rng_key: Consumed.
          state: Chains, leaves `[P, ...]`.
          num_steps: Steps to average over.
          learned: Whether proposals follow the proposal head.
        """
        algorithm = self.model.algorithm(learned=learned)

        def run(key, state, data, candidates):
            return search.sample_marginals(
                key,
                state,
                algorithm,
                self.energy(data, candidates),
                candidates,
                num_steps,
            )

        keys = jax.random.split(rng_key, self.mask.shape[0])
        return jax.vmap(run)(keys, state, self.data, self.candidates)


def random_structure(
    rng_key: jax.Array, model: RelationalModel, supergraph: SuperGraph
) -> search.Structure:
    """Draws modules uniformly, leaves `[N, D]` and `[N]`; consumes the key."""
    key_edges, key_nodes = jax.random.split(rng_key)
    shape = supergraph.slot_mask.shape
    edges = jax.random.randint(key_edges, shape, 0, model.num_relations, jnp.int32)
    nodes = jax.random.randint(
        key_nodes, shape[:1], 0, model.bank.config.num_node_modules, jnp.int32
    )
    return search.Structure(jnp.where(supergraph.slot_mask, edges, 0), nodes)
