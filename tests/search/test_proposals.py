"""Moves against their transition probabilities, listed for all structures in NumPy.

`forward[s, t]` is the probability of proposing structure t at s, computed from the
definition of a move. Draws must have these frequencies, and the log-ratio that a move
returns must be log(forward[t, s] / forward[s, t]), of the learned or the uniform kind
where it can be of either. Keys are fixed; every chi-square
test below fails by chance with probability 1e-6, all of them together with less than
1e-3.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.search import Structure, proposals
from tests.fixtures import TinyProblem, chi_square_p_value

FALSE_ALARM = 1e-6
NUM_STARTS = 6
NUM_DRAWS = 3000
MOVES = {
    "flip_edge": proposals.flip_edge,
    "redraw_node": proposals.redraw_node,
    "flip_pair": proposals.flip_pair,
}


def module_probabilities(problem, is_uniform):
    if is_uniform:
        return np.full(problem.candidates.edge_logits.shape, 1 / problem.num_modules)
    logits = np.asarray(problem.candidates.edge_logits, np.float64)
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def flip_edge_probabilities(problem, structure, table):
    """Yields (structure, probability), in the order of edges and modules."""
    options = [
        (slot, module, table[slot][module])
        for slot in problem.slots
        for module in range(problem.num_modules)
        if module != structure[slot]
    ]
    total = sum(weight for _, _, weight in options)
    for slot, module, weight in options:
        proposed = structure.copy()
        proposed[slot] = module
        yield proposed, weight / total


def redraw_node_probabilities(problem, structure, table):
    receivers = sorted({receiver for receiver, _ in problem.slots})
    for receiver in receivers:
        slots = [slot for slot in problem.slots if slot[0] == receiver]
        modules = range(problem.num_modules)
        for drawn in itertools.product(modules, repeat=len(slots)):
            proposed, probability = structure.copy(), 1.0 / len(receivers)
            for slot, module in zip(slots, drawn, strict=True):
                proposed[slot] = module
                probability *= table[slot][module]
            yield proposed, probability


def flip_pair_probabilities(problem, structure, table):
    pairs = problem.pairs()
    for slot, opposite in pairs:
        if structure[slot] != structure[opposite]:
            yield structure, 1.0 / len(pairs)
            continue
        weights = np.sqrt(table[slot] * table[opposite])
        for module in range(problem.num_modules):
            proposed = structure.copy()
            proposed[slot] = proposed[opposite] = module
            yield proposed, weights[module] / weights.sum() / len(pairs)


PROBABILITIES = {
    "flip_edge": flip_edge_probabilities,
    "redraw_node": redraw_node_probabilities,
    "flip_pair": flip_pair_probabilities,
}


@functools.cache
def tiny_problem(name):
    return TinyProblem(name)


@functools.cache
def transition_matrix(problem_name, move, is_uniform):
    problem = tiny_problem(problem_name)
    table = module_probabilities(problem, is_uniform)
    forward = np.zeros((len(problem.structures),) * 2)
    for start, structure in enumerate(problem.structures):
        for proposed, probability in PROBABILITIES[move](problem, structure, table):
            forward[start, problem.index(proposed)] += probability
    np.testing.assert_allclose(forward.sum(axis=1), 1.0)
    return forward


def kinds(problem_name, move, uniform_fraction):
    """Transition matrices of the kinds of a move, and their shares."""
    shares = {False: 1.0 - uniform_fraction, True: uniform_fraction}
    return [
        (transition_matrix(problem_name, move, is_uniform), share)
        for is_uniform, share in shares.items()
        if share > 0
    ]


def assert_log_ratio_of_one(matrices, source, target, log_ratio):
    """The log-ratio is that of one of the moves that can make the step."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.stack(
            [np.log(m[target, source]) - np.log(m[source, target]) for m in matrices]
        )
    distance = np.abs(ratios - np.asarray(log_ratio))
    assert np.nanmin(distance, axis=0).max() < 2e-5


