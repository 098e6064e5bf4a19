"""The contrastive learner: from rows of parameters to embeddings and training steps."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.metanet_sine.config import ExperimentConfig
from modmeta.metanet import zoo
from modmeta.metanet.input_networks.sine_symmetries import draw_equal_networks
from modmeta.metanet.learning import contrastive
from modmeta.metanet.learning.contrastive import ContrastiveLoss, WeightStatistics
from modmeta.metanet.models.features import to_graph
from modmeta.metanet.models.gmn import GraphMetanet, MetanetConfig
from modmeta.metanet.models.readouts import GraphReadout, read_networks
from modmeta.metanet.parameter_graphs.topology import Topology
from modmeta.metanet.zoo.sine_rows import layers_of, rows_of
from modmeta.networks import MLP

_WARM_UP = 0.05


class ContrastiveMetanet(nn.Module):
    """A graph metanetwork that embeds networks, and the projection for its loss.

    Hidden layers after the pooling are smooth: units of a ReLU die under the
    contrastive loss, until embeddings fill a few dimensions alone.

    Attributes:
      config: Options of the metanetwork.
      embedding_size: Size of an embedding and of a projection.
      readout_width: Width of the read-out.
      pooling: See `modmeta.metanet.models.options.POOLINGS`.
    """

    config: MetanetConfig
    embedding_size: int
    readout_width: int
    pooling: str

    def setup(self) -> None:
        """Names the parts."""
        size = self.embedding_size
        self.readout = GraphReadout(
            size,
            self.readout_width,
            self.pooling,
            self.config.outputs_nodes,
            activation="silu",
        )
        self.metanet = GraphMetanet(self.config)
        self.projection = MLP((size, size), "silu")

    def __call__(self, graph) -> tuple[jax.Array, jax.Array]:
        """Maps a graph with B networks to embeddings and projections, `[B, D]`."""
        embeddings = read_networks(self, graph)[0]
        return embeddings, self.projection(embeddings)


class LearnerState(NamedTuple):
    """What training changes.

    Attributes:
      params: Of the metanetwork and its projection.
      optimizer: State of the optimiser.
    """

    params: Any
    optimizer: optax.OptState


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """A contrastive learner for networks of one topology.

    Attributes:
      config: Options.
      topology: Architecture of the networks.
      leaves: Their arrays in a row of parameters.
      statistics: What normalises a row.
    """

    config: ExperimentConfig
    topology: Topology
    leaves: tuple[zoo.Leaf, ...]
    statistics: WeightStatistics

    @property
    def model(self) -> ContrastiveMetanet:
        """The Flax module."""
        config = self.config
        return ContrastiveMetanet(
            config.metanet, config.embedding_size, config.readout_width, config.pooling
        )

    @functools.cached_property
    def leaf_sizes(self) -> tuple[int, ...]:
        """Sizes of the leaves."""
        return tuple(int(np.prod(leaf.shape)) for leaf in self.leaves)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """AdamW with clipped gradients, warm-up and a cosine schedule."""
        training = self.config.training
        schedule = optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=training.learning_rate,
            warmup_steps=int(_WARM_UP * training.num_steps),
            decay_steps=training.num_steps,
        )
        return optax.chain(
            optax.clip_by_global_norm(training.clip_norm),
            optax.adamw(schedule, weight_decay=training.weight_decay),
        )

    def graph(self, rows: jax.Array):
        """The parameter graph with the normalised values of B networks.

        Args:
          rows: `[B, P]` raw parameters.
        """
        variables = zoo.unflatten(self.leaves, self.statistics.normalize(rows))
        values = jax.vmap(self.topology.edge_values, out_axes=1)(variables)
        return to_graph(self.topology, values, bidirectional=self.config.bidirectional)

    def init(self, rng_key: jax.Array) -> LearnerState:
        """Initial state; the key is consumed."""
        return self._init(rng_key)

    @functools.cached_property
    def _init(self):
        @jax.jit
        def init(rng_key):
            rows = jnp.zeros((2, sum(self.leaf_sizes)))
            params = self.model.init(rng_key, self.graph(rows))["params"]
            return LearnerState(params, self.optimizer.init(params))

        return init

    def contrast(self, params: Any, rng_key: jax.Array, rows: jax.Array):
        """Contrastive loss of B networks, rows `[B, P]`; the key is consumed."""
        training = self.config.training
        views = contrastive.two_views(rng_key, rows, self.leaf_sizes, self.config.views)
        if self.config.half_turns >= 0:
            # Dropout comes first: it scales phases, which half turns must not be.
            views = self.equal_networks(jax.random.fold_in(rng_key, 2), views)
        _, projections = self.model.apply({"params": params}, self.graph(views))
        first, second = jnp.split(projections, 2)
        outcome = contrastive.nt_xent(first, second, training.temperature)
        if training.objective == "vicreg":
            outcome = outcome._replace(loss=contrastive.vicreg(first, second))
        return outcome

    def equal_networks(self, rng_key: jax.Array, rows: jax.Array) -> jax.Array:
        """Other weights of the same waves, rows `[B, P]`; the key is consumed."""
        drawn = draw_equal_networks(
            rng_key,
            layers_of(self.leaves, rows),
            self.config.zoo.omega,
            self.config.half_turns,
        )
        return rows_of(self.leaves, drawn)

    @functools.cached_property
    def take_steps(self):
        """`(state, key, rows [n, P], batches [count, B]) -> (state, metrics)`.

        The batches index rows; step i uses `fold_in(key, step + i)` of `step`, the
        last argument. Metrics are means over the steps.
        """

        def one_step(state, rng_key, rows):
            def loss_of(params):
                outcome = self.contrast(params, rng_key, rows)
                return outcome.loss, outcome

            gradient, outcome = jax.grad(loss_of, has_aux=True)(state.params)
            updates, optimizer = self.optimizer.update(
                gradient, state.optimizer, state.params
            )
            params = optax.apply_updates(state.params, updates)
            metrics = {
                **outcome._asdict(),
                "gradient_norm": optax.tree.norm(gradient),
            }
            return LearnerState(params, optimizer), metrics

        @jax.jit
        def take_steps(state, rng_key, rows, batches, step):
            def body(state, inputs):
                index, batch = inputs
                key = jax.random.fold_in(rng_key, index)
                return one_step(state, key, rows[batch])

            steps = step + jnp.arange(len(batches))
            state, metrics = jax.lax.scan(body, state, (steps, batches))
            return state, jax.tree.map(jnp.mean, metrics)

        return take_steps

    @functools.cached_property
    def _embed_batch(self):
        @jax.jit
        def embed(params, rows):
            return self.model.apply({"params": params}, self.graph(rows))[0]

        return embed

    @functools.cached_property
    def _contrast_batch(self):
        return jax.jit(self.contrast)

    def embed(self, params: Any, rows: np.ndarray) -> np.ndarray:
        """Embeddings `[n, D]` of undisturbed networks, rows `[n, P]`."""
        size = self.config.training.batch_size
        parts = []
        for first in range(0, len(rows), size):
            # A short last batch repeats its last network: one compilation.
            batch = np.minimum(first + np.arange(size), len(rows) - 1)
            parts.append(np.asarray(self._embed_batch(params, rows[batch])))
        return np.concatenate(parts)[: len(rows)]

    def evaluate(
        self, params: Any, rng_key: jax.Array, rows: np.ndarray
    ) -> ContrastiveLoss:
        """Mean contrastive loss over all whole batches of rows `[n, P]`.

        The same key disturbs the networks in the same way every time.
        """
        size = self.config.training.batch_size
        outcomes = [
            self._contrast_batch(
                params, jax.random.fold_in(rng_key, index), rows[first : first + size]
            )
            for index, first in enumerate(range(0, len(rows) - size + 1, size))
        ]
        return ContrastiveLoss(
            *(float(np.mean(values)) for values in zip(*outcomes, strict=True))
        )


def epoch_batches(
    seed: int, num_networks: int, batch_size: int, step: int, count: int
) -> np.ndarray:
    """Batches `[count, batch_size]` of the steps from `step` on.

    Every epoch has an order of its own, and leaves out the networks that do not fill a
    batch. A batch follows from the seed and its step alone.
    """
    per_epoch = num_networks // batch_size
    batches = []
    for index in range(step, step + count):
        epoch, position = divmod(index, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(num_networks)
        batches.append(order[position * batch_size : (position + 1) * batch_size])
    return np.stack(batches)
