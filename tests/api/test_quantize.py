"""``zsq.quantize`` on a network in memory: what it takes, what it gives, and that nothing of the caller's changes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

import zsq
from zsq import events
from zsq.errors import FileError, OptionError, PlanError
from zsq.types import Batch, Beat, Context, Student, View

SHAPE = (3, 8, 8)
QUICK: dict[str, Any] = {"input_shape": SHAPE, "mean": 0.5, "std": 0.25, "tune": "none", "calib": ("minmax", {"batches": 2}),
                         "batch_size": 8, "cache": False, "quiet": True}  # fmt: skip

#: What a newcomer writes. The network counts: everything after the imports is ten lines.
SCRIPT = """
import torch, zsq
from torch import nn

net = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
    nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
)
result = zsq.quantize(net, bits=8, input_shape=(3, 32, 32), mean=0.5, std=0.25, budget="8s")
print(result)
result.save("mine")
"""


def test_ten_lines_quantize_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    after_imports = SCRIPT.split("from torch import nn\n")[1]
    assert len([line for line in after_imports.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(SCRIPT, "script", "exec"), {"__name__": "script"})
    said = capsys.readouterr().out
    assert "agreement" in said and "weights 8, activations 8" in said
    assert zsq.load("mine")(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_the_result_holds_what_was_measured(net: nn.Module, tmp_path: Path, images: Tensor) -> None:
    result = zsq.quantize(net, bits=8, out=tmp_path / "run", **QUICK)
    assert isinstance(result, zsq.Result) and isinstance(result, zsq.SavedRun)
    assert result.metrics == result.report["student"]["metrics"] and result.metrics["agreement"] > 90
    assert result.report["teacher"]["ref"] == "memory:Net" and result.report["student"]["scheme"] == "deploy"
    with torch.no_grad():
        assert torch.equal(zsq.load(tmp_path / "run")(images), result.student(images))
        assert (result.student(images) - net.eval()(images)).abs().max() < 0.1
    again = zsq.quantize(net.train(), recipe=result.recipe, out=tmp_path / "again", cache=False, quiet=True)
    assert _weights(tmp_path / "run") == _weights(tmp_path / "again") and again.recipe.to_dict() == result.recipe.to_dict()


def test_nothing_of_the_network_changes(net: nn.Module, unchanged: Callable[[nn.Module], Callable[[], bool]]) -> None:
    net.conv1.weight.requires_grad_(False)  # type: ignore[union-attr]
    net.conv2.eval()  # type: ignore[operator]
    net.linear.weight.grad = torch.ones_like(net.linear.weight)  # type: ignore[union-attr]
    seen: list[Any] = []
    net.linear.register_forward_hook(lambda module, inputs, output: seen.append(module))  # type: ignore[operator]
    still = unchanged(net)
    zsq.quantize(net, bits=4, **{**QUICK, "tune": ("finetune", {"steps": 2})})
    assert still() and not any(module is net.linear for module in seen)
    with pytest.raises(RuntimeError, match="broken"):
        zsq.quantize(net, bits=4, **{**QUICK, "synth": SimpleNamespace(sample=_broken)})
    assert still()


def _broken(n: int) -> Batch:
    raise RuntimeError("broken")


def test_it_shows_itself(net: nn.Module) -> None:
    result = zsq.quantize(net, bits=(4, 8), **QUICK)
    assert repr(result).startswith("<zsq.Result W4A8 of memory:Net: agreement ")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(result)
    assert "weights 4, activations 8" in console.export_text() and "weights 4, activations 8" in str(result)
    html = result._repr_html_()
    assert html.startswith("<table>") and "memory:Net" in html
    result.report["teacher"]["ref"] = "<script>"  # type: ignore[index]
    assert "<script>" not in result._repr_html_()


def test_files_stay_only_where_they_are_asked_for(net: nn.Module, tmp_path: Path) -> None:
    result = zsq.quantize(net, bits=8, **QUICK)
    folder = result.folder
    assert (folder / "model.safetensors").is_file() and "saved in" not in str(result)
    saved = result.save(tmp_path / "kept")
    assert _weights(tmp_path / "kept") == _weights(folder) and saved.report == result.report
    result.save(tmp_path / "kept")  # a run may take the place of a run
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(FileError, match="is not a run"):
        result.save(tmp_path / "mine")
    del result
    assert not folder.exists()


# -- inputs ------------------------------------------------------------------------------------------------------------


def test_the_input_spec_is_found_or_asked_for(net: nn.Module) -> None:
    rest = {key: value for key, value in QUICK.items() if key not in ("input_shape", "mean", "std")}
    with pytest.raises(FileError) as caught:
        zsq.quantize(net, bits=8, **rest)
    assert "no shape, no mean, no std" in str(caught.value)
    written = caught.value.hint.splitlines()
    assert len(written) == 3 and "input_shape=(3, 224, 224)" in written[0]
    with pytest.raises(FileError, match="no mean, no std"):
        zsq.quantize(net, bits=8, input_shape=SHAPE, **rest)
    spec = zsq.InputSpec(SHAPE, (0.5,) * 3, (0.25,) * 3)
    one = zsq.quantize(net, bits=8, inputs=spec, **rest)
    net.pretrained_cfg = {"input_size": SHAPE, "mean": (0.5,) * 3, "std": (0.25,) * 3}  # type: ignore[assignment]
    two = zsq.quantize(net, bits=8, **rest)
    assert one.teacher.inputs == two.teacher.inputs == spec
    assert _weights(one.folder) == _weights(two.folder)


def test_half_precision_and_wrappers_are_understood(net: nn.Module) -> None:
    heard: list[events.Event] = []
    result = zsq.quantize(nn.DataParallel(net.half()), bits=8, on_event=heard.append, **QUICK)
    assert result.report["teacher"]["ref"] == "memory:Net" and next(net.parameters()).dtype == torch.float16
    assert any("float32" in event.text and "float16" in event.text for event in heard if isinstance(event, events.Message))


def test_what_cannot_be_copied_or_run_is_said(net: nn.Module) -> None:
    with pytest.raises(zsq.ZsqError, match="no values yet"):
        zsq.quantize(nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3)), bits=8, **QUICK)
    net.lock = (1 for _ in ())  # type: ignore[assignment]
    with pytest.raises(zsq.ZsqError, match="cannot be copied"):
        zsq.quantize(net, bits=8, **QUICK)
    del net.lock
    with pytest.raises(zsq.ZsqError, match="does not run on 1x8x8"):
        zsq.quantize(net, bits=8, **{**QUICK, "input_shape": (1, 8, 8)})


# -- components --------------------------------------------------------------------------------------------------------


class Stripes:
    """Somebody's own synthesizer, built by them."""

    def __init__(self) -> None:
        self.asked = 0

    def sample(self, n: int) -> Batch:
        self.asked += n
        return Batch(torch.linspace(-1, 1, n * 192).reshape(n, *SHAPE))


