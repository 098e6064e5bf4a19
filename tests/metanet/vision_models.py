"""Families of public models of images and fields in tiny configurations.

Each is a function of the module that holds its parameters, and of inputs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

D, C = nn.Dense, nn.Conv


def batch_norm(x):
    return nn.BatchNorm(use_running_average=True)(x)


def group_norm(x, num_groups=2):
    return nn.GroupNorm(num_groups)(x)


def lenet(m, x):
    x = nn.avg_pool(nn.relu(C(3, (3, 3))(x)), (2, 2), (2, 2))
    x = nn.relu(D(5)(x.reshape(len(x), -1)))
    return nn.log_softmax(D(2)(x))


def vgg(m, x):
    for width in (3, 4):
        x = nn.max_pool(nn.relu(batch_norm(C(width, (3, 3))(x))), (2, 2), (2, 2))
    return D(2)(nn.relu(D(5)(x.reshape(len(x), -1))))


def resnet(m, x):
    x = nn.relu(batch_norm(C(4, (3, 3), use_bias=False)(x)))
    for stride in (1, 2):
        y = nn.relu(batch_norm(C(3, (3, 3), stride, use_bias=False)(x)))
        y = batch_norm(C(4, (1, 1), use_bias=False)(y))
        skip = x if stride == 1 else batch_norm(C(4, (1, 1), stride)(x))
        x = nn.relu(skip + y)
    return D(2)(x.mean((1, 2)))


class StdConv(C):
    """A convolution whose kernels are standardised."""

    def param(self, name, *args, **kwargs):
        value = super().param(name, *args, **kwargs)
        if name == "kernel":
            value = value - value.mean((0, 1, 2), keepdims=True)
            value = value / (value.std((0, 1, 2), keepdims=True) + 1e-5)
        return value


def big_transfer(m, x):
    x = StdConv(4, (2, 2))(x)
    y = StdConv(2, (2, 2))(nn.relu(group_norm(x)))
    return D(2)((x + C(4, (1, 1))(nn.relu(y))).mean((1, 2)))


def densenet(m, x):
    for _ in range(2):
        new = C(2, (3, 3))(nn.relu(batch_norm(C(4, (1, 1))(nn.relu(batch_norm(x))))))
        x = jnp.concatenate([x, new], -1)
    return D(2)(nn.relu(batch_norm(x)).mean((1, 2)))


def inception(m, x):
    pooled = nn.max_pool(x, (3, 3), padding="SAME")
    parts = [C(2, (1, 1))(x), C(3, (3, 3))(nn.relu(C(2, (1, 1))(x))), C(2, (1, 1))(
        pooled)]  # fmt: skip
    return D(2)(nn.relu(jnp.concatenate(parts, -1)).mean((1, 2)))


def mobilenet(m, x):
    x = nn.hard_swish(C(3, (3, 3), strides=2)(x))
    h = nn.relu6(batch_norm(C(6, (1, 1))(x)))
    h = nn.hard_swish(batch_norm(C(6, (3, 3), feature_group_count=6)(h)))
    gate = nn.hard_sigmoid(D(6)(nn.relu(D(2)(h.mean((1, 2), keepdims=True)))))
    return D(2)((x + batch_norm(C(3, (1, 1))(h * gate))).mean((1, 2)))


def shufflenet(m, x):
    def shuffle(x):
        x = x.reshape(*x.shape[:3], 2, -1).swapaxes(-1, -2)
        return x.reshape(*x.shape[:3], -1)

    x = C(4, (1, 1))(x)
    left, right = jnp.split(x, 2, -1)
    right = C(2, (3, 3), feature_group_count=2)(nn.relu(C(2, (1, 1))(right)))
    x = shuffle(jnp.concatenate([left, nn.relu(right)], -1))
    return D(2)(nn.relu(C(4, (1, 1))(x)).mean((1, 2)))


def convnext(m, x):
    x = nn.LayerNorm()(C(4, (2, 2), (2, 2))(x))
    h = nn.LayerNorm()(C(4, (3, 3), feature_group_count=4)(x))
    h = D(4)(nn.gelu(D(6)(h)))
    scale = m.param("layer_scale", nn.initializers.constant(0.1), (4,))
    return D(2)(nn.LayerNorm()((x + scale.reshape(1, 1, 1, -1) * h).mean((1, 2))))


def feature_pyramid(m, x):
    fine = nn.relu(C(3, (3, 3))(x))
    coarse = nn.relu(C(4, (3, 3), strides=2)(fine))
    top = C(3, (1, 1))(coarse)
    up = jax.image.resize(top, (len(x), 4, 4, 3), "nearest") + C(3, (1, 1))(fine)
    head = C(2, (1, 1))
    return head(up), head(top)


def atrous_pooling(m, x):
    x = C(3, (3, 3))(x)
    parts = [C(2, (3, 3), kernel_dilation=rate)(x) for rate in (1, 2)]
    pooled = C(2, (1, 1))(x.mean((1, 2), keepdims=True))
    parts.append(jnp.broadcast_to(pooled, (len(x), 4, 4, 2)))
    x = nn.relu(C(2, (1, 1))(jnp.concatenate(parts, -1)))
    return jax.image.resize(x, (len(x), 8, 8, 2), "bilinear")


def detector(m, x):
    x = nn.leaky_relu(batch_norm(C(4, (3, 3), strides=2)(x)), 0.1)
    x = C(6, (1, 1))(x)
    return jnp.concatenate(
        [nn.sigmoid(x[..., :2]), jnp.exp(x[..., 2:4]), x[..., 4:]], -1
    )


def generator(m, x):
    x = nn.relu(batch_norm(D(2 * 2 * 4)(x).reshape(len(x), 2, 2, 4)))
    return nn.tanh(nn.ConvTranspose(3, (4, 4), (2, 2))(x))


def discriminator(m, x):
    x = nn.SpectralNorm(C(4, (3, 3), strides=2))(x, update_stats=False)
    return D(1)(nn.leaky_relu(x, 0.2).reshape(len(x), -1))


def modulated(m, z):
    """Weights that are scaled by a style, as one product per example."""
    style = nn.leaky_relu(D(4)(z), 0.2)
    start = m.param("start", nn.initializers.normal(), (1, 4, 4, 3))
    scale = (1 + D(3)(style))[:, None, None]
    x = C(4, (3, 3), use_bias=False)(start * scale)
    kernel = m.param("to_rgb", nn.initializers.normal(), (4, 3))
    return nn.leaky_relu(x, 0.2) @ kernel


def residual_upsampling(m, x):
    """Super-resolution: blocks without norms, then a pixel shuffle."""
    x = C(3, (3, 3))(x)
    x = x + 0.1 * C(3, (3, 3))(nn.relu(C(4, (3, 3))(x)))
    x = C(8, (1, 1))(x).reshape(len(x), 4, 4, 2, 2, 2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), 8, 8, 2)


def quantised(m, x):
    """An autoencoder whose code is the nearest entry of a table."""
    code = D(3)(nn.relu(D(5)(x)))
    book = m.param("codes", nn.initializers.normal(), (4, 3))
    distance = jnp.square(code[:, None] - book[None]).sum(-1)
    chosen = jax.nn.one_hot(jnp.argmin(distance, -1), 4) @ book
    return D(4)(nn.relu(D(5)(code + jax.lax.stop_gradient(chosen - code))))


def quantised_by_index(m, x):
    code = D(3)(nn.relu(D(5)(x)))
    book = m.param("codes", nn.initializers.normal(), (4, 3))
    distance = (code**2).sum(-1, keepdims=True) - 2 * code @ book.T
    nearest = jnp.argmin(distance + (book**2).sum(-1)[None], -1)
    return D(4)(nn.relu(D(5)(book[nearest])))


def nerf(m, points, directions):
    def encode(x, count):
        angles = (
            x[..., None] * 2.0 ** np.arange(count)[None, None].astype("f4")
        ).reshape(len(x), -1)
        return jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)], -1)

    encoded = encode(points, 2)
    h = nn.relu(D(5)(nn.relu(D(5)(encoded))))
    h = nn.relu(D(5)(jnp.concatenate([h, encoded], -1)))
    density = nn.relu(D(1)(h))
    h = jnp.concatenate([D(4)(h), encode(directions, 1)], -1)
    return jnp.concatenate([nn.sigmoid(D(3)(nn.relu(D(4)(h)))), density], -1)


def siren(m, x):
    for _ in range(2):
        x = jnp.sin(30.0 * D(5)(x))
    return D(1)(x)


def physics_informed(m, x):
    """A field and its derivative by the first coordinate."""
    first, second = D(5), D(1)

    def field(x):
        return second(nn.tanh(first(x)))

    value, slope = nn.jvp(lambda _, x: field(x), m, (x,), (jnp.ones_like(x),), {})
    return jnp.concatenate([value, slope], -1)


def score_field(m, x, t):
    frequencies = m.param("frequencies", nn.initializers.normal(), (3,))
    angles = 2 * np.pi * t[:, None] * jax.lax.stop_gradient(frequencies)[None]
    time = D(5)(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1))
    return D(4)(nn.silu(D(5)(x) + time)) / (0.1 + t[:, None])


def diffusion_transformer(m, x, t):
    def modulate(x, shift, scale):
        return nn.LayerNorm(use_bias=False, use_scale=False)(x) * (
            1 + scale[:, None]) + shift[:, None]  # fmt: skip

    angles = t[:, None] * np.array([1.0, 0.1])[None]
    time = nn.silu(D(4)(jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)))
    x = D(4)(x)
    parts = jnp.split(D(24)(time), 6, -1)
    h = nn.MultiHeadDotProductAttention(2)(modulate(x, parts[0], parts[1]))
    x = x + parts[2][:, None] * h
    h = D(4)(nn.gelu(D(6)(modulate(x, parts[3], parts[4]))))
    return D(6)(x + parts[5][:, None] * h)


def mixer(m, x):
    x = C(6, (2, 2), (2, 2))(x).reshape(len(x), 4, 6)
    y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
    x = x + jnp.swapaxes(D(4)(nn.gelu(D(5)(y))), 1, 2)
    x = x + D(6)(nn.gelu(D(7)(nn.LayerNorm()(x))))
    return D(2)(nn.LayerNorm()(x).mean(1))


def gated_mlp(m, x):
    h = nn.gelu(D(8)(nn.LayerNorm()(x)))
    left, right = jnp.split(h, 2, -1)
    right = jnp.swapaxes(D(4)(jnp.swapaxes(nn.LayerNorm()(right), 1, 2)), 1, 2)
    return D(2)(x + D(6)(left * (right + 1)))


def pool_former(m, x):
    x = C(4, (1, 1))(x)
    normed = group_norm(x, 1)
    x = x + nn.avg_pool(normed, (3, 3), padding="SAME") - normed
    return D(2)((x + D(4)(nn.gelu(D(5)(group_norm(x, 1))))).mean((1, 2)))


def segmenter(m, x):
    """Queries of a table against pixels."""
    pixels = C(4, (3, 3))(x)
    queries = m.param("queries", nn.initializers.normal(), (3, 4))
    keys = pixels.reshape(len(x), -1, 4)
    q = jnp.broadcast_to(queries[None], (len(x), 3, 4))
    q = q + nn.MultiHeadDotProductAttention(1)(q, keys)
    return jnp.einsum("bqc,bhwc->bqhw", D(4)(q), pixels), D(2)(q)


def capsules(m, x):
    """Routing by agreement, three times."""
    weights = m.param("weights", nn.initializers.normal(), (4, 3, 6, 2))
    votes = jnp.einsum("bif,ijfc->bijc", x, weights)
    logits = jnp.zeros(votes.shape[:3])
    for _ in range(2):
        s = (nn.softmax(logits, 2)[..., None] * votes).sum(1)
        norm = jnp.square(s).sum(-1, keepdims=True)
        v = norm / (1 + norm) * s / jnp.sqrt(norm + 1e-6)
        logits = logits + (votes * v[:, None]).sum(-1)
    return jnp.sqrt(jnp.square(v).sum(-1) + 1e-6)


def neighbours_by_shift(m, x):
    """Learned weights per direction, by rolls."""
    x = D(3)(x)
    shifts = [jnp.roll(x, s, a) for a in (1, 2) for s in (-1, 1)]
    return D(2)(nn.relu(sum(D(4)(s) for s in shifts)))


def coordinates(m, x):
    """Convolutions that see where they are."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 4)] * 2), -1).astype(np.float32)
    grid = jnp.broadcast_to(grid[None], (len(x), 4, 4, 2))
    return D(2)(nn.relu(C(4, (1, 1))(jnp.concatenate([x, grid], -1))).max((1, 2)))


def local(m, x):
    return D(2)(nn.relu(nn.ConvLocal(3, (2, 2), padding="VALID")(x)).mean((1, 2)))
