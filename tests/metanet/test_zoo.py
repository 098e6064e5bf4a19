"""Zoos: trained at once against one by one, stored, resumed, damaged, refused."""

import dataclasses
import io
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from modmeta.metanet import zoo
from modmeta.metanet.zoo import sine, training
from modmeta.runtime.artifact import load_artifact, save_artifact
from modmeta.runtime.progress import TqdmProgress

# A regression with all that a recipe may ask for: minibatches, noise in the inputs,
# running statistics, and settings of one network each.
NUM_STEPS = 12
DATA = {
    "inputs": np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32),
    "targets": np.random.default_rng(1).normal(size=20).astype(np.float32),
}
KEY = jax.random.key(7)


def draw(key):
    key_rate, key_steps = jax.random.split(key)
    return {
        "learning_rate": 10.0 ** -jax.random.uniform(key_rate, (), minval=1, maxval=2),
        "weight_decay": jnp.float32(0.01),
        "num_steps": jax.random.randint(key_steps, (), 3, NUM_STEPS + 1),
    }


def init(key, settings):
    return {
        "params": {"kernel": jax.random.normal(key, (3,)), "bias": jnp.zeros(())},
        "batch_stats": {"mean": jnp.zeros(3)},
    }


def loss(variables, data, key, step, settings):
    key_rows, key_noise = jax.random.split(key)
    rows = jax.random.randint(key_rows, (5,), 0, 20)
    inputs = data["inputs"][rows] + 0.1 * jax.random.normal(key_noise, (5, 3))
    mean = 0.9 * variables["batch_stats"]["mean"] + 0.1 * inputs.mean(axis=0)
    params = variables["params"]
    outputs = (inputs - mean[None]) @ params["kernel"] + params["bias"]
    error = jnp.mean((outputs - data["targets"][rows]) ** 2)
    return error, {"batch_stats": {"mean": mean}}


def optimizer(settings):
    return optax.adamw(settings["learning_rate"], weight_decay=settings["weight_decay"])


def score(variables, data, settings):
    params, mean = variables["params"], variables["batch_stats"]["mean"]
    outputs = (data["inputs"] - mean[None]) @ params["kernel"] + params["bias"]
    return {"mse": jnp.mean((outputs - data["targets"]) ** 2)}


def is_done(loss, num_steps, variables, settings):
    return num_steps >= settings["num_steps"]


TASK = zoo.ZooTask(draw, init, loss, optimizer, score, NUM_STEPS, is_done)


@jax.jit
def gradient_alone(params, collections, key, settings):
    """Loss with collections, and gradient, of one step."""
    data = jax.tree.map(jnp.asarray, DATA)
    return jax.value_and_grad(
        lambda p: loss({**collections, "params": p}, data, key, 0, settings),
        has_aux=True,
    )(params)


def train_alone(index):
    """One network in a plain loop, with the optimiser's equations written out."""
    key_settings, key_variables, key_training = training.network_keys(KEY, index)
    settings = {name: float(value) for name, value in draw(key_settings).items()}
    variables = init(key_variables, settings)
    variables = jax.device_get(variables)
    params, collections = variables["params"], {"batch_stats": variables["batch_stats"]}
    first = jax.tree.map(np.zeros_like, params)
    second = first
    for step in range(int(settings["num_steps"])):
        key = jax.random.fold_in(key_training, step)
        (value, collections), gradient = jax.device_get(
            gradient_alone(params, collections, key, settings)
        )
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, gradient)
        params = jax.tree.map(
            lambda p, m, v, n=step + 1: (
                p
                - settings["learning_rate"]
                * (
                    m / (1 - 0.9**n) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8)
                    + settings["weight_decay"] * p
                )
            ),
            params,
            first,
            second,
        )
    return settings, {"params": params, **collections}, value


@pytest.fixture(scope="module", params=["side by side", "one by one"])
def trained(request):
    return zoo.train_networks(
        TASK, KEY, jnp.arange(6), DATA, one_by_one=request.param == "one by one"
    )


