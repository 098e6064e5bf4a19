"""Neural fields that each fit one sine wave, y = a sin(b x).

The family of Navon et al. 2023 (arXiv 2301.12780, section 7), on which Lim et al. 2023
(arXiv 2312.04501) compare self-supervised metanetworks. As there: a, b uniform in
(0, 10), x in [-pi, pi), sine networks 1-32-32-1 with angular frequency 30, hidden
kernels uniform in +-sqrt(6 / I) / 30, hidden biases zero, the output layer uniform in
+-1 / sqrt(I), 0.5 added to the output; Adam at 1e-3 with a weight decay of 1e-4 that
enters the gradient, all points in every step, up to 1,500 steps, stopped by a mean
squared error of 1e-4. Only the number of points and steps of our default differ.
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
from modmeta.metanet.zoo.specification import (
    GroupSpec,
    ZooSpec,
    flatten,
    leaves_of,
    split_networks,
)
from modmeta.metanet.zoo.training import ZooTask, train_networks
from modmeta.runtime import option_types
from modmeta.runtime.progress import ProgressMeter

GROUP = "sine"
LARGEST_COEFFICIENT = 10.0


@dataclasses.dataclass(frozen=True)
class SineConfig:
    """A zoo of sine waves.

    Attributes:
      num_train: Networks to train metanetworks with.
      num_valid: Networks to choose with.
      num_test: Networks to score with.
      hidden_sizes: Hidden layers of every network.
      omega: Angular frequency of its activations.
      num_points: Points on the wave, evenly spaced.
      num_steps: Steps that no network exceeds.
      stop_loss: Mean squared error that ends the training of a network.
      learning_rate: Of Adam.
      weight_decay: Added to the gradient, times the weights.
      chunk_size: Networks trained at once, and per file.
      seed: Seed of waves, initial values and splits.
    """

    num_train: int = 3000
    num_valid: int = 1000
    num_test: int = 1000
    hidden_sizes: tuple[int, ...] = (32, 32)
    omega: float = 30.0
    num_points: int = 256
    num_steps: int = 500
    stop_loss: float = 1e-4
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    chunk_size: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        option_types.check_positive(self, or_zero=("seed", "stop_loss", "weight_decay"))

    @property
    def num_networks(self) -> int:
        """Networks of the zoo."""
        return self.num_train + self.num_valid + self.num_test


def network(config: SineConfig, *, use_polynomial: bool = False) -> fields.SIREN:
    """The Flax module whose parameters the zoo holds; maps `[..., 1]` to `[..., 1]`.

    Args:
      config: The zoo.
      use_polynomial: See `fields.SIREN`.
    """
    return fields.SIREN(
        hidden_sizes=config.hidden_sizes,
        first_omega=config.omega,
        hidden_omega=config.omega,
        output_offset=0.5,
        zero_biases=True,
        wide_first_layer=False,
        use_polynomial=use_polynomial,
    )


def points(config: SineConfig) -> np.ndarray:
    """Where the waves are fitted, `[num_points, 1]` in [-pi, pi)."""
    return np.linspace(-np.pi, np.pi, config.num_points, endpoint=False)[:, None]


@functools.lru_cache(maxsize=8)
def sine_task(config: SineConfig) -> ZooTask:
    """How the networks are trained; settings are `amplitude` a and `frequency` b."""
    module = network(config, use_polynomial=True)
    inputs = jnp.asarray(points(config), jnp.float32)

    def draw(key):
        amplitude, frequency = jax.random.uniform(key, (2,)) * LARGEST_COEFFICIENT
        return {"amplitude": amplitude, "frequency": frequency}

    def init(key, settings):
        del settings
        key_hidden, key_kernel, key_bias = jax.random.split(key, 3)
        params = dict(module.init(key_hidden, inputs)["params"])
        last = f"layer_{len(config.hidden_sizes)}"
        reach = 1.0 / np.sqrt(config.hidden_sizes[-1])
        params[last] = {
            name: jax.random.uniform(
                key, params[last][name].shape, jnp.float32, -reach, reach
            )
            for name, key in (("kernel", key_kernel), ("bias", key_bias))
        }
        return {"params": params}

    def error(variables, settings):
        wave = settings["amplitude"] * jnp.sin(settings["frequency"] * inputs)
        return jnp.mean(jnp.square(module.apply(variables, inputs) - wave))

    def loss(variables, data, key, step, settings):
        del data, key, step
        return error(variables, settings), {}

    def optimizer(settings):
        del settings
        return optax.chain(
            optax.add_decayed_weights(config.weight_decay),
            optax.adam(config.learning_rate),
        )

    def score(variables, data, settings):
        del data
        return {"fit_mse": error(variables, settings)}

    def is_done(loss, num_steps, variables, settings):
        del num_steps, variables, settings
        return loss <= config.stop_loss

    return ZooTask(draw, init, loss, optimizer, score, config.num_steps, is_done)


def zoo_config(config: SineConfig) -> dict:
    """What `zoo.json` says about the generator."""
    return {"family": GROUP, **dataclasses.asdict(config)}


def sine_spec(config: SineConfig) -> ZooSpec:
    """What the zoo is: one group, and splits at random."""
    task = sine_task(config)
    variables = jax.eval_shape(
        lambda key: task.init(key, task.draw(key)), jax.random.key(0)
    )
    sizes = {
        "train": config.num_train,
        "valid": config.num_valid,
        "test": config.num_test,
    }
    group = GroupSpec(
        name=GROUP,
        config={"module": "SIREN", "hidden_sizes": list(config.hidden_sizes)},
        num_networks=config.num_networks,
        leaves=leaves_of(variables),
    )
    return ZooSpec(
        config=zoo_config(config),
        groups=(group,),
        splits=split_networks(config.seed, config.num_networks, sizes),
        chunk_size=config.chunk_size,
    )


def generate_sine_zoo(
    directory: str | os.PathLike[str],
    config: SineConfig,
    *,
    progress: ProgressMeter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains the zoo, or what is missing of it; see `storage.generate_zoo`."""
    task = sine_task(config)
    rng_key = jax.random.key(config.seed)

    def make_chunk(group: GroupSpec, numbers: np.ndarray) -> storage.Chunk:
        del group
        trained = train_networks(task, rng_key, jnp.asarray(numbers))
        return storage.Chunk(
            flatten(trained.variables), trained.settings, trained.outcome
        )

    return storage.generate_zoo(
        Path(directory),
        sine_spec(config),
        make_chunk,
        progress=progress,
        should_stop=should_stop,
    )


def coefficients(group: storage.NetworkGroup) -> np.ndarray:
    """The a and b that every network of the zoo was fitted to, `[n, 2]` float32."""
    names = ("amplitude", "frequency")
    return np.stack([group.settings[name] for name in names], axis=-1)
