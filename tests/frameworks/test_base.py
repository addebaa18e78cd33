"""What every framework promises, and how synonyms become classes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import prunable_layers
from opentrans_cli.errors import OptionError, SourceError, TransferError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import ClassText, class_scores, parse_options
from opentrans_cli.training.costs.macs import count_macs

every_framework = pytest.mark.parametrize("name", FRAMEWORKS.names())
of_pixels = pytest.mark.parametrize("name", [name for name in FRAMEWORKS.names() if not FRAMEWORKS.load(name).masks])
of_masks = pytest.mark.parametrize("name", [name for name in FRAMEWORKS.names() if FRAMEWORKS.load(name).masks])


@every_framework
def test_there_is_a_map_per_class_of_the_size_of_the_images_whatever_the_order_of_the_texts(name, tower, text, images):
    segmentor = FRAMEWORKS.load(name).build(tower()).eval()
    order = torch.tensor([3, 0, 4, 1, 2])
    scores = segmentor(images, ClassText.one_each(text))
    assert scores.shape == (2, 5, 75, 100) and scores.dtype == torch.float32 and torch.isfinite(scores).all()
    torch.testing.assert_close(segmentor(images, ClassText.one_each(text[order])), scores[:, order])
    assert segmentor(images, ClassText(text, (1, 0, 0, 1, 0), (True, False))).shape == (2, 2, 75, 100)
    assert segmentor(images, ClassText(text[:1], (0,), (True,))).shape == (2, 1, 75, 100)


@of_pixels
def test_scores_are_the_classified_embeddings_at_the_size_of_the_images(name, tower, text, images):
    segmentor = FRAMEWORKS.load(name).build(tower()).eval()
    embeddings = segmentor.embed(images)
    assert embeddings.shape[:2] == (2, 16)
    scores = F.interpolate(segmentor.classifier(embeddings, text), size=images.shape[2:], mode="bilinear")
    assert torch.equal(segmentor(images, ClassText.one_each(text)), scores)


@of_masks
def test_scores_are_those_of_the_queries(name, tower, text, images):
    segmentor = FRAMEWORKS.load(name).build(tower()).eval()
    words = ClassText.one_each(text)
    found = segmentor.queries(images, words)
    classes = found.class_logits.softmax(-1)[..., :-1]
    masks = F.interpolate(found.mask_logits, scale_factor=4, mode="bilinear")[..., :75, :100].sigmoid()
    torch.testing.assert_close(segmentor(images, words), torch.einsum("bqc,bqhw->bchw", classes, masks))
    assert found.auxiliary == ()


OF_WORDS = (1, 0, 0, 1, 2)
"""Classes of the five texts."""


def best_of(scores, dim):
    """Of scores of the five texts the largest of each class."""
    parts = [[s for s in range(5) if OF_WORDS[s] == c] for c in range(3)]
    return torch.stack([scores.index_select(dim, torch.tensor(part)).amax(dim) for part in parts], dim)


@of_pixels
def test_a_class_scores_at_every_pixel_as_the_best_of_its_words_alone(name, tower, text, images):
    segmentor = FRAMEWORKS.load(name).build(tower()).eval()
    alone = segmentor(images, ClassText.one_each(text))
    torch.testing.assert_close(segmentor(images, ClassText(text, OF_WORDS, (True,) * 3)), best_of(alone, 1))


@of_masks
def test_a_query_is_classified_by_the_best_word_of_each_class_before_the_softmax(name, tower, text):
    segmentor = FRAMEWORKS.load(name).build(tower(), {"decoder_layers": 1, "queries": 5}).eval()
    segmentor.training = True  # the learned classes of FC-CLIP, which mixes others in; its test has their formula
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    alone = segmentor.queries(image, ClassText.one_each(text)).class_logits
    classes = segmentor.queries(image, ClassText(text, OF_WORDS, (True,) * 3)).class_logits
    torch.testing.assert_close(classes, torch.cat([best_of(alone[..., :5], 2), alone[..., 5:]], 2))


@of_masks
def test_every_layer_of_the_decoder_learns_from_one_small_image(name, tower, text):
    segmentor = FRAMEWORKS.load(name).build(tower(), {"decoder_layers": 2, "queries": 5}).train()
    found = segmentor.queries(torch.randn(1, 3, 64, 64), ClassText.one_each(text))
    pairs = [(found.class_logits, found.mask_logits), *found.auxiliary]
    assert [(tuple(classes.shape), tuple(masks.shape)) for classes, masks in pairs] == [((1, 5, 6), (1, 5, 16, 16))] * 3
    sum(classes.square().mean() + masks.square().mean() for classes, masks in pairs).backward()
    for key, parameter in segmentor.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key


class Priced(nn.Module):
    """A segmentor of tensors alone, as costs are counted."""

    def __init__(self, segmentor):
        super().__init__()
        self.segmentor = segmentor

    def forward(self, images, embeddings):
        return self.segmentor(images, ClassText.one_each(embeddings))


@every_framework
def test_costs_can_be_counted_without_arithmetic(name, tower):
    for training in (False, True):
        segmentor = FRAMEWORKS.load(name).build(tower()).train(training)
        costs = {cost.name: cost for cost in count_macs(Priced(segmentor), (1, 3, 64, 64), (5, 16))}
        conv = costs["segmentor.backbone.layer1.0.conv2"]
        assert conv.forward == 8 * 8 * 9 * 16 * 16
        assert bool(conv.weight_gradient) != FRAMEWORKS.load(name).frozen_trunk


@every_framework
def test_a_frozen_trunk_is_in_eval_mode_and_layers_keep_their_names(name, tower):
    framework = FRAMEWORKS.load(name)
    segmentor = framework.build(tower()).train()
    trainable = [parameter for parameter in segmentor.backbone.parameters() if parameter.requires_grad]
    assert framework.frozen_trunk != bool(trainable) and framework.frozen_trunk != segmentor.backbone.training
    assert prunable_layers(segmentor.backbone) == prunable_layers(tower())


@every_framework
def test_foreign_towers_and_tensors_are_refused_by_name(name, tower):
    visual = tower()
    visual.register_buffer("extra", torch.zeros(1))
    with pytest.raises(TransferError, match="'extra'"):
        FRAMEWORKS.load(name).map_keys(visual)
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 16}
    words = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
    with pytest.raises(SourceError, match="VisionTransformer; use a ResNet CLIP"):
        FRAMEWORKS.load(name).build(build_clip({"embed_dim": 16, "vision_cfg": vision, "text_cfg": words}).visual)


@every_framework
def test_options_are_resolved_from_text_and_checked(name):
    framework = FRAMEWORKS.load(name)
    if not framework.masks:
        assert framework.options({"output_stride": "8"}).output_stride == 8
        with pytest.raises(OptionError, match=rf"{name} has no output stride: 4; choose 8, 16 or 32"):
            framework.options({"output_stride": 4})
        return
    options = framework.options({"queries": "7", "width": "64"})
    assert (options.queries, options.encoder_layers, options.decoder_layers) == (7, 6, 9)  # the rest as published
    sizes = framework.options().sizes(2048)
    assert (sizes.width, sizes.mask_width, sizes.encoder_ffn, sizes.decoder_ffn, sizes.heads) == (
        256,
        256,
        1024,
        2048,
        8,
    )
    assert sizes.queries == (250 if name == "fcclip" else 100)
    for wrong, message in (({"width": 48}, "give a multiple of 32"), ({"queries": 0}, "0 queries")):
        with pytest.raises(OptionError, match=message):
            framework.options(wrong)


@dataclass(frozen=True)
class Sample:
    count: int = 1
    share: float = 0.5
    flag: bool = False
    width: int | None = None


def test_option_text_is_converted_to_the_type_of_the_field_or_refused_by_name():
    for given, expected in (
        ({}, Sample()),
        ({"count": "12", "share": "0.25", "flag": "true", "width": "8"}, Sample(12, 0.25, True, 8)),
        ({"count": 3, "share": 1, "flag": False, "width": None}, Sample(3, 1, False, None)),
        ({"width": "none", "flag": "False"}, Sample()),
    ):
        assert parse_options(Sample, given, framework="sample") == expected
    for given, message in (
        ({"height": 1}, "sample has no option: 'height'; choose from count, share, flag, width"),
        ({"count": "many"}, "wrong value for sample count: 'many'; give int"),
        ({"count": 1.5}, "wrong value for sample count: 1.5; give int"),
        ({"count": True}, "wrong value for sample count: True; give int"),
        ({"flag": 1}, "wrong value for sample flag: 1; give bool"),
        ({"width": "wide"}, "wrong value for sample width: 'wide'; give int or none"),
    ):
        with pytest.raises(OptionError) as error:
            parse_options(Sample, given, framework="sample")
        assert str(error.value) == message


def test_a_class_scores_as_its_best_synonym_which_alone_learns():
    scores, class_indices = torch.randn(2, 7, 3, 4), (2, 0, 1, 0, 2, 2, 1)
    classes = class_scores(scores, class_indices)
    for c in range(3):
        slow = scores[:, [s for s in range(7) if class_indices[s] == c]].max(1).values
        assert torch.equal(classes[:, c], slow)
    for order in (range(4), (2, 0, 3, 1)):
        assert torch.equal(class_scores(scores[:, :4], order)[:, list(order)], scores[:, :4])
    leaf = torch.tensor([1.0, 3.0, 2.0]).view(1, 3, 1, 1).requires_grad_()
    class_scores(leaf, (0, 0, 0)).sum().backward()
    assert leaf.grad is not None and leaf.grad.flatten().tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="class 1 has no synonym"):
        class_scores(torch.randn(1, 2, 1, 1), (0, 2))
