"""Short runs whose students must not change: a guard for refactoring, bit by bit.

    python benchmarks/golden.py [NAME ...] [--list] [--against FILE]
    python benchmarks/golden.py [NAME ...] --record [--against FILE]

Every recipe below is run, and the student in its folder is compared with the record, ``golden.json``: the tensors one by one
(codes inflated, so that the version of zlib does not count) and the network in ``config.json``, without the manifest. It says
nothing about speed or accuracy: a few steps, a few images, one thread. The exit code is 1 when a student differs or a run fails.

The same bits are promised on the same machine only. A record says on which machine it was made; where torch, CPU or instruction
set differ, make one of the older commit here, in a worktree of its own, and compare with that:

    git worktree add ../old COMMIT
    (cd ../old && make setup && .venv/bin/python benchmarks/golden.py --record --against ../old.json)
    python benchmarks/golden.py --against ../old.json

A commit that has not this file, or an older one, takes a copy of it; what it imports of zsq stands in one place.

A recipe that is added or changed is recorded by its name; a new component needs a recipe (``tests/benchmarks/test_golden.py``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# All that this script needs of zsq. Beside it: a folder of a run holds config.json and model.safetensors (docs/format.md).
from zsq._manager import Manager
from zsq._recipe import Recipe
from zsq._run.engine import run

RECORD = Path(__file__).with_suffix(".json")
#: What is hashed of ``config.json``; the rest says where a student comes from.
NETWORK = ("scheme", "integers", "inputs", "modules", "tensors", "graph")
#: Facts of a machine that bits may depend on.
DECISIVE = ("cpu", "isa", "torch", "threads")
#: Teachers from this file; the same network, whose graph is found in the one way and in the other.
RECORDED, EXPORTED = "py:golden:recorded", "py:golden:exported"
#: With images from the size on where generators are larger.
LARGE = {"ref": RECORDED, "shape": [3, 64, 64]}

Sections = Mapping[str, Any]
#: Every section that a recipe leaves open here; ``run`` is merged. What is None is open in the run as well, for what components suggest.
COMMON: Sections = {"teacher": "zoo:resnet20-cifar10", "eval": [], "run": {"batch_size": 8, "precision": "fp32"}}
#: Small sizes of what makes images.
POOL: Sections = {"images": 16, "batch": 8, "iterations": 3}
GENERATOR: Sections = {"channels": 16, "warmup": 2}
#: Small sizes of calibrators, of those that make images too.
OWN: Sections = {"images": 16, "batch": 8, "steps": 3}
SEEN = [{"name": "minmax", "batches": 2}]
STEPS: Sections = {"name": "finetune", "steps": 3}
SCHEDULE: Sections = {"schedule": "step", "milestones": [2], "gamma": 0.5}
AUTHORS: Sections = {**STEPS, "optimizer": "sgd", "range_lr": 0, "weight_decay": 1e-4, **SCHEDULE}

RECIPES: dict[str, Sections] = {
    # built in
    "noise-minmax": {"synth": "noise", "quant": "uniform8", "calib": SEEN, "loss": ["kd"], "tune": STEPS},
    "noise-ema": {
        "synth": {"name": "noise", "std": 0.5},
        "quant": "uniform4",
        "calib": [{"name": "ema", "batches": 4}],
        "loss": [{"name": "kd", "temperature": 20, "reduction": "mean"}, "0.5*mse"],
        "tune": AUTHORS,
        "run": {"seed": 1},
    },
    "noise-percentile": {
        "synth": "noise",
        "quant": {"name": "uniform2", "first_bits": 8, "last_bits": 8},
        "calib": [{"name": "percentile", "batches": 2}],
        "loss": ["mse", {"name": "bns", "weight": 0.1}],  # bns reads the teacher alone: it has to run, and to change nothing
        "tune": {**STEPS, "batch_norm": "train"},
    },
    "weights-only": {
        "synth": "noise",
        "quant": {"name": "uniform", "weight_bits": 4, "act_bits": None, "weight_symmetric": True, "per_channel": False},
        "calib": [],
        "loss": ["mse"],
        "tune": STEPS,
    },
    "noise-clip-search": {
        "synth": "noise",
        "quant": {"name": "uniform4", "act_symmetric": True},
        "calib": [{"name": "mean-image-max", "batches": 2}, {"name": "clip-search", "images": 16, "candidates": 3}],
        "loss": ["kd"],
        "tune": {"name": "clips", "steps": 3},
    },
    "noise-deploy": {
        "synth": "noise",
        "quant": {"name": "uniform8", "scheme": "deploy"},
        "calib": [{"name": "percentile", "batches": 2, "percent": 99}],
        "loss": ["kd"],
        "tune": STEPS,
    },
    "noise-bf16": {  # slow where the CPU has no bf16, so a small network
        "teacher": RECORDED,
        "synth": "noise",
        "quant": {"name": "uniform4", "scheme": "deploy", "float_input": True},
        "calib": SEEN,
        "loss": ["kd"],
        "tune": STEPS,
        "run": {"precision": "bf16"},
    },
    "exported": {
        "teacher": EXPORTED,
        "synth": "noise",
        "quant": {"name": "uniform8", "scheme": "deploy"},
        "calib": SEEN,
        "loss": ["kd"],
        "tune": STEPS,
    },
    "evaluated": {
        "teacher": RECORDED,
        "synth": "noise",
        "quant": "uniform4",
        "tune": STEPS,
        "eval": [{"name": "agreement", "images": 16}],
        "run": {"calibrated": True},
    },
    # dfq, squant
    "dfq": {
        "synth": "none",
        "quant": {"name": "uniform8", "per_channel": False},
        "calib": ["cle", "bias-absorption", "bn-range", "bias-correction"],
        "tune": "none",
    },
    "dfq-relu6": {
        "teacher": RECORDED,
        "synth": "none",
        "quant": {"name": "uniform8", "per_channel": False},
        "calib": ["cle", "bias-absorption", "bn-range", "bias-correction"],
        "tune": "none",
    },
    "dfq-stream": {
        "teacher": RECORDED,
        "synth": "noise",
        "quant": {"name": "uniform8", "scheme": "deploy", "per_channel": False},
        "calib": [
            {"name": "cle", "relu6": "relu"},
            {"name": "bias-absorption", "padded": True},
            {"name": "bn-range", "deviations": 4},
            {"name": "bias-correction", "source": "stream", "batches": 2},
        ],
        "tune": "none",
    },
    "squant": {"synth": "none", "quant": "squant4", "calib": [{"name": "squant-range", "images": 8}], "tune": "none"},
    "squant-deploy": {
        "synth": "none",
        "quant": {"name": "squant8", "scheme": "deploy", "float_input": True},
        "calib": ["bn-range"],
        "tune": "none",
    },
    # zeroq, pareto
    "zeroq": {"synth": {"name": "zeroq", **POOL}, "quant": "uniform8"},
    "zeroq-spectrum": {
        "synth": {"name": "zeroq-spectrum", **POOL},
        "quant": "squant3",
        "calib": [{"name": "percentile", "batches": 2}],
        "loss": ["mse"],
        "tune": {"name": "clips", "steps": 3},
    },
    "zeroq-paper": {"synth": {"name": "zeroq-paper", **POOL, "clamp": True}, "quant": {"name": "uniform8", "scheme": "deploy"}},
    "zeroq-released": {
        "synth": {"name": "zeroq-released", **POOL},
        "quant": "squant4",
        "calib": [{"name": "abn", **OWN, "source": "stream", "mode": "ema", "passes": 2}, "squant-range"],
        "loss": ["ce", "mse"],
        "tune": STEPS,
    },
    "pareto": {
        "synth": {"name": "zeroq", **POOL},
        "quant": {"name": "pareto", "candidates": [2, 4, 8], "mean_bits": 4, "images": 4, "scheme": "deploy"},
    },
    "pareto-paper": {
        "synth": {"name": "zeroq-spectrum", **POOL},
        "quant": {"name": "pareto-paper", "candidates": [2, 4, 8], "act_candidates": [4, 8], "bops": 1e9, "images": 4},
        "loss": ["kd"],
        "tune": STEPS,
    },
    # generators
    "gdfq": {
        "synth": {"name": "gdfq", **GENERATOR},
        "quant": "uniform4",
        "calib": [{"name": "aac", **OWN}, {"name": "abn", **OWN}],
        "loss": [{"name": "kd", "temperature": 20, "reduction": "mean"}, "ce"],
        "tune": STEPS,
    },
    "gdfq-paper": {
        "synth": {"name": "gdfq-paper", **GENERATOR, "conditioning": "cbn", "milestones": [3]},
        "quant": "uniform3",
        "calib": [{"name": "ema", "batches": 2}],
        "loss": ["kd", "ce"],
        "tune": AUTHORS,
    },
    "qimera": {
        "synth": {"name": "qimera", **GENERATOR, "channels": 64, "superpose": 1.0},
        "quant": "uniform4",
        "calib": [{"name": "aac", **OWN, "variant": "ce", "reduction": "percentile"}],
        "loss": ["kd"],
        "tune": STEPS,
    },
    "qimera-released": {
        "synth": {"name": "qimera-released", **GENERATOR, "embedding": "teacher", "conditioning": "cbn"},
        "quant": "uniform4",
        "calib": [{"name": "ema", "batches": 2}],
        "loss": ["kd", "soft-ce"],
        "tune": AUTHORS,
    },
    "zaq": {
        "synth": {"name": "zaq", **GENERATOR, "bns_weight": 1.0},
        "quant": "squant4",
        "calib": [{"name": "percentile", "batches": 2}],
        "loss": ["logit-l1", "crm"],
        "tune": STEPS,
    },
    "zaq-released": {
        "synth": {"name": "zaq-released", "channels": 16, "watch": True},
        "quant": "uniform4",
        "calib": [],
        "loss": ["logit-l1", "scrm"],
        "tune": {**STEPS, "steps": 6, "optimizer": "sgd", "range_lr": 0, "batch_norm": "train"},
    },
    "zaq-paper": {
        "synth": {"name": "zaq-paper", "channels": 16, "watch": True, "log_output": True, "clamp": True},
        "quant": {"name": "uniform4", "weight_symmetric": True, "act_symmetric": True},
        "calib": [],
        "loss": [{"name": "logit-l1", "norm": "l1"}, {"name": "crm", "weight": 0.1, "last": False, "layer_weight": "uniform"}],
        "tune": {**STEPS, "range_lr": 0},
    },
    "adadfq": {
        "synth": {"name": "adadfq", **GENERATOR},
        "quant": "squant3",
        "calib": [{"name": "percentile", "batches": 2}],
        "loss": ["logit-entropy"],
        "tune": STEPS,
    },
    "adasg": {
        "synth": {"name": "adasg", **GENERATOR, "observes": True},
        "quant": "uniform4",
        "calib": [{"name": "ema", "batches": 2}],
        "loss": [{"name": "logit-entropy", "temperature": 5}],
        "tune": AUTHORS,
    },
    "intraq": {
        "synth": {"name": "intraq", **POOL},
        "quant": "uniform4",
        "calib": [{"name": "ema", "batches": 2}],
        "loss": ["kd", "ce"],
        "tune": STEPS,
    },
    "hast": {
        "synth": {"name": "hast", **POOL, "augment": False},
        "quant": "squant3",
        "calib": SEEN,
        "loss": ["ce"],
        "tune": STEPS,
    },
    "lrq": {
        "synth": {"name": "lrq", **POOL, **GENERATOR},
        "quant": "uniform4",
        "calib": [{"name": "aac", **OWN}, {"name": "abn", **OWN}],
        "loss": ["ce", "dkd"],
        "tune": STEPS,
    },
    "lrq-released": {
        "synth": {"name": "lrq-released", **POOL, **GENERATOR, "ama_sign": -1, "generator_steps": 4},
        "quant": "uniform4",
        "calib": [{"name": "ema", "batches": 2}],
        "loss": ["ce", {"name": "dkd", "warmup": 2, "temperature": 4}],
        "tune": AUTHORS,
    },
    "gdfq-large": {"teacher": LARGE, "synth": {"name": "gdfq", **GENERATOR}, "quant": "uniform4", "calib": SEEN, "tune": STEPS},
    "qimera-large": {"teacher": LARGE, "synth": {"name": "qimera", **GENERATOR}, "quant": "uniform4", "calib": SEEN, "tune": STEPS},
    "zaq-large": {
        "teacher": LARGE,
        "synth": {"name": "zaq", "channels": 8},
        "quant": "uniform4",
        "calib": SEEN,
        "loss": ["logit-l1"],
        "tune": STEPS,
    },
    "zaq-waves": {
        "teacher": LARGE,
        "synth": {
            "name": "zaq",
            **GENERATOR,
            "features": "scrm",
            "waves": True,
            "clamp": True,
            "bns_weight": 1.0,
            "bns_scale": "relative",
            "warmup_student": False,
        },
        "quant": {"name": "uniform4", "scheme": "deploy"},
        "calib": SEEN,
        "loss": ["logit-l1"],
        "tune": STEPS,
    },
    "lrq-large": {"teacher": LARGE, "synth": {"name": "lrq", **POOL, **GENERATOR}, "quant": "squant4", "calib": SEEN, "tune": STEPS},
    # ait
    "ait": {
        "synth": {"name": "gdfq", **GENERATOR},
        "quant": "uniform4",
        "calib": [{"name": "ema", "batches": 2}],
        "tune": {"name": "ait", "steps": 3},
    },
    "ait-released": {
        "synth": {"name": "intraq", **POOL},
        "quant": "squant3",
        "calib": [{"name": "percentile", "batches": 2}],
        "loss": ["dkd"],
        "tune": {"name": "ait-released", "steps": 3, "warm": False, **SCHEDULE},
    },
    # other tasks
    "segment": {
        "teacher": "zoo:litelab-camvid",
        "synth": {"name": "zeroq-spectrum", "images": 2, "batch": 2, "iterations": 2},
        "quant": {"name": "uniform4", "scheme": "deploy"},
        "calib": [{"name": "minmax", "batches": 1}],
        "loss": [{"name": "kd", "temperature": 1}],
        "tune": {**STEPS, "steps": 2},
        "run": {"batch_size": 2},
    },
    "detect": {
        "teacher": "zoo:litedet-bccd",
        "synth": {"name": "zeroq-spectrum", "images": 2, "batch": 2, "iterations": 2, "clamp": True},
        "quant": {"name": "squant4", "scheme": "deploy"},
        "calib": [{"name": "minmax", "batches": 1}],
        "loss": ["logit-l1", "crm"],
        "tune": {**STEPS, "steps": 2},
        "run": {"batch_size": 2},
    },
}


class Block(nn.Module):
    """Wide, depthwise, narrow, with ReLU6 between and a residual sum: MobileNetV2's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 2 * channels
        self.wide, self.norm1 = nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.depthwise, self.norm2 = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False), nn.BatchNorm2d(inner)
        self.narrow, self.norm3 = nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.norm2(self.depthwise(F.relu6(self.norm1(self.wide(x))))))
        return x + self.norm3(self.narrow(y))  # type: ignore[no-any-return]


