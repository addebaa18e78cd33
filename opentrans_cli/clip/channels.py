"""Which channels of a tower belong together, so that open_clip can build the tower narrower: a table, nothing else.

open_clip has two families of towers that can lose channels and stay members. A ModifiedResNet is tied to one number,
`width`: the stem, the blocks, the residual streams and the attention pool are multiples of it. A VisionTransformer has
one size for the hidden units of all its MLPs (`mlp_ratio`); its attention and its token width stay. So every group of
channels keeps the same share, and one number, the width, says how many.

A group lists every tensor it indexes, by full name inside the tower: rows of the layers that make the channels, their
BatchNorm and biases, columns of the layers that read them. Scores, masks, coupled parameters and the narrow tower all
follow from the table. Once the columns of all readers are zero, a removed channel has no effect on the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from opentrans_cli.clip.open_clip import is_a
from opentrans_cli.errors import MaskError, OptionError

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


def channel_groups(visual: nn.Module) -> tuple[ChannelGroup, ...]:
    """The groups of a tower, in the order of the forward pass.

    Raises OptionError for a tower of a kind whose channels are not known to be removable.
    """
    if is_a(visual, "ModifiedResNet"):
        return tuple(_resnet_groups(visual))
    if is_a(visual, "VisionTransformer") and _has_plain_mlps(visual):
        return tuple(_hidden_units(visual))
    kind = type(visual).__name__
    raise OptionError(
        f"pattern channel knows ResNet and ViT towers of open_clip: this is a {kind}; choose another --pattern"
    )


def widths(groups: tuple[ChannelGroup, ...]) -> tuple[int, ...]:
    """All widths the family has, from the tower's own down to the narrowest."""
    full = int(groups[0].size / groups[0].per_width)
    return tuple(width for width in range(full, 0, -1) if all(group.fits(width) for group in groups))


def grouped_axes(groups: tuple[ChannelGroup, ...]) -> dict[str, dict[int, ChannelGroup]]:
    """By tensor: the group of every axis that has one."""
    axes: dict[str, dict[int, ChannelGroup]] = {}
    for group in groups:
        for member in group.members:
            axes.setdefault(member.tensor, {})[member.axis] = group
    return axes


def channel_mask(shape: torch.Size, axes: Mapping[int, ChannelGroup], kept: Mapping[str, Tensor]) -> Tensor:
    """Mask (bool, True = kept) of a tensor: the outer product of what its axes keep.

    `kept` holds by group one bool per channel, all on one device, which is the mask's.
    """
    mask = torch.ones(shape, dtype=torch.bool, device=next(iter(kept.values())).device)
    for axis, group in axes.items():
        mask &= kept[group.name].reshape([-1 if place == axis else 1 for place in range(len(shape))])
    return mask


def kept_channels(groups: tuple[ChannelGroup, ...], masks: Mapping[str, Tensor]) -> tuple[int, dict[str, Tensor]]:
    """The width, and by group one bool per channel (True = kept, on the CPU), read off the masks of the layers.

    Raises MaskError if the masks are not those of a tower of the family: a layer of the table is missing, a layer
    outside it is pruned, channels are kept in part, or groups keep different shares.
    """
    axes = {name.removesuffix(".weight"): by_axis for name, by_axis in grouped_axes(groups).items()}
    for layer, mask in masks.items():
        if layer not in axes and not bool(mask.all()):
            raise MaskError(f"not pruned by whole channels: {layer} has none that can go; prune with --pattern channel")
    kept: dict[str, Tensor] = {}
    for group in groups:
        layer, axis = _weight_of(group)
        if layer not in masks:
            raise MaskError(f"not pruned by whole channels: no mask of {layer}; prune with --pattern channel")
        kept[group.name] = masks[layer].cpu().transpose(0, axis).flatten(1).any(1)
    for layer, by_axis in axes.items():
        if layer in masks and not torch.equal(masks[layer].cpu(), channel_mask(masks[layer].shape, by_axis, kept)):
            raise MaskError(f"not pruned by whole channels: {layer}; prune with --pattern channel")
    return _common_width(groups, kept), kept


def _common_width(groups: tuple[ChannelGroup, ...], kept: Mapping[str, Tensor]) -> int:
    width = Fraction(int(kept[groups[0].name].sum())) / groups[0].per_width
    for group in groups:
        units = kept[group.name].reshape(-1, group.unit)
        whole = torch.equal(units.any(1), units.all(1)) and width.denominator == 1 and group.fits(int(width))
        if not whole or int(units.sum()) != group.kept(int(width)):
            raise MaskError(
                f"channels are not those of a narrower tower: {group.name} keeps {int(units.sum())} of {group.size}; "
                "prune with --pattern channel"
            )
    return int(width)


