"""Checks for quantizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zsq._component import Role
from zsq.testing import _exercise as exercise
from zsq.testing._kit import Case, Skip, applies_to

if TYPE_CHECKING:
    from zsq.types import Student, Teacher


def check_names_resolve(case: Case) -> None:
    """Every tap, block and BatchNorm of the teacher has a module in the student that runs and gives outputs of the same shape."""
    from zsq.testing.world import make_batch, make_teacher
    from zsq.training import batch_norms

    teacher = make_teacher()
    student = exercise.quantize(case, teacher)
    wanted = dict.fromkeys((*teacher.taps, *teacher.blocks, *batch_norms(teacher.module)))
    inputs = make_batch(teacher).inputs
    ours = _shapes(teacher.module, {path: path for path in wanted}, inputs)
    missing = [path for path in wanted if path not in student.names]
    assert not missing, f"Student.names lacks {', '.join(missing)}"
    theirs = _shapes(student.module, {path: student.names[path] for path in wanted}, inputs)
    assert ours == theirs, f"outputs by teacher path: teacher {ours}, student {theirs}"


def check_points_keep_the_contract(case: Case) -> None:
    """Every point is a ``QuantPoint``: kind, bits, a range that can be set and is kept."""
    import torch

    from zsq.points import QuantPoint
    from zsq.testing.world import make_teacher

    student = exercise.quantize(case, make_teacher())
    assert student.points, "the student has no quantization point"
    for path, point in student.points.items():
        assert isinstance(point, QuantPoint), f"{path} is not a QuantPoint"
        assert point.kind in ("weight", "act") and 1 <= point.bits <= 32, f"{path}: kind {point.kind}, {point.bits} bits"
        assert not point.observing, f"{path} observes before it was asked to"
        if point.kind == "act" and "act.range" in case.component.provides:
            point.set_range(0.0, 3.0)
            lo, hi = (float(v.max()) for v in point.range)
            assert abs(hi - 3) <= 0.25 and lo <= 0.01, f"{path}: set_range(0, 3) gives {lo:g}..{hi:g}"
        assert (point.scale > 0).all() and torch.isfinite(point.scale).all(), f"{path}: scale {point.scale}"


def check_eight_bits_stay_near_the_teacher(case: Case) -> None:
    """With 8 bits and ranges from a few batches, outputs are within 15 % of the teacher's (its answers lie close together)."""
    import torch

    from zsq.testing.world import make_batch, make_teacher

    names = {"weight_bits", "act_bits"} & case.component.options.__dataclass_fields__.keys()
    if not names:
        raise Skip("it has neither weight_bits nor act_bits")
    teacher = make_teacher()
    student = _ready(case, teacher, **dict.fromkeys(names, 8))
    inputs = make_batch(teacher, 16).inputs
    with torch.no_grad():
        ours, theirs = teacher.module(inputs), student.module(inputs)
    error = float((theirs - ours).norm() / ours.norm())
    assert error < 0.15, f"relative error {error:.3f}"


def check_at_most_two_to_the_bits_levels(case: Case) -> None:
    """After freezing, a channel of weights and a tensor of activations take at most 2^bits values."""
    import torch

    from zsq.testing.world import make_batch, make_teacher

    teacher = make_teacher()
    student = _ready(case, teacher)
    outputs: dict[str, Any] = {}
    for path, point in student.points.items():
        if isinstance(point, torch.nn.Module):
            point.register_forward_hook(lambda module, inputs, output, path=path: outputs.__setitem__(path, output))
    with torch.no_grad():
        student.module(make_batch(teacher, 8).inputs)
    _freeze(student)
    with torch.no_grad():
        student.module(make_batch(teacher, 8).inputs)
    if not outputs:
        raise Skip("its points are not modules, so their outputs cannot be watched")
    for path, output in outputs.items():
        point = student.points[path]
        groups = output.detach().flatten(1) if point.kind == "weight" else output.detach().flatten()[None]
        levels = max(len(group.unique()) for group in groups)
        assert levels <= 2**point.bits, f"{path}: {levels} levels with {point.bits} bits"


