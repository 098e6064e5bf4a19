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
# # Who acts on whom?
#
# Given nothing but trajectories of interacting bodies, `infer_relations` finds which
# relation holds on every edge, and learns the dynamics, without labels (Alet et al.,
# "Neural Relational Inference with Fast Modular Meta-learning", 2019). It trains a few
# small neural modules that all systems share; a search finds, for every system, which
# module sits on which edge.
#
# This notebook takes a minute or two on a laptop.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np

from modmeta.relational import (
    BounceGradConfig,
    InferenceConfig,
    ModuleConfig,
    TrainingConfig,
    data,
    figures,
    infer_dataset,
    infer_relations,
    load_model,
    save_model,
)
from modmeta.runtime.progress import TqdmProgress

IS_SHORT = bool(os.environ.get("MODMETA_NOTEBOOK_SHORT"))  # Runs in seconds, to test.

# %% [markdown]
# ## Trajectories
#
# Here we simulate bodies in a box. Each pair is joined by a spring or not, and we
# watch the first frames. An array `[systems, time, bodies, features]` is all the method
# needs; the true edges serve to score what it finds.

# %%
NUM_SYSTEMS = 24 if IS_SHORT else 300
NUM_OBSERVED, NUM_PREDICTED = 13 if IS_SHORT else 25, 20

everything = data.simulate_springs(
    seed=0,
    num_tasks=NUM_SYSTEMS,
    num_nodes=4,
    num_frames=NUM_OBSERVED + NUM_PREDICTED,
)
observed = everything.frames(0, NUM_OBSERVED)
print(observed.states.shape, observed.features.names)

# %% [markdown]
# ### Your own data
#
# Pass an array. Say which columns are positions and velocities if you have such, and
# how much time lies between two frames: the modules then see relative geometry, which
# needs far less data. Columns of sines and cosines of angles (`sines=`, `cosines=`) do
# the same. Without these the features are taken as they are.
#
# ```python
# result = infer_relations(
#     array,                      # [systems, time, bodies, features]
#     num_relations=2,            # "no relation" counts as one
#     positions=(0, 1),           # columns of the positions, if any
#     velocities=(2, 3),          # columns of their velocities, in the same order
#     frame_interval=0.1,         # in the time unit of the velocities
#     labels=None,                # [systems, bodies, bodies] true relations, to score
# )
# ```
#
# Systems may differ in size: `data.pad_systems([...])` puts arrays `[time, bodies,
# features]` into one data set. `data.load("mine.npz")` reads a file that holds
# `states` and, if you like, `edges`, `frame_interval` and the columns above.

# %%
array, labels = observed.states, observed.edges
positions, velocities, frame_interval = (0, 1), (2, 3), observed.frame_interval

# %% [markdown]
# ## Inference
#
# Training alternates between annealing the structures and a gradient step on the
# modules. Options have defaults; smaller modules and fewer steps than those are
# enough for springs, and all bodies have the same mass.

# %%
inference = InferenceConfig(num_steps=8, num_samples=8) if IS_SHORT else None

result = infer_relations(
    array,
    num_relations=2,
    labels=labels,
    positions=positions,
    velocities=velocities,
    frame_interval=frame_interval,
    seed=0,
    modules=ModuleConfig(
        entities="alike", edge_sizes=(32,), message_size=32, node_sizes=(32, 32)
    ),
    bouncegrad=BounceGradConfig(
        num_steps=6 if IS_SHORT else 400,
        gradient_frames=12,
        learning_rate=5e-3,
        proposal_learning_rate=3e-3,
    ),
    training=TrainingConfig(num_evaluations=2),
    inference=inference,
    progress=TqdmProgress(["loss", "temperature"]),
)

# %% [markdown]
# `edges[system, receiver, sender]` is the relation of an edge. Relations are numbered
# in an order without meaning; the accuracy compares them with the labels after one
# renaming for the whole data set. Probabilities come from chains at temperature 1.

# %%
print(f"edge accuracy: {result.edge_accuracy:.3f}")
print("relations of system 0 (row = receiver, column = sender):")
print(result.edges[0])
print("probability of relation 1:")
print(np.round(result.probabilities[0, :, :, 1], 2))

# %%
plots = result.plot(num_systems=3, num_steps=NUM_PREDICTED)
plots["adjacency"]

# %% [markdown]
# ## Prediction
#
# The modules, put together by the structure that was found, continue a trajectory.
# Here are the true frames that nobody has seen so far, against free predictions.

# %%
predicted = result.predict(NUM_PREDICTED)
future = everything.states[:, NUM_OBSERVED:]
last = array[:, -1:]
times = frame_interval * np.arange(1, NUM_PREDICTED + 1)[None, :, None, None]
straight = last[..., :2] + times * last[..., 2:]

for name, path in (("modules", predicted[..., :2]), ("straight on", straight)):
    errors = np.sqrt(np.mean(np.square(path - future[..., :2]), axis=(0, 2, 3)))
    print(f"{name:>12}: position error after 1, 10, 20 frames", errors[[0, 9, 19]])

# %%
figures.plot_trajectories(
    everything.states, predicted, NUM_OBSERVED, positions, num_systems=3
)

# %% [markdown]
# ## What to take away
#
# Graphs for `networkx`, a table with one line per edge, and the model, which infers
# the relations of systems that it has not seen.

# %%
folder = Path(tempfile.mkdtemp())
graphs = result.to_networkx()
print(graphs[0], list(graphs[0].edges(data="relation"))[:3])

result.to_csv(str(folder / "edges.csv"))
print((folder / "edges.csv").read_text()[:200])

# %%
import jax  # noqa: E402

from modmeta.relational.evaluation.scores import label_scores  # noqa: E402

save_model(folder / "model.npz", result.model, result.params)
model, params = load_model(folder / "model.npz")
unseen = data.simulate_springs(1, NUM_SYSTEMS, num_nodes=4, num_frames=NUM_OBSERVED)
found = infer_dataset(jax.random.key(0), model, params, unseen, result.inference)
label_scores(found, unseen, model.num_relations)
