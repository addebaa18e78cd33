"""transfer --to open-clip: write the subnet with its text tower as a folder that open_clip loads by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.layout import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.clip.channels import CompactTower, compact_tower
from opentrans_cli.clip.layers import PACKED, PARTS, arrays
from opentrans_cli.errors import TransferError
from opentrans_cli.files.atomic import staged_folder, write_file
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import check_folder_target, other_than, prepare_parent
from opentrans_cli.files.tensorfile import write_tensors
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.sparsity.selection import Mask
from opentrans_cli.steps.sources import Tower, load_text_clip, tower_at_sparsity
from opentrans_cli.steps.step_record import parameter_count, versions
from opentrans_cli.steps.transfer.framework import FrameworkTransfer

OPEN_CLIP = "open-clip"
"""The target's name on the command line; not a framework: nothing is built around the tower."""

RECEIPT = "transfer.json"


@dataclass(frozen=True)
class OpenClipExport(FrameworkTransfer):
    """What was written; the keys are those of the visual tower."""

    bundle: str  # digest of the bundle it was written from
    text_tower: str  # source of the text tower
    compact: dict[str, Any] | None  # the narrower tower: width, parameters, difference; None for a dense one

    def to_json(self) -> dict[str, Any]:
        """The transfer receipt of `artifacts.schema.json`, and what was measured on the way."""
        names = ("bundle", "text_tower", "compact")
        return {**super().to_json(), **{name: getattr(self, name) for name in names}, "versions": versions()}


def export_open_clip(
    bundle: Path | str,
    *,
    out: Path | None,
    compact: bool = False,
    at_sparsity: float | None = None,
    base: str | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> OpenClipExport:
    """Write the whole CLIP, the bundle's tower and the text tower of its base, as an open_clip folder at `out`.

    `open_clip.create_model("local-dir:OUT", require_pretrained=True)` loads it. With `compact` the channels that
    the channel pattern removed are left out, and the narrower tower is first compared with the dense one. Otherwise the
    tower keeps its shapes, with zeros where it is pruned. `at_sparsity` takes an earlier round of the bundle. `base` is
    the source of the text tower if the bundle's base has moved. With `out` None nothing is written and no text tower is
    loaded (dry run). Raises BundleError, SourceError, OptionError, or TransferError for a bundle that cannot be written
    compact.
    """
    if out is not None:
        check_folder_target(out, force=force, foreign=other_than(OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, RECEIPT))
        prepare_parent(out)
    parent = open_bundle(local_bundle(bundle, reporter))
    if compact:
        _check_pattern(parent)
    tower = tower_at_sparsity(parent, at_sparsity, base=base, reporter=reporter)
    narrow = compact_tower(tower.visual, tower.masks, tower.base.model_cfg) if compact else None
    visual = tower.visual if narrow is None else narrow.visual
    result = OpenClipExport(
        path=out,
        framework=OPEN_CLIP,
        keys=tuple(_keys(tower, visual.state_dict())),
        bundle=parent.digest,
        text_tower=base or tower.base.source,
        compact=None if narrow is None else _comparison(tower, narrow),
    )
    if out is None:
        return result
    state = load_text_clip(tower.base, base, reporter, loaded=tower.clip).model.state_dict()
    state |= {f"visual.{name}": tensor for name, tensor in visual.state_dict().items()}
    config = {
        "model_cfg": tower.base.model_cfg if narrow is None else narrow.model_cfg,
        "preprocess_cfg": dict(tower.base.preprocess),
    }
    with staged_folder(out, replace=force) as folder:
        write_tensors(folder / OPEN_CLIP_WEIGHTS, arrays(state))
        write_file(folder / RECEIPT, [json_bytes(result.to_json())])
        # This comes last, because for a folder with a configuration but no weights open_clip makes a random model.
        write_file(folder / OPEN_CLIP_CONFIG, [json_bytes(config)])
    return result


def _check_pattern(parent: Bundle) -> None:
    if parent.manifest.pattern != "channel":
        raise TransferError(
            f"only whole channels can be left out: {str(parent.path)!r} is pruned {parent.manifest.pattern}; "
            "prune with --pattern channel, or leave out --compact"
        )


def _keys(tower: Tower, written: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    for name, tensor in tower.visual.state_dict().items():
        narrower = written[name].shape != tensor.shape
        yield {
            "source": name,
            "target": f"visual.{name}",
            "rule": "narrowed" if narrower else "whole",
            "shape": list(written[name].shape),
            "kept": kept_of(name, tower.masks),
            "verdict": "moved",
        }


def kept_of(name: str, masks: Mapping[str, Mask]) -> int | None:
    """Number of kept weights of a tensor (for a packed projection of all three parts); None if it has no mask."""
    owner, _, leaf = name.rpartition(".")
    layers = [f"{owner}.{part}" for part in PARTS] if leaf == PACKED else [name.removesuffix(".weight")]
    counts = [int(masks[layer].sum()) for layer in layers if layer in masks]
    return sum(counts) if counts else None


def _comparison(tower: Tower, narrow: CompactTower) -> dict[str, Any]:
    return {
        "width": narrow.width,
        "parameters": parameter_count(narrow.visual),
        "dense_parameters": parameter_count(tower.visual),
        "difference": narrow.difference,
    }
