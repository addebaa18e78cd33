"""A table of the channels that belong together, so that open_clip can build a tower without some of them.

open_clip can build two families of towers with fewer channels. In a ModifiedResNet one number, `width`, sets the sizes
of the stem, the blocks, the residual streams and the attention pool. A VisionTransformer has one size for the hidden
units of all its MLPs (`mlp_ratio`); its attention and its token width stay. So every group of channels keeps the same
share, and one number, the width, says how many.

A group lists every tensor it indexes, by full name inside the tower: rows of the layers that make the channels, their
BatchNorm and biases, columns of the layers that read them. Scores, masks, coupled parameters and the narrow tower all
follow from the table. Once the columns of all readers are zero, a removed channel has no effect on the output.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.clip.architecture import build_visual
from opentrans_cli.clip.layers import arrays, tensors
from opentrans_cli.errors import MaskError, OptionError, TransferError

if TYPE_CHECKING:
    from torch import nn

Mask = NDArray[np.bool_]

_HEAD_WIDTH = 64  # of a ResNet's attention pool where the configuration does not say
_BATCHNORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Member:
    """A tensor that a group indexes."""

    tensor: str  # full name in the tower's state dict
    axis: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are kept or removed together wherever they appear."""

    name: str  # that of the layer or stage that makes them
    size: int  # channels
    per_width: Fraction  # channels for every unit of the tower's width
    members: tuple[Member, ...]
    unit: int = 1  # channels of an indivisible piece: 64 for the heads of an attention pool

    def fits(self, width: int) -> bool:
        """Whether a tower of this width has a whole number of units, at least one."""
        kept = width * self.per_width / self.unit
        return kept.denominator == 1 and kept >= 1

    def kept(self, width: int) -> int:
        """Channels at a width that fits."""
        return int(width * self.per_width)


def channel_groups(model_cfg: Mapping[str, Any]) -> tuple[ChannelGroup, ...]:
    """The groups of the tower of open_clip's configuration `model_cfg`, in the order of the forward pass.

    Raises OptionError for a tower of a kind whose channels are not known to be removable.
    """
    vision = model_cfg["vision_cfg"]
    kind = vision.get("timm_model_name")
    if kind is None and isinstance(vision.get("layers"), list | tuple):
        return tuple(_resnet_groups(vision))
    # A norm over the hidden units of an MLP reads them all, removed ones included.
    if kind is None and not vision.get("scale_fc"):
        return tuple(_hidden_units(vision))
    raise OptionError(
        f"pattern channel knows ResNet and ViT towers of open_clip: this is {kind or 'another ViT'}; "
        "choose another --pattern"
    )


def widths(groups: tuple[ChannelGroup, ...]) -> tuple[int, ...]:
    """All possible widths, from the tower's own down to the narrowest."""
    full = int(groups[0].size / groups[0].per_width)
    return tuple(width for width in range(full, 0, -1) if all(group.fits(width) for group in groups))


def grouped_axes(groups: tuple[ChannelGroup, ...]) -> dict[str, dict[int, ChannelGroup]]:
    """For each tensor, the group of every axis that has one."""
    axes: dict[str, dict[int, ChannelGroup]] = {}
    for group in groups:
        for member in group.members:
            axes.setdefault(member.tensor, {})[member.axis] = group
    return axes


def channel_mask(shape: Sequence[int], axes: Mapping[int, ChannelGroup], kept: Mapping[str, Mask]) -> Mask:
    """Mask (True = kept) of a tensor: the outer product of what its axes keep; `kept` holds one bool per channel."""
    mask = np.ones(shape, np.bool_)
    for axis, group in axes.items():
        mask &= kept[group.name].reshape([-1 if place == axis else 1 for place in range(len(shape))])
    return mask


def kept_channels(groups: tuple[ChannelGroup, ...], masks: Mapping[str, Mask]) -> tuple[int, dict[str, Mask]]:
    """The width, and for each group one bool per channel (True = kept), found from the masks of the layers.

    Raises MaskError if the masks do not give a tower that open_clip can build: a layer of the table is missing, a layer
    outside it is pruned, channels are kept in part, or groups keep different shares.
    """
    axes = {name.removesuffix(".weight"): by_axis for name, by_axis in grouped_axes(groups).items()}
    for layer, mask in masks.items():
        if layer not in axes and not mask.all():
            raise MaskError(f"not pruned by whole channels: {layer} has none that can go; prune with --pattern channel")
    kept = dict[str, Any]()
    for group in groups:
        layer, axis = _weight_of(group)
        if layer not in masks:
            raise MaskError(f"not pruned by whole channels: no mask of {layer}; prune with --pattern channel")
        by_channel = np.swapaxes(masks[layer], 0, axis)
        kept[group.name] = by_channel.reshape(len(by_channel), -1).any(1)
    for layer, by_axis in axes.items():
        if layer in masks and not np.array_equal(masks[layer], channel_mask(masks[layer].shape, by_axis, kept)):
            raise MaskError(f"not pruned by whole channels: {layer}; prune with --pattern channel")
    return _common_width(groups, kept), kept


