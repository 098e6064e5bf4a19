"""Benchmarks run, in their smallest form: they call what the library offers today.

Some compare ways to compute the same, and check that these agree. What they time is
not looked at.
"""

import subprocess
import sys

import pytest

from tests.docs.pages import ROOT


@pytest.mark.parametrize(
    "command",
    [
        "exact_edges --system=springs --nodes=3 --systems=2 --frames=9 --points=2",
        "module_banks --edges=8 --frames=2 --width=4 --modules=2 --repeats=1",
        "metanet_step --networks=2 --width=4 --blocks=1 --hidden=2 --rounds=1",
        "parameter_graphs --networks=perceptron --width=8",
        "simulators --tasks=4 --loop_tasks=1 --frames=4 --repeats=1",
    ],
    ids=lambda command: command.partition(" ")[0],
)
def test_benchmark(command):
    name, *options = command.split()
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
