"""Names of node types, edge types and node attributes, and their integer ids.

Ids are features of graphs, so they must not depend on the order of imports: built-in
names are listed here, and only names of other packages are registered at run time.
"""

from __future__ import annotations


class Vocabulary:
    """An append-only list of names; the id of a name is its position.

    Attributes:
      kind: What the names stand for, for error messages.
    """

    def __init__(self, kind: str, names: tuple[str, ...]):
        self.kind = kind
        self._ids = {name: index for index, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of their ids."""
        return tuple(self._ids)

    def register(self, name: str) -> int:
        """Adds a name, unless it is there, and returns its id."""
        return self._ids.setdefault(name, len(self._ids))

    def id(self, name: str) -> int:
        """The id of a name; ValueError if it is unknown."""
        if name not in self._ids:
            raise ValueError(
                f"{self.kind}: found {name!r}, expected one of {', '.join(self.names)}"
            )
        return self._ids[name]

    def name(self, index: int) -> str:
        """The name of an id."""
        return self.names[index]


NODE_TYPES = Vocabulary(
    "node type",
    (
        "input",
        "linear",  # weighted sum of its incoming edges
        "convolution",
        "bias",  # outputs 1
        "position",  # a row of a table; outputs 1 at its position
        "table",  # entry of a table as a unit of its own
        "sum",
        "product",
        "maximum",
        "minimum",
        "view",  # a further function of a unit
        "copy",  # a unit at one position, or a unit in a second role
        "reduce_sum",
        "reduce_max",
        "reduce_min",
        "reduce_product",
        "pool_sum",
        "pool_max",
        "pool_min",
        "pad",
        "slice",
        "join",  # concatenation along an axis that units are shared on
        "batch_norm",
        "layer_norm",
        "rms_norm",
        "group_norm",
        "instance_norm",
        "scale",  # outputs 1; its edges hold the gain of a normalisation
        "shift",
        "mean",
        "variance",
        # Attention.
        "query",
        "key",
        "value",
        "attention_product",
        "head",
        "attended",
        "attention_output",
        # Embeddings, set layers, cyclic layers and grids.
        "vocabulary",
        "embedding",
        "set",
        "set_mean",
        "cyclic",
        "grid_point",
        "grid_feature",
        "moments",  # what a normalisation takes from the units of a group
        "operation",  # any other operation, see the attribute of this name
        "moved",  # a unit along other axes than its own
        "unused",  # holds parameters that no output depends on
        # Axes whose places are nodes.
        "axis",
        "place",
        "mixed",  # a unit along a new axis, whose places are sums over those before
    ),
)

EDGE_TYPES = Vocabulary(
    "edge type",
    (
        "identity",  # constant factor, 1 unless said otherwise
        "linear",
        "convolution",
        "bias",
        "table",
        "scale",
        "shift",
        "mean",
        "variance",
        "query",
        "key",
        "value",
        "attention_output",
        "embedding",
        "set_pointwise",
        "set_mean",
        "cyclic",
        "grid",
        # Operands that may not be exchanged.
        "first",
        "second",
        "third",
        "fourth",
        "unused",
        "axis",  # from an axis to a unit along it, or from a place to a unit there
    ),
)

ATTRIBUTES = Vocabulary(
    "node attribute",
    (
        *(
            f"{name}_{axis}"
            for name in (
                "window",
                "stride",
                "dilation",
                "input_dilation",
                "padding_low",
                "padding_high",
                "extent",
            )
            for axis in range(3)
        ),
        "is_circular",
        "groups",
        "epsilon",
        "layout",  # fingerprint of an unusual order of axes, 0 for the usual one
        "argument",  # position among the arguments of the network
        "fill",  # value of the padding
        "heads",
        "factor",  # of attention logits
        "is_causal",
        "mode",  # a choice of a layer, for example of an interpolation
        "size",
        "operation",  # fingerprint of an operation and its settings
    ),
)
