"""The same data in every accepted form are the same data set, to the bit.

The truth is the documented array. Nothing is trained or compiled.
"""

import dataclasses
import datetime
import re

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from modmeta.relational import as_dataset, data
from modmeta.relational.data import DataError
from modmeta.relational.data.forms import clocks
from modmeta.relational.data.hints import SHARED, shared_course

NAMES = ("x", "y", "vx", "vy")
ROLES = {"positions": (0, 1), "velocities": (2, 3)}
INTERVAL = 0.1
SYSTEMS, FRAMES, NODES = 3, 12, 4


def walks(seed=0, shape=(SYSTEMS, FRAMES, NODES, 4)):
    return np.random.default_rng(seed).normal(size=shape).cumsum(axis=1)


STATES = walks()
LABELS = np.random.default_rng(1).integers(0, 2, (SYSTEMS, NODES, NODES))


class Tensor:
    """Stands in for an array that requires a gradient and lies on a device."""

    def __init__(self, values, *, is_free=False, on_host=False):
        self.values, self.is_free, self.on_host = np.asarray(values), is_free, on_host

    def detach(self):
        return Tensor(self.values, is_free=True, on_host=self.on_host)

    def cpu(self):
        return Tensor(self.values, is_free=self.is_free, on_host=True)

    def __array__(self, dtype=None, copy=None):
        if not (self.is_free and self.on_host):
            raise RuntimeError("this tensor requires a gradient")
        return np.array(self.values, dtype)


class Capsule:
    """Stands in for an array that speaks DLPack alone."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


def documented(**options):
    return as_dataset(
        STATES,
        **{"feature_names": NAMES, **ROLES, "frame_interval": INTERVAL, **options},
    )


def assert_same(found, expected, *, but=("notes", "key_columns")):
    for field in dataclasses.fields(expected):
        if field.name in but:
            continue
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype and a.shape == b.shape, field.name
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, field.name


def table(
    states=STATES, *, names=NAMES, time=INTERVAL, keys=("system", "time", "entity")
):
    """A long table, its rows in another order."""
    index = np.indices(states.shape[:3]).reshape(3, -1)
    columns = dict(zip(keys, index, strict=True))
    # As a program would write them: 0.30000000000000004 and the like.
    columns[keys[1]] = np.cumsum(np.full(states.shape[1], time))[index[1]] - time
    columns |= {n: states[..., i].ravel() for i, n in enumerate(names)}
    frame = pd.DataFrame(columns)
    return frame.sample(frac=1.0, random_state=0).reset_index(drop=True)


def as_csv(tmp_path):
    table().to_csv(tmp_path / "tracks.csv", index=False)
    return tmp_path / "tracks.csv"


def as_semicolons(tmp_path):
    table().to_csv(tmp_path / "tracks.csv.gz", index=True, sep=";")
    return str(tmp_path / "tracks.csv.gz")


def as_decimal_commas(tmp_path):
    table().to_csv(tmp_path / "tracks.csv", index=False, sep=";", decimal=",")
    return tmp_path / "tracks.csv"


def as_text_of_times(write):
    """A CSV whose times are texts; time 0 is half past eleven on a winter's day."""

    def made(tmp_path):
        times = pd.Timestamp("2020-01-31 11:30") + pd.to_timedelta(
            table().time.round(6), "s"
        )
        path = tmp_path / "tracks.csv"
        table().assign(time=write(times)).to_csv(path, index=False)
        return path

    return made


def as_remarks(tmp_path):
    path = tmp_path / "tracks.csv"
    path.write_text("# a tracker; version 3\n# seconds\n" + table().to_csv(index=False))
    return path


def as_names_in_a_remark(tmp_path):
    path = tmp_path / "tracks.csv"
    path.write_text("# a tracker, version 3\n# " + table().to_csv(index=False))
    return path


def as_parquet(tmp_path):
    table().set_index(["system", "entity"]).to_parquet(tmp_path / "tracks.parquet")
    return tmp_path / "tracks.parquet"


def as_npz(tmp_path):
    np.savez(
        tmp_path / "set.npz",
        states=STATES,
        feature_names=NAMES,
        positions=["x", "y"],
        velocities=[2, 3],
        frame_interval=INTERVAL,
        comment=np.arange(3),
    )
    return tmp_path / "set.npz"


def as_bars(tmp_path):
    table().to_csv(tmp_path / "tracks.csv", index=False, sep="|")
    return tmp_path / "tracks.csv"


