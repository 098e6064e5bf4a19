"""Plain text tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def format_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    *,
    float_format: str = ".4g",
) -> str:
    """Sets rows as a plain text table.

    Args:
      rows: one mapping per row.
      columns: the columns to show, in order; by default all, as first met.
      float_format: format specification for floating point numbers.

    Returns:
      The lines of the table, joined, without a closing line break. Columns of numbers
      are set flush right, others flush left; a missing value is a dash.
    """
    if columns is None:
        columns = list(dict.fromkeys(name for row in rows for name in row))

    def text(value: Any) -> str:
        if value is None:
            return "-"
        if isinstance(value, float | np.floating):
            return format(float(value), float_format)
        return str(value)

    lines = [[] for _ in range(len(rows) + 2)]
    for column in columns:
        values = [row.get(column) for row in rows]
        cells = [text(value) for value in values]
        width = max(len(cell) for cell in [column, *cells])
        numeric = all(
            value is None or isinstance(value, int | float | np.number)
            for value in values
        )
        align = str.rjust if numeric else str.ljust
        for line, cell in zip(lines, [column, "-" * width, *cells], strict=True):
            line.append(align(cell, width))
    return "\n".join("  ".join(line).rstrip() for line in lines)
