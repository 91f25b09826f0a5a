"""The synthesizer ``qimera``: GDFQ with normalised noisy class embeddings as input, superposed for some batches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zsq_gdfq.generator import ImageStack, Labels
from zsq_gdfq.synth import GeneratorSynth

from zsq.errors import ZsqError
from zsq.types import Teacher
from zsq_qimera import QimeraOptions


class SuperposedGenerator(nn.Module):
    """Noise (N, K, latent_dim) and labels of K classes per image to images.

    Args:
        embeddings: One row per class, (num_classes, latent_dim).
        mapping: Disentanglement mapping, or None.
        stack: The layers after the code.
        scale: Standard deviation of the added noise.
        jointly: Standardise superposed embeddings over all images of a batch, slot by slot (authors' code), not each alone.
            A batch of single classes is always standardised image by image.
    """

    def __init__(self, embeddings: nn.Embedding, mapping: nn.Linear | None, stack: ImageStack, scale: float = 1.0,
                 jointly: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.embeddings, self.mapping, self.stack, self.scale, self.jointly = embeddings, mapping, stack, scale, jointly

    def forward(self, noise: Tensor, labels: Labels) -> Tensor:
        code = self.standardised(self.embeddings(labels.classes) + self.scale * noise)
        if self.mapping is not None:
            code = self.mapping(code)
        image: Tensor = self.stack((labels.weights[:, :, None] * code).sum(1), labels)
        return image

    def standardised(self, code: Tensor) -> Tensor:
        """Mean 0 and variance 1 over the latent dimension, or over images and latent dimension together; (N, K, latent_dim)."""
        if self.jointly and code.shape[1] > 1:
            slots = code.transpose(0, 1)
            return F.layer_norm(slots, slots.shape[1:]).transpose(0, 1)
        return F.layer_norm(code, code.shape[2:])


class Qimera(GeneratorSynth):
    """Qimera: soft targets (N, num_classes), the weighted sum of the one-hot labels that were superposed."""

    options: QimeraOptions

    def build(self) -> SuperposedGenerator:
        o = self.options
        embeddings = self._embeddings()
        mapping = nn.Linear(embeddings.embedding_dim, o.mapping_dim) if o.mapping else None
        code_dim = o.mapping_dim if o.mapping else embeddings.embedding_dim
        conditional = self.conditional(o.conditioning)
        stack = ImageStack(self.shape, code_dim, self.num_classes, o.channels, o.bn_eps, conditional, o.cbn_mix == "mean")
        return SuperposedGenerator(embeddings, mapping, stack, o.noise, o.norm == "released")

    def draw(self, n: int) -> tuple[tuple[Any, ...], Tensor]:
        """Superposed or not, per batch; K uniform labels per image with replacement; shares softmax(N(0, I)); noise per slot."""
        rng, device = self.ctx.rng, self.ctx.device
        coin = torch.rand((), generator=rng, device=device)
        slots = self.mixed if coin < self.options.superpose else 1
        classes = torch.randint(self.num_classes, (n, slots), generator=rng, device=device)
        weights = torch.randn((n, slots), generator=rng, device=device).softmax(1)
        noise = torch.randn((n, slots, self.generator.embeddings.embedding_dim), generator=rng, device=device)
        labels = Labels(classes, weights)
        return (noise, labels), labels.soft_targets(self.num_classes)

    @property
    def mixed(self) -> int:
        """K: 2 of 10 classes, 10 of 100, 100 of 1000, as the authors' scripts (they also use 50 of 100 and 500 of 1000)."""
        return self.options.mixed or max(2, self.num_classes // 10)

    def _embeddings(self) -> nn.Embedding:
        o = self.options
        rows = head_rows(self.ctx.teacher)
        if rows is not None and len(rows) != self.num_classes:
            rows = None
        width = o.latent_dim or (100 if rows is None else rows.shape[1])
        fits = rows is not None and rows.shape[1] == width
        if o.embedding == "teacher" and not fits:
            raise ZsqError(
                "cannot start embeddings from the teacher's last layer: "
                + ("it is neither linear nor a 1x1 convolution to the classes" if rows is None else f"its input width is {rows.shape[1]}"),
                "option 'embedding' of qimera",
                "use embedding=random" if rows is None else f"leave latent_dim open, or set it to {rows.shape[1]}",
            )
        embeddings = nn.Embedding(self.num_classes, width)
        if fits and o.embedding != "random":
            embeddings.weight = nn.Parameter(rows.detach().float().cpu().clone())  # type: ignore[union-attr]
        return embeddings.requires_grad_(not o.freeze_embedding)


def head_rows(teacher: Teacher) -> Tensor | None:
    """One weight row (input width) per class of the teacher's last layer, linear or 1x1 convolution; None without such a layer."""
    head = teacher.module.get_submodule(teacher.head) if teacher.head else None
    if isinstance(head, nn.Linear) or (isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1) and head.groups == 1):
        return head.weight.flatten(1)
    return None