def as_rows(tmp_path):
    np.save(tmp_path / "rows.npy", as_fields(table()))
    return tmp_path / "rows.npy"


def as_fields(rows):
    found = rows.to_records(index=False)
    return np.array(found.tolist(), found.dtype.descr)


def as_saved(tmp_path):
    data.save_npz(tmp_path / "saved.npz", documented())
    return tmp_path / "saved.npz"


def as_array(tmp_path):
    coords = {"feature": list(NAMES), "frame": np.arange(FRAMES)}
    array = xr.DataArray(
        STATES, dims=("run", "frame", "agent", "feature"), coords=coords
    )
    return array.transpose("feature", "agent", "frame", "run")


def as_variables(tmp_path):
    dims = ("system", "time", "entity")
    variables = {name: (dims, STATES[..., i]) for i, name in enumerate(NAMES)}
    variables["total"] = (("system",), np.zeros(SYSTEMS))
    return xr.Dataset(variables, {"time": INTERVAL * np.arange(FRAMES)})


FORMS = {
    "nested lists": lambda _: STATES.tolist(),
    "list of arrays": lambda _: list(STATES),
    "tuple of tensors": lambda _: tuple(map(Tensor, STATES)),
    "masked array": lambda _: np.ma.MaskedArray(STATES, np.zeros(STATES.shape, bool)),
    "tensor": lambda _: Tensor(STATES),
    "dlpack": lambda _: Capsule(STATES),
    "float64 in another order": lambda _: np.asfortranarray(STATES),
    "numbers of Python": lambda _: STATES.astype(object),
    "rows with named fields": lambda _: table().to_records(index=False),
    "rows with named fields in a file": as_rows,
    "mapping of arrays": lambda _: {"states": STATES},
    "frame": lambda _: table(),
    "frame, usual names": lambda _: table(keys=("Trial", "t", "particle_id")),
    "frame, index": lambda _: table().set_index(["system", "time", "entity"]),
    "frame, whole numbers": lambda _: table().astype({"entity": "Int64"}),
    "frame, dates": lambda _: table().assign(
        time=lambda f: pd.Timestamp("2020-01-31") + pd.to_timedelta(f.time, "s")
    ),
    "frame, zones": lambda _: table().assign(
        time=lambda f: (
            pd.Timestamp("2020-01-31", tz="UTC") + pd.to_timedelta(f.time.round(6), "s")
        )
    ),
    "frame, counted from 1": lambda _: (
        table(time=1.0).assign(frame=lambda f: f.time.round() + 1).drop(columns="time")
    ),
    "mapping of columns": lambda _: dict(table()),
    "csv": as_csv,
    "csv, semicolons, compressed": as_semicolons,
    "csv, decimal commas": as_decimal_commas,
    "csv, bars": as_bars,
    "csv, remarks": as_remarks,
    "csv, names in a remark": as_names_in_a_remark,
    "csv, a zone": as_text_of_times(lambda t: t.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")),
    "csv, a zone in hours": as_text_of_times(
        lambda t: t.dt.strftime("%Y-%m-%d %H:%M:%S.%f+05:30")
    ),
    "csv, days first": as_text_of_times(
        lambda t: t.dt.strftime("%d.%m.%Y %H:%M:%S.%f")
    ),
    "csv, times of the day": as_text_of_times(lambda t: t.dt.strftime("%H:%M:%S.%f")),
    "csv, durations": as_text_of_times(
        lambda t: (t - t.min() + pd.Timedelta(days=2)).astype(str)
    ),
    "frame, times of the day": lambda _: table().assign(
        time=lambda f: (
            (
                pd.Timestamp("2020-01-31 11:30") + pd.to_timedelta(f.time.round(6), "s")
            ).dt.time
        )
    ),
    "frame, dates as objects": lambda _: table().assign(
        time=lambda f: (
            pd.Timestamp("2020-01-31 11:30") + pd.to_timedelta(f.time.round(6), "s")
        ).astype(object)
    ),
    "frame, rows twice": lambda _: pd.concat([table(), table()[3:9]]),
    "parquet": as_parquet,
    "npz": as_npz,
    "npz that was saved": as_saved,
    "named axes": as_array,
    "variables with named axes": as_variables,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_documented_array(form, tmp_path):
    given = FORMS[form](tmp_path)
    is_named = not isinstance(given, list | tuple | np.ndarray | Tensor | Capsule)
    is_named |= form == "rows with named fields"
    options = {"frame_interval": INTERVAL, "labels": LABELS}
    if form == "npz that was saved":
        del options["frame_interval"]
    if not is_named or form == "mapping of arrays":
        options |= {"feature_names": NAMES, **ROLES}
    assert_same(as_dataset(given, **options), documented(labels=LABELS))


@pytest.mark.parametrize("kind", ["i2", ">i4", "u1", "f2", ">f4", "g", "?", "bf2"])
def test_every_kind_of_number(kind, tmp_path):
    """Also in a file that holds the array alone, and with axes that have names."""
    kind = ml_dtypes.bfloat16 if kind == "bf2" else kind
    states = np.abs(np.round(3.0 * STATES)).astype(kind)
    options = {"feature_names": NAMES, **ROLES, "frame_interval": INTERVAL}
    expected = as_dataset(states.astype(np.float64), **options)
    assert_same(as_dataset(states, **options), expected)
    dims = ("time", "system", "entity", "feature")
    axes = xr.DataArray(states.swapaxes(0, 1), dims=dims)
    assert_same(as_dataset(axes, **options), expected)
    if kind != ml_dtypes.bfloat16:
        np.save(tmp_path / "alone.npy", states)
        assert_same(as_dataset(tmp_path / "alone.npy", **options), expected)


def test_none_among_numbers_was_not_observed():
    gappy = STATES.copy()
    gappy[0, 4, 1] = gappy[1, 5, 2, 0] = np.nan
    objects = np.where(np.isnan(gappy), None, gappy)
    expected = as_dataset(gappy)
    assert_same(as_dataset(objects), expected)
    assert_same(as_dataset(objects.tolist()), expected)


@pytest.mark.parametrize(
    "given, found",
    [
        (None, "NoneType, expected an array, a list of arrays, a table or a path"),
        (iter(STATES), ".*iterator, expected an array"),
        (b"system,time", "bytes, expected an array"),
        (table().to_csv(), "a text of .* characters that is no path"),
    ],
)
def test_what_is_no_form_is_called_by_its_name(given, found):
    with pytest.raises(DataError, match=f"^trajectories: found {found}"):
        as_dataset(given)


@pytest.mark.parametrize("name", ["a.mat", "a.nc", "a.json", "a.pkl", "a.feather"])
def test_files_of_other_programs_are_refused_in_a_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(DataError, match="found a file of unknown form, expected .* .+"):
        as_dataset(tmp_path / name)


def test_left_out_is_told():
    found = as_dataset(
        table().assign(index=0, colour="red", empty=np.nan, frame=0, id=7),
        feature_names=None,
    )
    assert_same(found, documented())
    left = [note for note in found.notes if "left out" in note]
    assert left == [
        "Column 'index' is left out: numbers of rows.",
        "Column 'colour' is left out: it holds no numbers.",
        "Column 'empty' is left out: it holds no numbers.",
        "Column 'frame' is left out: another time.",
        "Column 'id' is left out: another entity.",
    ]
    assert found.notes[len(left)].startswith(
        "Features 'x', 'y' are taken for positions"
    )


def test_arrays_of_a_file_that_mean_nothing_are_told(tmp_path):
    found = data.load(as_npz(tmp_path))
    assert "the arrays 'comment', which mean nothing" in found.notes[0]


def test_labels_among_variables():
    dims = ("entity", "time", "system")
    variables = {
        name: (dims, STATES[..., i].transpose(2, 1, 0)) for i, name in enumerate(NAMES)
    }
    variables["labels"] = (("sender", "receiver", "system"), LABELS.transpose(2, 1, 0))
    found = as_dataset(xr.Dataset(variables), frame_interval=INTERVAL)
    assert_same(found, documented(labels=LABELS))


def test_one_system_without_an_axis_of_systems(tmp_path):
    expected = as_dataset(STATES[:1], **ROLES, frame_interval=INTERVAL)
    assert_same(as_dataset(STATES[0], **ROLES, frame_interval=INTERVAL), expected)
    assert_same(
        as_dataset(Tensor(STATES[0]), **ROLES, frame_interval=INTERVAL), expected
    )
    alone = table(STATES[:1]).drop(columns="system")
    named = as_dataset(STATES[:1], feature_names=NAMES, frame_interval=INTERVAL)
    assert_same(as_dataset(alone), named)
    alone.to_csv(tmp_path / "one.tsv", sep="\t", index=False)
    assert_same(data.load(tmp_path / "one.tsv"), named)
    array = xr.DataArray(STATES[0, ..., 0], dims=("node", "time")[::-1], name="x")
    assert_same(
        as_dataset(array, frame_interval=INTERVAL),
        as_dataset(STATES[:1, ..., :1], feature_names=["x"], frame_interval=INTERVAL),
    )


def test_arrays_of_different_length_and_size(tmp_path):
    """Systems that end early, entities that are in some systems alone."""
    arrays = [STATES[0], STATES[1, :7], STATES[2][:, :2]]
    expected = as_dataset(arrays, feature_names=NAMES, frame_interval=INTERVAL)
    assert expected.num_nodes.tolist() == [4, 4, 2]
    assert_same(
        as_dataset(
            list(map(Tensor, arrays)), feature_names=NAMES, frame_interval=INTERVAL
        ),
        expected,
    )
    rows = table()
    is_there = ~((rows.system == 1) & (rows.time > 0.65))
    is_there &= ~((rows.system == 2) & (rows.entity >= 2))
    assert_same(as_dataset(rows[is_there]), expected)
    rows[is_there].to_csv(tmp_path / "rows.csv", index=False)
    assert_same(as_dataset(tmp_path / "rows.csv"), expected)
    # Gaps within: a row that is not there, an empty cell, a frame that nobody saw.
    gappy = STATES.copy()
    gappy[0, 4, 1] = gappy[1, 5, 2, 0] = gappy[2, 6] = np.nan
    expected = as_dataset(gappy, feature_names=NAMES, frame_interval=INTERVAL)
    rows = table(gappy)
    complete = rows[~((rows.system == 0) & rows.x.isna())]
    complete = complete[~((complete.system == 2) & complete.x.isna())]
    assert_same(as_dataset(complete), expected)
    complete.to_csv(tmp_path / "gaps.csv", index=False)
    assert_same(as_dataset(tmp_path / "gaps.csv"), expected)
    array = xr.DataArray(gappy, dims=("system", "time", "entity", "feature"))
    plain = as_dataset(gappy, frame_interval=INTERVAL)
    assert_same(as_dataset(array, frame_interval=INTERVAL), plain)
    # An entity of which a system has no value is not in it.
    gappy[1, :, 1] = np.nan
    array = array.copy(data=gappy)
    without = [gappy[0], np.delete(gappy[1], 1, axis=1), gappy[2]]
    labels = [LABELS[0], np.delete(np.delete(LABELS[1], 1, 0), 1, 1), LABELS[2]]
    found = as_dataset(array, frame_interval=INTERVAL, labels=labels)
    expected = as_dataset(without, frame_interval=INTERVAL, labels=labels)
    assert_same(found, expected, but=("notes", "key_columns", "node_names"))
    assert found.node_names[1] == ("0", "2", "3")


def test_irregular_times():
    times = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, FRAMES))
    rows = table(time=1.0)
    rows["time"] = times[rows.time.round().astype(int)]
    expected = as_dataset(STATES, feature_names=NAMES, times=times)
    assert_same(as_dataset(rows), expected)
    dims = ("system", "time", "entity", "feature")
    coords = {"time": times, "feature": list(NAMES)}
    assert_same(as_dataset(xr.DataArray(STATES, coords, dims)), expected)
    # Times that do not begin at 0 are kept, for predictions at times.
    late = table().assign(time=lambda f: f.time + 5.0)
    found = as_dataset(late)
    np.testing.assert_allclose(found.times[0], 5.0 + INTERVAL * np.arange(FRAMES))
    assert found.is_regular and found.frame_interval == INTERVAL


