"""transfer --to patch: the subnet as a sparse patch of its base, for loaders that take indices and values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.checkpoints.sparse_patch import (
    SparsePatch,
    Tensors,
    apply_sparse_patch,
    differing,
    sparse_patch,
    write_sparse_patch,
)
from opentrans_cli.clip.layers import join_packed
from opentrans_cli.errors import OptionError, TransferError
from opentrans_cli.files.atomic import staged_file, write_file
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import check_file_target, prepare_parent
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.sources import Tower, base_tower, tower_at_sparsity
from opentrans_cli.steps.step_record import versions
from opentrans_cli.steps.transfer.checkpoint import receipt_path
from opentrans_cli.steps.transfer.framework import FrameworkTransfer
from opentrans_cli.steps.transfer.open_clip import kept_of

PATCH = "patch"
"""The target's name on the command line."""

_TOWER = "visual."


@dataclass(frozen=True)
class PatchExport(FrameworkTransfer):
    """What was written; the keys are the tensors of the visual tower."""

    bundle: str  # digest of the bundle it was written from
    base: str  # digest of the base that it patches
    patch: dict[str, Any]  # numbers of values that differ and of all, and the file: name, bytes, sha256

    def to_json(self) -> dict[str, Any]:
        """The transfer receipt of `artifacts.schema.json`."""
        names = ("bundle", "base", "patch")
        return {**super().to_json(), **{name: getattr(self, name) for name in names}, "versions": versions()}


def export_patch(
    bundle: Path | str,
    *,
    out: Path | None,
    at_sparsity: float | None = None,
    base: str | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> PatchExport:
    """Write what differs between the bundle's tower and its base at `out`, .safetensors, and a receipt beside it.

    The tensors are those of `open_clip.create_model(...).state_dict()` below "visual.", float32, attention packed as
    open_clip packs it; the layout is that of `checkpoints/sparse_patch.py`. The file is read again and applied to the
    base before it gets its name: the result must be the bundle's tower bit by bit. at_sparsity: an earlier round of the
    bundle. base: where its base is now. With `out` None nothing is written (dry run). Raises BundleError, SourceError,
    HubError, OptionError or TransferError.
    """
    if out is not None:
        _check_out(out, force=force)
    parent = open_bundle(local_bundle(bundle, reporter))
    tower = tower_at_sparsity(parent, at_sparsity, base=base, reporter=reporter)
    states = base_tower(parent, base, reporter), tower.state
    old, new = ({_TOWER + name: array for name, array in join_packed(state).items()} for state in states)
    patch = sparse_patch(old, new)
    result = PatchExport(
        path=out,
        framework=PATCH,
        keys=tuple(_keys(tower, patch, new)),
        bundle=parent.digest,
        base=tower.base.digest,
        patch={"changed": patch.changed, "total": patch.total, "name": None, "bytes": None, "sha256": None},
    )
    if out is None:
        return result
    with staged_file(out) as hidden:
        facts = {"base": tower.base.digest, "bundle": parent.digest, "at_sparsity": at_sparsity}
        written = write_sparse_patch(hidden, patch, base_source=tower.base.source, facts=facts)
        wrong = next(differing(apply_sparse_patch(old, hidden), new), None)
        if wrong is not None:
            raise TransferError(f"the patched base is not the subnet: '{wrong}' in {out}; report this as a bug")
        result.patch.update(name=out.name, bytes=written.bytes, sha256=written.sha256)
        write_file(receipt_path(out), [json_bytes(result.to_json())])
    return result


def _check_out(out: Path, *, force: bool) -> None:
    if out.suffix != ".safetensors":
        raise OptionError(f"a patch is a safetensors file: --out {out}; let its name end with .safetensors")
    for path in (out, receipt_path(out)):
        check_file_target(path, force=force)
    prepare_parent(out)


def _keys(tower: Tower, patch: SparsePatch, wanted: Tensors) -> Iterator[dict[str, Any]]:
    for target, array in wanted.items():
        name = target.removeprefix(_TOWER)
        changed = len(patch.tensors[target][1]) if target in patch.tensors else 0
        yield {
            "source": name,
            "target": target,
            "rule": "sparse" if changed else "as in the base",
            "shape": list(array.shape),
            "kept": kept_of(name, tower.masks),
            "changed": changed,
            "verdict": "patched" if changed else "left out",
        }
