"""Finding run folders and reading what ``zsq compare`` needs of their reports. A report may be anybody's: nothing in it is trusted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zsq.errors import ZsqError

_REPORT = "report.json"
#: How many folders deep runs are looked for.
_DEPTH = 4
#: No figure of a run is as large; neither nan nor infinity is smaller.
_HUGE = 1e15
#: Values of the section ``run`` that do not change what comes out.
_NO_MATTER = ("seed", "checkpoint", "calibrated", "device")
#: Sections of a recipe that make a method.
_METHOD = ("synth", "quant", "calib", "loss", "tune")


@dataclass(frozen=True)
class Skipped:
    """What was left out, and why."""

    place: str
    why: str


@dataclass(frozen=True)
class Run:
    """One finished run: its folder, and its report, which :func:`read` has checked."""

    folder: Path
    report: Mapping[str, Any]

    @property
    def teacher(self) -> str:
        """Its reference."""
        return _text(self.report["teacher"]["ref"])

    @property
    def fingerprint(self) -> str:
        return _text(self.report["teacher"]["fingerprint"])

    @property
    def scheme(self) -> str:
        return _text(self.report["student"]["scheme"])

    @property
    def images(self) -> int:
        """Real images behind the metrics."""
        return int(self.report["images_evaluated"])

    @property
    def seed(self) -> int:
        return int(self.report["seed"])

    @property
    def seconds(self) -> float:
        return float(self.report["wall_s"])

    @property
    def size(self) -> int:
        """Bytes of the student on disk; 0 when it was not saved."""
        return int(self.report["student"].get("size_bytes") or 0)

    @property
    def teacher_size(self) -> int:
        """Bytes; 0 where the report does not tell."""
        return int(self.report["teacher"].get("size_bytes") or 0)

    @property
    def stopped(self) -> bool:
        """Whether the budget or the user ended it early."""
        return bool(self.report.get("stopped"))

    @property
    def metrics(self) -> dict[str, float]:
        """Of the student."""
        return {_text(name): value for name, value in self.report["student"]["metrics"].items()}

    @property
    def own(self) -> dict[str, float]:
        """The teacher's, under the same evaluators."""
        return {_text(name): value for name, value in self.report["teacher"]["metrics"].items()}

    @property
    def bits(self) -> str:
        """``W4A4``; mixed bits as ``W2-8A8``, activations in float as A32."""
        student = self.report["student"]
        return _text(f"W{student.get('weight_bits') or 32}A{student.get('act_bits') or 32}")

    @cached_property
    def method(self) -> str:
        """The names of its components, without the bits, which stand beside it."""
        names = []
        for section in _METHOD:
            entries = [self._name(section, entry) for entry in self._entries(section)]
            names.append(" + ".join(name for name in entries if name != "none"))
        return " / ".join(filter(None, names)) or "none"

    @cached_property
    def settings(self) -> dict[str, str]:
        """Every setting of the method as the recipe has it, by its key for ``--set``; neither seed nor what changes no result."""
        rows = {}
        for section in _METHOD:
            for entry in self._entries(section):
                key = f"{section}.{entry.get('name')}" if isinstance(self.recipe.get(section), list) else section
                rows.update({f"{key}.{name}": value for name, value in entry.items() if name != "name"})
        rows.update({f"run.{key}": value for key, value in _mapping(self.recipe.get("run")).items() if key not in _NO_MATTER})
        return {_text(key): _text(value if isinstance(value, str) else json.dumps(value)) for key, value in rows.items()}

    @cached_property
    def evaluation(self) -> str:
        """The real images, as far as the report names them: evaluators with the names of their files and their settings."""
        chosen = [entry for entry in self._entries("eval") if entry.get("ref")]
        texts = []
        for entry in chosen:
            more = [f"{key}={value}" for key, value in entry.items() if key not in ("name", "ref")]
            texts.append(" ".join([f"{entry.get('name')}:{Path(str(entry['ref'])).name}", *more]))
        return _text(", ".join(texts)) or "the teacher's own images"

    @property
    def recipe(self) -> Mapping[str, Any]:
        recipe: Mapping[str, Any] = self.report["recipe"]
        return recipe

    @property
    def machine(self) -> str:
        """What its time was measured on."""
        hardware = _mapping(self.report.get("hardware"))
        return _text(f"{hardware.get('gpu') or hardware.get('cpu')}, {hardware.get('threads')} threads")

    @property
    def version(self) -> str:
        return _text(_mapping(self.report.get("versions")).get("zsq", "unknown"))

    def _entries(self, section: str) -> list[Mapping[str, Any]]:
        value = self.recipe.get(section) or ()
        return [_mapping(entry) for entry in ([value] if isinstance(value, Mapping) else value if isinstance(value, list) else ())]

    def _name(self, section: str, entry: Mapping[str, Any]) -> str:
        name = _text(entry.get("name", ""))
        bits = self.report["student"].get("weight_bits")
        if section == "quant" and bits is not None and name.endswith(str(bits)):
            name = name.removesuffix(str(bits)) or name
        return f"{entry['weight']}*{name}" if section == "loss" and "weight" in entry else name


