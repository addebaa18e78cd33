"""The text tower of a checkpoint reads words as the whole CLIP does."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.clip.source import load_clip
from opentrans_cli.clip.text import text_embeddings, text_part
from opentrans_cli.errors import SourceError

WORDS = ("a red square", "grass")


@pytest.fixture(scope="module")
def clip():
    return load_clip("tiny")


@pytest.fixture
def state(clip):
    return {key: value for key, value in clip.model.state_dict().items() if not key.startswith(("visual.", "logit"))}


def test_words_have_the_embeddings_of_the_whole_clip(clip, state):
    part = text_part(state, quick_gelu=clip.activation == "quick_gelu", source="file.pth")
    for ours, whole in zip(part.model.transformer.resblocks, clip.model.transformer.resblocks, strict=True):
        ours.attn.num_heads = whole.attn.num_heads  # 32 channels each, half of what published CLIPs have
    expected = text_embeddings(clip.model, clip.tokenizer, WORDS)
    torch.testing.assert_close(text_embeddings(part.model, part.tokenizer, WORDS), expected)


def test_the_activation_changes_what_is_read_and_a_causal_mask_does_not(state):
    state["attn_mask"] = torch.zeros(32, 32)
    parts = [text_part(state, quick_gelu=quick, source="file.pth") for quick in (True, False)]
    assert not torch.allclose(*(text_embeddings(part.model, part.tokenizer, WORDS) for part in parts), atol=1e-4)


def test_tensors_that_lack_or_do_not_fit_are_named(state):
    odd = {**state, "transformer.resblocks.0.ln_1.weight": torch.zeros(3)}
    with pytest.raises(SourceError, match=r"text tower of an unknown build: 'transformer.resblocks.0.ln_1.weight' in"):
        text_part(odd, quick_gelu=True, source="file.pth")
    del state["ln_final.weight"]
    with pytest.raises(SourceError, match=r"no text tower in the checkpoint: file.pth \('ln_final.weight' is missing"):
        text_part(state, quick_gelu=True, source="file.pth")
