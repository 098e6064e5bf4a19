"""What the graph of a large network costs: bytes per parameter, edges per second.

    python -m benchmarks.parameter_graphs

A perceptron and a convolutional network with residual connections are traced from
shapes alone; the graph of their topology is made with random values, with and without
reversed edges. Memory is that of the arrays, and the peak that NumPy asked for.
"""

import time
import tracemalloc

import flax.linen as nn
import jax
import numpy as np
from absl import app, flags

from modmeta import metanet

_WIDTH = flags.DEFINE_integer("width", 512, "Of the perceptron.", lower_bound=1)
_CHANNELS = flags.DEFINE_integer("channels", 64, "Of the convolutions.", lower_bound=1)


class _Perceptron(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(10)(x)


class _Residual(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.channels, (3, 3))(x)
        for _ in range(4):
            y = nn.BatchNorm(use_running_average=True)(x)
            x = x + nn.Conv(self.channels, (3, 3))(nn.relu(y))
        return nn.Dense(10)(x.mean((1, 2)))


def _bytes(tree) -> int:
    arrays = {id(leaf): leaf.nbytes for leaf in jax.tree.leaves(tree)}
    return sum(arrays.values())


def _measured(function, *args, **options):
    """Result, seconds of a first call, and peak of the memory of a second one."""
    started = time.perf_counter()
    result = function(*args, **options)
    seconds = time.perf_counter() - started
    tracemalloc.start()
    function(*args, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, seconds, peak


def main(argv: list[str]) -> None:
    """Prints a line per network and kind of graph."""
    del argv
    networks = {
        "perceptron": (_Perceptron(_WIDTH.value), (2, 784)),
        "convolutions": (_Residual(_CHANNELS.value), (2, 16, 16, 3)),
    }
    for name, (model, shape) in networks.items():
        x = jax.ShapeDtypeStruct(shape, "float32")
        shapes = jax.eval_shape(model.init, jax.random.key(0), x)
        topology, seconds, peak = _measured(metanet.trace, model, shapes, x)
        count = topology.num_parameters
        arrays = [v for v in vars(topology).values() if isinstance(v, np.ndarray)]
        print(
            f"{name}: {count:,} parameters, {topology.num_edges:,} edges; topology "
            f"{_bytes(arrays) / count:.0f} bytes per parameter, traced in "
            f"{seconds:.2f} s with {peak / count:.0f} bytes per parameter"
        )
        values = np.random.default_rng(0).normal(size=topology.num_edges)
        values = values.astype(np.float32)
        for bidirectional in (False, True):
            graph, seconds, peak = _measured(
                metanet.to_graph, topology, values, bidirectional=bidirectional
            )
            edges = topology.num_edges * (2 if bidirectional else 1)
            print(
                f"  graph{', reversed edges too' if bidirectional else ''}: "
                f"{_bytes(graph) / count:.0f} bytes per parameter, "
                f"{edges / seconds / 1e6:.1f} million edges per second, peak "
                f"{peak / count:.0f} bytes per parameter"
            )


if __name__ == "__main__":
    app.run(main)
