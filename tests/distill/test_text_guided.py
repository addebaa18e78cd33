"""The paper's loss: its formula, its two ablations, and the learned parts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from opentrans_cli.distill.text_guided import RegionHeads, text_guided_loss

MODES = ["text-guided", "vision-guided", "vanilla"]
every_mode = pytest.mark.parametrize("mode", MODES)


def units(count, seed, dimension=7):
    rows = torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(rows, dim=1)


def by_the_formula(student, teacher, text, image_of, scale, mode):
    """Every E1 and E2 on its own, and their mean."""
    student, errors = student.detach(), []
    count = len(student)
    for i in range(count):
        errors.append(sum((v - c) ** 2 for v, c in zip(student[i].tolist(), teacher[i].tolist(), strict=True)))
        for j in range(count):
            if mode == "vanilla" or image_of[i] != image_of[j]:
                continue
            own = scale**2 * float(text[i] @ text[j]) if mode == "text-guided" else float(student[i] @ student[j])
            errors.append((own - float(student[i] @ teacher[j])) ** 2)
    return sum(errors) / len(errors)


@every_mode
@settings(max_examples=30, deadline=None)
@given(
    regions=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    scale=st.floats(-2, 2),
    seed=st.integers(0, 2**16),
)
def test_the_loss_is_the_mean_of_every_error_of_the_formula(mode, regions, scale, seed):
    image_of = torch.repeat_interleave(torch.arange(len(regions)), torch.tensor(regions))
    student, teacher, text = (units(len(image_of), seed + place) for place in range(3))
    student.requires_grad_()
    learned = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    loss, terms = text_guided_loss(student, teacher, text, image_of, learned, mode=mode)
    assert loss.item() == pytest.approx(by_the_formula(student, teacher, text, image_of, scale, mode))
    pairs = sum(count**2 for count in regions) if mode != "vanilla" else 0
    whole = terms["visual"] * len(image_of) + terms["affinity"] * pairs
    assert loss.item() == pytest.approx((whole / (len(image_of) + pairs)).item())
    loss.backward()
    assert torch.isfinite(student.grad).all()
    assert (learned.grad is not None) == (mode == "text-guided")
    assert learned.grad is None or torch.isfinite(learned.grad)


def test_two_regions_worked_out_by_hand():
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    image_of = torch.tensor([3, 3])
    # E1 = 0.16 + 0.64, 0; student.teacher = [[.6, 0], [.8, 1]]; 4 text.text = [[4, 3.2], [3.2, 4]]
    expected = (0.8 + 0 + 3.4**2 + 3.2**2 + 2.4**2 + 3.0**2) / 6
    assert text_guided_loss(student, teacher, text, image_of, 2.0)[0].item() == pytest.approx(expected)
    # student.student = [[1, 0], [0, 1]]
    expected = (0.8 + 0.4**2 + 0 + 0.8**2 + 0) / 6
    assert text_guided_loss(student, teacher, text, image_of, 2.0, mode="vision-guided")[0].item() == pytest.approx(
        expected
    )
    loss, terms = text_guided_loss(student, teacher, text, image_of, 2.0, mode="vanilla")
    assert loss.item() == pytest.approx(0.4)
    assert terms["affinity"] == 0


def test_regions_of_different_images_are_not_compared():
    student, teacher, text = units(2, 0), units(2, 1), units(2, 2)
    apart = text_guided_loss(student, teacher, text, torch.tensor([0, 1]), 1.0)[0]
    alone = [
        text_guided_loss(student[i, None], teacher[i, None], text[i, None], torch.tensor([0]), 1.0)[0] for i in range(2)
    ]
    assert apart.item() == pytest.approx(sum(alone).item() / 2)


@every_mode
def test_a_student_that_is_the_teacher_has_no_visual_error(mode):
    teacher = units(4, 0)
    loss, terms = text_guided_loss(teacher, teacher, units(4, 1), torch.zeros(4, dtype=torch.int64), 1.0, mode=mode)
    assert terms["visual"] == 0
    assert (loss.item() == 0) == (mode != "text-guided")


@every_mode
def test_without_regions_the_loss_is_zero_and_teaches_nothing(mode):
    head = RegionHeads(1, 7, 7)
    none = torch.zeros(0, 7)
    loss, _ = text_guided_loss(head([none])[0], none, none, torch.zeros(0, dtype=torch.int64), head.scale[0], mode=mode)
    loss.backward()
    assert loss.item() == 0
    assert not head.projections[0].weight.grad.any()


def test_the_scale_learns_to_fit_the_affinities():
    teacher, text = units(6, 0), units(6, 0)
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    image_of = torch.zeros(6, dtype=torch.int64)
    for _ in range(60):
        (gradient,) = torch.autograd.grad(text_guided_loss(teacher, teacher, text, image_of, scale)[0], scale)
        scale = (scale - 0.2 * gradient).detach().requires_grad_()
    assert scale.item() == pytest.approx(1.0, abs=1e-3)
