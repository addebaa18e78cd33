"""FC-CLIP: a trunk that never moves, learned classes for the loss, classes mixed with CLIP's own for pictures."""

from __future__ import annotations

import copy
import hashlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.features import mask_embeddings, stage_maps
from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.fcclip import FCCLIP, geometric_ensemble
from opentrans_cli.frameworks.mask_decoder import DecoderOutput
from opentrans_cli.frameworks.templates import VILD_TEMPLATES

CONVNEXT = {
    "embed_dim": 16,
    "vision_cfg": {
        "timm_model_name": "convnext_atto",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "mlp",
        "timm_drop_path": 0.5,
        "image_size": 64,
    },
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1},
}
SMALL = {"queries": 6, "decoder_layers": 2, "encoder_layers": 1}


class Scripted(nn.Module):
    """A decoder that found these masks whatever it is shown."""

    def __init__(self, mask_logits, width=32):
        super().__init__()
        batch, queries, height, width_cells = mask_logits.shape
        generator = torch.Generator().manual_seed(9)
        self.found = DecoderOutput(
            (torch.randn(batch, queries, width, generator=generator),),
            (mask_logits,),
            torch.randn(batch, width, height, width_cells, generator=generator),
        )

    def forward(self, features):
        return self.found


@pytest.fixture
def words(text):
    return ClassText(text, (0, 0, 1, 2, 2), (True, False, True))


@pytest.fixture
def masks():
    """Mask logits (1, 6, 16, 24) of an image of 64 x 96 pixels; the fourth is empty."""
    logits = torch.randn(1, 6, 4, 6, generator=torch.Generator().manual_seed(8))
    logits = F.interpolate(logits, scale_factor=4, mode="nearest")
    logits[0, 3] = -2.0
    return logits


@pytest.fixture
def image():
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(7))


def scripted(visual, masks, options=None):
    segmentor = FCCLIP.build(visual, {**SMALL, **(options or {})}).eval()
    segmentor.decoder = Scripted(masks, width=segmentor.decoder.sizes.width)
    return segmentor


def learned(segmentor, words):
    found = segmentor.decoder.found
    return segmentor.classifier(found.states[-1], found.mask_features, found.mask_logits[-1], words).logits


def shares(probabilities):
    """Probabilities of classes among all that is an object."""
    return probabilities[..., :-1] / (1 - probabilities[..., -1:])


def of_clip(segmentor, image, masks, words):
    """Probabilities (1, Q, C) that CLIP gives to the classes of what is inside the masks."""
    last = stage_maps(segmentor.backbone, image)[-1]
    inside = F.interpolate(masks, size=last.shape[2:], mode="bilinear") > 0
    cosine = F.normalize(mask_embeddings(segmentor.backbone, last, inside), dim=-1) @ words.embeddings.T
    best = [cosine[..., [s for s in range(5) if words.class_indices[s] == c]].amax(-1) for c in range(3)]
    return (100 * torch.stack(best, -1)).softmax(-1)


def test_templates_are_the_published_ones():
    assert FCCLIP.templates == VILD_TEMPLATES and len(VILD_TEMPLATES) == 14
    digest = hashlib.sha256("\n".join(VILD_TEMPLATES).encode()).hexdigest()
    assert digest == "20c81c13267c6b932d64146a292f740d2630ab9a403650b066628fa670a7a1b7"


def test_pictures_have_mixed_classes_by_the_published_formula(tower, words, masks, image):
    segmentor = scripted(tower(), masks)
    found = segmentor.queries(image, words)
    logits, clip = learned(segmentor, words), of_clip(segmentor, image, masks, words)
    share = torch.tensor([0.4, 0.8, 0.4])
    classes = logits[..., :-1].softmax(-1) ** (1 - share) * clip**share
    nothing = logits.softmax(-1)[..., -1:]
    expected = torch.cat([classes / classes.sum(-1, keepdim=True) * (1 - nothing), nothing], -1)
    kept = [0, 1, 2, 4, 5]
    torch.testing.assert_close(found.class_logits.softmax(-1)[:, kept], expected[:, kept], atol=1e-5, rtol=1e-3)
    assert torch.equal(found.mask_logits, masks)


def test_an_empty_mask_has_the_learned_classes_alone(tower, words, masks, image):
    segmentor = scripted(tower(), masks)
    mixed = segmentor.queries(image, words).class_logits.softmax(-1)
    plain = learned(segmentor, words).softmax(-1)
    torch.testing.assert_close(mixed[:, 3], plain[:, 3])
    assert not torch.allclose(shares(mixed)[:, 0], shares(plain)[:, 0], atol=1e-2)


def test_with_weight_zero_clip_has_no_say_and_with_one_the_whole(tower, words, masks, image):
    off = scripted(tower(), masks, {"seen_clip_weight": 0, "unseen_clip_weight": 0})
    torch.testing.assert_close(off.queries(image, words).class_logits.softmax(-1), learned(off, words).softmax(-1))
    whole = scripted(tower(), masks, {"seen_clip_weight": 1, "unseen_clip_weight": 1})
    mixed = shares(whole.queries(image, words).class_logits.softmax(-1))
    kept = [0, 1, 2, 4, 5]
    torch.testing.assert_close(mixed[:, kept], of_clip(whole, image, masks, words)[:, kept], atol=1e-3, rtol=0)


def test_in_training_the_classes_are_the_learned_ones(tower, words, masks, image):
    segmentor = scripted(tower(), masks).train()
    assert torch.equal(segmentor.queries(image, words).class_logits, learned(segmentor, words))


