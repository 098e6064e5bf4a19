"""Networks of PyTorch itself: their weights, in Flax, give their outputs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.metanet import Example, from_state_dict
from modmeta.metanet.zoo.weights import read_weights

torch = pytest.importorskip("torch")
tn = torch.nn


class Sine(tn.Module):
    def forward(self, x):
        return torch.sin(30.0 * x)


class Residual(tn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = tn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.bn1, self.bn2 = tn.BatchNorm2d(4), tn.BatchNorm2d(4)
        self.conv2 = tn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.downsample = tn.Conv2d(3, 4, 1, stride=2)
        self.fc = tn.Linear(4, 2)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.relu(y + self.downsample(x)).mean((2, 3)))


class Transformer(tn.Module):
    def __init__(self):
        super().__init__()
        self.patch = tn.Conv2d(3, 6, 2, stride=2)
        self.cls = tn.Parameter(torch.randn(1, 1, 6))
        self.pos = tn.Parameter(torch.randn(1, 5, 6))
        self.block = tn.TransformerEncoderLayer(
            6, 2, 8, activation="gelu", batch_first=True, norm_first=True, dropout=0.0
        )
        self.head = tn.Linear(6, 2)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        return self.head(self.block(x)[:, 0])


class FlaxMlp(nn.Module):
    scale: float = 0.0

    @nn.compact
    def __call__(self, x):
        for name in ("first", "second"):
            x = nn.Dense(5, name=name)(x)
            x = jnp.sin(self.scale * x) if self.scale else nn.relu(x)
        return nn.Dense(2, name="last")(x)


class FlaxCnn(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3), padding=1, name="conv")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(2, name="last")(x.reshape(len(x), -1))


class FlaxResidual(nn.Module):
    @nn.compact
    def __call__(self, x):
        def norm(name):
            return nn.BatchNorm(True, epsilon=1e-5, name=name)

        def conv(name, size, stride=1, **settings):
            settings = {"padding": size // 2, "use_bias": False, **settings}
            return nn.Conv(4, (size, size), (stride, stride), name=name, **settings)

        y = nn.relu(norm("bn1")(conv("conv1", 3, 2)(x)))
        y = norm("bn2")(conv("conv2", 3)(y))
        x = nn.relu(y + conv("downsample", 1, 2, use_bias=True)(x))
        return nn.Dense(2, name="fc")(x.mean((1, 2)))


class FlaxTransformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (2, 2), (2, 2), padding="VALID", name="patch")(x)
        x = x.reshape(len(x), -1, 6)
        token = self.param("cls", nn.initializers.zeros, (1, 1, 6))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, 6)), x], axis=1)
        x = x + self.param("pos", nn.initializers.zeros, (1, 5, 6))
        y = nn.LayerNorm(epsilon=1e-5, name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(y)
        y = nn.LayerNorm(epsilon=1e-5, name="norm2")(x)
        y = nn.gelu(nn.Dense(8, name="linear1")(y), approximate=False)
        x = x + nn.Dense(6, name="linear2")(y)
        return nn.Dense(2, name="head")(x[:, 0])


def same(*names):
    return {name: name for name in names}


def mlp(function):
    return tn.Sequential(
        tn.Linear(3, 5), function, tn.Linear(5, 5), function, tn.Linear(5, 2)
    )


MLP_NAMES = {"first": "0", "second": "2", "last": "4"}
NETWORKS = {
    "mlp": (lambda: mlp(tn.ReLU()), FlaxMlp(), MLP_NAMES, {}),
    "siren": (lambda: mlp(Sine()), FlaxMlp(30.0), MLP_NAMES, {}),
    "cnn": (
        lambda: tn.Sequential(
            tn.Conv2d(3, 3, 3, padding=1),
            tn.ReLU(),
            tn.MaxPool2d(2),
            tn.Flatten(),
            tn.Linear(12, 2),
        ),
        FlaxCnn(),
        {"conv": "0", "last": "4"},
        {"flattened": {"last": (3, 2, 2)}},
    ),
    "resnet": (
        Residual,
        FlaxResidual(),
        same("conv1", "bn1", "conv2", "bn2", "downsample", "fc"),
        {},
    ),
    "vit": (
        Transformer,
        FlaxTransformer(),
        {
            "": "",
            **same("patch", "head"),
            **{n: f"block.{n}" for n in ("norm1", "norm2", "linear1", "linear2")},
            **{
                f"attention/{name}": f"block.self_attn.{name}"
                for name in ("query", "key", "value")
            },
            "attention/out": "block.self_attn.out_proj",
        },
        {
            "packed": {
                "block.self_attn.in_proj_": [
                    f"block.self_attn.{name}." for name in ("query", "key", "value")
                ]
            }
        },
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_pytorch(name, tmp_path):
    make, model, names, settings = NETWORKS[name]
    torch.manual_seed(0)
    network = make()
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5) if "var" in key else value.normal_(0, 0.4)
    shape = (2, 3) if name in ("mlp", "siren") else (2, 3, 4, 4)
    inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(inputs))
    inputs = np.moveaxis(inputs, 1, -1) if len(shape) == 4 else inputs
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    example = Example([inputs], expected)
    # From a file, as it is found in a folder.
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    for state in (network.state_dict(), read_weights(tmp_path / "weights.pt")):
        found = from_state_dict(
            model, shapes, state, names, example=example, tolerance=1e-5, **settings
        )
        outputs = model.apply(found, inputs)
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    # A kernel that somebody transposed before.
    state = dict(network.state_dict())
    square = next(
        key
        for key, value in state.items()
        if value.ndim > 1 and value.shape[0] == value.shape[1] and value.shape[0] > 1
    )
    state[square] = state[square].swapaxes(0, 1)
    with pytest.raises(ValueError, match="example: found an output that differs"):
        from_state_dict(model, shapes, state, names, example=example, **settings)
