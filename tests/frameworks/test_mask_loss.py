"""The loss over sets of masks: transformers' numbers, what it rewards and ignores, and the sum of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from opentrans_cli.frameworks import mask_loss
from opentrans_cli.frameworks.base import MaskQueries
from opentrans_cli.frameworks.mask_loss import (
    Layer,
    Matches,
    SetLossOptions,
    draw_points,
    layers_of,
    mask_values,
    match,
    match_queries,
    present_classes,
    sample_labels,
    sample_masks,
    set_divisors,
    set_loss,
    uncertain_points,
)

IGNORE = -1
CLASSES = 3


@pytest.fixture
def label_maps() -> Tensor:
    """Two images of four quarters: classes 0, 1, 2 and ignored; then 1 alone."""
    quarters = torch.tensor([[0, 1], [2, IGNORE]]).repeat_interleave(8, 0).repeat_interleave(8, 1)
    return torch.stack([quarters, torch.ones(16, 16, dtype=torch.int64)])


def perfect(label_maps: Tensor, order: Tensor) -> MaskQueries:
    """One query for each class, in `order`, certain where the class is and that the others are none."""
    masks = torch.stack([(label_maps == c).float() for c in range(CLASSES)], 1)
    logits = torch.full((len(label_maps), CLASSES, CLASSES + 1), -20.0)
    for image, label_map in enumerate(label_maps):
        for c in range(CLASSES):
            logits[image, c, c if bool((label_map == c).any()) else CLASSES] = 20.0
    return MaskQueries(logits[:, order], (40 * masks[..., 2::4, 2::4] - 20)[:, order])


def terms(
    queries: MaskQueries,
    label_maps: Tensor,
    seeds: Sequence[int] | None = None,
    *,
    divisors: Tensor | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Without `divisors` the images are the whole batch."""
    given, seeds = SetLossOptions(**options), seeds or range(len(label_maps))
    if divisors is None:
        divisors = divisors_of(queries, label_maps, seeds, given)
    matches = match_queries(queries, label_maps, seeds, given, ignore=IGNORE)
    return set_loss(queries, matches, label_maps, seeds, given, divisors=divisors, ignore=IGNORE)


def divisors_of(queries: MaskQueries, label_maps: Tensor, seeds: Sequence[int], options: SetLossOptions) -> Tensor:
    return set_divisors(
        label_maps,
        seeds,
        options,
        classes=queries.class_logits.shape[-1] - 1,
        queries=queries.class_logits.shape[1],
        layers=1 + len(queries.auxiliary),
        ignore=IGNORE,
    )


def loss(queries: MaskQueries, label_maps: Tensor, **options: Any) -> Tensor:
    return torch.stack([*terms(queries, label_maps, **options).values()]).sum()


def part_of(queries: MaskQueries, images: Sequence[int]) -> MaskQueries:
    auxiliary = tuple((classes[images], masks[images]) for classes, masks in queries.auxiliary)
    return MaskQueries(queries.class_logits[images], queries.mask_logits[images], auxiliary)


def random_queries(images: int, queries: int, *, layers: int = 3, classes: int = CLASSES) -> MaskQueries:
    made = [(torch.randn(images, queries, classes + 1), 3 * torch.randn(images, queries, 4, 4)) for _ in range(layers)]
    return MaskQueries(*made[-1], auxiliary=tuple(made[:-1]))


def test_a_wrong_class_and_a_wrong_mask_cost_more_whatever_the_order_of_queries_and_padding(label_maps: Tensor) -> None:
    whole = label_maps[1:]  # one mask, so that the same points are drawn
    first, second = (perfect(whole, torch.tensor(order)) for order in ([0, 1, 2], [2, 0, 1]))
    torch.testing.assert_close(loss(first, whole), loss(second, whole))
    padded = torch.nn.functional.pad(label_maps, (0, 16, 0, 16), value=IGNORE)
    wide = MaskQueries(torch.randn(2, 5, CLASSES + 1), torch.randn(2, 5, 8, 8))
    assert loss(wide, label_maps) == loss(wide, padded)
    good = perfect(label_maps, torch.arange(3))
    swapped = MaskQueries(good.class_logits.roll(1, -1), good.mask_logits)
    inverted = MaskQueries(good.class_logits, -good.mask_logits)
    best = loss(good, label_maps)
    assert loss(swapped, label_maps) > best + 1 and loss(inverted, label_maps) > best + 1


