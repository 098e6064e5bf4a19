"""Hidden entities as they are shown to a user."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

SAME_SYSTEMS = (
    "The modules were trained on these very systems: what is hidden in all of them may "
    "be part of the laws."
)

_NO_LAWS = (
    "The verdict does not support relations in what the modules learned from: under "
    "laws that data do not bear out, no trajectory counts as known."
)


@dataclasses.dataclass(frozen=True, repr=False)
class HiddenEntities:
    """Entities that were not recorded, as `RelationalInference.find_hidden` finds them.

    Letters: N node axis of the data, H largest number of hidden entities of a task, K
    relations.

    Attributes:
      num_hidden: `[tasks]` hidden entities that act on a visible one; as many as were
        asked for, where a number was given.
      states: `[tasks, time, H, features]` of the hidden entities, in the columns and
        units of the data. NaN where there is none, or it acts on nobody.
      deviations: `[tasks, time, H, features]` their standard deviations. Other fits
        that explain nearly as much widen them.
      is_known: `[tasks, H]` whether a trajectory is told by the data: it acts on a
        visible entity, all good fits agree on where it is, and no motion of the visible
        is left to explain.
      edges: `[tasks, N + H, N + H]` relations of the enlarged systems, row = receiver,
        column = sender, hidden entities last; -1 where there is no edge.
      probabilities: `[tasks, N + H, N + H, K]`.
      evidence: `[tasks, numbers]` negative logarithm of the evidence for 0, 1, ...
        hidden entities, in nats; infinite where a number was not tried.
      misfit: `[tasks]` how much errors exceed what the model expects of itself, and go
        on from frame to frame: 1 where nothing is left to explain.
      effects: `[tasks, H]` what a hidden entity changes, over all changes of the
        visible ones (root mean squares).
      notes: What to bear in mind, one sentence each.
    """

    num_hidden: np.ndarray
    states: np.ndarray
    deviations: np.ndarray
    is_known: np.ndarray
    edges: np.ndarray
    probabilities: np.ndarray
    evidence: np.ndarray
    misfit: np.ndarray
    effects: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What was found, and how far it can be believed, in plain words."""
        counts = np.bincount(self.num_hidden)
        told = [
            f"{count} with {number or 'none'}"
            for number, count in enumerate(counts)
            if count
        ]
        total = int(self.num_hidden.sum())
        text = f"Hidden entities were found in systems as follows: {', '.join(told)}."
        if total:
            known = int(self.is_known.sum())
            text += f" The trajectory of {known} of {total} is told by the data."
            if known < total:
                text += (
                    " That of the others is not: they act on no visible entity, "
                    "different places explain what was seen as well, or something is "
                    "left unexplained."
                )
        return f"{text} What acts on no visible entity cannot be known."

    def with_note(self, note: str) -> HiddenEntities:
        """The same with one note more."""
        return dataclasses.replace(self, notes=(*self.notes, note))

    def believed(self, is_supported: bool) -> HiddenEntities:
        """The same; nothing counts as known under laws that data do not bear out.

        Args:
          is_supported: Whether they bear out the relations of the modules.
        """
        if is_supported:
            return self
        return dataclasses.replace(
            self, is_known=np.zeros_like(self.is_known), notes=(*self.notes, _NO_LAWS)
        )

    def summary(self) -> dict[str, Any]:
        """Plain numbers and texts, as JSON holds them."""
        known = self.deviations[np.moveaxis(self._at(self.is_known), 2, 1)]
        return {
            "num_hidden": self.num_hidden.tolist(),
            "is_known": self.is_known.tolist(),
            "median_deviation": float(np.median(known)) if known.size else None,
            "effects": np.where(np.isfinite(self.effects), self.effects, 0.0).tolist(),
            "sentence": self.sentence,
            "notes": list(self.notes),
        }

    def _at(self, mask: np.ndarray) -> np.ndarray:
        """`[tasks, H]` as `[tasks, H, time]`."""
        shape = (*mask.shape, self.states.shape[1])
        return np.broadcast_to(mask[..., None], shape)

    def __repr__(self) -> str:
        """A few lines."""
        lines = [
            ("systems", f"{len(self.num_hidden):,}"),
            ("found", self.sentence),
            *(("note", note) for note in self.notes),
        ]
        rows = [f"  {name:<14}{value}" for name, value in lines]
        return "\n".join(["HiddenEntities", *rows])