def test_training_moves_the_head_and_nothing_of_the_trunk(tower, words, image):
    segmentor = FCCLIP.build(tower(), SMALL).train()
    before = copy.deepcopy(segmentor.state_dict())
    optimizer = torch.optim.AdamW([p for p in segmentor.parameters() if p.requires_grad], lr=0.1)
    found = segmentor.queries(image, words)
    (found.class_logits.square().mean() + found.mask_logits.square().mean()).backward()
    optimizer.step()
    after = segmentor.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved and not [key for key in moved if key.startswith(("backbone.", "clip_logit_scale"))]
    assert any(key.startswith("decoder.") for key in moved) and any(key.startswith("classifier.") for key in moved)


def test_what_stands_beyond_a_side_that_32_does_not_divide_is_the_mean_colour(tower, words):
    segmentor = FCCLIP.build(tower(), SMALL).eval()
    image = torch.randn(1, 3, 50, 70)
    padded = F.pad(image, (0, 26, 0, 14))
    torch.testing.assert_close(segmentor(image, words), segmentor(padded, words)[..., :50, :70])


def test_a_convnext_is_a_trunk_as_well(words, image):
    torch.manual_seed(0)
    visual = build_clip(CONVNEXT).visual
    segmentor = FCCLIP.build(visual, SMALL)
    for training in (False, True):
        scores = segmentor.train(training)(image, words)
        assert scores.shape == (1, 3, 64, 96) and torch.isfinite(scores).all()
        assert torch.equal(scores, segmentor(image, words))  # no stochastic depth in a frozen trunk
    matches = FCCLIP.map_keys(visual)
    assert {match.target for match in matches} == {k for k in segmentor.state_dict() if k.startswith("backbone.")}


def test_behind_a_convnext_clip_has_its_say_on_empty_masks_too(words, masks, image):
    """As published: the mean of no cell is zero, which its head gives an embedding."""
    torch.manual_seed(0)
    segmentor = scripted(build_clip(CONVNEXT).visual, masks)
    mixed = segmentor.queries(image, words).class_logits.softmax(-1)
    plain = learned(segmentor, words).softmax(-1)
    assert not torch.allclose(shares(mixed)[:, 3], shares(plain)[:, 3], atol=1e-2)


def test_weights_out_of_range_are_refused():
    for option, value in (("seen_clip_weight", -0.1), ("unseen_clip_weight", 1.1)):
        with pytest.raises(OptionError, match=rf"fcclip {option} is out of range: {value}; give a value in \[0, 1\]"):
            FCCLIP.options({option: value})


# The geometric ensemble alone.

SEEN = (True, False, True, False)


def both_logits(seed, *, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, 6, 5, generator=generator), scale * torch.randn(2, 6, 4, generator=generator)


def published(learned, clip, *, seen, alpha, beta, valid):
    """Product of powers, logarithm, softmax, as FC-CLIP computes it: exponents are zero for masks without cells."""
    inside, outside = learned[..., :-1].softmax(-1), clip.softmax(-1)
    known = torch.tensor(seen).float()
    a, b = (torch.full_like(inside, share) * valid[..., None].float() for share in (alpha, beta))
    mixed = (inside ** (1 - a) * outside**a).log() * known + (inside ** (1 - b) * outside**b).log() * (1 - known)
    nothing = learned.softmax(-1)[..., -1:]
    return torch.log(torch.cat([mixed.softmax(-1) * (1 - nothing), nothing], -1) + 1e-8)


def test_the_ensemble_is_the_published_product_of_powers():
    raw, clip = both_logits(0)
    valid = torch.rand(2, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    for alpha, beta in ((0.4, 0.8), (0.0, 1.0), (1.0, 0.0)):
        mixed = geometric_ensemble(raw, clip, seen=SEEN, alpha=alpha, beta=beta, valid=valid)
        torch.testing.assert_close(mixed, published(raw, clip, seen=SEEN, alpha=alpha, beta=beta, valid=valid))


def test_masks_that_are_not_valid_keep_the_learned_classes_even_beside_nan():
    learned, clip = both_logits(2)
    clip[0, 3] = float("nan")
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[0, 3] = False
    mixed = geometric_ensemble(learned, clip, seen=SEEN, alpha=0.4, beta=0.8, valid=valid)
    assert torch.isfinite(mixed).all()
    torch.testing.assert_close(mixed[0, 3].exp(), learned[0, 3].softmax(-1))
    assert not torch.allclose(mixed[0, 2].exp(), learned[0, 2].softmax(-1), atol=1e-3)


def test_the_probability_of_no_object_is_the_learned_one():
    learned, clip = both_logits(3)
    mixed = geometric_ensemble(learned, clip, seen=SEEN, alpha=0.4, beta=0.8)
    torch.testing.assert_close(mixed[..., -1].exp(), learned.softmax(-1)[..., -1])
    torch.testing.assert_close(mixed.exp().sum(-1), torch.ones(2, 6))


def test_sharp_scales_that_make_probabilities_vanish_stay_finite():
    learned, clip = both_logits(4, scale=200.0)
    learned[..., -1] = learned[..., :-1].amax(-1)
    mixed = geometric_ensemble(learned, clip, seen=SEEN, alpha=0.4, beta=0.8)
    assert torch.isfinite(mixed).all()
    known = torch.tensor([0.4, 0.8, 0.4, 0.8])
    score = (1 - known) * learned[..., :-1].double().log_softmax(-1) + known * clip.double().log_softmax(-1)
    assert torch.equal(mixed[..., :-1].argmax(-1), score.argmax(-1))


def test_one_class_alone_takes_all_that_is_an_object():
    learned, clip = torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[-7.0]]])
    mixed = geometric_ensemble(learned, clip, seen=(False,), alpha=0.4, beta=0.8)
    torch.testing.assert_close(mixed.exp(), learned.softmax(-1))
