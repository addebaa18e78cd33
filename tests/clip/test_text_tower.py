"""A text tower out of a checkpoint embeds words as the CLIP it came from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.source import LoadedClip, load_clip
from opentrans_cli.clip.text import text_embeddings
from opentrans_cli.clip.text_tower import text_clip, text_tensors
from opentrans_cli.errors import SourceError

PREFIX = "backbone.clip_model."


def whole_clip() -> LoadedClip:
    """The embedded CLIP with heads as wide as in published ones, which is what a checkpoint cannot tell."""
    tiny = load_clip("tiny")
    config = {**tiny.model_cfg, "text_cfg": {**tiny.model_cfg["text_cfg"], "heads": 1}}
    model = build_clip(config)
    model.load_state_dict(tiny.model.state_dict())
    return replace(tiny, model=model, model_cfg=config)


def checkpoint() -> dict[str, torch.Tensor]:
    state = load_clip("tiny").model.state_dict()
    return {**{f"{PREFIX}{key}": value for key, value in state.items()}, "sem_seg_head.weight": torch.zeros(2)}


def test_words_get_the_embeddings_they_have_in_the_whole_clip() -> None:
    whole = whole_clip()
    tensors = text_tensors(checkpoint(), PREFIX)
    alone = text_clip(tensors, source="FILE", quick_gelu=whole.activation == "quick_gelu")
    words = ["red square", "grass", "sky"]
    wanted = text_embeddings(whole.model, whole.tokenizer, words)
    assert torch.equal(text_embeddings(alone.model, alone.tokenizer, words), wanted)


def test_only_what_belongs_to_the_text_tower_is_taken() -> None:
    assert not [key for key in text_tensors(checkpoint(), PREFIX) if "visual" in key or "sem_seg" in key]
    assert text_tensors(checkpoint(), "text_encoder.") == {}


@pytest.mark.parametrize("change", ["none", "missing", "shape", "extra"])
def test_half_a_text_tower_is_refused_by_name(change: str) -> None:
    tensors = text_tensors(checkpoint(), PREFIX)
    if change == "none":
        tensors = {}
    elif change == "missing":
        del tensors["transformer.resblocks.0.ln_1.bias"]
    elif change == "shape":
        tensors["ln_final.bias"] = torch.zeros(3)
    else:
        tensors["transformer.resblocks.0.other"] = torch.zeros(3)
    with pytest.raises(SourceError, match=r"no whole text tower: .*FILE; name a CLIP that has one with --base"):
        text_clip(tensors, source="FILE", quick_gelu=True)
