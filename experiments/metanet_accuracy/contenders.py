"""The models that are compared: what each of them sees of a network, and learns.

All have about as many parameters as the graph metanetwork.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from experiments.metanet_accuracy.config import ExperimentConfig
from experiments.metanet_accuracy.networks import Networks, per_group
from modmeta.metanet.learning.prediction import (
    GraphPredictor,
    PredictionConfig,
    Predictor,
    VectorPredictor,
)
from modmeta.metanet.learning.sources import GraphSource, Source, VectorSource
from modmeta.metanet.models import baselines
from modmeta.metanet.models.gmn import MetanetConfig
from modmeta.metanet.models.neural_graph_network import NeuralGraphNetwork
from modmeta.metanet.models.neural_graphs import layout_of, neural_graph
from modmeta.metanet.models.readouts import InvariantMetanet
from modmeta.metanet.models.windows import edges_at_once
from modmeta.metanet.parameter_graphs.scaling import canonicalize_scaling
from modmeta.metanet.zoo import families, unflatten
from modmeta.networks import MLP

# Chosen by validation networks of one zoo: weights as they are, and other scales, are
# worse.
_CONVOLUTION_SCALES = (3.0, 30.0)
# Sorting compiles slowly and runs once per shape.
_QUICK_COMPILATION = {"xla_backend_optimization_level": 0}


class Contender(NamedTuple):
    """A model and what it reads.

    Attributes:
      source: The networks as it sees them.
      predictor: The model.
      training: Options of its training.
      num_parameters: Number of its parameters.
    """

    source: Source
    predictor: Predictor
    training: PredictionConfig
    num_parameters: int


def make_contenders(
    config: ExperimentConfig, networks: Networks
) -> dict[str, Contender]:
    """Builds the models of a configuration that learn, in its order.

    Features are standardised by the training networks.
    """
    part_edges = edges_at_once(config.metanet.width)

    def graphs_of(parameters: list[np.ndarray]) -> GraphSource:
        return GraphSource(
            networks.topologies,
            parameters,
            bidirectional=config.bidirectional,
            part_edges=part_edges,
            rounded=part_edges is None,
        )

    parameters = [group.parameters for group in networks.groups]
    graph_source = graphs_of(parameters)
    gmn = InvariantMetanet(config.metanet, 1, config.pooling)
    one = np.zeros(1, np.int64)
    target = baselines.count_parameters(gmn, graph_source.example(one))

    def matched(
        source: Source,
        build: Callable[[int], nn.Module],
        predictor: Callable[[nn.Module], Predictor],
        training: PredictionConfig,
    ) -> Contender:
        example = source.example(one)
        width = baselines.match_width(build, target, example)
        module = build(width)
        return Contender(
            source,
            predictor(module),
            training,
            baselines.count_parameters(module, example),
        )

    def neural_graph_contender() -> Contender:
        form = functools.partial(neural_graph, layout=layout_of(networks.topologies))
        source = GraphSource(networks.topologies, parameters, rounded=True, form=form)
        # All networks of a zoo tell the same classes apart.
        (num_units,) = {len(topology.outputs) for topology in networks.topologies}

        def build(width: int) -> nn.Module:
            scales = config.metanet.value_scales
            return NeuralGraphNetwork(1, num_units, width, value_scales=scales)

        return matched(source, build, GraphPredictor, config.training)

    def vectors(features: Callable) -> VectorSource:
        return VectorSource(per_group(networks, features), networks.splits["train"])

    makers = {
        "gmn": lambda: Contender(
            graph_source, GraphPredictor(gmn), config.training, target
        ),
        "scale_gmn": lambda: Contender(
            graphs_of(canonical_parameters(networks)),
            GraphPredictor(gmn),
            config.training,
            target,
        ),
        "layer_sets": lambda: matched(
            graph_source,
            lambda width: InvariantMetanet(
                dataclasses.replace(config.metanet, num_blocks=0, width=width),
                1,
                config.pooling,
            ),
            GraphPredictor,
            config.training,
        ),
        "published_gmn": lambda: matched(
            graph_source,
            lambda width: InvariantMetanet(
                MetanetConfig(
                    width=width,
                    num_blocks=config.metanet.num_blocks,
                    reverse_messages=config.metanet.reverse_messages,
                ),
                1,
            ),
            GraphPredictor,
            config.training,
        ),
        "neural_graph": neural_graph_contender,
        "deep_sets": lambda: matched(
            graph_source,
            lambda width: baselines.deep_sets(width, 1),
            GraphPredictor,
            config.training,
        ),
        "weight_convolution": lambda: matched(
            VectorSource(_padded_weights(networks)),
            lambda width: baselines.WeightConvolution(
                1, width, value_scales=_CONVOLUTION_SCALES
            ),
            VectorPredictor,
            config.training,
        ),
        "statistics": lambda: matched(
            vectors(_statistics(networks)),
            lambda width: baselines.StatisticsNetwork(1, width),
            VectorPredictor,
            config.vector_training,
        ),
        "probing": lambda: matched(
            vectors(_outputs(networks)),
            lambda width: MLP((width, width, 1)),
            VectorPredictor,
            config.vector_training,
        ),
        "architecture": lambda: matched(
            vectors(_architecture),
            lambda width: baselines.architecture_regressor(width, 1),
            VectorPredictor,
            config.vector_training,
        ),
    }
    return {name: makers[name]() for name in config.models if name in makers}


def _padded_weights(networks: Networks) -> np.ndarray:
    length = max(topology.num_parameters for topology in networks.topologies)
    return per_group(
        networks,
        lambda group, topology: baselines.pad_weights(group.parameters, length),
    )


def canonical_parameters(networks: Networks) -> list[np.ndarray]:
    """Parameters by group, the same for networks that differ by scales of units.

    What reads them is invariant to such scales, as "ScaleGMN" is (Kalogeropoulos et al.
    2024, arXiv 2406.10685). Units without that symmetry stay as they are.
    """
    found = []
    for group, topology in zip(networks.groups, networks.topologies, strict=True):

        def canonical(variables, topology=topology):
            return topology.flatten(canonicalize_scaling(topology, variables))

        compiled = jax.jit(jax.vmap(canonical), compiler_options=_QUICK_COMPILATION)
        found.append(np.asarray(compiled(group.variables())))
    return found


def _statistics(networks: Networks) -> Callable:
    num_tensors = max(len(group.spec.leaves) for group in networks.groups)
    statistics = jax.jit(
        jax.vmap(
            functools.partial(baselines.tensor_statistics, num_tensors=num_tensors)
        ),
        compiler_options=_QUICK_COMPILATION,
    )

    def features(group, topology):
        del topology
        return statistics(unflatten(group.spec.leaves, group.parameters))

    return features


def _outputs(networks: Networks) -> Callable:
    """What networks say of the probes: logits, side by side. No label is read."""

    def features(group, topology):
        del topology
        architecture = families.architecture_of(group.spec)
        num_classes = group.spec.config["num_classes"]
        module = families.make_module(architecture, num_classes, use_patches=True)

        def logits(variables):
            return module.apply(variables, networks.probes, train=False).ravel()

        compiled = jax.jit(jax.vmap(logits), compiler_options=_QUICK_COMPILATION)
        return compiled(group.variables())

    return features


def _architecture(group, topology) -> np.ndarray:
    """Family, sizes, normalisation and activation: all that names a shape."""
    architecture = families.architecture_of(group.spec)
    features = np.concatenate(
        [
            baselines.architecture_features(
                topology, architecture.family, families.FAMILIES
            ),
            [architecture.num_dense_layers],
            [architecture.normalization == name for name in families.NORMALIZATIONS],
            [architecture.activation == name for name in families.ACTIVATIONS],
        ]
    )
    return np.tile(features, (len(group.parameters), 1))
