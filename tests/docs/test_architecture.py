"""The drawings of the code agree with its imports, and the imports have no circle."""

import ast
import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MAXIMUM_LEVELS = 9
MAXIMUM_LINES = 400


def load_drawings():
    """`docs/make_drawings.py`, which is a script, not a module."""
    path = ROOT / "docs" / "make_drawings.py"
    spec = importlib.util.spec_from_file_location("make_drawings", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


drawings = load_drawings()
TABLES = drawings.read_tables()
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
        ".__init__"
    ): path
    for folder in ("modmeta", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imported_modules(path):
    """Names of the modules of this repository that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in SOURCES else node.module)
    return found & set(SOURCES)


def actual_imports(table):
    """Box -> boxes it imports; a folder's own re-exports are not counted."""
    prefix = table["prefix"]
    boxes = {prefix + box: box for box in table["imports"]}

    def box_of(module):
        for name, box in boxes.items():
            if module == name or module.startswith(f"{name}."):
                return box
        return None

    found = {box: set() for box in table["imports"]}
    unplaced = set()
    for module, path in SOURCES.items():
        box = box_of(module)
        if box is None:
            if module.startswith(prefix) and prefix:
                unplaced.add(module)
            continue
        for other in map(box_of, imported_modules(path)):
            if other not in (None, box):
                found[box].add(other)
    assert not unplaced, "modules that no box of the drawing holds"
    return found


@pytest.mark.parametrize("name", TABLES)
def test_the_drawing_agrees_with_the_imports(name):
    table = TABLES[name]
    expected = {box: set(others) for box, others in table["imports"].items()}
    assert actual_imports(table) == expected


@pytest.mark.parametrize("name", TABLES)
def test_imports_point_down(name):
    """Every import goes to a lower row, so that there is no circle."""
    table = TABLES[name]
    rows = {box: row for row, boxes in enumerate(table["rows"]) for box in boxes if box}
    assert set(rows) == set(table["imports"]) == set(table["jobs"])
    assert len(table["rows"]) <= MAXIMUM_LEVELS
    for box, others in table["imports"].items():
        for other in others:
            assert rows[box] < rows[other], f"{box} imports {other}"


@pytest.mark.parametrize("name", TABLES)
def test_the_committed_drawing_is_of_this_table(name):
    committed = ROOT / "docs" / "assets" / f"{name}.svg"
    assert committed.read_text() == drawings.draw(TABLES[name]), (
        "run python docs/make_drawings.py"
    )


def test_every_package_is_drawn():
    prefix = TABLES["packages"]["imports"]
    for module in SOURCES:
        if module != "modmeta":
            assert any(f"{module}.".startswith(f"{box}.") for box in prefix), module


def test_files_of_relational_inference_are_short():
    lengths = {
        module: len(path.read_text().splitlines())
        for module, path in SOURCES.items()
        if module.startswith("modmeta.relational")
    }
    long = {name: lines for name, lines in lengths.items() if lines > MAXIMUM_LINES}
    assert not long
