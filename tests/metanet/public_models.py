"""Families of public models in tiny configurations, written anew.

Letters: B examples, T tokens, H heads, D features.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.metanet import other_models, sequence_models, vision_models

D = nn.Dense


def split_heads(x, num_heads):
    return x.reshape(*x.shape[:-1], num_heads, -1)


class GPT(nn.Module):
    """One fused product for queries, keys and values; a causal mask of numbers."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(7, 6, name="wte")
        places = nn.Embed(8, 6, name="wpe")(jnp.arange(tokens.shape[1])[None])
        x = embed(tokens) + places
        for index in range(2):
            h = nn.LayerNorm(name=f"ln_1_{index}")(x)
            q, k, v = jnp.split(D(18, name=f"attn_{index}")(h), 3, axis=-1)
            q, k, v = (split_heads(a, 2) for a in (q, k, v))
            size = tokens.shape[1]
            mask = nn.make_causal_mask(jnp.ones((1, size)), dtype=bool)
            bias = jax.lax.select(
                jnp.broadcast_to(mask, (tokens.shape[0], 1, size, size)),
                jnp.zeros((tokens.shape[0], 1, size, size)),
                jnp.full((tokens.shape[0], 1, size, size), -1e9),
            )
            weights = nn.dot_product_attention_weights(q, k, bias=bias)
            mixed = jnp.einsum("...hqk,...khd->...qhd", weights, v)
            x = x + D(6, name=f"proj_{index}")(mixed.reshape(*x.shape))
            h = D(8, name=f"fc_{index}")(nn.LayerNorm(name=f"ln_2_{index}")(x))
            x = x + D(6, name=f"out_{index}")(nn.gelu(h, approximate=True))
        return embed.attend(nn.LayerNorm(name="ln_f")(x))


class BERT(nn.Module):
    """Attention with a mask of padding, a pooler of the first token."""

    @nn.compact
    def __call__(self, tokens, mask):
        x = nn.Embed(7, 6)(tokens) + nn.Embed(2, 6)(jnp.zeros_like(tokens))
        x = nn.LayerNorm(epsilon=1e-12)(x)
        q, k, v = (split_heads(D(6)(x), 2) for _ in range(3))
        bias = jnp.where(mask[:, None, None] > 0, 0.0, -1e10)
        x = nn.LayerNorm()(x + D(6)(nn.dot_product_attention(q, k, v, bias).reshape(
            x.shape)))  # fmt: skip
        x = nn.LayerNorm()(x + D(6)(nn.gelu(D(8)(x))))
        return D(2)(nn.tanh(D(6)(x[:, 0])))


class Llama(nn.Module):
    """Rotary positions, grouped queries, root mean squares, gated products."""

    @nn.compact
    def __call__(self, x):
        size = x.shape[1]
        angles = jnp.outer(jnp.arange(size), jnp.array([1.0, 0.1]))
        sin, cos = (
            jnp.concatenate([f(angles)] * 2, -1)[None, :, None]
            for f in (jnp.sin, jnp.cos)
        )

        def turn(a):
            first, second = jnp.split(a, 2, axis=-1)
            return a * cos + jnp.concatenate([-second, first], -1) * sin

        x = D(6)(x)
        h = nn.RMSNorm()(x)
        q = split_heads(D(16, use_bias=False)(h), 4)
        k, v = (split_heads(D(8, use_bias=False)(h), 2) for _ in range(2))
        q, k = turn(q), turn(k)
        k, v = (jnp.repeat(a, 2, axis=2) for a in (k, v))
        mask = jnp.tril(jnp.ones((size, size), bool))[None, None]
        mixed = nn.dot_product_attention(q, k, v, mask=mask)
        x = x + D(6, use_bias=False)(mixed.reshape(*x.shape[:2], -1))
        h = nn.RMSNorm()(x)
        return D(2)(x + D(6)(nn.silu(D(7)(h)) * D(7)(h)))


