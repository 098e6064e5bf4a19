"""Recordings that are simulated on wiring that others published.

Files are read as data: nothing in them is executed.
"""

from __future__ import annotations

import ast
import zipfile
from pathlib import Path

import numpy as np

from modmeta.relational import DataError, TrajectoryDataset, as_dataset
from modmeta.runtime.files import check_file

# Seconds between frames, and steps of integration per frame.
_FRAME, _STEPS = 0.05, 20
# Of the swing equation: the range of inertias, damping over inertia, and the mean
# coupling of a line, per second squared.
_INERTIA, _DAMPING, _COUPLING = (0.5, 2.0), 0.3, 30.0
# Of fMRI: seconds of a frame, time constant of a region, share that others have in what
# drives it, and of noise on a frame.
_REPETITION, _NEURAL, _SHARE, _NOISE = 0.7, 0.2, 0.7, 0.3


def grid_of(path: str) -> np.ndarray:
    """Susceptances `[buses, buses]` of the lines in a case of PYPOWER or MATPOWER.

    Args:
      path: A file such as `pypower/case14.py`, whose table of branches is a literal.

    Raises:
      DataError: If there is no such table.
    """
    path_of = check_file(path)
    tables = {}
    try:
        tree = ast.parse(path_of.read_text())
    except (SyntaxError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: found no Python file, expected a case") from error
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        target = node.targets[0]
        if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
            try:
                table = np.array(ast.literal_eval(node.value.args[0]), float)
            except (ValueError, IndexError):
                continue
            tables[target.slice.value] = table
    missing = {"bus", "branch"} - tables.keys()
    if missing or tables["branch"].ndim != 2 or tables["branch"].shape[1] < 4:
        raise DataError(
            f"{path}: found the tables {sorted(tables)}, expected 'bus' and 'branch' "
            "with a row per line: from, to, resistance, reactance"
        )
    numbers = tables["bus"][:, 0].astype(int).tolist()
    couplings = np.zeros((len(numbers), len(numbers)))
    for start, end, _, reactance, *_ in tables["branch"]:
        one, other = numbers.index(int(start)), numbers.index(int(end))
        couplings[one, other] += 1.0 / reactance
        couplings[other, one] += 1.0 / reactance
    return couplings


def simulate_transients(
    couplings: np.ndarray, num_recordings: int, num_frames: int, seed: int
) -> TrajectoryDataset:
    """Buses after a blow: M phi'' = P - D phi' + sum K sin(phi_other - phi).

    Every bus is a machine with an inertia of its own. Lines are as strong as their
    susceptances say, with a given mean; a recording begins away from equilibrium.

    Args:
      couplings: `[buses, buses]` susceptances, 0 where there is no line.
      num_recordings: Blows to the same grid.
      num_frames: Frames of each, 0.05 s apart.
      seed: Of inertias, powers and blows.

    Returns:
      Phase angles and speeds, and lines as labels.
    """
    rng = np.random.default_rng(seed)
    size = len(couplings)
    strengths = _COUPLING * couplings / couplings[couplings > 0].mean()
    inertia = rng.uniform(*_INERTIA, size)
    power = rng.normal(size=size)
    power -= power.mean()

    def rates(state):
        angle, speed = state
        flow = np.sin(angle[:, None, :] - angle[:, :, None])
        force = power + np.einsum("bij,bij->bi", strengths[None], flow)
        return np.stack([speed, force / inertia - _DAMPING * speed])

    state = np.zeros((2, num_recordings, size))
    step = _FRAME / _STEPS
    frames = []
    for frame in range(-400, num_frames):
        if frame == 0:  # at rest by now
            state = state + rng.normal(size=state.shape) * [[[0.3]], [[2.0]]]
        if frame >= 0:
            frames.append(np.moveaxis(state, 0, -1))
        for _ in range(_STEPS):
            if frame < 0:
                state[1] *= 0.98
            one = rates(state)
            two = rates(state + 0.5 * step * one)
            three = rates(state + 0.5 * step * two)
            four = rates(state + step * three)
            state = state + step / 6.0 * (one + 2.0 * two + 2.0 * three + four)
    return as_dataset(
        np.stack(frames, axis=1),
        labels=(couplings > 0).astype(np.int32),
        feature_names=("angle", "speed"),
        positions=("angle",),
        velocities=("speed",),
        frame_interval=_FRAME,
    )


def connectome_of(path: str, num_regions: int, density: float) -> np.ndarray:
    """Weights `[regions, regions]` of the strongest regions of a connectome.

    Args:
      path: A `connectivity_*.zip` of tvb-data, with a `weights.txt`.
      num_regions: Regions of one hemisphere or both, by their total weight.
      density: Share of the pairs that keep their weights, the strongest.

    Raises:
      DataError: If the file holds something else, or fewer regions.
    """
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if Path(n).stem == "weights")
            with archive.open(name) as file:
                weights = np.loadtxt(file)
    except (zipfile.BadZipFile, StopIteration, ValueError, EOFError) as error:
        raise DataError(
            f"{path}: found no archive with weights.txt, expected a connectivity of "
            "tvb-data"
        ) from error
    if weights.ndim != 2 or len(weights) != weights.shape[1]:
        raise DataError(
            f"{path}: found weights of shape {weights.shape}, expected a square"
        )
    if not 2 <= num_regions <= len(weights):
        raise DataError(
            f"num_nodes: found {num_regions}, expected 2 to the {len(weights)} regions"
        )
    np.fill_diagonal(weights, 0.0)
    strongest = np.sort(np.argsort(-weights.sum(axis=0))[:num_regions])
    weights = weights[np.ix_(strongest, strongest)]
    pairs = ~np.eye(num_regions, dtype=bool)
    least = np.quantile(weights[pairs], 1.0 - density)
    return np.where(weights > max(least, 0.0), weights, 0.0)


