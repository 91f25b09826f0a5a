"""GDFQ's generator: latent vector, quarter-size feature map, two upsampling blocks, image.

The generator has no eval mode: every BatchNorm always uses the statistics of the current batch. Images have mean 0 and variance 1
per channel over the batch, in the teacher's normalised input space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsq.errors import ZsqError


@dataclass(frozen=True)
class Labels:
    """The classes of every image: indices ``classes`` and their shares ``weights``, both (N, K); each row of weights sums to 1."""

    classes: Tensor
    weights: Tensor

    @classmethod
    def single(cls, classes: Tensor) -> Labels:
        """One class per image, from indices (N,)."""
        return cls(classes[:, None], torch.ones((len(classes), 1), device=classes.device))

    def soft_targets(self, num_classes: int) -> Tensor:
        """Distributions (N, num_classes); the shares of a class that was drawn twice are added."""
        zeros = self.weights.new_zeros((len(self.weights), num_classes))
        return zeros.scatter_add_(1, self.classes, self.weights)


class ConditionalBatchNorm(nn.Module):
    """BatchNorm with scale and shift for every class (initially 1 and 0); an image gets the weighted sum over its classes.

    Args:
        mean: Divide the sums by K, as Qimera's code does. With many classes images are then almost blank.
    """

    def __init__(self, channels: int, num_classes: int, eps: float, mean: bool = False) -> None:
        super().__init__()
        self.eps, self.mean = eps, mean
        self.scale = nn.Parameter(torch.ones(num_classes, channels))
        self.shift = nn.Parameter(torch.zeros(num_classes, channels))

    def forward(self, x: Tensor, labels: Labels) -> Tensor:
        x = F.batch_norm(x, None, None, training=True, eps=self.eps)
        return torch.addcmul(self._of(self.shift, labels).to(x.dtype), x, self._of(self.scale, labels).to(x.dtype))

    def _of(self, table: Tensor, labels: Labels) -> Tensor:
        weights = labels.weights / labels.weights.shape[1] if self.mean else labels.weights
        return F.embedding_bag(labels.classes, table, mode="sum", per_sample_weights=weights)[:, :, None, None]


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm with the statistics of the current batch; ignores the labels."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps, track_running_stats=False)

    def forward(self, x: Tensor, labels: Labels) -> Tensor:  # type: ignore[override]  # called as ConditionalBatchNorm is
        return super().forward(x)


class ImageStack(nn.Module):
    """Vectors (N, code_dim) to images (N, *shape); GDFQ's generator without its latent code (paper, section 3.2).

    Args:
        shape: Channels, height, width; height and width are multiples of 4.
        code_dim: Length of the vectors.
        num_classes: For conditional BatchNorm.
        channels: Channels of the first two stages; the third has half.
        eps: Epsilon of the second and third BatchNorm.
        conditional: Use conditional BatchNorm instead of the three affine ones.
        mean: See :class:`ConditionalBatchNorm`.

    Raises:
        ZsqError: If the shape is not three numbers with height and width multiples of 4.
    """

    def __init__(self, shape: tuple[int, ...], code_dim: int, num_classes: int, channels: int = 128, eps: float = 0.8,
                 conditional: bool = False, mean: bool = False) -> None:  # fmt: skip
        super().__init__()
        if len(shape) != 3 or shape[1] % 4 or shape[2] % 4:
            raise ZsqError(
                f"the generator needs image sides that are multiples of 4, not {'x'.join(map(str, shape))}",
                "the teacher's input shape",
                "use a synthesizer for any shape, e.g. --synth noise",
            )

        def norm(width: int, eps: float) -> nn.Module:
            return ConditionalBatchNorm(width, num_classes, eps, mean) if conditional else BatchNorm(width, eps)

        self.grid = (channels, shape[1] // 4, shape[2] // 4)
        self.stem = nn.Linear(code_dim, channels * self.grid[1] * self.grid[2])
        self.norm0 = norm(channels, 1e-5)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = norm(channels, eps)
        self.conv2 = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.norm2 = norm(channels // 2, eps)
        self.conv3 = nn.Conv2d(channels // 2, shape[0], 3, padding=1)

    def forward(self, code: Tensor, labels: Labels) -> Tensor:
        x = self.stem(code).view(-1, *self.grid).contiguous(memory_format=torch.channels_last)
        x = self.first(_double(self.norm0(x, labels)), labels)
        x = _leaky(self.norm2(self.conv2(_double(x)), labels))
        x = torch.tanh(self.conv3(x))
        return F.batch_norm(x.float(), None, None, training=True)

    def first(self, x: Tensor, labels: Labels) -> Tensor:
        """The first block, on upsampled features (N, channels, H/2, W/2); the shape stays."""
        return _leaky(self.norm1(self.conv1(x), labels))


class Generator(nn.Module):
    """GDFQ's generator: noise (N, latent_dim) and labels to images.

    With ``embedding`` the noise is multiplied by the label's embedding (the authors' CIFAR generator); without, conditional
    BatchNorm carries the class (their ImageNet generator). ``stack`` builds the layers after the code.
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, num_classes: int, channels: int = 128, eps: float = 0.8,
                 conditional: bool = False, stack: Callable[..., ImageStack] = ImageStack) -> None:  # fmt: skip
        super().__init__()
        self.embedding = None if conditional else nn.Embedding(num_classes, latent_dim)
        self.stack = stack(shape, latent_dim, num_classes, channels, eps, conditional)

    def forward(self, noise: Tensor, labels: Labels) -> Tensor:
        code = noise if self.embedding is None else self.embedding(labels.classes[:, 0]) * noise
        image: Tensor = self.stack(code, labels)
        return image


@contextmanager
def initialising_from(rng: torch.Generator) -> Iterator[None]:
    """Inside, torch's own parameter initialisation draws from ``rng``; the global generator is restored afterwards."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=rng, device=rng.device)))
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2, inplace=True)
