"""Every notebook runs from top to bottom in its short form, and is a notebook."""

import pathlib
import runpy

import jupytext
import pytest

NOTEBOOKS = sorted(
    (pathlib.Path(__file__).parents[1] / "notebooks").glob("[!_]*.py"),
)


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_converts_to_ipynb(path):
    notebook = jupytext.read(path)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown" and kinds.count("code") >= 5
    text = jupytext.writes(notebook, fmt="ipynb")
    again = jupytext.reads(text, fmt="ipynb")
    assert [cell.source for cell in again.cells] == [
        cell.source for cell in notebook.cells
    ]
    # Cells that are cut in the wrong place do not compile on their own.
    for number, cell in enumerate(notebook.cells):
        is_shell = cell.source.startswith(("!", "%"))
        if cell.cell_type == "code" and not is_shell:
            compile(cell.source, f"cell {number}", "exec")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, monkeypatch, tmp_path):
    monkeypatch.setenv("MODMETA_NOTEBOOK_SHORT", "1")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path))
