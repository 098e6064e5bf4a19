import dataclasses
import json

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from modmeta.relational import data

FEATURES = data.FeatureSpec(
    names=("x", "y", "vx", "vy"), positions=(0, 1), velocities=(2, 3)
)


def make_arrays(num_tasks=6, num_frames=5, num_nodes=4, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "states": rng.normal(size=(num_tasks, num_frames, num_nodes, 4)),
        "edges": rng.integers(0, 2, (num_tasks, num_nodes, num_nodes)),
        "node_mask": np.arange(num_nodes)
        < rng.integers(1, num_nodes + 1, num_tasks)[:, None],
        "features": FEATURES,
        "frame_interval": 0.1,
    }


def make_dataset(**options):
    return data.TrajectoryDataset(**make_arrays(**options))


def assert_same(found, expected):
    for field in dataclasses.fields(expected):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, field.name


def test_constructor_stores_the_documented_form():
    arrays = make_arrays()
    dataset = data.TrajectoryDataset(**arrays)
    assert dataset.states.dtype == np.float32
    assert dataset.edges.dtype == np.int32
    assert dataset.node_mask.dtype == np.bool_
    assert (dataset.num_tasks, dataset.num_frames, dataset.max_nodes) == (6, 5, 4)
    assert len(dataset) == 6
    np.testing.assert_array_equal(dataset.num_nodes, arrays["node_mask"].sum(axis=1))
    assert dataset.num_relations == 2
    assert dataset.is_padded
    padded = ~arrays["node_mask"]
    assert (dataset.states.swapaxes(1, 2)[padded] == 0.0).all()
    assert (dataset.edges[padded] == -1).all()
    assert (dataset.edges.swapaxes(1, 2)[padded] == -1).all()
    assert (np.diagonal(dataset.edges, axis1=1, axis2=2) == -1).all()
    # Real entries are as given; the given arrays are left alone.
    real = arrays["node_mask"]
    np.testing.assert_array_equal(
        dataset.states.swapaxes(1, 2)[real],
        arrays["states"].swapaxes(1, 2)[real].astype(np.float32),
    )
    np.testing.assert_array_equal(arrays["edges"], make_arrays()["edges"])


def test_constructor_accepts_anything_at_padded_places():
    arrays = make_arrays()
    expected = data.TrajectoryDataset(**arrays)
    arrays["states"].swapaxes(1, 2)[~arrays["node_mask"]] = np.nan
    edges = arrays["edges"].astype(float)
    edges[~arrays["node_mask"]] = np.nan
    edges[:, np.arange(4), np.arange(4)] = 77.0
    assert_same(data.TrajectoryDataset(**arrays | {"edges": edges}), expected)


def test_defaults_without_mask_and_labels():
    arrays = make_arrays()
    del arrays["node_mask"], arrays["edges"]
    dataset = data.TrajectoryDataset(**arrays)
    assert dataset.node_mask.all() and not dataset.is_padded
    assert dataset.edges is None and dataset.num_relations is None


def corrupt(name, index, value):
    def change(arrays):
        array = arrays[name].astype(float)
        array[index] = value
        arrays[name] = array

    return change


