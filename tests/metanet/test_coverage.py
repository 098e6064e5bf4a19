"""Public models and patterns: exact round trips, true symmetries, as many as there are.

What is found is a line of `docs/results/coverage.md`. After a change:
`python -m tests.metanet.test_coverage` writes the page anew.
"""

import math
import pathlib

import jax
import numpy as np
import pytest

from tests.metanet.network_cases import Network
from tests.metanet.patterns import PATTERNS
from tests.metanet.public_models import MODELS
from tests.metanet.scalar_programs import ScalarProgram
from tests.metanet.soundness import vary
from tests.metanet.sweep import examine

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "results" / "coverage.md"

# Why fewer symmetries are found than colours allow.
FEWER = {
    "ViT": "two tables are added to one token: their entries could be exchanged",
    "relation network": "both places of a pair read by one unit could be exchanged",
    "circulant": "weights of a cycle could be turned; the bound is too high",
    "tiled units": "rows of a kernel that read the same unit could be exchanged",
    "stacked": "two layers are added: single units of them could be exchanged",
    "product with reversed units": "units of opposite places could be exchanged",
    "sum of a kernel and its transpose": "entries that are added could be exchanged",
    "units multiplied": "factors of a product could be exchanged",
    "padded units": "parameters that are multiplied with zeros could be exchanged",
    "pairs of tokens": "both places of a pair read by one unit could be exchanged",
}


def _network(name):
    if name in MODELS:
        return MODELS[name].model, MODELS[name].inputs
    pattern = PATTERNS[name]
    x = np.random.default_rng(0).normal(size=pattern.shape).astype(np.float32)
    return Network(pattern.body), (x,)


def _lines(name):
    finding = examine(*_network(name))
    return finding, finding.row(name) + f" {FEWER.get(name, '')} |".replace("  ", " ")


@pytest.mark.parametrize("name", [*MODELS, *PATTERNS])
def test_graphs_say_what_networks_compute(name):
    finding, line = _lines(name)
    assert finding.change < 1e-5 and finding.is_exact
    assert finding.found <= finding.expected + 1e-6
    is_complete = finding.found > finding.expected - 1e-6
    assert is_complete == (name not in FEWER)
    if name in PATTERNS and PATTERNS[name].order is not None:
        assert finding.found == pytest.approx(math.log(PATTERNS[name].order), abs=1e-6)
    assert line in PAGE.read_text().splitlines(), "the page is not up to date"


def test_the_page_lists_all_and_enough_of_them_have_graphs():
    text = PAGE.read_text()
    for names, at_least, share in ((MODELS, 60, 0.85), (PATTERNS, 100, 0.9)):
        lines = [text.index(f"\n| {name} | ") + 1 for name in names]
        refused = sum(text[line:].split(" | ")[1].startswith("no: ") for line in lines)
        assert len(names) >= at_least
        assert len(names) - refused >= share * len(names)
    assert text == page([line for line in text.splitlines() if _is_row(line)])


@pytest.mark.parametrize("name", ["BERT", "DDPM", "Mamba", "top two", "u-net"])
def test_numbers_are_those_of_jax(name):
    """The evaluation that the tests above trust."""
    model, inputs = _network(name)
    variables = vary(jax.eval_shape(model.init, jax.random.key(0), *inputs))
    program = ScalarProgram(model.apply, variables, *inputs)
    leaves = jax.tree.leaves(variables)
    found = program.evaluate(np.concatenate([np.ravel(x) for x in leaves])[None])[0]
    expected = jax.tree.leaves(jax.jit(model.apply)(variables, *inputs))
    expected = np.concatenate([np.ravel(leaf) for leaf in expected])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def _is_row(line):
    return any(line.startswith(f"| {name} | ") for name in (*MODELS, *PATTERNS))


def page(rows):
    """The text of the page, given its rows."""
    models = [row for row in rows if row[2:].partition(" | ")[0] in MODELS]
    patterns = [row for row in rows if row not in models]

    def table(title, names, rows):
        order = {name: index for index, name in enumerate(names)}
        rows = sorted(rows, key=lambda row: order[row[2:].partition(" | ")[0]])
        refused = sum(" | no: " in row for row in rows)
        return [
            f"## {title}",
            "",
            f"{len(rows) - refused} of {len(rows)} have a graph.",
            "",
            "| | parameters | symmetries found | at most | why fewer |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]

    return "\n".join([*_HEAD, *table("Public models", MODELS, models), *table(
        "Patterns", PATTERNS, patterns)])  # fmt: skip


_HEAD = """# What has a graph

Families of public models and patterns of code, in tiny configurations, as
`tests/metanet` has them. For each: its parameters; how many permutations of them were
found that leave its function alone; and how many there can be at most. That number is
counted without modmeta: the model is unrolled to single numbers, and colours are
refined until parameters differ. All symmetries are tried on the model, and parameters
come back from the graph to the bit.

The tests write this page (`python -m tests.metanet.test_coverage`) and check every line
of it.

""".splitlines()


if __name__ == "__main__":
    PAGE.write_text(page([_lines(name)[1] for name in (*MODELS, *PATTERNS)]))
