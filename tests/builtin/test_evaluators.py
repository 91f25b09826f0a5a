"""Evaluators: a network whose answers are known, on files and folders that are right, and on every kind that is not."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from zsq._builtin.evaluators import Agreement, Top1
from zsq._builtin.options import AgreementOptions, Top1Options
from zsq.errors import FileError
from zsq.images import from_uint8
from zsq.testing.world import make_context, make_teacher
from zsq.types import Batch, Context, InputSpec

SPEC = InputSpec((3, 8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]], dtype=np.uint8)


class Colour(nn.Module):
    """Classes red, green, blue, black; refuses what is not normalised."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
        means = x.mean((2, 3))
        assert float(x.min()) == pytest.approx(-2) and float(x.max()) <= 2.0001, "pixels are not normalised"
        return torch.cat([means, torch.full((len(x), 1), -1.5)], 1)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return make_context(tmp_path, teacher=replace(make_teacher(), inputs=SPEC))


def plates(labels: list[int], height: int = 8, width: int = 8) -> np.ndarray:
    return np.broadcast_to(COLOURS[labels][:, None, None], (len(labels), height, width, 3)).copy()


def top1(ctx: Context, path: Path, **options: Any) -> dict[str, float]:
    evaluator = Top1(Top1Options(ref=str(path), **options), ctx)
    evaluator.check(ctx)
    return evaluator.evaluate(Colour(), ctx)


def test_npz(ctx: Context, tmp_path: Path) -> None:
    labels = [0, 1, 2, 3, 0, 1]
    np.savez(tmp_path / "e.npz", images=plates([0, 1, 2, 3, 1, 1]), labels=np.array(labels, dtype=np.uint8))
    for batch_size in (1, 4, 100):
        assert top1(ctx, tmp_path / "e.npz", batch_size=batch_size) == {"top1": pytest.approx(100 * 5 / 6), "images": 6}
    assert top1(ctx, tmp_path / "e.npz", limit=4, format="npz") == {"top1": 100.0, "images": 4}


def test_normalise_is_per_channel() -> None:
    pixels = np.array([[[[0, 51, 255]]]], dtype=np.uint8)
    inputs = from_uint8(pixels, InputSpec((3, 1, 1), (0.0, 0.2, 0.5), (1.0, 0.5, 0.25)))
    torch.testing.assert_close(inputs, torch.tensor([0.0, 0.0, 2.0]).view(1, 3, 1, 1))


