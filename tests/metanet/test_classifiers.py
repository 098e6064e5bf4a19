"""Zoos of classifiers: against a slow loop of steps, resumed, judged anew, refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from modmeta.metanet import zoo as zoo_lib
from modmeta.metanet.zoo import classifiers, families, images, recipes
from modmeta.metanet.zoo.training import network_keys

RECIPE = recipes.Recipe(
    batch_size=5,
    num_epochs=(1, 3),
    data_fractions=(0.5, 1.0),
    learning_rates=(1e-2, 1e-1),
    max_label_smoothing=0.4,
    max_dropout=0.5,
)
CONFIG = classifiers.ClassifierZooConfig(
    families=("cnn_2d", "deep_sets"),
    widths=(4,),
    num_shapes=1,
    networks_per_shape=5,
    num_valid=2,
    num_test=3,
    num_train_images=20,
    recipe=RECIPE,
    chunk_size=3,
    seed=45,
)


def make_images():
    """Noisy images of three classes of different brightness."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=130)
    pixels = rng.normal(size=(130, 4, 4, 1)) + 1.5 * labels[:, None, None, None]
    return images.make_image_set({"images": pixels, "labels": labels})


IMAGES = make_images()
SPLIT = classifiers.split_of(CONFIG, IMAGES)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo") / "classifiers"
    assert classifiers.generate_classifier_zoo(path, CONFIG, IMAGES)
    return path


@pytest.fixture(scope="module")
def groups(directory):
    found = zoo_lib.load_zoo(directory, classifiers.zoo_config(CONFIG, IMAGES))
    return list(found.groups.values())


def plain_module(group):
    return families.make_module(families.architecture_of(group.spec), 3)


def network(group, row):
    return jax.tree.map(lambda leaf: leaf[row], group.variables())


def test_groups_and_splits(groups):
    names = [group.spec.name for group in groups]
    # What the tests below rely on: normalisation and dropout, and neither of them.
    assert names == [architecture.name for architecture in CONFIG.architectures]
    assert [name.split(".")[0] for name in names] == ["cnn_2d", "deep_sets"]
    assert "batch_stats" in groups[0].variables()
    sizes = {
        split: sum(len(group.splits[split]) for group in groups)
        for split in ("train", "valid", "test")
    }
    assert sizes == {"train": 5, "valid": 2, "test": 3}
    for group in groups:
        rows = np.concatenate([group.splits[split] for split in sizes])
        assert sorted(rows) == list(range(5))


@jax.jit
def drawn_for(index):
    """Settings of a network of the zoo."""
    key_settings, *_ = network_keys(jax.random.key(CONFIG.seed), index)
    return recipes.make_draw(RECIPE, 20)(key_settings)


def test_settings_are_those_drawn_for_the_network(groups):
    """By the index of a network in the zoo, sorted by steps within a group."""
    for number, group in enumerate(groups):
        drawn = [jax.device_get(drawn_for(5 * number + index)) for index in range(5)]
        drawn.sort(key=lambda settings: settings["num_steps"])
        for name, values in group.settings.items():
            expected = [settings[name] for settings in drawn]
            np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(
            group.scores["num_steps"], group.settings["num_steps"]
        )
        assert not group.scores["is_diverged"].any()
    steps = np.concatenate([group.settings["num_steps"] for group in groups])
    assert len(set(steps.tolist())) > 3


def test_scores_are_those_of_the_stored_weights(groups):
    """Networks run one by one, by the plain module, on all test images at once."""
    for group in groups:
        apply = jax.jit(functools.partial(plain_module(group).apply, train=False))
        for row in range(5):
            logits = apply(network(group, row), SPLIT.test_images)
            logits = np.asarray(logits, np.float64)
            is_right = logits.argmax(axis=1) == SPLIT.test_labels
            accuracy = group.scores["test_accuracy"][row]
            # One image in 110 may sit on the border of two classes.
            assert accuracy == pytest.approx(is_right.mean(), abs=1.5 / 110)
            log_shares = scipy.special.log_softmax(logits, axis=1)
            loss = -log_shares[np.arange(110), SPLIT.test_labels].mean()
            assert group.scores["test_loss"][row] == pytest.approx(loss, rel=1e-4)
    accuracies = np.concatenate([group.scores["test_accuracy"] for group in groups])
    assert np.ptp(accuracies) > 0.1


def gradient_of(module):
    """`(variables, images, targets, key, dropout) -> gradient, collections`."""

    def loss(params, variables, pixels, targets, key, dropout_rate):
        network = dataclasses.replace(module, dropout_rate=dropout_rate)
        logits, collections = network.apply(
            {**variables, "params": params},
            pixels,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        shares = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.sum(targets * shares, axis=-1)), collections

    return jax.jit(
        lambda variables, *rest: jax.grad(loss, has_aux=True)(
            variables["params"], variables, *rest
        )
    )


