"""``zsq.quantize``: turns its arguments into a recipe and components, and runs them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from zsq._api.objects import Objects
from zsq._api.progress import progress
from zsq._api.recipes import apply_flags, find_recipe, pin_warnings
from zsq._api.result import Result
from zsq._builtin.in_memory import Network
from zsq._component import Role
from zsq._compose import compose
from zsq._manager import Manager
from zsq._recipe import SINGLE, Recipe, apply_settings, read_recipe
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

    A network that is passed as an object is copied first: its weights, buffers, modes, gradient flags, hooks and device are the same when
    this returns or raises. Forward hooks are part of what a network computes, so the copy runs them too.

    Every component is a name (``"zeroq"``), a name with options (``("zeroq", {"images": 256})``), an object that satisfies its role's
    protocol, or a class that is built as ``Class(options, ctx)``; see :mod:`zsq.protocols`. ``calib``, ``loss``, ``evaluate``, ``export``
    and ``log`` also take lists.

    Args:
        teacher: The network, or a reference as on the command line (``"py:net.py:build"``); None for the recipe's, else the built-in one.
        bits: Bit width of weights and activations, or a pair of both (None leaves activations in float), with scheme ``deploy``, which
            integer runtimes need. For another quantizer or scheme use ``quant``. Without ``bits``, ``quant`` and ``recipe``: 8.
        recipe: A recipe, plain values, a YAML file or ``PLUGIN/NAME``; other arguments replace its settings.
        input_shape: Channels, height, width of one image; default: from ``inputs``, else from a dict ``pretrained_cfg`` of the network.
        mean: Mean of the pixels in [0, 1] that inputs are normalised with, per channel or one number; default as for ``input_shape``.
        std: Standard deviation, in the same way.
        inputs: The three in one object.
        task: What the network's output means, one of the tasks in ``zsq plugins list``; default: one class per image.
        classes: The number of classes; default: from the network's output.
        weights: Weights file of a teacher that is named by a reference.
        synth: Makes the images. Or your own: a tensor (N, C, H, W) as the network takes it, or batches of such (a DataLoader).
        quant: Puts weights and activations on grids.
        calib: Sets ranges, biases, BatchNorm statistics.
        loss: What tuning minimises; also a function of a :class:`zsq.types.View` that returns a scalar.
        tune: Changes the student by gradient; ``"none"`` stops after calibration.
        evaluate: What is measured on student and teacher: ``"npz:PATH"``, a function of a network that returns a number (or names and
            numbers), or batches of (inputs, classes), which give top-1 accuracy.
        export: Files of the finished student in addition to zsq's own.
        log: Hears every event: ``"jsonl:PATH"``, or a function of an event.
        settings: Any option, as ``--set`` takes it: ``{"tune.steps": 100}``.
        budget: Time for the whole run: seconds, or ``"90s"``, ``"5m"``.
        seed: Seed of all random numbers.
        batch_size: Images per step.
        precision: Arithmetic of training: ``auto``, ``fp32`` or ``bf16``.
        device: Where to run; default: where the network is, else the CPU.
        out: Folder of the run. Without one, the files are in a temporary folder until :meth:`Result.save`.
        resume: Resume the run in ``out`` that was stopped or killed. Pass the network and other objects again; everything else comes from
            its last checkpoint. The bits are those of an uninterrupted run.
        cache: Keep images for later runs: in the user's cache folder, or in this one; False keeps nothing.
        quiet: Show no progress.
        trust_code: Allow weights files that contain code. The code runs on this machine.
        on_event: Called with every event, see :mod:`zsq.events`.

    Raises:
        ZsqError: With what is wrong, where, and the next step. Nothing half-written is left, and ``out`` is as it was before.
    """
    objects, plugins = Objects(), Manager.discover()
    saved: dict[str, Any] | None = None
    if resume:
        if out is None:
            raise OptionError("resume= needs the folder of the run", "zsq.quantize", "pass out=, as in the call that was stopped")
        saved = read(Path(out))
        base = recipe_of(saved, Path(out))
    else:
        base = _recipe(recipe, plugins)
    if bits is not None and quant is not None:
        hint = "pass quant=('uniform', {...}) alone, or bits= alone"
        raise OptionError("bits= and quant= both say how to quantize", "zsq.quantize", hint)
    if bits is not None or (quant is None and recipe is None and not resume):
        quant = _uniform(8 if bits is None else bits)
    parts = {"synth": synth, "quant": quant, "calib": calib, "loss": loss, "tune": tune, "eval": evaluate, "export": export, "log": log}
    flags = {section: _entry(objects, section, value) for section, value in parts.items() if value is not None}
    spec: dict[str, Any] = {} if inputs is None else {"shape": inputs.shape, "mean": inputs.mean, "std": inputs.std}
    spec |= {key: value for key, value in {"shape": input_shape, "mean": mean, "std": std}.items() if value is not None}
    if isinstance(teacher, nn.Module):
        known = base.teacher or {}
        network = Network(teacher, {**known, **spec}, task or known.get("task"), classes or known.get("classes"))
        flags["teacher"] = objects.network(network)
        device = device or _device(teacher)
    elif entry := _reference(teacher, spec, task, classes):
        flags["teacher"] = entry
    manager, notes = plugins.with_memory(objects.plugin()), objects.notes
    if saved is not None:
        plan, saved = reopen(Path(str(out)), manager, saved)
    else:
        notes = [*notes, *pin_warnings(base)]
        flags |= {"budget": None if budget is None else str(budget), "seed": seed, "batch_size": batch_size, "precision": precision}
        recipe_now = apply_flags(base, weights=None if weights is None else str(weights), device=device, **flags)
        plan = compose(apply_settings(recipe_now, _lines(settings)), manager)
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
                error.hint = "without out= nothing of it is kept: name a folder, and resume=True can resume it"
        raise
    return Result(folder, done.student, done.teacher, temporary, manager)


