"""Integrated laws against solvers of SciPy, and what they must conserve."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from modmeta.graphs import supergraphs
from modmeta.relational.data import FeatureSpec
from modmeta.relational.data.domains import Domain
from modmeta.relational.modules.integration import Integrator
from modmeta.relational.modules.preprocessing import FeatureLayout
from modmeta.search import Structure
from tests.fixtures import small_model, small_params
from tests.relational.modules.test_laws import (
    BODIES,
    PHASES,
    preprocessing,
    random_states,
    scaled_params,
    states_of,
)

NODES = 3


def setting(layout, law="general", **options):
    """An integrator of three nodes with random laws, and one that acts alone."""
    model = small_model(
        layout=layout, compress=False, path="interpolated", law=law, **options
    )
    graph = supergraphs.build_supergraph(
        [NODES], supergraphs.padding_budget([NODES], 1)
    )
    params = scaled_params(model, small_params(model, graph, 6))
    rng = np.random.default_rng(1)
    modules = rng.integers(0, model.num_relations, graph.slot_mask.shape)
    structure = Structure(
        jnp.asarray(modules, jnp.int32), jnp.zeros(len(graph.node_mask), jnp.int32)
    )
    modules = model.network.modules(params)
    return Integrator(modules, structure, graph.slot_senders, graph.slot_mask, 1)


def without_own_laws(integrator):
    """What acts on an entity alone taken out: rates of pairs are what is left."""
    node = dict(integrator.modules.params.node)
    for name in ("linear", "rate_network"):
        node[name] = jax.tree.map(jnp.zeros_like, node[name])
    params = integrator.modules.params._replace(node=node)
    modules = integrator.modules.replace(params=params)
    return dataclasses.replace(integrator, modules=modules)


def advanced(integrator):
    """`(states, num_substeps) -> states` a frame later, or after some duration."""

    @jax.jit
    def advance(states, num_substeps, duration=None):
        fine = dataclasses.replace(integrator, num_substeps=num_substeps)
        return fine.advance(states, duration)

    return lambda *args: np.asarray(advance(*args))


@pytest.mark.parametrize("null", [False, True])
def test_bodies_against_an_adaptive_solver(null):
    """Velocity-dependent forces too; the error falls by four with half the step."""
    integrator = setting(BODIES, null_relation=null)
    constants = preprocessing()
    states = random_states(BODIES, (NODES + 1, 1))[:, 0]
    spread = float(constants.position_scale)
    rates = jax.jit(lambda s: integrator.rates(s)[0])
    position, velocity = [0, 2], [1, 3]

    def slope(_, flat):
        values = np.asarray(states, np.float64).copy()
        values[:NODES, :4] = flat.reshape(NODES, 4)
        change = np.zeros((NODES, 4))
        drift = 0.3 * values[:NODES, velocity] + 0.05
        change[:, position] = drift
        acceleration = np.asarray(rates(jnp.asarray(values, jnp.float32)))[:NODES]
        change[:, velocity] = spread * acceleration / 0.3
        return change.reshape(-1)

    start = np.asarray(states, np.float64)[:NODES, :4].reshape(-1)
    expected = (
        scipy.integrate.solve_ivp(slope, (0.0, 1.0), start, rtol=1e-7, atol=1e-9)
        .y[:, -1]
        .reshape(NODES, 4)
    )
    advance = advanced(integrator)
    errors = [
        np.abs(advance(states, count)[:NODES, :4] - expected).max()
        for count in (2, 4, 8)
    ]
    moved = np.abs(expected - np.asarray(states)[:NODES, :4]).max()
    assert errors[2] < 0.01 * moved
    assert errors[0] > 2.5 * errors[1] > 6.0 * errors[2]


def test_net_accelerations_are_cut_off_in_raw_units():
    """Units of 3 and of half a time: a raw rate is 12 of the normalised ones."""
    layout = dataclasses.replace(BODIES, frame_interval=0.5)
    free = setting(layout)
    bound = setting(layout, max_rate=0.6)
    constants = preprocessing()
    scale = constants.normalization._replace(scale=jnp.full((5,), 3.0))
    # Far from where laws saturate, which bounds put off.
    limit = jnp.full_like(constants.target_limit, 1e4)
    constants = constants._replace(normalization=scale, target_limit=limit)
    free, bound = (
        dataclasses.replace(i, modules=i.modules.replace(preprocessing=constants))
        for i in (free, bound)
    )
    states = random_states(BODIES, (NODES + 1, 1))[:, 0]
    rates, cut = (np.asarray(i.rates(states)[0])[:NODES] for i in (free, bound))
    raw = rates * float(constants.position_scale) * 3.0 / 0.5**2
    assert 0.1 < np.mean(np.abs(raw) > 0.6) < 0.9
    np.testing.assert_allclose(cut, rates * np.clip(raw, -0.6, 0.6) / raw, rtol=1e-5)


def test_inputs_against_an_adaptive_solver():
    """They go straight to what they are at the next frame; pairs do not hear them."""
    spec = FeatureSpec(BODIES.spec.names, (0, 2), (1, 3), inputs=(4,))
    integrator = setting(FeatureLayout(spec, (0, 1, 2, 3), False))
    assert integrator.modules.bank.laws.law.columns() == ()
    states = np.array(random_states(BODIES, (NODES + 1, 1))[:, 0], np.float64)
    later = states[:, 4:] + np.array([[2.0], [-1.0], [0.5], [0.0]])
    spread = float(preprocessing().position_scale)
    rates = jax.jit(lambda s: integrator.rates(s)[0])

    def slope(time, flat):
        values = states.copy()
        values[:NODES, :4] = flat.reshape(NODES, 4)
        values[:, 4:] += time * (later - states[:, 4:])
        change = np.zeros((NODES, 4))
        change[:, [0, 2]] = 0.3 * values[:NODES, [1, 3]] + 0.05
        acceleration = np.asarray(rates(jnp.asarray(values, jnp.float32)))[:NODES]
        change[:, [1, 3]] = spread * acceleration / 0.3
        return change.reshape(-1)

    start = states[:NODES, :4].reshape(-1)
    found = scipy.integrate.solve_ivp(slope, (0.0, 1.0), start, rtol=1e-7, atol=1e-9)
    expected = found.y[:, -1].reshape(NODES, 4)
    given = jnp.asarray(states, jnp.float32)
    moving = dataclasses.replace(integrator, inputs=jnp.asarray(later, jnp.float32))
    after = advanced(moving)(given, 32)
    np.testing.assert_allclose(after[:, 4:], later, atol=1e-6)
    error = np.abs(after[:NODES, :4] - expected).max()
    held = np.abs(advanced(integrator)(given, 32)[:NODES, :4] - expected).max()
    assert error < 1e-3 * np.abs(expected - states[:NODES, :4]).max() < held


def test_angles_against_an_adaptive_solver():
    integrator = setting(PHASES)
    states = random_states(PHASES, (NODES + 1, 1))[:, 0]
    unit = float(integrator.modules.preprocessing.target_scale[0])
    rates = jax.jit(lambda s: integrator.rates(s)[1][:, 0])

    def slope(_, angles):
        values = np.asarray(states).copy()
        values[:NODES, 0], values[:NODES, 1] = np.sin(angles), np.cos(angles)
        return unit * np.asarray(rates(jnp.asarray(values)))[:NODES]

    start = np.arctan2(*np.asarray(states, np.float64)[:NODES, :2].T)
    angles = scipy.integrate.solve_ivp(
        slope, (0.0, 1.0), start, rtol=1e-7, atol=1e-9
    ).y[:, -1]
    found = advanced(integrator)(states, 4)[:NODES]
    np.testing.assert_allclose(
        found[:, :2], np.stack([np.sin(angles), np.cos(angles)], -1), atol=2e-5
    )
    np.testing.assert_array_equal(found[:, 2], np.asarray(states)[:NODES, 2])


def test_mutual_laws_conserve_momentum_and_central_ones_the_angular_one():
    """Under symmetric graphs, with nothing that acts on an entity alone."""
    integrator = without_own_laws(setting(BODIES, law="mutual"))
    ones = jnp.zeros_like(integrator.structure.edge_modules)
    integrator = dataclasses.replace(
        integrator, structure=integrator.structure._replace(edge_modules=ones)
    )
    rng = np.random.default_rng(3)
    position, drift = rng.normal(size=(2, NODES + 1, 2))
    states = states_of(position, drift)
    spread = float(preprocessing().position_scale)

    def momenta(states):
        states = np.asarray(states, np.float64)[:NODES]
        where, speed = states[:, [0, 2]], 0.3 * states[:, [1, 3]] + 0.05
        around = where[:, 0] * speed[:, 1] - where[:, 1] * speed[:, 0]
        return speed.sum(axis=0) / spread, around.sum() / spread**2

    before = momenta(states)
    state, advance = states, advanced(integrator)
    for _ in range(5):
        state = advance(state, 4)
    after = momenta(state)
    assert np.abs(np.asarray(state) - np.asarray(states))[:NODES].max() > 0.1
    np.testing.assert_allclose(after[0], before[0], atol=2e-5)
    np.testing.assert_allclose(after[1], before[1], atol=2e-5)


def test_walls_send_back_what_passes_them():
    """Without forces a body flies straight, mirrored at the walls."""
    integrator = without_own_laws(setting(BODIES, null_relation=True))
    none = jnp.zeros_like(integrator.structure.edge_modules)
    box = Domain("reflecting", (-1.0, -0.5), (1.0, 0.5))
    integrator = dataclasses.replace(
        integrator,
        structure=integrator.structure._replace(edge_modules=none),
        domain=box,
    )
    spread = float(preprocessing().position_scale)
    position = np.array([[0.9, 0.1], [-0.4, -0.4], [0.0, 0.0], [0.0, 0.0]]) / spread
    drift = np.array([[0.5, 0.2], [-0.1, -0.3], [0.3, 0.1], [0.0, 0.0]]) / spread
    state, advance = states_of(position, drift), advanced(integrator)
    for frame in range(1, 9):
        state = advance(state, 3)
        free = (position + frame * drift) * spread
        for axis, (low, high) in enumerate(zip(box.lower, box.upper, strict=True)):
            width = high - low
            folded = np.abs((free[:, axis] - low + width) % (2 * width) - width)
            expected = low + (width - (width - folded))
            np.testing.assert_allclose(
                state[:NODES, 2 * axis], expected[:NODES], atol=1e-4
            )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "round"}, "domain.kind: found 'round'"),
        ({"kind": "reflecting"}, "expected one coordinate per axis"),
        (
            {"kind": "reflecting", "lower": (1.0,), "upper": (0.0,)},
            "the lower one first",
        ),
    ],
)
def test_domains_without_an_inside_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Domain(**options)


def test_a_duration_is_as_many_frames():
    integrator = setting(BODIES)
    states = random_states(BODIES, (NODES + 1, 1))[:, 0]
    advance = advanced(integrator)
    twice = advance(advance(states, 64), 64)
    found = advance(states, 128, np.float32([2.0, 2.0, 2.0, 1.0]))
    np.testing.assert_allclose(found[:NODES], twice[:NODES], rtol=1e-4, atol=1e-4)


def test_bodies_in_a_plane_stay_in_it():
    """Of the third axis of space nothing was learned: no law acts along it."""
    spec = FeatureSpec(("x", "y", "z", "vx", "vy", "vz"), (0, 1, 2), (3, 4, 5))
    layout = FeatureLayout(spec, (0, 1, 3, 4), compress=False)
    integrator = setting(layout)
    states = np.array(random_states(layout, (NODES + 1, 1))[:, 0])
    states[:, [2, 5]] = 0.0
    constants = integrator.modules.preprocessing
    matrix = np.eye(6, dtype=np.float32)
    matrix[[3, 4, 5], [0, 1, 2]] = 0.1
    constants = constants._replace(
        step_matrix=jnp.asarray(matrix), step_offset=jnp.zeros(6)
    )
    modules = integrator.modules.replace(preprocessing=constants)
    found = advanced(dataclasses.replace(integrator, modules=modules))(states, 8)
    np.testing.assert_array_equal(found[:, [2, 5]], 0.0)
    assert np.isfinite(found).all() and np.abs(found - states)[:, :2].min() > 0.0
