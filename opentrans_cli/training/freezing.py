"""Freezing layers: parameters and running statistics, and a hash that proves that neither has changed.

OpenTrans (arXiv 2404.07448, Sec. 3.3) freezes the layers with the heaviest spectral tails. There the
BatchNorm behind a frozen convolution is still trained; here it is frozen too, because changing statistics also
change the layer's output.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from opentrans_cli.clip.layers import PACKED, PARTS, whole_projections
from opentrans_cli.errors import TrainingError
from opentrans_cli.training.processes.sharding import whole

_PACKED_BIAS = "in_proj_bias"


def freeze_layers(
    module: nn.Module, layers: Iterable[str], *, batchnorm_of: Mapping[str, str | None]
) -> tuple[str, ...]:
    """`freeze_modules` of `layers` and the BatchNorm behind each, None in `batchnorm_of` where there is none."""
    wanted = list(layers)
    return freeze_modules(module, {*wanted, *(name for layer in wanted if (name := batchnorm_of[layer]) is not None)})


def freeze_modules(module: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Fix the submodules `names` with all that is inside them; returns the names, sorted, each once.

    They are whole dotted names: `conv1` is not `conv10`. Running statistics stay fixed even after `module.train()`.
    Modules and names of tensors stay as they are. A packed attention projection is named by its parts, as in
    clip/layers.py, and only all three together can be frozen: they are one parameter with one gradient, so that
    freezing one alone would save nothing, and the optimizer would still decay it. Raises TrainingError for that and for
    a name `module` does not have, before changing anything.
    """
    wanted = tuple(sorted(set(names)))
    attentions = {name: _attention_of(module, name) for name in wanted}
    whole_modules = [_submodule(module, name) for name, attention in attentions.items() if attention is None]
    _check_packed(module, wanted)
    for attention in filter(None, attentions.values()):
        for key in (PACKED, _PACKED_BIAS):
            parameter = getattr(attention, key)
            if parameter is not None:
                parameter.requires_grad_(False)
    for frozen in whole_modules:
        frozen.requires_grad_(False)
        _hold_statistics(frozen)
    return wanted


def _hold_statistics(frozen: nn.Module) -> None:
    for part in frozen.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
            if _stay_in_eval not in part._forward_pre_hooks.values():
                part.register_forward_pre_hook(_stay_in_eval)


def _stay_in_eval(batchnorm: nn.Module, _inputs: Any) -> None:
    # A call of train() on the whole model reaches this module too, so the mode is set where it is used.
    batchnorm.eval()


def _check_packed(module: nn.Module, names: Collection[str]) -> None:
    partly = set(names) - whole_projections(module, names)
    if partly:
        raise TrainingError(
            f"a part of a packed projection cannot be frozen alone: '{min(partly)}'; freeze its three parts, or none"
        )


def state_hash(module: nn.Module, names: Iterable[str]) -> str:
    """SHA-256, hexadecimal, of parameters and buffers of the submodules `names` (as in `freeze_modules`), in any order.

    It covers name, dtype, shape and values of each tensor. All processes must call it together if tensors are sharded,
    which does not change the hash. Raises TrainingError for a name that `module` does not have.
    """
    digest = hashlib.sha256()
    for name in sorted(set(names)):
        for key, tensor in sorted(_state(module, name).items()):
            digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(_bytes(whole(tensor)))
    return digest.hexdigest()


def _state(module: nn.Module, name: str) -> dict[str, Tensor]:
    attention = _attention_of(module, name)
    if attention is None:
        return _submodule(module, name).state_dict()
    packed = {"weight": getattr(attention, PACKED), "bias": getattr(attention, _PACKED_BIAS)}
    place = PARTS.index(name.rpartition(".")[2])
    return {key: whole(rows).chunk(len(PARTS))[place] for key, rows in packed.items() if rows is not None}


def _attention_of(module: nn.Module, name: str) -> nn.MultiheadAttention | None:
    """The attention whose packed projection `name` is a part of; None for a module of its own."""
    owner, _, part = name.rpartition(".")
    if part not in PARTS:
        return None
    attention = _submodule(module, owner)
    packed = isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None
    return attention if packed else None  # type: ignore[return-value]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _submodule(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        raise TrainingError(f"no such layer to freeze: '{name}'; use the layer names of this tower") from None
