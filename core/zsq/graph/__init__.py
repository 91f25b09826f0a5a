"""Traces a network into a graph of operations, lifts its layers back to modules, finds its quantization sites, and runs it in parts."""

from __future__ import annotations

from zsq.graph._lifting import SIZE_OPS, Lifted, arguments, lift, unused_path
from zsq.graph._running import PartialRun, node_shapes, node_values
from zsq.graph._sites import INTERPOLATIONS, answers, clamps, deploy_sites, kind_of, op_name, paper_sites, producer, rectifies_only

__all__ = [
    "INTERPOLATIONS",
    "SIZE_OPS",
    "Lifted",
    "PartialRun",
    "answers",
    "arguments",
    "clamps",
    "deploy_sites",
    "kind_of",
    "lift",
    "node_shapes",
    "node_values",
    "op_name",
    "paper_sites",
    "producer",
    "rectifies_only",
    "unused_path",
]
