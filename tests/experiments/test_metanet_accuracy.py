"""The accuracy experiment, run whole in a size below its smallest preset.

Files and fields, scores computed anew, the chosen models read back, a run stopped and
failed against an uninterrupted one to the bit, and images and zoos that are refused.
"""

import dataclasses
import itertools
import json
import os
import re
import signal

import jax
import numpy as np
import pytest
import scipy.special

from experiments import common
from experiments.common import image_data
from experiments.metanet_accuracy import config as config_lib
from experiments.metanet_accuracy import contenders, networks, report, train
from modmeta.metanet import zoo
from modmeta.metanet.learning import prediction
from modmeta.metanet.parameter_graphs import scaling
from modmeta.metanet.zoo import classifiers, families, images
from modmeta.runtime.artifact import load_artifact
from modmeta.runtime.checkpoint import CheckpointStore
from modmeta.runtime.metrics import read_metrics

FILES = {
    "config.json",
    "summary.json",
    "predictions.npz",
    "predictions.png",
    "learning_curves.png",
    "models",
    "zoo",
}
CLOCKS = ("zoo_seconds", "total_seconds")
MODELS = ("gmn", "deep_sets", "weight_convolution", "statistics", "architecture")
CHANGES = {
    "models": MODELS,
    "zoo.families": ("cnn_2d", "deep_sets"),
    "zoo.widths": (4,),
    "zoo.networks_per_shape": 14,
    "zoo.num_valid": 4,
    "zoo.num_test": 10,
    "zoo.num_train_images": 40,
    "zoo.num_test_images": 60,
    "zoo.recipe.num_epochs": (1, 6),
    "zoo.recipe.batch_size": 10,
    "zoo.chunk_size": 14,
    "metanet.width": 8,
    "metanet.num_blocks": 1,
    "training.num_steps": 6,
    "training.num_evaluations": 3,
    # As many as choose: they and the test networks share a program.
    "training.batch_size": 4,
    "vector_training.num_steps": 6,
    "vector_training.num_evaluations": 3,
    "vector_training.batch_size": 4,
    "num_resamples": 15,
}


def write_images(path, offset=0.0):
    """Noisy images of three classes of different brightness."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=110)
    pixels = rng.normal(size=(110, 4, 4, 1)) + labels[:, None, None, None] + offset
    images.save_images(
        path, images.make_image_set({"images": pixels, "labels": labels})
    )
    return str(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = write_images(tmp_path_factory.mktemp("images") / "images.npz")
    preset = config_lib.smoke(config_lib.digits())
    return common.override(preset, {**CHANGES, "images": path})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config):
    """A finished run: its directory and summary."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, run(config, workdir)


@pytest.fixture(scope="module")
def found(finished):
    """Its `predictions.npz`."""
    with np.load(finished[0] / "predictions.npz") as file:
        return dict(file)


def run(config, workdir, **options):
    return common.run(train.EXPERIMENT, config, workdir, **options)


def test_files_and_summary(finished, config):
    workdir, summary = finished
    assert {path.name for path in workdir.iterdir()} == FILES
    written = json.loads((workdir / "summary.json").read_text())
    assert written == common.as_json(summary)
    assert written["config"] == common.as_json(config)
    assert [written[f"num_{split}"] for split in ("train", "valid", "test")] == [
        14,
        4,
        10,
    ]
    assert tuple(written["models"]) == MODELS
    sizes = [model["num_parameters"] for model in written["models"].values()]
    assert max(sizes) < 1.5 * min(sizes)
    for name, model in written["models"].items():
        records = read_metrics(workdir / "models" / name / "metrics.jsonl")
        assert [record["step"] for record in records] == [2, 4, 6]
        assert model["train_seconds"] == records[-1]["seconds"] > 0.0
        losses = [record["valid_loss"] for record in records]
        assert model["valid_loss"] == pytest.approx(min(losses))
    assert 0.0 < written["zoo_seconds"] < written["total_seconds"]


