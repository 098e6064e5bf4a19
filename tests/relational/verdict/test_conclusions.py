"""Verdicts on errors that are made up, so that the right one is known."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from modmeta.relational import as_dataset, discovery
from modmeta.relational.classical import METHODS
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.evidence import num_evidence_features
from modmeta.relational.modules.network import RelationalNetwork
from modmeta.relational.modules.proposal_head import ProposalConfig
from modmeta.relational.tasks.structures import TaskStructures
from modmeta.relational.verdict import conclusions, gains, held_out
from modmeta.relational.verdict.alternatives import Alternatives
from modmeta.relational.verdict.consistency import Consistency
from modmeta.relational.verdict.effects import (
    no_interaction,
    relation_names,
    strongest_per_edge,
)
from modmeta.relational.verdict.finer import STRENGTHS
from modmeta.relational.verdict.held_out import Evidence
from tests.fixtures import Batch, small_model, small_params

NUM_TASKS, NUM_NODES = 12, 4


def errors(level, seed, spread=0.1):
    """Errors `[tasks]` around a level, as they scatter over systems."""
    noise = np.random.default_rng(seed).normal(size=NUM_TASKS)
    return level * (1.0 + spread * noise)


def evidence(found, shuffled, none, single, merged, total=100.0):
    effects = (0.001, *[0.9] * (len(single) - 1))
    return Evidence(
        found=errors(found, 0),
        shuffled=errors(shuffled, 1),
        none=errors(none, 2),
        single=np.stack([errors(level, 3 + k) for k, level in enumerate(single)]),
        merged={pair: errors(level, 9) for pair, level in merged.items()},
        total=errors(total, 10),
        effects=effects,
    )


def relations(num_relations=2, sure=0.95):
    rng = np.random.default_rng(0)
    edges = rng.integers(0, num_relations, (NUM_TASKS, NUM_NODES, NUM_NODES))
    edges[:, np.eye(NUM_NODES, dtype=bool)] = -1
    rest = (1.0 - sure) / (num_relations - 1)
    one_hot = np.eye(num_relations)[np.maximum(edges, 0)]
    probabilities = np.where(one_hot > 0, sure, rest) * (edges >= 0)[..., None]
    shape = (*edges.shape, num_relations)
    return Relations(
        edges=edges.astype(np.int32),
        node_modules=np.zeros((NUM_TASKS, NUM_NODES), np.int32),
        probabilities=probabilities.astype(np.float32),
        proposal_logits=np.zeros(shape, np.float32),
        energies=np.zeros(NUM_TASKS),
        num_proposals=np.zeros(NUM_TASKS, np.int32),
        best_energies=np.zeros((NUM_TASKS, 0)),
    )


TWO = evidence(1.0, 90.0, 80.0, [80.0, 120.0], {(0, 1): 80.0, (1, 0): 120.0})
THREE = evidence(
    1.0,
    90.0,
    80.0,
    [80.0, 120.0, 95.0],
    {(0, 1): 60.0, (1, 0): 70.0, (0, 2): 55.0}
    | {(2, 0): 70.0, (1, 2): 50.0, (2, 1): 60.0},
)
# Three modules, of which two say the same.
TWO_OF_THREE = THREE._replace(
    merged={**THREE.merged, (1, 2): THREE.found, (2, 1): THREE.found}
)
# A third that few pairs have: the others can stand for it, it for none of them.
RARE_FIRST = evidence(
    0.01,
    16.0,
    88.0,
    [8.3, 7.1, 87.0, 7.1],
    {(0, 1): 0.44, (1, 0): 0.012, (0, 2): 6.3, (2, 0): 0.017, (0, 3): 0.52}
    | {(3, 0): 0.015, (1, 2): 7.6, (2, 1): 44.0, (1, 3): 1.3, (3, 1): 1.3}
    | {(2, 3): 12.0, (3, 2): 3.6},
)
# No graph is better than none, by systems each of which is as hard for all graphs; and
# by systems that scatter so much that something may be better by a tenth.
SCATTERED = evidence(99.0, 99.5, 99.0, [99.2, 99.1], {(0, 1): 99.0, (1, 0): 99.0})
NOTHING = SCATTERED._replace(
    found=SCATTERED.none * (1.0 + errors(0.01, 1)),
    shuffled=SCATTERED.none * (1.0 + errors(0.01, 2)),
    single=np.stack([SCATTERED.none, SCATTERED.none * (1.0 + errors(0.01, 3))]),
)
EVERYWHERE = evidence(1.0, 1.0, 80.0, [1.0, 1.0], {(0, 1): 1.0, (1, 0): 1.0})
# Two laws that differ by next to nothing, where nothing disturbs.
NEARLY_ALIKE = evidence(
    1e-6, 1.2e-6, 80.0, [4e-6, 1.2e-6], {(0, 1): 4e-6, (1, 0): 1.2e-6}
)
# Better than ignorance in sum, by one system alone.
CHANCE = TWO._replace(
    found=np.array([1.0] * 11 + [30.0]),
    shuffled=np.array([1.0] * 11 + [80.0]),
    none=np.array([1.0] * 11 + [80.0]),
    single=np.array([[1.0] * 11 + [80.0]] * 2),
)
# Every system is explained, of changes that relations have next to nothing to do with.
NEGLIGIBLE = TWO._replace(effects=(0.001, 0.002))


@pytest.mark.parametrize(
    "found, count, supported, words",
    [
        (TWO, 2, True, "support 2 relations (relation 0 is no interaction); 100%"),
        (THREE, 3, True, "support 3 relations"),
        (TWO_OF_THREE, 2, True, "support 2 relations"),
        (RARE_FIRST, 3, True, "support 3 relations"),
        (NOTHING, 0, False, "Nothing here depends on other entities"),
        (SCATTERED, 0, False, "too few to tell whether anything here depends"),
        (EVERYWHERE, 1, True, "One relation holds between all"),
        (NEARLY_ALIKE, 1, True, "One relation holds between all"),
        (CHANCE, 0, False, "too few to tell whether anything here depends"),
        (NEGLIGIBLE, 0, False, "Nothing here depends"),
    ],
)
def test_verdicts(found, count, supported, words):
    num_relations = len(found.single)
    concluded = conclusions.conclude(found, None, relations(num_relations))
    assert (concluded.num_relations, concluded.supported) == (count, supported)
    assert words in concluded.sentence, concluded.sentence
    best = min(error.sum() for error in [found.none, *found.single, found.shuffled])
    np.testing.assert_allclose(concluded.held_out_ratio, found.found.sum() / best)


# Ten recordings of charges: few of them have most of the error, and where all pairs
# have one relation, other pairs have it too.
FOUND = np.array([100.0, 50.2, 552.9, 50.0, 50.1, 200.2, 159.6, 50.0, 208.2, 50.0])
SHUFFLED = np.array(
    [100.0, 1238.8, 569.9, 50.0, 128.4, 200.2, 1189.5, 50.0, 1097.9, 588.2]
)


def test_few_recordings_with_most_of_the_error_do_not_hide_the_graph():
    assert not gains.is_certain(FOUND, SHUFFLED)
    assert gains.is_certain_by_share(FOUND, SHUFFLED)
    assert not gains.is_certain_by_share(SHUFFLED, FOUND)
    assert not gains.is_certain_by_share(FOUND[:5], SHUFFLED[:5])  # three that differ


def test_one_recording_of_many_does_not_hide_the_graph_of_the_others():
    """Nor does it make one: in one of forty, the graph is wrong, or right alone."""
    rng = np.random.default_rng(3)
    level = 80.0 * (1.0 + 0.1 * rng.normal(size=40))
    many = TWO._replace(
        found=level / 80.0,
        shuffled=level + 10.0,
        none=level,
        single=np.stack([level, level + 40.0]),
        merged={(0, 1): level, (1, 0): level + 40.0},
        total=level + 20.0,
    )
    hidden = many._replace(found=np.where(np.arange(40) == 7, 5e3, many.found))
    concluded = conclusions.conclude(hidden, None, relations())
    assert concluded.num_relations == 2
    assert concluded.held_out_ratio < 0.1
    made = many._replace(
        found=np.where(np.arange(40) == 7, 1.0, level),
        none=np.where(np.arange(40) == 7, 1e4, level),
        single=np.where(np.arange(40) == 7, 1e4, many.single),
        shuffled=np.where(np.arange(40) == 7, 1e4, level),
    )
    assert conclusions.conclude(made, None, relations()).num_relations == 0


@pytest.mark.parametrize("num_systems", [6, 12, 40])
def test_shares_of_nothing_are_seldom_certain(num_systems):
    """Errors of two graphs that are alike, with heavy tails: at most 2 % by Student."""
    rng = np.random.default_rng(num_systems)
    found, other = np.exp(rng.normal(size=(2, 2000, num_systems)) * 1.5)
    alarms = sum(map(gains.is_certain_by_share, found, other))
    chance = scipy.stats.t.sf(3.0, num_systems - 1)
    # By chance more in one of ten thousand tests.
    assert alarms <= scipy.stats.binom.isf(1e-4, 2000, chance)


@pytest.mark.parametrize(
    "share, deviation, is_open",
    [(0.0, 0.002, False), (0.026, 0.05, True), (-0.034, 0.15, False)],
)
def test_too_few_frames_for_a_regression_say_so(share, deviation, is_open):
    """Of thirty parts: no gain to a thousandth, one of three errors, and a loss.

    A regression that loses has too many numbers for its frames.
    """
    own = 1.0 + 0.2 * np.random.default_rng(0).random(30)
    scatter = np.tile([1.0, -1.0], 15)
    present = own - (share + deviation * scatter)
    others = Alternatives(own, own, own, present, 1.1 * own)
    nothing = conclusions.conclude(
        NOTHING._replace(alternatives=others), None, relations()
    )
    assert nothing.num_relations == 0 and nothing.recommended is None
    assert ("too few to tell" in nothing.sentence) == is_open
    assert ("Nothing here depends" in nothing.sentence) != is_open


def test_what_acts_without_a_graph_that_is_told_is_said():
    unclear = evidence(10.0, 10.0, 80.0, [70.0, 120.0], {(0, 1): 10.0, (1, 0): 10.0})
    unclear = unclear._replace(single=np.stack([errors(80.0, 2), errors(120.0, 4)]))
    found = conclusions.conclude(unclear, None, relations())
    assert found.num_relations == 0 and not found.supported
    assert "do not tell which pairs differ" in found.sentence
    assert "relative_to_mean" not in found.sentence
    granted = conclusions.conclude(unclear._replace(is_granted=True), None, relations())
    assert "if something moves bodies alike, relative_to_mean" in granted.sentence
    torn = unclear._replace(consistency=Consistency(0.68, 0.96, 3.0))
    changing = conclusions.conclude(torn, None, relations())
    assert "contradict each other on 32% of the pairs" in changing.sentence
    assert "(changing=True)." in changing.sentence
    assert changing.num_relations == 0 and changing.temperature == 1.0


@pytest.mark.parametrize("found, single", [(5.3, 5.0), (50.0, 50.0), (79.0, 50.0)])
def test_pairs_are_not_said_to_be_alike_where_something_may_hide_the_graph(
    found, single
):
    """One relation is better than the graph, or leaves half of the changes."""
    hidden = evidence(found, 79.0, 80.0, [single, 99.0], {(0, 1): single, (1, 0): 99.0})
    graph = relations()
    concluded = conclusions.conclude(hidden, None, graph)
    assert concluded.num_relations == 0 and not concluded.supported
    assert "do not tell which pairs differ" in concluded.sentence
    assert (conclusions.settle(graph, concluded).probabilities <= 0.5).all()


def test_pairs_are_not_said_to_be_alike_where_telling_them_apart_may_help():
    """A third less error with the graph, in half of the systems a gain, not surely."""
    found = errors(2.0, 1)
    gains_by_system = np.tile([3.4, -1.4], len(found) // 2) * found.mean()
    single = np.stack([found + gains_by_system, errors(40.0, 2)])
    hidden = evidence(2.0, 40.0, 80.0, [4.0, 40.0], {(0, 1): 4.0, (1, 0): 40.0})
    hidden = hidden._replace(found=found, single=single)
    assert found.sum() < 0.7 * single[0].sum()
    concluded = conclusions.conclude(hidden, None, relations())
    assert concluded.num_relations == 0 and not concluded.supported
    assert "do not tell which pairs differ" in concluded.sentence


def test_restarts_that_disagree_take_the_support_away():
    agreed = conclusions.conclude(TWO, 0.99, relations())
    torn = conclusions.conclude(TWO, 0.6, relations())
    assert agreed.supported and not torn.supported
    assert "restarts agree on 60% of the pairs only" in torn.sentence


@pytest.mark.parametrize("agreement, supported", [(0.96, True), (0.8, False)])
def test_parts_that_contradict_each_other_are_not_as_sure(agreement, supported):
    """They are told of, and probabilities are lower: those of three in four."""
    graph = relations(sure=0.95)
    torn = TWO._replace(consistency=Consistency(agreement, 0.999, 3.0))
    concluded = conclusions.conclude(torn, None, graph)
    assert concluded.supported == supported
    words = f"contradict each other on {1.0 - agreement:.0%} of the pairs"
    assert words in concluded.sentence
    assert "; 0% of the pairs are sure" in concluded.sentence
    assert ("do not rely on this graph" in concluded.sentence) == (not supported)
    lower = conclusions.settle(graph, concluded)
    odds = 19.0 ** (1.0 / 3.0)
    surest = np.max(lower.probabilities, axis=-1)[graph.edges >= 0]
    np.testing.assert_allclose(surest, odds / (1.0 + odds), rtol=1e-5)
    as_stated = TWO._replace(consistency=Consistency(0.998, 0.999, 1.0))
    concluded = conclusions.conclude(as_stated, None, graph)
    assert concluded.supported and "contradict" not in concluded.sentence
    assert conclusions.settle(graph, concluded) is graph


def test_what_stays_unexplained_is_said():
    noisy = TWO._replace(found=errors(30.0, 0, 0.0), total=errors(100.0, 0, 0.0))
    sentence = conclusions.conclude(noisy, None, relations()).sentence
    assert "30% of the changes stay unexplained" in sentence


def test_a_graph_that_explains_little_and_is_unsure_is_not_supported():
    """Noise alone leaves much unexplained, and few frames leave pairs open."""
    explains_little = TWO._replace(total=errors(1.5, 10))
    unsure = relations(sure=0.8)
    concluded = conclusions.conclude(explains_little, None, unsure)
    assert not concluded.supported
    words = "of the changes stay unexplained, and hardly a pair is sure"
    assert words in concluded.sentence, concluded.sentence
    for evidence, found in ((explains_little, relations()), (TWO, unsure)):
        concluded = conclusions.conclude(evidence, None, found)
        assert concluded.supported and "hardly" not in concluded.sentence
    unsampled = unsure._replace(probabilities=0.0 * unsure.probabilities)
    assert conclusions.conclude(explains_little, None, unsampled).supported


def test_recordings_of_one_graph_are_suspected():
    """Graphs drawn one by one are not; one graph with errors on a tenth is."""
    rng = np.random.default_rng(0)
    found = relations()
    one = np.where(found.edges >= 0, found.edges[:1], -1)
    flips = rng.random(one.shape) < 0.1
    noisy = np.where((one >= 0) & flips, 1 - one, one)
    for edges, is_suspected in ((found.edges, False), (one, True), (noisy, True)):
        again = found._replace(edges=edges.astype(np.int32))
        sentence = conclusions.conclude(TWO, None, again).sentence
        assert ("shared_graph=True" in sentence) == is_suspected


def test_a_classical_method_that_explains_more_is_recommended():
    """Past frames alone leave the graph its support; a fast relation takes it away."""
    level = np.full(NUM_TASKS, 10.0)
    own = 1.5 * level
    fast = Alternatives(level, own, level, 0.5 * level, 2.0 * level)
    linear = Alternatives(level, own, 0.5 * level, level, 2.0 * level)
    idle = Alternatives(level, level, level, level, 2.0 * level)
    for others, method, supported in (
        (None, None, True),
        (fast, "directed partial correlation", False),
        (linear, "vector autoregression", True),
        (idle, None, False),
    ):
        with_others = TWO._replace(alternatives=others)
        concluded = conclusions.conclude(with_others, None, relations())
        assert concluded.recommended == method and method in METHODS | {None: None}
        assert concluded.supported == supported
        if method:
            assert f"rank the pairs by {method}" in concluded.sentence
            assert "25%" in concluded.sentence and "50%" in concluded.sentence
        is_idle = "the own past of every entity alone" in concluded.sentence
        assert is_idle == (others is idle)
    driven = Alternatives(level, own, level, own, 2.0 * level, 0.5 * level)
    concluded = conclusions.conclude(
        TWO._replace(alternatives=driven), None, relations()
    )
    assert not concluded.supported and "may drive several" in concluded.sentence
    concluded = conclusions.conclude(TWO._replace(is_in_step=True), None, relations())
    assert not concluded.supported and "a season or a stimulus" in concluded.sentence
    concluded = conclusions.conclude(TWO._replace(is_mixed=True), None, relations())
    assert not concluded.supported and "two sizes far apart" in concluded.sentence
    for share, total in ((0.03, 5.0), (0.03, 50.0), (0.001, 5.0)):
        relayed = TWO._replace(
            relayed=np.full(9, share) + 0.002 * np.arange(-4, 5),
            total=errors(total, 10),
        )
        concluded = conclusions.conclude(relayed, None, relations())
        # Laws that leave a fiftieth may get that wrong together.
        is_told = share == 0.03 and total == 5.0
        assert concluded.supported == (not is_told)
        assert ("more than those in between do" in concluded.sentence) == is_told
    for share, has_laws in ((0.5, True), (0.5, False), (0.9, True)):
        finer = TWO._replace(by_pairs=share * TWO.found, has_laws=has_laws)
        concluded = conclusions.conclude(finer, None, relations())
        assert concluded.supported == (share == 0.9)
        assert ("a strength of every pair" in concluded.sentence) == (share == 0.5)
        recommended = STRENGTHS if share == 0.5 and has_laws else None
        assert concluded.recommended == recommended
        is_told = "rank the pairs by their strengths" in concluded.sentence
        assert is_told == (recommended is not None)
    finer = TWO._replace(by_pairs=0.5 * TWO.found, alternatives=linear)
    concluded = conclusions.conclude(finer, None, relations())
    assert concluded.recommended == "vector autoregression"
    assert "their strengths" not in concluded.sentence
    nothing = NOTHING._replace(alternatives=fast)
    sentence = conclusions.conclude(nothing, None, relations()).sentence
    assert sentence.startswith("This model finds nothing here")


def test_a_model_of_other_systems_says_less():
    """It knows its own relations alone: others may well be there."""
    sentence = conclusions.conclude(NOTHING, None, relations(), is_new=True).sentence
    assert "trained on are not found here" in sentence and "Nothing" not in sentence


def test_what_grants_explain_is_not_said_to_be_nothing():
    """A leader whom all follow would look the same."""
    alone = conclusions.conclude(NOTHING._replace(is_granted=True), None, relations())
    assert alone.num_relations == 0 and not alone.supported
    assert "what all do alike explain as much" in alone.sentence


def test_frames_that_were_not_held_out_support_nothing():
    concluded = conclusions.conclude(TWO._replace(is_held_out=False), None, relations())
    assert concluded.num_relations == 2 and not concluded.supported
    assert "too short to keep frames back" in concluded.sentence


def test_two_blocks_are_no_evidence():
    """However good: of two numbers there is no standard error worth the name."""
    two = TWO._replace(
        **{
            name: getattr(TWO, name)[..., :2]
            for name in ("found", "shuffled", "none", "single", "total")
        },
        merged={pair: error[:2] for pair, error in TWO.merged.items()},
    )
    assert not conclusions.conclude(two, None, relations()).supported


def test_the_strongest_relation_is_that_of_a_single_edge():
    """Four edges of 0.1 each move a receiver as much as one of 0.2, all else alike."""
    edges = np.full((1, 6, 6), 0)
    edges[0, np.arange(6), np.arange(6)] = -1
    edges[0, np.arange(6), (np.arange(6) + 1) % 6] = 1
    assert strongest_per_edge((0.21, 0.2), edges) == 1
    assert strongest_per_edge((0.5, 0.2), edges) == 0


def test_no_interaction_is_a_relation_that_pairs_have():
    """One on no pair has no effect either, whatever its law."""
    edges = np.array([[-1, 1, 2], [1, -1, 1], [2, 1, -1]])
    assert no_interaction((0.0, 0.001, 0.9, 0.0), edges) == 1
    assert no_interaction((0.001, 0.9), np.where(edges > 0, edges - 1, edges)) == 0
    assert no_interaction((0.5, 0.9), edges[:1, :2]) is None
    assert no_interaction((), edges) is None
    names = relation_names((0.0, 0.001, 0.9, 0.0), edges, 4)
    assert names == ("relation 0", "no interaction", "relation 2", "relation 3")


@dataclasses.dataclass(frozen=True)
class Trained:
    """Stands in for what training returns."""

    params: np.ndarray
    state: types.SimpleNamespace


def test_the_first_relation_is_one_that_pairs_have(monkeypatch):
    """Relation 1 of three does least of those on any pair; relation 0 is on none."""
    states = np.random.default_rng(0).normal(size=(4, 6, 3, 2))
    valid = as_dataset(states, lags=1)
    edges = jnp.asarray(np.random.default_rng(1).integers(1, 3, (4, 3, 3)))
    structures = TaskStructures(edges, jnp.zeros((4, 3), jnp.int32))
    state = types.SimpleNamespace(followed={"valid": structures})
    state._replace = lambda followed: types.SimpleNamespace(followed=followed)
    network = types.SimpleNamespace(reorder=lambda params, order: params[order])
    config = types.SimpleNamespace(null_relation=False)
    bank = types.SimpleNamespace(config=config)
    model = types.SimpleNamespace(num_relations=3, network=network, bank=bank)
    monkeypatch.setattr(held_out, "relation_effects", lambda *_: (0.0, 0.01, 0.9))
    named = discovery.name_relations(model, Trained(np.arange(3), state), valid)
    np.testing.assert_array_equal(named.params, [1, 0, 2])
    renamed = named.state.followed["valid"].edge_modules
    np.testing.assert_array_equal(renamed == 0, edges == 1)


def test_settling_keeps_what_is_supported():
    found = relations()
    concluded = conclusions.conclude(TWO, None, found)
    assert conclusions.settle(found, concluded) is found


def test_settling_takes_back_pairs_that_are_no_different():
    found = relations()
    nothing = conclusions.settle(found, conclusions.conclude(NOTHING, None, found))
    is_edge = found.edges >= 0
    assert (nothing.edges[is_edge] == 0).all() and (nothing.edges[~is_edge] == -1).all()
    np.testing.assert_allclose(nothing.probabilities[is_edge], 0.5)
    assert not nothing.probabilities[~is_edge].any()
    everywhere = conclusions.conclude(EVERYWHERE, None, found)
    one = conclusions.settle(found, everywhere)
    kept = np.bincount(found.edges[is_edge]).argmax()
    assert (one.edges[is_edge] == kept).all()
    assert (one.probabilities[is_edge][:, kept] == 1.0).all()


def test_modules_in_another_order_say_the_same():
    """Messages and logits are permuted, for every encoder of the head."""
    model = small_model(num_relations=3)
    encoder = "mlp+denoiser+evidence"
    network = RelationalNetwork(
        model.bank, ProposalConfig(encoder=encoder, width=8, denoiser_width=8)
    )
    model = dataclasses.replace(model, network=network)
    batch = Batch((3, 4), frames=5, relations=3)
    graph = batch.supergraph
    params = small_params(model, graph, 5)
    order = np.array([2, 0, 1])
    states = batch.flat_states()
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(3), graph.slot_mask.shape).astype(np.float32)
    shape = (*graph.slot_mask.shape, num_evidence_features(3))
    blocks = rng.normal(size=shape).astype(np.float32)
    places = np.concatenate([order, order + 3, order + 6, order + 9, [12]])

    @jax.jit
    def logits(params, weights, evidence):
        return network.edge_logits(params, graph, states, weights, evidence)

    before = logits(params, jnp.asarray(weights), jnp.asarray(blocks))
    after = logits(
        network.reorder(params, order),
        jnp.asarray(weights[..., order]),
        jnp.asarray(blocks[..., places]),
    )
    np.testing.assert_allclose(after, before[..., order], rtol=1e-5, atol=1e-5)
    # What the evidence of reordered modules really is.
    first = network.evidence(params, graph, states)
    again = network.evidence(network.reorder(params, order), graph, states)
    np.testing.assert_allclose(again, first[..., places], rtol=1e-3, atol=1e-4)
