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
# # Coulomb's law from ten recordings
#
# Five charged bodies move in a box. Nobody says which of them attract each other, nor
# by which law. From ten recordings of five seconds, `infer_relations` finds both: who
# acts on whom, and the force as a function of distance, with a band and a formula.
#
# This notebook takes some minutes on two cores. On a new machine, or on Colab, clone
# the repository first; where modmeta is missing, the first cell installs it from there.

# %%
# !python -c "import modmeta" || pip install -q "./modmeta[plots,formulas]"

# %%
import importlib.util
import os

import numpy as np

from modmeta.relational import (
    BounceGradConfig,
    InferenceConfig,
    ModuleConfig,
    TrainingConfig,
    data,
    figures,
    find_formula,
    infer_relations,
)

IS_SHORT = bool(os.environ.get("MODMETA_NOTEBOOK_SHORT"))  # Runs in seconds, to test.

# %% [markdown]
# ## Ten recordings
#
# Positions and velocities, 49 frames, a tenth of a second apart. Close encounters last
# less than one frame.

# %%
NUM_FRAMES = 13 if IS_SHORT else 49
recordings = data.simulate_charged(0, 10, num_frames=NUM_FRAMES)
print(recordings.states.shape, recordings.features.names)

# %% [markdown]
# ## A law, along the path of the pair
#
# A module is a law: what a sender adds to the acceleration of its receiver. We say that
# it acts along the line between the two and that both feel it. Between two frames it is
# integrated along the path that the pair takes under the law itself, so that an
# encounter within a frame counts.

# %%
result = infer_relations(
    recordings,
    num_relations=2,
    num_restarts=1,
    modules=ModuleConfig(
        path="two_body",
        law="mutual",
        entities="alike",
        num_points=2 if IS_SHORT else 16,
        edge_sizes=(8,) if IS_SHORT else (32, 32),
        node_sizes=(8,) if IS_SHORT else (32, 32),
    ),
    bouncegrad=BounceGradConfig(num_steps=4 if IS_SHORT else 1500, batch_size=8),
    training=TrainingConfig(num_evaluations=1 if IS_SHORT else 5),
    inference=InferenceConfig(num_steps=8, num_samples=8) if IS_SHORT else None,
)
print(result)

# %% [markdown]
# The labels served for one number alone:

# %%
print("edges right in the ten recordings:", result.edge_accuracy)

# %% [markdown]
# ## The law
#
# Positive attracts. The charges are one, so the truth is 1 / d^2 of either sign.

# %%
for law in result.laws:
    power = law.power_law()
    if power is not None:
        print(
            f"relation {law.relation}: {power.coefficient:.3f} d^{power.exponent:.3f}"
        )

# %% [markdown]
# A formula is the shortest one that the curve follows as far as any, found by symbolic
# regression (the extra `formulas`). It says from where to where it holds.

# %%
if importlib.util.find_spec("pyoperon") is not None and not IS_SHORT:
    for law in result.laws:
        print(law.relation, find_formula(law))

# %% [markdown]
# ## A picture
#
# The band is what the data leave open. Where few pairs ever were, it is wide.

# %%
signs = [np.sign(np.sum(law.weights * law.rates)) or 1.0 for law in result.laws]
figure = figures.plot_laws(
    result.laws, [lambda d, sign=sign: sign / d**2 for sign in signs]
)
figure.savefig("coulomb.png", dpi=150)
