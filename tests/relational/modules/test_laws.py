"""Laws and their integrals against closed forms and the solvers of SciPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.stats

from modmeta.relational import Domain, as_dataset, data
from modmeta.relational.data import FeatureSpec
from modmeta.relational.data.normalization import Normalization
from modmeta.relational.energies.cached import CachedEnergies, build_cache
from modmeta.relational.energies.composed import structure_energies
from modmeta.relational.energies.recomputed import RecomputedEnergies
from modmeta.relational.inference import artifacts
from modmeta.relational.modules import laws, motion
from modmeta.relational.modules.fitting import fit_preprocessing
from modmeta.relational.modules.integrals import (
    Integrals,
    next_step,
    two_body_flow,
)
from modmeta.relational.modules.messages import LawMessages
from modmeta.relational.modules.observations import observe, receiver_slots
from modmeta.relational.modules.preprocessing import (
    FeatureLayout,
    Preprocessing,
)
from modmeta.relational.tasks.states import host_states
from tests.fixtures import Batch, as_array, search_options, small_model, small_params

BODIES = FeatureLayout(
    FeatureSpec(("x", "vx", "y", "vy", "mass"), (0, 2), (1, 3)), (0, 1, 2, 3), False
)
PHASES = FeatureLayout(
    FeatureSpec(("sin", "cos", "frequency"), (), (), (0,), (1,)), (0, 1), False
)
PLAIN = FeatureLayout(FeatureSpec(("u", "v", "kind")), (0, 1), False)
LAYOUTS = {"bodies": BODIES, "phases": PHASES, "plain": PLAIN}

interpolate = jax.jit(motion.interpolate, static_argnums=(1, 5))


def preprocessing(layout=BODIES, seed=0):
    """Constants without special values: velocities move positions, with a drift."""
    rng = np.random.default_rng(seed)
    size, spec = layout.num_features, layout.spec
    matrix, shift = np.eye(size), np.zeros(size)
    for position, velocity in zip(spec.positions, spec.velocities, strict=True):
        matrix[velocity, position] = 0.3
        shift[position] = 0.05
    return jax.tree.map(
        np.float32,
        Preprocessing(
            normalization=Normalization(np.zeros(size), np.ones(size)),
            step_matrix=matrix,
            step_offset=shift,
            target_scale=rng.uniform(0.3, 0.8, layout.num_targets),
            target_limit=np.full(layout.num_targets, 4.0),
            position_scale=0.7,
            velocity_scale=1.3,
        ),
    )


def law_of(layout=BODIES, kind="central", attributes=False):
    return laws.LawLayout(kind, attributes, layout)


def messages_of(law, path="interpolated", num_points=8, span=1):
    return LawMessages(law, path, num_points, span, (5,), (5,), "tanh")


def states_of(position, velocity, constants=None):
    """Normalised states `[..., F]` of bodies from positions and drifts per frame."""
    constants = constants or preprocessing()
    position = np.asarray(position) * constants.position_scale
    drift = np.asarray(velocity) * constants.position_scale
    speed = (drift - 0.05) / 0.3
    mass = np.ones((*position.shape[:-1], 1))
    parts = [position[..., :1], speed[..., :1], position[..., 1:], speed[..., 1:], mass]
    return as_array(np.concatenate(parts, axis=-1))


def changes_by_hand(constants, impulse, moment):
    """Targets x, vx, y, vy from integrals in spreads of position."""
    spread, scale = float(constants.position_scale), np.asarray(constants.target_scale)
    impulse, moment = np.asarray(impulse) * spread / 0.3, np.asarray(moment) * spread
    values = [moment[0], impulse[0], moment[1], impulse[1]]
    return np.array(values) / scale


# Positions of two bodies as cubics in time, in spreads of position and frames.
CUBICS = np.array(
    [
        [[0.1, 0.4, -0.3, 0.1], [0.2, -0.1, 0.2, -0.05]],
        [[1.2, -0.2, 0.1, 0.05], [0.9, 0.3, -0.2, 0.1]],
    ]
)


def cubic(body, time, derivative=0):
    return np.stack(
        [np.polyval(np.polyder(c[::-1], derivative), time) for c in CUBICS[body]], -1
    )


def motion_of(body, duration, num_points):
    constants = preprocessing()
    times = np.array([0.0, duration])
    states = states_of(cubic(body, times), cubic(body, times, 1))
    return interpolate(
        constants,
        BODIES,
        states[None],
        jnp.asarray(times, jnp.float32)[None],
        jnp.arange(1),
        num_points,
    )


def test_path_through_cubic_motion_is_exact():
    """Positions and velocities of the Hermite path, at all points and durations."""
    for duration in (0.5, 1.0, 2.0):
        found = motion_of(0, duration, 5).points[0, 0]
        at = motion.gauss_legendre(5)[0] * duration
        expected = states_of(cubic(0, at), cubic(0, at, 1))
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_angles_follow_their_turns_and_others_the_nearest_frames():
    """A quadratic phase that passes pi, and a cubic of a plain column."""
    times = np.arange(7.0)
    phase, plain = 2.5 + 1.1 * times - 0.05 * times**2, 0.1 * times**3 - times
    layout = FeatureLayout(
        FeatureSpec(("sin", "u", "cos"), (), (), (0,), (2,)), (0, 1, 2), False
    )
    states = np.stack([np.sin(phase), plain, np.cos(phase)], -1)[None]
    found = interpolate(
        preprocessing(layout),
        layout,
        jnp.asarray(states, jnp.float32),
        jnp.asarray(times, jnp.float32)[None],
        jnp.arange(6),
        4,
    ).points[0]
    at = np.arange(6.0)[:, None] + motion.gauss_legendre(4)[0]
    phase, plain = 2.5 + 1.1 * at - 0.05 * at**2, 0.1 * at**3 - at
    expected = np.stack([np.sin(phase), plain, np.cos(phase)], -1)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "max_rate"), [("central", 0.0), ("general", 0.0), ("central", 0.0105)]
)
def test_message_is_the_integral_of_its_law_along_the_path(kind, max_rate):
    """Simpson's rule on 2,000 steps; the error falls with the number of points."""
    constants, duration = preprocessing(), 1.5
    law = dataclasses.replace(law_of(kind=kind), max_rate=max_rate)
    units = laws.units_of(law, constants, 1)
    bank = messages_of(law)

    @jax.jit
    def draw():
        examples = bank.edge_examples(constants)
        params = bank.edge_module.init(jax.random.key(3), *examples)
        return jax.tree.map(lambda leaf: 3.0 * leaf, params["params"])

    params = draw()

    @jax.jit
    def rate(sender, receiver):
        relative = laws.relative_state(law, constants, sender, receiver)
        return bank.pair_rates(units, params, relative)[0]

    time = np.linspace(0.0, duration, 2001)
    states = [states_of(cubic(b, time), cubic(b, time, 1)) for b in (1, 0)]
    rates = np.asarray(rate(*states), np.float64)
    if max_rate:
        # Normalised positions have the unit of raw ones, frames are the unit of time.
        bound = max_rate / constants.position_scale
        assert 0.2 < np.mean(np.abs(rates) > bound) < 0.8
        rates = np.clip(rates, -bound, bound)
    impulse = scipy.integrate.simpson(rates, x=time, axis=0)
    moment = scipy.integrate.simpson((duration - time)[:, None] * rates, x=time, axis=0)
    expected = changes_by_hand(constants, impulse, moment)

    @jax.jit
    def messages():
        found = []
        for num_points in (1, 4, 8):
            ends = (motion_of(body, duration, num_points) for body in (1, 0))
            bank = messages_of(law, num_points=num_points)
            found.append(bank.edge(constants, params, *ends)[0, 0, :4])
        return found

    errors = [np.abs(found - expected).max() for found in messages()]
    # Where a component is cut off, a rate has a kink.
    assert errors[-1] < (3e-2 if max_rate else 3e-3) * np.abs(expected).max()
    assert errors[1] < 0.2 * errors[0]


