"""Graph metanetworks: networks that take the weights of other networks as input."""

from modmeta.metanet.errors import UnsupportedLayerError as UnsupportedLayerError
from modmeta.metanet.features import to_graph as to_graph
from modmeta.metanet.models import GraphMetanet as GraphMetanet
from modmeta.metanet.models import MetanetConfig as MetanetConfig
from modmeta.metanet.readouts import InvariantMetanet as InvariantMetanet
from modmeta.metanet.readouts import WeightUpdateMetanet as WeightUpdateMetanet
from modmeta.metanet.readouts import parameter_edges as parameter_edges
from modmeta.metanet.registry import register_rule as register_rule
from modmeta.metanet.symmetries import permute_parameters as permute_parameters
from modmeta.metanet.symmetries import sample_symmetry as sample_symmetry
from modmeta.metanet.topology import ParameterGraph as ParameterGraph
from modmeta.metanet.topology import Topology as Topology
from modmeta.metanet.tracing import parameter_graph as parameter_graph
from modmeta.metanet.tracing import trace as trace

__all__ = [
    "GraphMetanet",
    "InvariantMetanet",
    "MetanetConfig",
    "ParameterGraph",
    "Topology",
    "UnsupportedLayerError",
    "WeightUpdateMetanet",
    "parameter_edges",
    "parameter_graph",
    "permute_parameters",
    "register_rule",
    "sample_symmetry",
    "to_graph",
    "trace",
]
