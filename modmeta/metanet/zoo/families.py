"""Architectures of the families of image classifiers that a zoo is made of.

Five families, as in appendix E of Lim et al. 2023 (arXiv 2312.04501), at sizes that
train in a second: convolutions in two dimensions, convolutions along the pixels read
row by row, sets of pixels with their positions, residual networks, and transformers.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.input_networks import architectures
from modmeta.metanet.parameter_graphs.topology import Topology
from modmeta.metanet.parameter_graphs.tracing import trace
from modmeta.metanet.zoo.specification import GroupSpec, ZooError, leaves_of

FAMILIES = ("cnn_2d", "cnn_1d", "deep_sets", "resnet", "vit")
NORMALIZATIONS = ("none", "batch", "group", "layer")
ACTIVATIONS = ("relu", "gelu")
_LENGTH_1D = 9
_NUM_HEADS = 2
_PATCH_SIZE = 2


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What all networks of one shape have in common.

    Attributes:
      family: One of `FAMILIES`.
      width: Channels or features of every layer; even. The stem of a residual network
        has half of them.
      depth: Convolutions, set layers, residual blocks or transformer blocks.
      num_dense_layers: Dense layers of the head; 1 for residual networks and
        transformers.
      normalization: One of `NORMALIZATIONS`; "batch" for residual networks, "layer"
        for transformers.
      activation: One of `ACTIVATIONS`; "relu" for residual networks, "gelu" for
        transformers.
    """

    family: str
    width: int
    depth: int
    num_dense_layers: int = 1
    normalization: str = "none"
    activation: str = "relu"

    def __post_init__(self) -> None:
        """Checks that the family has such networks."""
        for field, members in _MEMBERS.items():
            if getattr(self, field) not in members:
                raise ValueError(
                    f"{field}: found {getattr(self, field)!r}, expected one of "
                    f"{', '.join(members)}"
                )
        for field, value in _FIXED.get(self.family, {}).items():
            if getattr(self, field) != value:
                raise ValueError(
                    f"{field}: found {getattr(self, field)!r}, expected {value!r} for "
                    f"family {self.family}"
                )
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width: found {self.width}, expected an even number")
        for field in ("depth", "num_dense_layers"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected at least 1"
                )

    @property
    def name(self) -> str:
        """For instance "cnn_2d.width8.depth2.dense1.batch.relu"."""
        return (
            f"{self.family}.width{self.width}.depth{self.depth}"
            f".dense{self.num_dense_layers}.{self.normalization}.{self.activation}"
        )


_MEMBERS = {
    "family": FAMILIES,
    "normalization": NORMALIZATIONS,
    "activation": ACTIVATIONS,
}
_FIXED = {
    "resnet": {"num_dense_layers": 1, "normalization": "batch", "activation": "relu"},
    "vit": {"num_dense_layers": 1, "normalization": "layer", "activation": "gelu"},
}


def make_module(
    architecture: Architecture, num_classes: int, *, use_patches: bool = False
) -> nn.Module:
    """The Flax module of an architecture.

    Args:
      architecture: The architecture.
      num_classes: Outputs.
      use_patches: Whether convolutions run as matrix products of patches: the same
        function of the same parameters, faster where many networks train at once.

    Returns:
      A module that maps images `[batch, height, width, channels]` to logits
      `[batch, num_classes]` and takes `train`. It has an attribute `dropout_rate`
      unless it is a residual network.
    """
    width, depth = architecture.width, architecture.depth
    if architecture.family == "resnet":
        return architectures.ResNet(
            num_classes, width // 2, (width,) * depth, use_patches=use_patches
        )
    if architecture.family == "vit":
        return architectures.VisionTransformer(
            num_classes,
            width,
            num_heads=_NUM_HEADS,
            num_blocks=depth,
            patch_size=_PATCH_SIZE,
            use_patches=use_patches,
        )
    shared = {
        "out_features": num_classes,
        "num_dense_layers": architecture.num_dense_layers,
        "normalization": architecture.normalization,
        "activation": architecture.activation,
    }
    if architecture.family == "deep_sets":
        return architectures.DeepSets(features=width, num_set_layers=depth, **shared)
    return architectures.ConvNet(
        kernel_size=(3, 3) if architecture.family == "cnn_2d" else (_LENGTH_1D,),
        channels=width,
        num_conv_layers=depth,
        use_patches=use_patches,
        **shared,
    )


def all_architectures(family: str, widths: Sequence[int]) -> list[Architecture]:
    """All architectures of a family, in a fixed order.

    Args:
      family: One of `FAMILIES`.
      widths: Widths, even numbers.

    Returns:
      Every width with 1 to 3 layers, 1 or 2 dense layers, no, batch or group
      normalisation and either activation; for residual networks and transformers,
      every width with 1 or 2 blocks.
    """
    if family in _FIXED:
        return [
            Architecture(family, width, depth, **_FIXED[family])
            for width, depth in itertools.product(widths, (1, 2))
        ]
    return [
        Architecture(family, *choice)
        for choice in itertools.product(
            widths, (1, 2, 3), (1, 2), ("none", "batch", "group"), ACTIVATIONS
        )
    ]


def sample_architectures(
    seed: int, families: Sequence[str], widths: Sequence[int], num_per_family: int
) -> list[Architecture]:
    """Different architectures of every family, in random order.

    Args:
      seed: Seed of the choice. More architectures per family come after those of a
        smaller choice.
      families: Members of `FAMILIES`.
      widths: Even numbers.
      num_per_family: Architectures per family; fewer where there are no more.
    """
    chosen = []
    for family in families:
        candidates = all_architectures(family, widths)
        # Not by position in `families`: a family is the same in any selection.
        rng = np.random.default_rng([seed, FAMILIES.index(family)])
        order = rng.permutation(len(candidates))[:num_per_family]
        chosen.extend(candidates[index] for index in order)
    return chosen


def architecture_of(group: GroupSpec) -> Architecture:
    """The architecture of the networks of a group.

    Raises:
      ZooError: If the group does not say; it is of another generator then.
    """
    fields = [field.name for field in dataclasses.fields(Architecture)]
    missing = [name for name in fields if name not in group.config]
    if missing:
        raise ZooError(
            f"group {group.name}: found no {', '.join(missing)} in its config, "
            "expected a group of image classifiers"
        )
    return Architecture(**{name: group.config[name] for name in fields})


def abstract_variables(module: nn.Module, image_shape: Sequence[int]) -> dict:
    """Shapes of the variables of a classifier; nothing is computed.

    Args:
      module: See `make_module`.
      image_shape: Height, width and channels.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return dict(
        jax.eval_shape(
            lambda key: module.init(key, images, train=False), jax.random.key(0)
        )
    )


def topology_of(group: GroupSpec) -> Topology:
    """The topology of the networks of a group, rows of whose parameters fit it.

    Raises:
      ZooError: If the group holds other variables than its architecture has.
    """
    module = make_module(architecture_of(group), group.config["num_classes"])
    image_shape = tuple(group.config["image_shape"])
    variables = abstract_variables(module, image_shape)
    if leaves_of(variables) != group.leaves:
        raise ZooError(
            f"group {group.name}: found variables {group.leaves}, expected "
            f"{leaves_of(variables)}"
        )
    images = jnp.zeros((1, *image_shape), jnp.float32)
    return trace(module, variables, images, train=False)
