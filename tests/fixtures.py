"""What several test modules share: small models, ragged batches, tiny problems."""

import contextlib
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from modmeta.graphs import supergraphs
from modmeta.relational.data import FeatureSpec
from modmeta.relational.data.neighbors import CandidateConfig
from modmeta.relational.data.normalization import Normalization
from modmeta.relational.energies.config import EnergyConfig
from modmeta.relational.inference.config import MemoryConfig, MoveConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.bank import ModuleBank
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.network import ModelParams, RelationalNetwork
from modmeta.relational.modules.preprocessing import FeatureLayout, Preprocessing
from modmeta.relational.modules.proposal_head import ProposalConfig
from modmeta.search import Candidates, Structure

# The charge is an input alone: it is not among the predicted columns.
SPEC = FeatureSpec(("x", "charge", "y", "vx", "vy"), (0, 2), (3, 4))
PREDICTED = (0, 2, 3, 4)
LAYOUT = FeatureLayout(SPEC, PREDICTED)
# Three changes: of "size", and of two angles.
ANGLES = FeatureLayout(
    FeatureSpec(("sin a", "sin b", "size", "cos b", "cos a"), (), (), (0, 1), (4, 3)),
    (0, 1, 2, 3, 4),
)


def random_preprocessing(seed=0, layout=LAYOUT, target_limit=1.5):
    """Constants without special values, so that nothing cancels by chance."""
    rng = np.random.default_rng(seed)
    size = layout.num_features
    matrix = np.eye(size) + 0.2 * rng.normal(size=(size, size))
    return Preprocessing(
        normalization=Normalization(
            np.zeros(size, np.float32), np.ones(size, np.float32)
        ),
        step_matrix=matrix.astype(np.float32),
        step_offset=(0.1 * rng.normal(size=size)).astype(np.float32),
        target_scale=rng.uniform(0.3, 0.8, layout.num_targets).astype(np.float32),
        target_limit=np.full(layout.num_targets, target_limit, np.float32),
        position_scale=np.float32(0.7),
        velocity_scale=np.float32(1.3),
    )


def search_options(**options):
    """How a model's structures are searched, from options of any of the four kinds."""
    kinds = {
        "energy": EnergyConfig,
        "moves": MoveConfig,
        "candidates": CandidateConfig,
        "memory": MemoryConfig,
    }
    found = {}
    for name, kind in kinds.items():
        fields = {field.name for field in dataclasses.fields(kind)}
        found[name] = kind(**{k: options.pop(k) for k in fields & set(options)})
    assert not options, options
    return found


def small_model(
    *, search=None, encoder="none", layout=LAYOUT, compress=True, **options
):
    """A model with a few hidden units; `options` go to `ModuleConfig`."""
    options = {
        "path": "start",
        "entities": "alike",
        "edge_sizes": (4, 5),
        "message_size": 3,
        "node_sizes": (6, 4),
        "activation": "tanh",
        **options,
    }
    layout = dataclasses.replace(layout, compress=compress)
    network = RelationalNetwork(
        bank=ModuleBank(ModuleConfig(**options), layout),
        proposal=ProposalConfig(encoder=encoder, width=8, denoiser_width=8),
    )
    return RelationalModel(network, **(search or {}))


def small_params(model, supergraph, num_frames, seed=0):
    """Parameters with all leaves random, biases and output layers included."""
    preprocessing = random_preprocessing(seed, model.bank.layout)
    # Shapes alone: all leaves are drawn anew, so nothing need be compiled.
    shapes = jax.eval_shape(
        lambda: model.network.init(jax.random.key(0), preprocessing, supergraph)
    )
    rng = np.random.default_rng(seed)
    modules, proposal = jax.tree.map(
        lambda leaf: as_array(0.7 * rng.normal(size=leaf.shape)),
        (shapes.modules, shapes.proposal),
    )
    return ModelParams(modules, proposal, jax.device_put(preprocessing))


def as_array(values, dtype=np.float32):
    """Values on the device; `jnp.asarray` compiles a conversion for every shape."""
    return jax.device_put(np.asarray(values, dtype))


class Batch:
    """Systems of several sizes with a random structure each.

    Attributes:
      sizes: Number of nodes of every system.
      supergraph: All of them, in this order.
      states: One `[nodes, frames, features]` array per system.
      edges: One `[receivers, senders]` matrix of modules per system.
      node_modules: One `[nodes]` vector of modules per system.
    """

    def __init__(self, sizes, budget=None, *, frames=4, relations=2, nodes=1, seed=0):
        rng = np.random.default_rng(seed)
        self.sizes = tuple(sizes)
        budget = budget or supergraphs.padding_budget(sizes, len(sizes))
        self.supergraph = supergraphs.build_supergraph(sizes, budget)
        self.states = [
            rng.normal(size=(n, frames, len(SPEC.names))).astype(np.float32)
            for n in sizes
        ]
        self.edges = [rng.integers(0, relations, (n, n)) for n in sizes]
        self.node_modules = [rng.integers(0, nodes, n) for n in sizes]

    def flat_states(self, padding=0.0):
        """`[N, frames, features]`, padded nodes filled with one number."""
        num_nodes = len(self.supergraph.node_mask)
        flat = np.full((num_nodes, *self.states[0].shape[1:]), padding, np.float32)
        flat[: sum(self.sizes)] = np.concatenate(self.states)
        return jnp.asarray(flat)

    def structure(self):
        """The structure in super-graph form, slots in the order of their senders."""
        return structure_from_matrices(self.edges, self.node_modules, self.supergraph)


