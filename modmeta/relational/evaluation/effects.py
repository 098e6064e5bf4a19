"""Which relations are no interaction, and what relations are called."""

from __future__ import annotations

from collections.abc import Sequence

# A relation is "none" below this share of the effect of the strongest.
_NO_EFFECT = 0.05


def without_effect(effects: Sequence[float]) -> list[int]:
    """Relations whose edges change next to nothing, beside one whose edges do."""
    if not len(effects):
        return []
    strongest = max(effects)
    return [k for k, effect in enumerate(effects) if effect < _NO_EFFECT * strongest]


def relation_names(effects: Sequence[float], num_relations: int) -> tuple[str, ...]:
    """A name for every relation: "no interaction" for the first without effect.

    Args:
      effects: See `verdict.Verdict`; empty where they are not known.
      num_relations: Number of relations K.
    """
    none = without_effect(effects)[:1]
    return tuple(
        "no interaction" if k in none else f"relation {k}" for k in range(num_relations)
    )
