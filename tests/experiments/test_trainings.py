"""Which trainings of a run count; none is really run."""

import types

import numpy as np
import pytest

from experiments.relational_inference import config, trainings
from tests.relational.verdict.test_restarts import relations


@pytest.mark.parametrize(
    "graphs, energies, changing, counted, others",
    [
        # The second ended badly; the third agrees with the first.
        ([0, 1, 0], [-10.0, 50.0, -9.0], False, 0, [2]),
        # The first ended badly, and stops in between.
        ([1, 0, None], [50.0, -10.0, 0.0], False, None, None),
        # Stretches are those of one training: nobody else is asked.
        ([0, 1], [-10.0, 50.0], True, 0, [1]),
    ],
)
def test_bad_trainings_are_replaced(
    monkeypatch, graphs, energies, changing, counted, others
):
    names, seeds = [], []

    def meta_train(config, datasets, run, check, seed, name):
        number = len(names)
        names.append(name)
        seeds.append(seed)
        best = types.SimpleNamespace(score=energies[number])
        state = types.SimpleNamespace(
            best=best, followed={"warm": None}, bouncegrad=types.SimpleNamespace(step=1)
        )
        return None, types.SimpleNamespace(
            is_finished=graphs[number] is not None,
            params=number,
            state=state,
            seconds=1.0,
        )

    def search(config, datasets, model, params, index, mesh):
        return relations(graphs[params], energies[params])

    monkeypatch.setattr(trainings, "meta_train", meta_train)
    monkeypatch.setattr(trainings, "search", search)
    options = config.ExperimentConfig(num_restarts=2, changing=changing, seed=7)
    datasets = types.SimpleNamespace(train=types.SimpleNamespace(num_tasks=4))
    found = trainings.train_or_take(options, datasets, None, None, None)
    assert names == ["", "restart_1", "restart_2"][: len(graphs)]
    assert seeds == [7, 8, 9][: len(graphs)]
    if counted is None:
        assert found is None
        return
    assert found.params == counted
    assert [one.params for one in found.restarts] == others
    for one in found.restarts:
        if changing:
            assert one.found is None
        else:
            expected = relations(graphs[one.params], energies[one.params])
            np.testing.assert_array_equal(one.found.edges, expected.edges)
