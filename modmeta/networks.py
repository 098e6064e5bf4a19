"""Networks and banks of networks that both systems are built from.

A *bank* holds the parameters of several copies of one Flax module, stacked along a new
first axis of every leaf, so that all copies run as one batched computation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Rows of a matrix product that share the parameters of one copy: enough to be fast,
# few enough that filling up the last ones costs little.
_ROWS_PER_TILE = 256

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "silu": nn.silu,
    "gelu": nn.gelu,
    "elu": nn.elu,
    "tanh": nn.tanh,
}


def get_activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Looks up an activation function.

    Raises:
      ValueError: If the name is not in `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise ValueError(
            f"activation: found {name!r}, expected one of {sorted(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def row_product(inputs: jax.Array, kernel: jax.Array, *_, **options) -> jax.Array:
    """`[..., I]` times `[I, O]` with all leading axes as one.

    Serves as the `dot_general` of a dense layer, which calls it with the dimensions
    that are contracted, always these.
    """
    rows = inputs.reshape(-1, inputs.shape[-1])
    outputs = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return outputs.reshape(*inputs.shape[:-1], kernel.shape[-1])


# The gradient of a kernel sums over all leading axes. XLA's CPU compiler is nearly
# twice as slow at a sum over several of them as over one.
Dense = functools.partial(nn.Dense, dot_general=row_product)


class MLP(nn.Module):
    """A multilayer perceptron on the last axis.

    Attributes:
      sizes: Width of every layer, output included.
      activation: Name of the activation, see `ACTIVATIONS`.
      activate_output: Whether the activation follows the last layer too.
      layer_norm: Whether LayerNorm follows every hidden activation.
      output_scale: Standard deviation of the last layer's outputs at the start, for
        inputs of unit variance.
    """

    sizes: Sequence[int]
    activation: str = "relu"
    activate_output: bool = False
    layer_norm: bool = False
    output_scale: float = 1.0

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[..., features]` to `[..., sizes[-1]]`."""
        activation = get_activation(self.activation)
        hidden = inputs
        for index, size in enumerate(self.sizes):
            is_output = index == len(self.sizes) - 1
            variance = self.output_scale**2 if is_output else 1.0
            kernel_init = nn.initializers.variance_scaling(
                variance, "fan_in", "truncated_normal"
            )
            hidden = Dense(size, kernel_init=kernel_init, name=f"layer_{index}")(hidden)
            if not is_output or self.activate_output:
                hidden = activation(hidden)
            if not is_output and self.layer_norm:
                hidden = nn.LayerNorm(name=f"norm_{index}")(hidden)
        return hidden


def init_bank(module: nn.Module, rng_key: jax.Array, size: int, *inputs):
    """Initialises `size` copies of a module, every one with a key of its own.

    Args:
      module: The Flax module.
      rng_key: Consumed.
      size: Number of copies.
      *inputs: Example inputs of one copy.

    Returns:
      Parameters with leaves `[size, ...]`.
    """
    keys = jax.random.split(rng_key, size)
    return jax.vmap(lambda key: module.init(key, *inputs)["params"])(keys)


def copy_of(params, index: int):
    """Parameters of one copy of a bank."""
    return jax.tree.map(lambda leaf: leaf[index], params)


def apply_bank(module: nn.Module, params, *inputs, method=None):
    """Applies every copy to the same inputs; the output has a new first axis."""
    return jax.vmap(lambda p: module.apply({"params": p}, *inputs, method=method))(
        params
    )


def apply_chosen(function: Callable, params, copies: jax.Array, *inputs):
    """Applies to every item the copy that it names, and no other.

    Items are sorted by copy and cut into tiles of one copy each, so that the work is
    that of a single copy whatever the size of the bank; the last tile of every copy is
    filled up.

    Args:
      function: From the parameters of a copy and inputs of items to outputs.
      params: The bank, leaves `[K, ...]`.
      copies: `[items]` int, copy of every item, below K.
      *inputs: Trees of `[items, ..., features]`; one item may hold many rows.

    Returns:
      `[items, ..., outputs]`.
    """
    num_copies = jax.tree.leaves(params)[0].shape[0]
    if num_copies == 1:
        return function(copy_of(params, 0), *inputs)
    num_items = copies.shape[0]
    rows_per_item = int(np.prod(jax.tree.leaves(inputs)[0].shape[1:-1]))
    tile_size = min(max(_ROWS_PER_TILE // rows_per_item, 1), num_items)
    num_tiles = -(-num_items // tile_size) + num_copies - 1
    is_copy = jax.nn.one_hot(copies, num_copies, dtype=jnp.int32)
    rank = jnp.take_along_axis(jnp.cumsum(is_copy, 0) - 1, copies[:, None], axis=1)
    last_tile = jnp.cumsum(-(-jnp.sum(is_copy, axis=0) // tile_size))
    first_tile = jnp.concatenate([jnp.zeros(1, last_tile.dtype), last_tile[:-1]])
    place = first_tile[copies] * tile_size + rank[:, 0]
    # Where nothing is placed, the first item is computed once more.
    item = jnp.zeros(num_tiles * tile_size, jnp.int32)
    item = item.at[place].set(jnp.arange(num_items, dtype=jnp.int32))
    copy_of_tile = jnp.searchsorted(last_tile, jnp.arange(num_tiles), side="right")
    copy_of_tile = jnp.minimum(copy_of_tile, num_copies - 1)
    outputs = jax.vmap(lambda p, x: function(p, *x))(
        jax.tree.map(lambda leaf: leaf[copy_of_tile], params),
        jax.tree.map(
            lambda x: x[item].reshape(num_tiles, tile_size, *x.shape[1:]), inputs
        ),
    )
    return outputs.reshape(-1, *outputs.shape[2:])[place]
