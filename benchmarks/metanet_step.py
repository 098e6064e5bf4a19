"""A training step of the graph metanetwork against one of a plain implementation.

    python -m benchmarks.metanet_step

128 networks 1-32-32-1, width 64, three blocks: once with messages against the edges,
once with every edge reversed. The plain implementation is
`benchmarks.plain_metanet`; both run in one process, in turn. Seconds are those of the
clock and of all processors, the least of several; compilation is not timed. Memory is
that of the compiled step.
"""

import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks.plain_metanet import plain_metanet
from experiments import common
from modmeta import metanet
from modmeta.metanet.models.features import rows_to_graph

_NETWORKS = flags.DEFINE_integer("networks", 128, "Networks of a step.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", 64, "Of the metanetwork.", lower_bound=2)
_BLOCKS = flags.DEFINE_integer("blocks", 3, "Of the metanetwork.", lower_bound=1)
_HIDDEN = flags.DEFINE_integer("hidden", 32, "Units of a layer.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timings of each.", lower_bound=1)


class Perceptron(nn.Module):
    """The networks that are read."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[..., 1]` to `[..., 1]`."""
        for _ in range(2):
            inputs = jnp.sin(nn.Dense(_HIDDEN.value)(inputs))
        return nn.Dense(1)(inputs)


def steps(*, is_reversed: bool) -> dict:
    """Compiled value and gradient by either implementation, and arguments."""
    module = Perceptron()
    inputs = jnp.zeros((2, 1))
    topology = metanet.trace(module, module.init(jax.random.key(0), inputs), inputs)
    shape = (_NETWORKS.value, topology.num_parameters)
    rows = jax.random.normal(jax.random.key(1), shape)
    config = metanet.MetanetConfig(
        width=_WIDTH.value,
        num_blocks=_BLOCKS.value,
        reverse_messages=not is_reversed,
    )
    network = metanet.InvariantMetanet(config, num_outputs=1)

    def graph(rows):
        return rows_to_graph(topology, rows, bidirectional=is_reversed)

    def fast(params, rows):
        return network.apply({"params": params}, graph(rows))[0]

    def plain(params, rows):
        return plain_metanet(params, graph(rows), config)

    params = jax.jit(lambda rows: network.init(jax.random.key(2), graph(rows)))(rows)
    arguments = params["params"], rows

    def compiled(outputs):
        def loss(params, rows):
            return jnp.mean(jnp.square(outputs(params, rows)))

        return jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()

    return {"plain": compiled(plain), "modmeta": compiled(fast), "of": arguments}


def rows_of(name: str, *, is_reversed: bool) -> list[dict]:
    """Rows of the table."""
    programs = steps(is_reversed=is_reversed)
    arguments = programs.pop("of")
    found = {way: [] for way in programs}
    for _ in range(_ROUNDS.value):
        for way, program in programs.items():
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(program(*arguments))
            end = time.perf_counter(), time.process_time()
            found[way].append((end[0] - start[0], end[1] - start[1]))
    rows: list[dict[str, Any]] = []
    for way, program in programs.items():
        clock, processors = (min(times) for times in zip(*found[way], strict=True))
        memory = program.memory_analysis().temp_size_in_bytes
        rows.append(
            {
                "edges": name,
                "step": way,
                "s": clock,
                "processor s": processors,
                "MB": memory / 2**20,
            }
        )
    for key in ("s", "processor s"):
        rows[-1][f"times faster, {key}"] = rows[0][key] / rows[-1][key]
    return rows


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    rows = rows_of("reverse messages", is_reversed=False)
    rows += rows_of("reversed edges", is_reversed=True)
    names = dict.fromkeys(key for row in rows for key in row)
    rows = [{name: row.get(name, "") for name in names} for row in rows]
    print(common.format_table(rows, float_format=".3g"))


if __name__ == "__main__":
    app.run(main)