def flow_errors(law, start, end, duration, counts, expected):
    """Errors of impulse and moment of a known mutual law, by number of steps."""

    def relative(state):
        return laws.RelativeState(
            jnp.asarray(state[None, :2], jnp.float32),
            jnp.asarray(state[None, 2:], jnp.float32),
            jnp.zeros((1, 0)),
        )

    def rates(relative):
        rate = law(relative.displacement, jnp)
        return rate, -rate, relative.displacement

    errors = []
    for count in counts:
        flow = jax.jit(functools.partial(two_body_flow, rates, num_steps=count))
        integrals, inputs = flow(
            relative(start), relative(end), np.full(1, duration, np.float32)
        )
        assert inputs.shape == (1, count, 2)
        found = np.stack([integrals.impulse[0], integrals.moment[0]])
        errors.append(np.abs(found - expected).max())
    return np.array(errors) / np.abs(expected).max()


def solved(law, start, duration):
    """End, impulse and moment of relative motion of two bodies that act mutually."""

    def slope(time, values):
        rate = law(values[:2])
        left = (duration - time) * rate
        return np.concatenate([values[2:4], -2.0 * rate, rate, left])

    solution = scipy.integrate.solve_ivp(
        slope,
        (0.0, duration),
        np.concatenate([start, np.zeros(4)]),
        method="DOP853",
        rtol=1e-12,
        atol=1e-12,
    ).y[:, -1]
    return solution[:4], solution[4:6], solution[6:]


