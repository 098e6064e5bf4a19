"""The error of everything that has no graph."""

from __future__ import annotations


class UnsupportedLayerError(NotImplementedError):
    """A layer or operation that no rule turns into nodes and edges.

    The message names the path of the module and the layer or primitive. The remedy is
    a rule for the layer: `modmeta.metanet.register_rule`.
    """
