"""Trajectories per second of the simulators, beside plain NumPy loops.

    python -m benchmarks.simulators

The NumPy loops advance one trajectory at a time, step by step, with array operations
over the bodies, which is how the published data were generated. Both sides use
double precision and the same steps. The loops run on one core, modmeta on all that
the process may use: `taskset -c 0` compares on one. Compilation is timed apart.
"""

import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

from benchmarks import timing
from modmeta.relational import data

_NODES = flags.DEFINE_integer("nodes", 5, "Nodes per system.", lower_bound=1)
_FRAMES = flags.DEFINE_integer("frames", 49, "Frames per trajectory.", lower_bound=3)
_TASKS = flags.DEFINE_integer(
    "tasks", 4096, "Trajectories per timing of a simulator.", lower_bound=1
)
_LOOP_TASKS = flags.DEFINE_integer(
    "loop_tasks", 5, "Trajectories per timing of a NumPy loop.", lower_bound=1
)


def particle_loop(
    force: Callable[[np.ndarray, np.ndarray], np.ndarray],
    position: np.ndarray,
    velocity: np.ndarray,
    couplings: np.ndarray,
    num_frames: int,
) -> np.ndarray:
    """Simulates one system of springs or charges; arrays `[nodes, 2]`."""
    frames = []
    velocity = velocity + 0.001 * force(couplings, position)
    for step in range(1, 100 * num_frames + 1):
        position = position + 0.001 * velocity
        above, below = position > 5.0, position < -5.0
        position[above] = 10.0 - position[above]
        velocity[above] = -np.abs(velocity[above])
        position[below] = -10.0 - position[below]
        velocity[below] = np.abs(velocity[below])
        if step % 100 == 0:
            frames.append(np.concatenate([position, velocity], axis=1))
        velocity = velocity + 0.001 * force(couplings, position)
    return np.stack(frames)


def spring_force(couplings: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Net force of springs, clipped, `[nodes, 2]`."""
    differences = position[:, None] - position[None]
    net = -0.1 * (couplings[..., None] * differences).sum(axis=1)
    return np.clip(net, -100.0, 100.0)


def charge_force(couplings: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Net force of charges, clipped, `[nodes, 2]`."""
    differences = position[:, None] - position[None]
    squares = (differences**2).sum(axis=-1)
    np.fill_diagonal(squares, 1.0)
    weights = couplings / (squares * np.sqrt(squares))
    return np.clip((weights[..., None] * differences).sum(axis=1), -100.0, 100.0)


def phase_loop(
    phase: np.ndarray, frequency: np.ndarray, couplings: np.ndarray, num_frames: int
) -> np.ndarray:
    """Simulates one system of oscillators by Runge-Kutta steps; `[nodes]`."""

    def rate(phase: np.ndarray) -> np.ndarray:
        return frequency + (couplings * np.sin(phase[None] - phase[:, None])).sum(1)

    frames = []
    for step in range(10 * num_frames):
        if step % 10 == 0:
            frames.append(phase)
        first = rate(phase)
        second = rate(phase + 0.005 * first)
        third = rate(phase + 0.005 * second)
        fourth = rate(phase + 0.01 * third)
        phase = phase + 0.01 * (first + 2.0 * second + 2.0 * third + fourth) / 6.0
    return np.stack(frames)


def particle_task(
    force: Callable[[np.ndarray, np.ndarray], np.ndarray],
    rng: np.random.Generator,
    num_nodes: int,
    num_frames: int,
) -> None:
    """Draws and simulates one system of particles."""
    couplings = np.triu(rng.choice([-1.0, 1.0], (num_nodes, num_nodes)), 1)
    position, direction = rng.normal(size=(2, num_nodes, 2))
    velocity = 0.5 * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    particle_loop(force, position, velocity, couplings + couplings.T, num_frames)


def phase_task(rng: np.random.Generator, num_nodes: int, num_frames: int) -> None:
    """Draws and simulates one system of oscillators."""
    couplings = rng.integers(0, 2, (num_nodes, num_nodes)).astype(float)
    phase = rng.uniform(0.0, 2.0 * np.pi, num_nodes)
    phase_loop(phase, rng.uniform(1.0, 10.0, num_nodes), couplings, num_frames)


def main(argv: list[str]) -> None:
    """Prints one row per simulator."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    sizes = {"num_nodes": _NODES.value, "num_frames": _FRAMES.value}
    cases = {
        "springs": (
            data.simulate_springs,
            lambda rng: particle_task(spring_force, rng, **sizes),
        ),
        "charged": (
            data.simulate_charged,
            lambda rng: particle_task(charge_force, rng, **sizes),
        ),
        "kuramoto": (data.simulate_kuramoto, lambda rng: phase_task(rng, **sizes)),
    }
    print(f"{_NODES.value} nodes, {_FRAMES.value} frames; trajectories per second")
    print("| simulator | modmeta | NumPy loop | ratio | first call, s |")
    print("|---|---|---|---|---|")
    for name, (simulate, loop_task) in cases.items():

        def run(simulate=simulate):
            simulate(0, _TASKS.value, **sizes)

        def run_loop(loop_task=loop_task):
            rng = np.random.default_rng(0)
            for _ in range(_LOOP_TASKS.value):
                loop_task(rng)

        started = time.perf_counter()
        run()
        first = time.perf_counter() - started
        fast = _TASKS.value / timing.seconds_of(run)
        slow = _LOOP_TASKS.value / timing.seconds_of(run_loop)
        print(
            f"| {name} | {fast:,.0f} | {slow:.2f} | {fast / slow:,.0f} | {first:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
