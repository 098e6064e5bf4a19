"""Self-supervised learning on the weights of networks: views, loss and linear probe.

Two views of a network, its weights as they are and a disturbed copy, shall be embedded
close together, views of different networks far apart (SimCLR, Chen et al. 2020, arXiv
2002.05709; on weights, Navon et al. 2023, arXiv 2301.12780, section 7). A linear
regression on the embeddings then tells what they know.

Letters: B networks of one shape, P parameters each, L arrays ("leaves") that these
come from, D size of an embedding, T targets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.runtime import option_types

NOISES = ("gaussian", "constant")


@dataclasses.dataclass(frozen=True)
class ViewConfig:
    """How a view of a network is made.

    Attributes:
      noise: Size of the noise, relative to the standard deviation of the weights of
        the same leaf of the same network.
      noise_kind: "gaussian" draws noise for every weight. "constant" adds the same
        offset to all weights of a leaf, as the released code of Navon et al. does.
      dropout: Probability that a weight is set to zero; the others are scaled by
        1 / (1 - dropout).
      both_views: Whether both views are disturbed, or one is the network as it is.
    """

    noise: float = 0.2
    noise_kind: str = "gaussian"
    dropout: float = 0.5
    both_views: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        if self.noise_kind not in NOISES:
            raise ValueError(
                f"noise_kind: found {self.noise_kind!r}, expected one of {NOISES}"
            )
        if self.noise < 0:
            raise ValueError(f"noise: found {self.noise}, expected at least 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: found {self.dropout}, expected 0 to below 1")


class ContrastiveLoss(NamedTuple):
    """Outcome of `nt_xent`.

    Attributes:
      loss: `()` mean cross-entropy in nats.
      accuracy: `()` share of the views whose most similar view is their other one.
    """

    loss: jax.Array
    accuracy: jax.Array


def nt_xent(
    first: jax.Array, second: jax.Array, temperature: float = 0.1
) -> ContrastiveLoss:
    """Cross-entropy of finding the other view of every network (equation 1 of SimCLR).

    Every one of the 2 B views chooses among the 2 B - 1 others by a softmax of their
    cosine similarities.

    Args:
      first: `[B, D]` projections of one view of every network.
      second: `[B, D]` those of the other, in the same order.
      temperature: Divides the similarities.
    """
    num_networks = first.shape[0]
    views = jnp.concatenate([first, second])
    lengths = jnp.sum(jnp.square(views), axis=-1, keepdims=True)
    # The floor keeps the gradient of a zero vector finite.
    views = views * jax.lax.rsqrt(jnp.maximum(lengths, 1e-12))
    logits = views @ views.T / temperature
    logits = jnp.where(jnp.eye(2 * num_networks, dtype=bool), -jnp.inf, logits)
    others = (jnp.arange(2 * num_networks) + num_networks) % (2 * num_networks)
    positive = jnp.take_along_axis(logits, others[:, None], axis=1)[:, 0]
    return ContrastiveLoss(
        loss=jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive),
        accuracy=jnp.mean(jnp.argmax(logits, axis=1) == others),
    )


def vicreg(first: jax.Array, second: jax.Array) -> jax.Array:
    """Invariance, variance and covariance (Bardes et al. 2022, arXiv 2105.04906).

    25 times the mean squared distance of the views, 25 times the mean shortfall of
    standard deviations below 1, and once the squared covariances of different numbers,
    over D; the last two are summed over the views.

    Args:
      first: `[B, D]` projections of one view of every network, B at least 2.
      second: `[B, D]` those of the other, in the same order.

    Returns:
      `()`.
    """
    num_networks, size = first.shape
    loss = 25.0 * jnp.mean(jnp.square(first - second))
    for view in (first, second):
        centred = view - jnp.mean(view, axis=0, keepdims=True)
        covariances = centred.T @ centred / (num_networks - 1)
        deviations = jnp.sqrt(jnp.diagonal(covariances) + 1e-4)
        loss += 25.0 * jnp.mean(jax.nn.relu(1.0 - deviations))
        others = covariances * (1.0 - jnp.eye(size))
        loss += jnp.sum(jnp.square(others)) / size
    return loss


def disturb(
    rng_key: jax.Array,
    parameters: jax.Array,
    leaf_sizes: Sequence[int],
    config: ViewConfig,
) -> jax.Array:
    """A disturbed view of every network.

    Args:
      rng_key: Consumed.
      parameters: `[B, P]`, raw.
      leaf_sizes: `[L]` static sizes of the leaves, in order; they sum to P.
      config: Options. A leaf of one number has no spread, hence no noise.

    Returns:
      `[B, P]`.
    """
    key_noise, key_dropout = jax.random.split(rng_key)
    deviations = [
        jnp.broadcast_to(jnp.std(leaf, axis=1, keepdims=True), leaf.shape)
        for leaf in _split(parameters, leaf_sizes)
    ]
    offsets = config.noise * jnp.concatenate(deviations, axis=1)
    if config.noise_kind == "gaussian":
        offsets = offsets * jax.random.normal(key_noise, parameters.shape)
    is_kept = jax.random.bernoulli(key_dropout, 1.0 - config.dropout, parameters.shape)
    return jnp.where(is_kept, (parameters + offsets) / (1.0 - config.dropout), 0.0)


def two_views(
    rng_key: jax.Array,
    parameters: jax.Array,
    leaf_sizes: Sequence[int],
    config: ViewConfig,
) -> jax.Array:
    """Both views of every network, `[2 B, P]`: the first views, then the second.

    Args:
      rng_key: Consumed.
      parameters: `[B, P]`, raw.
      leaf_sizes: See `disturb`.
      config: Options.
    """
    key_first, key_second = jax.random.split(rng_key)
    first = parameters
    if config.both_views:
        first = disturb(key_first, parameters, leaf_sizes, config)
    second = disturb(key_second, parameters, leaf_sizes, config)
    return jnp.concatenate([first, second])


class WeightStatistics(NamedTuple):
    """Mean and spread of the weights of every leaf over networks.

    Attributes:
      mean: `[P]`, the same within a leaf.
      deviation: `[P]`, the same within a leaf; 1 where weights do not vary.
    """

    mean: jax.Array | np.ndarray
    deviation: jax.Array | np.ndarray

    def normalize(self, parameters: jax.Array) -> jax.Array:
        """Scales raw parameters `[B, P]` to mean 0 and deviation 1 per leaf."""
        return (parameters - self.mean[None]) / self.deviation[None]


def weight_statistics(
    parameters: np.ndarray, leaf_sizes: Sequence[int]
) -> WeightStatistics:
    """Measures networks, those of the training split.

    One mean and deviation per leaf, where the code of Navon et al. has one per weight:
    units of a layer have no order, and one scale for all keeps the symmetry.

    Args:
      parameters: `[n, P]`.
      leaf_sizes: `[L]`, they sum to P.
    """
    means, deviations = [], []
    for leaf in _split(np.asarray(parameters, np.float64), leaf_sizes):
        deviation = leaf.std()
        means.append(np.full(leaf.shape[1], leaf.mean()))
        deviations.append(np.full(leaf.shape[1], deviation or 1.0))
    return WeightStatistics(
        np.concatenate(means).astype(np.float32),
        np.concatenate(deviations).astype(np.float32),
    )


class LinearProbe(NamedTuple):
    """A linear regression.

    Attributes:
      kernel: `[D, T]` float64.
      bias: `[T]` float64.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Maps `[n, D]` to `[n, T]`."""
        return np.asarray(features, np.float64) @ self.kernel + self.bias

    def mean_squared_error(self, features: np.ndarray, targets: np.ndarray) -> float:
        """Mean over networks and targets."""
        errors = self.predict(features) - np.asarray(targets, np.float64)
        return float(np.mean(np.square(errors)))


def fit_probe(features: np.ndarray, targets: np.ndarray) -> LinearProbe:
    """Least squares with an intercept, in closed form.

    Where features are dependent or more than networks, the kernel of least norm.

    Args:
      features: `[n, D]`.
      targets: `[n, T]`.

    Raises:
      ValueError: If there is no network, the numbers disagree, or something is not
        finite.
    """
    features = np.asarray(features, np.float64)
    targets = np.asarray(targets, np.float64)
    if not len(features) or len(features) != len(targets):
        raise ValueError(
            f"targets: found {len(targets)} for {len(features)} networks, expected as "
            "many, and at least one"
        )
    for name, array in (("features", features), ("targets", targets)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: found NaN or infinity, expected finite numbers")
    center = features.mean(axis=0)
    offset = targets.mean(axis=0)
    kernel = np.linalg.lstsq(features - center, targets - offset, rcond=None)[0]
    return LinearProbe(kernel, offset - center @ kernel)


class Components(NamedTuple):
    """The directions in which features vary most.

    Attributes:
      center: `[D]` float64.
      directions: `[D, C]` float64, orthonormal.
    """

    center: np.ndarray
    directions: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Maps `[n, D]` to `[n, C]`."""
        return (np.asarray(features, np.float64) - self.center) @ self.directions


def principal_components(features: np.ndarray, count: int) -> Components:
    """Measures features `[n, D]`, those of training networks; no label is seen.

    Raises:
      ValueError: If there are fewer networks or features than components.
    """
    features = np.asarray(features, np.float64)
    if not 1 <= count <= min(features.shape):
        raise ValueError(
            f"count: found {count}, expected 1 to {min(features.shape)}, the smaller "
            "of the numbers of networks and features"
        )
    center = features.mean(axis=0)
    directions = np.linalg.svd(features - center, full_matrices=False)[2]
    return Components(center, directions[:count].T)


def _split(parameters, leaf_sizes: Sequence[int]):
    """Views of the leaves within `[B, P]`."""
    if parameters.ndim != 2:
        raise ValueError(
            f"parameters: found shape {parameters.shape}, expected (networks, numbers)"
        )
    ends = np.cumsum(leaf_sizes)
    if ends[-1] != parameters.shape[1]:
        raise ValueError(
            f"leaf_sizes: found {int(ends[-1])} parameters in all, expected "
            f"{parameters.shape[1]}"
        )
    return [
        parameters[:, end - size : end]
        for end, size in zip(ends.tolist(), leaf_sizes, strict=True)
    ]