def test_names_of_systems_and_entities(tmp_path):
    rows = table()
    rows["entity"] = rows.entity.map({0: "b2", 1: "b10", 2: "ant", 3: "b1"})
    rows["system"] = rows.system.map({0: 30, 1: 7, 2: 9})
    found = as_dataset(rows)
    # By their numbers, and by their texts as a person sorts them.
    assert found.system_names == ("7", "9", "30")
    assert found.node_names == (("ant", "b1", "b2", "b10"),) * 3
    order = [1, 2, 0]
    plain = as_dataset(
        STATES[order][:, :, [2, 3, 0, 1]], feature_names=NAMES, frame_interval=INTERVAL
    )
    others = ("notes", "key_columns", "system_names", "node_names")
    assert_same(found, plain, but=others)
    data.save_npz(tmp_path / "named.npz", found)
    assert_same(data.load(tmp_path / "named.npz"), found, but=("key_columns",))
    some = found.take([2, 0])
    assert some.system_names == ("30", "7") and len(some.node_names) == 2
    both = data.concatenate([some, found.take([1])])
    assert both.system_names == ("30", "7", "9")
    one = data.concatenate_tasks(found)
    assert one.node_names == found.node_names[:1] and one.system_names is None
    windows, _ = data.cut(found, 4)
    assert windows.system_names == ("7",) * 3 + ("9",) * 3 + ("30",) * 3
    renamed = dataclasses.replace(
        found, node_names=(*found.node_names[:2], ("a", "b", "c", "d"))
    )
    with pytest.raises(DataError, match="in task 2, expected .* as in task 0"):
        data.concatenate_tasks(renamed)


