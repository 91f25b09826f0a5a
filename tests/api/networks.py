"""Tiny networks of every kind that people have: plain PyTorch, nothing of zsq in it.

Each is built from a fixed seed, its BatchNorm statistics those of random images, as after training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 6


@dataclass(frozen=True)
class Network:
    """A network and what is expected of it.

    Args:
        name: Short, in lower case.
        make: Makes the module; called by ``build``.
        shape: Of one input image, (C, H, W).
        task: What its output means.
        onnx: Whether the ONNX exporter translates it.
        reason: Why it does not, as its error says it.
        floats: Paths of what has weights and stays in float, beside BatchNorm.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, int, int] = (3, 16, 16)
    task: str = "classify"
    onnx: bool = True
    reason: str = ""
    floats: tuple[str, ...] = ()

    def build(self) -> nn.Module:
        """The module, always with the same values; in train mode where its maker leaves it so."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            return _settled(self.make(), self.shape)


def images(shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    """Random images that differ in colour and contrast, so that answers do too."""
    rng = torch.Generator().manual_seed(seed)
    colour, contrast = torch.randn((count, shape[0], 1, 1), generator=rng), torch.rand((count, 1, 1, 1), generator=rng)
    coarse = F.interpolate(torch.randn((count, shape[0], 4, 4), generator=rng), shape[1:], mode="bilinear")
    return colour + (0.2 + contrast) * (coarse + 0.3 * torch.randn((count, *shape), generator=rng))


def _settled(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """BatchNorm as after training on images, logits of mean 0 and deviation 1 where a linear layer gives them; every mode as it was."""
    modes = [(m, m.training) for m in module.modules()]
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        if norm.affine:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.3, 0.3)
    module.train()(images(shape, 64, 0))
    for norm in norms:
        norm.momentum = 0.1
    heads = [m for m in module.modules() if isinstance(m, nn.Linear) and m.out_features == CLASSES]
    seen: list[Tensor] = []
    handles = [head.register_forward_hook(lambda _m, _i, out: seen.append(out)) for head in heads]
    module.eval()(images(shape, 64, 0))
    for head, handle, out in zip(heads, handles, seen, strict=True):
        handle.remove()
        head.weight.div_(out.std(0).mean())
        if len(heads) == 1:
            head.bias.sub_(out.mean(0)).div_(out.std(0).mean())
    for m, training in modes:
        m.training = training
    return module


def conv(i: int, o: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, size, padding=options.pop("padding", size // 2), **options)


class PlainCnn(nn.Module):
    """Functional ReLU and pooling, no BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = conv(3, 8), conv(8, 12), nn.Linear(12 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(torch.flatten(x, 1))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.pool, self.gate = nn.AdaptiveAvgPool2d(1), gate
        self.reduce, self.expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(F.relu(self.reduce(self.pool(x)))))


class Excited(nn.Module):
    """Squeeze-excite with sigmoid and with hardsigmoid, between hardswishes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = conv(3, 8, bias=False), nn.BatchNorm2d(8)
        self.se1, self.mid, self.se2 = SqueezeExcite(8, nn.Sigmoid()), conv(8, 8), SqueezeExcite(8, nn.Hardsigmoid())
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.se1(F.hardswish(self.bn(self.stem(x))))
        x = self.se2(F.hardswish(self.mid(x)))
        return self.fc(x.mean((2, 3)))


class Branches(nn.Module):
    """Concatenation of branches, and every way to take channels apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3, 8), conv(4, 4), conv(4, 4, 1)
        self.low, self.high, self.last = conv(3, 4), conv(5, 4), conv(4, 8)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        a, b = torch.split(x, 4, dim=1)
        x = torch.cat((F.relu(self.left(a)), self.right(b)), 1)
        c, d = torch.split(x, [3, 5], dim=1)
        e, f = F.relu(self.low(c) + self.high(d)).chunk(2, dim=1)
        x = torch.cat([x, F.relu(self.last(torch.cat([f, e], 1)))], dim=1)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Upsampler(nn.Module):
    """An encoder and a decoder of transposed convolutions, which still classifies."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bn1 = conv(3, 8, stride=2), nn.BatchNorm2d(8)
        self.up, self.bn2 = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1), nn.BatchNorm2d(6)
        self.grouped = nn.ConvTranspose2d(6, 6, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False)
        self.out, self.fc = conv(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.down(x)))
        x = F.relu(self.bn2(self.up(x)))
        x = F.relu(self.out(F.relu(self.grouped(x))))
        return self.fc(x.mean((2, 3)))


class Grouped(nn.Module):
    """GroupNorm beside BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn, self.conv2, self.gn = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8), nn.GroupNorm(4, 8)
        self.conv3, self.fc = conv(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv1(x)))
        x = F.relu(self.gn(self.conv2(x)) + x)
        return self.fc(F.relu(self.conv3(x)).mean((2, 3)))


