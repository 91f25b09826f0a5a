"""Decoupled distillation: the published formula, the identities behind it, and very confident networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from zsq_lrq import DkdOptions
from zsq_lrq.loss import Dkd, decoupled

from zsq.testing.world import make_teacher
from zsq.types import Batch, Trace, View

TASK = make_teacher().task


def logits(seed: int, n: int = 8, classes: int = 10, scale: float = 3.0) -> Tensor:
    return scale * torch.randn((n, classes), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dkd(student: Tensor, teacher: Tensor, targets: Tensor, step: int = 0, **options: Any) -> Tensor:
    view = View(Batch(student, targets), Trace(teacher), Trace(student), TASK, step)
    return Dkd(DkdOptions(**options), None)(view)  # type: ignore[arg-type]


def labels(n: int = 8, classes: int = 10) -> Tensor:
    return torch.arange(n) * 3 % classes


def written_out(student: Tensor, teacher: Tensor, y: Tensor, alpha: float, beta: float, t: float) -> Tensor:
    """The formula with probabilities, image by image."""
    total = torch.zeros((), dtype=student.dtype)
    for z_s, z_t, c in zip(student / t, teacher / t, y.tolist(), strict=True):
        p_s, p_t = z_s.softmax(0), z_t.softmax(0)
        target = p_t[c] * (p_t[c] / p_s[c]).log() + (1 - p_t[c]) * ((1 - p_t[c]) / (1 - p_s[c])).log()
        others = [i for i in range(len(z_s)) if i != c]
        q_s, q_t = p_s[others] / p_s[others].sum(), p_t[others] / p_t[others].sum()
        total = total + alpha * target + beta * (q_t * (q_t / q_s).log()).sum()
    return t * t * total / len(y)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    alpha=st.floats(0, 4),
    beta=st.floats(0, 10),
    t=st.sampled_from([1.0, 4.0]),
    classes=st.sampled_from([2, 4, 10]),
)
def test_value_is_the_published_formula(seed: int, alpha: float, beta: float, t: float, classes: int) -> None:
    student, teacher, y = logits(seed, classes=classes), logits(seed + 1, classes=classes), labels(classes=classes)
    ours = dkd(student, teacher, y, alpha=alpha, beta=beta, temperature=t)
    assert float(ours) == pytest.approx(float(written_out(student, teacher, y, alpha, beta, t)), rel=1e-4, abs=1e-5)


def test_defaults_are_those_of_lrq() -> None:
    student, teacher, y = logits(0), logits(1), labels()
    assert float(dkd(student, teacher, y)) == pytest.approx(float(written_out(student, teacher, y, 1, 8, 1)), rel=1e-5)


def test_zero_when_logits_are_equal() -> None:
    z = logits(0)
    assert abs(float(dkd(z, z + 5.0, labels()))) < 1e-6


def test_kd_is_tckd_plus_the_weighted_nckd() -> None:
    """KL = TCKD + (1 - p_y) NCKD with the teacher's p_y, image by image, to 1e-6."""
    student, teacher, y = logits(2), logits(3), labels()
    (b_s, o_s), (b_t, o_t) = decoupled(student, y), decoupled(teacher, y)
    tckd, nckd = (b_t.exp() * (b_t - b_s)).sum(1), (o_t.exp() * (o_t - o_s)).sum(1)
    p_y = teacher.softmax(1).gather(1, y[:, None])[:, 0]
    kl = (teacher.softmax(1) * (teacher.log_softmax(1) - student.log_softmax(1))).sum(1)
    assert (tckd + (1 - p_y) * nckd - kl).abs().max() < 1e-6


def test_nckd_does_not_see_the_targets_logit() -> None:
    student, teacher, y = logits(4), logits(5), labels()
    shifted = student + 7.0 * F.one_hot(y, 10)
    assert float(dkd(student, teacher, y, alpha=0)) == pytest.approx(float(dkd(shifted, teacher, y, alpha=0)), rel=1e-6)
    assert float(dkd(student, teacher, y, beta=0)) != pytest.approx(float(dkd(shifted, teacher, y, beta=0)), rel=1e-2)


@pytest.mark.parametrize("sure", [30.0, 200.0, 1e4])
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
def test_confident_networks_give_finite_values_and_gradients(sure: float, who: str) -> None:
    """1 - p_y rounds to 0 in float32, and its logarithm would be infinite."""
    y = labels()
    student, teacher = logits(6).float(), logits(7).float()
    student = (student + sure * F.one_hot(y, 10) if who != "teacher" else student).requires_grad_()
    teacher = teacher + sure * F.one_hot(y, 10) if who != "student" else teacher
    loss = dkd(student, teacher, y)
    (grad,) = torch.autograd.grad(loss, [student])
    assert torch.isfinite(loss) and torch.isfinite(grad).all()


def test_confident_student_is_told_apart_exactly() -> None:
    """With p_y beyond float32's 1, TCKD is still the difference in log odds; masking by -1000 or computing 1 - p_y loses it."""
    z = torch.zeros(1, 3)
    teacher, y = z.clone(), torch.tensor([0])
    values = [float(dkd(z + torch.tensor([[s, 0.0, 0.0]]), teacher, y, beta=0)) for s in (50.0, 60.0)]
    assert values[1] - values[0] == pytest.approx(10 * 2 / 3, rel=1e-4)


def test_a_target_far_above_the_rest_stays_out_of_nckd() -> None:
    """Lowering the target's logit by 1000 is not enough if it is 1010 above the others."""
    student, teacher, y = logits(8).float(), logits(9).float(), labels()
    high = 1010 * F.one_hot(y, 10)
    plain, raised = dkd(student, teacher, y, alpha=0), dkd(student + high, teacher + high, y, alpha=0)
    assert float(raised) == pytest.approx(float(plain), rel=1e-3)


def test_soft_targets_count_as_their_largest_class() -> None:
    student, teacher, y = logits(10), logits(11), labels()
    soft = 0.6 * F.one_hot(y, 10).double() + 0.04
    assert torch.equal(dkd(student, teacher, soft), dkd(student, teacher, y))


def test_teacher_takes_no_gradient() -> None:
    student, teacher = logits(12).requires_grad_(), logits(13).requires_grad_()
    dkd(student, teacher, labels()).backward()
    assert teacher.grad is None and student.grad is not None


def test_warmup_grows_by_step_and_is_off_by_default() -> None:
    student, teacher, y = logits(14), logits(15), labels()
    full = float(dkd(student, teacher, y, step=0))
    shares = [float(dkd(student, teacher, y, step=step, warmup=4)) / full for step in (0, 1, 3, 9)]
    assert shares == pytest.approx([0.25, 0.5, 1.0, 1.0], rel=1e-6)


def test_temperature_is_squared_into_the_weight() -> None:
    """For large T the loss tends to a bound, instead of falling with 1/T²."""
    student, teacher, y = logits(16), logits(17), labels()
    assert float(dkd(student, teacher, y, temperature=1e3)) == pytest.approx(float(dkd(student, teacher, y, temperature=2e3)), rel=0.02)
