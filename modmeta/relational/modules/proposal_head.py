"""The proposal head: from trajectories and structures to logits over modules.

Trained by cross-entropy on structures that the search accepted, never on labels
(Alet et al. 2019, section 4; reference code, A.5). Shapes are those of a super-graph:
N nodes, D slots, T frames, F features, K edge modules. Deviations from the reference:
LayerNorm in place of batch norm, because nothing may normalise across systems; no
dropout; no encoder depends on the number of frames; the time convolution sees the
inputs of the edge modules; state encoder and structure denoiser can be combined as a
product of experts instead of by a coin per batch.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from modmeta.graphs.supergraphs import SuperGraph
from modmeta.networks import MLP, Dense
from modmeta.runtime import option_types

ENCODERS = ("mlp", "cnn", "denoiser", "evidence")


@dataclasses.dataclass(frozen=True)
class ProposalConfig:
    """Options of the proposal head.

    Attributes:
      encoder: "mlp" averages over pairs of consecutive frames of a node what a network
        makes of them, "cnn" convolves the edge inputs over time, "denoiser" reads the
        present structure, "evidence" what the modules say, see
        `modmeta.relational.modules.evidence`; "+" combines, as in "cnn+evidence",
        "none" leaves every proposal uniform.
      width: Hidden width of the other encoders.
      denoiser_width: Hidden width of the denoiser.
      corruption: Share of the edges whose module the denoiser does not see.
    """

    encoder: str = "evidence"
    width: int = 128
    denoiser_width: int = 32
    corruption: float = 0.2

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        kinds = self.encoder.split("+")
        is_known = set(kinds) <= set(ENCODERS) and len(set(kinds)) == len(kinds)
        if self.encoder != "none" and not is_known:
            raise ValueError(
                f"encoder: found {self.encoder!r}, expected one of {ENCODERS}, several "
                "joined by '+', or 'none'"
            )
        if not 0.0 <= self.corruption <= 1.0:
            raise ValueError(
                f"corruption: found {self.corruption}, expected a share in [0, 1]"
            )


def _masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over real slots: `[N, D, W]`, `[N, D]` to `[N, W]`."""
    weights = mask[..., None].astype(values.dtype)
    total = jnp.sum(values * weights, axis=1)
    return total / jnp.maximum(jnp.sum(weights, axis=1), 1.0)


def _pairs(nodes: jax.Array, supergraph: SuperGraph) -> jax.Array:
    """Receiver and sender side by side: `[N, W]` to `[N, D, 2 W]`."""
    senders = nodes[supergraph.slot_senders]
    receivers = jnp.broadcast_to(nodes[:, None], senders.shape)
    return jnp.concatenate([receivers, senders], axis=-1)


class TimeConvolution(nn.Module):
    """Two convolutions over time and an attention-weighted mean.

    Attributes:
      width: Channels.
      kernel_size: Frames under a kernel.
    """

    width: int
    kernel_size: int = 5

    def _convolve(self, sequences: jax.Array, name: str) -> jax.Array:
        # Unfolded into a matrix product: grouped by hand because XLA's convolutions
        # are slow on CPU.
        length = sequences.shape[-2] - self.kernel_size + 1
        windows = [
            sequences[..., start : start + length, :]
            for start in range(self.kernel_size)
        ]
        return Dense(self.width, name=name)(jnp.concatenate(windows, axis=-1))

    @nn.compact
    def __call__(self, sequences: jax.Array) -> jax.Array:
        """Maps `[..., T, channels]` to `[..., width]`.

        Raises:
          ValueError: If there are fewer than 15 frames.
        """
        if sequences.shape[-2] < 15:
            raise ValueError(
                f"cnn encoder: found {sequences.shape[-2]} frames, expected at least "
                "15; use the evidence encoder"
            )
        hidden = nn.relu(self._convolve(sequences, "convolution_0"))
        length = hidden.shape[-2] // 2 * 2
        hidden = hidden[..., :length, :].reshape(
            *hidden.shape[:-2], length // 2, 2, self.width
        )
        hidden = nn.LayerNorm(name="norm")(jnp.max(hidden, axis=-2))
        hidden = nn.relu(self._convolve(hidden, "convolution_1"))
        weights = nn.softmax(Dense(1, name="attention")(hidden), axis=-2)
        return jnp.sum(weights * Dense(self.width, name="values")(hidden), axis=-2)


