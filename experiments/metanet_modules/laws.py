"""Laws between two entities, and networks of the relational bank that encode one.

A network is the rate network of `modmeta.relational.modules.laws.LawNetwork`, together
with the limit that its rates stay below. It sees the logarithm of a distance and the
distance, or the sine and the cosine of an angle: two inputs either way, so that nothing
but the weights tells what they are.

Letters: Q points, x a distance in spreads of the positions, k the strength of a law, l
its length. Positive rates attract.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta import networks
from modmeta.metanet.parameter_graphs import tracing
from modmeta.metanet.parameter_graphs.topology import Topology
from modmeta.relational.data import FeatureSpec
from modmeta.relational.modules import laws as law_modules
from modmeta.relational.modules.preprocessing import FeatureLayout
from modmeta.runtime import option_types

NUM_INPUTS = 2
_ALONG_A_LINE = law_modules.LawLayout(
    "central",
    False,
    FeatureLayout(FeatureSpec(names=("x",), positions=(0,)), predicted=(0,)),
)
# Height of u^-7 - 2 u^-13 at its top: strengths of Lennard-Jones are strongest pulls.
_WELL = (26 / 7) ** (-7 / 6) - 2 * (26 / 7) ** (-13 / 6)


class Law(NamedTuple):
    """A family of laws.

    Attributes:
      name: Its name.
      rate: `(x, l) -> rate` of strength one.
      strengths: Smallest and largest k, or None where there is none.
      lengths: Smallest and largest l, or None where there is none.
      nearest: Smallest x in units of l that a network sees, or None: see `DISTANCES`.
      degree: Power that the rate grows by if x and l are multiplied.
      is_angular: Whether x is an angle.
    """

    name: str
    rate: Callable[[jax.Array, jax.Array], jax.Array]
    strengths: tuple[float, float] | None = (0.1, 3.0)
    lengths: tuple[float, float] | None = None
    nearest: tuple[float, float] | None = None
    degree: int = 0
    is_angular: bool = False


def _lennard_jones(x, length):
    u = x / length
    return (u**-7 - 2.0 * u**-13) / _WELL


def _yukawa(x, length):
    return -jnp.exp(-x / length) * (1.0 / x**2 + 1.0 / (x * length))


LAWS = (
    Law("nothing", lambda x, length: 0.0 * x, strengths=None),
    Law("spring", lambda x, length: x, degree=1),
    Law(
        "spring with rest length",
        lambda x, length: x - length,
        lengths=(0.3, 1.2),
        degree=1,
    ),
    Law("1/d^2, attractive", lambda x, length: x**-2, (0.01, 1.0), degree=-2),
    Law("1/d^2, repulsive", lambda x, length: -(x**-2), (0.01, 1.0), degree=-2),
    Law("1/d, attractive", lambda x, length: x**-1, (0.03, 2.0), degree=-1),
    Law("Lennard-Jones", _lennard_jones, (0.1, 5.0), (0.2, 1.0), (0.87, 0.97)),
    Law("Yukawa, repulsive", _yukawa, (0.01, 1.0), (0.2, 0.6), degree=-2),
    Law(
        "soft sphere",
        lambda x, length: -jnp.maximum(1.0 - x / length, 0.0),
        lengths=(0.5, 1.5),
    ),
    Law("sine of an angle", lambda x, length: jnp.sin(x), is_angular=True),
)
LAW_NAMES = tuple(law.name for law in LAWS)
HAS_STRENGTH = np.array([law.strengths is not None for law in LAWS])
HAS_LENGTH = np.array([law.lengths is not None for law in LAWS])
# Smallest and largest distances that a network sees, each drawn between two numbers.
DISTANCES = ((0.05, 0.3), (1.5, 3.5))


def _table(values: list[tuple[float, float] | None]) -> np.ndarray:
    return np.array([value or (1.0, 1.0) for value in values], np.float32)


def _log_uniform(rng_key: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    return low * (high / low) ** jax.random.uniform(rng_key)


def draw_law(rng_key: jax.Array) -> dict[str, jax.Array]:
    """Draws a law: its index `law`, its `strength` and its `length`, scalars.

    Args:
      rng_key: Consumed.
    """
    key_law, key_strength, key_length = jax.random.split(rng_key, 3)
    law = jax.random.randint(key_law, (), 0, len(LAWS))
    strengths = jnp.asarray(_table([entry.strengths for entry in LAWS]))[law]
    lengths = jnp.asarray(_table([entry.lengths for entry in LAWS]))[law]
    return {
        "law": law,
        "strength": _log_uniform(key_strength, *strengths),
        "length": _log_uniform(key_length, *lengths),
    }


def draw_range(rng_key: jax.Array, settings: dict[str, jax.Array]):
    """Draws where a network sees its law: `nearest` and `farthest`, scalars.

    Args:
      rng_key: Consumed.
      settings: What `draw_law` gave.
    """
    key_near, key_far = jax.random.split(rng_key)
    law = settings["law"]
    in_lengths = jnp.asarray([entry.nearest is not None for entry in LAWS])[law]
    nearest = _table([entry.nearest or DISTANCES[0] for entry in LAWS])
    near = _log_uniform(key_near, *jnp.asarray(nearest)[law])
    near = jnp.where(in_lengths, near * settings["length"], near)
    far = _log_uniform(key_far, *DISTANCES[1])
    is_angular = jnp.asarray([entry.is_angular for entry in LAWS])[law]
    return {
        "nearest": jnp.where(is_angular, -jnp.pi, near),
        "farthest": jnp.where(is_angular, jnp.pi, far),
    }


def points_of(settings: dict[str, jax.Array], num_points: int) -> jax.Array:
    """Where a network sees its law, `[Q]`: distances in equal ratios, or angles."""
    shares = jnp.linspace(0.0, 1.0, num_points)
    near, far = settings["nearest"], settings["farthest"]
    ratio = far / jnp.where(near > 0.0, near, far)
    angles = near + (far - near) * shares
    return jnp.where(near > 0.0, near * ratio**shares, angles)


def rate_of(settings: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Rates `[Q]` of a law at `[Q]`."""
    length = settings["length"]
    # Where a law is not asked, an angle is no distance.
    distance = jnp.where(settings["nearest"] > 0.0, x, 1.0)
    rates = jnp.stack(
        [law.rate(x if law.is_angular else distance, length) for law in LAWS]
    )
    return settings["strength"] * rates[settings["law"]]