OFF = ~np.eye(NODES, dtype=bool)
LABEL_FORMS = {
    "booleans": LABELS.astype(bool),
    "unsigned": LABELS.astype(np.uint8),
    "numbers of Python": LABELS.astype(object),
    "nothing on the diagonal": np.where(np.eye(NODES, dtype=bool), None, LABELS),
    "NaN on the diagonal": np.where(np.eye(NODES, dtype=bool), np.nan, LABELS),
    "signs": 2 * LABELS - 1,
    "floats": LABELS.astype(float),
    "texts": np.array(["free", "spring"])[LABELS],
    "objects": np.array(["free", "spring"], object)[LABELS],
    "flattened": LABELS[:, OFF],
    "flattened signs": 2.0 * LABELS[:, OFF] - 1,
    "flattened texts": np.array(["a", "b"])[LABELS[:, OFF]],
    "list of matrices": list(LABELS),
    "tensor": Tensor(LABELS),
    "list of tensors": list(map(Tensor, LABELS[:, OFF])),
    "nested lists": LABELS.tolist(),
}


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_every_form_of_labels(form):
    expected = documented(labels=LABELS)
    assert_same(documented(labels=LABEL_FORMS[form]), expected)
    assert expected.num_relations == 2


def test_labels_of_one_graph_for_all_systems():
    expected = documented(labels=np.broadcast_to(LABELS[0], LABELS.shape))
    for one in (LABELS[0], LABELS[0][OFF], (2 * LABELS[0] - 1).tolist()):
        assert_same(documented(labels=one), expected)


