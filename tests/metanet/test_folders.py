"""Networks of other people's folders and tables become zoos."""

import json
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from modmeta.metanet import import_folders, import_table, load_zoo, read_weights
from modmeta.metanet.zoo import ZooError, folders, storage
from modmeta.metanet.zoo.weights import fill

SHAPES = {
    "params": {
        "Dense_0": {
            "bias": jax.ShapeDtypeStruct((3,), "float32"),
            "kernel": jax.ShapeDtypeStruct((2, 3), "float32"),
        }
    }
}
COUNT = 5


def network(number):
    """Variables that hold their number everywhere, and a place."""
    number = np.float32(number)
    return {
        "params": {
            "Dense_0": {
                "bias": np.full(3, number, np.float32),
                "kernel": number + np.arange(6, dtype=np.float32).reshape(2, 3) / 8,
            }
        }
    }


def write_safetensors(path, arrays):
    """The format as its documentation has it, written apart from the reader."""
    header, body = {"__metadata__": {"format": "np"}}, b""
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).tobytes()
        kind = {"float32": "F32", "bfloat16": "BF16", "int64": "I64"}[str(array.dtype)]
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def flat(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def write_npz(path, tree):
    np.savez(path, **flat(tree))


def write_msgpack(path, tree):
    path.write_bytes(serialization.msgpack_serialize(tree["params"]))


def write_orbax(path, tree):
    import orbax.checkpoint

    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


WRITERS = {
    "weights.safetensors": lambda path, tree: write_safetensors(path, flat(tree)),
    "weights.npz": write_npz,
    "weights.msgpack": write_msgpack,
    "state": write_orbax,
}


def write_folders(source, name="weights.npz", write=write_npz):
    for number in range(COUNT):
        place = source / f"network_{number}"
        place.mkdir(parents=True)
        write(place / name, network(number))
        results = {"test": {"accuracy": number / 10}, "rate": 0.1}
        (place / "results.json").write_text(json.dumps(results))
    return source


def assert_is_zoo(found, numbers):
    group = load_zoo(found).groups["networks"]
    np.testing.assert_allclose(group.parameters[:, 0], numbers)
    for row, number in zip(group.parameters, numbers, strict=True):
        expected = [np.ravel(leaf) for leaf in jax.tree.leaves(network(number))]
        np.testing.assert_array_equal(row, np.concatenate(expected))
    return group


@pytest.mark.parametrize("name", WRITERS)
def test_folders_of_every_kind_become_a_zoo(name, tmp_path, monkeypatch):
    source = write_folders(tmp_path / "networks", name, WRITERS[name])
    sizes, write = [], storage.save_artifact

    def watched(path, tree, **options):
        sizes.append(len(tree["parameters"]))
        return write(path, tree, **options)

    monkeypatch.setattr(storage, "save_artifact", watched)
    options = dict(settings=["rate"], chunk_size=2)
    count = import_folders(
        source, tmp_path / "zoo", SHAPES, ["test.accuracy"], **options
    )
    assert count == COUNT
    assert sizes == [2, 2, 1]  # never more than a chunk
    group = assert_is_zoo(tmp_path / "zoo", np.arange(COUNT))
    np.testing.assert_allclose(group.scores["test.accuracy"], np.arange(COUNT) / 10)
    np.testing.assert_allclose(group.settings["rate"], 0.1)
    members = np.concatenate([*group.splits.values()])
    assert sorted(members) == list(range(COUNT))
    assert all(map(len, group.splits.values()))


@pytest.mark.parametrize(
    ("shares", "count", "expected"),
    [
        ((0.7, 0.15, 0.15), 100, [70, 15, 15]),
        ((0.7, 0.15, 0.15), 4, [2, 1, 1]),
        ((0.7, 0.15, 0.15), 1, [1, 0, 0]),
        ((0.7, 0.15, 0.15), 2, [1, 1, 0]),
        ((0.1, 0.2, 0.7), 10, [1, 2, 7]),
        ((0.5, 0.0, 0.5), 3, [2, 0, 1]),
        ((0.3, 0.3), 5, [2, 1]),
        ((0.0, 0.0), 5, [0, 0]),
    ],
)
def test_shares_become_whole_numbers(shares, count, expected):
    assert folders._sizes(np.array(shares) * count) == expected


def test_folders_of_ray_tune(tmp_path):
    """The last line of the results and the last checkpoint count."""
    for number in range(2):
        place = tmp_path / "runs" / f"train_{number}"
        for step in (9, 10):
            inner = place / f"checkpoint_{step:06d}"
            inner.mkdir(parents=True)
            write_npz(inner / "model.npz", network(number if step == 10 else 77))
        (place / "params.json").write_text(json.dumps({"rate": number, "loss": 9}))
        lines = [json.dumps({"loss": loss}) for loss in (3.0, 2.0, 1.0 + number)]
        (place / "result.json").write_text("\n".join(lines) + "\n")
    import_folders(
        tmp_path / "runs", tmp_path / "zoo", SHAPES, ["loss"], settings=["rate"],
        shares={"train": 1.0},
    )  # fmt: skip
    group = assert_is_zoo(tmp_path / "zoo", [0, 1])
    np.testing.assert_allclose(group.scores["loss"], [1.0, 2.0])
    np.testing.assert_allclose(group.settings["rate"], [0, 1])


def test_a_table_becomes_a_zoo(tmp_path):
    """Kernels before biases, two epochs of every network, of which the last counts."""
    rows, lines = [], ["step,test_accuracy,config.name"]
    for number in range(COUNT):
        for step in (1, 86):
            leaves = network(number if step == 86 else 77)["params"]["Dense_0"]
            rows.append(np.concatenate([leaves["kernel"].ravel(), leaves["bias"]]))
            lines.append(f"{step},{number / 10},a name")
    np.save(tmp_path / "weights.npy", np.array(rows))
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    files = tmp_path / "weights.npy", tmp_path / "metrics.csv"
    order = ["params/Dense_0/kernel", "params/Dense_0/bias"]
    options = dict(order=order, chosen=lambda row: row["step"] == "86", chunk_size=2)
    found = import_table(*files, tmp_path / "zoo", SHAPES, ["test_accuracy"], **options)
    assert found == COUNT
    group = assert_is_zoo(tmp_path / "zoo", np.arange(COUNT))
    np.testing.assert_allclose(group.scores["test_accuracy"], np.arange(COUNT) / 10)
    for changes, message in (
        ({"order": order[:1]}, "order: found"),
        ({"settings": ["config.name"]}, "config.name 'a name', expected a number"),
        ({"settings": ["depth"]}, "line [23]: found no depth"),
        ({"chosen": lambda row: False}, "no line that is wanted"),
    ):
        # Nothing is left behind that would be in the way of another try.
        with pytest.raises(ZooError, match=message):
            import_table(*files, tmp_path / "other", SHAPES, ["test_accuracy"],
                         **options | changes)  # fmt: skip
    with pytest.raises(ZooError, match="no.csv: found no table"):
        import_table(files[0], tmp_path / "no.csv", tmp_path / "other", SHAPES, [])
    for content, message in (
        (np.ones((10, 9), int), "weights.npy: found int64, expected .npy of floating"),
        (np.full((10, 9), 1e300), "line 2: found inf in params/Dense_0/bias"),
    ):
        np.save(files[0], content)
        with pytest.raises(ZooError, match=message):
            import_table(*files, tmp_path / "other", SHAPES, ["test_accuracy"])
    files[0].unlink()
    with pytest.raises(ZooError, match="weights.npy: found no array"):
        import_table(*files, tmp_path / "other", SHAPES, ["test_accuracy"])
    np.save(tmp_path / "weights.npy", np.array(rows)[1:])
    with pytest.raises(ZooError, match="expected 10 networks"):
        import_table(*files, tmp_path / "other", SHAPES, ["test_accuracy"])


def _two_files(place):
    write_npz(place / "more.npz", network(0))


def _none(place):
    (place / "weights.npz").unlink()


def _damaged(place):
    (place / "weights.npz").write_bytes(b"no weights")


def _other_shape(place):
    write_npz(place / "weights.npz", {"params": {"Dense_0": {
        "bias": np.zeros(3, np.float32), "kernel": np.zeros((3, 2), np.float32)}}}
    )  # fmt: skip


def _other_names(place):
    write_npz(place / "weights.npz", {"params": {"Linear": np.zeros(3, np.float32)}})


def _not_finite(place):
    tree = network(1)
    tree["params"]["Dense_0"]["bias"][1] = np.nan
    write_npz(place / "weights.npz", tree)


def _beyond_single(place):
    tree = network(1)
    tree["params"]["Dense_0"]["bias"] = np.array([1.0, 2.0, 1e300])
    write_npz(place / "weights.npz", tree)


def _integers(place):
    tree = network(1)
    tree["params"]["Dense_0"]["bias"] = np.array([1, 2, 3])
    write_npz(place / "weights.npz", tree)


def _no_result(place):
    (place / "results.json").write_text("{}")


def _damaged_result(place):
    (place / "results.json").write_text("{")


def _other_encoding(place):
    (place / "results.json").write_bytes(b'{"name": "\xe9"}')


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"shares": {"train": "all"}},
            "shares: found {'train': 'all'}, expected parts",
        ),
        ({"shares": {"train": float("nan")}}, "shares: found {'train': nan}"),
        ({"shares": [0.5, 0.5]}, r"shares: found \[0.5, 0.5\], expected parts"),
        ({"shares": {}}, "shares: found {}, expected parts"),
        ({"chunk_size": 2.5}, "chunk_size: found 2.5, expected"),
        ({"seed": "one"}, "seed: found 'one', expected"),
        ({"seed": -1}, "seed: found -1, expected 0"),
        ({"convert": 3}, "convert: found 3, expected a function"),
        (
            {"convert": lambda found: found["a"]},
            r"network_0: convert failed \(KeyError",
        ),
        (
            {"convert": lambda found: 1},
            "network_0: variables: found a int, expected an",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options, message, tmp_path):
    source = write_folders(tmp_path / "networks")
    with pytest.raises(ValueError, match=message):
        import_folders(source, tmp_path / "zoo", SHAPES, ["test.accuracy"], **options)
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize("variables", [None, {}, {"params": {"kernel": 1.5}}])
def test_variables_without_arrays_are_refused(variables, tmp_path):
    source = write_folders(tmp_path / "networks")
    with pytest.raises(ZooError, match="variables: found|params/kernel: found a float"):
        import_folders(source, tmp_path / "zoo", variables, ["test.accuracy"])


