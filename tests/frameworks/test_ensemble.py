"""Two classifications of a mask become one, by the published formula where that is a number."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.frameworks.fcclip import geometric_ensemble

SEEN = (True, False, True, False)


def logits(seed, *, scale=3.0):
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


@pytest.mark.parametrize(("alpha", "beta"), [(0.4, 0.8), (0.0, 1.0), (1.0, 0.0)])
def test_ensemble_is_the_published_product_of_powers(alpha, beta):
    learned, clip = logits(0)
    valid = torch.rand(2, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    mixed = geometric_ensemble(learned, clip, seen=SEEN, alpha=alpha, beta=beta, trusted=valid)
    torch.testing.assert_close(mixed, published(learned, clip, seen=SEEN, alpha=alpha, beta=beta, valid=valid))


def test_masks_that_are_not_trusted_keep_the_learned_classes_even_beside_nan():
    learned, clip = logits(2)
    clip[0, 3] = float("nan")
    trusted = torch.ones(2, 6, dtype=torch.bool)
    trusted[0, 3] = False
    mixed = geometric_ensemble(learned, clip, seen=SEEN, alpha=0.4, beta=0.8, trusted=trusted)
    assert torch.isfinite(mixed).all()
    torch.testing.assert_close(mixed[0, 3].exp(), learned[0, 3].softmax(-1))
    assert not torch.allclose(mixed[0, 2].exp(), learned[0, 2].softmax(-1), atol=1e-3)


def test_the_probability_of_no_object_is_the_learned_one():
    learned, clip = logits(3)
    mixed = geometric_ensemble(learned, clip, seen=SEEN, alpha=0.4, beta=0.8)
    torch.testing.assert_close(mixed[..., -1].exp(), learned.softmax(-1)[..., -1])
    torch.testing.assert_close(mixed.exp().sum(-1), torch.ones(2, 6))


def test_sharp_scales_that_make_probabilities_vanish_stay_finite():
    learned, clip = logits(4, scale=200.0)
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