def draw(propose, problem, starts, num_draws=NUM_DRAWS, node_modules=None, seed=0):
    """Draws proposals from several structures, leaves `[starts * draws, ...]`."""
    structures = jnp.repeat(jnp.asarray(starts), num_draws, axis=0)
    num_receivers = structures.shape[1]
    if node_modules is None:
        node_modules = jnp.zeros((num_receivers,), jnp.int32)
    nodes = jnp.broadcast_to(node_modules[None], (len(structures), num_receivers))
    keys = jax.random.split(jax.random.key(seed), len(structures))
    vmapped = jax.jit(jax.vmap(propose, in_axes=(0, 0, None)))
    before = Structure(structures, nodes)
    return before, vmapped(keys, before, problem.candidates)


def assert_receivers_cover_changes(before, proposal):
    """Whatever changed is listed, masked slots did not change, dtypes are kept."""
    changed = np.asarray(before.edge_modules != proposal.structure.edge_modules)
    changed = changed.any(axis=2)
    changed |= np.asarray(before.node_modules != proposal.structure.node_modules)
    listed = np.asarray(proposal.receivers)[:, :, None] == np.arange(changed.shape[1])
    assert not (changed & ~listed.any(axis=1)).any()
    assert proposal.structure.edge_modules.dtype == jnp.int32
    assert proposal.structure.node_modules.dtype == jnp.int32


def assert_masked_slots_kept(problem, before, proposal):
    kept = np.asarray(before.edge_modules == proposal.structure.edge_modules)
    assert kept[:, ~np.asarray(problem.candidates.slot_mask)].all()


def random_starts(problem, seed=0):
    rng = np.random.default_rng(seed)
    return rng.choice(len(problem.structures), NUM_STARTS, replace=False)


@pytest.mark.parametrize(
    "problem_name, uniform_fraction",
    [("ragged", 1.0), ("ragged", 0.0), ("ragged", 0.3), ("triangle", 0.3)],
)
@pytest.mark.parametrize("move", MOVES)
def test_move_has_the_claimed_probabilities(problem_name, uniform_fraction, move):
    problem = tiny_problem(problem_name)
    matrices, shares = zip(*kinds(problem_name, move, uniform_fraction), strict=True)
    forward = sum(w * m for w, m in zip(shares, matrices, strict=True))
    propose = MOVES[move](uniform_fraction=uniform_fraction)
    starts = random_starts(problem)
    before, proposal = draw(propose, problem, problem.structures[starts])

    assert_receivers_cover_changes(before, proposal)
    assert_masked_slots_kept(problem, before, proposal)
    source = np.repeat(starts, NUM_DRAWS)
    target = problem.index(proposal.structure.edge_modules)
    assert_log_ratio_of_one(matrices, source, target, proposal.log_ratio)
    for start in starts:
        visits = np.bincount(target[source == start], minlength=len(forward))
        assert chi_square_p_value(visits, forward[start]) > FALSE_ALARM


def test_mixture_has_the_weighted_probabilities():
    problem = tiny_problem("ragged")
    names, weights, fraction = list(MOVES), np.array([1.0, 2.0, 3.0]), 0.3
    weighted = [
        (matrix, weight / 6.0 * share)
        for name, weight in zip(names, weights, strict=True)
        for matrix, share in kinds("ragged", name, fraction)
    ]
    forward = sum(share * matrix for matrix, share in weighted)
    moves = [MOVES[name](uniform_fraction=fraction) for name in names]
    propose = proposals.mixture(moves, weights.tolist())
    starts = random_starts(problem, seed=1)
    before, proposal = draw(propose, problem, problem.structures[starts], seed=1)

    assert proposal.receivers.shape == (len(before.node_modules), 2)
    assert_receivers_cover_changes(before, proposal)
    assert_masked_slots_kept(problem, before, proposal)
    source = np.repeat(starts, NUM_DRAWS)
    target = problem.index(proposal.structure.edge_modules)
    for start in starts:
        visits = np.bincount(target[source == start], minlength=len(forward))
        assert chi_square_p_value(visits, forward[start]) > FALSE_ALARM
    matrices = [matrix for matrix, _ in weighted]
    assert_log_ratio_of_one(matrices, source, target, proposal.log_ratio)


