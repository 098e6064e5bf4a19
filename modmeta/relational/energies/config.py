"""Which energy a structure has."""

from __future__ import annotations

import dataclasses

from modmeta import search
from modmeta.runtime import option_types

FORMS = ("one_step", "rollout")
PRIORS = ("none", "symmetric")


@dataclasses.dataclass(frozen=True)
class EnergyConfig:
    """What a search minimises.

    Attributes:
      form: "one_step": observed frames as input. "rollout": free roll-outs of
        `horizon` steps, as in the paper.
      horizon: Steps of a roll-out.
      prior: "none", or "symmetric": opposite edges should agree. Integer least squares
        searches such structures best.
      prior_weight: Nats per pair of edges that disagree, for "symmetric".
    """

    form: str = "one_step"
    horizon: int = 10
    prior: str = "none"
    prior_weight: float = 100.0

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        if self.form not in FORMS:
            raise ValueError(f"form: found {self.form!r}, expected one of {FORMS}")
        if self.prior not in PRIORS:
            raise ValueError(f"prior: found {self.prior!r}, expected one of {PRIORS}")
        if self.horizon < 1:
            raise ValueError(f"horizon: found {self.horizon}, expected at least 1")
        if not self.prior_weight >= 0.0:
            raise ValueError(
                f"prior_weight: found {self.prior_weight}, expected at least 0"
            )

    @property
    def couples_receivers(self) -> bool:
        """Whether the receivers of a system must be searched together."""
        return self.prior != "none" or self.form == "rollout"

    @property
    def traits(self) -> search.EnergyTraits:
        """What the energy offers to a search."""
        is_one_step = self.form == "one_step"
        return search.EnergyTraits(
            independent_receivers=not self.couples_receivers,
            relaxed=is_one_step,
            residuals=is_one_step,
        )

    def check_algorithm(self, name: str) -> None:
        """Refuses a search that cannot minimise this energy.

        Args:
          name: One of `modmeta.search.SEARCHES`.

        Raises:
          ValueError: If there is no such search, or the energy lacks what it needs.
        """
        search.check_energy(name, self.traits)
