"""Candidate edges against one distance at a time, computed in plain loops."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from modmeta.graphs.edges import fully_connected
from modmeta.relational.data import FeatureSpec, TrajectoryDataset, neighbors
from modmeta.relational.data.neighbors import CandidateConfig


def distance(positions, sender, receiver):
    """Smallest distance over the frames."""
    return min(np.linalg.norm(frame[sender] - frame[receiver]) for frame in positions)


def expected_edges(positions, node_mask, num_neighbors=0, radius=0.0):
    """Pairs (receiver, sender), sorted, by sorting senders one receiver at a time."""
    nodes = [node for node in range(len(node_mask)) if node_mask[node]]
    pairs = []
    for receiver in nodes:
        others = [
            (round(distance(positions, sender, receiver), 9), sender)
            for sender in nodes
            if sender != receiver
        ]
        others = sorted(d for d in others if not radius or d[0] <= radius)
        kept = others[:num_neighbors] if num_neighbors else others
        pairs += sorted((receiver, sender) for _, sender in kept)
    return pairs


def pairs_of(edges):
    senders, receivers = edges
    assert senders.dtype == receivers.dtype == np.int32
    return list(zip(receivers.tolist(), senders.tolist(), strict=True))


@st.composite
def trajectories(draw):
    """Positions on a grid, so that distances tie, NaN at padded nodes."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    positions = rng.integers(0, 3, shape).astype(np.float32)
    node_mask = np.arange(shape[1]) < draw(st.integers(1, shape[1]))
    positions[:, ~node_mask] = np.nan
    return positions, node_mask


@hypothesis.given(trajectory=trajectories(), num_neighbors=st.integers(1, 8))
def test_nearest_neighbors_equal_brute_force(trajectory, num_neighbors):
    found = neighbors.nearest_neighbors(*trajectory, num_neighbors)
    assert pairs_of(found) == expected_edges(*trajectory, num_neighbors)


@hypothesis.given(trajectory=trajectories(), radius=st.sampled_from([0.5, 1.0, 2.0]))
def test_radius_equals_brute_force(trajectory, radius):
    """Neighbours on the grid lie exactly at a radius of 1 or 2: they count."""
    found = neighbors.within_radius(*trajectory, radius)
    assert pairs_of(found) == expected_edges(*trajectory, radius=radius)


def test_more_receivers_than_a_block_and_relabelling():
    rng = np.random.default_rng(0)
    positions, node_mask = rng.normal(size=(4, 300, 2)), np.ones(300, bool)
    found = pairs_of(neighbors.nearest_neighbors(positions, node_mask, 5))
    assert found == expected_edges(positions, node_mask, 5)
    order = rng.permutation(300)
    renamed = neighbors.nearest_neighbors(positions[:, order], node_mask, 5)
    again = [(order[receiver], order[sender]) for receiver, sender in pairs_of(renamed)]
    assert sorted(again) == found


def dataset(sizes=(4, 2, 5), positions=(0, 2), frames=3):
    rng = np.random.default_rng(1)
    states = rng.normal(size=(len(sizes), frames, max(sizes), 3))
    mask = np.arange(max(sizes)) < np.array(sizes)[:, None]
    return TrajectoryDataset(
        states=states,
        features=FeatureSpec(("x", "charge", "y"), positions),
        frame_interval=1.0,
        node_mask=mask,
    )


@pytest.mark.parametrize(
    "limits", [{"num_neighbors": 2}, {"radius": 1.2}, {"num_neighbors": 1, "radius": 1}]
)
def test_candidates_of_a_data_set(limits):
    systems = dataset()
    found = neighbors.candidate_edges(systems, CandidateConfig(**limits))
    for task, edges in enumerate(found):
        # The charge is no position.
        positions = systems.states[task][:, :, [0, 2]]
        expected = expected_edges(positions, systems.node_mask[task], **limits)
        assert pairs_of(edges) == expected


def test_without_a_limit_all_edges_are_candidates():
    systems = dataset(positions=())
    assert neighbors.candidate_edges(systems) is fully_connected


def test_share_of_labelled_pairs_that_are_candidates():
    labels = np.array([[[-1, 0, 1], [1, -1, -1], [0, 0, -1]]])
    edges = np.array([[[-1, 1, -1], [-1, -1, 0], [0, -1, -1]]])
    assert neighbors.candidate_share(labels, edges) == pytest.approx(2 / 5)
    with pytest.raises(ValueError, match="labels: found no labelled pair"):
        neighbors.candidate_share(np.full((1, 2, 2), -1), np.zeros((1, 2, 2), int))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, m: neighbors.nearest_neighbors(x, m, 0), "num_neighbors: found 0"),
        (lambda x, m: neighbors.within_radius(x, m, 0.0), "radius: found 0.0"),
        (lambda x, m: neighbors.within_radius(x, m, np.nan), "radius: found nan"),
        (lambda x, m: neighbors.within_radius(x[0], m, 1.0), "positions: found shape"),
        (lambda x, m: neighbors.within_radius(x, m[1:], 1.0), "node_mask: found bool"),
        (lambda x, m: neighbors.within_radius(x * np.nan, m, 1.0), "found NaN or inf"),
        (
            lambda x, m: CandidateConfig(num_neighbors=-1),
            "num_neighbors: found -1",
        ),
        (
            lambda x, m: neighbors.candidate_edges(
                dataset(positions=()), CandidateConfig(radius=1.0)
            ),
            "positions: found no feature that is a position",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros((2, 3, 2)), np.ones(3, bool))


def test_absent_nodes_are_near_to_none():
    positions = np.random.default_rng(0).normal(size=(5, 4, 2))
    positions[0, 1] = positions[0, 0]  # nearest of all, if it were there
    states = positions[None].copy()
    states[0, :2, 1] = np.nan
    dataset = TrajectoryDataset(states=states, features=FeatureSpec(("x", "y"), (0, 1)))
    (found,) = neighbors.candidate_edges(dataset, CandidateConfig(num_neighbors=1))
    distances = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
    distances[:2, 1] = distances[:2, :, 1] = np.inf
    distances[:, np.arange(4), np.arange(4)] = np.inf
    np.testing.assert_array_equal(found[0], distances.min(axis=0).argmin(axis=1))