def test_mixture_of_weight_zero_and_one():
    problem = tiny_problem("triangle")
    moves = [proposals.redraw_node(), proposals.flip_edge(uniform_fraction=0.3)]
    start = problem.structures[:1]
    _, mixed = draw(proposals.mixture(moves, [0.0, 2.0]), problem, start)
    # A flip changes exactly one edge, a redraw often none or two.
    changes = np.sum(np.asarray(mixed.structure.edge_modules) != start, axis=(1, 2))
    assert (changes == 1).all()
    assert proposals.mixture(moves[:1], [1.0]) is moves[0]


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, 1.0, 1.0], []]
)
def test_mixture_rejects_weights(weights):
    with pytest.raises(ValueError, match="weights"):
        proposals.mixture([proposals.flip_edge(), proposals.redraw_node()], weights)


def test_redraw_node_module_is_uniform_over_nodes_with_edges():
    problem = tiny_problem("ragged")
    node_modules = jnp.array([2, 0, 1, 1], jnp.int32)
    propose = proposals.redraw_node_module(num_node_modules=3)
    before, proposal = draw(
        propose, problem, problem.structures[:1], 20_000, node_modules
    )
    np.testing.assert_array_equal(proposal.log_ratio, 0.0)
    assert_receivers_cover_changes(before, proposal)
    np.testing.assert_array_equal(proposal.structure.edge_modules, before.edge_modules)
    probabilities = np.zeros((3, 3, 3, 3))
    for node, module in itertools.product(range(3), range(3)):
        drawn = [2, 0, 1, 1]
        drawn[node] = module
        probabilities[tuple(drawn)] += 1 / 9
    visits = np.zeros_like(probabilities)
    np.add.at(visits, tuple(np.asarray(proposal.structure.node_modules).T), 1)
    p_value = chi_square_p_value(visits.ravel(), probabilities.ravel())
    assert p_value > FALSE_ALARM


def test_renaming_is_uniform_over_nodes_and_permutations():
    problem = tiny_problem("ragged")
    starts = random_starts(problem)
    propose = proposals.rename_modules()
    before, proposal = draw(propose, problem, problem.structures[starts])
    np.testing.assert_array_equal(proposal.log_ratio, 0.0)
    assert_receivers_cover_changes(before, proposal)
    assert_masked_slots_kept(problem, before, proposal)
    receivers = sorted({receiver for receiver, _ in problem.slots})
    names = list(itertools.permutations(range(problem.num_modules)))
    target = problem.index(proposal.structure.edge_modules)
    for order, start in enumerate(starts):
        probabilities = np.zeros(len(problem.structures))
        for receiver, permuted in itertools.product(receivers, names):
            renamed = problem.structures[start].copy()
            for slot in problem.slots:
                if slot[0] == receiver:
                    renamed[slot] = permuted[renamed[slot]]
            probabilities[problem.index(renamed)] += 1 / len(receivers) / len(names)
        drawn = target[order * NUM_DRAWS : (order + 1) * NUM_DRAWS]
        visits = np.bincount(drawn, minlength=len(probabilities))
        assert chi_square_p_value(visits, probabilities) > FALSE_ALARM


@pytest.mark.parametrize("move", MOVES)
def test_no_move_where_there_is_no_edge(move):
    problem = tiny_problem("empty")
    propose = MOVES[move](uniform_fraction=0.3)
    before, proposal = draw(propose, problem, problem.structures, 5)
    assert_masked_slots_kept(problem, before, proposal)
    np.testing.assert_array_equal(proposal.log_ratio, 0.0)


def test_certain_wrong_logits_give_finite_log_ratios():
    """The uniform share keeps every structure reachable; no log-ratio overflows."""
    problem = TinyProblem("triangle", logit_scale=1e4)
    moves = [build(uniform_fraction=0.1) for build in MOVES.values()]
    propose = proposals.mixture(moves, [1.0] * len(moves))
    _, proposal = draw(propose, problem, problem.structures, 100)
    assert np.isfinite(proposal.log_ratio).all()
