"""``zsq.quantize``: the Python door. Arguments become a recipe, objects become components, and the engine runs both."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from zsq._api.memory import Memory
from zsq._api.network import Network, spec_of
from zsq._api.progress import progress
from zsq._api.result import Result
from zsq._component import Role
from zsq._compose import compose
from zsq._manager import Manager
from zsq._named_recipes import find_recipe
from zsq._recipe import Recipe, apply_flags, apply_settings, pin_warnings, read_recipe
from zsq._run.checkpoints import read, recipe_of, reopen
from zsq._run.engine import Finished, Listener, run
from zsq._run.stopping import Interrupted, stop_on_sigint
from zsq.errors import OptionError
from zsq.files import cache_folder

if TYPE_CHECKING:
    from zsq._plan import Plan
    from zsq.events import Event
    from zsq.types import InputSpec


def quantize(
    teacher: nn.Module | str | None = None,
    *,
    bits: int | tuple[int, int | None] | None = None,
    recipe: Recipe | Mapping[str, Any] | Path | str | None = None,
    input_shape: Sequence[int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    inputs: InputSpec | None = None,
    task: str | None = None,
    classes: int | None = None,
    weights: Path | str | None = None,
    synth: Any = None,
    quant: Any = None,
    calib: Any = None,
    loss: Any = None,
    tune: Any = None,
    evaluate: Any = None,
    export: Any = None,
    log: Any = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    budget: str | float | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    precision: str | None = None,
    device: str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    cache: bool | Path | str = True,
    quiet: bool = False,
    trust_code: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> Result:
    """Quantize a network without its data: make images from the network alone, quantize, calibrate, tune, evaluate, save.

    A network that is given as an object is copied first: its weights, buffers, modes, gradient flags, hooks and device are the same when
    this returns or raises. Forward hooks belong to what a network computes, so the copy runs them too.

    Every component is given as a name (``"zeroq"``), as a name with options (``("zeroq", {"images": 256})``), or as an object that
    satisfies its role's protocol, or a class that is built as ``Class(options, ctx)``; see :mod:`zsq.protocols`. ``calib``, ``loss``,
    ``evaluate``, ``export`` and ``log`` also take lists of such.

    Args:
        teacher: The network, or a reference as on the command line (``"py:net.py:build"``); None for the recipe's, else the embedded one.
        bits: Grids of so many bits for weights and activations, or a pair of both (None leaves activations in float), as an integer
            runtime needs them: scheme ``deploy``. For another quantizer or scheme give ``quant`` instead. Without ``bits``, ``quant``
            and ``recipe``: 8.
        recipe: What the run is made of, as a recipe, plain values, a YAML file or ``PLUGIN/NAME``; the other arguments go before it.
        input_shape: Channels, height, width of one image; else from ``inputs``, else from a dict ``pretrained_cfg`` of the network.
        mean: What pixels in [0, 1] were normalised with, per channel or one number; found as ``input_shape``.
        std: The same for the standard deviation.
        inputs: The three as one.
        task: What the network's output means, one of the tasks of ``zsq plugins list``; by default one class per image.
        classes: How many classes it tells apart; by default as its output has.
        weights: Of a teacher that is given by reference: its checkpoint.
        synth: What makes images; or somebody's own: a tensor (N, C, H, W) as the network takes it, or batches of such (a DataLoader).
        quant: What puts weights and activations on grids.
        calib: What sets ranges, biases, BatchNorm statistics.
        loss: What tuning minimises; a function of a :class:`zsq.types.View` that gives a scalar will do.
        tune: What moves the student by gradient; ``"none"`` stops after calibration.
        evaluate: What is measured: ``"npz:PATH"``, a function of a network that gives a number (or names and numbers), or batches of
            (inputs, classes), which give top-1 accuracy. Student and teacher are both measured.
        export: Files of the finished student beside zsq's own.
        log: What hears of every event: ``"jsonl:PATH"``, or a function of an event.
        settings: Any option, as ``--set`` takes it: ``{"tune.steps": 100}``.
        budget: Time for all of it: seconds, or ``"90s"``, ``"5m"``.
        seed: Of every random number.
        batch_size: Images per step.
        precision: Arithmetic of training: ``auto``, ``fp32`` or ``bf16``.
        device: Where to run; by default where the network is, else the CPU.
        out: Folder of the run. Without one, the files lie in a temporary folder until :meth:`Result.save`.
        resume: Go on with the run in ``out`` that was stopped or killed. Give the network and other objects again; all else is taken
            from its last checkpoint. The bits are the same as if it had been left alone.
        cache: Keep images and the like for later runs: in the user's cache folder, or in this one; False keeps nothing.
        quiet: Show no progress.
        trust_code: Allow checkpoints that carry code. It runs on this machine.
        on_event: Called with everything that happens, see :mod:`zsq.events`.

    Raises:
        ZsqError: With what is wrong, where, and the next step. Nothing half-written is left, and ``out`` is as it was before.
    """
    memory, plugins = Memory(), Manager.discover()
    saved: dict[str, Any] | None = None
    if resume:
        if out is None:
            raise OptionError("resume= needs the folder of the run", "zsq.quantize", "give out=, as in the call that was stopped")
        saved = read(Path(out))
        base = recipe_of(saved, Path(out))
    else:
        base = _recipe(recipe, plugins)
    parts = {"synth": synth, "quant": quant, "calib": calib, "loss": loss, "tune": tune, "eval": evaluate, "export": export, "log": log}
    flags: dict[str, Any] = {}
    if bits is not None and quant is not None:
        raise OptionError(
            "bits= and quant= both say how to quantize", "zsq.quantize", "give quant=('uniform', {...}) alone, or bits= alone"
        )
    if bits is not None or (quant is None and recipe is None and not resume):
        parts["quant"] = _grids(8 if bits is None else bits)
    for section, value in parts.items():
        if value is not None:
            flags[section] = _entry(memory, section, value)
    spec = spec_of(inputs, input_shape, mean, std)
    if isinstance(teacher, nn.Module):
        known = base.teacher or {}
        network = Network(teacher, {**known, **spec}, task or known.get("task"), classes or known.get("classes"))
        flags["teacher"] = memory.network(network)
        device = device or _device(teacher)
    elif entry := _reference(teacher, spec, task, classes):
        flags["teacher"] = entry
    manager = plugins.with_memory(memory.plugin())
    run_options = {"budget": None if budget is None else str(budget), "seed": seed, "batch_size": batch_size, "precision": precision}
    notes = list(memory.notes)
    if saved is not None:
        plan, saved = reopen(Path(str(out)), manager, saved)
    else:
        notes += pin_warnings(base)
        ref = None if weights is None else str(weights)
        laid = apply_flags(base, weights=ref, **flags, **run_options, device=device)
        plan = compose(apply_settings(laid, _lines(settings)), manager)
    listeners = [on_event] if on_event is not None else []
    kept = cache_folder() if cache is True else Path(cache) if cache else None
    temporary = tempfile.TemporaryDirectory(prefix="zsq-") if out is None else None
    folder = Path(temporary.name) / "run" if temporary is not None else Path(str(out))
    try:
        done = start(plan, folder, manager, listeners, saved, cache=kept, quiet=quiet, trust_code=trust_code, notes=notes)
    except BaseException as error:
        if temporary is not None:
            temporary.cleanup()
            if isinstance(error, Interrupted):
                error.hint = "without out= nothing of it is kept: name a folder, and resume=True goes on from there"
        raise
    return Result(folder, done.student, done.teacher, temporary, manager)


def start(plan: Plan, folder: Path, manager: Manager, listeners: Sequence[Listener] = (), saved: Mapping[str, Any] | None = None, *,
          cache: Path | None = None, quiet: bool = False, trust_code: bool = False, notes: Sequence[str] = ()) -> Finished:  # fmt: skip
    """Run a plan as a person does: progress is shown, Ctrl-C ends it between two steps. Both doors go through here.

    Args:
        plan: What to run.
        folder: Where the run goes.
        manager: Where components are found.
        listeners: Hear of every event.
        saved: The checkpoint to go on from.
        cache: Where pools and the like are kept.
        quiet: Show no progress.
        trust_code: Allow checkpoints that carry code.
        notes: Said before anything else.
    """
    with ExitStack() as stack:
        shown = [] if quiet else [stack.enter_context(progress())]
        stop = stack.enter_context(stop_on_sigint())
        heard = (*shown, *listeners)
        return run(plan, folder, manager=manager, listeners=heard, trust_code=trust_code, cache=cache, stop=stop, saved=saved, notes=notes)


def _grids(bits: int | tuple[int, int | None]) -> tuple[str, dict[str, Any]]:
    weight, act = bits if isinstance(bits, tuple) else (bits, bits)
    same = weight == act and 2 <= weight <= 8
    widths = {} if same else {"weight_bits": weight, "act_bits": act}
    return (f"uniform{weight}" if same else "uniform"), {**widths, "scheme": "deploy"}


def _entry(memory: Memory, section: str, value: Any) -> Any:
    """An argument as it stands in a recipe."""
    if section == "synth":
        return memory.synth(value)
    if section == "eval":
        return memory.evaluators(value)
    role = Role(section)
    return memory.single(role, value) if section in ("quant", "tune") else memory.chain(role, value)


def _reference(teacher: Any, spec: Mapping[str, Any], task: str | None, classes: int | None) -> dict[str, Any]:
    """The section ``teacher`` of a reference, with what is known of its inputs."""
    if teacher is not None and not isinstance(teacher, str):
        what = f"the teacher is a {type(teacher).__name__}"
        raise OptionError(what, "zsq.quantize", "give a torch.nn.Module, or a reference such as 'py:net.py:build'")
    plain = {key: [value] if isinstance(value, (int, float)) else list(value) for key, value in spec.items()}
    more = {key: value for key, value in {"task": task, "classes": classes}.items() if value is not None}
    return {**({"ref": teacher} if teacher is not None else {}), **plain, **more}


def _recipe(recipe: Recipe | Mapping[str, Any] | Path | str | None, manager: Manager) -> Recipe:
    if recipe is None:
        return Recipe()
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return Recipe.from_dict(recipe, "recipe=")
    return read_recipe(find_recipe(str(recipe), manager))


def _lines(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Settings as ``--set`` takes them."""
    if isinstance(settings, Mapping):
        return [f"{key}={','.join(map(str, v)) if isinstance(v, (tuple, list)) else v}" for key, v in settings.items()]
    return list(settings)


def _device(module: nn.Module) -> str | None:
    """Where a network is, where that is not the CPU."""
    found = next(module.parameters(), None)
    return str(found.device) if found is not None and found.device.type != "cpu" else None
