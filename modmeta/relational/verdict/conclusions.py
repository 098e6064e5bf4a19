"""Whether a graph can be believed, in one sentence.

A graph is found in the first part of every recording and asked about the rest, against
graphs that know nothing: its own relations on other pairs, one relation everywhere, no
relation at all. Labels never get here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.inference.config import InferenceConfig
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.inference.relations import Relations
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.verdict import restarts
from modmeta.relational.verdict.alternatives import (
    goes_together,
    is_worthless,
    recommend,
)
from modmeta.relational.verdict.consistency import SURE, tempered
from modmeta.relational.verdict.finer import STRENGTHS
from modmeta.relational.verdict.gains import (
    is_certain,
    is_certain_by_share,
    is_ruled_out,
    is_worthwhile,
    typical_sums,
)
from modmeta.relational.verdict.held_out import Evidence, gather
from modmeta.relational.verdict.relays import has_relays
from modmeta.relational.verdict.restarts import AGREEMENT
from modmeta.relational.verdict.sentences import UNEXPLAINED, Findings, sentence

# Relations, and differences between them, must change this share of all changes (root
# mean squares).
_NOTICEABLE = 0.03
# A graph of which fewer pairs are sure, and that leaves more of the changes
# unexplained, may stand for something that was not recorded.
_FEW_SURE, _MOSTLY_UNEXPLAINED = 0.25, 0.5
# What numbers of single pairs leave of what relations leave, if these are too few.
_COARSE = 0.75
# Of fewer blocks there is no standard error.
_MIN_BLOCKS = 3


class Verdict(NamedTuple):
    """What the data say about the graph that was found.

    Attributes:
      supported: Whether relations are needed to explain frames that were held out,
        beside what entities do alone and what all of a system do together, and some
        pairs are sure or most of the changes explained; whether both halves of
        the frames, and restarts, agree; whether a model that hears the
        frames before is the right one for them; whether systems are of one size, and
        pairs no more different than relations; of
        series, also whether they explain surely more than the own past of every node,
        and leave nothing that goes together between nodes, joined or not, and whether
        systems go their own ways. False where recordings are too short to hold frames
        out.
      num_relations: Relations that the data tell apart, "no relation" among them where
        some pairs have none; 1 if one holds everywhere, 0 if nothing depends on other
        entities.
      held_out_ratio: Squared error on held-out frames under the graph found, over the
        lowest under graphs that know nothing, without the twentieth of the recordings
        that speaks most for either; near 0 is good, 1 is worthless.
      effects: Change that the edges of every relation make, over all changes (root
        mean squares); about 0 for "no relation".
      agreement: Share of the pairs on which restarts agree, names matched; None for a
        single run.
      num_segments: Stretches with a graph of their own in the typical recording; 1
        where nobody asked whether relations change.
      sentence: All that in plain words.
      recommended: What ranks pairs better: the name of a classical method in
        `classical.METHODS` whose regression explains the held-out frames better, or
        "strengths" where pairs differ in more ways than relations; else None.
      temperature: By which probabilities were lowered, see `consistency.Consistency`; 1
        where both halves of the frames tell the same.
    """

    supported: bool
    num_relations: int
    held_out_ratio: float
    effects: tuple[float, ...]
    agreement: float | None
    num_segments: int
    sentence: str
    recommended: str | None = None
    temperature: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for JSON."""
        return {**self._asdict(), "effects": list(self.effects)}


def judge(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    found: Relations,
    config: InferenceConfig,
    others: Sequence[np.ndarray] = (),
    *,
    is_new: bool = False,
) -> Verdict:
    """Judges the graph of a data set.

    Args:
      rng_key: Consumed by the search in the first part of every recording.
      model: The model.
      params: Its trained arrays.
      dataset: The systems, raw units; labels are not looked at.
      found: Their relations.
      config: The search that found them.
      others: Edges `[tasks, nodes, nodes]` that other trainings found.
      is_new: Whether the model was trained on other systems than these.
    """
    evidence = gather(rng_key, model, params, dataset, config)
    agreement = None
    if others:
        agreement = float(
            np.mean([restarts.agreement(found.edges, edges) for edges in others])
        )
    return conclude(evidence, agreement, found, is_new=is_new)


def count_relations(
    rng_key: jax.Array,
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    config: InferenceConfig,
) -> int:
    """Relations that the data tell apart, see `Verdict.num_relations`.

    Args:
      rng_key: Consumed by the search in the first part of every recording.
      model: The model.
      params: Its trained arrays.
      dataset: The systems, raw units; labels are not looked at.
      config: How relations are searched.
    """
    return _count(gather(rng_key, model, params, dataset, config))