class ViT(nn.Module):
    """Patches, a class token, learned positions."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (2, 2), strides=(2, 2), padding="VALID")(x)
        x = x.reshape(len(x), -1, 6)
        token = self.param("cls", nn.initializers.normal(), (1, 1, 6))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
        x = x + self.param("pos", nn.initializers.normal(), (1, x.shape[1], 6))
        h = nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        x = x + nn.Dropout(0.1, deterministic=True)(h)
        x = x + D(6)(nn.gelu(D(8)(nn.LayerNorm()(x))))
        return D(2)(nn.LayerNorm()(x)[:, 0])


class Swin(nn.Module):
    """Windows, shifted, with a table of relative positions."""

    @nn.compact
    def __call__(self, x):
        x = jnp.roll(D(4)(x), (-1, -1), axis=(1, 2))
        x = x.reshape(len(x), 2, 2, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, 4, 4)
        table = self.param("table", nn.initializers.normal(), (9, 2))
        place = np.stack(np.meshgrid(*[np.arange(2)] * 2, indexing="ij"), -1)
        place = place.reshape(-1, 2)
        index = (place[:, None] - place[None] + 1) @ np.array([3, 1])
        bias = table[index.reshape(-1)].reshape(4, 4, 2).transpose(2, 0, 1)[None]
        qkv = D(12)(x).reshape(-1, 4, 3, 2, 2).transpose(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = nn.softmax(q @ k.swapaxes(-1, -2) + bias)
        x = (weights @ v).transpose(0, 2, 1, 3).reshape(-1, 4, 4)
        x = x.reshape(-1, 2, 2, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5)
        return D(2)(x.reshape(-1, 4, 4, 4).mean((1, 2)))


class Diffusion(nn.Module):
    """A U-Net with times, group norms and attention between pixels."""

    @nn.compact
    def __call__(self, x, t):
        angles = t[:, None] * jnp.exp(-jnp.arange(3.0))[None]
        time = D(6)(nn.silu(D(5)(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)],
                                                 -1))))  # fmt: skip
        first = nn.Conv(4, (3, 3))(x)
        h = nn.Conv(6, (3, 3))(nn.silu(nn.GroupNorm(2)(first)))
        h = nn.silu(h + time[:, None, None])
        low = nn.Conv(6, (3, 3), strides=2)(nn.silu(nn.GroupNorm(3)(h)))
        normed = nn.GroupNorm(2)(low)
        q, k, v = (nn.Conv(6, (1, 1))(normed) for _ in range(3))
        w = jnp.einsum("bhwc,bHWc->bhwHW", q, k) * 6**-0.5
        w = nn.softmax(w.reshape(*w.shape[:3], -1)).reshape(w.shape)
        low = low + nn.Conv(6, (1, 1))(jnp.einsum("bhwHW,bHWc->bhwc", w, v))
        up = jax.image.resize(low, (*h.shape[:3], 6), "nearest")
        return nn.Conv(2, (3, 3))(jnp.concatenate([nn.Conv(4, (3, 3))(up), first], -1))


class EfficientNet(nn.Module):
    """An inverted bottleneck with squeeze and excitation, norms written out."""

    @nn.compact
    def __call__(self, x):
        def norm(x, name):
            scale, shift, mean, var = (
                self.param(f"{name}_{kind}", nn.initializers.ones, (x.shape[-1],))
                for kind in ("scale", "bias", "mean", "var")
            )
            gain = jax.lax.rsqrt(var + 1e-3) * scale
            return (x - mean.reshape(1, 1, 1, -1)) * gain.reshape(
                1, 1, 1, -1
            ) + shift.reshape(1, 1, 1, -1)

        x = nn.Conv(4, (3, 3), use_bias=False)(x)
        h = nn.silu(norm(nn.Conv(8, (1, 1), use_bias=False)(x), "expand"))
        h = nn.Conv(8, (3, 3), feature_group_count=8, use_bias=False)(h)
        h = nn.silu(norm(h, "depthwise"))
        gate = nn.silu(nn.Conv(3, (1, 1))(h.mean((1, 2), keepdims=True)))
        h = h * nn.sigmoid(nn.Conv(8, (1, 1))(gate))
        return D(2)((x + norm(nn.Conv(4, (1, 1))(h), "project")).mean((1, 2)))


class WaveNet(nn.Module):
    """Causal dilated convolutions with gates."""

    @nn.compact
    def __call__(self, x):
        skips = []
        x = nn.Conv(4, (1,))(x)
        for dilation in (1, 2):
            h = nn.Conv(8, (2,), kernel_dilation=dilation, padding="CAUSAL")(x)
            h = nn.tanh(h[..., :4]) * nn.sigmoid(h[..., 4:])
            skips.append(nn.Conv(3, (1,))(h))
            x = x + nn.Conv(4, (1,))(h)
        return nn.Conv(2, (1,))(nn.relu(functools.reduce(jnp.add, skips)))


class GraphAttention(nn.Module):
    """Attention along the edges of a fixed graph."""

    @nn.compact
    def __call__(self, x):
        edges = (np.eye(4) + np.eye(4, k=1) + np.eye(4, k=-1)) > 0
        x = D(5)(x)
        scores = D(1)(x) + jnp.swapaxes(D(1)(x), 1, 2)
        scores = jnp.where(edges[None], nn.leaky_relu(scores), -1e9)
        return D(2)(nn.elu(nn.softmax(scores) @ x).mean(1))


class PointNet(nn.Module):
    """A transformation per cloud, then shared layers and a maximum."""

    @nn.compact
    def __call__(self, x):
        size = x.shape[-1]
        turn = D(size * size)(nn.relu(D(4)(x)).max(1)).reshape(-1, size, size)
        x = jnp.einsum("btc,bcd->btd", x, turn + jnp.eye(size)[None])
        return D(2)(nn.relu(D(5)(x)).max(1))


class Autoencoder(nn.Module):
    """A variational autoencoder; the noise is an input."""

    @nn.compact
    def __call__(self, x, noise):
        h = nn.relu(D(5)(x))
        mean, log_variance = D(3)(h), D(3)(h)
        code = mean + jnp.exp(0.5 * log_variance) * noise
        loss = -0.5 * jnp.sum(
            1 + log_variance - jnp.square(mean) - jnp.exp(log_variance), axis=-1
        )
        return nn.sigmoid(D(4)(nn.relu(D(5)(code)))), loss


class Dueling(nn.Module):
    """Advantages around their mean."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(D(5)(x))
        value, advantage = D(1)(nn.relu(D(4)(x))), D(3)(nn.relu(D(4)(x)))
        return value + advantage - advantage.mean(-1, keepdims=True)


