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
# # From a CSV of tracks to a graph, with a verdict
#
# You have tracks: who was where, when. You want to know who acts on whom, and whether
# the answer can be believed. `infer_relations` finds which relation holds on every
# edge, and the law of motion behind it, without labels (Alet et al., "Neural Relational
# Inference with Fast Modular Meta-learning", 2019).
#
# This notebook takes some minutes on two cores. On a new machine, or on Colab, clone
# the repository first; where modmeta is missing, the first cell installs it from there.

# %%
# !python -c "import modmeta" || pip install -q "./modmeta[plots,tables]"

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from modmeta.relational import (
    BounceGradConfig,
    InferenceConfig,
    ModuleConfig,
    TrainingConfig,
    data,
    infer_relations,
    load,
)

IS_SHORT = bool(os.environ.get("MODMETA_NOTEBOOK_SHORT"))  # Runs in seconds, to test.

# %% [markdown]
# ## The tracks
#
# We make a file as a camera would: one row per recording, frame and animal, with
# positions alone. Half of the pairs are drawn to each other. Of your own data, nothing
# else is needed; see the guide for arrays, xarray, Parquet and more.

# %%
NUM_RECORDINGS, NUM_FRAMES = (24, 13) if IS_SHORT else (100, 49)
simulated = data.simulate_springs(0, NUM_RECORDINGS, num_frames=NUM_FRAMES)
recording, frame, animal = np.indices(simulated.states.shape[:3]).reshape(3, -1)
tracks = pd.DataFrame({"recording": recording, "frame": frame, "animal": animal})
tracks["x"], tracks["y"] = simulated.states[..., :2].reshape(-1, 2).T
tracks.to_csv("tracks.csv", index=False)
print(tracks.head())

# %% [markdown]
# ## Who acts on whom?
#
# Two trainings from different seeds take turns between annealing the graphs and a
# gradient step on the modules. Everything that was done to the data is noted. The last
# sentence is the verdict: the graphs were found in the first three quarters of every
# recording, and asked about the rest.

# %%
options = {}
if IS_SHORT:
    options = {
        "num_restarts": 1,
        "modules": ModuleConfig(entities="alike", edge_sizes=(8,), node_sizes=(8,)),
        "bouncegrad": BounceGradConfig(num_steps=4, batch_size=8),
        "training": TrainingConfig(num_evaluations=1),
        "inference": InferenceConfig(num_steps=8, num_samples=8),
    }
result = infer_relations("tracks.csv", frame_interval=0.1, **options)
print(result)

# %% [markdown]
# A relation has a number, and relation 0 is that of least effect. Row = receiver,
# column = sender; the diagonal is no edge. Probabilities are averages over both
# trainings, as warm as the errors of the model ask for.

# %%
print(result.edges[0])
print(np.round(result.probabilities[0, :, :, 1], 2))
result.to_dataframe().head()

# %% [markdown]
# We know the truth here, so we may ask how often that is right.

# %%
is_pair = simulated.edges >= 0
print("right:", np.mean(result.edges[is_pair] == simulated.edges[is_pair]))
print("mean confidence:", result.summary()["mean_confidence"])

# %% [markdown]
# ## Would it have told us?
#
# The same model is asked about recordings in which nobody acts on anybody: every animal
# is taken from another recording. A method that always draws a graph would draw one.

# %%
strangers = tracks.copy()
strangers["recording"] = (recording + animal) % NUM_RECORDINGS
nothing = result.infer(strangers, frame_interval=0.1)
print("as recorded:", result.verdict.sentence)
print("strangers:  ", nothing.verdict.sentence)

# %% [markdown]
# ## Keep it, and ask about tomorrow's recordings
#
# Any number of animals and frames will do; nothing is trained again.

# %%
result.save("tracks.npz")
again = load("tracks.npz")
num_new, num_animals = (NUM_RECORDINGS, 5) if IS_SHORT else (20, 8)
tomorrow = data.simulate_springs(
    1, num_new, num_nodes=num_animals, num_frames=NUM_FRAMES
)
new = again.infer(tomorrow.states[..., :2], labels=tomorrow.edges)
print(f"{num_animals} animals, right:", new.edge_accuracy)

# %% [markdown]
# ## A picture
#
# The graph of one recording on top of its tracks; lines are as strong as they are sure.

# %%
figure, panels = plt.subplots(1, 3, figsize=(9, 3.2), constrained_layout=True)
for system, axes in enumerate(panels):
    paths = simulated.states[system, :, :, :2]
    ends = paths[-1]
    for receiver, sender in zip(*np.nonzero(np.triu(np.ones((5, 5)), 1)), strict=True):
        both = result.probabilities[system, [receiver, sender], [sender, receiver], 1]
        line = ends[[receiver, sender]].T
        axes.plot(*line, color="black", alpha=float(both.mean()), zorder=1)
    for entity in range(5):
        axes.plot(*paths[:, entity].T, alpha=0.6, linewidth=1.0, color=f"C{entity}")
    axes.scatter(*ends.T, c=[f"C{entity}" for entity in range(5)], s=60, zorder=2)
    axes.set(title=f"recording {system}", xlabel="x", ylabel="y", aspect="equal")
figure.savefig("tracks.png", dpi=150)
