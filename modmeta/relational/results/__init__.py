"""What `infer_relations` returns: to look at, to keep, to apply to new data."""

from modmeta.relational.results.loading import load as load
from modmeta.relational.results.result import RelationalInference as RelationalInference

__all__ = ["RelationalInference", "load"]