def test_zoo_is_described(finished):
    workdir, summary = finished
    groups = zoo.load_zoo(workdir / "zoo").groups.values()
    accuracies = np.concatenate([group.scores["test_accuracy"] for group in groups])
    described = summary["zoo"]
    assert described["num_shapes"] == 2 and described["num_diverged"] == 0
    assert described["accuracy"]["mean"] == pytest.approx(accuracies.mean())
    assert described["accuracy"]["highest"] == accuracies.max()
    sets = described["accuracy_by_family"]["deep_sets"]
    assert sets["standard_deviation"] == pytest.approx(accuracies[14:].std())
    # Something is there to be told.
    assert np.ptp(accuracies) > 0.2


def test_predictions_are_about_the_test_networks(finished, found, config):
    workdir, _ = finished
    spec = zoo.read_spec(workdir / "zoo")
    np.testing.assert_array_equal(found["network"], spec.splits["test"])
    groups = zoo.load_zoo(workdir / "zoo").groups.values()
    accuracies = np.concatenate([group.scores["test_accuracy"] for group in groups])
    np.testing.assert_array_equal(found["accuracy"], accuracies[found["network"]])
    expected = np.where(found["network"] < 14, "cnn_2d", "deep_sets")
    np.testing.assert_array_equal(found["family"], expected)


def r_squared(targets, predictions):
    return 1 - np.sum((targets - predictions) ** 2) / np.sum(
        (targets - targets.mean()) ** 2
    )


def tau(targets, predictions):
    """Tau-b, pair by pair."""
    agreement = target_pairs = prediction_pairs = 0
    for i, j in itertools.combinations(range(len(targets)), 2):
        first = np.sign(targets[i] - targets[j])
        second = np.sign(predictions[i] - predictions[j])
        agreement += first * second
        target_pairs += first != 0
        prediction_pairs += second != 0
    total = target_pairs * prediction_pairs
    return agreement / np.sqrt(total) if total else np.nan


