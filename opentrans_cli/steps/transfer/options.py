"""Options of `transfer`; light, so that `--help` can read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.option import Options, option

_FRAMEWORK, _CHECKPOINT, _ONNX = "For frameworks", "For --checkpoint", "For --to onnx"


@dataclass(frozen=True)
class TransferOptions(Options):
    """What the subnet is put into. Each of the last three groups is for one kind of target."""

    to: str | None = option(
        None,
        help="target: deeplabv3, fcclip, han or mask2former (with a head to train), maskclip (nothing to train), "
        "open-clip (a folder with the whole CLIP), onnx (one graph with your words) or patch (what differs from the "
        "base, sparse); with --checkpoint a key table",
        unset="deeplabv3; with --checkpoint the key table that fits",
        known=(*FRAMEWORKS.names(), "open-clip", "onnx", "patch"),
    )
    options: dict[str, str] | None = option(
        None,
        help="option of the framework as NAME=VALUE, such as output_stride=8 (repeatable)",
        kind="pairs",
        flag="--option",
        panel=_FRAMEWORK,
    )
    compact: bool = option(
        False, help="write a smaller dense tower, without the channels pruned away; for open-clip", panel=_FRAMEWORK
    )
    checkpoint: Path | None = option(
        None, help="put the subnet into the tower of this file, .safetensors or .pth", kind="path", panel=_CHECKPOINT
    )
    what: str | None = option(
        None,
        help="what goes into the tower of the checkpoint",
        choices={"mask": "zeroes its own pruned weights", "weights": "takes the values of the bundle"},
        unset="mask",
        panel=_CHECKPOINT,
    )
    under: str | None = option(
        None, help="prefix of the tower's keys, where the checkpoint has several that fit", panel=_CHECKPOINT
    )
    allow_missing: tuple[str, ...] = option(
        (), help="layers that the checkpoint may lack (name or glob, repeatable)", panel=_CHECKPOINT, completes="layer"
    )
    framework: str | None = option(
        None, help="framework that reads the tower in place of the bundle's own segmentor: maskclip", panel=_ONNX
    )
    resolution: int | None = option(
        None, help="side of the square pictures in pixels", unset="that of the tower's training", panel=_ONNX
    )
