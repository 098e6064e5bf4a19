import functools
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from modmeta.relational import data
from modmeta.relational.data.simulators import batching, charged, kuramoto, particles

# Every statistical test has a fixed seed and passes at p > 1e-3, so that a correct
# simulator would fail it for one seed in a thousand.
SIGNIFICANCE = 1e-3

# Settings that tests share, since each new one costs a compilation.
SMALL = {"num_nodes": 4, "num_frames": 20, "task_batch": 40}

SIMULATORS = {
    "springs": data.simulate_springs,
    "charged": data.simulate_charged,
    "kuramoto": functools.partial(data.simulate_kuramoto, observation="phase"),
}
PARTICLE_TRAJECTORIES = {
    "springs": data.springs_trajectory,
    "charged": data.charged_trajectory,
}


@functools.partial(jax.jit, static_argnames=("function", "options"))
def compiled(function, arguments, options=()):
    """Calls a function in one program, which calls like it share."""
    return function(*arguments, **dict(options))


def spring_force(coupling, receiver, sender):
    return [-0.1 * coupling * (receiver[a] - sender[a]) for a in range(2)]


def charge_force(coupling, receiver, sender):
    distance = math.dist(receiver, sender)
    return [coupling * (receiver[a] - sender[a]) / distance**3 for a in range(2)]


PAIR_FORCES = {"springs": spring_force, "charged": charge_force}


def body_loop(pair_force, position, velocity, couplings, num_frames):
    """Simulates one task body by body with Python floats."""
    bodies = range(len(position))
    position = [list(row) for row in position]
    velocity = [list(row) for row in velocity]

    def kick():
        for i in bodies:
            net = [0.0, 0.0]
            for j in bodies:
                if i != j:
                    force = pair_force(couplings[i][j], position[i], position[j])
                    net = [net[0] + force[0], net[1] + force[1]]
            for a in range(2):
                accelerations[i][a] = min(100.0, max(-100.0, net[a]))
        for i in bodies:
            for a in range(2):
                velocity[i][a] += 0.001 * accelerations[i][a]

    accelerations = [[0.0, 0.0] for _ in bodies]
    frames = []
    kick()
    for step in range(1, 100 * num_frames + 1):
        for i in bodies:
            for a in range(2):
                position[i][a] += 0.001 * velocity[i][a]
                if position[i][a] > 5.0:
                    position[i][a] = 10.0 - position[i][a]
                    velocity[i][a] = -abs(velocity[i][a])
                elif position[i][a] < -5.0:
                    position[i][a] = -10.0 - position[i][a]
                    velocity[i][a] = abs(velocity[i][a])
        if step % 100 == 0:
            frames.append([position[i] + velocity[i] for i in bodies])
        kick()
    return np.array(frames)


def random_particles(seed, num_tasks, num_nodes, position_scale=1.0, speed=0.5):
    rng = np.random.default_rng(seed)
    position = rng.normal(0.0, position_scale, (num_tasks, num_nodes, 2))
    velocity = rng.normal(0.0, speed, (num_tasks, num_nodes, 2))
    couplings = rng.choice([-1.0, 0.0, 0.5, 1.0], (num_tasks, num_nodes, num_nodes))
    return position, velocity, couplings


def run_particles(name, *arguments, **options):
    trajectory, options = PARTICLE_TRAJECTORIES[name], tuple(options.items())
    with jax.enable_x64(True):
        return np.asarray(compiled(trajectory, arguments, options))


@pytest.mark.parametrize("name", PARTICLE_TRAJECTORIES)
@pytest.mark.parametrize("position_scale", [0.5, 3.0])
def test_particles_match_a_loop_over_bodies(name, position_scale):
    # The wide start, with its higher speed, meets the walls.
    position, velocity, couplings = random_particles(0, 2, 4, position_scale, 2.0)
    position = np.clip(position, -4.9, 4.9)
    found = run_particles(name, position, velocity, couplings, num_frames=6)
    assert found.dtype == np.float64
    for task in range(2):
        expected = body_loop(
            PAIR_FORCES[name], position[task], velocity[task], couplings[task], 6
        )
        np.testing.assert_allclose(found[task], expected, rtol=0, atol=1e-10)


