"""Queries are matched to masks at least cost, the same as transformers does it, image by image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from opentrans_cli.frameworks import mask_loss
from opentrans_cli.frameworks.mask_loss import Layer, Matches, draw_points, match, present_classes

IGNORE = -1
CPU = torch.device("cpu")


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


@pytest.mark.parametrize(("seed", "queries"), [(0, 6), (1, 6), (2, 6), (3, 3)])
def test_matches_are_those_of_transformers(seed: int, queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerHungarianMatcher

    torch.manual_seed(seed)
    label_maps = torch.randint(-1, 5, (3, 16, 16))
    layer, draws, points = layer_of(3, queries, 5), [4, 2, 9], 60
    classes = [torch.arange(5)[row] for row in present_classes(label_maps, 5, ignore=IGNORE)]
    masks = [(label_map == one[:, None, None]).float() for label_map, one in zip(label_maps, classes, strict=True)]
    given = iter(draw_points(draws, [1] * 3, points, layer=0, purpose="match", device=CPU))
    found = match([layer], label_maps, draws, ignore=IGNORE, points=points)[0]
    theirs = Mask2FormerHungarianMatcher(cost_class=2.0, cost_mask=5.0, cost_dice=5.0, num_points=points)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(given)[None])
    for image, (queries_, places) in enumerate(theirs(layer[1], layer[0], masks, classes)):
        expected = dict(zip(classes[image][places].tolist(), queries_.tolist(), strict=True))
        assert pairs(found, image) == expected
        assert len(expected) == min(queries, len(classes[image]))


def test_matches_do_not_depend_on_the_company_of_an_image() -> None:
    torch.manual_seed(0)
    label_maps, layer = torch.randint(-1, 4, (3, 16, 16)), layer_of(3, 6, 4)
    label_maps[1, :, :8] = label_maps[1, 0, 0]
    together = match([layer], label_maps, [1, 2, 3], ignore=IGNORE, points=30)[0]
    for image in range(3):
        part = slice(image, image + 1)
        alone = match([(layer[0][part], layer[1][part])], label_maps[part], [image + 1], ignore=IGNORE, points=30)[0]
        assert pairs(alone, 0) == pairs(together, image)


def test_matches_go_by_image_and_class() -> None:
    torch.manual_seed(0)
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


def test_without_masks_nothing_is_matched() -> None:
    layers = [layer_of(2, 3, 4)] * 2
    found = match(layers, torch.full((2, 8, 8), IGNORE), [1, 2], ignore=IGNORE, points=30)
    assert [len(one.image_of) for one in found] == [0, 0]


def test_no_gradient_goes_through_a_match(monkeypatch: pytest.MonkeyPatch) -> None:
    grads: list[bool] = []
    costs: Callable[..., Tensor] = mask_loss._costs

    def watched(*arguments: object, **named: object) -> Tensor:
        result = costs(*arguments, **named)
        grads.append(result.requires_grad)
        return result

    monkeypatch.setattr(mask_loss, "_costs", watched)
    logits, masks = (part.requires_grad_() for part in layer_of(1, 3, 2))
    match([(logits, masks)], torch.zeros(1, 8, 8, dtype=torch.int64), [1], ignore=IGNORE, points=30)
    assert grads == [False]
