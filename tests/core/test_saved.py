"""A saved student comes back bit for bit; damaged, foreign or hostile files are one clear message and nothing is run."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import tracemalloc
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import nn
from torch.utils import _pytree as pytree

import zsq
from zsq._builtin.safetensors import Safetensors
from zsq.errors import FileError, ZsqError
from zsq.format import FORMAT, text_of
from zsq.options import Options, UniformOptions
from zsq.placement import Uniform
from zsq.types import InputSpec, Student, Teacher

SPEC = InputSpec((3, 8, 8), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


class Mixed(nn.Module):
    """Grouped, transposed and plain layers, BatchNorm, a PReLU, a buffer, a constant, concatenation and size arithmetic."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4)
        self.group, self.up = nn.Conv2d(4, 4, 3, 2, 1, groups=2, bias=False), nn.ConvTranspose2d(4, 4, 2, 2)
        self.act, self.fc = nn.PReLU(), nn.Linear(8, 5)
        self.register_buffer("gain", torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1))

    def forward(self, x):
        x = F.relu6(self.bn(self.stem(x)))
        y = self.act(self.up(self.group(x))) * self.gain
        x = torch.cat([x.reshape(x.size(0), 4, 8, 8), y + x], 1)
        x = x + torch.full((1, 8, 1, 1), 0.25)
        return {"logits": self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))}


def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3))


def saved(folder, make=plain, layout=torch.contiguous_format, finish=True, **options):
    """A calibrated, frozen and finished student of ``make()``, saved in ``folder``."""
    torch.manual_seed(0)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    net.to(memory_format=layout)
    teacher = Teacher(net, SPEC, task=None)
    student = Uniform(UniformOptions(**options), None).quantize(teacher, None)
    with student.observing():
        student.module(torch.randn(8, 3, 8, 8))
    for point in student.points.values():
        point.freeze()
    student.module.eval().requires_grad_(False)
    if finish and student.finish is not None:
        student.finish()
    paths = Safetensors(Options(), SimpleNamespace(teacher=teacher)).export(student, {"teacher": {"ref": "test"}}, folder)
    assert sorted(p.name for p in paths) == ["config.json", "model.safetensors"]
    return student


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("original")
    saved(path)
    return path


