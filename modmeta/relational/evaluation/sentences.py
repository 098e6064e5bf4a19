"""What a verdict says in plain words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modmeta.relational.evaluation.alternatives import Recommendation
from modmeta.relational.evaluation.consistency import Consistency
from modmeta.relational.evaluation.effects import no_interaction
from modmeta.relational.inference.relations import Relations

# Share of the changes that is worth a word if it stays unexplained.
UNEXPLAINED = 0.1
# Restarts, or parts of recordings, that agree on fewer pairs than this have not found
# the graph.
AGREEMENT = 0.9
# Systems whose graphs agree on so many more pairs than chance, of those that chance
# leaves, may be recordings of one.
_SHARED = 0.5


def may_share_graph(edges: np.ndarray) -> bool:
    """Whether graphs `[tasks, nodes, nodes]` agree far beyond chance."""
    is_edge = edges >= 0
    # Padded systems differ in size: they are not recordings of one.
    if len(edges) < 3 or (is_edge != is_edge[:1]).any() or not is_edge.any():
        return False
    shares = np.stack([(edges == k).mean(axis=0) for k in range(edges.max() + 1)])
    pairs = is_edge[0]
    count = len(edges)
    # Mean over pairs of systems, not of a system with itself.
    together = (np.sum(shares[:, pairs] ** 2, axis=0) * count - 1.0) / (count - 1)
    chance = float(np.sum(np.mean(shares[:, pairs], axis=1) ** 2))
    return bool(together.mean() - chance > _SHARED * (1.0 - chance) and chance < 1.0)


def sentence(
    num_relations: int,
    is_unclear: bool,
    effects: Sequence[float],
    agreement: float | None,
    unexplained: float,
    sure: float | None,
    found: Relations,
    is_vague: bool,
    is_idle: bool,
    is_driven: bool,
    is_in_step: bool,
    is_held_out: bool,
    is_granted: bool,
    is_new: bool,
    other: Recommendation | None,
    contradicting: Consistency | None,
) -> str:
    """What the data say, in plain words, see `verdict.Verdict`.

    `contradicting` is how far halves of recordings agree, where that is too little.
    """
    if num_relations == 0 and other is not None:
        text = "This model finds nothing here that depends on other entities"
    elif is_unclear:
        text = (
            "Entities seem to act on each other, but these data do not tell which "
            "pairs differ, if any do: more systems might"
        )
        if is_granted:
            text += "; if something moves bodies alike, relative_to_mean takes it out"
    elif num_relations == 0 and is_new:
        text = (
            "The relations that this model was trained on are not found here: systems "
            "of another kind need a training of their own"
        )
    elif num_relations == 0 and is_granted:
        text = (
            "Nothing here speaks for relations: what every entity does alone and what "
            "all do alike explain as much, unless all follow one of them"
        )
    elif num_relations == 0:
        text = "Nothing here depends on other entities, as far as these data tell"
    elif num_relations == 1:
        text = "One relation holds between all entities: no pair differs from another"
    else:
        text = f"The data support {num_relations} relations"
        none = no_interaction(effects, found.edges)
        if none is not None:
            text += f" (relation {none} is no interaction)"
        if sure is not None:
            text += f"; {sure:.0%} of the pairs are sure"
    if agreement is not None and agreement < AGREEMENT:
        text += (
            f"; but restarts agree on {agreement:.0%} of the pairs only: do not rely "
            "on this graph"
        )
    if contradicting is not None:
        text += (
            "; but both halves of the frames, each searched alone, contradict each "
            f"other on {1.0 - contradicting.agreement:.0%} of the pairs that both are "
            "sure of: laws may not fit or relations may change (changing=True)"
        )
        if num_relations:
            text += ", and probabilities were lowered for that"
        if num_relations and contradicting.agreement < AGREEMENT:
            text += ", do not rely on this graph"
    if num_relations > 1 and may_share_graph(np.asarray(found.edges)):
        text += (
            "; all systems may be recordings of one graph: shared_graph=True searches "
            "them as one"
        )
    if num_relations and unexplained > UNEXPLAINED:
        text += f"; {unexplained:.0%} of the changes stay unexplained"
    if is_vague:
        text += (
            ", and hardly a pair is sure: something that was not recorded may act "
            "here, do not rely on this graph"
        )
    if is_idle:
        text += (
            "; but the own past of every entity alone explains held-out frames as "
            "well: do not rely on this graph"
        )
    if is_in_step:
        text += (
            "; but all systems share much of their course frame by frame, as under a "
            "season or a stimulus, which looks like relations: do not rely on this "
            "graph"
        )
    elif is_driven:
        text += (
            "; but what stays unexplained goes together between entities at the same "
            "frame: something that was not recorded may drive several of them, do not "
            "rely on this graph"
        )
    if num_relations and not is_held_out:
        text += (
            "; but recordings are too short to keep frames back, so this is what the "
            "graph explains of frames that it was found in: do not rely on it"
        )
    if other is not None:
        text += f"; but {other.sentence}"
    return text + "."
