"""Hidden entities under laws set by hand, against the simulators that made the data."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.relational import data
from modmeta.relational.data import DataError
from modmeta.relational.data.domains import Domain
from modmeta.relational.data.frames import Frames
from modmeta.relational.energies.cached import MessageCache
from modmeta.relational.hidden import (
    assessment,
    combining,
    find,
    forces,
    scenes,
    search,
)
from modmeta.relational.hidden.config import HiddenConfig
from modmeta.relational.hidden.find import find_hidden, with_symmetry
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.bank import ModuleBank
from modmeta.relational.modules.config import ModuleConfig
from modmeta.relational.modules.fitting import fit_preprocessing
from modmeta.relational.modules.network import RelationalNetwork
from modmeta.relational.modules.proposal_head import ProposalConfig
from modmeta.relational.tasks.states import host_states
from tests.fixtures import small_model
from tests.linear_algebra_order import chain
from tests.relational.hidden.laws_by_hand import (
    FRAMES,
    VISIBLE,
    power_model,
    springs,
    visible,
)

CONFIG = HiddenConfig(
    num_candidates=4, num_fits=4, num_rounds=2, num_steps=4, is_repeated=False
)


@functools.cache
def found():
    """What is found with up to one hidden body, relations being mutual."""
    whole, model, params = springs()
    config = with_symmetry(CONFIG, np.asarray(whole.edges))
    assert config.symmetric
    return find_hidden(model, params, visible(whole), max_hidden=1, config=config)


def test_paths_of_hidden_bodies_are_those_of_the_simulator():
    """Driven by the paths of visible ones, which nobody tells the law of."""
    whole, model, params = springs()
    modules = model.network.modules(params)
    frames = host_states(whole, params.preprocessing.normalization).states[0]
    edges = np.asarray(whole.edges)[0, -1, :VISIBLE]
    guess = scenes.Guess(jnp.asarray(frames[-1:, 0])[None], jnp.asarray(edges[None]))

    @jax.jit
    def path(states, guess):
        scene = scenes.build_scene(modules, Frames(states, None, None, None, None), 2)
        return scenes.hidden_frames(modules, scene, guess, Domain())

    expected = frames[-1:]
    got = path(jnp.asarray(frames[:VISIBLE]), guess)
    assert edges.any() and np.abs(expected - expected[:, :1]).max() > 0.3
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_hidden_bodies_are_found_where_they_act():
    whole, _, params = springs()
    result = found()
    scale = np.asarray(params.preprocessing.normalization.scale)
    labels = np.asarray(whole.edges)
    acts = labels[:, :VISIBLE, VISIBLE].any(axis=1)
    assert 0 < acts.sum() < len(acts)
    np.testing.assert_array_equal(result.num_hidden, acts)
    # In so few frames, one of them is found but not to a tenth of what is seen.
    known = result.is_known[:, 0]
    assert acts[known].all() and known.sum() >= acts.sum() - 1
    errors = (result.states[:, :, 0] - whole.states[:, :, VISIBLE]) / scale
    assert np.square(errors[acts]).mean(axis=(1, 2)).max() < 3e-4
    # Within their deviations, and these are not empty words.
    sizes = result.deviations[:, :, 0] / scale
    assert np.all(np.abs(errors[acts]) < 6.0 * sizes[acts] + 5e-3)
    assert np.sqrt(np.square(sizes[known]).mean(axis=(1, 2))).max() < 0.1
    np.testing.assert_array_equal(result.edges[acts], labels[acts])
    sums = result.probabilities[acts].sum(axis=-1)
    expected = np.broadcast_to(1.0 - np.eye(VISIBLE + 1), sums.shape)
    np.testing.assert_allclose(sums, expected, atol=1e-5)


def test_factorisations_wait_for_each_other():
    """Else a search for hidden bodies may stand still, see `linear_algebra`."""
    whole, model, params = springs()
    modules = model.network.modules(params)
    states = host_states(whole, params.preprocessing.normalization).states
    frames = Frames(states[:1, :VISIBLE], None, None, None, None)

    def found(frames):
        systems = search.scenes_of(modules, frames, 2)
        nobody = search.without_hidden(modules, systems)
        known = search.distinct(nobody, CONFIG.num_kept)
        config = dataclasses.replace(CONFIG, symmetric=True, num_substeps=2)
        return search.next_level(modules, systems, known, config)

    assert len(chain(found, frames)) >= 3


def test_what_acts_on_nobody_is_not_known():
    whole, *_ = springs()
    result = found()
    labels = np.asarray(whole.edges)
    idle = ~labels[:, :VISIBLE, VISIBLE].any(axis=1)
    assert np.isnan(result.states[idle]).all()
    assert np.isinf(result.deviations[idle]).all()
    assert (result.edges[idle, -1] == -1).all()
    # The visible ones are still told apart.
    among = slice(0, VISIBLE)
    np.testing.assert_array_equal(
        result.edges[idle][:, among, among], labels[idle][:, among, among]
    )
    assert "cannot be known" in result.sentence
    assert result.sentence in repr(result)
    assert result.summary()["num_hidden"] == result.num_hidden.tolist()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_law_turns_a_force_into_a_distance(sign):
    whole, *_ = springs()
    model, params = power_model(whole, (0.0, sign * 0.7), -2.0)
    modules = model.network.modules(params)
    distance, pulls = jax.jit(forces.law_tables)(modules)
    np.testing.assert_array_equal(pulls[0], 0.0)
    wanted = np.interp([0.07, 0.5, 3.0], distance, pulls[1])
    got = jax.jit(forces.distance_of)(
        distance, pulls[1], jnp.asarray(wanted, np.float32)
    )
    # Softened below a hundredth of the spread.
    np.testing.assert_allclose(got, [0.07, 0.5, 3.0], rtol=2e-2)
    slope = np.gradient(np.log(np.abs(pulls[1])), np.log(distance))
    np.testing.assert_allclose(slope[100:], -2.0, atol=1e-2)


def made_up_level(energies):
    """Two fits of one system with two visible and two hidden bodies, a unit apart."""
    frames = np.zeros((1, 2, 2, 3, 4), np.float32)
    frames[0, :, 0], frames[0, :, 1] = 1.0, 5.0
    frames[0, 1] = frames[0, 1, ::-1] + 1.0
    edges = np.array([[[[0, 1, 0], [0, 0, 1]], [[0, 0, 1], [0, 1, 0]]]])
    incoming = np.array([[[[1, 0, 1], [0, 1, 1]], [[0, 1, 1], [1, 0, 1]]]])
    shares = np.eye(2, dtype=np.float32)[edges]
    assessed = assessment.Assessment(
        temperature=np.ones((1, 2)),
        occam=np.zeros((1, 2)),
        deviations=np.full((1, 2, 2, 3, 4), 0.01, np.float32),
        probabilities=shares,
        effects=np.array([[[0.2, 0.7], [0.7, 0.2]]]),
        breaks=np.zeros((1, 2)),
    )
    guess = scenes.Guess(np.zeros((1, 2, 1, 2, 4)), incoming)
    fits = search.Fit(guess, edges, np.array([energies], np.float32))
    return search.Level(fits, frames, assessed)


@pytest.mark.parametrize("gap", [0.0, 50.0])
def test_fits_that_explain_as_much_widen_one_another(gap):
    """Hidden bodies that other fits have in another order are told to be the same."""
    combined = combining.combine(made_up_level([0.0, gap]), 2)
    np.testing.assert_allclose(combined.effects, [[0.7, 0.2]])
    np.testing.assert_array_equal(combined.frames[0, :, 0, 0], [5.0, 1.0])
    # Half of the weight is a unit away, or none of it.
    expected = np.sqrt(0.5 + 1e-4) if gap == 0.0 else 0.01
    np.testing.assert_allclose(combined.deviations, expected, rtol=1e-4)
    # Receivers 0 and 1, then the stronger hidden body and the weaker one.
    expected = [[-1, 0, 0, 1], [0, -1, 1, 0], [0, 1, -1, 1], [1, 0, 1, -1]]
    np.testing.assert_array_equal(combined.edges[0], expected)


def test_what_cannot_be_answered_is_refused():
    whole, model, params = springs()
    some = visible(whole)

    def refused(error, pattern, dataset=some, model=model, **options):
        with pytest.raises(error, match=pattern):
            find_hidden(model, params, dataset, **options)

    refused(ValueError, "num_hidden: found 0, expected", num_hidden=0)
    refused(ValueError, "num_hidden: found 'some'", num_hidden="some")
    refused(ValueError, "max_hidden: found 9", max_hidden=9)
    refused(ValueError, "path: found 'start', expected laws", model=small_model())
    spec = dataclasses.replace(whole.features, periodic=((0, -5.0, 10.0),))
    layout = dataclasses.replace(model.bank.layout, spec=spec)
    bank = dataclasses.replace(model.bank, layout=layout)
    network = dataclasses.replace(model.network, bank=bank)
    boxed = dataclasses.replace(model, network=network)
    refused(ValueError, "found inputs .* and periodic", model=boxed)
    breaks = np.zeros((8, FRAMES), bool)
    breaks[:, 7] = True
    refused(DataError, "breaks: found", dataclasses.replace(some, breaks=breaks))
    mask = np.ones((8, FRAMES, VISIBLE), bool)
    mask[0, :5, 1] = False
    refused(DataError, "come late", dataclasses.replace(some, frame_mask=mask))
    refused(DataError, "one node in every task", visible(whole, 1))
    many = np.repeat(whole.states, 4, axis=2)
    many = many + np.linspace(0.0, 0.1, many.shape[2])[:, None]
    many = dataclasses.replace(some, states=many.astype(np.float32), node_mask=None)
    refused(DataError, "expected at most 4,096", many)
    phases = data.simulate_kuramoto(0, 2, num_nodes=3, num_frames=6)
    other, _ = power_phases(phases)
    refused(ValueError, "places of hidden entities", phases, other)


def power_phases(dataset):
    """A model of oscillators, of which no places are known."""
    _, layout = fit_preprocessing(dataset, compress=False)
    config = ModuleConfig(path="interpolated", span=1)
    network = RelationalNetwork(ModuleBank(config, layout), ProposalConfig("none"))
    return RelationalModel(network), layout


def test_nothing_is_known_under_laws_that_explain_nothing():
    result = found()
    assert result.is_known.any() and result.believed(True) is result
    doubted = result.believed(False)
    assert not doubted.is_known.any() and "no trajectory counts" in doubted.notes[-1]
    np.testing.assert_array_equal(doubted.states, result.states)
    assert f"of 0 of {result.num_hidden.sum()} is told" in doubted.sentence


@pytest.mark.parametrize("symmetric", [True, False])
def test_all_relations_among_hidden_bodies_are_tried(symmetric):
    """Those with the last one, which no visible body's motion tells at once."""
    num_visible = 2
    incoming = np.zeros((1, 3, num_visible + 2), np.int32)
    incoming[0, :2, num_visible] = 1  # between the first two, which were fitted
    guess = scenes.Guess(jnp.zeros((1, 1, 3, 4)), jnp.asarray(incoming))
    tried = search._with_all_inner(guess, 2, symmetric)
    slots = scenes.hidden_slots(3, num_visible)
    seen = set()
    for one in np.asarray(tried.incoming):
        square = np.zeros((3, 3), int)
        for receiver, row in enumerate(one):
            assert not row[:num_visible].any()
            for slot in range(num_visible, num_visible + 2):
                square[receiver, slots[receiver, slot]] = row[slot]
        assert square[0, 1] == square[1, 0] == 1
        assert not symmetric or (square == square.T).all()
        seen.add(square.tobytes())
    assert len(seen) == len(tried.incoming) == (4 if symmetric else 16)


