"""The protocol of runtimes for verify and bench, and ONNX Runtime on the CPU: sessions, and the optimized graph."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx
import onnxruntime

from zsq.errors import FileError, first_line
from zsq_onnx.model import FILE

#: What the runtime's optimizer adds to the name of a node that it writes again.
_RENAMED = re.compile(r"_token_\d+$")
#: What makes ONNX Runtime exact on x86 processors without VNNI, a little slower: a setting of the session.
EXACT = "session.x64quantprecision"
#: Operations that calculate with weights in float once the optimizer is through; their integer forms have other names. Transposed
#: convolutions, which have none, count with the other operations in float.
_FLOAT = ("Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
_INTEGER = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger")
#: What makes floats of a convolution's integer sums, and belongs to it.
_SCALING = ("Cast", "Mul", "Add")
#: Operations that only move values; whatever else reads a dequantized value calculates in float.
_MOVES = frozenset(("Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"))
#: Kinds of instructions for integer products, the best first: what the system calls them, and what people do.
_INSTRUCTIONS = {
    "amx_int8": "AMX-INT8",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX512 without VNNI",
    "avx2": "AVX2 without VNNI",
    "asimddp": "NEON-DOTPROD",
    "asimd": "NEON",
}

#: Images (N, C, H, W) float32 to logits, and then the codes that were asked for.
Session = Callable[[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]


class Optimized(NamedTuple):
    """What runs: number of nodes by operation; names of the layers that calculate in integers and in float; and, as ``islands``, of
    other operations between them that calculate in float."""

    operations: dict[str, int]
    integer: list[str]
    floating: list[str]
    islands: list[str]


class Runtime(Protocol):
    """A runtime for exported files. The type of a *model* depends on the runtime."""

    #: With its version.
    title: str
    #: Names of the exported files in a run's folder.
    files: tuple[str, ...]

    def read(self, folder: Path) -> Any:
        """The exported model. Raises FileError when there is none, or it is damaged."""

    def convert(self, model: onnx.ModelProto) -> Any:
        """Any other network as a model, the float teacher for example."""

    def size(self, model: Any) -> int:
        """Bytes of its files."""

    def values(self, model: Any) -> set[str]:
        """Names of the values inside that a session can give out."""

    def session(self, model: Any, threads: int = 1, watched: Sequence[str] = ()) -> Session:
        """The model ready to run on so many threads; ``watched`` names values to give out behind the logits."""

    def optimized(self, model: Any) -> Optimized:
        """The graph as this machine runs it."""


class OnnxRuntime:
    """Models are the bytes of ONNX files."""

    title = f"onnxruntime {onnxruntime.__version__}"
    files: tuple[str, ...] = (FILE,)

    def read(self, folder: Path) -> bytes:
        content = file_of(folder, FILE, "onnx")
        try:
            _open(content)
        except Exception as error:  # the runtime has kinds of its own, without a common one
            raise damaged(folder, FILE, "onnx", error) from error
        return content

    def convert(self, model: onnx.ModelProto) -> bytes:
        content: bytes = model.SerializeToString()
        return content

    def size(self, model: bytes) -> int:
        return len(model)

    def values(self, model: bytes) -> set[str]:
        return {name for node in onnx.load_model_from_string(model).graph.node for name in node.output}

    def session(self, model: bytes, threads: int = 1, watched: Sequence[str] = ()) -> Session:
        if watched:
            graph = onnx.load_model_from_string(model)
            graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in watched)
            model = graph.SerializeToString()
        opened = _open(model, threads)
        return lambda images: list(opened.run(None, {"inputs": images}))

    def optimized(self, model: bytes) -> Optimized:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            _open(model, save=path)
            graph = onnx.load(path).graph
        nodes, outputs = list(graph.node), {value.name for value in graph.output}
        floats = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear"} | {value.name for value in graph.input}
        constants = {value.name for value in graph.initializer}
        weights = set(constants)
        for node in nodes:
            if node.input and weights.issuperset(node.input):
                weights.update(node.output)
        layers = [_name(n) for n in nodes if n.op_type in _FLOAT and not weights.isdisjoint(n.input)]
        integer = [_name(n) for n in nodes if n.op_type in _INTEGER]
        islands = []
        steps = {n.output[0]: 0 for n in nodes if n.op_type == "ConvInteger"}
        for node in nodes:  # in the order of execution
            step = next((steps[name] for name in node.input if name in steps), len(_SCALING))
            if node.op_type == "".join(_SCALING[step : step + 1]) and (step == 0 or not constants.isdisjoint(node.input)):
                steps[node.output[0]] = step + 1
                floats.update(node.output)
                continue
            if floats.isdisjoint(node.input) or node.op_type in ("QuantizeLinear", "Shape"):
                continue
            if node.op_type not in _MOVES and _name(node) not in layers and outputs.isdisjoint(node.output):
                islands.append(_name(node))
            floats.update(node.output)
        return Optimized(dict(Counter(n.op_type for n in nodes)), integer, layers, islands)


def file_of(folder: Path, name: str, exporter: str) -> bytes:
    """One exported file.

    Raises:
        FileError: If it cannot be read.
    """
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        hint = f"make it with `zsq export {folder} --to {exporter}`"
        raise FileError(f"cannot read {name}: {error.strerror or error}", str(folder), hint) from None


def damaged(folder: Path, name: str, exporter: str, error: Exception) -> FileError:
    """The error of a file that a runtime refuses."""
    return FileError(
        f"the runtime cannot run {name}: {first_line(error)}", str(folder), f"make it again with `zsq export {folder} --to {exporter}`"
    )


def instruction_set() -> str:
    """The instructions that integer kernels of this processor can use, as far as the system tells, e.g. ``AVX512-VNNI``."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return "unknown instruction set"
    return next((name for flag, name in _INSTRUCTIONS.items() if flag in flags), "no vector extension known")


def _open(model: bytes, threads: int = 1, save: Path | None = None) -> Any:
    """A session with every optimization; ``save`` takes the optimized graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if "without" in instruction_set():  # else products of 8 bits are added in 16 bits, and overflow
        options.add_session_config_entry(EXACT, "1")
    if save is not None:
        options.optimized_model_filepath = str(save)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _name(node: onnx.NodeProto) -> str:
    return _RENAMED.sub("", str(node.name or node.output[0]))
