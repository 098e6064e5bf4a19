"""Inputs and targets against formulas in NumPy, and against what physics demands."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.relational.data import (
    FeatureSpec,
    TrajectoryDataset,
    simulate_springs,
)
from modmeta.relational.data.normalization import denormalize, normalize
from modmeta.relational.modules import preprocessing
from modmeta.relational.modules.fitting import fit_preprocessing
from modmeta.relational.modules.inputs import edge_inputs, resolve_geometry
from tests.fixtures import (
    ANGLES,
    LAYOUT,
    PREDICTED,
    SPEC,
    random_preprocessing,
    small_model,
)
from tests.reference import Reference

INTERVAL = 0.37
NO_ROLES = FeatureSpec(("a", "b"))
HEADINGS = preprocessing.FeatureLayout(
    FeatureSpec(("x", "y", "vx", "vy", "s", "c"), (0, 1), (2, 3), (4,), (5,)),
    (0, 1, 2, 3, 4, 5),
)


def dataset(spec=SPEC, *, seed=0, num_nodes=(4, 2, 3)):
    """Random walks far from the origin; column 1 does not change in time."""
    rng = np.random.default_rng(seed)
    shape = (len(num_nodes), 6, max(num_nodes), len(spec.names))
    states = 10.0 + rng.normal(size=shape).cumsum(axis=1)
    states[:, :, :, 1] = states[:, :1, :, 1]
    mask = np.arange(max(num_nodes)) < np.array(num_nodes)[:, None]
    return TrajectoryDataset(
        states=states, features=spec, frame_interval=INTERVAL, node_mask=mask
    )


def free_motion(spec=SPEC, num_frames=5):
    """`[1, frames, nodes, F]`: constant velocities, which differ between nodes."""
    rng = np.random.default_rng(5)
    states = np.tile(rng.normal(size=(1, 1, 3, len(spec.names))), (1, num_frames, 1, 1))
    for frame in range(num_frames):
        for position, velocity in zip(spec.positions, spec.velocities, strict=True):
            states[:, frame, :, position] += (
                frame * INTERVAL * states[:, 0, :, velocity]
            )
    return states.astype(np.float32)


@pytest.mark.parametrize("compress", [True, False])
def test_decode_inverts_encode(compress):
    layout = dataclasses.replace(LAYOUT, compress=compress)
    constants = random_preprocessing(target_limit=20.0)
    rng = np.random.default_rng(0)
    states, following = rng.normal(size=(2, 3, 7, 5)).astype(np.float32)
    following[0] *= 50.0
    baseline = states @ constants.step_matrix + constants.step_offset
    following[1] = baseline[1]  # a target of zero
    following[..., 1] = baseline[..., 1]  # not predicted
    targets = preprocessing.encode_targets(constants, layout, states, following)
    assert targets.shape == (3, 7, 4)
    np.testing.assert_allclose(targets[1], 0.0, atol=1e-5)
    decoded = preprocessing.decode_targets(
        constants, layout, jnp.asarray(states), targets
    )
    np.testing.assert_allclose(decoded, following, rtol=1e-5, atol=1e-5)
    again = preprocessing.encode_targets(constants, layout, states, decoded)
    np.testing.assert_allclose(again, targets, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("layout", [LAYOUT, ANGLES], ids=["motion", "angles"])
def test_encode_equals_the_reference(layout, compress):
    model = small_model(layout=layout, compress=compress)
    constants = random_preprocessing(layout=layout)
    reference = reference_of(model, constants)
    states, following = np.random.default_rng(1).normal(size=(2, 20, 5))
    found = preprocessing.encode_targets(
        constants, model.bank.layout, jnp.float32(states), jnp.float32(following)
    )
    expected = [reference.target(*pair) for pair in zip(states, following, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_compressed_targets_are_cut_at_the_limit():
    constants = random_preprocessing(target_limit=1.5)
    states = jnp.zeros((1, 5))
    at_limit = preprocessing.decode_targets(
        constants, LAYOUT, states, jnp.full((1, 4), 1.5)
    )
    for value in (2.0, 1e3, 1e30):
        beyond = preprocessing.decode_targets(
            constants, LAYOUT, states, jnp.full((1, 4), value)
        )
        np.testing.assert_array_equal(beyond, at_limit)


def reference_of(model, constants):
    reference = Reference.__new__(Reference)
    reference.config, reference.layout = model.bank.config, model.bank.layout
    reference.preprocessing = jax.tree.map(np.float64, constants)
    return reference


def test_constant_velocity_predicts_free_motion():
    constants, layout = fit_preprocessing(dataset(), baseline="constant_velocity")
    states = normalize(constants.normalization, free_motion())
    predicted = states[:, :-1] @ constants.step_matrix + constants.step_offset
    np.testing.assert_allclose(predicted, states[:, 1:], atol=1e-5)
    targets = preprocessing.encode_targets(
        constants, layout, states[:, :-1], states[:, 1:]
    )
    np.testing.assert_allclose(targets, 0.0, atol=1e-4)


def test_velocities_may_have_a_unit_of_their_own():
    """Millimetres per second beside metres, or a wrong interval: as if it were said."""
    springs = simulate_springs(0, 4, num_nodes=3, num_frames=20)
    expected, _ = fit_preprocessing(springs)
    wrong = [
        dataclasses.replace(springs, states=springs.states * [1, 1, 1e3, 1e3]),
        dataclasses.replace(springs, frame_interval=60.0),
    ]
    for springs in wrong:
        found, _ = fit_preprocessing(springs)
        np.testing.assert_allclose(found.step_matrix, expected.step_matrix, rtol=1e-3)


def test_static_baseline_predicts_no_change():
    constants, layout = fit_preprocessing(dataset(), baseline="static")
    np.testing.assert_array_equal(constants.step_matrix, np.eye(5))
    np.testing.assert_array_equal(constants.step_offset, 0.0)
    assert layout.predicted == PREDICTED


def test_auto_baseline_follows_the_features():
    with_roles, _ = fit_preprocessing(dataset())
    explicit, _ = fit_preprocessing(dataset(), baseline="constant_velocity")
    jax.tree.map(np.testing.assert_array_equal, with_roles, explicit)
    without, _ = fit_preprocessing(dataset(NO_ROLES))
    np.testing.assert_array_equal(without.step_matrix, np.eye(2))


def test_fitted_constants_by_hand():
    """Real nodes alone count, and columns that rest are not predicted."""
    data = dataset()
    constants, layout = fit_preprocessing(data)
    assert layout.predicted == (0, 2, 3, 4)
    offset, scale = constants.normalization
    residuals, positions, velocities = [], [], []
    for states, mask in zip(
        data.states.astype(np.float64), data.node_mask, strict=True
    ):
        for node in np.flatnonzero(mask):
            for now, after in zip(states[:-1, node], states[1:, node], strict=True):
                expected = now.copy()
                expected[[0, 2]] += INTERVAL * now[[3, 4]]
                residuals.append(np.abs((after - expected) / scale)[[0, 2, 3, 4]])
                positions.append(((now - offset) / scale)[[0, 2]])
                velocities.append(((now - offset) / scale)[[3, 4]])
    np.testing.assert_allclose(
        constants.target_scale, 1.5 * np.median(residuals, axis=0), rtol=1e-4
    )
    largest = np.max(residuals, axis=0) / (1.5 * np.median(residuals, axis=0))
    np.testing.assert_allclose(constants.target_limit, np.log1p(largest), rtol=1e-4)
    np.testing.assert_allclose(constants.position_scale, np.std(positions), rtol=1e-4)
    np.testing.assert_allclose(constants.velocity_scale, np.std(velocities), rtol=1e-4)


def unit_of_distances(data):
    """In raw units: what distances between bodies are divided by."""
    constants, _ = fit_preprocessing(data)
    scale = np.asarray(constants.normalization.scale)[list(data.features.positions)]
    np.testing.assert_allclose(scale, scale[0])
    return float(constants.position_scale * scale[0])


def test_distances_are_told_wherever_systems_are():
    """Sites, axes far apart and a common drift leave the unit of distances."""
    spec = FeatureSpec(("x", "y", "vx", "vy"), (0, 1), (2, 3))
    bodies = np.random.default_rng(0).normal(size=(6, 8, 5, 4))

    def unit(shift):
        states = np.concatenate([bodies[..., :2] + shift, bodies[..., 2:]], axis=-1)
        return unit_of_distances(
            TrajectoryDataset(states=states, features=spec, frame_interval=INTERVAL)
        )

    near = unit(0.0)
    np.testing.assert_allclose(near, bodies[:, :-1, :, :2].std(), rtol=1e-4)
    sites = 1e3 * np.random.default_rng(1).normal(size=(6, 1, 1, 2))
    drift = 1e2 * np.arange(8)[:, None, None] * np.array([1.0, -2.0])
    for shift in (np.array([0.0, 1e3]), sites, drift):
        assert near / 2 < unit(shift) < 2 * near
    # Axes that are far apart are as well normalised as near ones.
    far = np.concatenate(
        [bodies[..., :2] + np.array([0.0, 1e3]), bodies[..., 2:]], axis=-1
    )
    data = TrajectoryDataset(states=far, features=spec, frame_interval=INTERVAL)
    constants, _ = fit_preprocessing(data)
    positions = np.asarray(normalize(constants.normalization, data.states))[..., :2]
    assert np.abs(positions).max() <= 1.0 + 1e-4
    assert (np.ptp(positions, axis=(0, 1, 2)) > 1.0).all()


def test_rarely_moving_feature_gets_a_positive_scale():
    data = dataset(NO_ROLES)
    states = data.states.copy()
    states[..., 1] = 10.0
    states[0, 3:, 0, 1] = 11.0  # one change in one task: the median is zero
    constants, layout = fit_preprocessing(
        TrajectoryDataset(
            states=states,
            features=NO_ROLES,
            frame_interval=INTERVAL,
            node_mask=data.node_mask,
        )
    )
    assert layout.predicted == (0, 1)
    # One normalised change of 2 among 5 steps of 9 real nodes.
    np.testing.assert_allclose(constants.target_scale[1], np.sqrt(4 / 45), rtol=1e-4)


@pytest.mark.parametrize(
    "geometry, layout, size",
    [
        ("raw", LAYOUT, 10),
        ("relative", LAYOUT, 10),
        ("relative", ANGLES, 6),
        ("relative", HEADINGS, 14),
    ],
)
def test_geometry_equals_the_reference(geometry, layout, size):
    model = small_model(layout=layout, geometry=geometry)
    constants = random_preprocessing(layout=layout)
    reference = reference_of(model, constants)
    rng = np.random.default_rng(0)
    senders = rng.normal(size=(4, 3, layout.num_features))
    receivers = rng.normal(size=(4, 1, layout.num_features))  # of many senders
    found = edge_inputs(
        geometry,
        constants,
        model.bank.layout,
        jnp.float32(senders),
        jnp.float32(receivers),
    )
    assert found.shape == (4, 3, size)
    for row in range(4):
        for slot in range(3):
            expected = reference.edge_input(senders[row, slot], receivers[row, 0])
            np.testing.assert_allclose(found[row, slot], expected, rtol=1e-4, atol=1e-5)


def relative(senders, receivers):
    inputs = edge_inputs(
        "relative",
        random_preprocessing(),
        LAYOUT,
        jnp.float32(senders),
        jnp.float32(receivers),
    )
    names = (
        "displacement",
        "velocity",
        "log_distance",
        "direction",
        "radial",
        "others",
    )
    return dict(zip(names, np.split(inputs, [2, 4, 5, 7, 8], axis=-1), strict=True))


def test_relative_geometry_under_motions():
    """Translations and boosts change nothing; rotations turn the vectors alone."""
    senders, receivers = np.random.default_rng(0).normal(size=(2, 9, 5))
    before = relative(senders, receivers)
    shift = np.array([3.0, 0.0, -2.0, 1.5, 0.5])  # SPEC: x, charge, y, vx, vy
    moved = relative(senders + shift, receivers + shift)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        moved,
        before,
    )

    angle = 0.8
    rotation = np.array(
        [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    )

    def turn(states):
        turned = states.copy()
        turned[:, [0, 2]] = states[:, [0, 2]] @ rotation
        turned[:, [3, 4]] = states[:, [3, 4]] @ rotation
        return turned

    turned = relative(turn(senders), turn(receivers))
    for name, value in before.items():
        if name in ("displacement", "velocity", "direction"):
            value = value @ rotation
        np.testing.assert_allclose(turned[name], value, rtol=1e-4, atol=1e-5)


def test_relative_geometry_is_finite_where_nodes_meet():
    state = jnp.arange(5.0)

    def total(sender):
        return jnp.sum(
            edge_inputs("relative", random_preprocessing(), LAYOUT, sender, state)
        )

    value, gradient = jax.value_and_grad(total)(state)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def circle(angles, others=()):
    """States of `ANGLES` with two angles, `[..., 5]`."""
    size = np.zeros(angles.shape[:-1]) if not len(others) else others
    sine, cosine = np.sin(angles), np.cos(angles)
    columns = (sine[..., 0], sine[..., 1], size, cosine[..., 1], cosine[..., 0])
    return np.stack(columns, axis=-1).astype(np.float32)


def fitted_angles():
    rng = np.random.default_rng(3)
    turns = rng.normal(size=(2, 8, 3, 2), scale=[0.4, 0.1]).cumsum(axis=1)
    states = circle(turns, 1.0 + rng.normal(size=(2, 8, 3)).cumsum(axis=1))
    return fit_preprocessing(
        TrajectoryDataset(states=states, features=ANGLES.spec, frame_interval=1.0)
    ), turns


def test_fitted_angles_by_hand():
    """Angles keep their units, and are one target each."""
    (constants, layout), turns = fitted_angles()
    assert layout == dataclasses.replace(ANGLES, frame_interval=1.0)
    assert layout.num_targets == 3
    np.testing.assert_array_equal(constants.normalization.offset[[0, 1, 3, 4]], 0.0)
    np.testing.assert_array_equal(constants.normalization.scale[[0, 1, 3, 4]], 1.0)
    changes = np.abs(np.diff(turns, axis=1)).reshape(-1, 2)
    np.testing.assert_allclose(
        constants.target_scale[1:], 1.5 * np.median(changes, axis=0), rtol=1e-4
    )


def test_angles_turn_across_the_cut_and_stay_on_the_circle():
    """The target of a turn is the turn, wherever it starts."""
    (constants, layout), _ = fitted_angles()
    rng = np.random.default_rng(4)
    before = rng.uniform(-np.pi, np.pi, (50, 2))
    turns = rng.uniform(-0.9 * np.pi, 0.9 * np.pi, (50, 2))
    states, following = circle(before), circle(before + turns)
    layout = dataclasses.replace(layout, compress=False)
    targets = preprocessing.encode_targets(constants, layout, states, following)
    found = np.asarray(targets)[:, 1:] * constants.target_scale[1:]
    np.testing.assert_allclose(found, turns, atol=1e-5)
    # Noise off the circle is not carried on.
    noisy = states * np.float32([1.2, 0.7, 1.0, 0.7, 1.2])
    decoded = preprocessing.decode_targets(
        constants, layout, jnp.asarray(noisy), targets
    )
    np.testing.assert_allclose(decoded, following, atol=1e-5)


def test_gradients_of_angles_are_finite_at_padded_nodes():
    (constants, layout), _ = fitted_angles()

    def total(states):
        targets = preprocessing.encode_targets(constants, layout, states, states)
        return jnp.sum(preprocessing.decode_targets(constants, layout, states, targets))

    value, gradient = jax.value_and_grad(total)(jnp.zeros((2, 5)))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_relative_angles_ignore_a_common_turn():
    constants = random_preprocessing(layout=ANGLES)
    rng = np.random.default_rng(5)
    senders, receivers = rng.uniform(-np.pi, np.pi, (2, 20, 2))
    common = rng.uniform(-np.pi, np.pi, (1, 2))
    first, second = (
        edge_inputs("relative", constants, ANGLES, circle(a), circle(b))
        for a, b in ((senders, receivers), (senders + common, receivers + common))
    )
    np.testing.assert_allclose(first, second, atol=1e-5)
    np.testing.assert_allclose(first[:, :2], np.sin(senders - receivers), atol=1e-5)


@pytest.mark.parametrize(
    "name, spec, expected",
    [
        ("auto", SPEC, "relative"),
        ("auto", NO_ROLES, "raw"),
        ("auto", FeatureSpec(("x",), positions=(0,)), "raw"),
        ("auto", ANGLES.spec, "relative"),
        ("raw", SPEC, "raw"),
    ],
)
def test_resolve_geometry(name, spec, expected):
    assert resolve_geometry(name, spec) == expected


def test_errors():
    with pytest.raises(ValueError, match="geometry: found 'polar'"):
        resolve_geometry("polar", SPEC)
    with pytest.raises(ValueError, match="geometry: found 'relative' with positions"):
        resolve_geometry("relative", NO_ROLES)
    with pytest.raises(ValueError, match="baseline: found 'linear'"):
        fit_preprocessing(dataset(), baseline="linear")
    with pytest.raises(ValueError, match="baseline: found 'constant_velocity' with"):
        fit_preprocessing(dataset(NO_ROLES), baseline="constant_velocity")


def test_normalization_round_trip():
    data = dataset()
    constants, _ = fit_preprocessing(data)
    normalised = normalize(constants.normalization, data.states)
    mask = data.node_mask[:, None, :, None]
    assert np.abs(np.where(mask, normalised, 0.0)).max() <= 1 + 1e-6
    np.testing.assert_allclose(
        denormalize(constants.normalization, normalised), data.states, atol=1e-4
    )
