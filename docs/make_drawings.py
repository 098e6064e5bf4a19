"""Draws `docs/architecture.toml`, one SVG per table, into `docs/assets/`.

python docs/make_drawings.py

Arrows that follow from others are left out: if A imports B and B imports C, the arrow
from A to C is not drawn. Without packages beyond the standard library, so that a test
can draw again and compare.
"""

import pathlib
import tomllib
from xml.sax.saxutils import escape

FOLDER = pathlib.Path(__file__).parent
BOX_WIDTH, BOX_HEIGHT = 208, 46
GAP_X, GAP_Y, MARGIN, TITLE = 24, 40, 16, 30
INK, FILL = "#12284b", "#e8eff8"


def read_tables() -> dict[str, dict]:
    """The tables of the drawings by name."""
    return tomllib.loads((FOLDER / "architecture.toml").read_text())


def visible_arrows(imports: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Arrows that do not follow from others."""

    def reached(box: str) -> set[str]:
        below = set(imports[box])
        return below.union(*(reached(other) for other in imports[box]))

    return [
        (box, other)
        for box, others in imports.items()
        for other in others
        if not any(other in reached(between) for between in others)
    ]


def draw(table: dict) -> str:
    """One drawing as SVG."""
    rows = table["rows"]
    num_columns = max(map(len, rows))
    width = 2 * MARGIN + num_columns * (BOX_WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + TITLE + len(rows) * (BOX_HEIGHT + GAP_Y) - GAP_Y
    places = {}
    for row, boxes in enumerate(rows):
        spare = (num_columns - len(boxes)) * (BOX_WIDTH + GAP_X) / 2
        for column, box in enumerate(boxes):
            x = MARGIN + spare + column * (BOX_WIDTH + GAP_X)
            places[box] = x, MARGIN + TITLE + row * (BOX_HEIGHT + GAP_Y)
    places.pop("", None)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" role="img" '
        f'aria-label="{escape(table["title"])}">',
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" '
        f'markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" '
        f'fill="{INK}"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        f'<text x="{width / 2:g}" y="{MARGIN + 12}" text-anchor="middle" '
        f'font-size="14" fill="{INK}">{escape(table["title"])}</text>',
    ]
    for box, other in visible_arrows(table["imports"]):
        (x1, y1), (x2, y2) = places[box], places[other]
        # Arrows to different boxes leave at different points, towards their aims.
        shift = max(-60.0, min(60.0, (x2 - x1) / 4))
        lines.append(
            f'<line x1="{x1 + BOX_WIDTH / 2 + shift:g}" y1="{y1 + BOX_HEIGHT:g}" '
            f'x2="{x2 + BOX_WIDTH / 2 - shift / 2:g}" y2="{y2:g}" stroke="{INK}" '
            f'stroke-width="1.5" marker-end="url(#tip)"/>'
        )
    for box, (x, y) in places.items():
        middle = x + BOX_WIDTH / 2
        lines += [
            f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" '
            f'rx="6" fill="{FILL}" stroke="{INK}"/>',
            f'<text x="{middle:g}" y="{y + 19:g}" text-anchor="middle" '
            f'font-size="14" font-weight="bold" fill="{INK}">{escape(box)}</text>',
            f'<text x="{middle:g}" y="{y + 36:g}" text-anchor="middle" '
            f'font-size="12" fill="#333333">{escape(table["jobs"][box])}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    for name, table in read_tables().items():
        (FOLDER / "assets" / f"{name}.svg").write_text(draw(table))
