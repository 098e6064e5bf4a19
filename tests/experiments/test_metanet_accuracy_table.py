"""The table over cells and seeds: which runs it is of, and means by hand."""

import json
import math

import pytest

from experiments import common
from experiments.metanet_accuracy import cells
from experiments.metanet_accuracy.config import digits
from tests.experiments.commands import check_refused, launched


def scored(r_squared, tau):
    scores = {"r_squared": r_squared, "kendall_tau": tau}
    scores["kendall_tau_within_families"] = None if tau is None else tau / 2
    interval = {"low": 0.0, "high": 0.0}
    return {
        **{name: {"value": value, **interval} for name, value in scores.items()},
        "train_seconds": 3.0,
    }


def summary_of(models, few=None, max_train_width=0):
    """What a run leaves, as far as the table reads it."""
    sizes = {"gmn": 100, "statistics": 90}
    return {
        "config": {"max_train_width": max_train_width},
        "num_train": 50,
        "num_test": 7,
        "models": {
            name: {**found, "num_parameters": sizes[name]}
            for name, found in models.items()
        },
        "models_by_count": {} if few is None else {"5": few},
    }


SUMMARIES = {
    "all_widths_0": summary_of(
        {"gmn": scored(0.9, 0.8), "statistics": scored(0.7, 0.6)},
        few={"gmn": scored(-2.5, 0.2), "statistics": scored(0.1, None)},
    ),
    "all_widths_1": summary_of(
        {"gmn": scored(0.5, 0.4), "statistics": scored(0.6, 0.6)},
        few={"gmn": scored(0.5, 0.2), "statistics": scored(0.1, 0.3)},
    ),
    "wider_0": summary_of(
        {"gmn": scored(0.3, 0.3), "statistics": scored(0.2, 0.2)}, max_train_width=8
    ),
}


def test_runs_of_a_table():
    base = common.override(digits(), {"seed": 3, "counts": (20,)})
    configs = cells.configs_of(base, 2, 6)
    assert list(configs) == ["all_widths_3", "wider_3", "all_widths_4", "wider_4"]
    assert configs["all_widths_4"] == common.override(base, {"seed": 4})
    wider = configs["wider_4"]
    assert (wider.max_train_width, wider.counts, wider.seed) == (6, (), 4)
    assert len({config.zoo for config in configs.values()}) == 1
    assert list(cells.configs_of(base, 1, 6, ["wider"])) == ["wider_3"]
    # A width that leaves nothing matters to no other cell.
    assert list(cells.configs_of(base, 1, 12, ["all_widths"])) == ["all_widths_3"]
    with pytest.raises(ValueError, match="max_train_width: found 12, which leaves no"):
        cells.configs_of(base, 1, 12)


def test_means_and_deviations_over_seeds(tmp_path):
    rows = cells.collect(common.as_json(SUMMARIES))
    named = {(row["cell"], row["num_train"], row["model"]): row for row in rows}
    assert [key[:2] for key in named] == [
        *[("all_widths", 5)] * 2,
        *[("all_widths", 50)] * 2,
        *[("wider", 50)] * 2,
    ]
    whole = named["all_widths", 50, "gmn"]
    assert whole["r_squared"]["mean"] == pytest.approx(0.7)
    assert whole["r_squared"]["standard_deviation"] == pytest.approx(0.08**0.5)
    assert whole["num_seeds"] == 2 and whole["num_test"] == 7
    assert named["all_widths", 50, "statistics"]["num_parameters"] == 90
    # Highest R2 in one seed each.
    assert [row["num_first"] for row in rows] == [1, 1, 1, 1, 1, 0]
    # One seed has no spread; a tau that is not defined leaves none.
    assert math.isnan(named["wider", 50, "gmn"]["r_squared"]["standard_deviation"])
    assert math.isnan(named["all_widths", 5, "statistics"]["kendall_tau"]["mean"])
    text = cells.format_rows(rows)
    assert "-1.000 +- 2.121" in text and "0.300 " in text
    cells.write(rows, tmp_path)
    written = json.loads((tmp_path / "table.json").read_text())
    assert written == common.as_json(rows)
    assert (tmp_path / "table.png").stat().st_size > 1000


def test_a_run_that_stops_is_the_last(tmp_path, monkeypatch):
    """Otherwise every further run would have to be stopped by itself."""
    begun = []

    def stopped_at_second(config, workdir, zoo_directory):
        begun.append(workdir.name)
        assert zoo_directory == tmp_path / "zoo"
        return {"seed": config.seed} if len(begun) == 1 else None

    monkeypatch.setattr(cells, "_run", stopped_at_second)
    configs = cells.configs_of(digits(), 2, 6)
    assert cells.run_all(configs, tmp_path, None, 1) is None
    assert begun == ["all_widths_0", "wider_0"]
    monkeypatch.setattr(cells, "_run", lambda config, *_: {"seed": config.seed})
    found = cells.run_all(configs, tmp_path, None, 1)
    assert {name: one["seed"] for name, one in found.items()} == {
        "all_widths_0": 0,
        "wider_0": 0,
        "all_widths_1": 1,
        "wider_1": 1,
    }


def test_wrong_flags_are_refused(tmp_path, capsys):
    workdir = tmp_path / "run"
    for words, message in (
        (["--num_seeds=0"], "num_seeds: found '0', expected a whole number from 1 on"),
        (["--max_train_width=12"], "max_train_width: found 12, which leaves no"),
        (["--cell=narrower"], "cell: found 'narrower', expected"),
        (["--config=diverse"], "data: found no file, expected images"),
    ):
        with launched("experiments.metanet_accuracy.table") as program:
            words = [*words, f"--workdir={workdir}"]
            check_refused(program, words, message, tmp_path, workdir, capsys)
