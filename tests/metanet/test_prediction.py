"""Supervised training: what it learns, what it must not learn, and that it resumes."""

import dataclasses
import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from modmeta.metanet import InvariantMetanet, MetanetConfig, trace
from modmeta.metanet.learning import parts, prediction, scores, sources, steps
from modmeta.metanet.models import baselines
from modmeta.runtime.checkpoint import CheckpointStore
from modmeta.runtime.metrics import MetricWriter, read_metrics
from tests.metanet.small_networks import normal

SPLITS = {
    "train": np.arange(0, 160),
    "valid": np.arange(160, 200),
    "test": np.arange(200, 240),
}
CONFIG = prediction.PredictionConfig(
    num_steps=240, batch_size=40, learning_rate=1e-2, num_evaluations=4
)


class TwoMaps(nn.Module):
    """1-4-1 without biases."""

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.relu(nn.Dense(4, use_bias=False, name="first")(inputs))
        return nn.Dense(1, use_bias=False, name="second")(hidden)


def make_networks(num_networks):
    """Random networks as graphs, and their weights `[n, in or out, 4]`."""
    inputs = normal(1, 1)
    variables = TwoMaps().init(jax.random.key(0), inputs)
    topology = trace(TwoMaps(), variables, inputs)
    assert [leaf.name for leaf in topology.leaves] == [
        "params/first/kernel",
        "params/second/kernel",
    ]
    weights = np.random.default_rng(0).normal(size=(num_networks, 2, 4))
    rows = weights.reshape(num_networks, 8)
    return sources.GraphSource([topology], [rows]), weights


SOURCE, WEIGHTS = make_networks(240)
# Sum over hidden units of the weight into it times the weight out of it: invariant to
# the order of the units, and no function of the set of all weights.
TARGETS = scipy.special.expit((WEIGHTS[:, 0] * WEIGHTS[:, 1]).sum(-1)).astype("f4")
METANET = MetanetConfig(width=16, num_blocks=2, reverse_messages=True)
PREDICTOR = prediction.GraphPredictor(InvariantMetanet(METANET, 1))


def test_parts_learn_and_predict_as_one_batch():
    """Loss, gradient and outputs of a batch do not depend on how it is cut."""
    inputs = normal(1, 1)
    topology = trace(TwoMaps(), TwoMaps().init(jax.random.key(0), inputs), inputs)
    rows = [WEIGHTS[:10].reshape(10, 8)]
    chosen = np.array([7, 2, 9, 4, 0, 5, 1])
    cut = sources.GraphSource([topology], rows, part_edges=2 * topology.num_edges)
    inputs = [
        source.batch(chosen, source.budget(chosen[None])) for source in (SOURCE, cut)
    ]
    assert inputs[1].places.shape[0] > 2
    params = jax.jit(PREDICTOR.init)(jax.random.key(1), inputs[0])

    @jax.jit
    def judge(inputs):
        def losses(params, inputs, targets):
            outputs = PREDICTOR.apply(params, inputs)
            return prediction.accuracy_loss(outputs, targets)

        targets = TARGETS[chosen]
        found = parts.value_and_gradient(losses, params, inputs, targets)
        apply = functools.partial(PREDICTOR.apply, params)
        return found, parts.outputs_of(apply, inputs, len(chosen))

    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6),
        judge(inputs[1]),
        judge(inputs[0]),
    )


def test_rows_are_read_as_their_graphs():
    """Networks of one topology as rows, against a padded batch of graphs."""
    inputs = normal(1, 1)
    topology = trace(TwoMaps(), TwoMaps().init(jax.random.key(0), inputs), inputs)
    chosen = np.arange(5)
    graph = SOURCE.batch(chosen, SOURCE.budget(chosen[None]))
    params = jax.jit(PREDICTOR.init)(jax.random.key(1), graph)
    by_rows = prediction.TopologyPredictor(PREDICTOR.module, topology, True)
    rows = WEIGHTS[:5].reshape(5, 8).astype(np.float32)
    for bidirectional in (False, True):
        predictor = dataclasses.replace(by_rows, bidirectional=bidirectional)
        source = sources.GraphSource([topology], [rows], bidirectional=bidirectional)
        graph = source.batch(chosen, source.budget(chosen[None]))
        expected = jax.jit(PREDICTOR.apply)(params, graph)
        found = jax.jit(predictor.apply)(params, rows)
        assert found.shape == (5,)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="rows: found shape .5, 7., expected"):
        by_rows.graph(rows[:, :7])