class Built:
    """The same as a class: zsq builds it, so that it knows teacher and random numbers."""

    provides = frozenset({"targets"})

    def __init__(self, options: Any, ctx: Context) -> None:
        self.ctx = ctx

    def sample(self, n: int) -> Batch:
        shape = (n, *self.ctx.teacher.inputs.shape)
        return Batch(torch.randn(shape, generator=self.ctx.rng), torch.arange(n) % self.ctx.teacher.task.classes)


def test_own_images(net: nn.Module, images: Tensor) -> None:
    labels = torch.arange(24) % 10
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=7)
    tensor = zsq.quantize(net, bits=8, synth=images, **QUICK)
    batches = zsq.quantize(net, bits=8, synth=[images[:10], images[10:]], **QUICK)
    loaded = zsq.quantize(net, bits=8, synth=loader, **{**QUICK, "loss": "ce", "tune": ("finetune", {"steps": 2})})
    pair = zsq.quantize(net, bits=8, synth=(images, labels), **{**QUICK, "loss": "ce", "tune": ("finetune", {"steps": 2})})
    assert _codes(tensor) == _codes(batches) and _codes(loaded) == _codes(pair) != _codes(tensor)
    assert tensor.recipe.synth == batches.recipe.synth and (tensor.recipe.synth or {})["count"] == 24
    with pytest.raises(OptionError, match="other images than those the run"):
        zsq.quantize(net, recipe=tensor.recipe, synth=("memory/images", {}) and images.flip(0), cache=False, quiet=True,
                     settings={"synth.sha256": (tensor.recipe.synth or {})["sha256"]})  # fmt: skip
    for wrong, said in ((images[:, :1], "the network takes"), (images[:, :, :4], "the network takes"), ((images * 255).byte(), "uint8"),
                        ([], "no images"), (images * torch.nan, "NaN or Inf"), (7, "synth= is a int")):  # fmt: skip
        with pytest.raises(OptionError, match=said):
            zsq.quantize(net, bits=8, synth=wrong, **QUICK)


