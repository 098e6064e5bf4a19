"""Scores of predictions against loops over systems and values."""

import numpy as np

from experiments.relational_inference import forecasts


def test_shares_of_an_error():
    squared = np.random.default_rng(0).exponential(size=(150, 20, 3, 5))
    columns, positions = [0, 1, 3, 4], (0, 1)
    found = forecasts._shares(squared, columns, positions)
    for step in (1, 10, 20):
        each = [squared[task, step - 1][:, columns].sum() for task in range(150)]
        worst = sorted(each)[-2:]
        of_positions = squared[:, step - 1][..., [0, 1]].sum()
        np.testing.assert_allclose(
            found["worst_systems"][str(step)], sum(worst) / sum(each)
        )
        np.testing.assert_allclose(
            found["positions"][str(step)], of_positions / sum(each)
        )
    assert set(forecasts._shares(squared, columns, ())) == {"worst_systems"}


def test_coverage_of_exchangeable_futures_is_nominal():
    """What comes is one of the samples: 24,000 values, four standard errors."""
    values = np.random.default_rng(1).normal(size=(9, 400, 20, 3, 2))
    mask = np.ones((400, 20, 3), bool)
    mask[:, :, 2] = False
    values[:, :, :, 2] = np.nan
    found = forecasts._coverage(values[:8], values[8], mask, [0, 1])
    assert found["nominal"] == 7 / 9
    for step in ("1", "10", "20"):
        assert abs(found[step] - 7 / 9) < 4 * np.sqrt(7 / 9 * 2 / 9 / 1600)