def test_net_force_is_clipped_per_component():
    # At distance 0.01 the force of 10^4 along x is clipped to 100, one kick of 0.1.
    position = np.array([[[0.0, 0.0], [0.01, 0.0]]])
    couplings = np.ones((1, 2, 2))
    found = run_particles(
        "charged",
        position,
        np.zeros_like(position),
        couplings,
        num_frames=1,
        steps_per_frame=1,
    )
    np.testing.assert_allclose(found[0, 0, :, 2:], [[-0.1, 0.0], [0.1, 0.0]])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_walls_reflect_elastically(axis, side):
    position, velocity = np.zeros((1, 1, 2)), np.zeros((1, 1, 2))
    position[..., axis], velocity[..., axis] = 4.95 * side, 2.0 * side
    found = run_particles(
        "springs", position, velocity, np.zeros((1, 1, 1)), num_frames=3
    )[0, :, 0]
    # 0.2 of path per frame: 0.05 to the wall, the rest back.
    np.testing.assert_allclose(
        found[:, axis], side * np.array([4.85, 4.65, 4.45]), rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(found[:, 2 + axis], -2.0 * side)
    np.testing.assert_array_equal(found[:, [1 - axis, 3 - axis]], 0.0)


@pytest.mark.parametrize("name", SIMULATORS)
def test_states_stay_in_range(name):
    dataset = SIMULATORS[name](0, 40, **SMALL)
    states = dataset.states
    assert states.shape == (40, 20, 4, 4)
    assert states.dtype == np.float32
    assert dataset.frame_interval == pytest.approx(0.1)
    if name == "kuramoto":
        # The phase velocity differs from omega by at most one per neighbour.
        assert np.abs(states[..., 0] - states[..., 3]).max() <= 3.001
        np.testing.assert_allclose(
            states[..., 1] ** 2 + states[..., 2] ** 2, 1.0, rtol=1e-5
        )
    else:
        assert np.abs(states[..., :2]).max() <= 5.0


@pytest.mark.parametrize("name", PARTICLE_TRAJECTORIES)
def test_energy_error_is_first_order_in_the_step(name):
    energy_of = {"springs": data.springs_energy, "charged": data.charged_energy}[name]
    # Bodies on a square that repel or attract weakly: no close encounters, no walls.
    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]])
    position = np.tile(corners, (3, 1, 1))
    rng = np.random.default_rng(1)
    velocity = rng.normal(0.0, 0.2, position.shape)
    couplings = np.ones((3, 4, 4))
    drifts = []
    for refinement in (1, 2):
        states = run_particles(
            name,
            position,
            velocity,
            couplings,
            num_frames=10,
            time_step=0.001 / refinement,
            steps_per_frame=100 * refinement,
        )
        with jax.enable_x64(True):
            energy = np.asarray(compiled(energy_of, (states, couplings)))
        assert energy.shape == (3, 10)
        drifts.append(np.ptp(energy, axis=1) / np.abs(energy[:, 0]))
    assert drifts[0].max() < 2e-3
    np.testing.assert_allclose(drifts[0] / drifts[1], 2.0, rtol=0.05)


def test_energies_by_hand():
    # Two bodies at distance 5 with speeds 1 and 2; the diagonal must not matter.
    states = np.array([[[[0.0, 0.0, 1.0, 0.0], [3.0, 4.0, 0.0, 2.0]]]], np.float32)
    couplings = np.full((1, 2, 2), 0.5, np.float32)
    springs = data.springs_energy(states, couplings)
    np.testing.assert_allclose(springs, [[2.5 + 0.5 * 0.1 * 0.5 * 25.0]], rtol=1e-6)
    charges = data.charged_energy(states, couplings)
    np.testing.assert_allclose(charges, [[2.5 + 0.5 / 5.0]], rtol=1e-6)


