"""Figures of predicted trajectories and their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modmeta.runtime import figure_style
from modmeta.runtime.optional import import_optional

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OBSERVED_ALPHA = 0.35
# With more nodes, colours alone do not tell them apart.
_FEW_NODES = len(figure_style.COLORS)
# A longer list of nodes would be higher than the figure; their numbers stand anyway.
_MOST_LISTED, _ROWS = 40, 20


def plot_trajectories(
    truth: npt.ArrayLike,
    prediction: npt.ArrayLike,
    observed_frames: int,
    positions: Sequence[int] | None = (0, 1),
    *,
    feature: int = 0,
    futures: npt.ArrayLike | None = None,
    num_systems: int = 4,
    node_mask: npt.ArrayLike | None = None,
    feature_names: Sequence[str] | None = None,
    frame_interval: float | None = None,
    system_names: Sequence[Any] | None = None,
    node_names: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Draws true and predicted trajectories of the first systems side by side.

    With two position features nodes are paths in the plane, otherwise one feature is
    drawn against time. The observed part is faint, the true future solid, the
    prediction dashed with markers. A list beside the figure, or beside every system
    where their names differ, says which colour and marker a node has; where there are
    many, the number of a node stands at the end of its path, too. Lines have the ids
    (`gid`) "observed-0", "future-0", "predicted-0", "possible-0" and so on by node,
    also in SVG files. If the truth ends with the observed part, there is no true
    future.

    Args:
      truth: `[systems, time, nodes, features]`, or `[time, nodes, features]` for one
        system.
      prediction: `[systems, horizon, nodes, features]` (or without `systems`), the
        frames from number `observed_frames` on. It may end before or after the truth.
      observed_frames: how many frames the graph was inferred from, 1 to `time`.
      positions: the two features that are coordinates in the plane. None, or another
        number of them, draws `feature` against time.
      feature: the feature to draw against time.
      futures: `[samples, systems, horizon, nodes, features]` (or without `systems`)
        that are as likely as the prediction, drawn thin; None for none.
      num_systems: how many systems to draw at most.
      node_mask: `[systems, nodes]` (or `[nodes]`), bool, false at padded nodes, which
        are not drawn.
      feature_names: one axis label per feature, with its unit. None means feature 0,
        1, ....
      frame_interval: time between two frames. None counts time in frames.
      system_names: one name or number per system. None means 0, 1, ....
      node_names: one name per node of every system. None means 0, 1, ....

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if shapes disagree, a feature is out of range, or there is nothing
        to draw.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.ndim == 3:
        truth, prediction = truth[None], prediction[None]
        node_mask = None if node_mask is None else np.asarray(node_mask)[None]
    if futures is None:
        futures = np.zeros((0, *prediction.shape))
    futures = np.asarray(futures)
    futures = futures.reshape(-1, *prediction.shape) if futures.ndim == 4 else futures
    _check_trajectories(truth, prediction, observed_frames)
    if futures.shape[1:] != prediction.shape:
        raise ValueError(
            f"futures: found shape {list(futures.shape)}, expected [samples, "
            f"{', '.join(map(str, prediction.shape))}] to agree with prediction"
        )
    num_all, time, num_nodes, num_features = truth.shape
    has_future = observed_frames < time
    if node_mask is None:
        node_mask = np.ones((num_all, num_nodes), dtype=bool)
    node_mask = np.asarray(node_mask)
    if node_mask.shape != (num_all, num_nodes):
        raise ValueError(
            f"node_mask: found shape {list(node_mask.shape)}, expected "
            f"{[num_all, num_nodes]}, [systems, nodes] of truth"
        )
    planar = positions is not None and len(positions) == 2
    columns = tuple(positions) if planar else (feature,)
    if not all(0 <= column < num_features for column in columns):
        raise ValueError(
            f"features: found {columns}, expected numbers from 0 to "
            f"{num_features - 1}; use "
            "positions=None to draw one feature against time"
        )
    if feature_names is None:
        feature_names = [f"feature {column}" for column in range(num_features)]
    if len(feature_names) != num_features:
        raise ValueError(
            f"feature_names: found {len(feature_names)}, expected {num_features} names"
        )
    shown = min(num_systems, num_all)
    if shown < 1:
        raise ValueError("systems: found none to draw, expected at least one")

    is_crowded = num_nodes > _FEW_NODES
    side = float(np.clip(3.0 + 0.08 * (num_nodes - _FEW_NODES), 3.0, 5.0))
    num_columns = min(shown, 2) if is_crowded else shown
    num_rows = -(-shown // num_columns)
    height = side if planar else max(2.4, 0.8 * side)
    figure = figure_style.new_figure(
        max(4.4, 0.6 + side * num_columns), 1.0 + height * num_rows
    )
    grid = figure.subplots(num_rows, num_columns, squeeze=False, sharey=not planar)
    left, grid = grid[:, 0], grid.ravel()
    for axes in grid[shown:]:
        axes.set_axis_off()
    unit = "time (frames)" if frame_interval is None else "time (units of the data)"
    for system, axes in enumerate(grid[:shown]):
        _draw_system(
            axes,
            truth[system][..., columns],
            prediction[system][..., columns],
            futures[:, system][..., columns],
            observed_frames,
            np.flatnonzero(node_mask[system]),
            1.0 if frame_interval is None else frame_interval,
            is_crowded,
        )
        name = system if system_names is None else system_names[system]
        axes.set_title(f"system {name}")
        if planar:
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_xlabel(feature_names[columns[0]])
        else:
            axes.set_xlabel(unit)
    for axes in left:
        axes.set_ylabel(feature_names[columns[-1]])
    handles = _legend_handles(has_future, bool(len(futures)))
    figure_style.legend_outside(figure, handles, "lower")
    if num_nodes <= _MOST_LISTED:
        members = [
            _members(node_names and node_names[system], node_mask[system], is_crowded)
            for system in range(shown)
        ]
        _list_nodes(figure, grid, members, figure_style.node_colors(num_nodes))
    return figure


def plot_rollout_error(mse: Mapping[str, npt.ArrayLike]) -> Figure:
    """Draws the error of free roll-outs against the number of predicted steps.

    Args:
      mse: name of a predictor to its mean squared error `[steps]`, at 1, 2, ... steps
        after the last known frame. Predictors may differ in their number of steps.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if there is no predictor, or an error is not `[steps]`.
    """
    if not mse:
        raise ValueError("mse: found no predictor, expected at least one")
    curves = {name: np.asarray(values, dtype=float) for name, values in mse.items()}
    for name, values in curves.items():
        if values.ndim != 1 or not values.size:
            raise ValueError(
                f"mse[{name!r}]: found shape {list(values.shape)}, expected [steps]"
            )
    figure = figure_style.new_figure(5.6, 3.8)
    axes = figure.subplots()
    for index, (name, values) in enumerate(curves.items()):
        steps = np.arange(1, len(values) + 1)
        axes.plot(
            steps, values, label=name, **figure_style.line_style(index, len(values))
        )
    figure_style.log_if_positive(axes)
    ticker = import_optional("matplotlib.ticker", "plots")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(
        xlabel="predicted steps (frames)",
        ylabel="mean squared error (normalised units$^2$)",
    )
    axes.grid(**figure_style.GRID)
    axes.legend()
    return figure


def _check_trajectories(
    truth: np.ndarray, prediction: np.ndarray, observed_frames: int
) -> None:
    if truth.ndim != 4:
        raise ValueError(
            f"truth: found shape {list(truth.shape)}, expected [systems, time, nodes, "
            "features]"
        )
    systems, time, *rest = truth.shape
    if not 1 <= observed_frames <= time:
        raise ValueError(
            f"observed_frames: found {observed_frames}, expected 1 to {time}, the "
            "frames of truth"
        )
    expected = (systems, *rest)
    if prediction.ndim != 4 or prediction.shape[:1] + prediction.shape[2:] != expected:
        nodes, features = rest
        raise ValueError(
            f"prediction: found shape {list(prediction.shape)}, expected [{systems}, "
            f"horizon, {nodes}, {features}] to agree with truth"
        )
    if not prediction.shape[1]:
        raise ValueError("prediction: found no frame, expected at least one")


def _draw_system(
    axes: Axes,
    truth: np.ndarray,
    prediction: np.ndarray,
    futures: np.ndarray,
    observed_frames: int,
    nodes: np.ndarray,
    frame_interval: float,
    is_crowded: bool,
) -> None:
    """Draws `[time, nodes, 2]` as paths or `[time, nodes, 1]` against time."""
    if truth.shape[-1] == 1:
        truth = _with_time(truth, 0, frame_interval)
        prediction, futures = (
            _with_time(values, observed_frames, frame_interval)
            for values in (prediction, futures)
        )
        axes.axvline(
            (observed_frames - 1) * frame_interval, color="0.6", linewidth=0.8, zorder=0
        )
    # Where paths are many, a marker at either end, and the number of the node.
    every = max(1, len(prediction) // figure_style.MARKERS_PER_LINE)
    if is_crowded:
        every = max(1, len(prediction) - 1)
    colors = figure_style.node_colors(truth.shape[1])
    effects = import_optional("matplotlib.patheffects", "plots")
    halo = [effects.withStroke(linewidth=2, foreground="white")]
    for node in nodes:
        parts = {
            "observed": (truth[:observed_frames, node], _observed_look()),
            # From the last observed frame on, so that the two lines meet.
            "future": (truth[observed_frames - 1 :, node], _future_look()),
            "predicted": (prediction[:, node], _predicted_look(int(node))),
        }
        if observed_frames == len(truth):
            del parts["future"]
        for name, (path, look) in parts.items():
            if name == "predicted":
                look["markevery"] = every
                if is_crowded:
                    look["markersize"] = 3
                    axes.annotate(
                        str(node),
                        path[-1],
                        (2, 2),
                        textcoords="offset points",
                        fontsize=7,
                        color=colors[node],
                        path_effects=halo,
                    )
            axes.plot(
                path[:, 0], path[:, 1], color=colors[node], gid=f"{name}-{node}", **look
            )
        for path in futures[:, :, node]:
            axes.plot(
                path[:, 0],
                path[:, 1],
                color=colors[node],
                gid=f"possible-{node}",
                **_possible_look(),
            )
    axes.locator_params(axis="x", nbins=5)
    axes.grid(**figure_style.GRID)


def _with_time(values: np.ndarray, first_frame: int, interval: float) -> np.ndarray:
    """Values `[..., time, nodes, 1]` after the times of their frames."""
    frames = first_frame + np.arange(values.shape[-3], dtype=float)
    times = np.broadcast_to(interval * frames[:, None, None], values.shape)
    return np.concatenate([times, values], axis=-1)


def _observed_look() -> dict:
    return {"linewidth": 1.2, "alpha": _OBSERVED_ALPHA}


def _future_look() -> dict:
    return {"linewidth": 1.4}


def _possible_look() -> dict:
    return {"linewidth": 0.6, "alpha": 0.3, "zorder": 1}


def _predicted_look(node: int) -> dict:
    return {
        "linestyle": (0, (3, 2)),
        "linewidth": 1.2,
        "marker": figure_style.MARKERS[node % len(figure_style.MARKERS)],
        "markersize": 4,
        "markerfacecolor": "white",
    }


def _members(
    names: Sequence[str] | None, is_real: np.ndarray, is_crowded: bool
) -> tuple[tuple[int, str], ...]:
    """Numbers of the nodes of a system, and what the list calls them."""
    nodes = np.flatnonzero(is_real).tolist()
    if names is None:
        return tuple((node, str(node)) for node in nodes)
    listed = [(node, figure_style.shortened(str(names[node]))) for node in nodes]
    if is_crowded:  # numbers stand at the ends of the paths
        listed = [(n, name if name == str(n) else f"{n}  {name}") for n, name in listed]
    return tuple(listed)


def _list_nodes(
    figure: Figure,
    grid: Sequence[Axes],
    members: Sequence[tuple[tuple[int, str], ...]],
    colors: Sequence[Any],
) -> None:
    """Lists which colour and marker every node has."""
    lines = import_optional("matplotlib.lines", "plots")
    longest = max(members, key=len)
    is_alike = all(set(some) <= set(longest) for some in members)
    lists = [(figure, longest)] if is_alike else list(zip(grid, members, strict=False))
    for owner, some in lists:
        handles = [
            lines.Line2D([], [], label=name, color=colors[n], **_predicted_look(n))
            for n, name in some
        ]
        place: dict[str, Any] = {"loc": "outside center right"}
        if not is_alike:
            place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        owner.legend(
            handles=handles,
            title="entity",
            fontsize=8,
            frameon=False,
            ncols=-(-len(handles) // _ROWS),
            **place,
        )


def _legend_handles(has_future: bool, has_futures: bool) -> list:
    lines = import_optional("matplotlib.lines", "plots")
    looks = {"observed": _observed_look()}
    if has_future:
        looks["true future"] = _future_look()
    looks["predicted"] = _predicted_look(0)
    if has_futures:
        looks["as likely"] = _possible_look()
    return [
        lines.Line2D([], [], label=label, color="0.2", **look)
        for label, look in looks.items()
    ]