def test_what_labels_are_called_is_told():
    notes = documented(labels=np.array(["off", "weak", "strong"])[LABELS]).notes
    assert "Labels are numbered in their order: 'off' is 0, 'weak' is 1." in notes
    assert (
        "Labels -1 and 1 are called 0 and 1." in documented(labels=2 * LABELS - 1).notes
    )
    # What is no sign stays what it is.
    with pytest.raises(DataError, match="found label -1 at"):
        documented(labels=LABELS - 1)


def test_labels_of_systems_of_different_size():
    arrays = [STATES[0], STATES[1][:, :2]]
    expected = as_dataset(arrays, labels=[LABELS[0], LABELS[1, :2, :2]])
    off = ~np.eye(2, dtype=bool)
    flat = [LABELS[0][OFF], LABELS[1, :2, :2][off]]
    assert_same(as_dataset(arrays, labels=flat), expected)
    texts = [np.array(["n", "y"])[m] for m in (LABELS[0], LABELS[1, :2, :2])]
    assert_same(as_dataset(arrays, labels=texts), expected)


def test_roles_by_name_number_and_custom():
    expected = documented()
    by_name = documented(positions=("x", "y"), velocities=("vx", "vy"))
    assert_same(by_name, expected)
    assert_same(documented(positions=None, velocities=None), expected)
    plain = documented(positions=(), velocities=None)
    assert plain.features.positions == () and plain.features.velocities == ()
    turned = as_dataset(
        STATES, feature_names=list("abcd"), positions="a", velocities=["c"]
    )
    assert turned.features.positions == (0,) and turned.features.velocities == (2,)
    # A lone x may be anything.
    lone = as_dataset(STATES[..., :2], feature_names=("x", "mass"))
    assert lone.features.positions == ()
    cloud = as_dataset(
        STATES[..., [0, 1, 2]], feature_names=("Pos_Z", "pos_x", "POS y")
    )
    assert cloud.features.positions == (1, 2, 0)


def test_a_velocity_of_one_position_alone_is_told():
    """Velocities are derived then, and a column that says one of them stays."""
    found = as_dataset(STATES[..., :3], feature_names=("x", "y", "vx"))
    assert found.features.velocities == (3, 4)
    (note,) = [note for note in found.notes if "'vx'" in note]
    assert "not all positions have one: it is taken for a plain number" in note
    for names in (("x", "y", "mass"), ("x", "vx", "mass")):
        notes = as_dataset(STATES[..., :3], feature_names=names).notes
        assert not [note for note in notes if "not all positions" in note]


