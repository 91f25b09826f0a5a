"""The teacher source ``zoo``: architectures by name, and the embedded teacher."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from zsq.builtin.teachers import read_sidecar, teacher_from
from zsq.builtin.weights import load_into, read_weights
from zsq.errors import ZsqError, nearest
from zsq.types import Context, Teacher
from zsq_zoo import ZooOptions, resnet

ARCHITECTURES = {"resnet20": resnet.resnet20, "resnet32": resnet.resnet32, "resnet44": resnet.resnet44, "resnet56": resnet.resnet56}
EMBEDDED = "resnet20-cifar10"
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Zoo:
    """Loads ``zoo:NAME``."""

    def __init__(self, options: ZooOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def load(self, ref: str) -> Teacher:
        """The teacher of that name.

        Raises:
            ZsqError: When the name is unknown, or an architecture is asked for without weights.
        """
        if ref == EMBEDDED:
            if self.options.weights:
                raise ZsqError(f"zoo:{ref} brings its own weights", "--weights", f"use zoo:{ref.partition('-')[0]} for yours")
            folder = Path(str(resources.files("zsq_zoo"))) / "assets"
            evaluation = f"npz:{folder / 'cifar10-eval-2k.npz'}"
            return self._teacher(ref, "resnet20", folder / f"{EMBEDDED}.safetensors", labels=LABELS, evaluation=evaluation)
        if ref not in ARCHITECTURES:
            known = [EMBEDDED, *ARCHITECTURES]
            raise ZsqError(f"the zoo has no '{ref}'", "teacher", nearest(ref, known) or f"it has: {', '.join(known)}")
        if not self.options.weights:
            raise ZsqError(f"zoo:{ref} is an architecture without weights", "teacher", "give --weights FILE, or use zoo:resnet20-cifar10")
        return self._teacher(ref, ref, Path(self.options.weights))

    def _teacher(self, ref: str, architecture: str, weights: Path, **fields: object) -> Teacher:
        tensors = read_weights(weights, self.ctx.trust_code)
        sidecar = read_sidecar(weights.with_suffix(".json"))
        module = ARCHITECTURES[architecture](int(sidecar.get("classes", 10)))
        load_into(module, tensors, str(weights))
        return teacher_from(module, f"zoo:{ref}", sidecar.get("input", {}), sidecar.get("classes"), where=str(weights.with_suffix(".json")), **fields)