def write(path: Path, label: int, height: int = 8, width: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(plates([label], height, width)[0]).save(path)


def test_class_folders_in_order_of_name(ctx: Context, tmp_path: Path) -> None:
    for label, name in enumerate(["apple", "bean", "corn", "dill"]):
        write(tmp_path / "e" / name / "one.png", label)
        write(tmp_path / "e" / name / "deep" / "two.PNG", label, 20, 31)
        (tmp_path / "e" / name / "notes.txt").write_text("not an image")
    (tmp_path / "e" / ".hidden").mkdir()
    assert top1(ctx, tmp_path / "e", batch_size=3) == {"top1": 100.0, "images": 8}
    assert top1(ctx, tmp_path / "e", limit=4, format="folder") == {"top1": 100.0, "images": 4}


def test_a_limit_takes_of_every_class(ctx: Context, tmp_path: Path) -> None:
    for name in ["a", "b", "c", "d"]:
        for i in range(3):
            write(tmp_path / "e" / name / f"{i}.png", 0)
    assert top1(ctx, tmp_path / "e", limit=4) == {"top1": 25.0, "images": 4}


def test_metadata_table(ctx: Context, tmp_path: Path) -> None:
    write(tmp_path / "sub" / "x.png", 2)
    write(tmp_path / "y.png", 1, 9, 30)
    (tmp_path / "metadata.csv").write_text("\ufefffile_name,label\nsub/x.png,2\ny.png,0\n", encoding="utf-8")
    assert top1(ctx, tmp_path) == {"top1": 50.0, "images": 2}


def test_photos_are_resized_and_cropped_at_the_centre(ctx: Context, tmp_path: Path) -> None:
    """A wide photo, green in the middle and red elsewhere: with crop 0.5 only the green half is left."""
    photo = plates([0], 64, 128)[0]
    photo[:, 40:88] = COLOURS[1]
    photo[:8], photo[-8:] = COLOURS[0], COLOURS[0]
    Image.fromarray(photo).save(tmp_path / "wide.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\nwide.png,1\n")
    seen: list[Tensor] = []

    class Watch(Colour):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.eye(4)[[1]]

    Top1(Top1Options(ref=str(tmp_path), crop=0.5), ctx).evaluate(Watch(), ctx)
    red, green, _ = seen[0][0]
    assert seen[0].shape == (1, 3, 8, 8)
    torch.testing.assert_close(green, torch.full((8, 8), 2.0)), torch.testing.assert_close(red, torch.full((8, 8), -2.0))


@pytest.mark.parametrize(("size", "batches"), [(8, [7]), (512, [2, 2, 2, 1]), (2000, [1] * 7)])
def test_large_images_go_in_small_batches(ctx: Context, tmp_path: Path, size: int, batches: list[int]) -> None:
    for number in range(7):
        write(tmp_path / f"{number}.png", 0, size, size)
    (tmp_path / "metadata.csv").write_text("file_name,label\n" + "".join(f"{n}.png,0\n" for n in range(7)))
    spec = InputSpec((3, size, size), SPEC.mean, SPEC.std)
    seen: list[int] = []
    keep: Any = lambda x: seen.append(len(x)) or torch.eye(4)[[0] * len(x)]  # noqa: E731
    large = ctx.with_(teacher=replace(ctx.teacher, inputs=spec))
    assert Top1(Top1Options(ref=str(tmp_path)), large).evaluate(keep, large) == {"top1": 100.0, "images": 7}
    assert seen == batches


def test_images_of_the_teachers_size_are_taken_as_they_are(ctx: Context, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    noise[0, 0] = 0
    Image.fromarray(noise).save(tmp_path / "x.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\nx.png,0\n")
    seen: list[Tensor] = []
    keep: Any = lambda x: seen.append(x) or torch.eye(4)[[0]]  # noqa: E731
    Top1(Top1Options(ref=str(tmp_path)), ctx).evaluate(keep, ctx)
    assert torch.equal(seen[0], from_uint8(noise[None], SPEC))


def _npz(**arrays: Any) -> Any:
    return lambda path: np.savez(path, **arrays)


GOOD, LABELS = plates([0, 1]), np.array([0, 1])
BAD_FILES: dict[str, tuple[Any, str]] = {
    "missing": (lambda path: None, "do not exist"),
    "garbage": (lambda path: path.write_bytes(b"garbage"), "damaged"),
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"images": 1})), "damaged"),
    "npy": (lambda path: path.write_bytes(b"\x93NUMPY"), "damaged"),
    "objects": (_npz(images=np.array([object(), None]), labels=LABELS), "plain arrays"),
    "no labels": (_npz(images=GOOD), "has no labels"),
    "other names": (_npz(x=GOOD, y=LABELS), "has no images and labels"),
    "float images": (_npz(images=GOOD / 255.0, labels=LABELS), "float64"),
    "other size": (_npz(images=plates([0, 1], 9, 8), labels=LABELS), "(2, 9, 8, 3), but the teacher reads uint8 (N, 8, 8, 3)"),
    "channels first": (_npz(images=GOOD.transpose(0, 3, 1, 2), labels=LABELS), "(2, 3, 8, 8)"),
    "fewer labels": (_npz(images=GOOD, labels=LABELS[:1]), "for 2 images"),
    "float labels": (_npz(images=GOOD, labels=LABELS / 1.0), "float64"),
    "label too large": (_npz(images=GOOD, labels=np.array([0, 4])), "0 to 4, but must be from 0 to 3"),
    "label negative": (_npz(images=GOOD, labels=np.array([-1, 0])), "-1 to 0"),
    "no images": (_npz(images=GOOD[:0], labels=LABELS[:0]), "no images"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_npz_files(ctx: Context, tmp_path: Path, kind: str) -> None:
    make, words = BAD_FILES[kind]
    make(tmp_path / "e.npz")
    with pytest.raises(FileError) as caught:
        Top1(Top1Options(ref=str(tmp_path / "e.npz")), ctx).check(ctx)
    assert words in str(caught.value), str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_truncated_npz(ctx: Context, tmp_path: Path) -> None:
    np.savez_compressed(
        tmp_path / "e.npz", images=np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8), labels=np.zeros(50, int)
    )
    content = bytearray((tmp_path / "e.npz").read_bytes())
    content[200:260] = b"\0" * 60
    for broken in (bytes(content), bytes(content[:-100])):
        (tmp_path / "e.npz").write_bytes(broken)
        with pytest.raises(FileError, match="damaged"):
            Top1(Top1Options(ref=str(tmp_path / "e.npz")), ctx).check(ctx)


