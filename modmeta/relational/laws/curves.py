"""The law of every relation: a curve with an uncertainty band, in the user's units.

Letters: K relations, C points of a curve, P parameters of a last layer, S systems.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats
from jax.flatten_util import ravel_pytree

from modmeta import networks
from modmeta.relational.data import TrajectoryDataset
from modmeta.relational.data.domains import minimum_image
from modmeta.relational.data.normalization import normalize
from modmeta.relational.data.validation import pair_mask
from modmeta.relational.evaluation.changes import median_factor
from modmeta.relational.inference.model import RelationalModel
from modmeta.relational.modules.bound_bank import BoundBank
from modmeta.relational.modules.laws import RelativeState, units_of
from modmeta.relational.modules.network import ModelParams
from modmeta.relational.modules.observations import observe
from modmeta.relational.tasks.batches import all_batches, unstacked
from modmeta.relational.tasks.states import host_states
from modmeta.relational.tasks.structures import TaskStructures, gather

# Of the distances that occur, the share left out at either end of a curve.
_TAIL = 0.002
# Systems that the band is computed from: more would cost time and tell no more.
_MAX_SYSTEMS = 200
# Of the weight of a curve of one sign, the share that may have the other.
_OTHER_SIGN = 0.02
# Of a rate: how near a formula has to come to count as right.
_FORMULA_ERROR = 0.01
# A band of so many standard deviations covers 95 of 100.
_BAND = 1.96


class PowerLaw(NamedTuple):
    """Rate = coefficient * distance^exponent; positive attracts.

    Attributes:
      coefficient: In the units of the rates at distance one.
      exponent: Power of the distance.
      r_squared: See `LawCurve.r_squared`.
    """

    coefficient: float
    exponent: float
    r_squared: float

    def __call__(self, distance: np.ndarray) -> np.ndarray:
        """Rates `[...]` at distances `[...]`."""
        return self.coefficient * distance**self.exponent


@dataclasses.dataclass(frozen=True)
class LawCurve:
    """One relation's law along the distances, or angles, that occur.

    Attributes:
      relation: Index of the relation.
      variable: "distance" or "phase difference".
      inputs: `[C]` in the units of the positions, or radians.
      rates: `[C]` what the sender adds to the acceleration of the receiver along the
        direction to the sender: positive attracts. In units of position per squared
        time; without velocities, of position, or radians, per time.
      lower: `[C]` and
      upper: `[C]`, a band of 95 % for what the data leave open of the last layer.
      weights: `[C]` how often inputs near a point occur; they sum to 1.
      num_edges: Edges that hold the relation.
      max_rate: What rates are cut off at, see `ModuleConfig.max_rate`; 0 for no bound.
    """

    relation: int
    variable: str
    inputs: np.ndarray
    rates: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    weights: np.ndarray
    num_edges: int
    max_rate: float = 0.0

    def r_squared(self, law: Callable[[np.ndarray], np.ndarray]) -> float:
        """Share of the variance of a law that the curve explains, by `weights`.

        NaN for a law that is the same everywhere, such as no interaction.
        """
        truth = np.asarray(law(self.inputs), np.float64)
        mean = np.sum(self.weights * truth)
        spread = np.sum(self.weights * np.square(truth - mean))
        error = np.sum(self.weights * np.square(truth - self.rates))
        return float(1.0 - error / spread) if spread > 0 else float("nan")

    def power_law(self) -> PowerLaw | None:
        """The power of the distance that is nearest to the curve.

        In logarithms, by how narrow the band is, where inputs occur; a part of the
        curve that follows another law counts little. `r_squared` is that of the power
        cut off at `max_rate`.
        None where the curve is of angles, changes its sign, or is nowhere told from
        zero.
        """
        is_known = (self.lower * self.upper > 0.0) & (self.weights > 0.0)
        net = np.sum(self.weights * np.sign(self.rates) * is_known)
        total = np.sum(self.weights * is_known)
        is_known &= np.sign(self.rates) == np.sign(net)
        is_one_sided = abs(net) > (1.0 - 2.0 * _OTHER_SIGN) * total
        if self.variable != "distance" or is_known.sum() < 3 or not is_one_sided:
            return None
        rates = np.abs(self.rates[is_known])
        relative = 0.5 * (self.upper - self.lower)[is_known] / (_BAND * rates)
        deviation = np.hypot(relative, _FORMULA_ERROR)
        x, y = np.log(self.inputs[is_known]), np.log(rates)
        start = scipy.stats.theilslopes(y, x)[:2]
        exponent, logarithm = scipy.optimize.least_squares(
            lambda line: (line[0] * x + line[1] - y) / deviation, start, loss="cauchy"
        ).x
        coefficient = float(np.sign(net) * np.exp(logarithm))
        law = PowerLaw(coefficient, float(exponent), 0.0)
        bound = self.max_rate or np.inf
        r_squared = self.r_squared(lambda x: np.clip(law(x), -bound, bound))
        return law._replace(r_squared=r_squared)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON holds."""
        values = dataclasses.asdict(self)
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }


