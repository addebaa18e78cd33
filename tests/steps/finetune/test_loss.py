"""The loss of a step is the sum over its parts, wherever they are computed, and says which terms it has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from opentrans_cli.clip.prefix import outputs
from opentrans_cli.clip.source import load_clip
from opentrans_cli.distill.text_guided import RegionHeads, text_guided_loss
from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import MaskQueries
from opentrans_cli.frameworks.mask_loss import Matches
from opentrans_cli.steps.finetune import region_kd
from opentrans_cli.steps.finetune.grounding import LEFT_OUT, MOST_QUERIES, MOST_WORDS, Grounding, GroundingScale, _some
from opentrans_cli.steps.finetune.loss import (
    SEGMENTOR,
    TrainedModule,
    check_loss_options,
    loss_identity,
    make_loss,
    pixel_cross_entropy,
)
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.finetune.region_kd import RegionKd, Regions, RegionShare
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


MASKS = ("han", "mask2former", "fcclip")

Case = Callable[..., Any]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("framework", ["deeplabv3", *MASKS])
def test_every_trained_parameter_has_a_gradient_after_one_step(framework: str, labelled: bool, loss_case: Case) -> None:
    case = loss_case(framework, kd_weight=2.0, grounding=framework in MASKS)
    images, label_maps, *rest = case.batch
    batch = (images, label_maps if labelled else torch.full_like(label_maps, -1), *rest)
    loss = case.loss(case.trained.train())
    terms = loss(batch, loss.whole(batch))
    torch.stack([*terms.values()]).sum().backward()
    trained = {name: p for name, p in case.trained.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert all(bool(p.grad.isfinite().all()) for p in trained.values())
    if labelled:
        assert all(bool(p.grad.any()) for name, p in trained.items() if not name.startswith(SEGMENTOR))


@pytest.mark.parametrize("framework", ["deeplabv3", "han"])
def test_what_losses_learn_stays_out_of_the_segmentor(framework: str, loss_case: Case) -> None:
    case = loss_case(framework, kd_weight=2.0, grounding=framework in MASKS)
    inside = {name.removeprefix(SEGMENTOR) for name in case.trained.state_dict() if name.startswith(SEGMENTOR)}
    assert inside == case.built.module.state_dict().keys()
    beside = {name.split(".")[0] for name in case.trained.state_dict() if not name.startswith(SEGMENTOR)}
    assert beside == {"regions"} | ({"grounding"} if framework in MASKS else set())
    assert len(case.trained.regions.projections) == (1 if framework == "deeplabv3" else 3)


def test_without_further_losses_nothing_is_learned_beside_the_segmentor(loss_case: Case) -> None:
    trained = loss_case("han").trained
    assert all(name.startswith(SEGMENTOR) for name in trained.state_dict())


@pytest.mark.parametrize("framework", ["deeplabv3", "han"])
def test_cached_features_give_what_their_pixels_give(framework: str, loss_case: Case) -> None:
    case = loss_case(framework)
    trained, images = case.trained.eval(), case.batch[0]
    with torch.no_grad():
        features = outputs(trained.segmentor.backbone, images, "layer2.0")
        whole = trained(images)
        trained.prefix_end = "layer2.0"
        replayed = trained(torch.zeros_like(images), *features)
    leaves = [tree_leaves(found) for found in (replayed, whole)]
    assert all(one is other is None or torch.equal(one, other) for one, other in zip(*leaves, strict=True))


def test_scores_are_the_same_with_and_without_distillation(loss_case: Case) -> None:
    plain, taught = loss_case("deeplabv3"), loss_case("deeplabv3", kd_weight=1.0)
    images, label_maps, *_ = plain.batch
    none = Regions(*torch.zeros(2, 0, dtype=torch.int64))
    with torch.no_grad():
        scores = plain.trained.eval()(images).scores
        again = taught.trained.eval()(images, label_maps=label_maps, regions=none)
    assert torch.equal(scores, again.scores)
    assert again.students[0].shape == (0, 64)


@pytest.mark.parametrize("framework", MASKS)
def test_queries_come_with_what_each_layer_says_of_them(framework: str, loss_case: Case) -> None:
    case = loss_case(framework, kd_weight=1.0)
    queries = case.trained.train()(case.batch[0]).queries
    assert isinstance(queries, MaskQueries)
    assert len(queries.states) == len(queries.embeddings) == 1 + len(queries.auxiliary) == 3
    for embedding in queries.embeddings:
        assert embedding.shape[-1] == case.trained.text.embeddings.shape[1]
        torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(embedding.shape[:2]))


def test_queries_of_fixed_classes_cannot_be_grounded(loss_case: Case) -> None:
    case = loss_case("mask2former", classes=3)
    with pytest.raises(OptionError, match=r"fixed list of classes .*--grounding-weight; leave it out"):
        TrainedModule(case.built, case.options_with(grounding_weight=1.0), case.trained.text)
    TrainedModule(case.built, case.options_with(kd_weight=1.0), case.trained.text)


Case = Callable[..., Any]
GROUNDED: dict[str, Any] = {"grounding_weight": 1.0, "captions": "captions.tsv"}


@pytest.mark.parametrize("framework", ["deeplabv3", "han", "mask2former", "fcclip"])
def test_the_defaults_are_fine_for_every_framework(framework: str) -> None:
    check_loss_options(FinetuneOptions(), FRAMEWORKS.load(framework))
    check_loss_options(FinetuneOptions(kd_weight=2.0), FRAMEWORKS.load(framework))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": -1.0}, "out of range: --class-weight -1"),
        ({"kd_weight": float("nan")}, "out of range: --kd-weight nan"),
        ({"dice_weight": float("inf")}, "out of range: --dice-weight inf"),
        ({"class_weight": 0.0, "mask_weight": 0.0, "dice_weight": 0.0}, "every weight of the loss is 0; "),
        ({"points": 0}, "out of range: --points 0"),
        ({"oversample": 0.5}, "out of range: --oversample 0.5"),
        ({"importance": 1.1}, "out of range: --importance 1.1"),
        ({"region_dropout": 1.0}, "out of range: --region-dropout 1"),
        ({"captions": "captions.tsv"}, "captions without a part in the loss: captions.tsv; give --grounding-weight"),
        ({"grounding_weight": 1.0}, "words of images are missing: --grounding-weight; name their file with --captions"),
        ({**GROUNDED, "batch_size": 4, "accumulate": 4}, "--batch-size 4 in 4 parts; give at least 2 images a part"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_loss_options(FinetuneOptions(**options), FRAMEWORKS.load("han"))


def test_words_need_queries() -> None:
    with pytest.raises(OptionError, match="deeplabv3 has none: --grounding-weight; leave it out"):
        check_loss_options(FinetuneOptions(**GROUNDED), FRAMEWORKS.load("deeplabv3"))


def made(case: Any, captions: Path, *, world: World | None = None) -> Any:
    options = case.options_with(grounding_weight=1.0, captions=str(captions))
    return make_loss(case.built, case.loader, load_clip("tiny"), options, world or case.world)


def test_captions_have_to_be_of_the_images(tmp_path: Path, loss_case: Case) -> None:
    captions = tmp_path / "captions.tsv"
    with pytest.raises(DataError, match="captions not found"):
        made(loss_case("han"), captions)
    captions.write_text("elsewhere\tred dog\n")
    with pytest.raises(DataError, match=r"none of the images: .*, first 'elsewhere'; images are called like 'train-0"):
        made(loss_case("han"), captions)


def test_processes_with_one_image_each_have_nothing_to_tell_a_caption_from(tmp_path: Path, loss_case: Case) -> None:
    world = World(torch.device("cpu"))
    world.size = 4
    with pytest.raises(OptionError, match="4 processes share --batch-size 4; give at least 2 images"):
        made(loss_case("han"), tmp_path / "captions.tsv", world=world)


def test_what_the_loss_reads_is_part_of_the_identity_of_a_run(tmp_path: Path) -> None:
    captions = tmp_path / "captions.tsv"
    options = FinetuneOptions(grounding_weight=1.0, captions=str(captions))
    with pytest.raises(DataError, match=r"captions cannot be read: .*; name a text file"):
        loss_identity(options)
    captions.write_text("a\tdog\n")
    first = loss_identity(options)
    captions.write_text("a\tcat\n")
    assert loss_identity(options).keys() == first.keys() == {"captions"}
    assert loss_identity(options) != first
    assert loss_identity(FinetuneOptions()) == {}


def test_the_teacher_is_the_dense_tower_and_stays_as_it_is(loss_case: Case) -> None:
    case = loss_case("deeplabv3", kd_weight=1.0)
    dense = load_clip("tiny").model.visual.state_dict()
    taught = case.kd._teacher._visual
    assert all(torch.equal(tensor, dense[name]) for name, tensor in taught.state_dict().items())
    assert not any(parameter.requires_grad for parameter in taught.parameters()) and not taught.training
    assert {id(p) for p in taught.parameters()}.isdisjoint(id(p) for p in case.trained.parameters())


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


def test_a_crop_has_its_words_in_whatever_company() -> None:
    grounding = Grounding({0: range(9), 2: range(3)}, torch.eye(9))
    together = grounding.drawn([2, 0, 1], [7, 8, 9])
    assert together[1:] == grounding.drawn([0, 1], [8, 9])
    assert together[2] == []
    assert all(len(words) <= MOST_WORDS and len({*words}) == len(words) for words in together)


def test_a_quarter_of_the_words_is_left_out_and_each_has_its_turn() -> None:
    grounding = Grounding({0: range(4), 1: range(9)}, torch.eye(9))
    drawn = [grounding.drawn([0, 1], [draw, draw]) for draw in range(500)]
    kept = sum(len(few) for few, _ in drawn) / 2000
    assert abs(kept - (1 - LEFT_OUT)) < 0.03
    assert {word for _, many in drawn for word in many} == {*range(9)}


def test_images_without_words_or_masks_are_not_counted() -> None:
    grounding = Grounding({0: range(9), 1: range(9)}, torch.eye(9))
    assert grounding.count([0, 1, 5], [1, 2, 3], [4, 0, 2]) == 1


def test_at_most_so_many_of_the_matched_queries_are_compared() -> None:
    matched = torch.arange(40) * 2
    some = _some(matched, 3, 0)
    assert len(some) == len(some.unique()) == MOST_QUERIES
    assert torch.isin(some, matched).all()
    assert torch.equal(some, _some(matched, 3, 0)) and not torch.equal(some, _some(matched, 4, 0))
    assert torch.equal(_some(matched[:5], 3, 0), matched[:5])


def test_queries_of_a_batch_without_captions_still_take_part() -> None:
    embeddings = torch.randn(1, 3, 4, requires_grad=True)
    none = torch.zeros(1, dtype=torch.int64)
    term = Grounding({}, torch.eye(4))(embeddings, Matches(none, none, none), [0], [0], GroundingScale()(), layer=0)
    term.backward()  # type: ignore[no-untyped-call]
    assert term == 0 and embeddings.grad is not None and not embeddings.grad.any()
