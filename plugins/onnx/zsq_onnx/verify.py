"""Whether an exported file computes what was evaluated: the simulated student and ONNX Runtime on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from zsq.builtin.uniform import affine
from zsq.errors import FileError
from zsq_onnx import runtime
from zsq_onnx.exporter import FILE

#: Images that run at once.
_BATCH = 32


def verify(module: nn.Module, images: Tensor, folder: Path) -> dict[str, Any]:
    """Compare on every image.

    Args:
        module: The student in simulation, from ``zsq.load``.
        images: (N, C, H, W), normalised as the teacher's.
        folder: Holds ``model.onnx``.

    Returns:
        ``images``, ``agreement`` (percent of images with the same largest logit), ``difference`` (largest of any logit) and ``spread``
        (largest logit), ``first`` (the first activation point whose codes differ: ``path``, ``share`` in percent, ``steps``; or None),
        ``integer`` and ``floating`` (names of layers in the optimized graph) and ``operations`` in it.

    Raises:
        FileError: When there is no exported file, or ONNX Runtime refuses it.
    """
    content = read(folder)
    try:
        plan = runtime.optimized(content)
        points = _points(module)
        model, names = _exposed(content, points)
        session = runtime.session(model)
    except Exception as error:
        raise _damaged(folder, error) from error
    tally = _Tally(points, names)
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        simulated, seen = _simulate(module, points, batch)
        try:
            logits, *codes = session.run(None, {"inputs": batch.numpy()})
        except Exception as error:
            raise _damaged(folder, error) from error
        tally.add(simulated.numpy(), logits, seen, codes)
    return {**tally.result(), "integer": plan.integer, "floating": plan.floating, "operations": plan.operations}


def read(folder: Path) -> bytes:
    """The exported file.

    Raises:
        FileError: When it cannot be read.
    """
    try:
        return (folder / FILE).read_bytes()
    except OSError as error:
        hint = f"make it with `zsq export {folder} --to onnx`"
        raise FileError(f"cannot read {FILE}: {error.strerror or error}", str(folder), hint) from None


def _damaged(folder: Path, error: Exception) -> FileError:
    reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    return FileError(f"ONNX Runtime cannot run {FILE}: {reason}", str(folder), f"make it anew with `zsq export {folder} --to onnx`")


def _points(module: nn.Module) -> dict[str, Any]:
    """Activation points with a range, by path."""
    return {path: m for path, m in module.named_modules() if getattr(m, "kind", "") == "act" and getattr(m, "ranged", False)}


def _exposed(content: bytes, points: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """The model with the codes of its activation points as further outputs, and the paths of those that it has."""
    model = onnx.load_model_from_string(content)
    made = {name: node for node in model.graph.node for name in node.output}
    names = []
    for path in points:
        name = f"{path}.clip" if f"{path}.clip" in made else path
        if name in made:
            kind = onnx.TensorProto.INT8 if points[path].grid.low < 0 else onnx.TensorProto.UINT8
            model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
            names.append(path)
    return model.SerializeToString(), names


@torch.no_grad()
def _simulate(module: nn.Module, points: Mapping[str, Any], batch: Tensor) -> tuple[Tensor, dict[str, np.ndarray[Any, Any]]]:
    """Logits, and the codes at every point."""
    seen: dict[str, Any] = {}

    def watching(path: str) -> Any:
        return lambda point, inputs, output: seen.__setitem__(path, affine.encode(inputs[0], point.grid).short().numpy())

    hooks = [point.register_forward_hook(watching(path)) for path, point in points.items()]
    try:
        return module(batch), seen
    finally:
        for hook in hooks:
            hook.remove()


class _Tally:
    """Sums over batches."""

    def __init__(self, points: Mapping[str, Any], names: list[str]) -> None:
        self.names, self.order = names, list(points)
        self.count = self.same = 0
        self.difference = self.spread = 0.0
        self.differing = {path: [0, 0, 0] for path in names}  # codes, differing ones, most steps

    def add(self, simulated: Any, logits: Any, seen: Mapping[str, Any], codes: list[Any]) -> None:
        self.count += len(logits)
        same = simulated.reshape(len(logits), -1).argmax(1) == logits.reshape(len(logits), -1).argmax(1)
        self.same += int(same.sum())
        gap = float(np.abs(simulated - logits).max(initial=0))
        self.difference = max(self.difference, gap) if gap == gap else float("inf")
        self.spread = max(self.spread, float(np.abs(simulated).max(initial=0)))
        for path, found in zip(self.names, codes, strict=True):
            steps = np.abs(seen[path].reshape(found.shape) - found.astype(np.int16))
            sums = self.differing[path]
            sums[0], sums[1], sums[2] = sums[0] + steps.size, sums[1] + int((steps > 0).sum()), max(sums[2], int(steps.max(initial=0)))

    def result(self) -> dict[str, Any]:
        first = next((path for path in self.names if self.differing[path][1]), None)
        found = None
        if first is not None:
            codes, differing, most = self.differing[first]
            found = {"path": first, "share": 100 * differing / codes, "steps": most}
        agreement = 100 * self.same / max(1, self.count)
        return {"images": self.count, "agreement": agreement, "difference": self.difference, "spread": self.spread, "first": found}