def slow_training(module, gradient, settings, index):
    """One network, step by step: AdamW written out, settings as plain numbers."""
    _, key_init, key_training = network_keys(jax.random.key(CONFIG.seed), index)
    shape = (1, *SPLIT.train_images.shape[1:])
    variables = jax.device_get(dict(jax.jit(module.init)(key_init, np.zeros(shape))))
    settings = {name: value.item() for name, value in settings.items()}
    first = second = jax.tree.map(np.zeros_like, variables["params"])
    for step in range(settings["num_steps"]):
        key_rows, key_dropout = jax.random.split(jax.random.fold_in(key_training, step))
        shape = (RECIPE.batch_size,)
        rows = jax.random.randint(key_rows, shape, 0, settings["num_images"])
        rows = (np.asarray(rows) + settings["first_image"]) % 20
        smoothing = settings["label_smoothing"]
        targets = np.eye(3, dtype=np.float32)[SPLIT.train_labels[rows]]
        targets = targets * (1 - smoothing) + smoothing / 3
        slope, collections = jax.device_get(
            gradient(
                variables,
                SPLIT.train_images[rows],
                targets.astype(np.float32),
                key_dropout,
                settings["dropout_rate"],
            )
        )
        share = step / settings["num_steps"]
        rate = settings["learning_rate"] * min((share + 0.01) / 0.2, (1 - share) / 0.8)
        decay = settings["weight_decay"]
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, slope)

        def update(w, m, v, step=step, rate=rate, decay=decay):
            m, v = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
            return np.float32(w - rate * (m / (np.sqrt(v) + 1e-8) + decay * w))

        params = jax.tree.map(update, variables["params"], first, second)
        variables = {**variables, **collections, "params": params}
    return variables


def test_networks_are_trained_as_their_settings_say(groups):
    """Against a loop that knows no patches, no mapping over networks and no optax."""
    for number, group in enumerate(groups):
        indices = 5 * number + np.arange(5)
        steps = [int(drawn_for(index)["num_steps"]) for index in indices]
        order = np.argsort(steps, kind="stable")
        module = plain_module(group)
        gradient = gradient_of(module)
        for row in (0, 2, 4):
            settings = {name: values[row] for name, values in group.settings.items()}
            expected = slow_training(module, gradient, settings, indices[order[row]])
            found = network(group, row)
            # Adam divides by gradients that may be nearly zero: a few weights differ.
            found, expected = (
                np.asarray(zoo_lib.flatten(jax.tree.map(lambda leaf: leaf[None], tree)))
                for tree in (found, expected)
            )
            gaps = np.abs(found - expected)
            assert np.quantile(gaps, 0.9) < 1e-3
            assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def test_regeneration_changes_nothing_and_goes_on(directory, tmp_path):
    """Stopped after two chunks; then the same as the zoo of one sitting."""
    calls = []

    def should_stop():
        calls.append(None)
        return len(calls) > 2

    path = tmp_path / "zoo"
    assert not classifiers.generate_classifier_zoo(
        path, CONFIG, IMAGES, should_stop=should_stop
    )
    assert len(list(path.glob("*.npz"))) == 2
    assert classifiers.generate_classifier_zoo(path, CONFIG, IMAGES)
    config = classifiers.zoo_config(CONFIG, IMAGES)
    found, expected = (zoo_lib.load_zoo(place, config) for place in (path, directory))
    for name, group in expected.groups.items():
        for part in ("parameters", "settings", "scores", "splits"):
            jax.tree.map(
                np.testing.assert_array_equal,
                getattr(found.groups[name], part),
                getattr(group, part),
            )


def one_network(**settings):
    """The task of a CNN with dropout, and settings of one of its networks."""
    architecture = families.Architecture("cnn_2d", 4, 1)
    module = families.make_module(architecture, 3)
    task = recipes.make_task(RECIPE, module, (4, 4, 1), 20)
    drawn = task.draw(jax.random.key(0))
    drawn = {**drawn, **{name: jnp.float32(value) for name, value in settings.items()}}
    variables = task.init(jax.random.key(1), drawn)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    return task, drawn, variables


@functools.partial(jax.jit, static_argnums=0)
def one_loss(task, variables, data, key, drawn):
    return task.loss(variables, data, key, 0, drawn)[0]


def test_label_smoothing_and_dropout_change_the_loss():
    data = images.ImageSplit(*map(jnp.asarray, SPLIT))
    key = jax.random.key(2)

    def loss(**settings):
        task, drawn, variables = one_network(**settings)
        return float(one_loss(task, variables, data, key, drawn))

    plain = loss(label_smoothing=0.0, dropout_rate=0.0)
    smoothed = loss(label_smoothing=0.3, dropout_rate=0.0)
    whole = loss(label_smoothing=1.0, dropout_rate=0.0)
    # The loss is linear in the targets.
    assert smoothed == pytest.approx(0.7 * plain + 0.3 * whole, rel=1e-5)
    assert abs(whole - plain) > 0.01
    dropped = loss(label_smoothing=0.0, dropout_rate=0.5)
    assert abs(dropped - plain) > 0.01
    # Nearly all channels dropped: the bias of the head decides, which is 0.1 for all.
    nothing = loss(label_smoothing=0.0, dropout_rate=0.999999)
    assert nothing == pytest.approx(np.log(3), abs=1e-4)


