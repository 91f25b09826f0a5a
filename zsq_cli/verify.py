"""``zsq verify``: proof that an exported file computes what was evaluated, on images that need no data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsq._api.saved import ENOUGH, SavedRun
from zsq_cli.export import BELOW_8_BITS


def verify_run(place: Path, to: str, count: int, file: Path | None, *, json: bool = False) -> int:
    """Compare and print; 1 when too few answers agree, or when a student for deployment has a convolution in float."""
    from zsq_cli import render

    result = SavedRun.open(place, exported=True).verify(to, count, file)
    if json:
        render.print_json(result)
    else:
        for line in _lines(result):
            render.console().print(line, soft_wrap=True)
    return 0 if result["verified"] else 1


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
    if islands := result.get("islands"):
        lines.append(f"operations in float between layers: {len(islands)} ({', '.join(islands[:5])}{'…' if len(islands) > 5 else ''})")
    if result.get("caution"):
        lines.append(result["caution"])
    if result["below_8_bits"]:
        lines.append(BELOW_8_BITS)
    if result["floating"] and result["scheme"] == "paper":
        lines.append("scheme 'paper' is not integer from end to end: for speed quantize with --set quant.scheme=deploy")
    if result["argmax_agreement"] < ENOUGH:
        lines.append(f"NOT VERIFIED: less than {ENOUGH} % agree")
    elif not result["verified"]:
        lines.append("NOT VERIFIED: a student for deployment must not calculate in float")
    else:
        lines.append("verified")
    return lines
