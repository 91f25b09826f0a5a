"""Options of the built-in components. Light: imported by every command, so no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zsq.options import InputOptions, Options, opt


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(Options):
    classes: int = opt(10, "Number of classes of the network.", ge=2)


@dataclass(frozen=True, kw_only=True)
class PyOptions(Options):
    weights: str | None = opt(None, "Weights file of the teacher: safetensors, or a torch file without code.")
    shape: tuple[int, ...] | None = opt(
        None,
        "Input shape as channels,height,width; default: from STEM.json beside the weights, or from the network's pretrained_cfg.",
        ge=1,
    )
    mean: tuple[float, ...] | None = opt(None, "Mean per channel that inputs are normalised with; default: as for shape.")
    std: tuple[float, ...] | None = opt(
        None, "Standard deviation per channel that inputs are normalised with; default: as for shape.", gt=0
    )
    classes: int | None = opt(None, "Number of classes; default: from STEM.json, else from the network's output.", ge=2)
    task: str | None = opt(
        None, "What the network's output means, one of the tasks in `zsq plugins list`; default: classify.", means="task"
    )


@dataclass(frozen=True, kw_only=True)
class MemoryOptions(InputOptions):
    classes: int | None = opt(None, "Number of classes; default: from the network's output.", ge=2)
    task: str | None = opt(None, "What the network's output means; default: classify.", means="task")
    fingerprint: str = opt("", "SHA-256 of the network's tensors: the recipe is for this network only.")


@dataclass(frozen=True, kw_only=True)
class NoiseOptions(Options):
    std: float = opt(1.0, "Standard deviation of the noise, in units of the normalised input.", gt=0)


@dataclass(frozen=True, kw_only=True)
class RangeOptions(Options):
    batches: int = opt(8, "Batches to observe.", ge=1)


@dataclass(frozen=True, kw_only=True)
class EmaOptions(RangeOptions):
    batches: int = opt(100, "Batches to observe.", ge=1)
    decay: float = opt(0.9, "Share of the old range in each update; the start at zero is corrected.", ge=0, lt=1)


@dataclass(frozen=True, kw_only=True)
class PercentileOptions(RangeOptions):
    percent: float | None = opt(
        None,
        "Share of values inside the range, in percent; default: 99.9 at 4 bits, and a quarter as many outside for each further bit.",
        gt=50,
        le=100,
    )


@dataclass(frozen=True, kw_only=True)
class ClipSearchOptions(Options):
    images: int = opt(256, "Images of the stream to search on.", ge=1)
    candidates: int = opt(8, "Clip values tried at every activation site.", ge=2)
    narrowest: float = opt(0.3, "Narrowest candidate, as a share of the initial range.", gt=0, lt=1)
    passes: int = opt(1, "Number of passes over all sites.", ge=1)


@dataclass(frozen=True, kw_only=True)
class KdOptions(Options):
    temperature: float = opt(4.0, "Temperature of both softmaxes; the loss is multiplied by its square.", gt=0)
    reduction: Literal["batchmean", "mean"] = opt(
        "batchmean",
        "batchmean: mean over images of the divergence; mean: also divided by the number of classes, as in GDFQ and its successors.",
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(Options):
    steps: int = opt(400, "Student steps.", ge=1)
    optimizer: Literal["sgd", "adam"] = opt("adam", "SGD with momentum, or Adam.")
    lr: float | None = opt(
        None,
        "Initial learning rate; default: 1e-4 up to 4 bits, and half of it for each further bit, because the scale halves.",
        gt=0,
        means="lr",
    )
    range_lr: float | None = opt(
        None,
        "Initial learning rate for the logarithm of every activation range; default: 100 times that of the weights; "
        "0 keeps the calibrated ranges.",
        ge=0,
    )
    norm_lr: float | None = opt(
        None, "Initial learning rate for BatchNorm scale and shift; default: that of the weights; 0 keeps them.", ge=0
    )
    momentum: float = opt(0.9, "Momentum of SGD, or beta1 of Adam.", ge=0, lt=1)
    nesterov: bool = opt(True, "Nesterov momentum for SGD.")
    weight_decay: float = opt(0.0, "Weight decay on every parameter.", ge=0)
    schedule: Literal["constant", "cosine", "step"] = opt(
        "cosine", "Learning-rate schedule: constant, cosine to zero, or times gamma at each milestone."
    )
    milestones: tuple[int, ...] = opt((), "Steps at which the step schedule multiplies the rate by gamma.", ge=1)
    gamma: float = opt(0.1, "Factor of the step schedule.", gt=0, le=1)
    batch_norm: Literal["frozen", "train"] = opt("frozen", "BatchNorm statistics during tuning: frozen, or updated from synthetic batches.")


@dataclass(frozen=True, kw_only=True)
class ClipsOptions(Options):
    steps: int = opt(200, "Student steps.", ge=1)
    lr: float = opt(5e-4, "Initial learning rate of Adam for BatchNorm scale and shift; 0 keeps them.", ge=0, means="lr")
    range_lr: float = opt(5e-3, "Initial learning rate of Adam for the logarithm of activation ranges; 0 keeps them.", ge=0)


@dataclass(frozen=True, kw_only=True)
class Top1Options(Options):
    ref: str = opt("", "Path of the images: an .npz with images and labels, or a folder.")
    format: Literal["auto", "npz", "folder"] = opt("auto", "How the path is read; auto: from its kind.")
    batch_size: int | None = opt(None, "Images per forward pass; default: 250, fewer on a CPU for large images.", ge=1)
    limit: int | None = opt(None, "Evaluate only the first so many images.", ge=1)
    crop: float = opt(0.875, "Share of the resized short side that the centre crop keeps, for folders of photos.", gt=0, le=1)


@dataclass(frozen=True, kw_only=True)
class AgreementOptions(Options):
    images: int = opt(512, "Synthetic images to compare teacher and student on.", ge=1)


@dataclass(frozen=True, kw_only=True)
class JsonlOptions(Options):
    ref: str = opt("", "Path of the file; existing lines of such a log stay.")