@pytest.mark.parametrize("name", PARTICLE_TRAJECTORIES)
def test_removing_an_edge_changes_its_receiver_first(name):
    position, velocity, couplings = random_particles(2, 1, 4)
    receiver, sender = 1, 3
    couplings = np.ones_like(couplings)
    without = couplings.copy()
    without[0, receiver, sender] = 0.0
    options = {"num_frames": 3, "steps_per_frame": 1}
    before = run_particles(name, position, velocity, couplings, **options)
    after = run_particles(name, position, velocity, without, **options)
    changed = np.any(before != after, axis=-1)[0]
    np.testing.assert_array_equal(changed[0], [False, True, False, False])
    assert changed[2].all()


def test_removing_a_coupling_changes_its_receiver_first():
    rng = np.random.default_rng(3)
    phase, frequency = rng.uniform(1.0, 6.0, (2, 1, 4))
    couplings = np.ones((1, 4, 4))
    without = couplings.copy()
    without[0, 1, 3] = 0.0
    # The first stage of the first step is the one that no path of length two reaches.
    with jax.enable_x64(True):
        small = (("num_frames", 2), ("steps_per_frame", 1), ("time_step", 1e-6))
        before, after = (
            compiled(data.kuramoto_trajectory, (phase, frequency, edges), small)[1]
            for edges in (couplings, without)
        )
    change = np.abs(np.asarray(before) - np.asarray(after))[0, 0]
    assert change[1] > 0.01
    assert np.delete(change, 1).max() < 1e-5


@pytest.mark.parametrize("num_relations", [2, 3])
def test_labels_of_directed_springs_explain_the_accelerations(num_relations):
    strengths = np.linspace(0.0, 1.0, num_relations)
    dataset = data.simulate_springs(4, 40, strengths=tuple(strengths), directed=True)
    assert dataset.num_relations == num_relations
    position, velocity = dataset.states[..., :2], dataset.states[..., 2:]
    acceleration = (velocity[:, 2:] - velocity[:, :-2]) / 0.2
    inside = np.abs(position).max(axis=(2, 3))[:, 1:-1] < 4.5
    differences = position[:, 1:-1, :, None] - position[:, 1:-1, None]

    def error(edges):
        force = -0.1 * np.einsum("tij,tmijd->tmid", strengths[edges], differences)
        return np.abs(force - acceleration)[inside].mean()

    assert error(dataset.edges) < 0.01
    assert error(dataset.edges.swapaxes(1, 2)) > 0.05


def test_labels_of_charges_conserve_energy():
    dataset = data.simulate_charged(5, 80, **SMALL)
    products = np.array([-1.0, 1.0], np.float32)

    def median_change(edges):
        energy = np.asarray(data.charged_energy(dataset.states, products[edges]))
        return np.median(np.abs(np.diff(energy, axis=1)))

    # Energy jumps at close encounters, hence the median over tasks and frames.
    assert median_change(dataset.edges) < 0.01
    assert median_change(1 - np.abs(dataset.edges)) > 0.1


def test_labels_of_charges_are_ranks_of_products():
    np.testing.assert_array_equal(charged.product_labels((-1, 1)), [[1, 0], [0, 1]])
    found = charged.product_labels((-2.0, 0.0, 1.0))
    # Products 4, 0, -2 / 0, 0, 0 / -2, 0, 1 in the order -2 < 0 < 1 < 4.
    np.testing.assert_array_equal(found, [[3, 1, 0], [1, 1, 1], [0, 1, 2]])
    # 0.1 * 0.6 and 0.2 * 0.3 differ in the last bit only.
    ranks = charged.product_labels((0.1, 0.2, 0.3, 0.6))
    assert ranks[0, 3] == ranks[1, 2]


def test_charges_have_rank_one_structure():
    dataset = data.simulate_charged(6, 80, **SMALL)
    signs = 2 * dataset.edges - 1
    triangle = signs[:, 0, 1] * signs[:, 1, 2] * signs[:, 2, 0]
    np.testing.assert_array_equal(triangle, 1)
    np.testing.assert_array_equal(dataset.edges, dataset.edges.swapaxes(1, 2))


