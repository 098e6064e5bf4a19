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
