"""Graphs in padded batches: edge lists, batches with features, super-graphs.

Jraph is imported here and nowhere else.
"""

from modmeta.graphs.batches import GraphBudget as GraphBudget
from modmeta.graphs.batches import GraphGlobals as GraphGlobals
from modmeta.graphs.batches import GraphsTuple as GraphsTuple
from modmeta.graphs.batches import batch_graphs as batch_graphs
from modmeta.graphs.batches import edge_graphs as edge_graphs
from modmeta.graphs.batches import edge_mask as edge_mask
from modmeta.graphs.batches import graph_budget as graph_budget
from modmeta.graphs.batches import node_graphs as node_graphs
from modmeta.graphs.batches import node_mask as node_mask
from modmeta.graphs.batches import num_rows as num_rows
from modmeta.graphs.batches import segment_mean as segment_mean
from modmeta.graphs.batches import segment_sum as segment_sum
from modmeta.graphs.batches import single_graph as single_graph
from modmeta.graphs.batches import zero_padding as zero_padding
from modmeta.graphs.edges import EdgeLists as EdgeLists
from modmeta.graphs.edges import Edges as Edges
from modmeta.graphs.edges import fully_connected as fully_connected
from modmeta.graphs.supergraphs import PaddingBudget as PaddingBudget
from modmeta.graphs.supergraphs import SuperGraph as SuperGraph
from modmeta.graphs.supergraphs import build_supergraph as build_supergraph
from modmeta.graphs.supergraphs import padding_budget as padding_budget

__all__ = [
    "EdgeLists",
    "Edges",
    "GraphBudget",
    "GraphGlobals",
    "GraphsTuple",
    "PaddingBudget",
    "SuperGraph",
    "batch_graphs",
    "build_supergraph",
    "edge_graphs",
    "edge_mask",
    "fully_connected",
    "graph_budget",
    "node_graphs",
    "node_mask",
    "num_rows",
    "padding_budget",
    "segment_mean",
    "segment_sum",
    "single_graph",
    "zero_padding",
]
