"""Images that experiments on networks start from: a user's file, or digits."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from modmeta.metanet.zoo.images import ImageError, ImageSet, digits, load_images


def read_images(path: str) -> ImageSet:
    """The images of a file, or the digits of scikit-learn where there is none.

    Raises:
      ImageError: If the file is not what it should be.
      ImportError: If the digits are wanted and scikit-learn is not installed.
    """
    if not path:
        return digits()
    if Path(path).is_dir() or (Path(path).is_file() and not zipfile.is_zipfile(path)):
        raise ImageError(
            f"{path}: found something that is no .npz, or was cut, expected a whole "
            "one, as experiments.metanet_accuracy.prepare_images makes of the files of "
            "known image sets"
        )
    return load_images(path)


def check_images(preset: str, config: Any) -> None:
    """Refuses a preset other than "digits" without `images` in its configuration."""
    if preset != "digits" and not config.images:
        raise ValueError(f"data: found no file, expected images for --config={preset}")