@pytest.mark.parametrize("index", [0, 4])
def test_one_program_trains_what_a_loop_over_steps_does(trained, index):
    settings, variables, value = train_alone(index)
    found = jax.tree.map(lambda leaf: leaf[index], trained)
    for name, expected in settings.items():
        assert found.settings[name] == pytest.approx(expected)
    assert found.num_steps == settings["num_steps"]
    np.testing.assert_allclose(found.losses, value, rtol=1e-4)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5),
        dict(found.variables),
        variables,
    )
    np.testing.assert_allclose(
        found.scores["mse"], score(variables, DATA, settings)["mse"], rtol=1e-4
    )


def test_networks_differ_in_length_and_none_diverges(trained):
    assert len(set(np.asarray(trained.num_steps).tolist())) > 1
    assert not trained.is_diverged.any()


def test_chunks_make_no_difference(trained):
    part = zoo.train_networks(TASK, KEY, jnp.array([4, 2]), DATA)
    for found, expected in zip(
        jax.tree.leaves(part), jax.tree.leaves(trained), strict=True
    ):
        np.testing.assert_allclose(found, expected[np.array([4, 2])], atol=2e-5)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_diverging_network_stays_where_it_was_finite(one_by_one):
    """Steps of -1e30 times the gradient of x^2 overflow at the second."""

    def draw(key):
        is_wild = jax.random.bernoulli(key)
        return {"rate": jnp.where(is_wild, 1e30, 0.1)}

    task = zoo.ZooTask(
        draw=draw,
        init=lambda key, settings: {"params": {"x": jnp.float32(1.0)}},
        loss=lambda variables, data, key, step, settings: (
            variables["params"]["x"] ** 2,
            {},
        ),
        optimizer=lambda settings: optax.sgd(settings["rate"]),
        score=lambda variables, data, settings: {},
        num_steps=5,
    )
    found = zoo.train_networks(
        task, jax.random.key(0), jnp.arange(8), one_by_one=one_by_one
    )
    is_wild = np.asarray(found.settings["rate"]) > 1.0
    assert 0 < is_wild.sum() < 8
    np.testing.assert_array_equal(found.is_diverged, is_wild)
    np.testing.assert_array_equal(found.num_steps, np.where(is_wild, 1, 5))
    expected = np.where(is_wild, np.float32(1 - 2e30), 0.8**5)
    np.testing.assert_allclose(found.variables["params"]["x"], expected, rtol=1e-5)


def test_flatten_and_back():
    rng = np.random.default_rng(0)
    variables = {
        "params": {
            "b": {"kernel": rng.normal(size=(4, 2, 3))},
            "a": rng.normal(size=4),
        },
        "batch_stats": {"mean": rng.normal(size=(4, 5))},
    }
    variables = jax.tree.map(np.float32, variables)
    one = jax.tree.map(lambda leaf: leaf[0], variables)
    leaves = zoo.leaves_of(one)
    assert leaves == (
        ("batch_stats/mean", (5,)),
        ("params/a", ()),
        ("params/b/kernel", (2, 3)),
    )
    rows = zoo.flatten(variables)
    assert rows.shape == (4, 12)
    np.testing.assert_array_equal(rows[:, 5], variables["params"]["a"])
    jax.tree.map(np.testing.assert_array_equal, zoo.unflatten(leaves, rows), variables)


def test_splits_are_by_network():
    sizes = {"train": 50, "valid": 20, "test": 20}
    splits = zoo.split_networks(3, 100, sizes)
    assert {name: len(members) for name, members in splits.items()} == sizes
    assert len(set().union(*splits.values())) == 90
    assert splits == zoo.split_networks(3, 100, sizes)
    assert splits != zoo.split_networks(4, 100, sizes)
    with pytest.raises(zoo.ZooError, match="expected at most 100 networks"):
        zoo.split_networks(0, 100, {"train": 101})


