import itertools
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402

from modmeta.relational import figures  # noqa: E402
from modmeta.relational.laws.curves import LawCurve  # noqa: E402
from modmeta.runtime import figure_style  # noqa: E402


def assert_readable(figure):
    """Draws the figure: no text is cut off, no two texts overlap."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = []
    for text in figure.findobj(lambda artist: hasattr(artist, "get_fontsize")):
        # Axis keeps tick labels outside the view, which it does not draw.
        if text.get_visible() and text.get_text() and in_view(figure, text):
            boxes.append((text.get_text(), text.get_window_extent(renderer)))
    assert boxes
    for text, box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1, text
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text
    for (first, box), (second, other) in itertools.combinations(boxes, 2):
        overlap_x = min(box.x1, other.x1) - max(box.x0, other.x0)
        overlap_y = min(box.y1, other.y1) - max(box.y0, other.y0)
        assert min(overlap_x, overlap_y) < 1, (first, second)


def in_view(figure, text):
    for axes in figure.findobj(lambda artist: hasattr(artist, "get_xaxis")):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if text in (tick.label1, tick.label2):
                    return low <= tick.get_loc() <= high
    return True


def legend_texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def lines_of(axes):
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def records(num=21):
    return [
        {
            "step": 50 * i,
            "seconds": 2.0 + 7.0 * i,
            "loss": 1e-2 * 0.8**i,
            "valid_energy": 1.2e-2 * 0.8**i,
            "edge_accuracy": 1.0 - 0.5 * 0.8**i,
            "proposal_accuracy": 0.9 - 0.4 * 0.8**i,
            "temperature": 5e-5 * 0.9**i,
        }
        for i in range(num)
    ]


def test_learning_curves_show_the_records():
    data = records()
    figure = figures.plot_learning_curves(data)
    losses, accuracies, temperature = figure.axes
    assert losses.get_yscale() == temperature.get_yscale() == "log"
    assert temperature.get_xlabel() == "training step"
    assert "energy" in losses.get_ylabel() and "nats" in losses.get_ylabel()
    assert "evaluation only" in accuracies.get_ylabel()
    assert legend_texts(losses.get_legend()) == ["training loss", "validation energy"]
    assert legend_texts(accuracies.get_legend()) == [
        "after the search",
        "learned proposal alone",
    ]
    drawn = {**lines_of(losses), **lines_of(accuracies)}
    for label, key in {
        "training loss": "loss",
        "validation energy": "valid_energy",
        "after the search": "edge_accuracy",
        "learned proposal alone": "proposal_accuracy",
    }.items():
        expected = [(record["step"], record[key]) for record in data]
        np.testing.assert_array_equal(drawn[label], expected)
    np.testing.assert_array_equal(
        temperature.get_lines()[0].get_ydata(), [r["temperature"] for r in data]
    )
    assert_readable(figure)


def test_learning_curves_second_axis_is_a_clock():
    data = records()
    (clock,) = figures.plot_learning_curves(data).axes[0].child_axes
    assert clock.get_xlabel() == "elapsed time (s)"
    to_seconds, to_step = clock._functions
    for record in data:
        assert to_seconds(record["step"]) == pytest.approx(record["seconds"])
        assert to_step(record["seconds"]) == pytest.approx(record["step"])
    # Beyond the ends the clock goes on, at 7 s for 50 steps.
    assert to_seconds(-50) == pytest.approx(-5.0)
    assert to_step(to_seconds(1250)) == pytest.approx(1250)


def test_learning_curves_without_labels():
    keys = ("step", "loss", "valid_energy")
    figure = figures.plot_learning_curves(
        [{key: record[key] for key in keys} for record in records()]
    )
    (axes,) = figure.axes
    assert legend_texts(axes.get_legend()) == ["training loss", "validation energy"]
    assert not axes.child_axes
    assert_readable(figure)


def test_learning_curves_leave_out_missing_points():
    figure = figures.plot_learning_curves(
        [
            {"step": 0, "loss": 1.0, "edge_accuracy": None, "seconds": 5.0},
            {"step": 1, "loss": float("nan"), "edge_accuracy": 0.5, "seconds": 1.0},
            {"step": 2, "loss": 0.0, "other": "text", "seconds": 2.0},
        ]
    )
    losses, accuracies = figure.axes
    assert lines_of(losses)["training loss"].tolist() == [[0, 1.0], [2, 0.0]]
    assert lines_of(accuracies)["after the search"].tolist() == [[1, 0.5]]
    assert losses.get_yscale() == "linear"
    # A clock that was reset cannot be a scale.
    assert not losses.child_axes
    assert_readable(figure)


@pytest.mark.parametrize("bad", [[], [{"loss": 1.0}], [{"step": 1, "seconds": 2.0}]])
def test_learning_curves_refuse_records_without_content(bad):
    with pytest.raises(ValueError, match="found no finite value|found no step"):
        figures.plot_learning_curves(bad)


def edge_arrays(num_relations, nodes=5, systems=6):
    rng = np.random.default_rng(num_relations)
    labels = rng.integers(0, num_relations, (systems, nodes, nodes))
    labels[:, range(nodes), range(nodes)] = -1
    values = rng.dirichlet(np.ones(num_relations), size=labels.shape)
    values[labels < 0] = np.nan
    edges = np.where(labels < 0, -1, np.nan_to_num(values).argmax(-1))
    return edges, labels, values


def matrices_of(axes):
    return axes.get_images()[0].get_array()


def test_adjacency_of_two_relations():
    edges, labels, values = edge_arrays(2)
    figure = figures.plot_adjacency(edges, labels, values, num_systems=3)
    grid = np.array(figure.axes[:6]).reshape(2, 3)
    for system in range(3):
        inferred, true = grid[:, system]
        present = labels[system] >= 0
        for axes, expected in (
            (inferred, values[system, ..., 1]),
            (true, labels[system]),
        ):
            shown = matrices_of(axes)
            np.testing.assert_array_equal(~shown.mask, present)
            np.testing.assert_array_equal(shown[present], expected[present])
        wrong = np.argwhere((edges[system] != labels[system]) & present)
        (crosses,) = inferred.collections
        # Points are (x, y) = (column, row) = (sender, receiver).
        assert sorted(map(tuple, crosses.get_offsets().astype(int).tolist())) == sorted(
            (sender, receiver) for receiver, sender in wrong.tolist()
        )
        assert inferred.get_title() == f"system {system}\n{len(wrong)} of 20 wrong"
        assert not true.collections
    assert [axes.get_xlabel() for axes in grid[1]] == ["sender (column)"] * 3
    assert grid[0, 0].get_ylabel() == "inferred\nreceiver (row)"
    assert grid[1, 0].get_ylabel() == "true\nreceiver (row)"
    assert figure.axes[6].get_ylabel() == "probability of relation 1"
    assert_readable(figure)


def test_adjacency_without_labels():
    edges, _, values = edge_arrays(2)
    figure = figures.plot_adjacency(edges, probabilities=values, num_systems=9)
    *grid, bar = figure.axes
    assert [axes.get_title() for axes in grid] == [f"system {i}" for i in range(6)]
    assert grid[0].get_xlabel() == "sender (column)"
    assert not any(axes.collections for axes in grid)
    assert_readable(figure)


def test_systems_and_nodes_go_by_their_names():
    edges, labels, _ = edge_arrays(2)
    names = [[f"{letter}{node}" for node in range(5)] for letter in "abcdef"]
    systems = [f"dish {letter}" for letter in "abcdef"]
    names[0][0] = "a very long name of a node"
    figure = figures.plot_adjacency(
        edges, labels, num_systems=2, system_names=systems, node_names=names
    )
    names[0][0] = "a very lo…"
    for place, axes in enumerate(figure.axes[:4]):
        assert [t.get_text() for t in axes.get_xticklabels()] == names[place % 2]
        assert [t.get_text() for t in axes.get_yticklabels()] == names[place % 2]
    assert figure.axes[1].get_title().startswith("system dish b\n")
    assert_readable(figure)
    figure = figures.plot_trajectories(*trajectories(), 20, system_names=systems)
    assert [axes.get_title() for axes in figure.axes[:2]] == [
        "system dish a",
        "system dish b",
    ]


@pytest.mark.parametrize("with_probabilities", [True, False])
def test_adjacency_of_more_relations_is_categorical(with_probabilities):
    edges, labels, values = edge_arrays(3, nodes=8)
    labels[1, 6:] = labels[1, :, 6:] = edges[1, 6:] = edges[1, :, 6:] = -1
    figure = figures.plot_adjacency(
        edges,
        labels,
        values if with_probabilities else None,
        num_systems=2,
        relation_names=["none", "weak", "strong"],
    )
    first, padded, *_, bar = figure.axes
    np.testing.assert_array_equal(matrices_of(first).filled(-1), edges[0])
    np.testing.assert_array_equal(matrices_of(padded).filled(-1), edges[1, :6, :6])
    assert [text.get_text() for text in bar.get_yticklabels()] == [
        "none",
        "weak",
        "strong",
    ]
    assert_readable(figure)


def test_adjacency_applies_the_matching():
    _, labels, _ = edge_arrays(3)
    exchanged = np.array([2, 0, 1, -1])[labels]
    figure = figures.plot_adjacency(
        exchanged, labels, num_systems=1, matching=[1, 2, 0]
    )
    assert figure.axes[0].get_title().endswith("0 of 20 wrong")
    np.testing.assert_array_equal(matrices_of(figure.axes[0]).filled(-1), labels[0])
    assert_readable(figure)


def test_adjacency_refuses_what_does_not_fit():
    edges, labels, _ = edge_arrays(3)
    with pytest.raises(ValueError, match="labels: found shape"):
        figures.plot_adjacency(edges, labels[:2])
    with pytest.raises(ValueError, match="relation_names: found 2, expected 3"):
        figures.plot_adjacency(edges, labels, relation_names=["a", "b"])
    with pytest.raises(ValueError, match="systems: found none"):
        figures.plot_adjacency(edges[:0])


def trajectories(systems=3, nodes=4, time=30, features=4):
    steps = np.arange(time)[None, :, None, None]
    phase = np.random.default_rng(0).uniform(0, 6, (systems, 1, nodes, features))
    truth = np.sin(0.2 * steps + phase)
    return truth, truth[:, 20:] + 0.05


@pytest.mark.parametrize("nodes", [4, 15])
@pytest.mark.parametrize("is_alike", [True, False])
def test_which_colour_is_which_entity(nodes, is_alike):
    """Once for all systems whose entities have the same names, else for each."""
    names = [
        [f"{'abc'[0 if is_alike else s]}{n}" for n in range(nodes)] for s in range(3)
    ]
    figure = figures.plot_trajectories(
        *trajectories(nodes=nodes), 20, num_systems=2, node_names=names
    )
    lists = figure.legends[1:] or [axes.get_legend() for axes in figure.axes[:2]]
    assert len(lists) == (1 if is_alike else 2)
    for system, members in enumerate(lists):
        told = [
            name if nodes < 7 else f"{number}  {name}"
            for number, name in enumerate(names[system])
        ]
        assert legend_texts(members) == told
        looks = {line.get_gid(): line for line in figure.axes[system].get_lines()}
        for node, handle in enumerate(members.legend_handles):
            line = looks[f"predicted-{node}"]
            assert handle.get_marker() == line.get_marker()
            assert tuple(handle.get_color()) == tuple(line.get_color())
    if nodes < 7:
        assert_readable(figure)


@pytest.mark.parametrize("planar", [True, False])
def test_futures_that_are_as_likely(planar):
    truth, prediction = trajectories(systems=2)
    futures = prediction + np.array([-0.5, 0.0, 0.5]).reshape(3, 1, 1, 1, 1)
    figure = figures.plot_trajectories(
        truth, prediction, 20, (0, 1) if planar else None, futures=futures
    )
    for system in range(2):
        lines = figure.axes[system].get_lines()
        drawn = [line for line in lines if line.get_gid() == "possible-1"]
        assert len(drawn) == 3
        for line, path in zip(drawn, futures[:, system, :, 1], strict=True):
            x = path[:, 0] if planar else np.arange(20, 30)
            y = path[:, 1] if planar else path[:, 0]
            np.testing.assert_allclose(line.get_xydata(), np.stack([x, y], axis=1))
    assert "as likely" in legend_texts(figure.legends[0])
    with pytest.raises(ValueError, match=r"futures: found shape \[3, 2, 10, 3, 4\]"):
        figures.plot_trajectories(truth, prediction, 20, futures=futures[..., :3, :])


@pytest.mark.parametrize("planar", [True, False])
def test_many_nodes_are_told_apart(planar):
    """Colours alone do not: numbers stand at the ends of the paths."""
    truth, prediction = trajectories(systems=3, nodes=16)
    figure = figures.plot_trajectories(
        truth, prediction, 20, (0, 1) if planar else None, num_systems=3
    )
    for system, axes in enumerate(figure.axes[:3]):
        found = {text.get_text(): text.xy for text in axes.texts}
        assert set(found) == {str(node) for node in range(16)}
        for node in (0, 15):
            expected = prediction[system, -1, node, :2]
            if not planar:
                expected = (29, expected[0])
            np.testing.assert_allclose(found[str(node)], expected)
        low, high = axes.get_window_extent().intervaly
        assert high - low > 180
    assert not figure.axes[3].axison


def test_ticks_of_large_matrices_are_nodes():
    edges, _, _ = edge_arrays(2, nodes=15)
    figure = figures.plot_adjacency(edges, num_systems=1)
    axes = figure.axes[0]
    for ticks in (axes.get_xticks(), axes.get_yticks()):
        np.testing.assert_array_equal(ticks, np.rint(ticks))


def parts_of(axes):
    return {line.get_gid(): line.get_xydata() for line in axes.get_lines()}


def test_trajectories_in_the_plane():
    truth, prediction = trajectories()
    names = ["x (m)", "y (m)", "vx (m/s)", "vy (m/s)"]
    figure = figures.plot_trajectories(
        truth, prediction, 20, num_systems=2, feature_names=names
    )
    assert len(figure.axes) == 2
    for system, axes in enumerate(figure.axes):
        parts = parts_of(axes)
        assert len(parts) == 3 * 4
        for node in range(4):
            path = truth[system, :, node, :2]
            np.testing.assert_array_equal(parts[f"observed-{node}"], path[:20])
            np.testing.assert_array_equal(parts[f"future-{node}"], path[19:])
            np.testing.assert_array_equal(
                parts[f"predicted-{node}"], prediction[system, :, node, :2]
            )
        assert axes.get_xlabel() == "x (m)"
    assert figure.axes[0].get_ylabel() == "y (m)"
    legend, members = figure.legends
    assert legend_texts(legend) == ["observed", "true future", "predicted"]
    assert legend_texts(members) == ["0", "1", "2", "3"]
    looks = {line.get_gid(): line for line in figure.axes[0].get_lines()}
    assert looks["observed-0"].get_alpha() < 1
    assert looks["predicted-0"].get_linestyle() == "--"
    assert looks["predicted-0"].get_marker() not in (None, "None", "")
    assert_readable(figure)


def test_trajectories_against_time():
    truth, prediction = trajectories(features=1)
    before = truth.copy()
    figure = figures.plot_trajectories(
        truth, prediction[:, :5], 20, positions=None, frame_interval=0.1
    )
    parts = parts_of(figure.axes[1])
    time = 0.1 * np.arange(30)
    np.testing.assert_allclose(parts["observed-2"][:, 0], time[:20])
    np.testing.assert_allclose(parts["predicted-2"][:, 0], time[20:25])
    np.testing.assert_array_equal(parts["observed-2"][:, 1], truth[1, :20, 2, 0])
    np.testing.assert_array_equal(parts["predicted-2"][:, 1], prediction[1, :5, 2, 0])
    np.testing.assert_array_equal(truth, before)
    assert figure.axes[0].get_xlabel() == "time (units of the data)"
    assert figure.axes[0].get_ylabel() == "feature 0"
    assert_readable(figure)
    figure = figures.plot_trajectories(truth, prediction, 20, positions=(0,))
    assert figure.axes[0].get_xlabel() == "time (frames)"


@pytest.mark.parametrize("positions", [(0, 1), None])
def test_trajectories_of_a_forecast_beyond_the_truth(positions):
    truth, prediction = trajectories()
    figure = figures.plot_trajectories(truth[:, :20], prediction, 20, positions)
    parts = parts_of(figure.axes[0])
    columns = slice(0, 2) if positions else slice(0, 1)
    drawn = slice(0, 2) if positions else slice(1, 2)
    for node in range(4):
        assert f"future-{node}" not in parts
        for name, values in (("observed", truth[0, :20]), ("predicted", prediction[0])):
            np.testing.assert_array_equal(
                parts[f"{name}-{node}"][:, drawn], values[:, node, columns]
            )
    assert legend_texts(figure.legends[0]) == ["observed", "predicted"]
    assert_readable(figure)


def test_trajectories_with_truth_for_a_part_of_the_prediction():
    truth, prediction = trajectories(features=1)
    figure = figures.plot_trajectories(truth[:, :24], prediction, 20, None)
    parts = parts_of(figure.axes[0])
    np.testing.assert_array_equal(parts["future-0"][:, 0], np.arange(19, 24))
    np.testing.assert_array_equal(parts["future-0"][:, 1], truth[0, 19:24, 0, 0])
    np.testing.assert_array_equal(parts["predicted-0"][:, 0], np.arange(20, 30))
    assert "true future" in legend_texts(figure.legends[0])


def test_trajectories_of_one_padded_system():
    truth, prediction = trajectories(nodes=9)
    mask = np.arange(9) < 7
    figure = figures.plot_trajectories(truth[0], prediction[0], 20, node_mask=mask)
    (axes,) = figure.axes
    assert len(parts_of(axes)) == 3 * 7
    assert "predicted-6" in parts_of(axes)
    assert_readable(figure)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observed_frames": 0}, "observed_frames"),
        ({"observed_frames": 31}, "observed_frames: found 31, expected 1 to 30"),
        ({"prediction": np.zeros((3, 0, 4, 4))}, "prediction: found no frame"),
        ({"prediction": np.zeros((3, 10, 5, 4))}, "prediction: found shape"),
        ({"truth": np.zeros((3, 30))}, "truth: found shape"),
        ({"positions": (0, 4)}, "expected numbers from 0 to 3"),
        ({"positions": None, "feature": 4}, "expected numbers from 0 to 3"),
        ({"feature_names": ["x"]}, "feature_names: found 1, expected 4"),
        ({"node_mask": np.ones((3, 5), bool)}, "node_mask"),
        ({"num_systems": 0}, "systems: found none"),
    ],
)
def test_trajectories_refuse_what_does_not_fit(change, message):
    truth, prediction = trajectories()
    arguments = {"truth": truth, "prediction": prediction, "observed_frames": 20}
    with pytest.raises(ValueError, match=message):
        figures.plot_trajectories(**arguments | change)


def search_curves():
    rng = np.random.default_rng(0)
    proposals = np.unique(np.logspace(0, 3, 25).astype(int))
    start = rng.uniform(0.5e-2, 2e-2, (40, 1))
    return proposals, {
        name: 1e-4 + start * np.exp(-proposals / (scale * rng.uniform(1, 2, (40, 1))))
        for name, scale in (("uniform", 300), ("learned", 40))
    }


@pytest.mark.parametrize("best_known", [0.0, np.full(40, 5e-5)])
def test_search_curves_on_a_log_scale(best_known):
    proposals, curves = search_curves()
    figure = figures.plot_search_curves(proposals, curves, best_known)
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlabel() == "proposals per system"
    assert "above the best known" in axes.get_ylabel()
    (legend,) = figure.legends
    assert legend_texts(legend) == ["uniform", "learned"]
    assert legend.get_title().get_text() == "median and 10–90 % of 40 systems"
    bands = axes.collections
    offset = np.reshape(best_known, (-1, 1))
    for (name, energy), band in zip(curves.items(), bands, strict=True):
        line = lines_of(axes)[name]
        np.testing.assert_array_equal(line[:, 0], proposals)
        np.testing.assert_allclose(line[:, 1], np.median(energy - offset, axis=0))
        corners = band.get_paths()[0].vertices
        limits = np.quantile(energy - offset, [0.1, 0.9], axis=0)
        at_first = corners[corners[:, 0] == proposals[0], 1]
        np.testing.assert_allclose(
            [at_first.min(), at_first.max()], limits[:, 0], rtol=1e-6
        )
    assert_readable(figure)


def test_search_curves_that_reach_the_best_known():
    proposals, curves = search_curves()
    proposals = np.concatenate([[0], proposals])
    curves = {
        name: np.concatenate([values[:, :1], values], axis=1)
        for name, values in curves.items()
    }
    best = np.minimum(curves["uniform"], curves["learned"]).min(axis=1)
    figure = figures.plot_search_curves(proposals, curves)
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "symlog"
    assert axes.get_xlim()[0] < 0 and axes.get_ylim()[0] < 0
    np.testing.assert_allclose(
        lines_of(axes)["learned"][:, 1],
        np.median(curves["learned"] - best[:, None], axis=0),
    )
    assert lines_of(axes)["learned"][-1, 1] == 0.0
    assert_readable(figure)


@pytest.mark.parametrize(
    ("proposals", "curves", "message"),
    [
        ([1, 2], {}, "found no search"),
        ([1, 1], {"a": np.ones((3, 2))}, "increasing"),
        ([[1, 2]], {"a": np.ones((3, 2))}, "proposals: found shape"),
        ([1, 2], {"a": np.ones((3, 3))}, r"curves\['a'\]: found shape \[3, 3\]"),
        ([1, 2], {"a": np.ones((3, 2)), "b": np.ones((2, 2))}, r"curves\['b'\]"),
        ([1, 2], {"a": np.full((3, 2), np.inf)}, "finite"),
    ],
)
def test_search_curves_refuse_what_does_not_fit(proposals, curves, message):
    with pytest.raises(ValueError, match=message):
        figures.plot_search_curves(proposals, curves)


def test_search_curves_refuse_a_best_known_of_another_shape():
    with pytest.raises(ValueError, match="best_known"):
        figures.plot_search_curves([1, 2], {"a": np.ones((3, 2))}, np.zeros(2))


def test_rollout_error():
    steps = np.arange(1, 21)
    mse = {
        "inferred graph": 1e-7 * steps**2,
        "true graph": 5e-8 * steps**2,
        "constant velocity": 4e-6 * steps**2.5,
        "static": 8e-5 * steps[:10] ** 2,
    }
    figure = figures.plot_rollout_error(mse)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "predicted steps (frames)"
    assert "mean squared error" in axes.get_ylabel()
    assert legend_texts(axes.get_legend()) == list(mse)
    for name, values in mse.items():
        line = lines_of(axes)[name]
        np.testing.assert_array_equal(line[:, 0], np.arange(1, len(values) + 1))
        np.testing.assert_array_equal(line[:, 1], values)
    assert_readable(figure)


@pytest.mark.parametrize("bad", [{}, {"a": np.ones((2, 3))}, {"a": []}])
def test_rollout_error_refuses_other_shapes(bad):
    with pytest.raises(ValueError, match="mse"):
        figures.plot_rollout_error(bad)


def test_calibration_of_two_bins():
    labels = np.full((1, 4, 4), -1)
    values = np.zeros((1, 4, 4, 2))
    # Confidence 0.75: three of four right; confidence 1: one of two right.
    entries = [(0.75, 0), (0.75, 0), (0.25, 1), (0.75, 1), (1.0, 0), (0.0, 0)]
    places = [place for place in np.ndindex(4, 4) if place[0] != place[1]]
    for (probability, label), place in zip(entries, places, strict=False):
        labels[0][place] = label
        values[0][place] = probability, 1.0 - probability
    figure = figures.plot_edge_probability_calibration(values, labels)
    upper, lower = figure.axes
    curve = lines_of(upper)["edges (calibration error 0.167)"]
    np.testing.assert_allclose(curve, [[0.75, 0.75], [1.0, 0.5]])
    assert [bar.get_height() for bar in lower.patches] == [0] * 7 + [4, 0, 2]
    assert upper.get_ylabel() == "fraction of right relations"
    assert lower.get_xlabel() == "probability of the inferred relation"
    assert lower.get_ylabel() == "edges"
    assert "perfectly calibrated" in legend_texts(upper.get_legend())
    assert_readable(figure)
    # With the names exchanged, right and wrong change places.
    other = figures.plot_edge_probability_calibration(values, labels, [1, 0])
    label = legend_texts(other.axes[0].get_legend())[1]
    curve = lines_of(other.axes[0])[label]
    np.testing.assert_allclose(curve, [[0.75, 0.25], [1.0, 0.5]])


CALLS = {
    "plot_laws": lambda: figures.plot_laws([curve()]),
    "plot_learning_curves": lambda: figures.plot_learning_curves(records()),
    "plot_adjacency": lambda: figures.plot_adjacency(*edge_arrays(2)[:2]),
    "plot_edge_probability_calibration": lambda: (
        figures.plot_edge_probability_calibration(*edge_arrays(2)[:0:-1])
    ),
    "plot_trajectories": lambda: figures.plot_trajectories(*trajectories(), 20),
    "plot_rollout_error": lambda: figures.plot_rollout_error({"a": [1.0, 2.0]}),
    "plot_search_curves": lambda: figures.plot_search_curves(*search_curves()),
}


def curve(relation=0, variable="distance", power=-2.0):
    at = np.geomspace(0.1, 4.0, 30)
    rates = at**power if variable == "distance" else np.sin(at)
    return LawCurve(
        relation=relation,
        variable=variable,
        inputs=at,
        rates=rates,
        lower=rates - 0.1,
        upper=rates + 0.1,
        weights=np.full(30, 1 / 30),
        num_edges=7,
    )


def test_laws_beside_the_true_ones():
    """Laws that span orders of size have logarithmic axes, others do not."""
    curves = [curve(0), curve(1, power=-1.5)]
    figure = figures.plot_laws(curves, [lambda d: d**-2.0, None])
    assert_readable(figure)
    first, second = figure.axes
    assert first.get_title() == "relation 0, 7 edges"
    np.testing.assert_allclose(
        lines_of(first)["found"], np.stack([curves[0].inputs, curves[0].rates], -1)
    )
    np.testing.assert_allclose(lines_of(first)["true"][:, 1], curves[0].rates)
    assert "true" not in lines_of(second)
    assert first.get_xscale() == "log" and first.get_yscale() == "symlog"
    figure = figures.plot_laws([curve(variable="phase difference")], names=["pull"])
    assert_readable(figure)
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "linear"
    with pytest.raises(ValueError, match="curves: found none"):
        figures.plot_laws([])


def test_every_public_function_is_called_here():
    assert sorted(CALLS) == sorted(figures.__all__)


@pytest.mark.parametrize("name", CALLS)
def test_missing_matplotlib_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        ImportError, match=r"matplotlib: pip install 'modmeta\[plots\]'"
    ):
        CALLS[name]()


@pytest.mark.parametrize("name", CALLS)
def test_figures_stay_out_of_the_global_state(name):
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert CALLS[name]() is not CALLS[name]()
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_line_styles_differ_in_grey_and_in_shape():
    looks = [
        figure_style.line_style(index, 20) for index in range(len(figure_style.COLORS))
    ]
    grey = [np.dot(to_rgb(look["color"]), [0.2126, 0.7152, 0.0722]) for look in looks]
    assert min(np.abs(np.diff(grey))) > 0.1
    assert max(grey) < 0.8
    assert len({str(look["linestyle"]) for look in looks}) == len(looks)
    assert len({look["marker"] for look in looks}) == len(looks)
