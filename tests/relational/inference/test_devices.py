"""Inference on two devices and in two processes, to the bit what one device finds.

`tests/conftest.py` makes two devices of the CPU.
"""

import functools
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from modmeta.relational.data import FeatureSpec, TrajectoryDataset
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.infer import infer_dataset
from modmeta.relational.tasks.structures import random_structures
from modmeta.runtime import devices
from tests.fixtures import SPEC, Batch, search_options, small_model, small_params

# Three batches and three chains: neither is a multiple of two devices, of which the
# second has a single one.
SIZES = (3, 1, 4, 2, 3)
CONFIG = InferenceConfig(num_steps=12, num_chains=3, num_samples=5)
# Receivers are searched in chunks, or coupled and from a warm start.
SEARCHES = {
    "chunks": {"receiver_chunk": 3},
    "coupled": {"prior": "symmetric", "prior_weight": 2.0},
}


def small_dataset():
    """Systems of several sizes in the features of `tests.fixtures`."""
    states = np.zeros((len(SIZES), 4, max(SIZES), len(SPEC.names)), np.float32)
    mask = np.zeros((len(SIZES), max(SIZES)), bool)
    for task, one in enumerate(Batch(SIZES).states):
        states[task, :, : len(one)] = np.swapaxes(one, 0, 1)
        mask[task, : len(one)] = True
    return TrajectoryDataset(
        states=states,
        features=FeatureSpec(SPEC.names, SPEC.positions, SPEC.velocities),
        frame_interval=1.0,
        node_mask=mask,
    )


def infer_on(mesh, name):
    """Relations that one of `SEARCHES` finds on the devices of a mesh, None for one."""
    options = search_options(batch_size=2, **SEARCHES[name])
    model = small_model(num_relations=3, encoder="mlp", search=options)
    params = small_params(model, Batch(SIZES).supergraph, 4)
    start = None
    if name == "coupled":
        start = random_structures(
            jax.random.key(1), len(SIZES), max(SIZES), model.num_relations
        )
    return infer_dataset(
        jax.random.key(3),
        model,
        params,
        small_dataset(),
        CONFIG,
        start=start,
        mesh=mesh,
    )


@functools.cache
def found_alone(name):
    found = infer_on(None, name)
    # A search that does nothing would be the same everywhere.
    trace = found.best_energies
    assert (trace[:, -1] < trace[:, 0]).sum() >= 2
    assert ((found.probabilities > 0.0) & (found.probabilities < 1.0)).any()
    return found


def assert_same_bits(found, expected):
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        one, other = np.asarray(one), np.asarray(other)
        assert one.dtype == other.dtype and one.shape == other.shape
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("name, num_chain_groups", [("chunks", 2), ("coupled", 1)])
def test_two_devices_find_what_one_finds(name, num_chain_groups):
    """Chains are shared, or batches; two processes below share both."""
    mesh = devices.build_mesh(2, num_chain_groups=num_chain_groups)
    assert_same_bits(infer_on(mesh, name), found_alone(name))


@pytest.mark.parametrize("num_items", [1, 2, 5])
@pytest.mark.parametrize("axis_name", [devices.BATCHES, devices.CHAINS])
def test_every_item_is_computed_once_in_order(num_items, axis_name):
    """Each device adds its number, so that the share of each can be told."""
    groups = 2 if axis_name == devices.CHAINS else 1
    mesh = devices.build_mesh(2, num_chain_groups=groups)
    items = {"value": np.arange(num_items), "key": jax.random.split(jax.random.key(0))}
    items["key"] = items["key"][np.zeros(num_items, int)]

    def function(items):
        device = jax.lax.axis_index(axis_name)
        return items["value"] + 100 * device, jax.random.key_data(items["key"])

    def everything(items):
        return devices.spread(function, items, axis_name, mesh)

    values, keys = jax.jit(devices.on_every_device(everything, mesh))(items)
    share = -(-num_items // 2)
    expected = np.arange(num_items) + 100 * (np.arange(num_items) // share)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(keys, jax.random.key_data(items["key"]))


def test_shape_of_the_mesh():
    assert dict(devices.build_mesh().shape) == {"batches": 1, "chains": 1}
    assert dict(devices.build_mesh(2).shape) == {"batches": 2, "chains": 1}
    mesh = devices.build_mesh(2, num_chain_groups=2)
    assert dict(mesh.shape) == {"batches": 1, "chains": 2}
    assert devices.is_first_process()
    assert devices.from_first_process({"a": True})["a"] == np.True_


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_devices": 3}, "num_devices: found 3, expected 1 to 2, the cpu devices"),
        ({"num_devices": 0}, "num_devices: found 0, expected 1 to 2"),
        (
            {"num_devices": 2, "num_chain_groups": 3},
            "num_chain_groups: found 3, expected a divisor of 2",
        ),
        ({"num_chain_groups": 0}, "num_chain_groups: found 0, expected a divisor of 1"),
    ],
)
def test_impossible_meshes(options, message):
    with pytest.raises(ValueError, match=message):
        devices.build_mesh(**options)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("here",), "coordinator: found 'here', expected 'host:port' or 'auto'"),
        (("host:port",), "coordinator: found 'host:port', expected"),
        (("host:1", 2), "found num_processes=2, process_id=None, expected both"),
        (("host:1", 2, 2), "expected 0 <= process_id < num_processes"),
        (("auto", 2, 0), "coordinator: found 'auto' with num_processes=2"),
    ],
)
def test_processes_that_cannot_meet(arguments, message):
    with pytest.raises(ValueError, match=message):
        devices.connect(*arguments)


PROCESS = """
import sys
import jax
import numpy as np
from modmeta.runtime import devices

path, coordinator, process_id = sys.argv[1:]
devices.connect(coordinator, 2, int(process_id))
mesh = devices.build_mesh(2, num_chain_groups=2)
assert dict(mesh.shape) == {"batches": 2, "chains": 2}
from tests.relational.inference.test_devices import infer_on
np.savez(path, **infer_on(mesh, "coupled")._asdict())
first = devices.from_first_process({"id": jax.process_index(), "minus": -0.0})
assert first["id"] == 0 and np.signbit(first["minus"])
try:
    devices.replicate(np.full(3, jax.process_index()), mesh)
except ValueError as error:
    print(error)
"""


def test_two_processes_find_what_one_finds(tmp_path):
    """Two processes of two devices each: batches over hosts, chains within them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    paths = [tmp_path / f"{name}.npz" for name in ("first", "second")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(path), coordinator, str(process_id)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        for process_id, path in enumerate(paths)
    ]
    try:
        for process in processes:
            output, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-3000:]
            assert "found different arrays in the processes" in output
    finally:
        for process in processes:
            process.kill()
    for path in paths:
        assert_same_bits(dict(np.load(path)), found_alone("coupled")._asdict())