class Convolutions(nn.Module):
    """Dilated, grouped, depthwise and strided ones, padding by name, kernels that are not square."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(3, 8, padding=2, dilation=2),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            conv(8, 8, groups=4, stride=2),
            nn.ReLU(inplace=True),
            conv(8, 16, groups=8),
            nn.BatchNorm2d(16),
            nn.ReLU6(inplace=True),
            nn.Conv2d(16, 12, 1, bias=False),
            nn.Conv2d(12, 12, (1, 3), padding="same", dilation=(1, 2)),
            nn.ReLU(),
            nn.Conv2d(12, 8, (3, 1), padding=(1, 0)),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Repeated(nn.Module):
    """A convolution, and a block with BatchNorm, each called at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = conv(3, 8), conv(8, 8)
        self.block = nn.Sequential(conv(8, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.twice(F.relu(self.stem(x))))
        x = F.relu(self.twice(x)) + x
        x = self.block(self.block(x))
        return self.fc(x.mean((2, 3)))


class TwoNames(nn.Module):
    """One module under two names, and in a list beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = conv(3, 8), conv(8, 8)
        self.second, self.norm = self.first, nn.BatchNorm2d(8)
        self.steps = nn.ModuleList([self.norm, nn.ReLU(), self.norm])
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(F.relu(self.stem(x))))))
        for step in self.steps:
            x = step(x)
        return self.fc(x.mean((2, 3)))


class Tied(nn.Module):
    """Weights shared by two layers, with a bias of their own, another stride, or none."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.conv1, self.conv2, self.conv3 = conv(8, 8), conv(8, 8), conv(8, 8, stride=2)
        self.conv2.weight = self.conv1.weight
        self.conv3.weight, self.conv3.bias = self.conv1.weight, self.conv1.bias
        self.plain1, self.plain2 = conv(8, 8, 1, bias=False), conv(8, 8, 1, bias=False)
        self.plain2.weight = self.plain1.weight
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.bn2.weight, self.bn2.bias = self.bn1.weight, self.bn1.bias
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.conv1(x))
        x = F.relu(self.bn1(self.conv2(x))) + x
        x = F.relu(self.conv3(x))
        x = F.relu(self.bn2(self.plain2(F.relu(self.plain1(x)))))
        return self.fc(x.mean((2, 3)))


