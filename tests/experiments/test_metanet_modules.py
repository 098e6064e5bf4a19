"""The experiment on modules: laws, scores, units, and one small run.

Rates against formulas in NumPy, networks against those of the bank, duplicates counted
by hand, what is refused, and files and table of a run that is stopped and goes on.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.metanet_modules import config as config_lib
from experiments.metanet_modules import law_zoo, laws, readers, scores, train, transfer
from modmeta.metanet import zoo
from modmeta.relational.modules import laws as law_modules

SHAPE = laws.NetworkShape((3, 4))
CONFIG = common.override(config_lib.smoke(config_lib.laws()), {"models": ("probing",)})
FORMULAS = {
    "nothing": lambda x, k, n: 0 * x,
    "spring": lambda x, k, n: k * x,
    "spring with rest length": lambda x, k, n: k * (x - n),
    "1/d^2, attractive": lambda x, k, n: k / x**2,
    "1/d^2, repulsive": lambda x, k, n: -k / x**2,
    "1/d, attractive": lambda x, k, n: k / x,
    "Lennard-Jones": lambda x, k, n: k * ((n / x) ** 7 - 2 * (n / x) ** 13) / 0.09985,
    "Yukawa, repulsive": lambda x, k, n: -k * np.exp(-x / n) * (x + n) / (n * x**2),
    "soft sphere": lambda x, k, n: -k * np.where(x < n, 1 - x / n, 0),
    "sine of an angle": lambda x, k, n: k * np.sin(x),
}


@pytest.mark.parametrize("index", range(len(laws.LAWS)), ids=laws.LAW_NAMES)
def test_rates_are_those_of_the_formula(index):
    law = laws.LAWS[index]
    x = np.linspace(-3, 3, 7) if law.is_angular else np.geomspace(0.4, 3, 7)
    settings = {
        "law": jnp.int32(index),
        "strength": jnp.float32(0.7),
        "length": jnp.float32(0.6),
        "nearest": jnp.float32(x[0]),
    }
    found = laws.rate_of(settings, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(
        found, FORMULAS[law.name](x, 0.7, 0.6), rtol=2e-3, atol=1e-6
    )
    if not law.is_angular:
        # What a unit of length does to a strength.
        larger = law.rate(2.0 * x, np.float64(1.2))
        expected = 2.0**law.degree * law.rate(x, np.float64(0.6))
        np.testing.assert_allclose(larger, expected, rtol=1e-5, atol=1e-9)


def test_strength_of_lennard_jones_is_its_strongest_pull():
    law = laws.LAWS[laws.LAW_NAMES.index("Lennard-Jones")]
    rates = law.rate(np.linspace(0.9, 3.0, 20001), 1.0)
    assert rates.max() == pytest.approx(1.0, abs=1e-6)


def test_networks_are_those_of_a_bank():
    variables = SHAPE.init(jax.random.key(0))
    params = variables["params"]
    inputs = laws.inputs_of(jnp.array([0.3, 1.0, 2.0]), True)
    np.testing.assert_allclose(
        inputs[:, 0], np.log(np.sqrt(np.square([0.3, 1.0, 2.0]) + 1e-4)), atol=1e-6
    )
    module = law_modules.LawNetwork((3, 4), "silu", 1, 1)
    layers = {"params": {"rate_network": params["network"]}}
    rates = module.apply(layers, inputs, method="rates")
    expected = law_modules.saturated(rates, jnp.float32(0.05))
    limited = {"params": {**params, "inverse_limit": jnp.float32(20.0)}}
    np.testing.assert_allclose(SHAPE.rates(limited, inputs), expected, rtol=1e-5)
    *_, last = SHAPE.responses(variables, inputs)
    np.testing.assert_allclose(np.exp(last[:, 0]) * last[:, 1], rates[:, 0], rtol=1e-5)
    topology = SHAPE.topology()
    assert topology.num_parameters == 1 + (2 * 3 + 3) + (3 * 4 + 4) + (4 * 2 + 2)


TARGETS = {
    "law": np.array([1, 1, 1, 1, 5, 0, 0]),
    "constants": np.log([[2.0, 1], [2.0, 1], [2.1, 1], [4.0, 1]] + [[2.0, 1]] * 3),
    "exists": np.array([[True, False]] * 5 + [[False, False]] * 2),
}


def test_duplicates():
    """Pairs by hand: 0-1 and 5-6 are twins, 0-2 and 1-2 nearly so, the rest are not."""
    is_duplicate, is_other = scores.pairs_of(TARGETS)
    pairs = [(i, j) for i in range(7) for j in range(i + 1, 7)]
    twins, near = {(0, 1), (5, 6)}, {(0, 2), (1, 2)}
    assert [pairs[i] for i in np.flatnonzero(is_duplicate)] == sorted(twins)
    assert {pairs[i] for i in np.flatnonzero(~is_other)} == twins | near
    # Where distances say what is true, and where they say nothing.
    truth = np.array([[0.0], [0.1], [5.0], [9.0], [20.0], [30.0], [30.1]])
    found = scores.duplicate_scores(truth, TARGETS, truth, TARGETS)
    assert found == {"auroc": 1.0, "precision": 1.0, "recall": 1.0}
    same = np.zeros((7, 1))
    found = scores.duplicate_scores(same, TARGETS, same, TARGETS)
    assert found["auroc"] == 0.5 and found["recall"] == 1.0
    assert found["precision"] == pytest.approx(2 / 19)


def test_constants_of_a_law_named_wrong_are_wrong():
    num_laws = len(laws.LAWS)
    logits = np.full((7, num_laws), -5.0)
    logits[np.arange(7), [1, 1, 1, 2, 5, 0, 3]] = 5.0
    constants = np.zeros((7, num_laws, 2))
    constants[:, 1, 0] = np.log(2.2)
    readings = scores.readings_of(
        {
            "logits": logits,
            "constants": constants.reshape(7, -1).astype(np.float32),
            "embedding": np.zeros((7, 2)),
        }
    )
    errors = scores.constant_errors(readings, TARGETS)
    expected = [2.2 / 2 - 1, 2.2 / 2 - 1, 2.2 / 2.1 - 1, np.inf, 1 - 1 / 2.0]
    np.testing.assert_allclose(errors[:5, 0], expected, rtol=1e-5)
    assert np.isnan(errors[5:, 0]).all() and np.isnan(errors[:, 1]).all()


def test_objective_counts_constants_that_exist():
    objective = readers.law_objective(2.0)
    num_laws = len(laws.LAWS)
    outputs = {
        "logits": jnp.zeros((7, num_laws)),
        "constants": jnp.ones((7, 2 * num_laws)),
        "embedding": jnp.zeros((7, 2)),
    }
    errors = (TARGETS["constants"][:, 0] - 1.0) ** 2 * TARGETS["exists"][:, 0]
    found = objective(outputs, TARGETS)
    np.testing.assert_allclose(found, np.log(num_laws) + 2 * errors, rtol=1e-5)


def test_users_units():
    """A spring of 3 per unit, seen in lengths of 2 and rates of 10."""
    module = transfer.BankModule("model.npz", 1, np.zeros(1), 2.0, 10.0)
    spring = laws.LAW_NAMES.index("spring with rest length")
    # rate / 10 = k (x - l): 3 (d - 1) = 10 k (d / 2 - l), so k = 0.6 and l = 0.5.
    assert module.in_users_units(spring, np.array([0.6, 0.5])) == {
        "strength": pytest.approx(3.0),
        "length": pytest.approx(1.0),
    }
    gravity = laws.LAW_NAMES.index("1/d^2, attractive")
    # rate = 8 / d^2 = 10 k / (d / 2)^2, so k = 0.2.
    found = module.in_users_units(gravity, np.array([0.2, 1.0]))
    assert found == {"strength": pytest.approx(8.0), "length": None}
    found = module.in_users_units(0, np.array([1.0, 1.0]))
    assert found == {"strength": None, "length": None}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was stopped after its training, and went on."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    whole = train.train_reader

    def stop_after(*args):
        return whole(*args) and None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_reader", stop_after)
        assert common.run(train.EXPERIMENT, CONFIG, workdir) is None
    assert not (workdir / "summary.json").exists()
    return workdir, common.run(train.EXPERIMENT, CONFIG, workdir)


def test_files_and_summary(finished):
    workdir, summary = finished
    assert {path.name for path in workdir.iterdir()} == {
        "config.json",
        "summary.json",
        "readings.npz",
        "constants.png",
        "embedding.png",
        "models",
        "zoo",
    }
    assert json.loads((workdir / "summary.json").read_text()) == common.as_json(summary)
    with np.load(workdir / "readings.npz") as file:
        is_right = file["probing/laws"] == file["law"]
        assert len(is_right) == 24
        # Twins have one law.
        np.testing.assert_array_equal(file["strength"][::2], file["strength"][1::2])
    found = summary["models"]["probing"]["law_accuracy"]["value"]
    assert found == pytest.approx(is_right.mean())
    text = train.EXPERIMENT.format_summary(common.as_json(summary))
    for part in ("probing", "48 training, 16 validation and 24 test"):
        assert part in text


def test_zoo_holds_fits_of_twins(finished):
    networks = law_zoo.read_networks(finished[0] / "zoo", CONFIG.zoo)
    assert networks.rows.shape[0] == 2 * CONFIG.zoo.num_pairs
    assert not np.array_equal(networks.rows[0], networks.rows[1])
    members = np.concatenate(list(networks.splits.values()))
    assert sorted(members.tolist()) == list(range(88))
    for rows in networks.splits.values():
        np.testing.assert_array_equal(rows[::2] + 1, rows[1::2])


def test_refusals(finished, tmp_path):
    other = common.override(CONFIG, {"zoo.num_points": 9})
    with pytest.raises(zoo.ZooError, match="num_points: found 8, expected 9"):
        common.run(
            train.EXPERIMENT, other, tmp_path / "run", zoo_directory=finished[0] / "zoo"
        )
    with pytest.raises(transfer.ModelError, match="found no file none.npz"):
        common.run(train.EXPERIMENT, CONFIG, tmp_path / "run", models=("none.npz",))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="models: found .'mlp',."):
        dataclasses.replace(CONFIG, models=("mlp",))
    with pytest.raises(ValueError, match="num_train: found 49, expected 0 to 48"):
        dataclasses.replace(CONFIG, num_train=49)
