import dataclasses

import numpy as np
import pytest

from modmeta.relational import data


def make_dataset(labelled=True):
    rng = np.random.default_rng(0)
    circle = np.exp(1j * rng.normal(size=(4, 3, 3, 1)))
    return data.TrajectoryDataset(
        states=np.concatenate(
            [rng.normal(size=(4, 3, 3, 5)), circle.real, circle.imag], axis=-1
        ),
        features=data.FeatureSpec(
            names=("x", "y", "mass", "vx", "vy", "cos", "sin"),
            positions=(0, 1),
            velocities=(3, 4),
            sines=(6,),
            cosines=(5,),
        ),
        frame_interval=0.25,
        node_mask=np.arange(3) < np.array([3, 2, 1, 3])[:, None],
        edges=rng.integers(0, 2, (4, 3, 3)) if labelled else None,
        num_relations=3,
    )


def write_nri(directory, suffix="train_springs5", *, edge_values=(0.0, 1.0)):
    rng = np.random.default_rng(1)
    arrays = {
        "loc": rng.normal(size=(4, 6, 2, 3)),
        "vel": rng.normal(size=(4, 6, 2, 3)),
        "edges": rng.choice(edge_values, (4, 3, 3)),
    }
    # All values occur, whatever the draw; the diagonal carries none.
    arrays["edges"][0, 0, 1 : 1 + len(edge_values)] = edge_values[:2]
    arrays["edges"][1, 2, 0] = edge_values[-1]
    arrays["edges"][:, np.arange(3), np.arange(3)] = 1.0
    for name, array in arrays.items():
        np.save(directory / f"{name}_{suffix}.npy", array)
    return arrays


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("reader", [data.load_npz, data.load])
def test_npz_round_trip(tmp_path, labelled, reader):
    dataset = make_dataset(labelled)
    path = tmp_path / "set.npz"
    data.save_npz(path, dataset)
    found = reader(str(path))
    for field in dataclasses.fields(dataset):
        a, b = getattr(found, field.name), getattr(dataset, field.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, field.name


def test_npz_needs_states_only(tmp_path):
    states = np.random.default_rng(2).normal(size=(2, 4, 3, 2))
    np.savez(tmp_path / "bare.npz", states=states)
    dataset = data.load(tmp_path / "bare.npz")
    np.testing.assert_array_equal(dataset.states, states.astype(np.float32))
    assert dataset.features == data.FeatureSpec(names=("feature_0", "feature_1"))
    assert dataset.frame_interval == 1.0
    assert dataset.edges is None and dataset.num_relations is None


STATES = np.random.default_rng(3).normal(size=(2, 4, 3, 2))


@pytest.mark.parametrize(
    "arrays, message",
    [
        (
            {"trajectories": STATES},
            r"found the arrays \['trajectories'\], expected 'st",
        ),
        (
            {"states": STATES, "labels": STATES},
            r"edges: found shape \(2, 4, 3, 2\), expected \(2, 3, 3\)",
        ),
        ({"states": STATES[0, 0]}, "states: found 2 axes"),
        (
            {"states": np.full_like(STATES, np.nan)},
            "found node 0 of task 0 observed at 0",
        ),
        ({"states": np.ones_like(STATES)}, "found the one value 1.0"),
        ({"states": STATES, "edges": np.full((2, 3, 3), 0.5)}, "found label 0.5"),
        ({"states": STATES, "feature_names": ["x"]}, "feature_names: found 1 names"),
        ({"states": STATES, "feature_names": [1, 2]}, "feature_names: found dtype int"),
        ({"states": STATES, "positions": [0.5]}, "positions: found dtype float64"),
        ({"states": STATES, "positions": [5]}, "feature columns: found 5"),
        ({"states": STATES, "frame_interval": [1.0, 2.0]}, "frame_interval: found"),
        ({"states": STATES, "frame_interval": "1"}, "frame_interval: found dtype"),
        ({"states": STATES, "num_relations": 1.5}, "num_relations: found 1.5"),
    ],
)
def test_bad_npz_is_named(tmp_path, arrays, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(data.DataError, match=message) as caught:
        data.load_npz(path)
    assert str(path) in str(caught.value)


def test_python_objects_are_never_loaded(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, states=STATES, edges=np.array([{}, None], dtype=object))
    with pytest.raises(data.DataError, match="'edges' that holds Python objects"):
        data.load_npz(path)
    write_nri(tmp_path)
    np.save(tmp_path / "vel_train_springs5.npy", np.array([{}], dtype=object))
    with pytest.raises(data.DataError, match="vel_train_springs5.npy: found a file th"):
        data.load_nri(tmp_path, "train_springs5")


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.npz"):
        data.load_npz(tmp_path / "absent.npz")
    with pytest.raises(FileNotFoundError, match="absent"):
        data.load(tmp_path / "absent")
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    with pytest.raises(data.DataError, match="found a file that is no .npz archive"):
        data.load(text)
    whole = tmp_path / "whole.npz"
    data.save_npz(whole, make_dataset())
    content = bytearray(whole.read_bytes())
    content[200:220] = bytes(20)
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(content)
    with pytest.raises(data.DataError, match="damaged"):
        data.load(damaged)
    other = tmp_path / "table.doc"
    other.write_text("1,2")
    with pytest.raises(data.DataError, match="unknown form, expected a .npz"):
        data.load(other)


def test_a_name_without_npz_gets_it(tmp_path):
    path = data.save_npz(tmp_path / "set.npy", make_dataset())
    assert path == tmp_path / "set.npy.npz"
    np.testing.assert_array_equal(data.load(path).states, make_dataset().states)


@pytest.mark.parametrize("suffix", ["train_springs5", "_train_springs5"])
def test_nri_layout(tmp_path, suffix):
    arrays = write_nri(tmp_path)
    dataset = data.load_nri(tmp_path, suffix)
    assert dataset.features.names == ("x", "y", "vx", "vy")
    assert dataset.frame_interval == 0.1
    assert dataset.num_relations == 2
    for axis in range(2):
        np.testing.assert_array_equal(
            dataset.states[..., axis], arrays["loc"][:, :, axis].astype(np.float32)
        )
        np.testing.assert_array_equal(
            dataset.states[..., 2 + axis], arrays["vel"][:, :, axis].astype(np.float32)
        )
    off_diagonal = ~np.eye(3, dtype=bool)
    np.testing.assert_array_equal(
        dataset.edges[:, off_diagonal], arrays["edges"][:, off_diagonal]
    )
    # Row = receiver is kept, not transposed.
    assert (arrays["edges"] != arrays["edges"].swapaxes(1, 2)).any()


@pytest.mark.parametrize(
    "edge_values", [(-1.0, 1.0), (0.0, 0.5), (0.0, 0.5, 1.0), (-2.0, 0.0, 1.0, 4.0)]
)
def test_nri_edge_values_become_ranks(tmp_path, edge_values):
    arrays = write_nri(tmp_path, "x", edge_values=edge_values)
    off_diagonal = ~np.eye(3, dtype=bool)
    # The diagonal value 1 must not make a type of its own.
    present = np.unique(arrays["edges"][:, off_diagonal])
    dataset = data.load_nri(tmp_path, "x", edge_values=edge_values)
    assert dataset.num_relations == len(edge_values)
    np.testing.assert_array_equal(
        np.array(edge_values)[dataset.edges[:, off_diagonal]],
        arrays["edges"][:, off_diagonal],
    )
    ranked = data.load_nri(tmp_path, "x")
    assert ranked.num_relations == len(present)
    np.testing.assert_array_equal(
        present[ranked.edges[:, off_diagonal]], arrays["edges"][:, off_diagonal]
    )


def test_nri_without_labels(tmp_path):
    write_nri(tmp_path)
    (tmp_path / "edges_train_springs5.npy").unlink()
    assert data.load(tmp_path).edges is None


def test_load_finds_the_nri_triple(tmp_path):
    write_nri(tmp_path, "train_springs5")
    expected = data.load_nri(tmp_path, "train_springs5").states
    np.testing.assert_array_equal(data.load(tmp_path).states, expected)
    file = tmp_path / "loc_train_springs5.npy"
    np.testing.assert_array_equal(data.load(file).states, expected)
    write_nri(tmp_path, "test_charged5")
    with pytest.raises(data.DataError, match=r"\['test_charged5', 'train_springs5'\]"):
        data.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"suffixes \['test_charged5', 'train"):
        data.load_nri(tmp_path, "valid_springs5")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(data.DataError, match=r"found a folder without loc_"):
        data.load(empty)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("loc", lambda a: a[:, :, 0], r"loc_train.*expected \[tasks, time, 2"),
        ("vel", lambda a: a[:, 1:], r"vel_train.*expected \(4, 6, 2, 3\) as in loc"),
        ("edges", lambda a: a[0], r"edges: found shape \(3, 3\), expected \[tasks, re"),
        ("edges", lambda a: a[1:], r"edges: found shape \(3, 3, 3\), expected"),
        ("edges", lambda a: a.astype(str), "edges: found dtype"),
        (
            "edges",
            lambda a: np.where(np.eye(3)[::-1], np.nan, a),
            r"edges: found nan at index \[0, 0, 2\]",
        ),
        ("loc", lambda a: a[:, :2], "vel_train"),
    ],
)
def test_bad_nri_files_are_named(tmp_path, name, change, message):
    arrays = write_nri(tmp_path)
    np.save(tmp_path / f"{name}_train_springs5.npy", change(arrays[name]))
    with pytest.raises(data.DataError, match=message):
        data.load_nri(tmp_path, "train_springs5")


