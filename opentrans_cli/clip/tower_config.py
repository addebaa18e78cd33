"""Read the configuration of a CLIP's image tower, ResNet or ConvNeXt, off its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from opentrans_cli.clip.architecture import infer_vision
from opentrans_cli.errors import SourceError

_IMAGE_SIZE = 256  # pixels; nothing in a ConvNeXt depends on it

# Blocks of the four stages and channels of the first -> timm's name.
_CONVNEXTS: dict[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 6, 2), 40): "convnext_atto",
    ((2, 2, 6, 2), 48): "convnext_femto",
    ((2, 2, 6, 2), 64): "convnext_pico",
    ((2, 2, 8, 2), 80): "convnext_nano",
    ((3, 3, 9, 3), 96): "convnext_tiny",
    ((3, 3, 27, 3), 96): "convnext_small",
    ((3, 3, 27, 3), 128): "convnext_base",
    ((3, 3, 27, 3), 192): "convnext_large",
    ((3, 3, 27, 3), 256): "convnext_xlarge",
    ((3, 4, 30, 3), 384): "convnext_xxlarge",
}
_PROJECTIONS = {"head.proj.weight": "linear", "head.mlp.fc2.weight": "mlp"}


def infer_tower(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configuration of an image tower, by names inside it; `meta_visual` builds it.

    See `infer_vision` for what a ResNet without its attention pool cannot tell. Raises SourceError if the tensors are
    those of neither kind.
    """
    return infer_convnext(state) if "trunk.stem.0.weight" in state else infer_vision(state)


def infer_convnext(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same for a ConvNeXt of timm in open_clip's tower."""
    blocks = tuple(
        len({key.split(".")[4] for key in state if key.startswith(f"trunk.stages.{stage}.blocks.")})
        for stage in range(4)
    )
    width = state["trunk.stem.0.weight"].shape[0]
    name = _CONVNEXTS.get((blocks, width))
    head = next((key for key in _PROJECTIONS if key in state), None)
    if name is None or head is None:
        raise SourceError(
            f"not the ConvNeXt of a published CLIP: {blocks} blocks, {width} channels; give the source as NAME:FILE"
        )
    vision = {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": _PROJECTIONS[head],
        "timm_drop": 0.0,
        "timm_drop_path": 0.0,
        "image_size": _IMAGE_SIZE,
    }
    return {"embed_dim": state[head].shape[0], "vision_cfg": vision}