def test_dots_belong_to_names_on_either_side():
    one, two = np.ones(2, np.float32), np.zeros(3, np.float32)
    variables = {"layer.0": {"w": one}, "layer.1": {"w": two}}
    for weights in (variables, {"layer.0.w": one, "layer/1/w": two}):
        found = fill(variables, weights)
        assert found.keys() == variables.keys() and found["layer.1"]["w"] is two
    with pytest.raises(ZooError, match="weights: found names that differ by dots"):
        fill(variables, {"layer.0.w": one, "layer.1.w": two, "layer/1/w": two})
    with pytest.raises(ZooError, match="variables: found names that differ by dots"):
        fill({"a.b": one, "a": {"b": one}}, variables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_encoding, "network_1/results.json: found no text in UTF-8"),
        (_two_files, "network_1: found 2 files of weights, more.npz, weights.npz"),
        (_none, "network_1: found no weights"),
        (_damaged, "network_1.*damaged file"),
        (_other_shape, r"network_1.*kernel: found shape \(3, 2\), expected \(2, 3\)"),
        (_other_names, "network_1.*left over"),
        (_not_finite, "network_1: found nan in params/Dense_0/bias"),
        (_beyond_single, "network_1: found inf in params/Dense_0/bias"),
        (_integers, "network_1: .*Dense_0/bias: found type int64"),
        (_no_result, "network_1: found no test.accuracy"),
        (_damaged_result, "damaged JSON"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message, tmp_path):
    source = write_folders(tmp_path / "networks")
    change(source / "network_1")
    with pytest.raises(ZooError, match=message):
        import_folders(source, tmp_path / "zoo", SHAPES, ["test.accuracy"])
    # Nothing is left that would be in the way once it is mended.
    assert not list((tmp_path / "zoo").glob("*.json"))


