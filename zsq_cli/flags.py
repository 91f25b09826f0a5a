"""Arguments and flags that several commands share. Everything else is `--set` or in the recipe."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Precision(StrEnum):
    """Values of ``--precision``."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class RoleName(StrEnum):
    """Values of ``--role``: the keys of a recipe."""

    teacher = "teacher"
    task = "task"
    synth = "synth"
    quant = "quant"
    calib = "calib"
    loss = "loss"
    tune = "tune"
    eval = "eval"
    export = "export"
    log = "log"
    reader = "reader"
    store = "store"


TeacherArg = Annotated[
    str | None,
    typer.Argument(help="Teacher as SOURCE:REFERENCE, e.g. py:net.py:build; default: a ResNet-20.", metavar="TEACHER"),
]
SynthFlag = Annotated[str | None, typer.Option("--synth", help="Synthesizer that makes the images.", metavar="NAME")]
QuantFlag = Annotated[str | None, typer.Option("--quant", help="Quantizer, e.g. uniform4.", metavar="NAME")]
CalibFlag = Annotated[list[str] | None, typer.Option("--calib", help="Calibrator; repeat to chain several, in this order.", metavar="NAME")]
LossFlag = Annotated[
    list[str] | None, typer.Option("--loss", help="Loss, optionally with a weight: 0.5*ce. Repeat to sum.", metavar="[WEIGHT*]NAME")
]
TuneFlag = Annotated[str | None, typer.Option("--tune", help="Tuner; 'none' stops after calibration.", metavar="NAME")]
SetFlag = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any option: synth.superpose=0.4, calib.aac.images=128, run.batch_size=16. Repeat.", metavar="KEY=VALUE"),
]
EvalFlag = Annotated[
    list[str] | None, typer.Option("--eval", help="Evaluator, with its reference: npz:PATH, folder:PATH. Repeat.", metavar="NAME[:REF]")
]
ExportFlag = Annotated[list[str] | None, typer.Option("--export", help="Exporter of the finished student. Repeat.", metavar="NAME")]
LogFlag = Annotated[
    list[str] | None, typer.Option("--log", help="Log of the events, with its target: jsonl:PATH. Repeat.", metavar="NAME[:REF]")
]
WeightsFlag = Annotated[
    Path | None, typer.Option("--weights", help="Weights file of the teacher; short for --set teacher.weights=FILE.", metavar="FILE")
]
RecipeFlag = Annotated[
    str | None,
    typer.Option("--recipe", help="YAML recipe, or PLUGIN/NAME from `zsq recipes`; flags and --set override it.", metavar="FILE"),
]
BudgetFlag = Annotated[str | None, typer.Option("--budget", help="Time for the whole run: 300, 5m, 1h30m.", metavar="TIME")]
SeedFlag = Annotated[int | None, typer.Option("--seed", help="Seed of all random numbers.", metavar="INTEGER")]
PrecisionFlag = Annotated[Precision | None, typer.Option("--precision", help="Arithmetic of training.")]
PrivateFlag = Annotated[bool | None, typer.Option("--private/--public", help="Who may see a new repository.", show_default=False)]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, and only JSON, on standard output.")]
PluginFileFlag = Annotated[
    list[Path] | None, typer.Option("--plugin-file", help="Python file to load as a plugin. Repeat.", metavar="FILE")
]
NoPluginsFlag = Annotated[bool, typer.Option("--no-plugins", help="Built-in components only.")]
TrustFlag = Annotated[bool, typer.Option("--trust-code", help="Allow weights files that contain code. The code runs on this machine.")]
RoleFlag = Annotated[RoleName | None, typer.Option("--role", help="Only components of this role.")]
HelpFlag = Annotated[bool, typer.Option("--help", help="Show this message and the options of the named components, and exit.")]
RunArg = Annotated[Path, typer.Argument(help="Folder that `zsq run` wrote, or hub:ORG/NAME.", metavar="RUN")]
ToFlag = Annotated[str, typer.Option("--to", help="Exporter.", metavar="NAME")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Print the command instead of running it.")]


def leave(code: int) -> None:
    """End with an exit code, if it is not 0."""
    if code:
        raise typer.Exit(code)
