"""Han et al.: the trunk learns with the rest, queries are compared with the words."""

from __future__ import annotations

import torch

from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.han import HAN

SMALL = {"queries": 6, "decoder_layers": 2, "encoder_layers": 1}


def test_the_attention_pool_is_taken_off(tower):
    segmentor = HAN.build(tower(), SMALL)
    assert segmentor.backbone.attnpool is None
    left_out = {match.source for match in HAN.map_keys(tower()) if match.target is None}
    assert left_out == {key for key in tower().state_dict() if key.startswith("attnpool.")}


def test_every_layer_of_the_decoder_is_classified_by_the_same_projection(tower, text, images):
    segmentor = HAN.build(tower(), SMALL).train()
    states = []
    segmentor.classifier.class_embed.register_forward_hook(lambda _m, inputs, _r: states.append(inputs[0]))
    found = segmentor.queries(images, ClassText.one_each(text))
    assert len(states) == 3
    again = [segmentor.classifier(state, ClassText.one_each(text)).logits for state in states[:3]]
    logits = [*(classes for classes, _ in found.auxiliary), found.class_logits]
    assert all(torch.equal(a, b) for a, b in zip(again, logits, strict=True))


def test_training_reaches_the_trunk_and_seen_classes_are_treated_like_others(tower, text, images):
    segmentor = HAN.build(tower(), SMALL).train()
    found = segmentor.queries(images, ClassText.one_each(text))
    (found.class_logits.square().mean() + found.mask_logits.square().mean()).backward()
    assert segmentor.backbone.layer4[-1].conv3.weight.grad.any() and segmentor.backbone.conv1.weight.grad.any()
    one, other = (ClassText(text, range(5), (seen,) * 5) for seen in (True, False))
    assert torch.equal(segmentor.eval()(images, one), segmentor(images, other))


def test_a_class_takes_the_best_logit_of_its_names_which_stand_bare(tower, text, images):
    assert HAN.templates == ("{}",)
    segmentor = HAN.build(tower(), SMALL).eval()
    names = segmentor.queries(images, ClassText.one_each(text)).class_logits
    classes = segmentor.queries(images, ClassText(text, (0, 1, 0, 1, 1), (True, True))).class_logits
    expected = [names[..., [0, 2]].amax(-1), names[..., [1, 3, 4]].amax(-1), names[..., 5]]
    torch.testing.assert_close(classes, torch.stack(expected, -1))
