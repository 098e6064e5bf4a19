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
# # Which of fifty subjects share a graph?
#
# Fifty subjects were recorded, each for a moment and with noise. Some of them are wired
# alike. One recording is too short to know its graph for sure; but subjects that share
# one can be found, and searched as one.
#
# This notebook takes some minutes on two cores. On a new machine, or on Colab, clone
# the repository first; where modmeta is missing, the first cell installs it from there.

# %%
# !python -c "import modmeta" || pip install -q "./modmeta[plots]"

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial import distance

from modmeta.relational import (
    BounceGradConfig,
    InferenceConfig,
    ModuleConfig,
    TrainingConfig,
    infer_relations,
)
from modmeta.relational.data.simulators import kuramoto_trajectory

IS_SHORT = bool(os.environ.get("MODMETA_NOTEBOOK_SHORT"))  # Runs in seconds, to test.

# %% [markdown]
# ## Fifty subjects, three graphs
#
# Every subject has five oscillators with frequencies of its own, which nobody recorded.
# They are coupled along one of three directed graphs. We see their phases, with noise,
# in 25 frames.

# %%
NUM_SUBJECTS, NUM_FRAMES, NOISE = (12, 13, 0.05) if IS_SHORT else (50, 25, 0.05)
rng = np.random.default_rng(0)
graphs = (rng.random((3, 5, 5)) < 0.5) & ~np.eye(5, dtype=bool)
group = rng.integers(3, size=NUM_SUBJECTS)
phases, _ = kuramoto_trajectory(
    rng.uniform(0.0, 2.0 * np.pi, (NUM_SUBJECTS, 5)),
    rng.uniform(1.0, 5.0, (NUM_SUBJECTS, 5)),
    1.0 * graphs[group],
    num_frames=NUM_FRAMES,
)
phases = np.asarray(phases) + NOISE * rng.normal(size=phases.shape)
angles = np.mod(phases, 2.0 * np.pi)[..., None]
print(angles.shape)

# %% [markdown]
# ## One by one
#
# Modules are shared by all subjects, graphs are not.

# %%
options = {}
if IS_SHORT:
    options = {
        "modules": ModuleConfig(entities="alike", edge_sizes=(8,), node_sizes=(8,)),
        "bouncegrad": BounceGradConfig(num_steps=4, batch_size=8),
        "training": TrainingConfig(num_evaluations=1),
        "inference": InferenceConfig(num_steps=8, num_samples=8),
    }
alone = infer_relations(
    angles, angles=(0,), frame_interval=0.1, num_restarts=1, **options
)
print(alone)


def share_right(edges, truth):
    """Of all pairs; relation 1 is the one that acts."""
    off_diagonal = ~np.eye(5, dtype=bool)
    return np.mean((edges == 1)[..., off_diagonal] == truth[..., off_diagonal])


print("right, one by one:", share_right(alone.edges, graphs[group]))

# %% [markdown]
# ## Who is alike?
#
# Two subjects differ by the probability that an edge of theirs is not the same. Those
# that differ least are joined until three groups are left; how many there are shows in
# the jumps of the tree.

# %%
acts = alone.probabilities[..., 1].reshape(NUM_SUBJECTS, -1)
apart = distance.pdist(acts, lambda a, b: np.mean(a * (1 - b) + b * (1 - a)))
tree = hierarchy.linkage(apart, "average")
found_group = hierarchy.fcluster(tree, 1 if IS_SHORT else 3, "maxclust") - 1
print("last joins at", np.round(tree[-5:, 2], 3))
table = np.zeros((3, 3), int)
np.add.at(table, (group, found_group), 1)
print("true group by found group:")
print(table)

# %% [markdown]
# ## Together
#
# The recordings of a group are searched as one, by the modules that are there.

# %%
pooled = {}
for number in np.unique(found_group):
    members = np.flatnonzero(found_group == number)
    together = alone.infer(angles[members], shared_graph=True)
    pooled[int(number)] = together.edges[0]
    print(f"group {number}: {len(members)} subjects. {together.verdict.sentence}")
edges = np.stack([pooled[int(number)] for number in found_group])
print("right, together:", share_right(edges, graphs[group]))

# %% [markdown]
# ## A picture
#
# How often two subjects agree, sorted by the groups that were found, and the graph of
# every group: row = receiver, column = sender.

# %%
order = np.argsort(found_group, kind="stable")
agree = 1.0 - distance.squareform(apart)[np.ix_(order, order)]
np.fill_diagonal(agree, np.nan)
figure, panels = plt.subplots(
    1, 1 + len(pooled), figsize=(11, 3.2), constrained_layout=True
)
image = panels[0].imshow(agree, cmap="viridis")
panels[0].set(title="agreement of subjects", xlabel="subject", ylabel="subject")
figure.colorbar(image, ax=panels[0], shrink=0.8)
for (number, matrix), axes in zip(pooled.items(), panels[1:], strict=True):
    axes.imshow(np.where(matrix < 0, np.nan, matrix), cmap="Greys", vmin=0, vmax=1.3)
    axes.set(title=f"group {number}", xlabel="sender", ylabel="receiver")
figure.savefig("groups.png", dpi=150)