@pytest.fixture
def folder(original, tmp_path):
    """A saved student, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_bytes(text_of(config))


def replace(folder, content):
    """Other weights, with every checksum as it has to be."""
    (folder / "model.safetensors").write_bytes(content)
    edit(folder, lambda config: config.update(sha256=hashlib.sha256(content).hexdigest()))


@pytest.mark.parametrize("make", [plain, Mixed])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "options",
    [
        {"weight_bits": 4, "act_bits": 4},
        {"weight_bits": 3, "act_bits": 5, "per_channel": False, "first_bits": 8, "last_bits": 16},
        {"scheme": "deploy"},
        {"scheme": "deploy", "finish": False},
        {"scheme": "deploy", "weight_bits": 2, "act_symmetric": True, "per_channel": False},
    ],
)
def test_loaded_outputs_equal_the_students_bit_for_bit(tmp_path, make, layout, options):
    student = saved(tmp_path, make, layout, **options)
    loaded = zsq.load(tmp_path)
    assert not loaded.training
    for batch in (1, 7):
        x = torch.randn(batch, 3, 8, 8).contiguous(memory_format=layout)
        got, expected = loaded(x), student.module(x)
        assert type(got) is type(expected)
        for a, b in zip(*(v.values() if isinstance(v, dict) else [v] for v in (got, expected)), strict=True):
            assert torch.equal(a, b)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = self.conv(x)
        return x, [x.mean((2, 3)), {"top": x.amax((2, 3))}]


def test_what_is_given_out_keeps_its_structure(tmp_path):
    student = saved(tmp_path, Pair)
    x = torch.randn(2, 3, 8, 8)
    got, expected = zsq.load(tmp_path)(x), student.module(x)
    assert pytree.tree_structure(got) == pytree.tree_structure(expected) and type(got) is tuple
    assert all(torch.equal(a, b) for a, b in zip(pytree.tree_leaves(got), pytree.tree_leaves(expected), strict=True))


def test_every_tensor_goes_to_the_device(tmp_path):
    saved(tmp_path, Mixed)
    module = zsq.load(tmp_path, device="meta")
    held = (*module.parameters(), *module.buffers())
    assert held and all(tensor.device.type == "meta" for tensor in held)
    assert module(torch.empty(2, 3, 8, 8, device="meta"))["logits"].shape == (2, 5)


def test_the_same_student_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        saved(tmp_path / name, Mixed)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_weights_take_their_true_bits_and_no_float_copy_is_kept(tmp_path):
    saved(tmp_path, weight_bits=3)
    tensors = load_file(tmp_path / "model.safetensors")
    packed = zlib.decompress(tensors["codes"].numpy().tobytes())
    assert len(packed) == -(-4 * 3 * 9 * 3 // 8) + 144 * 3 * 3 // 8
    assert tensors["scales"].shape == tensors["zero_points"].shape == (4 + 3,)
    assert tensors["scales"].dtype == tensors["act_scales"].dtype == torch.float32 and tensors["zero_points"].dtype == torch.int8
    assert tensors["values"].shape == (4 + 4 * 4 + 3,)  # a bias, a BatchNorm, a bias: nothing is kept twice
    assert tensors.keys() == {"codes", "scales", "zero_points", "act_ranges", "act_scales", "act_zero_points", "values"}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["inputs"] == {"shape": [3, 8, 8], "mean": [0.5] * 3, "std": [0.2] * 3} and config["manifest"]["teacher"]["ref"] == "test"


def test_a_point_without_a_range_stays_without(tmp_path):
    torch.manual_seed(0)
    student = Uniform(UniformOptions(), None).quantize(Teacher(plain().eval(), SPEC, task=None), None)
    Safetensors(Options(), SimpleNamespace(teacher=None)).export(student, {}, tmp_path)
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(zsq.load(tmp_path)(x), student.module(x))


def test_a_foreign_student_is_refused(tmp_path):
    with pytest.raises(ZsqError, match="cannot save"):
        Safetensors(Options(), SimpleNamespace(teacher=None)).export(Student(plain(), {}, {}), {}, tmp_path)
    assert not list(tmp_path.iterdir())


def refused(folder, match):
    with pytest.raises(FileError, match=match) as caught:
        zsq.load(folder)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    refused(folder, f"cannot read {name}")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "1"}', "\x00\xff"])
def test_a_damaged_configuration(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder, "not the configuration")


@pytest.mark.parametrize(("version", "hint"), [(FORMAT + 1, "pip install -U zsq"), (FORMAT - 1, "zsq run"), (10**40, "pip install -U zsq")])
def test_another_format(folder, version, hint):
    edit(folder, lambda config: config.update(format=version))
    refused(folder, f"saved in format {str(version)[:20]}")
    with pytest.raises(FileError) as caught:
        zsq.load(folder)
    assert hint in caught.value.hint


def test_a_configuration_that_was_changed_by_hand(folder):
    path = folder / "config.json"
    path.write_bytes(path.read_bytes().replace(b'"scheme":"paper"', b'"scheme":"other"'))
    refused(folder, "config.json has changed")


def test_deep_json_is_refused(folder):
    rest = b'","graph":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    (folder / "config.json").write_bytes(b'{"checksum":"' + hashlib.sha256(rest).hexdigest().encode() + rest)
    refused(folder, "not the configuration")


def test_a_long_configuration_is_not_read(folder):
    with (folder / "config.json").open("r+b") as file:
        file.truncate(2**25 + 1)
    refused(folder, "longer than any network needs")


def test_weights_larger_than_the_memory(folder, monkeypatch):
    def refuse(path):
        raise MemoryError

    monkeypatch.setattr(Path, "read_bytes", refuse)
    refused(folder, "larger than the memory")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_links_out_of_the_folder_and_what_is_no_file(folder, name, tmp_path_factory):
    path, outside = folder / name, tmp_path_factory.mktemp("outside") / name
    path.rename(outside)
    path.symlink_to(outside)
    refused(folder, f"{name} is a link to a file outside the folder")
    path.unlink()
    path.symlink_to(path)
    refused(folder, f"cannot read {name}")
    path.unlink()
    os.mkfifo(path)
    refused(folder, f"{name} is not a file")


def test_a_link_inside_the_folder_and_the_cache_of_the_hub_are_read(folder, tmp_path_factory):
    (folder / "weights").mkdir()
    (folder / "model.safetensors").rename(folder / "weights" / "a")
    (folder / "model.safetensors").symlink_to(folder / "weights" / "a")
    x = torch.randn(2, 3, 8, 8)
    expected = zsq.load(folder)(x)
    cache = tmp_path_factory.mktemp("cache") / "models--org--name"
    snapshot, blobs = cache / "snapshots" / "0123", cache / "blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    for name in ("config.json", "model.safetensors"):
        (blobs / name[:3]).write_bytes((folder / name).read_bytes())
        (snapshot / name).symlink_to(f"../../blobs/{name[:3]}")
    assert torch.equal(zsq.load(snapshot)(x), expected)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_a_pickle_is_not_opened(folder, monkeypatch):
    monkeypatch.chdir(folder)
    replace(folder, pickle.dumps(Bomb()))
    refused(folder, "not a safetensors file")
    assert not (folder / "pwned").exists()


def test_an_oversized_header(folder):
    content = (folder / "model.safetensors").read_bytes()
    replace(folder, (2**40).to_bytes(8, "little") + content[8:])
    refused(folder, "not a safetensors file")


@pytest.mark.parametrize(
    ("name", "index", "value", "match"),
    [
        ("scales", 0, float("nan"), "a scale is not a positive number"),
        ("scales", 3, float("inf"), "a scale is not a positive number"),
        ("scales", 6, 0.0, "a scale is not a positive number"),
        ("scales", 6, 3e38, "'5.weight' holds values that no network has"),
        ("act_ranges", (0, 0), float("nan"), "range of an activation"),
        ("act_ranges", (0, 1), -1.0, "range of an activation"),
        ("act_ranges", (0, 1), 9.0, "do not follow from its range"),
        ("act_scales", 0, 1.0, "do not follow from its range"),
        ("act_zero_points", 0, 1, "do not follow from its range"),
        ("values", 0, float("nan"), "'0.bias' holds values"),
        ("values", 19, -1.0, "'1.running_var' holds values"),
    ],
)
def test_absurd_values_are_refused(folder, name, index, value, match):
    tensors = load_file(folder / "model.safetensors")
    tensors[name][index] = value
    replace(folder, save(tensors))
    refused(folder, match)


def test_codes_that_inflate_without_end_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    bomb = zlib.compress(bytes(10**8), 9)
    replace(folder, save({**tensors, "codes": torch.frombuffer(bytearray(bomb), dtype=torch.uint8)}))
    tracemalloc.start()
    try:
        refused(folder, "the codes are not")
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()
    edit(folder, lambda config: config["modules"]["5"].update(shape=[3, 2 * 10**7]))
    refused(folder, "cannot hold")


def test_students_that_no_reader_would_take_are_not_written(tmp_path):
    torch.manual_seed(0)
    student = Uniform(UniformOptions(), None).quantize(Teacher(plain().eval(), SPEC, task=None), None)
    student.module.get_submodule("1").running_var.fill_(float("nan"))
    with pytest.raises(ZsqError, match=r"1\.running_var"):
        Safetensors(Options(), SimpleNamespace(teacher=None)).export(student, {}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_that_belong_to_another_configuration(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    refused(folder, "not the file")


def node(config, op):
    return next(n for n in config["graph"] if n["op"] == op)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: node(c, "call_function").update(target="aten::from_file.default", args=["secret", False, 4], kwargs={}),
        lambda c: node(c, "call_function").update(target="aten::save.default", args=[{"node": "inputs"}, "file"], kwargs={}),
        lambda c: node(c, "call_function").update(target="os::system", args=["true"]),
        lambda c: node(c, "call_function").update(target="aten::relu_.default"),
        lambda c: node(c, "call_function").update(target="operator::attrgetter", args=["x"]),
        lambda c: node(c, "call_function").update(target="prims::device_put.default"),
        lambda c: node(c, "call_module").update(target='0"); print("'),
        lambda c: node(c, "call_module").update(target="nowhere"),
        lambda c: node(c, "placeholder").update(name="x; import os"),
        lambda c: node(c, "call_function").update(args=[{"dtype": "load"}]),
        lambda c: node(c, "call_function").update(args=[{"node": "later"}]),
        lambda c: node(c, "call_function").update(op="call_method"),
        lambda c: c["modules"]["0"].update(type="ModuleList"),
        lambda c: c["modules"]["0"].update(bits=99),
        lambda c: c["modules"]["0"].update(shape=[4, 3, 3, 300]),
        lambda c: c["modules"].pop("0"),
        lambda c: c.pop("graph"),
        lambda c: c.update(more=1),
        lambda c: c.update(integers=True),
        lambda c: c.update(integers=0),
        lambda c: c["inputs"].update(shape=[3, 2, 2]),
        lambda c: c["inputs"].update(shape=[3, 2**30, 2**30]),
        lambda c: c["inputs"].update(std=[0.2, 0.2, 0]),
        lambda c: c["modules"].update({"../up": c["modules"].pop("0")}),
        lambda c: c["modules"].update(unused={"type": "Identity"}),
        lambda c: c["modules"]["0"].update(bits=True),
        lambda c: c["modules"]["0"].update(shape=[2**30, 2**30, 3, 3]),
        lambda c: c["modules"]["0"].update(colour="red"),
        lambda c: c["modules"]["1"].update(features=2**31),
        lambda c: c["modules"]["1"].update(eps=-1),
        lambda c: c["tensors"].update({"huge": {"dtype": "float32", "shape": [2**30, 2**30]}}),
        lambda c: c["tensors"].update({"0.weight": {"dtype": "float32", "shape": [0]}}),
        lambda c: c["graph"].append(c["graph"][1]),
        lambda c: c["graph"].extend([c["graph"][1]] * 20_000),
        lambda c: node(c, "output").update(args=[1]),
        lambda c: node(c, "call_function").update(target="operator::mul", args=[[1], 10**10]),
        lambda c: node(c, "call_function").update(target="aten::full.default", args=[[10**6, 10**6], 1.0]),
    ],
)
def test_a_description_outside_the_encoding_is_refused(folder, change):
    edit(folder, change)
    refused(folder, "does not describe a network")


def test_a_missing_tensor_is_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["zero_points"]
    replace(folder, save(tensors))
    refused(folder, "expected were .*zero_points")
    replace(folder, save({**tensors, "values": tensors["values"][:-1].clone()}))
    refused(folder, "the tensors are|expected was")