def has_curve(model: RelationalModel) -> bool:
    """Whether a law is a function of one distance or one angle, others held."""
    if not model.bank.has_laws:
        return False
    spec = model.bank.layout.spec
    return bool(spec.positions) or len(spec.angles) == 1


def law_curves(
    model: RelationalModel,
    params: ModelParams,
    dataset: TrajectoryDataset,
    structures: TaskStructures,
    *,
    num_points: int = 200,
) -> list[LawCurve]:
    """Evaluates the law of every relation.

    Laws that depend on more than distance or angle are shown at relative velocity
    zero, with other features at their means, and where components are cut off
    (`ModuleConfig.max_rate`), for pairs that lie along an axis. Where entities differ,
    factors and laws are known up to one common scale: a law is that of an entity whose
    factor is the median. The band is that of a Laplace approximation of the last layer
    (Daxberger et al. 2021), with the sandwich covariance over systems, which holds
    where the likelihood is wrong too.

    Args:
      model: The model.
      params: Its arrays.
      dataset: Observed systems, raw units.
      structures: Their structures.
      num_points: Points C of every curve.

    Returns:
      One curve per relation, the null relation left out.

    Raises:
      ValueError: If the model has no laws of one distance or angle.
    """
    if not has_curve(model):
        raise ValueError(
            f"laws: found path {model.bank.config.path!r} and features "
            f"{model.bank.layout.spec}, expected laws of positions or of one angle"
        )
    dataset = model.read(dataset)
    occurring = _occurring(model, dataset, structures)
    some = dataset.without_labels().take(slice(0, _MAX_SYSTEMS))
    few = jax.tree.map(lambda leaf: np.asarray(leaf)[:_MAX_SYSTEMS], structures)
    covariance = _covariances(model, params, some, few)
    factor = median_factor(model, params, some, few)
    first = int(model.bank.config.null_relation)
    relations = np.asarray(structures.edge_modules)[pair_mask(dataset.node_mask)]
    curves = []
    for relation in range(first, model.num_relations):
        inputs = occurring[relation]
        if not len(inputs):
            inputs = np.concatenate(occurring)
        low, high = np.quantile(inputs, [_TAIL, 1.0 - _TAIL])
        if model.bank.layout.spec.positions:
            at = np.geomspace(max(low, 1e-3 * high), high, num_points)
            variable = "distance"
        else:
            at = np.linspace(-np.pi, np.pi, num_points)
            variable = "phase difference"
        relative, unit = _grid(model, params, dataset, at)
        rates, slopes = (
            factor * unit * values
            for values in _rates(model, params, relative, relation)
        )
        deviation = np.sqrt(
            np.maximum(
                np.einsum("cp,pq,cq->c", slopes, covariance[relation - first], slopes),
                0.0,
            )
        )
        edges = np.concatenate([[-np.inf], 0.5 * (at[1:] + at[:-1]), [np.inf]])
        counts = np.histogram(inputs, edges)[0]
        curves.append(
            LawCurve(
                relation=relation,
                variable=variable,
                inputs=at,
                rates=rates,
                lower=rates - _BAND * deviation,
                upper=rates + _BAND * deviation,
                weights=counts / counts.sum(),
                num_edges=int(np.sum(relations == relation)),
                max_rate=model.bank.config.max_rate,
            )
        )
    return curves


def _occurring(model, dataset, structures) -> list[np.ndarray]:
    """Distances or angle differences of the edges of every relation."""
    spec = model.bank.layout.spec
    states = np.asarray(dataset.states[:_MAX_SYSTEMS], np.float64)
    edges = np.asarray(structures.edge_modules)[:_MAX_SYSTEMS]
    pairs = pair_mask(dataset.node_mask[:_MAX_SYSTEMS])
    if spec.positions:
        where = states[..., list(spec.positions)]
        gap = where[:, :, None] - where[:, :, :, None]
        if spec.periodic:
            gap = minimum_image(gap, np.array(spec.periods))
        values = np.sqrt(np.sum(np.square(gap), axis=-1))
    else:
        ((sine, cosine),) = spec.angles
        angle = np.arctan2(states[..., sine], states[..., cosine])
        gap = angle[:, :, None, :] - angle[:, :, :, None]
        values = np.angle(np.exp(1j * gap))
    values = np.moveaxis(values, 1, -1)  # [tasks, receivers, senders, time]
    seen = np.moveaxis(dataset.is_observed[:_MAX_SYSTEMS], 1, -1)
    seen = seen[:, :, None] & seen[:, None]
    return [
        values[(pairs & (edges == relation))[..., None] & seen]
        for relation in range(model.num_relations)
    ]