def conclude(
    evidence: Evidence,
    agreement: float | None,
    found: Relations,
    *,
    is_new: bool = False,
) -> Verdict:
    """The verdict that follows from evidence and the agreement of restarts."""
    left, ignorant = typical_sums(evidence.found, _best_ignorant(evidence))
    ratio = left / max(ignorant, 1e-30)
    num_relations = _count(evidence)
    is_graph, is_any = num_relations > 1, num_relations > 0
    unexplained = float(evidence.found.sum() / max(evidence.total.sum(), 1e-30))
    is_repeated = agreement is None or agreement >= AGREEMENT or not is_graph
    other = recommend(evidence.alternatives)
    is_too_fast = other is not None and other.is_within_frame
    is_idle = is_any and is_worthless(evidence.alternatives)
    is_driven = is_graph and not is_too_fast and goes_together(evidence.alternatives)
    is_in_step = is_any and evidence.is_in_step
    is_driven |= is_in_step
    is_mixed = is_graph and evidence.is_mixed
    is_coarse = is_graph and _is_coarse(evidence)
    recommended = STRENGTHS if is_coarse and evidence.has_laws else None
    if other is not None:
        recommended = other.method
    is_sound = evidence.is_held_out and not (is_too_fast or is_idle)
    is_relayed = is_graph and _is_relayed(evidence)
    is_sound = is_sound and not (is_driven or is_relayed or is_mixed or is_coarse)
    is_unclear = max(evidence.effects) >= _NOTICEABLE and not is_any
    is_unclear = is_unclear and any(
        _is_better(error, evidence.none) for error in (evidence.found, *evidence.single)
    )
    halves = evidence.consistency
    is_contradicted = halves is not None and halves.temperature > 1.0
    contradiction = halves if is_contradicted and (is_graph or is_unclear) else None
    temperature = halves.temperature if is_contradicted and is_graph else 1.0
    is_torn = contradiction is not None and contradiction.agreement < AGREEMENT
    sure = _share_of_sure(tempered(found, temperature))
    is_vague = unexplained > _MOSTLY_UNEXPLAINED and sure is not None
    is_vague = is_vague and is_graph and sure < _FEW_SURE
    supported = is_any and is_repeated and is_sound and not (is_vague or is_torn)
    findings = Findings(
        num_relations=num_relations,
        effects=evidence.effects,
        relations=found,
        is_unclear=is_unclear,
        is_open=not is_any and _is_open(evidence),
        agreement=agreement if is_graph else None,
        unexplained=unexplained,
        sure=sure,
        is_vague=is_vague,
        is_idle=is_idle,
        is_driven=is_driven,
        is_in_step=is_in_step,
        is_relayed=is_relayed,
        is_mixed=is_mixed,
        is_coarse=is_coarse,
        has_strengths=recommended == STRENGTHS,
        is_held_out=evidence.is_held_out,
        is_granted=evidence.is_granted,
        is_new=is_new,
        other=other,
        contradiction=contradiction,
    )
    return Verdict(
        supported=bool(supported),
        num_relations=num_relations,
        held_out_ratio=ratio,
        effects=evidence.effects,
        agreement=agreement,
        num_segments=1,
        sentence=sentence(findings),
        recommended=recommended,
        temperature=temperature,
    )


def settle(found: Relations, verdict: Verdict) -> Relations:
    """Takes back what the verdict does not bear out.

    Where nothing depends on other entities, or one relation holds everywhere, the
    pairs that a search told apart are not different: all have one relation. Where
    there is no evidence for any, no relation has a higher probability than another.
    Where parts of recordings contradict each other, probabilities are lower.
    """
    if verdict.num_relations > 1:
        return tempered(found, verdict.temperature)
    edges = np.asarray(found.edges)
    num_relations = np.shape(found.probabilities)[-1]
    is_edge = edges >= 0
    if verdict.num_relations == 0:
        kept = int(np.argmin(verdict.effects))
        flat = np.full(num_relations, 1.0 / num_relations, np.float32)
    else:
        kept = int(np.bincount(edges[is_edge], minlength=num_relations).argmax())
        flat = np.eye(num_relations, dtype=np.float32)[kept]
    probabilities = np.where(is_edge[..., None], flat, 0.0)
    return found._replace(
        edges=np.where(is_edge, kept, edges),
        probabilities=probabilities if found.is_sampled else found.probabilities,
    )


