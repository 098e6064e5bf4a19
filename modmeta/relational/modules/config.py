"""Sizes and options of the bank of modules."""

from __future__ import annotations

import dataclasses
import math

from modmeta import networks
from modmeta.runtime import option_types

# Every relation is a network, and what is listed grows with powers of their number.
_MOST_RELATIONS = 64

NODE_UPDATES = ("auto", "additive", "mlp")


LIKELIHOODS = ("auto", "gaussian", "student", "squared_error")


PATHS = ("auto", "start", "interpolated", "two_body")


LAWS = ("general", "central", "mutual")

# Evaluations of a law per interval, enough for what lies between two frames as a rule.
DEFAULT_POINTS = {"start": 1, "interpolated": 4, "two_body": 8}


SCALES = ("state", "feature")


ENTITIES = ("auto", "alike", "differ")


@dataclasses.dataclass(frozen=True)
class ModuleConfig:
    """Sizes and options of the bank.

    Attributes:
      path: What a message is. "interpolated": the integral of a law along the observed
        paths of both entities between two frames. "two_body": along the motion that
        the pair would take under that law alone, from both frames; for forces that
        change within a frame interval, such as close encounters. "start": a function
        of the states at the first frame alone, which need not be a law (the paper).
        "auto": interpolated where positions and velocities or angles are known, else
        start.
      law: What a law depends on. "general": distance, radial velocity and speed, along
        the displacement and the relative velocity. "central": distance, along the
        displacement. "mutual": central, and both entities of a pair feel it, alike but
        for what their attributes say; the two-body path then moves both. Differences of
        angles, and other features of both ends, are seen by all of them.
      max_rate: What every component of an entity's acceleration (without velocities, of
        its velocity) is cut off at, in the units of the data, where that is known: a
        motor has a largest force, and simulators clip what close encounters would make
        of it. Laws are then what acts before. 0 for no such bound; messages from the
        start have none.
      attributes: Whether laws read features that do not change in time.
      entities: "alike": what is not in a column is the same for all. "differ": the sum
        of the messages to an entity counts by a factor of its own (an unknown mass),
        and it has offsets of its own (an unknown frequency, a drift), see
        `modules.entities`; how much they differ is learned, down to not at all.
        "auto": differ where messages are integrals of laws, else alike.
      num_points: Evaluations of a law per frame interval; 0 for 4 on interpolated and
        8 on two-body paths.
      span: Frame intervals that a message covers. Of noisy observations, the changes
        over several tell more than those over one. 0 for as many as it takes to stand
        out of the noise of the training data, see `data.noise.choose_span`; 1 for
        messages from the start.
      num_relations: Number of edge modules K, at least 2.
      num_node_modules: Number of node modules M.
      null_relation: Whether edge module 0 sends no message ("no relation").
      edge_sizes: Hidden layers of an edge module.
      message_size: Size of a message; one of "additive" has that of the outputs.
      node_sizes: Hidden layers of a node module.
      node_update: "additive": a message is what an edge adds to the change of its
        receiver and to the variance of that, the node module says what the own state
        adds, and no message changes what another one means, however many there are.
        "mlp": messages are summed into the first layer of the node module (the paper).
        "auto": additive where edge modules see relative geometry, as forces and
        couplings add up.
      activation: See `modmeta.networks.ACTIVATIONS`.
      activate_messages: Whether the activation is applied to messages (the paper).
      geometry: Inputs of the edge modules, see `preprocessing.resolve_geometry`.
      likelihood: "gaussian": energies are negative log-likelihoods in nats, with
        learned scales. "student": the same with 4 degrees of freedom, for errors of
        which few are large. "squared_error": sums of squared errors (the paper up to
        its normaliser). "auto": student for laws, else gaussian.
      scale: "state": the node module predicts a log-scale per output, around one
        learned per feature. "feature": one learned scale per feature alone.
    """

    path: str = "auto"
    law: str = "general"
    max_rate: float = 0.0
    attributes: bool = True
    entities: str = "auto"
    num_points: int = 0
    span: int = 0
    num_relations: int = 2
    num_node_modules: int = 1
    null_relation: bool = False
    edge_sizes: tuple[int, ...] = (32, 32)
    message_size: int = 64
    node_sizes: tuple[int, ...] = (32, 32)
    node_update: str = "auto"
    activation: str = "silu"
    activate_messages: bool = False
    geometry: str = "auto"
    likelihood: str = "auto"
    scale: str = "state"

    def __post_init__(self) -> None:
        """Checks the options."""
        option_types.settle(self)
        if not 2 <= self.num_relations <= _MOST_RELATIONS:
            raise ValueError(
                f"num_relations: found {self.num_relations}, expected at least 2 and "
                f"at most {_MOST_RELATIONS}"
            )
        if self.num_node_modules < 1:
            raise ValueError(
                f"num_node_modules: found {self.num_node_modules}, expected at least 1"
            )
        for field in ("edge_sizes", "node_sizes"):
            if not getattr(self, field):
                raise ValueError(f"{field}: found no layer, expected at least one")
            if min(getattr(self, field)) < 1:
                raise ValueError(
                    f"{field}: found {getattr(self, field)}, expected at least 1 in "
                    "every layer"
                )
        if self.node_update not in NODE_UPDATES:
            raise ValueError(
                f"node_update: found {self.node_update!r}, expected one of "
                f"{NODE_UPDATES}"
            )
        if self.activate_messages and self.node_update == "additive":
            raise ValueError(
                "activate_messages: found True with node_update 'additive', expected "
                "False: messages are changes of the receiver, of either sign"
            )
        choices = (("path", PATHS), ("law", LAWS), ("entities", ENTITIES))
        for field, known in choices:
            if getattr(self, field) not in known:
                raise ValueError(
                    f"{field}: found {getattr(self, field)!r}, expected one of {known}"
                )
        if self.num_points < 0 or (self.path == "two_body" and self.num_points % 2):
            raise ValueError(
                f"num_points: found {self.num_points}, expected 0 or a positive "
                "number, even on two-body paths"
            )
        if not 0.0 <= self.max_rate < math.inf:
            raise ValueError(
                f"max_rate: found {self.max_rate}, expected a positive number, or 0 "
                "for no bound"
            )
        if self.span < 0 or (self.path == "start" and self.span > 1):
            raise ValueError(
                f"span: found {self.span} with path {self.path!r}, expected 0, 1, or "
                "more with laws"
            )
        if self.likelihood not in LIKELIHOODS:
            raise ValueError(
                f"likelihood: found {self.likelihood!r}, expected one of {LIKELIHOODS}"
            )
        if self.scale not in SCALES:
            raise ValueError(f"scale: found {self.scale!r}, expected one of {SCALES}")
        networks.get_activation(self.activation)
