"""Editors and readers, all with about as many parameters as the graph metanetwork."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.metanet_editing.config import ExperimentConfig
from experiments.metanet_editing.networks import FieldNetworks
from modmeta.metanet import zoo
from modmeta.metanet.learning.editing import EditingPredictor
from modmeta.metanet.learning.prediction import (
    NeuralGraphPredictor,
    Predictor,
    TopologyPredictor,
    VectorPredictor,
)
from modmeta.metanet.learning.sources import VectorSource
from modmeta.metanet.learning.steps import Disturb
from modmeta.metanet.models import baselines
from modmeta.metanet.models.editors import (
    GraphEditor,
    NeuronPermutationEditor,
    NeuronPermutationReader,
    ProbingNetwork,
)
from modmeta.metanet.models.gmn import MetanetConfig
from modmeta.metanet.models.neural_graph_network import NeuralGraphNetwork
from modmeta.metanet.models.neural_graphs import layout_of, neural_graph
from modmeta.metanet.models.readouts import InvariantMetanet

_NUM_PROBES = 64
# Sorting compiles slowly and runs once.
_QUICK_COMPILATION = {"xla_backend_optimization_level": 0}


class Contender(NamedTuple):
    """An editor or a reader, and what it reads.

    Attributes:
      source: The networks as it sees them.
      predictor: It.
      num_parameters: Number of its parameters.
      disturb: `(key, inputs) -> inputs`, changes batches to train on; None for none.
    """

    source: VectorSource
    predictor: Predictor
    num_parameters: int
    disturb: Disturb | None


def make_editor(
    config: ExperimentConfig, networks: FieldNetworks, name: str, num_heads: int
) -> Contender:
    """Builds an editor with K heads."""
    topology = networks.topology

    def graph_editor(metanet: MetanetConfig) -> nn.Module:
        return GraphEditor(topology, metanet, num_heads)

    rows = jnp.asarray(networks.rows[:2])
    gmn = graph_editor(config.metanet)
    builders: dict[str, Callable[[int], nn.Module]] = {
        "nfn": lambda width: NeuronPermutationEditor(
            topology, width, num_heads=num_heads
        ),
        "pointwise": lambda width: graph_editor(MetanetConfig(width, num_blocks=0)),
    }
    editor = gmn

    def responses(rows):
        deviation, mean = networks.statistics.deviation, networks.statistics.mean
        return networks.responses(rows * deviation[None] + mean[None])

    if name == "gmn_responses":
        editor = GraphEditor(topology, config.metanet, num_heads, responses=responses)
    elif name != "gmn":
        target = baselines.count_parameters(gmn, rows)
        editor = builders[name](baselines.match_width(builders[name], target, rows))
    return Contender(
        VectorSource(networks.rows),
        EditingPredictor(editor, networks.statistics),
        baselines.count_parameters(editor, rows),
        networks.disturb,
    )


def make_reader(
    config: ExperimentConfig, networks: FieldNetworks, name: str
) -> Contender:
    """Builds a reader that names the class of an image.

    All but "statistics" and "probing" learn from networks that are disturbed: what
    networks compute is the same, and their statistics are made before training.
    """
    topology, num_classes = networks.topology, networks.num_classes
    normalized = np.asarray(networks.statistics.normalize(networks.rows))
    template = neural_graph(topology, layout_of([topology]))

    def build(width: int) -> nn.Module:
        if name.startswith("neural_graph"):
            num_units = len(topology.outputs)
            return NeuralGraphNetwork(num_classes, num_units, width)
        return {
            "gmn": lambda: InvariantMetanet(
                config.metanet, num_classes, config.pooling
            ),
            "gmn_responses": lambda: InvariantMetanet(
                dataclasses.replace(config.metanet, outputs_nodes=True),
                num_classes,
                "layer_mean",
            ),
            "nfn": lambda: NeuronPermutationReader(topology, num_classes, width),
            "deep_sets": lambda: baselines.deep_sets(width, num_classes),
            "statistics": lambda: baselines.StatisticsNetwork(num_classes, width),
            "probing": lambda: ProbingNetwork(
                networks.respond, 2, num_classes, width, _NUM_PROBES
            ),
        }[name]()

    def with_responses() -> VectorSource:
        compiled = jax.jit(networks.responses)
        found = np.asarray(compiled(networks.rows)).reshape(len(normalized), -1)
        return VectorSource(np.concatenate([normalized, found], axis=1))

    sources = {
        "gmn_responses": with_responses,
        "neural_graph_responses": with_responses,
        "statistics": lambda: VectorSource(
            _statistics(networks), networks.splits["train"]
        ),
        "probing": lambda: VectorSource(networks.rows),
    }
    source = sources.get(name, lambda: VectorSource(normalized))()

    def predictor_of(
        module: nn.Module,
    ) -> NeuralGraphPredictor | TopologyPredictor | VectorPredictor:
        if name.startswith("neural_graph"):
            return NeuralGraphPredictor(module, template)
        if name in ("gmn", "gmn_responses", "deep_sets"):
            return TopologyPredictor(module, topology)
        return VectorPredictor(module)

    def as_read(predictor: Any, rows: jax.Array) -> Any:
        return rows if isinstance(predictor, VectorPredictor) else predictor.graph(rows)

    few = as_read(predictor_of(build(2)), jnp.asarray(source.batch(np.arange(2), None)))
    gmn = InvariantMetanet(config.metanet, num_classes, config.pooling)
    on_gmn = TopologyPredictor(gmn, topology).graph(jnp.asarray(normalized[:2]))
    target = baselines.count_parameters(gmn, on_gmn)
    is_gmn = name.startswith("gmn")
    width = 2 if is_gmn else baselines.match_width(build, target, few)
    module = build(width)
    return Contender(
        source,
        predictor_of(module),
        baselines.count_parameters(module, few),
        None if name in ("statistics", "probing") else disturb_normalized(networks),
    )


def disturb_normalized(networks: FieldNetworks) -> Disturb | None:
    """Changes normalised rows to train with, and responses after them if any."""
    if networks.disturb is None:
        return None
    deviation, mean = networks.statistics.deviation, networks.statistics.mean

    def disturb(rng_key, inputs):
        raw = inputs[:, : len(mean)] * deviation[None] + mean[None]
        raw = networks.disturb(rng_key, raw)
        rows = networks.statistics.normalize(raw)
        if inputs.shape[1] == len(mean):
            return rows
        found = networks.responses(raw).reshape(len(rows), -1)
        return jnp.concatenate([rows, found], axis=1)

    return disturb


def _statistics(networks: FieldNetworks) -> np.ndarray:
    leaves = tuple(zoo.Leaf(leaf.name, leaf.shape) for leaf in networks.topology.leaves)
    count = functools.partial(baselines.tensor_statistics, num_tensors=len(leaves))
    compiled = jax.jit(jax.vmap(count), compiler_options=_QUICK_COMPILATION)
    return np.asarray(compiled(zoo.unflatten(leaves, networks.rows)))