def start(plan: Plan, folder: Path, manager: Manager, listeners: Sequence[Listener] = (), saved: Mapping[str, Any] | None = None, *,
          cache: Path | None = None, quiet: bool = False, trust_code: bool = False, notes: Sequence[str] = ()) -> Finished:  # fmt: skip
    """Run a plan with progress, and let Ctrl-C end it between two steps. ``zsq.quantize`` and ``zsq run`` both call this.

    Args:
        plan: What to run.
        folder: Where the run goes.
        manager: The plugins.
        listeners: Called with every event.
        saved: The checkpoint to resume from.
        cache: Where pools are kept.
        quiet: Show no progress.
        trust_code: Allow weights files that contain code.
        notes: Messages to show at the beginning.
    """
    with ExitStack() as stack:
        shown = [] if quiet else [stack.enter_context(progress())]
        stop = stack.enter_context(stop_on_sigint())
        heard = (*shown, *listeners)
        return run(plan, folder, manager=manager, listeners=heard, trust_code=trust_code, cache=cache, stop=stop, saved=saved, notes=notes)


def _uniform(bits: int | tuple[int, int | None]) -> tuple[str, dict[str, Any]]:
    """The quantizer that ``bits`` means."""
    weight, act = bits if isinstance(bits, tuple) else (bits, bits)
    if weight == act and 2 <= weight <= 8:
        return f"uniform{weight}", {"scheme": "deploy"}
    return "uniform", {"weight_bits": weight, "act_bits": act, "scheme": "deploy"}


def _entry(objects: Objects, section: str, value: Any) -> Any:
    """An argument as a recipe entry."""
    if section == "synth":
        return objects.synth(value)
    if section == "eval":
        return objects.evaluators(value)
    return objects.single(Role(section), value) if section in SINGLE else objects.chain(Role(section), value)


def _reference(teacher: Any, spec: Mapping[str, Any], task: str | None, classes: int | None) -> dict[str, Any]:
    """The section ``teacher`` of a reference, with what is known of its inputs."""
    if teacher is not None and not isinstance(teacher, str):
        hint = "pass a torch.nn.Module, or a reference such as 'py:net.py:build'"
        raise OptionError(f"the teacher is a {type(teacher).__name__}", "zsq.quantize", hint)
    plain = {key: [value] if isinstance(value, (int, float)) else list(value) for key, value in spec.items()}
    more = {"ref": teacher, **plain, "task": task, "classes": classes}
    return {key: value for key, value in more.items() if value is not None}


def _recipe(recipe: Recipe | Mapping[str, Any] | Path | str | None, manager: Manager) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if recipe is None or isinstance(recipe, Mapping):
        return Recipe.from_dict(recipe or {}, "recipe=")
    return read_recipe(find_recipe(str(recipe), manager))


def _lines(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Settings as ``--set`` takes them."""
    if isinstance(settings, Mapping):
        return [f"{key}={','.join(map(str, v)) if isinstance(v, (tuple, list)) else v}" for key, v in settings.items()]
    return list(settings)


def _device(module: nn.Module) -> str | None:
    """Where a network is, unless that is the CPU."""
    found = next(module.parameters(), None)
    return str(found.device) if found is not None and found.device.type != "cpu" else None
