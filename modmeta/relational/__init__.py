"""Relational inference by modular meta-learning (Alet et al. 2019).

Data flows one way: `data` -> `modules` -> `energies`, `tasks` -> `inference` ->
`training`, `evaluation` -> `laws`, `futures`, `verdict` -> `discovery` -> `results`,
`figures`, and `api`, which does all of it in one call. `hidden` finds entities that
were not recorded. `classical` has what statistics says of the same series.
"""

from modmeta.relational.api import infer_relations as infer_relations
from modmeta.relational.data import DataError as DataError
from modmeta.relational.data import FeatureSpec as FeatureSpec
from modmeta.relational.data import TrajectoryDataset as TrajectoryDataset
from modmeta.relational.data.common_motion import relative_to_mean as relative_to_mean
from modmeta.relational.data.domains import Domain as Domain
from modmeta.relational.data.forms.arrays import as_dataset as as_dataset
from modmeta.relational.data.neighbors import CandidateConfig as CandidateConfig
from modmeta.relational.energies.config import EnergyConfig as EnergyConfig
from modmeta.relational.futures.walls import suggest_domain as suggest_domain
from modmeta.relational.hidden.config import HiddenConfig as HiddenConfig
from modmeta.relational.hidden.find import find_hidden as find_hidden
from modmeta.relational.hidden.found import HiddenEntities as HiddenEntities
from modmeta.relational.inference.artifacts import load_model as load_model
from modmeta.relational.inference.artifacts import save_model as save_model
from modmeta.relational.inference.config import InferenceConfig as InferenceConfig
from modmeta.relational.inference.config import MemoryConfig as MemoryConfig
from modmeta.relational.inference.config import MoveConfig as MoveConfig
from modmeta.relational.inference.infer import infer_dataset as infer_dataset
from modmeta.relational.inference.model import RelationalModel as RelationalModel
from modmeta.relational.inference.relations import Relations as Relations
from modmeta.relational.laws.curves import LawCurve as LawCurve
from modmeta.relational.laws.formulas import Formula as Formula
from modmeta.relational.laws.formulas import find_formula as find_formula
from modmeta.relational.modules.config import ModuleConfig as ModuleConfig
from modmeta.relational.modules.network import ModelParams as ModelParams
from modmeta.relational.modules.proposal_head import ProposalConfig as ProposalConfig
from modmeta.relational.results import RelationalInference as RelationalInference
from modmeta.relational.results import load as load
from modmeta.relational.training.config import BounceGradConfig as BounceGradConfig
from modmeta.relational.training.config import TrainingConfig as TrainingConfig
from modmeta.relational.training.setup import build_model as build_model

__all__ = [
    "BounceGradConfig",
    "CandidateConfig",
    "DataError",
    "Domain",
    "EnergyConfig",
    "FeatureSpec",
    "Formula",
    "HiddenConfig",
    "HiddenEntities",
    "InferenceConfig",
    "LawCurve",
    "MemoryConfig",
    "ModelParams",
    "ModuleConfig",
    "MoveConfig",
    "ProposalConfig",
    "RelationalInference",
    "RelationalModel",
    "Relations",
    "TrainingConfig",
    "TrajectoryDataset",
    "as_dataset",
    "build_model",
    "find_formula",
    "find_hidden",
    "infer_dataset",
    "infer_relations",
    "load",
    "load_model",
    "relative_to_mean",
    "save_model",
    "suggest_domain",
]