def check_freezing_keeps_outputs_and_ranges(case: Case) -> None:
    """Freezing changes no output bit, and later inputs change no range."""
    import torch

    from zsq.testing.world import digest, make_batch, make_teacher

    teacher = make_teacher()
    student = _ready(case, teacher)
    inputs = make_batch(teacher).inputs
    with torch.no_grad():
        before = digest(student.module(inputs))
        _freeze(student)
        assert digest(student.module(inputs)) == before, "freezing changed the outputs"
        ranges = {path: digest(point.range) for path, point in student.points.items()}
        student.module(100 * inputs)
    moved = [path for path, point in student.points.items() if digest(point.range) != ranges[path]]
    assert not moved, f"ranges moved after freezing: {', '.join(moved)}"


@applies_to(lambda found: "act.range" in found.component.provides)
def check_points_watch_only_when_observing(case: Case) -> None:
    """Inside ``observing()`` activation ranges follow the inputs; outside they do not change."""
    import torch

    from zsq.testing.world import digest, make_batch, make_teacher

    teacher = make_teacher()
    student = exercise.quantize(case, teacher)
    if not student.acts:
        raise Skip("it has no activation points")
    inputs = make_batch(teacher).inputs

    def ranges() -> dict[str, str]:
        return {path: digest(point.range) for path, point in student.acts.items()}

    with torch.no_grad():
        start = ranges()
        student.module(inputs)
        assert ranges() == start, "a range moved without observing"
        with student.observing():
            student.module(10 * inputs)
        assert ranges() != start, "no range moved while observing"
    assert not any(point.observing for point in student.acts.values()), "still observing afterwards"


def check_student_can_be_tuned(case: Case) -> None:
    """Gradients of the output reach the student's weights."""
    from zsq.testing.world import make_batch, make_teacher

    teacher = make_teacher()
    student = _ready(case, teacher)
    student.module.requires_grad_(True)
    student.module(make_batch(teacher).inputs).square().mean().backward()
    reached = [p for p in student.module.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert reached, "no parameter of the student received a gradient"


def check_saved_student_is_bit_identical(case: Case) -> None:
    """A chain with it, exported as safetensors, comes back from ``zsq.load`` with the same output bits."""
    import torch

    import zsq
    from zsq.testing._chains import tiny_run
    from zsq.testing.world import digest, make_batch, make_teacher

    quant = {"name": case.found.preset or case.component.name, **case.settings}
    sections: dict[str, Any] = {"quant": quant, "export": ["safetensors"]}
    if "pool" in case.component.needs:
        givers = [found.component.name for found in case.manager.components(Role.SYNTH) if "pool" in found.component.provides]
        if not givers:
            raise Skip("no installed synthesizer gives the pool that it needs")
        sections["synth"] = givers[0]
    result = tiny_run(sections, folder=case.folder / "run", manager=case.manager)
    inputs = make_batch(make_teacher()).inputs
    with torch.no_grad():
        assert digest(zsq.load(case.folder / "run")(inputs)) == digest(result.student.module(inputs)), "the loaded student differs"


def _ready(case: Case, teacher: Teacher, **values: Any) -> Student:
    """A student of the quantizer under check, its ranges watched on a few batches, in eval mode."""
    import torch

    from zsq.testing.world import make_batch

    student = exercise.quantize(case, teacher, **values)
    if "act.range" in case.component.provides:
        case.calibrate(teacher, student)
    with torch.no_grad():
        student.module.eval()(make_batch(teacher).inputs)
    return student


def _freeze(student: Student) -> None:
    for point in student.points.values():
        point.freeze()
    student.module.eval()


def _shapes(module: Any, paths: dict[str, str], inputs: Any) -> dict[str, tuple[int, ...]]:
    """Teacher path to the shape of what the module at the given path puts out in one forward."""
    import torch

    shapes: dict[str, tuple[int, ...]] = {}
    for key, path in paths.items():
        module.get_submodule(path).register_forward_hook(lambda layer, ins, out, key=key: shapes.__setitem__(key, tuple(out.shape)))
    with torch.no_grad():
        module(inputs)
    return {key: shapes.get(key, ()) for key in paths}
