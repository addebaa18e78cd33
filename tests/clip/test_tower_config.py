"""A tower is built again from the shapes of its own tensors."""

from __future__ import annotations

import open_clip
import pytest
import torch

from opentrans_cli.clip.architecture import infer_tower, meta_visual
from opentrans_cli.errors import SourceError


@pytest.mark.parametrize(
    "name", ["RN50", "RN101", "RN50x4", "convnext_base_w", "convnext_large_d_320", "convnext_xxlarge"]
)
def test_every_published_tower_is_told_by_its_shapes(name: str):
    state = meta_visual(open_clip.get_model_config(name)).state_dict()
    again = meta_visual(infer_tower(state)).state_dict()
    assert {key: value.shape for key, value in again.items()} == {key: value.shape for key, value in state.items()}


def test_a_convnext_of_no_known_size_is_refused():
    state = dict(meta_visual(open_clip.get_model_config("convnext_base_w")).state_dict())
    del state["head.proj.weight"]
    with pytest.raises(SourceError, match="128 channels"):
        infer_tower(state)
    with pytest.raises(SourceError, match="no four stages"):
        infer_tower({"odd": torch.zeros(1)})