def test_an_image_without_labels_teaches_no_mask_but_that_there_is_none(label_maps: Tensor) -> None:
    label_maps = torch.full_like(label_maps, IGNORE)
    masks = torch.randn(2, 4, 4, 4, requires_grad=True)
    logits = torch.randn(2, 4, CLASSES + 1, requires_grad=True)
    loss(MaskQueries(logits, masks), label_maps).backward()
    assert masks.grad is not None and not masks.grad.any()
    assert logits.grad is not None and logits.grad[..., CLASSES].lt(0).all()


def test_nothing_is_drawn_from_torchs_own_generator(label_maps: Tensor) -> None:
    queries = random_queries(2, 5)
    before = torch.random.get_rng_state()
    first, second = (loss(queries, label_maps, region_dropout=0.5) for _ in range(2))
    assert first == second
    assert torch.equal(torch.random.get_rng_state(), before)


def test_parts_in_any_order_add_up_to_the_whole(label_maps: Tensor) -> None:
    torch.manual_seed(2)
    label_maps = torch.cat([label_maps, torch.randint(-1, 3, (2, 16, 16))])
    queries, seeds = random_queries(4, 5), [7, 1, 4, 9]
    options: dict[str, Any] = {"points": 40, "region_dropout": 0.5}
    whole = terms(queries, label_maps, seeds, **options)
    parts = [[3, 1], [2], [0]]
    divisors = torch.stack(
        [
            divisors_of(queries, label_maps[part], [seeds[image] for image in part], SetLossOptions(**options))
            for part in parts
        ]
    ).sum(0)
    summed = dict.fromkeys(whole, torch.zeros(()))
    for part in parts:
        own = [seeds[image] for image in part]
        found = terms(part_of(queries, part), label_maps[part], own, divisors=divisors, **options)
        summed = {name: value + found[name] for name, value in summed.items()}
    for name, value in whole.items():
        torch.testing.assert_close(summed[name], value)


def test_dropped_regions_learn_no_class_and_keep_their_masks(label_maps: Tensor) -> None:
    torch.manual_seed(3)
    queries = random_queries(2, 5, layers=1)
    queries.class_logits.requires_grad_()
    matches = match_queries(queries, label_maps, [0, 1], SetLossOptions(), ignore=IGNORE)[0]
    dropped = terms(queries, label_maps, region_dropout=0.999999)
    dropped["classes"].backward()
    assert queries.class_logits.grad is not None
    matched = torch.zeros(2, 5, dtype=torch.bool)
    matched[matches.image_of, matches.query_of] = True
    assert torch.equal(queries.class_logits.grad.abs().sum(-1) == 0, matched)
    torch.testing.assert_close(dropped["mask"], terms(queries, label_maps)["mask"])


def test_about_the_asked_share_of_regions_is_dropped() -> None:
    label_maps = torch.arange(25).reshape(1, 5, 5).expand(200, -1, -1)
    queries = MaskQueries(torch.zeros(1, 100, 26), torch.zeros(1, 100, 2, 2))
    weights = divisors_of(queries, label_maps, range(200), SetLossOptions(region_dropout=0.3))[1]
    assert float(weights - 0.1 * 75 * 200) == pytest.approx(0.7 * 25 * 200, rel=0.03)


def test_more_masks_than_queries_leave_some_without() -> None:
    torch.manual_seed(5)
    label_maps, queries = torch.randint(0, 3, (2, 16, 16)), random_queries(2, 2)
    matches = match_queries(queries, label_maps, [0, 1], SetLossOptions(), ignore=IGNORE)
    assert [len(one.image_of) for one in matches] == [4, 4, 4]
    assert torch.isfinite(loss(queries, label_maps, region_dropout=0.5))


