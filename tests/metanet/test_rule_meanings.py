"""What nodes and edges of layers mean: graphs read as programs compute the layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.metanet import UnsupportedLayerError, trace
from modmeta.metanet.input_networks import layers
from modmeta.metanet.parameter_graphs.vocabulary import (
    ATTRIBUTES,
    EDGE_TYPES,
    NODE_TYPES,
)
from tests.metanet.small_networks import (
    IMAGES,
    SEQUENCES,
    TOKENS,
    assert_same,
    nodes_of,
    normal,
    random_variables,
)


class Instructions:
    """A topology read as a program: the value of a node for one example, `[T, ...]`.

    An independent account of what node and edge types mean.
    """

    def __init__(self, topology, variables, inputs):
        self.topology, self.inputs = topology, inputs
        self.values = np.asarray(topology.edge_values(variables), np.float64)
        self.known = {}

    def edges(self, node):
        """Type, position, value and sender of the edges that end at a node."""
        for edge in np.nonzero(self.topology.receivers == node)[0]:
            yield (
                EDGE_TYPES.name(self.topology.edge_types[edge]),
                self.topology.edge_positions[edge],
                self.values[edge],
                self.topology.senders[edge],
            )

    def attribute(self, node, name):
        return self.topology.node_attributes[node, ATTRIBUTES.id(name)]

    def output(self, node):
        if node not in self.known:
            kind = NODE_TYPES.name(self.topology.node_types[node])
            self.known[node] = getattr(self, kind, self.weighted_sum)(node)
        return self.known[node]

    def weighted_sum(self, node):
        return sum(
            value * self.output(sender) for _, _, value, sender in self.edges(node)
        )

    def input(self, node):
        argument = self.inputs[int(self.attribute(node, "argument"))]
        if argument.ndim == 1:
            return argument
        first = sum(
            array.shape[-1]
            for array in self.inputs[: int(self.attribute(node, "argument"))]
        )
        return argument[:, self.topology.node_orders[node] - first]

    def bias(self, node):
        return 1.0

    def vocabulary(self, node):
        ((_, _, _, sender),) = self.edges(node)
        return (self.output(sender) == self.topology.node_orders[node]).astype(float)

    def attention_product(self, node):
        by_kind = {}
        for _, _, _, sender in self.edges(node):
            by_kind[NODE_TYPES.name(self.topology.node_types[sender])] = sender
        query, key = self.output(by_kind["query"]), self.output(by_kind["key"])
        return query[:, None] * key[None, :]

    def head(self, node):
        logits = self.weighted_sum(node) * self.attribute(node, "factor")
        if self.attribute(node, "is_causal"):
            logits = np.where(np.tri(*logits.shape), logits, -np.inf)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def attended(self, node):
        by_kind = {}
        for _, _, _, sender in self.edges(node):
            by_kind[NODE_TYPES.name(self.topology.node_types[sender])] = sender
        return self.output(by_kind["head"]) @ self.output(by_kind["value"])

    def set(self, node):
        total = 0.0
        for kind, _, value, sender in self.edges(node):
            sent = self.output(sender)
            total = total + value * (np.mean(sent) if kind == "set_mean" else sent)
        return total

    def cyclic(self, node):
        total = 0.0
        for kind, position, value, sender in self.edges(node):
            sent = self.output(sender)
            if kind == "cyclic":
                sent = np.roll(sent, -int(position[0]))
            total = total + value * sent
        return total

    def grid_point(self, node):
        weight = 1.0
        points = self.attribute(node, "size")
        for _, position, _, sender in self.edges(node):
            axis = self.topology.node_orders[sender]
            distance = np.abs(self.output(sender) - position[axis]) * (points - 1) / 2
            weight = weight * np.maximum(0.0, 1.0 - distance)
        return weight


class CausalAttention(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        mask = nn.make_causal_mask(inputs[..., 0])
        attention = nn.MultiHeadDotProductAttention(3, qkv_features=6, out_features=2)
        return attention(inputs, mask=mask)


SINGLE_LAYERS = {
    "attention": (
        nn.MultiHeadDotProductAttention(2, qkv_features=6, out_features=4),
        (SEQUENCES,),
    ),
    "attention without biases": (
        nn.MultiHeadDotProductAttention(1, qkv_features=3, use_bias=False),
        (SEQUENCES,),
    ),
    "crossed attention": (
        nn.MultiHeadDotProductAttention(2, qkv_features=4),
        (SEQUENCES, normal(2, 5, 2), normal(2, 5, 3, seed=4)),
    ),
    "causal attention": (CausalAttention(), (SEQUENCES,)),
    "embedding": (nn.Embed(5, 3), (TOKENS,)),
    "set": (layers.DeepSetsDense(4), (SEQUENCES,)),
    "cyclic": (layers.CyclicDense(4), (SEQUENCES,)),
    "line": (layers.SpatialGrid(4, 3, 1), (np.tanh(SEQUENCES[..., :1]),)),
    "square": (layers.SpatialGrid(3, 2, 2), (np.tanh(SEQUENCES[..., :2]),)),
    "cube": (layers.TriplanarGrid(3, 2), (np.tanh(SEQUENCES),)),
}


@pytest.mark.parametrize("name", SINGLE_LAYERS)
def test_graph_read_as_instructions_computes_the_layer(name):
    model, inputs = SINGLE_LAYERS[name]
    variables = random_variables(model, *inputs)
    topology = trace(model, variables, *inputs)
    expected = jax.jit(model.apply)(variables, *inputs)
    for example in range(2):
        program = Instructions(
            topology, variables, [array[example] for array in inputs]
        )
        found = [program.output(node) for node in topology.outputs]
        assert_same(np.stack(found, axis=-1), expected[example])


def test_deprecated_self_attention_is_attention():
    with pytest.warns(DeprecationWarning):
        model = nn.SelfAttention(2, qkv_features=6, out_features=4)
        variables = random_variables(model, SEQUENCES)
        found = trace(model, variables, SEQUENCES)
    expected = trace(SINGLE_LAYERS["attention"][0], variables, SEQUENCES)
    for field in (
        "senders",
        "receivers",
        "node_types",
        "edge_types",
        "edge_parameters",
    ):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))


class AlongFirst(nn.Module):
    """A layer along the second axis of an image in place of the third."""

    layer: nn.Module

    @nn.compact
    def __call__(self, inputs):
        return jnp.swapaxes(self.layer(jnp.swapaxes(inputs, 1, 2)), 1, 2)


class Along(AlongFirst):
    @nn.compact
    def __call__(self, inputs):
        return self.layer(inputs)


@pytest.mark.parametrize(
    "layer",
    [
        layers.DeepSetsDense(3),
        layers.CyclicDense(3),
        nn.MultiHeadDotProductAttention(1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_axis_of_a_layer_is_seen(layer):
    variables = random_variables(Along(layer), IMAGES)
    first, second = (
        trace(model(layer), variables, IMAGES) for model in (AlongFirst, Along)
    )
    assert first.num_nodes == second.num_nodes
    assert np.any(first.node_attributes != second.node_attributes)


class TurnedKeys(nn.Module):
    """Queries of an image, keys of the same image on its side, values upright."""

    turns_keys: bool

    @nn.compact
    def __call__(self, inputs):
        keys = jnp.swapaxes(inputs, 1, 2) if self.turns_keys else inputs
        attention = nn.MultiHeadDotProductAttention(1, name="attention")
        return attention(inputs, keys, inputs)


def test_axes_of_queries_and_keys_are_seen():
    variables = random_variables(TurnedKeys(True), IMAGES)
    outputs, attributes = zip(
        *(
            (
                TurnedKeys(turns).apply(variables, IMAGES),
                trace(TurnedKeys(turns), variables, IMAGES).node_attributes,
            )
            for turns in (True, False)
        ),
        strict=True,
    )
    assert np.max(np.abs(outputs[0] - outputs[1])) > 1e-3
    assert np.any(attributes[0] != attributes[1])


class Masked(nn.Module):
    mask: tuple

    @nn.compact
    def __call__(self, inputs):
        attention = nn.MultiHeadDotProductAttention(2, qkv_features=4, name="attention")
        return attention(inputs, mask=jnp.array(self.mask))


def test_masks_are_told_apart():
    masks = [np.ones((4, 4)), np.tri(4), np.tri(4).T, np.eye(4)]
    heads = []
    for mask in masks:
        model = Masked(tuple(map(tuple, mask)))
        topology = trace(model, random_variables(model, SEQUENCES), SEQUENCES)
        rows = topology.node_attributes[nodes_of(topology, "head")]
        heads.append(tuple(rows[0]))
    assert len(set(heads)) == len(masks)


def test_sets_of_examples_are_refused():
    model = layers.DeepSetsDense(2)
    variables = model.init(jax.random.key(0), SEQUENCES[0])
    with pytest.raises(UnsupportedLayerError, match="mixes the examples"):
        trace(model, variables, SEQUENCES[0])
