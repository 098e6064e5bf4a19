"""Options of the accuracy experiment: presets, assignments, and what is refused."""

import subprocess
import sys

import pytest

from experiments import common
from experiments.metanet_accuracy import config as config_lib
from experiments.metanet_accuracy import train
from modmeta.metanet.zoo import classifiers


def flags(name="digits", *, assignments=(), file=None, smoke_test=False, **values):
    return common.configure(
        train.EXPERIMENT,
        name,
        smoke=smoke_test,
        assignments=assignments,
        values={"images": file, **values},
    )


def test_flags_and_assignments():
    assert flags() == config_lib.digits()
    smoke = flags(smoke_test=True)
    assert smoke.zoo.families == classifiers.FAMILIES
    assert flags("diverse", file="some.npz") == common.override(
        config_lib.diverse(), {"images": "some.npz"}
    )
    config = flags(
        assignments=["zoo.recipe.num_epochs=(2, 3)", "models=('gmn', 'statistics')"],
        **{"training.num_steps": 50, "num_train": None},
    )
    assert config.zoo.recipe.num_epochs == (2, 3)
    assert config.models == ("gmn", "statistics") and config.training.num_steps == 50


def test_widths_that_training_does_not_see():
    config = flags(max_train_width=6)
    shapes = config.zoo.architectures
    each = config.zoo.networks_per_shape
    widths = [shapes[number // each].width for number in range(each * len(shapes))]
    found, whole = config.splits(), config.zoo.splits
    wide = [number for number, width in enumerate(widths) if width > 6]
    assert found["test"].tolist() == wide
    for name in ("train", "valid"):
        narrow = [number for number in whole[name] if widths[number] <= 6]
        assert found[name].tolist() == narrow and narrow
    few = flags(max_train_width=6, num_train=20).splits()
    assert len(few["train"]) == 20 and set(few["train"]) <= set(found["train"])
    with pytest.raises(ValueError, match="networks of the zoo that are no wider"):
        flags(max_train_width=6, num_train=len(found["train"]) + 1)


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("training.steps=3", "found no field 'training.steps'"),
        ("training.num_steps=0", "num_steps: found 0, expected above 0"),
        (
            "models=('gmn', 'oracle')",
            "models: found .* expected some of gmn, scale_gmn",
        ),
        ("models=('gmn', 'gmn')", "models: found .* each once"),
        ("num_train=661", "num_train: found 661, expected 0 to 660, the training"),
        ("zoo.num_test=860", "found 100 and 860, expected less than the 960 networks"),
        (
            "max_train_width=12",
            "max_train_width: found 12, which leaves no network for test, expected 0 "
            "or a width from 4 to below 12",
        ),
        ("max_train_width=3", "leaves no network for train, valid, expected 0 or a"),
        ("learning_rates=()", r"learning_rates: found \(\), expected some above 0"),
        ("pilot_share=2.0", "pilot_share: found 2.0, expected 0 to 1"),
        ("counts=(10, 660)", r"counts: found \(10, 660\), expected .* 1 to 659, each"),
        ("num_resamples=0", "num_resamples: found 0, expected at least 1"),
        ("pooling=max", "pooling: found 'max', expected one of mean, layer_mean"),
        ("zoo.recipe.max_dropout=1.0", "max_dropout: found 1.0, expected 0 to below 1"),
    ],
)
def test_wrong_assignments(assignment, message):
    with pytest.raises(ValueError, match=message):
        flags(assignments=[assignment])


def test_preset_that_needs_images():
    with pytest.raises(ValueError, match="data: found no file, expected images for"):
        flags("diverse")


def test_launcher_refuses_what_is_wrong(tmp_path):
    run = tmp_path / "run"
    for flag, message in (
        ("--set=pooling=max", "pooling: found 'max'"),
        (f"--data={tmp_path / 'none.npz'}", "none.npz: found no file, expected images"),
    ):
        process = subprocess.run(
            [
                sys.executable,
                "-m",
                "experiments.metanet_accuracy.main",
                f"--workdir={run}",
                flag,
            ],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode != 0
        assert message in process.stderr + process.stdout
        assert "Traceback" not in process.stderr
        assert not run.exists()