class TiedHeads(nn.Module):
    """Two linear layers with one weight, the average of their answers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.side = conv(3, 8), conv(8, 8)
        self.aux, self.fc = nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)
        self.aux.weight = self.fc.weight

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.body(x))
        y = F.relu(self.side(x))
        return self.fc(y.mean((2, 3))) + 0.5 * self.aux(x.mean((2, 3)))


class Small(nn.Module):
    """Whatever goes in: grey images, images that are not square."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(channels, 8, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = conv(8, 8, stride=2, bias=False), nn.BatchNorm2d(8)
        self.pool, self.fc = nn.AvgPool2d(2), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.pool(F.relu(self.bn2(self.conv2(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def in_training() -> nn.Module:
    """In train mode except one BatchNorm, some parameters frozen, gradients left behind."""
    module = Small(3).train()
    module.bn1.eval()
    for parameter in (module.conv1.weight, module.bn1.weight, module.fc.bias):
        parameter.requires_grad_(False)
    module.conv2.weight.grad = torch.ones_like(module.conv2.weight)
    return module


class Named(nn.Module):
    """Gives a dict: logits and the features that they are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.fc = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        early = F.relu(self.bn1(self.conv1(x)))
        features = F.adaptive_avg_pool2d(F.relu(self.conv2(early)), 1).flatten(1)
        return {"logits": self.fc(features), "features": features, "early": early}


class Segmenter(nn.Module):
    """Gives a class for every pixel, as ``out``, made by a convolution that nothing follows; a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 8), nn.BatchNorm2d(8)
        self.down, self.bn2, self.up = conv(8, 12, stride=2), nn.BatchNorm2d(12), nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.mix, self.classifier, self.aux = conv(16, 8), nn.Conv2d(8, CLASSES, 1), nn.Conv2d(12, CLASSES, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        early = F.relu(self.bn1(self.conv1(x)))
        deep = F.relu(self.bn2(self.down(early)))
        y = F.relu(self.mix(torch.cat([early, F.relu(self.up(deep))], 1)))
        aux = F.interpolate(self.aux(deep), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return {"out": self.classifier(y), "aux": aux}


class Interpolated(nn.Module):
    """Gives a class for every pixel, interpolated to the size of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv(3, 8, stride=2), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8), nn.ReLU())
        self.classifier = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.classifier(self.backbone(x))
        return {"out": F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)}


class Viewed(nn.Module):
    """Sizes are taken from the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = conv(3, 8, stride=2), conv(8, 8), nn.Linear(8 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return self.fc(x.view(x.size(0), -1))


class Curves(nn.Module):
    """LeakyReLU, SiLU, GELU, ELU, Mish and PReLU, with residual sums in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = conv(3, 8), nn.BatchNorm2d(8)
        self.convs = nn.ModuleList(conv(8, 8) for _ in range(6))
        self.acts = nn.ModuleList((nn.LeakyReLU(0.1, inplace=True), nn.SiLU(inplace=True), nn.GELU(), nn.ELU(), nn.Mish(), nn.PReLU(8)))
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)), inplace=True)
        for layer, act in zip(self.convs, self.acts, strict=True):
            y = act(layer(x))
            y += x
            x = y
        return self.fc(x.mean((2, 3)))


class InPlace(nn.Module):
    """Residual blocks that write to what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU(True))
        self.body = nn.Sequential(conv(8, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU(True), conv(8, 8, bias=False), nn.BatchNorm2d(8))
        self.relu, self.fc = nn.ReLU(True), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.body(x)
        y += x
        x = self.relu(y)
        y = self.body(x).add_(x).mul_(0.5)
        return self.fc(self.relu(y).mean((2, 3)))


class ConvHead(nn.Module):
    """A 1x1 convolution gives the answers; pooling and dropout, then nothing but reshaping."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 8, stride=2), nn.ReLU(), conv(8, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2))
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5), nn.Conv2d(8, CLASSES, 1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class Squeezed(nn.Module):
    """The same, pooled behind the convolution and squeezed, as SqueezeNet has it."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 8, stride=2), nn.ReLU(), conv(8, 8), nn.ReLU())
        self.dropout, self.classifier, self.pool = nn.Dropout(), nn.Conv2d(8, CLASSES, 1), nn.AdaptiveAvgPool2d((1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.classifier(self.dropout(self.features(x))))).squeeze(-1).squeeze(-1)


class LinearNorms(nn.Module):
    """BatchNorm1d behind linear layers, and one without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 8, stride=2)
        self.mlp = nn.Sequential(nn.Linear(8 * 16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 12, bias=False))
        self.norm, self.fc = nn.BatchNorm1d(12, affine=False), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.relu(self.conv(x)), 2).flatten(1)
        return self.fc(F.relu(self.norm(self.mlp(x))))


class Hooked(nn.Module):
    """Hooks that look and hooks that change, modules in a plain list beside a ModuleList, a branch on a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(conv(i, 8), nn.BatchNorm2d(8), nn.ReLU()) for i in (3, 8, 8))
        self.in_order, self.residual, self.seen = [self.blocks[1], self.blocks[2]], True, [0]
        self.fc = nn.Linear(8, CLASSES)
        self.blocks[1].register_forward_hook(self._look)
        self.blocks[2][0].register_forward_hook(_doubled)
        self.fc.register_forward_pre_hook(lambda _module, inputs: (inputs[0].clamp(max=3.0),))

    def _look(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.seen[0] += 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        for block in self.in_order:
            x = block(x) + x if self.residual else block(x)
        return self.fc(x.mean((2, 3)))


def _doubled(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output * 2


class Attention(nn.Module):
    """Patches, LayerNorm and softmax attention over them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.qkv, self.proj = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.last, self.fc = nn.LayerNorm(8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + self.proj(torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1) @ v)
        return self.fc(self.last(x).mean(1))


class Normed(nn.Module):
    """A weight that is computed in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(3, 8), nn.utils.parametrizations.weight_norm(conv(8, 8))
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


NETWORKS: tuple[Network, ...] = (
    Network("plain", PlainCnn),
    Network("squeeze-excite", Excited),
    Network("branches", Branches),
    Network("transposed", Upsampler),
    Network("group-norm", Grouped, floats=("gn.group_norm",)),
    Network("convolutions", Convolutions),
    Network("repeated", Repeated),
    Network("two-names", TwoNames),
    Network("tied", Tied),
    Network("tied-heads", TiedHeads),
    Network("grey", lambda: Small(1), shape=(1, 16, 16)),
    Network("wide", lambda: Small(3), shape=(3, 24, 40)),
    Network("in-training", in_training),
    Network("dict", Named),
    Network("segment", Segmenter, task="segment"),
    Network("segment-interpolated", Interpolated, task="segment"),
    Network("view", Viewed),
    Network("curves", Curves, floats=("acts.5.prelu",)),
    Network("in-place", InPlace),
    Network("conv-head", ConvHead),
    Network("squeezed", Squeezed),
    Network("linear-norms", LinearNorms),
    Network("hooks", Hooked),
    Network("attention", Attention, floats=("norm.layer_norm", "last.layer_norm")),
    Network(
        "weight-norm",
        Normed,
        onnx=False,
        reason="'_weight_norm' has no translation to ONNX",
        floats=("conv2.parametrizations.weight.0._weight_norm", "conv2.conv2d"),
    ),
)
