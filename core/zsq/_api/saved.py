"""A finished run in a folder: load it, evaluate, export, verify, time and publish it. The command line calls this."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._api.stores import locate, store
from zsq._component import Role
from zsq._manager import Manager
from zsq._plugin import Found
from zsq._recipe import parse_entry
from zsq._run.lookup import plain_context, task_maker
from zsq.errors import FileError, ZsqError
from zsq.files import inside, write_atomic
from zsq.options import Options
from zsq.protocols import Timing, Verifying

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from zsq.protocols import Published
    from zsq.types import Context, Say, Student, Teacher

#: Percent of answers that must be the same for a file to be verified.
ENOUGH = 99.9
#: The result of `zsq verify`, beside the exported files.
VERIFIED = "verify.json"


def load(folder: Path | str, device: torch.device | str = "cpu", *, revision: str | None = None) -> nn.Module:
    """The student saved in ``folder``, in eval mode; its outputs equal those of the student that was saved, bit for bit.

    It takes inputs normalised as for the teacher (``inputs`` in ``config.json``), and needs no code of the teacher.

    Args:
        folder: A run folder, or a student in a store: ``"ORG/NAME"`` on the Hub (see :func:`zsq._api.stores.locate`).
        device: Where its tensors go.
        revision: Branch, tag or commit, of a student in a store.

    Raises:
        FileError: If a file is missing, damaged, of another format, or the two files do not belong together.
    """
    from zsq.format import load

    return load(locate(folder, revision), device)


class SavedRun:
    """A finished run in a folder. Files are read when they are needed.

    Args:
        folder: The run folder.
        manager: The plugins; discovered if None.
        say: Shows messages; default: on standard error.
    """

    def __init__(self, folder: Path | str, manager: Manager | None = None, say: Say | None = None) -> None:
        self.folder = Path(folder)
        self._given, self._say = manager, say or (lambda text: print(text, file=sys.stderr))

    @classmethod
    def open(cls, place: Path | str, *, revision: str | None = None, exported: bool = False, manager: Manager | None = None) -> SavedRun:
        """The run in a folder, or of a student in a store (``hub:ORG/NAME``), which is fetched first.

        Raises:
            FileError: If there is none.
        """
        return cls(locate(place, revision, exported=exported, manager=manager), manager)

    @cached_property
    def manager(self) -> Manager:
        return self._given or Manager.discover()

    @cached_property
    def report(self) -> Mapping[str, Any]:
        """``report.json``.

        Raises:
            FileError: If the folder is not a run, or the report is damaged.
        """
        file = self.folder / "report.json"
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileError(f"'{self.folder}' is not a run", "", "use a folder that `zsq run` wrote") from None
        except (OSError, ValueError) as error:
            raise FileError(f"the report cannot be read: {error}", str(file)) from None
        if not isinstance(report, dict) or not {"teacher", "student"} <= report.keys():
            raise FileError("the report is not the report of a run", str(file))
        return report

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """``config.json``, as ``zsq.load`` checked it."""
        _ = self.module  # the loader reports damage
        file = self.folder / "config.json"
        config: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not config.get("inputs"):
            raise ZsqError("the saved student has no input spec", str(file), "run it again with this zsq")
        return config

    @property
    def proof(self) -> Mapping[str, Any] | None:
        """The result of :meth:`verify`; None if there is none, or if an exported file has changed since."""
        try:
            found = json.loads((self.folder / VERIFIED).read_text(encoding="utf-8"))
            files = dict(found["files"])
            same = bool(files) and all(self._digest(name) == digest for name, digest in files.items())
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ZsqError):
            return None
        return found if same else None

    def __rich__(self) -> Any:
        """The closing table of ``zsq run``, for terminals."""
        from zsq._api.tables import report_table

        return report_table(self.report, self._kept)

    @property
    def _kept(self) -> Path | None:
        """The folder, if it outlives this object."""
        return self.folder

    @cached_property
    def module(self) -> nn.Module:
        """The student, loaded from the folder."""
        from zsq.format import load

        return load(self.folder)

    @cached_property
    def saved_student(self) -> Student:
        """The student with its points, as exporters take it."""
        from zsq.grids import ActPoint, WeightPoint
        from zsq.types import Student

        points = {path: m for path, m in self.module.named_modules() if isinstance(m, (ActPoint, WeightPoint))}
        return Student(self.module, points, {}, self.report["student"].get("layers", ()), str(self.config.get("scheme", "")))

    @cached_property
    def context(self) -> Context:
        """The context of components for a saved student: its input spec, task and classes. Its ``teacher`` holds the student's module."""
        import torch

        from zsq._compose import DEFAULT_TASK, choose_task
        from zsq.types import InputSpec, Teacher

        spec = self.config["inputs"]
        inputs = InputSpec(tuple(spec["shape"]), tuple(spec["mean"]), tuple(spec["std"]))
        ctx = plain_context(self.manager, self.folder, self._say)
        make = task_maker(choose_task(self.report["teacher"].get("task", DEFAULT_TASK), self.manager))
        with torch.no_grad():
            classes = make(2).logits(self.module(torch.zeros((1, *inputs.shape)))).shape[1]
        return ctx.with_(teacher=Teacher(self.module, inputs, make(classes), ref=self.report["teacher"]["ref"]))

    @property
    def below_8_bits(self) -> bool:
        """Whether some grids have fewer bits than the integer types of runtimes."""
        return min((point.bits for point in self.saved_student.points.values()), default=8) < 8

    def load_teacher(self) -> Teacher:
        """The teacher of the run, loaded again from its reference.

        Raises:
            ZsqError: If that is impossible: a network in memory is gone.
        """
        from zsq._compose import task_of

        values = dict(self.report.get("recipe", {}).get("teacher") or {})
        source, _, ref = str(values.pop("ref", "")).partition(":")
        component = self.manager.get(Role.TEACHER, source).component
        options = component.options.parse(values, f"teacher {source}:{ref}")
        ctx = self.context.with_(task=task_maker(task_of(component, options, ref, self.manager)))
        teacher: Teacher = component.implementation()(options, ctx).load(ref)
        teacher.module.eval().requires_grad_(False)
        return teacher

    # -- files -----------------------------------------------------------------------------------------------------

    def export(self, to: str = "onnx", **options: Any) -> list[Path]:
        """Write the student in another format into the run folder; returns the files.

        Args:
            to: An exporter.
            options: Its options.

        Raises:
            ZsqError: If the exporter is not installed, or cannot translate a layer.
        """
        exporter = self.context.find(Role.EXPORT, to, options)
        written: list[Path] = exporter.export(self.saved_student, self.config.get("manifest", {}), self.folder)
        return written

    def verify(self, to: str = "onnx", images: int | Tensor = 256, npz: Path | None = None) -> dict[str, Any]:
        """Compare the exported file with the student, image by image; needs no data. The result is also written to ``verify.json``.

        Args:
            to: The exporter that made the file.
            images: The number of images: the run's own, then random patterns; or images (N, C, H, W) as the network takes them.
            npz: Read the images from this file, ``images`` (N, H, W, C) uint8.

        Returns:
            Plain values. ``verified`` is True if at least 99.9 % of the answers are the same, and no convolution of a student of scheme
            ``deploy`` runs in float.
        """
        from zsq.images import read_npz

        exporter = self._exporter(to, Verifying, "verify")
        if not isinstance(images, int):
            shown, source = images.float(), "given in memory"
        elif npz is not None:
            shown, source = read_npz(npz, self.context.teacher.inputs, images), npz.name
        else:
            shown, source = self.images(images)
        result: dict[str, Any] = exporter.verify(self.module, shown, self.folder)
        scheme = self.saved_student.scheme
        more = {
            "files": {name: self._digest(name) for name in result["files"]},
            "scheme": scheme,
            "source": source,
            "unit": self.context.teacher.task.unit,
            "below_8_bits": self.below_8_bits,
            "verified": result["argmax_agreement"] >= ENOUGH and (not result["floating"] or scheme != "deploy"),
        }
        write_atomic(self.folder / VERIFIED, json.dumps(result | more, indent=1) + "\n")
        return result | more

    def bench(self, to: str = "onnx", threads: int = 1, batch: int = 32, teacher: Teacher | None = None) -> dict[str, Any]:
        """Time teacher and student in the same runtime; returns plain values. ``speedup`` is None if the student runs in float.

        Args:
            to: The exporter that made the file.
            threads: Threads of the runtime.
            batch: Images per batch, for throughput.
            teacher: Default: the run's own, loaded again.
        """
        exporter = self._exporter(to, Timing, "bench")
        result: dict[str, Any] = exporter.bench(teacher or self.load_teacher(), self.folder, threads, batch)
        return {**result, "exported": to, "scheme": self.saved_student.scheme, "below_8_bits": self.below_8_bits}

    def push(self, place: str, *, private: bool | None = None, dry_run: Path | None = None, base_model: str | None = None,
             license: str | None = None, dataset: str | None = None, verify: bool = True) -> Published:  # fmt: skip
        """Publish the run in a store, with a model card that shows metrics, verification, recipe and limits.

        Args:
            place: ``STORE:REST``; ``ORG/NAME`` means the Hub.
            private: Who may see it; None leaves that to the store.
            dry_run: Write the files to this new folder instead, without network.
            base_model: The teacher in the store; default: from its reference.
            license: Default: that of ``base_model``.
            dataset: The data that accuracy was measured on; default: the name of its file.
            verify: Refuse to publish exported files that :meth:`verify` refuses.

        Raises:
            ZsqError: If an exported file does not compute what was evaluated, or the store refuses.
        """
        if verify and (self.folder / "model.safetensors").is_file():
            for name in self.unproven():
                if not self.verify(name)["verified"]:
                    hint = f"see `zsq verify --to {name}`, or push with --no-verify"
                    raise ZsqError(f"the file of exporter '{name}' does not verify, so nothing was published", str(self.folder), hint)
        found, rest = store(place, self._given)
        return found.push(
            self.folder, rest, private=private, dry_run=dry_run, base_model=base_model, license=license,
            dataset=dataset or self.measured_on(), proof=self.proof,
        )  # fmt: skip

    def unproven(self) -> list[str]:
        """The exporters that have files in the folder which are not verified."""
        proof = self.proof or {}
        done = proof.get("exported") if proof.get("verified") else None
        able = [f.component.name for f in self.manager.components(Role.EXPORT) if f.component.has(Verifying)]
        return [name for name in able if name != done and self.context.find(Role.EXPORT, name).exported(self.folder)]

    def measured_on(self) -> str | None:
        """The name of the images that accuracy was measured on, from the name of their file; None if it is not known."""
        refs = [str(entry.get("ref") or "") for entry in self.report.get("recipe", {}).get("eval") or ()]
        if not any(refs) and self.report.get("images_evaluated"):
            try:
                refs = [self.teacher_evaluation().partition(":")[2]]
            except ZsqError:
                return None
        named = [Path(ref).stem for ref in refs if ref]
        return named[0] if len(named) == 1 else None

    def save(self, folder: Path | str) -> SavedRun:
        """Copy the run to another folder, whole or not at all; a run in that folder is replaced.

        Raises:
            FileError: If ``folder`` exists and is not a run, or the disk refuses.
        """
        from zsq._run.folder import RunFolder

        target = Path(folder)
        with RunFolder(target) as out:
            assert out.scratch is not None
            shutil.copytree(self.folder, out.scratch, dirs_exist_ok=True)
            out.publish()
        return SavedRun(target, self._given, self._say)

    # -- metrics ---------------------------------------------------------------------------------------------------

    def evaluate(self, evaluators: Iterable[str] = ()) -> tuple[dict[str, float], Mapping[str, float]]:
        """Metrics of the student on real images, and those of the teacher if the run measured them in the same way.

        Args:
            evaluators: ``NAME`` or ``NAME:REF``; default: those of the run, else the one of its teacher.
        """
        asked = [self._evaluator(parse_entry("eval", text, "--eval")) for text in evaluators]
        ran = [self._evaluator(entry) for entry in self.report.get("recipe", {}).get("eval") or ()]
        if not (chosen := asked or [one for one in ran if not one[0].component.compares]):
            ran = chosen = [self._evaluator(parse_entry("eval", self.teacher_evaluation()))]
        metrics: dict[str, float] = {}
        for found, options in chosen:
            if found.component.compares:
                what = f"'{found.component.name}' compares with the teacher, which a run folder does not have"
                raise ZsqError(what, "--eval", "use e.g. --eval npz:PATH")
            metrics |= found.component.implementation()(options, self.context).evaluate(self.module, self.context)
        same = all(one in ran for one in chosen) and int(metrics.get("images", 0)) == self.report.get("images_evaluated")
        return metrics, self.report["teacher"]["metrics"] if same else {}

    def teacher_evaluation(self) -> str:
        """The evaluation on real images that comes with the run's teacher, as typed after ``--eval``.

        Raises:
            ZsqError: If there is none.
        """
        if not (evaluation := self.load_teacher().evaluation):
            raise ZsqError("the run names no real images", "report.json", "name them: --eval npz:PATH or --eval folder:PATH")
        return evaluation

    def images(self, count: int) -> tuple[Tensor, str]:
        """Images without data, and their source: those that the run made and kept in ``images.npz``, then random patterns."""
        import torch

        from zsq.images import patterns, read_npz

        spec, file = self.context.teacher.inputs, self.folder / "images.npz"
        if not file.is_file():
            return patterns(spec, count), "synthetic patterns"
        own = read_npz(file, spec, count)
        if (rest := count - len(own)) <= 0:
            return own, "of the run's own"
        return torch.cat([own, patterns(spec, rest)]), f"{len(own)} of the run's own, {rest} synthetic patterns"

    def _evaluator(self, entry: Mapping[str, Any]) -> tuple[Found, Options]:
        """The component and options of one entry of the section ``eval``."""
        found = self.manager.get(Role.EVAL, entry["name"])
        values = {**found.values, **{key: value for key, value in entry.items() if key != "name"}}
        return found, found.component.options.parse(values, f"evaluator '{entry['name']}'")

    def _exporter(self, to: str, protocol: type, verb: str) -> Any:
        """The exporter ``to``, which must satisfy ``protocol``: :class:`~zsq.protocols.Verifying`, :class:`~zsq.protocols.Timing`."""
        found = self.manager.get(Role.EXPORT, to)
        if not found.component.has(protocol):
            raise ZsqError(f"exporter '{to}' cannot {verb} its files", found.provider, "choose another exporter, e.g. onnx")
        return self.context.find(Role.EXPORT, to)

    def _digest(self, name: str) -> str:
        return hashlib.sha256(inside(self.folder, name).read_bytes()).hexdigest()
