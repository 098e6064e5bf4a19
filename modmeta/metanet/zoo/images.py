"""Labelled images as arrays: built in, from a file, made smaller.

A file is an `.npz` with `images` `[n, height, width, channels]`, `labels` `[n]` and, if
the set comes with a test set of its own, `is_test` `[n]`.

Letters: n images, H, W, C height, width and channels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modmeta.runtime.files import atomic_write
from modmeta.runtime.optional import import_optional


class ImageError(ValueError):
    """Images that cannot be used: names the field, the finding, the need."""


class ImageSet(NamedTuple):
    """Labelled images.

    Attributes:
      images: `[n, H, W, C]` float32, any range.
      labels: `[n]` int32, from 0 on.
      is_test: `[n]` images that no network may be trained on, or None if the set does
        not say.
    """

    images: np.ndarray
    labels: np.ndarray
    is_test: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        """Classes, up to the largest label."""
        return int(self.labels.max()) + 1

    @property
    def digest(self) -> str:
        """Tells image sets apart: a hash of all arrays and their shapes."""
        found = hashlib.sha256()
        for array in self:
            if array is not None:
                found.update(repr((array.shape, str(array.dtype))).encode())
                found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


class ImageSplit(NamedTuple):
    """Images to train on and images that trained networks are judged by.

    Channels are standardised by the training images.

    Attributes:
      train_images: `[n, H, W, C]` float32, in random order.
      train_labels: `[n]` int32.
      test_images: `[m, H, W, C]` float32.
      test_labels: `[m]` int32.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def make_image_set(arrays: Mapping[str, np.ndarray], name: str = "images") -> ImageSet:
    """Checks arrays and makes them an image set.

    Args:
      arrays: `images` `[n, H, W, C]` or `[n, H, W]`, numbers or bytes; `labels` `[n]`
        integers; `is_test` `[n]` booleans or absent. Bytes are divided by 255.
      name: What messages call the source.

    Raises:
      ImageError: If an array is missing or not as described, or a class is empty.
    """
    for field in ("images", "labels"):
        if field not in arrays:
            raise ImageError(
                f"{name}: found arrays {sorted(arrays)}, expected one named {field!r}"
            )
    images, labels = np.asarray(arrays["images"]), np.asarray(arrays["labels"])
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size:
        raise ImageError(
            f"{name}: found images of shape {images.shape}, expected "
            "[images, height, width, channels]"
        )
    if images.dtype.kind not in "fiu":
        raise ImageError(
            f"{name}: found images of type {images.dtype}, expected numbers"
        )
    scale = np.float32(255.0 if images.dtype == np.uint8 else 1.0)
    images = images.astype(np.float32) / scale
    if not np.isfinite(images).all():
        raise ImageError(f"{name}: found NaN or infinity in images, expected numbers")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ImageError(
            f"{name}: found labels of shape {labels.shape} and type {labels.dtype}, "
            f"expected {len(images)} integers"
        )
    present = np.unique(labels)
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        raise ImageError(
            f"{name}: found labels {present[:20].tolist()}, expected 0, 1, ... with no "
            "class left out, and two classes at least"
        )
    is_test = arrays.get("is_test")
    if is_test is not None:
        is_test = np.asarray(is_test)
        if is_test.shape != labels.shape or is_test.dtype != bool:
            raise ImageError(
                f"{name}: found is_test of shape {is_test.shape} and type "
                f"{is_test.dtype}, expected {len(images)} booleans"
            )
        if is_test.all() or not is_test.any():
            raise ImageError(
                f"{name}: found {int(is_test.sum())} test images of {len(images)}, "
                "expected some of either kind"
            )
    return ImageSet(images, labels.astype(np.int32), is_test)


def digits() -> ImageSet:
    """1,797 handwritten digits of 8x8 pixels in [0, 1], in ten classes.

    They come with scikit-learn (Alpaydin & Kaynak 1998, UCI optical recognition of
    handwritten digits).

    Raises:
      ImportError: If scikit-learn is not installed.
    """
    loaded = import_optional("sklearn.datasets", "zoo").load_digits()
    images = np.asarray(loaded.images, np.float32) / np.float32(16.0)
    return make_image_set({"images": images, "labels": loaded.target}, "digits")


