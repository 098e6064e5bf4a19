# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does a network do? Ask its weights
#
# A folder of trained networks is a data set. A graph metanetwork reads their weights
# and predicts what is known of some of them: accuracies, settings, anything. It does
# not see in which order hidden units are stored, as that changes nothing (Lim et al.,
# "Graph Metanetworks for Processing Diverse Neural Architectures", 2024).
#
# This notebook takes a minute or two on a laptop. On a new machine, or on Colab, clone
# the repository first; where modmeta is missing, the first cell installs it from there.

# %%
# !python -c "import modmeta" || pip install -q "./modmeta[plots]"

# %%
import json
import os
import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import serialization

from modmeta import metanet
from modmeta.runtime.artifact import load_artifact, save_artifact

IS_SHORT = bool(os.environ.get("MODMETA_NOTEBOOK_SHORT"))  # Runs in seconds, to test.
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A folder of networks
#
# Yours may come from anywhere: a folder per network, weights in `.safetensors`,
# `.msgpack`, `.npz`, `.pt` or an orbax checkpoint, results in JSON. Here, small
# networks get random weights of different size, and the result is how much their
# output varies.

# %%
NUM_NETWORKS = 24 if IS_SHORT else 400
model = nn.Sequential([nn.Dense(8), nn.tanh, nn.Dense(1)])
points = jnp.linspace(-2, 2, 64)[:, None]
shapes = jax.eval_shape(model.init, jax.random.key(0), points)
rng = np.random.default_rng(0)

for number in range(NUM_NETWORKS):
    size = rng.uniform(0.2, 2.0)
    variables = jax.tree.map(
        lambda leaf, size=size: size * rng.normal(size=leaf.shape).astype("f4"), shapes
    )
    place = folder / "networks" / f"network_{number:04d}"
    place.mkdir(parents=True)
    (place / "weights.msgpack").write_bytes(serialization.msgpack_serialize(variables))
    outputs = model.apply(variables, points)
    result = {"variation": float(jnp.log(outputs.std() + 1e-3))}
    (place / "results.json").write_text(json.dumps(result))

# %% [markdown]
# ## Ten lines
#
# Networks are read a chunk at a time into a zoo on disk, the architecture is traced
# once, and a metanetwork is trained on the graphs.

# %%
metanet.import_folders(folder / "networks", folder / "zoo", shapes, ["variation"])
networks = metanet.load_zoo(folder / "zoo").groups["networks"]
targets = networks.scores["variation"]

topology = metanet.trace(model, shapes, points)
source = metanet.GraphSource([topology], [networks.parameters])
predictor = metanet.GraphPredictor(
    metanet.InvariantMetanet(metanet.MetanetConfig(width=16, num_blocks=2), 1)
)
options = metanet.PredictionConfig(num_steps=4 if IS_SHORT else 300, num_evaluations=2)
found = metanet.fit(
    predictor, optax.squared_error, source, targets, networks.splits, options, seed=0
)

# %% [markdown]
# ## Its score, and a picture
#
# Networks of the split "test" were not looked at so far.

# %%
rows = networks.splits["test"]
predicted = metanet.predict(predictor, found.params, source, rows)
error = np.mean((predicted - targets[rows]) ** 2)
score = 1 - error / np.var(targets[rows])
print(f"share of the variance that is predicted, of unseen networks: {score:.2f}")

# %%
figure, axes = plt.subplots(figsize=(4, 4))
axes.scatter(targets[rows], predicted, s=12)
axes.axline((0, 0), slope=1, color="grey", linewidth=1)
axes.set_xlabel("variation of the output (log)")
axes.set_ylabel("predicted from the weights")
figure.tight_layout()

# %% [markdown]
# ## To be used again
#
# The parameters go into a file. With them, the same predictor says more of other
# networks, or learns on from where it is (`metanet.fit(..., params=params)`).

# %%
save_artifact(folder / "predictor.npz", found.params, kind="variation")
params, _ = load_artifact(folder / "predictor.npz", kind="variation")
again = metanet.predict(predictor, params, source, rows)
print(f"largest change of a prediction: {np.abs(again - predicted).max():.1e}")

# %% [markdown]
# ## Why the order of units does not matter
#
# A symmetry of the graph puts hidden units in another order. The network computes the
# same function, and the metanetwork says the same of it.

# %%
one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), networks.variables())
moved = metanet.permute_parameters(
    topology, one, metanet.sample_symmetry(np.random.default_rng(1), topology)
)
change = jnp.abs(model.apply(moved, points) - model.apply(one, points)).max()
both = np.stack([topology.flatten(tree) for tree in (one, moved)])
answers = metanet.predict(
    predictor, found.params, metanet.GraphSource([topology], [both]), np.arange(2)
)
print(f"the function changes by {change:.1e}, the answer by {np.ptp(answers):.1e}")
