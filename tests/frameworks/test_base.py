"""What every framework promises, and how synonyms become classes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import prunable_layers
from opentrans_cli.errors import OptionError, SourceError, TransferError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import BACKBONE, ClassText, class_scores
from opentrans_cli.training.costs.macs import count_macs

every_framework = pytest.mark.parametrize("name", FRAMEWORKS.names())
of_pixels = pytest.mark.parametrize("name", [name for name in FRAMEWORKS.names() if not FRAMEWORKS.load(name).masks])
of_masks = pytest.mark.parametrize("name", [name for name in FRAMEWORKS.names() if FRAMEWORKS.load(name).masks])


@every_framework
def test_scores_have_one_map_per_text_at_the_size_of_the_images(name, tower, text, images):
    segmentor = FRAMEWORKS.load(name).build(tower()).eval()
    scores = segmentor(images, ClassText.one_each(text))
    assert scores.shape == (2, 5, 75, 100)
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).all()


@every_framework
def test_the_order_of_texts_does_not_matter(name, tower, text, images):
    segmentor = FRAMEWORKS.load(name).build(tower()).eval()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        segmentor(images, ClassText.one_each(text[order])), segmentor(images, ClassText.one_each(text))[:, order]
    )


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


@of_masks
def test_classes_may_have_synonyms_and_be_one_alone(name, tower, text, images):
    segmentor = FRAMEWORKS.load(name).build(tower(), {"queries": 5}).eval()
    words = ClassText(text, (1, 0, 0, 1, 0), (True, False))
    assert segmentor(images, words).shape == (2, 2, 75, 100)
    assert segmentor(images, ClassText(text[:1], (0,), (True,))).shape == (2, 1, 75, 100)


class Priced(nn.Module):
    """A segmentor of tensors alone, as costs are counted."""

    def __init__(self, segmentor):
        super().__init__()
        self.segmentor = segmentor

    def forward(self, images, embeddings):
        return self.segmentor(images, ClassText.one_each(embeddings))


@every_framework
@pytest.mark.parametrize("training", [False, True])
def test_costs_can_be_counted_without_arithmetic(name, tower, training):
    segmentor = FRAMEWORKS.load(name).build(tower()).train(training)
    costs = {cost.name: cost for cost in count_macs(Priced(segmentor), (1, 3, 64, 64), (5, 16))}
    conv = costs["segmentor.backbone.layer1.0.conv2"]
    assert conv.forward == 8 * 8 * 9 * 16 * 16
    assert bool(conv.weight_gradient) != FRAMEWORKS.load(name).frozen_trunk


@every_framework
def test_what_is_frozen_stays_as_it_was_in_training_mode(name, tower):
    framework = FRAMEWORKS.load(name)
    segmentor = framework.build(tower()).train()
    trainable = [parameter for parameter in segmentor.backbone.parameters() if parameter.requires_grad]
    assert framework.frozen_trunk != bool(trainable)
    assert framework.frozen_trunk != segmentor.backbone.training


@every_framework
def test_key_table_names_exactly_the_tensors_of_the_built_backbone(name, tower):
    framework, visual = FRAMEWORKS.load(name), tower()
    source = copy.deepcopy(visual.state_dict())
    matches = framework.map_keys(visual)
    built = framework.build(visual).state_dict()
    placed = {match.target: match.source for match in matches if match.target is not None}
    assert {match.source for match in matches} == source.keys()
    assert placed.keys() == {key for key in built if key.startswith(BACKBONE)}
    for target, origin in placed.items():
        assert torch.equal(built[target], source[origin])


@every_framework
def test_layers_keep_their_names_inside_the_backbone(name, tower):
    layers = prunable_layers(tower())
    segmentor = FRAMEWORKS.load(name).build(tower())
    assert prunable_layers(segmentor.backbone) == layers


@every_framework
def test_a_foreign_tensor_is_refused(name, tower):
    visual = tower()
    visual.register_buffer("extra", torch.zeros(1))
    with pytest.raises(TransferError, match="'extra'"):
        FRAMEWORKS.load(name).map_keys(visual)


@every_framework
def test_a_vision_transformer_is_refused_by_name(name):
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1},
    }
    with pytest.raises(SourceError, match="VisionTransformer; use a ResNet CLIP"):
        FRAMEWORKS.load(name).build(build_clip(config).visual)


@of_pixels
def test_options_are_resolved_from_text_and_checked(name):
    framework = FRAMEWORKS.load(name)
    assert framework.options({"output_stride": "8"}).output_stride == 8
    with pytest.raises(OptionError, match=rf"{name} has no output stride: 4; choose 8, 16 or 32"):
        framework.options({"output_stride": 4})


@of_masks
def test_options_of_decoders_are_resolved_from_text_and_checked(name):
    framework = FRAMEWORKS.load(name)
    assert framework.options({"queries": "7", "width": "64"}).queries == 7
    with pytest.raises(OptionError, match="give a multiple of 32"):
        framework.options({"width": 48})
    with pytest.raises(OptionError, match="0 queries"):
        framework.options({"queries": 0})


def test_a_class_scores_as_its_best_synonym():
    scores, class_indices = torch.randn(2, 7, 3, 4), (2, 0, 1, 0, 2, 2, 1)
    classes = class_scores(scores, class_indices)
    for c in range(3):
        slow = scores[:, [s for s in range(7) if class_indices[s] == c]].max(1).values
        assert torch.equal(classes[:, c], slow)


def test_without_synonyms_class_scores_are_the_scores_in_class_order():
    scores = torch.randn(1, 4, 2, 2)
    assert torch.equal(class_scores(scores, range(4)), scores)
    class_indices = (2, 0, 3, 1)
    assert torch.equal(class_scores(scores, class_indices)[:, class_indices], scores)


def test_only_the_best_synonym_learns():
    scores = torch.tensor([1.0, 3.0, 2.0]).view(1, 3, 1, 1).requires_grad_()
    class_scores(scores, (0, 0, 0)).sum().backward()
    assert scores.grad.flatten().tolist() == [0, 1, 0]


def test_a_class_without_synonym_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="class 1 has no synonym"):
        class_scores(torch.randn(1, 2, 1, 1), (0, 2))
