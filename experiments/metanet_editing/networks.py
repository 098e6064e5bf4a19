"""The networks of a run, the images they hold, and what the images shall become.

Letters: n networks, M parameters each, H, W, C height, width and channels, Q pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.metanet_editing.config import ExperimentConfig
from modmeta.metanet import zoo
from modmeta.metanet.input_networks.sine_symmetries import draw_equal_networks
from modmeta.metanet.learning import contrastive
from modmeta.metanet.learning.steps import Disturb
from modmeta.metanet.models.responses import node_responses, units_of
from modmeta.metanet.parameter_graphs import tracing
from modmeta.metanet.parameter_graphs.topology import Topology
from modmeta.metanet.zoo import image_fields
from modmeta.metanet.zoo.images import ImageSet
from modmeta.metanet.zoo.sine_rows import canonical_rows, layers_of, rows_of

_NUM_SEEN_ALONG_A_SIDE = 14


class FieldNetworks(NamedTuple):
    """All networks of a zoo.

    Attributes:
      rows: `[n, M]` parameters, raw or canonical.
      shape: H, W and C of an image.
      targets: `[n, Q, C]` what the images shall become.
      images: `[n, Q, C]` the images.
      labels: `[n]` int32.
      fit_mse: `[n]` mean squared error of the networks on their images.
      splits: Indices of networks by the name of the split, disjoint.
      topology: Their parameter graph.
      statistics: What normalises a row, from the training networks.
      respond: `(rows [k, M], inputs [q, 2]) -> [k, q, C]`, runs the networks.
      render: `rows [k, M] -> [k, Q, C]`, runs them at all pixels.
      responses: `rows [k, M] -> [k, N, S]`, what their units compute at S pixels.
      disturb: `(key, rows [k, M]) -> rows`, changes networks to train with; None if
        nothing does.
    """

    rows: np.ndarray
    shape: tuple[int, int, int]
    targets: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    fit_mse: np.ndarray
    splits: dict[str, np.ndarray]
    topology: Topology
    statistics: contrastive.WeightStatistics
    respond: Callable[[jax.Array, jax.Array], jax.Array]
    render: Callable[[jax.Array], jax.Array]
    responses: Callable[[jax.Array], jax.Array]
    disturb: Disturb | None

    @property
    def num_classes(self) -> int:
        """Classes of the images."""
        return int(self.labels.max()) + 1


def edited(images: np.ndarray, edit: str) -> np.ndarray:
    """What images `[n, H, W, C]` shall become, see `ExperimentConfig.edit`."""
    if edit == "none":
        return images
    if edit == "contrast":
        return images * images * (3.0 - 2.0 * images)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    height, width = images.shape[1:3]
    shifted = [
        padded[:, row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    ]
    return np.max(shifted, axis=0)


def seen_pixels(height: int, width: int) -> np.ndarray:
    """The pixels at which units are watched, `[S]` indices of rows end to end.

    All of small images, every second one of larger ones, and so on: responses take
    memory.
    """
    grid = np.arange(height * width).reshape(height, width)
    step = (-(-size // _NUM_SEEN_ALONG_A_SIDE) for size in (height, width))
    return grid[tuple(slice(None, None, every) for every in step)].ravel()


def disturbance(
    config: ExperimentConfig,
    leaves: Sequence[zoo.Leaf],
    statistics: contrastive.WeightStatistics,
) -> Disturb | None:
    """How raw rows of networks to train with are changed in every step.

    Args:
      config: `half_turns` and `weight_noise` count.
      leaves: Arrays of a row.
      statistics: Spread of the weights.
    """
    if config.half_turns < 0 and not config.weight_noise:
        return None

    def disturb(rng_key, rows):
        key_turns, key_noise = jax.random.split(rng_key)
        if config.half_turns >= 0:
            layers, omega = layers_of(leaves, rows), config.zoo.omega
            drawn = draw_equal_networks(key_turns, layers, omega, config.half_turns)
            rows = rows_of(leaves, drawn)
        sizes = config.weight_noise * jnp.asarray(statistics.deviation)
        return rows + sizes[None] * jax.random.normal(key_noise, rows.shape)

    return disturb


def read_networks(
    directory: Path, config: ExperimentConfig, image_set: ImageSet
) -> FieldNetworks:
    """Reads a complete zoo and traces its networks.

    Raises:
      ZooError: If the zoo is damaged or of another configuration.
    """
    wanted = image_fields.zoo_config(config.zoo, image_set)
    group = zoo.load_zoo(directory, wanted).groups[image_fields.GROUP]
    leaves = group.spec.leaves
    images = image_set.images[group.settings["image"]]
    rows = group.parameters
    if config.canonical:
        rows = np.asarray(canonical_rows(leaves, rows, config.zoo.omega))
    height, width, num_channels = shape = images.shape[1:]
    module = image_fields.field(config.zoo, num_channels, use_polynomial=True)
    inputs = jnp.asarray(image_fields.coordinates(height, width))

    def respond(rows, inputs):
        return jax.vmap(lambda one: module.apply(one, inputs))(
            zoo.unflatten(leaves, rows)
        )

    def responses(rows):
        def of_one(one):
            outputs, kept = module.apply(one, seen, mutable=["intermediates"])
            return *kept["intermediates"]["units"], outputs

        layers = jax.vmap(of_one)(zoo.unflatten(leaves, rows))
        return node_responses(topology.num_nodes, units, layers)

    def pixels(values):
        return values.reshape(len(values), -1, num_channels).astype(np.float32)

    traced = image_fields.field(config.zoo, num_channels)
    variables = jax.eval_shape(traced.init, jax.random.key(0), inputs[:2])
    topology = tracing.trace(traced, variables, inputs[:2])
    units = [
        units_of(topology, f"params/layer_{index}/kernel")
        for index in range(len(config.zoo.hidden_sizes) + 1)
    ]
    seen = inputs[seen_pixels(height, width)]
    statistics = contrastive.weight_statistics(
        rows[group.splits["train"]], [leaf.size for leaf in topology.leaves]
    )
    return FieldNetworks(
        rows=rows,
        shape=shape,
        targets=pixels(edited(images, config.edit)),
        images=pixels(images),
        labels=group.settings["label"].astype(np.int32),
        fit_mse=group.scores["fit_mse"],
        splits={name: np.asarray(rows) for name, rows in group.splits.items()},
        topology=topology,
        statistics=statistics,
        respond=respond,
        render=lambda rows: respond(rows, inputs),
        responses=responses,
        disturb=disturbance(config, leaves, statistics),
    )
