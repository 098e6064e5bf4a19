import os
import signal
import subprocess
import sys
import textwrap
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from modmeta.runtime.checkpoint import (
    CheckpointMismatchError,
    CheckpointStore,
)


class SearchState(NamedTuple):
    structure: jax.Array
    rng_key: jax.Array
    extra: None


@flax.struct.dataclass
class TrainState:
    params: dict
    optimizer_state: optax.OptState
    search: SearchState
    steps_done: int


def make_state(seed=0, size=3):
    params = {"kernel": jnp.full((size, 4), 0.5 + seed), "bias": jnp.zeros(4)}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(1, 0, 9))
    )
    return TrainState(
        params=params,
        optimizer_state=optimizer.init(params),
        search=SearchState(
            structure=jnp.arange(6, dtype=jnp.int32).reshape(2, 3),
            rng_key=jax.random.split(jax.random.key(seed), 2),
            extra=None,
        ),
        steps_done=7 + seed,
    )


def key_data_only(tree):
    def convert(leaf):
        is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        )
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.tree.map(convert, tree)


def assert_same_state(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for leaf, other in zip(
        jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
    ):
        assert type(leaf) is type(other)
        assert jnp.result_type(leaf) == jnp.result_type(other)
    chex.assert_trees_all_equal(key_data_only(actual), key_data_only(expected))


@pytest.mark.parametrize("abstract", [False, True])
def test_round_trip_in_a_new_store(tmp_path, abstract):
    state = make_state(seed=1)
    with CheckpointStore(tmp_path) as store:
        assert store.latest_step is None
        store.save(10, state)
    template = make_state(seed=2)
    if abstract:
        shapes = jax.eval_shape(lambda: make_state(seed=2))
        template = shapes.replace(steps_done=0)
    with CheckpointStore(tmp_path) as store:
        assert store.latest_step == 10
        assert_same_state(store.restore(template), state)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.int8, jnp.bool_])
def test_round_trip_keeps_dtypes(tmp_path, dtype):
    tree = {"jax": jnp.ones((2, 3), dtype), "numpy": np.ones((), np.float64)}
    with CheckpointStore(tmp_path) as store:
        store.save(0, tree)
        restored = store.restore(tree)
    assert restored["jax"].dtype == dtype
    assert isinstance(restored["numpy"], np.ndarray | np.float64)
    chex.assert_trees_all_equal(restored, tree)


def test_arrays_go_where_the_template_puts_them(tmp_path):
    first, last = jax.devices()[0], jax.devices()[-1]
    tree = {"value": jax.device_put(jnp.ones(2), last)}
    with CheckpointStore(tmp_path) as store:
        store.save(1, tree)
        on_last = store.restore(tree)
        on_first = store.restore({"value": jax.ShapeDtypeStruct((2,), jnp.float32)})
    assert on_last["value"].devices() == {last}
    assert on_first["value"].devices() == {first}


def test_restored_arrays_run_the_program_of_the_saved_ones(tmp_path):
    """Else a run that goes on would compile everything once more."""
    tree = {"value": jnp.ones(2), "key": jax.random.key(0)}
    with CheckpointStore(tmp_path) as store:
        store.save(1, tree)
        restored = [store.restore(tree), store.restore(jax.eval_shape(lambda: tree))]

    @jax.jit
    def draw(tree):
        return tree["value"] + jax.random.normal(tree["key"])

    expected = draw(tree)
    for other in restored:
        np.testing.assert_array_equal(draw(other), expected)
    assert draw._cache_size() == 1


def test_resumed_run_equals_uninterrupted_run(tmp_path):
    optimizer = optax.adam(0.1)

    @jax.jit
    def train_step(state):
        params, optimizer_state, rng_key = state
        rng_key, key_noise = jax.random.split(rng_key)
        noise = jax.random.normal(key_noise, params.shape)
        updates, optimizer_state = optimizer.update(params + noise, optimizer_state)
        return optax.apply_updates(params, updates), optimizer_state, rng_key

    def initial_state(seed):
        params = jnp.ones(3)
        return params, optimizer.init(params), jax.random.key(seed)

    expected = initial_state(0)
    for _ in range(6):
        expected = train_step(expected)

    state = initial_state(0)
    with CheckpointStore(tmp_path) as store:
        for _ in range(3):
            state = train_step(state)
        store.save(3, state)
    with CheckpointStore(tmp_path) as store:
        state = store.restore(initial_state(1))
    for _ in range(3):
        state = train_step(state)
    assert_same_state(state, expected)


def test_keeps_the_latest(tmp_path):
    with CheckpointStore(tmp_path, max_to_keep=2) as store:
        for step in range(5):
            store.save(step, {"value": jnp.full(2, float(step))})
        assert store.all_steps == (3, 4)
        template = {"value": jnp.zeros(2)}
        assert store.restore(template)["value"][0] == 4.0
        assert store.restore(template, step=3)["value"][0] == 3.0
        with pytest.raises(FileNotFoundError, match=r"No checkpoint 1 .*\[3, 4\]"):
            store.restore(template, step=1)


