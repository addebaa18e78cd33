"""One call of a segmentor, whose cost is counted by formula and by torch's own counter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.training.costs.flop_check import torch_macs
from opentrans_cli.training.costs.macs import LayerCost, count_macs

_INSIDE = "segmentor."


class _Call(nn.Module):
    def __init__(self, segmentor: nn.Module, *, queries: bool) -> None:
        super().__init__()
        self.segmentor = segmentor
        self.queries = queries

    def forward(self, images: Tensor, text: ClassText) -> Any:
        segmentor: Any = self.segmentor
        if not self.queries:
            return segmentor(images, text)
        was = segmentor.training
        try:
            return segmentor.train().queries(images, text)
        finally:
            segmentor.train(was)


@dataclass(frozen=True)
class SegmentorCall:
    """What the loss needs: a call with an image of `resolution` (height, width) and embeddings of `class_indices`."""

    module: nn.Module  # a Segmentor, see frameworks/base.py
    masks: bool  # a MaskSegmentor
    dimension: int  # length D of the embeddings
    resolution: tuple[int, int]
    class_indices: tuple[int, ...]  # class of each text

    def formulas(self, kept: Mapping[str, float] | None = None) -> tuple[LayerCost, ...]:
        """MACs by layer, names as in `module`; `kept`: kept fraction by layer, where it is not 1."""
        inside = {f"{_INSIDE}{layer}": fraction for layer, fraction in (kept or {}).items()}
        counted = count_macs(*self._model(), arguments=self._arguments, kept=inside)
        return tuple(replace(cost, name=cost.name.removeprefix(_INSIDE)) for cost in counted)

    def counter(self) -> int:
        """MACs of forward and backward pass by torch's own counter."""
        return torch_macs(*self._model(), arguments=self._arguments)

    def _model(self) -> tuple[Any, ...]:
        """The model and the shapes of its inputs."""
        call = _Call(self.module, queries=self.masks)
        return call, (1, 3, *self.resolution), (len(self.class_indices), self.dimension)

    def _arguments(self, images: Tensor, embeddings: Tensor) -> tuple[Tensor, ClassText]:
        return images, ClassText(embeddings, self.class_indices, (True,) * (max(self.class_indices) + 1))
