"""The convolutions of a CLIP tower, read off the module tree: nothing is listed by hand."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from opentrans_cli.errors import SourceError


def convolutions(visual: nn.Module) -> tuple[str, ...]:
    """Full dotted names of all Conv2d layers, in module order."""
    return tuple(name for name, module in visual.named_modules() if isinstance(module, nn.Conv2d))


def layer_weight(visual: nn.Module, layer: str) -> Tensor:
    """The weight of a layer, (O, I, kh, kw) for a convolution; the parameter itself, not a copy."""
    weight = visual.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return weight


def layer_weights(visual: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
    """The weights of several layers, by name."""
    return {layer: layer_weight(visual, layer) for layer in layers}


def prunable_layers(visual: nn.Module) -> tuple[str, ...]:
    """Layers the method prunes: every convolution but the first (OpenTrans, Sec. 3.2; the stem's input layer is kept).

    Raises SourceError for a tower with fewer than two convolutions (a ViT, say).
    """
    layers = convolutions(visual)[1:]
    if not layers:
        raise SourceError(
            f"no prunable convolutions in this tower: {type(visual).__name__}; use a ResNet CLIP such as RN50 or tiny"
        )
    return layers


def batchnorm_of(visual: nn.Module, layer: str) -> str | None:
    """Name of the BatchNorm that normalises `layer`'s output, None if it has none.

    In CLIP's ResNets `convN` is followed by `bnN` beside it, and a downsample convolution (child "0") by child "1".
    """
    parent, _, leaf = layer.rpartition(".")
    candidates = {"0": "1"}.get(leaf, leaf.replace("conv", "bn"))
    name = f"{parent}.{candidates}" if parent else candidates
    module = dict(visual.named_modules()).get(name)
    return name if isinstance(module, nn.BatchNorm2d) else None
