"""The editing experiment: edits against SciPy, options, and one small run."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import scipy.ndimage

from experiments import common
from experiments.common import image_data
from experiments.metanet_editing import config as config_lib
from experiments.metanet_editing import contenders, networks, train
from modmeta.metanet.models.responses import units_of
from modmeta.metanet.zoo import images

CONFIG = common.override(
    config_lib.smoke(config_lib.digits()),
    {"editors": ("pointwise",), "readers": ("probing",), "num_heads": (2,)},
)


@pytest.fixture(scope="module")
def image_file(tmp_path_factory):
    """Forty images of 4x5 pixels in two classes."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    pixels = np.random.default_rng(0).uniform(0, 1, (40, 4, 5, 1)).astype(np.float32)
    images.save_images(path, images.ImageSet(pixels, np.arange(40, dtype="i4") % 2))
    return path


def test_edits():
    pictures = np.random.default_rng(0).uniform(0, 1, (3, 5, 6, 2))
    found = networks.edited(pictures, "dilate")
    for number in range(3):
        for channel in range(2):
            expected = scipy.ndimage.grey_dilation(
                pictures[number, ..., channel],
                size=(3, 3),
                mode="constant",
                cval=-np.inf,
            )
            np.testing.assert_array_equal(found[number, ..., channel], expected)
    curve = networks.edited(np.linspace(0, 1, 11).reshape(1, 11, 1, 1), "contrast")
    assert curve[0, [0, 5, 10], 0, 0].tolist() == pytest.approx([0, 0.5, 1])
    assert (np.diff(curve[0, :, 0, 0]) > 0).all()
    assert networks.edited(pictures, "none") is pictures


@pytest.mark.parametrize(
    "shape, rows, columns",
    [
        ((4, 5), range(4), range(5)),
        ((14, 15), range(14), range(0, 15, 2)),
        ((16, 28), range(0, 16, 2), range(0, 28, 2)),
        ((1, 32), range(1), range(0, 32, 3)),
    ],
)
def test_units_are_watched_at_fourteen_pixels_a_side_at_most(shape, rows, columns):
    expected = [row * shape[1] + column for row in rows for column in columns]
    assert networks.seen_pixels(*shape).tolist() == expected


@pytest.fixture(scope="module")
def finished(tmp_path_factory, image_file):
    config = common.override(CONFIG, {"images": str(image_file)})
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return config, workdir, common.run(train.EXPERIMENT, config, workdir)


def test_files_and_summary(finished):
    config, workdir, summary = finished
    assert {path.name for path in workdir.iterdir()} == {
        "config.json",
        "summary.json",
        "edited.npz",
        "edited.png",
        "accuracy.png",
        "models",
        "zoo",
    }
    written = json.loads((workdir / "summary.json").read_text())
    assert written == common.as_json(summary)
    image_set = image_data.read_images(config.images)
    found = networks.read_networks(workdir / "zoo", config, image_set)
    rows = found.splits["test"]
    rendered = np.asarray(found.render(found.rows[rows]))
    outputs = units_of(found.topology, "params/layer_2/kernel")
    known = np.asarray(found.responses(found.rows[rows]))[:, outputs]
    np.testing.assert_allclose(known[:, :, 0], rendered[:, 0], atol=1e-5)
    identity = np.mean((rendered - found.targets[rows]) ** 2)
    assert written["identity_mse"] == pytest.approx(identity, rel=1e-4)
    known = found.splits["train"]
    design = np.asarray(found.render(found.rows[known])).reshape(-1, 1)
    design = np.concatenate([design, np.ones_like(design)], axis=1)
    slope = np.linalg.lstsq(design, found.targets[known].reshape(-1))[0]
    tone = np.mean((slope[0] * rendered + slope[1] - found.targets[rows]) ** 2)
    assert written["tone_mse"] == pytest.approx(tone, rel=1e-3)
    mean = np.mean((found.targets[known].mean(axis=0) - found.targets[rows]) ** 2)
    assert written["mean_mse"] == pytest.approx(mean, rel=1e-4)
    with np.load(workdir / "edited.npz") as file:
        np.testing.assert_array_equal(file["target"], found.targets[rows])
        error = np.mean((file["edited/pointwise_2"] - file["target"]) ** 2)
    scores = written["editors"]["pointwise_2"]
    assert scores["mse"] == pytest.approx(error, rel=1e-4)
    assert scores["share"] == pytest.approx(error / identity, rel=1e-4)
    assert set(written["editors"]) == {"pointwise_2", "pointwise_2_of_12"}
    assert set(written["readers"]["probing"]["accuracy"]) == {"12", "24"}
    psnr = -10 * np.log10(found.fit_mse)
    assert written["psnr_median"] == pytest.approx(np.median(psnr), rel=1e-4)
    text = train.EXPERIMENT.format_summary(written)
    for part in ("pointwise", "share of identity", "12 images", "4 x 5 x 1"):
        assert part in text