def test_another_source_is_not_taken_for_the_one_imported_before(tmp_path):
    source = write_folders(tmp_path / "networks")
    arguments = (tmp_path / "zoo", SHAPES, ["test.accuracy"])
    (source / ".cache").mkdir()  # no network
    assert import_folders(source, *arguments) == COUNT
    assert import_folders(source, *arguments) == COUNT
    with pytest.raises(ZooError, match="files: found 10, in state"):
        import_folders(write_folders(tmp_path / "others"), *arguments)
    write_npz(source / "network_1" / "weights.npz", network(7))
    with pytest.raises(ZooError, match="files: found 10, in state"):
        import_folders(source, *arguments)
    with pytest.raises(ZooError, match="scores: found the text 'loss', expected"):
        import_folders(source, tmp_path / "new", SHAPES, "loss")


def write_files(source):
    source.mkdir()
    for number in range(COUNT):
        write_npz(source / f"{number}.npz", network(number))
    return source


def test_files_with_one_table_of_results(tmp_path):
    source = write_files(tmp_path / "networks")
    lines = [f"runs/{number}.npz,{number / 10},0" for number in (3, 1, 4, 0, 2)]
    head, table = "model,accuracy,rate", tmp_path / "results.csv"
    options = dict(results=table, settings=["rate"], chunk_size=2)

    def imported(name, lines):
        table.write_text("\n".join([head, *lines]))
        import_folders(source, tmp_path / name, SHAPES, ["accuracy"], **options)

    imported("zoo", lines)
    group = assert_is_zoo(tmp_path / "zoo", np.arange(COUNT))
    np.testing.assert_allclose(group.scores["accuracy"], np.arange(COUNT) / 10)
    for wrong, message in (
        (lines[1:], r"3.npz: found no result in .*results.csv"),
        ([*lines, "9.npz,0.1,0"], "line 7: found a result of '9.npz', expected"),
        ([*lines, lines[0]], "line 7: found 3.npz again after .*line 2"),
        ([*lines[:4], "2.npz,0,9,0"], "line 6: found more values than the 3 names"),
        (["a,0.1,5"], "no column with names such as 0.npz"),
        ([f"{n},{n},0" for n in range(COUNT)], "several columns with names such as"),
    ):
        with pytest.raises(ZooError, match=message):
            imported("other", wrong)


