import os

import pytest

from modmeta.runtime.files import atomic_write


def test_content_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"before")
    with atomic_write(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert os.listdir(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_interrupted_write_keeps_the_previous_content(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_bytes(b"before")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"half a")
        raise error
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_permissions_are_those_of_a_plain_new_file(tmp_path):
    plain, atomic = tmp_path / "plain", tmp_path / "atomic"
    plain.touch()
    with atomic_write(atomic):
        pass
    assert atomic.stat().st_mode == plain.stat().st_mode


def test_a_place_that_cannot_be_written_is_named_as_the_caller_names_it(tmp_path):
    place = tmp_path / "absent" / "table.csv"
    with pytest.raises(FileNotFoundError) as caught, atomic_write(place):
        raise AssertionError("nothing should be written")
    assert str(caught.value).startswith(f"{place}: found no folder")
    with pytest.raises(IsADirectoryError, match="found a folder"):
        with atomic_write(tmp_path):
            raise AssertionError("nothing should be written")
    long = tmp_path / ("n" * 400)
    with pytest.raises(OSError) as caught, atomic_write(long):
        raise AssertionError("nothing should be written")
    assert str(long) in str(caught.value) and ".tmp" not in str(caught.value)
    assert os.listdir(tmp_path) == []
