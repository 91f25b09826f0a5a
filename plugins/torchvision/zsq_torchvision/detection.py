"""torchvision's single-shot detectors as one plain network: backbone, pyramid and heads, images to scores and box offsets.

Resizing, anchors, box decoding and suppression are left out of it; they go into its ``decoding``, in float.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zsq.errors import library

#: Name of a detector to height and width of its inputs: fixed in training, or what most photographs were resized to.
SIZES = {"ssdlite320_mobilenet_v3_large": (320, 320), "retinanet_resnet50_fpn": (800, 1088)}
#: The maps that feed the heads.
TAPS = {
    "ssdlite320_mobilenet_v3_large": (*(f"backbone.features.{i}" for i in range(2)), *(f"backbone.extra.{i}" for i in range(4))),
    "retinanet_resnet50_fpn": (
        *(f"backbone.fpn.layer_blocks.{i}" for i in range(3)),
        *(f"backbone.fpn.extra_blocks.{name}" for name in ("p6", "p7")),
    ),
}
#: Published weights of RetinaNet were trained with an epsilon of nothing in their BatchNorms, which stood still.
_NO_EPSILON = ("retinanet_resnet50_fpn",)
_EXTRA = "zsq-torchvision[detect]"


class Detector(nn.Module):
    """Input (N, 3, H, W), normalised; output scores (N, A, classes) and offsets (N, A, 4) over all anchors.

    Parameters are called as in torchvision, so that its checkpoints load.

    Args:
        model: One of torchvision's, with ``backbone`` and ``head``.
        decoding: How boxes come from the output, a ``zsq_detect.decoding.Decoding``.
    """

    def __init__(self, model: Any, decoding: Any) -> None:
        super().__init__()
        self.backbone, self.head, self.decoding = model.backbone, model.head, decoding

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        found = self.head(list(self.backbone(inputs).values()))
        return found["cls_logits"], found["bbox_regression"]


def network(models: Any, name: str, classes: int, published: bool, size: tuple[int, int], where: str) -> Detector:
    """A detector without weights.

    Args:
        models: ``torchvision.models``.
        name: One of :data:`SIZES`.
        classes: Scores per anchor.
        published: Whether published weights will be put in.
        size: Height and width of the inputs that anchors are made for.
        where: For messages.

    Raises:
        ComponentError: If zsq-detect is missing.
    """
    with torch.random.fork_rng(devices=[]):  # initial values are drawn, and overwritten next
        model = models.get_model(name, weights=None, weights_backbone=None, num_classes=classes).eval()
    if published and name in _NO_EPSILON:
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.eps = 0.0
    return Detector(model, _decoding(model, name, size, where))


def spec(models: Any, name: str) -> dict[str, Any]:
    """``shape``, ``mean`` and ``std`` of a detector's inputs."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        transform = models.get_model(name, weights=None, weights_backbone=None).transform
    return {"shape": (3, *SIZES[name]), "mean": tuple(transform.image_mean), "std": tuple(transform.image_std)}


@torch.no_grad()
def _decoding(model: Any, name: str, size: tuple[int, int], where: str) -> Any:
    """The model's anchors for one size, its box coder and its thresholds."""
    boxes, decoding = (library(f"zsq_detect.{part}", _EXTRA, where) for part in ("boxes", "decoding"))
    images = library("torchvision.models.detection.image_list", "zsq-torchvision[torchvision]", where)
    blank = torch.zeros(1, 3, *size)
    (anchors,) = model.anchor_generator(images.ImageList(blank, [size]), list(model.backbone(blank).values()))
    centred = torch.cat([(anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]], 1)
    resized = model.transform.fixed_size is not None
    return decoding.Decoding(
        boxes.Priors(centred, tuple(map(float, model.box_coder.weights))),
        scores="softmax" if name.startswith("ssd") else "sigmoid",
        threshold=model.score_thresh,
        overlap=model.nms_thresh,
        candidates=model.topk_candidates,
        most=model.detections_per_img,
        fit="stretch" if resized else "pad",
    )
