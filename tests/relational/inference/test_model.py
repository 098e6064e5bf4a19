"""A model reads recordings at other intervals than those that it was trained on."""

import dataclasses

import jax
import numpy as np
import pytest

from modmeta.relational import data
from modmeta.relational.data import DataError
from modmeta.relational.futures import predictions
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.proposal_head import ProposalConfig
from modmeta.relational.tasks.structures import random_structures
from modmeta.relational.training import setup


def springs():
    return data.simulate_springs(0, 4, num_nodes=3, num_frames=8)


def build(**options):
    sizes = {"edge_sizes": (4,), "node_sizes": (4,), "message_size": 4}
    return setup.build_model(
        springs(),
        jax.random.key(0),
        modules=ModuleConfig(**sizes, **options),
        proposal=ProposalConfig(encoder="none"),
    )


def test_the_same_interval_is_left_alone():
    model, _ = build()
    dataset = springs()
    assert model.read(dataset) is dataset


def test_times_are_put_into_the_unit_of_the_model():
    model, _ = build()
    dataset = springs()
    half = dataclasses.replace(dataset, frame_interval=0.5 * dataset.frame_interval)
    found = model.read(half)
    assert found.frame_interval == dataset.frame_interval
    np.testing.assert_allclose(found.clock[0], 0.5 * np.arange(8))
    # The same times in another unit are the same data.
    times = dataset.frame_interval * np.arange(8)
    named = dataclasses.replace(
        dataset, times=times, frame_interval=3.0 * dataset.frame_interval
    )
    assert model.read(named).is_regular


def test_predictions_come_at_the_interval_of_the_data():
    """One motion, asked for at whole and at half intervals."""
    model, params = build(entities="alike")
    dataset = springs()
    structures = random_structures(jax.random.key(1), 4, 3, 2)
    half = dataclasses.replace(dataset, frame_interval=0.5 * dataset.frame_interval)
    options = {"num_substeps": 32}
    whole = predictions.predict(model, params, dataset, structures, 3, **options)
    twice = predictions.predict(model, params, half, structures, 6, **options)
    assert np.ptp(whole, axis=1).max() > 0.05
    np.testing.assert_allclose(twice[:, 1::2], whole, atol=1e-4)


def test_messages_from_the_start_hold_at_their_interval_alone():
    model, _ = build(path="start")
    other = dataclasses.replace(springs(), frame_interval=0.2)
    with pytest.raises(DataError, match="frame_interval: found 0.2 with path 'start'"):
        model.read(other)


@pytest.mark.parametrize(
    "interval, times",
    [(None, 1), (0.02, 1), (0.1, 1), (0.1001, 1), (0.15, 2), (0.2, 2), (9.0, 4)],
)
@pytest.mark.parametrize("path", ["two_body", "interpolated"])
def test_longer_intervals_have_laws_evaluated_more_often(interval, times, path):
    """As often per unit of time as in training, and four times as often at most."""
    model, _ = build(path=path)
    found = model.reaching(interval)
    assert found.bank.config.num_points == times * model.bank.config.num_points
    assert (found == model) == (times == 1)
    assert found.bank.laws.law == model.bank.laws.law


def test_messages_from_the_start_are_evaluated_once_at_any_interval():
    model, _ = build(path="start")
    assert model.reaching(9.0) is model