def _grid(model, params, dataset, at: np.ndarray) -> tuple[RelativeState, float]:
    """Relative states at raw distances or at angles `[C]`, and the unit of rates."""
    law = model.bank.laws.law
    spec = law.layout.spec
    preprocessing = jax.tree.map(np.asarray, params.preprocessing)
    normalized = normalize(preprocessing.normalization, dataset.states)
    means = normalized[dataset.is_observed].mean(axis=0)
    others = []
    if spec.angles:
        angles = at if not spec.positions else np.zeros_like(at)
        for function in (np.sin, np.cos):
            others += [function(angles)] * len(spec.angles)
    for _ in range(2):
        others += [np.full_like(at, means[column]) for column in law.columns()]
    others = np.stack(others, axis=-1) if others else np.zeros((len(at), 0))
    displacement = velocity = None
    if spec.positions:
        unit = preprocessing.normalization.scale[spec.positions[0]]
        unit = float(unit * preprocessing.position_scale)
        displacement = np.zeros((len(at), law.num_axes))
        displacement[:, 0] = at / unit
        velocity = np.zeros_like(displacement) if spec.velocities else None
        power = 2 if spec.velocities else 1
        scale = unit / dataset.frame_interval**power
    else:
        turning = law.layout.num_targets - 1
        scale = float(preprocessing.target_scale[turning]) / dataset.frame_interval
    relative = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32),
        RelativeState(displacement, velocity, others),
    )
    return relative, scale


def last_layer(module: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Last layer of the rates of a law, and how to put another one in its place."""
    rates = module["rate_network"]
    name = max(rates, key=lambda key: int(key.rpartition("_")[2]))
    return rates[name], lambda layer: {**module, "rate_network": {**rates, name: layer}}


def _last_layer(edge: Any) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """The same, flat."""
    layer, put = last_layer(edge)
    flat, unravel = ravel_pytree(layer)
    return flat, lambda flat: put(unravel(flat))


def _rates(model, params, relative, relation) -> tuple[np.ndarray, np.ndarray]:
    """Rates `[C]` of one edge module, and their slopes `[C, P]` in its last layer."""
    laws = model.bank.laws
    units = units_of(laws.law, params.preprocessing, laws.span)
    flat, restore = _last_layer(networks.copy_of(params.modules.edge, relation))

    def rates(flat):
        rate, others, _ = laws.pair_rates(units, restore(flat), relative)
        return units.cut(rate)[:, 0] if laws.law.is_spatial else others[:, -1]

    values, slopes = jax.jit(lambda f: (rates(f), jax.jacfwd(rates)(f)))(flat)
    return np.asarray(values, np.float64), np.asarray(slopes, np.float64)


def _covariances(model, params, dataset, structures) -> list[np.ndarray]:
    """Sandwich covariances `[P, P]` of the last layers, one per edge module."""
    frames = host_states(dataset, params.preprocessing.normalization)
    of_each, curvatures = [], 0.0
    for batch in unstacked(all_batches(dataset.num_nodes, 1)):
        given = gather(batch, frames, structures)
        score, curvature = _statistics(model, params, *given)
        of_each.append(np.asarray(score, np.float64))
        curvatures = curvatures + np.asarray(curvature, np.float64)
    scores = np.stack(of_each)
    found = []
    for module in range(scores.shape[1]):
        curvature, of_systems = curvatures[module], scores[:, module]
        values, vectors = np.linalg.eigh(0.5 * (curvature + curvature.T))
        # Flat directions are those that the data say nothing about: a unit prior.
        inverse = (vectors / np.maximum(values + 1.0, 1.0)) @ vectors.T
        middle = of_systems.T @ of_systems + np.eye(len(values))
        found.append(inverse @ middle @ inverse)
    return found


@functools.partial(jax.jit, static_argnames="model")
def _statistics(model, params, frames, graph, structure):
    """Scores `[K, P]` of one system, and its curvatures `[K, P, P]`."""
    edge = params.modules.edge
    first = int(model.bank.config.null_relation)
    parts = [
        _last_layer(networks.copy_of(edge, k))
        for k in range(first, model.num_relations)
    ]
    flats = jnp.stack([flat for flat, _ in parts])

    def residuals(flats):
        copies = [
            restore(flat) for (_, restore), flat in zip(parts, flats, strict=True)
        ]
        if first:
            copies.insert(0, jax.tree.map(lambda leaf: leaf[0], edge))
        changed = jax.tree.map(lambda *leaves: jnp.stack(leaves), *copies)
        bound = BoundBank(
            model.bank, params.modules._replace(edge=changed), params.preprocessing
        )
        observed = observe(bound, graph, frames)
        outputs = bound.outputs(
            structure,
            observed.motion,
            graph.slot_senders,
            graph.slot_mask,
            observed.windows,
        )
        found = bound.residuals(
            outputs, observed.targets, observed.weights, observed.unit_changes
        )
        found = jnp.where(graph.node_mask[:, None, None], found, 0.0).reshape(-1)
        return found, found

    slopes, found = jax.jacfwd(residuals, has_aux=True)(flats)
    curvatures = jnp.einsum("rkp,rkq->kpq", slopes, slopes)
    return jnp.einsum("r,rkp->kp", found, slopes), curvatures
