"""PyTorch weights as the variables of a Flax model, checked on an example.

The two frameworks store the same numbers in another order: PyTorch puts outputs before
inputs, channels before pixels. A wrong order often fits all the same, a square kernel
always. So the model is run, and its output compared with that of the original.

Letters: I inputs, O outputs, K sizes of a window, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.metanet.parameter_graphs.calls import run
from modmeta.metanet.parameter_graphs.leaves import path_names, typed

# What PyTorch calls the leaves of Flax.
_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_IGNORED = ("num_batches_tracked",)


class Example(NamedTuple):
    """What the original network computes.

    Attributes:
      inputs: Inputs of the Flax model: images with channels last.
      output: What the original gives for the same inputs, in the layout of the Flax
        model.
    """

    inputs: Sequence[Any]
    output: Any


def from_state_dict(
    model: Any,
    variables: Any,
    state: Mapping[str, Any],
    names: Mapping[str, str],
    *,
    example: Example | None,
    flattened: Mapping[str, tuple[int, ...]] | None = None,
    packed: Mapping[str, Sequence[str]] | None = None,
    convert: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
    tolerance: float = 1e-4,
    **kwargs,
) -> Any:
    """Variables of a Flax model with the weights of a PyTorch network.

    Kernels of dense layers `[O, I]` become `[I, O]`, those of convolutions
    `[O, I, *K]` become `[*K, I, O]`; gains, embeddings, biases and running statistics
    stay as they are.

    Args:
      model: The Flax model, of Linen or NNX.
      variables: Its variables, arrays or `jax.ShapeDtypeStruct`, for example of
        `jax.eval_shape(model.init, key, inputs)`.
      state: Name -> array, as `state_dict()` gives it: tensors of PyTorch on any
        device, or NumPy arrays.
      names: Path of a module in the Flax model, "encoder/Dense_0" -> name of the
        module in the state, "encoder.0".
      example: Inputs and output of the original. None trusts the layout.
      flattened: Path of a dense layer that reads flattened images -> `(C, *K)` of the
        image: its rows are reordered from channels first to channels last.
      packed: Beginning of names in the state that hold several layers one after the
        other, "attention.in_proj_" -> what to put in its place for each of the equal
        parts, `["attention.query.", "attention.key.", "attention.value."]`.
      convert: Path of a leaf, "head/kernel" -> function of the PyTorch array, in place
        of the rules above.
      tolerance: Largest difference from the example's output, relative to the
        largest output.
      **kwargs: Passed on to `model.apply`.

    Returns:
      Variables in the form and the types of the given ones.

    Raises:
      ValueError: If a module has no name, a name or a shape does not fit, weights are
        left over, or the output differs from that of the example. Then the message
        names a kernel whose transpose would give it, if there is one.
    """
    if not isinstance(state, Mapping):
        raise ValueError(
            f"state: found {type(state).__name__}, expected arrays by name, as "
            "state_dict() gives them"
        )
    remaining = {
        name: value
        for name, value in state.items()
        if name.rpartition(".")[2] not in _IGNORED
    }
    for beginning, parts in (packed or {}).items():
        _unpack(remaining, beginning, parts)
    taken: set[str] = set()
    modules: set[str] = set()
    paths, structure = jax.tree_util.tree_flatten_with_path(variables)
    leaves = []
    for path, leaf in paths:
        keys = path_names(path)
        keys = keys[1:] if keys[0] in ("params", "batch_stats") else keys
        modules.add("/".join(keys[:-1]))
        source = _source("/".join(keys), names, remaining)
        taken.add(source)
        array = _numpy(remaining[source])
        leaves.append(
            _converted("/".join(keys), source, array, leaf, flattened or {}, convert)
        )
    if unknown := sorted(set(names) - modules):
        raise ValueError(
            f"names: found {', '.join(unknown)}, expected modules of the model with "
            f"parameters, {', '.join(sorted(modules))}"
        )
    if left := sorted(set(remaining) - taken):
        raise ValueError(
            f"state: found {', '.join(left)} left over, expected every weight to have "
            "a place in the model"
        )
    tree = jax.tree.unflatten(structure, leaves)
    if example is not None:
        _check(model, tree, example, tolerance, kwargs)
    return tree


def _unpack(state: dict[str, Any], beginning: str, parts: Sequence[str]) -> None:
    """Puts parts in the place of the arrays whose names begin so."""
    names = [name for name in state if name.startswith(beginning)]
    if not names:
        raise ValueError(
            f"packed: found no name that begins with {beginning}, expected one of "
            f"{', '.join(sorted(state))}"
        )
    for name in names:
        array = _numpy(state.pop(name))
        if not array.ndim or len(array) % len(parts):
            raise ValueError(
                f"packed: found shape {array.shape} of {name}, expected rows of "
                f"{len(parts)} equal parts"
            )
        for part, rows in zip(parts, np.split(array, len(parts)), strict=True):
            state[part + name.removeprefix(beginning)] = rows


def _source(path: str, names: Mapping[str, str], state: Mapping[str, Any]) -> str:
    """The name in the state of a leaf of the model."""
    module, _, leaf = path.rpartition("/")
    if module not in names:
        raise ValueError(
            f"names: found no name for {module or 'the model itself'}, expected one "
            "per module with parameters"
        )
    source = ".".join(part for part in (names[module], _NAMES.get(leaf, leaf)) if part)
    if source not in state:
        raise ValueError(
            f"state: found no {source} for {path}, expected one of "
            f"{', '.join(sorted(state))}"
        )
    return source


def _numpy(value: Any) -> np.ndarray:
    for method in ("detach", "cpu", "numpy"):
        value = getattr(value, method)() if hasattr(value, method) else value
    return np.asarray(value)


def _converted(path, source, array, leaf, flattened, convert) -> jax.Array:
    module, _, name = path.rpartition("/")
    if convert and path in convert:
        array = convert[path](array)
    elif name == "kernel" and array.ndim >= 2:
        array = np.moveaxis(array, (0, 1), (-1, -2))
        if module in flattened:
            array = _channels_last(module, array, flattened[module])
        is_dense = array.ndim == 2 and len(leaf.shape) > 2
        if is_dense and array.size == math.prod(leaf.shape):
            array = array.reshape(leaf.shape)  # several axes of outputs, as heads
    elif name == "bias" and array.size == math.prod(leaf.shape):
        array = array.reshape(leaf.shape)
    if array.shape != tuple(leaf.shape):
        raise ValueError(
            f"{path}: found shape {array.shape} from {source}, expected "
            f"{tuple(leaf.shape)}"
        )
    is_floating = jax.dtypes.issubdtype(leaf.dtype, np.floating)
    if is_floating and not jax.dtypes.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{path}: found type {array.dtype} from {source}, expected floating-point "
            "numbers, or convert="
        )
    with np.errstate(over="ignore"):
        found = typed(array, str(leaf.dtype), None)
    if is_floating and not np.all(np.isfinite(np.asarray(found, np.float64))):
        raise ValueError(
            f"{path}: found NaN, infinite values or values beyond {leaf.dtype} from "
            f"{source}, expected finite ones"
        )
    return found


def _channels_last(
    module: str, kernel: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Rows of a kernel `[C * H * W, O]` in the order H, W, C."""
    if kernel.shape[0] != math.prod(shape):
        raise ValueError(
            f"flattened: found {tuple(shape)} for {module}, expected a product of "
            f"{kernel.shape[0]}"
        )
    images = kernel.reshape(*shape, -1)
    return np.moveaxis(images, 0, -2).reshape(kernel.shape)


