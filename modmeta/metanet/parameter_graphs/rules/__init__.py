"""Rules: how layers of Flax become nodes and edges. Importing registers them."""

from modmeta.metanet.parameter_graphs.rules import (  # noqa: F401
    attention,
    convolution,
    embedding,
    equivariant,
    grids,
    linear,
    normalization,
)
