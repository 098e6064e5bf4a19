"""Image sets: built in, stored, damaged, made smaller, split."""

import numpy as np
import pytest

from modmeta.metanet.zoo import images

RNG = np.random.default_rng(0)
PIXELS = RNG.random((30, 4, 4, 2)).astype(np.float32)
LABELS = np.arange(30) % 3


def make_set(is_test=None):
    arrays = {"images": PIXELS, "labels": LABELS}
    if is_test is not None:
        arrays["is_test"] = is_test
    return images.make_image_set(arrays)


def test_digits():
    found = images.digits()
    assert found.images.shape == (1797, 8, 8, 1) and found.images.dtype == np.float32
    assert found.images.min() == 0.0 and found.images.max() == 1.0
    assert found.num_classes == 10 and found.is_test is None
    counts = np.bincount(found.labels)
    assert counts.min() > 170 and counts.sum() == 1797
    # Zeros are hollow, ones are not: labels belong to their images.
    centre = found.images[:, 3:5, 3:5, 0].mean((1, 2))
    assert (
        centre[found.labels == 0].mean() < 0.2 < 0.7 < centre[found.labels == 1].mean()
    )


def test_bytes_and_grey_images():
    pixels = RNG.integers(256, size=(6, 5, 3), dtype=np.uint8)
    found = images.make_image_set({"images": pixels, "labels": np.arange(6) % 2})
    assert found.images.shape == (6, 5, 3, 1)
    np.testing.assert_allclose(found.images[..., 0], pixels / 255.0, rtol=1e-6)
    # Other integers are what they are.
    found = images.make_image_set(
        {"images": pixels.astype(np.int16), "labels": np.arange(6) % 2}
    )
    np.testing.assert_array_equal(found.images[..., 0], pixels)


def with_nan(pixels):
    return np.where(np.arange(2) == 1, np.nan, pixels)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": None}, "set: found arrays .*expected one named 'images'"),
        ({"labels": None}, "set: found arrays .*expected one named 'labels'"),
        ({"images": PIXELS[0, 0]}, r"images of shape \(4, 2\), expected \[images, hei"),
        ({"images": PIXELS[:0]}, r"found images of shape \(0, 4, 4, 2\)"),
        ({"images": PIXELS > 0.5}, "found images of type bool, expected numbers"),
        ({"images": with_nan(PIXELS)}, "found NaN or infinity in images"),
        ({"labels": LABELS[1:]}, r"labels of shape \(29,\) .* expected 30 integers"),
        ({"labels": LABELS / 2}, "type float64, expected 30 integers"),
        ({"labels": LABELS + 1}, r"found labels \[1, 2, 3\], expected 0, 1, ..."),
        ({"labels": 2 * LABELS}, r"found labels \[0, 2, 4\]"),
        ({"labels": 0 * LABELS}, r"found labels \[0\].* two classes at least"),
        ({"is_test": LABELS}, "is_test of shape .* type int64, expected 30 booleans"),
        ({"is_test": LABELS[1:] == 0}, r"is_test of shape \(29,\)"),
        ({"is_test": LABELS < 0}, "found 0 test images of 30, expected some of either"),
        ({"is_test": LABELS >= 0}, "found 30 test images of 30"),
    ],
)
def test_arrays_that_are_no_image_set(changes, message):
    arrays = {"images": PIXELS, "labels": LABELS, **changes}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(images.ImageError, match=message):
        images.make_image_set(arrays, "set")


@pytest.mark.parametrize("is_test", [None, LABELS == 1])
def test_file_round_trip(tmp_path, is_test):
    path = tmp_path / "images.npz"
    images.save_images(path, make_set(is_test))
    found = images.load_images(path)
    np.testing.assert_array_equal(found.images, PIXELS)
    np.testing.assert_array_equal(found.labels, LABELS)
    if is_test is None:
        assert found.is_test is None
    else:
        np.testing.assert_array_equal(found.is_test, is_test)
    assert found.digest == make_set(is_test).digest


def test_digest_tells_sets_apart():
    sets = [make_set(), make_set(LABELS == 1), make_set(LABELS == 2)]
    sets.append(sets[0]._replace(images=PIXELS + np.float32(1e-6)))
    sets.append(sets[0]._replace(images=PIXELS.reshape(30, 2, 8, 2)))
    sets.append(sets[0]._replace(labels=LABELS[::-1].astype(np.int32)))
    assert len({found.digest for found in sets}) == len(sets)