LEAVES = (zoo.Leaf("params/kernel", (2, 2)), zoo.Leaf("params/bias", (2,)))
SPEC = zoo.ZooSpec(
    config={"seed": 0, "sizes": (2, 2)},
    groups=(
        zoo.GroupSpec("narrow", {"width": 2}, 5, LEAVES),
        zoo.GroupSpec("wide", {"width": 3}, 3, LEAVES[:1]),
    ),
    splits={"train": [0, 2, 4, 6], "test": [1, 7]},
    chunk_size=2,
)
CHUNKS = {
    "narrow-000000.npz",
    "narrow-000002.npz",
    "narrow-000004.npz",
    "wide-000000.npz",
    "wide-000002.npz",
}


def make_chunk(group, numbers):
    """Network i has the weights i, i + 1/8, ... and the score -i."""
    assert numbers.shape == (SPEC.chunk_size,)
    columns = np.arange(group.num_parameters, dtype=np.float32) / 8
    return zoo.Chunk(
        parameters=numbers[:, None].astype(np.float32) + columns,
        settings={"rate": jnp.asarray(numbers) * 2},
        scores={"accuracy": -numbers},
    )


@pytest.fixture
def complete(tmp_path):
    assert zoo.generate_zoo(tmp_path / "zoo", SPEC, make_chunk)
    return tmp_path / "zoo"


def test_round_trip(complete):
    assert {path.name for path in complete.iterdir()} == CHUNKS | {"zoo.json"}
    found = zoo.load_zoo(complete, SPEC.config)
    narrow, wide = found.groups["narrow"], found.groups["wide"]
    assert narrow.parameters.shape == (5, 6) and wide.parameters.shape == (3, 4)
    np.testing.assert_array_equal(narrow.parameters[:, 1], np.arange(5) + 0.125)
    np.testing.assert_array_equal(wide.parameters[:, 0], [5, 6, 7])
    np.testing.assert_array_equal(wide.settings["rate"], [10, 12, 14])
    np.testing.assert_array_equal(narrow.scores["accuracy"], -np.arange(5))
    variables = narrow.variables()["params"]
    # In the order of the leaves, not of their names.
    np.testing.assert_array_equal(variables["kernel"][3], [[3, 3.125], [3.25, 3.375]])
    np.testing.assert_array_equal(variables["bias"][3], [3.5, 3.625])
    # Splits count from the first network of the group.
    np.testing.assert_array_equal(narrow.splits["train"], [0, 2, 4])
    np.testing.assert_array_equal(wide.splits["train"], [1])
    np.testing.assert_array_equal(wide.splits["test"], [2])
    described = json.loads((complete / "zoo.json").read_text())
    assert described["config"] == {"seed": 0, "sizes": [2, 2]}
    assert described["splits"] == SPEC.splits


