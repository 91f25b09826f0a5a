"""A saved student comes back bit for bit; damaged, foreign or hostile files are one clear message and nothing is run."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import zsq
from zsq.builtin.options import UniformOptions
from zsq.builtin.safetensors import Safetensors
from zsq.builtin.uniform.quantizer import Uniform
from zsq.errors import FileError, ZsqError
from zsq.options import Options
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


def saved(folder, make=plain, layout=torch.contiguous_format, **options):
    """A calibrated and frozen student of ``make()``, saved in ``folder``."""
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
    paths = Safetensors(Options(), SimpleNamespace(teacher=teacher)).export(student, {"teacher": {"ref": "test"}}, folder)
    assert sorted(p.name for p in paths) == ["config.json", "model.safetensors"]
    return student


@pytest.fixture
def folder(tmp_path):
    saved(tmp_path)
    return tmp_path


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("make", [plain, Mixed])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "options",
    [
        {"weight_bits": 4, "act_bits": 4},
        {"weight_bits": 3, "act_bits": 5, "per_channel": False, "first_bits": 8, "last_bits": 16},
        {"protocol": "deploy"},
        {"protocol": "deploy", "weight_bits": 2, "act_symmetric": True, "per_channel": False},
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


def test_the_same_student_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        saved(tmp_path / name, Mixed)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_weights_take_their_true_bits_and_no_float_copy_is_kept(tmp_path):
    saved(tmp_path, weight_bits=3)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["0.weight.codes"].numel() == -(-4 * 3 * 9 * 3 // 8) and tensors["5.weight.codes"].numel() == 144 * 3 * 3 // 8
    assert {"0.weight", "5.weight"}.isdisjoint(tensors)
    assert tensors["0.weight.scale"].shape == tensors["0.weight.zero_point"].shape == (4,)
    assert tensors["0.weight.scale"].dtype == tensors["activations.scale"].dtype == torch.float32
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


def test_a_newer_format(folder):
    edit(folder, lambda config: config.update(format=2))
    refused(folder, "format 2")


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
        lambda c: c["activations"].clear(),
        lambda c: c.pop("graph"),
    ],
)
def test_a_description_outside_the_encoding_is_refused(folder, change):
    edit(folder, change)
    refused(folder, "does not describe a network")


def test_a_missing_tensor_is_refused(folder):
    import hashlib

    from safetensors.torch import save

    tensors = load_file(folder / "model.safetensors")
    del tensors["5.bias"]
    content = save(tensors)
    (folder / "model.safetensors").write_bytes(content)
    edit(folder, lambda config: config.update(sha256=hashlib.sha256(content).hexdigest()))
    refused(folder, "'5.bias' is missing")