def test_files_with_results_in_json(tmp_path):
    source = write_files(tmp_path / "networks")
    results = {str(n): {"test": {"accuracy": n / 10}} for n in range(COUNT)}
    table = tmp_path / "results.json"
    table.write_text(json.dumps(results))
    scores = ["test.accuracy"]
    import_folders(source, tmp_path / "zoo", SHAPES, scores, results=table)
    for name, content in results.items():
        (source / f"{name}.json").write_text(json.dumps(content))
    import_folders(source, tmp_path / "beside", SHAPES, scores)
    for name in ("zoo", "beside"):
        group = assert_is_zoo(tmp_path / name, np.arange(COUNT))
        np.testing.assert_allclose(group.scores["test.accuracy"], np.arange(COUNT) / 10)
    table.write_text("[1]")
    with pytest.raises(ZooError, match="expected results by name of network"):
        import_folders(source, tmp_path / "other", SHAPES, scores, results=table)
    (source / "0.json").unlink()
    with pytest.raises(ZooError, match="0.npz: found no test.accuracy, expected resul"):
        import_folders(source, tmp_path / "other", SHAPES, scores)
    (source / "folder").mkdir()
    with pytest.raises(ZooError, match="found 1 folders and 5 files of weights"):
        import_folders(source, tmp_path / "other", SHAPES, scores)
    with pytest.raises(ZooError, match="found no folder, expected one with networks"):
        import_folders(table, tmp_path / "other", SHAPES, scores)


def test_weights_are_read_to_the_bit(tmp_path):
    arrays = {
        "half": np.asarray(jnp.linspace(-3, 3, 7, dtype=jnp.bfloat16)),
        "count": np.array([[1, -(2**40)]]),
        "empty": np.zeros((0, 3), np.float32),
    }
    write_safetensors(tmp_path / "w.safetensors", arrays)
    found = read_weights(tmp_path / "w.safetensors")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[:-1])
    with pytest.raises(ZooError, match="expected 16 bytes"):
        read_weights(tmp_path / "w.safetensors")
    with pytest.raises(ZooError, match="suffix '.bin'"):
        read_weights(tmp_path / "w.bin")
    with pytest.raises(ZooError, match="no file"):
        read_weights(tmp_path / "w.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ZooError, match="no checkpoint"):
        read_weights(tmp_path / "empty")


def test_files_of_pytorch_need_it_and_hold_nothing_but_tensors(tmp_path, monkeypatch):
    path = tmp_path / "w.pt"
    path.write_bytes(b"tensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"modmeta\[torch\]"):
        read_weights(path)

    class Torch:
        """A stand-in that tells what it was asked."""

        __name__ = "torch"

        @staticmethod
        def load(file, map_location, weights_only):
            assert (file, map_location, weights_only) == (path, "cpu", True)
            return {"state_dict": {"0.weight": np.ones(2)}, "epoch": 3}

    monkeypatch.setitem(sys.modules, "torch", Torch())
    assert list(read_weights(path)) == ["0.weight"]
