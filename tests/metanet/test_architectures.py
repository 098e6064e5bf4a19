"""Families of input networks against forward passes written in NumPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.metanet.input_networks import architectures, layers, sines
from modmeta.metanet.input_networks.architectures import (
    SIREN,
    ConvNet,
    DeepSets,
    GridField,
    ResNet,
    VisionTransformer,
    sinusoidal_positions,
)
from tests.metanet.small_networks import normal, random_variables

IMAGES = normal(2, 6, 4, 3)


@functools.partial(jax.jit, static_argnums=0)
def apply(model, variables, inputs):
    return model.apply(variables, inputs)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def relu(values):
    return np.maximum(values, 0.0)


def dense(params, inputs):
    return inputs @ params["kernel"] + params["bias"]


def convolve(params, inputs, stride=1, padding="SAME"):
    """A convolution of images, one output location at a time."""
    kernel = params["kernel"]
    sizes = kernel.shape[:2]
    if padding == "SAME":
        outputs = [-(-extent // stride) for extent in inputs.shape[1:3]]
        missing = [
            max((n - 1) * stride + size - extent, 0)
            for n, size, extent in zip(outputs, sizes, inputs.shape[1:3], strict=True)
        ]
        pads = [(m // 2, m - m // 2) for m in missing]
        inputs = np.pad(inputs, ((0, 0), *pads, (0, 0)))
    height = (inputs.shape[1] - sizes[0]) // stride + 1
    width = (inputs.shape[2] - sizes[1]) // stride + 1
    values = np.zeros((len(inputs), height, width, kernel.shape[-1]))
    for row, column in np.ndindex(height, width):
        top, left = row * stride, column * stride
        window = inputs[:, top : top + sizes[0], left : left + sizes[1]]
        values[:, row, column] = np.tensordot(window, kernel, 3)
    return values + params.get("bias", 0.0)


def batch_norm(variables, name, inputs):
    params, stats = variables["params"][name], variables["batch_stats"][name]
    normed = (inputs - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    return normed * params["scale"] + params["bias"]


def layer_norm(params, inputs):
    mean, var = inputs.mean(-1, keepdims=True), inputs.var(-1, keepdims=True)
    return (inputs - mean) / np.sqrt(var + 1e-6) * params["scale"] + params["bias"]


def test_siren_is_sines_of_scaled_layers():
    model = SIREN((5, 4), 2, first_omega=3.0, hidden_omega=2.0, output_offset=0.5)
    inputs = IMAGES[0, :, :, :2]
    variables = random_variables(model, inputs)
    params = variables["params"]
    hidden = np.sin(3.0 * dense(params["layer_0"], inputs))
    hidden = np.sin(2.0 * dense(params["layer_1"], hidden))
    expected = dense(params["layer_2"], hidden) + 0.5
    assert_close(apply(model, variables, inputs), expected)


def test_polynomial_sine():
    """Against double precision, in the range that networks see and far beyond."""
    rng = np.random.default_rng(0)
    for reach in (2.0, 100.0, 3000.0):
        angles = rng.uniform(-reach, reach, 20_000).astype(np.float32)
        exact = angles.astype(np.float64)
        found = jax.jit(sines.polynomial_sine)(angles)
        slope = jax.jit(jax.vmap(jax.grad(sines.polynomial_sine)))(angles)
        np.testing.assert_allclose(found, np.sin(exact), atol=3e-7)
        np.testing.assert_allclose(slope, np.cos(exact), atol=3e-7)


def test_siren_of_polynomials_is_the_same_function():
    plain = SIREN((5, 4), 2)
    fast = SIREN((5, 4), 2, use_polynomial=True)
    inputs = normal(7, 3)
    variables = random_variables(plain, inputs)
    np.testing.assert_allclose(
        fast.apply(variables, inputs), plain.apply(variables, inputs), atol=1e-5
    )


def test_siren_initialisation_is_uniform_in_the_published_ranges():
    """The largest of n uniform draws is below 0.98 of the range with 0.98^n."""
    model = SIREN((300, 300), 300, first_omega=30.0, hidden_omega=20.0)
    params = model.init(jax.random.key(0), np.zeros((1, 3)))["params"]
    inner = np.sqrt(6 / 300) / 20
    for name, reach in [("layer_0", 1 / 3), ("layer_1", inner), ("layer_2", inner)]:
        largest = np.max(np.abs(params[name]["kernel"]))
        assert 0.98 * reach < largest <= reach
        bias_reach = 1 / np.sqrt(3 if name == "layer_0" else 300)
        assert 0.9 * bias_reach < np.max(np.abs(params[name]["bias"])) <= bias_reach


def test_siren_options_give_zero_biases_and_a_narrow_first_layer():
    model = SIREN((300,), zero_biases=True, wide_first_layer=False)
    params = model.init(jax.random.key(0), np.zeros((1, 2)))["params"]
    reach = np.sqrt(6 / 2) / 30
    assert 0.98 * reach < np.max(np.abs(params["layer_0"]["kernel"])) <= reach
    for layer in params.values():
        assert not np.any(layer["bias"])


@pytest.mark.parametrize("num_dims", [1, 2, 3])
def test_grid_field_is_a_grid_below_a_perceptron(num_dims):
    model = GridField(3, 2, (4,), 2)
    inputs = np.tanh(normal(7, num_dims))
    variables = random_variables(model, inputs)
    params = variables["params"]
    grid = layers.TriplanarGrid(3, 2)
    if num_dims < 3:
        grid = layers.SpatialGrid(3, 2, num_dims)
    features = np.asarray(grid.apply({"params": params["grid"]}, inputs))
    hidden = relu(dense(params["mlp"]["layer_0"], features))
    expected = dense(params["mlp"]["layer_1"], hidden)
    assert_close(apply(model, variables, inputs), expected)


@pytest.mark.parametrize("use_patches", [True, False])
def test_conv_net_of_images(use_patches):
    model = ConvNet(
        5,
        channels=4,
        num_conv_layers=2,
        num_dense_layers=2,
        normalization="batch",
        use_patches=use_patches,
    )
    variables = random_variables(model, IMAGES)
    params = variables["params"]
    hidden = IMAGES
    for index in range(2):
        hidden = convolve(params[f"conv_{index}"], hidden)
        hidden = relu(batch_norm(variables, f"norm_{index}", hidden))
    hidden = relu(dense(params["dense_0"], hidden.mean((1, 2))))
    expected = dense(params["dense_1"], hidden)
    assert_close(apply(model, variables, IMAGES), expected)


def test_conv_net_of_lines_reads_images_row_by_row():
    model = ConvNet(5, kernel_size=(3,), channels=4, normalization="layer")
    line = IMAGES.reshape(2, 24, 3)
    variables = random_variables(model, line)
    params = variables["params"]
    hidden = line
    for index in range(2):
        padded = np.pad(hidden, ((0, 0), (1, 1), (0, 0)))
        windows = np.stack([padded[:, i : i + 3] for i in range(24)], axis=1)
        conv = params[f"conv_{index}"]
        hidden = np.einsum("btki,kio->bto", windows, conv["kernel"]) + conv["bias"]
        hidden = relu(layer_norm(params[f"norm_{index}"], hidden))
    expected = dense(params["dense_0"], hidden.mean(1))
    assert_close(apply(model, variables, line), expected)
    assert_close(apply(model, variables, IMAGES), expected)


@pytest.mark.parametrize("normalization", ["group", "instance"])
def test_conv_net_of_volumes_normalises_over_space(normalization):
    """With groups as many as channels, group and instance norm are the same."""
    volumes = normal(2, 4, 3, 2, 1)
    options = {"kernel_size": (3, 3, 3), "channels": 4, "num_conv_layers": 1}
    model = ConvNet(5, normalization=normalization, num_groups=4, **options)
    variables = random_variables(model, volumes)
    params = variables["params"]
    padded = np.pad(volumes, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    hidden = np.zeros((2, 4, 3, 2, 4)) + params["conv_0"]["bias"]
    for x, y, z in np.ndindex(4, 3, 2):
        window = padded[:, x : x + 3, y : y + 3, z : z + 3]
        hidden[:, x, y, z] += np.tensordot(window, params["conv_0"]["kernel"], 4)
    mean, var = hidden.mean((1, 2, 3)), hidden.var((1, 2, 3))
    expand = (slice(None), None, None, None)
    hidden = (hidden - mean[expand]) / np.sqrt(var[expand] + 1e-6)
    norm = params["norm_0"]
    hidden = relu(hidden * norm["scale"] + norm["bias"])
    expected = dense(params["dense_0"], hidden.mean((1, 2, 3)))
    assert_close(apply(model, variables, volumes), expected)


def test_dropout_leaves_out_whole_channels_at_a_traced_rate():
    """A head that copies the means of the channels shows them: zero, or doubled."""
    model = ConvNet(64, channels=64, num_conv_layers=1)
    variables = random_variables(model, IMAGES)
    head = {"kernel": np.eye(64, dtype=np.float32), "bias": np.zeros(64, np.float32)}
    variables["params"]["dense_0"] = head

    @jax.jit
    def means(rate):
        dropped = dataclasses.replace(model, dropout_rate=rate)
        rngs = {"dropout": jax.random.key(1)}
        return dropped.apply(variables, IMAGES, train=True, rngs=rngs)

    whole = np.asarray(apply(model, variables, IMAGES))
    assert_close(means(0.0), whole)
    is_alive = whole > 1e-3
    ratio = np.asarray(means(0.5))[is_alive] / whole[is_alive]
    is_zero, is_double = np.isclose(ratio, 0.0), np.isclose(ratio, 2.0, rtol=1e-4)
    assert np.all(is_zero | is_double)
    # The key is fixed; 100 fair coins or more are out of these bounds with 1e-4.
    assert is_alive.sum() >= 100
    assert 0.3 < np.mean(is_zero) < 0.7


def test_deep_sets():
    model = DeepSets(5, features=4, num_set_layers=2, normalization="layer")
    variables = random_variables(model, IMAGES)
    params = variables["params"]
    hidden = relu(dense(params["stem"], IMAGES.reshape(2, 24, 3)))
    hidden = hidden + sinusoidal_positions(24, 4)
    for index in range(2):
        layer = params[f"set_{index}"]
        mean = hidden.mean(1, keepdims=True)
        hidden = hidden @ layer["pointwise"] + mean @ layer["mean"] + layer["bias"]
        hidden = relu(layer_norm(params[f"norm_{index}"], hidden))
    expected = dense(params["dense_0"], hidden.mean(1))
    assert_close(apply(model, variables, IMAGES), expected)


def test_deep_sets_without_positions_ignores_the_order():
    model = DeepSets(5, features=4, positions="none")
    inputs = IMAGES.reshape(2, 24, 3)
    variables = random_variables(model, inputs)
    order = np.random.default_rng(0).permutation(24)
    outputs = apply(model, variables, inputs)
    assert_close(apply(model, variables, inputs[:, order]), outputs)
    with_positions = dataclasses.replace(model, positions="sinusoidal")
    ordered = apply(with_positions, variables, inputs)
    reordered = apply(with_positions, variables, inputs[:, order])
    assert np.max(np.abs(reordered - ordered)) > 1e-2


def test_positions_follow_the_published_formula():
    table = sinusoidal_positions(7, 6)
    for position, pair in np.ndindex(7, 3):
        angle = position / 10000 ** (2 * pair / 6)
        assert_close(table[position, 2 * pair], np.sin(angle))
        assert_close(table[position, 2 * pair + 1], np.cos(angle))


@pytest.mark.parametrize("use_patches", [True, False])
def test_res_net(use_patches):
    """The first block has the identity as shortcut, the second one a projection."""
    model = ResNet(5, 4, (4, 6), (1, 2), use_patches)
    variables = random_variables(model, IMAGES)
    params = variables["params"]
    hidden = relu(
        batch_norm(variables, "stem_norm", convolve(params["stem_conv"], IMAGES))
    )
    for index, stride in enumerate((1, 2)):
        block = {kind: leaves[f"block_{index}"] for kind, leaves in variables.items()}

        def step(name, values, stride=1, block=block):
            values = convolve(block["params"][f"{name}_conv"], values, stride)
            return batch_norm(block, f"{name}_norm", values)

        branch = step("second", relu(step("first", hidden, stride)))
        shortcut = step("shortcut", hidden, stride) if index else hidden
        hidden = relu(branch + shortcut)
    assert set(params["block_0"]) == {
        "first_conv",
        "first_norm",
        "second_conv",
        "second_norm",
    }
    expected = dense(params["head"], hidden.mean((1, 2)))
    assert_close(apply(model, variables, IMAGES), expected)


def attend(params, tokens):
    """Multi-head self-attention, one head and one query at a time."""
    query, key, value = (
        np.einsum("bti,ihd->bthd", tokens, params[name]["kernel"])
        + params[name]["bias"]
        for name in ("query", "key", "value")
    )
    outputs = np.zeros_like(value)
    for batch, token, head in np.ndindex(query.shape[:3]):
        scores = key[batch, :, head] @ query[batch, token, head]
        weights = np.exp(scores / np.sqrt(query.shape[-1]))
        outputs[batch, token, head] = weights / weights.sum() @ value[batch, :, head]
    kernel = params["out"]["kernel"]
    return np.einsum("bthd,hdo->bto", outputs, kernel) + params["out"]["bias"]


@pytest.mark.parametrize("use_class_token", [True, False])
@pytest.mark.parametrize("positions", architectures.POSITIONS)
def test_vision_transformer(use_class_token, positions):
    model = VisionTransformer(
        5,
        features=4,
        num_blocks=1,
        expansion=2,
        positions=positions,
        use_class_token=use_class_token,
    )
    variables = random_variables(model, IMAGES)
    params = variables["params"]
    tokens = convolve(params["patches"], IMAGES, 2, "VALID").reshape(2, 6, 4)
    if use_class_token:
        token = np.broadcast_to(params["class_token"], (2, 1, 4))
        tokens = np.concatenate([token, tokens], axis=1)
    if positions == "sinusoidal":
        tokens = tokens + sinusoidal_positions(tokens.shape[1], 4)
    elif positions == "learned":
        tokens = tokens + params["positions"]
    normed = layer_norm(params["block_0_attention_norm"], tokens)
    tokens = tokens + attend(params["block_0_attention"], normed)
    hidden = layer_norm(params["block_0_dense_norm"], tokens)
    hidden = np.asarray(jax.nn.gelu(dense(params["block_0_expand"], hidden)))
    tokens = tokens + dense(params["block_0_contract"], hidden)
    read = tokens[:, 0] if use_class_token else tokens.mean(1)
    assert_close(apply(model, variables, IMAGES), dense(params["head"], read))


TRAINABLE = {
    "ConvNet": ConvNet(channels=4, normalization="batch", dropout_rate=0.2),
    "DeepSets": DeepSets(features=4, normalization="group", dropout_rate=0.2),
    "ResNet": ResNet(stem_channels=4, block_channels=(4,)),
    "VisionTransformer": VisionTransformer(features=4, num_blocks=1, dropout_rate=0.2),
}


@pytest.mark.parametrize("name", TRAINABLE)
def test_training_updates_statistics_and_every_parameter_counts(name):
    model = TRAINABLE[name]
    variables = random_variables(model, IMAGES)
    stats = {key: value for key, value in variables.items() if key != "params"}

    def loss(params):
        outputs, updates = model.apply(
            {"params": params, **stats},
            IMAGES,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return jnp.sum(outputs[:, 0] ** 2), updates

    gradient, updates = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        # A bias below a normalisation, or the same for all keys, has no effect.
        if path[-1].key == "kernel":
            assert np.any(np.asarray(leaf) != 0), jax.tree_util.keystr(path)
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
        before = variables
        for part in path:
            before = before[part.key]
        assert np.all(leaf != before), jax.tree_util.keystr(path)


def test_wrong_options_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="normalization: found 'batchnorm'"):
        ConvNet(normalization="batchnorm").init(key, IMAGES)
    with pytest.raises(ValueError, match="num_dense_layers: found 0"):
        ConvNet(num_dense_layers=0).init(key, IMAGES)
    with pytest.raises(ValueError, match="expected 3 spatial axes"):
        ConvNet(kernel_size=(3, 3, 3)).init(key, IMAGES)
    with pytest.raises(ValueError, match="num_heads: found 3, expected a divisor"):
        VisionTransformer(features=4, num_heads=3).init(key, IMAGES)
    with pytest.raises(ValueError, match="positions: found 'fourier'"):
        VisionTransformer(positions="fourier").init(key, IMAGES)
    with pytest.raises(ValueError, match="block_strides: found 1 strides, expected 2"):
        ResNet(block_strides=(2,)).init(key, IMAGES)
