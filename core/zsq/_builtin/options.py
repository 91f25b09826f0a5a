"""Options of the built-in components. Light: imported by every command, so no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zsq.options import InputOptions, Options, opt


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(Options):
    classes: int = opt(10, "Number of classes the network tells apart.", ge=2)


@dataclass(frozen=True, kw_only=True)
class PyOptions(Options):
    weights: str | None = opt(None, "Checkpoint of the teacher: safetensors, or a torch file without code in it.")
    shape: tuple[int, ...] | None = opt(
        None,
        "Input shape as channels,height,width; else from the sidecar STEM.json beside the weights or the network's pretrained_cfg.",
        ge=1,
    )
    mean: tuple[float, ...] | None = opt(None, "Mean per channel that inputs were normalised with; else from the sidecar or the network.")
    std: tuple[float, ...] | None = opt(
        None, "Standard deviation per channel that inputs were normalised with; else from the sidecar or the network.", gt=0
    )
    classes: int | None = opt(None, "Number of classes; else from the sidecar, else from the network's output.", ge=2)
    task: str | None = opt(
        None, "What the network's output means, one of the tasks in `zsq plugins list`; by default classify.", means="task"
    )


@dataclass(frozen=True, kw_only=True)
class MemoryOptions(InputOptions):
    classes: int | None = opt(None, "Number of classes; else from the network's output.", ge=2)
    task: str | None = opt(None, "What the network's output means; by default classify.", means="task")
    fingerprint: str = opt("", "SHA-256 of the network's tensors: a recipe is of this network only.")


@dataclass(frozen=True, kw_only=True)
class NoiseOptions(Options):
    std: float = opt(1.0, "Standard deviation of the noise, in units of the normalised input.", gt=0)


@dataclass(frozen=True, kw_only=True)
class RangeOptions(Options):
    batches: int = opt(8, "Batches to watch.", ge=1)


@dataclass(frozen=True, kw_only=True)
class EmaOptions(RangeOptions):
    batches: int = opt(100, "Batches to watch.", ge=1)
    decay: float = opt(0.9, "Share of the old range in each update; the reading is corrected for the start at zero.", ge=0, lt=1)


@dataclass(frozen=True, kw_only=True)
class PercentileOptions(RangeOptions):
    percent: float | None = opt(
        None,
        "Share of values inside the range, in percent; by default 99.9 at 4 bits, and a quarter as many outside for every bit more.",
        gt=50,
        le=100,
    )


@dataclass(frozen=True, kw_only=True)
class ClipSearchOptions(Options):
    images: int = opt(256, "Images of the stream to search on.", ge=1)
    candidates: int = opt(8, "Clip values tried at every activation site.", ge=2)
    narrowest: float = opt(0.3, "Narrowest candidate, as a share of the range the search starts from.", gt=0, lt=1)
    passes: int = opt(1, "Times that all sites are gone through.", ge=1)


@dataclass(frozen=True, kw_only=True)
class KdOptions(Options):
    temperature: float = opt(4.0, "Temperature of both softmaxes; the loss is multiplied by its square.", gt=0)
    reduction: Literal["batchmean", "mean"] = opt(
        "batchmean",
        "batchmean: mean over images of the divergence; mean: also divided by the number of classes, as the GDFQ line publishes.",
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(Options):
    steps: int = opt(400, "Student steps.", ge=1)
    optimizer: Literal["sgd", "adam"] = opt("adam", "SGD with momentum, or Adam.")
    lr: float | None = opt(
        None,
        "Learning rate at the start; by default 1e-4 up to 4 bits and half of it for every bit more, as the grid's steps halve.",
        gt=0,
        means="lr",
    )
    range_lr: float | None = opt(
        None,
        "Learning rate at the start for the logarithm of every activation range; by default 100 times that of the weights; "
        "0 keeps ranges as they were calibrated.",
        ge=0,
    )
    norm_lr: float | None = opt(
        None, "Learning rate at the start for BatchNorm scale and shift; by default that of the weights; 0 leaves them.", ge=0
    )
    momentum: float = opt(0.9, "Momentum of SGD, or beta1 of Adam.", ge=0, lt=1)
    nesterov: bool = opt(True, "Nesterov momentum for SGD.")
    weight_decay: float = opt(0.0, "Weight decay on every parameter.", ge=0)
    schedule: Literal["constant", "cosine", "step"] = opt(
        "cosine", "How the learning rate falls: to zero along a cosine, or by gamma at each milestone."
    )
    milestones: tuple[int, ...] = opt((), "Steps at which the step schedule multiplies the rate by gamma.", ge=1)
    gamma: float = opt(0.1, "Factor of the step schedule.", gt=0, le=1)
    batch_norm: Literal["frozen", "train"] = opt("frozen", "BatchNorm statistics during tuning: frozen, or updated from synthetic batches.")


@dataclass(frozen=True, kw_only=True)
class ClipsOptions(Options):
    steps: int = opt(200, "Student steps.", ge=1)
    lr: float = opt(5e-4, "Learning rate of Adam at the start for BatchNorm scale and shift; 0 leaves them.", ge=0, means="lr")
    range_lr: float = opt(5e-3, "Learning rate of Adam at the start for the logarithm of activation ranges; 0 leaves them.", ge=0)


@dataclass(frozen=True, kw_only=True)
class Top1Options(Options):
    ref: str = opt("", "Path of the images: an .npz with images and labels, or a folder.")
    format: Literal["auto", "npz", "folder"] = opt("auto", "How the path is read; auto goes by what it is.")
    batch_size: int | None = opt(None, "Images per forward; by default 250, fewer on a CPU where images are large.", ge=1)
    limit: int | None = opt(None, "Evaluate the first so many images only.", ge=1)
    crop: float = opt(0.875, "Share of the resized short side that the centre crop keeps, for folders of photos.", gt=0, le=1)


@dataclass(frozen=True, kw_only=True)
class AgreementOptions(Options):
    images: int = opt(512, "Synthetic images to compare teacher and student on.", ge=1)


@dataclass(frozen=True, kw_only=True)
class JsonlOptions(Options):
    ref: str = opt("", "Path of the file; what it already holds of such logs stays.")
