"""Makes the pictures of the documentation with modmeta itself, into `docs/assets/`.

python docs/make_figures.py [relations|parameter_graph]

Takes a minute on two cores. The results are committed: the site is built without
running this.
"""

import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.cm
import matplotlib.colors
import matplotlib.patches
import matplotlib.patheffects
import numpy as np

from modmeta import metanet
from modmeta.metanet.parameter_graphs import vocabulary
from modmeta.relational import BounceGradConfig, data, infer_relations
from modmeta.runtime import figure_style

FOLDER = pathlib.Path(__file__).parent / "assets"
INK = figure_style.COLORS[0]


def save(figure, name):
    """Writes a figure as a PNG of few colours, small enough to commit."""
    from PIL import Image

    path = FOLDER / f"{name}.png"
    figure.savefig(path, dpi=130, facecolor="white")
    with Image.open(path) as image:
        image.convert("RGB").quantize(256).save(path, optimize=True)
    print(path, path.stat().st_size // 1024, "kB")


def clean(axes, title, adjustable):
    """An axes without ticks, of equal scales."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable=adjustable)
    axes.set_title(title, fontsize=11)


def relations():
    """Observed paths, true springs, inferred springs, for two systems."""
    dataset = data.simulate_springs(seed=0, num_tasks=500, num_nodes=5)
    result = infer_relations(
        dataset, seed=0, bouncegrad=BounceGradConfig(num_steps=800)
    )
    print("edge accuracy", result.edge_accuracy)
    # Names of relations have no meaning; the labels say which one is the spring.
    agree = np.mean(result.edges[dataset.edges == 1] == 1)
    spring = int(agree >= 0.5)
    probabilities = result.probabilities[..., spring]
    figure = figure_style.new_figure(9.0, 5.4)
    grid = figure.subplots(2, 3)
    for row, system in enumerate((1, 3)):
        states = dataset.states[system]
        colors = figure_style.node_colors(5)
        for node in range(5):
            path = states[:, node, :2]
            grid[row, 0].plot(*path.T, color=colors[node], linewidth=1.6)
            grid[row, 0].plot(*path[-1], "o", color=colors[node], markersize=8)
        angles = 2 * np.pi * np.arange(5) / 5 + np.pi / 2
        places = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        truth = (dataset.edges[system] == 1).astype(float)
        draw_graph(grid[row, 1], places, truth, colors)
        draw_graph(grid[row, 2], places, probabilities[system], colors)
        pairs = ~np.eye(5, dtype=bool)
        right = (probabilities[system] > 0.5) == (truth > 0.5)
        titles = (
            f"System {row + 1}: what is observed",
            "True springs",
            f"Inferred: {right[pairs].sum()} of {pairs.sum()} edges right",
        )
        for axes, title in zip(grid[row], titles, strict=True):
            clean(axes, title, "datalim" if axes is grid[row, 0] else "box")
    save(figure, "relations")


def draw_graph(axes, places, probabilities, colors):
    """One arrow per probable edge, darker where it is surer."""
    for receiver in range(len(places)):
        for sender in range(len(places)):
            probability = probabilities[receiver, sender]
            if receiver == sender or probability < 0.05:
                continue
            axes.add_patch(
                matplotlib.patches.FancyArrowPatch(
                    places[sender],
                    places[receiver],
                    arrowstyle="-|>",
                    connectionstyle="arc3,rad=0.12",
                    mutation_scale=11,
                    shrinkA=9,
                    shrinkB=9,
                    color=INK,
                    alpha=float(probability),
                    linewidth=1.3,
                )
            )
    for node, place in enumerate(places):
        axes.plot(*place, "o", color=colors[node], markersize=15)
        light = node in (2, 4)
        axes.annotate(
            str(node),
            place,
            ha="center",
            va="center",
            fontsize=9,
            color="black" if light else "white",
        )
    axes.set_xlim(-1.5, 1.5)
    axes.set_ylim(-1.1, 1.3)


class Small(nn.Module):
    """Two inputs, three hidden units, one output."""

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.relu(nn.Dense(3)(inputs))
        return nn.Dense(1)(hidden)


def parameter_graph():
    """Every parameter of a small network as an edge of its parameter graph."""
    model, example = Small(), jnp.zeros((1, 2))
    variables = model.init(jax.random.key(3), example)
    # Initial biases are zero, which would hide their edges.
    variables["params"]["Dense_0"]["bias"] = jnp.array([0.4, -0.6, 0.8])
    variables["params"]["Dense_1"]["bias"] = jnp.array([0.5])
    graph = metanet.parameter_graph(model, variables, example)
    topology, values = graph.topology, np.asarray(graph.edge_values)
    types = [vocabulary.NODE_TYPES.names[kind] for kind in topology.node_types]
    is_bias = np.array([kind == "bias" for kind in types])
    places = np.zeros((len(types), 2))
    for layer in range(3):
        column = np.flatnonzero((topology.node_layers == layer) & ~is_bias)
        heights = np.arange(len(column)) - (len(column) - 1) / 2
        places[column] = np.stack([np.full(len(column), layer), -heights], axis=1)
    # The constant one that carries a layer's biases stands before the layer.
    for node in np.flatnonzero(is_bias):
        places[node] = topology.node_layers[node] - 0.6, -1.6
    # Parameters near zero are nearly white.
    outline = matplotlib.patheffects.withStroke(linewidth=3.8, foreground="0.55")
    figure = figure_style.new_figure(8.0, 3.6)
    axes = figure.subplots()
    colors = matplotlib.colormaps["PuOr"]
    limit = float(np.abs(values).max())
    scale = matplotlib.colors.Normalize(-limit, limit)
    for sender, receiver, value in zip(
        topology.senders, topology.receivers, values, strict=True
    ):
        axes.add_patch(
            matplotlib.patches.FancyArrowPatch(
                places[sender],
                places[receiver],
                arrowstyle="-|>",
                mutation_scale=13,
                shrinkA=13,
                shrinkB=13,
                color=colors(scale(value)),
                linewidth=2.4,
                path_effects=[outline],
            )
        )
    for node, kind in enumerate(types):
        axes.plot(
            *places[node],
            "s" if is_bias[node] else "o",
            markersize=24,
            markerfacecolor="white",
            markeredgecolor=INK,
        )
        axes.annotate(
            "1" if is_bias[node] else kind.replace("linear", "unit"),
            places[node],
            ha="center",
            va="center",
            fontsize=8,
        )
    texts = ("inputs", "hidden units, relu", "output")
    for layer, text in enumerate(texts):
        axes.annotate(text, (layer, 1.65), ha="center", fontsize=10)
    axes.set_xlim(-0.3, 2.3)
    axes.set_ylim(-2.0, 1.9)
    axes.set_axis_off()
    bar = figure.colorbar(
        matplotlib.cm.ScalarMappable(scale, colors), ax=axes, shrink=0.8
    )
    bar.set_label("parameter on the edge")
    save(figure, "parameter_graph")


if __name__ == "__main__":
    for name in sys.argv[1:] or ("relations", "parameter_graph"):
        globals()[name]()
