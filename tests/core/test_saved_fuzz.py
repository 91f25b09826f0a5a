"""2,000 damaged and hostile student folders: each is refused with a ZsqError, or loads and computes what its files say.

What "says" means, exactly. Of a folder whose two files have the original bytes, the loaded student's outputs are the original's, bit
for bit. Any other bytes with the checksums left as they were are refused. Where the checksums were made again, a folder that loads

1. has the weights that the reader printed in docs/format.md decodes from it, bit for bit, and
2. when saved again gives the same modules, graph, codes, scales, zero points, ranges and values, the names of nodes aside,
3. takes an image of the shape it announces; and where 2. equals the original's, gives out the original's bits.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save
from torch import Tensor, nn

import zsq
from zsq._builtin.safetensors import Safetensors
from zsq.errors import ZsqError
from zsq.format import text_of
from zsq.format._pack import squeeze
from zsq.options import Options, UniformOptions
from zsq.placement import Uniform
from zsq.types import InputSpec, Student, Teacher

SHAPE = (2, 6, 6)
FILES = CONFIG, WEIGHTS = "config.json", "model.safetensors"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.register_buffer("gain", torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1))
        self.register_buffer("order", torch.tensor([3, 1, 0, 2]))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x))).index_select(1, self.order)
        x = torch.cat((x[:, :2] * 0.5, x[:, 2:]), 1) * self.gain
        return self.fc(x.mean((2, 3)).reshape(x.size(0), 4))  # type: ignore[no-any-return]


def make(folder: Path, seed: int, **options: Any) -> None:
    torch.manual_seed(seed)
    teacher = Teacher(Net().eval(), InputSpec(SHAPE, (0.5, 0.5), (0.2, 0.2)), task=None)  # type: ignore[arg-type]
    student = Uniform(UniformOptions(**options), None).quantize(teacher, None)  # type: ignore[arg-type]
    with student.observing():
        student.module(torch.randn(8, *SHAPE))
    student.freeze()
    folder.mkdir()
    write_again(folder, student.module, {"inputs": {"shape": SHAPE, "mean": (0.5, 0.5), "std": (0.2, 0.2)}, "scheme": student.scheme})


def write_again(folder: Path, module: Any, config: dict[str, Any]) -> None:
    inputs = config["inputs"] and InputSpec(**config["inputs"])
    ctx: Any = SimpleNamespace(teacher=SimpleNamespace(inputs=inputs))
    Safetensors(Options(), ctx).export(Student(module, {}, {}, (), config["scheme"]), {"teacher": {"ref": "a"}, "n": [1, 2]}, folder)


def meaning(folder: Path) -> tuple[Any, ...]:
    """What the files say of the network, in a form in which equal networks are equal: nodes by number, tensors by type and bytes."""
    config = json.loads((folder / CONFIG).read_text())
    tensors = tensors_of((folder / WEIGHTS).read_bytes())
    numbers = {node["name"]: i for i, node in enumerate(config["graph"])}

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {"node": numbers[value["node"]]} if value.keys() == {"node"} else {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list) else value

    nodes = [[n["op"], n["op"] == "placeholder" or n["target"], plain(n["args"]), plain(n["kwargs"])] for n in config["graph"]]
    if "codes" in tensors:
        tensors["codes"] = torch.tensor(list(zlib.decompress(tensors["codes"].numpy().tobytes())))
    found = {k: v.long() if k.endswith("zero_points") else v for k, v in tensors.items()}
    exact = {k: (str(v.dtype), tuple(v.shape), v.numpy().tobytes()) for k, v in found.items()}
    return config["integers"], config["modules"], config["tensors"], config["inputs"], nodes, exact


# Damage with the checksums left as they were


def flip(folder: Path, other: Path, rng: random.Random) -> None:
    path = folder / rng.choice(FILES)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 4))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(folder: Path, other: Path, rng: random.Random) -> None:
    path = folder / rng.choice(FILES)
    content = path.read_bytes()
    start, end = sorted((rng.randrange(len(content)), rng.randrange(len(content) + 1)))
    path.write_bytes(rng.choice((content[:start], content[end:], content[:start] + content[end:], content + content[start:end], b"")))


def move(folder: Path, other: Path, rng: random.Random) -> None:
    """Files swapped, mixed with another student's, renamed, deleted, doubled, made a folder or a link."""
    name = rng.choice(FILES)
    path, second = folder / name, folder / FILES[name == CONFIG]
    kind = rng.randrange(9)
    if kind == 0:
        content = path.read_bytes()
        path.write_bytes(second.read_bytes())
        second.write_bytes(content)
    elif kind == 1:
        shutil.copy(other / name, path)
    elif kind == 2:
        path.rename(folder / f"{name}.bak")
    elif kind == 3:
        path.unlink()
    elif kind == 4:
        shutil.copy(second, path)
    elif kind == 5:
        path.unlink()
        path.mkdir()
    elif kind == 6:
        path.unlink()
        path.symlink_to(other / name if rng.random() < 0.5 else "/dev/zero")
    elif kind == 7:
        path.unlink()
        path.symlink_to(path)
    else:
        (folder / rng.choice(("report.json", "model.safetensors.index.json", "pytorch_model.bin"))).write_bytes(rng.randbytes(20))