def test_resumed_generation_trains_what_is_missing(tmp_path, complete):
    calls = []

    def count(group, numbers):
        calls.append((group.name, int(numbers[0])))
        return make_chunk(group, numbers)

    path = tmp_path / "other"
    assert not zoo.generate_zoo(path, SPEC, count, should_stop=lambda: len(calls) == 2)
    with pytest.raises(zoo.ZooError, match="narrow-000004.npz: found no file"):
        zoo.load_zoo(path)
    shown = io.StringIO()
    clock = itertools.count().__next__
    meter = TqdmProgress(interval_seconds=0, stream=shown, clock=clock)
    assert zoo.generate_zoo(path, SPEC, count, progress=meter)
    # The rate is of what this call trained.
    lines = shown.getvalue().splitlines()
    assert lines[0] == "zoo: 4/8 steps (50%)"
    assert lines[1].startswith("zoo: 5/8 steps (62%), 0.25 steps/s")
    # Numbers go through all groups.
    assert calls == [
        ("narrow", 0),
        ("narrow", 2),
        ("narrow", 4),
        ("wide", 5),
        ("wide", 7),
    ]
    for name in CHUNKS:
        for one, other in zip(
            *(
                jax.tree.leaves(load_artifact(p / name, kind="modmeta.zoo.chunk")[0])
                for p in (path, complete)
            ),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
    assert (path / "zoo.json").read_text() == (complete / "zoo.json").read_text()


def test_chunks_at_once(tmp_path, complete):
    """The first chunks of both groups train together, and the zoo is the same."""
    both = threading.Barrier(2, timeout=20)

    def meet(group, numbers):
        if numbers[0] in (0, 5):
            both.wait()
        return make_chunk(group, numbers)

    path = tmp_path / "other"
    assert zoo.generate_zoo(path, SPEC, meet, num_workers=2)
    for name in CHUNKS:
        assert (path / name).read_bytes() == (complete / name).read_bytes()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_after_a_failure_no_chunk_begins(tmp_path, monkeypatch, num_workers):
    """Of two workers, each may have begun another before the first failure is known."""
    begun, is_known = [], threading.Event()
    shutdown = ThreadPoolExecutor.shutdown

    def noted(*args, **kwargs):
        shutdown(*args, **kwargs)
        is_known.set()

    def fail(group, numbers):
        begun.append(group.name)
        if len(begun) > 1:
            is_known.wait(timeout=20)
        raise ValueError("no such image")

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", noted)
    with pytest.raises(ValueError, match="no such image"):
        zoo.generate_zoo(tmp_path / "other", SPEC, fail, num_workers=num_workers)
    assert len(begun) in {1: [1], 2: [1, 2, 3]}[num_workers]


def test_signals_come_between_chunks(tmp_path):
    """Python handles them in the main thread, which a single worker therefore is."""
    threads = set()

    def note(group, numbers):
        threads.add(threading.current_thread())
        return make_chunk(group, numbers)

    assert zoo.generate_zoo(tmp_path / "other", SPEC, note)
    assert threads == {threading.main_thread()}


def truncate(path):
    chunk = path / "narrow-000002.npz"
    chunk.write_bytes(chunk.read_bytes()[:-200])


def spoil(path):
    chunk = path / "narrow-000002.npz"
    content = bytearray(chunk.read_bytes())
    middle = content.index(b"parameters.npy") + 200
    content[middle] ^= 255
    chunk.write_bytes(bytes(content))


def swap(path):
    (path / "narrow-000002.npz").write_bytes((path / "narrow-000000.npz").read_bytes())


def remove(path):
    (path / "narrow-000002.npz").unlink()


def rewrite(path, change):
    chunk = path / "narrow-000002.npz"
    arrays, metadata = load_artifact(chunk, kind="modmeta.zoo.chunk")
    change(arrays, metadata)
    save_artifact(chunk, arrays, kind="modmeta.zoo.chunk", metadata=metadata)


def not_a_number(path):
    def change(arrays, metadata):
        arrays["parameters"][1, 4] = np.nan

    rewrite(path, change)


def too_few(path):
    rewrite(path, lambda arrays, _: arrays.update(parameters=np.zeros((1, 6))))


def without_scores(path):
    rewrite(path, lambda arrays, _: arrays.pop("scores"))


def of_another_zoo(path):
    rewrite(path, lambda _, metadata: metadata.update(zoo="0123"))


@pytest.mark.parametrize(
    "damage, message",
    [
        (truncate, r"narrow-000002.npz: found a damaged file \(.*expected a chunk"),
        (spoil, "narrow-000002.npz: found a damaged file"),
        (swap, "narrow-000002.npz: found first 0, expected 2"),
        (remove, "narrow-000002.npz: found no file, expected networks 2 to 3"),
        (not_a_number, "narrow-000002.npz: found nan in params/bias of network 3 of"),
        (too_few, r"narrow-000002.npz: found parameters \(1, 6\), expected \(2, 6\)"),
        (without_scores, r"narrow-000002.npz: found .* \['rate'\], expected \['acc"),
        (of_another_zoo, "narrow-000002.npz: found zoo '0123', expected"),
    ],
)
def test_damaged_chunks(complete, damage, message):
    damage(complete)
    with pytest.raises(zoo.ZooError, match=message):
        zoo.load_zoo(complete)


def test_generation_refuses_damage_too(complete):
    truncate(complete)
    with pytest.raises(zoo.ZooError, match="damaged file .* remove it and generate"):
        zoo.generate_zoo(complete, SPEC, make_chunk)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "zoo.json: found damaged JSON"),
        ("[]", "zoo.json: found no zoo"),
        ("{}", r"zoo.json: found no zoo \(KeyError\('format'\)\), expected one"),
        ('{"format": "else", "version": 1}', "zoo.json: found format 'else' version 1"),
        (
            '{"format": "modmeta.zoo", "version": 2}',
            "zoo.json: found format 'modmeta.zoo' version 2, expected .* version 1",
        ),
        (
            json.dumps({**SPEC.to_json(), "groups": []}),
            r"zoo.json: groups: found \[\], expected one or more",
        ),
    ],
)
def test_damaged_description(complete, content, message):
    (complete / "zoo.json").write_text(content)
    with pytest.raises(zoo.ZooError, match=message):
        zoo.load_zoo(complete)