def replace(name, value):
    def change(arrays):
        arrays[name] = value(arrays) if callable(value) else value

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (
            corrupt("states", (2, 0, 0, 0), -np.inf),
            r"states: found -inf at index \[2, 0, 0, 0\]",
        ),
        (
            corrupt("states", (2, 0, 0, 0), 1e300),
            r"states as float32: found inf at index \[2, 0, 0, 0\]",
        ),
        (
            replace("states", lambda a: a["states"][0]),
            r"states: found 3 axes with shape \(5, 4, 4\), expected 4 axes \[tasks",
        ),
        (
            replace("states", lambda a: a["states"][:, :2]),
            r"states: found 2 frames \(axis 1 of shape \(6, 2, 4, 4\)\), expected at",
        ),
        (
            replace("states", lambda a: a["states"][:, :, :0]),
            "states: found shape .*, expected at least one node",
        ),
        (
            replace("states", lambda a: a["states"][..., :3]),
            "states: found 3 features .*, expected 4 for the names",
        ),
        (
            replace("states", lambda a: a["states"].astype(str)),
            "states: found dtype <U.*, expected real numbers",
        ),
        (
            replace("states", lambda a: a["states"].astype(complex)),
            "states: found dtype complex128",
        ),
        (
            replace("edges", lambda a: a["edges"][1:]),
            r"edges: found shape \(5, 4, 4\), expected \(6, 4, 4\)",
        ),
        (
            replace("edges", lambda a: a["edges"][..., 0]),
            r"edges: found shape \(6, 4\), expected",
        ),
        (
            corrupt("edges", (3, 1, 0), 0.5),
            r"edges: found label 0.5 at index \[3, 1, 0\], expected an integer from 0",
        ),
        (
            corrupt("edges", (3, 1, 0), np.nan),
            r"edges: found label nan at index \[3, 1, 0\]",
        ),
        (
            corrupt("edges", (3, 0, 1), -1),
            r"edges: found label -1.0 at index \[3, 0, 1\]",
        ),
        (
            lambda a: (
                corrupt("edges", (3, 0, 1), 2)(a),
                replace("num_relations", 2)(a),
            ),
            r"edges: found label 2.0 at index \[3, 0, 1\], expected .* 0 to 1",
        ),
        (replace("edges", np.array("ab")), "edges: found dtype"),
        (replace("num_relations", 0), "num_relations: found 0"),
        (
            replace("node_mask", np.ones((6, 4))),
            "node_mask: found dtype float64, expected bool",
        ),
        (
            replace("node_mask", np.ones((6, 3), bool)),
            r"node_mask: found shape \(6, 3\), expected \(6, 4\)",
        ),
        (
            replace("node_mask", np.eye(6, 4, dtype=bool) | (np.arange(4) < 1)),
            r"node_mask: found a real node after a padded one at index \[2, 2\]",
        ),
        (
            replace("node_mask", np.arange(6)[:, None] + np.zeros(4, int) != 5),
            "node_mask: found no real node in task 5",
        ),
        (replace("frame_interval", 0.0), "frame_interval: found 0.0"),
        (replace("frame_interval", float("nan")), "frame_interval: found nan"),
    ],
)
def test_problems_are_named(change, message):
    arrays = make_arrays()
    arrays["node_mask"] = np.ones((6, 4), bool)
    data.TrajectoryDataset(**arrays)
    change(arrays)
    with pytest.raises(data.DataError, match=message):
        data.TrajectoryDataset(**arrays)


def test_constant_features_are_noted():
    arrays = make_arrays()
    arrays["states"][..., 2] = 0.25
    dataset = data.TrajectoryDataset(**arrays)
    assert not dataset.notes
    (note,) = data.validate(dataset).notes
    assert note.startswith(
        "Feature 2 ('vx') is 0.25 everywhere: it is kept among the v"
    )
    assert data.validate(data.validate(dataset)).notes == (note,)
    # One different value at a real node makes it vary.
    arrays["states"][-1, -1, 0, 2] = 0.5
    assert not data.validate(data.TrajectoryDataset(**arrays)).notes
    arrays["states"][:] = 0.25
    with pytest.raises(data.DataError, match="no feature that varies"):
        data.validate(data.TrajectoryDataset(**arrays))


