"""Which relations are no interaction, and what relations are called."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# A relation is "none" below this share of the effect of the strongest.
_NO_EFFECT = 0.05


def without_effect(effects: Sequence[float]) -> list[int]:
    """Relations whose edges change next to nothing, beside one whose edges do."""
    if not len(effects):
        return []
    strongest = max(effects)
    return [k for k, effect in enumerate(effects) if effect < _NO_EFFECT * strongest]


def no_interaction(effects: Sequence[float], edges: np.ndarray) -> int | None:
    """The relation to be called "no interaction"; None where there is none.

    That without effect which most pairs have: one that no pair has does nothing because
    of that, whatever its law is.

    Args:
      effects: See `verdict.Verdict`; empty where they are not known.
      edges: Relations of pairs, -1 where there is no edge.
    """
    edges = np.asarray(edges)
    counts = np.bincount(edges[edges >= 0], minlength=len(effects))
    return max(without_effect(effects), key=counts.__getitem__, default=None)


def strongest_per_edge(effects: Sequence[float], edges: np.ndarray) -> int:
    """The relation a single edge of which does most.

    Args:
      effects: See `verdict.Verdict`: of all edges of a receiver together.
      edges: Relations of pairs, -1 where there is no edge.
    """
    each = []
    for relation, effect in enumerate(effects):
        counts = np.sum(np.asarray(edges) == relation, axis=-1)
        typical = counts.sum() / max(np.count_nonzero(counts), 1)
        each.append(effect / np.sqrt(max(typical, 1.0)))
    return int(np.argmax(each))


def relation_names(
    effects: Sequence[float], edges: np.ndarray, num_relations: int
) -> tuple[str, ...]:
    """A name for every relation, see `no_interaction`.

    Args:
      effects: See `verdict.Verdict`; empty where they are not known.
      edges: Relations of pairs, -1 where there is no edge.
      num_relations: Number of relations K.
    """
    none = no_interaction(effects, edges)
    return tuple(
        "no interaction" if k == none else f"relation {k}" for k in range(num_relations)
    )
