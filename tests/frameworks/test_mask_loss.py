"""The loss over sets of masks: what it rewards, what it ignores, and that it draws from torch's generator alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from opentrans_cli.frameworks.base import MaskQueries
from opentrans_cli.frameworks.mask_loss import SetLossWeights, set_loss

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


def loss(queries: MaskQueries, label_maps: Tensor, **weights: float) -> Tensor:
    torch.manual_seed(0)
    return set_loss(queries, label_maps, ignore=IGNORE, weights=SetLossWeights(**weights))  # type: ignore[arg-type]


def test_the_order_of_the_queries_does_not_matter(label_maps: Tensor) -> None:
    whole = label_maps[1:]  # one mask, so that the same points are drawn
    first, second = (perfect(whole, torch.tensor(order)) for order in ([0, 1, 2], [2, 0, 1]))
    torch.testing.assert_close(loss(first, whole), loss(second, whole))


def test_a_wrong_class_and_a_wrong_mask_cost_more(label_maps: Tensor) -> None:
    good = perfect(label_maps, torch.arange(3))
    swapped = MaskQueries(good.class_logits.roll(1, -1), good.mask_logits)
    inverted = MaskQueries(good.class_logits, -good.mask_logits)
    best = loss(good, label_maps)
    assert loss(swapped, label_maps) > best + 1 and loss(inverted, label_maps) > best + 1


def test_every_weight_scales_its_own_term(label_maps: Tensor) -> None:
    torch.manual_seed(1)
    queries = MaskQueries(torch.randn(2, 5, CLASSES + 1), torch.randn(2, 5, 4, 4))
    # What is matched depends on the ratio of the weights, so each is taken alone.
    parts = [{"classes": 0.0, "mask": 0.0, "dice": 0.0, name: 1.0} for name in ("classes", "mask", "dice")]
    for part in parts:
        double = {name: 2 * value for name, value in part.items()}
        torch.testing.assert_close(loss(queries, label_maps, **double), 2 * loss(queries, label_maps, **part))


def test_auxiliary_layers_count_as_the_last(label_maps: Tensor) -> None:
    queries = perfect(label_maps, torch.arange(3))
    bad = (torch.zeros(2, 3, CLASSES + 1), torch.zeros(2, 3, 4, 4))
    again = (queries.class_logits, queries.mask_logits)
    with_good = MaskQueries(*again, auxiliary=(again,))
    with_bad = MaskQueries(queries.class_logits, queries.mask_logits, auxiliary=(bad,))
    assert loss(with_bad, label_maps) > loss(with_good, label_maps) + 1


def test_an_image_without_labels_teaches_no_mask_but_that_there_is_none(label_maps: Tensor) -> None:
    label_maps = torch.full_like(label_maps, IGNORE)
    masks = torch.randn(2, 4, 4, 4, requires_grad=True)
    logits = torch.randn(2, 4, CLASSES + 1, requires_grad=True)
    loss(MaskQueries(logits, masks), label_maps).backward()
    assert masks.grad is not None and not masks.grad.any()
    assert logits.grad is not None and logits.grad[..., CLASSES].lt(0).all()


def test_the_same_generator_gives_the_same_loss(label_maps: Tensor) -> None:
    queries = MaskQueries(torch.randn(2, 5, CLASSES + 1), torch.randn(2, 5, 4, 4))
    assert loss(queries, label_maps) == loss(queries, label_maps)


def test_labels_are_padded_as_images_are(label_maps: Tensor) -> None:
    queries = MaskQueries(torch.randn(2, 5, CLASSES + 1), torch.randn(2, 5, 8, 8))
    padded = torch.nn.functional.pad(label_maps, (0, 16, 0, 16), value=IGNORE)
    assert loss(queries, label_maps) == loss(queries, padded)
