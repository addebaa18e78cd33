"""Checkpoints of our DeepLabV3: its state dict. What the head is made for, its shapes tell.

OpenTrans's own DeepLabV3 (`aspp.*`, `sem_seg_head.last_conv.*`) is another network: its pyramid has the features of the
trunk in place of the image level, and its trunk strides in convolutions. What is published of it (arXiv 2404.07448)
does not determine its output, and no checkpoint of it was released, so it is refused rather than approximated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from opentrans_cli.clip.architecture import infer_tower, meta_visual
from opentrans_cli.errors import TransferError
from opentrans_cli.frameworks.original import Original, build_original

_FRAMEWORK = "deeplabv3"
_OFFICIAL = "aspp.aspp1.atrous_conv.weight"
_EMBEDDING = "embedding.weight"  # (D, width, 1, 1)
_RESIDUAL = "backbone.attnpool.c_proj.weight"
_HEAD = ("backbone.", "pyramid.", "low_level.", "decoder.", "embedding.", "classifier.")


def load_deeplabv3(tensors: Mapping[str, Tensor]) -> Original:
    """A state dict of DeepLabV3. Raises TransferError if it is of another network.

    The output stride is no tensor: it is taken to be the default of 16.
    """
    if _OFFICIAL in tensors:
        raise TransferError(
            "OpenTrans's own DeepLabV3 is another network than ours: the checkpoint has '" + _OFFICIAL + "'; "
            "put its trunk into a bundle with `opentrans import`, and train the head with `opentrans finetune`"
        )
    foreign = [key for key in tensors if not key.startswith(_HEAD)]
    if foreign or _EMBEDDING not in tensors:
        example = f"'{foreign[0][:100]}' is unknown" if foreign else f"'{_EMBEDDING}' is missing"
        raise TransferError(f"not a checkpoint of deeplabv3, as far as known: {example}; give a state dict of ours")
    ours = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    options: dict[str, Any] = {"width": tensors[_EMBEDDING].shape[1], "clip_residual": _RESIDUAL in tensors}
    return Original(_FRAMEWORK, "ours", ours, {}, options, {})


def build_deeplabv3(original: Original) -> nn.Module:
    """The segmentor, in eval mode. Raises TransferError if tensors are missing or of other shapes."""
    config = infer_tower(original.tower)
    return build_original(original, meta_visual({**config, "embed_dim": original.tensors[_EMBEDDING].shape[0]}))
