"""Dense features of a ModifiedResNet tower. Shapes: B batch, C channels, H W grid, D embedding."""

from __future__ import annotations

from typing import Any

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
    """Trade pooling for dilation so that layer4 has stride 8, 16 or 32; weights and their names stay as they are.

    CLIP's ResNets stride by average pools, in the main branch and in the shortcut; both give way. The first block of
    a dilated stage keeps the dilation of the stage before (DeepLabV3, Chen et al. 2017, as in torchvision).
    """
    if output_stride not in _DILATION:
        raise ValueError(f"output_stride must be one of {sorted(_DILATION)}, got {output_stride}")
    for name, dilation in _DILATION[output_stride].items():
        for index, block in enumerate(getattr(visual, name)):
            block = _as_any(block)
            if index == 0:
                block.avgpool = nn.Identity()
                block.downsample[0] = nn.Identity()
            rate = dilation // 2 if index == 0 else dilation
            block.conv2.dilation = block.conv2.padding = (rate, rate)


def _as_any(module: nn.Module) -> Any:
    return module


def dense_embedding(visual: nn.Module, features: Tensor) -> Tensor:
    """Per-pixel CLIP embeddings (B, D, H, W) from layer4 features (B, C, H, W).

    The attention pool's value and output projections as 1 x 1 convolutions (MaskCLIP, Zhou et al. 2022).
    """
    pool = _as_any(visual).attnpool
    values = F.linear(features.permute(0, 2, 3, 1), pool.v_proj.weight, pool.v_proj.bias)
    return F.linear(values, pool.c_proj.weight, pool.c_proj.bias).permute(0, 3, 1, 2)  # type: ignore[no-any-return]
