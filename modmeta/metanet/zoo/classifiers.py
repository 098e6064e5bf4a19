"""Zoos of small image classifiers: five families, many ways to train them.

What a zoo holds, and its generation; how one network is trained is in
`modmeta.metanet.zoo.recipes`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.zoo import storage
from modmeta.metanet.zoo.families import (
    FAMILIES,
    Architecture,
    abstract_variables,
    architecture_of,
    make_module,
    sample_architectures,
)
from modmeta.metanet.zoo.images import ImageSet, ImageSplit, split_images
from modmeta.metanet.zoo.recipes import Recipe, make_task
from modmeta.metanet.zoo.specification import (
    GroupSpec,
    ZooSpec,
    flatten,
    leaves_of,
    split_networks,
)
from modmeta.metanet.zoo.training import network_keys, train_networks
from modmeta.runtime import option_types
from modmeta.runtime.progress import ProgressMeter

# Every shape is compiled anew, to train for seconds: on the CPU, the last passes of the
# compiler take longer than they save.
_train_networks = jax.jit(
    train_networks,
    static_argnames=("task", "one_by_one"),
    compiler_options={"xla_backend_optimization_level": 1},
)


@dataclasses.dataclass(frozen=True)
class ClassifierZooConfig:
    """A zoo of image classifiers.

    Attributes:
      families: Members of `families.FAMILIES`.
      widths: Widths to choose from, even numbers.
      num_shapes: Architectures per family. Each takes seconds to compile.
      networks_per_shape: Networks per architecture.
      num_valid: Networks to choose metanetworks with.
      num_test: Networks to score them with; all others are to train them with.
      num_train_images: Images that networks may be trained on; 0 for all.
      num_test_images: Images that give their accuracy; 0 for all.
      recipe: From what the training of every network is drawn.
      chunk_size: Networks trained at once, and per file.
      seed: Seed of everything random.
    """

    families: tuple[str, ...] = FAMILIES
    widths: tuple[int, ...] = (4, 6, 8, 12)
    num_shapes: int = 6
    networks_per_shape: int = 32
    num_valid: int = 100
    num_test: int = 200
    num_train_images: int = 1000
    num_test_images: int = 0
    recipe: Recipe = Recipe()
    chunk_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        unknown = sorted(set(self.families) - set(FAMILIES))
        if unknown or not self.families or len(set(self.families)) < len(self.families):
            raise ValueError(
                f"families: found {self.families}, expected some of "
                f"{', '.join(FAMILIES)}, each once"
            )
        for field in (
            "num_shapes",
            "networks_per_shape",
            "num_valid",
            "num_test",
            "chunk_size",
        ):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected at least 1"
                )

    @property
    def architectures(self) -> list[Architecture]:
        """The shapes of the zoo."""
        return sample_architectures(
            self.seed, self.families, self.widths, self.num_shapes
        )

    @property
    def num_train(self) -> int:
        """Networks to train metanetworks with.

        Raises:
          ValueError: If validation and test leave none.
        """
        total = len(self.architectures) * self.networks_per_shape
        num_train = total - self.num_valid - self.num_test
        if num_train < 1:
            raise ValueError(
                f"num_valid, num_test: found {self.num_valid} and {self.num_test}, "
                f"expected less than the {total} networks of the zoo together"
            )
        return num_train

    @property
    def splits(self) -> dict[str, list[int]]:
        """Numbers of the networks to train with, to choose with and to test.

        Raises:
          ValueError: If validation and test leave no network to train with.
        """
        sizes = {
            "train": self.num_train,
            "valid": self.num_valid,
            "test": self.num_test,
        }
        return split_networks(self.seed, sum(sizes.values()), sizes)


def split_of(config: ClassifierZooConfig, image_set: ImageSet) -> ImageSplit:
    """The images that networks are trained on and judged by.

    Raises:
      ImageError: If there are not as many images.
    """
    return split_images(
        image_set, config.seed, config.num_train_images, config.num_test_images
    )


def zoo_config(config: ClassifierZooConfig, image_set: ImageSet) -> dict[str, Any]:
    """What `zoo.json` says about the generator."""
    return {
        "family": "image_classifiers",
        **dataclasses.asdict(config),
        "images": image_set.digest,
    }


def classifier_spec(config: ClassifierZooConfig, image_set: ImageSet) -> ZooSpec:
    """What the zoo is: one group per architecture, and splits at random.

    Raises:
      ValueError: If validation and test leave no network to train with.
    """
    image_shape = image_set.images.shape[1:]
    groups = []
    for architecture in config.architectures:
        module = make_module(architecture, image_set.num_classes)
        groups.append(
            GroupSpec(
                name=architecture.name,
                config={
                    **dataclasses.asdict(architecture),
                    "image_shape": list(image_shape),
                    "num_classes": image_set.num_classes,
                },
                num_networks=config.networks_per_shape,
                leaves=leaves_of(abstract_variables(module, image_shape)),
            )
        )
    return ZooSpec(
        config=zoo_config(config, image_set),
        groups=tuple(groups),
        splits=config.splits,
        chunk_size=config.chunk_size,
    )


@functools.partial(jax.jit, static_argnames="draw")
def _drawn_steps(draw: Callable, rng_key: jax.Array, indices: jax.Array) -> jax.Array:
    def steps(index):
        return draw(network_keys(rng_key, index)[0])["num_steps"]

    return jax.vmap(steps)(indices)


def generate_classifier_zoo(
    directory: str | os.PathLike[str],
    config: ClassifierZooConfig,
    image_set: ImageSet,
    *,
    progress: ProgressMeter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains the zoo, or what is missing of it; see `storage.generate_zoo`.

    Within a group, networks are in the order of their number of training steps, so
    that those that train together end together.

    Raises:
      ImageError: If there are not as many images as the configuration asks for.
      ZooError: See `storage.generate_zoo`.
    """
    split = split_of(config, image_set)
    spec = classifier_spec(config, image_set)
    rng_key = jax.random.key(config.seed)
    num_images, *image_shape = split.train_images.shape
    data = ImageSplit(*(jnp.asarray(array) for array in split))
    first_indices = {
        group.name: offset
        for group, offset in zip(spec.groups, spec.offsets, strict=True)
    }

    def make_chunk(group: GroupSpec, numbers: np.ndarray) -> storage.Chunk:
        module = make_module(
            architecture_of(group), group.config["num_classes"], use_patches=True
        )
        task = make_task(config.recipe, module, tuple(image_shape), num_images)
        first = first_indices[group.name]
        indices = first + jnp.arange(group.num_networks)
        order = np.argsort(_drawn_steps(task.draw, rng_key, indices), kind="stable")
        trained = _train_networks(
            task,
            rng_key,
            indices[order[numbers - first]],
            data,
            one_by_one=jax.default_backend() == "cpu",
        )
        scores = {**trained.outcome, "train_loss": trained.losses}
        return storage.Chunk(flatten(trained.variables), trained.settings, scores)

    return storage.generate_zoo(
        Path(directory),
        spec,
        make_chunk,
        num_workers=_num_workers(),
        progress=progress,
        should_stop=should_stop,
    )


def _num_workers() -> int:
    """Shapes at once: one per core, to be trained there or compiled for a device."""
    return min(os.cpu_count() or 1, 8)