def load_images(path: str | os.PathLike[str]) -> ImageSet:
    """Reads an image set.

    Raises:
      ImageError: If the file is missing, damaged, or does not hold what it should.
    """
    path = Path(path)
    try:
        # NumPy leaves a damaged file open that it has opened itself.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except FileNotFoundError:
        raise ImageError(f"{path}: found no file, expected images") from None
    except Exception as error:
        # Damage shows itself in half a dozen types of exception.
        raise ImageError(
            f"{path}: found a damaged file ({error}), expected an .npz of images"
        ) from error
    return make_image_set(arrays, str(path))


def save_images(path: str | os.PathLike[str], image_set: ImageSet) -> None:
    """Writes an image set, compressed; an existing file is replaced in one step."""
    arrays = {
        name: array for name, array in image_set._asdict().items() if array is not None
    }
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def area_average(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Makes images smaller: every new pixel is the mean of the area that it covers.

    Pixels that straddle a border count by the share that lies within.

    Args:
      images: `[n, H, W, C]`.
      size: New height and width, at most the old ones.

    Returns:
      `[n, height, width, C]` float32.

    Raises:
      ImageError: If the new size is not between 1 and the old one.
    """
    rows, columns = (
        _overlaps(found, wanted)
        for found, wanted in zip(images.shape[1:3], size, strict=True)
    )
    reduced = np.einsum(
        "rh,nhwc->nrwc", rows, np.asarray(images, np.float32), optimize=True
    )
    return np.einsum("cw,nrwd->nrcd", columns, reduced, optimize=True)


def _overlaps(found: int, wanted: int) -> np.ndarray:
    """Shares `[wanted, found]` of old pixels in the mean that a new pixel is."""
    if not 1 <= wanted <= found:
        raise ImageError(f"size: found {wanted} pixels, expected 1 to {found}")
    borders = np.linspace(0, found, wanted + 1)
    pixels = np.arange(found)
    covered = np.minimum(borders[1:, None], pixels + 1) - np.maximum(
        borders[:-1, None], pixels
    )
    return (np.maximum(covered, 0) * (wanted / found)).astype(np.float32)


def split_images(
    image_set: ImageSet, seed: int, num_train: int = 0, num_test: int = 0
) -> ImageSplit:
    """Deals images to training and test, and standardises the channels.

    Args:
      image_set: The images. If they come with a test set, that is where test images
        are taken from.
      seed: Seed of the choice.
      num_train: Training images; 0 for all that are there.
      num_test: Test images; 0 for the set's own test set, or for all that are left
        over, so that only one of the two numbers may then be 0.

    Raises:
      ImageError: If there are not as many images.
    """
    order = np.random.default_rng(seed).permutation(len(image_set.labels))
    if image_set.is_test is None:
        if not num_train and not num_test:
            raise ImageError(
                "num_train, num_test: found 0 and 0, expected one above 0 for images "
                "without a test set of their own"
            )
        num_train = num_train or len(order) - num_test
        train_rows, test_rows = order[:num_train], order[num_train:]
    else:
        is_test = image_set.is_test[order]
        train_rows, test_rows = order[~is_test], order[is_test]
    train_rows = _take("num_train", train_rows, num_train)
    test_rows = _take("num_test", test_rows, num_test)
    images = image_set.images
    mean = images[train_rows].mean((0, 1, 2), np.float64)
    deviation = images[train_rows].std((0, 1, 2), np.float64)
    # A channel that is constant stays so.
    deviation = np.where(deviation > 0, deviation, 1.0)

    def standardized(rows):
        return ((images[rows] - mean) / deviation).astype(np.float32)

    return ImageSplit(
        standardized(train_rows),
        image_set.labels[train_rows],
        standardized(test_rows),
        image_set.labels[test_rows],
    )


def _take(field: str, rows: np.ndarray, number: int) -> np.ndarray:
    number = number or len(rows)
    if not 1 <= number <= len(rows):
        raise ImageError(f"{field}: found {number}, expected 1 to {len(rows)} images")
    return rows[:number]
