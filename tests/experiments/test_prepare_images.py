"""Image sets in the formats of others: read, averaged, and refused where damaged."""

import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from experiments.common import image_data
from experiments.metanet_accuracy import image_sources
from modmeta.metanet.zoo import images

PILLOW = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)
GREY = RNG.integers(256, size=(18, 28, 28), dtype=np.uint8)
COLOUR = RNG.integers(256, size=(18, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(18) % 3


def idx(array):
    """The format of the MNIST files."""
    header = bytes([0, 0, 8, array.ndim])
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + sizes + array.astype(np.uint8).tobytes()


def write_fashion(path):
    for prefix, rows in (("train", slice(0, 12)), ("t10k", slice(12, 18))):
        for name, array in (("images-idx3", GREY[rows]), ("labels-idx1", LABELS[rows])):
            content = gzip.compress(idx(array))
            (path / f"{prefix}-{name}-ubyte.gz").write_bytes(content)
    return path


def write_cifar(path):
    """Five pictures of three images, and one of three."""
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for index, name in enumerate(names):
        rows = COLOUR[3 * index : 3 * index + 3].reshape(3, 1024, 3)
        PILLOW.fromarray(rows).save(path / f"{name}.png")
    (path / "train_lables.json").write_text(json.dumps(LABELS[:15].tolist()))
    (path / "test_lables.json").write_text(json.dumps(LABELS[15:].tolist()))
    return path


def write_mnist(path):
    lines = [
        ",".join(map(str, [*image.ravel(), label]))
        for image, label in zip(GREY, LABELS, strict=True)
    ]
    file = path / "mnist_5k.csv.gz"
    file.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
    return file


def averaged(pixels, factor):
    """Means of whole blocks, in [0, 1]."""
    n, height, width, channels = pixels.shape
    blocks = pixels.reshape(
        n, height // factor, factor, width // factor, factor, channels
    )
    return blocks.mean((2, 4)) / 255


@pytest.mark.parametrize(
    "name, write, size, expected, num_train",
    [
        ("fashion_mnist", write_fashion, 7, averaged(GREY[..., None], 4), 12),
        ("cifar10", write_cifar, 8, averaged(COLOUR, 4), 15),
        ("mnist_5k", write_mnist, 14, averaged(GREY[..., None], 2), None),
        ("cifar10", write_cifar, 32, COLOUR / 255, 15),
    ],
)
def test_images_labels_and_test_set(tmp_path, name, write, size, expected, num_train):
    found = image_sources.read_source(name, write(tmp_path), size)
    np.testing.assert_allclose(found.images, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.labels, LABELS)
    if num_train is None:
        assert found.is_test is None
    else:
        np.testing.assert_array_equal(found.is_test, np.arange(18) >= num_train)


def test_blocks_of_images_make_no_difference(tmp_path, monkeypatch):
    expected = image_sources.read_source("mnist_5k", write_mnist(tmp_path), 5)
    monkeypatch.setattr(image_sources, "_BLOCK", 4)
    found = image_sources.read_source("mnist_5k", tmp_path / "mnist_5k.csv.gz", 5)
    np.testing.assert_allclose(found.images, expected.images, rtol=1e-6)


def unpack(path, renamed=lambda name: name):
    """Replaces gzipped files by what they hold."""
    for file in list(path.glob("*.gz")):
        content = gzip.decompress(file.read_bytes())
        (path / renamed(file.name.removesuffix(".gz"))).write_bytes(content)
        file.unlink()
    return path


@pytest.mark.parametrize("mark", ["-", "."])
def test_unpacked_files_are_read_as_well(tmp_path, mark):
    path = unpack(
        write_fashion(tmp_path), lambda name: name.replace("-idx", f"{mark}idx")
    )
    found = image_sources.read_source("fashion_mnist", path, 28)
    np.testing.assert_allclose(found.images[..., 0], GREY / 255, rtol=1e-5)
    np.testing.assert_array_equal(found.labels, LABELS)


def test_unpacked_text_is_read_as_well_and_a_directory_is_refused(tmp_path):
    write_mnist(tmp_path)
    found = image_sources.read_source("mnist_5k", unpack(tmp_path) / "mnist_5k.csv", 28)
    np.testing.assert_allclose(found.images[..., 0], GREY / 255, rtol=1e-5)
    with pytest.raises(images.ImageError, match="found a directory, expected a file"):
        image_sources.read_source("mnist_5k", tmp_path, 28)


def test_experiments_say_what_makes_a_file_that_they_read(tmp_path):
    for path in (write_mnist(tmp_path), tmp_path):
        with pytest.raises(
            images.ImageError, match=r"is no .npz, or .*prepare_images makes"
        ):
            image_data.read_images(str(path))


def test_size_beyond_the_images(tmp_path):
    with pytest.raises(images.ImageError, match="size: found 29 pixels, expected 1 to"):
        image_sources.read_source("mnist_5k", write_mnist(tmp_path), 29)


def remove(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def packed(content):
    return lambda path: path.write_bytes(gzip.compress(content))


def text(content):
    return lambda path: path.write_text(content)


def picture(shape, dtype=np.uint8):
    return lambda path: PILLOW.fromarray(np.zeros(shape, dtype)).save(path)


IMAGES, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"
LINE = ",".join(["0"] * 784)


@pytest.mark.parametrize(
    "write, file, damage, message",
    [
        (write_fashion, IMAGES, remove, f"{IMAGES}: found no file, expected images or"),
        (write_fashion, IMAGES, cut, f"{IMAGES}: found a damaged file"),
        (write_fashion, IMAGES, text("images"), f"{IMAGES}: .* starts with 696d6167"),
        (write_fashion, IMAGES, packed(b""), "starts with nothing, expected 00000803"),
        (write_fashion, IMAGES, packed(idx(LABELS)), "starts with 00000801, expected"),
        (
            write_fashion,
            IMAGES,
            packed(idx(GREY[:12])[:-5]),
            r"found 9403 bytes, expected 9408 for an array of shape \(12, 28, 28\)",
        ),
        (
            write_fashion,
            IMAGES,
            packed(idx(GREY[:11])),
            f"{IMAGES}: found 11 images, expected 12, as many as labels",
        ),
        (
            write_fashion,
            TEST,
            packed(idx(GREY[:6, 1:])),
            rf"{TEST}: found images of \(27, 28\) pixels, expected \(28, 28\)",
        ),
        (write_cifar, "data_batch_3.png", remove, "data_batch_3.png: found no file"),
        (write_cifar, "data_batch_3.png", cut, "data_batch_3.png: found a damaged fil"),
        (
            write_cifar,
            "test_batch.png",
            picture((3, 784, 3)),
            r"found a picture of shape \(3, 784, 3\) and type uint8, expected \(images",
        ),
        (write_cifar, "test_batch.png", picture((3, 1024)), r"of shape \(3, 1024\)"),
        (write_cifar, "train_lables.json", remove, "lables.json: found no file"),
        (write_cifar, "train_lables.json", cut, "lables.json: found a damaged file"),
        (
            write_cifar,
            "test_lables.json",
            text("[0, 1]"),
            r"found an array of shape \(2,\) .* expected 3 labels, as many as images",
        ),
        (write_cifar, "test_lables.json", text("[0, 1, 1.5]"), "type float64"),
        (write_mnist, "mnist_5k.csv.gz", remove, "csv.gz: found no file"),
        (write_mnist, "mnist_5k.csv.gz", cut, "csv.gz: found a damaged file"),
        (
            write_mnist,
            "mnist_5k.csv.gz",
            packed(f"{LINE},1\n{LINE}\n".encode()),
            "found lines of different length or no numbers .* expected 785 numbers",
        ),
        (
            write_mnist,
            "mnist_5k.csv.gz",
            packed(f"{LINE}\n{LINE}\n".encode()),
            r"found a table of shape \(2, 784\), expected \(images, 785\)",
        ),
        (
            write_mnist,
            "mnist_5k.csv.gz",
            packed(f"{LINE},1\n{LINE},2.5\n".encode()),
            "found other numbers, expected integers 0 to 255",
        ),
        (
            write_mnist,
            "mnist_5k.csv.gz",
            packed(f"{LINE},one\n".encode()),
            "different length or no numbers",
        ),
    ],
)
def test_damaged_files_are_named(tmp_path, write, file, damage, message):
    path = write(tmp_path)
    name = {
        write_fashion: "fashion_mnist",
        write_cifar: "cifar10",
        write_mnist: "mnist_5k",
    }[write]
    damage(tmp_path / file)
    with pytest.raises(images.ImageError, match=message):
        image_sources.read_source(name, path, 4)


def launch(*flags):
    return subprocess.run(
        [sys.executable, "-m", "experiments.metanet_accuracy.prepare_images", *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ,
    )


def test_command_writes_the_file_that_is_read(tmp_path):
    output = tmp_path / "fashion.npz"
    flags = [
        "--source=fashion_mnist",
        f"--path={write_fashion(tmp_path)}",
        "--size=7",
        f"--output={output}",
    ]
    process = launch(*flags)
    assert process.returncode == 0, process.stderr[-2000:]
    assert "18 images of 7x7 pixels and 1 channels in 3 classes, 6 of" in process.stdout
    found = images.load_images(output)
    np.testing.assert_allclose(found.images, averaged(GREY[..., None], 4), rtol=1e-5)
    before = output.read_bytes()
    remove(tmp_path / IMAGES)
    process = launch(*flags)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert f"{IMAGES}: found no file" in process.stderr
    assert output.read_bytes() == before