def test_validate_sees_later_changes_of_the_arrays():
    dataset = data.validate(make_dataset())
    dataset.states[0, 0, 0, 0] = np.inf
    with pytest.raises(data.DataError, match=r"found inf at index \[0, 0, 0, 0\]"):
        data.validate(dataset)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"names": ()}, "found none"),
        ({"names": ("x", "x")}, "expected distinct"),
        ({"names": ("x", "y"), "positions": (2,)}, "found 2, expected 0 to 1"),
        ({"names": ("x", "y"), "positions": (-1,)}, "found -1"),
        ({"names": ("x", "y"), "positions": (0,), "velocities": (0,)}, "overlap"),
        ({"names": ("x", "y"), "positions": (0, 0)}, "overlap"),
        (
            {"names": ("x", "y", "vx"), "positions": (0, 1), "velocities": (2,)},
            "2 positions and 1 velocities",
        ),
        ({"names": ("s", "c"), "sines": (0,)}, "1 sines and 0 cosines"),
        ({"names": ("s", "c"), "sines": (0,), "cosines": (0,)}, "overlap"),
    ],
)
def test_feature_spec_checks_itself(options, message):
    with pytest.raises(data.DataError, match=message):
        data.FeatureSpec(**options)


def test_sines_and_cosines_lie_near_the_unit_circle():
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, (2, 5, 3))
    states = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    options = {
        "features": data.FeatureSpec(("s", "c"), sines=(0,), cosines=(1,)),
        "frame_interval": 1.0,
    }
    data.TrajectoryDataset(states=states, **options)
    noise = rng.normal(size=states.shape)
    data.TrajectoryDataset(states=states + 0.2 * noise, **options)
    for wrong in (noise, states + 4.0 * noise, 0.1 * states):
        with pytest.raises(data.DataError, match="'s' and 'c', expected 1"):
            data.TrajectoryDataset(states=wrong, **options)


def test_cosines_are_those_of_the_sines_beside_them():
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, (2, 9, 3, 2))
    states = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    names = ("s", "t", "c", "d")
    data.TrajectoryDataset(
        states=states, features=data.FeatureSpec(names, sines=(0, 1), cosines=(2, 3))
    )
    with pytest.raises(data.DataError, match="'s' and 'd', and less .* with 'c'"):
        data.TrajectoryDataset(
            states=states,
            features=data.FeatureSpec(names, sines=(0, 1), cosines=(3, 2)),
        )


def test_take_and_frames_and_without_labels():
    dataset = make_dataset()
    part = dataset.take([4, 1])
    np.testing.assert_array_equal(part.states, dataset.states[[4, 1]])
    np.testing.assert_array_equal(part.edges, dataset.edges[[4, 1]])
    np.testing.assert_array_equal(part.node_mask, dataset.node_mask[[4, 1]])
    assert_same(dataset.take(slice(1, 3)), dataset.take([1, 2]))
    assert_same(dataset.take(np.arange(6) < 2), dataset.take([0, 1]))
    assert dataset.take([]).num_tasks == 0
    later = dataset.frames(1, 4)
    np.testing.assert_array_equal(later.states, dataset.states[:, 1:4])
    assert later.num_frames == 3
    bare = dataset.without_labels()
    assert bare.edges is None and bare.num_relations == 2
    for start, stop in ((0, 2), (-1, 3), (3, 6), (4, 2)):
        with pytest.raises(data.DataError, match="frames"):
            dataset.frames(start, stop)


def test_number_of_relations_survives_selection():
    arrays = make_arrays() | {"num_relations": 3}
    assert data.TrajectoryDataset(**arrays).take([0]).num_relations == 3


def test_split_is_a_deterministic_partition():
    dataset = make_dataset(num_tasks=20)
    first, second = dataset.split((12, 5))
    np.testing.assert_array_equal(first.states, dataset.states[:12])
    np.testing.assert_array_equal(second.states, dataset.states[12:17])
    parts = dataset.split((12, 5, 3), seed=1)
    again = dataset.split((12, 5, 3), seed=1)
    for part, same in zip(parts, again, strict=True):
        assert_same(part, same)
    firsts = np.concatenate([part.states[:, 0, 0, 0] for part in parts])
    assert sorted(firsts) == sorted(dataset.states[:, 0, 0, 0])
    assert (firsts != dataset.states[:, 0, 0, 0]).any()
    assert dataset.split((0, 20))[0].num_tasks == 0
    for sizes in ((21,), (-1, 3)):
        with pytest.raises(data.DataError, match="split: found sizes"):
            dataset.split(sizes)