def test_other_directories_are_refused(complete, tmp_path):
    with pytest.raises(zoo.ZooError, match="nothing/zoo.json: found no file, expected"):
        zoo.load_zoo(tmp_path / "nothing")
    changed = dataclasses.replace(SPEC, config={"seed": 1, "sizes": (2, 2)})
    message = "(?s)zoo.json is of another configuration:.*seed: found 0, expected 1$"
    with pytest.raises(zoo.ZooError, match=message):
        zoo.generate_zoo(complete, changed, make_chunk)
    with pytest.raises(zoo.ZooError, match=message):
        zoo.load_zoo(complete, changed.config)
    same_name = dataclasses.replace(SPEC, chunk_size=3)
    with pytest.raises(zoo.ZooError, match="found other groups, splits or chunks"):
        zoo.generate_zoo(complete, same_name, make_chunk)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text")
    with pytest.raises(zoo.ZooError, match="mine: found files but no zoo.json"):
        zoo.generate_zoo(tmp_path / "mine", SPEC, make_chunk)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_weights_that_are_not_finite_are_not_stored(tmp_path):
    def diverge(group, numbers):
        chunk = make_chunk(group, numbers)
        chunk.parameters[:] = np.where(numbers[:, None] == 3, np.inf, chunk.parameters)
        return chunk

    message = "found inf in params/kernel of network 3 of group narrow"
    with pytest.raises(zoo.ZooError, match=message):
        zoo.generate_zoo(tmp_path / "zoo", SPEC, diverge)
    names = {path.name for path in (tmp_path / "zoo").iterdir()}
    assert names == {"zoo.json", "narrow-000000.npz"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"chunk_size": 0}, "chunk_size: found 0, expected at least 1"),
        ({"groups": ()}, r"groups: found \[\], expected one or more"),
        ({"groups": SPEC.groups[:1] * 2}, "expected one or more, distinct"),
        ({"splits": {"train": [8]}}, "found network 8, expected 0 to 7"),
        (
            {"splits": {"train": [1], "test": [2, 1]}},
            "split 'test': found network 1, which is in split 'train' already",
        ),
    ],
)
def test_wrong_specifications(changes, message):
    with pytest.raises(zoo.ZooError, match=message):
        dataclasses.replace(SPEC, **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "a/b"}, "group name: found 'a/b'"),
        ({"num_networks": 0}, "group narrow: found 0 networks, expected at least one"),
    ],
)
def test_wrong_groups(changes, message):
    group = dataclasses.replace(SPEC.groups[0], **changes)
    with pytest.raises(zoo.ZooError, match=message):
        dataclasses.replace(SPEC, groups=(group,), splits={})


