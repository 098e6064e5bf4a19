"""What edge modules see: states as they are, or relative geometry; no inputs."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from modmeta.relational.data import FeatureSpec
from modmeta.relational.modules.preprocessing import (
    FeatureLayout,
    Preprocessing,
    angle_differences,
)


def _raw(preprocessing, spec, senders, receivers):
    del preprocessing
    if spec.inputs:
        heard = np.delete(np.arange(spec.num_features), spec.inputs)
        senders, receivers = senders[..., heard], receivers[..., heard]
    return jnp.concatenate(jnp.broadcast_arrays(senders, receivers), axis=-1)


def _relative(preprocessing, spec, senders, receivers):
    parts, others = [], {*range(len(spec.names))} - {*spec.inputs}
    if spec.has_motion:
        parts += _relative_motion(preprocessing, spec, senders, receivers)
        others -= {*spec.positions, *spec.velocities}
    if spec.angles:
        parts += angle_differences(senders, receivers, spec.angles)
    if not spec.has_motion:  # else an angle may be a direction in space
        others -= {*spec.sines, *spec.cosines}
    if others:
        columns = np.array(sorted(others))
        parts += jnp.broadcast_arrays(senders[..., columns], receivers[..., columns])
    return jnp.concatenate(parts, axis=-1)


def _relative_motion(preprocessing, spec, senders, receivers):
    positions, velocities = np.array(spec.positions), np.array(spec.velocities)
    displacement = senders[..., positions] - receivers[..., positions]
    displacement = displacement / preprocessing.position_scale
    velocity = senders[..., velocities] - receivers[..., velocities]
    velocity = velocity / preprocessing.velocity_scale
    # The offset keeps the logarithm and its gradient finite where two nodes meet.
    squared = jnp.sum(displacement**2, axis=-1, keepdims=True) + 1e-8
    direction = displacement * jax.lax.rsqrt(squared)
    radial = jnp.sum(direction * velocity, axis=-1, keepdims=True)
    return [displacement, velocity, jnp.log(squared), direction, radial]


GEOMETRIES: dict[str, Callable] = {"raw": _raw, "relative": _relative}


def resolve_geometry(name: str, spec: FeatureSpec) -> str:
    """Resolves "auto" and checks that the features allow the geometry.

    "raw": sender state, receiver state (the paper). "relative": displacement,
    relative velocity, log squared distance, unit direction, radial velocity; sine and
    cosine of differences of angles; other features as they are, and angles too where
    there are positions. "auto": relative where positions and velocities or angles
    are known, else raw.

    Raises:
      ValueError: If the name is unknown or the features do not allow it.
    """
    has_geometry = spec.has_motion or bool(spec.angles)
    if name == "auto":
        return "relative" if has_geometry else "raw"
    if name not in GEOMETRIES:
        raise ValueError(
            f"geometry: found {name!r}, expected auto or one of {sorted(GEOMETRIES)}"
        )
    if name == "relative" and not has_geometry:
        raise ValueError(
            f"geometry: found 'relative' with positions {spec.positions} and "
            f"velocities {spec.velocities}, expected columns of both, or of sines and "
            "cosines"
        )
    return name


def edge_inputs(
    geometry: str,
    preprocessing: Preprocessing,
    layout: FeatureLayout,
    senders: jax.Array,
    receivers: jax.Array,
) -> jax.Array:
    """Inputs of the edge modules.

    Args:
      geometry: A key of `GEOMETRIES`.
      preprocessing: Fitted constants.
      layout: Static facts.
      senders: `[..., F]` normalised states of the senders.
      receivers: `[..., F]` of the receivers; the leading axes broadcast.

    Returns:
      `[..., inputs]`.
    """
    return GEOMETRIES[geometry](preprocessing, layout.spec, senders, receivers)
