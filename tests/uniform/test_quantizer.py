"""The quantizer finds its sites in any network, and says what it left in float."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zsq.errors import ZsqError


def conv(i, o, **options):
    return nn.Conv2d(i, o, 3, padding=1, **options)


class Shared(nn.Module):
    """One ReLU module and one convolution, each used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.relu = conv(3, 4), conv(4, 4), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.relu(self.twice(self.twice(x)))


class Functional(nn.Module):
    """Every spelling of a ReLU, one per line."""

    def __init__(self):
        super().__init__()
        self.c = conv(3, 3)

    def forward(self, x):
        x = F.relu(self.c(x))
        x = torch.relu(x - 0.1)
        x = (x - 0.1).relu()
        x = (x - 0.1).relu_()
        x = F.relu6(x - 0.1)
        x = (x - 0.1).clamp(0, 6)
        x = F.hardtanh(x - 0.1, 0.0, 4.0)
        return x.clamp(min=0.05)  # not at zero: no site


class Residual(nn.Module):
    """Residual sums in three spellings, over grouped, depthwise and dilated convolutions."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = conv(3, 4), nn.BatchNorm2d(4)
        self.a, self.b, self.d = conv(4, 4, groups=2), conv(4, 4, groups=4, bias=False), nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        x = self.a(x) + x
        y = self.b(x)
        y += x
        y = torch.add(self.d(y), y)
        return self.fc(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Outer(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + 1


class Derived(nn.Module):
    """A weight computed on the fly, a PReLU and a LayerNorm beside one plain layer."""

    def __init__(self):
        super().__init__()
        self.normed = nn.utils.parametrizations.weight_norm(conv(3, 3))
        self.act, self.norm, self.fc = nn.PReLU(), nn.LayerNorm(3), nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(self.norm(self.act(self.normed(x)).mean((2, 3))))


def sites(student):
    return [path.removesuffix("_point") for path in student.acts]


@pytest.mark.parametrize("make", [Shared, Functional, Residual, Derived, lambda: Outer(conv(3, 4), nn.Sequential(nn.ReLU(), conv(4, 2)))])
def test_sixteen_bits_compute_what_the_teacher_computes(make, quantize, watch):
    teacher = make().eval()
    before = copy.deepcopy(teacher.state_dict())
    x = torch.randn(5, 3, 8, 8)
    expected = teacher(x)
    for scheme in ("paper", "deploy"):
        student = quantize(teacher, weight_bits=16, act_bits=16, scheme=scheme)
        torch.testing.assert_close(watch(student, x), expected, rtol=1e-3, atol=2e-3)
        assert student.scheme == scheme
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in student.module.parameters()}


def test_one_range_per_use_of_a_shared_relu_and_one_layer_per_shared_convolution(quantize):
    student = quantize(Shared())
    assert sites(student) == ["relu", "relu_point_1"]
    assert list(student.weights) == ["first.weight_point", "twice.weight_point"]
    assert list(student.points)[:2] == ["first.weight_point", "relu_point"]
    assert all(student.module.get_submodule(path) is point for path, point in student.points.items())


def test_every_spelling_of_a_relu_is_a_site(quantize):
    assert len(quantize(Functional()).acts) == 7


def test_residual_sums_and_all_layer_inputs_are_sites_under_deploy(quantize):
    student = quantize(Residual(), scheme="deploy")
    assert sites(student) == ["input", "relu", "a", "add", "b", "add_point_1", "d", "add_point_2", "adaptive_avg_pool2d"]
    assert all(point.symmetric for point in student.weights.values()) and not any(point.symmetric for point in student.acts.values())
    assert len(quantize(Residual()).acts) == 1


def test_a_deployed_value_has_one_point_and_the_output_none(quantize):
    net = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(), conv(4, 4), nn.Flatten(), nn.Linear(64, 2))
    assert sites(quantize(net, scheme="deploy")) == ["input", "2", "5"]


def test_the_input_may_stay_in_float_under_deploy(quantize):
    student = quantize(Residual(), scheme="deploy", float_input=True)
    assert sites(student) == sites(quantize(Residual(), scheme="deploy"))[1:]


def test_first_and_last_bits(quantize):
    student = quantize(Residual(), weight_bits=4, first_bits=8, last_bits=6)
    assert [p.bits for p in student.weights.values()] == [8, 4, 4, 4, 6]
    assert [p.scale.numel() for p in quantize(Residual(), per_channel=False).weights.values()] == [1] * 5


def test_rows_report_every_layer_and_why_it_stayed_in_float(quantize):
    rows = {row["path"]: row for row in quantize(Derived(), weight_bits=4).layers}
    json.dumps(list(rows.values()))
    assert rows["fc"]["wrapped"] and rows["fc"]["weight_bits"] == 4 and rows["fc"]["shape"] == [2, 3] and rows["fc"]["params"] == 8
    assert rows["normed.conv2d"]["reason"] == "its weight is computed in the forward"
    assert {"act.prelu", "norm.layer_norm"} <= {path for path, row in rows.items() if not row["wrapped"] and row["reason"]}
    assert all(row["wrapped"] or row["reason"] for row in rows.values())


def test_a_network_without_layers_is_an_error(quantize):
    with pytest.raises(ZsqError, match="nothing to quantize"):
        quantize(nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)))


def test_branches_on_values_are_one_error(quantize):
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = conv(3, 3)

        def forward(self, x):
            return self.c(x) if float(x.sum()) > 0 else x

    with pytest.raises(ZsqError) as caught:
        quantize(Branch())
    assert len(str(caught.value).splitlines()) <= 3


def test_a_fixed_batch_size_is_an_error(quantize):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(192, 2)

        def forward(self, x):
            return self.fc(x.reshape(2, -1))

    with pytest.raises(ZsqError) as caught:
        quantize(Fixed())
    assert len(str(caught.value).splitlines()) <= 3


def test_in_place_writes_through_views_are_kept(quantize, watch):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = conv(3, 4)

        def forward(self, x):
            y = self.c(x)
            y[:, :2] += 1
            half = y[:, 2:]
            half.relu_()
            return y * 2

    net, x = Views().eval(), torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(watch(quantize(net, weight_bits=16, act_bits=16), x), net(x), rtol=1e-3, atol=2e-3)


def test_in_place_sums_do_not_reach_other_readers(quantize, watch):
    """The inserted point must not stand between a value and the in-place write that others rely on."""

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.d = conv(3, 4), conv(4, 4)

        def forward(self, x):
            y = self.c(x)
            z = F.relu(y, inplace=True)
            return self.d(z) + y  # y was overwritten by the ReLU

    net, x = Chain().eval(), torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(watch(quantize(net, weight_bits=16, act_bits=16), x), net(x), rtol=1e-3, atol=2e-3)


def test_taps_resolve_to_modules_that_carry_the_same_output(quantize):
    class Staged(nn.Module):
        def __init__(self):
            super().__init__()
            self.stage1 = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU())
            self.stage2 = Outer(conv(4, 4))
            self.drop = nn.Dropout()
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.drop(self.stage2(self.stage1(x))).mean((2, 3)))

    net, taps = Staged().eval(), ("stage1", "stage2", "drop", "stage1.1", "head")
    student = quantize(net, taps=taps, weight_bits=16, act_bits=16)
    seen: dict[str, dict[str, torch.Tensor]] = {"teacher": {}, "student": {}}
    for path in taps:
        for who, module, where in (("teacher", net, path), ("student", student.module, student.names[path])):
            module.get_submodule(where).register_forward_hook(lambda _m, _i, out, who=who, path=path: seen[who].__setitem__(path, out))
    x = torch.randn(3, 3, 8, 8)
    net(x), student.module(x)
    for path in taps:
        torch.testing.assert_close(seen["student"][path], seen["teacher"][path], rtol=1e-3, atol=2e-3)
    assert student.names["stage1.1"] == "stage1.1"


def test_batchnorm_stays_a_module_that_can_train(quantize):
    net = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4, eps=1e-3, momentum=0.2), nn.ReLU())
    net[1].running_mean.uniform_()
    student = quantize(net)
    norm = student.module.get_submodule("1")
    assert type(norm) is nn.BatchNorm2d and (norm.eps, norm.momentum) == (1e-3, 0.2) and torch.equal(norm.running_mean, net[1].running_mean)
    before = norm.running_mean.clone()
    student.module.train()(torch.randn(4, 3, 8, 8))
    assert not torch.equal(norm.running_mean, before) and not torch.equal(net[1].running_mean, norm.running_mean)


def test_students_copy_run_in_bf16_and_leave_the_global_noise_alone(quantize, watch):
    net, state = Residual(), torch.get_rng_state()
    student = quantize(net, weight_bits=4, act_bits=4)
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.randn(6, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    expected = watch(student, x)
    clone = copy.deepcopy(student.module).to(memory_format=torch.channels_last)
    torch.testing.assert_close(clone(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        loss = student.module(x).float().square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.module.parameters())


def test_resnet20_has_the_published_number_of_points(quantize):
    resnet = pytest.importorskip("zsq_zoo.resnet", reason="the zoo plugin is not installed")
    student = quantize(resnet.resnet20(), (3, 32, 32), taps=("layer1", "layer2", "layer3"), weight_bits=4, act_bits=4)
    assert len(student.acts) == 19 and len(student.weights) == 20
    assert {p.bits for p in student.points.values()} == {4}
    assert student.names["layer1"] == "layer1.2.relu_point_1" and student.names["layer3.2.bn2"] == "layer3.2.bn2"
    assert sum(isinstance(m, nn.BatchNorm2d) for m in student.module.modules()) == 19


class Tied(nn.Module):
    """One weight in three layers: with two biases, and another stride."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = conv(3, 3), conv(3, 3), conv(3, 3, stride=2)
        self.two.weight = self.one.weight
        self.three.weight, self.three.bias = self.one.weight, self.one.bias

    def forward(self, x):
        return self.three(F.relu(self.two(F.relu(self.one(x)))))