def test_two_body_flow_of_a_spring_against_its_closed_form():
    strength, duration = 0.8, 1.2
    start = np.array([1.0, 0.3, -0.2, 0.5])
    omega = np.sqrt(2.0 * strength)

    def at(t):
        position = start[:2] * np.cos(omega * t) + start[2:] / omega * np.sin(omega * t)
        speed = start[2:] * np.cos(omega * t) - start[:2] * omega * np.sin(omega * t)
        return np.concatenate([position, speed])

    end = at(duration)
    # The relative velocity changes by twice the impulse on either body.
    impulse = -(end[2:] - start[2:]) / 2.0
    moment = -(end[:2] - start[:2] - duration * start[2:]) / 2.0
    errors = flow_errors(
        lambda displacement, _: strength * displacement,
        start,
        end,
        duration,
        (4, 8, 16),
        np.stack([impulse, moment]),
    )
    assert errors[2] < 2e-3
    # Of second order in the length of a step.
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.25)


def test_two_body_flow_in_the_kepler_problem():
    """An eccentric orbit, of which the interval covers a quarter."""
    strength, duration = 0.6, 1.0
    start = np.array([0.8, 0.0, -0.4, 0.9])

    def law(displacement, xp=np):
        squared = xp.sum(displacement**2, axis=-1, keepdims=True)
        return strength * displacement / squared**1.5

    end, impulse, moment = solved(law, start, duration)
    errors = flow_errors(
        law, start, end, duration, (16, 32, 64), np.stack([impulse, moment])
    )
    assert errors[2] < 1e-2
    assert errors[0] > 2.5 * errors[1] > 6.0 * errors[2]


def test_two_body_flow_of_a_passage_shorter_than_a_step():
    """Of sixteen steps of one length, which would be off by twice of all there is."""
    strength, duration = 0.02, 1.0
    start = np.array([-0.52, 0.02, 1.2, 0.0])

    def law(displacement, xp=np):
        squared = xp.sum(displacement**2, axis=-1, keepdims=True) + 1e-4
        return strength * displacement / squared**1.5

    end, impulse, moment = solved(law, start, duration)
    errors = flow_errors(
        law, start, end, duration, (16, 32), np.stack([impulse, moment])
    )
    assert errors[0] < 0.1 and errors[1] < 0.025


