"""Checks an exported file: runs student and runtime on the same images, and compares outputs and codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zsq import grids
from zsq.grids import ActPoint
from zsq.protocols import Task
from zsq_onnx.runtime import EXACT, Runtime, damaged, instruction_set

#: Tolerance relative to the largest logit, for another order of float32 additions.
_ROUNDING = 1e-6
#: Images that run at once, and values in them at most: every code inside is kept for comparison.
_BATCH, _VALUES = 32, 2**21


def verify(module: nn.Module, images: Tensor, folder: Path, runtime: Runtime, exporter: str, task: Task) -> dict[str, Any]:
    """Compare on every image.

    Args:
        module: The student in simulation, from ``zsq.load``.
        images: (N, C, H, W), normalised as the teacher's.
        folder: Holds the exported files.
        runtime: Runs them.
        exporter: That wrote them.
        task: Reads logits (N, K, ...) from an output.

    Returns:
        ``exported``, ``files`` (names of the exported files), ``runtime``, ``images``, ``argmax_agreement`` (percent of
        what the task's ``unit`` names, images or places in them, with the same largest logit), ``max_abs_diff`` (of any number in
        the output) and ``spread`` (the largest), ``first`` (the first activation point whose codes differ: ``path``, ``share`` in
        percent, ``steps``; or None), ``caution`` (see :func:`caution`),
        ``integer`` and ``floating`` (names of layers in the optimized graph), ``islands`` (other
        operations in float) and ``operations`` in it.

    Raises:
        FileError: If there is no exported file, or the runtime refuses it.
    """
    model = runtime.read(folder)
    points, made = _points(module), runtime.values(model)
    names = [path for path in points if path in made]
    tally = _Tally(names)
    with _blaming(folder, runtime.files[0], exporter):
        plan, session = runtime.optimized(model), runtime.session(model, watched=names)
    for batch in torch.split(images, max(1, min(_BATCH, _VALUES // max(1, images[:1].numel())))):
        simulated, seen = _simulate(module, points, batch)
        leaves, structure = pytree.tree_flatten(simulated)
        with _blaming(folder, runtime.files[0], exporter):
            found = session(batch.numpy())
            given, codes = [torch.from_numpy(array) for array in found[: len(leaves)]], found[len(leaves) :]
            tally.outputs(leaves, given)
            tally.answers(*(task.logits(output) for output in (simulated, pytree.tree_unflatten(given, structure))))
            tally.codes(seen, codes)
    told = {"exported": exporter, "files": list(runtime.files), "runtime": runtime.title}
    result = tally.result()
    return {**told, **result, **plan._asdict(), "caution": caution()}


def caution() -> str:
    """A warning for users of the file on this processor; empty if none is needed."""
    if "without" not in (isa := instruction_set()):
        return ""
    return f"this processor ({isa}) overflows on 8-bit products unless sessions of ONNX Runtime set {EXACT} to 1, as was done here"


@contextmanager
def _blaming(folder: Path, name: str, exporter: str) -> Iterator[None]:
    """Whatever fails inside is the exported file's fault: it is damaged, or of another network."""
    try:
        yield
    except Exception as error:  # the runtime's own kinds; and shapes that do not fit
        raise damaged(folder, name, exporter, error) from error


def _points(module: nn.Module) -> dict[str, ActPoint]:
    """Activation points with a range by path, in the order of execution."""
    graph = getattr(module, "graph", None)
    calls = [] if graph is None else [str(node.target) for node in graph.nodes if node.op == "call_module"]
    modules = dict(module.named_modules())
    paths = dict.fromkeys((*calls, *modules))
    return {path: m for path in paths if isinstance(m := modules[path], ActPoint) and m.ranged}


@torch.no_grad()
def _simulate(module: nn.Module, points: Mapping[str, ActPoint], batch: Tensor) -> tuple[Any, dict[str, np.ndarray[Any, Any]]]:
    """The output, and the codes at every point."""
    seen: dict[str, Any] = {}

    def watching(path: str) -> Any:
        return lambda point, inputs, output: seen.__setitem__(path, grids.encode(inputs[0], point.grid).short().numpy())

    hooks = [point.register_forward_hook(watching(path)) for path, point in points.items()]
    try:
        return module(batch), seen
    finally:
        for hook in hooks:
            hook.remove()


class _Tally:
    """Sums over batches."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.count, self.same = 0, 0.0
        self.difference = self.spread = 0.0
        self.differing = {path: [0, 0, 0] for path in names}  # codes, differing ones, most steps

    def outputs(self, simulated: list[Tensor], given: list[Tensor]) -> None:
        for ours, theirs in zip(simulated, given, strict=True):
            gap = float((ours - theirs).abs().max())
            self.difference = max(self.difference, gap) if gap == gap else float("inf")
            self.spread = max(self.spread, float(ours.abs().max()))

    def answers(self, simulated: Tensor, given: Tensor) -> None:
        """Logits of both. Two of them that are nearer than float32 rounds are the same answer."""
        self.count += len(given)
        chosen = simulated.gather(1, given.argmax(1, keepdim=True)).squeeze(1)
        same = chosen >= simulated.amax(1) - _ROUNDING * simulated.abs().amax()
        self.same += float(same.float().reshape(len(given), -1).mean(1).sum())

    def codes(self, seen: Mapping[str, Any], codes: list[Any]) -> None:
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
