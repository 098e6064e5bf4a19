"""Families of classifiers: every option is a graph, and every row of a zoo fits it."""

import dataclasses

import jax
import numpy as np
import pytest

from modmeta.metanet import to_graph, trace
from modmeta.metanet import zoo as zoo_lib
from modmeta.metanet.zoo import families
from modmeta.metanet.zoo.families import Architecture
from tests.metanet.small_networks import normal, random_variables

IMAGES = normal(3, 4, 4, 2)
NUM_CLASSES = 3


def covering():
    """Few architectures of every family that show each of its options."""
    chosen = []
    for family in families.FAMILIES:
        candidates = families.all_architectures(family, (4,))
        wanted = set().union(*map(options, candidates))
        while wanted:
            chosen.append(max(candidates, key=lambda c: len(wanted & options(c))))
            wanted -= options(chosen[-1])
    return chosen


def options(architecture):
    return set(dataclasses.asdict(architecture).items())


def group_of(architecture, num_networks=2):
    module = families.make_module(architecture, NUM_CLASSES)
    variables = families.abstract_variables(module, IMAGES.shape[1:])
    return zoo_lib.GroupSpec(
        name=architecture.name,
        config={
            **dataclasses.asdict(architecture),
            "image_shape": list(IMAGES.shape[1:]),
            "num_classes": NUM_CLASSES,
        },
        num_networks=num_networks,
        leaves=zoo_lib.leaves_of(variables),
    )


@pytest.mark.parametrize("architecture", covering(), ids=lambda found: found.name)
def test_rows_of_a_group_fit_its_topology(architecture):
    """From variables to a row of the zoo to edges, and back, to the bit."""
    group = group_of(architecture)
    topology = families.topology_of(group)
    assert group.num_parameters == topology.num_parameters
    assert len(topology.outputs) == NUM_CLASSES
    module = families.make_module(architecture, NUM_CLASSES)
    networks = [
        dict(random_variables(module, IMAGES, seed=seed, train=False))
        for seed in range(2)
    ]
    rows = zoo_lib.flatten(jax.tree.map(lambda *leaves: np.stack(leaves), *networks))
    for row, variables in zip(rows, networks, strict=True):
        np.testing.assert_array_equal(row, topology.flatten(variables))
        jax.tree.map(np.testing.assert_array_equal, topology.unflatten(row), variables)
        values = np.asarray(topology.edge_values(variables))
        np.testing.assert_array_equal(
            topology.flatten(topology.to_parameters(values)), row
        )
    assert to_graph(topology, values).edges.values.shape == (2 * topology.num_edges,)


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("cnn_2d", 4, 2, 2, "group", "gelu"),
        Architecture("cnn_1d", 4, 2, 1, "batch", "relu"),
        Architecture("resnet", 4, 2, 1, "batch", "relu"),
        Architecture("vit", 4, 1, 1, "layer", "gelu"),
    ],
    ids=lambda found: found.family,
)
def test_patches_compute_the_same_function_of_the_same_parameters(architecture):
    plain, patched = (
        families.make_module(architecture, NUM_CLASSES, use_patches=use_patches)
        for use_patches in (False, True)
    )
    variables = random_variables(plain, IMAGES, train=False)
    assert zoo_lib.leaves_of(variables) == zoo_lib.leaves_of(
        families.abstract_variables(patched, IMAGES.shape[1:])
    )
    for train in (False, True):
        found, expected = (
            module.apply(variables, IMAGES, train=train, mutable=["batch_stats"])
            for module in (plain, patched)
        )
        assert found[0].shape == (3, NUM_CLASSES)
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(
                one, other, rtol=1e-4, atol=1e-5
            ),
            found,
            expected,
        )


def test_all_architectures_of_a_family():
    widths = (4, 8)
    counts = {
        family: len(families.all_architectures(family, widths))
        for family in families.FAMILIES
    }
    convolutions = 2 * 3 * 2 * 3 * 2
    assert counts == {
        "cnn_2d": convolutions,
        "cnn_1d": convolutions,
        "deep_sets": convolutions,
        "resnet": 4,
        "vit": 4,
    }
    every = [
        architecture
        for family in families.FAMILIES
        for architecture in families.all_architectures(family, widths)
    ]
    assert len({architecture.name for architecture in every}) == len(every)


def test_samples_are_nested_and_do_not_depend_on_other_families():
    sample = families.sample_architectures(3, families.FAMILIES, (4, 6, 8), 5)
    assert len(sample) == 25 and len(set(sample)) == 25
    few = families.sample_architectures(3, ("vit", "cnn_2d"), (4, 6, 8), 2)
    of_family = {
        family: [found for found in sample if found.family == family]
        for family in families.FAMILIES
    }
    assert few == of_family["vit"][:2] + of_family["cnn_2d"][:2]
    assert sample != families.sample_architectures(4, families.FAMILIES, (4, 6, 8), 5)
    # Only as many as there are.
    assert len(families.sample_architectures(0, ("vit",), (4,), 9)) == 2


@pytest.mark.parametrize(
    "fields, message",
    [
        (("mlp", 4, 1), "family: found 'mlp', expected one of cnn_2d, cnn_1d"),
        (("cnn_2d", 5, 1), "width: found 5, expected an even number"),
        (("cnn_2d", 0, 1), "width: found 0, expected an even number"),
        (("cnn_2d", 4, 0), "depth: found 0, expected at least 1"),
        (("cnn_2d", 4, 1, 0), "num_dense_layers: found 0, expected at least 1"),
        (("cnn_2d", 4, 1, 1, "weight"), "normalization: found 'weight'"),
        (("cnn_2d", 4, 1, 1, "none", "sine"), "activation: found 'sine'"),
        (("vit", 4, 1), "normalization: found 'none', expected 'layer' for family vit"),
        (("resnet", 4, 1, 2, "batch"), "num_dense_layers: found 2, expected 1 for"),
    ],
)
def test_wrong_architectures(fields, message):
    with pytest.raises(ValueError, match=message):
        Architecture(*fields)


def test_groups_of_other_zoos_are_refused():
    group = group_of(Architecture("cnn_2d", 4, 1))
    config = {name: value for name, value in group.config.items() if name != "depth"}
    with pytest.raises(zoo_lib.ZooError, match="found no depth in its config"):
        families.topology_of(dataclasses.replace(group, config=config))
    with pytest.raises(zoo_lib.ZooError, match="width4.* found variables .*, expected"):
        families.topology_of(dataclasses.replace(group, leaves=group.leaves[1:]))


def test_topology_is_that_of_the_plain_module():
    architecture = Architecture("cnn_1d", 4, 1, 1, "batch")
    module = families.make_module(architecture, NUM_CLASSES)
    variables = random_variables(module, IMAGES, train=False)
    expected = trace(module, variables, IMAGES[:1], train=False)
    found = families.topology_of(group_of(architecture))
    for name in ("senders", "receivers", "edge_parameters", "node_functions"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
