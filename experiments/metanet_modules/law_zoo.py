"""A zoo of networks that each fit one law, every law twice.

A member of the zoo is a pair of twins: two networks that fit the same law from other
initial values, over another range, under another limit. A reader should find them
alike. Splits are by pair, so that twins are never parted. All networks of a chunk are
fitted in one program.

Letters: n networks, P parameters of one of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.metanet_modules import laws
from modmeta.metanet import zoo
from modmeta.runtime import option_types
from modmeta.runtime.progress import ProgressMeter

GROUP = "laws"
NUM_TWINS = 2
SPLITS = ("train", "valid", "test")
# Rates are compared on the scale of asinh(rate / (share * strength)): absolute errors
# far below the strength, relative ones above.
_SMALL_RATE = 0.1
_LEARNING_RATES = (2e-3, 1e-2)
# A limit lies between these multiples of the strongest rate; some networks have none.
_LIMITS = (1.2, 4.0)
_WITHOUT_LIMIT = 0.3


@dataclasses.dataclass(frozen=True)
class LawZooConfig:
    """A zoo of laws.

    Attributes:
      num_train: Pairs of networks to train readers with.
      num_valid: Pairs to choose with.
      num_test: Pairs to score with.
      shape: Shape of the networks.
      num_points: Points on a law.
      num_steps: Steps of every fit.
      chunk_size: Pairs fitted at once, and per file.
      seed: Seed of laws, initial values and splits.
    """

    num_train: int = 1500
    num_valid: int = 200
    num_test: int = 300
    shape: laws.NetworkShape = laws.NetworkShape()
    num_points: int = 32
    num_steps: int = 400
    chunk_size: int = 125
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        option_types.check_positive(self, or_zero=("seed",))

    @property
    def num_pairs(self) -> int:
        """Pairs of the zoo."""
        return self.num_train + self.num_valid + self.num_test


class LawNetworks(NamedTuple):
    """All networks of a zoo; 2 i and 2 i + 1 are twins.

    Attributes:
      rows: `[n, P]` parameters.
      laws: `[n]` index into `laws.LAWS`.
      strengths: `[n]`.
      lengths: `[n]`.
      fit_errors: `[n]` root of the mean squared error on the scale of the fit.
      splits: Indices of networks by the name of the split, disjoint.
    """

    rows: np.ndarray
    laws: np.ndarray
    strengths: np.ndarray
    lengths: np.ndarray
    fit_errors: np.ndarray
    splits: dict[str, np.ndarray]


@functools.lru_cache(maxsize=8)
def law_task(config: LawZooConfig) -> zoo.ZooTask:
    """How a pair is fitted; variables and own settings have a first axis of twins."""
    shape = config.shape

    def draw_own(key, settings):
        key_range, key_limit, key_size = jax.random.split(key, 3)
        own = laws.draw_range(key_range, settings)
        x = laws.points_of(own, config.num_points)
        strongest = jnp.max(jnp.abs(laws.rate_of(settings | own, x)))
        strongest = jnp.where(strongest > 0.0, strongest, 1.0)
        low, high = _LIMITS
        multiple = low * (high / low) ** jax.random.uniform(key_size)
        is_limited = jax.random.uniform(key_limit) > _WITHOUT_LIMIT
        return own | {"inverse_limit": is_limited / (multiple * strongest)}

    def draw(key):
        key_law, key_rate, key_own = jax.random.split(key, 3)
        settings = laws.draw_law(key_law)
        keys = jax.random.split(key_own, NUM_TWINS)
        own = jax.vmap(lambda key: draw_own(key, settings))(keys)
        low, high = _LEARNING_RATES
        rate = low * (high / low) ** jax.random.uniform(key_rate)
        return settings | own | {"learning_rate": rate}

    def init(key, settings):
        variables = jax.vmap(shape.init)(jax.random.split(key, NUM_TWINS))
        params = {**variables["params"], "inverse_limit": settings["inverse_limit"]}
        return {"params": params}

    def errors(variables, settings):
        shared = {name: settings[name] for name in ("law", "strength", "length")}
        unit = _SMALL_RATE * settings["strength"]

        def error(variables, own):
            x = laws.points_of(own, config.num_points)
            inputs = laws.inputs_of(x, own["nearest"] > 0.0)
            found = shape.rates(variables, inputs)[:, 0]
            truth = laws.rate_of(shared | own, x)
            difference = jnp.arcsinh(found / unit) - jnp.arcsinh(truth / unit)
            return jnp.mean(jnp.square(difference))

        own = {name: settings[name] for name in ("nearest", "farthest")}
        return jax.vmap(error)(variables, own)

    def loss(variables, data, key, step, settings):
        del data, key, step
        # The limit is given, not fitted.
        params = variables["params"]
        limits = jax.lax.stop_gradient(params["inverse_limit"])
        fixed = {"params": {**params, "inverse_limit": limits}}
        return jnp.sum(errors(fixed, settings)), {}

    def optimizer(settings):
        return optax.adam(
            optax.cosine_decay_schedule(settings["learning_rate"], config.num_steps)
        )

    def score(variables, data, settings):
        del data
        return {"fit_error": jnp.sqrt(errors(variables, settings))}

    return zoo.ZooTask(draw, init, loss, optimizer, score, config.num_steps)


def zoo_config(config: LawZooConfig) -> dict:
    """What `zoo.json` says about the generator."""
    return {"family": GROUP, **dataclasses.asdict(config)}


def law_spec(config: LawZooConfig) -> zoo.ZooSpec:
    """What the zoo is: one group of pairs, and splits at random."""
    task = law_task(config)
    variables = jax.eval_shape(
        lambda key: task.init(key, task.draw(key)), jax.random.key(0)
    )
    group = zoo.GroupSpec(
        name=GROUP,
        config=dataclasses.asdict(config.shape),
        num_networks=config.num_pairs,
        leaves=zoo.leaves_of(variables),
    )
    sizes = {name: getattr(config, f"num_{name}") for name in SPLITS}
    splits = zoo.split_networks(config.seed, config.num_pairs, sizes)
    return zoo.ZooSpec(zoo_config(config), (group,), splits, config.chunk_size)


def generate_law_zoo(
    directory: Path,
    config: LawZooConfig,
    *,
    progress: ProgressMeter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Fits the zoo, or what is missing of it; see `modmeta.metanet.zoo`."""
    rng_key = jax.random.key(config.seed)

    def make_chunk(group: zoo.GroupSpec, numbers: np.ndarray) -> zoo.Chunk:
        del group
        fitted = zoo.train_networks(law_task(config), rng_key, jnp.asarray(numbers))
        scores = {**fitted.scores, "is_diverged": fitted.is_diverged}
        return zoo.Chunk(zoo.flatten(fitted.variables), fitted.settings, scores)

    return zoo.generate_zoo(
        directory,
        law_spec(config),
        make_chunk,
        progress=progress,
        should_stop=should_stop,
    )


def read_networks(directory: Path, config: LawZooConfig) -> LawNetworks:
    """Reads a complete zoo, pairs as two networks each.

    Raises:
      ZooError: If the zoo is damaged or of another configuration.
    """
    group = zoo.load_zoo(directory, zoo_config(config)).groups[GROUP]
    both = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), group.variables()
    )

    def shared(name):
        return np.repeat(group.settings[name], NUM_TWINS)

    twins = np.arange(NUM_TWINS)
    return LawNetworks(
        rows=zoo.flatten(both),
        laws=shared("law"),
        strengths=shared("strength"),
        lengths=shared("length"),
        fit_errors=group.scores["fit_error"].reshape(-1),
        splits={
            name: (NUM_TWINS * group.splits[name][:, None] + twins).reshape(-1)
            for name in SPLITS
        },
    )