class StateEncoder(nn.Module):
    """Trajectories to edge embeddings: nodes or time, pairs, nodes, pairs with skip.

    Attributes:
      kind: "mlp" or "cnn".
      width: Hidden width.
    """

    kind: str
    width: int

    @nn.compact
    def __call__(
        self, states: jax.Array, edge_sequences: jax.Array | None, graph: SuperGraph
    ) -> jax.Array:
        """Embeds the edges of a super-graph.

        Args:
          states: `[N, T, F]` normalised.
          edge_sequences: `[N, D, T, inputs]` edge inputs, used by "cnn" alone.
          graph: Connectivity.

        Returns:
          `[N, D, 2 * width]`.
        """

        def block(name: str) -> MLP:
            return MLP(
                (self.width, self.width),
                activation="elu",
                activate_output=True,
                layer_norm=True,
                name=name,
            )

        if self.kind == "mlp":
            steps = jnp.concatenate([states[:, :-1], states[:, 1:]], axis=-1)
            nodes = jnp.mean(block("trajectories")(steps), axis=1)
            edges = block("pairs")(_pairs(nodes, graph))
        else:
            edges = TimeConvolution(self.width, name="time")(edge_sequences)
            edges = block("pairs")(edges)
        nodes = block("nodes")(_masked_mean(edges, graph.slot_mask))
        again = jnp.concatenate([_pairs(nodes, graph), edges], axis=-1)
        return jnp.concatenate([block("joint")(again), edges], axis=-1)


class StructureDenoiser(nn.Module):
    """Corrupted structures to edge embeddings: which relations go together.

    Attributes:
      width: Hidden width.
    """

    width: int

    @nn.compact
    def __call__(self, structure: jax.Array, graph: SuperGraph) -> jax.Array:
        """Maps module weights `[N, D, K]` to `[N, D, 2 * width]`."""
        sizes = (self.width, self.width)
        edges = first = MLP(sizes, "elu", True, True, name="edges")(structure)
        for index in range(2):
            nodes = MLP(sizes, "elu", True, True, name=f"nodes_{index}")(
                _masked_mean(edges, graph.slot_mask)
            )
            pairs = jnp.concatenate([_pairs(nodes, graph), edges], axis=-1)
            edges = MLP(sizes, "elu", True, True, name=f"pairs_{index}")(pairs)
        return jnp.concatenate([edges, first], axis=-1)


class ProposalHead(nn.Module):
    """Logits over modules for every edge.

    Attributes:
      config: Options.
      num_relations: Number of edge modules K.
    """

    config: ProposalConfig
    num_relations: int

    @nn.compact
    def __call__(
        self,
        states: jax.Array,
        edge_sequences: jax.Array | None,
        structure: jax.Array,
        graph: SuperGraph,
        evidence: jax.Array | None = None,
    ) -> jax.Array:
        """Computes the logits of a super-graph.

        Args:
          states: `[N, T, F]` normalised observed frames.
          edge_sequences: `[N, D, T, inputs]`; None unless a "cnn" is used.
          structure: `[N, D, K]` weights of the modules in the present structure,
            uniform where it is hidden; read by the denoiser alone.
          graph: Connectivity.
          evidence: `[N, D, features]` of `evidence.edge_evidence`; None unless it is
            used.

        Returns:
          `[N, D, K]`; zeros for the encoder "none".
        """
        logits = jnp.zeros((*graph.slot_mask.shape, self.num_relations))
        for kind in self.config.encoder.split("+"):
            if kind in ("mlp", "cnn"):
                hidden = StateEncoder(kind, self.config.width, name=kind)(
                    states, edge_sequences, graph
                )
            elif kind == "denoiser":
                hidden = StructureDenoiser(self.config.denoiser_width, name=kind)(
                    structure, graph
                )
            elif kind == "evidence":
                sizes = (self.config.width, self.config.width)
                hidden = MLP(sizes, "elu", True, True, name=kind)(evidence)
            else:
                continue
            logits = logits + Dense(
                self.num_relations,
                kernel_init=nn.initializers.zeros,
                name=f"{kind}_logits",
            )(hidden)
        return logits


def corrupt(
    rng_key: jax.Array, edge_modules: jax.Array, num_relations: int, share: float
) -> jax.Array:
    """One-hot structures `[..., K]` with a share of the edges made uniform."""
    one_hot = jax.nn.one_hot(edge_modules, num_relations)
    is_hidden = jax.random.bernoulli(rng_key, share, edge_modules.shape)
    return jnp.where(is_hidden[..., None], 1.0 / num_relations, one_hot)


def cross_entropy(
    logits: jax.Array, edge_modules: jax.Array, mask: jax.Array
) -> jax.Array:
    """Mean cross-entropy over real edges, in nats: `[N, D, K]`, `[N, D]` to `()`."""
    log_probabilities = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_probabilities, edge_modules[..., None], axis=-1)
    weights = mask.astype(logits.dtype)
    total = jnp.sum(weights * chosen[..., 0])
    return -total / jnp.maximum(jnp.sum(weights), 1.0)
