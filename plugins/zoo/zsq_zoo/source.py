"""The teacher source ``zoo``: architectures by name, and teachers with their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zsq.errors import OptionError, ZsqError, nearest
from zsq.teachers import load_into, read_sidecar, read_weights, teacher_from
from zsq.types import Context, Teacher
from zsq_zoo import ZooOptions, litedet, litelab, resnet

ARCHITECTURES: Mapping[str, Callable[[int], nn.Module]] = {
    "resnet20": resnet.resnet20,
    "resnet32": resnet.resnet32,
    "resnet44": resnet.resnet44,
    "resnet56": resnet.resnet56,
    "litelab": litelab.LiteLab,
    "litedet": litedet.LiteDet,
}
EMBEDDED = "resnet20-cifar10"
#: A network for street scenes of 320 x 240 pixels, from ``scripts/train_litelab.py``; it comes without images.
CAMVID = "litelab-camvid"
#: A detector of blood cells in images of 320 x 240 pixels, from ``scripts/train_bccd.py``; it comes without images.
BCCD = "litedet-bccd"
ASSETS = Path(__file__).parent / "assets"
#: CIFAR-10's classes in the order of their labels.
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: CamVid's, in the usual selection of eleven.
CAMVID_LABELS = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
#: BCCD's, in the order of their numbers.
BCCD_LABELS = ("RBC", "WBC", "Platelets")
#: Teachers with their weights, and their further fields.
COMPLETE: Mapping[str, Mapping[str, Any]] = {
    EMBEDDED: {"labels": LABELS, "evaluation": f"npz:{ASSETS / 'cifar10-eval-2k.npz'}"},
    CAMVID: {"labels": CAMVID_LABELS},
    BCCD: {"labels": BCCD_LABELS},
}
#: Fields of a teacher that cannot be found from its network.
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "litelab": {"taps": litelab.TAPS, "head": "classifier"},
    "litedet": {"taps": litedet.TAPS, "head": ""},
}


class Zoo:
    """Loads ``zoo:NAME``."""

    def __init__(self, options: ZooOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def load(self, ref: str) -> Teacher:
        """The teacher of that name.

        Raises:
            ZsqError: If the name is unknown, an architecture has no weights file, or its weights do not fit.
        """
        where = f"teacher zoo:{ref}"
        if ref in COMPLETE:
            if given := next((name for name, value in self.options.to_dict().items() if value is not None), None):
                raise OptionError(
                    f"zoo:{ref} has its own weights, so option '{given}' has no effect",
                    where,
                    f"for your own weights: zoo:{ref.partition('-')[0]}",
                )
            return self._teacher(ref, ref.partition("-")[0], ASSETS / f"{ref}.safetensors", **COMPLETE[ref])
        if ref not in ARCHITECTURES:
            known = [*COMPLETE, *ARCHITECTURES]
            raise ZsqError(f"the zoo has no '{ref}'", where, nearest(ref, known) or f"it has: {', '.join(known)}")
        if not self.options.weights:
            raise ZsqError(f"'{ref}' is an architecture without weights", where, f"give --weights FILE, or use zoo:{EMBEDDED}")
        return self._teacher(ref, ref, Path(self.options.weights))

    def _teacher(self, ref: str, architecture: str, weights: Path, **fields: Any) -> Teacher:
        o = self.options
        tensors = read_weights(weights, trust_code=self.ctx.trust_code)
        sidecar = read_sidecar(weights.with_suffix(".json"))
        classes = o.classes or sidecar.get("classes") or 10
        with torch.random.fork_rng(devices=[]):  # the random initial values are overwritten next
            module = ARCHITECTURES[architecture](classes)
        load_into(module, tensors, str(weights))
        spec = {"shape": (3, 32, 32), **sidecar.get("input", {}), **{k: v for k, v in (("mean", o.mean), ("std", o.std)) if v}}
        if isinstance(module, litedet.LiteDet):
            height, width = spec["shape"][1:]
            module.decoding = litedet.decoding(height, width, f"teacher zoo:{ref}")
        fields = {**FIELDS.get(architecture, {}), **fields}
        return teacher_from(module, f"zoo:{ref}", spec, classes, where=str(weights), task=self.ctx.task, **fields)
