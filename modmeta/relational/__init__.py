"""Relational inference by modular meta-learning (Alet et al. 2019)."""

from modmeta.relational.api import RelationalInference as RelationalInference
from modmeta.relational.api import infer_relations as infer_relations
from modmeta.relational.data import TrajectoryDataset as TrajectoryDataset

__all__ = ["RelationalInference", "TrajectoryDataset", "infer_relations"]
