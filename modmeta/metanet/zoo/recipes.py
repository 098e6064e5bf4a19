"""How the image classifiers of a zoo are trained: one recipe, drawn per network.

What decides about a network's accuracy differs between networks of one shape as well:
learning rate, weight decay, label smoothing, dropout, epochs, and the share of images
that it sees. They are drawn per network, as for the ResNets of
cptq/asymmetric-networks (Lim et al. 2024, arXiv 2405.20231), at a hundredth of the
cost; the ranges of the zoos of Lim et al. 2023 (arXiv 2312.04501) are not public.
AdamW; batches are drawn with replacement, an "epoch" being as many as hold each image
once on average. The learning rate rises to its peak over the first fifth of the steps,
then falls to zero.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from modmeta.metanet.zoo.training import ZooTask

_WARM_UP = 0.2
# Images judged at once: bounds the memory that a chunk of networks takes.
_TEST_BATCH = 100


@dataclasses.dataclass(frozen=True)
class Recipe:
    """From what the training of a classifier is drawn.

    Attributes:
      batch_size: Images per step.
      num_epochs: Fewest and most passes over the images of a network, uniform.
      data_fractions: Shares of the training images that a network may see, equally
        likely.
      learning_rates: Range of the peak, log-uniform.
      weight_decays: Range, log-uniform.
      max_label_smoothing: End of the range from 0, uniform.
      max_dropout: End of the range from 0, uniform; no effect on residual networks.
    """

    batch_size: int = 20
    num_epochs: tuple[int, int] = (4, 20)
    data_fractions: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    learning_rates: tuple[float, float] = (2e-3, 1e-1)
    weight_decays: tuple[float, float] = (1e-5, 1e-1)
    max_label_smoothing: float = 0.2
    max_dropout: float = 0.2

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.batch_size < 1:
            raise ValueError(
                f"batch_size: found {self.batch_size}, expected at least 1"
            )
        for field in ("num_epochs", "learning_rates", "weight_decays"):
            ends = getattr(self, field)
            if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
                raise ValueError(
                    f"{field}: found {ends}, expected two ends above 0, the lower first"
                )
        shares = self.data_fractions
        if not shares or not 0 < min(shares) <= max(shares) <= 1:
            raise ValueError(f"data_fractions: found {shares}, expected above 0 to 1")
        for field in ("max_label_smoothing", "max_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected 0 to below 1"
                )

    def largest_num_steps(self, num_images: int) -> int:
        """Steps that no network exceeds.

        Args:
          num_images: Training images.
        """
        seen = _num_seen(np.float32(max(self.data_fractions)), num_images)
        return self.num_epochs[1] * int(_steps_per_epoch(seen, self.batch_size))


def _num_seen(fraction: Any, num_images: int) -> jax.Array:
    seen = jnp.round(fraction * num_images).astype(jnp.int32)
    return jnp.maximum(seen, 1)


def _steps_per_epoch(num_images: Any, batch_size: int) -> Any:
    return -(-num_images // batch_size)


@functools.lru_cache(maxsize=256)
def make_draw(
    recipe: Recipe, num_images: int
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """How a network of any shape is trained.

    Args:
      recipe: The recipe.
      num_images: Training images.

    Returns:
      `key -> settings`, the same function for the same arguments. Settings are scalars:
      `learning_rate`, `weight_decay`, `label_smoothing`, `dropout_rate`,
      `data_fraction`, `num_images` that the network sees, `first_image` of them (from
      the last one they go on with image 0), `num_epochs` and `num_steps`.
    """
    fractions = np.asarray(recipe.data_fractions, np.float32)

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        keys = iter(jax.random.split(key, 7))

        def uniform(low: float, high: float) -> jax.Array:
            return jax.random.uniform(next(keys), (), jnp.float32, low, high)

        def log_uniform(ends: tuple[float, float]) -> jax.Array:
            return jnp.exp(uniform(math.log(ends[0]), math.log(ends[1])))

        def integer(low: int, high: int) -> jax.Array:
            return jax.random.randint(next(keys), (), low, high)

        fraction = jax.random.choice(next(keys), fractions)
        seen = _num_seen(fraction, num_images)
        epochs = integer(recipe.num_epochs[0], recipe.num_epochs[1] + 1)
        return {
            "learning_rate": log_uniform(recipe.learning_rates),
            "weight_decay": log_uniform(recipe.weight_decays),
            "label_smoothing": uniform(0.0, recipe.max_label_smoothing),
            "dropout_rate": uniform(0.0, recipe.max_dropout),
            "data_fraction": fraction,
            "num_images": seen,
            # Images are in random order: a stretch of them is a random choice.
            "first_image": integer(0, num_images),
            "num_epochs": epochs,
            "num_steps": epochs * _steps_per_epoch(seen, recipe.batch_size),
        }

    return draw


def learning_rate_share(step: Any, num_steps: Any) -> Any:
    """The learning rate of a step as a share of its peak: up, then down to zero."""
    share = step / num_steps
    return jnp.minimum((share + 0.01) / _WARM_UP, (1 - share) / (1 - _WARM_UP))


@functools.lru_cache(maxsize=64)
def make_task(
    recipe: Recipe,
    module: nn.Module,
    image_shape: tuple[int, ...],
    num_images: int,
) -> ZooTask:
    """How classifiers of one shape are trained; `data` is an `images.ImageSplit`.

    Args:
      recipe: The recipe.
      module: See `families.make_module`.
      image_shape: Height, width and channels.
      num_images: Training images.

    Returns:
      A task, the same for the same arguments, whose scores are the share of test
      images that are told right and their mean cross-entropy in nats.
    """
    has_dropout = hasattr(module, "dropout_rate")

    def init(key, settings):
        del settings
        return dict(module.init(key, jnp.zeros((1, *image_shape)), train=False))

    def loss(variables, data, key, step, settings):
        del step
        key_rows, key_dropout = jax.random.split(key)
        drawn = jax.random.randint(
            key_rows, (recipe.batch_size,), 0, settings["num_images"]
        )
        rows = (settings["first_image"] + drawn) % num_images
        network = module
        if has_dropout:
            network = dataclasses.replace(module, dropout_rate=settings["dropout_rate"])
        logits, collections = network.apply(
            variables,
            data.train_images[rows],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key_dropout},
        )
        targets = optax.smooth_labels(
            jax.nn.one_hot(data.train_labels[rows], logits.shape[-1]),
            settings["label_smoothing"],
        )
        return jnp.mean(optax.softmax_cross_entropy(logits, targets)), collections

    def optimizer(settings):
        def learning_rate(step):
            share = learning_rate_share(step, settings["num_steps"])
            return settings["learning_rate"] * share

        return optax.adamw(learning_rate, weight_decay=settings["weight_decay"])

    def score(variables, data, settings):
        del settings
        return _judge(module, variables, data.test_images, data.test_labels)

    def is_done(loss, num_steps, variables, settings):
        del loss, variables
        return num_steps >= settings["num_steps"]

    return ZooTask(
        draw=make_draw(recipe, num_images),
        init=init,
        loss=loss,
        optimizer=optimizer,
        score=score,
        num_steps=recipe.largest_num_steps(num_images),
        is_done=is_done,
    )


def _judge(module, variables, images, labels) -> dict[str, jax.Array]:
    """Accuracy and cross-entropy on all images, a few of them at a time."""
    num_images = len(labels)
    num_batches = -(-num_images // _TEST_BATCH)
    # Rows that fill up the last batch count for nothing.
    rows = jnp.arange(num_batches * _TEST_BATCH).reshape(num_batches, _TEST_BATCH)
    weights = (rows < num_images).astype(jnp.float32)
    rows = jnp.minimum(rows, num_images - 1)

    def judge(batch):
        rows, weights = batch
        logits = module.apply(variables, images[rows], train=False)
        is_right = jnp.argmax(logits, axis=-1) == labels[rows]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
        return jnp.sum(weights * is_right), jnp.sum(weights * losses)

    num_right, losses = jax.lax.map(judge, (rows, weights))
    return {
        "test_accuracy": jnp.sum(num_right) / num_images,
        "test_loss": jnp.sum(losses) / num_images,
    }