def test_steps_fill_their_time_and_are_shorter_where_a_pair_is_near():
    """Against one over the distance, integrated, of pairs that go straight."""
    displacement = jnp.array([[-1.0, 0.1], [3e3, 1.0], [0.2, 0.0], [-0.3, 0.0]])
    velocity = jnp.array([[2.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    time, lengths = jnp.array([[1.0], [0.5], [2.0], [0.0]]), []
    place, left = displacement, time
    for num_left in range(12, 0, -1):
        step = next_step(place, velocity, left, jnp.float32(num_left))
        place, left = place + step * velocity, left - step
        lengths.append(step[:, 0])
    lengths = np.array(lengths)
    np.testing.assert_allclose(lengths.sum(axis=0), time[:, 0], atol=1e-6)
    assert np.all(lengths >= 0.0)
    times = np.linspace(0.0, 1.0, 100001)
    density = 1.0 / np.hypot(-1.0 + 2.0 * times, 0.1)
    share = scipy.integrate.cumulative_simpson(density, x=times, initial=0.0)
    expected = np.interp(np.linspace(0.0, 1.0, 13), share / share[-1], times)
    np.testing.assert_allclose(lengths[:, 0].cumsum(), expected[1:], atol=1e-3)
    # Far away, at rest, or without time: alike.
    for row, length in ((1, 0.5 / 12), (2, 2.0 / 12), (3, 0.0)):
        np.testing.assert_allclose(lengths[:, row], length, rtol=0.1)


def scaled_params(model, params, seed=5):
    """Random parameters for which variances neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    modules = jax.tree.map(
        lambda leaf: as_array(0.3 * rng.normal(size=leaf.shape)),
        params.modules,
    )
    return params._replace(
        modules=modules, preprocessing=preprocessing(model.bank.layout)
    )


@functools.cache
def law_setting(layout, path, span, null, entities="alike"):
    model = small_model(
        layout=LAYOUTS[layout],
        compress=False,
        path=path,
        span=span,
        null_relation=null,
        entities=entities,
        num_relations=3,
        num_node_modules=2,
        law="general",
        node_sizes=(4,),
    )
    sizes = (3, 1, 4)
    batch = Batch(sizes, frames=6, relations=3, nodes=2)
    return model, batch


VARIANTS = [
    ("bodies", "two_body", 1, True, "alike"),
    ("bodies", "interpolated", 3, True, "differ"),
    ("phases", "interpolated", 2, False, "differ"),
    ("plain", "interpolated", 1, False, "alike"),
]


def random_states(layout, shape, seed=0):
    """Normalised states of a layout; angles on the circle, attributes at rest."""
    rng = np.random.default_rng(seed)
    nodes, frames = shape
    values = np.cumsum(0.3 * rng.normal(size=(nodes, frames, layout.num_features)), 1)
    for sine, cosine in layout.spec.angles:
        angle = np.cumsum(rng.normal(size=(nodes, frames)), 1)
        values[..., sine], values[..., cosine] = np.sin(angle), np.cos(angle)
    for column in set(range(layout.num_features)) - set(layout.predicted):
        values[..., column] = values[:, :1, column]
    return as_array(values)


@pytest.mark.parametrize("layout, path, span, null, entities", VARIANTS)
def test_cached_recomputed_and_composed_energies_agree(
    layout, path, span, null, entities
):
    model, batch = law_setting(layout, path, span, null, entities)
    graph = batch.supergraph
    params = scaled_params(model, small_params(model, graph, 6))
    modules = model.network.modules(params)
    states = random_states(model.bank.layout, (len(graph.node_mask), 6))
    states = jnp.where(jnp.asarray(graph.node_mask)[:, None, None], states, jnp.nan)
    structure = batch.structure()
    receivers = jnp.arange(len(graph.node_mask))
    starts = np.array([2, 0])

    @jax.jit
    def energies_and_caches(modules):
        observed = observe(modules, graph, states)
        cache = build_cache(modules, graph, observed)
        anew = RecomputedEnergies(modules, observed, receiver_slots(graph))
        energies = (
            structure_energies(modules, graph, structure, observed),
            CachedEnergies(modules, cache).local(structure, receivers),
            anew.local(structure, receivers),
        )
        some = build_cache(modules, graph, observe(modules, graph, states, starts))
        leaves = [(c.messages, c.embedded, c.targets) for c in (some, cache)]
        return energies, leaves

    (composed, cached, anew), leaves = energies_and_caches(modules)
    assert np.isfinite(composed).all() and np.ptp(composed[:8]) > 0.1
    np.testing.assert_allclose(cached, composed, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(anew, composed, rtol=1e-4, atol=1e-4)
    # Windows are chosen, not made anew: those of a selection are those of all.
    for some, every in zip(*leaves, strict=True):
        axis = some.ndim - 2
        np.testing.assert_allclose(
            some, np.asarray(every).take(starts, axis=axis), rtol=1e-4, atol=1e-5
        )


def test_a_window_adds_up_what_its_intervals_do():
    """Constant acceleration: closed form over three frames of unequal length."""
    constants, law = preprocessing(), law_of()
    bank = messages_of(law, span=3)
    times = jnp.array([[0.0, 1.0, 1.5, 3.5]])
    acceleration = np.array([0.4, -0.2])
    units = laws.units_of(law, constants, 3)
    durations = np.diff(np.asarray(times)[0])
    parts = [
        (
            (0.5 * h**2 * acceleration).astype(np.float32),
            (h * acceleration).astype(np.float32),
        )
        for h in durations
    ]
    integrals = Integrals(
        jnp.stack([m for m, _ in parts])[None],
        jnp.stack([i for _, i in parts])[None],
        jnp.zeros((1, 3, 0)),
    )
    messages = jnp.pad(bank.changes(units, integrals), ((0, 0), (0, 0), (0, 4)))
    windows = motion.windows_of(times, jnp.arange(1), 4, 3)
    found = bank.collect(constants, messages, windows)[0, 0, :4]
    total = 3.5
    expected = changes_by_hand(
        constants, total * acceleration, 0.5 * total**2 * acceleration
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_units_of_windows_are_fitted_on_changes_over_windows():
    """Phases by NumPy's unwrapping, bodies by their change beyond constant velocity."""
    phases = data.simulate_kuramoto(0, 6, num_nodes=3, num_frames=12)
    constants, _ = fit_preprocessing(phases, compress=False, span=5)
    sine, cosine = phases.states[..., 0], phases.states[..., 1]
    angles = np.unwrap(np.arctan2(sine, cosine).astype(np.float64), axis=1)
    turns = np.abs(angles[:, 5:] - angles[:, :-5])
    np.testing.assert_allclose(constants.target_scale, 1.5 * np.median(turns), 1e-3)
    bodies = data.simulate_springs(0, 6, num_nodes=3, num_frames=12)
    constants, layout = fit_preprocessing(bodies, compress=False, span=4)
    assert layout.shifting == (0, 1, 2, 3)
    states, scale = bodies.states.astype(np.float64), constants.normalization.scale
    beyond = states[:, 4:] - states[:, :-4]
    beyond[..., :2] -= 0.4 * states[:, :-4, :, 2:]
    typical = 1.5 * np.median(np.abs(beyond), axis=(0, 1, 2)) / scale
    np.testing.assert_allclose(constants.target_scale, typical, rtol=1e-3)


@pytest.mark.parametrize("kind", ["general", "central", "mutual"])
def test_laws_turn_and_move_with_the_frame_of_reference(kind):
    constants, law = preprocessing(), law_of(kind=kind)
    units = laws.units_of(law, constants, 1)
    bank = messages_of(law)

    @jax.jit
    def rate(sender, receiver):
        examples = bank.edge_examples(constants)
        params = bank.edge_module.init(jax.random.key(1), *examples)
        relative = laws.relative_state(law, constants, sender, receiver)
        return bank.pair_rates(units, params["params"], relative)[0]

    rng = np.random.default_rng(0)
    position, velocity = rng.normal(size=(2, 2, 2))
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = rate(*states_of(position, velocity)) @ turn.T
    shift, boost = rng.normal(size=(2, 2))
    found = rate(*states_of(position @ turn.T + shift, velocity @ turn.T + boost))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)
    # One's pull is the other's, backwards.
    back = rate(*states_of(position, velocity)[::-1])
    np.testing.assert_allclose(back, -rate(*states_of(position, velocity)), rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pair_seen_from_its_other_end(layout):
    layout = LAYOUTS[layout]
    constants, law = preprocessing(layout), law_of(layout=layout, attributes=True)
    states = np.random.default_rng(0).normal(size=(2, 3, layout.num_features))
    there, back = (
        laws.relative_state(law, constants, *ends) for ends in (states, states[::-1])
    )
    found = laws.seen_by_sender(law, there)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, back)


def test_two_body_paths_move_both_by_their_attributes():
    """A light and a heavy body under gravity, whose masses are in a column."""
    duration, masses = 1.2, (2.0, 0.5)
    start = np.array([0.9, 0.0, -0.2, 1.5])

    def slope(_, values):
        rate = values[:2] / np.linalg.norm(values[:2]) ** 3
        return np.concatenate([values[2:4], -sum(masses) * rate, masses[0] * rate])

    end = scipy.integrate.solve_ivp(
        slope, (0.0, duration), [*start, 0, 0], rtol=1e-10, atol=1e-12
    ).y[:, -1]

    def rates(relative):
        squared = jnp.sum(relative.displacement**2, axis=-1, keepdims=True)
        return relative.others[..., :1] * relative.displacement / squared**1.5

    def of_both(relative):
        swapped = laws.seen_by_sender(law_of(attributes=True), relative)
        return rates(relative), rates(swapped), relative.displacement

    def relative(state):
        place, velocity = jnp.asarray(state[None], jnp.float32).reshape(1, 2, 2)[0]
        return laws.RelativeState(place[None], velocity[None], jnp.array([masses]))

    integrals, _ = two_body_flow(
        of_both, relative(start), relative(end[:4]), jnp.full(1, duration), 64
    )
    np.testing.assert_allclose(integrals.impulse[0], end[4:], rtol=3e-3)


@pytest.mark.parametrize("likelihood", ["gaussian", "student"])
def test_densities_and_the_weighted_gradient(likelihood):
    model, batch = law_setting("bodies", "interpolated", 1, False)
    bank = dataclasses.replace(
        model.bank,
        config=dataclasses.replace(model.bank.config, likelihood=likelihood),
    )
    model = dataclasses.replace(
        model, network=dataclasses.replace(model.network, bank=bank)
    )
    params = scaled_params(model, small_params(model, batch.supergraph, 6))
    modules = model.network.modules(params)
    rng = np.random.default_rng(0)
    outputs = jnp.asarray(rng.uniform(0.2, 2.0, (7, 8)), jnp.float32)
    targets = jnp.asarray(rng.normal(size=(7, 4)), jnp.float32)

    @jax.jit
    def energies_and_slopes(outputs):
        def with_power(power, is_even=False):
            def total(outputs):
                found = modules.frame_energies(outputs, targets, power, is_even=is_even)
                return jnp.sum(found), found

            slopes, found = jax.grad(total, has_aux=True)(outputs)
            return found, slopes

        powers = with_power(0.0), with_power(0.5), with_power(0.5, True)
        return modules.predict(outputs), *powers

    predicted, (found, plain), (again, weighted), (_, even) = energies_and_slopes(
        outputs
    )
    mean, log_scale = map(np.asarray, predicted)
    kind = scipy.stats.norm if likelihood == "gaussian" else scipy.stats.t(df=4)
    density = kind.logpdf((targets - mean) / np.exp(log_scale)) - log_scale
    np.testing.assert_allclose(found, -density.sum(-1), rtol=1e-5)
    np.testing.assert_allclose(again, found, rtol=1e-5)
    np.testing.assert_allclose(
        weighted[:, :4], plain[:, :4] * np.exp(log_scale), rtol=1e-4
    )
    level = np.exp(log_scale.mean())
    np.testing.assert_allclose(even[:, :4], plain[:, :4] * level, rtol=1e-4)
    for slopes in (weighted, even):
        np.testing.assert_allclose(slopes[:, 4:], plain[:, 4:], rtol=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"path": "two_body", "layout": PHASES}, "path: found 'two_body'"),
        ({"path": "interpolated", "node_update": "mlp"}, "node_update: found 'mlp'"),
        ({"path": "spline"}, "path: found 'spline'"),
        ({"law": "odd"}, "law: found 'odd'"),
        ({"path": "two_body", "num_points": 3}, "num_points: found 3"),
        ({"path": "start", "span": 2}, "span: found 2 with path 'start'"),
    ],
)
def test_options_that_make_no_law_are_refused(options, message):
    options = {"layout": BODIES, **options}
    with pytest.raises(ValueError, match=message):
        small_model(compress=False, **options)