def fit(predictor=PREDICTOR, targets=TARGETS, config=CONFIG, **options):
    return prediction.fit(
        predictor,
        prediction.accuracy_loss,
        options.pop("source", SOURCE),
        targets,
        options.pop("splits", SPLITS),
        config,
        seed=options.pop("seed", 0),
        **options,
    )


def quality(result, predictor=PREDICTOR):
    """R2 on test networks."""
    rows = SPLITS["test"]
    # Batches of the size that chooses among parameters, hence its program.
    outputs = prediction.predict(
        predictor, result.params, SOURCE, rows, batch_size=CONFIG.batch_size
    )
    return scores.r_squared(TARGETS[rows], scipy.special.expit(outputs))


@pytest.fixture(scope="module")
def learned():
    return fit()


def test_graph_metanetwork_learns_an_invariant_of_the_weights(learned):
    assert learned.is_finished
    assert quality(learned) > 0.8


def test_without_steps_or_without_truth_nothing_is_learned(learned):
    """What a learner that ignores gradients, or targets, would come to."""
    batch = SOURCE.batch(SPLITS["valid"], SOURCE.budget(SPLITS["valid"][None]))
    initial = prediction._init(PREDICTOR, jax.random.key(0), batch)
    assert quality(learned._replace(params=initial)) < 0.2
    shuffled = np.random.default_rng(0).permutation(TARGETS)
    assert quality(fit(targets=shuffled)) < 0.2


@dataclasses.dataclass(frozen=True)
class Linear:
    """Scores of three classes, linear in the features."""

    def init(self, rng_key, inputs):
        return jnp.zeros((inputs.shape[-1], 3))

    def apply(self, params, inputs):
        return inputs @ params


def test_classes_are_learned_and_given_parameters_are_gone_on_from():
    features = normal(240, 4)
    truth = 3.0 * normal(4, 3)
    classes = np.argmax(features @ truth, -1)
    source = sources.VectorSource(features)

    def fit_classes(params, **changes):
        return prediction.fit(
            Linear(),
            optax.softmax_cross_entropy_with_integer_labels,
            source,
            classes,
            SPLITS,
            dataclasses.replace(CONFIG, **changes),
            seed=0,
            params=params,
        )

    learned = fit_classes(None, num_steps=200, learning_rate=0.1)
    outputs = prediction.predict(Linear(), learned.params, source, SPLITS["test"])
    assert outputs.shape == (40, 3)
    assert np.mean(np.argmax(outputs, -1) == classes[SPLITS["test"]]) > 0.8
    gone_on = fit_classes(truth, num_steps=2, learning_rate=1e-9, num_evaluations=1)
    np.testing.assert_allclose(gone_on.params, truth, atol=1e-6)


def test_graphs_may_have_several_outputs():
    """One number per graph is `[b]`, several are `[b, K]`; padding is left out."""
    for width, shape in ((1, (2,)), (3, (2, 3))):
        table = np.arange(3 * width, dtype=np.float32).reshape(3, width)
        module = types.SimpleNamespace(apply=lambda params, inputs, t=table: t)
        found = prediction.GraphPredictor(module).apply(None, None)
        np.testing.assert_array_equal(found, table[:2].reshape(shape))


def test_set_of_weights_does_not_tell(learned):
    """Without messages the pairing of weights is invisible: the task needs a graph."""
    predictor = prediction.GraphPredictor(baselines.deep_sets(16, 1))
    assert quality(fit(predictor), predictor) < 0.5 < quality(learned)


def test_outputs_do_not_depend_on_the_batch_nor_on_the_order(learned):
    rows = np.array([231, 5, 17, 231, 200, 44, 3])
    everything = np.concatenate([rows, np.arange(33)])
    together = prediction.predict(
        PREDICTOR, learned.params, SOURCE, everything, batch_size=40
    )[:7]
    found = prediction.predict(PREDICTOR, learned.params, SOURCE, rows, batch_size=3)
    assert found.shape == (7,)
    np.testing.assert_allclose(found, together, rtol=1e-4, atol=1e-5)
    assert np.ptp(together) > 0.1


def test_outputs_are_gathered_from_any_pytree():
    """A predictor that says which network it sees; sizes make batches jump."""

    @dataclasses.dataclass(frozen=True)
    class Echo:
        def init(self, rng_key, inputs):
            return jnp.zeros(())

        def apply(self, params, inputs):
            return {"same": inputs[:, 0], "pair": jnp.stack([inputs, -inputs], axis=1)}

    source = sources.VectorSource(np.arange(30.0)[:, None])
    source.sizes = np.random.default_rng(0).permutation(30)
    rows = np.array([7, 7, 29, 0, 13, 2, 21])
    for batch_size in (2, 3, 16):
        found = prediction.predict(Echo(), 0.0, source, rows, batch_size=batch_size)
        np.testing.assert_array_equal(found["same"], rows)
        np.testing.assert_array_equal(found["pair"][:, :, 0].T, [rows, -rows])


