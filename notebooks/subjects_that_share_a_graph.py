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
# # Which of fifty subjects share a graph
#
# One recording of a subject is short, and its graph is uncertain. If subjects share a
# graph, their recordings tell more together than apart. But do they? Here twenty of
# fifty do, and the other thirty have graphs of their own. Nobody says which. Who
# belongs together shows in how far the graphs of subjects agree beyond chance.
#
# It takes some seconds. On a new machine, or on Colab, clone the repository first;
# where modmeta is missing, the first cell installs it from there.

# %%
# !python -c "import modmeta" || pip install -q "./modmeta[plots]"

# %%
import numpy as np

from modmeta.relational import as_dataset, classical
from modmeta.relational.evaluation.ranking import auroc
from modmeta.runtime import figure_style

# %% [markdown]
# ## Fifty recordings
#
# Ten regions, 80 frames each. A region follows its own past and that of those that act
# on it.

# %%
SUBJECTS, SHARING, REGIONS, FRAMES = 50, 20, 10, 80
rng = np.random.default_rng(0)


def draw_graph():
    """A graph in which every region hears two others, `[receiver, sender]`."""
    graph = np.zeros((REGIONS, REGIONS), int)
    for region in range(REGIONS):
        others = np.delete(np.arange(REGIONS), region)
        graph[region, rng.choice(others, 2, replace=False)] = 1
    return graph


shared = draw_graph()
is_sharing = rng.permutation(np.arange(SUBJECTS) < SHARING)
graphs = np.stack([shared if one else draw_graph() for one in is_sharing])
series = rng.normal(size=(SUBJECTS, FRAMES, REGIONS))
for frame in range(1, FRAMES):
    before = series[:, frame - 1]
    series[:, frame] += 0.4 * before + 0.2 * np.einsum("srq,sq->sr", graphs, before)
recordings = as_dataset(series[..., None], lags=1)
print(recordings)

# %% [markdown]
# ## One by one
#
# What a regression on the past of all regions says of every pair, subject by subject.

# %%
METHOD = "vector autoregression"
alone = classical.rank_pairs(recordings, METHOD)
pairs = ~np.eye(REGIONS, dtype=bool)
areas = [auroc(scores, graph) for scores, graph in zip(alone, graphs, strict=True)]
print(f"one by one, area under the ROC curve {np.mean(areas):.3f}")

# %% [markdown]
# ## Who agrees with whom
#
# The agreement of two subjects is the correlation of the ranks of their scores. What
# chance makes of it is seen when the regions of one of them change their names.


# %%
def ranks_of(scores):
    """Ranks of the pairs, `[..., pairs]`, standardised."""
    ranks = np.argsort(np.argsort(scores[..., pairs], axis=-1), axis=-1)
    return (ranks - ranks.mean()) / ranks.std()


ranks = ranks_of(alone)
agreement = ranks @ ranks.T / pairs.sum()
np.fill_diagonal(agreement, 0.0)
renamings = [rng.permutation(REGIONS) for _ in range(50)]
renamed = np.stack([ranks_of(alone[:, o][:, :, o]) for o in renamings])


def beyond_chance(references):
    """Which subjects agree with their reference, `[subjects, pairs]`, and how far."""
    found = np.einsum("sp,sp->s", ranks, references) / pairs.sum()
    by_chance = np.einsum("csp,sp->cs", renamed, references) / pairs.sum()
    return found > np.quantile(by_chance, 0.99), found


# %% [markdown]
# The group starts with those who agree most with all others. Then everyone is compared
# with what the others of the group say together, until nobody comes or goes.

# %%
group = agreement.sum(axis=1) > np.quantile(agreement.sum(axis=1), 0.8)
for _ in range(10):
    others = group[None] & ~np.eye(SUBJECTS, dtype=bool)
    together = np.stack([alone[some].mean(axis=0) for some in others])
    before, (group, _) = group, beyond_chance(ranks_of(together))
    if np.array_equal(group, before):
        break
print(f"{group.sum()} subjects share a graph; truly {is_sharing.sum()}")
print(f"right about {np.mean(group == is_sharing):.0%} of the subjects")

# %% [markdown]
# ## Together
#
# The recordings of the group as one. Who takes everybody for one gets the same graph,
# and believes it of thirty subjects who have others.

# %%
together = classical.rank_pairs(
    recordings.take(np.flatnonzero(group)), METHOD, shared_graph=True
)[0]
everybody = classical.rank_pairs(recordings, METHOD, shared_graph=True)[0]
print(f"the group as one graph: {auroc(together, shared):.3f}")
outside = [auroc(everybody, graph) for graph in graphs[~is_sharing]]
print(f"everybody as one, for those with other graphs: {np.mean(outside):.3f}")

# %% [markdown]
# `infer_relations(recordings.take(...), shared_graph=True)` trains modules on such a
# group; its verdict says whether they know more than this regression.
#
# ## A picture
#
# Left: the agreement of all subjects, those of the group first. Middle: one subject's
# scores. Right: the scores of the group; rings are the edges of the true graph.

# %%
figure = figure_style.new_figure(11.0, 4.0)
left, middle, right = figure.subplots(1, 3)
order = np.argsort(~group, kind="stable")
limits = np.quantile(agreement, [0.02, 0.98])
image = left.imshow(agreement[order][:, order], vmin=limits[0], vmax=limits[1])
left.set(title="agreement of subjects", xlabel="subject", ylabel="subject")
left.axhline(group.sum() - 0.5, color="white", linewidth=1.0)
left.axvline(group.sum() - 0.5, color="white", linewidth=1.0)
figure.colorbar(image, ax=left, shrink=0.8)
receivers, senders = np.nonzero(shared)
member = np.flatnonzero(group)[0] if group.any() else 0
for axes, scores, title in (
    (middle, alone[member], "one subject of the group"),
    (right, together, f"the {group.sum()} of the group together"),
):
    hidden = np.where(pairs, scores, np.nan)
    axes.imshow(hidden, cmap="Greys", vmax=np.nanquantile(hidden, 0.97))
    axes.plot(
        senders, receivers, "o", color=figure_style.COLORS[1], fillstyle="none", ms=9
    )
    axes.set(title=title, xlabel="sender", ylabel="receiver")
figure.savefig("shared_graph.png", dpi=130)
