"""transfer: put a subnet into a framework, a checkpoint, a folder of open_clip, an ONNX file, or a sparse patch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from opentrans_cli.clip.key_tables import table_names
from opentrans_cli.errors import OptionError, flag, unknown
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.by_name import check_names, on_processor
from opentrans_cli.steps.transfer.result import Transferred

_CHECKPOINT, _OPEN_CLIP, _ONNX, _PATCH = "--checkpoint", "--to open-clip", "--to onnx", "--to patch"
_OPTIONS: dict[str, Iterable[str]] = {
    _CHECKPOINT: ("what", "under", "allow_missing"),
    _OPEN_CLIP: ("compact",),
    _ONNX: ("words", "framework", "resolution"),
    _PATCH: (),
}


def transfer(
    source: str | Path,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
    to: str | None = None,
    checkpoint: str | Path | None = None,
    at_sparsity: float | None = None,
    base: str | None = None,
    seed: int = 0,
    **given: Any,
) -> Transferred:
    """Put the subnet of the bundle `source` into something else, written at `out`, with a receipt of every key.

    to: a framework (default "deeplabv3"), which is built around the tower with a fresh head from `seed` and written as
    a new bundle (options are those of the framework); "open-clip": a folder that open_clip loads (option `compact`);
    "onnx": one file with a segmentor and `words` inside (options `words`, `framework`, `resolution`); "patch": a file
    with what differs from the base. checkpoint: a
    file of any framework; the subnet is put into a copy of it. Then `to` is the name of a key table, and the options
    are `what`, `under` and `allow_missing`. out: None writes nothing (dry run). device: "auto" or "cpu". at_sparsity:
    an earlier round of the bundle. base: where its base is now, for values or a text tower that the bundle lacks.

    Returns a `FrameworkTransfer`, `OpenClipExport`, `OnnxExport`, `PatchExport` or `CheckpointTransfer`, each a
    `Transferred`. Raises
    BundleError, SourceError, HubError, OptionError, DataError or TransferError.
    """
    on_processor("transfer", device)
    target = _CHECKPOINT if checkpoint is not None else f"--to {to or 'deeplabv3'}"
    if checkpoint is None:
        _check_target(to or "deeplabv3")
    for owner, names in _OPTIONS.items():
        for name in names if owner != target else ():
            if name in given:
                raise OptionError(f"of {owner} alone: {flag(name)}; leave it out")
    if target in _OPTIONS:
        check_names(f"transfer {target}", given, _OPTIONS[target])
    common: dict[str, Any] = {"at_sparsity": at_sparsity, "base": base, "force": force, "reporter": reporter or LOGGED}
    common["out"] = None if out is None else Path(out)
    if checkpoint is not None:
        from opentrans_cli.steps.transfer.checkpoint import transfer_checkpoint

        return transfer_checkpoint(source, Path(checkpoint), to=to, **given, **common)
    if target == _OPEN_CLIP:
        from opentrans_cli.steps.transfer.open_clip import export_open_clip

        return export_open_clip(source, **given, **common)
    if target == _PATCH:
        from opentrans_cli.steps.transfer.patch import export_patch

        return export_patch(source, **given, **common)
    if target == _ONNX:
        from opentrans_cli.steps.transfer.onnx import export_onnx

        if "words" not in given:
            raise OptionError('--to onnx needs words: --words "cat, dog, sky" or --vocabulary FILE; give one of them')
        return export_onnx(str(source), **given, **common)
    from opentrans_cli.steps.transfer.framework import transfer_framework

    return transfer_framework(source, to=to or "deeplabv3", options=given, seed=seed, **common)


def _check_target(to: str) -> None:
    """Raises OptionError for a name of no target, where no checkpoint is given."""
    targets = (*FRAMEWORKS.names(), *(name.removeprefix("--to ") for name in _OPTIONS if name != _CHECKPOINT))
    if to in targets:
        return
    if to in table_names():
        raise OptionError(f"'{to}' names the tensors of a checkpoint: --to {to}; add --checkpoint FILE")
    raise OptionError(unknown("target", to, targets))
