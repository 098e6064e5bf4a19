"""Law curves of a trained model against the law that made the data."""

import dataclasses

import jax
import numpy as np
import pytest

from modmeta.relational import data
from modmeta.relational.futures import predictions
from modmeta.relational.laws import curves
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.laws import relative_state, units_of
from modmeta.relational.training import meta_training, setup
from modmeta.relational.training.config import BounceGradConfig, TrainingConfig
from tests.fixtures import small_model

MODULES = ModuleConfig(
    law="central", entities="alike", edge_sizes=(16,), node_sizes=(8,)
)


class Trained:
    """Springs between half of the pairs of 4 bodies, 300 short training steps.

    Attributes:
      dataset: The systems.
      model: The model.
      params: Its trained arrays.
      structures: What the training took the relations of the systems to be.
      curves: The law of every relation, the weaker one first.
    """

    def __init__(self):
        springs = data.simulate_springs(0, 60, num_nodes=4, num_frames=25)
        self.dataset, valid_set = springs.split([52, 8])
        self.model, params = setup.build_model(
            self.dataset,
            jax.random.key(0),
            modules=MODULES,
        )
        trained = meta_training.train(
            self.model,
            params,
            self.dataset.without_labels(),
            valid_set.without_labels(),
            BounceGradConfig(num_steps=300, batch_size=16),
            TrainingConfig(num_evaluations=1),
            seed=0,
        )
        self.params = trained.params
        self.structures = trained.state.bouncegrad.structures
        found = curves.law_curves(
            self.model, self.params, self.dataset, self.structures
        )
        self.curves = sorted(found, key=lambda curve: np.abs(curve.rates).max())

    def predict(self, dataset, num_substeps):
        """Five frames that follow those of a data set, normalised."""
        return predictions.predict(
            self.model,
            self.params,
            dataset,
            self.structures,
            5,
            num_substeps=num_substeps,
        )


@pytest.fixture(scope="module")
def trained():
    return Trained()


def test_curves_are_the_true_laws_within_their_bands(trained):
    """Measured: accuracy 1.000; R2 of the spring .999; errors within the band."""
    none, spring = trained.curves
    pairs = ~np.eye(4, dtype=bool)
    edges = np.asarray(trained.structures.edge_modules)[:, pairs]
    is_spring = trained.dataset.edges[:, pairs] == 1
    assert np.mean((edges == spring.relation) == is_spring) > 0.97
    power = spring.power_law()
    assert power.exponent == pytest.approx(1.0, abs=0.1)
    assert power.coefficient == pytest.approx(0.1, rel=0.1)
    assert spring.r_squared(lambda distance: 0.1 * distance) > 0.99
    assert np.sum(none.weights * np.abs(none.rates)) < 0.01
    for curve in trained.curves:
        assert curve.weights.sum() == pytest.approx(1.0)
        assert (curve.lower <= curve.rates).all() and (curve.rates <= curve.upper).all()
        assert curve.num_edges == np.sum(edges == curve.relation)
    # The band is narrow where distances occur, and no narrower elsewhere.
    width = spring.upper - spring.lower
    middle = np.argmax(spring.weights)
    assert width[middle] < 0.2 * np.abs(spring.rates).max()
    assert width[0] > width[middle] or width[-1] > width[middle]


def test_rate_at_a_distance_by_hand(trained):
    """The curve against one pair that is put at that distance, in the user's units."""
    curve = trained.curves[1]
    bank = trained.model.bank
    modules = trained.model.network.modules(trained.params)
    constants = jax.tree.map(np.asarray, trained.params.preprocessing)
    offset, scale = constants.normalization
    row = len(curve.inputs) // 2
    states = np.zeros((2, 4))
    states[1, 0] = curve.inputs[row]
    normalized = ((states - offset) / scale).astype(np.float32)

    @jax.jit
    def rate_of(receiver, sender):
        law = bank.laws.law
        units = units_of(law, trained.params.preprocessing, 1)
        edge = jax.tree.map(lambda leaf: leaf[curve.relation], modules.params.edge)
        relative = relative_state(law, trained.params.preprocessing, sender, receiver)
        return bank.laws.pair_rates(units, edge, relative)[0]

    rate = rate_of(*normalized)
    unit = scale[0] * constants.position_scale / 0.1**2
    np.testing.assert_allclose(rate[0] * unit, curve.rates[row], rtol=1e-4)
    np.testing.assert_allclose(rate[1], 0.0, atol=1e-6)