def linear_predictor():
    return prediction.VectorPredictor(nn.Dense(1))


def vectors():
    """Features of which the target is a linear function."""
    features = np.random.default_rng(1).normal(size=(240, 3))
    targets = scipy.special.expit(features @ [1.0, -2.0, 0.5] + 0.3)
    return sources.VectorSource(features), targets.astype(np.float32)


def test_logistic_regression_is_recovered():
    source, targets = vectors()
    config = dataclasses.replace(CONFIG, num_steps=600, learning_rate=5e-2)
    result = fit(linear_predictor(), targets, config, source=source)
    kernel, bias = (result.params["params"][name] for name in ("kernel", "bias"))
    np.testing.assert_allclose(kernel[:, 0], [1.0, -2.0, 0.5], atol=0.02)
    np.testing.assert_allclose(bias, [0.3], atol=0.02)
    assert 0.0 <= result.valid_loss < 1e-4


def test_loss_is_the_divergence_of_two_coins():
    outputs = np.array([-3.0, 0.0, 0.4, 2.0, 50.0], np.float32)
    targets = np.array([0.0, 0.5, 0.9, 1.0, 0.2], np.float32)
    found = prediction.accuracy_loss(jnp.asarray(outputs), jnp.asarray(targets))
    p, q = targets.astype(float), outputs.astype(float)
    # log(1 + e^x) - p x is the cross-entropy, whatever x.
    cross = np.logaddexp(0.0, q) - p * q
    entropy = np.array([0 if x in (0, 1) else -x * np.log(x) for x in p])
    entropy += np.array([0 if x in (0, 1) else -(1 - x) * np.log(1 - x) for x in p])
    np.testing.assert_allclose(found, cross - entropy, rtol=1e-5, atol=1e-6)
    assert found[1] == pytest.approx(0.0, abs=1e-6)
    gradient = jax.jit(
        jax.grad(lambda x: prediction.accuracy_loss(x, jnp.asarray(targets)).sum())
    )
    np.testing.assert_allclose(
        gradient(jnp.asarray(outputs)), scipy.special.expit(q) - p, atol=1e-6
    )


def test_best_parameters_are_those_of_lowest_validation_loss():
    """Training drives the output up; validation wants what is passed on the way."""
    source = sources.VectorSource(np.ones((4, 1)))
    targets = np.array([1.0, 1.0, 0.6, 0.6], np.float32)
    splits = {"train": np.array([0, 1]), "valid": np.array([2, 3])}
    config = prediction.PredictionConfig(
        num_steps=100, learning_rate=0.1, num_evaluations=20
    )
    result = fit(linear_predictor(), targets, config, source=source, splits=splits)
    (output,) = prediction.predict(linear_predictor(), result.params, source, [2])
    assert 0.5 < scipy.special.expit(output) < 0.75
    loss = prediction.accuracy_loss(jnp.asarray([output]), jnp.asarray([0.6]))[0]
    assert result.valid_loss == pytest.approx(float(loss), abs=1e-6)


SHORT = dataclasses.replace(CONFIG, num_steps=12, num_evaluations=3)


def noisy(rng_key, inputs):
    """Features that no two steps see alike."""
    return inputs + 0.3 * jax.random.normal(rng_key, inputs.shape)


