"""PyTorch weights against networks of PyTorch's layouts, written out in NumPy."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

from modmeta import metanet
from modmeta.metanet import Example, from_state_dict


class Tensor:
    """What a tensor of PyTorch offers, with a trap for direct conversion."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return Tensor(self.array)

    def cpu(self):
        return self

    def numpy(self):
        return self.array


def linear(state, name, x):
    """`torch.nn.functional.linear`: weights `[O, I]`."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    outputs = np.zeros((len(x), len(weight)))
    for row, unit in np.ndindex(outputs.shape):
        outputs[row, unit] = (weight[unit] * x[row]).sum() + bias[unit]
    return outputs


def convolution(state, name, x):
    """`torch.nn.functional.conv2d` without padding: images `[B, C, H, W]`."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    outputs, inputs, height, width = weight.shape
    high, wide = x.shape[2] - height + 1, x.shape[3] - width + 1
    result = np.zeros((len(x), outputs, high, wide))
    for image, channel, row, column in np.ndindex(result.shape):
        patch = x[image, :, row : row + height, column : column + width]
        result[image, channel, row, column] = (patch * weight[channel]).sum()
    del inputs
    return result + bias[None, :, None, None]


def batch_norm(state, name, x):
    mean, var, gain, shift = (
        state[f"{name}.{key}"][None, :, None, None]
        for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * gain + shift


def draw(rng, **shapes):
    state = {}
    for name, shape in shapes.items():
        is_positive = name.endswith("running_var")
        values = rng.uniform(0.5, 1.5, shape) if is_positive else rng.normal(size=shape)
        state[name.replace("__", ".")] = values.astype(np.float32)
    return state


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, (2, 2), padding="VALID", name="conv")(x)
        x = nn.relu(nn.BatchNorm(True, epsilon=1e-5, name="norm")(x))
        x = nn.relu(nn.Dense(5, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(2, name="last")(x)


NAMES = {"conv": "features.0", "norm": "features.1", "hidden": "fc1", "last": "fc2"}


@pytest.fixture(scope="module")
def classifier():
    """A state, images with channels last, and the logits that NumPy gives."""
    rng = np.random.default_rng(0)
    state = draw(
        rng,
        features__0__weight=(3, 2, 2, 2),
        features__0__bias=(3,),
        features__1__weight=(3,),
        features__1__bias=(3,),
        features__1__running_mean=(3,),
        features__1__running_var=(3,),
        fc1__weight=(5, 3 * 3 * 4),
        fc1__bias=(5,),
        fc2__weight=(2, 5),
        fc2__bias=(2,),
    )
    images = rng.normal(size=(2, 2, 4, 5)).astype(np.float32)
    hidden = batch_norm(state, "features.1", convolution(state, "features.0", images))
    hidden = np.maximum(hidden, 0).reshape(2, -1)
    logits = linear(state, "fc2", np.maximum(linear(state, "fc1", hidden), 0))
    state["features.1.num_batches_tracked"] = np.array(7)
    return state, images.transpose(0, 2, 3, 1), logits


def test_a_convolutional_network(classifier):
    state, images, logits = classifier
    shapes = jax.eval_shape(Classifier().init, jax.random.key(0), images)
    variables = from_state_dict(
        Classifier(),
        shapes,
        {name: Tensor(value) for name, value in state.items()},
        NAMES,
        example=Example([images], logits),
        flattened={"hidden": (3, 3, 4)},
    )
    found = Classifier().apply(variables, images)
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-5)
    graph = metanet.parameter_graph(Classifier(), variables, images)
    assert graph.topology.num_parameters == sum(
        value.size for value in state.values() if value.ndim
    )


def test_wrong_orders_are_refused(classifier):
    state, images, logits = classifier
    shapes = jax.eval_shape(Classifier().init, jax.random.key(0), images)
    example = Example([images], logits)

    def load(state=state, names=NAMES, **settings):
        settings = {"example": example, "flattened": {"hidden": (3, 3, 4)}} | settings
        return from_state_dict(Classifier(), shapes, state, names, **settings)

    for settings, message in (
        ({"flattened": None}, "example: found an output that differs by"),
        ({"flattened": {"hidden": (4, 3, 3)}}, "example: found an output that differs"),
        ({"flattened": {"hidden": (3, 4, 4)}}, "flattened: found .* product of 36"),
        ({"names": {**NAMES, "last": "fc3"}}, "state: found no fc3.bias"),
        ({"names": {"conv": "features.0"}}, "names: found no name for"),
        ({"names": {**NAMES, "more": "fc3"}}, "names: found more, expected modules"),
        ({"state": {**state, "fc3.bias": logits}}, "found fc3.bias left over"),
        ({"state": list(state)}, "state: found list, expected arrays by name"),
        ({"state": {**state, "fc2.bias": np.full(2, np.nan)}}, "last/bias: found NaN"),
        ({"state": {**state, "fc2.bias": np.full(2, 1e300)}}, "values beyond float32"),
        ({"state": {**state, "fc2.bias": np.ones(2, int)}}, "bias: found type int64"),
        ({"example": Example(images, logits)}, "example.inputs: found ndarray"),
        ({"example": ([images], logits)}, "example: found tuple, expected Example"),
        (
            {"state": {**state, "fc2.weight": state["fc2.weight"].T}},
            "last/kernel: found shape",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            load(**settings)


def test_modules_of_nnx_and_double_precision():
    rng = np.random.default_rng(3)
    state = draw(rng, net__weight=(2, 4), net__bias=(2,))
    state = {name: value.astype(np.float64) for name, value in state.items()}
    x = rng.normal(size=(3, 4)).astype(np.float32)
    example = Example([x], linear(state, "net", x))
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    found = from_state_dict(
        model, nnx.state(model), state, {"": "net"}, example=example
    )
    nnx.update(model, found)
    np.testing.assert_allclose(model(x), example.output, rtol=1e-5, atol=1e-5)
    double = {"kernel": np.zeros((4, 2)), "bias": np.zeros(2)}
    for tree in (double, {"params": double}):  # parameters alone, and as a collection
        found = from_state_dict(nn.Dense(2), tree, state, {"": "net"}, example=example)
        leaves = found.get("params", found)
        np.testing.assert_array_equal(leaves["kernel"], state["net.weight"].T)
        assert leaves["kernel"].dtype == np.float64


def test_a_square_kernel_that_was_transposed_before_is_found():
    rng = np.random.default_rng(1)
    state = draw(rng, net__weight=(4, 4), net__bias=(4,))
    x = rng.normal(size=(3, 4)).astype(np.float32)
    model = nn.Sequential([nn.Dense(4)])
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    example = Example([x], linear(state, "net", x))
    names = {"layers_0": "net"}
    from_state_dict(model, shapes, state, names, example=example)
    wrong = {**state, "net.weight": state["net.weight"].T}
    with pytest.raises(ValueError, match="with params/layers_0/kernel transposed"):
        from_state_dict(model, shapes, wrong, names, example=example)
    # Without an example nothing tells.
    from_state_dict(model, shapes, wrong, names, example=None)


def test_heads_and_conversions():
    """A dense layer with two axes of outputs, and a leaf with a rule of its own."""
    rng = np.random.default_rng(2)
    state = draw(rng, q__weight=(6, 4), q__bias=(6,), table=(5, 6))
    x = rng.normal(size=(3, 4)).astype(np.float32)

    class Headed(nn.Module):
        @nn.compact
        def __call__(self, x):
            table = self.param("table", nn.initializers.zeros, (6, 5))
            heads = nn.DenseGeneral((2, 3), name="query")(x)
            return heads.reshape(len(x), 6) @ table

    shapes = jax.eval_shape(Headed().init, jax.random.key(0), x)
    expected = linear(state, "q", x) @ state["table"].T
    from_state_dict(
        Headed(),
        shapes,
        state,
        {"query": "q", "": ""},
        example=Example([x], expected),
        convert={"table": np.transpose, "query/bias": lambda bias: bias.reshape(2, 3)},
    )


def test_tensors_without_conversion_are_refused_by_name():
    state = {"params": {"kernel": Tensor(np.ones((2, 2), np.float32))}}
    with pytest.raises(metanet.UnsupportedLayerError, match="params/kernel: found a"):
        metanet.parameter_graph(nn.Dense(2), state, np.ones((1, 2), np.float32))


def test_packed_layers_are_taken_apart():
    rng = np.random.default_rng(5)
    state = draw(rng, qkv__weight=(12, 4), qkv__bias=(12,), out__weight=(4, 4))
    state["out.bias"] = np.zeros(4, np.float32)
    model = nn.MultiHeadDotProductAttention(2)
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    names = {name: name for name in ("query", "key", "value", "out")}
    parts = ["query.", "key.", "value."]
    found = from_state_dict(
        model, shapes, state, names, example=None, packed={"qkv.": parts}
    )["params"]
    for index, name in enumerate(names):
        rows = slice(4 * index, 4 * index + 4)
        weight = state["qkv.weight"][rows] if index < 3 else state["out.weight"]
        kernel = np.asarray(found[name]["kernel"]).reshape(4, 4)
        np.testing.assert_array_equal(kernel, weight.T)
        if index < 3:
            bias = np.ravel(found[name]["bias"])
            np.testing.assert_array_equal(bias, state["qkv.bias"][rows])
    for packed, message in (
        ({"in_proj_": parts}, "packed: found no name that begins with in_proj_"),
        ({"qkv.": [*parts, "a.", "b."]}, r"packed: found shape \(12, 4\) of qkv"),
    ):
        with pytest.raises(ValueError, match=message):
            from_state_dict(model, shapes, state, names, example=None, packed=packed)