@pytest.mark.parametrize("name", ["springs", "kuramoto"])
@pytest.mark.parametrize("directed", [False, True])
def test_graph_statistics(name, directed):
    probabilities = np.array([0.5, 0.2, 0.3])
    dataset = SIMULATORS[name](
        7,
        400,
        num_frames=3,
        num_nodes=4,
        probabilities=tuple(probabilities),
        directed=directed,
        **{"strengths" if name == "springs" else "couplings": (0.0, 0.5, 1.0)},
    )
    edges = dataset.edges
    assert (np.diagonal(edges, axis1=1, axis2=2) == -1).all()
    upper, lower = np.triu_indices(4, 1), np.tril_indices(4, -1)
    above = edges[:, *upper]
    if directed:
        independent = np.concatenate([above, edges[:, *lower]], axis=1)
        pairs = np.stack([above, edges[:, *upper[::-1]]]).reshape(2, -1)
        table = np.histogram2d(*pairs, bins=3)[0]
        assert stats.chi2_contingency(table).pvalue > SIGNIFICANCE
    else:
        independent = above
        np.testing.assert_array_equal(edges, edges.swapaxes(1, 2))
    counts = np.bincount(independent.ravel(), minlength=3)
    expected = probabilities * independent.size
    assert stats.chisquare(counts, expected).pvalue > SIGNIFICANCE
    # Independence between tasks and pairs: the count per task is binomial.
    per_task = (independent == 0).sum(axis=1)
    bins = np.arange(independent.shape[1] + 1)
    law = stats.binom(independent.shape[1], 0.5).pmf(bins) * len(per_task)
    observed = np.bincount(per_task, minlength=len(bins))
    rare = law < 5
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        law = np.append(law[~rare], law[rare].sum())
    assert stats.chisquare(observed, law).pvalue > SIGNIFICANCE


def test_a_type_of_probability_zero_never_occurs():
    edges = batching.draw_relations(
        jax.random.key(0), 40, (0.5, 0.0, 0.5), directed=True
    )
    assert set(np.unique(edges)) == {-1, 0, 2}


def test_initial_motion_statistics():
    keys = jax.random.split(jax.random.key(8), 500)
    draw = jax.jit(jax.vmap(lambda key: particles.draw_motion(key, 4, 0.5)))
    position, velocity = draw(keys)
    normal = stats.kstest(np.ravel(position), stats.norm(0.0, 0.5).cdf)
    assert normal.pvalue > SIGNIFICANCE
    np.testing.assert_allclose(np.linalg.norm(velocity, axis=-1), 0.5, rtol=1e-5)
    angle = np.arctan2(velocity[..., 1], velocity[..., 0]).ravel()
    uniform = stats.kstest(angle, stats.uniform(-np.pi, 2.0 * np.pi).cdf)
    assert uniform.pvalue > SIGNIFICANCE


def test_oscillator_statistics():
    dataset = data.simulate_kuramoto(9, 400, observation="phase", **SMALL)
    frequency = dataset.states[:, 0, :, 3].ravel()
    assert stats.kstest(frequency, stats.uniform(1.0, 9.0).cdf).pvalue > SIGNIFICANCE
    # Frame 0 is the initial state, whose phase is uniform.
    phase = np.arctan2(dataset.states[:, 0, :, 1], dataset.states[:, 0, :, 2]).ravel()
    uniform = stats.kstest(phase, stats.uniform(-np.pi, 2.0 * np.pi).cdf)
    assert uniform.pvalue > SIGNIFICANCE
    np.testing.assert_array_equal(np.ptp(dataset.states[..., 3], axis=1), 0.0)


@pytest.mark.parametrize("name", SIMULATORS)
def test_tasks_do_not_depend_on_chunks_or_on_their_number(name):
    simulate = SIMULATORS[name]
    options = SMALL | {"observation_noise": 0.1}
    whole = simulate(10, 85, **options)
    for num_tasks, task_batch in ((85, 8), (7, None)):
        options["task_batch"] = task_batch
        part = simulate(10, num_tasks, **options)
        np.testing.assert_array_equal(part.states, whole.states[:num_tasks])
        np.testing.assert_array_equal(part.edges, whole.edges[:num_tasks])
    other = simulate(11, 85, **options | {"task_batch": 8})
    assert not np.any(np.all(other.states == whole.states, axis=(1, 2, 3)))