def test_one_that_acts_on_a_hidden_one_alone_explains_and_does_not_count():
    """The other is known beside it; of itself nothing is said."""
    level = made_up_level([0.0, 50.0])
    level.assessments.effects[:] = [0.7, 0.001]
    evidence = np.array([[900.0, 100.0, 0.0]])
    assert combining.number_of(evidence) == [2]
    attempt = find.Attempt([level] * 3, evidence, np.array([2]))
    result = find._Found.empty((1, 3, 2, 2), 2, 4)
    result.write(np.array([0]), np.array([[0, 1]]), attempt, is_auto=True)
    np.testing.assert_array_equal(result.num_hidden, [1])
    np.testing.assert_array_equal(result.is_known, [[True, False]])
    assert np.isfinite(result.states[0, :, 0]).all()
    assert np.isnan(result.states[0, :, 1]).all()
    assert (result.edges[0, 3] == -1).all() and (result.edges[0, :, 3] == -1).all()
    assert (result.edges[0, 2, :2] >= 0).all()
    assert not result.probabilities[0, 3].any()
    # Where two were asked for, both are listed.
    asked = find._Found.empty((1, 3, 2, 2), 2, 4)
    asked.write(np.array([0]), np.array([[0, 1]]), attempt, is_auto=False)
    assert asked.num_hidden == [2] and (asked.edges[0, 3, :3] >= 0).all()


@pytest.mark.parametrize("weights", [None, np.full((2, 6), 0.5, np.float32)])
def test_an_early_round_sees_the_first_windows_alone(weights):
    cache = MessageCache(None, None, jnp.zeros((2, 6, 4)), None, weights)
    scene = scenes.Scene(None, None, cache, None, jnp.arange(6.0), None, None)
    for share, count in ((0.25, 2), (0.5, 3), (1.0, 6)):
        found = scenes.until(scene, share).cache.weights
        expected = np.where(np.arange(6) < count, 1.0 if weights is None else 0.5, 0.0)
        np.testing.assert_array_equal(found, np.tile(expected, (2, 1)))
