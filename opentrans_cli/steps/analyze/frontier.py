"""What freezing saves in the training of a tower: MACs of one image for each share of frozen layers.

The same is frozen as by `finetune`: a layer's weight, its bias, and the BatchNorm behind it, with its affine parameters
and running statistics. All the rest is trained: norms, embeddings and the BatchNorm behind every trained layer. So the
frozen first layers of a ResNet need no input gradients. Those of a ViT do, because its position embedding, which is
trained, comes before them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from opentrans_cli.clip.architecture import meta_visual
from opentrans_cli.clip.features import STAGES, stage_features
from opentrans_cli.clip.layers import batchnorm_of, candidates, whole_projections
from opentrans_cli.errors import OptionError
from opentrans_cli.spectral.selection import FreezeMode, Selection
from opentrans_cli.training.costs.macs import LayerCost, count_macs
from opentrans_cli.training.costs.paper import paper_costs
from opentrans_cli.training.costs.receipt import dense, sparse, total
from opentrans_cli.training.freezing import freeze_layers

RATIOS = tuple(tenths / 10 for tenths in range(11))

Resolution = int | tuple[int, int]  # height, width in pixels

_SMALLEST = 32  # pixels, the stride of a ResNet
_INSIDE = "visual."


@dataclass(frozen=True)
class FrontierPoint:
    """Training cost of the tower alone, for one image, with some layers frozen."""

    ratio: float  # share of frozen layers among all ranked ones: the ratio asked for, or where `chosen` the actual one
    frozen: int  # number of layers
    forward: int  # MACs, zero weights skipped
    input_gradient: int
    weight_gradient: int
    total: int  # sum of the three
    saved: float  # share of the total with nothing frozen or pruned, by autograd's rules, see training/costs/macs.py
    saved_paper: float  # the same share as the paper counts it, see training/costs/paper.py
    chosen: bool = False  # True: not one of the ratios, but the layers that a rule or a list chose


class TowerPrices:
    """The training cost of one image by layer, counted on a tower without weights for any list of frozen layers.

    A ResNet runs as in segmentation, without its attention pool, by default at its own image size. Any other tower runs
    whole, and only at its own size. Products of two activations are counted for the module that computes them.
    """

    def __init__(
        self,
        model_cfg: Mapping[str, Any],
        *,
        resolution: Resolution | None = None,
        kept: Mapping[str, float] | None = None,
    ) -> None:
        """model_cfg: as in open_clip. resolution: None for the tower's own. kept: kept fraction by layer, if not 1.

        Raises OptionError for a resolution the tower cannot have, SourceError for a wrong configuration.
        """
        self.visual = meta_visual(model_cfg)
        self._trunk = _Trunk(self.visual)
        self.image_size = self._trunk.size(resolution)  # height, width in pixels
        self._kept = {f"{_INSIDE}{name}": fraction for name, fraction in (kept or {}).items()}
        self.layers = self._count(())  # in the order in which they run, with everything trained
        self._forward = {layer.name: layer.forward for layer in self.layers}

    def of(self, frozen: Collection[str]) -> FrontierPoint:
        """The cost with a list of frozen layers; `ratio` is their share of the layers that the tower runs.

        Raises TrainingError for an unknown layer.
        """
        ranked = [layer for layer in candidates(self.visual) if layer.name in self._forward]
        return self._point(frozen, ratio=len(set(frozen)) / len(ranked), chosen=True)

    def frontier(
        self,
        alphas: Mapping[str, float],
        *,
        mode: FreezeMode = "heavy",
        ratios: Sequence[float] = RATIOS,
        chosen: Collection[str] | None = None,
        seed: int = 0,
    ) -> tuple[FrontierPoint, ...]:
        """A point for every ratio, layers ranked by `alphas` (layer -> exponent); last, if given, one for `chosen`.

        Raises OptionError for a wrong mode or ratio.
        """
        chosen_at = [(ratio, Selection(mode, ratio=ratio, seed=seed).choose(alphas)) for ratio in ratios]
        points = [self._point(frozen, ratio=ratio) for ratio, frozen in chosen_at]
        if chosen is not None:
            points.append(self._point(chosen, ratio=len(set(chosen)) / max(1, len(alphas)), chosen=True))
        return tuple(points)

    def _point(self, frozen: Collection[str], *, ratio: float, chosen: bool = False) -> FrontierPoint:
        """The cost of `frozen` by both ways of counting."""
        exact = total(self._count(frozen), sparse)
        counted = [name for name in frozen if name in self._forward]
        kept = {name.removeprefix(_INSIDE): fraction for name, fraction in self._kept.items()}
        paper = total(paper_costs(self._forward, frozen=counted, kept=kept), sparse)
        return FrontierPoint(
            ratio=ratio,
            frozen=len(set(frozen)),
            forward=exact.forward,
            input_gradient=exact.input_gradient,
            weight_gradient=exact.weight_gradient,
            total=exact.total,
            saved=1 - exact.total / total(self.layers, dense).total,
            saved_paper=1 - paper.total / total(paper_costs(self._forward), dense).total,
            chosen=chosen,
        )

    def _count(self, frozen: Collection[str]) -> tuple[LayerCost, ...]:
        """Cost by layer with `frozen` fixed, names as in the tower."""
        self.visual.requires_grad_(True)
        # A packed projection has one weight gradient, so training one of its three parts costs as much as training all.
        names = whole_projections(self.visual, frozen)
        freeze_layers(self.visual, names, batchnorm_of={name: batchnorm_of(self.visual, name) for name in names})
        counted = count_macs(self._trunk, (1, 3, *self.image_size), kept=self._kept)
        return tuple(replace(layer, name=layer.name.removeprefix(_INSIDE)) for layer in counted)


class _Trunk(nn.Module):
    """A tower as it is trained in segmentation: a ResNet up to its last stage, any other whole."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.resnet = hasattr(visual, STAGES[-1])

    def forward(self, images: Tensor) -> Any:
        return stage_features(self.visual, images)[STAGES[-1]] if self.resnet else self.visual(images)

    def size(self, resolution: Resolution | None) -> tuple[int, int]:
        """Height and width of its images."""
        own = _pair(self.visual.image_size)  # type: ignore[arg-type]
        wanted = own if resolution is None else _pair(resolution)
        if self.resnet and min(wanted) < _SMALLEST:
            raise OptionError(f"resolution is too small: {min(wanted)} pixels; a ResNet needs {_SMALLEST} or more")
        if not self.resnet and wanted != own:
            raise OptionError(
                f"this tower has one resolution: {own[0]} x {own[1]}, not {wanted[0]} x {wanted[1]}; leave it out"
            )
        return wanted


def _pair(size: Resolution) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
