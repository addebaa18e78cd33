"""Feature maps of convolutional CLIP towers, ResNet or ConvNeXt, and embeddings of their pixels and of masks on them.

Shapes: B images, Q masks, C channels, H W pixels, h w cells, D embedding. timm's ConvNeXt stands in open_clip's tower
as `trunk`, its projection into the joint space as `head`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.errors import SourceError

STAGES = ("layer1", "layer2", "layer3", "layer4")

_DILATION = {8: {"layer3": 2, "layer4": 4}, 16: {"layer4": 2}, 32: {}}


def require_resnet(visual: nn.Module) -> None:
    """Raises SourceError unless `visual` is a ModifiedResNet, the only tower with these feature maps."""
    if not all(hasattr(visual, name) for name in ("stem", *STAGES)):
        raise SourceError(
            f"this tower has no ResNet stages: {type(visual).__name__}; use a ResNet CLIP such as RN50 or tiny"
        )


def stage_features(visual: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Feature maps by stage: layer1 (B, 4w, H/4, W/4) ... layer4 (B, 32w, H/s, W/s), s the output stride.

    `images`: normalised (B, 3, H, W), any H and W of at least 32 pixels.
    """
    features, x = {}, visual.stem(images)  # type: ignore[operator]
    for name in STAGES:
        x = getattr(visual, name)(x)
        features[name] = x
    return features


def set_output_stride(visual: nn.Module, output_stride: int) -> None:
    """Replace pooling by dilation so that layer4 has stride 8, 16 or 32; weights and their names do not change.

    CLIP's ResNets stride by average pools, in the main branch and in the shortcut; both are removed. The first block of
    a dilated stage keeps the dilation of the stage before (DeepLabV3, Chen et al. 2017, as in torchvision).
    """
    if output_stride not in _DILATION:
        raise ValueError(f"output_stride must be one of {sorted(_DILATION)}, got {output_stride}")
    for name, dilation in _DILATION[output_stride].items():
        blocks: Any = getattr(visual, name)
        for index, block in enumerate(blocks):
            if index == 0:
                block.avgpool = nn.Identity()
                block.downsample[0] = nn.Identity()
            rate = dilation // 2 if index == 0 else dilation
            block.conv2.dilation = block.conv2.padding = (rate, rate)


def dense_embedding(visual: nn.Module, features: Tensor) -> Tensor:
    """Per-pixel CLIP embeddings (B, D, H, W) from layer4 features (B, C, H, W).

    The value and output projections of the attention pool act as 1 x 1 convolutions (MaskCLIP, Zhou et al. 2022).
    """
    pool: Any = visual.attnpool
    values = F.linear(features.permute(0, 2, 3, 1), pool.v_proj.weight, pool.v_proj.bias)
    return F.linear(values, pool.c_proj.weight, pool.c_proj.bias).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


STRIDE = 32  # pixels per cell of the last stage


def is_convnext(visual: nn.Module) -> bool:
    """Whether `visual` is open_clip's tower around a ConvNeXt of timm."""
    trunk = getattr(visual, "trunk", None)
    return trunk is not None and all(hasattr(trunk, name) for name in ("stem", "stages", "norm_pre", "head"))


def require_stages(visual: nn.Module) -> None:
    """Raises SourceError unless `visual` has four stages and a projection into the joint space."""
    if not is_convnext(visual):
        require_resnet(visual)
        if getattr(visual, "attnpool", None) is None:
            raise SourceError(f"this tower has no attention pool: {type(visual).__name__}; use a whole CLIP tower")


def stage_channels(visual: nn.Module) -> tuple[int, int, int, int]:
    """Channels of the four maps of `stage_maps`."""
    tower: Any = visual
    if is_convnext(visual):
        first, second, third, fourth = (stage.blocks[-1].conv_dw.out_channels for stage in tower.trunk.stages)
    else:
        first, second, third, fourth = (getattr(tower, name)[-1].conv3.out_channels for name in STAGES)
    return first, second, third, fourth


