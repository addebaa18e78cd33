"""Words and queries of one image are to find each other; how they are padded and ordered makes no difference."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from opentrans_cli.distill.grounding import grounding_loss

SCALE = torch.tensor([10.0])


def rows(count: int, *, dimension: int = 8) -> Tensor:
    return F.normalize(torch.randn(count, dimension), dim=1)


def by_hand(queries: list[Tensor], words: list[Tensor], scale: float) -> float:
    """The definition, number by number."""
    count = len(queries)
    fits = torch.zeros(2, count, count)
    for i, own in enumerate(queries):
        for j, said in enumerate(words):
            s = scale * said @ own.T
            fits[0, i, j] = (s.softmax(1) * s).sum(1).mean()
            fits[1, i, j] = (s.softmax(0) * s).sum(0).mean()
    images = -fits.log_softmax(2).diagonal(dim1=1, dim2=2).sum()
    captions = -fits.log_softmax(1).diagonal(dim1=1, dim2=2).sum()
    return float(images + captions) / 4


def test_the_loss_is_its_definition() -> None:
    torch.manual_seed(0)
    queries, words = [rows(n) for n in (3, 1, 5)], [rows(n) for n in (2, 4, 1)]
    assert float(grounding_loss(queries, words, SCALE)) == pytest.approx(by_hand(queries, words, 10.0), rel=1e-5)


def test_words_that_are_found_cost_less_than_words_that_are_elsewhere() -> None:
    torch.manual_seed(0)
    queries = [rows(3), rows(3)]
    right = grounding_loss(queries, [query[:2] for query in queries], SCALE)
    wrong = grounding_loss(queries, [query[:2] for query in reversed(queries)], SCALE)
    assert right < 2 * math.log(2) < wrong


def test_images_can_come_in_any_order() -> None:
    torch.manual_seed(1)
    queries, words = [rows(n) for n in (3, 1, 5)], [rows(n) for n in (2, 4, 1)]
    turned = grounding_loss(queries[::-1], words[::-1], SCALE)
    torch.testing.assert_close(turned, grounding_loss(queries, words, SCALE))


def test_an_image_alone_and_none_at_all_cost_nothing() -> None:
    scale = SCALE.clone().requires_grad_()
    assert grounding_loss([rows(3)], [rows(2)], scale) == 0
    none = grounding_loss([], [], scale)
    none.backward()  # type: ignore[no-untyped-call]
    assert none == 0 and scale.grad is not None and not scale.grad.any()


def test_gradients_reach_queries_and_scale_and_are_finite() -> None:
    torch.manual_seed(2)
    leaves = [rows(n).requires_grad_() for n in (3, 1)]
    scale = SCALE.clone().requires_grad_()
    grounding_loss(leaves, [rows(2), rows(4)], scale).backward()  # type: ignore[no-untyped-call]
    for leaf in (*leaves, scale):
        assert leaf.grad is not None and leaf.grad.any() and leaf.grad.isfinite().all()
