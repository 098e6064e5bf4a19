"""What the own past of every node and a season explain, without any other node.

A season that all nodes have, each at a phase of its own, looks like relations: what
others did tells where in the season a node is. Letters: R rows (windows of one
recording), N nodes, Y changes and P numbers of the past of each, S frequencies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Frequencies per row, between two that the length of a recording tells apart; and those
# that are tried between two of these, as phases go wrong after the last row.
_FINENESS, _FINER = 2, 33
# The cosine of two frames per period is all there is of it: its sine is zero.
_RIDGE = 1e-6


class Stretch(NamedTuple):
    """Rows of one recording.

    Attributes:
      targets: `[R, N, Y]` changes.
      past: `[R, N, P]`.
      frames: `[R]` number of the frame at which a change begins.
    """

    targets: np.ndarray
    past: np.ndarray
    frames: np.ndarray


def left_beyond_season(early: Stretch, late: Stretch) -> np.ndarray:
    """What is left of late changes `[R, N, Y]` by laws of early ones.

    Every node has least squares on its own past and one sinusoid, of a frequency that
    all nodes of a system share and of an amplitude and phase of its own.
    """
    count = len(early.targets)
    # From one period per recording up to two frames per period.
    coarse = np.linspace(1.0 / count, 0.5, _FINENESS * count)
    middle, step = coarse[np.argmax(_explained(early, coarse))], coarse[1] - coarse[0]
    fine = np.linspace(middle - step, middle + step, _FINER)
    best = fine[[np.argmax(_explained(early, fine))]]
    left = np.empty_like(late.targets)
    for node in range(left.shape[1]):
        inputs, later = (
            np.concatenate([part.past[:, node], _waves(part.frames, best)[..., 0]], 1)
            for part in (early, late)
        )
        weights = np.linalg.lstsq(inputs, early.targets[:, node], rcond=None)[0]
        left[:, node] = late.targets[:, node] - later @ weights
    return left


def _explained(rows: Stretch, frequencies: np.ndarray) -> np.ndarray:
    """Squares `[S]` that a sinusoid explains of what own pasts leave, of all nodes."""
    count = len(rows.targets)
    waves = _waves(rows.frames, frequencies)
    flat = waves.reshape(count, -1)
    explained = np.zeros(len(frequencies))
    for node in range(rows.targets.shape[1]):
        basis, _ = np.linalg.qr(rows.past[:, node])
        target = rows.targets[:, node]
        left = target - basis @ (basis.T @ target)
        beyond = (flat - basis @ (basis.T @ flat)).reshape(waves.shape)
        slopes = np.einsum("rks,ry->sky", beyond, left)
        squares = np.einsum("rks,rls->skl", beyond, beyond) + _RIDGE * count * np.eye(2)
        solved = np.linalg.solve(squares, slopes)
        explained += np.sum(slopes * solved, axis=(1, 2))
    return explained


def _waves(frames: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Sines and cosines `[R, 2, S]`."""
    phases = 2.0 * np.pi * frames[:, None] * frequencies
    return np.stack([np.sin(phases), np.cos(phases)], axis=1)