@strategies.composite
def ragged_systems(draw):
    sizes = draw(strategies.lists(strategies.integers(1, 5), min_size=1, max_size=6))
    seed = draw(strategies.integers(0, 1000))
    extra = draw(strategies.integers(0, 2))
    rng = np.random.default_rng(seed)
    systems = [rng.normal(size=(3, size, 4)).astype(np.float32) for size in sizes]
    edges = [rng.integers(0, 3, (size, size)) for size in sizes]
    return systems, edges, max(sizes) + extra


@hypothesis.given(ragged_systems())
def test_padding_and_cutting_return_every_system(ragged):
    systems, edges, max_nodes = ragged
    dataset = data.pad_systems(
        systems,
        edges,
        features=FEATURES,
        frame_interval=0.5,
        num_relations=3,
        max_nodes=max_nodes,
    )
    assert dataset.max_nodes == max_nodes
    for task, (system, matrix) in enumerate(zip(systems, edges, strict=True)):
        size = dataset.num_nodes[task]
        assert size == system.shape[1]
        np.testing.assert_array_equal(dataset.states[task, :, :size], system)
        assert not dataset.states[task, :, size:].any()
        off_diagonal = ~np.eye(size, dtype=bool)
        found = dataset.edges[task, :size, :size]
        np.testing.assert_array_equal(found[off_diagonal], matrix[off_diagonal])
        assert (np.diagonal(found) == -1).all()
        assert (dataset.edges[task, size:] == -1).all()
        assert (dataset.edges[task, :, size:] == -1).all()


@hypothesis.given(ragged_systems())
def test_concatenation_equals_joint_padding(ragged):
    systems, edges, _ = ragged
    options = {"features": FEATURES, "frame_interval": 0.5, "num_relations": 3}
    joint = data.pad_systems(systems, edges, **options)
    single = [
        data.pad_systems([system], [matrix], **options)
        for system, matrix in zip(systems, edges, strict=True)
    ]
    assert_same(data.concatenate(single), joint)
    bare = data.concatenate([part.without_labels() for part in single])
    assert_same(bare, joint.without_labels())


def test_padding_names_the_odd_system():
    systems = [np.random.default_rng(0).normal(size=(4, n, 4)) for n in (2, 3)]
    options = {"features": FEATURES, "frame_interval": 1.0}
    cases = [
        ([], None, {}, "systems: found none"),
        ([systems[0], systems[1][:2]], None, {}, "node 0 of task 1 observed at 2 fr"),
        ([systems[0], systems[1][0]], None, {}, r"systems\[1\]: found shape \(3, 4"),
        (systems, None, {"max_nodes": 2}, r"systems\[1\]: found 3 nodes, expected at"),
        (systems, [np.zeros((2, 2))], {}, "edges: found 1 matrices"),
        (systems, [np.zeros((2, 2))] * 2, {}, r"edges\[1\]: found shape \(2, 2\)"),
        ([systems[0].astype(str)], None, {}, r"systems\[0\]: found dtype"),
        ([np.ones((4, 2, 4))], None, {}, r"the one value 1.0 in all of feature 0"),
    ]
    for arrays, edges, more, message in cases:
        with pytest.raises(data.DataError, match=message):
            data.pad_systems(arrays, edges, **options | more)


def test_concatenation_refuses_data_sets_that_differ():
    dataset = make_dataset()
    with pytest.raises(data.DataError, match="datasets: found none"):
        data.concatenate([])
    others = {
        "num_frames": dataset.frames(0, 4),
        "labelled": dataset.without_labels(),
        "frame_interval": dataclasses.replace(dataset, frame_interval=0.2),
        "num_relations": dataclasses.replace(dataset, num_relations=4),
    }
    for name, other in others.items():
        with pytest.raises(data.DataError, match=rf"datasets\[1\]: found {name}"):
            data.concatenate([dataset, other])


