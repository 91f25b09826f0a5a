"""The commands and their flags. Light: whatever a command needs beyond typer is imported inside it.

``zsq --help`` therefore imports neither torch, pluggy, yaml nor rich.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from zsq.errors import ZsqError

app = typer.Typer(
    name="zsq",
    help="Small, fast, accurate integer networks from a trained teacher and no data.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"max_content_width": 120},
)
plugins_app = typer.Typer(
    name="plugins", help="List, install, make and check plugins.", rich_markup_mode=None, add_completion=False, no_args_is_help=True
)
app.add_typer(plugins_app)


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


#: Exit code of a program that was interrupted from the keyboard: 128 + SIGINT.
_INTERRUPTED = 130

# Flags that several commands share. Everything that is not a flag is `--set` or the recipe.
TeacherArg = Annotated[
    str | None, typer.Argument(help="Teacher as SOURCE:REFERENCE, e.g. py:net.py:build; none means the embedded one.", metavar="TEACHER")
]
SynthFlag = Annotated[str | None, typer.Option("--synth", help="Synthesizer that makes the images.", metavar="NAME")]
QuantFlag = Annotated[str | None, typer.Option("--quant", help="Quantizer, e.g. uniform4.", metavar="NAME")]
CalibFlag = Annotated[list[str] | None, typer.Option("--calib", help="Calibrator; repeat to chain several, in this order.", metavar="NAME")]
LossFlag = Annotated[
    list[str] | None, typer.Option("--loss", help="Loss, with a weight if need be: 0.5*ce. Repeat to sum.", metavar="[WEIGHT*]NAME")
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
    list[str] | None, typer.Option("--log", help="Log of what happens, with where it goes: jsonl:PATH. Repeat.", metavar="NAME[:REF]")
]
WeightsFlag = Annotated[
    Path | None, typer.Option("--weights", help="Checkpoint of the teacher; short for --set teacher.weights=FILE.", metavar="FILE")
]
RecipeFlag = Annotated[
    str | None,
    typer.Option("--recipe", help="YAML recipe, or PLUGIN/NAME as `zsq recipes` lists; flags and --set go before it.", metavar="FILE"),
]
BudgetFlag = Annotated[str | None, typer.Option("--budget", help="Time for the whole run: 300, 5m, 1h30m.", metavar="TIME")]
SeedFlag = Annotated[int | None, typer.Option("--seed", help="Seed of every random number.", metavar="INTEGER")]
PrecisionFlag = Annotated[Precision | None, typer.Option("--precision", help="Arithmetic of training.")]
PrivateFlag = Annotated[bool | None, typer.Option("--private/--public", help="Who may see a new repository.", show_default=False)]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
PluginFileFlag = Annotated[
    list[Path] | None, typer.Option("--plugin-file", help="Python file to load as a plugin. Repeat.", metavar="FILE")
]
NoPluginsFlag = Annotated[bool, typer.Option("--no-plugins", help="Built-in components only.")]
TrustFlag = Annotated[bool, typer.Option("--trust-code", help="Allow checkpoints that carry code. It runs on this machine.")]
RoleFlag = Annotated[RoleName | None, typer.Option("--role", help="Components of this role only.")]
HelpFlag = Annotated[bool, typer.Option("--help", help="Show this message and the options of the components on the line, and exit.")]
RunArg = Annotated[Path, typer.Argument(help="Folder that `zsq run` wrote, or hub:ORG/NAME.", metavar="RUN")]
ToFlag = Annotated[str, typer.Option("--to", help="Exporter.", metavar="NAME")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Print the command instead of running it.")]


def _version(value: bool) -> None:
    if value:
        from zsq import __version__

        typer.echo(f"zsq {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere on the line.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)] = False,
) -> None:
    """Small, fast, accurate integer networks from a trained teacher and no data."""


@app.command(add_help_option=False)
def run(
    ctx: typer.Context,
    teacher: TeacherArg = None,
    synth: SynthFlag = None,
    quant: QuantFlag = None,
    calib: CalibFlag = None,
    loss: LossFlag = None,
    tune: TuneFlag = None,
    settings: SetFlag = None,
    evaluate: EvalFlag = None,
    export: ExportFlag = None,
    log: LogFlag = None,
    weights: WeightsFlag = None,
    recipe: RecipeFlag = None,
    budget: BudgetFlag = None,
    seed: SeedFlag = None,
    precision: PrecisionFlag = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; default runs/SYNTH-QUANT-SEED.", metavar="DIR")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the run in this folder, from its last checkpoint.", metavar="DIR")
    ] = None,
    push: Annotated[str | None, typer.Option("--push", help="Publish the run there, on the Hugging Face Hub.", metavar="ORG/NAME")] = None,
    private: PrivateFlag = None,
    json: JsonFlag = False,
    plugin_file: PluginFileFlag = None,
    no_plugins: NoPluginsFlag = False,
    trust_code: TrustFlag = False,
    help: HelpFlag = False,
) -> None:
    """Quantize a teacher and save the run.

    Synthesize images, quantize, calibrate, tune, evaluate, export.
    """
    from zsq_cli.run import Flags, print_options, run_flags

    flags = Flags(
        teacher=teacher,
        synth=synth,
        quant=quant,
        calib=calib,
        loss=loss,
        tune=tune,
        set=settings,
        eval=evaluate,
        export=export,
        log=log,
        weights=weights,
        recipe=recipe,
        budget=budget,
        seed=seed,
        precision=precision,
        plugin_files=plugin_file,
        no_plugins=no_plugins,
    )
    if help:
        typer.echo(ctx.get_help())
        print_options(flags)
    else:
        run_flags(flags, out, resume=resume, json=json, trust_code=trust_code, push=push, private=private)


@app.command(add_help_option=False)
def plan(
    ctx: typer.Context,
    teacher: TeacherArg = None,
    synth: SynthFlag = None,
    quant: QuantFlag = None,
    calib: CalibFlag = None,
    loss: LossFlag = None,
    tune: TuneFlag = None,
    settings: SetFlag = None,
    evaluate: EvalFlag = None,
    export: ExportFlag = None,
    log: LogFlag = None,
    weights: WeightsFlag = None,
    recipe: RecipeFlag = None,
    budget: BudgetFlag = None,
    seed: SeedFlag = None,
    precision: PrecisionFlag = None,
    json: JsonFlag = False,
    plugin_file: PluginFileFlag = None,
    no_plugins: NoPluginsFlag = False,
    help: HelpFlag = False,
) -> None:
    """Show what a run would do.

    Imports no method, trains nothing; exit code 2 when the chain is impossible.
    """
    from zsq_cli.run import Flags, plan_flags, print_options

    flags = Flags(
        teacher=teacher,
        synth=synth,
        quant=quant,
        calib=calib,
        loss=loss,
        tune=tune,
        set=settings,
        eval=evaluate,
        export=export,
        log=log,
        weights=weights,
        recipe=recipe,
        budget=budget,
        seed=seed,
        precision=precision,
        plugin_files=plugin_file,
        no_plugins=no_plugins,
    )
    if help:
        typer.echo(ctx.get_help())
        print_options(flags)
    else:
        plan_flags(flags, json=json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Component or preset; ROLE/NAME when several roles have it.", metavar="NAME")],
    role: RoleFlag = None,
    json: JsonFlag = False,
    plugin_file: PluginFileFlag = None,
    no_plugins: NoPluginsFlag = False,
) -> None:
    """Show a component and its options.

    Type, default, bounds and help of every option; presets, needs, paper, provider.
    """
    from zsq_cli.plugins import show_component

    show_component(name, role, json=json, files=plugin_file or (), third_party=not no_plugins)


@app.command()
def recipes(
    plugin: Annotated[str | None, typer.Argument(help="Those of this plugin only.", metavar="PLUGIN")] = None,
    json: JsonFlag = False,
    no_plugins: NoPluginsFlag = False,
) -> None:
    """List the recipes that come with plugins.

    Run one with `zsq run --recipe PLUGIN/NAME`.
    """
    from zsq_cli.plugins import list_recipes

    list_recipes(plugin, json=json, third_party=not no_plugins)


@app.command()
def eval(
    run: Annotated[Path, typer.Argument(help="Folder that `zsq run` wrote, or hub:ORG/NAME.", metavar="RUN")],
    evaluate: EvalFlag = None,
    json: JsonFlag = False,
    plugin_file: PluginFileFlag = None,
    no_plugins: NoPluginsFlag = False,
) -> None:
    """Evaluate a saved student.

    Beside its teacher's own figures, as the run measured them.
    """
    from zsq_cli.run import evaluate_run

    evaluate_run(run, evaluate or [], json=json, files=plugin_file or (), third_party=not no_plugins)


@app.command()
def export(run: RunArg, to: ToFlag = "onnx", json: JsonFlag = False) -> None:
    """Write a saved student in another format.

    Into the run's folder, beside the student.
    """
    from zsq_cli.export import export_run

    export_run(run, to, json=json)


@app.command()
def verify(
    run: RunArg,
    to: ToFlag = "onnx",
    images: Annotated[int, typer.Option("--images", help="How many images to compare.", min=1, metavar="INTEGER")] = 256,
    npz: Annotated[Path | None, typer.Option("--npz", help="Real images instead of synthetic ones.", metavar="FILE")] = None,
    json: JsonFlag = False,
) -> None:
    """Prove that an exported file computes what was evaluated.

    Needs no data; exit code 1 when it does not.
    """
    from zsq_cli.verify import verify_run

    _exit(verify_run(run, to, images, npz, json=json))


@app.command()
def bench(
    run: RunArg,
    to: ToFlag = "onnx",
    threads: Annotated[int, typer.Option("--threads", help="Threads of the runtime.", min=1, metavar="INTEGER")] = 1,
    batch: Annotated[int, typer.Option("--batch", help="Images at once, for throughput.", min=1, metavar="INTEGER")] = 32,
    json: JsonFlag = False,
) -> None:
    """Time teacher and exported student in the same runtime.

    Latency and throughput; no speed-up is given for a student that calculates in float.
    """
    from zsq_cli.bench import bench_run

    bench_run(run, to, threads, batch, json=json)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="Folder that `zsq run` wrote.", metavar="RUN")],
    repo: Annotated[str, typer.Argument(help="Where to: ORG/NAME on the Hugging Face Hub.", metavar="ORG/NAME")],
    private: PrivateFlag = None,
    dry_run: Annotated[
        Path | None, typer.Option("--dry-run", help="Write what would be published to this new folder, offline.", metavar="DIR")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="The teacher on the Hub; else from its reference.", metavar="ID")
    ] = None,
    license: Annotated[str | None, typer.Option("--license", help="Licence; else that of the teacher on the Hub.", metavar="ID")] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="What accuracy was measured on; else the name of its file.", metavar="NAME")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Refuse exported files that `zsq verify` refuses.")] = True,
    json: JsonFlag = False,
) -> None:
    """Publish a student on the Hub.

    One commit with a model card; needs the plugin hub.
    """
    from zsq_cli.push import push_run

    push_run(run, repo, private=private, dry_run=dry_run, base_model=base_model, license=license, dataset=dataset, verify=verify, json=json)


@plugins_app.command("list")
def list_(role: RoleFlag = None, json: JsonFlag = False, plugin_file: PluginFileFlag = None, no_plugins: NoPluginsFlag = False) -> None:
    """List plugins: what each provides.

    Broken and blocked ones with the reason.
    """
    from zsq_cli.plugins import list_plugins

    list_plugins(role, json=json, files=plugin_file or (), third_party=not no_plugins)


@plugins_app.command()
def install(
    name: Annotated[str, typer.Argument(help="Plugin or component from the registry, or a plugin's folder.", metavar="NAME")],
    dry_run: DryRunFlag = False,
) -> None:
    """Install a known plugin."""
    from zsq_cli.plugins import install_plugin

    _exit(install_plugin(name, dry_run=dry_run))


@plugins_app.command()
def uninstall(
    name: Annotated[str, typer.Argument(help="Plugin, or its distribution.", metavar="NAME")], dry_run: DryRunFlag = False
) -> None:
    """Uninstall a plugin, broken or not.

    Its code is not loaded.
    """
    from zsq_cli.plugins import uninstall_plugin

    _exit(uninstall_plugin(name, dry_run=dry_run))


@plugins_app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the component: lower-case letters, digits, dashes.", metavar="NAME")],
    role: Annotated[RoleName, typer.Option("--role", help="What kind of component it is.")],
    folder: Annotated[Path, typer.Option("--dir", help="Where the folder zsq-NAME is made.", metavar="DIR")] = Path(),
) -> None:
    """Make a working plugin to start from."""
    from zsq_cli.plugins import new_plugin

    new_plugin(name, role, folder)


@plugins_app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Components, plugins, or folders of plugins.", metavar="NAME_OR_PATH")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Everything that is installed.")] = False,
    json: JsonFlag = False,
) -> None:
    """Run the conformance kit.

    Exit code 1 when a check fails.
    """
    from zsq_cli.check import check_plugins

    _exit(check_plugins(names or [], everything=all_, json=json))


@plugins_app.command()
def why(
    name: Annotated[str, typer.Argument(help="Plugin or component.", metavar="NAME")],
    json: JsonFlag = False,
    plugin_file: PluginFileFlag = None,
) -> None:
    """Say who provides a name.

    How it was found, from which file, and why it does not work.
    """
    from zsq_cli.plugins import explain

    explain(name, json=json, files=plugin_file or ())


def _exit(code: int) -> None:
    if code:
        raise typer.Exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; the exit code: 0 done, 1 failed, 2 the user can mend it, 130 interrupted.

    Errors that the user can mend take at most three lines on standard error; ``--debug`` adds the traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        code = app([word for word in words if word != "--debug"], prog_name="zsq", standalone_mode=False)
        sys.stdout.flush()
        if code != _INTERRUPTED:
            return code if isinstance(code, int) else 0
        return _fail("interrupted", code=_INTERRUPTED)  # typer turns the interrupt into this code, without a word
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", code=_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away; the interpreter would complain of it once more at exit
        return 1
    except ZsqError as error:
        return _fail(error.what, error.where and f"in {error.where}", error.hint, debug=debug, code=getattr(error, "code", 2))
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own errors of usage; its classes are private
            return _usage(error)
        what = f"unexpected {type(error).__name__}: {error}"
        return _fail(what, _place(error), "a fault of zsq or of a plugin; --debug shows the traceback", debug=debug, code=1)


def _usage(error: Any) -> int:
    message, ctx = error.format_message(), getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return 2
    path = ctx.command_path if ctx is not None else "zsq"
    return _fail(message, f"in {path}", f"try '{path} --help'")


def _place(error: BaseException) -> str:
    """File and line that raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"in {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""


def _fail(*lines: str, debug: bool = False, code: int = 2) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    text = "\n".join(" ".join(line.split()) for line in lines if line)
    typer.echo(f"zsq: {text}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
