"""Reports as a run writes them."""

from __future__ import annotations

from typing import Any


def report(*, teacher: str = "py:net:build", fingerprint: str = "a" * 64, scheme: str = "paper", bits: int = 4, synth: str = "noise",
           seed: int = 0, top1: float | None = 90.0, own: float | None = 91.4, size: int = 160_000, seconds: float = 100.0,
           images: int = 2000, npz: str | None = "data/images.npz", **changes: Any) -> dict[str, Any]:  # fmt: skip
    """A report of schema 1 with the fields that a comparison reads, and some more."""
    evaluated = {"eval": [{"name": "npz", "ref": npz}]} if npz else {}
    return {
        "schema": 1,
        "teacher": {"ref": teacher, "fingerprint": fingerprint, "size_bytes": 1_080_000, "metrics": {} if own is None else {"top1": own}},
        "student": {
            "metrics": {**({} if top1 is None else {"top1": top1}), "agreement": 93.0},
            "scheme": scheme,
            "weight_bits": bits,
            "act_bits": bits,
            "size_bytes": size,
            "layers": [{"name": f"layer{i}", "weights": bits} for i in range(100)],
        },
        "wall_s": seconds,
        "seed": seed,
        "stopped": False,
        "images_evaluated": images,
        "versions": {"zsq": "0.1.0"},
        "hardware": {"cpu": "some", "threads": 2},
        "recipe": {
            "zsq": 1,
            "teacher": {"ref": teacher},
            "synth": {"name": synth},
            "quant": {"name": f"uniform{bits}"},
            "calib": [{"name": "minmax"}],
            "loss": [{"name": "kd"}],
            "tune": {"name": "finetune", "steps": 400},
            "run": {"seed": seed},
            **evaluated,
        },
        **changes,
    }
