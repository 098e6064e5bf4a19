"""What the documentation shows, works: code, commands and options.

Doctests of the searches run in `tests/search/test_registry.py`.
"""

import json
import subprocess
import sys

import jax
import pytest

from modmeta import relational
from modmeta.metanet.parameter_graphs import registry as rules
from modmeta.metanet.parameter_graphs import vocabulary
from modmeta.search import registry as searches
from tests.docs import pages, preambles

# The files of an experiment, which `test_extending_experiment.py` writes and runs.
ELSEWHERE = ("docs/extending/experiment.md",)
WITH_CODE = [
    page
    for page in pages.PAGES
    if page not in ELSEWHERE
    and any(block.language == "python" for block in pages.blocks(page))
]


@pytest.fixture
def restored(monkeypatch, tmp_path):
    """Takes back what a page registers; runs it in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(relational, "infer_relations", preambles.quick_infer_relations)
    tables = (searches._SEARCHES, rules._RULES, vocabulary.NODE_TYPES._ids)
    before = [dict(table) for table in tables]
    # Strict in the tests of this repository, not where readers type.
    with jax.numpy_rank_promotion("allow"):
        yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def test_the_walks_are_executed():
    walks = ("search", "layer", "simulator")
    assert {"README.md", *(f"docs/extending/{walk}.md" for walk in walks)} <= set(
        WITH_CODE
    )


@pytest.mark.parametrize("page", WITH_CODE)
def test_code_runs(page, restored):
    """The blocks of a page one after another, as a reader would type them."""
    names = {"__name__": "page"}
    for preamble in preambles.PREAMBLES.get(page, ()):
        names.update(preamble())
    for block in pages.blocks(page):
        if block.language == "python":
            # Blank lines before it, so that errors name the line of the page.
            text = "\n" * (block.line - 1) + block.text
            exec(compile(text, str(pages.ROOT / page), "exec"), names)


def test_commands_agree_with_the_programs():
    # Old names belong to the list of changes.
    current = [page for page in pages.PAGES if page != "CHANGELOG.md"]
    found = [command for page in current for command in pages.commands(page)]
    assert len(found) > 40
    result = subprocess.run(
        [sys.executable, "-m", "tests.docs.check_commands"],
        input=json.dumps(found),
        capture_output=True,
        text=True,
        cwd=pages.ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    messages = json.loads(result.stdout)
    assert not messages, "\n".join(messages)


def test_the_two_commands_of_the_readme_are_one_line_each():
    """As .ci/run takes the second one out of it."""
    lines = [
        line
        for line in pages.read("README.md").splitlines()
        if line.startswith("    python3 -m venv .venv && ")
    ]
    assert len(lines) == 2
    assert "experiments.relational_inference.main" in lines[0]
    assert lines[1].endswith(".venv/bin/python -m pytest -n 2 -q")
