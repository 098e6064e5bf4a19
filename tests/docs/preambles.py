"""What the pages of the documentation take for granted, and how they stay quick.

Pages show real calls with real defaults. Here they get small data, and
`infer_relations` a version that trains for two steps. Pages on the same data share one
trained model, and data of a page's own simulator are searched by it: what their other
options do is tested elsewhere, here these must be options of the real function that
agree with each other.
"""

import dataclasses
import inspect
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from modmeta import relational, search
from modmeta.relational import data

STEPS = {"num_steps": 2, "batch_size": 4, "search_steps": 2, "gradient_frames": 3}
QUICK = {
    "modules": {
        "law": "central",
        "span": 1,
        "likelihood": "gaussian",
        "edge_sizes": (4,),
        "message_size": 4,
        "node_sizes": (4,),
        "entities": "alike",
    },
    "proposal": {"encoder": "none"},
    "bouncegrad": STEPS,
    "training": {"num_evaluations": 1, "search_steps": 2},
    "inference": {"num_steps": 4, "num_chains": 1, "num_samples": 0},
}
DEFAULTS = {
    "modules": relational.ModuleConfig,
    "proposal": relational.ProposalConfig,
    "bouncegrad": relational.BounceGradConfig,
    "training": relational.TrainingConfig,
    "inference": relational.InferenceConfig,
}

BUILT_IN = frozenset(search.SEARCHES)

_infer_relations = relational.infer_relations
_results = {}


def quick_infer_relations(trajectories, *arguments, **options):
    """`infer_relations` in seconds: the options of the page, made small."""
    inspect.signature(_infer_relations).bind(trajectories, *arguments, **options)
    for name, values in QUICK.items():
        config = options.get(name) or DEFAULTS[name]()
        options[name] = dataclasses.replace(config, **values)
    inference = options["inference"]
    energy = options.pop("energy", relational.EnergyConfig())
    energy.check_algorithm(inference.algorithm)
    for name in ("candidates", "memory"):
        options.pop(name, None)
    if isinstance(trajectories, relational.TrajectoryDataset):
        # Of a simulator of the page itself, searched by the model of the springs.
        arrays = springs()["trajectories"]
        roles = {"positions": (0, 1), "velocities": (2, 3), "frame_interval": 0.1}
        return quick_infer_relations(arrays, **roles).infer(trajectories)
    key = np.asarray(getattr(trajectories, "states", trajectories)).tobytes()
    if key not in _results:
        plain = {
            "num_restarts": 1,
            **options,
            "inference": DEFAULTS["inference"](**QUICK["inference"]),
        }
        _results[key] = _infer_relations(trajectories, *arguments, **plain)
    result = _results[key]
    if inference.algorithm in BUILT_IN:
        return result
    # A search of the page itself, on the model that is there.
    unlabelled = result.dataset.without_labels()
    found = relational.infer_dataset(
        jax.random.key(0), result.model, result.params, unlabelled, inference
    )
    discovery = dataclasses.replace(result.discovery, found=found, settled=found)
    return dataclasses.replace(result, discovery=discovery)


def springs():
    """`trajectories`: eight systems of three bodies, ten frames."""
    dataset = data.simulate_springs(0, 8, num_nodes=3, num_frames=10)
    return {"trajectories": np.array(dataset.states)}


def rods():
    """Fewer systems than the page recommends."""
    return {"num_systems": 8}


def problem():
    """A search problem of three receivers with two slots."""
    costs = jnp.array([[3.0, 0.0], [0.0, 2.0], [1.0, 0.5]])

    def local(structure, receivers):
        chosen = costs[receivers[:, None], structure.edge_modules[receivers]]
        return chosen.sum(axis=1)

    return {
        "structure": search.Structure(
            jnp.zeros((3, 2), jnp.int32), jnp.zeros(3, jnp.int32)
        ),
        "energy": search.Energy(local),
        "candidates": search.Candidates(
            slot_mask=jnp.ones((3, 2), bool), edge_logits=jnp.zeros((3, 2, 2))
        ),
        "rng_key": jax.random.key(0),
        "temperature": jnp.float32(1.0),
    }


class _Model(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(1)(nn.relu(nn.Dense(3)(inputs)))


class _Classifier(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        hidden = nn.relu(nn.Dense(3, name="hidden")(inputs))
        return nn.Dense(4, name="last")(hidden)


def network():
    """A model to read."""
    example_input = jnp.ones((1, 2))
    return {
        "model": _Model(),
        "variables": _Model().init(jax.random.key(0), example_input),
        "example_input": example_input,
        "rng_key": jax.random.key(1),
        "rng": np.random.default_rng(0),
    }


def state_dict():
    """A classifier and the weights of a PyTorch network of the same function."""
    rng = np.random.default_rng(0)
    sizes = {"0": (3, 2), "2": (4, 3)}
    state = {f"{name}.weight": rng.normal(size=size) for name, size in sizes.items()}
    state |= {f"{name}.bias": rng.normal(size=size[0]) for name, size in sizes.items()}
    inputs = rng.normal(size=(5, 2)).astype(np.float32)
    hidden = np.maximum(inputs @ state["0.weight"].T + state["0.bias"], 0)
    classifier = _Classifier()
    return {
        "classifier": classifier,
        "shapes": jax.eval_shape(classifier.init, jax.random.key(0), inputs),
        "state": state,
        "inputs": inputs,
        "outputs": hidden @ state["2.weight"].T + state["2.bias"],
    }


def folder_of_networks():
    """Weights of classifiers, a folder each."""
    rng = np.random.default_rng(0)
    inputs = np.ones((1, 2), np.float32)
    shapes = jax.eval_shape(_Classifier().init, jax.random.key(0), inputs)
    for number in range(8):
        place = pathlib.Path("networks") / f"network_{number}"
        place.mkdir(parents=True)
        weights = {
            jax.tree_util.keystr(path, simple=True, separator="."): rng.normal(
                size=leaf.shape
            ).astype(np.float32)
            for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        }
        np.savez(place / "weights.npz", **weights)
        results = json.dumps({"test": {"accuracy": number / 8}})
        (place / "results.json").write_text(results)
    return {}


# Page -> functions that make what it takes for granted.
PREAMBLES = {
    "README.md": (springs,),
    "docs/index.md": (springs,),
    "docs/methods/metanet.md": (network, state_dict, folder_of_networks),
    "docs/guide/data.md": (springs,),
    "docs/guide/options.md": (springs,),
    "docs/guide/result.md": (springs,),
    "docs/guide/scale.md": (springs,),
    "docs/design/architecture.md": (problem,),
    "docs/extending/search.md": (springs,),
    "docs/extending/simulator.md": (rods,),
}