class Network(nn.Module):
    """Two blocks, a transposed convolution, a concatenation and a linear layer; takes images of any even size."""

    pretrained_cfg = {"input_size": (3, 16, 16), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}

    def __init__(self, counts: bool) -> None:
        super().__init__()
        self.counts = counts
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.block1, self.block2 = Block(8), Block(8)
        self.down, self.up = nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.linear = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(F.relu6(self.norm(self.stem(x)))))
        x = F.adaptive_avg_pool2d(torch.cat((x, F.relu(self.up(F.relu(self.down(x))))), 1), 1)
        return self.linear(x.reshape(x.shape[0], -1) if self.counts else x.flatten(1))  # type: ignore[no-any-return]


def recorded() -> nn.Module:
    """A network whose forward shows itself when it is run."""
    return _built(counts=False)


def exported() -> nn.Module:
    """The same, which computes with the size of the batch: ``torch.export`` has to give its graph."""
    return _built(counts=True)


def _built(counts: bool) -> nn.Module:
    """Always the same weights, channels of unequal ranges, statistics as training leaves them, answers that differ."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = Network(counts)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.2, 2)
                module.bias.uniform_(-0.5, 1)
                module.momentum = None
        network.linear.weight.mul_(8)
        images = torch.randn(64, 3, 16, 16)
        network.train()(images)
        network.eval().linear.bias.sub_(network(images).mean(0))
    return network


def recipe(name: str) -> dict[str, Any]:
    """A recipe with what all have in common, as plain values."""
    own = RECIPES[name]
    return {**COMMON, **own, "run": {**COMMON["run"], **own.get("run", {})}}


def manager() -> Manager:
    """The plugins, without the one that writes a page of every run: it takes time and has no part in a student."""
    return Manager.discover(only=["-report"])


def student(name: str, plugins: Manager) -> dict[str, Any]:
    """Run a recipe; what stands in the record of its student."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run(Recipe.from_dict(recipe(name)), out, manager=plugins, cache=None)
        return {"recipe": digest(plain(recipe(name))), **content(out)}