def _common_width(groups: tuple[ChannelGroup, ...], kept: Mapping[str, Mask]) -> int:
    width = Fraction(int(kept[groups[0].name].sum())) / groups[0].per_width
    for group in groups:
        units = kept[group.name].reshape(-1, group.unit)
        whole = np.array_equal(units.any(1), units.all(1)) and width.denominator == 1 and group.fits(int(width))
        if not whole or int(units.sum()) != group.kept(int(width)):
            raise MaskError(
                f"channels are not those of a narrower tower: {group.name} keeps {int(units.sum())} of {group.size}; "
                "prune with --pattern channel"
            )
    return int(width)


def _weight_of(group: ChannelGroup) -> tuple[str, int]:
    """The layer that makes the channels, and the axis; every group lists this layer first."""
    first = group.members[0]
    return first.tensor.removesuffix(".weight"), first.axis


def _resnet_groups(vision: Mapping[str, Any]) -> Iterator[ChannelGroup]:
    """The groups of open_clip's ModifiedResNet: the stem, then by stage the residual stream and the blocks."""
    width = vision.get("width", 64)

    def group(name: str, size: int, *members: Member, unit: int = 1) -> ChannelGroup:
        return ChannelGroup(name, size, Fraction(size, width), members, unit)

    yield group("conv1", width // 2, *_made("conv1", "bn1"), *_read("conv2"))
    yield group("conv2", width // 2, *_made("conv2", "bn2"), *_read("conv3"))
    yield group("conv3", width, *_made("conv3", "bn3"), *_read(*_entries("layer1")))
    for number, blocks in enumerate(vision["layers"]):
        stage, inner = f"layer{number + 1}", width * 2**number
        makers = [member for number in range(blocks) for member in _made(*_pair(f"{stage}.{number}", 3))]
        makers += _made(f"{stage}.0.downsample.0", f"{stage}.0.downsample.1")
        readers = _read(*(f"{stage}.{number}.conv1" for number in range(1, blocks)))
        readers += _pool_inputs() if number == 3 else _read(*_entries(f"layer{number + 2}"))
        yield group(stage, 4 * inner, *makers, *readers)
        for block in range(blocks):
            name = f"{stage}.{block}"
            yield group(f"{name}.conv1", inner, *_made(*_pair(name, 1)), *_read(f"{name}.conv2"))
            yield group(f"{name}.conv2", inner, *_made(*_pair(name, 2)), *_read(f"{name}.conv3"))
    size = 32 * width
    heads = size // vision.get("head_width", _HEAD_WIDTH)
    rows = [Member(f"attnpool.{p}_proj.{leaf}", 0) for p in "qkv" for leaf in ("weight", "bias")]
    yield group("attnpool", size, *rows, *_read("attnpool.c_proj"), unit=size // heads)


def _made(layer: str, batchnorm: str) -> list[Member]:
    """The rows of a convolution and the BatchNorm after it."""
    return [Member(f"{layer}.weight", 0), *(Member(f"{batchnorm}.{leaf}", 0) for leaf in _BATCHNORM)]


def _read(*layers: str) -> list[Member]:
    """The columns of layers that read the channels."""
    return [Member(f"{layer}.weight", 1) for layer in layers]


def _pair(block: str, number: int) -> tuple[str, str]:
    return f"{block}.conv{number}", f"{block}.bn{number}"


def _entries(stage: str) -> tuple[str, ...]:
    """The layers that read the residual stream before a stage."""
    return f"{stage}.0.conv1", f"{stage}.0.downsample.0"


def _pool_inputs() -> list[Member]:
    # The embedding is added to the channels before anything reads them, so its columns go with them.
    return [Member("attnpool.positional_embedding", 1), *_read(*(f"attnpool.{part}_proj" for part in "qkv"))]


def _hidden_units(vision: Mapping[str, Any]) -> Iterator[ChannelGroup]:
    """The groups of open_clip's VisionTransformer: the hidden units of every MLP, the same number in each."""
    hidden = int(vision.get("width", 768) * vision.get("mlp_ratio", 4.0))
    for number in range(vision.get("layers", 12)):
        name = f"transformer.resblocks.{number}.mlp"
        rows = [Member(f"{name}.c_fc.weight", 0), Member(f"{name}.c_fc.bias", 0)]
        yield ChannelGroup(name, hidden, Fraction(1), (*rows, *_read(f"{name}.c_proj")))


# A channel-pruned tower without its removed channels: it computes the same, and open_clip can still build it.

TOLERANCE = 1e-4
"""Largest difference of embeddings, relative to the largest value: float32 sums in another order stay far below."""

_IMAGES = 2
_SEED = 0


@dataclass(frozen=True)
class CompactTower:
    """A narrower tower and how it compares with the dense one it comes from."""

    visual: nn.Module  # eval mode, float32, on the CPU
    model_cfg: dict[str, Any]  # open_clip's configuration of the whole CLIP, the text tower's part unchanged
    width: int  # width of a ResNet, or number of hidden units in each MLP of a ViT
    difference: float  # largest one between embeddings of two fixed random images, relative to the largest value


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
    import torch

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
    # The quotient is rounded; if the product is just below the integer, one unit would be lost.
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)
