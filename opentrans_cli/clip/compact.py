"""A channel-pruned tower written narrower: the same function with fewer numbers, still one that open_clip builds."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from opentrans_cli.clip.architecture import build_visual
from opentrans_cli.clip.arrays import arrays, tensors
from opentrans_cli.clip.channels import ChannelGroup, Mask, channel_groups, grouped_axes, kept_channels
from opentrans_cli.errors import MaskError, OptionError, TransferError

TOLERANCE = 1e-4
"""Largest difference of embeddings, relative to the largest value: float32 sums in another order stay far below."""

_IMAGES = 2
_SEED = 0


@dataclass(frozen=True)
class CompactTower:
    """A narrower tower and how it compares with the dense one it comes from."""

    visual: nn.Module  # eval mode, float32, on the CPU
    model_cfg: dict[str, Any]  # open_clip's configuration of the whole CLIP, the text tower's part unchanged
    width: int  # of a ResNet, or hidden units of a ViT's MLPs
    difference: float  # largest of embeddings, relative to the largest value, on two fixed random images


def compact_tower(visual: nn.Module, masks: Mapping[str, Mask], model_cfg: Mapping[str, Any]) -> CompactTower:
    """The tower without its removed channels, built by open_clip and compared with `visual` under its masks.

    `visual` has exact zeros where `masks` remove weights; it may have been trained since. Raises TransferError if
    the masks are not those of pattern channel, the tower is of another kind, or the two towers disagree by more than
    TOLERANCE.
    """
    try:
        groups = channel_groups(model_cfg)
        width, kept = kept_channels(groups, masks)
    except (MaskError, OptionError) as error:
        raise TransferError(f"cannot be written compact: {error}, or leave out --compact") from error
    axes = grouped_axes(groups)
    state = arrays(visual.state_dict())
    narrow = {name: _narrow(array, axes.get(name, {}), kept) for name, array in state.items()}
    config = _narrower(model_cfg, width)
    compact = build_visual(config, tensors(narrow))
    difference = tower_difference(visual, compact, size=config["vision_cfg"]["image_size"])
    if not difference <= TOLERANCE:
        raise TransferError(
            f"compact and masked tower disagree: by {difference:.1e} of the largest value; "
            "write it dense (without --compact) and report this as a bug"
        )
    return CompactTower(compact, config, width, difference)


def tower_difference(one: nn.Module, other: nn.Module, *, size: int | tuple[int, int]) -> float:
    """Largest difference of two towers' embeddings of two fixed random images, relative to the largest value of
    `one`; NaN if either gives NaN.
    """
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.randn(_IMAGES, 3, height, width, generator=torch.Generator().manual_seed(_SEED))
    with torch.inference_mode():
        expected, found = one(images), other(images)
    return float((found - expected).abs().max() / expected.abs().max())


def _narrow(array: NDArray[Any], axes: Mapping[int, ChannelGroup], kept: Mapping[str, Mask]) -> NDArray[Any]:
    """The kept part of a tensor."""
    for axis, group in axes.items():
        array = np.compress(kept[group.name], array, axis)
    return array


def _narrower(model_cfg: Mapping[str, Any], width: int) -> dict[str, Any]:
    config = copy.deepcopy(dict(model_cfg))
    vision = config["vision_cfg"]
    if isinstance(vision.get("layers"), list | tuple):
        vision["width"] = width
    else:
        vision["mlp_ratio"] = mlp_ratio(width, vision.get("width", 768))
    return config


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio from which open_clip's `int(width * mlp_ratio)` makes exactly `hidden`."""
    ratio = hidden / width
    # The quotient is rounded, and a product just below the integer would lose one unit.
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)
