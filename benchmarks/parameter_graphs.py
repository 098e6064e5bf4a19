"""What the graph of a large network costs: bytes per parameter, edges per second.

    python -m benchmarks.parameter_graphs

A perceptron, a small MLP-Mixer, a Mixer-S/16 and a ResNet-50 are traced from shapes
alone; the graph of their topology is made with random values, with and without reversed
edges, parameters are permuted, and a graph metanetwork reads the edges window by
window. Memory is that of the arrays, and the largest that the process had so far.
"""

import functools
import resource
import time

import flax.linen as nn
import jax
import numpy as np
from absl import app, flags

from modmeta import metanet
from modmeta.metanet.parameter_graphs.topology import Topology

_NETWORKS = flags.DEFINE_list(
    "networks", ["perceptron", "mixer", "mixer_s16", "resnet50"], "Of these."
)
_WIDTH = flags.DEFINE_integer("width", 512, "Of the perceptron.", lower_bound=1)
_METANET = flags.DEFINE_integer(
    "metanet_width", 0, "Of a metanetwork that reads the graph; 0: none.", lower_bound=0
)
_WINDOW = flags.DEFINE_integer(
    "edge_window", 2**17, "Edges that it reads at once.", lower_bound=1
)


class _Perceptron(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(10)(x)


class _Bottleneck(nn.Module):
    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(nn.BatchNorm, use_running_average=True)
        conv = functools.partial(nn.Conv, use_bias=False)
        strides = (self.stride, self.stride)
        y = nn.relu(norm()(conv(self.channels, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.channels, (3, 3), strides)(y)))
        y = norm()(conv(4 * self.channels, (1, 1))(y))
        if x.shape != y.shape:
            x = norm()(conv(4 * self.channels, (1, 1), strides)(x))
        return nn.relu(x + y)


class _ResNet50(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(64, (7, 7), (2, 2), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for stage, depth in enumerate((3, 4, 6, 3)):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                x = _Bottleneck(64 * 2**stage, stride)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


class _Mixer(nn.Module):
    """An MLP-Mixer, small unless said otherwise."""

    patch: int = 4
    width: int = 64
    depth: int = 4
    hidden_tokens: int = 32
    hidden_channels: int = 256
    num_classes: int = 10

    @nn.compact
    def __call__(self, x):
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, size)(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for _ in range(self.depth):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            y = nn.Dense(x.shape[1])(nn.gelu(nn.Dense(self.hidden_tokens)(y)))
            x = x + y.swapaxes(1, 2)
            y = nn.Dense(self.hidden_channels)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width)(nn.gelu(y))
        return nn.Dense(self.num_classes)(nn.LayerNorm()(x).mean(axis=1))


def _bytes(tree) -> int:
    arrays = {id(leaf): leaf.nbytes for leaf in jax.tree.leaves(tree)}
    return sum(arrays.values())


def _peak() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"


def _timed(function, *args, **options):
    """Result, seconds, and seconds of all processors."""
    started, used = time.perf_counter(), time.process_time()
    result = function(*args, **options)
    return result, time.perf_counter() - started, time.process_time() - used


def _read(topology: Topology, values: np.ndarray) -> None:
    """A metanetwork reads the graph, once compiled."""
    config = metanet.MetanetConfig(
        width=_METANET.value,
        num_blocks=3,
        reverse_messages=True,
        edge_window=_WINDOW.value,
    )
    network = metanet.InvariantMetanet(config, num_outputs=1)
    graph = metanet.to_graph(topology, values, bidirectional=False)
    params = jax.jit(network.init)(jax.random.key(0), graph)
    read = jax.jit(network.apply)
    for name in ("with compilation", "again"):
        result, seconds, used = _timed(
            lambda: jax.block_until_ready(read(params, graph))
        )
        print(
            f"  metanetwork of width {config.width}, {name}: {seconds:.1f} s "
            f"({used:.1f} s of processors), {float(result[0, 0]):.6f}, {_peak()}"
        )


def main(argv: list[str]) -> None:
    """Prints lines per network."""
    del argv
    networks = {
        "perceptron": (_Perceptron(_WIDTH.value), (2, 784)),
        "mixer": (_Mixer(), (2, 32, 32, 3)),
        "mixer_s16": (_Mixer(16, 512, 8, 256, 2048, 1000), (2, 224, 224, 3)),
        "resnet50": (_ResNet50(), (2, 224, 224, 3)),
    }
    for name in _NETWORKS.value:
        model, shape = networks[name]
        x = jax.ShapeDtypeStruct(shape, "float32")
        shapes = jax.eval_shape(model.init, jax.random.key(0), x)
        topology, seconds, used = _timed(metanet.trace, model, shapes, x)
        count = topology.num_parameters
        arrays = [v for v in vars(topology).values() if isinstance(v, np.ndarray)]
        print(
            f"{name}: {count:,} parameters, {topology.num_edges:,} edges, "
            f"{topology.num_nodes:,} nodes, {len(topology.kinds.types)} kinds; "
            f"topology {_bytes([arrays, topology.kinds]) / count:.0f} bytes per "
            f"parameter, traced in {seconds:.1f} s ({used:.1f} s of processors), "
            f"{_peak()}"
        )
        rng = np.random.default_rng(0)
        values = rng.normal(size=topology.num_edges).astype(np.float32)
        for bidirectional in (False, True):
            graph, seconds, used = _timed(
                metanet.to_graph, topology, values, bidirectional=bidirectional
            )
            edges = topology.num_edges * (2 if bidirectional else 1)
            print(
                f"  graph{', reversed edges too' if bidirectional else ''}: "
                f"{_bytes(graph) / count:.0f} bytes per parameter, "
                f"{_bytes([graph, arrays, topology.kinds]) / count:.0f} with the "
                f"topology, {edges / seconds / 1e6:.1f} million edges per second "
                f"({edges / used / 1e6:.1f} of processor time), {_peak()}"
            )
        del graph
        variables = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes)
        nodes, seconds, _ = _timed(metanet.sample_symmetry, rng, topology)
        _, more, used = _timed(metanet.permute_parameters, topology, variables, nodes)
        print(
            f"  parameters permuted in {seconds + more:.1f} s ({used:.1f} s of "
            f"processors), {_peak()}"
        )
        del variables
        if _METANET.value:
            _read(topology, values)


if __name__ == "__main__":
    app.run(main)
