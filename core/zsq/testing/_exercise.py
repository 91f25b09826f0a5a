"""Uses a component of any role once, as the engine does, and returns everything that it computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from zsq import events
from zsq._component import Role
from zsq.errors import ComponentError, ZsqError
from zsq.protocols import Classed
from zsq.testing._kit import Case, Skip

if TYPE_CHECKING:
    from zsq.types import Student, Teacher

#: Number of batches to pull.
STEPS = 2


def run(case: Case, teacher: Teacher, seed: int = 0) -> Any:
    """Build the component with ``seed`` and use it; returns the resulting tensors, networks and numbers."""
    if case.role not in _EXERCISES:
        raise Skip(f"there is no exercise for {case.role.plural}")
    return _EXERCISES[case.role](case, teacher, seed)


def synth(case: Case, teacher: Teacher, seed: int) -> Any:
    implementation, stream = synth_stream(case, teacher, seed)
    pulled = [next(stream)[0] for _ in range(STEPS)]
    batches = [*pulled, implementation.sample(4)]
    return [(batch.inputs, batch.targets) for batch in batches]


def synth_stream(case: Case, teacher: Teacher, seed: int = 0) -> tuple[Any, Any]:
    """The synthesizer, prepared, and a stream over it with an 8-bit student."""
    from zsq.testing.world import make_stream

    student = case.student(teacher)
    implementation = case.build(case.context(teacher, student, seed=seed, losses=True))
    return implementation, make_stream(teacher, student, implementation)


def quantize(case: Case, teacher: Teacher, seed: int = 0, **values: Any) -> Student:
    """The student that a quantizer makes."""
    from zsq.testing.world import make_batch

    pool = make_batch(teacher, 8) if "pool" in case.component.needs else None
    student: Student = case.build(case.context(teacher, seed=seed), **values).quantize(teacher, pool)
    return student


def quant(case: Case, teacher: Teacher, seed: int) -> Any:
    import torch

    from zsq.testing.world import make_batch

    student = quantize(case, teacher, seed)
    with torch.no_grad():
        return [student.module, student.module(make_batch(teacher).inputs)]


def calib(case: Case, teacher: Teacher, seed: int) -> Any:
    from zsq.testing.world import make_stream

    student = case.student(teacher)
    for _ in case.build(case.context(teacher, student, seed=seed, losses=True)).fit(student, make_stream(teacher, student)):
        pass
    return [student.module, [point.range for point in student.acts.values()]]


def loss(case: Case, teacher: Teacher, seed: int) -> Any:
    from zsq.testing._checks.loss import make_view

    return case.build(case.context(teacher, seed=seed))(make_view(case, teacher))


def tune(case: Case, teacher: Teacher, seed: int) -> Any:
    from zsq.testing.world import make_stream

    student = case.student(teacher)
    ctx = case.context(teacher, student, seed=seed, losses=True)
    for _ in case.build(ctx).fit(student, make_stream(teacher, student), ctx.objective):
        pass
    return student.module


def load(case: Case, seed: int = 0) -> Teacher:
    """The teacher that a source gives for the case's reference."""
    from zsq._compose import task_of
    from zsq._run.lookup import task_maker

    task = task_maker(task_of(case.component, case.options(), case.ref, case.manager))
    try:
        teacher: Teacher = case.build(case.context(seed=seed).with_(task=task)).load(case.ref)
    except ZsqError as error:
        if case.ref:
            raise
        raise Skip(f"nothing to load: call conformance with ref= ({error.what})") from None
    return teacher


def teacher_source(case: Case, teacher: Teacher, seed: int) -> Any:
    return load(case, seed).module


def task(case: Case, teacher: Teacher, seed: int) -> Any:
    ctx = case.context(seed=seed)
    built = case.build(ctx)
    return built.targets(6, ctx.rng) if isinstance(built, Classed) else None


def evaluate(case: Case, teacher: Teacher, seed: int) -> Any:
    """The metrics of the 8-bit student; an evaluator whose option ``ref`` was left open is given a small ``.npz`` of images."""
    from zsq.testing.world import make_stream, write_images

    student = case.student(teacher)
    ctx = case.context(teacher, student, seed=seed).with_(sampler=make_stream(teacher, student).sample)
    if not _open_ref(case):
        return dict(case.build(ctx).evaluate(student.module, ctx))
    try:
        return dict(case.build(ctx, ref=str(write_images(case.folder / "images.npz", teacher))).evaluate(student.module, ctx))
    except ZsqError as error:
        raise Skip(f"it does not evaluate on .npz files: call conformance with options={{'ref': ...}} ({error.what})") from None


