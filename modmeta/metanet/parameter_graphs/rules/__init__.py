"""Rules: how layers and primitives become nodes and edges. Importing registers them."""

from modmeta.metanet.parameter_graphs.rules import (  # noqa: F401
    attention,
    contractions,
    convolution,
    embedding,
    equivariant,
    glue,
    grids,
    linear,
    normalization,
    places,
    sequences,
)
