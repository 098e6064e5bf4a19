"""Roll-outs: observed states that the composed network, or law, carries on from.

Nothing here knows what was recorded afterwards.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from modmeta import search
from modmeta.graphs.supergraphs import SuperGraph
from modmeta.relational.data import DataError, TrajectoryDataset
from modmeta.relational.data.domains import Domain, check_walls
from modmeta.relational.futures.start_frames import StartFrames
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.bank import ModuleBank
from modmeta.relational.modules.integration import Integrator
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.modules.preprocessing import with_columns
from modmeta.relational.tasks.batches import all_batches, unstacked
from modmeta.relational.tasks.structures import TaskStructures, gather

# Substeps per frame are doubled until a prediction moves by less than this, in
# normalised units, at all but one in a hundred values; or until there are so many.
_TOLERANCE, _MOST = 1e-4, 0.99
# What moves more than this at the end is told.
_UNSETTLED = 0.1
_FIRST_SUBSTEPS, _MAX_SUBSTEPS = 8, 128


@functools.partial(jax.jit, static_argnames=("model", "num_steps", "domain"))
def _predict(
    model: RelationalModel,
    params: ModelParams,
    begin: StartFrames,
    graph: SuperGraph,
    structure: search.Structure,
    num_steps: int,
    num_substeps: jax.Array,
    domain: Domain,
) -> jax.Array:
    """Rolls out one batch, leaves of `begin` `[N, ...]`, to `[S, nodes, steps, F]`."""
    modules = model.network.modules(params)
    slot_mask = graph.slot_mask
    if begin.is_present is not None:
        slot_mask = slot_mask & begin.is_present[graph.slot_senders]
    slots = (graph.slot_senders, slot_mask)

    columns = model.bank.layout.spec.inputs

    def body(current, step):
        duration, inputs, errors, is_kept = step
        if model.bank.has_laws:
            integrator = Integrator(
                modules,
                structure,
                *slots,
                num_substeps,
                domain,
                begin.effects,
                inputs,
            )
            following = integrator.advance(current, duration)
            if errors is not None:
                scale = params.preprocessing.target_scale
                shown = integrator.move(following, errors * scale[None])
                return jnp.where(is_kept, shown, following), shown
        else:
            following = modules.step(structure, current[:, None], *slots)[:, 0]
            if inputs is not None:
                following = with_columns(following, columns, inputs)
        return following, following

    steps = jax.tree.map(
        lambda leaf: jnp.moveaxis(leaf, 1, 0),
        (begin.durations, begin.inputs, begin.errors),
    )
    # Errors at the end of a window go on, those on the way are of observation as well.
    is_kept = (jnp.arange(num_steps) + 1) % model.bank.config.span == 0
    _, rollout = jax.lax.scan(body, begin.states, (*steps, is_kept), length=num_steps)
    values = jnp.moveaxis(rollout, 0, 1)[graph.system_nodes]
    return values * graph.system_mask[..., None, None]


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """Systems that can be rolled out again and again, by one compiled program.

    Attributes:
      model: The model.
      params: Its arrays.
      num_nodes: `[tasks]` entities of every system.
      max_nodes: Length of the node axis.
      structures: Structures of the systems.
      domain: Where bodies can be.
      batch_size: Systems at once.
    """

    model: RelationalModel
    params: ModelParams
    num_nodes: np.ndarray
    max_nodes: int
    structures: TaskStructures
    domain: Domain
    batch_size: int

    @functools.cached_property
    def _batches(self):
        return unstacked(all_batches(self.num_nodes, self.batch_size))

    def __call__(
        self, begin: StartFrames, num_steps: int, num_substeps: int
    ) -> np.ndarray:
        """Predicts `[tasks, num_steps, nodes, F]` in normalised units.

        Args:
          begin: What the roll-out starts from.
          num_steps: Frames to predict.
          num_substeps: Steps per frame in which laws are integrated.
        """
        count = np.int32(num_substeps)
        structures = jax.tree.map(np.asarray, self.structures)
        found = [
            np.asarray(
                _predict(
                    self.model,
                    self.params,
                    *gather(batch, begin, structures),
                    num_steps,
                    count,
                    self.domain,
                )
            )
            for batch in self._batches
        ]
        values = np.concatenate(found)[: len(self.num_nodes)]
        # The node axis may be longer than the largest of these systems.
        missing = self.max_nodes - values.shape[1]
        values = np.pad(values, ((0, 0), (0, missing), (0, 0), (0, 0)))
        return values.swapaxes(1, 2)


def check_domain(bank: ModuleBank, domain: Domain, dataset: TrajectoryDataset) -> None:
    """Refuses walls that predictions of a bank cannot meet, see `domains.check_walls`.

    Raises:
      DataError: If walls are declared where there are no laws or no velocities, or a
        body was seen outside.
      ValueError: If the domain is not of these data.
    """
    has_motion = bank.has_laws and bank.layout.spec.has_motion
    if domain.kind == "reflecting" and not has_motion:
        raise DataError(
            f"domain: found {domain.kind!r} with path {bank.config.path!r}, expected "
            "laws of positions and velocities"
        )
    check_walls(domain, dataset)


def settled(run: Callable[[int], np.ndarray]) -> tuple[np.ndarray, int]:
    """A prediction with as many steps per frame as it takes, and that number.

    They are doubled until that changes next to nothing. Where the most do not suffice,
    as in chaotic motion, a warning says from which predicted frame on.

    Args:
      run: Predicts `[tasks, num_steps, nodes, F]`, normalised, with so many steps.
    """
    count, found = _FIRST_SUBSTEPS, run(_FIRST_SUBSTEPS)
    while count < _MAX_SUBSTEPS:
        count *= 2
        finer = run(count)
        moved, found = np.abs(finer - found), finer
        if np.quantile(moved, _MOST) < _TOLERANCE:
            return found, count
    error = np.quantile(moved, _MOST, axis=(0, 2, 3))
    if np.any(error > _UNSETTLED):
        first = int(np.argmax(error > _UNSETTLED)) + 1
        warnings.warn(
            f"predictions: found that {count // 2} and {count} steps per frame differ "
            f"by {np.max(error):.1g} from frame {first} of {len(error)} on (1 is half "
            "the range of the data): there, they are one of many that are as likely",
            stacklevel=4,
        )
    return found, count
