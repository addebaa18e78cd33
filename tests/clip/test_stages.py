"""ResNets and ConvNeXts give the same four strides, and embeddings of masks in the joint space."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.features import (
    embedding_size,
    is_convnext,
    mask_embeddings,
    require_stages,
    stage_channels,
    stage_maps,
)
from opentrans_cli.errors import SourceError

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
CONVNEXT = {
    "timm_model_name": "convnext_atto",
    "timm_model_pretrained": False,
    "timm_pool": "",
    "timm_drop_path": 0.1,
    "image_size": 64,
}
TOWERS = {
    "resnet": RESNET,
    "linear": {**CONVNEXT, "timm_proj": "linear"},
    "mlp": {**CONVNEXT, "timm_proj": "mlp"},
}
every_tower = pytest.mark.parametrize("kind", TOWERS)


@pytest.fixture(scope="module")
def towers():
    torch.manual_seed(0)
    built = {kind: build_clip({"embed_dim": 24, "vision_cfg": cfg, "text_cfg": TEXT}) for kind, cfg in TOWERS.items()}
    return {kind: clip.visual for kind, clip in built.items()}


@every_tower
def test_maps_have_four_strides_and_masks_embeddings_of_the_joint_space(towers, kind):
    visual = towers[kind]
    maps = stage_maps(visual, torch.randn(2, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(stage_channels(visual), (4, 8, 16, 32), strict=True)
    ]
    assert is_convnext(visual) == (kind != "resnet")
    masks = torch.rand(2, 5, *maps[-1].shape[2:]) > 0.3
    masks[0, 0] = False
    embeddings = mask_embeddings(visual, maps[-1], masks)
    assert embeddings.shape == (2, 5, 24) and embedding_size(visual) == 24 and torch.isfinite(embeddings).all()


def test_of_a_convnext_a_full_mask_has_the_embedding_of_the_picture(towers):
    for visual in (towers["linear"], towers["mlp"]):
        images = torch.randn(2, 3, 64, 64)
        last = stage_maps(visual, images)[-1]
        full = torch.ones(2, 1, *last.shape[2:], dtype=torch.bool)
        torch.testing.assert_close(mask_embeddings(visual, last, full)[:, 0], visual(images), atol=1e-5, rtol=1e-4)


def test_towers_without_stages_or_pool_are_refused(towers):
    vit = {"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 16}
    with pytest.raises(SourceError, match="no ResNet stages: VisionTransformer"):
        require_stages(build_clip({"embed_dim": 24, "vision_cfg": vit, "text_cfg": TEXT}).visual)
    bare = build_clip({"embed_dim": 24, "vision_cfg": RESNET, "text_cfg": TEXT}).visual
    bare.attnpool = None
    with pytest.raises(SourceError, match="no attention pool"):
        require_stages(bare)
    for visual in towers.values():
        require_stages(visual)