def test_tasks_depend_neither_on_cores_nor_on_the_settings_of_the_caller(monkeypatch):
    options = SMALL | {"task_batch": 8}
    expected = data.simulate_kuramoto(10, 85, **options).states
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    np.testing.assert_array_equal(
        data.simulate_kuramoto(10, 85, **options).states, expected
    )
    with jax.threefry_partitionable(False), jax.enable_x64(True):
        found = data.simulate_kuramoto(10, 85, **options).states
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", SIMULATORS)
def test_observation_noise(name):
    clean = SIMULATORS[name](12, 40, **SMALL)
    noisy = SIMULATORS[name](12, 40, observation_noise=0.2, **SMALL)
    noise = (noisy.states - clean.states).astype(np.float64)
    if name == "kuramoto":
        np.testing.assert_array_equal(noise[..., 3], 0.0)
        noise = noise[..., :3]
    np.testing.assert_array_equal(noisy.edges, clean.edges)
    pvalue = stats.kstest(noise.ravel(), stats.norm(0.0, 0.2).cdf).pvalue
    assert pvalue > SIGNIFICANCE


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("largest", [1e-3, 4.0, 1000.0])
def test_sine_and_cosine_are_those_of_the_library(dtype, largest):
    angle = np.linspace(-largest, largest, 20_001).astype(dtype)
    with jax.enable_x64(True):
        found = compiled(kuramoto.sine_and_cosine, (angle,))
    rounding = np.finfo(dtype).eps * max(8.0, largest / 2.0)
    for values, function in zip(found, (np.sin, np.cos), strict=True):
        assert values.dtype == dtype
        expected = function(angle.astype(np.float64))
        np.testing.assert_allclose(values, expected, rtol=0, atol=rounding)


def test_kuramoto_matches_an_adaptive_solver():
    rng = np.random.default_rng(13)
    num_tasks, num_frames = 8, 49
    phase = rng.uniform(0.0, 2.0 * np.pi, (num_tasks, 5))
    frequency = rng.uniform(1.0, 10.0, (num_tasks, 5))
    couplings = rng.integers(0, 2, (num_tasks, 5, 5)).astype(float)
    arguments = (phase, frequency, couplings)
    frames = ("num_frames", num_frames)
    finer = (frames, ("time_step", 0.005), ("steps_per_frame", 20))
    with jax.enable_x64(True):
        phases, differences = compiled(data.kuramoto_trajectory, arguments, (frames,))
        halved, _ = compiled(data.kuramoto_trajectory, arguments, finer)
    phases, differences, halved = map(np.asarray, (phases, differences, halved))
    # Recorded times and, for the forward difference, 0.01 after each of them.
    times = (0.1 * np.arange(num_frames)[:, None] + [0.0, 0.01]).ravel()
    for task in range(num_tasks):

        def rate(_, state, task=task):
            sines = np.sin(state[None, :] - state[:, None])
            return frequency[task] + (couplings[task] * sines).sum(axis=1)

        solution = integrate.solve_ivp(
            rate,
            (0.0, times[-1]),
            phase[task],
            method="DOP853",
            t_eval=times,
            rtol=1e-12,
            atol=1e-12,
        ).y.T
        error = np.abs(phases[task] - solution[0::2]).max()
        assert error < 1e-5
        # Fourth order: half the step, a sixteenth of the error, down to rounding.
        assert np.abs(halved[task] - solution[0::2]).max() < error / 12.0 + 1e-10
        forward = (solution[1::2] - solution[0::2]) / 0.01
        np.testing.assert_allclose(differences[task], forward, rtol=0, atol=1e-5)