def inputs_of(x: jax.Array, is_distance: jax.Array | bool) -> jax.Array:
    """What a network sees of distances or angles `[Q]`: `[Q, 2]`."""
    distance = jnp.where(is_distance, x, 1.0)
    relative = law_modules.RelativeState(
        distance[:, None], None, jnp.zeros((len(x), 0))
    )
    seen, _ = law_modules.law_inputs(_ALONG_A_LINE, relative)
    angular = jnp.stack([jnp.sin(x), jnp.cos(x)], axis=-1)
    return jnp.where(is_distance, seen, angular)


@functools.cache
def _rate_network(sizes: tuple[int, ...], activation: str) -> nn.Module:
    return law_modules.LawNetwork(sizes, activation, 1, 1)


@dataclasses.dataclass(frozen=True)
class NetworkShape:
    """The shape of the networks of a bank.

    Attributes:
      sizes: Hidden layers.
      activation: See `modmeta.networks.ACTIVATIONS`.
    """

    sizes: tuple[int, ...] = (32, 32)
    activation: str = "silu"

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        networks.get_activation(self.activation)
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes: found {self.sizes}, expected positive widths")

    def init(self, rng_key: jax.Array) -> dict[str, Any]:
        """Draws the variables of a network as the bank does; the key is consumed.

        They are `network`, the layers, and `inverse_limit`, one over the largest rate;
        0 for no limit.
        """
        module = _rate_network(self.sizes, self.activation)
        drawn = module.init(rng_key, jnp.zeros((1, NUM_INPUTS)), jnp.zeros((1, 1)))
        layers = drawn["params"]["rate_network"]
        return {"params": {"inverse_limit": jnp.zeros(()), "network": layers}}

    def rates(self, variables: dict[str, Any], inputs: jax.Array) -> jax.Array:
        """Rates `[Q, 1]` of a network at inputs `[Q, 2]`."""
        params = variables["params"]
        module = _rate_network(self.sizes, self.activation)
        layers = {"params": {"rate_network": params["network"]}}
        rates = module.apply(layers, inputs, method="rates")
        # As `laws.saturated`, which divides by the limit.
        return rates / (1.0 + jnp.abs(rates) * params["inverse_limit"])

    def responses(
        self, variables: dict[str, Any], inputs: jax.Array
    ) -> tuple[jax.Array, ...]:
        """What the units of every layer compute at inputs `[Q, 2]`: `[Q, units]`.

        The last two are the logarithm of the size of the rate, and its sign.
        """
        params = variables["params"]["network"]
        activation = networks.get_activation(self.activation)
        hidden, layers = inputs, []
        for index in range(len(self.sizes) + 1):
            layer = params[f"layer_{index}"]
            hidden = hidden @ layer["kernel"] + layer["bias"][None]
            hidden = activation(hidden) if index < len(self.sizes) else hidden
            layers.append(hidden)
        return tuple(layers)

    def topology(self) -> Topology:
        """The parameter graph of such networks."""
        variables = jax.eval_shape(self.init, jax.random.key(0))
        inputs = jnp.zeros((2, NUM_INPUTS))
        return tracing.trace(self.rates, variables, inputs)