def _weight_of(group: ChannelGroup) -> tuple[str, int]:
    """The layer that makes the channels, and the axis: every group lists it first."""
    first = group.members[0]
    return first.tensor.removesuffix(".weight"), first.axis


def _resnet_groups(visual: Any) -> Iterator[ChannelGroup]:
    """open_clip's ModifiedResNet: stem, then per stage one residual stream and the inside of each block."""
    width = visual.conv3.out_channels
    stages = [(f"layer{number}", getattr(visual, f"layer{number}")) for number in (1, 2, 3, 4)]

    def group(name: str, size: int, *members: Member, unit: int = 1) -> ChannelGroup:
        return ChannelGroup(name, size, Fraction(size, width), members, unit)

    yield group("conv1", width // 2, *_made("conv1", "bn1"), *_read("conv2"))
    yield group("conv2", width // 2, *_made("conv2", "bn2"), *_read("conv3"))
    yield group("conv3", width, *_made("conv3", "bn3"), *_read(*_entries("layer1")))
    for (stage, blocks), following in zip(stages, ["layer2", "layer3", "layer4", None], strict=True):
        makers = [member for number in range(len(blocks)) for member in _made(*_pair(f"{stage}.{number}", 3))]
        makers += _made(f"{stage}.0.downsample.0", f"{stage}.0.downsample.1")
        readers = _read(*(f"{stage}.{number}.conv1" for number in range(1, len(blocks))))
        readers += _pool_inputs() if following is None else _read(*_entries(following))
        yield group(stage, blocks[0].conv3.out_channels, *makers, *readers)
        for number, block in enumerate(blocks):
            name = f"{stage}.{number}"
            yield group(f"{name}.conv1", block.conv1.out_channels, *_made(*_pair(name, 1)), *_read(f"{name}.conv2"))
            yield group(f"{name}.conv2", block.conv2.out_channels, *_made(*_pair(name, 2)), *_read(f"{name}.conv3"))
    size = visual.attnpool.v_proj.out_features
    rows = [Member(f"attnpool.{p}_proj.{leaf}", 0) for p in "qkv" for leaf in ("weight", "bias")]
    yield group("attnpool", size, *rows, *_read("attnpool.c_proj"), unit=size // visual.attnpool.num_heads)


def _made(layer: str, batchnorm: str) -> list[Member]:
    """A convolution's rows and the BatchNorm behind it."""
    return [Member(f"{layer}.weight", 0), *(Member(f"{batchnorm}.{leaf}", 0) for leaf in _BATCHNORM)]


def _read(*layers: str) -> list[Member]:
    """The columns of layers that read the channels."""
    return [Member(f"{layer}.weight", 1) for layer in layers]


def _pair(block: str, number: int) -> tuple[str, str]:
    return f"{block}.conv{number}", f"{block}.bn{number}"


def _entries(stage: str) -> tuple[str, ...]:
    """What reads the residual stream before a stage."""
    return f"{stage}.0.conv1", f"{stage}.0.downsample.0"


def _pool_inputs() -> list[Member]:
    # The embedding is added to the channels before anything reads them, so its columns go with them.
    return [Member("attnpool.positional_embedding", 1), *_read(*(f"attnpool.{part}_proj" for part in "qkv"))]


def _has_plain_mlps(visual: Any) -> bool:
    """None with a LayerNorm over its hidden units (`scale_fc`): that reads them all, removed ones included."""
    extras = [getattr(block.mlp, "ln", None) for block in visual.transformer.resblocks]
    return all(extra is None or isinstance(extra, nn.Identity) for extra in extras)


def _hidden_units(visual: Any) -> Iterator[ChannelGroup]:
    """open_clip's VisionTransformer: the hidden units of every MLP, the same number in each."""
    for number, block in enumerate(visual.transformer.resblocks):
        name = f"transformer.resblocks.{number}.mlp"
        rows = [Member(f"{name}.c_fc.weight", 0), Member(f"{name}.c_fc.bias", 0)]
        yield ChannelGroup(name, block.mlp.c_fc.out_features, Fraction(1), (*rows, *_read(f"{name}.c_proj")))
