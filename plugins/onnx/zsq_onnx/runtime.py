"""ONNX Runtime on the CPU: sessions, what its optimizer made of a graph, and what the processor can do."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnxruntime

#: Operations that calculate with weights in float once the optimizer is through; their integer forms have other names.
_FLOAT = ("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
_INTEGER = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger")


class Optimized(NamedTuple):
    """What runs: number of nodes by operation, and the names of the layers that calculate in integers and in float."""

    operations: dict[str, int]
    integer: list[str]
    floating: list[str]


def session(model: bytes, threads: int = 1, save: Path | None = None) -> Any:
    """A session with every optimization; ``save`` takes the optimized graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if save is not None:
        options.optimized_model_filepath = str(save)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def optimized(model: bytes) -> Optimized:
    """The graph as this machine would run it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        session(model, save=path)
        nodes = list(onnx.load(path).graph.node)
    layers = [n.name or n.output[0] for n in nodes if n.op_type in _FLOAT]
    integer = [n.name or n.output[0] for n in nodes if n.op_type in _INTEGER]
    return Optimized(dict(Counter(n.op_type for n in nodes)), integer, layers)


def instruction_set() -> str:
    """The instructions that integer kernels of this processor can use, as far as the system tells, e.g. ``AVX512-VNNI``."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return "unknown"
    names = {"amx_int8": "AMX-INT8", "avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "avx512f": "AVX512", "avx2": "AVX2"}
    names |= {"asimddp": "NEON-DOTPROD", "asimd": "NEON"}
    return next((name for flag, name in names.items() if flag in flags), "no vector extension known")
