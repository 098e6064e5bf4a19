"""Graph metanetworks: networks that take the weights of other networks as input."""

from modmeta.metanet.models.features import to_graph as to_graph
from modmeta.metanet.models.gmn import GraphMetanet as GraphMetanet
from modmeta.metanet.models.gmn import MetanetConfig as MetanetConfig
from modmeta.metanet.models.readouts import InvariantMetanet as InvariantMetanet
from modmeta.metanet.models.readouts import WeightUpdateMetanet as WeightUpdateMetanet
from modmeta.metanet.models.readouts import parameter_edges as parameter_edges
from modmeta.metanet.parameter_graphs.errors import (
    UnsupportedLayerError as UnsupportedLayerError,
)
from modmeta.metanet.parameter_graphs.registry import register_rule as register_rule
from modmeta.metanet.parameter_graphs.registry import (
    unregister_rule as unregister_rule,
)
from modmeta.metanet.parameter_graphs.symmetries import (
    permute_parameters as permute_parameters,
)
from modmeta.metanet.parameter_graphs.symmetries import (
    sample_symmetry as sample_symmetry,
)
from modmeta.metanet.parameter_graphs.topology import ParameterGraph as ParameterGraph
from modmeta.metanet.parameter_graphs.topology import Topology as Topology
from modmeta.metanet.parameter_graphs.tracing import parameter_graph as parameter_graph
from modmeta.metanet.parameter_graphs.tracing import trace as trace
from modmeta.metanet.state_dicts import Example as Example
from modmeta.metanet.state_dicts import from_state_dict as from_state_dict
from modmeta.metanet.verification import SymmetryErrors as SymmetryErrors
from modmeta.metanet.verification import check_symmetries as check_symmetries

__all__ = [
    "Example",
    "GraphMetanet",
    "InvariantMetanet",
    "MetanetConfig",
    "ParameterGraph",
    "SymmetryErrors",
    "Topology",
    "UnsupportedLayerError",
    "WeightUpdateMetanet",
    "check_symmetries",
    "from_state_dict",
    "parameter_edges",
    "parameter_graph",
    "permute_parameters",
    "register_rule",
    "sample_symmetry",
    "to_graph",
    "trace",
    "unregister_rule",
]