# Hostile content with its checksums made again


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path into a JSON value."""
    yield above
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*above, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def hostile(config: Any, rng: random.Random) -> Any:
    numbers = [-1, 0, 1, 2, 3, 17, 2**31, 2**63, 10**30, 0.5, -1.5, 1e308, 1e-300, None, True, False]
    names = ["", "x" * 5000, "../../etc/passwd", "/etc/passwd", "conv", "__class__.__init__", "x; import os", "\0", "é\n\n"]
    names += ["aten::from_file.default", "operator::pow", "aten::relu.default"]
    others = [[], {}, [[]], deep(400), {"node": "conv"}, {"float": "nan"}, {"dtype": "float16"}, {"device": "cpu"}]
    pool = [*numbers, *names, *others]
    return rng.choice(pool) if rng.random() < 0.6 else deepcopy(at(config, rng.choice(list(places(config)))))


def edit(folder: Path, other: Path, rng: random.Random) -> None:
    config = json.loads((folder / CONFIG).read_text())
    del config["checksum"]
    for _ in range(rng.choice((1, 1, 1, 2))):
        # half of the edits go to numbers, where a network stays a network most often
        paths = [p for p in places(config) if p]
        numbers = [p for p in paths if type(at(config, p)) in (int, float)]
        path = rng.choice(numbers if numbers and rng.random() < 0.5 else paths)
        owner, key = at(config, path[:-1]), path[-1]
        kind = rng.randrange(6)
        if kind == 0:
            del owner[key]
        elif kind == 1 and type(owner[key]) in (int, float):
            owner[key] += rng.choice((-1, 1))
        elif kind == 2 and isinstance(owner, list):
            owner.insert(rng.randrange(len(owner) + 1), deepcopy(owner[key]))
        elif kind == 3 and isinstance(owner, dict):
            name = rng.choice((f"{key}x", "../x", "training", "forward", str(rng.choice(list(owner)))))
            owner[name] = owner.pop(key)
        elif kind == 4:
            siblings = list(owner) if isinstance(owner, dict) else list(range(len(owner)))
            second = rng.choice(siblings)
            owner[key], owner[second] = owner[second], owner[key]
        else:
            owner[key] = hostile(config, rng)
    (folder / CONFIG).write_bytes(text_of(config))


def odd_text(folder: Path, other: Path, rng: random.Random) -> None:
    """JSON that no writer makes: nested too deep, keys twice, NaN, huge graphs and numbers; with the checksum made again."""
    config = json.loads((folder / CONFIG).read_text())
    text = (folder / CONFIG).read_bytes()[77:]
    node = rng.choice(config["graph"])
    many = [{**node, "name": f"n{i}"} for i in range(rng.choice((2000, 21000)))]
    rest = rng.choice((
        lambda: text[:2] + b'"manifest":' + b"[" * 100_000 + b"]" * 100_000 + b"," + text[2:],
        lambda: text[:2] + b'"format":2,' + text[2:],
        lambda: text.replace(b'"eps":1e-05', rng.choice((b'"eps":NaN', b'"eps":-Infinity', b'"eps":1e999', b'"eps":' + b"9" * 5000))),
        lambda: text_of({**config, "graph": [*config["graph"][:-1], *many, config["graph"][-1]]})[77:],
        lambda: text_of({**config, "format": rng.choice((1, 3, 10**40, True, "2", None, 2.0))})[77:],
        lambda: text.replace(b"{", b"{ ", rng.randrange(5)),
        lambda: text + b" " * 100,
        lambda: text + b"{}",
    ))()  # fmt: skip
    (folder / CONFIG).write_bytes(b'{"checksum":"' + sha256(rest).hexdigest().encode() + rest)


def odd_tensors(folder: Path, other: Path, rng: random.Random) -> None:
    tensors = dict(sorted(tensors_of((folder / WEIGHTS).read_bytes()).items()))  # its own order changes from run to run
    name = rng.choice(list(tensors))
    tensor = tensors[name]
    numbers = torch.tensor([float("nan"), float("inf"), 0.0, -1.0, 1e38, 1e-45, 200.0])
    codes = torch.tensor(list(zlib.decompress(tensors["codes"].numpy().tobytes())), dtype=torch.uint8)
    kind = rng.randrange(12)
    if kind == 0:
        tensors[name] = tensor.to(rng.choice((torch.float64, torch.float16, torch.int8, torch.int16, torch.int32, torch.uint8, torch.bool)))
    elif kind == 1:
        tensors[name] = rng.choice((tensor.reshape(-1, 1), tensor.reshape(-1)[:-1].clone(), tensor.reshape(-1).repeat(2), tensor[:0]))
    elif kind == 2:
        del tensors[name]
    elif kind == 3:
        tensors[rng.choice(("more", "../x", "conv.weight", "values.float64"))] = tensor.clone()
    elif kind == 4:
        second = rng.choice(list(tensors))
        tensors[name], tensors[second] = tensors[second], tensors[name]
    elif kind == 5:
        tensors["codes"] = torch.frombuffer(bytearray(rng.randbytes(len(tensors["codes"]))), dtype=torch.uint8)
    elif kind == 6:  # other weights, well formed or nearly so
        codes[rng.randrange(len(codes))] ^= 1 << rng.randrange(8)
        tensors["codes"] = squeeze(codes)
    elif kind == 7:
        tensors["codes"] = squeeze(rng.choice((codes[:-1], codes.repeat(2), torch.zeros(10**6, dtype=torch.uint8))))
    elif kind == 8:
        tensors["codes"] = torch.frombuffer(bytearray(zlib.compress(b"\0" * 10**6, 9)), dtype=torch.uint8)
    else:
        flat = tensor.reshape(-1)
        flat[rng.randrange(len(flat))] = rng.choice(numbers.tolist() if tensor.is_floating_point() else [0, 1, 100])
    again(folder, save(tensors))


def odd_header(folder: Path, other: Path, rng: random.Random) -> None:
    """Headers that lie, and files that are no safetensors; with the checksum made again."""
    content = (folder / WEIGHTS).read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    name = rng.choice([key for key in header if key != "__metadata__"])

    def made(**change: Any) -> bytes:
        text = json.dumps({**header, name: {**header[name], **change}}).encode()
        return struct.pack("<Q", len(text)) + text + data

    end = header[name]["data_offsets"][1]
    again(folder, rng.choice((
        lambda: struct.pack("<Q", rng.choice((0, 1, size - 1, size + 8, 2**27, 2**40, 2**64 - 1))) + content[8:],
        lambda: made(data_offsets=[rng.randrange(end), end]),
        lambda: made(data_offsets=[0, rng.choice((0, 2**40, len(data)))]),
        lambda: made(shape=[rng.choice((-1, 0, 2**62))]),
        lambda: made(dtype=rng.choice(("F32", "I64", "U8", "X9"))),
        lambda: b"\x80\x04\x95" + rng.randbytes(60),
        lambda: b"PK\x03\x04" + rng.randbytes(200),
        lambda: content + rng.randbytes(9),
        lambda: content[: rng.randrange(len(content))],
        lambda: struct.pack("<Q", 10**5) + b"[" * 10**5,
    ))())  # fmt: skip


def again(folder: Path, content: bytes) -> None:
    """These weights, with every checksum as it has to be."""
    (folder / WEIGHTS).write_bytes(content)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_bytes(text_of({**config, "sha256": sha256(content).hexdigest()}))


DAMAGE = [flip] * 6 + [cut] * 3 + [move] * 3
HOSTILE = [edit] * 8 + [odd_tensors] * 6 + [odd_header] * 2 + [odd_text]
ROUNDS, COUNT = 10, 200


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("originals")
    make(folder / "a", 1, weight_bits=4, act_bits=4)
    make(folder / "b", 2, weight_bits=3, act_bits=8, scheme="deploy")
    return [folder / "a", folder / "b"]


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_mutated_folders(seed: int, originals: list[Path], tmp_path: Path, reader: Callable[..., Any]) -> None:
    rng = random.Random(seed)
    x = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(3))
    truths = {folder: (zsq.load(folder)(x), meaning(folder), [(folder / f).read_bytes() for f in FILES]) for folder in originals}
    counts = Counter[tuple[str, str]]()
    for number in range(COUNT):
        original, other = rng.sample(originals, 2)
        folder = tmp_path / str(number)
        shutil.copytree(original, folder)
        mutate: Callable[[Path, Path, random.Random], None] = rng.choice(DAMAGE if number % 2 else HOSTILE)
        mutate(folder, other, rng)
        try:
            module = zsq.load(folder)
        except ZsqError as error:
            said = str(error)
            assert len(said.splitlines()) <= 3 and len(said) < 1000, said
            counts[mutate.__name__, "refused"] += 1
        else:
            counts[mutate.__name__, "loaded"] += 1
            answer, said_before, content = truths[original]
            if mutate in DAMAGE:
                assert [(folder / f).read_bytes() for f in FILES] == content
                assert torch.equal(module(x), answer)
            else:
                check(folder, module, x, answer, said_before, reader)
        shutil.rmtree(folder)
    assert all(counts[mutate.__name__, "refused"] for mutate in (*DAMAGE, *HOSTILE)), counts
    assert counts["edit", "loaded"] and counts["odd_tensors", "loaded"], counts  # deeper checks were reached


def check(folder: Path, module: Any, x: Tensor, answer: Tensor, before: tuple[Any, ...], reader: Callable[..., Any]) -> None:
    """The three points of the module's docstring."""
    config, layers, _ = reader(folder)
    for path, (_, _, _, weight) in layers.items():
        assert weight.tobytes() == module.get_submodule(path).weight.numpy().tobytes()
    second = folder / "again"
    second.mkdir()
    write_again(second, module, config)
    says = meaning(folder)
    assert meaning(second) == says
    shape = config["inputs"] and config["inputs"]["shape"]
    if says == before:
        assert torch.equal(module(x), answer)
    elif shape:
        module(torch.zeros(1, *shape))
