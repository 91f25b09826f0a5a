"""A small network that lives in the test, as a user's lives in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (3, 8, 8)
#: What every call in these tests has: the input spec, and no time spent.
QUICK: dict[str, Any] = {"input_shape": SHAPE, "mean": 0.5, "std": 0.25, "tune": "none", "calib": ("minmax", {"batches": 2}),
                         "batch_size": 8, "cache": False, "quiet": True}  # fmt: skip


class Net(nn.Module):
    """Two convolutions, BatchNorm, functional ReLU, a linear layer; ten classes."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.linear = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv1(x)))
        return self.linear(F.relu(self.conv2(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture
def net() -> Net:
    """In training mode, as a freshly trained one is."""
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def images() -> Tensor:
    return torch.randn((24, *SHAPE), generator=torch.Generator().manual_seed(1))


def state(module: nn.Module) -> dict[str, Any]:
    """All that a call must leave as it was: tensors bit for bit, modes, gradient flags, gradients, hooks, layout and device."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return {
        "bits": {name: (t.detach().clone(), t.device, t.stride(), t.dtype, id(t)) for name, t in tensors.items()},
        "grad": {name: (p.requires_grad, p.grad) for name, p in module.named_parameters()},
        "mode": {path: m.training for path, m in module.named_modules()},
        "hooks": {path: [list(getattr(m, hook)) for hook in hooks] for path, m in module.named_modules()},
        "type": {path: type(m) for path, m in module.named_modules()},
    }


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether two states are alike, bit for bit."""
    bits, again = before["bits"], after["bits"]
    equal = bits.keys() == again.keys() and all(torch.equal(a[0], again[name][0]) and a[1:] == again[name][1:] for name, a in bits.items())
    return equal and all(before[key] == after[key] for key in ("grad", "mode", "hooks", "type"))


@pytest.fixture
def unchanged() -> Callable[[nn.Module], Callable[[], bool]]:
    """``still = unchanged(net)``; later ``still()`` says whether all of the network is as it was."""

    def remember(module: nn.Module) -> Callable[[], bool]:
        before = state(module)
        return lambda: same(before, state(module))

    return remember