def simulate_fmri(
    weights: np.ndarray, num_recordings: int, num_frames: int, seed: int
) -> TrajectoryDataset:
    """BOLD of regions that are driven by noise and by each other.

    Rates are linear with a time constant of 0.2 s; a haemodynamic response (a
    difference of two gamma densities) smooths them, and frames are 0.7 s apart.

    Args:
      weights: `[regions, regions]`, row = receiver.
      num_recordings: Subjects.
      num_frames: Frames of each.
      seed: Of all noise.
    """
    rng = np.random.default_rng(seed)
    size, fine = len(weights), 0.05
    coupling = weights / np.abs(np.linalg.eigvals(weights)).max()
    per_frame = round(_REPETITION / fine)
    count = num_frames * per_frame + round(30.0 / fine)
    rates = np.zeros((num_recordings, size))
    history = np.empty((num_recordings, count, size))
    for step in range(count):
        drive = -rates + _SHARE * rates @ coupling.T
        noise = rng.normal(size=rates.shape) * np.sqrt(fine)
        rates = rates + fine / _NEURAL * drive + noise
        history[:, step] = rates
    times = fine * np.arange(round(25.0 / fine))
    response = times**5 * np.exp(-times) / 120.0
    response -= times**15 * np.exp(-times) / 1307674368000.0 / 6.0
    spectrum = np.fft.rfft(history, 2 * count, axis=1)
    spectrum *= np.fft.rfft(response, 2 * count)[None, :, None]
    bold = np.fft.irfft(spectrum, axis=1)[:, :count][:, -num_frames * per_frame :]
    bold = bold[:, ::per_frame]
    bold /= bold.std()
    bold += _NOISE * rng.normal(size=bold.shape)
    labels = (weights > 0).astype(np.int32)
    return as_dataset(
        bold[..., None],
        labels=labels,
        feature_names=("BOLD",),
        positions=(),
        angles=(),
        frame_interval=_REPETITION,
        lags=1,
    )