def content(folder: Path) -> dict[str, Any]:
    """Digests of a saved student: of its network, and of every tensor's type, shape and bytes."""
    config = json.loads((folder / "config.json").read_bytes())
    tensors = {name: digest(head.encode(), body) for name, head, body in tensors_of((folder / "model.safetensors").read_bytes())}
    named = {"protocol" if key == "scheme" else key: config[key] for key in NETWORK}  # as the records were made with
    return {"network": digest(plain(named)), "tensors": tensors}


def tensors_of(file: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Name, type and shape, and bytes of what a safetensors file holds."""
    size = int.from_bytes(file[:8], "little")
    start, header = 8 + size, json.loads(file[8 : 8 + size])
    for name in sorted(header.keys() - {"__metadata__"}):
        entry = header[name]
        body, shape = file[slice(*(start + n for n in entry["data_offsets"]))], entry["shape"]
        if name == "codes":
            body = zlib.decompress(body)
            shape = [len(body)]
        yield name, f"{entry['dtype']} {shape}", body


def digest(*parts: bytes) -> str:
    """SHA-256 of the parts, each with its length."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()


def plain(value: Any) -> bytes:
    """One text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is not equal: the recipe, the network, names of tensors."""
    parts = [key for key in ("recipe", "network") if old[key] != new[key]]
    names = sorted(old["tensors"].keys() | new["tensors"].keys())
    return parts + [name for name in names if old["tensors"].get(name) != new["tensors"].get(name)]


def machine() -> dict[str, Any]:
    """What a recording says of where it was made."""
    return {
        "cpu": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }


def other_machine(recorded: Mapping[str, Any]) -> str:
    """How the machine of a recording differs from this one; empty if nothing decisive does."""
    here = machine()
    return ", ".join(f"{key} {recorded.get(key)} there, {here[key]} here" for key in DECISIVE if recorded.get(key) != here[key])


def check(names: Sequence[str], known: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Run recipes, a line for each; their students, and whether all are as recorded or new."""
    made: dict[str, Any] = {}
    good, plugins, began = True, manager(), time.perf_counter()
    for name in names:
        start = time.perf_counter()
        try:
            made[name] = student(name, plugins)
        except Exception as error:  # the other recipes are worth their figures
            word = f"FAILED: {type(error).__name__}: {' '.join(str(error).split())}"
        else:
            parts = differences(known[name], made[name]) if name in known else []
            word = "new" if name not in known else f"DIFFERS: {', '.join(parts)}" if parts else "ok"
        good &= word in ("ok", "new")
        print(f"{name:22} {time.perf_counter() - start:6.1f} s  {word}", flush=True)
    print(f"{len(names):3} recipes             {time.perf_counter() - began:6.1f} s")
    return made, good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes to run; default: all")
    parser.add_argument("--list", action="store_true", help="print the names of the recipes")
    parser.add_argument("--record", action="store_true", help="write the file instead of comparing with it")
    parser.add_argument("--against", type=Path, default=RECORD, metavar="FILE", help="the recording; default: golden.json beside this file")
    options = parser.parse_args()
    if options.list:
        print("\n".join(RECIPES))
        return 0
    if unknown := sorted(set(options.names) - RECIPES.keys()):
        parser.error(f"no recipe {', '.join(unknown)}; there are: {', '.join(RECIPES)}")
    if not options.record and not options.against.is_file():
        parser.error(f"no recording {options.against}; make one with --record")
    torch.set_num_threads(1)
    recording = json.loads(options.against.read_text()) if options.against.is_file() else {"machine": machine(), "students": {}}
    known, elsewhere = recording["students"], other_machine(recording["machine"])
    if options.record and elsewhere and options.names:
        parser.error(f"the recording was made on another machine ({elsewhere}): record all recipes")
    if elsewhere and not options.record:
        print(f"The recording was made on another machine: {elsewhere}.")
    made, good = check(options.names or list(RECIPES), known)
    if options.record:
        students = {**(known if options.names else {}), **made}
        kept = {name: students[name] for name in RECIPES if name in students}
        options.against.write_text(json.dumps({"machine": machine(), "students": kept}, indent=1) + "\n")
        return int(made.keys() != set(options.names or RECIPES))
    if gone := sorted(known.keys() - RECIPES.keys()):
        print(f"recorded, but no recipe any more: {', '.join(gone)}")
    if not good and elsewhere:
        print(
            "What differs may differ for that reason alone. Only a recording of the same machine tells: make one of an older commit\n"
            "here (--record --against FILE, in a worktree of its own) and compare with it (--against FILE)."
        )
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