def test_own_synthesizer(net: nn.Module) -> None:
    own = Stripes()
    result = zsq.quantize(net, bits=8, synth=own, **QUICK)
    assert own.asked >= 16 and (result.recipe.synth or {})["name"] == "memory/Stripes"
    built = zsq.quantize(net, bits=8, synth=Built, **{**QUICK, "loss": "ce", "tune": ("finetune", {"steps": 2})})
    assert (built.recipe.synth or {})["name"] == "memory/Built"
    with pytest.raises(PlanError, match="targets"):
        zsq.quantize(net, bits=8, synth=own, **{**QUICK, "loss": "ce", "tune": ("finetune", {"steps": 2})})


def test_own_loss(net: nn.Module) -> None:
    seen: list[int] = []

    def squared(view: View) -> Tensor:
        assert view.student is not None and view.teacher is not None
        seen.append(len(view.batch))
        return F.mse_loss(view.student.output, view.teacher.output)

    settings = {**QUICK, "tune": ("finetune", {"steps": 3})}
    own = zsq.quantize(net, bits=4, loss=squared, **settings)
    named = zsq.quantize(net, bits=4, loss="mse", **settings)
    assert seen == [8, 8, 8] and _codes(own) == _codes(named)
    both = zsq.quantize(net, bits=4, loss=[(squared, {"weight": 2.0}), "0.5*kd"], **settings)
    assert [(entry["name"], entry.get("weight", 1.0)) for entry in both.recipe.loss or ()] == [("memory/squared", 2.0), ("kd", 0.5)]


def test_own_evaluator(net: nn.Module, images: Tensor) -> None:
    labels = net.eval()(images).argmax(1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=5)

    def brightness(network: nn.Module) -> float:
        return float(network(images).mean())

    result = zsq.quantize(net, bits=8, evaluate=[loader, brightness, lambda network, ctx: {"depth": 2}], **QUICK)
    assert result.teacher_metrics["top1"] == 100 and result.metrics["top1"] > 90 and result.report["images_evaluated"] == 24
    assert result.metrics["brightness"] == pytest.approx(result.teacher_metrics["brightness"], abs=0.05) and result.metrics["depth"] == 2
    for wrong, said in ((iter([images]), "only once"), ([images], "not a pair"), (lambda network: "good", "not a number"),
                        (lambda network: float("nan"), "returns nan"), (7, "evaluate= is a int")):  # fmt: skip
        with pytest.raises(OptionError, match=said):
            zsq.quantize(net, bits=8, evaluate=wrong, **QUICK)


def test_own_calibrator_tuner_exporter_and_log(net: nn.Module) -> None:
    class Wide:
        def fit(self, student: Student, stream: Any) -> Any:
            for point in student.acts.values():
                point.set_range(-4, 4)
            yield Beat(1, 1)

    class Still:
        def fit(self, student: Student, stream: Any, objective: Any) -> Any:
            yield Beat(1, 1)

    class Note:
        def export(self, student: Student, manifest: Any, folder: Path) -> list[Path]:
            (folder / "note.txt").write_text(manifest["teacher"]["ref"])
            return [folder / "note.txt"]

    heard: list[str] = []
    settings = {key: value for key, value in QUICK.items() if key not in ("calib", "tune")}
    log = lambda event: heard.append(type(event).__name__)  # noqa: E731
    result = zsq.quantize(net, bits=8, calib=Wide(), tune=Still(), export=["safetensors", Note()], log=log, **settings)
    assert (result.folder / "note.txt").read_text() == "memory:Net" and {"RunStarted", "RunEnded"} <= set(heard)
    assert {float(point.range[1]) for point in result.quantized.acts.values()} == {4.0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"quant": object()}, "not a quantizer"),
        ({"loss": 3}, "not a loss"),
        ({"calib": ("minmax", "wide")}, "not a pair of a component and its options"),
        ({"calib": "minmx"}, "did you mean 'minmax'"),
        ({"bits": 8, "quant": "uniform4"}, "both say how to quantize"),
        ({"bits": 1}, "at least 2"),
        ({"teacher": 3}, "the teacher is a int"),
        ({"resume": True}, "needs the folder"),
        ({"settings": {"tune.stps": 3}}, "unknown option 'stps'"),
    ],
)
def test_mistakes_are_named(net: nn.Module, arguments: dict[str, Any], said: str) -> None:
    teacher = arguments.pop("teacher", net)
    with pytest.raises(zsq.ZsqError) as caught:
        zsq.quantize(teacher, **{**QUICK, **arguments})
    assert said in str(caught.value)


