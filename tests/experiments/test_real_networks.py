"""Recordings on published wiring: files are read as data, and physics holds."""

import zipfile

import numpy as np
import pytest

from experiments.real_data import networks, sources
from experiments.real_data.config import ExperimentConfig
from modmeta.relational import DataError, data

CASE = '''"""A case."""
from numpy import array

raise RuntimeError("nothing of this is run")


def case3():
    ppc = {"version": "2"}
    ppc["bus"] = array([[7, 3, 0.0], [2, 1, 1.0], [5, 1, 2.0]])
    ppc["branch"] = array([[7, 2, 0.0, 0.5, 0.1], [2, 5, 0.0, 0.25, 0.1]])
    return ppc
'''


@pytest.fixture
def case(tmp_path):
    path = tmp_path / "case3.py"
    path.write_text(CASE)
    return path


def test_lines_of_a_case(case, tmp_path):
    expected = np.array([[0.0, 2.0, 0.0], [2.0, 0.0, 4.0], [0.0, 4.0, 0.0]])
    np.testing.assert_allclose(networks.grid_of(str(case)), expected)
    other = tmp_path / "other.py"
    other.write_text("x = 1\n")
    with pytest.raises(DataError, match="found the tables .., expected 'bus' and 'br"):
        networks.grid_of(str(other))
    other.write_text("no python here")
    with pytest.raises(DataError, match="found no Python file"):
        networks.grid_of(str(other))
    with pytest.raises(FileNotFoundError, match="found no such file"):
        networks.grid_of(str(tmp_path / "none.py"))


def test_momentum_of_a_grid_fades_as_damping_says(case):
    """Flows between buses cancel, and so do the powers."""
    dataset = networks.simulate_transients(networks.grid_of(str(case)), 2, 30, 0)
    inertia = np.random.default_rng(0).uniform(*networks._INERTIA, 3)
    speed = dataset.states[..., 1].astype(np.float64)
    momentum = speed @ inertia
    times = dataset.frame_interval * np.arange(30)
    expected = momentum[:, :1] * np.exp(-networks._DAMPING * times)
    np.testing.assert_allclose(momentum, expected, atol=1e-5 * np.abs(momentum).max())
    # Speeds are those of the angles, and buses without a line are labelled so.
    moved = np.diff(dataset.states[..., 0], axis=1) / dataset.frame_interval
    middle = 0.5 * (speed[:, 1:] + speed[:, :-1])
    assert np.abs(moved - middle).max() < 0.05 * np.abs(speed).max()
    np.testing.assert_array_equal(
        dataset.edges[0], [[-1, 1, 0], [1, -1, 1], [0, 1, -1]]
    )


def test_regions_of_a_connectome(tmp_path):
    path = tmp_path / "connectivity_4.zip"
    weights = np.arange(16.0).reshape(4, 4)
    with zipfile.ZipFile(path, "w") as archive:
        text = "\n".join(" ".join(map(str, row)) for row in weights)
        archive.writestr("weights.txt", text)
    found = networks.connectome_of(str(path), 3, 0.5)
    # Columns sum to 24, 23, 22, 21 without the diagonal: the last one goes.
    chosen = weights[:3, :3] * (1.0 - np.eye(3))
    expected = np.where(chosen > np.median(chosen[~np.eye(3, dtype=bool)]), chosen, 0)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(DataError, match="num_nodes: found 5, expected 2 to the 4"):
        networks.connectome_of(str(path), 5, 0.5)
    broken = tmp_path / "broken.zip"
    broken.write_text("no archive")
    with pytest.raises(DataError, match="found no archive with weights.txt"):
        networks.connectome_of(str(broken), 3, 0.5)


def test_regions_that_drive_each_other_go_together():
    weights = np.zeros((3, 3))
    weights[0, 1] = weights[1, 0] = 1.0
    bold = networks.simulate_fmri(weights, 2, 150, 0)
    correlation = np.corrcoef(bold.states[..., 0].reshape(-1, 3).T)
    assert correlation[0, 1] > 0.3 > abs(correlation[0, 2])
    np.testing.assert_array_equal(bold.edges[0], weights.astype(int) - np.eye(3))


def test_classical_methods_see_one_column_of_bodies(case, tmp_path):
    dataset = networks.simulate_transients(networks.grid_of(str(case)), 2, 30, 0)
    data.save_npz(tmp_path / "grid.npz", dataset)
    options = {"source": "csv", "file": str(tmp_path / "grid.npz")}
    (network,) = sources.read_networks(ExperimentConfig(**options))
    assert network.series.features.recorded == (0,) and network.is_scored_alone
    np.testing.assert_array_equal(
        network.series.states[:, -20:, :, 0], dataset.states[:, -20:, :, 1]
    )
    np.testing.assert_array_equal(network.series.edges, dataset.edges)
    options |= {"series": "angle", "shared_graph": True, "lags": 1}
    (network,) = sources.read_networks(ExperimentConfig(**options))
    np.testing.assert_array_equal(network.series.states, dataset.states[..., :1])
    assert not network.is_scored_alone