def resampled(statistic, *arrays):
    """Ends of the bootstrap interval."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(len(arrays[0]), size=len(arrays[0])) for _ in range(15)]
    values = [statistic(*(array[row] for array in arrays)) for row in rows]
    return np.quantile([value for value in values if value == value], [0.025, 0.975])


def test_scores_computed_anew(finished, found):
    targets = found["accuracy"].astype(np.float64)
    first = found["predicted/gmn"]
    for name, model in finished[1]["models"].items():
        predicted = found[f"predicted/{name}"].astype(np.float64)
        assert model["r_squared"]["value"] == pytest.approx(
            r_squared(targets, predicted)
        )
        assert model["kendall_tau"]["value"] == pytest.approx(
            tau(targets, predicted), nan_ok=True
        )
        by_family = []
        for family, value in model["kendall_tau_by_family"].items():
            is_member = found["family"] == family
            by_family.append(tau(targets[is_member], predicted[is_member]))
            assert value == pytest.approx(by_family[-1], nan_ok=True)
        defined = [value for value in by_family if value == value]
        assert model["kendall_tau_within_families"]["value"] == pytest.approx(
            np.mean(defined) if defined else np.nan, nan_ok=True
        )
        num_steps = found["num_steps"]
        quarters = model["by_training_steps"]
        assert sum(part["num_networks"] for part in quarters) == len(targets)
        for part, after in itertools.pairwise(quarters):
            assert part["most"] < after["fewest"]
        for part in quarters:
            is_member = (num_steps >= part["fewest"]) & (num_steps <= part["most"])
            assert is_member.sum() == part["num_networks"]
            assert part["root_mean_squared_error"] ** 2 == pytest.approx(
                np.mean((targets - predicted)[is_member] ** 2), rel=1e-4
            )
            assert part["r_squared"]["value"] == pytest.approx(
                r_squared(targets[is_member], predicted[is_member])
                if len(np.unique(targets[is_member])) > 1
                else np.nan,
                nan_ok=True,
            )
            assert part["kendall_tau"]["value"] == pytest.approx(
                tau(targets[is_member], predicted[is_member]), nan_ok=True
            )
        low, high = resampled(r_squared, targets, predicted)
        assert model["r_squared"]["low"] == pytest.approx(low)
        assert model["r_squared"]["high"] == pytest.approx(high)
        assert ("r_squared_behind_first" in model) == (name != "gmn")
        if name != "gmn":
            behind = model["r_squared_behind_first"]
            gap = r_squared(targets, first) - r_squared(targets, predicted)
            assert behind["value"] == pytest.approx(gap, abs=1e-6)
            low, _ = resampled(
                lambda t, one, other: r_squared(t, one) - r_squared(t, other),
                targets,
                first.astype(np.float64),
                predicted,
            )
            assert behind["low"] == pytest.approx(low, abs=1e-6)


def test_chosen_models_predict_what_was_scored(finished, found, config):
    """From the file of parameters alone; the metanetwork one network at a time."""
    workdir, summary = finished
    known = networks.read_networks(
        workdir / "zoo", config, image_data.read_images(config.images)
    )
    for name, contender in contenders.make_contenders(config, known).items():
        path = workdir / "models" / name / "model.npz"
        params, metadata = load_artifact(path, kind=report.MODEL_KIND)
        assert metadata["model"] == name
        assert summary["models"][name]["num_parameters"] == contender.num_parameters
        outputs = prediction.predict(
            contender.predictor,
            params,
            contender.source,
            known.splits["test"],
            batch_size=1 if name == "gmn" else contender.training.batch_size,
        )
        np.testing.assert_allclose(
            scipy.special.expit(outputs), found[f"predicted/{name}"], atol=1e-5
        )
        # Not all the same.
        assert np.ptp(outputs) > 1e-4


def test_all_models_have_as_many_parameters(finished, config):
    """The metanetwork without messages, and with the published read-out, too."""
    known = networks.read_networks(
        finished[0] / "zoo", config, image_data.read_images(config.images)
    )
    config = dataclasses.replace(config, models=config_lib.MODELS)
    made = contenders.make_contenders(config, known)
    sizes = [contender.num_parameters for contender in made.values()]
    assert max(sizes) < 1.5 * min(sizes)
    assert made["scale_gmn"].predictor == made["gmn"].predictor
    modules = {name: made[name].predictor.module for name in ("gmn", "layer_sets")}
    blocks = [module.config.num_blocks for module in modules.values()]
    assert blocks == [config.metanet.num_blocks, 0]


def test_scales_of_units_are_not_seen(finished, config):
    """Rescaled networks are the same to `scale_gmn`, and others to the metanetwork."""
    known = networks.read_networks(
        finished[0] / "zoo", config, image_data.read_images(config.images)
    )
    groups = []
    for group, topology in zip(known.groups, known.topologies, strict=True):
        factors = scaling.sample_scaling(jax.random.key(1), topology)
        rescaled = jax.vmap(
            lambda one, t=topology, f=factors: t.flatten(
                scaling.apply_scaling(t, one, f)
            )
        )(group.variables())
        groups.append(dataclasses.replace(group, parameters=np.asarray(rescaled)))
    before = contenders.canonical_parameters(known)
    after = contenders.canonical_parameters(known._replace(groups=tuple(groups)))
    changed = [
        np.abs(new.parameters - old.parameters).max()
        for new, old in zip(groups, known.groups, strict=True)
    ]
    assert max(changed) > 0.05
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-5)


def test_architecture_sees_no_weights(finished, found):
    """Networks of one shape get one prediction, from this model alone."""
    for family in ("cnn_2d", "deep_sets"):
        is_member = found["family"] == family
        assert np.ptp(found["predicted/architecture"][is_member]) < 1e-6
        assert np.ptp(found["predicted/gmn"][is_member]) > 1e-4


def test_table_on_the_screen(finished):
    text = report.format_summary(common.as_json(finished[1]))
    assert text == report.format_summary(finished[1])
    for part in (
        "GMN",
        "DMC",
        "tau in families",
        "trained for",
        "14 training, 4 validation and 10 test networks of 2 shapes",
    ):
        assert part in text


def test_finished_run_is_reported_at_once(finished, config, monkeypatch):
    workdir, summary = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}

    def generate(*_, **__):
        raise AssertionError("a finished run needs no zoo")

    monkeypatch.setattr(classifiers, "generate_classifier_zoo", generate)
    assert run(config, workdir) == common.as_json(summary)
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    with pytest.raises(FileExistsError, match="a finished run of another conf"):
        run(dataclasses.replace(config, seed=1), workdir)


def assert_same_run(found, path, expected, whole):
    """A run of some of the models, with what a run of all says of these."""
    found, expected = common.as_json(found), common.as_json(expected)
    names = tuple(found["models"])
    expected["models"] = {name: expected["models"][name] for name in names}
    for summary in (found, expected):
        assert summary.pop("config")["seed"] == 0
        for clock in CLOCKS:
            assert summary.pop(clock) > 0.0
        for model in summary["models"].values():
            assert model.pop("train_seconds") > 0.0
    assert found == expected
    with np.load(path / "predictions.npz") as one:
        assert {f"predicted/{name}" for name in names} < set(one.files)
    files = ["predictions.npz", *(f"models/{name}/model.npz" for name in names)]
    for name in files:
        with np.load(path / name) as one, np.load(whole / name) as other:
            assert one.files and set(one.files) <= set(other.files)
            for array in one.files:
                np.testing.assert_array_equal(one[array], other[array])


def test_run_stopped_thrice_goes_on_to_the_same_end(
    finished, config, tmp_path, monkeypatch
):
    """SIGTERM after the first chunk of networks, then after the first checkpoint.

    And a full disk in the second model, between the record of an evaluation and its
    checkpoint.
    """
    whole, expected = finished
    config = dataclasses.replace(config, models=("gmn", "deep_sets"))

    def signalled(function):
        def wrapped(*args, **kwargs):
            result = function(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGTERM)
            return result

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(classifiers, "flatten", signalled(classifiers.flatten))
        # On more cores another chunk is in training by then.
        patch.setattr(os, "cpu_count", lambda: 1)
        assert run(config, tmp_path) is None
    assert len(list((tmp_path / "zoo").glob("*.npz"))) == 1
    save, saved = CheckpointStore.save, []
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", signalled(save))
        assert run(config, tmp_path) is None
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"gmn"}

    def save_or_fail(store, step, tree):
        saved.append(step)
        if len(saved) == 4:
            raise OSError("No space left on device")
        save(store, step, tree)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", save_or_fail)
        with pytest.raises(OSError, match="No space left"):
            run(config, tmp_path)
    steps = {
        name: [record["step"] for record in read_metrics(path / "metrics.jsonl")]
        for name in ("gmn", "deep_sets")
        for path in [tmp_path / "models" / name]
    }
    assert steps == {"gmn": [2, 4, 6], "deep_sets": [2, 4]}
    assert not (tmp_path / "summary.json").exists()
    assert_same_run(run(config, tmp_path), tmp_path, expected, whole)


def test_zoo_is_shared_by_runs(finished, config, tmp_path):
    """Fewer training networks and models of the same zoo, which stays as it is.

    Learning rates are tried, and a part of the networks is trained with, too.
    """
    directory = finished[0] / "zoo"
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    other = dataclasses.replace(
        config,
        num_train=6,
        counts=(4,),
        learning_rates=(1e-6, 1e-2),
        pilot_share=0.5,
        seed=1,
        models=("statistics", "architecture"),
    )
    few, some, all_of_them = (set(other.splits(n)["train"]) for n in (4, 0, 14))
    assert few < some < all_of_them and len(few) == 4
    summary = run(other, tmp_path / "run", zoo_directory=directory)
    assert summary["num_train"] == 6 and summary["num_test"] == 10
    assert tuple(summary["models"]) == ("statistics", "architecture")
    for name, model in summary["models"].items():
        place = tmp_path / "run" / "models" / name
        tried = {
            rate: read_metrics(place / "pilots" / f"{rate:g}" / "metrics.jsonl")
            for rate in other.learning_rates
        }
        assert [records[-1]["step"] for records in tried.values()] == [3, 3]
        losses = {rate: records[-1]["valid_loss"] for rate, records in tried.items()}
        assert model["learning_rates"] == [min(losses, key=losses.get)]
        records = read_metrics(place / "of_4" / "metrics.jsonl")
        found = summary["models_by_count"]["4"][name]
        assert found["valid_loss"] == min(record["valid_loss"] for record in records)
        whole = read_metrics(place / "metrics.jsonl")
        assert [r["loss"] for r in records] != [r["loss"] for r in whole]
    assert (tmp_path / "run" / "training_sizes.png").exists()
    text = report.format_summary(summary)
    assert len(re.findall(r"^ *[46] +StatNN", text, re.MULTILINE)) == 2
    assert "StatNN on test networks that were themselves" in text
    assert before == {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert not (tmp_path / "run" / "zoo").exists()


def test_probing_and_the_mean_of_two_models(finished, config, tmp_path):
    """What networks say of training images, one by one; nothing more is trained."""
    directory = finished[0] / "zoo"
    names = ("gmn_and_probing", "gmn", "probing")
    both = dataclasses.replace(config, models=names, counts=(6,))
    summary = run(both, tmp_path, zoo_directory=directory)
    assert tuple(summary["models"]) == tuple(summary["models_by_count"]["6"]) == names
    assert {path.name for path in (tmp_path / "models").iterdir()} == set(names[1:])
    with np.load(tmp_path / "predictions.npz") as file:
        one, other, mean = (
            file[f"predicted/{name}"] for name in (*names[1:], names[0])
        )
    np.testing.assert_allclose(mean, (one + other) / 2, rtol=1e-6)
    found = summary["models"]
    for key in ("num_parameters", "train_seconds"):
        assert found[names[0]][key] == found["gmn"][key] + found["probing"][key]
    text = report.format_summary(common.as_json(summary))
    assert len(re.findall(r"^ *\d+ +GMN and probing", text, re.MULTILINE)) == 2
    image_set = image_data.read_images(config.images)
    known = networks.read_networks(directory, config, image_set)
    assert known.probes.shape == (40, 4, 4, 1)
    logits = []
    for group in known.groups:
        module = families.make_module(families.architecture_of(group.spec), 3)
        for index in range(len(group.parameters)):
            own = jax.tree.map(lambda leaf, i=index: leaf[i], group.variables())
            logits.append(np.ravel(module.apply(own, known.probes, train=False)))
    logits = np.stack(logits)
    chosen = logits[known.splits["train"]]
    np.testing.assert_allclose(
        contenders.make_contenders(both, known)["probing"].source.features,
        (logits - chosen.mean(0)) / chosen.std(0),
        atol=1e-3,
    )
    with pytest.raises(ValueError, match="gmn_and_probing without probing, expected"):
        dataclasses.replace(config, models=("gmn", "gmn_and_probing"))


def test_wrong_zoos_and_images_leave_no_directory_behind(finished, config, tmp_path):
    workdir, directory = tmp_path / "run", finished[0] / "zoo"
    changed = common.override(config, {"zoo.seed": 7})
    with pytest.raises(zoo.ZooError, match="seed: found 0, expected 7"):
        run(changed, workdir, zoo_directory=directory)
    shifted = dataclasses.replace(
        config, images=write_images(tmp_path / "shifted.npz", offset=1.0)
    )
    with pytest.raises(zoo.ZooError, match="images: found .*, expected"):
        run(shifted, workdir, zoo_directory=directory)
    with pytest.raises(zoo.ZooError, match="zoo.json: found no file, expected a zoo"):
        run(config, workdir, zoo_directory=tmp_path)
    missing = dataclasses.replace(config, images=str(tmp_path / "none.npz"))
    with pytest.raises(images.ImageError, match="none.npz: found no file"):
        run(missing, workdir)
    many = common.override(config, {"zoo.num_train_images": 111})
    with pytest.raises(images.ImageError, match="num_train: found 111, expected 1 to"):
        run(many, workdir)
    assert not workdir.exists()


def test_damaged_zoo_is_named(finished, config, tmp_path):
    directory = tmp_path / "zoo"
    directory.mkdir()
    for path in (finished[0] / "zoo").iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    chunk = sorted(directory.glob("deep_sets*.npz"))[0]
    chunk.write_bytes(chunk.read_bytes()[:-100])
    with pytest.raises(zoo.ZooError, match=f"{chunk.name}: found a damaged file"):
        run(config, tmp_path / "run", zoo_directory=directory)