def embedding_size(visual: nn.Module) -> int:
    """D, the length of the joint space's vectors."""
    tower: Any = visual
    if not is_convnext(visual):
        return int(tower.attnpool.c_proj.out_features)
    linear = [module for module in (*tower.trunk.head.modules(), *tower.head.modules()) if type(module) is nn.Linear]
    return linear[-1].out_features if linear else stage_channels(visual)[-1]


def stage_maps(visual: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Feature maps of strides 4, 8, 16 and 32; `images`: normalised (B, 3, H, W), sides of at least 32 pixels."""
    if not is_convnext(visual):
        first, second, third, fourth = stage_features(visual, images).values()
        return first, second, third, fourth
    trunk: Any = visual.trunk
    maps, x = [], trunk.stem(images)
    for stage in trunk.stages:
        x = stage(x)
        maps.append(x)
    first, second, third, fourth = maps
    return first, second, third, fourth


def mask_embeddings(visual: nn.Module, last: Tensor, masks: Tensor) -> Tensor:
    """Embeddings (B, Q, D) of `masks`, bool (B, Q, h, w), from the last map of `stage_maps`, (B, C, h, w).

    A ResNet pools by masked attention. A ConvNeXt, whose own pool is a mean, pools by the mean inside the mask
    (FC-CLIP, Yu et al. 2023, Sec. 3.3). The embedding of an empty mask is finite but has no meaning.
    """
    tower: Any = visual
    if not is_convnext(visual):
        return masked_attention_pool(tower.attnpool, last, masks)
    pooled = mask_means(tower.trunk.norm_pre(last), masks)
    batch, queries = pooled.shape[:2]
    embedding: Tensor = tower.head(tower.trunk.head(pooled.flatten(0, 1)[:, :, None, None]))
    return embedding.unflatten(0, (batch, queries))


# The two poolings of FC-CLIP (Yu et al. 2023, arXiv 2308.02487, Sec. 3.3): the mean, and CLIP's attention pool, where
# one query per image, the mean of all cells, attends to the cells inside a mask alone.


def mask_means(features: Tensor, masks: Tensor) -> Tensor:
    """Mean feature (B, Q, C) of `features` (B, C, h, w) in each of `masks`, bool (B, Q, h, w); 0 if it is empty."""
    inside = masks.flatten(2).to(features.dtype)
    shares = inside / inside.sum(2, keepdim=True).clamp(min=1)
    return torch.matmul(shares, features.flatten(2).transpose(1, 2))


def masked_attention_pool(pool: Any, features: Tensor, masks: Tensor) -> Tensor:
    """Embeddings (B, Q, D) of `masks`, bool (B, Q, h, w), in the joint space, not normalised.
    `pool`: open_clip's AttentionPool2d. `features`: layer4's (B, C, h, w). Unlike in CLIP, the mean is not one of the
    keys: a mask that covers everything pools all cells, but not their mean. A mask without a cell is pooled like one
    that covers everything; its embedding is finite but has no meaning.
    """
    cells = features.flatten(2).transpose(1, 2)  # (B, hw, C)
    place = pool.positional_embedding.to(cells.dtype)
    keyed = cells + _positions(place[1:], (features.shape[2], features.shape[3]))
    query = _heads(pool.q_proj(cells.mean(1, keepdim=True) + place[:1]), pool.num_heads)
    key, value = (_heads(project(keyed), pool.num_heads) for project in (pool.k_proj, pool.v_proj))
    # The query is the same for every mask, so its scores (B, heads, 1, hw) are computed once for all of them.
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
    inside = masks.flatten(2)
    inside = inside | ~inside.any(2, keepdim=True)
    weights = scores.masked_fill(~inside[:, None], float("-inf")).softmax(-1)  # (B, heads, Q, hw)
    embedding: Tensor = pool.c_proj((weights @ value).transpose(1, 2).flatten(2))
    return embedding


def _positions(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Positional embeddings (h w, C) of the cells, from those of the square grid CLIP was trained on."""
    side = round(grid.shape[0] ** 0.5)
    square = grid.T.reshape(1, -1, side, side)
    return F.interpolate(square, size=size, mode="bilinear", align_corners=False).flatten(2)[0].T


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, n, C) -> (B, heads, n, C / heads)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)