def test_damaged_files(tmp_path):
    path = tmp_path / "images.npz"
    with pytest.raises(images.ImageError, match="images.npz: found no file, expected"):
        images.load_images(path)
    images.save_images(path, make_set())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(images.ImageError, match="images.npz: found a damaged file"):
        images.load_images(path)
    path.write_text("images")
    with pytest.raises(images.ImageError, match="images.npz: found a damaged file"):
        images.load_images(path)
    np.savez(path, images=PIXELS, labels=np.array(LABELS, object))
    with pytest.raises(images.ImageError, match="images.npz: found a damaged file"):
        images.load_images(path)
    np.savez(path, images=PIXELS)
    with pytest.raises(images.ImageError, match="images.npz: found arrays"):
        images.load_images(path)


def test_area_average_of_whole_blocks():
    found = images.area_average(PIXELS, (2, 2))
    expected = PIXELS.reshape(30, 2, 2, 2, 2, 2).mean((2, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(images.area_average(PIXELS, (4, 4)), PIXELS, rtol=1e-6)


def test_area_average_where_pixels_straddle_borders():
    """Against the mean over a common refinement of both grids."""
    pixels = RNG.random((3, 7, 10, 1)).astype(np.float32)
    found = images.area_average(pixels, (3, 4))
    fine = np.repeat(np.repeat(pixels, 3, axis=1), 4, axis=2)
    expected = fine.reshape(3, 3, 7, 4, 10, 1).mean((2, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for size in ((0, 4), (8, 4), (3, 11)):
        with pytest.raises(images.ImageError, match="size: found .* expected 1 to"):
            images.area_average(pixels, size)


def row_numbers(found, standardized):
    """Which image of the set every image of a split is."""
    mean = PIXELS[found].mean((0, 1, 2))
    deviation = PIXELS[found].std((0, 1, 2))
    whole = (PIXELS - mean) / deviation
    gaps = np.abs(whole[None] - standardized[:, None]).max((2, 3, 4))
    assert (gaps.min(axis=1) < 1e-4).all()
    return gaps.argmin(axis=1)


def test_split_deals_and_standardises():
    split = images.split_images(make_set(), 0, 12, 10)
    mean, deviation = (
        split.train_images.mean((0, 1, 2)),
        split.train_images.std((0, 1, 2)),
    )
    np.testing.assert_allclose(mean, 0.0, atol=1e-6)
    np.testing.assert_allclose(deviation, 1.0, rtol=1e-5)
    order = np.random.default_rng(0).permutation(30)
    train = row_numbers(order[:12], split.train_images)
    test = row_numbers(order[:12], split.test_images)
    assert len(set(train)) == 12 and len(set(test)) == 10
    assert not set(train) & set(test)
    np.testing.assert_array_equal(LABELS[train], split.train_labels)
    np.testing.assert_array_equal(LABELS[test], split.test_labels)
    again = images.split_images(make_set(), 0, 12, 10)
    np.testing.assert_array_equal(again.train_images, split.train_images)
    other = images.split_images(make_set(), 1, 12, 10)
    assert (other.train_labels != split.train_labels).any()
    # The rest is for the other side.
    assert len(images.split_images(make_set(), 0, 12).test_labels) == 18
    assert len(images.split_images(make_set(), 0, 0, 12).train_labels) == 18


def test_test_images_stay_test_images():
    is_test = np.arange(30) % 5 == 0
    split = images.split_images(make_set(is_test), 0)
    assert len(split.train_labels) == 24 and len(split.test_labels) == 6
    rows = row_numbers(np.nonzero(~is_test)[0], split.test_images)
    assert set(rows) == set(np.nonzero(is_test)[0])


def test_constant_channel_stays_finite():
    pixels = PIXELS.copy()
    pixels[..., 1] = 0.25
    found = images.make_image_set({"images": pixels, "labels": LABELS})
    split = images.split_images(found, 0, 20)
    np.testing.assert_array_equal(split.train_images[..., 1], 0.0)


@pytest.mark.parametrize(
    "is_test, sizes, message",
    [
        (None, (0, 0), "num_train, num_test: found 0 and 0, expected one above 0"),
        (None, (31, 1), "num_train: found 31, expected 1 to 30"),
        (None, (30, 0), "num_test: found 0, expected 1 to 0"),
        (None, (20, 11), "num_test: found 11, expected 1 to 10"),
        (None, (0, 30), "num_train: found 0, expected 1 to"),
        (LABELS == 0, (21, 0), "num_train: found 21, expected 1 to 20"),
        (LABELS == 0, (0, 11), "num_test: found 11, expected 1 to 10"),
    ],
)
def test_more_images_than_there_are(is_test, sizes, message):
    with pytest.raises(images.ImageError, match=message):
        images.split_images(make_set(is_test), 0, *sizes)
