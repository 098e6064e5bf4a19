"""Families of public models of graphs, tables, decisions and densities, tiny.

Each is a function of the module that holds its parameters, and of inputs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

D = nn.Dense
SENDERS, RECEIVERS = np.array([0, 1, 1, 2, 3]), np.array([1, 0, 2, 3, 1])


def gather(x, places):
    return x[:, places]


def aggregate(messages):
    return jax.vmap(lambda row: jax.ops.segment_sum(row, RECEIVERS, 4))(messages)


def graph_convolutions(m, x):
    adjacency = np.eye(4)
    adjacency[RECEIVERS, SENDERS] = 1
    degree = adjacency.sum(1)
    norm = (adjacency / np.sqrt(np.outer(degree, degree))).astype("f4")
    for width in (5, 3):
        x = nn.relu(jnp.einsum("vw,bwc->bvc", norm, D(width)(x)))
    return D(2)(x)


def sage(m, x):
    count = np.bincount(RECEIVERS, minlength=4)[None, :, None].astype("f4")
    for width in (4, 3):
        mean = aggregate(gather(x, SENDERS)) / np.maximum(count, 1)
        x = nn.relu(D(width)(x) + D(width, use_bias=False)(mean))
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-6)


def isomorphism_network(m, x):
    level = m.param("eps", nn.initializers.zeros, ())
    x = (1 + level) * x + aggregate(gather(x, SENDERS))
    return D(2)(nn.relu(D(5)(x)).sum(1))


def message_passing(m, x, edges):
    x = D(4)(x)
    ends = [gather(x, SENDERS), gather(x, RECEIVERS), edges]
    messages = D(4)(nn.relu(D(5)(jnp.concatenate(ends, -1))))
    x = x + D(4)(nn.relu(aggregate(messages)))
    return D(1)(x.sum(1))


def schnet(m, x, places):
    difference = places[:, SENDERS] - places[:, RECEIVERS]
    distance = jnp.sqrt(jnp.square(difference).sum(-1, keepdims=True) + 1e-6)
    basis = jnp.exp(-10 * jnp.square(distance - np.linspace(0, 2, 3)[None, None]))
    filters = D(4)(nn.softplus(D(4)(basis)))
    x = D(4)(x)
    x = x + D(4)(aggregate(gather(x, SENDERS) * filters))
    return D(1)(nn.softplus(x)).sum(1)


def equivariant_network(m, x, places):
    x = D(3)(x)
    difference = places[:, SENDERS] - places[:, RECEIVERS]
    squared = jnp.square(difference).sum(-1, keepdims=True)
    ends = [gather(x, SENDERS), gather(x, RECEIVERS), squared]
    messages = nn.silu(D(4)(jnp.concatenate(ends, -1)))
    places = places + aggregate(difference * D(1)(messages))
    return x + D(3)(nn.silu(aggregate(messages))), places


def deep_sets(m, x):
    x = nn.relu(D(5)(x) - D(5, use_bias=False)(x.max(1, keepdims=True)))
    return D(2)(nn.relu(D(4)(x.sum(1))))


def relation_network(m, x):
    size, count = x.shape[-1], x.shape[1]
    shape = (len(x), count, count, size)
    left, right = (jnp.broadcast_to(a, shape) for a in (x[:, :, None], x[:, None]))
    pairs = nn.relu(D(5)(jnp.concatenate([left, right], -1)))
    return D(2)(nn.relu(D(4)(pairs.sum((1, 2)))))


def factorisation(m, users, items):
    left, right = nn.Embed(5, 3)(users), nn.Embed(6, 3)(items)
    return (left * right).sum(-1, keepdims=True) + nn.Embed(5, 1)(users)


def factorisation_machine(m, x):
    table = m.param("factors", nn.initializers.normal(), (4, 3))
    squares = jnp.square(x @ table) - jnp.square(x) @ jnp.square(table)
    return D(1)(x) + 0.5 * squares.sum(-1, keepdims=True)


def recommender(m, dense, items):
    bottom = nn.relu(D(3)(dense))
    parts = [bottom, *(nn.Embed(5, 3)(items[:, i]) for i in range(2))]
    stacked = jnp.stack(parts, 1)
    products = jnp.einsum("bic,bjc->bij", stacked, stacked)
    pairs = products[:, np.array([0, 0, 1]), np.array([1, 2, 2])]
    return nn.sigmoid(D(1)(nn.relu(D(4)(jnp.concatenate([bottom, pairs], -1)))))


def deep_and_cross(m, x):
    y = x
    for _ in range(2):
        y = x * D(1)(y) + y
    return D(1)(jnp.concatenate([y, nn.relu(D(5)(x))], -1))


def feature_tokens(m, x):
    weight, bias = (
        m.param(name, nn.initializers.normal(), (4, 6)) for name in ("weight", "bias")
    )
    x = x[..., None] * weight[None] + bias[None]
    x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
    return D(2)(nn.relu(nn.LayerNorm()(x)).mean(1))


def kan(m, x):
    def layer(x, name, width):
        centers = np.linspace(-1, 1, 3).astype(np.float32)
        basis = nn.relu(1 - jnp.abs(x[..., None] - centers[None, None]))
        shape = (x.shape[-1], 3, width)
        weights = m.param(name, nn.initializers.normal(), shape)
        return jnp.einsum("bik,iko->bo", basis, weights) + D(width)(nn.silu(x))

    return layer(layer(x, "first", 5), "second", 2)


def q_network(m, x):
    x = nn.relu(nn.Conv(3, (2, 2), strides=2)(x / 255.0))
    return D(3)(nn.relu(D(5)(x.reshape(len(x), -1))))


def actor_critic(m, x):
    x = nn.tanh(D(5)(x))
    return nn.log_softmax(D(3)(x)), D(1)(x)[:, 0]


def soft_actor(m, x, noise):
    x = nn.relu(D(5)(nn.relu(D(5)(x))))
    mean, spread = D(2)(x), jnp.clip(D(2)(x), -20, 2)
    action = mean + jnp.exp(spread) * noise
    density = -0.5 * jnp.square(noise) - spread - jnp.log1p(-(jnp.tanh(action) ** 2))
    return jnp.tanh(action), density.sum(-1)


def twin_critics(m, x, action):
    x = jnp.concatenate([x, action], -1)
    values = [D(1)(nn.relu(D(5)(x))) for _ in range(2)]
    return jnp.minimum(*values)


def world_model(m, x, state):
    carry, _ = nn.GRUCell(4)(state, nn.elu(D(4)(x)))
    logits = D(6)(nn.elu(D(4)(carry))).reshape(len(x), 2, 3)
    probabilities = 0.99 * nn.softmax(logits) + 0.01 / 3
    return carry, D(4)(jnp.concatenate([carry, probabilities.reshape(len(x), -1)], -1))


def coupling_flow(m, x):
    total = 0.0
    for flip in (False, True):
        first, second = jnp.split(x, 2, -1)
        first, second = (second, first) if flip else (first, second)
        scale = nn.tanh(D(2)(nn.relu(D(4)(first))))
        second = second * jnp.exp(scale) + D(2)(nn.relu(D(4)(first)))
        total = total + scale.sum(-1)
        x = jnp.concatenate([second, first] if flip else [first, second], -1)
    return x, total


class MaskedDense(nn.Module):
    mask: np.ndarray

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.normal(), self.mask.shape)
        return x @ (kernel * self.mask)


def autoregressive(m, x):
    """Masks that let an output see the inputs before it."""
    degrees = np.array([1, 2, 3, 1, 2])
    first = (np.arange(1, 5)[:, None] <= degrees[None]).astype("f4")
    last = (degrees[:, None] < np.arange(1, 5)[None]).astype("f4")
    return MaskedDense(last)(nn.relu(MaskedDense(first)(x)))


def planar_flow(m, x):
    direction, scale = (
        m.param(name, nn.initializers.normal(), (4,)) for name in ("w", "u")
    )
    return x + scale[None] * jnp.tanh(x @ direction[:, None])


def ode(m, x):
    """Steps of Runge and Kutta with one network."""
    first, second = D(5), D(4)

    def field(x):
        return second(nn.tanh(first(x)))

    for _ in range(2):
        middle = x + 0.05 * field(x)
        x = x + 0.1 * field(middle)
    return D(2)(x)


def equilibrium(m, x):
    weights = m.param("weights", nn.initializers.normal(), (5, 5))
    inflow = D(5)(x)
    z = jax.lax.fori_loop(
        0, 4, lambda _, z: jnp.tanh(z @ weights + inflow), jnp.zeros_like(inflow)
    )
    return D(2)(z)


def hyper_network(m, x, context):
    first = D(12)(nn.relu(D(4)(context))).reshape(len(x), 4, 3)
    second = D(6)(nn.relu(D(4)(context))).reshape(len(x), 3, 2)
    return jnp.einsum("bh,bho->bo", nn.relu(jnp.einsum("bi,bih->bh", x, first)), second)


def siamese(m, left, right):
    first, second = D(5), D(3)
    left, right = (second(nn.relu(first(a))) for a in (left, right))
    return D(1)(jnp.abs(left - right))


def prototypes(m, x):
    x = D(3)(nn.relu(D(5)(x)))
    centres = m.param("centres", nn.initializers.normal(), (4, 3))
    return nn.log_softmax(-jnp.square(x[:, None] - centres[None]).sum(-1))


def mixture_density(m, x):
    x = nn.tanh(D(5)(x))
    return nn.softmax(D(3)(x)), D(3)(x), jnp.exp(D(3)(x))


def soft_tree(m, x):
    """Decisions of a tree of depth two, weighted."""
    turn = nn.sigmoid(D(3)(x))
    root, left, right = turn[:, 0], turn[:, 1], turn[:, 2]
    leaves = jnp.stack(
        [root * left, root * (1 - left), (1 - root) * right, (1 - root) * (1 - right)],
        -1,
    )
    return leaves @ m.param("leaves", nn.initializers.normal(), (4, 2))


def ensemble(m, x):
    """Members of one shape, averaged."""
    members = nn.vmap(
        D, in_axes=None, out_axes=1, axis_size=3, variable_axes={"params": 0},
        split_rngs={"params": True},
    )  # fmt: skip
    hidden = nn.relu(members(4)(x))
    last = m.param("last", nn.initializers.normal(), (3, 4, 2))
    return jnp.einsum("bmh,mho->bmo", hidden, last).mean(1)


def highway(m, x):
    x = D(5)(x)
    gate = nn.sigmoid(D(5)(x))
    return D(2)(gate * nn.relu(D(5)(x)) + (1 - gate) * x)


def memory(m, x):
    """Reads from a table by similarity."""
    keys = m.param("keys", nn.initializers.normal(), (5, 3))
    values = m.param("values", nn.initializers.normal(), (5, 4))
    query = D(3)(x)
    norm = jnp.linalg.norm(query, axis=-1, keepdims=True)
    scores = query @ keys.T / (norm * jnp.linalg.norm(keys, axis=-1)[None] + 1e-6)
    return D(2)(nn.softmax(5.0 * scores) @ values)
