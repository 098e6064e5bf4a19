"""Figures that compare structure searches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modmeta.runtime import figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAND = (0.1, 0.5, 0.9)
# In units of the linear part of the scale, for markers at zero.
_ROOM_BELOW_ZERO = 0.3


def plot_search_curves(
    proposals: npt.ArrayLike,
    curves: Mapping[str, npt.ArrayLike],
    best_known: npt.ArrayLike | None = None,
    *,
    energy_unit: str = "nats",
) -> Figure:
    """Draws how fast searches lower the energy, as a function of their proposals.

    The energy is that above the best known one of the same system. Lines are medians
    over systems, bands reach from the 10th to the 90th percentile. The y axis is
    logarithmic, and linear below the smallest positive value if a curve reaches zero.

    Args:
      proposals: `[steps]`, increasing numbers of proposals made per system.
      curves: name of a search to the lowest energy so far, `[systems, steps]`. All
        searches run on the same systems.
      best_known: `[systems]` or a scalar, the energy to subtract. None means the
        lowest energy of each system over all `curves`.
      energy_unit: unit of the energies.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if there is no curve, shapes disagree, an energy is not finite, or
        `proposals` is negative or does not increase.
    """
    proposals = np.asarray(proposals, dtype=float)
    if proposals.ndim != 1 or not proposals.size:
        raise ValueError(
            f"proposals: found shape {list(proposals.shape)}, expected [steps]"
        )
    if proposals[0] < 0 or (np.diff(proposals) <= 0).any():
        raise ValueError(
            f"proposals: found {proposals.tolist()}, expected increasing numbers "
            "from 0 on"
        )
    energies = _check_curves(curves, len(proposals))
    stacked = np.stack(list(energies.values()))
    if best_known is None:
        best_known = stacked.min(axis=(0, 2))
    best_known = np.asarray(best_known, dtype=float)
    num_systems = stacked.shape[1]
    if best_known.shape not in ((), (num_systems,)):
        raise ValueError(
            f"best_known: found shape {list(best_known.shape)}, expected "
            f"[{num_systems}] or a scalar"
        )

    figure = figure_style.new_figure(5.8, 4.0)
    axes = figure.subplots()
    lines, drawn = [], []
    for index, (name, energy) in enumerate(energies.items()):
        excess = energy - best_known[..., None]
        low, median, high = np.quantile(excess, _BAND, axis=0)
        drawn += [low, median, high]
        look = figure_style.line_style(index, len(proposals))
        axes.fill_between(
            proposals, low, high, color=look["color"], alpha=0.18, linewidth=0
        )
        lines += axes.plot(proposals, median, label=name, **look)
    _set_energy_scale(axes, np.concatenate(drawn))
    if proposals[0] > 0:
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xlim(-_ROOM_BELOW_ZERO, 1.5 * max(proposals[-1], 1.0))
    axes.set(
        xlabel="proposals per system",
        ylabel=f"energy above the best known ({energy_unit})",
    )
    axes.grid(**figure_style.GRID)
    systems = f"{num_systems} system" + ("s" if num_systems > 1 else "")
    title = f"median and 10–90 % of {systems}"
    figure_style.legend_outside(figure, lines, "upper", title)
    return figure


def _check_curves(
    curves: Mapping[str, npt.ArrayLike], num_steps: int
) -> dict[str, np.ndarray]:
    if not curves:
        raise ValueError("curves: found no search, expected at least one")
    energies = {name: np.asarray(values, float) for name, values in curves.items()}
    num_systems = len(next(iter(energies.values())))
    for name, energy in energies.items():
        if energy.shape != (num_systems, num_steps) or not energy.size:
            raise ValueError(
                f"curves[{name!r}]: found shape {list(energy.shape)}, expected "
                f"{[num_systems, num_steps]}, [systems, steps]"
            )
        if not np.isfinite(energy).all():
            raise ValueError(
                f"curves[{name!r}]: found NaN or infinity, expected finite energies"
            )
    return energies


def _set_energy_scale(axes: Axes, values: np.ndarray) -> None:
    positive = values[values > 0]
    if not positive.size:
        return
    if positive.size == values.size:
        axes.set_yscale("log")
        return
    threshold = 10.0 ** np.floor(np.log10(positive.min()))
    axes.set_yscale("symlog", linthresh=threshold, linscale=0.5)
    if values.min() >= 0:
        axes.set_ylim(bottom=-_ROOM_BELOW_ZERO * threshold)