def _is_better(error: np.ndarray, other: np.ndarray) -> bool:
    """Whether errors `[blocks]` are lower by enough, and surely."""
    if len(error) < _MIN_BLOCKS or not is_worthwhile(error, other):
        return False
    return is_certain(error, other) or is_certain_by_share(error, other)


def _tells_apart(evidence: Evidence, other: np.ndarray) -> bool:
    """Whether the graph found is better than another by what is worth a relation.

    Where nothing disturbs, two laws that are nearly the same are told apart by
    millionths of what relations do.
    """
    return _is_noticeable(evidence, other) and _is_better(evidence.found, other)


def _is_noticeable(evidence: Evidence, other: np.ndarray) -> bool:
    """Whether the graph found is better than another by so much, surely or not."""
    left, without = typical_sums(evidence.found, other)
    return without - left >= _NOTICEABLE**2 * float(evidence.none.sum())


def _is_coarse(evidence: Evidence) -> bool:
    """Whether numbers of single pairs explain much of what the relations leave."""
    found, by_pairs = evidence.found, evidence.by_pairs
    if by_pairs is None or by_pairs.sum() > _COARSE * found.sum():
        return False
    gain = float((found - by_pairs).sum())
    return gain >= _NOTICEABLE**2 * evidence.none.sum() and _is_better(by_pairs, found)


def _is_relayed(evidence: Evidence) -> bool:
    """Whether entities tell of those whom they reach by others alone, see `relays`."""
    # Where laws explain all but a little, that little may be what laws get wrong.
    unexplained = evidence.found.sum() > UNEXPLAINED * evidence.total.sum()
    return bool(unexplained) and has_relays(evidence.relayed)


def _is_open(evidence: Evidence) -> bool:
    """Whether entities may well depend on each other, though that is not certain."""
    pairs = []
    if max(evidence.effects) >= _NOTICEABLE:
        known = (evidence.found, *evidence.single)
        pairs += [(error, evidence.none) for error in known]
    if evidence.alternatives is not None:
        _, own, *others = evidence.alternatives[:4]
        # What regressions lose by having few frames says nothing.
        pairs += [(error, own) for error in others if error.sum() < own.sum()]
    return not all(is_ruled_out(error, other) for error, other in pairs)


def _best_ignorant(evidence: Evidence) -> np.ndarray:
    """Errors `[blocks]` of the best graph that knows nothing."""
    return min([evidence.none, *evidence.single, evidence.shuffled], key=np.sum)


def _count(evidence: Evidence) -> int:
    """Relations that cannot stand for one another on held-out frames, see `Verdict`."""
    if max(evidence.effects) < _NOTICEABLE:
        return 0
    if not _tells_apart(evidence, _best_ignorant(evidence)):
        single = min(evidence.single, key=np.sum)
        # Where the graph tells pairs apart and errs by it, or gains by it though not
        # surely, or much stays unexplained, pairs are not said to be alike: something
        # else may hide how they differ.
        is_alike = single.sum() <= UNEXPLAINED * evidence.total.sum()
        is_alike = is_alike and not is_worthwhile(single, evidence.found)
        is_gain = is_worthwhile(evidence.found, single)
        is_alike = is_alike and not (is_gain and _is_noticeable(evidence, single))
        return int(is_alike and _is_better(single, evidence.none))
    return max(_num_distinct(evidence), 2)


def _num_distinct(evidence: Evidence) -> int:
    """Relations that are left when those that another can stand for are taken away.

    The one that is missed least goes first: one that few pairs have, and that others
    can stand for, may well stand for none of them.
    """
    merged = evidence.merged
    kept = {relation for pair in merged for relation in pair}
    while True:
        losses = {}
        for relation in kept:
            others = [merged[a, relation] for a in kept - {relation}]
            if not all(_tells_apart(evidence, error) for error in others):
                losses[relation] = min(error.sum() for error in others)
        if not losses:
            return len(kept)
        kept.remove(min(losses, key=losses.__getitem__))


def _share_of_sure(found: Relations) -> float | None:
    """Share of the pairs that are sure; None where nothing was sampled."""
    if not found.is_sampled:
        return None
    is_edge = np.asarray(found.edges) >= 0
    surest = np.max(np.asarray(found.probabilities), axis=-1)[is_edge]
    return float(np.mean(surest > SURE))
