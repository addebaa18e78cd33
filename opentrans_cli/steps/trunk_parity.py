"""How far the trunk in a written checkpoint is from the one it should be: largest difference of its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle.slots import decoded, read_slot
from opentrans_cli.clip.numpy_trunk import trunk_features, trunk_tensors
from opentrans_cli.steps.checkpoint_file import CheckpointFile
from opentrans_cli.steps.checkpoint_plan import Plan, part
from opentrans_cli.steps.subnet import Subnet

_SIDE = 64  # pixels of the fixed image
_SEED = 0


def trunk_parity(
    plan: Plan,
    subnet: Subnet,
    source: tuple[CheckpointFile, BinaryIO],
    written: tuple[CheckpointFile, BinaryIO],
    model_cfg: Mapping[str, Any],
) -> dict[str, Any]:
    """Compare the trunk's features on a fixed random image: expected, and as built from the written file.

    Expected is the bundle's own tower where its values were moved, else the tower of the `source` with the masks
    applied. Both are CLIP's ResNet, whatever the framework builds of the weights. `difference` is None, and `reason`
    says why, for other towers and where the checkpoint lacks a tensor of the trunk.
    """
    blocks = model_cfg["vision_cfg"].get("layers")
    if not isinstance(blocks, list):
        return _unknown("the trunk is no ResNet")
    lacking = next((name for name in trunk_tensors(blocks) if plan.place(name) is None), None)
    if lacking is not None:
        return _unknown(f"the checkpoint lacks a tensor of the trunk: {lacking}")
    image = np.random.default_rng(_SEED).standard_normal((3, _SIDE, _SIDE), dtype=np.float32)

    def expected(name: str) -> NDArray[Any]:
        if subnet.tower is not None:
            return subnet.value(name)
        values = _values(plan, name, *source)
        layer = name.removesuffix(".weight")
        return np.where(subnet.masks[layer], values, np.float32(0)) if layer in subnet.masks else values

    try:
        with np.errstate(all="ignore"):  # strangers' weights may overflow; what comes out is looked at below
            ours = trunk_features(expected, blocks, image)
            theirs = trunk_features(lambda name: _values(plan, name, *written), blocks, image)
    except ValueError:
        return _unknown("the tensors of the trunk do not fit each other")
    differences = [float(np.abs(one - other).max()) for one, other in zip(ours, theirs, strict=True)]
    largest = max(float(np.abs(features).max()) for features in ours)
    if not np.isfinite([*differences, largest]).all():
        return _unknown("the features are not finite")
    return {"difference": max(differences), "largest": largest, "image": [3, _SIDE, _SIDE], "reason": None}


def _values(plan: Plan, name: str, checkpoint: CheckpointFile, file: BinaryIO) -> NDArray[Any]:
    place = plan.place(name)
    assert place is not None
    slot = checkpoint.slots[place.key]
    return part(decoded(read_slot(file, slot), slot.dtype), place)


def _unknown(reason: str) -> dict[str, Any]:
    return {"difference": None, "largest": None, "image": None, "reason": reason}
