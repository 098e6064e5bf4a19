"""Graph metanetworks: networks that take the weights of other networks as input."""

from modmeta.metanet.learning.prediction import GraphPredictor as GraphPredictor
from modmeta.metanet.learning.prediction import PredictionConfig as PredictionConfig
from modmeta.metanet.learning.prediction import fit as fit
from modmeta.metanet.learning.prediction import predict as predict
from modmeta.metanet.learning.sources import GraphSource as GraphSource
from modmeta.metanet.models.features import to_graph as to_graph
from modmeta.metanet.models.gmn import GraphMetanet as GraphMetanet
from modmeta.metanet.models.gmn import MetanetConfig as MetanetConfig
from modmeta.metanet.models.readouts import InvariantMetanet as InvariantMetanet
from modmeta.metanet.models.weight_updates import (
    WeightUpdateMetanet as WeightUpdateMetanet,
)
from modmeta.metanet.models.weight_updates import parameter_edges as parameter_edges
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
from modmeta.metanet.zoo import import_folders as import_folders
from modmeta.metanet.zoo import import_table as import_table
from modmeta.metanet.zoo import load_zoo as load_zoo
from modmeta.metanet.zoo import read_weights as read_weights

__all__ = [
    "Example",
    "GraphMetanet",
    "GraphPredictor",
    "GraphSource",
    "InvariantMetanet",
    "MetanetConfig",
    "ParameterGraph",
    "PredictionConfig",
    "SymmetryErrors",
    "Topology",
    "UnsupportedLayerError",
    "WeightUpdateMetanet",
    "check_symmetries",
    "fit",
    "from_state_dict",
    "import_folders",
    "import_table",
    "load_zoo",
    "parameter_edges",
    "parameter_graph",
    "permute_parameters",
    "predict",
    "read_weights",
    "register_rule",
    "sample_symmetry",
    "to_graph",
    "trace",
    "unregister_rule",
]
