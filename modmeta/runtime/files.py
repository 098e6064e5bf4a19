"""Files that are complete or not there."""

import contextlib
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO


def check_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """The path of a file, there or not.

    Raises:
      ValueError: If it is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"{name}: found {path!r:.60}, expected the path of a file")
    return Path(path)


def npz_path(path: str | os.PathLike[str]) -> Path:
    """The path of a file to write, ended in `.npz` if it does not, as NumPy does.

    Raises:
      ValueError: If it is no path.
    """
    path = check_path(path)
    return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")


def check_file(path: str | os.PathLike[str], name: str = "path") -> Path:
    """The path of a file that is there.

    Raises:
      FileNotFoundError: If nothing is there.
      IsADirectoryError: If a folder is.
      ValueError: If it is no path.
    """
    path = check_path(path, name)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: found a folder, expected a file")
    if not path.exists():
        raise FileNotFoundError(f"{path}: found no such file, expected one")
    return path


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Generator[BinaryIO]:
    """Opens a file that replaces `path` only once it is complete.

    The content goes to a hidden file in the same directory, which is renamed when
    the block ends. If the block raises, `path` keeps its previous content.

    Args:
      path: where the content shall end up. Its directory must exist.

    Yields:
      A binary file, open for writing.

    Raises:
      FileNotFoundError: if there is no such directory.
      IsADirectoryError: if `path` is a directory.
      OSError: if nothing can be written there; the message names `path`.
      ValueError: if `path` is none.
    """
    path = check_path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: found no folder {str(path.parent)!r}, expected one that exists"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path}: found a folder, expected the name of a file")
    try:
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
        )
    except OSError as error:
        # The user does not know the temporary file that the error names.
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp creates files that only their owner may read.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