def test_laws_are_not_searched_by_roll_outs():
    search = search_options(form="rollout")
    with pytest.raises(ValueError, match="form: found 'rollout' with path 'interp"):
        small_model(layout=BODIES, compress=False, path="interpolated", search=search)


def test_a_law_may_pass_through_zero_at_any_size():
    """That of neutral atoms, from -8 to 1 within a seventh of a distance."""
    at = np.geomspace(0.68, 4.0, 80).astype(np.float32)
    sixth = (0.7 / at) ** 6
    rates = 7.2 * (sixth - 2.0 * sixth**2) / at
    unit = np.median(np.abs(rates))
    inputs = jnp.stack([np.log(at), at / 3.0], axis=-1)
    network = laws.LawNetwork((32, 32), "silu", 1, 1)
    params = network.init(jax.random.key(0), inputs, jnp.zeros((4,)))
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 600))

    def found(params):
        return unit * network.apply(params, inputs, method="rates")[:, 0]

    def loss(params):
        known = np.square(0.03 * rates) + unit**2
        return jnp.mean(jnp.square(found(params) - rates) / known)

    @jax.jit
    def fit(params):
        def body(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        start = (params, optimizer.init(params))
        return jax.lax.scan(body, start, None, length=600)[0][0]

    error = np.asarray(found(fit(params))) - rates
    assert np.mean(np.square(error)) < 1e-3 * np.var(rates)


def test_rates_are_finite_where_nothing_changed():
    constants = preprocessing()._replace(target_limit=jnp.zeros(4))
    units = laws.units_of(law_of(), constants, 1)
    assert units.limit > 0.0
    found = laws.saturated(jnp.array([0.0, 1e9, -1e9]), units.limit)
    np.testing.assert_allclose(found, [0.0, units.limit, -units.limit], rtol=1e-5)


def test_a_law_may_be_far_beyond_what_components_are_cut_off_at():
    """Two bodies that pass: one component at the bound, the other a share of it."""
    constants = preprocessing()._replace(target_limit=jnp.full(4, 1e-3))
    law = dataclasses.replace(law_of(), max_rate=1.0)
    units = laws.units_of(law, constants, 1)
    bound = float(jnp.max(units.bounds))
    strength, direction = 30.0 * bound, np.array([np.cos(0.01), np.sin(0.01)])
    found = laws.saturated(jnp.float32(strength / 0.7), units.limit) * direction
    expected = np.clip(strength * direction, -bound, bound)
    np.testing.assert_allclose(units.cut(found[None])[0], expected, rtol=0.05)


def test_a_law_beyond_its_bounds_can_still_learn():
    constants = preprocessing()
    units = laws.units_of(dataclasses.replace(law_of(), max_rate=1.0), constants, 1)
    bounds = np.asarray(units.bounds)
    factors = np.array([[-3.0, -0.5], [0.5, 20.0]])
    rates = jnp.asarray(factors * bounds, jnp.float32)
    np.testing.assert_allclose(
        units.learned_cut(rates), np.clip(factors, -1.0, 1.0) * bounds, rtol=1e-6
    )
    slopes = np.asarray(jax.grad(lambda x: jnp.sum(units.learned_cut(x)))(rates))
    is_within = np.abs(factors) < 1.0
    np.testing.assert_allclose(slopes[is_within], 1.0)
    assert np.all((slopes[~is_within] > 0.0) & (slopes[~is_within] < 1.0))


def test_saved_laws_of_another_form_are_refused():
    model, batch = law_setting("bodies", "interpolated", 1, False)
    params = small_params(model, batch.supergraph, 6)
    arrays, metadata = artifacts.describe_model(model, params)
    again, _ = artifacts.rebuild_model(arrays, metadata)
    assert again.bank == model.bank
    del metadata["law_form"]
    with pytest.raises(ValueError, match="found laws 'of an earlier version'"):
        artifacts.rebuild_model(arrays, metadata)
    metadata["law_form"] = "size and sign, saturated"
    artifacts.rebuild_model(arrays, metadata)
    metadata["modules"]["max_rate"] = 1.0
    with pytest.raises(ValueError, match="expected '.* beyond the bounds'"):
        artifacts.rebuild_model(arrays, metadata)


def test_messages_in_a_box_that_repeats_itself():
    """A small cluster that drifts out of it, as recorded, as it is, and shifted.

    In space without sides the same cluster acts alike, as its bodies are near.
    """
    rng = np.random.default_rng(0)
    low, periods = np.array([-2.0, 1.0]), np.array([4.0, 6.0])
    times = 0.1 * np.arange(12)[None, :, None, None]
    start, drift = rng.uniform(-0.8, 0.8, (2, 1, 4, 2)), rng.uniform(2, 3, (2, 1, 1, 2))
    where = start + drift * times + 0.2 * np.sin(times + 3.0 * start)
    speed = drift + 0.2 * np.cos(times + 3.0 * start)
    box = Domain("periodic", tuple(low), tuple(low + periods))

    def messages(where, domain=None, constants=None):
        states = np.concatenate([where, speed], axis=-1)
        roles = {"positions": (0, 1), "velocities": (2, 3)}
        dataset = as_dataset(states, frame_interval=0.1, domain=domain, **roles)
        constants_of, layout = fit_preprocessing(dataset, compress=False)
        model = small_model(layout=layout, compress=False, path="interpolated", span=1)
        batch = Batch((4, 4))
        params = small_params(model, batch.supergraph, 12)
        modules = model.network.modules(
            params._replace(
                preprocessing=jax.tree.map(jnp.asarray, constants or constants_of)
            )
        )
        states = host_states(dataset, modules.preprocessing.normalization).states
        states = np.pad(states.reshape(8, 12, 4), ((0, 1), (0, 0), (0, 0)))
        cache = jax.jit(build_all)(modules, batch.supergraph, states)
        return constants_of, cache

    def build_all(modules, graph, states):
        return build_cache(modules, graph, observe(modules, graph, states))

    wrapped = low + np.mod(where - low, periods)
    assert np.abs(np.diff(wrapped, axis=1)).max() > 3.0
    constants, found = messages(wrapped, box)
    # Changes have one unit, but for rounding, in all of them.
    moved = low + np.mod(where - low + [1.7, 0.4], periods)
    _, shifted = messages(moved, box, constants)
    _, free = messages(where, constants=constants)
    for name in ("messages", "targets"):
        expected = np.asarray(getattr(found, name))
        for other in (shifted, free):
            np.testing.assert_allclose(
                getattr(other, name), expected, rtol=1e-3, atol=2e-3
            )
    np.testing.assert_allclose(shifted.embedded, found.embedded, rtol=1e-3, atol=5e-4)
    assert np.abs(np.asarray(free.embedded - found.embedded)).max() > 0.01