def export(case: Case, teacher: Teacher, seed: int) -> Any:
    """Name and bytes of every file written."""
    student = case.student(teacher)
    for point in student.points.values():
        point.freeze()
    student.module.eval()
    folder = case.folder / "export"
    folder.mkdir(exist_ok=True)
    manifest = {
        "teacher": {"ref": teacher.ref, "fingerprint": teacher.fingerprint},
        "recipe": {},
        "versions": {},
        "scheme": student.scheme,
    }
    paths = case.build(case.context(teacher, student, seed=seed)).export(student, manifest, folder)
    return [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths]


def log(case: Case, teacher: Teacher, seed: int, more: Sequence[events.Event] = ()) -> list[str]:
    """Whether the log writes files or folders, after the events of a small run and ``more``. Contents are not compared: they hold times.

    A log whose option ``ref`` was left open is given a path in the case's folder.
    """
    folder = case.folder / "log"
    given = {"ref": str(folder / "log")} if _open_ref(case) else {}
    try:
        implementation = case.build(case.context(teacher, seed=seed), **given)
    except ComponentError as error:
        raise Skip(error.what) from None
    for event in (*sample_events(), *more):
        implementation(event)
    implementation.close()
    return sorted({"file" if path.is_file() else "folder" for path in folder.rglob("*")})


#: Configurations that no library writes to ``config.json``.
INVALID_CONFIGS: tuple[dict[str, Any], ...] = (
    {},
    {"architecture": 3, "architectures": "none", "model_type": {"a": []}, "num_classes": "many", "pretrained_cfg": 7, "auto_map": 0},
    {"architecture": "no such network", "architectures": ["NoSuchNetwork"], "model_type": "no-such-network", "num_classes": 4},
)
#: Addresses that no store accepts.
INVALID_ADDRESSES = ("", " ")


def refused(what: str, use: Callable[..., Any], *given: Any, **more: Any) -> str:
    """The message of the ``ZsqError`` that ``use(*given, **more)`` must raise."""
    try:
        use(*given, **more)
    except ZsqError as error:
        return error.what
    raise AssertionError(f"{what} was accepted")


def refusal(case: Case, config: dict[str, Any], seed: int = 0) -> str:
    """The error message of a reader for a repository that contains only this ``config.json``."""
    from zsq.testing.world import FolderRepository

    (folder := case.folder / "repository").mkdir(exist_ok=True)
    repository = FolderRepository(folder, config)
    return refused(f"a repository with the configuration {config}", case.build(case.context(seed=seed)).read, repository)


def reader(case: Case, teacher: Teacher, seed: int) -> list[str]:
    return [refusal(case, config, seed) for config in INVALID_CONFIGS]


def store(case: Case, teacher: Teacher, seed: int) -> list[str]:
    built = case.build(case.context(seed=seed))
    return [refused(f"fetch({place!r})", built.fetch, place) for place in INVALID_ADDRESSES]


def _open_ref(case: Case) -> bool:
    """Whether it takes a ``ref``, as after ``NAME:`` on the command line, and none was given."""
    return case.options().to_dict().get("ref") == ""


def sample_events() -> list[events.Event]:
    """The events of a small run, with numbers as they may come: tensors, integers, nan."""
    import torch

    metrics = {"loss": torch.tensor(0.5), "lr": 1, "odd": float("nan")}
    report = {"student": {"metrics": {"top1": 90.0}}, "teacher": {"metrics": {"top1": 91.0}}, "wall_s": 1.0}
    return [
        events.RunStarted(0.0, {"teacher": "tiny", "components": []}),
        events.PhaseStarted(0.1, "tune:finetune"),
        *(events.Stepped(0.1 * step, "tune:finetune", step, 3, metrics, 4) for step in (1, 2, 3)),
        events.Message(0.4, "said"),
        events.PhaseEnded(0.5, "tune:finetune"),
        events.RunEnded(0.6, report),
    ]


_EXERCISES: dict[Role, Callable[[Case, Any, int], Any]] = {
    Role.TEACHER: teacher_source,
    Role.TASK: task,
    Role.SYNTH: synth,
    Role.QUANT: quant,
    Role.CALIB: calib,
    Role.LOSS: loss,
    Role.TUNE: tune,
    Role.EVAL: evaluate,
    Role.EXPORT: export,
    Role.LOG: log,
    Role.READER: reader,
    Role.STORE: store,
}