def test_node_mask():
    mask = np.arange(NODES) < np.array([4, 3, 2])[:, None]
    found = documented(node_mask=Tensor(mask), labels=LABELS)
    expected = as_dataset(
        [states[:, :size] for states, size in zip(STATES, (4, 3, 2), strict=True)],
        labels=[m[:size, :size] for m, size in zip(LABELS, (4, 3, 2), strict=True)],
        feature_names=NAMES,
        frame_interval=INTERVAL,
    )
    assert_same(found, expected)
    all_alike = documented(node_mask=np.arange(NODES) < 3)
    assert all_alike.num_nodes.tolist() == [3, 3, 3]


def write_split(folder, name, states, labels, *, axes=2, with_velocities=True):
    parts = {"loc": states[..., :axes], "edges": labels}
    if with_velocities:
        parts["vel"] = states[..., axes : 2 * axes]
    for part, array in parts.items():
        if part != "edges":
            array = array.swapaxes(2, 3)
        np.save(folder / f"{part}_{name}_springs4.npy", array)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("with_velocities", [True, False])
def test_folder_with_three_splits(tmp_path, axes, with_velocities):
    states = walks(2, (6, FRAMES, NODES, 2 * axes))
    labels = np.random.default_rng(3).integers(0, 2, (6, NODES, NODES))
    width = 2 * axes if with_velocities else axes
    # Strengths, of which no split but the first has all.
    strengths = 0.5 * labels
    rows = {"train": slice(0, 3), "valid": slice(3, 5), "test": slice(5, 6)}
    for name, part in rows.items():
        write_split(
            tmp_path,
            name,
            states[part],
            strengths[part],
            axes=axes,
            with_velocities=with_velocities,
        )
    names = ["x", "y", "z"][:axes]
    expected = as_dataset(
        states[..., :width],
        labels=labels,
        feature_names=[*names, *(f"v{n}" for n in names)][:width],
        positions=range(axes),
        velocities=range(axes, width),
        frame_interval=0.1,
    )
    found = as_dataset(tmp_path)
    assert_same(found, expected)
    assert found.notes[0] == (
        "The splits of the folder are joined: systems 0 to 2 are train, 3 to 4 are "
        "valid, 5 to 5 are test."
    )
    one = data.load(tmp_path / "loc_valid_springs4.npy")
    np.testing.assert_array_equal(one.states, found.states[3:5])


def test_splits_of_different_length(tmp_path):
    write_split(tmp_path, "train", STATES, 2 * LABELS - 1)
    write_split(tmp_path, "test", STATES[:, :8], 2 * LABELS - 1)
    found = data.load(tmp_path)
    expected = as_dataset(
        [*STATES, *STATES[:, :8]],
        labels=np.concatenate([LABELS, LABELS]),
        feature_names=NAMES,
        frame_interval=0.1,
    )
    assert_same(found, expected)


def test_swapped_axes_get_a_hint():
    smooth = walks(0, (4, 40, 5, 2))
    as_expected = as_dataset(smooth)
    assert not [note for note in as_expected.notes if "swapaxes" in note]
    swapped = as_dataset(smooth.swapaxes(1, 2))
    assert "states.swapaxes(1, 2) is what is expected" in swapped.notes[0]
    # A lone entity has no neighbour to be compared with.
    as_dataset(smooth[:, :, :1])
    # Neither noise nor entities that move as one are suspicious.
    noise = np.random.default_rng(0).normal(size=(4, 30, 9, 2))
    assert not as_dataset(noise, lags=1).notes
    together = noise[:, :, :1] + 0.1 * noise
    assert not as_dataset(together, lags=1).notes


def test_entities_that_are_the_same_get_a_hint():
    states = data.simulate_springs(0, 3, num_nodes=3, num_frames=12).states
    twins = np.concatenate([states, states[:, :, 1:2]], axis=2)
    twins[0, 5, 3] += 1e-3
    (note,) = as_dataset(twins, lags=1).notes
    assert note.startswith("Entities 1 and 3 are the same in 2 of 3 systems")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s[:, ::-1], "as if time ran backwards"),
        (lambda s: s[..., [0, 1, 3, 2]], "Velocities explain .* look at the order"),
        (lambda s: s[..., [2, 3, 0, 1]], "Velocities explain .* look at the order"),
    ],
)
def test_velocities_that_contradict_positions_get_a_hint(change, message):
    dataset = data.simulate_springs(0, 3, num_nodes=4, num_frames=30)
    roles = {"positions": (0, 1), "velocities": (2, 3), "frame_interval": 0.1}
    assert not as_dataset(dataset.states, **roles).notes
    (note,) = as_dataset(change(dataset.states), **roles).notes
    assert re.search(message, note), note


