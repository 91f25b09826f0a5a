"""The commands and their flags. A command imports what it needs inside its function.

So ``zsq --help`` imports no torch, pluggy, yaml or rich.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Any

import typer

from zsq.errors import ZsqError
from zsq_cli.flags import (
    BudgetFlag,
    CalibFlag,
    EvalFlag,
    ExportFlag,
    HelpFlag,
    JsonFlag,
    LogFlag,
    LossFlag,
    NoPluginsFlag,
    PluginFileFlag,
    PrecisionFlag,
    PrivateFlag,
    QuantFlag,
    RecipeFlag,
    RoleFlag,
    RunArg,
    SeedFlag,
    SetFlag,
    SynthFlag,
    TeacherArg,
    ToFlag,
    TrustFlag,
    TuneFlag,
    WeightsFlag,
    leave,
)
from zsq_cli.plugins_app import plugins_app
from zsq_cli.tools_app import cache_app, compare, doctor

app = typer.Typer(
    name="zsq",
    help="Small, fast, accurate integer networks from a trained teacher and no data.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"max_content_width": 120},
)
app.add_typer(plugins_app)
app.add_typer(cache_app)


#: Exit code of a program that was interrupted from the keyboard: 128 + SIGINT.
_INTERRUPTED = 130


def _version(value: bool) -> None:
    if value:
        from zsq import __version__

        typer.echo(f"zsq {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. Works anywhere on the line.")] = False,
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
        Path | None, typer.Option("--resume", help="Resume the run in this folder from its last checkpoint.", metavar="DIR")
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push", help="Publish the run: ORG/NAME on the Hub, or STORE:REST.", metavar="PLACE")
    ] = None,
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

    Imports no method, trains nothing; exit code 2 if the chain cannot run.
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
    name: Annotated[str, typer.Argument(help="Component or preset; ROLE/NAME if several roles have it.", metavar="NAME")],
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
    plugin: Annotated[str | None, typer.Argument(help="Only those of this plugin.", metavar="PLUGIN")] = None,
    json: JsonFlag = False,
    no_plugins: NoPluginsFlag = False,
) -> None:
    """List the recipes of plugins.

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

    Shows the teacher's metrics too, if the run measured them in the same way.
    """
    from zsq_cli.saved import evaluate_run

    evaluate_run(run, evaluate or [], json=json, files=plugin_file or (), third_party=not no_plugins)


@app.command()
def export(run: RunArg, to: ToFlag = "onnx", json: JsonFlag = False) -> None:
    """Write a saved student in another format.

    The files go into the run folder.
    """
    from zsq_cli.saved import export_run

    export_run(run, to, json=json)


@app.command()
def verify(
    run: RunArg,
    to: ToFlag = "onnx",
    images: Annotated[int, typer.Option("--images", help="How many images to compare.", min=1, metavar="INTEGER")] = 256,
    npz: Annotated[Path | None, typer.Option("--npz", help="Real images instead of synthetic ones.", metavar="FILE")] = None,
    json: JsonFlag = False,
) -> None:
    """Check that an exported file computes what was evaluated.

    Needs no data; exit code 1 if it does not.
    """
    from zsq_cli.saved import verify_run

    leave(verify_run(run, to, images, npz, json=json))


@app.command()
def bench(
    run: RunArg,
    to: ToFlag = "onnx",
    threads: Annotated[int, typer.Option("--threads", help="Threads of the runtime.", min=1, metavar="INTEGER")] = 1,
    batch: Annotated[int, typer.Option("--batch", help="Images at once, for throughput.", min=1, metavar="INTEGER")] = 32,
    json: JsonFlag = False,
) -> None:
    """Time teacher and exported student in the same runtime.

    Latency and throughput. No speed-up is shown if the student runs in float.
    """
    from zsq_cli.saved import bench_run

    bench_run(run, to, threads, batch, json=json)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="Folder that `zsq run` wrote.", metavar="RUN")],
    repo: Annotated[str, typer.Argument(help="ORG/NAME on the Hugging Face Hub, or STORE:REST.", metavar="PLACE")],
    private: PrivateFlag = None,
    dry_run: Annotated[
        Path | None, typer.Option("--dry-run", help="Write the files to this new folder instead, without network.", metavar="DIR")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="The teacher on the Hub; default: from its reference.", metavar="ID")
    ] = None,
    license: Annotated[str | None, typer.Option("--license", help="Licence; default: the teacher's on the Hub.", metavar="ID")] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="The data that accuracy was measured on; default: the name of its file.", metavar="NAME")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Refuse exported files that `zsq verify` refuses.")] = True,
    json: JsonFlag = False,
) -> None:
    """Publish a student in a store.

    The plugin hub publishes on the Hugging Face Hub: one commit with a model card.
    """
    from zsq_cli.saved import push_run

    push_run(run, repo, private=private, dry_run=dry_run, base_model=base_model, license=license, dataset=dataset, verify=verify, json=json)


app.command()(compare)
app.command()(doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run. Exit code: 0 done, 1 failed, 2 the user can fix it, 130 interrupted.

    Errors that the user can fix have at most three lines on standard error; ``--debug`` adds the traceback.
    """
    gc.set_threshold(50_000)  # the start makes many objects and no garbage
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        words = [word for word in words if word != "--debug"]
        code = _needed(words)(words, prog_name="zsq", standalone_mode=False)
        sys.stdout.flush()
        if code != _INTERRUPTED:
            return code if isinstance(code, int) else 0
        return _fail("interrupted", code=_INTERRUPTED)  # typer turns the interrupt into this code, without a message
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", code=_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has ended; avoids a second error at exit
        return 1
    except ZsqError as error:
        return _fail(error.what, error.where and f"in {error.where}", error.hint, debug=debug, code=error.code)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's usage errors; their classes are private
            return _usage(error)
        what = f"unexpected {type(error).__name__}: {error}"
        return _fail(what, _place(error), "a bug in zsq or in a plugin; --debug shows the traceback", debug=debug, code=1)


def _needed(words: Sequence[str]) -> typer.Typer:
    """The application with only the command that ``words`` begin with, because typer needs milliseconds for each command. Without a
    command, the whole application, so that help and errors name every command."""
    name = words[0] if words else ""
    commands = [info for info in app.registered_commands if info.callback is not None and (info.name or info.callback.__name__) == name]
    groups = [info for info in app.registered_groups if info.typer_instance is not None and info.typer_instance.info.name == name]
    if not commands and not groups:
        return app
    part = copy(app)
    part.registered_commands, part.registered_groups = commands, groups
    return part


def _usage(error: Any) -> int:
    message, ctx = error.format_message(), getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return 2
    path = ctx.command_path if ctx is not None else "zsq"
    return _fail(message, f"in {path}", f"try '{path} --help'")


def _place(error: BaseException) -> str:
    """The file and line of an error."""
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
