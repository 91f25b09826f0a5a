"""Checks for losses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from zsq.testing._kit import Case, Skip, applies_to

if TYPE_CHECKING:
    from torch import Tensor

    from zsq.types import Teacher, View

_READS = ("student.output", "student.features", "teacher.bn", "teacher.output", "teacher.features")


def check_value_is_a_finite_scalar(case: Case) -> None:
    """One float without dimensions, finite also for large outputs."""
    import torch

    from zsq.testing.world import make_teacher

    teacher = make_teacher()
    loss = case.build(case.context(teacher))
    for scale in (1.0, 100.0):
        value = loss(make_view(case, teacher, scale=scale))
        assert value.dim() == 0 and value.is_floating_point(), f"the value has shape {tuple(value.shape)} and type {value.dtype}"
        assert torch.isfinite(value), f"the value is {value.item()} for outputs scaled by {scale:g}"


def check_gradient_reaches_what_it_reads(case: Case) -> None:
    """Its gradient reaches the student where it reads the student, else the statistics or outputs of the teacher."""
    import torch

    from zsq.testing.world import make_teacher

    teacher = make_teacher()
    view = make_view(case, teacher)
    read = next((need for need in _READS if need in case.component.needs), None)
    if read is None:
        raise Skip("it declares no network output that a gradient could reach")
    leaves = _leaves(view, read)
    grads = torch.autograd.grad(case.build(case.context(teacher))(view), leaves, allow_unused=True)
    total = sum(float(grad.abs().sum()) for grad in grads if grad is not None)
    assert total > 0, f"no gradient reaches {read}"
    assert all(torch.isfinite(grad).all() for grad in grads if grad is not None), "a gradient is not finite"


def check_reads_only_its_needs(case: Case) -> None:
    """Its value is the same when every field that it does not declare raises on access."""
    from zsq.testing.world import make_teacher

    teacher = make_teacher()
    loss = case.build(case.context(teacher))
    view = make_view(case, teacher)
    assert loss(poisoned(view, case.component.needs)).item() == loss(view).item(), "the value differs when undeclared fields are hidden"


@applies_to(lambda found: "targets" not in found.component.needs and _pairs(found.component.needs))
def check_zero_at_equality(case: Case) -> None:
    """A distance is zero where student and teacher, or statistics and their goal, agree."""
    from zsq.testing.world import make_teacher

    teacher = make_teacher()
    value = case.build(case.context(teacher))(make_view(case, teacher, equal=True)).item()
    assert abs(value) < 1e-4, f"the value is {value:g} at equality"


def make_view(case: Case, teacher: Teacher, *, equal: bool = False, scale: float = 1.0, n: int = 6) -> View:
    """A view with every field filled by leaves that require gradients; with ``equal`` student and teacher have the same values."""
    import torch

    from zsq.testing.world import make_batch
    from zsq.types import BnStats, Trace, View

    rng = torch.Generator().manual_seed(11)
    soft = "soft" in case.component.name  # hard targets are what most losses read
    batch = make_batch(teacher, n, soft=soft)

    def leaf(*shape: int) -> Tensor:
        return (scale * torch.randn(shape, generator=rng)).requires_grad_()

    def copy(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_() if equal else leaf(*tensor.shape)

    output = leaf(n, teacher.task.classes)
    features = {path: leaf(n, 8, 4, 4) for path in teacher.taps}
    bn = {}
    for path in ("bn1", "block.bn2", "block.bn3"):
        norm = teacher.module.get_submodule(path)
        mean, var = leaf(8), leaf(8).detach().square().add(0.1).requires_grad_()
        if equal:
            mean, var = (t.detach().clone().requires_grad_() for t in (norm.running_mean, norm.running_var))  # type: ignore[operator]
        bn[path] = BnStats(mean, var, norm.running_mean, norm.running_var)  # type: ignore[arg-type]
    everything = frozenset({"output", "features", "bn"})
    ours = Trace(output, features, bn, frozenset(f"teacher.{name}" for name in everything))
    theirs = Trace(copy(output), {k: copy(v) for k, v in features.items()}, {}, frozenset({"student.output", "student.features"}))
    return View(batch, ours, theirs, teacher.task)


def poisoned(view: View, needs: Any) -> Any:
    """The view with every undeclared field replaced by one that raises when it is touched."""

    class Poison:
        def __init__(self, **fields: Any) -> None:
            self.__dict__.update(fields)

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"the loss reads '{name}' without declaring the need for it")

    def network(who: str, trace: Any) -> Any:
        kept = [name for name in ("output", "features", "bn") if f"{who}.{name}" in needs]
        return Poison(captured=trace.captured, **{name: getattr(trace, name) for name in kept}) if kept else None

    targets = {"targets": view.batch.targets} if "targets" in needs else {}
    batch = Poison(inputs=view.batch.inputs, extra=view.batch.extra, **targets)
    return SimpleNamespace(
        batch=batch, teacher=network("teacher", view.teacher), student=network("student", view.student), task=view.task, step=view.step
    )


def _leaves(view: Any, need: str) -> list[Any]:
    who, name = need.split(".")
    value = getattr(getattr(view, who), name)
    if name == "output":
        return [value]
    if name == "features":
        return list(value.values())
    return [tensor for stats in value.values() for tensor in (stats.mean, stats.var)]


def _pairs(needs: Any) -> bool:
    both = any({f"teacher.{name}", f"student.{name}"} <= needs for name in ("output", "features"))
    return both or needs == {"teacher.bn"}
