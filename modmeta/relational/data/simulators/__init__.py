"""Simulators of bodies, oscillators and networks, in double precision on the CPU."""

from modmeta.relational.data.simulators.charged import (
    charged_energy,
    charged_trajectory,
    simulate_charged,
)
from modmeta.relational.data.simulators.first_order import (
    simulate_network,
    simulate_neurons,
)
from modmeta.relational.data.simulators.kuramoto import (
    kuramoto_trajectory,
    simulate_kuramoto,
)
from modmeta.relational.data.simulators.pairwise import (
    simulate_flocks,
    simulate_gravity,
    simulate_lennard_jones,
    simulate_mixed,
    simulate_pairs,
)
from modmeta.relational.data.simulators.springs import (
    simulate_springs,
    springs_energy,
    springs_trajectory,
)

__all__ = [
    "charged_energy",
    "charged_trajectory",
    "kuramoto_trajectory",
    "simulate_charged",
    "simulate_flocks",
    "simulate_gravity",
    "simulate_kuramoto",
    "simulate_lennard_jones",
    "simulate_mixed",
    "simulate_network",
    "simulate_neurons",
    "simulate_pairs",
    "simulate_springs",
    "springs_energy",
    "springs_trajectory",
]
