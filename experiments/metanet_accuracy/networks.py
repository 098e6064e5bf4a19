"""The networks of a zoo side by side: graphs, accuracies, families, splits."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.metanet_accuracy.config import ExperimentConfig
from modmeta.metanet import zoo
from modmeta.metanet.parameter_graphs.topology import Topology
from modmeta.metanet.zoo import classifiers, families
from modmeta.metanet.zoo.images import ImageSet

_NUM_PROBES = 64


class Networks(NamedTuple):
    """All networks of a zoo, n of them, in the order of its groups.

    Attributes:
      groups: Networks by shape.
      topologies: One per group.
      accuracies: `[n]` share of test images that a network tells right.
      families: `[n]` name of the family of a network.
      num_steps: `[n]` steps that a network was trained.
      splits: Indices of networks by the name of the split, disjoint.
      probes: `[64, height, width, channels]` images that networks were trained on, or
        all if there are fewer, for models that see what networks say of them.
    """

    groups: tuple[zoo.NetworkGroup, ...]
    topologies: tuple[Topology, ...]
    accuracies: np.ndarray
    families: np.ndarray
    num_steps: np.ndarray
    splits: dict[str, np.ndarray]
    probes: np.ndarray


def read_networks(
    directory: Path, config: ExperimentConfig, image_set: ImageSet
) -> Networks:
    """Reads a complete zoo and traces its architectures.

    Raises:
      ZooError: If the zoo is damaged or of another configuration.
    """
    found = zoo.load_zoo(directory, classifiers.zoo_config(config.zoo, image_set))
    groups = tuple(found.groups.values())
    counts = [len(group.parameters) for group in groups]
    names = [families.architecture_of(group.spec).family for group in groups]
    accuracies = [group.scores["test_accuracy"] for group in groups]
    # In an order of no meaning, see `split_images`.
    probes = classifiers.split_of(config.zoo, image_set).train_images[:_NUM_PROBES]
    return Networks(
        groups,
        tuple(families.topology_of(group.spec) for group in groups),
        np.concatenate(accuracies).astype(np.float32),
        np.repeat(names, counts),
        np.concatenate([group.scores["num_steps"] for group in groups]),
        config.splits(),
        probes,
    )


def per_group(networks: Networks, feature) -> np.ndarray:
    """Sets `feature(group, topology)`, `[networks of the group, ...]`, end to end."""
    parts = [
        feature(group, topology)
        for group, topology in zip(networks.groups, networks.topologies, strict=True)
    ]
    return np.concatenate([np.asarray(jax.device_get(part)) for part in parts])
