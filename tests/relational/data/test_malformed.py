"""Inputs that are not what they should be, each answered by one sentence.

Every message names what was found and what was expected, where it is, and comes before
anything is compiled. Commands with such inputs: `tests.experiments.test_malformed`.
"""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from modmeta.relational import discovery, infer_relations
from modmeta.relational.data import DataError

TASKS, FRAMES, NODES, FEATURES = 4, 8, 3, 4
STATES = np.random.default_rng(0).normal(size=(TASKS, FRAMES, NODES, FEATURES))
STATES = STATES.cumsum(axis=1)
NAMES = ("x", "y", "vx", "vy")
LABELS = np.random.default_rng(1).integers(0, 2, (TASKS, NODES, NODES))
DIMS = ("system", "time", "entity", "feature")


def changed(index, value, states=STATES, kind=None):
    states = states.astype(kind or states.dtype)
    states[index] = value
    return states


def frame(**columns):
    index = np.indices(STATES.shape[:3]).reshape(3, -1)
    table = dict(zip(("system", "time", "entity"), index, strict=True))
    table |= {name: STATES[..., i].ravel() for i, name in enumerate(NAMES)}
    return pd.DataFrame(table).assign(**columns)


def cell(column, row, value):
    table = frame()
    table[column] = table[column].astype(object)
    table.loc[row, column] = value
    return table


