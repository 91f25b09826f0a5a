"""Recipes: read and write them as YAML, apply flags and ``--set``, compare their pins with the installed versions."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from zsq._version import __version__
from zsq.errors import FileError, OptionError, nearest
from zsq.options import Options, opt

FORMAT = 1
#: Sections with one component, and sections with a chain of components.
SINGLE, CHAINS = ("synth", "quant", "tune"), ("calib", "loss", "eval", "export", "log")
#: Sections in the order of a recipe file.
SECTIONS = ("teacher", "synth", "quant", "calib", "loss", "tune", "eval", "export", "log", "run")

Entry = dict[str, Any]
_WEIGHTED = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\*\s*(\S+)\s*")
_BUDGET = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """The section ``run``: options of the run itself."""

    seed: int = opt(0, "Seed of every random generator.", ge=0)
    batch_size: int = opt(64, "Images per step.", ge=1)
    precision: Literal["auto", "fp32", "bf16"] = opt("auto", "Arithmetic of training; auto uses bf16 if it is fast and costs no accuracy.")
    budget: str | None = opt(None, "Time for the whole run, e.g. 300, 90s, 5m, 1h30m; without it every component runs its steps.")
    checkpoint: float = opt(
        60.0,
        "Seconds between two checkpoints, more if writing one takes over 1 % of the time; 0 writes one at every step.",
        ge=0,
    )
    calibrated: bool = opt(False, "Also evaluate the student after calibration, before tuning.")
    device: str = opt("cpu", "Where to run: cpu, cuda, cuda:1, mps.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None:
            parse_budget(self.budget)
        if not _DEVICE.fullmatch(self.device):
            raise OptionError(f"option 'device' is '{self.device}', but must be cpu, cuda, cuda:N or mps")

    @property
    def budget_seconds(self) -> float | None:
        """The budget in seconds, or None."""
        return None if self.budget is None else parse_budget(self.budget)


def parse_budget(text: str) -> float:
    """Seconds in ``300``, ``90s``, ``5m`` or ``1h30m``."""
    match = _BUDGET.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = hours * 3600 + minutes * 60 + seconds
    if total <= 0:
        raise OptionError(f"budget '{text}' is not a time", "", "write 300 (seconds), 5m or 1h30m")
    return total


@dataclass(frozen=True)
class Recipe:
    """The components and options of a run. None means open: presets, suggestions and defaults fill it.

    ``teacher`` has ``ref`` and options of its source; ``synth``, ``quant`` and ``tune`` have a ``name`` and options; ``calib``, ``loss``,
    ``eval``, ``export`` and ``log`` are lists of these; ``run`` has the values of :class:`RunOptions`. ``settings`` are ``--set`` values
    for chains, ``(section, path, value)``, which are applied once the chain is known; in a file they are under ``set``.
    """

    teacher: Entry | None = None
    synth: Entry | None = None
    quant: Entry | None = None
    calib: list[Entry] | None = None
    loss: list[Entry] | None = None
    tune: Entry | None = None
    eval: list[Entry] | None = None
    export: list[Entry] | None = None
    log: list[Entry] | None = None
    run: Entry = field(default_factory=dict)
    pins: dict[str, Any] = field(default_factory=dict)
    settings: tuple[tuple[str, str, Any], ...] = ()

    @classmethod
    def from_dict(cls, values: Any, where: str = "recipe") -> Recipe:
        """A recipe from plain values; short forms are allowed (``quant: uniform4``, ``loss: [kd, 0.5*ce]``).

        Raises:
            FileError: If it is not a mapping, or has another format.
            OptionError: If a section is unknown or has the wrong type.
        """
        if not isinstance(values, Mapping):
            raise FileError(f"a recipe is a mapping of sections, not {_kind(values)}", where, f"sections: {', '.join(SECTIONS)}")
        if (version := values.get("zsq", FORMAT)) != FORMAT:
            raise FileError(f"the recipe is of format {version!r}; this zsq reads format {FORMAT}", where, "update zsq, or write `zsq: 1`")
        parsed: dict[str, Any] = {}
        for key, value in values.items():
            if key not in (*SECTIONS, "pins", "set", "zsq"):
                raise OptionError(f"unknown section '{key}'", where, nearest(str(key), SECTIONS) or f"sections: {', '.join(SECTIONS)}")
            if value is None or key in ("zsq", "set"):
                continue
            if key in CHAINS:
                items = [value] if isinstance(value, (str, Mapping)) else value
                if not isinstance(items, list):
                    raise OptionError(f"section '{key}' is a list of names or mappings, not {_kind(value)}", where)
                parsed[key] = [parse_entry(key, item, where) for item in items]
            else:
                parsed[key] = parse_entry(key, value, where)
        lines = values.get("set") or []
        if not (isinstance(lines, list) and all(isinstance(line, str) for line in lines)):
            raise OptionError("section 'set' is a list of SECTION.OPTION=VALUE", where, "e.g. set: [calib.images=128]")
        return apply_settings(cls(**parsed), lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the order of a recipe file, without open sections; :meth:`from_dict` reads them back."""
        named = ((key, getattr(self, key)) for key in (*SECTIONS, "pins"))
        filled = {key: value for key, value in named if value is not None and not (key in ("run", "pins") and not value)}
        lines = [f"{section}.{path}={value}" for section, path, value in self.settings]
        return {
            "zsq": FORMAT,
            **{key: [dict(e) for e in value] if isinstance(value, list) else dict(value) for key, value in filled.items()},
            **({"set": lines} if lines else {}),
        }