def test_images_beyond_the_share_of_a_network_are_never_seen():
    """Where all others are NaN, the loss is not."""
    task, drawn, variables = one_network()
    drawn = {**drawn, "num_images": jnp.int32(7), "first_image": jnp.int32(16)}
    seen = np.array([16, 17, 18, 19, 0, 1, 2])
    pixels = np.full_like(SPLIT.train_images, np.nan)
    pixels[seen] = SPLIT.train_images[seen]
    data = images.ImageSplit(jnp.asarray(pixels), *map(jnp.asarray, SPLIT[1:]))
    keys = jax.random.split(jax.random.key(0), 20)
    losses = [float(one_loss(task, variables, data, key, drawn)) for key in keys]
    assert np.isfinite(losses).all()
    # Every one of them is: without it, some batch is NaN.
    for row in seen:
        spoiled = pixels.copy()
        spoiled[row] = np.nan
        spoiled = images.ImageSplit(jnp.asarray(spoiled), *data[1:])
        losses = [one_loss(task, variables, spoiled, key, drawn) for key in keys]
        assert np.isnan(losses).any()


def test_recipe_draws_from_its_ranges():
    """Kolmogorov-Smirnov and chi-square; would fail by chance in 1 of 1,000 keys."""
    recipe = recipes.Recipe(num_epochs=(3, 6), data_fractions=(0.1, 0.33, 1.0))
    draw = jax.jit(jax.vmap(recipes.make_draw(recipe, 100)))
    found = jax.device_get(draw(jax.random.split(jax.random.key(0), 900)))
    uniform = {
        "learning_rate": (np.log(found["learning_rate"]), *np.log([2e-3, 1e-1])),
        "weight_decay": (np.log(found["weight_decay"]), *np.log([1e-5, 1e-1])),
        "label_smoothing": (found["label_smoothing"], 0.0, 0.2),
        "dropout_rate": (found["dropout_rate"], 0.0, 0.2),
    }
    for values, low, high in uniform.values():
        result = scipy.stats.kstest(values, "uniform", args=(low, high - low))
        assert result.pvalue > 0.001 / 7
    for name, values in (
        ("num_epochs", (3, 4, 5, 6)),
        ("num_images", (10, 33, 100)),
        ("first_image", range(100)),
    ):
        counts = [(found[name] == value).sum() for value in values]
        assert sum(counts) == 900
        assert scipy.stats.chisquare(counts).pvalue > 0.001 / 7
    batches = np.ceil(found["num_images"] / recipe.batch_size)
    np.testing.assert_array_equal(found["num_steps"], found["num_epochs"] * batches)
    assert found["num_steps"].max() == recipe.largest_num_steps(100) == 30
    # Nothing of it hangs together by the key.
    table = np.stack([found[name] for name in (*uniform, "num_epochs", "first_image")])
    correlations = np.corrcoef(table) - np.eye(len(table))
    assert np.abs(correlations).max() < 5 / np.sqrt(900)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 0}, "batch_size: found 0, expected at least 1"),
        (
            {"num_epochs": (0, 3)},
            r"num_epochs: found \(0, 3\), expected two ends above",
        ),
        ({"learning_rates": (0.2, 0.1)}, "learning_rates: found .* the lower first"),
        ({"weight_decays": (0.1,)}, "weight_decays: found .* expected two ends"),
        ({"data_fractions": ()}, r"data_fractions: found \(\), expected above 0 to 1"),
        ({"data_fractions": (0.5, 1.1)}, "data_fractions: found .* expected above 0"),
        ({"max_dropout": 1.0}, "max_dropout: found 1.0, expected 0 to below 1"),
        ({"max_label_smoothing": -0.1}, "max_label_smoothing: found -0.1"),
    ],
)
def test_wrong_recipes(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECIPE, **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"families": ("cnn_2d", "mlp")},
            "families: found .* expected some of cnn_2d,",
        ),
        ({"families": ("vit", "vit")}, "families: found .* each once"),
        ({"families": ()}, r"families: found \(\)"),
        ({"num_shapes": 0}, "num_shapes: found 0, expected at least 1"),
        ({"chunk_size": 0}, "chunk_size: found 0, expected at least 1"),
    ],
)
def test_wrong_zoos(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_zoos_that_cannot_be(tmp_path):
    few = dataclasses.replace(CONFIG, num_test=8)
    with pytest.raises(
        ValueError, match="found 2 and 8, expected less than the 10 net"
    ):
        classifiers.generate_classifier_zoo(tmp_path / "zoo", few, IMAGES)
    many = dataclasses.replace(CONFIG, num_train_images=131)
    with pytest.raises(images.ImageError, match="num_train: found 131, expected 1 to"):
        classifiers.generate_classifier_zoo(tmp_path / "zoo", many, IMAGES)
    assert not (tmp_path / "zoo").exists()


def test_zoo_of_other_images_is_refused(directory):
    other = IMAGES._replace(images=IMAGES.images + np.float32(1.0))
    with pytest.raises(zoo_lib.ZooError, match="images: found .*, expected"):
        classifiers.generate_classifier_zoo(directory, CONFIG, other)
