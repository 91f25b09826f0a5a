"""``pareto.png``: the frontier with what was chosen of it, and bits layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from zsq.files import write_atomic


def draw(details: Mapping[str, Any], path: Path) -> Path:
    """Draw what ``Student.details`` of the quantizer says; no state of matplotlib's is touched.

    Raises:
        FileError: If the file system refuses.
    """
    bits = details["assignment"]
    figure = Figure(figsize=(max(9.0, 5.0 + 0.16 * len(bits)), 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(4.5, max(4.5, 0.16 * len(bits))))
    _frontier(left, details)
    right.bar(range(len(bits)), list(bits.values()), color="tab:blue")
    right.set_xticks(range(len(bits)), list(bits), rotation=90, fontsize=6)
    right.set_yticks(sorted(set(bits.values())))
    right.margins(x=0.01)
    right.set_ylabel("weight bits")
    right.set_title(f"{details['mean_bits']:.3g} bits a weight, {details['size_mb']:.3g} MB")
    return write_atomic(path, lambda beside: figure.savefig(beside, format="png", dpi=120))


def _frontier(axes: Any, details: Mapping[str, Any]) -> None:
    sizes = details["cost"] == "MB"
    axes.plot(*zip(*details["frontier"], strict=True), color="tab:blue", label="Pareto frontier")
    uniform = [(row["size_mb" if sizes else "bops"], row["predicted_kl"]) for row in details["uniform"]]
    axes.plot(*zip(*uniform, strict=True), "o", color="tab:gray", label="uniform")
    for row, point in zip(details["uniform"], uniform, strict=True):
        name = f"{row['bits']}/{row['act_bits']}" if "act_bits" in row else f"{row['bits']}"
        axes.annotate(name, point, xytext=(4, 4), textcoords="offset points", fontsize=7)
    if "additive" in details:
        told = details["additive"]
        axes.plot(*told["chosen"], "D", color="tab:orange", label=f"least sum, jointly {told['joint_kl']:.2g}")
    jointly = f", jointly {details['joint_kl']:.2g}" if "joint_kl" in details else ""
    axes.plot(*details["chosen"], "*", color="tab:red", markersize=13, label=f"chosen{jointly}")
    axes.set_yscale("log")
    axes.set_xlabel("size of the weights, MB" if sizes else "bit operations of one image")
    axes.set_ylabel("sum of sensitivities (KL, nats)")
    axes.set_title("predicted harm against cost")
    axes.legend()
