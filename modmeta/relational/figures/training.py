"""Figures of one training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from modmeta.runtime import figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class _Panel(NamedTuple):
    label: str
    curves: tuple[tuple[str, str], ...]
    logarithmic: bool


_PANELS = (
    _Panel(
        "energy\n({unit} per node\nand frame)",
        (("loss", "training loss"), ("valid_energy", "validation energy")),
        logarithmic=True,
    ),
    _Panel(
        "edge accuracy\n(evaluation only)",
        (
            ("edge_accuracy", "after the search"),
            ("proposal_accuracy", "learned proposal alone"),
        ),
        logarithmic=False,
    ),
    _Panel("temperature\n({unit})", (("temperature", ""),), True),
)


def plot_learning_curves(
    records: Sequence[Mapping[str, Any]], *, energy_unit: str = "nats"
) -> Figure:
    """Draws losses, accuracies and temperature against the training step.

    There is one axes for each group of metrics that the records hold, with a common x
    axis. A second scale at the top shows the seconds, if all records that hold them
    agree with a clock that runs forward.

    Args:
      records: at least one mapping with `step` and any of `seconds`, `loss`,
        `valid_energy`, `edge_accuracy`, `proposal_accuracy` (fractions) and
        `temperature`. Other keys are ignored. Metrics may be missing in all records
        or in some, be None or not finite: such points are left out.
      energy_unit: unit of losses, energies and temperatures.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if a record has no step, or no record has a metric.
    """
    for index, record in enumerate(records):
        if "step" not in record:
            raise ValueError(f"records[{index}]: found no step, expected one")
    panels = []
    for panel in _PANELS:
        series = [(name, *_series(records, key)) for key, name in panel.curves]
        series = [curve for curve in series if curve[1].size]
        if series:
            panels.append((panel, series))
    if not panels:
        known = ", ".join(key for panel in _PANELS for key, _ in panel.curves)
        raise ValueError(f"records: found no finite value, expected some of {known}")

    figure = figure_style.new_figure(6.4, 0.8 + 2.0 * len(panels))
    all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (panel, series) in zip(all_axes, panels, strict=True):
        for index, (name, steps, values) in enumerate(series):
            look = figure_style.line_style(index, len(steps))
            axes.plot(steps, values, label=name, **look)
        axes.set_ylabel(panel.label.format(unit=energy_unit))
        if panel.logarithmic:
            figure_style.log_if_positive(axes)
        axes.grid(**figure_style.GRID)
        if len(panel.curves) > 1:
            axes.legend()
    figure.align_ylabels(all_axes)
    all_axes[-1].set_xlabel("training step")
    _add_clock(all_axes[0], *_series(records, "seconds"))
    return figure


def _series(
    records: Sequence[Mapping[str, Any]], key: str
) -> tuple[np.ndarray, np.ndarray]:
    present = [record for record in records if record.get(key) is not None]
    steps = np.array([record["step"] for record in present], dtype=float)
    values = np.array([record[key] for record in present], dtype=float)
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def _add_clock(axes: Axes, steps: np.ndarray, seconds: np.ndarray) -> None:
    if len(steps) < 2 or (np.diff(steps) <= 0).any() or (np.diff(seconds) <= 0).any():
        return
    clock = axes.secondary_xaxis(
        "top", functions=(_interpolator(steps, seconds), _interpolator(seconds, steps))
    )
    clock.set_xlabel("elapsed time (s)")


def _interpolator(x: np.ndarray, y: np.ndarray) -> Callable[[Any], np.ndarray]:
    """Returns the piecewise linear map from x to y, continued beyond both ends."""
    first = (y[1] - y[0]) / (x[1] - x[0])
    last = (y[-1] - y[-2]) / (x[-1] - x[-2])

    def interpolate(values: Any) -> np.ndarray:
        values = np.asarray(values, dtype=float)
        below = np.minimum(values - x[0], 0.0)
        above = np.maximum(values - x[-1], 0.0)
        return np.interp(values, x, y) + first * below + last * above

    return interpolate
