"""What a criterion is, and what it may look at. Shapes: B images, P positions, D embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opentrans_cli.clip.layers import layer_gradient, layer_weight

Readout = Callable[[Tensor], Tensor]
"""Normalised images (B, 3, S, S) -> unit vectors (B, P, D) of the tower; the function whose change is to be small."""


Batch = tuple[int, Tensor]
"""Number of the batch, counted over all processes, and normalised images (B, 3, S, S) on the tower's device."""


@dataclass(frozen=True)
class Evidence:
    """The tower as it is when a round begins, and images to look at it with.

    `batches` gives the same batches whenever it is called; with several processes, this process's share of them, and
    `total` adds up over the processes, in place.
    """

    visual: nn.Module
    layers: tuple[str, ...]
    readout: Readout
    batches: Callable[[], Iterator[Batch]] | None = None
    seed: int = 0  # of the round; a batch's random numbers follow from it and the batch's number
    probes: int = 1  # random probes an image
    total: Callable[[Tensor], None] = lambda tensor: None


@dataclass(frozen=True)
class Criterion:
    """How important every weight is; the least important go first.

    `score` returns one tensor a layer: float, in the weight's shape, on its device, at least 0, larger = more
    important; comparable across layers. Weights that were pruned before may have any score. It leaves the tower as it
    was, without gradients.
    """

    name: str
    needs_images: bool
    score: Callable[[Evidence], dict[str, Tensor]]


@contextmanager
def scoring(evidence: Evidence) -> Iterator[None]:
    """The tower in eval mode with gradients on, and afterwards as it was, its gradients gone.

    BatchNorm must use its running statistics: a batch's own would couple the images of a batch.
    """
    visual, training = evidence.visual, evidence.visual.training
    visual.eval()
    visual.zero_grad(set_to_none=True)
    try:
        with torch.enable_grad():
            yield
    finally:
        visual.zero_grad(set_to_none=True)
        visual.train(training)


def weight_and_gradient(visual: nn.Module, layer: str) -> tuple[Tensor, Tensor]:
    """A layer's weight and gradient, of one shape; zeros where nothing has flowed back."""
    weight, gradient = layer_weight(visual, layer), layer_gradient(visual, layer)
    return weight, torch.zeros_like(weight) if gradient is None else gradient


def empty_sums(evidence: Evidence) -> dict[str, Tensor]:
    """Zeros by layer to add to: float64, so that the order of adding does not decide between near-equal weights."""
    return {
        layer: torch.zeros(weight.shape, dtype=_sum_dtype(weight), device=weight.device)
        for layer in evidence.layers
        for weight in (layer_weight(evidence.visual, layer),)
    }


def _sum_dtype(weight: Tensor) -> torch.dtype:
    return torch.float32 if weight.device.type == "mps" else torch.float64  # MPS has no float64
