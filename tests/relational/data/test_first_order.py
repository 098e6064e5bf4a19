"""The simulator of networks of first order against a solver of SciPy."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from modmeta.relational import data
from modmeta.relational.data.simulators import first_order


def neurons(_, flat, labels):
    """Rates of FitzHugh-Nagumo neurons, written out pair by pair."""
    states = flat.reshape(-1, 2)
    change = np.zeros_like(states)
    for receiver, (potential, recovery) in enumerate(states):
        change[receiver, 0] = potential - potential**3 / 3 - recovery + 0.5
        change[receiver, 1] = 0.08 * (potential + 0.7 - 0.8 * recovery)
        for sender in range(len(states)):
            if labels[receiver, sender] == 1:
                change[receiver, 0] += 0.1 * (states[sender, 0] - potential)
    return change.reshape(-1)


def test_neurons_against_an_adaptive_solver():
    found = data.simulate_neurons(0, 6, num_nodes=4, num_frames=20)
    assert found.features.names == ("v", "w") and found.frame_interval == 0.5
    assert np.any(found.edges != np.swapaxes(found.edges, 1, 2))
    for states, labels in zip(found.states, np.asarray(found.edges), strict=True):
        solution = scipy.integrate.solve_ivp(
            neurons,
            (0.0, 9.5),
            np.asarray(states[0], np.float64).reshape(-1),
            args=(labels,),
            t_eval=0.5 * np.arange(20),
            rtol=1e-10,
            atol=1e-12,
        )
        expected = solution.y.T.reshape(20, 4, 2)
        np.testing.assert_allclose(states, expected, atol=2e-5)


def test_a_task_is_the_same_in_any_number_and_labels_are_the_places_of_the_laws():
    laws = (first_order.no_coupling, first_order.diffusive, first_order.no_coupling)
    options = {
        "own": first_order.fitzhugh_nagumo,
        "laws": laws,
        "feature_names": ("v", "w"),
        "draw_start": lambda key, nodes: jnp.tile(jnp.arange(nodes) / 5.0, (2, 1)),
        "num_frames": 3,
        "directed": False,
    }
    found = data.simulate_network(0, 20, **options)
    again = data.simulate_network(0, 3, **options)
    np.testing.assert_array_equal(found.states[:3], again.states)
    np.testing.assert_array_equal(found.edges, np.swapaxes(found.edges, 1, 2))
    assert set(np.unique(found.edges)) == {-1, 0, 1, 2}


def test_what_makes_no_network_is_refused():
    with pytest.raises(ValueError, match="laws: found"):
        data.simulate_network(
            0,
            2,
            first_order.fitzhugh_nagumo,
            (),
            feature_names=("v", "w"),
            draw_start=lambda key, nodes: jnp.zeros((2, nodes)),
        )
    with pytest.raises(ValueError, match="num_frames: found 1"):
        data.simulate_neurons(0, 2, num_frames=1)
