"""Freezing layers: parameters and running statistics, and the proof that neither has moved.

OpenTrans (arXiv 2404.07448, Sec. 3.3) freezes the layers with the heaviest spectral tails. There the
BatchNorm behind a frozen convolution kept learning; here it is frozen with it, because statistics that drift
change the layer's output too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from opentrans_cli.errors import TrainingError


def freeze_layers(
    module: nn.Module, layers: Iterable[str], *, batchnorm_of: Mapping[str, str | None]
) -> tuple[str, ...]:
    """Fix `layers` and the BatchNorm behind each; returns the names of all frozen modules, sorted.

    Names are whole dotted names inside `module`; `batchnorm_of` gives the BatchNorm of each layer, None where
    there is none. Running statistics stay fixed even after `module.train()`. Modules and names of tensors
    stay as they are. Raises TrainingError for a name `module` does not have, before changing anything.
    """
    wanted = list(layers)
    names = sorted({*wanted, *(name for layer in wanted if (name := batchnorm_of[layer]) is not None)})
    for frozen in [_submodule(module, name) for name in names]:
        frozen.requires_grad_(False)
        for part in frozen.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()
                if _stay_in_eval not in part._forward_pre_hooks.values():
                    part.register_forward_pre_hook(_stay_in_eval)
    return tuple(names)


def _stay_in_eval(batchnorm: nn.Module, _inputs: Any) -> None:
    # Whoever calls train() on the whole model reaches this module too, so the mode is set where it is used.
    batchnorm.eval()


def state_hash(module: nn.Module, names: Iterable[str]) -> str:
    """SHA-256, hexadecimal, over parameters and buffers of the submodules `names`, in any order.

    Name, dtype, shape and values of each count. Raises TrainingError for a name that `module` does not have.
    """
    digest = hashlib.sha256()
    for name in sorted(set(names)):
        for key, tensor in sorted(_submodule(module, name).state_dict().items()):
            digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _submodule(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        raise TrainingError(f"no such layer to freeze: '{name}'; use the layer names of this tower") from None
