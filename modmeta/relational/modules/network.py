"""The relational network: bank of modules and proposal head, one super-graph at a time.

Letters: N nodes, D slots, K edge modules, T frames, F features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data.frames import Frames, as_frames
from modmeta.relational.modules.bank import ModuleBank, ModuleParams
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.evidence import (
    Residuals,
    edge_evidence,
    evidence_order,
    num_evidence_features,
)
from modmeta.relational.modules.inputs import edge_inputs
from modmeta.relational.modules.preprocessing import Preprocessing
from modmeta.relational.modules.proposal_head import ProposalConfig, ProposalHead

# Any number that all encoders take; parameters do not depend on it.
_FRAMES = 16


def _with_rows(layers: dict[str, Any], name: str, rows: np.ndarray) -> dict[str, Any]:
    """Layers of which one reads its inputs in another order."""
    layer = layers[name]
    return {**layers, name: {**layer, "kernel": layer["kernel"][rows]}}


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
class RelationalNetwork:
    """Static description; every method is a pure function of `ModelParams`.

    Attributes:
      bank: Edge and node modules.
      proposal: Options of the proposal head.
    """

    bank: ModuleBank
    proposal: ProposalConfig = ProposalConfig()

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

    @property
    def reads_evidence(self) -> bool:
        """Whether the proposal head reads what the modules say of every edge."""
        return "evidence" in self.proposal.encoder

    def modules(self, params: ModelParams) -> BoundBank:
        """The bank with its arrays."""
        return BoundBank(self.bank, params.modules, params.preprocessing)

    def init(
        self,
        rng_key: jax.Array,
        preprocessing: Preprocessing,
        supergraph: SuperGraph,
    ) -> ModelParams:
        """Draws all parameters.

        Args:
          rng_key: Consumed.
          preprocessing: Fitted constants.
          supergraph: Any super-graph; parameters do not depend on its sizes.
        """
        key_modules, key_head = jax.random.split(rng_key)
        preprocessing = jax.device_put(preprocessing)
        num_features = self.bank.layout.num_features
        states = jnp.zeros((len(supergraph.node_mask), _FRAMES, num_features))
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

    def reorder(self, params: ModelParams, order: Sequence[int]) -> ModelParams:
        """The same model with its edge modules in another order.

        Args:
          params: Arrays of the model.
          order: `[K]` index now of every edge module then.

        Returns:
          Arrays whose messages and logits are those of before, permuted.
        """
        order = np.asarray(order)
        # On the host: rows are moved, for which no program need be compiled.
        modules, proposal = jax.device_get((params.modules, params.proposal))
        edge = jax.tree.map(lambda leaf: leaf[order], modules.edge)
        head = dict(proposal)
        for kind in self.proposal.encoder.split("+"):
            if kind == "none":
                continue
            last = head[f"{kind}_logits"]
            head[f"{kind}_logits"] = {
                "kernel": last["kernel"][:, order],
                "bias": last["bias"][order],
            }
            if kind == "evidence":
                rows = evidence_order(order)
                head[kind] = _with_rows(head[kind], "layer_0", rows)
            elif kind == "denoiser":
                first = _with_rows(head[kind]["edges"], "layer_0", order)
                head[kind] = {**head[kind], "edges": first}
        modules, head = jax.device_put((modules._replace(edge=edge), head))
        return params._replace(modules=modules, proposal=head)

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

    def evidence(
        self,
        params: ModelParams,
        supergraph: SuperGraph,
        states: Frames | jax.Array,
        residuals: Residuals | None = None,
    ) -> jax.Array | None:
        """Input `[N, D, features]` of the proposal head; None where it reads none.

        Args:
          params: Arrays of the model.
          supergraph: Connectivity.
          states: `[N, T, F]` normalised frames, or `Frames`.
          residuals: See `evidence.edge_evidence`.
        """
        if not self.reads_evidence:
            return None
        return edge_evidence(self.modules(params), supergraph, states, residuals)

    def edge_logits(
        self,
        params: ModelParams,
        supergraph: SuperGraph,
        states: Frames | jax.Array,
        structure_weights: jax.Array | None = None,
        evidence: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of the proposal head.

        Args:
          params: Arrays of the model.
          supergraph: Connectivity.
          states: `[N, T, F]` normalised frames, or `Frames`; but for the evidence, the
            head takes what was filled in for what was observed.
          structure_weights: `[N, D, K]` present structure for the denoiser; None
            hides it everywhere.
          evidence: Where it is known already, see `evidence`.

        Returns:
          `[N, D, K]`.
        """
        if evidence is None:
            evidence = self.evidence(params, supergraph, states)
        states = as_frames(states).states
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
