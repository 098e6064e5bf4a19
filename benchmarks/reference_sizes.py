"""Proposals per second at the sizes of the reference implementation.

    python -m benchmarks.reference_sizes

5 entities, 49 frames, edge modules 8-256-256-256, a node module 260-256-256-256-4,
squared errors; every proposal redraws the incoming edges of one node and is accepted or
rejected. All systems and chains of a batch are counted, and the time includes the
message cache. Then the floating-point operations of the node updates, the layers that
run at every proposal, against those of one large matrix product, and against the same
layers on as many rows without any search around them.
"""

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks import timing
from experiments import common
from modmeta.relational import data
from modmeta.relational.inference.config import MoveConfig
from modmeta.relational.inference.moves import build_algorithm
from modmeta.relational.inference.problems import build_problems
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.proposal_head import ProposalConfig
from modmeta.relational.tasks.batches import all_batches
from modmeta.relational.tasks.states import device_states, gather_states
from modmeta.relational.tasks.structures import random_structure
from modmeta.relational.training import setup

_SYSTEMS = flags.DEFINE_multi_integer(
    "systems", [4, 16, 32], "Systems of a batch, one row of the table each."
)
_CHAINS = flags.DEFINE_integer("chains", 4, "Chains per problem.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 64, "Proposals per chain.", lower_bound=1)

_NODES = 5
_WIDTH = 256


def measure(num_systems: int, peak: float) -> dict[str, float]:
    """One row of the table."""
    num_chains, num_steps = _CHAINS.value, _STEPS.value
    dataset = data.simulate_springs(0, max(num_systems, 16), num_nodes=_NODES)
    model, params = setup.build_model(
        dataset,
        jax.random.key(0),
        modules=ModuleConfig(
            edge_sizes=(_WIDTH, _WIDTH),
            message_size=_WIDTH,
            node_sizes=(_WIDTH, _WIDTH, _WIDTH),
            activate_messages=True,
            node_update="mlp",
            geometry="raw",
            likelihood="squared_error",
        ),
        moves=MoveConfig(flip_weight=0.0, redraw_weight=1.0),
        proposal=ProposalConfig(encoder="none"),
    )
    batches = all_batches([_NODES] * num_systems, num_systems)
    tasks, graph = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), batches)
    states = gather_states(
        device_states(dataset, params.preprocessing.normalization), tasks, graph
    )
    logits = jnp.zeros((*graph.slot_mask.shape, 2))
    structure = random_structure(
        jax.random.key(1), graph.slot_mask, model.num_relations
    )

    @jax.jit
    def search(keys, params, states):
        problems = build_problems(model, params, graph, states, logits)
        temperatures = jnp.ones((problems.mask.shape[0], num_steps))

        def chain(key):
            return problems.run(
                key, problems.init(structure), build_algorithm(model), temperatures
            )[0]

        return jax.vmap(chain)(keys).best_energy

    @jax.jit
    def node_updates(params, hidden):
        def body(hidden, _):
            # The carry keeps the compiler from hoisting the layers out of the loop.
            outputs = model.network.modules(params).update(hidden)
            return hidden + 1e-6 * jnp.mean(outputs, axis=-1, keepdims=True), None

        return jax.lax.scan(body, hidden, None, length=num_steps)[0]

    keys = jax.random.split(jax.random.key(2), num_chains)
    num_proposals = num_systems * _NODES * num_chains * num_steps
    num_frames = dataset.num_frames - 1
    operations = num_proposals * num_frames * 2 * (2 * _WIDTH**2 + _WIDTH * 4)
    seconds = timing.seconds_of(search, keys, params, states)
    hidden = jnp.ones((1, num_systems * _NODES * num_chains, num_frames, _WIDTH))
    alone = timing.seconds_of(node_updates, params, hidden)
    return {
        "systems": num_systems,
        "proposals/s": num_proposals / seconds,
        "GFLOP/s of node updates": operations / seconds / 1e9,
        "share of peak": operations / seconds / peak,
        "layers alone, share of peak": operations / alone / peak,
    }


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    peak = timing.peak_rate()
    rows = [measure(systems, peak) for systems in _SYSTEMS.value]
    print(common.format_table(rows, float_format=".4g"))
    print(
        f"\n{_CHAINS.value} chains, {_STEPS.value} proposals each; peak: "
        f"{peak / 1e9:.0f} GFLOP/s of a large matrix product"
    )


if __name__ == "__main__":
    app.run(main)