def test_published_channels():
    natural = data.simulate_kuramoto(14, 200, observation="phase", **SMALL)
    state = data.simulate_kuramoto(14, 200, observation="state", **SMALL)
    np.testing.assert_array_equal(state.states, natural.states[..., 1:])
    published = data.simulate_kuramoto(14, 200, observation="published", **SMALL)
    np.testing.assert_array_equal(natural.edges, published.edges)
    isolated = ~(published.edges == 1).any(axis=2)
    assert isolated.any() and not isolated.all()
    dphi, sine, phase, omega = np.moveaxis(published.states, -1, 0)
    np.testing.assert_array_equal(dphi[isolated[:, None].repeat(20, 1)], 0.0)
    driven = dphi.swapaxes(1, 2)[~isolated]
    expected = natural.states[..., 0].swapaxes(1, 2)[~isolated]
    low, high = expected.min(1, keepdims=True), expected.max(1, keepdims=True)
    wide = (high - low).ravel() > 0.1
    np.testing.assert_allclose(
        driven[wide], (2 * (expected - low) / (high - low) - 1)[wide], atol=1e-4
    )
    np.testing.assert_allclose(driven.max(1), 1.0, atol=1e-6)
    np.testing.assert_allclose(driven.min(1), -1.0, atol=1e-6)
    np.testing.assert_array_equal(sine, natural.states[..., 1])
    # The phase grows: every oscillator runs from -1 to 1 through its trajectory.
    np.testing.assert_allclose(phase.max(1), 1.0, atol=1e-6)
    np.testing.assert_allclose(phase.min(1), -1.0, atol=1e-6)
    assert np.median(phase[:, -1]) > 0.99
    np.testing.assert_allclose(
        omega, (natural.states[..., 3] - 1) * 2 / 9 - 1, atol=1e-6
    )


def test_precision_setting_is_restored():
    assert jnp.zeros(()).dtype == jnp.float32
    data.simulate_springs(0, 40, **SMALL)
    assert jnp.asarray(np.zeros(())).dtype == jnp.float32
    with pytest.raises(RuntimeError), batching.float64_on_cpu():
        assert jnp.zeros(()).dtype == jnp.float64
        raise RuntimeError
    assert jnp.zeros(()).dtype == jnp.float32


@pytest.mark.parametrize("name", PARTICLE_TRAJECTORIES)
def test_trajectories_are_differentiable(name):
    position, velocity, couplings = random_particles(15, 1, 3)

    def final(position, couplings):
        states = PARTICLE_TRAJECTORIES[name](
            position, velocity, couplings, num_frames=2, steps_per_frame=5
        )
        return jnp.sum(states[:, -1, :, :2])

    with jax.enable_x64(True):
        with_gradients = jax.jit(jax.value_and_grad(final, argnums=(0, 1)))
        value, gradients = with_gradients(position, couplings)
        # Internal forces of symmetric pairs cancel in the sum, directed ones do not.
        step = np.zeros_like(couplings)
        step[0, 0, 2] = 1e-5
        slope = (with_gradients(position, couplings + step)[0] - value) / 1e-5
        np.testing.assert_allclose(gradients[1][0, 0, 2], slope, rtol=1e-3)
    assert np.isfinite(gradients[0]).all()


@pytest.mark.parametrize("name", SIMULATORS)
@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_nodes": 0}, "num_nodes: found 0"),
        ({"num_frames": 2}, "num_frames: found 2, expected at least 3"),
        ({"observation_noise": -1.0}, "observation_noise: found -1.0"),
        ({"observation_noise": math.nan}, "observation_noise: found nan"),
        ({"probabilities": (0.5, 0.4)}, "with sum 1"),
        ({"probabilities": (1.5, -0.5)}, "non-negative"),
        ({"probabilities": (1.0,)}, "expected 2"),
        ({"types": (1.0, 1.0)}, "expected distinct"),
        ({"types": (0.0, math.inf)}, "finite"),
        ({"types": ()}, "expected distinct"),
    ],
)
def test_bad_settings_are_refused(name, options, message):
    types = {"springs": "strengths", "charged": "charges", "kuramoto": "couplings"}
    options = {types[name] if key == "types" else key: options[key] for key in options}
    with pytest.raises(ValueError, match=message):
        SIMULATORS[name](0, 4, **options)


def test_no_tasks_and_unknown_observations_are_refused():
    with pytest.raises(ValueError, match="num_tasks: found 0"):
        data.simulate_springs(0, 0)
    with pytest.raises(ValueError, match="observation: found 'phases'"):
        data.simulate_kuramoto(0, 1, observation="phases")
