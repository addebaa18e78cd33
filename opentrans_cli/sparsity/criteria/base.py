"""The interface of a criterion, and the data it may use. Shapes: B images, P positions, D embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from opentrans_cli.clip.layers import arrays, layer_gradient, layer_weight, locate, split_packed

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# Strings, because criteria that use only weights do not need torch.
Readout: TypeAlias = "Callable[[Tensor], Tensor]"
"""Normalised images (B, 3, S, S) -> unit vectors (B, P, D) of the tower; the function whose change is to be small."""

Batch: TypeAlias = "tuple[int, Tensor]"
"""Number of the batch, counted over all processes, and normalised images (B, 3, S, S) on the tower's device."""

Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Evidence:
    """The tower at the start of a round, and images to evaluate it with.

    `batches` gives the same batches whenever it is called; with several processes, this process's share of them, and
    `total` adds up over the processes, in place.
    """

    visual: Any  # the module; None if no image is used, so that it need not be built
    layers: tuple[str, ...]
    readout: Readout = lambda images: images
    batches: Callable[[], Iterator[Batch]] | None = None
    seed: int = 0  # of the round; a batch's random numbers follow from it and the batch's number
    probes: int = 1  # random probes per image
    total: Callable[[Tensor], None] = lambda tensor: None
    state: Weights | None = None  # the tensors of the tower, if they are available

    @property
    def weights(self) -> Weights:
        """The weights of the tower, one per layer."""
        return split_packed(arrays(self.visual.state_dict())) if self.state is None else self.state


@dataclass(frozen=True)
class Criterion:
    """How important every weight is; the least important are removed first.

    `score` returns one array per layer, or one tensor on the tower's device: float, in the weight's shape, at least 0,
    larger = more important; comparable across layers. Weights that were pruned before may have any score. It does not
    change the tower and leaves no gradients.
    """

    name: str
    needs_images: bool  # otherwise it uses only `Evidence.weights`
    score: Callable[[Evidence], Mapping[str, Any]]


@contextmanager
def evaluating(visual: nn.Module) -> Iterator[None]:
    """Put the tower in eval mode, and restore the mode of every module afterwards.

    BatchNorm must use its running statistics: the batch's own statistics would couple the images of a batch.
    """
    modes = [(module, module.training) for module in visual.modules()]
    visual.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def scoring(evidence: Evidence) -> Iterator[None]:
    """Put the tower in eval mode with gradients for the layers' weights only inside; leave no gradients."""
    import torch

    visual = evidence.visual
    asked = {name: parameter.requires_grad for name, parameter in visual.named_parameters()}
    wanted = {locate(visual, layer)[0] for layer in evidence.layers}
    visual.zero_grad(set_to_none=True)
    try:
        # A frozen layer would score zero and be removed first; a gradient that is not used would cost time.
        for name, parameter in visual.named_parameters():
            parameter.requires_grad_(name in wanted)
        with evaluating(visual), torch.enable_grad():
            yield
    finally:
        visual.zero_grad(set_to_none=True)
        for name, parameter in visual.named_parameters():
            parameter.requires_grad_(asked[name])


def weight_and_gradient(visual: nn.Module, layer: str) -> tuple[Tensor, Tensor]:
    """A layer's weight and gradient, of one shape; the gradient is zero where backward gave none."""
    import torch

    weight, gradient = layer_weight(visual, layer), layer_gradient(visual, layer)
    return weight, torch.zeros_like(weight) if gradient is None else gradient


def empty_sums(evidence: Evidence) -> dict[str, Tensor]:
    """Zeros by layer to add to: float64, so that the order of adding does not decide between near-equal weights."""
    import torch

    return {
        layer: torch.zeros(weight.shape, dtype=sum_dtype(weight), device=weight.device)
        for layer in evidence.layers
        for weight in (layer_weight(evidence.visual, layer),)
    }


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """float64 if the tensor's device supports it."""
    import torch

    return torch.float32 if tensor.device.type == "mps" else torch.float64
