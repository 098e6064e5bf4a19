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
# # A hidden body
#
# Bodies are joined by springs, and one of them is not in the recordings. It shows in
# what it does to the others: their motion has a force in it that none of them explains.
# From laws that were learned in complete recordings, `find_hidden` tells how many
# bodies are missing, where each was at every moment, whom it is joined to, and whether
# to believe it.
#
# This notebook takes five minutes on two cores. On a new machine, or on Colab, clone
# the repository first; where modmeta is missing, the first cell installs it from there.

# %%
# !python -c "import modmeta" || pip install -q "./modmeta[plots]"

# %%
import os

import numpy as np

from modmeta.relational import (
    BounceGradConfig,
    HiddenConfig,
    InferenceConfig,
    ModuleConfig,
    ProposalConfig,
    TrainingConfig,
    data,
    infer_relations,
)
from modmeta.runtime import figure_style

IS_SHORT = bool(os.environ.get("MODMETA_NOTEBOOK_SHORT"))  # Runs in seconds, to test.

# %% [markdown]
# ## The law, from complete recordings
#
# Nobody says which bodies are joined, nor how springs pull.

# %%
VISIBLE = 2 if IS_SHORT else 5
FRAMES = 6 if IS_SHORT else 49
complete = data.simulate_springs(
    0, 8 if IS_SHORT else 200, num_nodes=VISIBLE, num_frames=FRAMES
)
result = infer_relations(
    complete.without_labels(),
    num_relations=2,
    num_restarts=1,
    modules=ModuleConfig(
        law="central",
        entities="alike",
        span=1,
        edge_sizes=(4,) if IS_SHORT else (32, 32),
        node_sizes=(4,) if IS_SHORT else (32, 32),
    ),
    proposal=ProposalConfig("none") if IS_SHORT else None,
    bouncegrad=BounceGradConfig(num_steps=2 if IS_SHORT else 600),
    training=TrainingConfig(num_evaluations=1 if IS_SHORT else 6),
    inference=InferenceConfig(num_steps=8, num_samples=8) if IS_SHORT else None,
)
print(result.verdict.sentence)

# %% [markdown]
# ## Recordings in which something is missing
#
# Twelve other systems have a body more, which we take out. Of its path and its springs
# nothing is said, nor that there is one.

# %%
whole = data.simulate_springs(
    1, 2 if IS_SHORT else 12, num_nodes=VISIBLE + 1, num_frames=FRAMES
)
seen = whole.states[:, :, :VISIBLE]
quick = HiddenConfig(1, 1, num_kept=1, num_rounds=1, is_repeated=False)
found = result.find_hidden(
    seen,
    frame_interval=whole.frame_interval,
    max_hidden=1,
    config=quick if IS_SHORT else None,
)
print(found)

# %% [markdown]
# What is said to be known can be compared with the truth, in units of the spread of the
# data. A body that is joined to nobody leaves no trace, and nothing is said of it.

# %%
spring = int(np.argmax(result.verdict.effects))  # the relation that does most
joined = (whole.edges[:, :VISIBLE, VISIBLE] == 1).sum(axis=1)
errors = np.square(found.states[:, :, 0] - whole.states[:, :, VISIBLE]).mean((1, 2))
for system, error in enumerate(errors):
    told = "not known"
    if found.is_known[system, 0]:
        told = f"known, squared error {error:.1e}"
    number = found.num_hidden[system]
    print(f"system {system}: joined to {joined[system]}, found {number}, {told}")

# %% [markdown]
# ## A picture
#
# Thin lines are what was recorded. The dashed path is the truth, which the method never
# saw, and the dots are what was found, with rings where it began.

# %%
known = np.flatnonzero(found.is_known[:, 0])[:3]
shown = known if len(known) else np.arange(1)
figure = figure_style.new_figure(3.6 * len(shown), 4.0)
*colors, hidden_color = figure_style.node_colors(VISIBLE + 1)
for axes, system in zip(
    figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
):
    for node in range(VISIBLE):
        path = seen[system, :, node, :2]
        axes.plot(*path.T, color=colors[node], linewidth=1.0, alpha=0.6)
        axes.plot(*path[-1], "o", color=colors[node], markersize=5)
        if found.edges[system, node, VISIBLE] == spring:
            ends = np.stack([path[-1], found.states[system, -1, 0, :2]])
            axes.plot(*ends.T, ":", color="0.4", linewidth=1.2)
    truth = whole.states[system, :, VISIBLE, :2]
    told = found.states[system, :, 0, :2]
    axes.plot(*truth.T, "--", color="black", linewidth=1.4, label="the body, in truth")
    axes.plot(*told[::3].T, ".", color=hidden_color, label="as it was found")
    axes.plot(*told[0], "o", color=hidden_color, fillstyle="none")
    axes.plot(*told[-1], "o", color=hidden_color)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(f"system {system}: a hidden body", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
figure.savefig("hidden_body.png", dpi=130)
