"""Networks per second of zoo training, and what a metanetwork's training step costs.

    python -m benchmarks.zoo

First the networks of a zoo, the same ones for the same number of steps, in four ways:
one after another by a loop over compiled training steps, as one would write it for a
single network; in one call, one by one; the same in as many threads as there are cores,
as zoos of classifiers are made on a CPU; in one call, side by side. Sine networks, and
image-like classifiers that draw minibatches, with batch normalisation and dropout. Then
one contrastive training step on sine networks, its arithmetic (twice the multiply-adds
of the linear maps, three passes) against what one large matrix product reaches on the
same machine. Compilation is not timed.
"""

import functools
import os
from collections.abc import Callable
from concurrent import futures

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks import timing
from experiments import common
from experiments.metanet_sine import config as config_lib
from experiments.metanet_sine import train
from experiments.metanet_sine.learner import Learner
from modmeta.metanet import zoo
from modmeta.metanet.input_networks import architectures
from modmeta.metanet.zoo import sine

_NETWORKS = flags.DEFINE_integer("networks", 128, "Networks at once.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 50, "Training steps.", lower_bound=1)
_POINTS = flags.DEFINE_integer("points", 128, "Points on a wave.", lower_bound=1)
_CHANNELS = flags.DEFINE_integer("channels", 8, "Of the classifier.", lower_bound=1)
_BATCH = flags.DEFINE_integer(
    "batch", 128, "Networks per contrastive step.", lower_bound=2
)
_WIDTH = flags.DEFINE_integer("width", 16, "Of the metanetwork.", lower_bound=2)
_BLOCKS = flags.DEFINE_integer("blocks", 3, "Of the metanetwork.", lower_bound=1)
_IMAGES, _SIDE, _CLASSES, _MINIBATCH = 512, 8, 10, 32


def classifier_task() -> zoo.ZooTask:
    """Convolutional classifiers on noise images, with all that a recipe asks for."""

    def model(settings) -> nn.Module:
        return architectures.ConvNet(
            out_features=_CLASSES,
            channels=_CHANNELS.value,
            normalization="batch",
            dropout_rate=settings["dropout_rate"],
            use_patches=True,
        )

    def draw(key):
        keys = jax.random.split(key, 3)
        return {
            "learning_rate": 10.0 ** jax.random.uniform(keys[0], minval=-3, maxval=-2),
            "weight_decay": 10.0 ** jax.random.uniform(keys[1], minval=-5, maxval=-1),
            "dropout_rate": jax.random.uniform(keys[2], maxval=0.2),
        }

    def init(key, settings):
        images = jnp.zeros((1, _SIDE, _SIDE, 3))
        return dict(model(settings).init(key, images, train=False))

    def loss(variables, data, key, step, settings):
        key_batch, key_dropout = jax.random.split(key)
        images, labels = data
        rows = jax.random.randint(key_batch, (_MINIBATCH,), 0, len(labels))
        logits, collections = model(settings).apply(
            variables,
            images[rows],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key_dropout},
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
        return jnp.mean(losses), collections

    def optimizer(settings):
        return optax.adamw(
            settings["learning_rate"], weight_decay=settings["weight_decay"]
        )

    def score(variables, data, settings):
        return {}

    return zoo.ZooTask(draw, init, loss, optimizer, score, _STEPS.value)


def train_step_by_step(task: zoo.ZooTask, data) -> Callable:
    """Trains one network by a loop over compiled steps: `(key, index) -> variables`."""

    @jax.jit
    def start(rng_key, index):
        key_settings, key_variables, key_training = zoo.network_keys(rng_key, index)
        settings = task.draw(key_settings)
        variables = task.init(key_variables, settings)
        optimizer = task.optimizer(settings).init(variables["params"])
        return key_training, settings, variables, optimizer

    @jax.jit
    def take_step(key, settings, variables, optimizer, step):
        def loss_of(params):
            step_key = jax.random.fold_in(key, step)
            return task.loss(
                {**variables, "params": params}, data, step_key, step, settings
            )

        params = variables["params"]
        gradient, collections = jax.grad(loss_of, has_aux=True)(params)
        updates, optimizer = task.optimizer(settings).update(
            gradient, optimizer, params
        )
        params = optax.apply_updates(params, updates)
        return {**variables, **collections, "params": params}, optimizer

    def train_network(rng_key, index):
        key, settings, variables, optimizer = start(rng_key, index)
        for step in range(task.num_steps):
            variables, optimizer = take_step(key, settings, variables, optimizer, step)
        return variables

    return train_network


def training_rows() -> list[dict]:
    """Networks per second in four ways, as multiples of the first."""
    key = jax.random.key(0)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(_IMAGES, _SIDE, _SIDE, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(_CLASSES, size=_IMAGES))
    # No network stops early: all ways take the same steps.
    sine_config = sine.SineConfig(
        num_points=_POINTS.value, num_steps=_STEPS.value, stop_loss=0.0
    )
    indices = jnp.arange(_NETWORKS.value)
    rows = []
    for name, task, data in (
        ("sine", sine.sine_task(sine_config), None),
        ("classifier", classifier_task(), (images, labels)),
    ):
        train_network = train_step_by_step(task, data)

        def step_by_step(train_network=train_network):
            return [train_network(key, index) for index in range(len(indices))]

        def together(one_by_one, indices=indices, task=task, data=data):
            return zoo.train_networks(task, key, indices, data, one_by_one=one_by_one)

        def in_threads(together=together):
            parts = np.array_split(indices, os.cpu_count() or 1)
            with futures.ThreadPoolExecutor(len(parts)) as pool:
                return list(pool.map(functools.partial(together, True), parts))

        rates = {}
        for way, function in (
            ("a call per step", step_by_step),
            ("one call, one by one", functools.partial(together, True)),
            ("one by one, a thread per core", in_threads),
            ("one call, side by side", functools.partial(together, False)),
        ):
            rates[way] = len(indices) / timing.seconds_of(function)
            rows.append(
                {
                    "networks": name,
                    "trained in": way,
                    "networks/s": rates[way],
                    "ratio": rates[way] / rates["a call per step"],
                }
            )
    return rows


def multiply_adds(learner: Learner, batch_size: int) -> int:
    """Multiply-adds of the linear maps at edges and nodes in one forward pass."""
    width, topology = learner.config.metanet.width, learner.topology
    num_blocks = learner.config.metanet.num_blocks
    reverse = learner.config.metanet.reverse_messages
    # Edges: encoder (half a sine and the value), then edge, output, one or two
    # messages; the last block has no message. Final map and read-out at the end.
    encoder = width // 2 + (width // 2 + 1) * width
    edges = encoder + width**2 * (2 * num_blocks + (1 + reverse) * (num_blocks - 1) + 2)
    # Nodes: sender and receiver maps for edges and messages, the node itself, its
    # incoming and outgoing messages, output; the last block serves the edges alone.
    whole = 2 + (1 + reverse) + 1 + (1 + reverse) + 1
    nodes = width**2 * (whole * (num_blocks - 1) + 2)
    return 2 * batch_size * (edges * topology.num_edges + nodes * topology.num_nodes)


def step_rows() -> list[dict]:
    """One contrastive training step against one large matrix product."""
    config = common.override(
        config_lib.sine(),
        {
            "metanet.width": _WIDTH.value,
            "metanet.num_blocks": _BLOCKS.value,
            "training.batch_size": _BATCH.value,
        },
    )
    group = sine.sine_spec(config.zoo).groups[0]
    shape = (_BATCH.value, group.num_parameters)
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    learner = train.build_learner(config, group.leaves, rows)
    state = learner.init(jax.random.key(0))
    seconds = timing.seconds_of(
        learner.take_steps,
        state,
        jax.random.key(1),
        jnp.asarray(rows),
        jnp.arange(_BATCH.value)[None],
        jnp.int32(0),
    )
    gigaflops = 6 * multiply_adds(learner, _BATCH.value) / 1e9
    peak = timing.peak_rate() / 1e9
    return [
        {"what": "contrastive step, ms", "value": 1e3 * seconds},
        {"what": "its linear maps, GFLOP", "value": gigaflops},
        {"what": "GFLOP/s", "value": gigaflops / seconds},
        {"what": "GFLOP/s of a large matrix product", "value": peak},
        {"what": "share of it", "value": gigaflops / seconds / peak},
        {"what": "networks per second", "value": _BATCH.value / seconds},
    ]


def main(argv: list[str]) -> None:
    """Prints both tables."""
    del argv
    print(common.format_table(training_rows(), float_format=".4g"), end="\n\n")
    print(common.format_table(step_rows(), float_format=".4g"))
    print(
        f"\n{_NETWORKS.value} networks, {_STEPS.value} steps, {_POINTS.value} points; "
        f"{_BATCH.value} networks of {_BLOCKS.value} blocks of width {_WIDTH.value}"
    )


if __name__ == "__main__":
    app.run(main)