def find(places: Sequence[str]) -> tuple[list[Run], list[Skipped]]:
    """Every run in ``places``, each once; and what was no run, or could not be read.

    Args:
        places: Run folders, folders that contain such, reports, or students on the Hub.
    """
    runs: dict[Path, Run] = {}
    skipped = []
    for place in places:
        try:
            folders = list(_folders(place))
        except (ZsqError, OSError) as error:
            skipped.append(Skipped(str(place), error.what if isinstance(error, ZsqError) else error.strerror or str(error)))
            continue
        for folder in folders:
            try:
                runs.setdefault(folder.resolve(), read(folder))
            except ValueError as error:
                skipped.append(Skipped(str(folder), str(error)))
    return list(runs.values()), skipped


def read(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        ValueError: If there is none that can be compared; the text says why.
    """
    try:
        report = json.loads((folder / _REPORT).read_bytes())
    except OSError as error:
        raise ValueError(f"its {_REPORT} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"its {_REPORT} is damaged: it is not JSON") from None
    if not isinstance(report, dict) or report.get("schema") != 1:
        known = isinstance(report, dict) and isinstance(report.get("schema"), int) and "student" in report
        raise ValueError(f"its {_REPORT} is of schema {report['schema']}, this zsq reads 1" if known else f"its {_REPORT} is none of zsq")
    teacher, student = _mapping(report.get("teacher")), _mapping(report.get("student"))
    if report.get("last_good"):
        raise ValueError(f"it is what was left of a run that stopped: {_text(_mapping(report['last_good']).get('why', ''))}")
    right = (
        all(isinstance(teacher.get(key), str) for key in ("ref", "fingerprint"))
        and isinstance(student.get("scheme"), str)
        and all(_numbers(side.get("metrics")) for side in (teacher, student))
        and _number(report.get("wall_s"))
        and all(isinstance(report.get(key), int) for key in ("seed", "images_evaluated"))
        and isinstance(report.get("recipe"), dict)
        and all(_number(side.get("size_bytes") or 0) for side in (teacher, student))
    )
    if not right:
        raise ValueError(f"its {_REPORT} is damaged: it lacks what every run says")
    return Run(folder, report)


def _folders(place: str) -> Iterator[Path]:
    """The run folders that a place stands for.

    Raises:
        ZsqError, OSError: If there is none.
    """
    from zsq._api.stores import in_store, locate

    path = Path(place)
    if in_store(str(place)) and not path.exists():
        yield locate(str(place))
    elif path.name == _REPORT and path.is_file():
        yield path.parent
    elif (path / _REPORT).is_file():
        yield path
    elif not path.exists():
        raise ZsqError("there is no such folder")
    elif not path.is_dir():
        raise ZsqError("it is no folder")
    elif not (found := sorted(_below(path, _DEPTH))):
        raise ZsqError(f"it holds no run: no {_REPORT} in it, nor in the folders below")
    else:
        yield from found


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """Run folders at most ``depth`` below; hidden folders, and links to folders, are not entered."""
    with os.scandir(folder) as entries:
        below = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")]
    for path in below:
        if (path / _REPORT).is_file():
            yield path
        elif depth > 1 and os.access(path, os.R_OK | os.X_OK):
            yield from _below(path, depth - 1)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _HUGE


def _numbers(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_number, value.values()))


def _text(value: Any) -> str:
    """One line without control characters."""
    return "".join(c if c.isprintable() else " " for c in str(value))[:300]
