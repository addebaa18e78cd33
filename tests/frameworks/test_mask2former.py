"""Plain Mask2Former: a fixed list of classes as published, or words."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.mask2former import MASK2FORMER
from opentrans_cli.frameworks.mask_inference import semantic_scores

SMALL = {"queries": 6, "width": 32, "encoder_layers": 1, "decoder_layers": 3}


@pytest.fixture
def words(text: torch.Tensor) -> ClassText:
    """Five synonyms of three classes."""
    return ClassText(text, class_indices=(0, 0, 1, 2, 2), seen=(True, True, False))


@pytest.mark.parametrize("classes", [None, 3])
def test_scores_are_those_of_the_queries_and_training_reaches_trunk_and_head(tower, images, words, classes):
    segmentor = MASK2FORMER.build(tower(), {**SMALL, "classes": classes}).eval()
    found = segmentor.queries(images, words)
    assert found.class_logits.shape == (2, 6, 4) and found.mask_logits.shape == (2, 6, 24, 32)
    assert torch.equal(segmentor(images, words), semantic_scores(found.class_logits, found.mask_logits, (75, 100)))
    found = segmentor.train().queries(images, words)
    assert [classified.shape for classified, _ in found.auxiliary] == [(2, 6, 4)] * 3
    pairs = [*found.auxiliary, (found.class_logits, found.mask_logits)]
    torch.stack([x.square().mean() for pair in pairs for x in pair]).sum().backward()
    for name, parameter in segmentor.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert segmentor.backbone.conv1.weight.grad.any()
    assert all(parameter.grad.any() for parameter in segmentor.classifier.parameters())
    assert segmentor.backbone.attnpool is None


def test_a_fixed_list_does_not_read_the_words_but_counts_them(tower, images, words, text):
    segmentor = MASK2FORMER.build(tower(), {**SMALL, "classes": 3}).eval()
    other = ClassText.one_each(text[:3].roll(1, 0))
    assert torch.equal(segmentor(images, words), segmentor(images, other))
    with pytest.raises(DataError, match=r"fixed list of 3 classes: 5 given; name the 3"):
        segmentor(images, ClassText.one_each(text))


def test_by_text_a_class_is_its_best_synonym(tower, images, words, text):
    segmentor = MASK2FORMER.build(tower(), SMALL).eval()
    each = segmentor.queries(images, ClassText.one_each(text)).class_logits
    classes = segmentor.queries(images, words).class_logits
    expected = torch.stack([each[..., :2].amax(-1), each[..., 2], each[..., 3:5].amax(-1), each[..., 5]], -1)
    torch.testing.assert_close(classes, expected)
    assert classes.abs().max() <= 1 / 0.07 + 1e-4


def test_an_empty_list_is_refused():
    with pytest.raises(OptionError, match="mask2former needs classes: 0; give at least 1"):
        MASK2FORMER.options({"classes": 0})
