"""Scores in parts are the scores of one call, and no part is larger than asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.score_chunks import score_chunks

SMALL = {"queries": 6, "width": 32, "encoder_layers": 1, "decoder_layers": 3}
PIXELS = 2 * 75 * 100


@pytest.mark.parametrize("name", ["maskclip", "deeplabv3", "mask2former"])
def test_parts_are_the_whole_and_hold_at_most_what_is_asked_for(name, tower, text, images):
    # Class 0 has three synonyms, which stand apart; 1 and 2 have one each.
    words = ClassText(text, class_indices=(0, 1, 0, 2, 0), seen=(True, True, False))
    framework = FRAMEWORKS.load(name)
    segmentor = framework.build(tower(), SMALL if framework.masks else None).eval()
    with torch.no_grad():
        whole = segmentor(images, words)
        for most, classes in ((1, [1, 1, 1]), (2 * PIXELS, [2, 1] if framework.masks else [1, 2]), (10**9, [3])):
            parts = list(score_chunks(segmentor, images, words, most=most))
            assert [part.shape[1] for part in parts] == classes
            torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-6 * float(whole.abs().max()))
        ordered = replace(words, class_indices=(0, 0, 0, 1, 2))
        assert torch.equal(next(score_chunks(segmentor, images, ordered)), segmentor(images, ordered))