def structure_from_matrices(edges, node_modules, supergraph):
    """Matrices `[receivers, senders]` of fully connected systems, to `[N, D]`."""
    slots = np.zeros(supergraph.slot_mask.shape, np.int32)
    nodes = np.zeros(len(supergraph.node_mask), np.int32)
    row = 0
    for matrix, modules in zip(edges, node_modules, strict=True):
        for receiver in range(len(modules)):
            others = [s for s in range(len(modules)) if s != receiver]
            for slot, sender in enumerate(others):
                slots[row, slot] = matrix[receiver, sender]
            nodes[row] = modules[receiver]
            row += 1
    return Structure(jnp.asarray(slots), jnp.asarray(nodes))


@contextlib.contextmanager
def compiled_for_speed():
    """For programs that would compute for longer than they compile.

    Tests leave out most passes of the compiler. With some, a program takes twice as
    long to compile and a fifth of the time to run.
    """
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, False)
    try:
        yield
    finally:
        jax.config.update(name, before)


class TinyProblem:
    """A search problem small enough to list all its structures.

    "triangle" is three nodes with all six edges, K = 2: 64 structures. "ragged" has
    edges without an opposite, a masked slot before a real one and a padded receiver,
    K = 3: 81 structures. "empty" has no edge.

    Attributes:
      slots: The real (receiver, slot) pairs.
      candidates: With the tables of opposite edges and random logits.
      structures: `[S, R, D]` all structures; modules of masked slots are 1.
    """

    SENDERS = {
        "triangle": [[1, 2], [0, 2], [0, 1]],
        "ragged": [[1, 2], [None, 0], [1, None], [None, None]],
        "empty": [[None, None], [None, None]],
    }

    def __init__(self, name, logit_scale=1.5, seed=0):
        senders = self.SENDERS[name]
        self.num_modules = 2 if name == "triangle" else 3
        shape = (len(senders), len(senders[0]))
        mask = np.zeros(shape, bool)
        reverse = np.full(shape, shape[1], np.int32)
        sender_receivers = np.zeros(shape, np.int32)
        for receiver, row in enumerate(senders):
            for slot, sender in enumerate(row):
                if sender is not None:
                    mask[receiver, slot] = True
                    sender_receivers[receiver, slot] = sender
                    if receiver in senders[sender]:
                        reverse[receiver, slot] = senders[sender].index(receiver)
        self.slots = list(zip(*np.nonzero(mask), strict=True))
        rng = np.random.default_rng(seed)
        logits = logit_scale * rng.normal(size=(*shape, self.num_modules))
        self.candidates = Candidates(
            slot_mask=jnp.asarray(mask),
            edge_logits=jnp.asarray(logits, jnp.float32),
            reverse_slots=jnp.asarray(reverse),
            sender_receivers=jnp.asarray(sender_receivers),
        )
        assignments = list(
            itertools.product(range(self.num_modules), repeat=len(self.slots))
        )
        self.structures = np.ones((len(assignments), *shape), np.int32)
        for structure, assignment in zip(self.structures, assignments, strict=True):
            for slot, module in zip(self.slots, assignment, strict=True):
                structure[slot] = module

    def index(self, edge_modules):
        """Positions in `structures` of `[..., R, D]`; masked slots do not count."""
        edge_modules = np.asarray(edge_modules)
        index = np.zeros(edge_modules.shape[:-2], int)
        for slot in self.slots:
            index = index * self.num_modules + edge_modules[..., *slot]
        return index

    def pairs(self):
        """Pairs of slots that hold an edge and its opposite, both orders."""
        num_slots = self.candidates.slot_mask.shape[1]
        reverse = np.asarray(self.candidates.reverse_slots)
        senders = np.asarray(self.candidates.sender_receivers)
        return [
            (slot, (senders[slot], reverse[slot]))
            for slot in self.slots
            if reverse[slot] < num_slots
        ]


def chi_square_p_value(visits, probabilities, smallest=5.0):
    """Pearson's test of visit counts `[n]` of independent draws, rare cells pooled."""
    visits, probabilities = np.asarray(visits), np.asarray(probabilities, np.float64)
    if visits[probabilities == 0.0].any():
        return 0.0
    expected = probabilities * visits.sum()
    rare = expected < smallest
    if rare.any():
        visits = np.append(visits[~rare], visits[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0.0
    if keep.sum() == 1:
        return 1.0
    return scipy.stats.chisquare(visits[keep], expected[keep]).pvalue