class Perceiver(nn.Module):
    """Latent units attend to inputs, then to each other."""

    @nn.compact
    def __call__(self, x):
        latents = self.param("latents", nn.initializers.normal(), (3, 6))
        z = jnp.broadcast_to(latents[None], (len(x), 3, 6))
        z = z + nn.MultiHeadDotProductAttention(1)(nn.LayerNorm()(z), x)
        z = z + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(z))
        return D(2)(z.mean(1))


class StateSpace(nn.Module):
    """A diagonal recurrence, by a scan over time."""

    @nn.compact
    def __call__(self, x):
        x = D(4)(x)
        decay = nn.sigmoid(self.param("decay", nn.initializers.normal(), (4,)))

        def step(state, inputs):
            state = decay[None] * state + inputs
            return state, state

        _, states = jax.lax.scan(step, jnp.zeros_like(x[:, 0]), jnp.swapaxes(x, 0, 1))
        return D(2)(jnp.swapaxes(states, 0, 1) * nn.silu(D(4)(x)))


class Translator(nn.Module):
    """An encoder and a decoder, masks of padding from tokens."""

    @nn.compact
    def __call__(self, source, target):
        embed = nn.Embed(9, 6)
        x, y = embed(source), embed(target)
        padding = nn.make_attention_mask(source > 0, source > 0)
        x = nn.LayerNorm()(x + nn.MultiHeadDotProductAttention(2)(x, mask=padding))
        causal = nn.combine_masks(
            nn.make_attention_mask(target > 0, target > 0), nn.make_causal_mask(target)
        )
        y = nn.LayerNorm()(y + nn.MultiHeadDotProductAttention(2)(y, mask=causal))
        across = nn.make_attention_mask(target > 0, source > 0)
        y = y + nn.MultiHeadDotProductAttention(2)(y, x, mask=across)
        return D(9)(nn.relu(D(7)(nn.LayerNorm()(y))))