class Broken:
    """An array that cannot be read."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("no such dtype: bfloat16")


def array(states=STATES, dims=DIMS, **coords):
    return xr.DataArray(states, coords, dims)


ARRAYS = {
    "scalar": (np.float64(1.0), {}, "trajectories: found float64, expected an array"),
    "nothing": (None, {}, "trajectories: found NoneType, expected"),
    "vector": (STATES[0, 0, 0], {}, r"states: found 1 axes with shape \(4,\)"),
    "matrix": (STATES[0, 0], {}, "states: found 2 axes .* one feature is an axis too"),
    "five axes": (STATES[None], {}, "states: found 5 axes"),
    "no task": (STATES[:0], {}, r"states: found no task \(axis 0"),
    "no node": (STATES[:, :, :0], {}, "states: found shape .* at least one node"),
    "no feature": (STATES[..., :0], {}, "feature|states: found shape"),
    "two frames": (STATES[:, :2], {}, "states: found 2 frames"),
    "one frame": (STATES[0, :1], {}, "states: found 1 frames"),
    "infinity": (changed((2, 3, 1, 0), np.inf), {}, r"found inf at index \[2, 3, 1, 0"),
    "minus infinity": (
        changed((0, 0, 0, 3), -np.inf),
        {},
        r"found -inf at index \[0, 0",
    ),
    "too large": (
        changed((1, 2, 0, 1), 1e300),
        {},
        r"float32: found inf at .*1, 2, 0, 1",
    ),
    "never seen": (
        changed((1, slice(None), 2), np.nan),
        {},
        "node 2 of task 1 observed",
    ),
    "seen twice": (changed((1, slice(2, None), 2), np.nan), {}, "node 2 of task 1 obs"),
    "nothing seen": (
        np.full_like(STATES, np.nan),
        {},
        "node 0 of task 0 observed at 0",
    ),
    "constant": (
        np.ones_like(STATES),
        {},
        "found the one value 1.0 in all of feature 0",
    ),
    "texts": (STATES.astype(str), {}, "states: found dtype <U"),
    "complex": (STATES.astype(complex), {}, "states: found dtype complex128"),
    "objects": (STATES.astype(str).astype(object), {}, "states: found dtype object"),
    "dates": (STATES.astype("datetime64[s]"), {}, "states: found dtype datetime64"),
    "ragged lists": (
        [[[[1.0, 2.0], [1.0]]]],
        {},
        "trajectories: found nested lists of",
    ),
    "empty list": ([], {}, "trajectories: found no system"),
    "list of vectors": ([STATES[0, 0, 0]] * 3, {}, "states: found 2 axes"),
    "list, two axes": ([STATES[0], STATES[1, 0]], {}, r"states\[1\]: found 2 axes"),
    "list, features": (
        [STATES[0], STATES[1, ..., :2]],
        {},
        r"states\[1\]: found 2 feat",
    ),
    "list, empty": ([STATES[0], STATES[1, :0]], {}, r"states\[1\]: found shape \(0, "),
    "list, two frames": (
        [STATES[0], STATES[1, :2]],
        {},
        "node 0 of task 1 observed at 2",
    ),
    "list of texts": (["a", "b"], {}, "states: found 1 axes|dtype"),
    "unreadable": (Broken(), {}, "trajectories: found a Broken that NumPy cannot read"),
    "unreadable in a list": (
        [STATES[0], Broken()],
        {},
        r"trajectories\[1\]: found a Br",
    ),
    "a function": (len, {}, "trajectories: found builtin_function_or_method, exp"),
    "a set": ({1.0, 2.0}, {}, "trajectories: found set, expected an array"),
    "a number of systems": (3, {}, "trajectories: found int, expected an array"),
}
OPTIONS = {
    "names, too few": ({"feature_names": NAMES[:3]}, "feature_names: found 3 names"),
    "names, repeated": ({"feature_names": ["x"] * 4}, "feature names: .* repeat"),
    "positions, no column": (
        {"positions": (4,)},
        "feature columns: found 4, expected 0",
    ),
    "positions, negative": (
        {"positions": (-1,)},
        "feature columns: found -1, expected 0",
    ),
    "positions, no name": ({"positions": ("x",)}, "positions: found the name 'x'"),
    "positions, twice": (
        {"positions": (0, 0)},
        "overlap, expected one role per column",
    ),
    "positions, fraction": (
        {"positions": (0.5,)},
        "positions: found 0.5, expected numb",
    ),
    "positions, mask": (
        {"positions": (True, False)},
        "positions: found True, expected",
    ),
    "positions, nothing": (
        {"positions": (None,)},
        "positions: found None, expected numb",
    ),
    "positions, nested": (
        {"positions": ((0, 1),)},
        r"positions: found \(0, 1\), expec",
    ),
    "velocities alone differ": (
        {"positions": (0, 1), "velocities": (2,)},
        "found 2 positions and 1 velocities",
    ),
    "two roles": (
        {"positions": (0,), "velocities": (0,)},
        "overlap, expected one role",
    ),
    "sines alone": ({"sines": (0,)}, "found 1 sines and 0 cosines"),
    "no sines": ({"sines": (0,), "cosines": (1,)}, r"found sine\^2 \+ cosine\^2 off 1"),
    "angles, no column": ({"angles": (9,)}, "angles: found column 9"),
    "angles, role": ({"positions": (0,), "angles": (0,)}, "angles: found column 0"),
    "angle unit": (
        {"angles": (0,), "angle_unit": "turns"},
        "angle_unit: found 'turns'",
    ),
    "interval, zero": ({"frame_interval": 0.0}, "frame_interval: found 0.0"),
    "interval, negative": ({"frame_interval": -0.1}, "frame_interval: found -0.1"),
    "interval, infinite": ({"frame_interval": np.inf}, "frame_interval: found inf"),
    "interval, NaN": ({"frame_interval": np.nan}, "frame_interval: found nan"),
    "interval, huge": ({"frame_interval": 1e300}, r"found 1e\+300, expected 1e-30 to"),
    "interval, tiny": ({"frame_interval": 1e-320}, "found 1e-320, expected 1e-30 to"),
    "interval, text": ({"frame_interval": "0.1"}, "frame_interval: found '0.1'"),
    "lags": ({"lags": 7}, "lags: found 7 with 8 frames"),
    "lags, roles": ({"lags": 2, "positions": (0, 1)}, "lags: found 2 with"),
    "lags, negative": ({"lags": -1}, "lags: found -1"),
    "times, shape": ({"times": np.arange(7)}, r"times: found shape \(7,\), expected"),
    "times, backwards": (
        {"times": np.arange(8)[::-1]},
        "times: found 6.0 after 7.0 at",
    ),
    "times, equal": ({"times": np.zeros(8)}, "times: found 0.0 after 0.0 at index"),
    "times, NaN": (
        {"times": np.full(8, np.nan)},
        r"times: found nan at index \[0, 0\]",
    ),
    "times, texts": ({"times": list("abcdefgh")}, "times: found dtype <U1"),
    "times, ragged": ({"times": [[0.0], [0.0, 1.0]]}, "times: found vectors of diff"),
    "node mask, shape": (
        {"node_mask": np.ones((4, 2), bool)},
        "node_mask: found shape",
    ),
    "node mask, numbers": ({"node_mask": np.ones((4, 3))}, "node_mask: found dtype fl"),
    "node mask, order": (
        {"node_mask": np.array([False, True, True])},
        r"node_mask: found a real node after a padded one at index \[0, 1\]",
    ),
    "node mask, none": (
        {"node_mask": np.zeros(3, bool)},
        "found no real node in task 0",
    ),
    "frame mask, shape": (
        {"frame_mask": np.ones((4, 8), bool)},
        "frame_mask: found sh",
    ),
    "frame mask, numbers": (
        {"frame_mask": np.ones((4, 8, 3))},
        "frame_mask: found dty",
    ),
    "frame mask, empty": (
        {"frame_mask": np.zeros((4, 8, 3), bool)},
        "frame_mask: found node 0 of task 0 observed at 0",
    ),
    "breaks, shape": ({"breaks": np.zeros(7, bool)}, r"breaks: found shape \(7,\)"),
    "breaks, numbers": ({"breaks": np.zeros(8)}, "breaks: found dtype float64"),
    "columns": ({"columns": {"time": "t"}}, "columns: found .* with arrays, expected"),
    "labels, shape": ({"labels": np.zeros((4, 3))}, r"edges: found shape \(4, 3\)"),
    "labels, tasks": ({"labels": LABELS[:3]}, r"edges: found shape \(3, 3, 3\)"),
    "labels, axes": ({"labels": LABELS[None]}, r"edges: found shape \(1, 4, 3, 3\)"),
    "labels, fraction": (
        {"labels": changed((2, 0, 1), 0.5, LABELS, float)},
        r"edges: found label 0.5 at index \[2, 0, 1\]",
    ),
    "labels, negative": (
        {"labels": changed((1, 2, 0), -2, LABELS)},
        r"edges: found label -2 at index \[1, 2, 0\]",
    ),
    "labels, NaN": (
        {"labels": changed((1, 2, 0), np.nan, LABELS, float)},
        r"edges: found label nan at index \[1, 2, 0\]",
    ),
    "labels, infinite": (
        {"labels": changed((1, 2, 0), np.inf, LABELS, float)},
        r"edges: found label inf at index \[1, 2, 0\]",
    ),
    "labels, complex": ({"labels": LABELS.astype(complex)}, "edges: found dtype compl"),
    "labels, mixed": (
        {"labels": changed((0, 1, 0), None, LABELS.astype(str).astype(object))},
        r"edges: found None at index \[0, 1, 0\], expected a text",
    ),
    "labels, many texts": (
        {"labels": np.arange(100).astype(str).reshape(1, 10, 10), "num_relations": 2},
        r"edges: found shape \(1, 10, 10\)",
    ),
    "labels, ragged": (
        {"labels": [LABELS[0], LABELS[1, :2]] * 2},
        r"edges\[1\]: found",
    ),
    "labels, list": (
        {"labels": [LABELS[0], LABELS[1, :2, :2]]},
        "edges: found 2 matri",
    ),
    "labels, unreadable": ({"labels": Broken()}, "edges: found a Broken that NumPy"),
    "labels, text": ({"labels": "springs"}, r"edges: found shape \(\)"),
    "relations": ({"num_relations": 1}, "num_relations: found 1"),
    "relations, text": ({"num_relations": "two"}, "num_relations: found 'two'"),
    "relations, fraction": ({"num_relations": 2.5}, "num_relations: found 2.5"),
    "relations, many": ({"num_relations": 10**9}, "found 1000000000, expected .* 64"),
    "restarts, many": ({"num_restarts": 10**6}, "found 1000000, expected .* 1000: ea"),
    "restarts": ({"num_restarts": 0}, "num_restarts: found 0"),
    "seed, negative": ({"seed": -1}, "seed: found -1, expected 0 to"),
    "seed, huge": ({"seed": 2**40}, "seed: found 1099511627776, expected 0 to"),
    "progress": ({"progress": "bar"}, "progress: found 'bar'"),
    "progress, number": ({"progress": 5}, "progress: found 5, expected 'auto'"),
    "mesh": ({"mesh": 2}, "mesh: found 2, expected a mesh"),
    "changing, text": ({"changing": "no"}, "changing: found 'no', expected True or F"),
    "shared graph, number": ({"shared_graph": 1}, "shared_graph: found 1, expected Tr"),
    "velocities, text": ({"derive_velocities": "no"}, "derive_velocities: found 'no'"),
    "lags, fraction": ({"lags": 1.5}, "lags: found 1.5, expected a whole number"),
    "domain, text": ({"domain": "periodic"}, "domain: found 'periodic', expected Dom"),
    "names, number": ({"feature_names": 5}, "feature_names: found 5, expected names"),
    "interval, list": ({"frame_interval": [0.1]}, r"frame_interval: found \[0.1\]"),
    "interval, truth": ({"frame_interval": True}, "frame_interval: found True"),
    **{
        f"{name}, dictionary": (
            {name: {"num_steps": 2}},
            f"{name}: found .*, expected [A-Za-z]*Config or None",
        )
        for name in (
            "modules",
            "proposal",
            "energy",
            "moves",
            "candidates",
            "memory",
            "bouncegrad",
            "training",
            "inference",
        )
    },
    "shared graph": (
        {"shared_graph": True, "labels": LABELS},
        "edges: found label .* as in task 0: tasks share one graph",
    ),
}
TABLES = {
    "no time": (lambda: frame().drop(columns="time"), {}, "none that names the time"),
    "no entity": (
        lambda: frame().drop(columns="entity"),
        {},
        "none that names the enti",
    ),
    "wide": (
        lambda: pd.DataFrame(
            {"time": [0, 1, 2], "x_0": [0.0, 1, 2], "x_1": [0.0, 1, 3]}
        ),
        {},
        "none that names the entity, .* one row per system, time and entity",
    ),
    "no feature": (lambda: frame()[["system", "time", "entity"]], {}, "none with feat"),
    "no row": (lambda: frame().iloc[:0], {}, "rows: found none"),
    "no column": (lambda: pd.DataFrame(), {}, "columns: found none"),
    "repeated rows": (
        lambda: pd.concat(
            [frame(), frame().iloc[4:6].assign(**{frame().columns[-1]: [7.0, 8.0]})],
            ignore_index=True,
        ),
        {},
        "rows: found rows 4 and 96 both of entity '1' at time 1 of system '0', with",
    ),
    "several systems as one": (
        lambda: frame().rename(columns={"system": "mass"}),
        {},
        "both of entity .* name their column with columns=",
    ),
    "two times": (
        lambda: frame(t_id=0).rename(columns={"t_id": "Time"}),
        {},
        r"found \['time', 'Time'\] for the time",
    ),
    "two entities": (
        lambda: frame(Entity=0),
        {},
        r"found \['entity', 'Entity'\] for the",
    ),
    "columns, no name": (frame, {"columns": {"time": "t"}}, "found 't' for the time"),
    "columns, no key": (frame, {"columns": {"node": "x"}}, "found the key 'node'"),
    "columns, text": (
        frame,
        {"columns": "time"},
        "columns: found 'time', expected a m",
    ),
    "one feature, no name": (frame, {"feature_names": "vz"}, "names: found 'vz'"),
    "columns, twice": (
        frame,
        {"columns": {"time": "x", "entity": "x"}},
        "expected a name for one key alone",
    ),
    "features, no name": (frame, {"feature_names": ["z"]}, "feature_names: found 'z'"),
    "features, key": (
        frame,
        {"feature_names": ["time"]},
        "feature_names: found 'time'",
    ),
    "features, text": (
        lambda: frame(colour="red"),
        {"feature_names": ["x", "colour"]},
        "column 'colour': found 'red' in row 0, expected a number",
    ),
    "a text among numbers": (
        lambda: cell("x", 7, "1,5"),
        {},
        "column 'x': found '1,5' in row 7, expected a number",
    ),
    "no time in a row": (
        lambda: cell("time", 7, None),
        {},
        "column 'time': found None in row 7, expected a time",
    ),
    "infinite time": (
        lambda: frame(time=frame().time.astype(float).replace(3.0, np.inf)),
        {},
        "column 'time': found inf in row 9, expected a time",
    ),
    "times as words": (
        lambda: frame(time="noon"),
        {},
        "column 'time': found 'noon' in",
    ),
    "no date in a row": (
        lambda: frame(time=pd.to_datetime(["2020-01-01", None] * 48)),
        {},
        "column 'time': found NaT in row 1",
    ),
    "no entity in a row": (
        lambda: cell("entity", 4, None),
        {},
        "column 'entity': found no value in row 4",
    ),
    "no system in a row": (
        lambda: cell("system", 4, np.nan),
        {},
        "column 'system': found no value in row 4",
    ),
    "units in cells": (
        lambda: frame(x=lambda f: f.x.map("{:.3f} mm".format)),
        {},
        "column 'x': found '.* mm' in row 0, expected a number",
    ),
    "infinity": (
        lambda: cell("x", 4, np.inf),
        {},
        r"states: found inf at index \[0, 1, 1",
    ),
    "seen twice": (
        lambda: frame()[lambda f: (f.entity != 2) | (f.time < 2) | (f.system != 1)],
        {},
        "node 2 of task 1 observed at 2 frames",
    ),
    "two frames": (lambda: frame()[lambda f: f.time < 2], {}, "found 2 frames"),
    "interval, zero": (frame, {"frame_interval": 0}, "frame_interval: found 0.0, exp"),
    "interval, NaN": (frame, {"frame_interval": np.nan}, "frame_interval: found nan"),
    "interval, text": (frame, {"frame_interval": "1"}, "frame_interval: found '1'"),
    "interval": (
        lambda: frame(time=lambda f: 0.1 * f.time),
        {"frame_interval": 0.2},
        "frame_interval: found 0.2 beside times 'time' that are 0.1 apart",
    ),
    "positions": (frame, {"positions": ("east",)}, "positions: found the name 'east'"),
    "labels": (frame, {"labels": LABELS[:2]}, r"edges: found shape \(2, 3, 3\)"),
    "labels of systems of two sizes": (
        lambda: frame()[lambda f: (f.entity < 2) | (f.system != 1)],
        {"labels": LABELS},
        r"edges: found one array of shape \(4, 3, 3\) with systems of 2 to 3",
    ),
    "frame mask": (
        lambda: frame()[lambda f: (f.entity < 2) | (f.system != 1)],
        {"frame_mask": np.ones((4, 8, 3), bool)},
        "frame_mask: found one with arrays of different shapes",
    ),
    "names of two levels": (
        lambda: frame().set_axis(
            pd.MultiIndex.from_product([["a"], frame().columns]), axis=1
        ),
        {},
        "columns: found names of 2 levels",
    ),
    "repeated columns": (
        lambda: frame().rename(columns={"y": "x"}),
        {},
        r"columns: found \['x'\] more than once",
    ),
    "columns of different length": (
        lambda: {"time": [0, 1, 2], "entity": [0, 0, 0], "x": [1.0, 2.0]},
        {},
        "column 'x': found 2 rows, expected 3 as in column 'time'",
    ),
    "a column of matrices": (
        lambda: {"time": np.zeros((2, 2)), "entity": [0, 0], "x": [1.0, 2.0]},
        {},
        r"column 'time': found shape \(2, 2\), expected a vector",
    ),
    "mapping without states": (
        lambda: {"trajectories": STATES},
        {},
        "column 'trajectories': found shape",
    ),
    "states that are none": (lambda: {"states": "a"}, {}, "states: found 0 axes"),
    "axes without time": (
        lambda: array(dims=("system", "a", "entity", "feature")),
        {},
        "axes: found .* and none that names the time",
    ),
    "axes without entity": (
        lambda: array(dims=("system", "time", "a", "feature")),
        {},
        "axes: found .* and none that names the entity",
    ),
    "one axis too many": (
        lambda: array(STATES[..., None], (*DIMS, "sample")),
        {},
        r"axes: found \['sample'\] beside",
    ),
    "axes, no key": (array, {"columns": {"space": "time"}}, "found the key 'space'"),
    "axes, no feature": (
        array,
        {"feature_names": ["z"]},
        r"feature_names: found 1 names \('z',\)",
    ),
    "axes, times backwards": (
        lambda: array(time=np.arange(8)[::-1]),
        {},
        "times: found 6.0 after 7.0",
    ),
    "axes, texts": (lambda: array(STATES.astype(str)), {}, "states: found dtype <U"),
    "variables without entities": (
        lambda: xr.Dataset({"x": (("system", "time"), STATES[..., 0, 0])}),
        {},
        "variables: found .* none with axes of time and entities",
    ),
    "an entity without values": (
        lambda: array(changed((slice(None), slice(None), 1), np.nan)),
        {"labels": LABELS},
        r"edges: found shape|edges\[0\]: found shape",
    ),
    "a system without values": (
        lambda: array(changed(1, np.nan)),
        {},
        r"states\[1\]: found shape \(8, 0, 4\)",
    ),
}


def saved(**arrays):
    def write(folder):
        np.savez(folder / "set.npz", **{"states": STATES, **arrays})
        return folder / "set.npz"

    return write


def text(content, name="table.csv"):
    def write(folder):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def triple(name="loc", change=lambda a: a, remove=()):
    def write(folder):
        arrays = {
            "loc": STATES[..., :2].swapaxes(2, 3),
            "vel": STATES[..., 2:].swapaxes(2, 3),
            "edges": LABELS,
        }
        arrays[name] = change(arrays[name])
        for part in arrays.keys() - set(remove):
            np.save(folder / f"{part}_train_a.npy", arrays[part])
        return folder

    return write


def two_splits(name, change):
    def write(folder):
        triple()(folder)
        arrays = {
            p: np.load(folder / f"{p}_train_a.npy") for p in ("loc", "vel", "edges")
        }
        arrays[name] = change(arrays[name])
        for part, values in arrays.items():
            if values is not None:
                np.save(folder / f"{part}_test_a.npy", values)
        return folder

    return write


LINE = "system,time,entity,x\n"
FILES = {
    "nothing there": (
        lambda folder: folder / "absent.csv",
        "absent.csv: found no such",
    ),
    "no path": (lambda folder: "", "trajectories: found an empty path, expected"),
    "nothing there, as text": (lambda folder: str(folder / "a.npz"), "no such file"),
    "an ending": (
        text("1,2", "table.doc"),
        "unknown form, expected a .npz, a .npy, a table",
    ),
    "a folder without data": (
        lambda folder: folder,
        r"found a folder without loc_",
    ),
    "empty": (text(""), "found an empty file"),
    "names alone": (text(LINE), "rows: found none"),
    "no names": (text("0,0,0,1.5\n0,1,0,1.5\n"), "found numbers .* in the first line"),
    "a short line": (
        text(LINE + "0,0,0,1\n0,1,0\n"),
        "found 3 values in line 3, expec",
    ),
    "a long line": (text(LINE + "0,0,0,1,7\n"), "found 5 values in line 2, expected 4"),
    "a word": (
        text(LINE + "0,0,0,1\n0,1,0,two\n"),
        "column 'x': found 'two' in row 1, expected a number",
    ),
    "names twice": (
        text("time,entity,x,x\n0,0,1,2\n"),
        r"columns \['x'\] more than once",
    ),
    "no table": (
        text(b"\xff\xfe\x00\x81" * 20),
        "found a file that is no table of text",
    ),
    "no compressed table": (
        text("1,2", "table.csv.gz"),
        "found a file that is no table",
    ),
    "half a quote": (text(LINE + '0,0,0,"1\n'), "found a file that is no table"),
    "two frames": (text(LINE + "0,0,0,1\n0,1,0,2\n"), "found 2 frames"),
    "no Parquet": (text("PAR1", "table.parquet"), "no readable Parquet"),
    "no archive": (text("1,2", "set.npz"), "found a file that is no .npz archive"),
    "no .npy": (text("1,2", "loc_train_a.npy"), "loc_train_a.npy: found a file that h"),
    "npz, no states": (
        lambda folder: np.savez(folder / "a.npz", x=STATES) or folder / "a.npz",
        r"found the arrays \['x'\], expected 'states'",
    ),
    "npz, two axes": (saved(states=STATES[0, 0]), "states: found 2 axes"),
    "npz, labels": (saved(edges=LABELS[:2]), r"edges: found shape \(2, 3, 3\)"),
    "npz, names": (saved(feature_names=["x"]), "feature_names: found 1 names"),
    "npz, names as numbers": (
        saved(feature_names=[1, 2, 3, 4]),
        "feature_names: found d",
    ),
    "npz, positions": (saved(positions=[0.5]), "positions: found dtype float64"),
    "npz, positions by name": (saved(positions=["x"]), "positions: found the name 'x'"),
    "npz, interval": (saved(frame_interval=[1.0, 2.0]), "frame_interval: found dtype"),
    "npz, relations": (saved(num_relations=1.5), "num_relations: found 1.5"),
    "npz, too few relations": (
        saved(edges=LABELS + 1, num_relations=2),
        "edges: found label 2 at",
    ),
    "npz, names of systems": (
        saved(system_names=["a"]),
        "system_names: found 1, expec",
    ),
    "npz, names of nodes": (
        saved(node_names=[["a"] * 3] * 4),
        "expected distinct names",
    ),
    "npz, lists of names": (saved(node_names=[["a"] * 3]), "node_names: found 1 lists"),
    "npz, objects": (saved(edges=np.array([{}])), "'edges' that holds Python objects"),
    "loc, axes": (triple(change=lambda a: a[0]), "loc_train_a.npy: found shape"),
    "loc, texts": (
        triple(change=lambda a: a.astype(str)),
        "loc_train_a.npy: found dtype",
    ),
    "loc, four axes of space": (
        triple(change=lambda a: np.concatenate([a, a], 2)),
        "loc_train_a.npy: found shape",
    ),
    "vel, frames": (triple("vel", lambda a: a[:, 1:]), r"as in loc"),
    "edges, tasks": (triple("edges", lambda a: a[1:]), "edges: found shape"),
    "edges, NaN": (
        triple("edges", lambda a: changed((0, 0, 1), np.nan, a, float)),
        r"edges: found nan at index \[0, 0, 1\]",
    ),
    "loc missing": (triple(remove=("loc",)), r"found a folder without loc_"),
    "splits, edges": (
        two_splits("edges", lambda a: None),
        "no edges_test_a.npy beside",
    ),
    "splits, velocities": (
        two_splits("vel", lambda a: None),
        "found 3 nodes with 2 feat",
    ),
}
ALL = {
    **{f"array, {n}": (lambda _, a=a: a, o, m) for n, (a, o, m) in ARRAYS.items()},
    **{f"option, {n}": (lambda _: STATES, o, m) for n, (o, m) in OPTIONS.items()},
    **{f"table, {n}": (lambda _, a=a: a(), o, m) for n, (a, o, m) in TABLES.items()},
    **{f"file, {n}": (a, {}, m) for n, (a, m) in FILES.items()},
}


def test_the_list_is_long():
    assert len(ALL) >= 150


@pytest.mark.parametrize("name", ALL)
def test_malformed_input_gets_one_sentence(name, tmp_path, monkeypatch):
    def build_model(*_, **__):
        raise AssertionError("the input should have been refused by now")

    monkeypatch.setattr(discovery, "build_model", build_model)
    make, options, message = ALL[name]
    given = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        (DataError, ValueError, FileNotFoundError), match=message
    ) as caught:
        infer_relations(given, **options)
    said = str(caught.value)
    assert "found" in said
    assert "expected" in said
    assert len(said.splitlines()) == 1 and len(said) < 700
    assert sorted(tmp_path.iterdir()) == before
