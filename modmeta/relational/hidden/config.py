"""How thoroughly hidden entities are looked for."""

from __future__ import annotations

import dataclasses

from modmeta.relational.data.domains import Domain
from modmeta.runtime import option_types


@dataclasses.dataclass(frozen=True)
class HiddenConfig:
    """How hidden entities are looked for.

    Attributes:
      num_candidates: Places and motions that every visible entity proposes.
      num_fits: The best of all of these, which are fitted.
      num_kept: The best fits, which a further hidden entity is added to.
      num_rounds: Times that the relations of a fit are chosen anew.
      first_share: Share of the recording that the first round sees of a path of one
        piece; it grows to all of it in the last two.
      piece_length: Frame intervals after which a path may begin anew, at a cost that
        grows from round to round, more in recordings of more than 65 frames; 0 for
        paths of one piece, as there are where messages cover several frames. None: 1 on
        two-body paths, whose encounters hide what comes after them, else 0.
      num_steps: Steps of least squares in every round.
      num_substeps: Steps per frame in which hidden entities are integrated; 0 for 2,
        or 8 on two-body paths, which are for forces that change within a frame.
      symmetric: Whether both edges of a pair have one relation, which then makes known
        what acts on a hidden entity, and lets the relations of all pairs be chosen
        together. None: as among the entities that the model learned from.
      is_repeated: Whether systems in which motion is left to explain are searched once
        more, several times as thoroughly; that compiles once more, too.
      domain: Where bodies can be; hidden ones are reflected at its walls.
    """

    num_candidates: int = 6
    num_fits: int = 8
    num_kept: int = 3
    num_rounds: int = 4
    first_share: float = 0.25
    piece_length: int | None = None
    num_steps: int = 8
    num_substeps: int = 0
    symmetric: bool | None = None
    is_repeated: bool = True
    domain: Domain = Domain()

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        for name in ("num_candidates", "num_fits", "num_kept", "num_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name}: found {getattr(self, name)}, expected at least 1"
                )
        if not 0.0 < self.first_share <= 1.0:
            raise ValueError(
                f"first_share: found {self.first_share}, expected above 0 to 1"
            )
        for name in ("num_steps", "num_substeps", "piece_length"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(
                    f"{name}: found {getattr(self, name)}, expected at least 0"
                )

    def more_thorough(self) -> HiddenConfig:
        """The same with four times as many fits, of more rounds and steps."""
        return dataclasses.replace(
            self,
            num_candidates=self.num_candidates + 2,
            num_fits=4 * self.num_fits,
            num_kept=2 * self.num_kept,
            num_rounds=self.num_rounds + 1,
            num_steps=self.num_steps + 2,
        )
