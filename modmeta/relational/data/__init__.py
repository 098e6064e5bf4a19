"""Trajectory data: the container, its checks, files, scaling and simulators."""

from modmeta.relational.data.dataset import (
    TrajectoryDataset,
    validate,
)
from modmeta.relational.data.forms.files import save_npz
from modmeta.relational.data.forms.loading import load, load_npz, load_nri
from modmeta.relational.data.joining import concatenate, pad_systems
from modmeta.relational.data.normalization import (
    Normalization,
    denormalize,
    fit_normalization,
    normalize,
    normalize_dataset,
)
from modmeta.relational.data.segments import concatenate_tasks, cut
from modmeta.relational.data.simulators import (
    charged_energy,
    charged_trajectory,
    kuramoto_trajectory,
    simulate_charged,
    simulate_flocks,
    simulate_gravity,
    simulate_kuramoto,
    simulate_lennard_jones,
    simulate_mixed,
    simulate_network,
    simulate_neurons,
    simulate_pairs,
    simulate_springs,
    springs_energy,
    springs_trajectory,
)
from modmeta.relational.data.validation import DataError, FeatureSpec

__all__ = [
    "DataError",
    "FeatureSpec",
    "Normalization",
    "TrajectoryDataset",
    "charged_energy",
    "charged_trajectory",
    "concatenate",
    "concatenate_tasks",
    "cut",
    "denormalize",
    "fit_normalization",
    "kuramoto_trajectory",
    "load",
    "load_npz",
    "load_nri",
    "normalize",
    "normalize_dataset",
    "pad_systems",
    "save_npz",
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
    "validate",
]