def test_law_is_that_of_an_entity_of_median_factor(trained):
    """Laws of twice the size, with factors of a half, say the same."""
    model, params = setup.build_model(
        trained.dataset,
        jax.random.key(0),
        modules=dataclasses.replace(MODULES, entities="differ"),
    )
    edge = dict(trained.params.modules.edge)
    rates = dict(edge["rate_network"])
    # Of the last layer, the second half of the outputs is the factor of either sign.
    rates["layer_1"] = jax.tree.map(
        lambda leaf: leaf.at[..., leaf.shape[-1] // 2 :].multiply(2.0),
        rates["layer_1"],
    )
    edge["rate_network"] = rates
    modules = trained.params.modules._replace(edge=edge, spreads=params.modules.spreads)
    params = trained.params._replace(modules=modules)
    found = curves.law_curves(model, params, trained.dataset, trained.structures)
    for curve in trained.curves:
        doubled = found[curve.relation]
        scale = np.abs(trained.curves[1].rates).max()
        # The prior of the factors is around 1: they stay a little above a half.
        np.testing.assert_allclose(
            doubled.rates, curve.rates, rtol=0.1, atol=0.02 * scale
        )


def test_prediction_reads_the_last_frame_alone(trained):
    """Other values in all earlier frames change nothing; nor do later ones exist."""
    dataset = trained.dataset
    states = dataset.states.copy()
    states[:, :-1] += np.random.default_rng(0).normal(size=states[:, :-1].shape)
    changed = dataclasses.replace(dataset, states=states)
    np.testing.assert_array_equal(
        trained.predict(dataset, 4), trained.predict(changed, 4)
    )


def test_prediction_takes_as_many_substeps_as_it_needs(trained):
    few, chosen, many = (trained.predict(trained.dataset, n) for n in (1, 0, 128))
    assert np.abs(chosen - many).max() < 1e-3
    assert np.abs(chosen - many).max() < np.abs(few - many).max()


def test_power_law_of_an_exact_curve():
    """Inverse squares, with a part that the band does not tell from zero."""
    at = np.geomspace(0.1, 4.0, 50)
    rates = -3.0 / at**2
    band = np.where(at > 3.0, 10.0, 0.01)
    curve = curves.LawCurve(
        relation=0,
        variable="distance",
        inputs=at,
        rates=rates,
        lower=rates - band,
        upper=rates + band,
        weights=np.full(50, 0.02),
        num_edges=1,
    )
    power = curve.power_law()
    np.testing.assert_allclose(power, (-3.0, -2.0, 1.0), rtol=1e-6)
    assert dataclasses.replace(curve, variable="phase difference").power_law() is None
    assert dataclasses.replace(curve, rates=np.sin(9 * at)).power_law() is None


def test_power_law_of_a_curve_that_is_cut_off():
    """Charges whose force is clipped, most of the time near each other."""
    at = np.geomspace(0.02, 4.0, 200)
    rates = np.minimum(2.0 / at**2, 100.0) * (1.0 + 0.003 * np.sin(9.0 * at))
    weights = np.where(at < 0.1, 5.0, 1.0)
    curve = curves.LawCurve(
        relation=1,
        variable="distance",
        inputs=at,
        rates=rates,
        lower=0.99 * rates,
        upper=1.01 * rates,
        weights=weights / weights.sum(),
        num_edges=1,
    )
    power = curve.power_law()
    np.testing.assert_allclose(power[:2], (2.0, -2.0), rtol=3e-3)
    known = dataclasses.replace(curve, max_rate=100.0).power_law()
    assert known[:2] == power[:2]
    assert power.r_squared < 0.0 < 0.999 < known.r_squared


def test_models_without_laws_have_no_curves():
    model = small_model()
    assert not curves.has_curve(model)
    with pytest.raises(ValueError, match="laws: found path 'start'"):
        curves.law_curves(model, None, None, None)