def test_disturbed_networks_compute_the_same(finished):
    """Signs and half turns change weights alone; noise has the size that is said."""
    config, workdir, _ = finished
    turned = common.override(config, {"canonical": False, "half_turns": 1})
    image_set = image_data.read_images(config.images)
    found = networks.read_networks(workdir / "zoo", turned, image_set)
    rows, key = found.rows[found.splits["train"]], jax.random.key(0)
    drawn = found.disturb(key, rows)
    assert np.abs(drawn - rows).max(axis=1).min() > 0.05
    pictures = found.render(rows)
    np.testing.assert_allclose(found.render(drawn), pictures, atol=1e-4)
    # What readers see: normalised, with responses after them.
    disturb = contenders.disturb_normalized(found)
    responses = found.responses(rows).reshape(len(rows), -1)
    seen = np.concatenate([found.statistics.normalize(rows), responses], axis=1)
    seen = disturb(key, seen)
    np.testing.assert_allclose(
        seen[:, : rows.shape[1]], found.statistics.normalize(drawn), atol=1e-4
    )
    new = seen[:, rows.shape[1] :].reshape(len(rows), found.topology.num_nodes, -1)
    np.testing.assert_allclose(
        np.abs(new), np.abs(responses.reshape(new.shape)), atol=1e-3
    )
    outputs = units_of(found.topology, "params/layer_2/kernel")
    np.testing.assert_allclose(new[:, outputs[0]], pictures[..., 0], atol=1e-4)
    assert np.abs(new - responses.reshape(new.shape)).max() > 0.1

    noisy = common.override(config, {"weight_noise": 0.2})
    disturb = networks.disturbance(noisy, [], found.statistics)
    noise = (disturb(key, rows) - rows) / found.statistics.deviation[None]
    assert np.std(noise) == pytest.approx(0.2, rel=0.1)
    assert networks.disturbance(config, [], found.statistics) is None


def test_refusals(finished, tmp_path):
    config, _, _ = finished
    with pytest.raises(images.ImageError, match="found 40 for all, expected at least"):
        common.run(
            train.EXPERIMENT,
            common.override(config, {"zoo.num_test": 9}),
            tmp_path / "r",
        )
    assert not (tmp_path / "r").exists()
    with pytest.raises(ValueError, match="data: found no file, expected images"):
        common.configure(train.EXPERIMENT, "images")
    for change, message in (
        ({"edit": "blur"}, "edit: found 'blur'"),
        ({"editors": ("mlp",)}, "editors: found"),
        ({"editors": (), "readers": ()}, "editors: found none, and no readers"),
        ({"num_heads": (0,)}, "num_heads: found"),
        ({"pooling": "max"}, "pooling: found 'max', expected one of"),
        ({"half_turns": 0}, "half_turns: found 0, expected -1, as networks are canon"),
        ({"canonical": False, "half_turns": -2}, "half_turns: found -2, expected >="),
        ({"weight_noise": -0.1}, "weight_noise: found -0.1, expected >= 0"),
        ({"counts": (24,)}, "counts: found .24,., expected numbers from 1 to 23"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(config, **change)