def test_normalization_shares_constants_within_positions_and_velocities():
    names = ("x", "y", "vx", "vy", "mass")
    features = data.FeatureSpec(names=names, positions=(0, 1), velocities=(2, 3))
    rng = np.random.default_rng(0)
    states = rng.normal(size=(3, 4, 2, 5)) * [1.0, 3.0, 5.0, 2.0, 0.1] + 7.0
    # Padded places must not count, though zero lies outside the range of the data.
    node_mask = np.array([[True, True], [True, False], [True, True]])
    dataset = data.TrajectoryDataset(
        states=states, features=features, frame_interval=1.0, node_mask=node_mask
    )
    real = dataset.states.swapaxes(1, 2)[node_mask]
    normalization = data.fit_normalization(dataset)
    groups = [(0, 1), (2, 3), (4,)]
    normalized = data.normalize(normalization, real)
    for group in groups:
        columns = list(group)
        low, high = real[..., columns].min(), real[..., columns].max()
        for column in columns:
            np.testing.assert_allclose(
                normalization.offset[column], (low + high) / 2, rtol=1e-6
            )
            np.testing.assert_allclose(
                normalization.scale[column], (high - low) / 2, rtol=1e-6
            )
        np.testing.assert_allclose(normalized[..., columns].min(), -1.0, atol=1e-5)
        np.testing.assert_allclose(normalized[..., columns].max(), 1.0, atol=1e-5)
    scaled = data.normalize_dataset(normalization, dataset)
    assert not scaled.states.swapaxes(1, 2)[~node_mask].any()
    np.testing.assert_array_equal(scaled.states.swapaxes(1, 2)[node_mask], normalized)


@pytest.mark.parametrize("module", [np, jnp])
def test_normalization_round_trip(module, strict_dtype_promotion):
    dataset = make_dataset()
    normalization = data.fit_normalization(dataset)
    states = module.asarray(dataset.states)
    normalized = data.normalize(normalization, states)
    restored = data.denormalize(normalization, normalized)
    for array in (normalized, restored):
        assert isinstance(array, np.ndarray if module is np else jax.Array)
        assert array.dtype == np.float32
    np.testing.assert_allclose(restored, states, rtol=1e-6, atol=1e-6)
    for depth in (states[0], states[0, 0], states[0, 0, 0]):
        np.testing.assert_allclose(
            data.denormalize(normalization, data.normalize(normalization, depth)),
            depth,
            rtol=1e-6,
            atol=1e-6,
        )
    # The map is a pytree: it goes through jit as an argument.
    jitted = jax.jit(data.normalize)(normalization, states)
    np.testing.assert_allclose(jitted, normalized, rtol=1e-6, atol=1e-7)


def test_normalization_survives_json():
    normalization = data.fit_normalization(make_dataset())
    text = json.dumps(normalization.to_dict())
    restored = data.Normalization.from_dict(json.loads(text))
    for found, expected in zip(restored, normalization, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"offset": [0.0]}, r"found the entries \['offset'\]"),
        ({"offset": [0.0], "scale": [1.0, 1.0]}, r"scale of shape \(2,\)"),
        ({"offset": [0.0], "scale": [0.0]}, r"found 0.0 at index \[0\]"),
        ({"offset": [0.0], "scale": [float("nan")]}, r"found nan at index \[0\]"),
    ],
)
def test_normalization_refuses_bad_constants(values, message):
    with pytest.raises(data.DataError, match=message):
        data.Normalization.from_dict(values)


def test_normalization_needs_tasks_and_leaves_constants_in_their_unit():
    dataset = make_dataset()
    with pytest.raises(data.DataError, match="found no task"):
        data.fit_normalization(dataset.take([]))
    still = dataclasses.replace(dataset, states=np.ones_like(dataset.states))
    offset, scale = data.fit_normalization(still)
    np.testing.assert_array_equal(offset, 1.0)
    np.testing.assert_array_equal(scale, 1.0)