SINE = sine.SineConfig(
    num_train=6,
    num_valid=2,
    num_test=2,
    hidden_sizes=(8, 6),
    num_points=40,
    num_steps=150,
    stop_loss=0.5,
    chunk_size=4,
)


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo") / "sine"
    assert sine.generate_sine_zoo(path, SINE)
    return zoo.load_zoo(path, sine.zoo_config(SINE)).groups["sine"]


def test_sine_networks_fit_their_waves(waves):
    """The stored score against a forward pass of stored weights in NumPy."""
    assert waves.parameters.shape == (10, 8 + 8 + 48 + 6 + 6 + 1)
    params = waves.variables()["params"]
    inputs = -np.pi + 2 * np.pi * np.arange(40) / 40
    coefficients = sine.coefficients(waves)
    for index, (amplitude, frequency) in enumerate(coefficients):
        hidden = inputs[:, None]
        for name in ("layer_0", "layer_1"):
            kernel, bias = (params[name][part][index] for part in ("kernel", "bias"))
            hidden = np.sin(30.0 * (hidden @ kernel + bias))
        last = params["layer_2"]
        outputs = hidden @ last["kernel"][index] + last["bias"][index] + 0.5
        error = np.mean((outputs[:, 0] - amplitude * np.sin(frequency * inputs)) ** 2)
        assert waves.scores["fit_mse"][index] == pytest.approx(error, rel=2e-3)
    # Half of the mean square is what a flat line leaves.
    flat = coefficients[:, 0] ** 2 / 2
    assert np.median(waves.scores["fit_mse"] / flat) < 0.9
    assert not waves.scores["is_diverged"].any()
    stopped = waves.scores["num_steps"] < SINE.num_steps
    assert 0 < stopped.sum() < 10
    assert (waves.scores["fit_mse"][stopped] < 1.0).all()


def test_sine_coefficients_and_initial_weights():
    """Kolmogorov-Smirnov at a fixed key; would fail by chance in 1 of 1,000 keys."""
    task = sine.sine_task(SINE)
    keys = jax.random.split(jax.random.key(0), 500)
    settings = jax.vmap(task.draw)(keys)
    params = jax.vmap(task.init)(keys, settings)["params"]
    for values, low, high in (
        (settings["amplitude"], 0.0, 10.0),
        (settings["frequency"], 0.0, 10.0),
        (params["layer_0"]["kernel"][:, 0, 0], -np.sqrt(6) / 30, np.sqrt(6) / 30),
        (params["layer_1"]["kernel"][:, 0, 0], -np.sqrt(6 / 8) / 30, None),
        (params["layer_2"]["kernel"][:, 0, 0], -1 / np.sqrt(6), None),
        (params["layer_2"]["bias"][:, 0], -1 / np.sqrt(6), None),
    ):
        high = -low if high is None else high
        result = scipy.stats.kstest(values, "uniform", args=(low, high - low))
        assert result.pvalue > 0.001 / 6
    assert not params["layer_0"]["bias"].any() and not params["layer_1"]["bias"].any()


def test_sine_zoo_does_not_depend_on_its_size(waves):
    """The first waves of a larger zoo with other chunks are the same."""
    larger = dataclasses.replace(SINE, num_train=600, chunk_size=5)
    trained = zoo.train_networks(
        sine.sine_task(larger), jax.random.key(SINE.seed), jnp.arange(5)
    )
    for name, values in trained.settings.items():
        np.testing.assert_array_equal(values, waves.settings[name][:5])
    np.testing.assert_allclose(
        zoo.flatten(trained.variables), waves.parameters[:5], atol=2e-2
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_train": 0}, "num_train: found 0, expected above 0"),
        ({"learning_rate": -1.0}, "learning_rate: found -1.0, expected above 0"),
        ({"learning_rate": np.nan}, "learning_rate: found nan, expected above 0"),
        ({"seed": -1}, "seed: found -1, expected >= 0"),
        ({"hidden_sizes": (4, 0)}, r"hidden_sizes: found \(4, 0\), expected above 0"),
    ],
)
def test_wrong_sine_options(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SINE, **changes)
