"""What the law that made simulated data predicts: the floor of every error."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np

from experiments.relational_inference.config import DataConfig
from experiments.relational_inference.datasets import SPRINGS4
from modmeta.relational import data
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.simulators import particles
from modmeta.relational.data.simulators.pairwise import (
    cohesion_law,
    gravity_law,
    lennard_jones_law,
)

# Directions of the mean over them.
_NUM_DIRECTIONS = 64
# Steps of the exact law per frame; the generators of bodies take 100.
SUBSTEPS = (10, 20, 50, 100)


def as_generated(strength: np.ndarray) -> np.ndarray:
    """What is left of central forces when both components are clipped, as simulated.

    The part along the line between two bodies, the mean over directions of the line.

    Args:
      strength: `[...]` force before it is clipped.
    """
    angles = (np.arange(_NUM_DIRECTIONS) + 0.5) * (0.5 * np.pi / _NUM_DIRECTIONS)
    left = 0.0
    for direction in (np.cos(angles), np.sin(angles)):
        components = np.asarray(strength, np.float64)[..., None] * direction
        limit = particles.MAX_FORCE
        left = left + direction * np.clip(components, -limit, limit)
    return np.mean(left, axis=-1)


Law = Callable[[np.ndarray], np.ndarray]


def _attraction(distance: np.ndarray) -> np.ndarray:
    return distance**-2.0


def _repulsion(distance: np.ndarray) -> np.ndarray:
    return -(distance**-2.0)


def _spring(distance: np.ndarray, strength: float = 1.0) -> np.ndarray:
    return 0.1 * strength * distance


# Rate towards the sender under every relation of a simulator, by its label, before
# anything is clipped.
_LAWS: dict[str, tuple[Law, ...]] = {
    "springs": (np.zeros_like, _spring),
    "springs4": tuple(
        functools.partial(_spring, strength=strength) for strength in SPRINGS4
    ),
    "charged": (_attraction, _repulsion),
    "kuramoto": (np.zeros_like, np.sin),
    "lennard_jones": (np.zeros_like, lennard_jones_law),
    "mixed": (np.zeros_like, _spring, _repulsion),
    # At equal velocities, as laws are shown.
    "flocks": (np.zeros_like, cohesion_law),
}


def true_laws(
    config: DataConfig, observed: TrajectoryDataset, max_rate: float = 0.0
) -> tuple[Law, ...]:
    """The law of every relation by its label; nothing where none is known.

    Args:
      config: What was simulated.
      observed: The systems, raw units: a law that depends on masses is that of their
        mean, as in `laws.curves`.
      max_rate: What components are known to be cut off at. Laws are then those of
        pairs along an axis, as `laws.curves` shows them; else means over
        directions of what the simulator leaves.
    """
    if config.file:
        return ()
    if config.system == "gravity":
        mass = float(np.mean(observed.states[:, 0, :, -1][observed.node_mask]))
        laws: tuple[Law, ...] = (
            np.zeros_like,
            lambda distance: mass * np.asarray(gravity_law(distance)),
        )
    else:
        laws = _LAWS.get(config.system, ())
    return tuple(functools.partial(_acting, law, max_rate) for law in laws)


def _acting(law: Law, max_rate: float, distance: np.ndarray) -> np.ndarray:
    rates = np.asarray(law(np.asarray(distance)), np.float64)
    return np.clip(rates, -max_rate, max_rate) if max_rate else as_generated(rates)


def exact_predictions(
    config: DataConfig, observed: TrajectoryDataset, num_steps: int
) -> dict[str, np.ndarray]:
    """Predictions of simulated bodies by their true law and true graph.

    Args:
      config: What was simulated.
      observed: The systems, raw units; the last frame is where predictions start.
      num_steps: Frames to predict.

    Returns:
      `[tasks, num_steps, nodes, 4]` in raw units by substeps per frame; nothing for
      data of which not everything that the law needs was observed without noise, and
      for those without a true graph.
    """
    is_body = config.system in ("springs", "charged")
    if config.file or config.observation_noise or not is_body or num_steps < 1:
        return {}
    if observed.is_padded or observed.edges is None:
        return {}
    last = np.asarray(observed.states[:, -1], np.float64)
    labels = np.maximum(np.asarray(observed.edges), 0).astype(np.float64)
    if config.system == "springs":
        trajectory, couplings = data.springs_trajectory, labels
    else:
        trajectory, couplings = data.charged_trajectory, 2.0 * labels - 1.0
    found = {}
    for count in SUBSTEPS:
        with jax.enable_x64(True):
            found[str(count)] = np.asarray(
                trajectory(
                    last[..., :2],
                    last[..., 2:4],
                    couplings,
                    num_frames=num_steps,
                    steps_per_frame=count,
                    time_step=observed.frame_interval / count,
                ),
                np.float32,
            )
    return found
