"""The loss of a step is the sum over its parts, wherever they are computed, and says which terms it has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opentrans_cli.distill.text_guided import text_guided_loss
from opentrans_cli.steps.finetune import region_kd
from opentrans_cli.steps.finetune.loss import pixel_cross_entropy
from opentrans_cli.training.processes.distributed import World

Case = Callable[..., Any]
Batch = tuple[Tensor, ...]


def still(trained: nn.Module) -> nn.Module:
    """In training, but with nothing that makes an image depend on its company or on chance."""
    for module in trained.train().modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
            module.eval()
    return trained


def summed(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}


def pick(batch: Batch, rows: Sequence[int]) -> Batch:
    return tuple(tensor[list(rows)] for tensor in batch)


class Lockstep(World):
    """One of two processes, played by threads that wait for each other in every `total`."""

    def __init__(self, rank: int, barrier: threading.Barrier, slots: list[Any]) -> None:
        super().__init__(torch.device("cpu"))
        self.rank, self.size, self._barrier, self._slots = rank, 2, barrier, slots

    def total(self, tensor: Tensor) -> None:
        self._slots[self.rank] = tensor.clone()
        self._barrier.wait(20)
        tensor.copy_(self._slots[0] + self._slots[1])
        self._barrier.wait(20)


def in_two(task: Callable[[World], Any]) -> list[Any]:
    """What two processes find."""
    barrier, slots, found = threading.Barrier(2), [None, None], [None, None]

    def run(rank: int) -> None:
        try:
            found[rank] = task(Lockstep(rank, barrier, slots))
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


@pytest.mark.parametrize("framework", ["deeplabv3", "han"])
def test_parts_and_processes_and_the_order_of_images_change_no_term(framework: str, loss_case: Case) -> None:
    case = loss_case(framework, kd_weight=2.0, region_dropout=0.5)
    trained, batch = still(case.trained), case.batch
    alone = case.loss(trained)
    whole = alone(batch, alone.whole(batch))

    def process(world: World) -> dict[str, Tensor]:
        loss, rows = case.loss(trained, world=world), ([3, 0], [1, 2])[world.rank]
        divided_by = loss.whole(pick(batch, rows))
        return summed([loss(pick(batch, [row]), divided_by) for row in rows])

    with torch.no_grad():
        together = summed(in_two(process))
    assert list(together) == list(whole)
    for name, value in whole.items():
        torch.testing.assert_close(together[name], value.detach(), rtol=1e-4, atol=1e-5)


def test_pixels_are_the_mean_over_the_labelled_ones(loss_case: Case) -> None:
    case = loss_case("deeplabv3")
    trained, batch = still(case.trained), case.batch
    loss = case.loss(trained)
    terms = loss(batch, loss.whole(batch))
    assert list(terms) == ["pixels"]
    torch.testing.assert_close(terms["pixels"], pixel_cross_entropy(trained(batch[0]).scores, batch[1], -1))


def test_distillation_is_that_of_pruning_over_the_regions_of_the_batch(loss_case: Case) -> None:
    case = loss_case("deeplabv3", kd_weight=3.0)
    trained, batch = still(case.trained), case.batch
    loss, kd = case.loss(trained), case.kd
    whole = loss.whole(batch)
    regions = kd.regions(batch[1], range(4), whole.regions)
    students = trained(batch[0], label_maps=batch[1], regions=regions).students[0]
    teacher = [kd._teacher(int(row)) for row in batch[3]]
    rows = [
        embeddings[classes.tolist().index(int(wanted))]
        for image, wanted in zip(regions.image_of, regions.class_of, strict=True)
        for classes, embeddings in [teacher[int(image)]]
    ]
    expected, _ = text_guided_loss(students, torch.stack(rows), kd._text[regions.class_of], regions.image_of, 1.0)
    torch.testing.assert_close(loss(batch, whole)["kd"], 3 * expected)


@pytest.mark.parametrize("processes", [1, 2])
def test_of_many_regions_as_many_take_part_as_are_allowed(
    processes: int, loss_case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(region_kd, "MOST_REGIONS", 3)
    case = loss_case("han", kd_weight=1.0)
    label_maps, draws = case.batch[1], [5, 6, 7, 8]
    alone = case.kd.share(label_maps, draws)
    chosen = case.kd.regions(label_maps, draws, alone)
    assert len(chosen.image_of) == 3
    assert alone.terms == sum(count + count**2 for count in chosen.image_of.bincount().tolist())
    if processes == 2:

        def process(world: World) -> region_kd.RegionShare:
            kd, part = case.kd_in(world), slice(2 * world.rank, 2 * world.rank + 2)
            return kd.share(label_maps[part], draws[part])

        assert in_two(process) == [alone, alone]


def test_terms_are_exact_under_autocast(loss_case: Case) -> None:
    case = loss_case("han", kd_weight=1.0, grounding=True)
    loss = case.loss(still(case.trained))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = loss(case.batch, loss.whole(case.batch))
    assert {value.dtype for value in terms.values()} == {torch.float32}
    exact = loss(case.batch, loss.whole(case.batch))
    for name, value in terms.items():
        torch.testing.assert_close(value, exact[name], rtol=0.1, atol=0.1)


def test_another_seed_draws_other_points(loss_case: Case) -> None:
    values = []
    for seed in (0, 0, 1):
        case = loss_case("han")
        loss = case.loss(still(case.trained), seed=seed)
        values.append(float(loss(case.batch, loss.whole(case.batch))["mask"].detach()))
    assert values[0] == values[1] != values[2]


def test_grounding_looks_at_captioned_images_alone(loss_case: Case) -> None:
    case = loss_case("han", grounding=True)  # images 0 to 2 have captions
    loss = case.loss(still(case.trained))
    terms, captioned = [], []
    for rows in ([0, 1, 2, 3], [0, 1, 2], [3, 4, 5, 6]):
        batch = case.batch_of(rows)
        whole = loss.whole(batch)
        captioned.append(whole.captioned)
        terms.append(loss(batch, whole)["grounding"])
    assert captioned == [3, 3, 0]
    torch.testing.assert_close(terms[0], terms[1])
    assert terms[0] > 0 and terms[2] == 0


def test_loss_is_the_mean_over_labelled_pixels_of_the_whole_batch():
    scores, labels = torch.randn(2, 3, 2, 2), torch.tensor([[[0, 255], [2, 1]], [[255, 255], [255, 1]]])
    terms = [
        -scores[b, :, y, x].log_softmax(0)[labels[b, y, x]]
        for b in range(2)
        for y in range(2)
        for x in range(2)
        if labels[b, y, x] != 255
    ]
    assert pixel_cross_entropy(scores, labels, 255).item() == pytest.approx((sum(terms) / 4).item())


def test_a_batch_without_labels_costs_nothing_and_teaches_nothing():
    scores = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = pixel_cross_entropy(scores, torch.full((1, 2, 2), 65535), 65535)
    loss.backward()
    assert loss.item() == 0
    assert not scores.grad.any()


def test_scores_of_ignored_pixels_do_not_matter():
    scores, labels = torch.randn(1, 3, 1, 2), torch.tensor([[[1, 255]]])
    other = scores.clone()
    other[..., 1] = 1e4
    assert pixel_cross_entropy(scores, labels, 255) == pixel_cross_entropy(other, labels, 255)


def test_the_parts_of_a_batch_add_up_to_the_whole():
    scores, labels = torch.randn(3, 4, 5, 5), torch.randint(-1, 4, (3, 5, 5))
    labels[1] = -1
    parts = [pixel_cross_entropy(scores[i], labels[i], -1, labelled=(labels >= 0).sum()) for i in ([2], [0, 1])]
    torch.testing.assert_close(sum(parts), pixel_cross_entropy(scores, labels, -1))
