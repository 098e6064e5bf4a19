"""What a verdict says in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from modmeta.relational.inference.relations import Relations
from modmeta.relational.verdict.alternatives import Recommendation
from modmeta.relational.verdict.consistency import Consistency
from modmeta.relational.verdict.effects import no_interaction
from modmeta.relational.verdict.restarts import AGREEMENT

# Share of the changes that is worth a word if it stays unexplained.
UNEXPLAINED = 0.1
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


class Findings(NamedTuple):
    """What a verdict says of a graph, before it is put into words.

    Attributes:
      num_relations: See `verdict.Verdict`, as
      effects: are these.
      relations: The relations that were found.
      is_unclear: Whether something depends on other entities, though no relation is
        told from another.
      is_open: Whether nothing is certain to depend on other entities, but something
        well may.
      agreement: Share of the pairs on which restarts agree; None for a single run, or
        where pairs do not differ.
      unexplained: Share of the changes that the graph leaves unexplained.
      sure: Share of the pairs that are sure; None where nothing was sampled.
      is_vague: Whether hardly a pair is sure, and most stays unexplained.
      is_idle: Whether the own past of every entity explains as much.
      is_driven: Whether what the graph leaves goes together between entities.
      is_in_step: Whether systems share much of their course frame by frame.
      is_relayed: Whether entities tell of those whom they reach by others alone.
      is_mixed: Whether systems are of two sizes far apart.
      is_coarse: Whether pairs differ in more ways than the relations, and
      has_strengths: whether strengths of single pairs tell how.
      is_held_out: Whether frames were kept back to judge the graph.
      is_granted: Whether graphs are judged beside what entities do alone and together.
      is_new: Whether the model was trained on other systems than these.
      other: A classical method that explains more, if there is one.
      contradiction: How far halves of recordings agree, if they contradict each other.
    """

    num_relations: int
    effects: Sequence[float]
    relations: Relations
    is_unclear: bool
    is_open: bool
    agreement: float | None
    unexplained: float
    sure: float | None
    is_vague: bool
    is_idle: bool
    is_driven: bool
    is_in_step: bool
    is_relayed: bool
    is_mixed: bool
    is_coarse: bool
    has_strengths: bool
    is_held_out: bool
    is_granted: bool
    is_new: bool
    other: Recommendation | None
    contradiction: Consistency | None


def sentence(findings: Findings) -> str:
    """What the data say, in plain words."""
    return _claim(findings) + "".join(_reservations(findings)) + "."


def _claim(findings: Findings) -> str:
    """Which relations there are, or why none is told."""
    if findings.num_relations == 0 and findings.other is not None:
        return "This model finds nothing here that depends on other entities"
    if findings.is_unclear:
        text = (
            "Entities seem to act on each other, but these data do not tell which "
            "pairs differ, if any do: more systems might"
        )
        if findings.is_granted:
            text += "; if something moves bodies alike, relative_to_mean takes it out"
        return text
    if findings.is_open:
        return (
            "These frames are too few to tell whether anything here depends on other "
            "entities: more of them, or more recordings, might"
        )
    if findings.num_relations == 0 and findings.is_new:
        return (
            "The relations that this model was trained on are not found here: systems "
            "of another kind need a training of their own"
        )
    if findings.num_relations == 0 and findings.is_granted:
        return (
            "Nothing here speaks for relations: what every entity does alone and what "
            "all do alike explain as much, unless all follow one of them"
        )
    if findings.num_relations == 0:
        return "Nothing here depends on other entities, as far as these data tell"
    if findings.num_relations == 1:
        return "One relation holds between all entities: no pair differs from another"
    text = f"The data support {findings.num_relations} relations"
    none = no_interaction(findings.effects, findings.relations.edges)
    if none is not None:
        text += f" (relation {none} is no interaction)"
    if findings.sure is not None:
        text += f"; {findings.sure:.0%} of the pairs are sure"
    return text


def _reservations(findings: Findings) -> Iterator[str]:
    """What speaks against relying on the claim, and what may be done about it."""
    agreement, contradiction = findings.agreement, findings.contradiction
    if agreement is not None and agreement < AGREEMENT:
        yield (
            f"; but restarts agree on {agreement:.0%} of the pairs only: do not rely "
            "on this graph"
        )
    if contradiction is not None:
        yield (
            "; but both halves of the frames, each searched alone, contradict each "
            f"other on {1.0 - contradiction.agreement:.0%} of the pairs that both are "
            "sure of: laws may not fit or relations may change (changing=True)"
        )
        if findings.num_relations:
            yield ", and probabilities were lowered for that"
        if findings.num_relations and contradiction.agreement < AGREEMENT:
            yield ", do not rely on this graph"
    edges = np.asarray(findings.relations.edges)
    if findings.num_relations > 1 and may_share_graph(edges):
        yield (
            "; all systems may be recordings of one graph: shared_graph=True searches "
            "them as one"
        )
    if findings.num_relations and findings.unexplained > UNEXPLAINED:
        yield f"; {findings.unexplained:.0%} of the changes stay unexplained"
    if findings.is_vague:
        yield (
            ", and hardly a pair is sure: something that was not recorded may act "
            "here, do not rely on this graph"
        )
    if findings.is_idle:
        yield (
            "; but the own past of every entity alone, with a season if there is one, "
            "explains held-out frames as well: do not rely on this graph"
        )
    if findings.is_in_step:
        yield (
            "; but all systems share much of their course frame by frame, as under a "
            "season or a stimulus, which looks like relations: do not rely on this "
            "graph"
        )
    elif findings.is_driven:
        yield (
            "; but what stays unexplained goes together between entities, at the same "
            "frame or soon after: something that was not recorded may drive several of "
            "them, do not rely on this graph"
        )
    elif findings.is_relayed:
        yield (
            "; but entities tell of others more than those in between do: all may hear "
            "one driver that was not recorded, each at a lag of its own, or noise of "
            "measurement hides those in between, do not rely on this graph"
        )
    if findings.is_mixed:
        yield (
            "; but systems are of two sizes far apart, and a relation of one may be "
            "called another in the other: bring all to one unit, or infer each group "
            "by itself, do not rely on this graph"
        )
    if findings.is_coarse:
        yield (
            "; but a strength of every pair explains much of what these relations "
            "leave, so that pairs in between have one of them by chance: ask for more "
            "relations (num_relations='auto')"
        )
        if findings.has_strengths:
            yield ", or rank the pairs by their strengths (result.rank_pairs())"
        yield ", do not rely on this graph"
    if findings.num_relations and not findings.is_held_out:
        yield (
            "; but recordings are too short to keep frames back, so this is what the "
            "graph explains of frames that it was found in: do not rely on it"
        )
    if findings.other is not None:
        yield f"; but {findings.other.sentence}"
