"""``zsq verify``: proof that an exported file computes what was evaluated, on images that need no data."""

from __future__ import annotations

import json as json_
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq.errors import FileError
from zsq.files import write_atomic
from zsq_cli.export import BELOW_8_BITS, able, saved_student
from zsq_cli.run import read_report

if TYPE_CHECKING:
    from torch import Tensor

    from zsq.types import InputSpec

#: The outcome, beside the exported file.
FILE = "verify.json"
#: Percent of answers that have to be the same.
ENOUGH = 99.9


def verify_run(run: Path, to: str, count: int, file: Path | None, *, json: bool = False) -> int:
    """Compare and print; 1 when too few answers agree, or when a student for deployment has a convolution in float."""
    from zsq.run.places import locate
    from zsq_cli import render

    result = verified(locate(run, exported=True), to, count, file)
    if json:
        render.print_json(result)
    else:
        for line in _lines(result):
            render.console().print(line, soft_wrap=True)
    return 0 if result["verified"] else 1


def verified(run: Path, to: str = "onnx", count: int = 256, file: Path | None = None) -> dict[str, Any]:
    """The comparison as plain values, which are also kept in ``verify.json`` of the run; ``verified`` is its outcome.

    Args:
        run: Folder of a run with an exported file.
        to: The exporter that made the file.
        count: Images at most.
        file: An ``.npz`` with ``images`` (N, H, W, C) uint8 instead of synthetic ones.
    """
    make = able(to, "verify")
    student, ctx, _ = saved_student(run, read_report(run))
    spec = ctx.teacher.inputs
    images, source = synthetic(run, spec, count) if file is None else (_read(file, spec, count), file.name)
    result: dict[str, Any] = make(ctx).verify(student.module, images, run)
    integer = not result["floating"] or student.protocol != "deploy"
    bits = [point.bits for point in student.points.values()]
    told = {"protocol": student.protocol, "source": source, "unit": ctx.teacher.task.unit, "below_8_bits": min(bits, default=8) < 8}
    result = {**result, **told, "verified": result["argmax_agreement"] >= ENOUGH and integer}
    write_atomic(run / FILE, json_.dumps(result, indent=1) + "\n")
    return result


def synthetic(run: Path, spec: InputSpec, count: int) -> tuple[Tensor, str]:
    """Images that need no data, and what they are: those that the run itself made and kept, as its picture shows them, then patterns."""
    import torch

    from zsq.run.report import read_gallery

    found = read_gallery(run / "images.png", spec)
    if found is None:
        return patterns(spec, count), "synthetic patterns"
    own, less = found[0][:count], found[1]
    kept = "" if less == 1 else f", kept at 1/{less} of their size"
    if (rest := count - len(own)) <= 0:
        return own, f"of the run's own{kept}"
    return torch.cat([own, patterns(spec, rest)]), f"{len(own)} of the run's own{kept}, {rest} synthetic patterns"


def patterns(spec: InputSpec, count: int, seed: int = 0) -> Tensor:
    """Random patterns (N, C, H, W) with the coarse and fine structure of photos, normalised: noise summed over octaves, then clipped to
    pixel values; each with a contrast and a colour of its own, so that a network gives many different answers."""
    import torch

    rng, (channels, height, width) = torch.Generator().manual_seed(seed), spec.shape
    total, size = torch.zeros((count, *spec.shape)), 1
    while size <= max(height, width):
        noise = torch.randn((count, channels, min(size, height), min(size, width)), generator=rng)
        total += torch.nn.functional.interpolate(noise, (height, width), mode="bilinear" if size > 1 else "nearest") / math.sqrt(size)
        size *= 2
    contrast = torch.rand((count, 1, 1, 1), generator=rng) * 0.35 + 0.05
    pixels = (0.5 + contrast * total).clamp_(0, 1)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    return (pixels - mean) / std


def _read(file: Path, spec: InputSpec, count: int) -> Tensor:
    import zipfile

    import numpy as np

    from zsq.builtin.evaluators import normalise

    try:
        with np.load(file, allow_pickle=False) as content:
            pixels = content["images"][:count]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"cannot read images: {error}", str(file), "an .npz with `images` (N, H, W, C) uint8") from None
    channels, height, width = spec.shape
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (height, width, channels) or not len(pixels):
        what = f"images are {pixels.dtype} {pixels.shape}, not uint8 (N, {height}, {width}, {channels})"
        raise FileError(what, str(file), "give images of the teacher's size")
    return normalise(pixels, spec).contiguous()


def _counted(result: Mapping[str, Any]) -> str:
    """What answers were counted of: ``64 images``, ``the pixels of 64 images``."""
    images = f"{result['images']} images"
    return images if result["unit"] == "images" else f"the {result['unit']} of {images}"


def _lines(result: Mapping[str, Any]) -> list[str]:
    """The result in words."""
    first, names = result["first"], ", ".join(result["floating"][:5])
    more = len(result["floating"]) - 5
    lines = [
        f"{result['exported']}, {result['runtime']}",
        f"{result['argmax_agreement']:.2f} % of {_counted(result)} ({result['source']}) get the same answer",
        f"largest difference of a logit {result['max_abs_diff']:.3g}; the largest logit is {result['spread']:.3g}",
        "no code differs"
        if first is None
        else f"first layer that differs: {first['path']}, {first['share']:.3g} % of its codes, by {first['steps']} at most",
        f"integer layers: {len(result['integer'])}; float layers: {len(result['floating'])}"
        + (f" ({names}{f' and {more} more' if more > 0 else ''})" if names else ""),
    ]
    if islands := result.get("islands"):
        more = len(islands) - 5
        lines.append(f"other operations in float: {', '.join(islands[:5])}{f' and {more} more' if more > 0 else ''}")
    if result["below_8_bits"]:
        lines.append(BELOW_8_BITS)
    if result["floating"] and result["protocol"] == "paper":
        lines.append("protocol 'paper' is not integer from end to end: for speed quantize with --set quant.protocol=deploy")
    if result["argmax_agreement"] < ENOUGH:
        lines.append(f"NOT VERIFIED: less than {ENOUGH} % agree")
    elif not result["verified"]:
        lines.append("NOT VERIFIED: a student for deployment must not calculate in float")
    else:
        lines.append("verified")
    return lines