def test_an_interval_in_another_unit_gets_a_hint():
    springs = data.simulate_springs(0, 4, num_nodes=3, num_frames=20)
    options = {"feature_names": NAMES}
    assert not [
        note
        for note in as_dataset(springs.states, frame_interval=0.1, **options).notes
        if "interval" in note
    ]
    notes = as_dataset(springs.states, frame_interval=1.0, **options).notes
    assert "frame_interval is 1: velocities are taken to be in a unit" in notes[-1]
    assert "move by 0.1 times" in notes[-1]


def test_motion_that_turns_within_a_few_frames_gets_no_hint():
    """Four frames and less per period: the mean of two velocities is off by a third."""
    phase = 1.6 * np.arange(40)[None, :, None] + np.arange(6).reshape(2, 1, 3)
    states = np.stack([np.sin(phase), 16.0 * np.cos(phase)], axis=-1)
    options = {"feature_names": ("x", "vx"), "frame_interval": 0.1}
    assert not [n for n in as_dataset(states, **options).notes if "interval" in n]


def test_a_course_that_all_systems_share_gets_a_hint():
    rng = np.random.default_rng(0)
    series = rng.normal(size=(8, 40, 3, 1))
    assert not as_dataset(series, lags=1).notes
    season = 3.0 * np.sin(np.arange(40) / 2.0)[:, None, None] * rng.normal(size=(3, 1))
    (note,) = as_dataset(series + season, lags=1).notes
    assert "are the same in all systems frame by frame" in note
    # Each at a time of its own.
    shifted = np.stack([np.roll(season, 5 * i, axis=0) for i in range(8)])
    assert not as_dataset(series + shifted, lags=1).notes
    # What an entity is never changes, in any system.
    mass = np.broadcast_to(rng.uniform(1.0, 2.0, (8, 1, 3, 1)), series.shape)
    for values, is_shared in ((series, False), (series + season, True)):
        states = np.concatenate([values, mass], axis=-1)
        assert (shared_course(as_dataset(states, lags=1)) > SHARED) == is_shared


def test_systems_at_rest_get_a_hint():
    states = np.array(data.simulate_springs(0, 3, num_nodes=3, num_frames=12).states)
    assert not as_dataset(states, lags=1).notes
    states[1:] = states[1:, :1]
    (note,) = as_dataset(states, lags=1).notes
    assert note.startswith("2 of 3 systems never change, first system 1")


def test_frames_that_a_recorder_held_get_a_hint():
    states = data.simulate_springs(0, 3, num_nodes=3, num_frames=12).states
    held = np.repeat(states, 2, axis=1)[:, :-1]
    (note,) = as_dataset(held, lags=1).notes
    assert note.startswith("48% of the frames repeat the frame before to the bit")
    assert "first frame 3 of system 0" in note
    # Bodies that rest before and after they move are nothing strange.
    resting = np.concatenate([states[:, :1]] * 5 + [states] + [states[:, -1:]] * 5, 1)
    assert not as_dataset(resting, lags=1).notes


def test_numbers_that_stand_for_missing_places_get_a_hint():
    states = data.simulate_springs(0, 3, num_nodes=3, num_frames=12).states.copy()
    states[1, 7, 2, :2] = -999.0
    roles = {"positions": (0, 1), "frame_interval": 0.1}
    notes = as_dataset(states[..., :2], **roles).notes
    (note,) = [note for note in notes if "jump" in note]
    assert note.startswith("Positions jump 2 times")
    assert "to frame 7 of entity 2 in system 1" in note
    # Bodies that fly apart faster and faster are fast, and do not jump.
    states[1, 7, 2] = states[1, 6, 2]
    flight = states[..., :2] * np.exp(1.5 * np.arange(12))[:, None, None]
    assert not [note for note in as_dataset(flight, **roles).notes if "jump" in note]


