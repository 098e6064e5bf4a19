"""What recorded curves say: how often and how soon the best structures are found.

A trial is one chain on one problem. Letters: P problems of a size, R recorded numbers
of proposals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.search_scaling.measure import LEARNED, UNIFORM, Curves
from modmeta.relational.evaluation import matching

SHARES = (0.5, 0.9)
EXACT, AT_LEAST, AT_MOST = "exact", "at least", "at most"

Runs = Mapping[tuple[str, str], Curves]


class Scores(NamedTuple):
    """Scores of one search on the problems of one size.

    Attributes:
      proposals: `[R]` of a chain at one receiver.
      seconds: `[R]` all problems, all chains.
      probability: `[R]` share of trials at the best-known energy.
      system_probability: `[R]` share of systems, chain by chain, all of whose
        receivers are.
      edge_accuracy: `[R]` of the best structure so far.
      energy_gap: `[R]` mean nats above the best-known energy.
    """

    proposals: np.ndarray
    seconds: np.ndarray
    probability: np.ndarray
    system_probability: np.ndarray
    edge_accuracy: np.ndarray
    energy_gap: np.ndarray

    def proposals_to(self, share: float) -> int | None:
        """Proposals after which a share of the trials is there; None if never."""
        is_there = self.probability >= share
        return int(self.proposals[np.argmax(is_there)]) if is_there.any() else None


class Speedup(NamedTuple):
    """Uniform proposals per learned proposal.

    Attributes:
      factor: The ratio, or a bound of it; None if neither search got there.
      kind: `EXACT`; `AT_LEAST` if uniform proposals did not get there within their
        budget; `AT_MOST` if learned ones did not. None without a factor.
    """

    factor: float | None
    kind: str | None


def best_known(runs: Runs, exact: np.ndarray | None) -> np.ndarray:
    """Lowest energy `[P]` that any search found, and that there is if it is known."""
    lowest = [curves.energies[..., -1].min(axis=1) for curves in runs.values()]
    return np.min([*lowest, *([] if exact is None else [exact])], axis=0)


def compare_to_truth(
    true_energies: np.ndarray, best: np.ndarray, tolerance: float
) -> dict[str, float]:
    """Where the true structure stands beside the best-known one.

    Args:
      true_energies: `[P]` of the true structures, in the names of the modules.
      best: `[P]` best-known energies.
      tolerance: Nats within which two energies are equal.

    Returns:
      Shares of the problems whose true structure is lower, so that every search has
      failed, and whose true structure is higher, so that the modules are wrong there.
    """
    difference = true_energies - best
    return {
        "true_structure_lower": float(np.mean(difference < -tolerance)),
        "true_structure_higher": float(np.mean(difference > tolerance)),
    }


def module_names(runs: Mapping[int, Runs]) -> np.ndarray:
    """True relation of every module, one naming for all sizes and searches."""
    confusion = sum(
        curves.confusions[:, :, -1].sum(axis=(0, 1))
        for of_size in runs.values()
        for curves in of_size.values()
    )
    return matching.match_relations(confusion)


def score(
    curves: Curves,
    best: np.ndarray,
    proposals: np.ndarray,
    names: np.ndarray,
    *,
    size: int,
    tolerance: float,
) -> Scores:
    """Scores the curves of one search.

    Args:
      curves: What it found.
      best: `[P]` best-known energies.
      proposals: `[R]` at which it was recorded.
      names: True relation of every module.
      size: Entities per system; problems of a system follow one another.
      tolerance: Nats above the best-known energy that count as having reached it.
    """
    gaps = curves.energies - best[:, None, None]
    is_there = gaps <= tolerance
    of_system = is_there.reshape(-1, size, *is_there.shape[1:]).all(axis=1)
    confusions = curves.confusions.sum(axis=(0, 1))
    modules = np.arange(len(names))
    # Steps of one search last equally long.
    share = proposals / curves.num_proposals.max()
    return Scores(
        proposals=proposals,
        seconds=curves.seconds * np.minimum(share, 1.0),
        probability=is_there.mean(axis=(0, 1)),
        system_probability=of_system.mean(axis=(0, 1)),
        edge_accuracy=confusions[:, modules, names].sum(axis=1)
        / confusions.sum(axis=(1, 2)),
        energy_gap=gaps.mean(axis=(0, 1)),
    )


def speedup(uniform: Scores, learned: Scores, share: float) -> Speedup:
    """How many times fewer proposals learned search needs to get a share there."""
    needed = uniform.proposals_to(share), learned.proposals_to(share)
    if needed == (None, None):
        return Speedup(None, None)
    if needed[0] is None:
        return Speedup(float(uniform.proposals[-1] / needed[1]), AT_LEAST)
    if needed[1] is None:
        return Speedup(float(needed[0] / learned.proposals[-1]), AT_MOST)
    return Speedup(needed[0] / needed[1], EXACT)


def summarize(
    scores: Mapping[int, Mapping[tuple[str, str], Scores]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `summary.json` says about searches and speed-ups.

    Args:
      scores: By size, then by name and kind of a search.

    Returns:
      `(searches, speedups)`: by size, name and kind; by name and share of the trials:
      the speed-up at every size, the largest size at which learned proposals help
      (None: at no size), and the smallest from which on they are known not to (None:
      they help at the largest, or that is not known).
    """
    searches: dict[str, Any] = {}
    speedups: dict[str, Any] = {}
    for size, of_size in scores.items():
        for (name, kind), found in of_size.items():
            row = {
                "probability": float(found.probability[-1]),
                "system_probability": float(found.system_probability[-1]),
                "edge_accuracy": float(found.edge_accuracy[-1]),
                "energy_gap": float(found.energy_gap[-1]),
                "seconds": float(found.seconds[-1]),
                "budget": int(found.proposals[-1]),
            }
            for share in SHARES:
                row[f"proposals_to_{share:.0%}"] = found.proposals_to(share)
            by_name = searches.setdefault(str(size), {}).setdefault(name, {})
            by_name[kind] = row
        for name in dict.fromkeys(name for name, _ in of_size):
            if (name, LEARNED) not in of_size:
                continue
            for share in SHARES:
                found = speedup(of_size[name, UNIFORM], of_size[name, LEARNED], share)
                by_share = speedups.setdefault(name, {}).setdefault(
                    f"{share:.0%}", {"sizes": {}}
                )
                by_share["sizes"][str(size)] = found._asdict()
    for by_share in speedups.values():
        for found in by_share.values():
            found.update(where_it_helps(found["sizes"]))
    return searches, speedups


def _helps(found: Mapping[str, Any]) -> bool | None:
    """Whether the ratio is above 1; None if that is not known."""
    if found["kind"] in (EXACT, AT_LEAST) and found["factor"] > 1.0:
        return True
    if found["kind"] in (EXACT, AT_MOST) and found["factor"] <= 1.0:
        return False
    return None


def where_it_helps(by_size: Mapping[str, Mapping[str, Any]]) -> dict[str, int | None]:
    """Largest size at which learning helps; where it is known to help no longer."""
    verdicts = {int(size): _helps(found) for size, found in by_size.items()}
    helped = [size for size, helps in verdicts.items() if helps]
    stops_at = None
    for size in sorted(verdicts, reverse=True):
        if verdicts[size] is not False:
            break
        stops_at = size
    return {"helps_up_to": max(helped, default=None), "stops_helping_at": stops_at}
