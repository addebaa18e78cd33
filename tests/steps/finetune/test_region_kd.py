"""Heads start where their teacher is, if they can, and a region takes part or not whatever is beside it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from opentrans_cli.distill.text_guided import RegionHeads
from opentrans_cli.steps.finetune.region_kd import RegionKd, Regions, RegionShare
from opentrans_cli.training.processes.distributed import World

LABELS = torch.tensor([[0, 0, 1, 1], [2, -1, 1, 1]]).repeat_interleave(8, 0).repeat_interleave(8, 1)


class Teacher:
    """Unit vectors of classes 0, 1 and 2 for every image."""

    def __call__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.arange(3), torch.eye(3, 4)


def kd(*, whole_cells: bool = False) -> RegionKd:
    return RegionKd(Teacher(), torch.eye(3, 4), world=World(torch.device("cpu")), whole_cells=whole_cells)  # type: ignore[arg-type]


def test_between_equal_spaces_nothing_is_changed_at_first() -> None:
    states = torch.randn(5, 6)
    torch.testing.assert_close(RegionHeads(1, 6, 6)((states,))[0], F.normalize(states, dim=1))


def test_every_layer_has_a_head_of_its_own() -> None:
    heads = RegionHeads(3, 6, 4)
    found = heads([torch.ones(2, 5, 6)] * 3)
    assert [tuple(one.shape) for one in found] == [(2, 5, 4)] * 3
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])
    torch.testing.assert_close(found[0].norm(dim=-1), torch.ones(2, 5))
    assert heads.scale.shape == (1,)


def test_all_classes_of_an_image_are_regions_but_those_that_vanish_on_the_grid() -> None:
    label_maps = LABELS.clone()[None]
    label_maps[0, 8:, :8] = -1
    label_maps[0, 8, 0] = 2  # one pixel, a sixteenth of a cell
    share = kd().share(label_maps, [3])
    assert share == RegionShare(1.0, 3 + 9)
    assert kd().regions(label_maps, [3], share).class_of.tolist() == [0, 1, 2]
    assert kd(whole_cells=True).regions(label_maps, [3], share).class_of.tolist() == [0, 1]


def test_a_students_embedding_is_compared_with_its_own_region() -> None:
    distillation, label_maps = kd(), LABELS[None].repeat(2, 1, 1)
    share = distillation.share(label_maps, [3, 4])
    regions = distillation.regions(label_maps, [3, 4], share)
    students = torch.eye(3, 4)[regions.class_of]
    assert float(distillation(students, regions, [0, 1], torch.ones(1), share)) == pytest.approx(0)
    assert distillation(students.roll(1, 0), regions, [0, 1], torch.ones(1), share) > 0.5


def test_half_of_the_regions_cost_their_part_of_the_whole() -> None:
    distillation, label_maps = kd(), LABELS[None].repeat(2, 1, 1)
    share = distillation.share(label_maps, [3, 4])
    students = F.normalize(torch.randn(3, 4), dim=1)
    half = Regions(torch.zeros(3, dtype=torch.int64), torch.arange(3))
    both = Regions(torch.tensor([0, 0, 0, 1, 1, 1]), torch.arange(3).repeat(2))
    whole = distillation(students.repeat(2, 1), both, [0, 1], torch.ones(1), share)
    torch.testing.assert_close(2 * distillation(students, half, [0, 1], torch.ones(1), share), whole)


def test_without_regions_there_is_nothing_to_learn() -> None:
    distillation, label_maps = kd(), torch.full((1, 8, 8), -1)
    share = distillation.share(label_maps, [3])
    regions = distillation.regions(label_maps, [3], share)
    student, scale = torch.zeros(0, 4, requires_grad=True), torch.ones(1, requires_grad=True)
    loss = distillation(student, regions, [0], scale, share)
    loss.backward()  # type: ignore[no-untyped-call]
    assert share.terms == 0 and loss == 0
    assert scale.grad is not None and not scale.grad.any()
