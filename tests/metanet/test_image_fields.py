"""Networks that hold images: fits, splits, and image sets that are refused."""

import dataclasses

import numpy as np
import pytest

from modmeta.metanet import zoo
from modmeta.metanet.zoo import image_fields, images

RNG = np.random.default_rng(0)
CONFIG = image_fields.FieldZooConfig(
    num_train=4,
    num_valid=2,
    num_test=2,
    hidden_sizes=(12, 12),
    num_steps=300,
    stop_psnr=25.0,
    chunk_size=5,
)
# Smooth images, so that few units suffice.
SLOPES = (
    RNG.uniform(0.1, 0.9, (10, 4, 1, 1)) * np.linspace(0, 1, 5)[None, None, :, None]
)
IMAGES = images.ImageSet(
    np.clip(SLOPES, 0, 1).astype(np.float32), np.arange(10, dtype=np.int32) % 2
)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    directory = tmp_path_factory.mktemp("zoos") / "fields"
    assert image_fields.generate_field_zoo(directory, CONFIG, IMAGES)
    found = zoo.load_zoo(directory, image_fields.zoo_config(CONFIG, IMAGES))
    return found.groups[image_fields.GROUP]


def test_every_network_holds_its_image(group):
    module = image_fields.field(CONFIG, 1)
    inputs = image_fields.coordinates(4, 5)
    np.testing.assert_allclose(inputs[[0, 4, 19]], [[-1, -1], [-1, 1], [1, 1]])
    chosen = group.settings["image"]
    assert len(set(chosen.tolist())) == 8
    np.testing.assert_array_equal(group.settings["label"], IMAGES.labels[chosen])
    for number in range(8):
        variables = {
            "params": {
                name: {key: leaf[number] for key, leaf in layer.items()}
                for name, layer in group.variables()["params"].items()
            }
        }
        found = np.asarray(module.apply(variables, inputs)).reshape(4, 5, 1)
        error = np.mean((found - IMAGES.images[chosen[number]]) ** 2)
        assert group.scores["fit_mse"][number] == pytest.approx(error, rel=2e-3)
        # A fit ends at 25 dB, or at the last step.
        assert error < 10**-2.4
        others = np.mean((found - IMAGES.images) ** 2, axis=(1, 2, 3))
        assert others.argmin() == chosen[number]
    assert {name: rows.tolist() for name, rows in group.splits.items()} == {
        "train": [0, 1, 2, 3],
        "valid": [4, 5],
        "test": [6, 7],
    }


def test_views_are_of_images_to_train_with():
    """Several networks of one image follow each other, in no other split."""
    several = dataclasses.replace(CONFIG, num_views=3)
    chosen = image_fields.choose_images(several, IMAGES)
    once = image_fields.choose_images(CONFIG, IMAGES)
    np.testing.assert_array_equal(chosen[:12], np.repeat(once[:4], 3))
    np.testing.assert_array_equal(chosen[12:], once[4:])
    spec = image_fields.field_spec(several, IMAGES)
    assert spec.groups[0].num_networks == len(chosen) == 16
    assert spec.splits == {
        "train": list(range(12)),
        "valid": [12, 13],
        "test": [14, 15],
    }


def test_test_images_are_those_of_the_set():
    is_test = np.arange(10) >= 8
    chosen = image_fields.choose_images(CONFIG, IMAGES._replace(is_test=is_test))
    assert is_test[chosen].tolist() == [False] * 6 + [True] * 2
    assert len(set(chosen.tolist())) == 8


@pytest.mark.parametrize(
    "image_set, message",
    [
        (IMAGES._replace(images=2 * IMAGES.images), "expected 0 to 1"),
        (IMAGES._replace(images=IMAGES.images[:7]), "found 7 for all, expected at l"),
        (IMAGES._replace(is_test=np.arange(10) > 8), "found 1 for test"),
        (IMAGES._replace(is_test=np.arange(10) > 4), "found 5 for train and valid"),
    ],
)
def test_image_sets_that_do_not_fit(image_set, message):
    with pytest.raises(images.ImageError, match=message):
        image_fields.choose_images(CONFIG, image_set)


def test_wrong_options():
    with pytest.raises(ValueError, match="stop_psnr: found 0.0, expected above 0"):
        image_fields.FieldZooConfig(stop_psnr=0.0)
    with pytest.raises(ValueError, match="hidden_sizes: found ()"):
        image_fields.FieldZooConfig(hidden_sizes=())
