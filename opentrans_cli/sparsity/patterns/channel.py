"""Whole output channels, with their BatchNorm and the weights that read them, so that a narrower dense tower remains.

The table in clip/channels.py says which channels belong together. All groups keep the same fraction, that of one of the
widths open_clip can build; only scores inside a group decide which of its channels are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.clip.architecture import tower_shapes
from opentrans_cli.clip.channels import (
    ChannelGroup,
    channel_groups,
    channel_mask,
    grouped_axes,
    kept_channels,
    widths,
)
from opentrans_cli.clip.layers import tower_candidates
from opentrans_cli.errors import MaskError, OptionError
from opentrans_cli.sparsity.patterns.base import distinct_steps
from opentrans_cli.sparsity.schedule import check_sparsity
from opentrans_cli.sparsity.selection import Mask, Scores, check_numbers

_STATISTICS = (".running_mean", ".running_var")


@dataclass(frozen=True)
class Channel:
    """The pattern of one tower."""

    groups: tuple[ChannelGroup, ...]
    shapes: Mapping[str, tuple[int, ...]]  # of every tensor in the table
    order: tuple[str, ...]  # its layers, in module order
    name: str = "channel"
    sparsity: float | None = None

    def problem(self, layer: str, shape: tuple[int, ...]) -> str | None:
        """A reason for a layer outside the table; None for the others, whatever their shape."""
        return None if layer in self.order else "open_clip cannot build its channels narrower"

    def layers(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        """Every layer of the table, whatever was chosen: no group can be left out of a narrower tower.

        For a ResNet that is the whole tower, the first convolution and the attention pool's four linear layers
        included; for a ViT the two layers of every MLP.
        """
        return self.order

    def rounds(self, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        """The sparsities of the widths nearest to the given ones, each once."""
        return distinct_steps(self.sparsity_at(self._nearest(sparsity)) for sparsity in sparsities)

    def _nearest(self, sparsity: float) -> int:
        """The width whose sparsity is nearest; of two equally near, the wider."""
        return min(widths(self.groups), key=lambda width: abs(self.sparsity_at(width) - sparsity))

    def masks(self, scores: Scores, sparsity: float, *, inside: Mapping[str, Mask] | None = None) -> dict[str, Mask]:
        """Masks of the width whose sparsity is nearest to `sparsity`; of two equally near, the wider.

        `scores` has exactly the pattern's layers. A channel, or a unit of channels such as a head, scores the mean
        over all its weights, those of the layers that read it included; the highest are kept, and of equal ones the
        first. Masks of growing sparsity are therefore nested, and the sparsity they achieve is a step of the family
        (for RN50 32 of them). Channels that `inside` removed do not count and stay removed.
        Raises OptionError for a sparsity out of range or nearest to a width above that of `inside`, MaskError for
        NaN scores, missing layers, or masks in `inside` that do not remove whole channels.
        """
        check_sparsity(sparsity)
        self._check(scores, inside)
        before = kept_channels(self.groups, inside)[1] if inside is not None else None
        width = self._nearest(sparsity)
        kept = {}
        for group in self.groups:
            rank = self._channel_scores(group, scores, inside)
            if before is not None:
                _check_width(group, int(before[group.name].sum()), width, sparsity)
                rank = np.where(before[group.name], rank, -np.inf)
            units = rank.reshape(-1, group.unit).sum(1)
            chosen = np.zeros(len(units), np.bool_)
            chosen[np.argsort(-units, kind="stable")[: group.kept(width) // group.unit]] = True
            kept[group.name] = chosen.repeat(group.unit)
        return {layer: self._mask(f"{layer}.weight", kept) for layer in scores}

    def coupled(self, masks: Mapping[str, Mask]) -> dict[str, Mask]:
        """Masks of the BatchNorm weights and biases, biases, and embedding columns of the removed channels.

        With these at zero, a removed channel is zero everywhere in the tower, as if it did not exist. Running
        statistics are not held, because they have no effect then. Raises MaskError for other masks.
        """
        _, kept = kept_channels(self.groups, masks)
        layers = {f"{layer}.weight" for layer in self.order}
        return {name: self._mask(name, kept) for name in self.shapes.keys() - layers if not name.endswith(_STATISTICS)}

    def sparsity_at(self, width: int) -> float:
        """removed / all weights of the pattern's layers at one of the family's widths."""
        total = kept = 0
        for layer in self.order:
            shape = list(self.shapes[f"{layer}.weight"])
            total += prod(shape)
            for axis, group in self._axes[f"{layer}.weight"].items():
                shape[axis] = group.kept(width)
            kept += prod(shape)
        return (total - kept) / total

    @cached_property
    def _axes(self) -> dict[str, dict[int, ChannelGroup]]:
        return grouped_axes(self.groups)

    def _mask(self, tensor: str, kept: Mapping[str, Mask]) -> Mask:
        return channel_mask(self.shapes[tensor], self._axes[tensor], kept)

    def _check(self, scores: Scores, inside: Mapping[str, Mask] | None) -> None:
        if odd := set(scores) ^ set(self.order):
            raise MaskError(f"scores do not cover the pattern's layers: {min(odd)}; score Pattern.layers() exactly")
        for layer, score in scores.items():
            check_numbers(layer, score)
            for what, given in (("scores", score), ("mask", (inside or scores).get(layer))):
                if given is None:
                    raise MaskError(f"no mask of the previous round: {layer}; give one for every scored layer")
                if given.shape != self.shapes[f"{layer}.weight"]:
                    raise MaskError(
                        f"{what} and weight differ in shape: {layer}, {given.shape} and "
                        f"{self.shapes[f'{layer}.weight']}; use those of the same architecture"
                    )

    def _channel_scores(
        self, group: ChannelGroup, scores: Scores, inside: Mapping[str, Mask] | None
    ) -> NDArray[np.float64]:
        """Mean score of each channel's weights, (channels,)."""
        total, weights = np.zeros(group.size), 0
        for member in group.members:
            layer = member.tensor.removesuffix(".weight")
            if layer not in scores:
                continue
            score: NDArray[Any] = scores[layer].astype(np.float32, copy=False)
            if inside is not None:
                score = score * inside[layer]
            slices = np.swapaxes(score, 0, member.axis).reshape(group.size, -1)
            total += slices.sum(1, dtype=np.float64)
            weights += slices.shape[1]
        return total / weights


def _check_width(group: ChannelGroup, before: int, width: int, sparsity: float) -> None:
    if group.kept(width) > before:
        raise OptionError(
            f"sparsity below what is already pruned: {sparsity}, {group.name} would keep {group.kept(width)} channels "
            f"and has {before}; ask for more"
        )


def channel(text: str, model_cfg: Mapping[str, Any]) -> Channel:
    """The pattern for this tower. Raises OptionError for a tower other than a ResNet or ViT of open_clip."""
    groups, shapes = channel_groups(model_cfg), tower_shapes(model_cfg)
    table = {name: shapes[name] for name in grouped_axes(groups)}
    order = tuple(found.name for found in tower_candidates(shapes) if f"{found.name}.weight" in table)
    return Channel(groups, table, order)
