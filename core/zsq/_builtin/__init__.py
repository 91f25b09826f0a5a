"""Declares the built-in components through the same hooks as plugins. Imports neither torch nor any implementation."""

from __future__ import annotations

from collections.abc import Iterator

from zsq._builtin import options as o
from zsq._component import Component
from zsq._hookspecs import hookimpl
from zsq.options import UniformOptions

_BITS = range(2, 9)


@hookimpl
def zsq_teachers() -> Iterator[Component]:
    yield Component(
        "py",
        "zsq._builtin.teachers:Py",
        o.PyOptions,
        "A local factory: py:package.module:callable or py:path/to/file.py:callable.",
        provides={"teacher.output", "teacher.features"},
    )
    yield Component(
        "memory",
        "zsq._builtin.teachers:Memory",
        o.MemoryOptions,
        "A network that somebody holds in Python: zsq.quantize(network, ...); no command can bring it back.",
        provides={"teacher.output", "teacher.features"},
    )


@hookimpl
def zsq_tasks() -> Iterator[Component]:
    yield Component(
        "classify", "zsq._builtin.classify:Classify", o.ClassifyOptions, "One of several classes per image.", provides={"classes"}
    )


@hookimpl
def zsq_synthesizers() -> Iterator[Component]:
    yield Component("noise", "zsq._builtin.noise:Noise", o.NoiseOptions, "Gaussian noise images.")
    yield Component(
        "none",
        "zsq._builtin.noise:NoImages",
        summary="No images at all: for quantizers and calibrators that need none.",
        suggests={"tune": {"name": "none"}},
    )


@hookimpl
def zsq_quantizers() -> Iterator[Component]:
    yield Component(
        "uniform",
        "zsq.placement._quantizer:Uniform",
        UniformOptions,
        "Uniform affine grids for weights and activations.",
        presets={f"uniform{b}": {"weight_bits": b, "act_bits": b} for b in _BITS},
        provides={"act.range", "graph", "weights.live"},
    )


@hookimpl
def zsq_calibrators() -> Iterator[Component]:
    ranges = {"act.range", "images"}
    yield Component("minmax", "zsq._builtin.ranges:MinMax", o.RangeOptions, "Smallest and largest activation seen.", needs=ranges)
    yield Component("ema", "zsq._builtin.ranges:Ema", o.EmaOptions, "Debiased moving average of batch extremes.", needs=ranges)
    yield Component(
        "percentile", "zsq._builtin.ranges:Percentile", o.PercentileOptions, "Ranges that hold a share of the values.", needs=ranges
    )
    yield Component(
        "mean-image-max", "zsq._builtin.ranges:MeanImageMax", o.RangeOptions, "Mean over images of each image's extremes.", needs=ranges
    )
    yield Component(
        "clip-search",
        "zsq._builtin.clip_search:ClipSearch",
        o.ClipSearchOptions,
        "Activation ranges that keep the student's output nearest to the teacher's, site after site.",
        needs={"act.range", "images", "graph", "teacher.output"},
    )


@hookimpl
def zsq_losses() -> Iterator[Component]:
    both = {"teacher.output", "student.output"}
    yield Component("kd", "zsq._builtin.losses:Kd", o.KdOptions, "Kullback-Leibler divergence of softened outputs.", needs=both)
    yield Component("mse", "zsq._builtin.losses:Mse", summary="Mean squared difference of the logits.", needs=both)
    yield Component("ce", "zsq._builtin.losses:Ce", summary="Cross-entropy with hard targets.", needs={"targets", "student.output"})
    yield Component(
        "soft-ce", "zsq._builtin.losses:SoftCe", summary="Cross-entropy with soft targets.", needs={"targets", "student.output"}
    )
    yield Component("bns", "zsq._builtin.losses:Bns", summary="Distance of batch statistics to BatchNorm statistics.", needs={"teacher.bn"})


@hookimpl
def zsq_tuners() -> Iterator[Component]:
    gradient = {"student.output", "images"}
    yield Component("finetune", "zsq._builtin.finetune:Finetune", o.FinetuneOptions, "Gradient descent on the objective.", needs=gradient)
    yield Component(
        "clips",
        "zsq._builtin.clips:Clips",
        o.ClipsOptions,
        "Gradient on activation ranges and BatchNorm scales only; weights stay on their grid.",
        needs=gradient,
        suggests={"loss": ["mse"], "run": {"batch_size": 128}},
    )
    yield Component("none", "zsq._builtin.finetune:NoTuning", summary="Calibration only.")


@hookimpl
def zsq_evaluators() -> Iterator[Component]:
    yield Component(
        "top1",
        "zsq._builtin.evaluators:Top1",
        o.Top1Options,
        "Top-1 accuracy on real images: npz:PATH or folder:PATH.",
        presets={"npz": {"format": "npz"}, "folder": {"format": "folder"}},
        needs={"classes"},
    )
    summary = "Agreement with the teacher on synthetic images."
    yield Component("agreement", "zsq._builtin.evaluators:Agreement", o.AgreementOptions, summary, needs={"images", "teacher.output"})


@hookimpl
def zsq_exporters() -> Iterator[Component]:
    summary = "Packed integer codes, scales, zero points and configuration."
    yield Component("safetensors", "zsq._builtin.safetensors:Safetensors", summary=summary)


@hookimpl
def zsq_logs() -> Iterator[Component]:
    yield Component("jsonl", "zsq._builtin.jsonl:Jsonl", o.JsonlOptions, "Every event as a line of JSON, written at once: jsonl:PATH.")
