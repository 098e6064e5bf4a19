"""Neural fields that each fit one image; several of one image to train with.

Sine networks from coordinates in [-1, 1] to pixel values in [0, 1], an independent
start for every image, all pixels in every step, Adam, stopped by a peak signal-to-noise
ratio; as in Zhou et al. 2023 (arXiv 2302.14040), of which sizes and steps differ. All
networks of a chunk are fitted in one program.

Letters: n networks, Q pixels of an image, C channels.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from modmeta.metanet.input_networks import fields
from modmeta.metanet.zoo import storage
from modmeta.metanet.zoo.images import ImageError, ImageSet
from modmeta.metanet.zoo.specification import GroupSpec, ZooSpec, flatten, leaves_of
from modmeta.metanet.zoo.training import ZooTask, train_networks
from modmeta.runtime import option_types
from modmeta.runtime.progress import ProgressMeter

GROUP = "fields"
SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class FieldZooConfig:
    """A zoo of images as networks.

    Attributes:
      num_train: Images to train metanetworks with.
      num_valid: Images to choose with.
      num_test: Images to score with.
      num_views: Networks of every image to train with, from different starts; images
        to choose and to score with have one each.
      hidden_sizes: Hidden layers of every network.
      omega: Angular frequency of its activations.
      num_steps: Steps that no network exceeds.
      stop_psnr: Peak signal-to-noise ratio in decibel that ends a fit.
      learning_rate: Of Adam.
      chunk_size: Networks fitted at once, and per file.
      seed: Seed of initial values and splits.
    """

    num_train: int = 1197
    num_valid: int = 200
    num_test: int = 400
    num_views: int = 1
    hidden_sizes: tuple[int, ...] = (32, 32)
    omega: float = 30.0
    num_steps: int = 600
    stop_psnr: float = 40.0
    learning_rate: float = 1e-3
    chunk_size: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        option_types.check_positive(self, or_zero=("seed",))

    @property
    def num_networks(self) -> int:
        """Networks of the zoo."""
        return self.num_train * self.num_views + self.num_valid + self.num_test

    @property
    def num_images(self) -> int:
        """Images that they hold."""
        return self.num_train + self.num_valid + self.num_test


def choose_images(config: FieldZooConfig, image_set: ImageSet) -> np.ndarray:
    """The images that are fitted, in the order of the splits: `[n]` indices.

    One per network: all views of an image follow each other. Images to test with are
    test images of the set, if it says which those are.

    Raises:
      ImageError: If there are too few images, or they leave [0, 1].
    """
    images = image_set.images
    if images.min() < 0.0 or images.max() > 1.0:
        raise ImageError(
            f"images: found values from {images.min():.3g} to {images.max():.3g}, "
            "expected 0 to 1"
        )
    order = np.random.default_rng(config.seed).permutation(len(images))
    counts = {"train and valid": config.num_train + config.num_valid}
    if image_set.is_test is None:
        pools = {"train and valid": order, "test": order[::-1]}
        counts = {"all": config.num_images}
        pools["all"] = order
    else:
        pools = {
            "train and valid": order[~image_set.is_test[order]],
            "test": order[image_set.is_test[order]],
        }
        counts["test"] = config.num_test
    for name, count in counts.items():
        if count > len(pools[name]):
            raise ImageError(
                f"images: found {len(pools[name])} for {name}, expected at least "
                f"{count}"
            )
    first = pools["train and valid"][: config.num_train + config.num_valid]
    views = np.repeat(first[: config.num_train], config.num_views)
    return np.concatenate(
        [views, first[config.num_train :], pools["test"][: config.num_test]]
    )


def field(
    config: FieldZooConfig, num_channels: int, *, use_polynomial: bool = False
) -> fields.SIREN:
    """The Flax module whose parameters the zoo holds; maps `[..., 2]` to `[..., C]`.

    Args:
      config: The zoo.
      num_channels: C.
      use_polynomial: See `fields.SIREN`.
    """
    return fields.SIREN(
        hidden_sizes=config.hidden_sizes,
        out_features=num_channels,
        first_omega=config.omega,
        hidden_omega=config.omega,
        output_offset=0.5,
        use_polynomial=use_polynomial,
    )


def coordinates(height: int, width: int) -> np.ndarray:
    """Row and column of every pixel in [-1, 1], `[height * width, 2]` float32."""
    axes = [np.linspace(-1.0, 1.0, size) for size in (height, width)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return grid.reshape(-1, 2).astype(np.float32)


@functools.lru_cache(maxsize=8)
def field_task(config: FieldZooConfig, shape: tuple[int, int, int]) -> ZooTask:
    """How the networks are fitted; `pixels` `[Q, C]` is a setting that is given."""
    module = field(config, shape[-1], use_polynomial=True)
    inputs = jnp.asarray(coordinates(*shape[:2]))

    def init(key, settings):
        del settings
        return dict(module.init(key, inputs))

    def error(variables, settings):
        found = module.apply(variables, inputs)
        return jnp.mean(jnp.square(found - settings["pixels"]))

    def loss(variables, data, key, step, settings):
        del data, key, step
        return error(variables, settings), {}

    def score(variables, data, settings):
        del data
        return {"fit_mse": error(variables, settings)}

    def is_done(loss, num_steps, variables, settings):
        del num_steps, variables, settings
        return loss <= 10.0 ** (-config.stop_psnr / 10.0)

    return ZooTask(
        lambda key: {},
        init,
        loss,
        lambda settings: optax.adam(config.learning_rate),
        score,
        config.num_steps,
        is_done,
    )


def zoo_config(config: FieldZooConfig, image_set: ImageSet) -> dict:
    """What `zoo.json` says about the generator."""
    return {
        "family": GROUP,
        "images": image_set.digest,
        **dataclasses.asdict(config),
    }


def field_spec(config: FieldZooConfig, image_set: ImageSet) -> ZooSpec:
    """What the zoo is: one group, with the splits one after another."""
    task = field_task(config, image_set.images.shape[1:])
    variables = jax.eval_shape(lambda key: task.init(key, {}), jax.random.key(0))
    group = GroupSpec(
        name=GROUP,
        config={"module": "SIREN", "hidden_sizes": list(config.hidden_sizes)},
        num_networks=config.num_networks,
        leaves=leaves_of(variables),
    )
    counts = [getattr(config, f"num_{name}") for name in SPLITS]
    counts[0] *= config.num_views
    ends = np.cumsum(counts).tolist()
    splits = {
        name: list(range(start, stop))
        for name, start, stop in zip(SPLITS, [0, *ends], ends, strict=False)
    }
    return ZooSpec(zoo_config(config, image_set), (group,), splits, config.chunk_size)


def generate_field_zoo(
    directory: str | os.PathLike[str],
    config: FieldZooConfig,
    image_set: ImageSet,
    *,
    progress: ProgressMeter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Fits the zoo, or what is missing of it; see `storage.generate_zoo`.

    Raises:
      ImageError: If there are not as many images as the configuration asks for, or
        they leave [0, 1].
      ZooError: See `storage.generate_zoo`.
    """
    chosen = choose_images(config, image_set)
    shape = image_set.images.shape[1:]
    rng_key = jax.random.key(config.seed)

    def make_chunk(group: GroupSpec, numbers: np.ndarray) -> storage.Chunk:
        del group
        images = image_set.images[chosen[numbers]]
        pixels = jnp.asarray(images.reshape(len(images), -1, shape[-1]))
        trained = train_networks(
            field_task(config, shape),
            rng_key,
            jnp.asarray(numbers),
            given={"pixels": pixels},
        )
        labels = image_set.labels[chosen[numbers]]
        settings = {"image": chosen[numbers], "label": labels}
        return storage.Chunk(flatten(trained.variables), settings, trained.outcome)

    return storage.generate_zoo(
        Path(directory),
        field_spec(config, image_set),
        make_chunk,
        progress=progress,
        should_stop=should_stop,
    )
