"""A run folder, and all that can be done with it: loaded, evaluated, exported, verified, timed, published. The command line calls this."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsq._component import Role
from zsq._manager import Found, Manager
from zsq._recipe import parse_entry
from zsq._run.finding import plain_context
from zsq._run.places import locate, store
from zsq._run.proof import keep, proven
from zsq.errors import FileError, ZsqError
from zsq.options import Options
from zsq.protocols import Timing, Verifying

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from zsq.types import Context, InputSpec, Published, Say, Student, Teacher

#: Percent of answers that have to be the same.
ENOUGH = 99.9


def load(folder: Path | str, device: torch.device | str = "cpu", *, revision: str | None = None) -> nn.Module:
    """The student saved in ``folder``, in eval mode; its outputs equal those of the student that was saved, bit for bit.

    It takes inputs normalised as the teacher's (``inputs`` in ``config.json``), and needs no code of the teacher.

    Args:
        folder: A run folder, or a student in a store: ``"ORG/NAME"`` on the Hub (see :func:`zsq._run.places.locate`).
        device: Where its tensors shall be.
        revision: Branch, tag or commit, of a student in a store.

    Raises:
        FileError: When a file is missing, damaged, of another format, or the two do not belong together.
    """
    from zsq.format import load

    return load(locate(folder, revision), device)


class SavedRun:
    """A finished run in a folder. What it needs is read when it is asked for.

    Args:
        folder: Of the run.
        manager: Where components are found; discovered anew when None.
        say: Where messages go; by default standard error.
    """

    def __init__(self, folder: Path | str, manager: Manager | None = None, say: Say | None = None) -> None:
        self.folder = Path(folder)
        self._given, self._say = manager, say or (lambda text: print(text, file=sys.stderr))

    @classmethod
    def open(cls, place: Path | str, *, revision: str | None = None, exported: bool = False, manager: Manager | None = None) -> SavedRun:
        """The run in a folder, or of a student in a store (``hub:ORG/NAME``), fetched first.

        Raises:
            FileError: When there is none.
        """
        return cls(locate(place, revision, exported=exported, manager=manager), manager)

    @cached_property
    def manager(self) -> Manager:
        return self._given or Manager.discover()

    @cached_property
    def report(self) -> Mapping[str, Any]:
        """``report.json``.

        Raises:
            FileError: When the folder is not a run, or the report is damaged.
        """
        return read_report(self.folder)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """``config.json``, as ``zsq.load`` checked it."""
        _ = self.module  # what is damaged is said by the loader
        config: Mapping[str, Any] = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        if not config.get("inputs"):
            where = str(self.folder / "config.json")
            raise ZsqError("the saved student does not say what it takes", where, "run it again with this zsq")
        return config

    @property
    def proof(self) -> Mapping[str, Any] | None:
        """What :meth:`verify` found of the exported file as it lies there now; None where it was not verified since it was written."""
        return proven(self.folder)

    def __rich__(self) -> Any:
        """The closing table of ``zsq run``, for terminals."""
        from zsq._api.tables import report_table

        return report_table(self.report, self._kept)

    @property
    def _kept(self) -> Path | None:
        """The folder, where it outlives this object."""
        return self.folder

    @cached_property
    def module(self) -> nn.Module:
        """The student, loaded from the folder."""
        from zsq.format import load

        return load(self.folder)

    @cached_property
    def saved_student(self) -> Student:
        """The same with its points, as exporters take it."""
        from zsq.grids import ActPoint, WeightPoint
        from zsq.types import Student

        points = {path: m for path, m in self.module.named_modules() if isinstance(m, (ActPoint, WeightPoint))}
        return Student(self.module, points, {}, self.report["student"].get("layers", ()), str(self.config.get("scheme", "")))

    @cached_property
    def context(self) -> Context:
        """What components of a saved student get: its input spec, task and number of classes; in the teacher's place stands the student."""
        import torch

        from zsq._compose import DEFAULT_TASK, choose_task
        from zsq._run.tasks import maker
        from zsq.types import InputSpec, Teacher

        spec = self.config["inputs"]
        inputs = InputSpec(tuple(spec["shape"]), tuple(spec["mean"]), tuple(spec["std"]))
        ctx = plain_context(self.manager, self.folder, self._say)
        make = maker(choose_task(self.report["teacher"].get("task", DEFAULT_TASK), self.manager))
        with torch.no_grad():
            classes = make(2).logits(self.module(torch.zeros((1, *inputs.shape)))).shape[1]
        return ctx.with_(teacher=Teacher(self.module, inputs, make(classes), ref=self.report["teacher"]["ref"]))

    @property
    def below_8_bits(self) -> bool:
        """Whether some of its grids are coarser than the containers that runtimes have."""
        return min((point.bits for point in self.saved_student.points.values()), default=8) < 8

    def load_teacher(self) -> Teacher:
        """The teacher of the run, loaded again from where it came.

        Raises:
            ZsqError: When it cannot be had: a network in memory is gone.
        """
        from zsq._compose import task_of
        from zsq._run.tasks import maker

        values = dict(self.report.get("recipe", {}).get("teacher") or {})
        source, _, ref = str(values.pop("ref", "")).partition(":")
        component = self.manager.get(Role.TEACHER, source).component
        options = component.options.parse(values, f"teacher {source}:{ref}")
        ctx = self.context.with_(task=maker(task_of(component, options, ref, self.manager)))
        teacher: Teacher = component.implementation()(options, ctx).load(ref)
        teacher.module.eval().requires_grad_(False)
        return teacher

    # -- files -----------------------------------------------------------------------------------------------------

    def export(self, to: str = "onnx", **options: Any) -> list[Path]:
        """Write the student in another format, into the run's folder; the files.

        Args:
            to: An exporter.
            options: Its options.

        Raises:
            ZsqError: When the exporter is not installed, or cannot translate a layer.
        """
        exporter = self.context.find(Role.EXPORT, to, options)
        written: list[Path] = exporter.export(self.saved_student, self.config.get("manifest", {}), self.folder)
        return written

    def verify(self, to: str = "onnx", images: int | Tensor = 256, npz: Path | None = None) -> dict[str, Any]:
        """Compare the exported file with the evaluated student, image by image; needs no data. Also written to ``verify.json``.

        Args:
            to: The exporter that made the file.
            images: How many images to compare: the run's own, then synthetic patterns; or images (N, C, H, W) as the network takes them.
            npz: A file with ``images`` (N, H, W, C) uint8 to take them from.

        Returns:
            Plain values; ``verified`` is the outcome: at least 99.9 % of the answers are the same, and no convolution of a student for
            deployment calculates in float.
        """
        exporter = self.exporter(to, Verifying)
        spec = self.context.teacher.inputs
        if not isinstance(images, int):
            shown, source = images.float(), "given in memory"
        elif npz is not None:
            shown, source = _read_images(npz, spec, images), npz.name
        else:
            shown, source = self.images(images)
        result: dict[str, Any] = exporter.verify(self.module, shown, self.folder)
        integer = not result["floating"] or self.saved_student.scheme != "deploy"
        told = {"scheme": self.saved_student.scheme, "source": source, "unit": self.context.teacher.task.unit}
        verified = result["argmax_agreement"] >= ENOUGH and integer
        return keep(self.folder, {**result, **told, "below_8_bits": self.below_8_bits, "verified": verified})

    def bench(self, to: str = "onnx", threads: int = 1, batch: int = 32, teacher: Teacher | None = None) -> dict[str, Any]:
        """Time teacher and student in the same runtime, as plain values; ``speedup`` is None where the student calculates in float.

        Args:
            to: The exporter that made the file.
            threads: Of the runtime.
            batch: Images at once, for throughput.
            teacher: By default the run's own, loaded again.
        """
        exporter = self.exporter(to, Timing)
        result: dict[str, Any] = exporter.bench(teacher or self.load_teacher(), self.folder, threads, batch)
        return {**result, "exported": to, "scheme": self.saved_student.scheme, "below_8_bits": self.below_8_bits}

    def push(self, place: str, *, private: bool | None = None, dry_run: Path | None = None, base_model: str | None = None,
             license: str | None = None, dataset: str | None = None, verify: bool = True) -> Published:  # fmt: skip
        """Publish the run in a store: one version with a model card that tells figures, proof, recipe and limits.

        Args:
            place: ``STORE:REST``; ``ORG/NAME`` means the Hub.
            private: Who may see it; None leaves that to the store.
            dry_run: Write what would be published to this new folder instead; the network is not touched.
            base_model: The teacher in the store; by default the one that its reference names.
            license: Default: that of ``base_model``.
            dataset: What accuracy was measured on; by default the name of its file.
            verify: Refuse exported files that :meth:`verify` refuses.

        Raises:
            ZsqError: When the run holds an exported file which does not compute what was evaluated, or the store refuses.
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
        """The exporters whose files lie in the folder, and were not verified as they lie there."""
        proof = self.proof or {}
        done = proof.get("exported") if proof.get("verified") else None
        able = [f.component.name for f in self.manager.components(Role.EXPORT) if f.component.has(Verifying)]
        made = [name for name in able if self.context.find(Role.EXPORT, name).exported(self.folder)]
        return [name for name in made if name != done]

    def measured_on(self) -> str | None:
        """The name of the images that the run measured accuracy on: that of their file, or None where they cannot be told."""
        refs = [str(entry.get("ref") or "") for entry in self.report.get("recipe", {}).get("eval") or ()]
        if not any(refs) and self.report.get("images_evaluated"):  # those that the teacher brought
            try:
                refs = [self.brought().partition(":")[2]]
            except ZsqError:
                return None
        named = [Path(ref).stem for ref in refs if ref]
        return named[0] if len(named) == 1 else None

    def save(self, folder: Path | str) -> SavedRun:
        """Copy the run to another folder, whole or not at all; a run that stood there is replaced.

        Raises:
            FileError: When ``folder`` is there and is no run, or the disk refuses.
        """
        from zsq._run.folder import RunFolder

        target = Path(folder)
        with RunFolder(target) as out:
            assert out.scratch is not None
            shutil.copytree(self.folder, out.scratch, dirs_exist_ok=True)
            out.publish()
        return SavedRun(target, self._given, self._say)

    # -- figures ---------------------------------------------------------------------------------------------------

    def evaluate(self, evaluators: Iterable[str] = ()) -> tuple[dict[str, float], Mapping[str, float]]:
        """Metrics of the student on real images, and those of the teacher that the run measured in the same way.

        Args:
            evaluators: ``NAME`` or ``NAME:REF``; by default those of the run, else the one that its teacher brings.
        """
        asked = [self._evaluator(parse_entry("eval", text, "--eval")) for text in evaluators]
        ran = [self._evaluator(entry) for entry in self.report.get("recipe", {}).get("eval") or ()]
        if not (chosen := asked or [one for one in ran if not one[0].component.compares]):
            ran = chosen = [self._evaluator(parse_entry("eval", self.brought()))]
        metrics: dict[str, float] = {}
        for evaluator in chosen:
            if evaluator[0].component.compares:
                what = f"'{evaluator[0].component.name}' compares with the teacher, which a run folder does not hold"
                raise ZsqError(what, "--eval", "use e.g. --eval npz:PATH")
            found, options = evaluator
            metrics |= found.component.implementation()(options, self.context).evaluate(self.module, self.context)
        same = all(one in ran for one in chosen) and int(metrics.get("images", 0)) == self.report.get("images_evaluated")
        return metrics, self.report["teacher"]["metrics"] if same else {}

    def brought(self) -> str:
        """The evaluation on real images that the run's teacher brings with it, as typed after ``--eval``.

        Raises:
            ZsqError: When it brings none.
        """
        if not (evaluation := self.load_teacher().evaluation):
            raise ZsqError("the run names no real images", "report.json", "say which: --eval npz:PATH or --eval folder:PATH")
        return evaluation

    def images(self, count: int) -> tuple[Tensor, str]:
        """Images that need no data, and what they are: those that the run made and kept, as its picture shows them, then patterns."""
        import torch

        from zsq.images import patterns, read_gallery

        spec = self.context.teacher.inputs
        found = read_gallery(self.folder / "images.png", spec)
        if found is None:
            return patterns(spec, count), "synthetic patterns"
        own, less = found[0][:count], found[1]
        kept = "" if less == 1 else f", kept at 1/{less} of their size"
        if (rest := count - len(own)) <= 0:
            return own, f"of the run's own{kept}"
        return torch.cat([own, patterns(spec, rest)]), f"{len(own)} of the run's own{kept}, {rest} synthetic patterns"

    def _evaluator(self, entry: Mapping[str, Any]) -> tuple[Found, Options]:
        """The component and options of one entry of the section ``eval``."""
        found = self.manager.get(Role.EVAL, entry["name"])
        values = {**found.values, **{key: value for key, value in entry.items() if key != "name"}}
        return found, found.component.options.parse(values, f"evaluator '{entry['name']}'")

    def exporter(self, to: str, protocol: type) -> Any:
        """The exporter ``to``, which has to have all of ``protocol``: :class:`~zsq.protocols.Verifying`, :class:`~zsq.protocols.Timing`."""
        found = self.manager.get(Role.EXPORT, to)
        if not found.component.has(protocol):
            what = "verify" if protocol is Verifying else "bench"
            raise ZsqError(f"exporter '{to}' cannot {what} its files", found.provider, "choose another exporter, e.g. onnx")
        return self.context.find(Role.EXPORT, to)


def read_report(folder: Path) -> dict[str, Any]:
    """``report.json`` of a run folder.

    Raises:
        FileError: When the folder is not a run, or the report is damaged.
    """
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"'{folder}' is not a run", "", "give a folder that `zsq run` wrote") from None
    except (OSError, ValueError) as error:
        raise FileError(f"the report cannot be read: {error}", str(folder / "report.json")) from None
    if not isinstance(report, dict) or not {"teacher", "student"} <= report.keys():
        raise FileError("the report is not one of a run", str(folder / "report.json"))
    return report


def _read_images(file: Path, spec: InputSpec, count: int) -> Tensor:
    import zipfile

    import numpy as np

    from zsq.images import from_uint8

    try:
        with np.load(file, allow_pickle=False) as content:
            pixels = content["images"][:count]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"cannot read images: {error}", str(file), "an .npz with `images` (N, H, W, C) uint8") from None
    channels, height, width = spec.shape
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (height, width, channels) or not len(pixels):
        what = f"images are {pixels.dtype} {pixels.shape}, not uint8 (N, {height}, {width}, {channels})"
        raise FileError(what, str(file), "give images of the teacher's size")
    return from_uint8(pixels, spec).contiguous()
