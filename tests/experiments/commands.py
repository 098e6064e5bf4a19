"""Commands run within the test, and what a refused one must leave behind."""

import contextlib
import importlib
import os
import sys

import pytest
from absl import app, flags

from experiments import launcher


@contextlib.contextmanager
def launched(name):
    """The program; its flags go again, others have some of the same names."""
    before = set(flags.FLAGS)
    module = importlib.import_module(name)
    try:
        yield module
    finally:
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)
        del sys.modules[name]


def check_refused(program, words, message, folder, workdir, capsys):
    """Runs a launched program as `start` does: one sentence, and nothing written."""
    before = {path: os.stat(path).st_mtime_ns for path in folder.rglob("*")}
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    refused = (app.UsageError, SystemExit)
    with pytest.raises(refused, match=message) as caught:
        program.main(launcher.parse([program.__name__, *words]))
    assert len(str(caught.value)) < 900
    assert not workdir.exists()
    assert before == {path: os.stat(path).st_mtime_ns for path in folder.rglob("*")}
    with contextlib.suppress(AttributeError):
        assert not caught.value.code or str(caught.value).startswith("FATAL: ")
    assert "Traceback" not in capsys.readouterr().err
