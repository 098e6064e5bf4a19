"""Figures of training, inferred graphs, laws, roll-outs and searches.

Every function takes NumPy arrays and returns a new `matplotlib.figure.Figure`; none
reads or changes global state, so that nothing needs to be closed. Save the result with
`figure.savefig(path)`. A notebook shows it as the last value of a cell after
`%matplotlib inline`.

The functions need matplotlib: pip install 'modmeta[plots]'.
"""

from modmeta.relational.figures.graphs import plot_adjacency as plot_adjacency
from modmeta.relational.figures.graphs import (
    plot_edge_probability_calibration as plot_edge_probability_calibration,
)
from modmeta.relational.figures.laws import plot_laws as plot_laws
from modmeta.relational.figures.search import plot_search_curves as plot_search_curves
from modmeta.relational.figures.training import (
    plot_learning_curves as plot_learning_curves,
)
from modmeta.relational.figures.trajectories import (
    plot_rollout_error as plot_rollout_error,
)
from modmeta.relational.figures.trajectories import (
    plot_trajectories as plot_trajectories,
)

__all__ = [
    "plot_adjacency",
    "plot_edge_probability_calibration",
    "plot_laws",
    "plot_learning_curves",
    "plot_rollout_error",
    "plot_search_curves",
    "plot_trajectories",
]