@pytest.mark.parametrize(
    "weight_decay, disturb, in_blocks",
    [(0.0, None, None), (0.3, None, True), (0.0, noisy, None), (0.0, noisy, True)],
)
def test_steps_are_those_of_adam_along_a_schedule(weight_decay, disturb, in_blocks):
    """Against a plain loop; trainings of other length and rate share the program."""
    source, targets = vectors()
    config = prediction.PredictionConfig(
        num_steps=8, learning_rate=0.1, num_evaluations=1, weight_decay=weight_decay
    )
    predictor = linear_predictor()
    start = predictor.init(jax.random.key(3), source.example(np.arange(2)))
    given = {"source": source, "disturb": disturb, "in_blocks": in_blocks}
    result = fit(predictor, targets, config, params=start, **given)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 1, 8)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=weight_decay),
    )
    plan = sources.training_plan(source.sizes[SPLITS["train"]], 16, 8, 0)
    params, state = start, optimizer.init(start)

    @jax.jit
    def step(params, state, inputs, own):
        def loss(params):
            outputs = predictor.apply(params, inputs)
            return jnp.mean(prediction.accuracy_loss(outputs, own))

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    key = jax.random.fold_in(jax.random.key(0), 1)
    for index, rows in enumerate(SPLITS["train"][plan]):
        inputs = source.batch(rows, None)
        if disturb:
            inputs = disturb(jax.random.fold_in(key, index), inputs)
        params, state = step(params, state, inputs, targets[rows])
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6),
        result.params,
        params,
    )
    # What is judged is not disturbed.
    outputs = prediction.predict(predictor, params, source, SPLITS["valid"])
    losses = prediction.accuracy_loss(outputs, targets[SPLITS["valid"]])
    assert result.valid_loss == pytest.approx(float(losses.mean()), rel=1e-4)
    program = steps.block if in_blocks else steps.step
    count = program._cache_size()
    other = dataclasses.replace(config, num_steps=16, learning_rate=0.01)
    other = dataclasses.replace(other, num_evaluations=2)
    fit(predictor, targets, other, **given)
    assert program._cache_size() == count


def test_graphs_are_no_block():
    with pytest.raises(ValueError, match="in_blocks: found True for a GraphSource"):
        fit(in_blocks=True)


def test_stopped_fit_goes_on_to_the_same_end(tmp_path):
    source, targets = vectors()

    def run(directory, **options):
        with (
            CheckpointStore(tmp_path / directory) as store,
            MetricWriter(
                tmp_path / f"{directory}.jsonl", resume_step=store.latest_step
            ) as writer,
        ):
            return fit(
                linear_predictor(),
                targets,
                SHORT,
                source=source,
                store=store,
                writer=writer,
                **options,
            )

    whole = run("whole")
    asked = []

    def should_stop():
        asked.append(None)
        return len(asked) > 2

    assert not run("parts", should_stop=should_stop).is_finished
    steps = [record["step"] for record in read_metrics(tmp_path / "parts.jsonl")]
    assert steps == [4, 8]
    parts = run("parts")
    assert parts.is_finished
    jax.tree.map(np.testing.assert_array_equal, parts.params, whole.params)
    assert parts.valid_loss == whole.valid_loss
    logs = [read_metrics(tmp_path / f"{name}.jsonl") for name in ("parts", "whole")]
    for record in (*logs[0], *logs[1]):
        assert record.pop("seconds") > 0.0
    assert logs[0] == logs[1] and len(logs[0]) == 3
    other = fit(linear_predictor(), targets, SHORT, source=source, seed=1)
    assert (other.params["params"]["kernel"] != whole.params["params"]["kernel"]).any()