def _difference(model, tree, example, kwargs) -> float:
    found = run(model, tree, *map(jnp.asarray, example.inputs), **kwargs)
    expected = np.asarray(_numpy(example.output), np.float64)
    if found.shape != expected.shape:
        raise ValueError(
            f"example: found an output of shape {found.shape}, expected "
            f"{expected.shape}"
        )
    scale = np.abs(expected).max() or 1.0
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / scale)


def _check(model, tree, example, tolerance: float, kwargs) -> None:
    if not isinstance(example, Example) or not isinstance(example.inputs, list | tuple):
        inner = isinstance(example, Example)
        found = type(example.inputs if inner else example).__name__
        raise ValueError(
            f"example{'.inputs' * inner}: found {found}, expected "
            "Example([inputs], output)"
        )
    difference = _difference(model, tree, example, kwargs)
    if difference <= tolerance:
        return
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    hint = ""
    for index, (path, leaf) in enumerate(paths):
        is_square = leaf.ndim >= 2 and leaf.shape[-1] == leaf.shape[-2]
        if not is_square:
            continue
        leaves = [leaf for _, leaf in paths]
        leaves[index] = jnp.swapaxes(leaf, -1, -2)
        turned = jax.tree.unflatten(structure, leaves)
        if _difference(model, turned, example, kwargs) <= tolerance:
            name = "/".join(path_names(path))
            hint = f"; with {name} transposed it would be equal"
    raise ValueError(
        f"example: found an output that differs by {difference:.1e} of the largest, "
        f"expected at most {tolerance:.1e}{hint}"
    )
