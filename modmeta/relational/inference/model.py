"""The relational model: module bank, proposal head, and search over a batch.

Ties the pure pieces together for one super-graph of systems; training and evaluation
both stand on it. Letters: N nodes, D slots, K edge modules, T frames, F features.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modmeta import search
from modmeta.graphs.edges import EdgeLists
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data import TrajectoryDataset, neighbors
from modmeta.relational.energies import cached
from modmeta.relational.inference.problems import (
    Problems,
    receiver_candidates,
    receiver_problems,
    system_candidates,
    system_problems,
)
from modmeta.relational.modules.bank import ModuleBank, ModuleParams
from modmeta.relational.modules.evidence import edge_evidence, num_evidence_features
from modmeta.relational.modules.frames import observe, receiver_slots
from modmeta.relational.modules.inputs import edge_inputs
from modmeta.relational.modules.preprocessing import Preprocessing
from modmeta.relational.modules.proposal_head import ProposalConfig, ProposalHead
from modmeta.search import proposals

ENERGIES = ("one_step", "rollout")
PRIORS = ("none", "symmetric")
MESSAGES = ("cache", "recompute")


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
      uniform_fraction: Share of the moves that ignore the learned probabilities.
      hastings: Whether asymmetric proposals are corrected for.
      messages: For the one-step energy. "cache": the messages of all modules on all
        edges are kept. "recompute": those that a proposal needs are computed at every
        proposal, slower, in memory that does not grow with the number of edges.
      num_neighbors: Candidate edges: this many nearest senders per receiver, see
        `modmeta.relational.data.neighbors`; 0 for all.
      radius: Candidate edges: senders that come as near as this, in the unit of the
        positions; 0 for all.
    """

    energy: str = "one_step"
    horizon: int = 10
    prior: str = "none"
    prior_weight: float = 100.0
    flip_weight: float = 0.5
    redraw_weight: float = 0.5
    uniform_fraction: float = 0.5
    hastings: bool = True
    messages: str = "cache"
    num_neighbors: int = 0
    radius: float = 0.0

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.energy not in ENERGIES:
            raise ValueError(
                f"energy: found {self.energy!r}, expected one of {ENERGIES}"
            )
        if self.prior not in PRIORS:
            raise ValueError(f"prior: found {self.prior!r}, expected one of {PRIORS}")
        if self.messages not in MESSAGES:
            raise ValueError(
                f"messages: found {self.messages!r}, expected one of {MESSAGES}"
            )
        if self.num_neighbors < 0 or not self.radius >= 0.0:
            raise ValueError(
                f"num_neighbors: found {self.num_neighbors}, radius: found "
                f"{self.radius}, expected at least 0"
            )
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

    def check_algorithm(self, name: str) -> None:
        """Refuses a search that cannot minimise this energy.

        Args:
          name: One of `modmeta.search.SEARCHES`.

        Raises:
          ValueError: If there is no such search, it needs an energy of observed frames
            and this one rolls out, or it needs independent receivers.
        """
        needs = search.spec_of(name).needs
        # Free roll-outs know no soft assignments.
        if self.energy == "rollout" and (needs.relaxed or needs.residuals):
            raise ValueError(
                f"energy: found {self.energy!r} with the search {name!r}, expected "
                "'one_step'"
            )
        if self.couples_receivers and needs.independent_receivers:
            raise ValueError(
                f"search: found {name!r} with prior {self.prior!r} and energy "
                f"{self.energy!r}, expected independent receivers"
            )

    @property
    def keeps_messages(self) -> bool:
        """Whether the search works on a message cache."""
        return self.messages == "cache" and self.energy == "one_step"


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
    def num_node_modules(self) -> int:
        """Number of node modules M."""
        return self.bank.config.num_node_modules

    @property
    def head(self) -> ProposalHead:
        """The proposal head's Flax module."""
        return ProposalHead(self.proposal, self.num_relations)

    def candidate_edges(self, dataset: TrajectoryDataset) -> EdgeLists:
        """Edges that may hold a relation, of every system of a data set."""
        return neighbors.candidate_edges(
            dataset,
            num_neighbors=self.search.num_neighbors,
            radius=self.search.radius,
        )

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
          supergraph: Any super-graph; parameters do not depend on its sizes.
          num_frames: Frames that the proposal head will see.
        """
        key_modules, key_head = jax.random.split(rng_key)
        preprocessing = jax.tree.map(jnp.asarray, preprocessing)
        num_features = self.bank.layout.num_features
        states = jnp.zeros((len(supergraph.node_mask), num_frames, num_features))
        weights = jnp.zeros((*supergraph.slot_mask.shape, self.num_relations))
        sequences = self._edge_sequences(preprocessing, supergraph, states)
        evidence = None
        if self.reads_evidence:
            size = num_evidence_features(self.num_relations)
            evidence = jnp.zeros((*supergraph.slot_mask.shape, size))
        variables = self.head.init(
            key_head, states, sequences, weights, supergraph, evidence
        )
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

    @property
    def reads_evidence(self) -> bool:
        """Whether the proposal head reads what the modules say of every edge."""
        return "evidence" in self.proposal.encoder

    def evidence(
        self, params: ModelParams, supergraph: SuperGraph, states: jax.Array
    ) -> jax.Array | None:
        """Input `[N, D, features]` of the proposal head; None where it reads none.

        Args:
          params: Arrays of the model.
          supergraph: Connectivity.
          states: `[N, T, F]` normalised observed frames.
        """
        if not self.reads_evidence:
            return None
        return edge_evidence(
            self.bank, params.modules, params.preprocessing, supergraph, states
        )

    def edge_logits(
        self,
        params: ModelParams,
        supergraph: SuperGraph,
        states: jax.Array,
        structure_weights: jax.Array | None = None,
        evidence: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of the proposal head.

        Args:
          params: Arrays of the model.
          supergraph: Connectivity.
          states: `[N, T, F]` normalised observed frames.
          structure_weights: `[N, D, K]` present structure for the denoiser; None
            hides it everywhere.
          evidence: Where it is known already, see `evidence`.

        Returns:
          `[N, D, K]`.
        """
        if evidence is None:
            evidence = self.evidence(params, supergraph, states)
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
            evidence,
        )

    def algorithm(
        self,
        name: str = "simulated_annealing",
        *,
        learned: bool = True,
    ) -> search.SearchAlgorithm:
        """A registered search with the moves of the configuration.

        Args:
          name: One of `modmeta.search.SEARCHES`.
          learned: Whether proposals follow the proposal head; uniform otherwise.

        Raises:
          ValueError: If there is no such search, or it cannot minimise the energy of
            the configuration.
        """
        config = self.search
        config.check_algorithm(name)
        is_uniform = not learned or self.proposal.encoder == "none"
        fraction = 1.0 if is_uniform else config.uniform_fraction
        num_node_modules = self.bank.config.num_node_modules
        moves = [
            proposals.flip_edge(uniform_fraction=fraction),
            proposals.redraw_node(uniform_fraction=fraction),
        ]
        weights = [config.flip_weight, config.redraw_weight]
        if config.prior == "symmetric":
            moves.append(proposals.flip_pair(uniform_fraction=fraction))
            weights.append(max(sum(weights), 1.0))
        if num_node_modules > 1:
            moves.append(
                proposals.redraw_node_module(num_node_modules=num_node_modules)
            )
            weights.append(0.25 * sum(weights))
        chosen = [(m, w) for m, w in zip(moves, weights, strict=True) if w > 0]
        options = {
            "propose": proposals.mixture(*zip(*chosen, strict=True)),
            "hastings": config.hastings,
            "uniform_fraction": fraction,
            "num_node_modules": num_node_modules,
            # Of a problem of a single receiver, no part could be inherited whole.
            "crossover": "receiver" if config.couples_receivers else "slot",
        }
        taken = search.options_of(name)
        options = {key: value for key, value in options.items() if key in taken}
        return search.build_search(name, **options)

    def problems(
        self,
        params: ModelParams,
        supergraph: SuperGraph,
        states: jax.Array,
        edge_logits: jax.Array,
        frames: jax.Array | None = None,
        receivers: jax.Array | None = None,
    ) -> Problems:
        """Prepares the search problems of a super-graph; computes the message cache.

        Args:
          params: Arrays of the model.
          supergraph: Connectivity.
          states: `[N, T, F]` normalised observed frames.
          edge_logits: `[N, D, K]` log-probabilities of learned proposals.
          frames: `[t]` indices of the frames that serve as inputs; None for all but
            the last. Ignored by the roll-out energy, which needs them in order.
          receivers: `[C]` receivers to search, where they are independent; None for
            all.

        Returns:
          The problems: one per receiver, or per system if receivers are coupled.

        Raises:
          ValueError: If some of several coupled receivers are asked for.
        """
        is_coupled = self.search.couples_receivers
        if is_coupled and receivers is not None:
            raise ValueError(
                "receivers: found a selection, expected None where a prior or a "
                "roll-out couples the receivers"
            )
        if is_coupled:
            candidates = system_candidates(supergraph, edge_logits)
        else:
            candidates = receiver_candidates(supergraph, edge_logits, receivers)
        if self.search.energy == "rollout":
            data = system_problems(supergraph, (states, supergraph.node_mask))
            return Problems(self, params, data, candidates, supergraph)
        if frames is None:
            inputs, following = states[:, :-1], states[:, 1:]
        else:
            inputs, following = states[:, frames], states[:, frames + 1]
        observed = None
        if self.search.keeps_messages:
            data = cached.build_cache(
                self.bank,
                params.modules,
                params.preprocessing,
                supergraph,
                inputs,
                following,
                receivers,
            )
        else:
            observed = observe(
                self.bank, params.preprocessing, supergraph, inputs, following
            )
            data = receiver_slots(supergraph, receivers)
        if is_coupled:
            data = system_problems(supergraph, data)
            data = data._replace(node_mask=data.node_mask & supergraph.system_mask)
        else:
            data = receiver_problems(data)
        return Problems(self, params, data, candidates, supergraph, observed)
