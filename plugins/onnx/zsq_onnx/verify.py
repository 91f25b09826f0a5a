"""Whether an exported file computes what was evaluated: the simulated student and a runtime on the same images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zsq.builtin.uniform import affine
from zsq_onnx.runtime import Runtime, damaged

#: Images that run at once.
_BATCH = 32


def verify(module: nn.Module, images: Tensor, folder: Path, runtime: Runtime, exporter: str) -> dict[str, Any]:
    """Compare on every image.

    Args:
        module: The student in simulation, from ``zsq.load``.
        images: (N, C, H, W), normalised as the teacher's.
        folder: Holds the exported files.
        runtime: Runs them.
        exporter: That wrote them.

    Returns:
        ``exported``, ``runtime``, ``sha256`` (of the exported files, one after another), ``images``, ``argmax_agreement`` (percent of
        images with the same largest logit), ``max_abs_diff`` (of any logit) and ``spread`` (largest logit), ``first`` (the first
        activation point whose codes differ: ``path``, ``share`` in percent, ``steps``; or None), ``integer`` and ``floating`` (names of
        layers in the optimized graph), ``islands`` (other operations in float) and ``operations`` in it.

    Raises:
        FileError: When there is no exported file, or the runtime refuses it.
    """
    model = runtime.read(folder)
    points, made = _points(module), runtime.values(model)
    names = [path for path in points if path in made]
    try:
        plan = runtime.optimized(model)
        session = runtime.session(model, watched=names)
        tally = _Tally(points, names)
        for batch in images.split(_BATCH):
            logits, *codes = session(batch.numpy())
            simulated, seen = _simulate(module, points, batch)
            tally.add(simulated.numpy(), logits, seen, codes)
    except Exception as error:
        raise damaged(folder, runtime.files[0], exporter, error) from error
    content = b"".join((folder / name).read_bytes() for name in runtime.files)
    told = {"exported": exporter, "runtime": runtime.title, "sha256": hashlib.sha256(content).hexdigest()}
    return {**told, **tally.result(), **plan._asdict()}


def _points(module: nn.Module) -> dict[str, Any]:
    """Activation points with a range by path, in the order of execution."""
    graph = getattr(module, "graph", None)
    calls = [] if graph is None else [str(node.target) for node in graph.nodes if node.op == "call_module"]
    modules = dict(module.named_modules())
    paths = dict.fromkeys((*calls, *modules))
    return {path: m for path in paths if getattr(m := modules[path], "kind", "") == "act" and getattr(m, "ranged", False)}


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
        return {
            "images": self.count,
            "argmax_agreement": agreement,
            "max_abs_diff": self.difference,
            "spread": self.spread,
            "first": found,
        }
