"""Families of public models of sequences in tiny configurations.

Each is a function of the module that holds its parameters, and of inputs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

D = nn.Dense


def heads(x, count):
    return x.reshape(*x.shape[:-1], count, -1)


def merge(x):
    return x.reshape(*x.shape[:-2], -1)


def attend(q, k, v, bias=None, mask=None):
    return merge(nn.dot_product_attention(q, k, v, bias=bias, mask=mask))


def triangle(size, width=None):
    mask = np.tri(size, dtype=bool)
    if width is not None:
        mask &= ~np.tri(size, k=-width, dtype=bool)
    return mask[None, None]


def rotate(x):
    """Rotary positions of pairs of neighbours."""
    angles = np.arange(x.shape[1])[:, None] * np.array([1.0, 0.1][: x.shape[-1] // 2])
    sin, cos = (f(angles)[None, :, None].astype(np.float32) for f in (np.sin, np.cos))
    first, second = x[..., ::2], x[..., 1::2]
    turned = jnp.stack([first * cos - second * sin, first * sin + second * cos], -1)
    return turned.reshape(x.shape)


def t5(m, tokens):
    x = nn.Embed(7, 6)(tokens)
    size = tokens.shape[1]
    buckets = np.clip(np.arange(size)[None] - np.arange(size)[:, None], -2, 2) + 2
    bias = nn.Embed(5, 2, name="relative")(buckets).transpose(2, 0, 1)[None]
    for _ in range(2):
        h = nn.RMSNorm()(x)
        q, k, v = (heads(D(6, use_bias=False)(h), 2) for _ in range(3))
        x = x + D(6, use_bias=False)(attend(q * 3**0.5, k, v, bias))
        h = nn.RMSNorm()(x)
        h = nn.gelu(D(7, use_bias=False)(h)) * D(7, use_bias=False)(h)
        x = x + D(6, use_bias=False)(h)
    return D(7, use_bias=False)(nn.RMSNorm()(x))


def albert(m, tokens):
    """One block, used twice."""
    x = D(6)(nn.LayerNorm()(nn.Embed(7, 3)(tokens)))
    attention, first, second = nn.MultiHeadDotProductAttention(2), D(8), D(6)
    norms = nn.LayerNorm(), nn.LayerNorm()
    for _ in range(2):
        x = norms[0](x + attention(x))
        x = norms[1](x + second(nn.gelu(first(x))))
    return D(2)(nn.tanh(D(6)(x[:, 0])))


def bloom(m, tokens):
    """Biases that fall with the distance, with another slope per head."""
    x = nn.LayerNorm()(nn.Embed(7, 4)(tokens))
    size = tokens.shape[1]
    slopes = np.array([0.5, 0.25], np.float32)[:, None, None]
    bias = slopes * (np.arange(size)[None, None] - np.arange(size)[None, :, None])
    q, k, v = (heads(D(4)(x), 2) for _ in range(3))
    bias = jnp.where(triangle(size), bias[None], -1e9)
    x = x + D(4)(attend(q, k, v, bias))
    return D(7)(nn.LayerNorm()(x + D(4)(nn.gelu(D(6)(nn.LayerNorm()(x))))))


def mistral(m, x):
    """Grouped queries, rotary positions, a sliding window."""
    x = D(4)(x)
    h = nn.RMSNorm()(x)
    q = rotate(heads(D(8, use_bias=False)(h), 4))
    k, v = (heads(D(4, use_bias=False)(h), 2) for _ in range(2))
    k = rotate(k)
    q = q.reshape(*q.shape[:2], 2, 2, 2)
    logits = jnp.einsum("bqgrd,bkgd->bgrqk", q, k) / np.sqrt(2.0)
    logits = jnp.where(triangle(x.shape[1], 3)[None], logits, -1e9)
    mixed = jnp.einsum("bgrqk,bkgd->bqgrd", nn.softmax(logits), v)
    x = x + D(4, use_bias=False)(mixed.reshape(*x.shape[:2], -1))
    h = nn.RMSNorm()(x)
    return D(2)(x + D(4)(nn.silu(D(5)(h)) * D(5)(h)))


def gemma(m, tokens):
    embed = nn.Embed(7, 4)
    x = embed(tokens) * np.float32(2.0)
    h = x * (1 + m.param("norm", nn.initializers.zeros, (4,))[None, None])
    h = h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-6)
    q, k, v = heads(D(4)(h), 2), heads(D(2)(h), 1), heads(D(2)(h), 1)
    k, v = (jnp.broadcast_to(a, q.shape) for a in (k, v))
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    logits = 30 * jnp.tanh(logits / 30)
    logits = jnp.where(triangle(tokens.shape[1]), logits, -1e9)
    x = x + D(4)(merge(jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(logits), v)))
    return embed.attend(x + D(4)(nn.gelu(D(5)(x)) * D(5)(x)))


def mixtral(m, x):
    """The two best experts, weighted by their logits."""
    logits = D(3, use_bias=False)(x)
    best, places = jax.lax.top_k(logits, 2)
    gates = (nn.softmax(best)[..., None] * jax.nn.one_hot(places, 3)).sum(-2)
    experts = nn.vmap(
        D, in_axes=None, out_axes=2, axis_size=3, variable_axes={"params": 0},
        split_rngs={"params": True},
    )  # fmt: skip
    hidden = nn.silu(experts(5)(x))
    out = m.param("out", nn.initializers.normal(), (3, 5, 6))
    return D(2)(x + jnp.einsum("btef,efd,bte->btd", hidden, out, gates))


def gptj(m, x):
    """Attention and layers of a block side by side."""
    h = nn.LayerNorm()(D(6)(x))
    q, k, v = (heads(D(6, use_bias=False)(h), 2) for _ in range(3))
    mixed = attend(q, k, v, mask=triangle(x.shape[1]))
    return D(2)(h + D(6)(mixed) + D(6)(nn.gelu(D(7)(h))))


def query_key_norm(m, x):
    q, k, v = (heads(D(6)(x), 2) for _ in range(3))
    q, k = nn.RMSNorm(name="q_norm")(q), nn.RMSNorm(name="k_norm")(k)
    return D(2)(attend(q, k, v))


def clip(m, image, tokens):
    image = nn.Conv(4, (2, 2), (2, 2))(image).mean((1, 2))
    text = nn.Embed(7, 4)(tokens).mean(1)
    image, text = D(3, use_bias=False)(image), D(3, use_bias=False)(text)
    image, text = (
        a / jnp.linalg.norm(a, axis=-1, keepdims=True) for a in (image, text)
    )
    scale = jnp.exp(m.param("scale", nn.initializers.ones, ()))
    return scale * (image * text).sum(-1, keepdims=True)


def whisper(m, x, tokens):
    x = nn.gelu(nn.Conv(4, (3,))(x))
    x = nn.gelu(nn.Conv(4, (3,), strides=2)(x))
    angles = np.arange(x.shape[1])[:, None] * np.array([1.0, 0.01])
    x = x + np.concatenate([np.sin(angles), np.cos(angles)], -1)[None].astype("f4")
    x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
    embed = nn.Embed(7, 4)
    y = embed(tokens)
    h = nn.LayerNorm()(y)
    mask = nn.make_causal_mask(tokens)
    y = y + nn.MultiHeadDotProductAttention(2)(h, mask=mask)
    y = y + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(y), x)
    return embed.attend(y)


def wav2vec(m, x):
    x = nn.gelu(nn.GroupNorm(4)(nn.Conv(4, (3,), strides=2)(x)))
    places = nn.Conv(4, (3,), feature_group_count=2)(x)
    x = nn.LayerNorm()(x + nn.gelu(places))
    x = x + nn.MultiHeadDotProductAttention(2)(x)
    return D(5)(x)


def conformer(m, x):
    x = D(4)(x)
    x = x + 0.5 * D(4)(nn.silu(D(6)(nn.LayerNorm()(x))))
    x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
    h = nn.glu(nn.Conv(8, (1,))(nn.LayerNorm()(x)))
    h = nn.Conv(4, (3,), feature_group_count=4)(h)
    h = nn.silu(nn.BatchNorm(use_running_average=True)(h))
    return D(2)(nn.LayerNorm()(x + nn.Conv(4, (1,))(h)))


def translation(m, source, target):
    """A recurrent encoder, whose last state starts a decoder."""
    carry, _ = nn.RNN(nn.LSTMCell(3), return_carry=True)(nn.Embed(7, 4)(source))
    states = nn.RNN(nn.LSTMCell(3))(nn.Embed(7, 4)(target), initial_carry=carry)
    return D(7)(states)


def convolutional_memory(m, x):
    frames = nn.RNN(nn.ConvLSTMCell(2, (2, 2)))(x)
    return nn.Conv(2, (1, 1))(frames[:, -1])


def temporal_convolutions(m, x):
    for dilation in (1, 2):
        y = nn.WeightNorm(nn.Conv(4, (2,), kernel_dilation=dilation, padding="CAUSAL"))(
            x
        )
        x = nn.relu(nn.relu(y) + nn.Conv(4, (1,))(x))
    return D(2)(x[:, -1])


def speech(m, x):
    x = nn.Bidirectional(nn.RNN(nn.GRUCell(3)), nn.RNN(nn.GRUCell(3)))(D(4)(x))
    return nn.log_softmax(D(5)(x))


def receptance(m, x):
    """Sums over time that decay per channel, as a scan."""
    x = D(4)(x)
    shifted = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    mix = m.param("mix", nn.initializers.ones, (4,))[None, None]
    k, v = D(4)(x * mix + shifted * (1 - mix)), D(4)(x)
    decay = jnp.exp(-jnp.exp(m.param("decay", nn.initializers.zeros, (4,))))[None]

    def step(state, inputs):
        top, bottom = state
        key, value = inputs
        top, bottom = top * decay + key * value, bottom * decay + key
        return (top, bottom), top / (bottom + 1.0)

    zeros = jnp.zeros_like(x[:, 0])
    rows = tuple(jnp.swapaxes(jnp.exp(a) if a is k else a, 0, 1) for a in (k, v))
    _, mixed = jax.lax.scan(step, (zeros, zeros), rows)
    return D(2)(nn.sigmoid(D(4)(x)) * jnp.swapaxes(mixed, 0, 1))


def mamba(m, x):
    """A selective scan of states per channel."""
    x, gate = jnp.split(D(6)(x), 2, -1)
    x = nn.silu(nn.Conv(3, (2,), feature_group_count=3, padding="CAUSAL")(x))
    rate = -jnp.exp(m.param("rate", nn.initializers.zeros, (3, 2)))
    delta = nn.softplus(D(3)(x))
    into, out = D(2, use_bias=False)(x), D(2, use_bias=False)(x)
    decay = jnp.exp(delta[..., None] * rate[None, None])
    inflow = (delta * x)[..., None] * into[:, :, None]

    def step(state, inputs):
        a, b, c = inputs
        state = a * state + b
        return state, (state * c[:, None]).sum(-1)

    rows = tuple(jnp.swapaxes(a, 0, 1) for a in (decay, inflow, out))
    _, y = jax.lax.scan(step, jnp.zeros_like(inflow[:, 0]), rows)
    skip = m.param("skip", nn.initializers.ones, (3,))[None, None]
    return D(2)((jnp.swapaxes(y, 0, 1) + x * skip) * nn.silu(gate))


def minimal_gate(m, x):
    """A recurrence that is an associative scan."""
    x = D(3)(x)
    decay = nn.sigmoid(D(3)(x))

    def join(left, right):
        return left[0] * right[0], left[1] * right[0] + right[1]

    _, states = jax.lax.associative_scan(join, (decay, (1 - decay) * x), axis=1)
    return D(2)(states)


def retention(m, x):
    q, k, v = (heads(D(4)(x), 2) for _ in range(3))
    size = x.shape[1]
    lag = np.arange(size)[:, None] - np.arange(size)[None]
    decay = np.where(lag >= 0, np.array([0.5, 0.9])[:, None, None] ** np.abs(lag), 0)
    weights = jnp.einsum("bqhd,bkhd->bhqk", q, k) * decay[None].astype("f4")
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    return D(2)(nn.GroupNorm(2)(merge(mixed)) * nn.silu(D(4)(x)))


def linformer(m, x):
    q, k, v = (D(6)(x) for _ in range(3))
    down = m.param("down", nn.initializers.normal(), (4, 3))
    k, v = (jnp.einsum("btd,tk->bkd", a, down) for a in (k, v))
    return D(2)(attend(*(heads(a, 2) for a in (q, k, v))))


def performer(m, x):
    q, k, v = (heads(D(6)(x), 2) for _ in range(3))
    table = np.random.default_rng(0).normal(size=(3, 5)).astype("f4")
    q, k = (nn.relu(a @ table) + 1e-3 for a in (q, k))
    mixed = jnp.einsum("bqhf,bkhf,bkhd->bqhd", q, k, v)
    return D(2)(merge(mixed / jnp.einsum("bqhf,bkhf->bqh", q, k)[..., None]))


def fourier_mixing(m, x):
    x = nn.LayerNorm()(x + jnp.fft.fft2(x).real)
    return D(2)(x + D(6)(nn.gelu(D(7)(x))))


def bag_of_words(m, tokens):
    x = nn.Embed(7, 5)(tokens)
    weight = (tokens > 0).astype(jnp.float32)[..., None]
    return D(2)((x * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0))


def adapters(m, x):
    """Low-rank changes of frozen layers, and a bottleneck."""

    def lora(x, name, width):
        down = m.param(f"{name}_down", nn.initializers.normal(), (x.shape[-1], 2))
        up = m.param(f"{name}_up", nn.initializers.normal(), (2, width))
        return D(width)(x) + 0.5 * (x @ down) @ up

    q, k, v = (heads(lora(x, name, 6), 2) for name in "qkv")
    x = x + D(6)(attend(q, k, v))
    return D(2)(x + D(6)(nn.relu(D(2)(x))))


def set_transformer(m, x):
    points = m.param("points", nn.initializers.normal(), (3, 6))
    points = jnp.broadcast_to(points[None], (len(x), 3, 6))
    h = nn.MultiHeadDotProductAttention(2)(points, x)
    x = x + nn.MultiHeadDotProductAttention(2)(x, h)
    seed = m.param("seed", nn.initializers.normal(), (1, 6))
    seed = jnp.broadcast_to(seed[None], (len(x), 1, 6))
    return D(2)(nn.MultiHeadDotProductAttention(2)(seed, x)[:, 0])


def decision_transformer(m, returns, states, actions):
    parts = [D(4)(a) for a in (returns, states, actions)]
    x = jnp.stack(parts, 2).reshape(len(states), -1, 4)
    x = nn.LayerNorm()(x)
    mask = triangle(x.shape[1])
    x = x + nn.MultiHeadDotProductAttention(1)(x, mask=mask)
    return nn.tanh(D(2)(x.reshape(len(x), -1, 3, 4)[:, :, 1]))
