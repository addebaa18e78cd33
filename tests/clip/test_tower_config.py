"""A tower is built again from the shapes of its own tensors."""

from __future__ import annotations

import open_clip
import pytest
import torch

from opentrans_cli.clip.architecture import infer_tower, meta_visual, plain_shapes, tower_shapes
from opentrans_cli.clip.open_clip import open_clip_config
from opentrans_cli.errors import SourceError


@pytest.mark.parametrize(
    "name", ["RN50", "RN101", "RN50x4", "convnext_base_w", "convnext_large_d_320", "convnext_xxlarge"]
)
def test_every_published_tower_is_told_by_its_shapes(name: str):
    state = meta_visual(open_clip.get_model_config(name)).state_dict()
    again = meta_visual(infer_tower(state)).state_dict()
    assert {key: value.shape for key, value in again.items()} == {key: value.shape for key, value in state.items()}


def test_the_tensors_of_a_tower_are_told_from_its_configuration():
    """Of all ResNets and ViTs of open_clip but a few odd ones, in the order that open_clip builds them in."""
    told = 0
    for name in open_clip.list_models():
        config = open_clip_config(name)
        assert config == open_clip.get_model_config(name)
        config = {"embed_dim": config["embed_dim"], "vision_cfg": config["vision_cfg"]}
        shapes = plain_shapes(config)
        if shapes is not None:
            built = meta_visual(config).state_dict()
            assert list(shapes.items()) == [(name, tuple(tensor.shape)) for name, tensor in built.items()]
            told += 1
    assert told > 50 and open_clip_config("no such model") is None
    odd = {"embed_dim": 8, "vision_cfg": {"layers": 1, "ls_init_value": 0.1}}
    assert plain_shapes(odd) is None
    assert tower_shapes(odd)["transformer.resblocks.0.ls_1.gamma"] == (768,)
    assert plain_shapes({"embed_dim": 8, "vision_cfg": {"timm_model_name": "convnext_base"}}) is None


def test_a_convnext_of_no_known_size_is_refused():
    state = dict(meta_visual(open_clip.get_model_config("convnext_base_w")).state_dict())
    del state["head.proj.weight"]
    with pytest.raises(SourceError, match="128 channels"):
        infer_tower(state)
    with pytest.raises(SourceError, match="no four stages"):
        infer_tower({"odd": torch.zeros(1)})
