"""Energies against `tests.reference`, a float64 NumPy network in plain loops.

Besides the reference: scipy's normal density, finite differences of the reference,
brute force over pairs, and invariances (padding, batch, relabelling, order of edges).
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from modmeta import search
from modmeta.graphs import supergraphs
from modmeta.relational.energies import composed, priors
from modmeta.relational.energies.cached import CachedEnergies, build_cache
from modmeta.relational.energies.recomputed import RecomputedEnergies
from modmeta.relational.inference.moves import build_algorithm
from modmeta.relational.inference.problems import build_problems
from modmeta.relational.modules.motion import still
from modmeta.relational.modules.observations import observe, receiver_slots
from tests.fixtures import (
    ANGLES,
    Batch,
    TinyProblem,
    search_options,
    small_model,
    small_params,
)
from tests.reference import Reference

SIZES = (3, 1, 4)
LOOSE = supergraphs.PaddingBudget(13, 25, 5, 5, 6)
VARIANTS = {
    "default": {},
    "published": {
        "geometry": "raw",
        "node_update": "mlp",
        "activation": "relu",
        "activate_messages": True,
        "likelihood": "squared_error",
        "compress": False,
    },
    "rich": {
        "geometry": "raw",
        "num_relations": 3,
        "num_node_modules": 2,
        "null_relation": True,
        "edge_sizes": (4,),
        "node_sizes": (5,),
        "node_update": "mlp",
    },
    "activated": {
        "scale": "feature",
        "num_node_modules": 2,
        "null_relation": True,
        "node_update": "mlp",
        "activate_messages": True,
    },
    "raw angles": {"layout": ANGLES, "geometry": "raw", "compress": False},
    "angles": {
        "layout": ANGLES,
        "scale": "feature",
        "num_node_modules": 2,
        "null_relation": True,
    },
}


class Setting:
    """A model, a batch and the energies of the batch by the reference."""

    def __init__(self, variant, *, frames=4, seed=0):
        self.model = small_model(**VARIANTS[variant])
        config = self.model.bank.config
        self.batch = Batch(
            SIZES,
            frames=frames,
            relations=config.num_relations,
            nodes=config.num_node_modules,
            seed=seed,
        )
        self.params = small_params(self.model, self.batch.supergraph, frames, seed)
        self.reference = Reference(self.model, self.params)

    def expected(self, horizon=1):
        rows = zip(
            self.batch.states, self.batch.edges, self.batch.node_modules, strict=True
        )
        return np.concatenate(
            [self.reference.energies(*row, horizon=horizon) for row in rows]
        )


@functools.cache
def setting(variant):
    return Setting(variant)


def structure_energies(model, params, supergraph, structure, states):
    modules = model.network.modules(params)
    observed = observe(modules, supergraph, states)
    return composed.structure_energies(modules, supergraph, structure, observed)


@functools.partial(jax.jit, static_argnames="model")
def make_cache(model, params, supergraph, states):
    modules = model.network.modules(params)
    return build_cache(modules, supergraph, observe(modules, supergraph, states))


@functools.partial(jax.jit, static_argnames="model")
def both(model, params, supergraph, structure, states):
    """Energies of all nodes, from kept messages and from those of the structure."""
    modules = model.network.modules(params)
    observed = observe(modules, supergraph, states)
    kept = CachedEnergies(modules, build_cache(modules, supergraph, observed))
    return (
        kept.local(structure, jnp.arange(len(supergraph.node_mask))),
        composed.structure_energies(modules, supergraph, structure, observed),
    )


def cached(*args):
    return both(*args)[0]


def uncached(*args):
    return both(*args)[1]


@functools.partial(jax.jit, static_argnames=("model", "horizon"))
def rolled_out(model, params, supergraph, structure, states, horizon):
    rolled = composed.RolloutEnergies(
        model.network.modules(params),
        states,
        supergraph.slot_senders,
        supergraph.slot_mask,
        supergraph.node_mask,
        horizon,
    )
    return rolled.all_nodes(structure)


def evaluate(energies, given, batch=None, states=None, **kwargs):
    batch = batch or given.batch
    states = batch.flat_states() if states is None else states
    supergraph = batch.supergraph
    return energies(
        given.model, given.params, supergraph, batch.structure(), states, **kwargs
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("energies", [cached, uncached])
def test_energies_equal_the_reference(variant, energies):
    given = setting(variant)
    found = evaluate(energies, given)
    np.testing.assert_allclose(found[: sum(SIZES)], given.expected(), rtol=2e-4)
    np.testing.assert_array_equal(found[sum(SIZES) :], 0.0)


def test_cached_energies_of_some_receivers():
    given = setting("rich")
    receivers = np.array([6, 0, 6, 8])  # repeated, in any order, padding included
    batch, structure = given.batch, given.batch.structure()
    cache = make_cache(given.model, given.params, batch.supergraph, batch.flat_states())
    modules = given.model.network.modules(given.params)
    found = jax.jit(CachedEnergies(modules, cache).local)(structure, receivers)
    np.testing.assert_allclose(
        found, np.append(given.expected(), 0.0)[receivers], rtol=2e-4
    )


@pytest.mark.parametrize("variant", ["default", "rich"])
def test_assignment_energies_and_weights_equal_the_reference(variant):
    given = setting(variant)
    batch, config = given.batch, given.model.bank.config
    structure = batch.structure()
    assignments = search.all_assignments(3, config.num_relations)
    cache = make_cache(given.model, given.params, batch.supergraph, batch.flat_states())

    @jax.jit
    def energies_and_weights(cache):
        kept = CachedEnergies(given.model.network.modules(given.params), cache)
        return kept.of_assignments(
            assignments, structure.node_modules
        ), kept.assignment_weights(
            assignments,
            structure.node_modules,
            batch.supergraph.slot_mask,
            jnp.float32(2.0),
        )

    energies, weights = map(np.asarray, energies_and_weights(cache))
    assignments = np.asarray(assignments)
    row = 0
    for states, node_modules in zip(batch.states, batch.node_modules, strict=True):
        for receiver, module in enumerate(node_modules):
            expected = given.reference.receiver_energies(states, receiver, module)
            degree = len(states) - 1
            by_hand = [expected[tuple(a[:degree].tolist())] for a in assignments]
            np.testing.assert_allclose(energies[row], by_hand, rtol=2e-4)
            values = np.array(list(expected.values()))
            exact = dict(
                zip(expected, scipy.special.softmax(-values / 2.0), strict=True)
            )
            by_hand = [
                0.0 if a[degree:].any() else exact[tuple(a[:degree].tolist())]
                for a in assignments
            ]
            np.testing.assert_allclose(weights[row], by_hand, atol=1e-4)
            row += 1
    np.testing.assert_array_equal(energies[row:], 0.0)


def residuals_by_hand(given, system, receiver, weights, fixed):
    """Of one receiver, `[T * Y]`, with the scales that belong to weights `fixed`."""
    reference, states = given.reference, np.asarray(given.batch.states[system], float)
    is_additive = reference.config.node_update == "additive"
    others = [node for node in range(len(states)) if node != receiver]
    module = given.batch.node_modules[system][receiver]

    def output(weights, now):
        total = 0.0 * reference.message(0, now[receiver], now[receiver])
        for sender, row in zip(others, weights, strict=False):
            for edge_module, weight in enumerate(row):
                message = reference.message(edge_module, now[sender], now[receiver])
                total = total + weight * message
        return reference.node_output(module, total, now[receiver])

    def expanded(values):
        return np.sign(values) * (np.exp(np.abs(values)) - 1.0)

    found = []
    for frame in range(states.shape[1] - 1):
        now, following = states[:, frame], states[:, frame + 1]
        target = reference.target(now[receiver], following[receiver])
        mean, _ = reference.split(output(weights, now))
        _, log_scale = reference.split(output(fixed, now))
        error = mean - target
        if is_additive and reference.layout.compress:
            error = expanded(mean) - expanded(target)
            error = error / (1.0 + np.abs(expanded(target)))
        if reference.config.likelihood == "squared_error":
            found.append(np.sqrt(2.0) * error)
        else:
            found.append(error / np.exp(log_scale))
    return np.concatenate(found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_residuals_and_their_derivatives_equal_the_reference(variant):
    """System 2, its second receiver: node 5 of the super-graph; node 8 is padding."""
    given = setting(variant)
    bank, modules = given.model.bank, given.model.network.modules(given.params)
    graph, states = given.batch.supergraph, given.batch.flat_states()
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(
        np.ones(bank.config.num_relations), size=graph.slot_mask.shape[1]
    )
    node_module = given.batch.node_modules[2][1]

    @jax.jit
    def residuals(weights):
        observed = observe(modules, graph, states)
        kept = CachedEnergies(modules, build_cache(modules, graph, observed))
        anew = RecomputedEnergies(modules, observed, receiver_slots(graph))

        def of(weights):
            return kept.residuals(weights, node_module, 5)

        return (
            of(weights),
            jax.jacfwd(of)(weights),
            kept.residuals(weights, node_module, 8),
            anew.residuals(weights, node_module, 5),
        )

    by_hand = functools.partial(residuals_by_hand, given, 2, 1, fixed=weights)
    found, slopes, of_padding, again = residuals(jnp.float32(weights))
    np.testing.assert_allclose(found, by_hand(weights), rtol=2e-3, atol=2e-4)
    for slot, module in np.ndindex(3, bank.config.num_relations):
        step = np.zeros_like(weights)
        step[slot, module] = 1e-5
        expected = (by_hand(weights + step) - by_hand(weights - step)) / 2e-5
        scale = np.abs(expected).max() + 1e-3
        np.testing.assert_allclose(slopes[:, slot, module], expected, atol=2e-3 * scale)
    np.testing.assert_array_equal(of_padding, 0.0)
    np.testing.assert_allclose(again, found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", ["rich", "published"])
def test_half_of_the_squared_residuals_is_the_energy(variant):
    """Up to what does not depend on the mean, where nothing is made linear."""
    given = setting(variant)
    graph, states = given.batch.supergraph, given.batch.flat_states()
    structure, bank = given.batch.structure(), given.model.bank
    modules = given.model.network.modules(given.params)
    cache = make_cache(given.model, given.params, graph, states)

    @jax.jit
    def residuals_and_scales():
        weights = jax.nn.one_hot(structure.edge_modules, bank.config.num_relations)
        residuals = jax.vmap(CachedEnergies(modules, cache).residuals)(
            weights, structure.node_modules, jnp.arange(len(weights))
        )
        outputs = modules.outputs(
            structure,
            still(states[:, :-1]),
            graph.slot_senders,
            graph.slot_mask,
        )
        return residuals, modules.predict(outputs)[1]

    residuals, log_scale = map(np.asarray, residuals_and_scales())
    rest = np.sum(log_scale + 0.5 * np.log(2.0 * np.pi), axis=(1, 2))
    if bank.config.likelihood == "squared_error":
        rest = np.zeros_like(rest)
    found = 0.5 * np.sum(np.square(residuals), axis=1) + rest
    count = sum(SIZES)
    np.testing.assert_allclose(found[:count], given.expected(), rtol=1e-3)


@pytest.mark.parametrize("prior", ["none", "symmetric"])
def test_energies_after_thousands_of_moves(prior):
    """What the chains carry along equals an evaluation of their last structures."""
    model = small_model(
        num_relations=3,
        num_node_modules=2,
        search=search_options(prior=prior, prior_weight=5.0),
    )
    batch = Batch(SIZES, relations=3, nodes=2)
    params = small_params(model, batch.supergraph, 4)
    states = batch.flat_states()
    logits = jax.random.normal(jax.random.key(0), (*batch.structure()[0].shape, 3))

    @jax.jit
    def run(key):
        problems = build_problems(model, params, batch.supergraph, states, logits)
        state, accepted = problems.run(
            key,
            problems.init(batch.structure()),
            build_algorithm(model),
            jnp.full((len(problems.mask), 2000), 20.0),
            transform=lambda _, info: info.is_accepted,
        )
        structure, local = problems.join((state.structure, state.local_energies))
        return structure, local, state.energy, accepted, problems.mask

    structure, local, totals, accepted, mask = jax.device_get(run(jax.random.key(1)))
    assert (accepted[mask].sum(axis=1) > 200).all()
    assert (structure.edge_modules[: SIZES[0]] != batch.structure()[0][:3]).any()
    reference, row = Reference(model, params), 0
    for system, size in enumerate(SIZES):
        rows = slice(row, row + size)
        matrix = np.zeros((size, size), int)
        for receiver in range(size):
            others = [s for s in range(size) if s != receiver]
            slots = structure.edge_modules[row + receiver, : size - 1]
            matrix[receiver, others] = slots
        expected = reference.energies(
            batch.states[system], matrix, structure.node_modules[rows]
        )
        np.testing.assert_allclose(local[rows], expected, rtol=2e-4)
        if prior == "symmetric":
            total = np.sum(expected) + 5.0 * np.sum(np.triu(matrix != matrix.T))
            np.testing.assert_allclose(totals[system], total, rtol=2e-4)
        row += size


@pytest.mark.parametrize("energies", [cached, uncached])
def test_batch_and_padding_do_not_matter(energies):
    given = setting("rich")
    together = evaluate(energies, given)
    loose = Batch(SIZES, LOOSE, relations=3, nodes=2)
    np.testing.assert_allclose(
        evaluate(energies, given, loose)[: sum(SIZES)],
        together[: sum(SIZES)],
        rtol=1e-5,
    )
    alone, single = [], given.batch
    for system, size in enumerate(SIZES):
        batch = Batch([size], LOOSE)
        batch.states = [single.states[system]]
        batch.edges = [single.edges[system]]
        batch.node_modules = [single.node_modules[system]]
        alone.append(evaluate(energies, given, batch)[:size])
    np.testing.assert_allclose(np.concatenate(alone), together[: sum(SIZES)], rtol=1e-5)


@pytest.mark.parametrize("energies", [cached, uncached, rolled_out])
def test_nan_in_padded_states_never_leaks(energies):
    given = setting("rich")
    kwargs = {"horizon": 2} if energies is rolled_out else {}
    batch = Batch(SIZES, LOOSE, relations=3, nodes=2)
    clean = evaluate(energies, given, batch, **kwargs)
    padded = batch.flat_states(padding=np.nan)
    np.testing.assert_array_equal(
        evaluate(energies, given, batch, padded, **kwargs), clean
    )


@pytest.mark.parametrize("energies", [cached, uncached])
def test_relabelling_nodes_permutes_energies(energies):
    given = setting("rich")
    batch = Batch(SIZES, relations=3, nodes=2)
    rng = np.random.default_rng(1)
    orders = [rng.permutation(size) for size in SIZES]
    assert not np.array_equal(orders[2], np.arange(4))
    moved = Batch(SIZES, relations=3, nodes=2)
    for system, order in enumerate(orders):
        moved.states[system] = batch.states[system][order]
        moved.edges[system] = batch.edges[system][np.ix_(order, order)]
        moved.node_modules[system] = batch.node_modules[system][order]
    offsets = np.cumsum([0, *SIZES[:-1]])
    rows = np.concatenate([o + first for o, first in zip(orders, offsets, strict=True)])
    np.testing.assert_allclose(
        evaluate(energies, given, moved)[: sum(SIZES)],
        np.asarray(evaluate(energies, given, batch))[rows],
        rtol=1e-5,
    )


@pytest.mark.parametrize("energies", [cached, uncached])
def test_order_of_slots_does_not_matter(energies):
    """Edges may sit in any slot, masked ones between them, with their modules."""
    given = setting("rich")
    graph, structure = given.batch.supergraph, given.batch.structure()
    rng = np.random.default_rng(2)
    order = rng.permuted(np.tile(np.arange(3), (len(graph.node_mask), 1)), axis=1)
    moved_graph = graph._replace(
        slot_senders=np.take_along_axis(graph.slot_senders, order, axis=1),
        slot_mask=np.take_along_axis(graph.slot_mask, order, axis=1),
    )
    moved = structure._replace(
        edge_modules=jnp.take_along_axis(structure.edge_modules, order, axis=1)
    )
    states = given.batch.flat_states()
    np.testing.assert_allclose(
        energies(given.model, given.params, moved_graph, moved, states),
        evaluate(energies, given),
        rtol=1e-5,
    )


@pytest.mark.parametrize("energies", [cached, uncached])
@pytest.mark.parametrize("variant", ["rich", "activated", "angles"])
def test_null_relation_sends_nothing(variant, energies):
    given = setting(variant)
    batch = Batch(SIZES, nodes=2)
    for matrix in batch.edges:
        matrix[:] = 1
    batch.edges[2][0, 3] = batch.edges[2][2, 3] = 0  # nodes 0 and 2 ignore node 3
    before = evaluate(energies, given, batch)
    batch.states[2] = batch.states[2].copy()
    batch.states[2][3] += 1.0
    changed = np.asarray(evaluate(energies, given, batch) != before)
    assert changed.tolist() == [False] * 5 + [True, False, True, False]


@pytest.mark.parametrize("variant", ["rich", "default"])
def test_gaussian_energies_are_negative_log_densities(variant):
    given = setting(variant)
    modules = given.model.network.modules(given.params)
    rng = np.random.default_rng(0)
    mean, log_scale = 3.0 * rng.normal(size=(2, 50, 4))
    targets = rng.normal(size=(50, 4))
    outputs = np.concatenate([mean, log_scale], axis=1)
    log_scale = 5.0 * np.tanh(log_scale / 5.0)
    if variant == "default":  # outputs are uncompressed changes and variances
        outputs[:, 4:] = np.exp(2.0 * log_scale)
        mean = np.sign(mean) * np.log(1.0 + np.abs(mean))
    found = jax.jit(modules.frame_energies)(jnp.float32(outputs), jnp.float32(targets))
    density = scipy.stats.norm(
        mean, np.exp(np.asarray(modules.params.log_scale) + log_scale)
    )
    np.testing.assert_allclose(
        found, -density.logpdf(targets).sum(axis=1), rtol=1e-4, atol=1e-4
    )


def test_squared_error_energies():
    given = setting("published")
    outputs, targets = np.random.default_rng(0).normal(size=(2, 50, 4))
    modules = given.model.network.modules(given.params)
    found = modules.frame_energies(jnp.float32(outputs), jnp.float32(targets))
    np.testing.assert_allclose(found, np.sum((outputs - targets) ** 2, 1), rtol=1e-5)


@pytest.mark.parametrize(
    "variant, horizon", [("default", 1), ("default", 10), ("published", 3)]
)
def test_rollout_energies_equal_the_reference(variant, horizon):
    given = Setting(variant, frames=12)  # 11 steps: the last segment is cut
    if variant == "published":  # linear growth would leave the range of float32
        small = jax.tree.map(lambda leaf: 0.3 * leaf, given.params.modules)
        given.params = given.params._replace(modules=small)
        given.reference = Reference(given.model, given.params)
    found = evaluate(rolled_out, given, horizon=horizon)
    np.testing.assert_allclose(found[: sum(SIZES)], given.expected(horizon), rtol=2e-3)
    if horizon == 1:
        np.testing.assert_allclose(found, evaluate(uncached, given), rtol=1e-4)


def test_rollout_problems_with_horizon_one_equal_one_step_problems():
    batch = Batch(SIZES)
    totals = []
    for options in (
        {"form": "rollout", "horizon": 1},
        {"prior": "symmetric", "prior_weight": 0.0},
    ):
        model = small_model(search=search_options(**options))
        params = small_params(model, batch.supergraph, 4)
        logits = jnp.zeros((*batch.supergraph.slot_mask.shape, 2))

        @jax.jit
        def start(states, model=model, params=params, logits=logits):
            problems = build_problems(model, params, batch.supergraph, states, logits)
            return problems.init(batch.structure()).energy

        totals.append(start(batch.flat_states()))
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-4)


@pytest.mark.parametrize("name", ["triangle", "ragged"])
def test_symmetric_prior_by_brute_force(name):
    problem = TinyProblem(name)
    prior = priors.symmetric_prior(problem.candidates, 7.0)
    structures = jnp.asarray(problem.structures)
    nodes = jnp.zeros(structures.shape[:2], jnp.int32)
    found = jax.jit(jax.vmap(prior))(search.Structure(structures, nodes))
    found = np.asarray(found)
    pairs = {frozenset(pair) for pair in problem.pairs()}
    assert len(pairs) == {"triangle": 3, "ragged": 1}[name]
    for structure, value in zip(problem.structures, found, strict=True):
        differing = sum(structure[a] != structure[b] for a, b in pairs)
        assert value == 7.0 * differing


@pytest.mark.parametrize("variant", ["default", "activated"])
def test_gradient_equals_finite_differences_of_the_reference(variant):
    """Where padded nodes hold NaN, which reaches no gradient."""
    given = setting(variant)

    def loss(modules):
        params = given.params._replace(modules=modules)
        structure = given.batch.structure()
        states = given.batch.flat_states(padding=np.nan)
        return jnp.sum(
            structure_energies(
                given.model, params, given.batch.supergraph, structure, states
            )
        )

    gradient = jax.jit(jax.grad(loss))(given.params.modules)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    if given.model.bank.config.null_relation:
        for leaf in jax.tree.leaves(gradient.edge):
            np.testing.assert_array_equal(leaf[0], 0.0)
    rng = np.random.default_rng(0)
    reference = Reference(given.model, given.params)
    leaves = zip(
        jax.tree.leaves(reference.params), jax.tree.leaves(gradient), strict=True
    )
    given_reference, step = given.reference, 1e-5
    try:
        given.reference = reference
        for values, slopes in leaves:
            index = np.unravel_index(rng.integers(values.size), values.shape)
            centre = values[index]
            values[index] = centre + step
            above = given.expected().sum()
            values[index] = centre - step
            below = given.expected().sum()
            values[index] = centre
            slope = (above - below) / (2 * step)
            scale = np.abs(slopes).max()
            np.testing.assert_allclose(slopes[index], slope, atol=1e-3 * scale)
    finally:
        given.reference = given_reference


def test_cache_is_linear_in_its_messages():
    """Masked slots hold zeros, so that they may be summed with any module."""
    given = setting("default")
    batch = given.batch
    cache = make_cache(given.model, given.params, batch.supergraph, batch.flat_states())
    mask = np.asarray(batch.supergraph.slot_mask)
    assert (np.asarray(cache.messages)[~mask] == 0.0).all()
    structure = batch.structure()
    garbage = structure._replace(
        edge_modules=jnp.where(mask, structure.edge_modules, 1)
    )
    for energies in (cached, uncached):
        np.testing.assert_allclose(
            energies(
                given.model,
                given.params,
                batch.supergraph,
                garbage,
                batch.flat_states(),
            ),
            evaluate(energies, given),
            rtol=1e-6,
        )


def test_targets_of_the_energy_are_the_encoded_ones():
    given = setting("default")
    batch = given.batch
    cache = make_cache(given.model, given.params, batch.supergraph, batch.flat_states())
    targets, row = np.asarray(cache.targets), 0
    for states in batch.states:
        for node, frame in itertools.product(range(len(states)), range(3)):
            expected = given.reference.target(
                states[node, frame], states[node, frame + 1]
            )
            np.testing.assert_allclose(
                targets[row + node, frame], expected, rtol=1e-4, atol=1e-5
            )
        row += len(states)
    assert targets.shape == (len(batch.supergraph.node_mask), 3, 4)


@functools.partial(jax.jit, static_argnames="model")
def without_and_with_cache(
    model, params, supergraph, weights, structure, states, receivers
):
    """Energies of a structure, and of soft assignments with their gradient, twice."""
    modules = model.network.modules(params)
    observed = observe(modules, supergraph, states)
    anew = RecomputedEnergies(modules, observed, receiver_slots(supergraph))
    kept = CachedEnergies(modules, build_cache(modules, supergraph, observed))

    def soft(energies):
        def total(weights):
            found = energies.relaxed(weights, structure.node_modules)
            return jnp.sum(found), found

        (_, found), gradient = jax.value_and_grad(total, has_aux=True)(weights)
        return found, gradient

    return anew.local(structure, receivers), soft(anew), soft(kept)


@pytest.mark.parametrize("variant", ["default", "rich"])
def test_energies_without_cache_equal_reference_and_cache(variant):
    given = setting(variant)
    graph, structure = given.batch.supergraph, given.batch.structure()
    # NaN at padded nodes must reach neither energies nor gradients.
    states = given.batch.flat_states(np.nan)
    shape = (*graph.slot_mask.shape, given.model.num_relations)
    weights = np.random.default_rng(0).dirichlet(np.ones(shape[-1]), shape[:-1])
    weights = jnp.asarray(weights, jnp.float32)
    receivers = jnp.array([6, 2, 2, len(graph.node_mask) - 1])
    hard, (soft, gradient), (expected_soft, expected_gradient) = without_and_with_cache(
        given.model, given.params, graph, weights, structure, states, receivers
    )
    expected = np.append(given.expected(), 0.0)
    np.testing.assert_allclose(hard, expected[[6, 2, 2, -1]], rtol=1e-4)
    np.testing.assert_allclose(soft, expected_soft, rtol=1e-4)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-3, atol=1e-3)
    assert np.abs(gradient).max() > 1.0


def test_cache_of_some_receivers_holds_their_rows():
    given = setting("default")
    graph, states = given.batch.supergraph, given.batch.flat_states()
    receivers = jnp.array([5, 0, len(graph.node_mask) - 1, 5])
    everything = make_cache(given.model, given.params, graph, states)
    modules = given.model.network.modules(given.params)
    some = jax.jit(
        lambda: build_cache(modules, graph, observe(modules, graph, states), receivers)
    )()
    leaves = (jax.tree.leaves(tree) for tree in (some, everything))
    for rows, row in zip(*leaves, strict=True):
        np.testing.assert_allclose(
            rows, np.asarray(row)[receivers], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, "additive"),
        ({"geometry": "raw"}, "mlp"),
        ({"activate_messages": True}, "mlp"),
        ({"geometry": "raw", "node_update": "additive"}, "additive"),
        ({"node_update": "mlp"}, "mlp"),
    ],
)
def test_messages_are_changes_where_geometry_is_known(options, expected):
    assert small_model(**options).bank.config.node_update == expected


def test_changes_of_either_sign_are_not_activated():
    with pytest.raises(ValueError, match="activate_messages: found True with node_up"):
        small_model(node_update="additive", activate_messages=True)
