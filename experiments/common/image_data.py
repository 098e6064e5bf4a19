"""Images that experiments on networks start from: a user's file, or digits."""

from __future__ import annotations

from typing import Any

from modmeta.metanet.zoo.images import ImageSet, digits, load_images


def read_images(path: str) -> ImageSet:
    """The images of a file, or the digits of scikit-learn where there is none.

    Raises:
      ImageError: If the file is not what it should be.
      ImportError: If the digits are wanted and scikit-learn is not installed.
    """
    return load_images(path) if path else digits()


def check_images(preset: str, config: Any) -> None:
    """Refuses a preset other than "digits" without `images` in its configuration."""
    if preset != "digits" and not config.images:
        raise ValueError(f"data: found no file, expected images for --config={preset}")