# Points, and the matches of queries to masks.


def test_points_belong_to_the_sample_the_layer_and_the_purpose_whatever_else_is_drawn() -> None:
    def points_of(*seeds: int, layer: int = 0, purpose: str = "loss") -> Tensor:
        return draw_points(seeds, [2] * len(seeds), 7, layer=layer, purpose=purpose, device=torch.device("cpu"))

    alone = points_of(5)
    assert torch.equal(points_of(3, 5, 8)[2:4], alone) and alone.min() >= 0 and alone.max() < 1
    for other in (points_of(5, layer=1), points_of(5, purpose="match"), points_of(6)):
        assert not torch.equal(other, alone)


def test_labels_at_points_are_those_of_masks_written_out() -> None:
    torch.manual_seed(0)
    label_maps = torch.randint(-1, 3, (2, 6, 9))
    # Corners, edges and the places halfway between two pixels are where a formula goes wrong.
    edges = torch.tensor([[0, 0], [1 - 2**-24, 1 - 2**-24], [0, 0.5], [2 / 9, 3 / 6]])
    points = torch.cat([torch.rand(5, 40, 2), edges.expand(5, -1, -1)], 1)
    image_of, classes = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 0, 2])
    masks = (label_maps[image_of] == classes[:, None, None]).float()
    found = mask_values(sample_labels(label_maps, image_of, points, ignore=IGNORE), classes[:, None])
    torch.testing.assert_close(found, sample_masks(masks[:, None], points)[:, 0])


def test_the_most_uncertain_points_are_taken_and_some_others() -> None:
    torch.manual_seed(0)
    masks, drawn = torch.randn(3, 8, 8), torch.rand(3, 30 + 10, 2)
    taken = uncertain_points(masks, drawn[:, :33], points=10, importance=0.7)
    assert torch.equal(taken[:, 7:], drawn[:, 30:33])
    doubt = sample_masks(masks[:, None], drawn[:, :30])[:, 0].abs().sort(dim=1).values[:, :7]
    found = sample_masks(masks[:, None], taken[:, :7])[:, 0].abs().sort(dim=1).values
    torch.testing.assert_close(found, doubt)
    for importance, fixed in ((0.0, 10), (1.0, 0)):
        taken = uncertain_points(masks, drawn[:, : 30 + fixed], points=10, importance=importance)
        assert taken.shape == (3, 10, 2) and torch.equal(taken[:, 10 - fixed :], drawn[:, 30 : 30 + fixed])


def layer_of(images: int, queries: int, classes: int) -> Layer:
    return torch.randn(images, queries, classes + 1), 3 * torch.randn(images, queries, 4, 4)


def pairs(matches: Matches, image: int) -> dict[int, int]:
    """Class -> query of an image."""
    here = matches.image_of == image
    return dict(zip(matches.class_of[here].tolist(), matches.query_of[here].tolist(), strict=True))


def test_every_class_but_the_ignored_is_present() -> None:
    label_maps = torch.tensor([[[2, -1], [0, 2]], [[-1, -1], [-1, -1]]])
    assert present_classes(label_maps, 3, ignore=-1).tolist() == [[True, False, True], [False] * 3]
    assert present_classes(label_maps.masked_fill(label_maps < 0, 255), 3, ignore=255).sum() == 2


def test_matches_do_not_depend_on_the_company_of_an_image() -> None:
    torch.manual_seed(0)
    label_maps, layer = torch.randint(-1, 4, (3, 16, 16)), layer_of(3, 6, 4)
    label_maps[1, :, :8] = label_maps[1, 0, 0]
    together = match([layer], label_maps, [1, 2, 3], ignore=IGNORE, points=30)[0]
    for image in range(3):
        part = slice(image, image + 1)
        alone = match([(layer[0][part], layer[1][part])], label_maps[part], [image + 1], ignore=IGNORE, points=30)[0]
        assert pairs(alone, 0) == pairs(together, image)


