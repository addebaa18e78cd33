"""transfer --to FRAMEWORK: a segmentor built around a subnet, with a receipt of every key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.folder import check_replaceable
from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.store import open_bundle, write_bundle
from opentrans_cli.errors import OptionError, TransferError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import BACKBONE
from opentrans_cli.frameworks.keys import KeyMatch
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.segmentors.built import BuiltSegmentor, build_segmentor
from opentrans_cli.steps.sources import Tower, took_base, tower_at_sparsity
from opentrans_cli.steps.step_record import step_record
from opentrans_cli.steps.transfer.result import Transferred

REPORT = "reports/transfer.json"


@dataclass(frozen=True)
class FrameworkTransfer(Transferred):
    """A framework built around the subnet."""

    keys: tuple[dict[str, Any], ...]  # source, target, rule, shape, kept (null where nothing is pruned), verdict

    def to_json(self) -> dict[str, Any]:
        """The transfer receipt of `artifacts.schema.json`."""
        return {"framework": self.framework, "keys": list(self.keys), "unmatched": []}


def transfer_framework(
    bundle: Path | str,
    *,
    to: str,
    out: Path | None,
    options: Mapping[str, Any] | None = None,
    at_sparsity: float | None = None,
    base: str | None = None,
    seed: int = 0,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> FrameworkTransfer:
    """Build framework `to` around the bundle's tower and write it, with a fresh head, as a new bundle at `out`.

    `at_sparsity` takes an earlier round of the bundle. `base` is where its base is now, for values that the bundle does
    not hold. With `out` None nothing is written (dry run). The receipt lists every tensor of the tower; those that move
    are compared with the source bit by bit. Raises BundleError, SourceError, OptionError or TransferError.
    """
    framework = FRAMEWORKS.load(to)
    if out is not None:
        check_replaceable(out, force=force)
    parent = open_bundle(local_bundle(bundle, reporter))
    tower = tower_at_sparsity(parent, at_sparsity, base=base, reporter=reporter)
    if base is not None and not took_base(tower):
        raise OptionError(f"the bundle has all its weights: {bundle}; leave --base out")
    matches = framework.map_keys(tower.visual, framework.options(options))
    keys = tuple(_key(match, tower) for match in matches)
    built = build_segmentor(tower, to, options=options, seed=seed)
    _check_moved(built, matches)
    result = FrameworkTransfer(None, to, keys)
    if out is None:
        return result
    recorded = {"to": to, "options": dict(options or {}), "at_sparsity": at_sparsity, "base": base}
    step = step_record("transfer", recorded, seed=seed, parent=parent.digest, metrics={"keys": len(keys)})
    contents = built.contents(step, built.record(), report=(REPORT, result.to_json()), keep_alpha=True)
    written = write_bundle(out, contents, force=force)
    return FrameworkTransfer(written.path, to, keys)


def _key(match: KeyMatch, tower: Tower) -> dict[str, Any]:
    tensor = tower.visual.state_dict()[match.source]
    mask = tower.masks.get(match.source.removesuffix(".weight"))
    return {
        "source": match.source,
        "target": match.target,
        "rule": match.rule.kind,
        "shape": list(tensor.shape),
        "kept": None if mask is None else int(mask.sum()),
        "verdict": "left out" if match.target is None else "moved",
    }


def _check_moved(built: BuiltSegmentor, matches: tuple[KeyMatch, ...]) -> None:
    """Check that every moved tensor equals the source's bit for bit at the place named in the receipt."""
    assert built.tower.bundle is not None
    source, state = built.tower.bundle.tower(), built.module.state_dict()
    for match in matches:
        if match.target is None:
            continue
        if match.target not in state:
            raise TransferError(f"the receipt names a tensor that is not there: '{match.target}'; report this as a bug")
        if state[match.target].cpu().numpy().tobytes() != source[match.source].tobytes():
            raise TransferError(
                f"a tensor changed on its way: '{match.source}' to '{match.target}'; report this as a bug"
            )
    placed = {match.target for match in matches}
    stray = [name for name in state if name.startswith(BACKBONE) and name not in placed]
    if stray:
        raise TransferError(f"a tensor of the trunk has no source: '{stray[0]}'; report this as a bug")
