"""Sets of relations of a result, from models that were never trained."""

import dataclasses

import jax
import numpy as np
import pytest

from modmeta.relational import InferenceConfig, as_dataset, data, infer_dataset
from modmeta.relational.data import DataError
from modmeta.relational.evaluation import resampling
from modmeta.relational.evaluation.changes import ChangeModel
from modmeta.relational.tasks.structures import TaskStructures
from tests.relational.test_api import random_walks
from tests.relational.test_results import half_symmetric, result_of


@pytest.fixture(scope="module")
def known():
    """Without laws: quick to compile."""
    return result_of(as_dataset(random_walks(), lags=1), half_symmetric())


def test_resampled_systems(monkeypatch):
    """Changes are those under the drawn relations, and errors up to sign and size.

    Of springs, hence laws and entities that differ; one frame of a node is missing.
    """
    springs = data.simulate_springs(0, 6, num_nodes=3, num_frames=10)
    states = springs.states.copy()
    states[2, 4, 1] = np.nan
    known = result_of(dataclasses.replace(springs, states=states), half_symmetric())
    part = known.dataset.without_labels()
    drawn = resampling.resample(
        np.random.default_rng(0), known.model, known.params, part, known.found, 8
    )
    assert sorted(drawn.tasks[:6].tolist()) == list(range(6))
    np.testing.assert_array_equal(drawn.edges >= 0, known.edges[drawn.tasks] >= 0)
    assert 0.2 < np.mean(drawn.edges[drawn.edges >= 0] == 1) < 0.8
    changes = ChangeModel(known.model, known.params, part.take(drawn.tasks))
    nodes = np.asarray(known.found.node_modules)[drawn.tasks]
    before = changes(TaskStructures(np.maximum(known.edges, 0)[drawn.tasks], nodes))
    after = changes(
        TaskStructures(np.maximum(drawn.edges, 0), nodes), effects=before.effects
    )
    errors = np.abs(before.observed - before.expected)
    found = np.abs(drawn.changes - after.expected)
    np.testing.assert_allclose(found, errors, rtol=1e-3, atol=1e-4)
    # With signs and relations as they were, it is the observed system.
    monkeypatch.setattr(resampling, "_signs", lambda *_: 1.0)
    kept = resampling.resample(
        np.random.default_rng(0), known.model, known.params, part, known.found, 8
    )
    np.testing.assert_allclose(
        kept.changes - after.expected,
        before.observed - before.expected,
        atol=1e-5,
    )


def test_sets_of_a_result(known):
    """Searches of the same systems calibrate: most of their pairs are covered."""
    sets = known.relation_sets(0.5, calibration=known.dataset)
    assert sets.source == "labels" and sets.members.shape == (6, 3, 3, 2)
    assert sets.calibration.num_systems.tolist() == [5]
    np.testing.assert_array_equal(sets.is_edge, known.edges >= 0)
    assert sets.covered(known.dataset.edges, sets.matching) >= 0.4
    again = known.relation_sets(0.5, num_resampled=8)
    assert again.source == "resampling"
    assert again.calibration.num_systems.sum() == 8
    # What is searched in place of the observed changes counts, and nothing else does.
    config, key = known.inference, jax.random.key(1)
    given = (key, known.model, known.params, known.dataset, config)
    changes = ChangeModel(known.model, known.params, known.dataset)
    observed = changes(known.found.structures).observed
    plain = infer_dataset(*given)
    same = infer_dataset(*given, changes=observed)
    np.testing.assert_array_equal(same.edges, plain.edges)
    np.testing.assert_allclose(same.energies, plain.energies, rtol=1e-4)
    other = infer_dataset(*given, changes=observed + 1.0)
    assert np.abs(other.energies - plain.energies).min() > 0.1


def test_sets_where_nothing_was_learned_are_full(known, monkeypatch):
    """As where errors are beyond those of all calibration systems."""
    discovery = known.discovery
    doubted = discovery.verdict._replace(supported=False)
    doubtful = dataclasses.replace(
        known, discovery=dataclasses.replace(discovery, verdict=doubted)
    )
    sets = doubtful.relation_sets(0.5, num_resampled=8)
    assert not sets.in_range.any()
    np.testing.assert_array_equal(sets.sizes, np.where(known.edges >= 0, 2, -1))


def test_sets_that_cannot_be_promised(known):
    def refuses(error, message, coverage=0.9, **options):
        with pytest.raises(error, match=message):
            known.relation_sets(coverage, **options)

    refuses(ValueError, "coverage: found 1.5, expected above 0", 1.5)
    refuses(ValueError, "num_resampled: found 5, expected at least 9", num_resampled=5)
    refuses(
        DataError,
        "found 6 systems, of which 5 calibrate, expected at least 9",
        calibration=known.dataset,
    )
    unlabelled = known.dataset.without_labels()
    refuses(DataError, "calibration: found no labels", calibration=unlabelled)
    unsampled = dataclasses.replace(known, inference=InferenceConfig(num_samples=0))
    with pytest.raises(ValueError, match="num_samples: found 0"):
        unsampled.relation_sets()
