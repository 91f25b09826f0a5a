"""Records the program of a network by running it, in milliseconds; importing the tracer of ``torch.export`` takes a second.

Two runs do not show everything. Where a forward computes with the size of the batch, branches on values, changes how gradients or
precision work, makes constants or keeps tensors, nothing is recorded, and ``torch.export`` has to tell what it does.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from zsq.graph._program import Program, out_of_place

#: Functions that read a tensor's values or change gradients without an ATen operation that a recording could see.
_LOOKS = ("tolist", "__dlpack__", "_set_grad_enabled")
#: Operations that stop gradients. They are left to ``torch.export``, because the graph must keep them for tuning.
_STOPS = ("detach", "detach_")
#: Operations that return their input; dropout only in eval mode.
_SAME = ("alias", "dropout", "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout", "alpha_dropout_")


class _NotRecordable(Exception):
    """The forward pass does something that one run does not show."""


def record(network: nn.Module, example: Tensor) -> Program | None:
    """The program of ``network``: a copy of it runs on batches of two sizes.

    Args:
        network: In eval mode, takes one tensor.
        example: The smaller of both batches; the other has one image more.

    Returns:
        ``None`` where running does not tell what the network does with other inputs, or fails.
    """
    try:
        small, large = (_run(network, batch) for batch in (example, torch.cat((example, example[:1]))))
    except Exception:  # a user's network can raise anything
        return None
    return small if str(small.graph) == str(large.graph) and out_of_place(small.graph) else None


def _run(network: nn.Module, batch: Tensor) -> Program:
    network = copy.deepcopy(network)
    paths = [path for path, _ in network.named_modules(remove_duplicate=False)]
    modules = dict(network.named_modules())
    if len(paths) != len(modules) or any(isinstance(m, torch.jit.ScriptModule) for m in modules.values()):
        raise _NotRecordable
    recording = _Recording(network, batch)
    for path, module in modules.items():
        module.register_forward_pre_hook(lambda *_, path=path: recording.enter(path))
        module.register_forward_hook(lambda *_: recording.leave(), always_call=True)
    # Without autograd, operations arrive as the network calls them: autograd would split a convolution or a flatten.
    with torch.inference_mode(), _Looks(batch.device), _Operations(recording):
        result = network(batch)
    leaves, structure = pytree.tree_flatten(result)
    recording.graph.output(tuple(recording.node(leaf) for leaf in leaves))
    return Program(recording.graph, recording.inputs, recording.tensors, recording.parameters, structure)


class _Recording:
    """A graph that grows with every operation."""

    def __init__(self, network: nn.Module, batch: Tensor) -> None:
        self.graph = fx.Graph()
        self.path = [""]
        parameters = dict(network.named_parameters(remove_duplicate=False))
        self.parameters = frozenset(parameters)
        self.tensors: dict[fx.Node, tuple[str, Tensor]] = {}
        self.nodes: dict[int, fx.Node] = {}
        self.alive: list[Tensor] = []  # an id is valid only while its tensor is alive
        state = parameters | dict(network.named_buffers(remove_duplicate=False))
        for number, (path, tensor) in enumerate(state.items()):
            if id(tensor) in self.nodes:
                raise _NotRecordable
            self.tensors[self._placeholder(f"tensor_{number}", tensor)] = (path, tensor)
        self.inputs = self._placeholder("inputs", batch)

    def _placeholder(self, name: str, tensor: Tensor) -> fx.Node:
        node = self.graph.placeholder(name)
        self._known(node, tensor)
        return node

    def _known(self, node: fx.Node, tensor: Tensor) -> None:
        if "path" not in node.meta:
            node.meta |= {"path": self.path[-1], "dims": tensor.dim()}
        self.nodes[id(tensor)] = node
        self.alive.append(tensor)

    def enter(self, path: str) -> None:
        self.path.append(path)

    def leave(self) -> None:
        self.path.pop()

    def node(self, value: Any) -> fx.Node:
        if not isinstance(value, Tensor) or id(value) not in self.nodes:
            raise _NotRecordable
        return self.nodes[id(value)]

    def call(self, operation: Any, args: Any, kwargs: Any) -> Any:
        """Run an ATen operation and record it."""
        name = operation._opname
        if operation.namespace != "aten" or name.startswith("_") or name in _STOPS:
            raise _NotRecordable
        same = name in _SAME and args[-1] is not True
        if torch.Tag.nondeterministic_seeded in operation.tags and not same:
            raise _NotRecordable
        called = pytree.tree_map(lambda v: self.node(v) if isinstance(v, Tensor) else v, (args, kwargs))
        if operation._schema.is_mutable and called[0][0].op == "placeholder":
            raise _NotRecordable
        result = operation(*args, **kwargs)
        if same:
            self._known(called[0][0], result)
            return result
        node = self.graph.call_function(operation, *called)
        if isinstance(result, Tensor):
            self._known(node, result)
        elif isinstance(result, (tuple, list)) and all(isinstance(part, Tensor) for part in result):
            node.meta |= {"path": self.path[-1], "dims": 0}
            for index, part in enumerate(result):
                self._known(self.graph.call_function(operator.getitem, (node, index)), part)
        else:  # a number: the forward pass reads a tensor's value
            raise _NotRecordable
        return result


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Passes every operation to a recording."""

    def __init__(self, recording: _Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = recording

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch._dynamo is imported for the first operation, which takes a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.recording.call(func, args, kwargs or {})


class _Looks(TorchFunctionMode):
    """Stops recording at functions that no ATen operation shows."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device.type

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _LOOKS or torch.is_autocast_enabled(self.device):
            raise _NotRecordable
        return func(*args, **(kwargs or {}))