class Classifier(nn.Module):
    """Recurrent states in both directions, with attention over them."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, 4)(tokens)
        x = nn.Bidirectional(nn.RNN(nn.LSTMCell(3)), nn.RNN(nn.LSTMCell(3)))(x)
        scores = D(1, use_bias=False)(nn.tanh(D(4)(x)))[..., 0]
        scores = jnp.where(tokens > 0, scores, -jnp.inf)
        return D(2)(jnp.einsum("bt,btd->bd", nn.softmax(scores), x))


class Switch(nn.Module):
    """The experts of one layer, of which the best is used."""

    @nn.compact
    def __call__(self, x):
        weights = self.param("wi", nn.initializers.normal(), (3, 6, 5))
        out = self.param("wo", nn.initializers.normal(), (3, 5, 6))
        logits = nn.softmax(D(3, use_bias=False)(x))
        chosen = jax.nn.one_hot(jnp.argmax(logits, -1), 3)
        hidden = nn.relu(jnp.einsum("btd,edf->btef", x, weights))
        mixed = jnp.einsum("btef,efd->bted", hidden, out)
        return D(2)(x + jnp.einsum("bted,bte->btd", mixed, chosen * logits))


def _draw(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


class Written(nn.Module):
    """A function of a module and inputs as a model."""

    body: Callable

    @nn.compact
    def __call__(self, *inputs):
        return self.body(self, *inputs)


class Family(NamedTuple):
    """A model and its inputs."""

    model: nn.Module
    inputs: tuple[Any, ...]


IMAGES, SEQUENCES, VECTORS = _draw(2, 4, 4, 3), _draw(2, 4, 6), _draw(2, 4)
TIMES = np.array([0.1, 0.7], np.float32)
PLACES = np.random.default_rng(5).normal(size=(2, 4, 2)).astype(np.float32)
TOKENS = np.array([[1, 4, 2, 0], [3, 3, 1, 4]])
ITEMS = np.array([[1, 4], [3, 2]])


def _written(module, table):
    return {
        name: Family(Written(getattr(module, function)), inputs)
        for name, (function, inputs) in table.items()
    }


MODELS = {
    "GPT": Family(GPT(), (TOKENS,)),
    "BERT": Family(BERT(), (TOKENS, (TOKENS > 0).astype(np.int32))),
    "Llama": Family(Llama(), (SEQUENCES,)),
    "ViT": Family(ViT(), (IMAGES,)),
    "Swin": Family(Swin(), (IMAGES,)),
    "DDPM": Family(Diffusion(), (IMAGES, TIMES)),
    "EfficientNet": Family(EfficientNet(), (IMAGES,)),
    "WaveNet": Family(WaveNet(), (SEQUENCES,)),
    "graph attention": Family(GraphAttention(), (SEQUENCES,)),
    "PointNet": Family(PointNet(), (SEQUENCES,)),
    "variational autoencoder": Family(Autoencoder(), (VECTORS, _draw(2, 3))),
    "dueling network": Family(Dueling(), (VECTORS,)),
    "Perceiver": Family(Perceiver(), (SEQUENCES,)),
    "S4D": Family(StateSpace(), (SEQUENCES,)),
    "WMT transformer": Family(Translator(), (TOKENS, TOKENS[:, :3])),
    "LSTM with attention": Family(Classifier(), (TOKENS,)),
    "Switch transformer": Family(Switch(), (SEQUENCES,)),
    **_written(
        vision_models,
        {
            "LeNet": ("lenet", (IMAGES,)),
            "VGG": ("vgg", (IMAGES,)),
            "ResNet": ("resnet", (IMAGES,)),
            "BiT": ("big_transfer", (IMAGES,)),
            "DenseNet": ("densenet", (IMAGES,)),
            "Inception": ("inception", (IMAGES,)),
            "MobileNet": ("mobilenet", (IMAGES,)),
            "ShuffleNet": ("shufflenet", (IMAGES,)),
            "ConvNeXt": ("convnext", (IMAGES,)),
            "feature pyramid": ("feature_pyramid", (IMAGES,)),
            "DeepLab": ("atrous_pooling", (IMAGES,)),
            "YOLO": ("detector", (IMAGES,)),
            "DCGAN generator": ("generator", (VECTORS,)),
            "SNGAN discriminator": ("discriminator", (IMAGES,)),
            "StyleGAN": ("modulated", (VECTORS,)),
            "EDSR": ("residual_upsampling", (IMAGES,)),
            "VQ-VAE, by products": ("quantised", (VECTORS,)),
            "VQ-VAE, by places": ("quantised_by_index", (VECTORS,)),
            "NeRF": ("nerf", (_draw(2, 3), _draw(2, 3))),
            "SIREN": ("siren", (VECTORS,)),
            "PINN": ("physics_informed", (VECTORS,)),
            "score field": ("score_field", (VECTORS, TIMES)),
            "DiT": ("diffusion_transformer", (SEQUENCES, TIMES)),
            "MLP-Mixer": ("mixer", (IMAGES,)),
            "gMLP": ("gated_mlp", (SEQUENCES,)),
            "PoolFormer": ("pool_former", (IMAGES,)),
            "MaskFormer": ("segmenter", (IMAGES,)),
            "capsules": ("capsules", (SEQUENCES,)),
            "shifts": ("neighbours_by_shift", (IMAGES,)),
            "CoordConv": ("coordinates", (IMAGES,)),
            "local convolutions": ("local", (IMAGES,)),
        },
    ),
    **_written(
        sequence_models,
        {
            "T5": ("t5", (TOKENS,)),
            "ALBERT": ("albert", (TOKENS,)),
            "BLOOM": ("bloom", (TOKENS,)),
            "Mistral": ("mistral", (SEQUENCES,)),
            "Gemma": ("gemma", (TOKENS,)),
            "Mixtral": ("mixtral", (SEQUENCES,)),
            "GPT-J": ("gptj", (SEQUENCES,)),
            "normed queries and keys": ("query_key_norm", (SEQUENCES,)),
            "CLIP": ("clip", (IMAGES, TOKENS)),
            "Whisper": ("whisper", (SEQUENCES, TOKENS)),
            "wav2vec": ("wav2vec", (SEQUENCES,)),
            "Conformer": ("conformer", (SEQUENCES,)),
            "seq2seq": ("translation", (TOKENS, TOKENS[:, :3])),
            "ConvLSTM": ("convolutional_memory", (_draw(2, 2, 3, 3, 2),)),
            "TCN": ("temporal_convolutions", (SEQUENCES,)),
            "DeepSpeech": ("speech", (SEQUENCES,)),
            "RWKV": ("receptance", (SEQUENCES,)),
            "Mamba": ("mamba", (SEQUENCES,)),
            "minGRU": ("minimal_gate", (SEQUENCES,)),
            "RetNet": ("retention", (SEQUENCES,)),
            "Linformer": ("linformer", (SEQUENCES,)),
            "Performer": ("performer", (SEQUENCES,)),
            "FNet": ("fourier_mixing", (SEQUENCES,)),
            "bag of words": ("bag_of_words", (TOKENS,)),
            "LoRA and adapters": ("adapters", (SEQUENCES,)),
            "Set Transformer": ("set_transformer", (SEQUENCES,)),
            "Decision Transformer": (
                "decision_transformer",
                (_draw(2, 2, 1), _draw(2, 2, 3), _draw(2, 2, 2)),
            ),
        },
    ),
    **_written(
        other_models,
        {
            "GCN": ("graph_convolutions", (SEQUENCES,)),
            "GraphSAGE": ("sage", (SEQUENCES,)),
            "GIN": ("isomorphism_network", (SEQUENCES,)),
            "MPNN": ("message_passing", (SEQUENCES, _draw(2, 5, 2))),
            "SchNet": ("schnet", (SEQUENCES, PLACES)),
            "EGNN": ("equivariant_network", (SEQUENCES, PLACES)),
            "DeepSets": ("deep_sets", (SEQUENCES,)),
            "relation network": ("relation_network", (SEQUENCES,)),
            "matrix factorisation": ("factorisation", (ITEMS[:, 0], ITEMS[:, 1])),
            "factorisation machine": ("factorisation_machine", (VECTORS,)),
            "DLRM": ("recommender", (VECTORS, ITEMS)),
            "deep and cross": ("deep_and_cross", (VECTORS,)),
            "FT-Transformer": ("feature_tokens", (VECTORS,)),
            "KAN": ("kan", (VECTORS,)),
            "DQN": ("q_network", (IMAGES,)),
            "PPO": ("actor_critic", (VECTORS,)),
            "SAC actor": ("soft_actor", (VECTORS, _draw(2, 2))),
            "SAC critics": ("twin_critics", (VECTORS, _draw(2, 2))),
            "Dreamer": ("world_model", (VECTORS, _draw(2, 4))),
            "RealNVP": ("coupling_flow", (VECTORS,)),
            "MADE": ("autoregressive", (VECTORS,)),
            "planar flow": ("planar_flow", (VECTORS,)),
            "neural ODE": ("ode", (VECTORS,)),
            "equilibrium": ("equilibrium", (VECTORS,)),
            "hypernetwork": ("hyper_network", (VECTORS, _draw(2, 3))),
            "siamese": ("siamese", (VECTORS, _draw(2, 4))),
            "prototypes": ("prototypes", (VECTORS,)),
            "mixture density": ("mixture_density", (VECTORS,)),
            "soft tree": ("soft_tree", (VECTORS,)),
            "ensemble": ("ensemble", (VECTORS,)),
            "highway": ("highway", (VECTORS,)),
            "key-value memory": ("memory", (VECTORS,)),
        },
    ),
}
