"""transfer --checkpoint: put a subnet into an existing checkpoint, which keeps its format and its key names."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.checkpoints.edit import (
    Edits,
    check_apart,
    check_written,
    converted_chunks,
    copies_to,
    copy_chunks,
    copy_patches,
)
from opentrans_cli.checkpoints.reader import Checkpoint, open_checkpoint
from opentrans_cli.errors import OptionError, TransferError, unknown
from opentrans_cli.files.atomic import Written, staged_file, write_file
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import check_file_target, prepare_parent
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.transfer.checkpoint_plan import MASK, WEIGHTS, CheckpointPlan, edits_of, plan_checkpoint
from opentrans_cli.steps.transfer.parity import trunk_parity
from opentrans_cli.steps.transfer.result import Transferred
from opentrans_cli.steps.transfer.subnet import SubnetArrays, load_subnet
from opentrans_cli.version import __version__

_FLATTENED = (
    "names without 'vision_model.': transformers 5.6 and later read it as CLIPVisionModel; for older releases it "
    "is a model with random weights, of which they only warn"
)


@dataclass(frozen=True)
class CheckpointTransfer(Transferred):
    """What was done to a checkpoint."""

    prefix: str  # prefix of the tower's keys
    what: str  # "mask" or "weights"
    keys: tuple[dict[str, Any], ...]  # by tensor of the tower: source, target, rule, shapes, kept, verdict
    unmatched: tuple[str, ...]  # layers that have no place; empty if something was written
    bundle: str  # digest
    at_sparsity: float | None
    checkpoint: dict[str, Any]  # the input: name, bytes, tensors, and the entries that were left out
    output: dict[str, Any] | None = None  # the output: name, bytes, sha256, numbers of changed and unchanged tensors
    parity: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The transfer receipt of `artifacts.schema.json`."""
        names = ("framework", "prefix", "what", "bundle", "at_sparsity", "checkpoint", "output", "parity")
        versions = {
            "opentrans": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        }
        return {
            **{name: getattr(self, name) for name in names},
            "keys": list(self.keys),
            "unmatched": list(self.unmatched),
            "versions": versions,
        }

    def check_matched(self) -> None:
        """Raises TransferError if a layer has no place."""
        if self.unmatched:
            first = self.unmatched[0]
            others = f" and {len(self.unmatched) - 1} others" if len(self.unmatched) > 1 else ""
            raise TransferError(
                f"layers without a place in the checkpoint: '{first}'{others}; look at --dry-run, and leave them out "
                f"by name with --allow-missing {first}"
            )


def transfer_checkpoint(
    bundle: Path | str,
    checkpoint: Path,
    *,
    to: str | None = None,
    what: str = MASK,
    out: Path | None,
    under: str | None = None,
    allow_missing: Iterable[str] = (),
    at_sparsity: float | None = None,
    base: str | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> CheckpointTransfer:
    """Write a copy of `checkpoint` with the subnet of `bundle` in it at `out`, and the receipt beside it.

    With `what` "mask" the checkpoint keeps its own values and pruned ones become zero, for which only the masks of the
    bundle are needed. With "weights" every tensor of the tower that has a place gets the bundle's values. The
    checkpoint keeps its dtypes. `to` names the key table (None: it is recognised), `under` the prefix of the tower's
    keys if there are several towers. `allow_missing`: globs for names of layers that need no place. `out` has the
    format of the checkpoint, or is .safetensors. With `out` None nothing is written (dry run), and layers without a
    place are only reported.

    The written file is read again before it gets its name: changed tensors must have their new values, and all other
    bytes must be the same as before. Raises OptionError, BundleError, SourceError, HubError or TransferError.
    """
    if what not in (MASK, WEIGHTS):
        raise OptionError(unknown("part of a subnet", what, (MASK, WEIGHTS)))
    if out is not None:
        _check_out(out, checkpoint, force=force)
    parent = open_bundle(local_bundle(bundle, reporter))
    opened = open_checkpoint(checkpoint)
    if opened.note is not None:
        reporter.say(opened.note)
    same_format = out is None or copies_to(opened, out.suffix.lower())
    subnet = load_subnet(parent, values=what == WEIGHTS, at_sparsity=at_sparsity, base=base, reporter=reporter)
    plan = plan_checkpoint(subnet, opened, what=what, to=to, under=under, allow_missing=allow_missing)
    result = CheckpointTransfer(
        path=None,
        framework=plan.found.table.name,
        prefix=plan.found.prefix,
        what=what,
        keys=plan.keys(subnet, opened),
        unmatched=plan.unmatched,
        bundle=parent.digest,
        at_sparsity=at_sparsity,
        checkpoint=_described(opened, same_format=same_format),
    )
    if result.framework == "huggingface" and not result.prefix:
        reporter.say(f"{checkpoint}: {_FLATTENED}")
    if out is None:
        return result
    result.check_matched()
    edits = edits_of(plan, subnet, opened)
    check_apart(opened, edits)
    reporter.say(f"{result.framework} under '{result.prefix}': {len(edits)} of {len(opened.tensors)} tensors change")
    return _write(result, plan, subnet, opened, edits, out, parent.manifest.base.model_cfg, same_format=same_format)


def _check_out(out: Path, checkpoint: Path, *, force: bool) -> None:
    for path in (out, receipt_path(out)):
        check_file_target(path, force=force)
    if os.path.realpath(out) == os.path.realpath(checkpoint):
        raise OptionError(f"would replace the checkpoint it reads: --out {out}; choose another --out")
    prepare_parent(out)


def receipt_path(out: Path) -> Path:
    """Where the receipt lies: beside the file it is about."""
    return out.with_name(f"{out.name}.receipt.json")


def _described(opened: Checkpoint, *, same_format: bool) -> dict[str, Any]:
    return {
        "name": opened.path.name,
        "bytes": sum(path.stat().st_size for path in {opened.path, *opened.stamps}),
        "sha256": opened.sha256(),
        "tensors": len(opened.tensors),
        "left_out": [] if same_format else list(opened.beside),
    }


def _write(
    result: CheckpointTransfer,
    plan: CheckpointPlan,
    subnet: SubnetArrays,
    opened: Checkpoint,
    edits: Edits,
    out: Path,
    model_cfg: dict[str, Any],
    *,
    same_format: bool,
) -> CheckpointTransfer:
    """Write under a hidden name and read it again; only then give both files their names, the receipt first."""
    with staged_file(out) as hidden:
        patches = copy_patches(opened, edits) if same_format else None
        chunks = converted_chunks(opened, edits) if patches is None else copy_chunks(opened, patches)
        written = write_file(hidden, chunks)
        reread = check_written(opened, edits, patches, hidden)
        parity = trunk_parity(plan, subnet, opened, reread, model_cfg)
        result = replace(result, path=out, output=_output(out, written, opened, edits), parity=parity)
        write_file(receipt_path(out), [json_bytes(result.to_json())])
    return result


def _output(out: Path, written: Written, opened: Checkpoint, edits: Edits) -> dict[str, Any]:
    return {
        "name": out.name,
        "bytes": written.bytes,
        "sha256": written.sha256,
        "changed": len(edits),
        "unchanged": len(opened.tensors) - len(edits),
    }