class Twice(nn.Module):
    """One module's weight used by it and by functions."""

    def __init__(self):
        super().__init__()
        self.c = conv(3, 3)

    def forward(self, x):
        x = F.conv2d(x, self.c.weight, stride=2) + self.c(x)[..., 1:, 1:][..., ::2, ::2][..., :3, :3]
        return self.c(F.relu(F.conv2d(x, self.c.weight, dilation=1)))


@pytest.mark.parametrize(("make", "paths"), [(Tied, ["one", "two", "three"]), (Twice, ["c", "c_1", "c_2"])])
def test_layers_of_different_settings_that_share_a_weight_get_a_copy_each(make, paths, quantize, watch):
    net, x = make().eval(), torch.randn(5, 3, 8, 8)
    student = quantize(net, weight_bits=4, act_bits=16, scheme="deploy")
    assert sorted(student.weights) == sorted(f"{path}.weight_point" for path in paths) and len(student.acts) >= len(paths)
    assert all(row["wrapped"] for row in student.layers)
    codes = [point.codes for point in student.weights.values()]
    assert all(torch.equal(code, codes[0]) for code in codes)
    fine = quantize(net, weight_bits=16, act_bits=16, scheme="deploy")
    torch.testing.assert_close(watch(fine, x), net(x), rtol=1e-3, atol=2e-3)