def test_units_in_brackets_are_no_part_of_a_name():
    rows = table(STATES).rename(
        columns={"x": "X [mm]", "y": "Y [mm]", "vx": "Vx (mm/s)", "vy": "Vy (mm/s)"}
    )
    found = as_dataset(rows)
    assert found.features.positions == (0, 1) and found.features.velocities == (2, 3)
    assert not [note for note in found.notes if "different units" in note]
    mixed = as_dataset(rows.rename(columns={"Y [mm]": "Y (cm)"}))
    (note,) = [note for note in mixed.notes if "different units" in note]
    assert note.startswith("The names of positions have different units, 'mm', 'cm'")


def test_a_list_with_a_table_per_system(tmp_path):
    """Not one array whose nodes are rows: the same as one table with systems."""
    expected = as_dataset(table(STATES))
    tables = [
        rows.drop(columns="system") for _, rows in table(STATES).groupby("system")
    ]
    assert_same(as_dataset(tables), expected, but=("notes", "key_columns"))
    fields = [as_fields(rows) for rows in tables]
    assert_same(as_dataset(fields), expected, but=("notes", "key_columns"))
    paths = []
    for index, rows in enumerate(tables):
        paths.append(tmp_path / f"{index}.csv")
        rows.to_csv(paths[-1], index=False)
    assert_same(as_dataset(paths), expected, but=("notes", "key_columns"))
    names = {"columns": {"time": "time", "entity": "entity"}}
    assert_same(as_dataset(tables, **names), expected, but=("notes", "key_columns"))
    with pytest.raises(DataError, match=r"\[1\]: found the columns .* expected those"):
        as_dataset([tables[0], tables[1].drop(columns="vx")])
    with pytest.raises(DataError, match="found 'system' for the system in a list"):
        as_dataset([table(STATES), table(STATES)])
    with pytest.raises(DataError, match=r"\[1\]: found a ndarray in a list of tables"):
        as_dataset([tables[0], STATES[0]])
    with pytest.raises(DataError, match=r"\[1\]: found a DataFrame in a list"):
        as_dataset([STATES[0], tables[0]])


def test_dates_are_the_instants_that_they_name():
    """Against the calendar of the standard library; zones may change in between."""
    zones = ["+01:00", "+02:00", "Z", "-05:30"]
    texts = [f"2024-02-{28 + i}T23:59:5{i}.25{zone}" for i, zone in enumerate(zones)]
    texts[2:] = ["2024-03-01 06:00:00Z", "2024-03-01T06:00:00.5-05:30"]
    instants = [datetime.datetime.fromisoformat(text) for text in texts]
    seconds = [(when - instants[0]).total_seconds() for when in instants]
    found = clocks.read_times("time", np.array(texts))
    np.testing.assert_allclose(found.values, seconds, atol=1e-6)


@pytest.mark.parametrize(
    "texts, message",
    [
        (["03/01/2024 12:00", "03/01/2024 12:01"], "expected numbers, times of the"),
        (["31.02.2024", "01.03.2024"], "expected numbers, times of the day"),
        (["12:00:00", "12:60:00"], "expected numbers, times of the day"),
        (["12:00:00", "2024-03-01"], "expected numbers, times of the day"),
        (["12:00:00", ""], "'' in row 1, expected a time in every row"),
        (["2024-03-01", "NaT"], "'NaT' in row 1, expected a time in every row"),
    ],
)
def test_times_that_may_be_meant_otherwise_are_refused(texts, message):
    with pytest.raises(DataError, match=f"^column 'time': found .*{message}"):
        clocks.read_times("time", np.array(texts))


@pytest.mark.parametrize("hour", [0, 21])
def test_times_of_the_day_begin_anew_in_every_recording(hour):
    """One in the morning and one at night are two; one over midnight is refused."""
    clock = [f"{h:02}:59:5{s}" for h in (9, hour) for s in range(4)]
    columns = {"time": clock, "system": [0] * 4 + [1] * 4, "x": np.arange(8.0)}
    found = as_dataset({**columns, "entity": [0] * 8})
    assert found.frame_interval == 1.0 and found.times is None
    over = ["23:59:58", "23:59:59", "00:00:00", "00:00:01"] * 2
    with pytest.raises(DataError, match="'time': found times of the day that are more"):
        as_dataset({**columns, "time": over, "entity": [0] * 8})


def test_an_entity_per_column_is_told_what_to_do():
    wide = {"time": np.arange(5), "x_1": np.ones(5), "y_1": np.ones(5)}
    with pytest.raises(DataError, match="'x_1' and 'x_2' seem to be columns of one"):
        as_dataset({**wide, "x_2": np.ones(5), "y_2": np.ones(5)})
    with pytest.raises(DataError, match="--columns=entity=NAME$"):
        as_dataset(wide)
