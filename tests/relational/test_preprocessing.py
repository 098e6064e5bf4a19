"""Inputs and targets against formulas in NumPy, and against what physics demands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.relational import preprocessing as p
from modmeta.relational.data import FeatureSpec, TrajectoryDataset
from modmeta.relational.data.normalization import denormalize, normalize
from tests.fixtures import PREDICTED, SPEC, random_preprocessing, small_model
from tests.reference import Reference

INTERVAL = 0.37
NO_ROLES = FeatureSpec(("a", "b"))


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
    layout = p.FeatureLayout(SPEC, PREDICTED, compress)
    constants = random_preprocessing(target_limit=20.0)
    rng = np.random.default_rng(0)
    states, following = rng.normal(size=(2, 3, 7, 5)).astype(np.float32)
    following[0] *= 50.0
    baseline = states @ constants.step_matrix + constants.step_offset
    following[1] = baseline[1]  # a target of zero
    following[..., 1] = baseline[..., 1]  # not predicted
    targets = p.encode_targets(constants, layout, states, following)
    assert targets.shape == (3, 7, 4)
    np.testing.assert_allclose(targets[1], 0.0, atol=1e-5)
    decoded = p.decode_targets(constants, layout, jnp.asarray(states), targets)
    np.testing.assert_allclose(decoded, following, rtol=1e-5, atol=1e-5)
    again = p.encode_targets(constants, layout, states, decoded)
    np.testing.assert_allclose(again, targets, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compress", [True, False])
def test_encode_equals_the_reference(compress):
    model = small_model(compress=compress)
    constants = random_preprocessing()
    reference = reference_of(model, constants)
    states, following = np.random.default_rng(1).normal(size=(2, 20, 5))
    found = p.encode_targets(
        constants, model.bank.layout, jnp.float32(states), jnp.float32(following)
    )
    expected = [reference.target(*pair) for pair in zip(states, following, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_compressed_targets_are_cut_at_the_limit():
    layout = p.FeatureLayout(SPEC, PREDICTED)
    constants = random_preprocessing(target_limit=1.5)
    states = jnp.zeros((1, 5))
    at_limit = p.decode_targets(constants, layout, states, jnp.full((1, 4), 1.5))
    for value in (2.0, 1e3, 1e30):
        beyond = p.decode_targets(constants, layout, states, jnp.full((1, 4), value))
        np.testing.assert_array_equal(beyond, at_limit)


def reference_of(model, constants):
    reference = Reference.__new__(Reference)
    reference.config, reference.layout = model.bank.config, model.bank.layout
    reference.preprocessing = jax.tree.map(np.float64, constants)
    return reference


def test_constant_velocity_predicts_free_motion():
    constants, layout = p.fit_preprocessing(dataset(), baseline="constant_velocity")
    states = normalize(constants.normalization, free_motion())
    predicted = states[:, :-1] @ constants.step_matrix + constants.step_offset
    np.testing.assert_allclose(predicted, states[:, 1:], atol=1e-5)
    targets = p.encode_targets(constants, layout, states[:, :-1], states[:, 1:])
    np.testing.assert_allclose(targets, 0.0, atol=1e-4)


def test_static_baseline_predicts_no_change():
    constants, layout = p.fit_preprocessing(dataset(), baseline="static")
    np.testing.assert_array_equal(constants.step_matrix, np.eye(5))
    np.testing.assert_array_equal(constants.step_offset, 0.0)
    assert layout.predicted == PREDICTED


def test_auto_baseline_follows_the_features():
    with_roles, _ = p.fit_preprocessing(dataset())
    explicit, _ = p.fit_preprocessing(dataset(), baseline="constant_velocity")
    jax.tree.map(np.testing.assert_array_equal, with_roles, explicit)
    without, _ = p.fit_preprocessing(dataset(NO_ROLES))
    np.testing.assert_array_equal(without.step_matrix, np.eye(2))


def test_fitted_constants_by_hand():
    """Real nodes alone count, and columns that rest are not predicted."""
    data = dataset()
    constants, layout = p.fit_preprocessing(data)
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


def test_rarely_moving_feature_gets_a_positive_scale():
    data = dataset(NO_ROLES)
    states = data.states.copy()
    states[..., 1] = 10.0
    states[0, 3:, 0, 1] = 11.0  # one change in one task: the median is zero
    constants, layout = p.fit_preprocessing(
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
    "geometry, size", [("raw", 10), ("relative", 10), ("bilinear", 35)]
)
def test_geometry_equals_the_reference(geometry, size):
    model = small_model(geometry=geometry)
    constants = random_preprocessing()
    reference = reference_of(model, constants)
    rng = np.random.default_rng(0)
    senders = rng.normal(size=(4, 3, 5))
    receivers = rng.normal(size=(4, 1, 5))  # one receiver, many senders
    found = p.edge_inputs(
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
    layout = p.FeatureLayout(SPEC, PREDICTED)
    inputs = p.edge_inputs(
        "relative",
        random_preprocessing(),
        layout,
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
    layout = p.FeatureLayout(SPEC, PREDICTED)

    def total(sender):
        return jnp.sum(
            p.edge_inputs("relative", random_preprocessing(), layout, sender, state)
        )

    value, gradient = jax.value_and_grad(total)(state)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_sine_of_phase_difference_is_linear_in_bilinear_inputs():
    spec = FeatureSpec(("sin", "cos"))
    one, other = np.random.default_rng(0).uniform(0, 2 * np.pi, (2, 30))
    inputs = p.edge_inputs(
        "bilinear",
        None,
        p.FeatureLayout(spec, (0, 1)),
        jnp.float32(np.stack([np.sin(one), np.cos(one)], axis=1)),
        jnp.float32(np.stack([np.sin(other), np.cos(other)], axis=1)),
    )
    coefficients, *_ = np.linalg.lstsq(
        np.asarray(inputs, np.float64), np.sin(one - other), rcond=None
    )
    np.testing.assert_allclose(inputs @ coefficients, np.sin(one - other), atol=1e-4)


@pytest.mark.parametrize(
    "name, spec, expected",
    [
        ("auto", SPEC, "relative"),
        ("auto", NO_ROLES, "raw"),
        ("auto", FeatureSpec(("x",), positions=(0,)), "raw"),
        ("bilinear", NO_ROLES, "bilinear"),
        ("raw", SPEC, "raw"),
    ],
)
def test_resolve_geometry(name, spec, expected):
    assert p.resolve_geometry(name, spec) == expected


def test_errors():
    with pytest.raises(ValueError, match="geometry: found 'polar'"):
        p.resolve_geometry("polar", SPEC)
    with pytest.raises(ValueError, match="relative needs position and velocity"):
        p.resolve_geometry("relative", NO_ROLES)
    with pytest.raises(ValueError, match="baseline: found 'linear'"):
        p.fit_preprocessing(dataset(), baseline="linear")
    with pytest.raises(ValueError, match="constant_velocity needs position"):
        p.fit_preprocessing(dataset(NO_ROLES), baseline="constant_velocity")


def test_normalization_round_trip():
    data = dataset()
    constants, _ = p.fit_preprocessing(data)
    normalised = normalize(constants.normalization, data.states)
    mask = data.node_mask[:, None, :, None]
    assert np.abs(np.where(mask, normalised, 0.0)).max() <= 1 + 1e-6
    np.testing.assert_allclose(
        denormalize(constants.normalization, normalised), data.states, atol=1e-4
    )
