"""Groups of options that several components share. Every command imports it, so it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zsq.options._options import Options, opt


@dataclass(frozen=True, kw_only=True)
class InputOptions(Options):
    """For teachers with a published input spec."""

    shape: tuple[int, ...] | None = opt(None, "Input shape as channels,height,width, if not the published one.", ge=1)
    mean: tuple[float, ...] | None = opt(None, "Mean per channel of the inputs, if not the published one.")
    std: tuple[float, ...] | None = opt(None, "Standard deviation per channel, if not the published one.", gt=0)

    def over(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """``shape``, ``mean`` and ``std``: the options, else the published values."""
        return {key: getattr(self, key) or published.get(key) for key in ("shape", "mean", "std")}


@dataclass(frozen=True, kw_only=True)
class PoolOptions(Options):
    """For synthesizers that make a pool of images, see :class:`zsq.images.PoolSynth`."""

    images: int | None = opt(None, "Number of images; default: 768, for images above 64 x 64 pixels 64.", ge=1)
    batch: int | None = opt(None, "Images made together; default: 128, for images above 64 x 64 pixels 32.", ge=1, means="batch")
    iterations: int = opt(100, "Optimisation steps for every batch.", ge=1)


@dataclass(frozen=True, kw_only=True)
class DescentOptions(PoolOptions):
    """For synthesizers whose pool is optimised by :class:`zsq.images.Descent`."""

    lr: float = opt(0.1, "Learning rate of Adam on the images at the start.", gt=0, means="lr")
    basis: Literal["pixels", "spectrum"] = opt(
        "pixels",
        "What Adam changes. pixels: as in the papers; spectrum: Fourier coefficients, scaled so that low frequencies change most, "
        "as in photographs.",
    )
    schedule: Literal["cosine", "plateau", "constant"] = opt(
        "cosine",
        "Learning-rate schedule. cosine: falls to zero; plateau: a tenth whenever the loss has not improved for 100 steps, down to 0.0001.",
    )


@dataclass(frozen=True, kw_only=True)
class UniformOptions(Options):
    """For quantizers on uniform grids, see :class:`zsq.placement.Uniform`."""

    weight_bits: int = opt(8, "Bits of every weight.", ge=2, le=16, means="bits")
    act_bits: int | None = opt(8, "Bits of every activation; none leaves activations in float.", ge=2, le=16, means="bits")
    first_bits: int | None = opt(None, "Weight bits of the first layer, if different.", ge=2, le=16)
    last_bits: int | None = opt(None, "Weight bits of the last layer, if different.", ge=2, le=16)
    weight_symmetric: bool | None = opt(None, "Symmetric weight grid; default: from the scheme (paper: no, deploy: yes).")
    act_symmetric: bool | None = opt(None, "Symmetric activation grid; default: no.")
    per_channel: bool = opt(True, "One weight scale per output channel instead of one per tensor.")
    scheme: Literal["paper", "deploy"] = opt(
        "paper",
        "Which activations are quantized. paper: the outputs of ReLU and ReLU6 only, as in published tables; "
        "deploy: the input, every input of a convolution or linear layer, and every residual sum, for export.",
    )
    float_input: bool = opt(
        False,
        "With deploy, leave the network's input in float, and with it the layers that read it: one grid for all colours is coarser "
        "than the pixels of a photograph.",
    )