def test_a_weight_that_is_used_otherwise_too_stays_in_float(quantize):
    class Penalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.d = conv(3, 3), conv(3, 3)

        def forward(self, x):
            return self.d(self.c(x)) + self.c.weight.mean()

    rows = {row["path"]: row for row in quantize(Penalized()).layers}
    assert rows["c.conv2d"]["reason"] == "its weight is also used elsewhere" and rows["d"]["wrapped"]


PARTS = {
    "split by sizes": lambda x: torch.split(x, [3, 5], 1),
    "split": lambda x: torch.split(x, 4, 1),
    "chunk": lambda x: x.chunk(2, 1),
    "unbind": lambda x: x.unflatten(1, (2, 4)).unbind(1),
    "maxima": lambda x: [x.unflatten(1, (2, 4)).max(1)[0]],
}


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_a_value_are_read_from_its_grid(part, quantize, watch):
    class Parted(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = conv(3, 8)
            self.convs = nn.ModuleList(conv(y.shape[1], 4) for y in PARTS[part](torch.zeros(1, 8, 2, 2)))

        def forward(self, x):
            x = torch.cat((x, x), 1)[:, :3]
            y = torch.cat((F.relu(self.stem(x)), x), 1)[:, :8]
            return sum(c(p) for c, p in zip(self.convs, PARTS[part](y), strict=True)) * 2

    net, x = Parted().eval(), torch.randn(4, 3, 8, 8)
    student = quantize(net, weight_bits=16, act_bits=16, scheme="deploy")
    torch.testing.assert_close(watch(student, x), net(x), rtol=1e-3, atol=3e-3)


def test_what_is_given_out_and_read_by_a_layer_has_a_point_of_eight_bits(quantize):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.fc = conv(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            features = F.relu(self.c(x)).mean((2, 3))
            logits = self.fc(features)
            return {"logits": logits, "features": features, "probabilities": logits.softmax(1)}

    student = quantize(Named(), weight_bits=4, act_bits=4, scheme="deploy")
    assert {path: point.bits for path, point in student.acts.items()} == {"input_point": 4, "relu_point": 4, "mean_point": 8}