def test_matches_go_by_image_and_class_and_may_be_none() -> None:
    torch.manual_seed(0)
    nothing = match([layer_of(2, 3, 4)] * 2, torch.full((2, 8, 8), IGNORE), [1, 2], ignore=IGNORE, points=30)
    assert [len(one.image_of) for one in nothing] == [0, 0]
    found = match([layer_of(2, 9, 4)], torch.randint(0, 4, (2, 8, 8)), [1, 2], ignore=IGNORE, points=30)[0]
    assert found.image_of.tolist() == [0] * 4 + [1] * 4
    assert found.class_of.tolist() == [0, 1, 2, 3] * 2
    assert len(set(found.query_of[:4].tolist())) == 4


def test_a_query_that_says_nothing_finite_is_taken_last() -> None:
    torch.manual_seed(0)
    layer = layer_of(1, 3, 2)
    layer[1][0, 0] = torch.nan
    found = match([layer], torch.tensor([[[0, 1], [1, 0]]]).repeat(1, 8, 8), [1], ignore=IGNORE, points=30)[0]
    assert sorted(found.query_of.tolist()) == [1, 2]


# transformers' own loss.


class Recorded:
    """What is drawn for the loss, by layer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.points: dict[tuple[str, int], Tensor] = {}

        def drawn(*arguments: Any, **named: Any) -> Tensor:
            points = draw_points(*arguments, **named)
            self.points[named["purpose"], named["layer"]] = points
            return points

        monkeypatch.setattr(mask_loss, "draw_points", drawn)

    def as_transformers_asks(self, matches: Sequence[Matches], *, looked_at: int) -> Iterator[Tensor]:
        """The result first, then the auxiliary layers; masks of an image in the order of their queries."""
        for layer in (len(matches) - 1, *range(len(matches) - 1)):
            for points in self.points["match", layer]:
                yield points[None]
            one = matches[layer]
            order = (one.image_of * 1000 + one.query_of).argsort()
            points = self.points["loss", layer][order]
            yield points[:, :looked_at].contiguous()
            yield points[:, looked_at:]


@pytest.mark.parametrize(("seed", "queries", "layers"), [(0, 7, 3), (1, 7, 1), (2, 2, 3)])
def test_the_loss_is_that_of_transformers_at_the_same_points(
    seed: int, queries: int, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

    torch.manual_seed(seed)
    label_maps = torch.randint(-1, 3, (3, 4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    label_maps[1] = label_maps[1, 0, 0]
    found, points = random_queries(3, queries, layers=layers), 50
    leaves = [part.requires_grad_() for layer in layers_of(found) for part in layer]
    record = Recorded(monkeypatch)
    ours = terms(found, label_maps, points=points)
    matches = match_queries(found, label_maps, [0, 1, 2], SetLossOptions(points=points), ignore=IGNORE)

    config = Mask2FormerConfig(no_object_weight=0.1, train_num_points=points)
    config.class_weight, config.mask_weight, config.dice_weight, config.num_labels = 2.0, 5.0, 5.0, CLASSES
    classes = [torch.arange(CLASSES)[row] for row in present_classes(label_maps, CLASSES, ignore=IGNORE)]
    masks = [(label_map == one[:, None, None]).float() for label_map, one in zip(label_maps, classes, strict=True)]
    given = record.as_transformers_asks(matches, looked_at=3 * points)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(given))
    theirs = Mask2FormerLoss(config=config, weight_dict={})(
        found.mask_logits,
        found.class_logits,
        masks,
        classes,
        [{"masks_queries_logits": mask, "class_queries_logits": logits} for logits, mask in found.auxiliary],
    )
    names = {"classes": ("cross_entropy", 2.0), "mask": ("mask", 5.0), "dice": ("dice", 5.0)}
    expected = {
        ours_: factor * sum(v for k, v in theirs.items() if k.rstrip("_0123456789") == f"loss_{name}")
        for ours_, (name, factor) in names.items()
    }
    for name, value in ours.items():
        torch.testing.assert_close(value, expected[name])
    wanted = torch.autograd.grad(torch.stack([*expected.values()]).sum(), leaves)
    for gradient, other in zip(torch.autograd.grad(torch.stack([*ours.values()]).sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-6, rtol=1e-4)
