"""Patterns of networks that people write, each as a function of layers.

Letters: B examples, T tokens, H heads, D features.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.metanet.network_cases import IMAGE

VECTOR, TOKENS = (2, 4), (2, 4, 6)
D = nn.Dense


class Pattern(NamedTuple):
    """A network, its input, and the order of its group of symmetries where known."""

    body: Callable[[nn.Module, Any], Any]
    shape: tuple[int, ...]
    order: int | None = None


def fac(*sizes):
    return int(np.prod([np.prod(np.arange(1, size + 1)) for size in sizes]))


def heads(x, num_heads=2):
    return x.reshape(*x.shape[:-1], num_heads, -1)


def attention(m, x, attend):
    q, k, v = (heads(D(6)(x)) for _ in range(3))
    return D(2)(attend(q, k, v).reshape(*x.shape[:-1], 6))


def by_einsum(q, k, v, mask=None):
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    if mask is not None:
        logits = jnp.where(mask, logits, -1e9)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), v)


def by_matmul(q, k, v):
    q, k, v = (jnp.swapaxes(a, 1, 2) for a in (q, k, v))
    weights = jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) / np.sqrt(3.0))
    return jnp.swapaxes(weights @ v, 1, 2)


def causal(q, k, v):
    size = q.shape[1]
    return by_einsum(q, k, v, jnp.tri(size, dtype=bool)[None, None])


def rotary(q, k, v):
    angles = jnp.arange(4.0)[:, None] * jnp.array([1.0, 0.1])[None]
    sin, cos = (f(angles)[None, :, None] for f in (jnp.sin, jnp.cos))

    def turn(a):
        a = jnp.concatenate([a, a[..., :1]], -1)
        first, second = jnp.split(a, 2, -1)
        return jnp.concatenate(
            [first * cos - second * sin, first * sin + second * cos], -1
        )

    return by_einsum(turn(q), turn(k), v)


def grouped_query(m, x):
    q, k, v = heads(D(12)(x), 4), heads(D(6)(x)), heads(D(6)(x))
    k, v = (jnp.repeat(a, 2, axis=2) for a in (k, v))
    return D(2)(by_einsum(q, k, v).reshape(2, 4, 12))


def relative_positions(m, x):
    table = m.param("table", nn.initializers.normal(), (7, 2))
    index = np.arange(4)[:, None] - np.arange(4)[None] + 3
    bias = jnp.transpose(table[index], (2, 0, 1))
    q, k, v = (heads(D(6)(x)) for _ in range(3))
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias[None]
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), v)
    return D(2)(mixed.reshape(2, 4, 6))


def cross_attention(m, x):
    queries = m.param("queries", nn.initializers.normal(), (3, 6))
    q = heads(jnp.broadcast_to(D(6)(queries)[None], (2, 3, 6)))
    return D(2)(by_einsum(q, heads(D(6)(x)), heads(D(6)(x))).reshape(2, 3, 6))


def linear_attention(q, k, v):
    q, k = nn.elu(q) + 1, nn.elu(k) + 1
    summed = jnp.einsum("bkhd,bkhe->bhde", k, v)
    scale = 1 / jnp.einsum("bqhd,bhd->bqh", q, k.sum(1))
    return jnp.einsum("bqhd,bhde->bqhe", q, summed) * scale[..., None]


def additive_attention(m, x):
    first, second = D(3)(x), D(3)(x)
    scores = D(1)(nn.tanh(first[:, :, None] + second[:, None]))[..., 0]
    return D(2)(jax.nn.softmax(scores) @ D(5)(x))


def rms_by_hand(m, x):
    x = D(5)(x)
    gain = m.param("gain", nn.initializers.ones, (5,))
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return D(2)(x * gain[None])


def layer_norm_by_hand(m, x):
    x = D(5)(x)
    x = x - x.mean(-1, keepdims=True)
    return D(2)(x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5))


def turned_kernel(m, x):
    kernel = m.param("kernel", nn.initializers.normal(), (3, 3, 2))
    turned = jnp.stack([jnp.roll(kernel[..., 0], 1, 0), kernel[..., 1]], -1)
    first, second = (
        jax.lax.conv_general_dilated(
            h, k, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
        )
        for h, k in zip((D(3)(x),) * 2, (kernel, turned), strict=True)
    )
    return D(2)(nn.tanh(first + second**2))


def batch_norm_by_hand(m, x):
    x = D(5)(x)
    gain, shift, mean, var = (
        m.param(name, nn.initializers.ones, (5,))
        for name in ("gain", "shift", "mean", "var")
    )
    scale = gain / jnp.sqrt(var + 1e-3)
    return D(2)(nn.relu((x - mean[None]) * scale[None] + shift[None]))


def group_norm_by_hand(m, x):
    x = D(6)(x).reshape(2, 3, 2)
    x = (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-3)
    return D(2)(x.reshape(2, 6))


def squeeze_and_excite(m, x):
    x = nn.Conv(5, (2, 2))(x)
    gate = nn.sigmoid(D(5)(nn.relu(D(3)(x.mean((1, 2), keepdims=True)))))
    return D(2)((x * gate).mean((1, 2)))


def film(m, x):
    scale, shift = jnp.split(D(10)(x), 2, -1)
    return D(2)(nn.tanh(D(5)(x)) * (1 + scale) + shift)


def mixture(m, x):
    gates = jax.nn.softmax(D(3)(x))
    experts = jnp.stack([D(2)(nn.relu(D(4)(x))) for _ in range(3)], axis=1)
    return (gates[..., None] * experts).sum(1)


def vmapped_experts(m, x):
    experts = nn.vmap(
        D, in_axes=None, out_axes=1, axis_size=3, variable_axes={"params": 0},
        split_rngs={"params": True},
    )(4)  # fmt: skip
    gates = jax.nn.softmax(D(3)(x))
    return D(2)((gates[..., None] * nn.relu(experts(x))).sum(1))


def top_expert(m, x):
    gates = D(3)(x)
    chosen = jax.nn.one_hot(jnp.argmax(gates, -1), 3)
    experts = jnp.stack([D(2)(x) for _ in range(3)], axis=1)
    return (chosen[..., None] * experts).sum(1)


def kan(m, x):
    def layer(x, name, width):
        centers = jnp.linspace(-1, 1, 3)
        basis = jnp.exp(-((x[..., None] - centers[None, None]) ** 2))
        shape = (x.shape[-1], 3, width)
        weights = m.param(name, nn.initializers.normal(), shape)
        return jnp.einsum("bik,iko->bo", basis, weights)

    return layer(layer(x, "first", 5), "second", 2)


def low_rank(m, x):
    down = m.param("down", nn.initializers.normal(), (4, 3))
    up = m.param("up", nn.initializers.normal(), (3, 5))
    return D(2)(nn.relu(D(5)(x) + 2.0 * (x @ down @ up)))


def scanned(cell):
    def body(m, x):
        return D(2)(nn.RNN(cell)(x)[:, -1])

    return body


def lifted_scan(m, x):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, carry, _):
            return carry + nn.tanh(D(4)(carry)), None

    stack = nn.scan(
        Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
    )
    return D(2)(stack()(D(4)(x), None)[0])


def shared_scan(m, x):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, carry, _):
            return nn.tanh(D(4)(carry)), None

    stack = nn.scan(
        Block, variable_broadcast="params", split_rngs={"params": False}, length=3
    )
    return D(2)(stack()(D(4)(x), None)[0])


def unrolled_cell(m, x):
    cell = nn.GRUCell(3)
    carry = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
    for time in range(3):
        carry, _ = cell(carry, x[:, time])
    return D(2)(carry)


def learned_carry(m, x):
    start = m.param("start", nn.initializers.normal(), (3,))
    carry = jnp.broadcast_to(start[None], (2, 3))
    return D(2)(nn.RNN(nn.SimpleCell(3))(x, initial_carry=carry)[:, -1])


def mixer(m, x):
    y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
    y = x + jnp.swapaxes(D(4)(nn.gelu(D(5)(y))), 1, 2)
    return y + D(6)(nn.gelu(D(7)(nn.LayerNorm()(y))))


def unet(m, x):
    first = nn.relu(nn.Conv(3, (3, 3))(x))
    second = nn.relu(nn.Conv(4, (3, 3), strides=2)(first))
    up = jax.image.resize(second, (2, 4, 4, 4), "nearest")
    return nn.Conv(2, (1, 1))(jnp.concatenate([first, up], -1))


def bilinear(m, x):
    x = nn.Conv(3, (2, 2))(x)
    return nn.Conv(2, (2, 2))(jax.image.resize(x, (2, 8, 8, 3), "bilinear"))


def pixel_shuffle(m, x):
    x = nn.Conv(8, (2, 2))(x).reshape(2, 4, 4, 2, 2, 2)
    return nn.Conv(2, (2, 2))(x.transpose(0, 1, 3, 2, 4, 5).reshape(2, 8, 8, 2))


def space_to_depth(m, x):
    x = nn.Conv(3, (2, 2))(x).reshape(2, 2, 2, 2, 2, 3)
    return D(2)(nn.relu(D(5)(x.transpose(0, 1, 3, 2, 4, 5).reshape(2, 2, 2, 12))))


def channel_shuffle(m, x):
    x = nn.Conv(6, (1, 1), feature_group_count=3)(x)
    x = x.reshape(2, 4, 4, 2, 3).swapaxes(-1, -2).reshape(2, 4, 4, 6)
    return nn.Conv(2, (1, 1))(nn.relu(x))


def windows(m, x):
    x = D(4)(x).reshape(2, 2, 2, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(2, 4, 4, 4)
    q, k, v = (heads(D(4)(x)) for _ in range(3))
    logits = jnp.einsum("bwqhd,bwkhd->bwhqk", q, k)
    x = jnp.einsum("bwhqk,bwkhd->bwqhd", jax.nn.softmax(logits), v)
    return D(2)(x.reshape(2, 4, 4, 4))


def shifted(m, x):
    return nn.Conv(2, (2, 2))(jnp.roll(nn.Conv(3, (2, 2))(x), 1, axis=1))


def graph_network(m, x):
    adjacency = np.array([[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]])
    x = nn.relu(jnp.einsum("vw,bwc->bvc", adjacency.astype(np.float32), D(5)(x)))
    return D(2)(x.mean(1))


def message_passing(m, x):
    """Messages along the edges of a fixed graph, summed at their receivers."""
    senders, receivers = np.array([0, 1, 1, 2, 3]), np.array([1, 0, 2, 3, 1])
    x = D(4)(x)
    messages = nn.relu(D(5)(jnp.concatenate([x[:, senders], x[:, receivers]], -1)))
    total = jax.vmap(lambda row: jax.ops.segment_sum(row, receivers, 4))(messages)
    return D(2)((x + D(4)(total)).mean(1))


def nerf(m, x):
    bands = 2.0 ** jnp.arange(3)
    angles = (x[..., None] * bands[None, None]).reshape(2, -1)
    encoded = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
    hidden = nn.relu(D(5)(encoded))
    return D(2)(nn.relu(D(5)(jnp.concatenate([encoded, hidden], -1))))


def fourier_features(m, x):
    frequencies = m.param("frequencies", nn.initializers.normal(), (4, 5))
    angles = 2 * np.pi * (x @ jax.lax.stop_gradient(frequencies))
    return D(2)(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1))


def tied_autoencoder(m, x):
    kernel = m.param("kernel", nn.initializers.normal(), (4, 5))
    return nn.relu(x @ kernel) @ kernel.T


def tied_embedding(m, x):
    embed = nn.Embed(5, 4)
    hidden = embed((x[..., 0] > 0).astype(jnp.int32))
    return embed.attend(nn.relu(D(4)(hidden)))


def energy(m, x):
    """The gradient of an energy: its output, not its parameters, is differentiated."""
    first, second = D(5), D(1, use_bias=False)

    def value(x):
        return second(nn.tanh(first(x))).sum()

    value(x)
    return jax.grad(value)(x)


def weighted_kernel(m, x):
    kernel = m.param("kernel", nn.initializers.normal(), (4, 5))
    gain = m.param("gain", nn.initializers.normal(), (5,))
    kernel = kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)
    return D(2)(nn.relu(x @ (kernel * gain[None])))


def circulant(m, x):
    weights = m.param("weights", nn.initializers.normal(), (4,))
    kernel = weights[(np.arange(4)[:, None] - np.arange(4)[None]) % 4]
    return D(2)(nn.relu(nn.relu(x @ kernel) @ kernel))


def padded_convolution(m, x):
    """A convolution over states that are units of their own."""
    states = nn.RNN(nn.SimpleCell(3))(x)
    return D(2)(nn.relu(nn.Conv(4, (3,), kernel_dilation=2)(states)).max(1))


PATTERNS = {
    # Attention.
    "attention, flax function": Pattern(
        lambda m, x: attention(m, x, nn.dot_product_attention), TOKENS, 2 * 6**2 * 6**2
    ),
    "attention, einsum": Pattern(
        lambda m, x: attention(m, x, by_einsum), TOKENS, 2 * 6**2 * 6**2
    ),
    "attention, matmul": Pattern(
        lambda m, x: attention(m, x, by_matmul), TOKENS, 2 * 6**2 * 6**2
    ),
    "attention, causal": Pattern(
        lambda m, x: attention(m, x, causal), TOKENS, 2 * 6**2 * 6**2
    ),
    "attention, jax function": Pattern(
        lambda m, x: attention(m, x, jax.nn.dot_product_attention), TOKENS, 2 * 6**4
    ),
    "attention, linear": Pattern(
        lambda m, x: attention(m, x, linear_attention), TOKENS, 2 * 6**2 * 6**2
    ),
    "attention, rotary": Pattern(lambda m, x: attention(m, x, rotary), TOKENS),
    "attention, grouped queries": Pattern(grouped_query, TOKENS),
    "attention, relative positions": Pattern(
        relative_positions, TOKENS, 2 * 6**2 * 6**2
    ),
    "attention, learned queries": Pattern(
        cross_attention, TOKENS, 2 * 6**2 * 6**2 * fac(6)
    ),
    "attention, additive": Pattern(additive_attention, TOKENS, fac(3, 5)),
    "attention, normed queries": Pattern(
        lambda m, x: nn.MultiHeadDotProductAttention(2, normalize_qk=True)(x), TOKENS
    ),
    "attention in windows": Pattern(windows, IMAGE, fac(4) * 2 * 2**2 * 2**2),
    # Normalisations and gates written out.
    "rms norm by hand": Pattern(rms_by_hand, VECTOR, fac(5)),
    "layer norm by hand": Pattern(layer_norm_by_hand, VECTOR, fac(5)),
    "batch norm by hand": Pattern(batch_norm_by_hand, VECTOR, fac(5)),
    "group norm by hand": Pattern(group_norm_by_hand, VECTOR, fac(3) * fac(2) ** 3),
    "layer norm over positions": Pattern(
        lambda m, x: D(2)(nn.LayerNorm(reduction_axes=(1, 2))(D(5)(x))), TOKENS, fac(5)
    ),
    "cosine": Pattern(
        lambda m, x: D(2)((lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True))(
            D(5)(x))), VECTOR, fac(5)
    ),  # fmt: skip
    "softmax of hidden units": Pattern(
        lambda m, x: D(2)(nn.softmax(D(5)(x))), VECTOR, fac(5)
    ),
    "scalar gate": Pattern(
        lambda m, x: D(2)(D(5)(x) * nn.sigmoid(D(1)(x))), VECTOR, fac(5)
    ),
    "squeeze and excite": Pattern(squeeze_and_excite, IMAGE, fac(5, 3)),
    "glu": Pattern(lambda m, x: D(2)(nn.glu(D(10)(x))), VECTOR, fac(5)),
    "swiglu": Pattern(lambda m, x: D(2)(nn.silu(D(5)(x)) * D(5)(x)), VECTOR, fac(5)),
    "film": Pattern(film, VECTOR, fac(5)),
    "prelu": Pattern(lambda m, x: D(2)(nn.PReLU()(D(5)(x))), VECTOR, fac(5)),
    "where": Pattern(
        lambda m, x: D(2)(jnp.where(D(5)(x) > 0, D(5)(x), D(5)(x))), VECTOR, fac(5)
    ),
    "weight norm": Pattern(
        lambda m, x: D(2)(nn.relu(nn.WeightNorm(D(5))(x))), VECTOR, fac(5)
    ),
    "normed kernel": Pattern(weighted_kernel, VECTOR, fac(5)),
    # Recurrence.
    "simple cell, scanned": Pattern(scanned(nn.SimpleCell(3)), TOKENS, fac(3)),
    "lstm, scanned": Pattern(scanned(nn.LSTMCell(3)), TOKENS, fac(3)),
    "optimized lstm, scanned": Pattern(
        scanned(nn.OptimizedLSTMCell(3)), TOKENS, fac(3)
    ),
    "gru, scanned": Pattern(scanned(nn.GRUCell(3)), TOKENS, fac(3)),
    "gru, unrolled": Pattern(unrolled_cell, TOKENS, fac(3)),
    "all states": Pattern(lambda m, x: D(2)(nn.RNN(nn.GRUCell(3))(x)), TOKENS, fac(3)),
    "mean of states": Pattern(
        lambda m, x: D(2)(nn.RNN(nn.SimpleCell(3))(x).mean(1)), TOKENS, fac(3)
    ),
    "convolution over states": Pattern(padded_convolution, TOKENS, fac(3, 4)),
    "circulant": Pattern(circulant, VECTOR),
    "both directions": Pattern(
        lambda m, x: D(2)(
            nn.Bidirectional(nn.RNN(nn.GRUCell(3)), nn.RNN(nn.GRUCell(2)))(x)[:, 1]
        ),
        TOKENS,
        fac(3, 2),
    ),
    "learned carry": Pattern(learned_carry, TOKENS, fac(3)),
    "layers by scan": Pattern(lifted_scan, VECTOR, fac(4)),
    "shared layers by scan": Pattern(shared_scan, VECTOR, fac(4)),
    "remat": Pattern(lambda m, x: D(2)(nn.relu(nn.remat(D)(5)(x))), VECTOR, fac(5)),
    # Mixtures and ensembles.
    "mixture of experts": Pattern(mixture, VECTOR),
    "experts by vmap": Pattern(vmapped_experts, VECTOR),
    "best expert": Pattern(top_expert, VECTOR),
    "top two": Pattern(
        lambda m, x: D(2)(jax.lax.top_k(D(5)(x), 2)[0]), VECTOR, fac(5)
    ),
    "sorted units": Pattern(lambda m, x: D(2)(jnp.sort(D(5)(x), -1)), VECTOR, fac(5)),
    # Splines, factors, fields, graphs, sets.
    "kan": Pattern(kan, VECTOR, fac(5)),
    "radial basis": Pattern(
        lambda m, x: D(2)(jnp.exp(-jnp.square(
            D(3)(x)[:, :, None] - m.param("centers", nn.initializers.normal(), (3, 4))[
                None]).sum(1))), VECTOR, fac(3, 4)
    ),  # fmt: skip
    "low rank": Pattern(low_rank, VECTOR, fac(3, 5)),
    "nerf": Pattern(nerf, VECTOR, fac(5, 5)),
    "fourier features": Pattern(fourier_features, VECTOR, fac(5)),
    "graph network": Pattern(graph_network, TOKENS, fac(5)),
    "message passing": Pattern(message_passing, TOKENS, fac(4, 5)),
    "message passing, added": Pattern(
        lambda m, x: D(2)((h := D(3)(x)).at[:, np.array([1, 0, 1])].add(
        nn.relu(h[:, :3])).mean(1)), TOKENS, fac(3)
    ),  # fmt: skip
    "deep set": Pattern(
        lambda m, x: D(2)(nn.relu(D(5)(x)).sum(1)), TOKENS, fac(5)
    ),
    "centred set": Pattern(
        lambda m, x: D(2)((lambda h: nn.relu(h - h.mean(1, keepdims=True)))(
            D(5)(x)).sum(1)), TOKENS, fac(5)
    ),  # fmt: skip
    "gradient of an energy": Pattern(energy, VECTOR, fac(5)),
    "tied autoencoder": Pattern(tied_autoencoder, VECTOR, fac(5)),
    "tied embedding": Pattern(tied_embedding, TOKENS, fac(4)),
    "mixer": Pattern(mixer, TOKENS, fac(5, 7)),
    # Images.
    "u-net": Pattern(unet, IMAGE, fac(3, 4)),
    "bilinear resize": Pattern(bilinear, IMAGE, fac(3)),
    "pixel shuffle": Pattern(pixel_shuffle, IMAGE),
    "space to depth": Pattern(space_to_depth, IMAGE, fac(3, 5)),
    "channel shuffle": Pattern(channel_shuffle, IMAGE),
    "shifted windows": Pattern(shifted, IMAGE, fac(3)),
    "flipped": Pattern(
        lambda m, x: nn.Conv(2, (2, 2))(nn.Conv(3, (2, 2))(x)[:, ::-1]), IMAGE, fac(3)
    ),
    "transposed convolution": Pattern(
        lambda m, x: nn.Conv(2, (2, 2))(nn.ConvTranspose(3, (2, 2), (2, 2))(x)), IMAGE,
        fac(3),
    ),  # fmt: skip
    "moments of positions": Pattern(
        lambda m, x: D(2)(jnp.concatenate([(h := nn.Conv(3, (2, 2))(x)).mean((1, 2)),
        h.std((1, 2))], -1)), IMAGE, fac(3)
    ),  # fmt: skip
    # Rearrangements.
    "tiled": Pattern(lambda m, x: D(2)(jnp.tile(D(3)(x), (1, 2, 1))), TOKENS, fac(3)),
    "tiled units": Pattern(lambda m, x: D(2)(jnp.tile(D(3)(x), (1, 2))), VECTOR),
    "repeated": Pattern(lambda m, x: D(2)(jnp.repeat(D(3)(x), 2, 1)), TOKENS, fac(3)),
    "stacked": Pattern(
        lambda m, x: D(2)(jnp.stack([D(3)(x), D(3)(x)], 1).mean(1)), VECTOR, 2 * fac(3)
    ),
    "reversed": Pattern(lambda m, x: D(2)(D(3)(x)[:, ::-1]), TOKENS, fac(3)),
    "reversed units": Pattern(lambda m, x: D(2)(D(3)(x)[:, ::-1]), VECTOR, fac(3)),
    "taken": Pattern(
        lambda m, x: D(2)(D(3)(x)[:, jnp.array([2, 0, 0])]), TOKENS, fac(3)
    ),
    "taken units": Pattern(
        lambda m, x: D(2)(D(3)(x)[:, jnp.array([2, 0])]), VECTOR
    ),
    "product with reversed units": Pattern(
        lambda m, x: D(2)((lambda h: h * h[:, ::-1])(D(3)(x))), VECTOR
    ),
    "norm of repeated units": Pattern(
        lambda m, x: D(2)(nn.LayerNorm()(jnp.tile(D(3)(x), (1, 2)))), VECTOR
    ),
    "unstacked": Pattern(
        lambda m, x: D(2)(jnp.tanh(jnp.unstack(D(3)(x), axis=1)[2])), TOKENS, fac(3)
    ),
    "unstacked units": Pattern(
        lambda m, x: D(2)(jnp.stack(jnp.unstack(D(3)(x), axis=1)[:2], 1)), VECTOR
    ),
    "nothing beside it": Pattern(
        lambda m, x: D(2)(jnp.concatenate([D(3)(x), x[:, :0]], 1)), VECTOR, fac(3)
    ),
    "sum of some units": Pattern(
        lambda m, x: D(2)(D(3)(x)[:, :2].sum(1, keepdims=True)), VECTOR, fac(2)
    ),
    "summed up": Pattern(lambda m, x: D(2)(jnp.cumsum(D(3)(x), 1)), TOKENS, fac(3)),
    "summed up units": Pattern(lambda m, x: D(2)(jnp.cumsum(D(3)(x), 1)), VECTOR, 1),
    "largest position": Pattern(
        lambda m, x: D(2)(jnp.argmax(D(3)(x), 1).astype(float)), TOKENS, fac(3)
    ),
    "padded": Pattern(
        lambda m, x: D(2)(jnp.pad(D(3)(x), ((0, 0), (1, 2), (0, 0)))), TOKENS, fac(3)
    ),
    "padded units": Pattern(
        lambda m, x: D(2)(jnp.pad(D(3)(x), ((0, 0), (1, 2)))), VECTOR, 2 * fac(3)
    ),
    "outer product": Pattern(
        lambda m, x: D(2)(jnp.einsum("bi,bj->bij", D(3)(x), D(2)(x)).reshape(2, 6)),
        VECTOR, fac(3, 2),
    ),
    "bilinear form": Pattern(
        lambda m, x: jnp.einsum("bi,ijk,bj->bk", D(3)(x), m.param("form",
        nn.initializers.normal(), (3, 4, 2)), D(4)(x)), VECTOR, fac(3, 4)
    ),  # fmt: skip
    "pairs of tokens": Pattern(
        lambda m, x: D(2)(jnp.concatenate([jnp.broadcast_to(a, (2, 4, 4, 6)) for a in
        (x[:, :, None], x[:, None])], -1)).sum((1, 2)), TOKENS
    ),  # fmt: skip
}  # fmt: skip
PATTERNS |= {
    # Kernels that are computed.
    "standardised kernel": Pattern(
        lambda m, x: nn.Conv(2, (1, 1))(
            nn.relu(
                jax.lax.conv_general_dilated(
                    x,
                    (lambda k: k / (1 + jnp.abs(k).sum((0, 1, 2), keepdims=True)))(
                        m.param("k", nn.initializers.normal(), (2, 2, 3, 4))
                    ),
                    (1, 1),
                    "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
            )
        ),
        IMAGE,
        fac(4),
    ),
    "weight norm of a convolution": Pattern(
        lambda m, x: nn.Conv(2, (1, 1))(nn.relu(nn.WeightNorm(nn.Conv(3, (2, 2)))(x))),
        IMAGE,
        fac(3),
    ),
    "spectral norm": Pattern(
        lambda m, x: D(2)(nn.relu(nn.SpectralNorm(D(4))(x, update_stats=False))), VECTOR
    ),
    "signs of weights": Pattern(
        lambda m, x: D(2)(
            nn.relu(x @ jnp.sign(m.param("k", nn.initializers.normal(), (4, 5))))
        ),
        VECTOR,
        fac(5),
    ),
    "sum of a kernel and its transpose": Pattern(
        lambda m, x: (lambda a: x @ (a + a.T))(
            m.param("a", nn.initializers.normal(), (4, 4))
        ),
        VECTOR,
    ),
    "product of a kernel with itself": Pattern(
        lambda m, x: (lambda a: jnp.tanh(x @ (a.T @ a)))(
            m.param("a", nn.initializers.normal(), (3, 4))
        ),
        VECTOR,
        fac(3),
    ),
    "kernel of two factors": Pattern(
        lambda m, x: (
            x @ jnp.kron(*(m.param(n, nn.initializers.normal(), (2, 3)) for n in "ab"))
        ),
        VECTOR,
    ),
    "reflection": Pattern(
        lambda m, x: D(2)(
            (lambda h, v: h - 2 * (h @ v)[:, None] * v[None] / (v @ v))(
                D(3)(x), m.param("v", nn.initializers.normal(), (3,))
            )
        ),
        VECTOR,
        fac(3),
    ),
    # Values at places.
    "a position set": Pattern(
        lambda m, x: D(2)(D(5)(x).at[:, 1].set(D(5)(x)[:, 0])), TOKENS, fac(5)
    ),
    "a position set to a parameter": Pattern(
        lambda m, x: D(2)(
            jnp.tanh(
                D(5)(x).at[:, 1].set(m.param("q", nn.initializers.normal(), (5,))[None])
            )
        ),
        TOKENS,
        fac(5),
    ),
    "a cache": Pattern(
        lambda m, x: D(2)(
            jax.lax.dynamic_update_slice(jnp.zeros((2, 6, 3)), D(3)(x), (0, 1, 0)).sum(
                1
            )
        ),
        TOKENS,
        fac(3),
    ),
    "units set": Pattern(
        lambda m, x: (lambda h: D(2)(h.at[:, np.array([0, 3])].set(nn.tanh(D(2)(h)))))(
            D(5)(x)
        ),
        VECTOR,
    ),
    "units multiplied": Pattern(
        lambda m, x: D(2)(D(5)(x).at[:, 1:3].multiply(D(2)(x))), VECTOR
    ),
    "pairs of places": Pattern(
        lambda m, x: D(2)(
            jnp.einsum("btc,bsc->bts", D(3)(x), D(3)(x))[
                :, np.array([0, 1]), np.array([2, 3])
            ]
        ),
        TOKENS,
    ),
    "diagonal": Pattern(lambda m, x: D(2)(jnp.einsum("btt->bt", D(4)(x))), TOKENS, 1),
    "lower triangle": Pattern(lambda m, x: D(2)(jnp.tril(D(4)(x))), TOKENS, 1),
    # Orders and steps.
    "median": Pattern(
        lambda m, x: D(2)(jnp.median(D(5)(x), -1, keepdims=True)), VECTOR, fac(5)
    ),
    "order of units": Pattern(
        lambda m, x: D(2)(jnp.argsort(D(3)(x), -1).astype(float)), VECTOR, 1
    ),
    "largest kept": Pattern(
        lambda m, x: (
            lambda h: D(2)(jnp.where(h >= jax.lax.top_k(h, 2)[0][:, -1:], h, 0.0))
        )(D(5)(x)),
        VECTOR,
        fac(5),
    ),
    "rounded to eight bits": Pattern(
        lambda m, x: D(2)(
            jnp.clip(jnp.round(10 * D(5)(x)), -127, 127).astype(jnp.int8).astype(float)
        ),
        VECTOR,
        fac(5),
    ),
    "concatenated with its negative": Pattern(
        lambda m, x: (lambda h: D(2)(nn.relu(jnp.concatenate([h, -h], -1))))(D(3)(x)),
        VECTOR,
        fac(3),
    ),
    "branch of a switch": Pattern(
        lambda m, x: D(2)(jax.lax.switch(1, [jnp.sin, jnp.tanh], D(4)(x))),
        VECTOR,
        fac(4),
    ),
    # Windows.
    "pool of channels": Pattern(
        lambda m, x: D(2)(
            jax.lax.reduce_window(
                D(6)(x), -jnp.inf, jax.lax.max, (1, 2), (1, 2), "VALID"
            )
        ),
        VECTOR,
        fac(3) * fac(2) ** 3,
    ),
    "response of neighbours": Pattern(
        lambda m, x: (
            lambda h: nn.Conv(2, (1, 1))(
                h
                / (
                    1
                    + jax.lax.reduce_window(
                        h**2, 0.0, jax.lax.add, (1, 1, 1, 3), (1, 1, 1, 1), "SAME"
                    )
                )
            )
        )(nn.Conv(4, (2, 2))(x)),
        IMAGE,
        2,
    ),
    "patches": Pattern(
        lambda m, x: D(2)(
            jax.lax.conv_general_dilated_patches(
                nn.Conv(3, (1, 1))(x),
                (2, 2),
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        ),
        IMAGE,
        fac(3),
    ),
    "diagonal as gains": Pattern(
        lambda m, x: (lambda w: D(2)(nn.tanh(x @ w) * jnp.diag(w)[None]))(
            m.param("w", nn.initializers.normal(), (4, 4))
        ),
        VECTOR,
        1,
    ),
    "two rows as gains": Pattern(
        lambda m, x: (
            lambda w: D(2)(
                nn.tanh(x @ w) * w[None, np.array([0, 1, 0, 1]), np.arange(4)]
            )
        )(m.param("w", nn.initializers.normal(), (4, 4))),
        VECTOR,
        4,
    ),
    "kernel turned by channel": Pattern(turned_kernel, TOKENS, 6),
    "factor of a triangle": Pattern(
        lambda m, x: (lambda f: D(2)(nn.tanh(x @ (f @ f.T))))(
            jnp.zeros((4, 4))
            .at[np.tril_indices(4)]
            .set(m.param("w", nn.initializers.normal(), (10,)))
        ),
        VECTOR,
        1,
    ),
    "a square set": Pattern(
        lambda m, x: (
            lambda h: D(2)(nn.tanh(h.at[:, 1:3, 1:3].set(nn.relu(h[:, :2, 2:]))))
        )(D(3)(x)),
        IMAGE,
        fac(3),
    ),
    "places of a grid added": Pattern(
        lambda m, x: (
            lambda h: D(2)(
                nn.tanh(
                    jnp.zeros((2, 2, 2, 3))
                    .at[:, np.array([0, 0, 1, 1]), np.array([1, 1, 0, 1])]
                    .add(h)
                )
            )
        )(D(3)(x)),
        TOKENS,
        fac(3),
    ),
    "interpolated": Pattern(
        lambda m, x: D(2)(
            jnp.interp(D(5)(x), np.array([-1.0, 0.1, 1]), np.array([0.0, 1, 0.3]))
        ),
        VECTOR,
        fac(5),
    ),
    "queries of parameters": Pattern(
        lambda m, x: (
            lambda q: D(2)(
                jax.nn.softmax(jnp.einsum("btd,bsd->bst", D(5)(x), q)) @ D(3)(x)
            )
        )(
            jnp.broadcast_to(
                m.param("q", nn.initializers.normal(), (1, 3, 5)), (2, 3, 5)
            )
        ),
        TOKENS,
        fac(5, 3),
    ),
    "product along places": Pattern(
        lambda m, x: D(2)(
            jnp.einsum(
                "btti,t->bit",
                D(3)(x),
                m.param("w", nn.initializers.normal(), (4,)),
            ).reshape(2, 12)
        ),
        IMAGE,
        fac(3),
    ),
    # Without a graph: numbers per example, loops, decompositions, complex numbers.
    "statistics of a batch": Pattern(
        lambda m, x: D(2)((lambda h: h - h.mean(0, keepdims=True))(D(4)(x))), VECTOR
    ),
    "a place per example": Pattern(
        lambda m, x: jnp.take_along_axis(
            D(5)(x), jnp.argmax(D(5)(x), -1, keepdims=True), -1
        ),
        VECTOR,
    ),
    "a kernel per example": Pattern(
        lambda m, x: jax.vmap(lambda i, k: jax.lax.conv(i[None], k, (1, 1), "SAME")[0])(
            x, D(12)(x.mean((2, 3))).reshape(2, 3, 4, 1, 1)
        ),
        IMAGE,
    ),
    "loop until it is small": Pattern(
        lambda m, x: jax.lax.while_loop(
            lambda h: (h**2).sum() > 1.0, lambda h: 0.5 * h, D(2)(x)
        ),
        VECTOR,
    ),
    "orthogonal kernel": Pattern(
        lambda m, x: (
            x @ jnp.linalg.qr(m.param("a", nn.initializers.normal(), (4, 4)))[0]
        ),
        VECTOR,
    ),
    "complex numbers": Pattern(
        lambda m, x: jnp.abs(D(2, dtype=jnp.complex64)(1j * D(5)(x))), VECTOR
    ),
}
