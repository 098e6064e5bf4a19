"""The readers that are compared: what each of them sees of a network, and learns.

All have about as many parameters as the graph metanetwork, and the same head.

Letters: n networks, b of a batch, L laws, D size of an embedding.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.metanet_modules import laws
from experiments.metanet_modules.config import ExperimentConfig
from experiments.metanet_modules.law_zoo import LawNetworks
from modmeta.metanet import zoo
from modmeta.metanet.learning.contrastive import weight_statistics
from modmeta.metanet.learning.prediction import (
    PredictionConfig,
    Predictor,
    TopologyPredictor,
    VectorPredictor,
)
from modmeta.metanet.learning.sources import VectorSource
from modmeta.metanet.models import baselines
from modmeta.metanet.models.readouts import InvariantMetanet
from modmeta.metanet.models.responses import node_responses, units_of
from modmeta.metanet.parameter_graphs.topology import Topology
from modmeta.networks import Dense

# Where outputs are probed, whatever the input is: distances, then angles.
_PROBE_DISTANCES = np.geomspace(0.15, 2.5, 16)
_PROBE_ANGLES = np.linspace(-np.pi, np.pi, 16, endpoint=False)
_PROBE_UNIT = 0.01
# Programs that run once or a few times.
_QUICK_COMPILATION = {"xla_backend_optimization_level": 0}


class LawReader(nn.Module):
    """A reader and the head that tells the law.

    Attributes:
      body: Maps networks to `[..., D]`.
    """

    body: nn.Module

    @nn.compact
    def __call__(self, inputs: Any) -> dict[str, jax.Array]:
        """Maps networks to `embedding` `[..., D]`, `logits` and `constants`.

        Logits of the laws are `[..., L]`; constants `[..., 2 L]` are logarithms of the
        strength and the length, if the law is the first, the second, ...
        """
        embedding = self.body(inputs)
        hidden = nn.silu(embedding)
        num_laws = len(laws.LAWS)
        return {
            "embedding": embedding,
            "logits": Dense(num_laws, name="logits")(hidden),
            "constants": Dense(2 * num_laws, name="constants")(hidden),
        }


def targets_of(networks: LawNetworks) -> dict[str, np.ndarray]:
    """What readers learn: laws `[n]`, constants `[n, 2]`, and which there are."""
    constants = np.log(np.stack([networks.strengths, networks.lengths], axis=-1))
    exists = np.stack([laws.HAS_STRENGTH, laws.HAS_LENGTH], axis=-1)
    return {
        "law": networks.laws.astype(np.int32),
        "constants": constants.astype(np.float32),
        "exists": exists[networks.laws],
    }


def constants_of(constants: jax.Array, law: jax.Array) -> jax.Array:
    """Constants `[b, 2]` under laws `[b]`, of those `[b, 2 L]` of a reader."""
    by_law = constants.reshape(len(constants), len(laws.LAWS), 2)
    return jnp.take_along_axis(by_law, law[:, None, None], axis=1)[:, 0]


@functools.lru_cache(maxsize=8)
def law_objective(constant_weight: float) -> Callable[[Any, Any], jax.Array]:
    """Cross-entropy of the law, and squared errors of its constants: `[b]`."""

    def objective(outputs: Mapping[str, Any], targets: Mapping[str, Any]) -> jax.Array:
        entropy = optax.softmax_cross_entropy_with_integer_labels(
            outputs["logits"], targets["law"]
        )
        found = constants_of(outputs["constants"], jnp.asarray(targets["law"]))
        errors = jnp.square(found - targets["constants"]) * targets["exists"]
        return entropy + constant_weight * jnp.sum(errors, axis=-1)

    return objective


class Contender(NamedTuple):
    """A reader and what it reads.

    Attributes:
      features: From rows of parameters `[n, P]` to what it reads `[n, ...]`.
      is_standardized: Whether features are to be standardised by the training networks.
      predictor: The reader.
      training: Options of its training.
      learning_rates: Those that are tried.
      num_parameters: Number of its parameters.
    """

    features: Callable[[np.ndarray], np.ndarray]
    is_standardized: bool
    predictor: Predictor
    training: PredictionConfig
    learning_rates: tuple[float, ...]
    num_parameters: int

    def source(self, rows: np.ndarray, known: np.ndarray) -> VectorSource:
        """Networks as the reader sees them.

        Args:
          rows: `[k, P]` the networks.
          known: `[m, P]` training networks, which standardise features.
        """
        features = self.features(np.concatenate([rows, known]))
        members = np.arange(len(rows), len(features))
        chosen = members if self.is_standardized else None
        return VectorSource(features, chosen, num_networks=len(rows))


def make_contenders(
    config: ExperimentConfig, networks: LawNetworks, topology: Topology
) -> dict[str, Contender]:
    """Builds the readers of a configuration, in its order."""
    size = config.embedding_size
    leaves = tuple(zoo.Leaf(leaf.name, leaf.shape) for leaf in topology.leaves)
    known = networks.rows[networks.splits["train"]]
    statistics = weight_statistics(known, [leaf.size for leaf in topology.leaves])

    def scaled(rows):
        return np.asarray(statistics.normalize(rows))

    def contender(build, target, features, *, reads_graph: bool) -> Contender:
        def reader(width: int) -> nn.Module:
            return LawReader(build(width))

        def predictor(module: nn.Module) -> Any:
            if reads_graph:
                return TopologyPredictor(module, topology)
            return VectorPredictor(module)

        few = jnp.asarray(features(networks.rows[:2]), jnp.float32)
        example = predictor(reader(2)).graph(few) if reads_graph else few
        width = config.metanet.width
        if target:
            width = baselines.match_width(reader, target, example)
        module = reader(width)
        prefix = "" if reads_graph else "vector_"
        return Contender(
            features,
            not reads_graph,
            predictor(module),
            getattr(config, f"{prefix}training"),
            getattr(config, f"{prefix}learning_rates"),
            baselines.count_parameters(module, example),
        )

    gmn = contender(
        lambda width: InvariantMetanet(config.metanet, size),
        0,
        scaled,
        reads_graph=True,
    )
    target = gmn.num_parameters
    makers = {
        "gmn": lambda: gmn,
        "gmn_responses": lambda: contender(
            lambda width: InvariantMetanet(
                # Nodes know the function: one block is enough, and a third of the time.
                dataclasses.replace(config.metanet, outputs_nodes=True, num_blocks=1),
                size,
                "layer_mean",
            ),
            0,
            _with_responses(config.zoo.shape, topology, leaves, scaled),
            reads_graph=True,
        ),
        "deep_sets": lambda: contender(
            lambda width: baselines.deep_sets(width, size),
            target,
            scaled,
            reads_graph=True,
        ),
        "statistics": lambda: contender(
            lambda width: baselines.StatisticsNetwork(size, width),
            target,
            _statistics(leaves),
            reads_graph=False,
        ),
        "probing": lambda: contender(
            lambda width: _FlatNetwork(size, width),
            target,
            _probes(config.zoo.shape, leaves),
            reads_graph=False,
        ),
    }
    return {name: makers[name]() for name in config.models}


class _FlatNetwork(nn.Module):
    """A multilayer perceptron with two hidden layers on `[b, features]`."""

    num_outputs: int
    width: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        return baselines.architecture_regressor(self.width, self.num_outputs)(features)


def _statistics(leaves: tuple[zoo.Leaf, ...]) -> Callable[[np.ndarray], np.ndarray]:
    count = functools.partial(baselines.tensor_statistics, num_tensors=len(leaves))
    compiled = jax.jit(jax.vmap(count), compiler_options=_QUICK_COMPILATION)
    return lambda rows: np.asarray(compiled(zoo.unflatten(leaves, rows)))


def _probe_inputs() -> jax.Array:
    return jnp.concatenate(
        [
            laws.inputs_of(jnp.asarray(_PROBE_DISTANCES, jnp.float32), True),
            laws.inputs_of(jnp.asarray(_PROBE_ANGLES, jnp.float32), False),
        ]
    )


def _with_responses(
    shape: laws.NetworkShape,
    topology: Topology,
    leaves: tuple[zoo.Leaf, ...],
    scaled: Callable[[np.ndarray], np.ndarray],
) -> Callable[[np.ndarray], np.ndarray]:
    """Normalised parameters, then the responses of all nodes."""
    inputs = _probe_inputs()
    units = [
        units_of(topology, f"params/network/layer_{index}/kernel")
        for index in range(len(shape.sizes) + 1)
    ]
    units.append(np.asarray(topology.outputs))

    @functools.partial(jax.jit, compiler_options=_QUICK_COMPILATION)
    def responses(variables):
        def of_one(one):
            rates = shape.rates({"params": one}, inputs) / _PROBE_UNIT
            layers = shape.responses({"params": one}, inputs)
            return *(jnp.arcsinh(layer) for layer in layers), jnp.arcsinh(rates)

        return node_responses(topology.num_nodes, units, jax.vmap(of_one)(variables))

    def features(rows):
        found = responses(zoo.unflatten(leaves, rows)["params"])
        return np.concatenate([scaled(rows), found.reshape(len(rows), -1)], axis=1)

    return features


def _probes(
    shape: laws.NetworkShape, leaves: tuple[zoo.Leaf, ...]
) -> Callable[[np.ndarray], np.ndarray]:
    inputs = _probe_inputs()

    @functools.partial(jax.jit, compiler_options=_QUICK_COMPILATION)
    def probe(variables):
        rates = jax.vmap(lambda one: shape.rates({"params": one}, inputs)[:, 0])(
            variables
        )
        return jnp.arcsinh(rates / _PROBE_UNIT)

    return lambda rows: np.asarray(probe(zoo.unflatten(leaves, rows)["params"]))
