"""Networks by name: cases, small networks, and architectures drawn at random."""

import numpy as np

from modmeta.metanet.input_networks.architectures import (
    SIREN,
    ConvNet,
    DeepSets,
    GridField,
    ResNet,
    VisionTransformer,
)
from modmeta.networks import MLP
from tests.metanet import network_cases, small_networks


def get(name):
    """Model, random variables and inputs of `kind/name`."""
    kind, name = name.split("/", 1)
    if kind == "case":
        model, variables, inputs = network_cases.make(name)
        return model, variables, (inputs,)
    if kind == "network":
        model, inputs, _ = small_networks.NETWORKS[name]
    else:
        model, inputs = draw(int(name))
    variables = small_networks.random_variables(model, *inputs, seed=5)
    return model, variables, inputs


def draw(seed):
    """An architecture of one of eight kinds, with random sizes and options."""
    rng = np.random.default_rng([7, seed])

    def size(low, high):
        return int(rng.integers(low, high + 1))

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    image = small_networks.normal(2, 4, 4, size(1, 3))
    sequence = small_networks.normal(2, size(3, 6), size(1, 3))
    sizes = tuple(size(2, 6) for _ in range(size(1, 3)))
    activation = pick("relu", "gelu", "tanh", "silu")
    convolution = {
        "channels": 2 * size(1, 3),
        "num_conv_layers": size(1, 2),
        "num_dense_layers": size(1, 2),
        "normalization": pick("none", "batch", "group", "layer", "instance"),
        "activation": activation,
        "use_patches": bool(size(0, 1)),
    }
    heads = size(1, 3)
    makers = (
        lambda: (MLP((*sizes, 2), activation), sequence),
        lambda: (SIREN(sizes, 2), sequence),
        lambda: (ConvNet(2, (size(1, 3), size(1, 3)), **convolution), image),
        lambda: (ConvNet(2, (size(1, 4),), **convolution), sequence),
        lambda: (
            DeepSets(
                2, 2 * size(1, 3), size(1, 2), positions=pick("none", "sinusoidal")
            ),
            image,
        ),
        lambda: (
            ResNet(2, size(2, 4), (size(2, 4), size(2, 4)), (1, size(1, 2))),
            image,
        ),
        lambda: (
            VisionTransformer(
                2,
                2 * heads,
                num_heads=heads,
                num_blocks=size(1, 2),
                expansion=size(1, 2),
                positions=pick("learned", "sinusoidal"),
                use_class_token=bool(size(0, 1)),
            ),
            image,
        ),
        lambda: (GridField(size(2, 4), size(2, 3), sizes), sequence[..., :1]),
    )
    model, inputs = makers[seed % len(makers)]()
    return model, (inputs,)
