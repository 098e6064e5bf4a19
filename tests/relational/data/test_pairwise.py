"""The simulator of any pair law against a solver of SciPy, and what is conserved."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from modmeta.relational import data
from modmeta.relational.data.simulators import pairwise

LAWS = {
    "gravity": (data.simulate_gravity, lambda d: 0.5 / d**2, {}),
    "lennard_jones": (
        data.simulate_lennard_jones,
        lambda d: 24.0 * 0.3 * ((0.7 / d) ** 6 - 2.0 * (0.7 / d) ** 12) / d,
        {"directed": True, "friction": 0.3, "position_scale": 0.35},
    ),
    "flocks": (data.simulate_flocks, lambda d: 0.2 * (d - 1.0), {"friction": 0.1}),
}
ALIGNMENTS = {"flocks": lambda d: 0.5 / (1.0 + d**2)}


def solved(law, alignment, start, labels, mass, friction, duration):
    """States `[nodes, 4]` after a time, to ten digits."""

    def slope(_, flat):
        states = flat.reshape(-1, 4)
        change = np.zeros_like(states)
        change[:, :2] = states[:, 2:]
        for receiver in range(len(states)):
            for sender in range(len(states)):
                if labels[receiver, sender] == 1:
                    towards = states[sender, :2] - states[receiver, :2]
                    distance = np.linalg.norm(towards)
                    pull = mass[sender] * law(distance) / distance
                    change[receiver, 2:] += pull * towards
                    faster = states[sender, 2:] - states[receiver, 2:]
                    change[receiver, 2:] += alignment(distance) * faster
            change[receiver, 2:] -= friction * states[receiver, 2:]
        return change.reshape(-1)

    return (
        scipy.integrate.solve_ivp(
            slope, (0.0, duration), start.reshape(-1), rtol=1e-10, atol=1e-12
        )
        .y[:, -1]
        .reshape(-1, 4)
    )


@pytest.mark.parametrize("name", LAWS)
def test_next_frame_against_an_adaptive_solver(name):
    """The generator's step of .001 is of first order in recorded velocities."""
    simulate, law, options = LAWS[name]
    found = simulate(3, 8, num_nodes=3, num_frames=4, **options)
    checked = 0
    for task in range(8):
        states = np.asarray(found.states[task], np.float64)
        gaps = states[:, :, None, :2] - states[:, None, :, :2]
        distances = np.sqrt((gaps**2).sum(-1)) + 9.0 * np.eye(3)
        if distances.min() < 0.6 or np.abs(states[..., :2]).max() > 4.9:
            continue  # the first-order step is coarse in encounters
        mass = states[0, :, 4] if states.shape[-1] == 5 else np.ones(3)
        expected = solved(
            law,
            ALIGNMENTS.get(name, lambda distance: 0.0),
            states[0, :, :4],
            np.asarray(found.edges[task]),
            mass,
            options.get("friction", 0.0),
            0.1,
        )
        np.testing.assert_allclose(states[1, :, :4], expected, atol=3e-3)
        moved = np.abs(expected[:, 2:] - states[0, :, 2:4]).max()
        checked += moved > 0.02
    assert checked >= 3


def test_gravity_conserves_momentum_and_records_masses():
    found = data.simulate_gravity(0, 16, num_nodes=4, masses=(0.5, 2.0))
    mass = found.states[:, :, :, 4]
    assert (mass == mass[:, :1]).all() and mass.min() >= 0.5 and mass.max() <= 2.0
    momentum = (mass[..., None] * found.states[..., 2:4]).sum(axis=2)
    inside = np.abs(found.states[..., :2]).max(axis=(1, 2, 3)) < 4.9
    # Where forces are clipped, in close encounters, momentum is lost.
    drift = np.abs(momentum - momentum[:, :1]).max(axis=(1, 2))[inside]
    assert np.sum(drift < 1e-5) >= 5


def test_atoms_start_apart():
    def nearest(spread_draws):
        found = data.simulate_lennard_jones(
            1, 40, num_frames=3, spread_draws=spread_draws
        )
        place = found.states[:, 0, :, :2]
        gap = np.linalg.norm(place[:, :, None] - place[:, None], axis=-1)
        return np.min(gap + 9.0 * np.eye(5), axis=(1, 2))

    assert nearest(64).min() > 0.55 > np.median(nearest(1))


def test_a_mixture_has_springs_and_charges_of_one_sign():
    laws = (pairwise.no_law, pairwise.spring_law, pairwise.repulsion_law)
    mixed = data.simulate_mixed(4, 8, num_nodes=3, num_frames=4)
    same = data.simulate_pairs(4, 8, laws, num_nodes=3, num_frames=4)
    np.testing.assert_array_equal(mixed.states, same.states)
    distance = jnp.array([0.5, 2.0])
    np.testing.assert_allclose(laws[1](distance), [0.05, 0.2], rtol=1e-6)
    np.testing.assert_allclose(laws[2](distance), [-4.0, -0.25], rtol=1e-6)


def test_labels_are_the_places_of_the_laws():
    def push(distance):
        return -jnp.ones_like(distance)

    found = data.simulate_pairs(
        0, 5, (pairwise.no_law, pairwise.gravity_law, push), num_nodes=3
    )
    assert found.num_relations == 3 and found.states.shape == (5, 49, 3, 4)
    assert set(np.unique(found.edges)) <= {-1, 0, 1, 2}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"masses": (0.0, 1.0)}, "masses: found"),
        ({"masses": (2.0, 1.0)}, "masses: found"),
        ({"friction": -1.0}, "friction: found"),
        ({"spread_draws": 0}, "spread_draws: found"),
        ({"probabilities": (1.0,)}, "probabilities: found"),
        ({"laws": ()}, "laws: found"),
        ({"alignments": (pairwise.no_law,)}, "alignments: found 1, expected 2"),
    ],
)
def test_what_makes_no_system_is_refused(options, message):
    options = {"laws": (pairwise.no_law, pairwise.gravity_law), **options}
    with pytest.raises(ValueError, match=message):
        data.simulate_pairs(0, 2, options.pop("laws"), **options)