def test_nri_edge_values_must_be_known(tmp_path):
    arrays = write_nri(tmp_path, edge_values=(0.0, 0.5))
    first = np.argwhere((arrays["edges"] == 0.5) & ~np.eye(3, dtype=bool))[0].tolist()
    message = rf"found value 0.5 at index \[{first[0]}, {first[1]}, {first[2]}\]"
    with pytest.raises(data.DataError, match=message):
        data.load_nri(tmp_path, "train_springs5", edge_values=(0.0, 1.0))
    strengths = np.random.default_rng(0).normal(size=(40, 3, 3))
    for part in ("loc", "vel"):
        array = np.load(tmp_path / f"{part}_train_springs5.npy")
        np.save(tmp_path / f"{part}_train_springs5.npy", np.tile(array, (10, 1, 1, 1)))
    np.save(tmp_path / "edges_train_springs5.npy", strengths)
    with pytest.raises(data.DataError, match="found 240 distinct values, expected at"):
        data.load_nri(tmp_path, "train_springs5")


def test_npy_that_is_no_npy(tmp_path):
    write_nri(tmp_path)
    (tmp_path / "loc_train_springs5.npy").write_text("text")
    with pytest.raises(data.DataError, match="loc_train_springs5.npy: found a file"):
        data.load(tmp_path / "loc_train_springs5.npy")
