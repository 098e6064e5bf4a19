import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.runtime.artifact import load_artifact, save_artifact


def make_arrays():
    return {
        "encoder": {"kernel": np.arange(6.0).reshape(2, 3), "bias": jnp.zeros(3)},
        "half": jnp.asarray([1.5, -2.0], jnp.bfloat16),
        "rng_key": jax.random.split(jax.random.key(3), 4),
        "empty": np.zeros((0, 2), np.int32),
        "step": 12,
    }


def test_artifact_round_trip(tmp_path):
    path = tmp_path / "model.npz"
    arrays = make_arrays()
    save_artifact(path, arrays, kind="test", metadata={"names": ["a", "b"], "k": 1})
    loaded, metadata = load_artifact(path, kind="test")
    assert metadata == {"names": ["a", "b"], "k": 1}
    assert loaded["half"].dtype == jnp.bfloat16
    assert loaded["encoder"]["kernel"].dtype == np.float64
    assert loaded["empty"].shape == (0, 2)
    assert loaded["rng_key"].dtype == arrays["rng_key"].dtype
    chex.assert_trees_all_equal(
        jax.random.key_data(loaded.pop("rng_key")),
        jax.random.key_data(arrays.pop("rng_key")),
    )
    chex.assert_trees_all_equal(loaded, jax.tree.map(np.asarray, arrays))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.npz"]


def test_artifact_is_readable_with_plain_numpy(tmp_path):
    path = tmp_path / "model.npz"
    save_artifact(path, make_arrays(), kind="test", metadata={"seed": 3})
    with np.load(path) as file:
        np.testing.assert_array_equal(
            file["encoder/kernel"], np.arange(6.0).reshape(2, 3)
        )
        header = json.loads(str(file["__header__"]))
    assert header["kind"] == "test"
    assert header["metadata"] == {"seed": 3}
    assert header["arrays"]["encoder/kernel"] == {"shape": [2, 3], "dtype": "float64"}


@pytest.mark.parametrize(
    "arrays, error, message",
    [
        ({"a": {"b/c": np.ones(1)}}, ValueError, "'b/c' below 'a/'"),
        ({"a": {}}, ValueError, "a: found an empty dict"),
        ({"__header__": np.ones(1)}, ValueError, "__header__"),
        ({0: np.ones(1)}, TypeError, "expected strings"),
        ({"a": [1.0, 2.0]}, TypeError, "a: found a list, expected an array"),
        ({"a": {"b": np.array([object()])}}, TypeError, "a/b: found dtype object"),
    ],
)
def test_artifact_rejects_what_it_cannot_hold(tmp_path, arrays, error, message):
    with pytest.raises(error, match=message):
        save_artifact(tmp_path / "model.npz", arrays, kind="test")
    assert not list(tmp_path.iterdir())


def test_failed_save_keeps_the_previous_artifact(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    save_artifact(path, {"a": np.ones(2)}, kind="test")
    with pytest.raises(TypeError):
        save_artifact(path, {"a": np.ones(2)}, kind="test", metadata={"b": object()})

    def interrupted_savez(file, **_):
        file.write(b"half a")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np, "savez", interrupted_savez)
        save_artifact(path, {"a": np.zeros(2)}, kind="test")
    loaded, _ = load_artifact(path, kind="test")
    np.testing.assert_array_equal(loaded["a"], np.ones(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.npz"]


def rewrite(path, **changes):
    with np.load(path) as file:
        entries = {name: file[name] for name in file.files}
    entries.update(changes)
    np.savez(path, **{k: v for k, v in entries.items() if v is not None})


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-40]),
            "found no readable file",
        ),
        (lambda path: path.write_text("no archive"), "found no readable file"),
        (lambda path: path.write_bytes(b""), "found no readable file"),
        (lambda path: np.savez(path, a=np.ones(2)), "found no readable file"),
        (
            lambda path: rewrite(path, __header__=np.array("[]")),
            "found another file, expected a modmeta",
        ),
        (lambda path: rewrite(path, a=None), r"expected \['a'\] too"),
        (lambda path: rewrite(path, b=np.ones(2)), r"found \['b'\] beyond its"),
        (
            lambda path: rewrite(path, a=np.ones(3)),
            r"a: found float64\[3\], expected float64\[2\] by its schema",
        ),
        (
            lambda path: rewrite(path, a=np.ones(2, np.float32)),
            r"a: found float32\[2\], expected float64\[2\] by its schema",
        ),
        (
            lambda path: rewrite(path, a=np.array([object()])),
            "found no readable file",
        ),
    ],
)
def test_damaged_artifact_is_refused(tmp_path, damage, message):
    path = tmp_path / "model.npz"
    save_artifact(path, {"a": np.ones(2)}, kind="test")
    damage(path)
    with pytest.raises(ValueError, match=message):
        load_artifact(path, kind="test")


def test_artifact_of_another_kind_or_version_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    save_artifact(path, {"a": np.ones(2)}, kind="test")
    with pytest.raises(ValueError, match="found 'test', expected 'other'"):
        load_artifact(path, kind="other")
    with np.load(path) as file:
        header = json.loads(str(file["__header__"]))
    rewrite(path, __header__=np.array(json.dumps({**header, "version": 99})))
    with pytest.raises(ValueError, match="version 99"):
        load_artifact(path, kind="test")
    with pytest.raises(FileNotFoundError):
        load_artifact(tmp_path / "absent.npz", kind="test")
