"""Of the words of a caption few are drawn, by the crop alone, and few queries are compared with them."""

from __future__ import annotations

import torch

from opentrans_cli.frameworks.mask_loss import Matches
from opentrans_cli.steps.finetune.grounding import LEFT_OUT, MOST_QUERIES, MOST_WORDS, Grounding, GroundingScale, _some


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