def test_networks_without_a_result_are_left_out():
    """The training is that of the other networks, and says how many it left out."""
    source, targets = vectors()
    targets = np.array(targets)
    without = np.array([5, 17, 190])
    targets[without] = (np.nan, np.inf, np.nan)
    with pytest.warns(UserWarning, match=r"left out: 2 of 160 \(train\), 1 of 40 \(va"):
        found = fit(linear_predictor(), targets, SHORT, source=source)
    splits = {name: np.setdiff1d(rows, without) for name, rows in SPLITS.items()}
    expected = fit(linear_predictor(), targets, SHORT, source=source, splits=splits)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train": []}, "splits: found 0 networks to train, 40 to choose and 0 for"),
        ({"valid": []}, "found 160 networks to train, 0 to choose"),
        ({"valid": [3, 159, 160]}, "3 to choose and 2 for both, expected some, some"),
    ],
)
def test_wrong_splits(changes, message):
    splits = {**SPLITS, **{name: np.array(rows, int) for name, rows in changes.items()}}
    with pytest.raises(ValueError, match=message):
        fit(splits=splits)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_steps": 0}, "num_steps: found 0, expected above 0"),
        ({"learning_rate": 0.0}, "learning_rate: found 0.0, expected above 0"),
        ({"weight_decay": np.nan}, "weight_decay: found nan, expected >= 0"),
        ({"gradient_norm": -1.0}, "gradient_norm: found -1.0, expected above 0"),
        ({"weight_decay": -0.1}, "weight_decay: found -0.1, expected >= 0"),
        ({"num_evaluations": 0}, "num_evaluations: found 0, expected above 0"),
    ],
)
def test_wrong_options(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_loss_that_is_not_finite_ends_the_training():
    source, targets = vectors()
    with pytest.raises(FloatingPointError, match="training loss: found nan"):
        prediction.fit(
            linear_predictor(), lambda a, b: a - b + jnp.nan, source, targets, SPLITS,
            SHORT, seed=0,
        )  # fmt: skip


def test_a_loss_that_validation_networks_never_have_is_no_result():
    source, targets = vectors()

    is_valid = np.isin(np.arange(240), SPLITS["valid"])

    def objective(outputs, targets):
        return jnp.where(targets["is_valid"], jnp.nan, (outputs - targets["one"]) ** 2)

    with pytest.raises(FloatingPointError, match="validation loss: found none that is"):
        prediction.fit(
            linear_predictor(), objective, source,
            {"one": targets, "is_valid": is_valid}, SPLITS, SHORT, seed=0,
        )  # fmt: skip


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"splits": {"train": [0]}}, "splits: found train, expected train and valid"),
        ({"splits": {"train": [0], "valid": [240]}}, "found network 240, expected 0 t"),
        ({"splits": {"train": [-1], "valid": [0]}}, "found network -1, expected 0 to"),
        ({"splits": {"train": np.arange(240) < 9, "valid": [9]}}, "found bool of shap"),
        ({"targets": np.ones(239)}, r"targets: found \(239,\), expected .* 240 netw"),
        (
            {"targets": np.full(240, 0.5, object)},
            "targets: found object, expected real",
        ),
        ({"targets": [1.0] * 240}, r"targets\[0\]: found float, expected an array"),
        (
            {"targets": {"a": np.full(240, np.nan)}},
            r"\['a'\]: found NaN .* all 160",
        ),
        (
            {"targets": np.ones(240, complex)},
            "targets: found complex128, expected real",
        ),
        ({"targets": {}}, "targets: found {}, expected an array"),
        (
            {"splits": [0, 1]},
            "splits: found list, expected numbers of networks by name",
        ),
        ({"source": np.ones((240, 3))}, "source: found ndarray, expected networks as"),
        ({"config": {"num_steps": 2}}, "config: found {'num_steps': 2}, expected"),
        ({"predictor": None}, "predictor: found NoneType, expected a predictor"),
        (
            {"predictor": prediction.GraphPredictor},
            "predictor: found GraphPredictor, expected a",
        ),
        ({"predictor": nn.Dense(1)}, r"found a module, Dense, expected .*GraphPredi"),
        ({"params": prediction.FitResult(0, 0, 0, True)}, "found FitResult, expected"),
    ],
)
def test_what_is_no_training_is_refused_before_it(changes, message):
    source, targets = vectors()
    given = {"predictor": linear_predictor(), "targets": targets} | changes
    with pytest.raises(ValueError, match=message):
        fit(**{"config": SHORT, "source": source, **given})


@pytest.mark.parametrize(
    "objective, seed, message",
    [
        ("squares", 0, "objective: found 'squares', expected a function"),
        (optax.squared_error, 1.5, "seed: found 1.5, expected"),
    ],
)
def test_what_is_no_objective_and_no_seed_is_refused(objective, seed, message):
    source, targets = vectors()
    with pytest.raises(ValueError, match=message):
        prediction.fit(
            linear_predictor(), objective, source, targets, SPLITS, SHORT, seed=seed
        )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"params": None}, "params: found None, expected those that fit gave"),
        ({"source": None}, "source: found NoneType, expected networks"),
        ({"batch_size": 0}, "batch_size: found 0, expected at least 1"),
        ({"batch_size": 1.5}, "batch_size: found 1.5, expected a whole number"),
    ],
)
def test_what_cannot_predict_is_refused(changes, message):
    given = {"params": {}, "source": vectors()[0], "batch_size": 2} | changes
    with pytest.raises(ValueError, match=message):
        prediction.predict(
            linear_predictor(), given["params"], given["source"], [0],
            batch_size=given["batch_size"],
        )  # fmt: skip


def test_targets_of_another_shape_than_outputs_are_refused():
    """Else every network would be compared with every other."""
    source, targets = vectors()
    message = r"losses of shape \(40, 40\) for targets of shape \(40, 1\), expected one"
    with jax.numpy_rank_promotion("allow"):
        with pytest.raises(ValueError, match=message):
            fit(linear_predictor(), targets[:, None], SHORT, source=source)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "rows: found no networks"),
        ([240], "rows: found network 240, expected 0 to 239"),
        (3, r"rows: found int64 of shape \(\), expected numbers of networks"),
        (np.arange(240) < 3, r"rows: found bool of shape \(240,\)"),
    ],
)
def test_rows_that_are_none_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        prediction.predict(linear_predictor(), {}, vectors()[0], rows)