def parse_entry(section: str, value: Any, where: str = "") -> Entry:
    """One component as typed (``kd``, ``0.5*ce``, ``npz:PATH``) or as a mapping, as ``{"name": ..., option: value}``."""
    if isinstance(value, str) and section not in ("run", "pins"):
        if section == "teacher":
            return {"ref": value}
        entry: Entry = {"name": value}
        if section == "loss" and (match := _WEIGHTED.fullmatch(value)):
            entry = {"name": match[2], "weight": float(match[1])}
        elif section in ("eval", "log") and ":" in value:
            name, _, ref = value.partition(":")
            entry = {"name": name, "ref": ref}
        return entry
    if not isinstance(value, Mapping):
        raise OptionError(f"section '{section}' holds {_kind(value)}, but must be a name or a mapping", where)
    if bad := next((key for key in value if not isinstance(key, str)), None):
        raise OptionError(f"section '{section}' has the key {bad!r}, but keys are words", where)
    key = "ref" if section == "teacher" else "name"
    if section in CHAINS and key not in value:
        raise OptionError(
            f"an entry of section '{section}' has no name", where, f"write {{name: NAME, {', '.join(value) or 'OPTION'}: ...}}"
        )
    if section not in ("run", "pins") and not isinstance(value.get(key, ""), str):
        raise OptionError(f"'{key}' in section '{section}' is {_kind(value[key])}, but must be text", where, "put it in quotes")
    return dict(value)


def read_recipe(path: Path | str) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        FileError: If it cannot be read, is not YAML, or has a tag that would build a Python object.
        OptionError: As :meth:`Recipe.from_dict`.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"cannot read the recipe: {error.strerror or error}", str(path)) from None
    except yaml.constructor.ConstructorError as error:
        raise FileError(
            f"refused: {_line(error.problem)}", _place(path, error), "a recipe has only text, numbers, lists and mappings"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise FileError(f"not a YAML file: {_line(error.problem)}", _place(path, error)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FileError(f"not a YAML file: {_line(error)}", str(path)) from None
    return Recipe.from_dict({} if values is None else values, str(path))


def dump_recipe(recipe: Recipe, versions: Mapping[str, Any] | None = None) -> str:
    """The recipe as YAML, keys in a fixed order, with ``versions`` as its pins."""
    import yaml

    values = recipe.to_dict() | ({"pins": dict(versions)} if versions else {})
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    return text


def apply_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Apply ``--set SECTION.OPTION=VALUE`` strings to a recipe, in order.

    Raises:
        OptionError: If a text has another form, or its section is unknown.
    """
    singles: dict[str, Entry] = {}
    chains = list(recipe.settings)
    for text in settings:
        path, equals, value = text.partition("=")
        section, dot, rest = path.strip().partition(".")
        if not equals:
            raise OptionError(f"'{text}' sets nothing", "--set", "write --set SECTION.OPTION=VALUE, e.g. --set tune.steps=100")
        if section not in SECTIONS:
            what = f"unknown section '{section}'" if dot else f"'{section}' names no section"
            raise OptionError(what, f"--set {text}", nearest(section, SECTIONS) or f"sections: {', '.join(SECTIONS)}")
        if not rest:
            raise OptionError(f"'{path.strip()}' names no option", "--set", f"write --set {section}.OPTION=VALUE")
        if section in CHAINS:
            chains.append((section, rest, value))
        else:
            singles.setdefault(section, dict(getattr(recipe, section) or {}))[rest] = value
    return replace(recipe, **singles, settings=tuple(chains))  # type: ignore[arg-type]


def installed(name: str) -> str | None:
    """The version of a distribution, of zsq or of python; None if it is not installed."""
    if name == "python":
        return platform.python_version()
    if name == "zsq":
        return __version__
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _kind(value: Any) -> str:
    words = {dict: "a mapping", list: "a list", str: "text", bool: str(value).lower(), type(None): "nothing"}
    return words.get(type(value), repr(value)[:40])


def _line(problem: Any) -> str:
    return " ".join(str(problem).split())[:160]


def _place(path: Path | str, error: Any) -> str:
    return f"{path}, line {error.problem_mark.line + 1}" if error.problem_mark else str(path)