# -- the same as the command line --------------------------------------------------------------------------------------


def test_the_same_recipe_gives_the_same_bytes_as_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zsq_cli.app import main

    monkeypatch.chdir(tmp_path)
    words = ["py:zsq.testing.teachers:tiny", "--set", "teacher.shape=3,8,8", "--set", "teacher.mean=0.5,0.5,0.5", "--set",
             "teacher.std=0.25,0.25,0.25", "--synth", "noise", "--quant", "uniform4", "--set", "quant.scheme=deploy", "--calib", "minmax",
             "--set", "calib.batches=2", "--set", "tune.steps=3", "--set", "run.batch_size=8", "--seed", "5", "--out", "typed"]  # fmt: skip
    assert main(["run", *words]) == 0
    called = zsq.quantize(
        "py:zsq.testing.teachers:tiny", input_shape=SHAPE, mean=(0.5,) * 3, std=(0.25,) * 3, synth="noise", bits=4,
        calib=("minmax", {"batches": 2}), tune={"steps": 3}, batch_size=8, seed=5, out="called", quiet=True,
    )  # fmt: skip
    assert _weights(tmp_path / "typed") == _weights(tmp_path / "called")
    assert called.recipe.to_dict() == json.loads((tmp_path / "typed" / "report.json").read_text())["recipe"]
    zsq.quantize(recipe=tmp_path / "typed" / "recipe.yaml", out="again", quiet=True)
    assert _weights(tmp_path / "again") == _weights(tmp_path / "typed")
    assert main(["run", "--recipe", "called/recipe.yaml", "--out", "once more"]) == 0
    assert _weights(tmp_path / "once more") == _weights(tmp_path / "typed")


def test_a_recipe_of_a_network_in_memory_asks_for_it(net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    from zsq_cli.app import main

    monkeypatch.chdir(tmp_path)
    zsq.quantize(net, bits=8, out="run", synth=Stripes(), **QUICK)
    assert main(["run", "--recipe", "run/recipe.yaml", "--out", "again"]) == 2
    assert "'Stripes' was an object in memory" in capsys.readouterr().err
    assert main(["run", "--recipe", "run/recipe.yaml", "--synth", "noise", "--out", "again"]) == 2
    assert "the teacher was a network in memory (memory:Net)" in capsys.readouterr().err
    torch.manual_seed(1)
    other = type(net)()
    with pytest.raises(FileError, match="has other weights"):
        zsq.quantize("memory:Net", recipe="run/recipe.yaml", synth="noise") if False else _again(other)


def _again(other: nn.Module) -> None:
    """The recipe's fingerprint, and another network."""
    spec = zsq.Recipe.from_dict({"teacher": {"ref": "memory:Net", "fingerprint": "0" * 64}})
    zsq.quantize(other, recipe=spec, settings={"teacher.fingerprint": "0" * 64}, bits=8, **QUICK)


def test_a_saved_run_is_looked_at(net: nn.Module, tmp_path: Path, images: Tensor) -> None:
    zsq.quantize(net, bits=8, out=tmp_path / "run", **QUICK)
    run = zsq.SavedRun.open(tmp_path / "run")
    with torch.no_grad():
        assert torch.equal(run.module(images), zsq.load(tmp_path / "run")(images))
    assert run.report["student"]["weight_bits"] == 8 and run.context.teacher.inputs.shape == SHAPE
    with pytest.raises(zsq.ZsqError, match="network in memory"):
        run.load_teacher()
    with pytest.raises(FileError, match="is not a run"):
        _ = zsq.SavedRun(tmp_path).report


def _weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def _codes(result: zsq.Result) -> bytes:
    return _weights(result.folder)