@pytest.mark.parametrize("mode, best", [("min", 1), ("max", 2)])
def test_keeps_the_best_besides_the_latest(tmp_path, mode, best):
    metrics = [5.0, 1.0, 9.0, float("nan"), 4.0, 3.0]
    settings = dict(max_to_keep=1, keep_best=1, best_mode=mode)
    tree = {"value": jnp.zeros(2)}
    with CheckpointStore(tmp_path, **settings) as store:
        for step, metric in enumerate(metrics[:4]):
            store.save(step, tree, metric=metric)
    with CheckpointStore(tmp_path, **settings) as store:
        for step, metric in enumerate(metrics[4:], start=4):
            store.save(step, tree, metric=metric)
        assert store.best_step == best
        assert store.all_steps == (best, 5)


def test_template_with_other_shapes_names_leaf_and_shapes(tmp_path):
    with CheckpointStore(tmp_path) as store:
        store.save(1, make_state(size=3))
        with pytest.raises(CheckpointMismatchError) as caught:
            store.restore(make_state(size=5))
    message = str(caught.value)
    assert "params.kernel: found float32[3, 4], expected float32[5, 4]" in message
    assert "bias" not in message


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({"b": jnp.ones(2)}, "b: found no such leaf, expected float32[2]"),
        ({"a": None}, "a: found float32[2], expected no such leaf"),
        ({"a": jnp.ones(2, jnp.int32)}, "a: found float32[2], expected int32[2]"),
        ({"n": 1.5}, "n: found Python int, expected Python float"),
        ({"n": jnp.ones(())}, "n: found Python int, expected float32[]"),
        (
            {"k": jnp.zeros(2, jnp.uint32)},
            "k: found key<fry>[], expected uint32[2]",
        ),
        (
            {"k": jax.ShapeDtypeStruct((), jax.random.key(0, impl="rbg").dtype)},
            "k: found uint32[2], expected uint32[4]",
        ),
    ],
)
def test_template_mismatch(tmp_path, changed, expected):
    tree = {"a": jnp.ones(2), "n": 3, "k": jax.random.key(0)}
    with CheckpointStore(tmp_path) as store:
        store.save(1, tree)
        with pytest.raises(CheckpointMismatchError) as caught:
            store.restore({**tree, **changed})
    assert expected in str(caught.value)


def test_rejects_misuse(tmp_path):
    tree = {"a": jnp.ones(2)}
    with CheckpointStore(tmp_path / "plain") as store:
        with pytest.raises(FileNotFoundError, match="No checkpoint in"):
            store.restore(tree)
        store.save(3, tree)
        for step in (2, 3):
            with pytest.raises(ValueError, match="expected a later one"):
                store.save(step, tree)
        with pytest.raises(ValueError, match="keep_best"):
            store.save(4, tree, metric=1.0)
        with pytest.raises(ValueError, match="keep_best"):
            _ = store.best_step
    with CheckpointStore(tmp_path / "best", keep_best=1) as store:
        with pytest.raises(ValueError, match="keep_best"):
            store.save(1, tree)
    for settings in ({"max_to_keep": 0}, {"keep_best": -1}, {"best_mode": "low"}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            CheckpointStore(tmp_path / "bad", **settings)


# A thread of the saving process kills it when a file whose name ends in `suffix` first
# appears in a checkpoint under construction.
@pytest.mark.parametrize("suffix", ["tmp", "manifest.ocdbt", "commit_success.txt"])
def test_killed_save_leaves_the_previous_checkpoint(tmp_path, suffix):
    script = f"""
        import os, pathlib, signal, threading
        import jax.numpy as jnp
        from modmeta.runtime.checkpoint import CheckpointStore

        directory = pathlib.Path({str(tmp_path)!r})
        store = CheckpointStore(directory, max_to_keep=1)
        store.save(1, {{"value": jnp.full((512, 1024), 1.0)}})

        def kill_inside_save():
            for entry in directory.glob("*tmp"):
                for file in [entry, *entry.rglob("*")]:
                    if file.name.endswith({suffix!r}):
                        os.kill(os.getpid(), signal.SIGKILL)

        def watch():
            while True:
                try:
                    kill_inside_save()
                except FileNotFoundError:  # Renamed while looked at.
                    continue

        threading.Thread(target=watch, daemon=True).start()
        for step in range(2, 200):
            store.save(step, {{"value": jnp.full((512, 1024), float(step))}})
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()[-2000:]
    with CheckpointStore(tmp_path, max_to_keep=1) as store:
        step = store.latest_step
        template = {"value": jnp.zeros((512, 1024))}
        restored = store.restore(template)
        assert np.all(np.asarray(restored["value"]) == step)
        store.save(step + 2, template)
    assert os.listdir(tmp_path) == [str(step + 2)]