BAD_TABLES: dict[str, tuple[str, str]] = {
    "no header": ("x.png,0\n", "no columns file_name and label"),
    "empty": ("", "no columns"),
    "no rows": ("file_name,label\n", "no images"),
    "label is a name": ("file_name,label\nx.png,cat\n", "'cat'"),
    "no label": ("file_name,label\nx.png\n", "label None"),
    "no such file": ("file_name,label\ny.png,0\n", "no file 'y.png'"),
    "outside": ("file_name,label\n../x.png,0\n", "outside its folder"),
    "absolute": ("file_name,label\n/etc/hostname,0\n", "outside its folder"),
    "out of range": ("file_name,label\nx.png,4\n", "0 to 3"),
    "not text": ("file_name,label\n\udcff.png,0\n", "UTF-8"),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_bad_tables(ctx: Context, tmp_path: Path, kind: str) -> None:
    text, words = BAD_TABLES[kind]
    write(tmp_path / "e" / "x.png", 0)
    (tmp_path / "x.png").write_bytes((tmp_path / "e" / "x.png").read_bytes())
    (tmp_path / "e" / "metadata.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(FileError) as caught:
        Top1(Top1Options(ref=str(tmp_path / "e")), ctx).check(ctx)
    assert words in str(caught.value), str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_other_bad_folders(ctx: Context, tmp_path: Path) -> None:
    write(tmp_path / "e" / "cat" / "x.png", 0)
    with pytest.raises(FileError, match="1 class folders, but the teacher has 4"):
        top1(ctx, tmp_path / "e")
    with pytest.raises(FileError, match="not a folder"):
        top1(ctx, tmp_path / "e" / "cat" / "x.png", format="folder")
    with pytest.raises(FileError, match="damaged"):
        top1(ctx, tmp_path / "e", format="npz")
    with pytest.raises(FileError, match="did you mean 'e'"):
        top1(ctx, tmp_path / "ee")
    with pytest.raises(FileError, match="no evaluation images are given"):
        Top1(Top1Options(), ctx).check(ctx)
    (tmp_path / "e" / "cat" / "x.png").write_bytes(b"not a picture")
    (tmp_path / "e" / "metadata.csv").write_text("file_name,label\ncat/x.png,0\n")
    with pytest.raises(FileError, match=r"'x\.png' cannot be read as an image"):
        top1(ctx, tmp_path / "e")


def test_agreement_counts_answers_and_measures_logits(ctx: Context) -> None:
    inputs = torch.randn((10, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    asked: list[int] = []

    def sampler(n: int) -> Batch:
        asked.append(n)
        return Batch(inputs[:n])

    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ctx.teacher.module(x) + 0.5

    class Reversed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -ctx.teacher.module(x)

    evaluator = Agreement(AgreementOptions(images=10), ctx)
    sampled = ctx.with_(sampler=sampler)
    assert evaluator.evaluate(Shifted(), sampled) == {
        "agreement": 100.0,
        "logit_mse": pytest.approx(0.25, rel=1e-4),
        "agreement_images": 10,
    }
    assert asked == [4, 4, 2]
    assert evaluator.evaluate(Reversed(), sampled)["agreement"] == 0.0


def test_agreement_falls_back_to_noise(ctx: Context) -> None:
    evaluator = Agreement(AgreementOptions(images=6), ctx)
    ours = ctx.with_(rng=torch.Generator().manual_seed(5))
    assert evaluator.evaluate(ctx.teacher.module, ours) == {"agreement": 100.0, "logit_mse": 0.0, "agreement_images": 6}


def test_limits_of_pillow_are_reported(ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.png", 0, 64, 64)
    (tmp_path / "metadata.csv").write_text("file_name,label\nx.png,0\n")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    with pytest.raises(FileError, match="cannot be read as an image"):
        top1(ctx, tmp_path)
